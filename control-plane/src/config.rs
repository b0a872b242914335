//! Settings: flags and environment as they come ([`Args`]), and what they mean ([`Config`]).
//!
//! Everything is text at first, so that all mistakes are found and told together. A [`Config`] is complete; nothing
//! behind it checks a setting again.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Serialize;
use weft_control_plane_core::issue::{LIFETIME_MAX, LIFETIME_MIN};
use weft_control_plane_core::names::Settings;
use weft_control_plane_core::pod_certificate::SPAN_MIN;
use weft_identity::spiffe::{SpiffeId, TrustDomain};

mod cluster;

pub use cluster::{ClusterArgs, InCluster};

/// Namespace and service account of the control plane, in every trust domain.
pub const ACCOUNT: (&str, &str) = ("weft-system", "weft-control-plane");

/// Longest `--registration-grace`.
pub const GRACE_MAX: Duration = Duration::from_hours(1);

/// Bytes of a DNS name (RFC 1035).
const DNS_NAME_BYTES_MAX: usize = 253;

/// Bytes of one label of a DNS name.
const DNS_LABEL_BYTES_MAX: usize = 63;

/// Flags and environment of `weft control-plane`, unchecked.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Folder of YAML manifests, watched: what kubectl would take.
    #[arg(
        long,
        env = "WEFT_MANIFESTS",
        value_name = "DIR",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    pub manifests: Option<PathBuf>,
    /// Instead of `--manifests`: a cluster's API server, and what is needed there.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Folder of the root, the token key and the registrations; made if it is missing.
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Where proxies connect (gRPC over TLS).
    #[arg(
        long,
        env = "WEFT_LISTEN",
        default_value = "0.0.0.0:15010",
        value_name = "ADDRESS"
    )]
    pub listen: String,
    /// Where /live, /ready and /metrics are.
    #[arg(
        long,
        env = "WEFT_STATUS",
        default_value = "0.0.0.0:15020",
        value_name = "ADDRESS"
    )]
    pub status: String,
    /// Where /config, /clients, /objects, /log and /drain are; loopback only.
    #[arg(
        long,
        env = "WEFT_ADMIN",
        default_value = "127.0.0.1:15000",
        value_name = "ADDRESS"
    )]
    pub admin: String,
    /// Trust domain of the mesh.
    #[arg(
        long,
        env = "WEFT_TRUST_DOMAIN",
        default_value = "cluster.local",
        value_name = "NAME"
    )]
    pub trust_domain: String,
    /// Domain that Service names end in.
    #[arg(
        long,
        env = "WEFT_CLUSTER_DOMAIN",
        default_value = "cluster.local",
        value_name = "NAME"
    )]
    pub cluster_domain: String,
    /// How long a workload's certificate is valid.
    #[arg(long, env = "WEFT_LEAF_LIFETIME", default_value = "24h", value_name = "TIME")]
    pub leaf_lifetime: String,
    /// How long a registered workload that is gone without a word is waited for.
    #[arg(
        long,
        env = "WEFT_REGISTRATION_GRACE",
        default_value = "30s",
        value_name = "TIME"
    )]
    pub registration_grace: String,
    /// A DNS name or address under which the control plane is reached; repeatable. Its certificate carries them.
    #[arg(
        long = "dns-name",
        env = "WEFT_DNS_NAMES",
        value_delimiter = ',',
        default_values = ["localhost", "127.0.0.1", "::1"],
        value_name = "NAME"
    )]
    pub dns_names: Vec<String>,
    /// PEM file of a root of your own; without it one is made on the first start. In a cluster it is in Secret `weft-ca`.
    #[arg(
        long,
        env = "WEFT_CA_CERTIFICATE",
        value_name = "FILE",
        requires = "ca_key",
        conflicts_with = "kubernetes"
    )]
    pub ca_certificate: Option<PathBuf>,
    /// PEM file (PKCS#8) of that root's key.
    #[arg(long, env = "WEFT_CA_KEY", value_name = "FILE", requires = "ca_certificate")]
    pub ca_key: Option<PathBuf>,
    /// What is logged: a level, or `target=level,…`.
    #[arg(long, env = "WEFT_LOG_LEVEL", default_value = "info", value_name = "LEVEL")]
    pub log_level: String,
}

/// A name of the control plane's own certificate beside its SPIFFE id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum OwnName {
    /// A DNS name.
    Dns(String),
    /// An address.
    Address(IpAddr),
}

/// Files of a supplied root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SuppliedRoot {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

/// Where the mesh's objects come from; all else of a mode follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Standalone: a watched folder of manifests.
    Manifests(PathBuf),
    /// A cluster's API server.
    Kubernetes(InCluster),
}

impl Source {
    /// Where the injector listens, if there is one.
    pub fn webhook(&self) -> Option<SocketAddr> {
        match self {
            Self::Kubernetes(cluster) if cluster.injection.is_some() => Some(cluster.webhook),
            Self::Kubernetes(_) | Self::Manifests(_) => None,
        }
    }
}

/// What the flags mean.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where objects come from.
    pub source: Source,
    /// Root, token key, registrations.
    pub state_dir: PathBuf,
    /// gRPC.
    pub listen: SocketAddr,
    /// Status.
    pub status: SocketAddr,
    /// Admin; loopback.
    pub admin: SocketAddr,
    /// Of all identities.
    pub trust_domain: TrustDomain,
    /// Both domains, as the core has them.
    pub settings: Settings,
    /// Its own identity.
    pub id: SpiffeId,
    /// Of workloads' certificates.
    pub leaf_lifetime: Duration,
    /// Of lost registrations.
    pub registration_grace: Duration,
    /// In its own certificate.
    pub own_names: Vec<OwnName>,
    /// A root of the operator's own.
    pub root: Option<SuppliedRoot>,
    /// What is logged.
    pub log_level: String,
}

/// Everything that is wrong with the settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Collects what is wrong, flag by flag.
#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn check<T, E: fmt::Display>(&mut self, flag: &str, text: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.0.push(format!("{flag} {text:?}: {error}")))
            .ok()
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&mut self, flag: &str, text: &str) -> Option<T> {
        self.check(flag, text, text.parse())
    }

    fn duration(&mut self, flag: &str, text: &str, min: Duration, max: Duration) -> Option<Duration> {
        let value = self.parse::<weft_api::duration::Duration>(flag, text)?.get();
        let fits = value >= min && value <= max;
        self.check(
            flag,
            text,
            fits.then_some(value)
                .ok_or(format!("it has to be between {min:?} and {max:?}")),
        )
    }
}

impl Config {
    /// Parses the flags; all mistakes are told.
    pub fn parse(args: &Args) -> Result<Self, ConfigErrors> {
        let mut problems = Problems::default();
        let config = assemble(args, &mut problems);
        match config {
            Some(config) if problems.0.is_empty() => Ok(config),
            _ => Err(ConfigErrors(problems.0)),
        }
    }
}

/// Every part is parsed before the first `?`, so that all mistakes are found.
fn assemble(args: &Args, problems: &mut Problems) -> Option<Config> {
    let listen = problems.parse("--listen", &args.listen);
    let status = problems.parse("--status", &args.status);
    let admin = loopback(&args.admin, problems);
    let trust_domain: Option<TrustDomain> = problems.parse("--trust-domain", &args.trust_domain);
    let domain = is_dns_name(&args.cluster_domain)
        .then_some(())
        .ok_or("it is no DNS name in lower case");
    let domain = problems.check("--cluster-domain", &args.cluster_domain, domain);
    let lifetime = problems.duration("--leaf-lifetime", &args.leaf_lifetime, LIFETIME_MIN, LIFETIME_MAX);
    let grace = &args.registration_grace;
    let grace = problems.duration("--registration-grace", grace, Duration::ZERO, GRACE_MAX);
    let source = source(args, problems);
    let mut own_names: Vec<_> = args
        .dns_names
        .iter()
        .filter_map(|name| own_name(name, problems))
        .collect();
    if let Some(Source::Kubernetes(cluster)) = &source {
        own_names.extend(cluster.service_names(&args.cluster_domain).map(OwnName::Dns));
        let enough = !cluster.pod_certificates || lifetime.is_none_or(|lifetime| lifetime >= SPAN_MIN);
        problems.check(
            "--leaf-lifetime",
            &args.leaf_lifetime,
            enough.then_some(()).ok_or(format!(
                "with --pod-certificates it has to be at least {SPAN_MIN:?}: the API server takes no shorter certificate"
            )),
        );
    }
    problems.check(
        "--log-level",
        &args.log_level,
        weft_ops::log::check(&args.log_level),
    );
    domain?;
    let trust_domain = trust_domain?;
    let root = args.ca_certificate.clone().zip(args.ca_key.clone());
    Some(Config {
        source: source?,
        state_dir: args.state_dir.clone(),
        listen: listen?,
        status: status?,
        admin: admin?,
        settings: Settings {
            trust_domain: trust_domain.as_str().into(),
            cluster_domain: args.cluster_domain.as_str().into(),
        },
        id: trust_domain.workload(ACCOUNT.0, ACCOUNT.1).ok()?,
        trust_domain,
        leaf_lifetime: lifetime?,
        registration_grace: grace?,
        own_names,
        root: root.map(|(certificate, key)| SuppliedRoot { certificate, key }),
        log_level: args.log_level.clone(),
    })
}

/// Clap sees to it that one of the two is there.
fn source(args: &Args, problems: &mut Problems) -> Option<Source> {
    match &args.manifests {
        Some(dir) => Some(Source::Manifests(dir.clone())),
        None => cluster::parse(&args.cluster, problems).map(Source::Kubernetes),
    }
}

fn loopback(text: &str, problems: &mut Problems) -> Option<SocketAddr> {
    let address: SocketAddr = problems.parse("--admin", text)?;
    let checked = address.ip().is_loopback().then_some(address);
    problems.check(
        "--admin",
        text,
        checked.ok_or("it has to be a loopback address: it gives commands"),
    )
}

fn own_name(text: &str, problems: &mut Problems) -> Option<OwnName> {
    if let Ok(address) = text.parse() {
        return Some(OwnName::Address(address));
    }
    let checked = is_dns_name(text).then(|| OwnName::Dns(text.to_owned()));
    problems.check(
        "--dns-name",
        text,
        checked.ok_or("it is neither a DNS name in lower case nor an address"),
    )
}

fn is_dns_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= DNS_LABEL_BYTES_MAX
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= DNS_NAME_BYTES_MAX && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(flags: &[&str]) -> Result<Config, ConfigErrors> {
        let line = ["test", "--manifests=m", "--state-dir=s"].iter().chain(flags);
        Config::parse(&Command::try_parse_from(line).expect("flags that exist").args)
    }

    #[test]
    fn defaults_are_complete() {
        let config = parse(&[]).unwrap();
        assert_eq!(
            config.id.as_str(),
            "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane"
        );
        assert_eq!(config.leaf_lifetime, Duration::from_hours(24));
        assert_eq!(config.own_names.len(), 3);
        assert_eq!(config.root, None);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let flags = [
            "--listen=x",
            "--admin=10.0.0.1:1",
            "--trust-domain=A",
            "--cluster-domain=a..b",
            "--leaf-lifetime=59s",
            "--registration-grace=2h",
            "--dns-name=-a",
            "--log-level=a=b=c",
        ];
        let ConfigErrors(errors) = parse(&flags).unwrap_err();
        assert_eq!(errors.len(), flags.len(), "{errors:#?}");
        for (flag, error) in flags
            .iter()
            .zip(["--listen", "--admin", "--trust-domain", "--cluster-domain"])
        {
            assert!(
                errors.iter().any(|one| one.starts_with(error)),
                "{flag}: {errors:#?}"
            );
        }
    }

    #[test]
    fn exactly_one_source() {
        let parse = |flags: &[&str]| {
            let line = ["test", "--state-dir=s"].iter().chain(flags);
            Command::try_parse_from(line).map(|command| Config::parse(&command.args))
        };
        assert!(parse(&[]).is_err());
        assert!(parse(&["--manifests=m", "--kubernetes"]).is_err());
        let config = parse(&["--kubernetes", "--pod=p"]).unwrap().unwrap();
        let Source::Kubernetes(cluster) = &config.source else {
            panic!("{:?}", config.source)
        };
        assert_eq!(&*cluster.namespace, "weft-system");
        let service = OwnName::Dns("weft-control-plane.weft-system.svc.cluster.local".into());
        assert!(config.own_names.contains(&service), "{:?}", config.own_names);
        let ConfigErrors(errors) = parse(&["--kubernetes", "--pod=P", "--webhook=x"])
            .unwrap()
            .unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:#?}");
        let pods = |lifetime| {
            let flags = ["--kubernetes", "--pod=p", "--pod-certificates", lifetime];
            parse(&flags).unwrap()
        };
        let ConfigErrors(errors) = pods("--leaf-lifetime=59m").unwrap_err();
        assert!(errors[0].contains("--pod-certificates"), "{errors:#?}");
        pods("--leaf-lifetime=1h").unwrap();
    }

    #[test]
    fn a_root_is_given_whole() {
        let line = ["test", "--manifests=m", "--state-dir=s", "--ca-key=k"];
        assert!(Command::try_parse_from(line).is_err());
    }
}
