//! The binary as a parent sees it: ended with its parent, led through stdin, exit codes.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");

fn weft(arguments: &[&str]) -> Output {
    Command::new(WEFT).args(arguments).output().unwrap()
}

/// A replica of user on a leash, bound to the thread that starts it.
struct Led {
    child: Child,
    lines: BufReader<ChildStdout>,
    http: SocketAddr,
}

impl Led {
    fn start() -> Self {
        let mut child = Command::new(WEFT)
            .args([
                "shop",
                "app",
                "--service",
                "user",
                "--replica",
                "user-1",
                "--leash",
            ])
            .env("WEFT_PARENT", std::process::id().to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let listening = line(&mut lines);
        let http = listening["listening"]["http"].as_str().unwrap().parse().unwrap();
        Self { child, lines, http }
    }

    fn tell(&mut self) {
        let peers = json!({ "outbound": "127.0.0.1:1" });
        writeln!(self.child.stdin.as_mut().unwrap(), "{peers}").unwrap();
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.http).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: user\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

fn line(lines: &mut BufReader<ChildStdout>) -> Value {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_child_is_killed_when_its_parent_is_gone() {
    // The kernel watches the thread that started the child: its end stands for the parent's.
    let mut led = thread::spawn(|| {
        let mut led = Led::start();
        led.tell();
        assert!(led.get("/healthz").starts_with("HTTP/1.1 200"));
        led
    })
    .join()
    .unwrap();
    // Its stdin is still open: nothing but the kernel ends it.
    let stdin = led.child.stdin.take();
    assert_eq!(led.child.wait().unwrap().signal(), Some(9));
    drop(stdin);
}

#[test]
fn a_child_whose_parent_was_never_there_ends_at_once() {
    let output = Command::new(WEFT)
        .arg("version")
        .env("WEFT_PARENT", "1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
}

#[test]
fn on_a_leash_sigterm_is_announced_and_the_end_of_stdin_ends() {
    let mut led = Led::start();
    led.tell();
    assert!(led.get("/users/7").contains("user 7"));
    led.signal(Signal::TERM);
    assert_eq!(line(&mut led.lines), json!({ "stopping": true }));
    assert!(led.get("/users/7").contains("user 7"), "it serves on");
    led.child.stdin = None;
    assert_eq!(led.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_child_that_is_let_go_before_it_was_told_anything_fails() {
    let mut led = Led::start();
    led.child.stdin = None;
    assert_eq!(led.child.wait().unwrap().code(), Some(1));
}

#[test]
fn exit_codes_and_streams() {
    let version = weft(&["version", "-o", "json"]);
    assert_eq!(version.status.code(), Some(0));
    let versions: Value = serde_json::from_slice(&version.stdout).unwrap();
    assert_eq!(versions["version"], env!("CARGO_PKG_VERSION"));

    let usage = weft(&["validate"]);
    assert_eq!(usage.status.code(), Some(2));
    assert!(usage.stdout.is_empty() && !usage.stderr.is_empty());

    let failed = weft(&["validate", "/nowhere.yaml"]);
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stdout.is_empty() && !failed.stderr.is_empty());

    let completion = weft(&["completion", "bash"]);
    assert!(String::from_utf8_lossy(&completion.stdout).contains("_weft()"));
    assert!(!String::from_utf8_lossy(&weft(&["help"]).stdout).contains("sample system"));
}

/// Without a cluster, all that needs one says so, in a form that a person can act on.
#[test]
fn without_a_cluster_the_remedy_is_said() {
    for command in [
        &["check"][..],
        &["check", "--pre"],
        &["status"],
        &["status", "routes"],
        &["ca", "status"],
        &["ca", "rotate"],
    ] {
        let output = Command::new(WEFT)
            .args(command)
            .env("KUBECONFIG", "/nowhere/config")
            .env_remove("KUBERNETES_SERVICE_HOST")
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(1), 0),
            "{said}"
        );
        for words in [
            "set KUBECONFIG, or name a file by --kubeconfig",
            "/nowhere/config",
        ] {
            assert!(said.contains(words), "{command:?}: {said}");
        }
        assert!(!said.contains("incluster"), "{command:?}: {said}");
    }
    let other = weft(&["status", "--kubeconfig", "/nowhere/other"]);
    let said = String::from_utf8(other.stderr).unwrap();
    assert!(said.contains("/nowhere/other is no kubeconfig"), "{said}");
    // A root is the whole mesh's: no namespace of it can be asked for.
    assert_eq!(weft(&["ca", "rotate", "-n", "shop"]).status.code(), Some(2));
}

#[test]
fn a_folder_without_manifests_is_not_valid() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("notes.txt"), "no manifest").unwrap();
    let folder = dir.path().to_str().unwrap();
    let output = weft(&["validate", folder]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.len()),
        (Some(1), 0),
        "{said}"
    );
    assert!(
        said.contains("there is no .yaml, .yml or .json file in") && said.contains(folder),
        "{said}"
    );
}

#[test]
fn validate_names_file_line_and_field() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in weft_shop::manifests::ALL {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let folder = dir.path().to_str().unwrap();
    assert_eq!(weft(&["validate", folder]).status.code(), Some(0));

    let policies = dir.path().join("policies.yaml");
    let text = std::fs::read_to_string(&policies).unwrap();
    let text = text.replace("openFor: 5s", "openFor: 5 parsecs");
    let wrong = 1 + text.lines().position(|line| line.contains("parsecs")).unwrap();
    std::fs::write(&policies, &text).unwrap();
    let table = weft(&["validate", folder]);
    assert_eq!(table.status.code(), Some(1));
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains(&format!("policies.yaml:{wrong}:")) && table.contains("openFor"),
        "{table}"
    );

    let json = weft(&["validate", "-o", "json", folder]);
    let json: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["valid"], false);
    assert_eq!(json["findings"][0]["position"]["line"], wrong);
}
