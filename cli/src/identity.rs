//! `weft identity`: keeps a renewed certificate in files, for clients that are not our proxy.
//!
//! What Envoy or a gRPC library needs to be a workload of the mesh: `tls.crt` (chain), `tls.key` and `ca.crt` (trust
//! bundle), named as in a Kubernetes TLS secret. They are links into a folder of one generation, and a renewal swaps
//! one link, as kubelet does it: a key never stands beside a certificate that it doesn't belong to, and whoever
//! watches the folder sees one move.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::Args;
use serde_json::json;
use weft_identity::bundle::TrustBundle;
use weft_identity::files::{create_private_directory, write_private};
use weft_identity::spiffe::{SpiffeId, TrustDomain};
use weft_ops::{announce, log, signal};
use weft_proxy::certificate::{Schedule, SignError, Signed, read_token, sign};
use weft_proxy::config::CONTROL_PLANE_ACCOUNT;

/// How often the wall clock is looked at: a suspended machine's timers stand still.
const LOOK_INTERVAL: Duration = Duration::from_mins(1);

/// The link that a renewal swaps.
const CURRENT: &str = ".current";

/// Folders of one generation are named by the certificate's serial number.
const GENERATION: &str = ".generation-";

/// Keep a renewed certificate, its key and the trust bundle in files.
#[derive(Debug, Args)]
pub(crate) struct Identity {
    /// Where the control plane is.
    #[arg(long, env = "WEFT_CONTROL_PLANE", value_name = "HOST:PORT")]
    control_plane: String,
    /// PEM file with the roots to trust at first (the control plane's trust-bundle.pem).
    #[arg(long, env = "WEFT_TRUST_BUNDLE", value_name = "FILE")]
    trust_bundle: PathBuf,
    /// File with the service-account token; read anew for each renewal.
    #[arg(long, env = "WEFT_TOKEN_FILE", value_name = "FILE")]
    token_file: PathBuf,
    /// Folder for tls.crt, tls.key and ca.crt; made if absent.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Trust domain of the mesh.
    #[arg(
        long,
        env = "WEFT_TRUST_DOMAIN",
        default_value = "cluster.local",
        value_name = "NAME"
    )]
    trust_domain: TrustDomain,
    /// End after the first certificate.
    #[arg(long)]
    once: bool,
    /// error, warn, info, debug or trace.
    #[arg(long, env = "WEFT_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    log_level: String,
}

/// Runs until it is asked to end. Without a first certificate it fails; later failures are tried again.
pub(crate) fn run(told: &Identity) -> anyhow::Result<()> {
    log::init(&told.log_level)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut signals = signal::Signals::new()?;
        tokio::select! {
            result = keep(told) => result,
            () = signals.next() => Ok(()),
        }
    })
}

async fn keep(told: &Identity) -> anyhow::Result<()> {
    let (namespace, account) = CONTROL_PLANE_ACCOUNT;
    let control_plane = told.trust_domain.workload(namespace, account)?;
    let first = TrustBundle::load(told.trust_domain.clone(), &told.trust_bundle)?;
    let mut trust = first.clone();
    let mut rng = fastrand::Rng::new();
    let mut schedule: Option<Schedule> = None;
    loop {
        match renew(told, &control_plane, &trust).await {
            Ok(signed) => {
                publish(&told.out, &signed)
                    .with_context(|| format!("{} can't be written", told.out.display()))?;
                tracing::info!(id = %signed.leaf.id(), serial = signed.leaf.serial(), "a new certificate is in place");
                announced(&signed, schedule.is_none());
                trust = both(&first, &signed.bundle)?;
                schedule = Some(Schedule::new(&signed.leaf, &mut rng));
            }
            Err(error) => match &mut schedule {
                None => return Err(error.into()),
                Some(schedule) => {
                    tracing::warn!(%error, "the certificate can't be renewed; it is tried again");
                    schedule.failed(&mut rng);
                }
            },
        }
        if told.once {
            return Ok(());
        }
        wait(schedule.as_ref().map_or(SystemTime::now(), Schedule::due)).await;
    }
}

async fn renew(told: &Identity, control_plane: &SpiffeId, trust: &TrustBundle) -> Result<Signed, SignError> {
    let token = read_token(&told.token_file)?;
    sign(&told.control_plane, control_plane, trust, &token).await
}

/// Tells a parent process; the first certificate makes us ready.
fn announced(signed: &Signed, first: bool) {
    let expires = signed
        .leaf
        .not_after()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let leaf = json!({
        "identity": signed.leaf.id().to_string(),
        "serial": signed.leaf.serial(),
        "expires_at": expires.as_secs(),
    });
    println!("{}", json!({ "certificate": leaf }));
    if first {
        announce::ready();
    }
}

async fn wait(due: SystemTime) {
    while let Ok(rest) = due.duration_since(SystemTime::now()) {
        tokio::time::sleep(rest.min(LOOK_INTERVAL)).await;
    }
}

/// The roots of both, so that the control plane is known before and after its root changes.
fn both(first: &TrustBundle, newest: &TrustBundle) -> anyhow::Result<TrustBundle> {
    let roots: BTreeSet<&[u8]> = first
        .roots()
        .iter()
        .chain(newest.roots())
        .map(AsRef::as_ref)
        .collect();
    let roots = roots.into_iter().map(|root| root.to_vec().into()).collect();
    Ok(TrustBundle::new(newest.trust_domain().clone(), roots)?)
}

fn publish(out: &Path, signed: &Signed) -> anyhow::Result<()> {
    let files = [
        ("tls.crt", signed.leaf.chain_pem()),
        ("tls.key", signed.leaf.key_pem()),
        ("ca.crt", signed.bundle.to_pem()),
    ];
    replace(out, signed.leaf.serial(), &files)
}

/// Puts `files` in force, all at once, and removes what was there before.
fn replace(out: &Path, serial: &str, files: &[(&str, String)]) -> anyhow::Result<()> {
    let generation = format!("{GENERATION}{serial}");
    create_private_directory(out)?;
    create_private_directory(&out.join(&generation))?;
    for (name, text) in files {
        write_private(&out.join(&generation).join(name), text.as_bytes())?;
    }
    link(out, Path::new(&generation), CURRENT)?;
    for (name, _) in files {
        let target = Path::new(CURRENT).join(name);
        if fs::read_link(out.join(name)).ok().as_deref() != Some(&target) {
            link(out, &target, name)?;
        }
    }
    for entry in fs::read_dir(out)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(GENERATION.as_bytes()) && name != generation.as_str() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// Makes `out/name` a link to `target`, in place of what it was.
fn link(out: &Path, target: &Path, name: &str) -> io::Result<()> {
    let new = out.join(format!(".new-{}", name.trim_start_matches('.')));
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(target, &new)?;
    fs::rename(new, out.join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn generation(out: &Path, serial: &str) {
        let files = [
            ("tls.crt", format!("certificate {serial}")),
            ("tls.key", format!("key {serial}")),
        ];
        replace(out, serial, &files).unwrap();
    }

    #[test]
    fn a_renewal_replaces_all_files_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        for serial in ["1", "2", "3"] {
            generation(&out, serial);
            let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
            assert_eq!(read("tls.crt"), format!("certificate {serial}"));
            assert_eq!(read("tls.key"), format!("key {serial}"));
        }
        let generations = fs::read_dir(&out).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.as_encoded_bytes().starts_with(GENERATION.as_bytes())
        });
        assert_eq!(generations.count(), 1, "nothing old is left");
        let mode = fs::metadata(out.join("tls.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "the key is its owner's alone");
    }

    #[test]
    fn what_stood_there_before_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tls.crt"), "old").unwrap();
        fs::write(dir.path().join(".new-tls.crt"), "left by a crash").unwrap();
        generation(dir.path(), "1");
        assert_eq!(
            fs::read_to_string(dir.path().join("tls.crt")).unwrap(),
            "certificate 1"
        );
    }
}
