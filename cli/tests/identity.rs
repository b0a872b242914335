//! `weft token create` and `weft identity` against a real control plane.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use weft_identity::bundle::TrustBundle;
use weft_identity::spiffe::TrustDomain;

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

/// A control plane without manifests; killed when dropped.
struct ControlPlane {
    child: Child,
    xds: String,
}

impl ControlPlane {
    fn start(dir: &Path) -> Self {
        fs::create_dir(dir.join("manifests")).unwrap();
        let mut child = Command::new(WEFT)
            .args(["control-plane", "--manifests"])
            .arg(dir.join("manifests"))
            .arg("--state-dir")
            .arg(dir.join("state"))
            .args([
                "--listen",
                "127.0.0.1:0",
                "--status",
                "127.0.0.1:0",
                "--admin",
                "127.0.0.1:0",
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        lines.read_line(&mut line).unwrap();
        let listening: Value = serde_json::from_str(&line).unwrap();
        let xds = listening["listening"]["xds"].as_str().unwrap().to_owned();
        Self { child, xds }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn token(state: &Path) -> Vec<u8> {
    let output = Command::new(WEFT)
        .args([
            "token",
            "create",
            "--namespace",
            "shop",
            "--service-account",
            "batch",
            "--state-dir",
        ])
        .arg(state)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

fn identity(dir: &Path, xds: &str) -> Output {
    Command::new(WEFT)
        .args(["identity", "--once", "--control-plane", xds, "--trust-bundle"])
        .arg(dir.join("state/trust-bundle.pem"))
        .arg("--token-file")
        .arg(dir.join("token"))
        .arg("--out")
        .arg(dir.join("out"))
        .output()
        .unwrap()
}

#[test]
fn a_token_becomes_a_certificate_in_files() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start(dir.path());
    fs::write(dir.path().join("token"), token(&dir.path().join("state"))).unwrap();
    let output = identity(dir.path(), &control_plane.xds);
    assert!(output.status.success(), "{output:?}");
    let stdout = String::from_utf8(output.stdout).unwrap();
    let line: Value = serde_json::from_str(stdout.lines().next().unwrap()).unwrap();
    assert_eq!(
        line["certificate"]["identity"],
        "spiffe://cluster.local/ns/shop/sa/batch"
    );

    let out = dir.path().join("out");
    let read = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    assert!(read("tls.crt").starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(read("tls.key").starts_with("-----BEGIN PRIVATE KEY-----"));
    let domain: TrustDomain = "cluster.local".parse().unwrap();
    let bundle = TrustBundle::load(domain.clone(), &out.join("ca.crt")).unwrap();
    let first = TrustBundle::load(domain, &dir.path().join("state/trust-bundle.pem")).unwrap();
    assert_eq!(bundle.fingerprint(), first.fingerprint());
}

#[test]
fn another_control_planes_token_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start(dir.path());
    fs::write(dir.path().join("token"), token(&dir.path().join("elsewhere"))).unwrap();
    let output = identity(dir.path(), &control_plane.xds);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8(output.stderr).unwrap().contains("token key"));
    assert!(!dir.path().join("out").exists(), "nothing is written");
}
