//! A mesh on a real node: images, the chart, deployments, and what `weft` says of it all.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::kube::{Kubernetes, PATIENCE};
use crate::process::weft_binary;

/// Where the mesh lives.
pub const SYSTEM: &str = "weft-system";

/// The image of the tests' own programs.
pub const TEST_IMAGE: &str = "weft.test/test:1";

/// Between two looks at what has no event that says it is done.
pub const GLANCE: Duration = Duration::from_millis(200);

/// The repository's root.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests are in the repository").to_path_buf()
}

/// The chart.
pub fn chart() -> String {
    root().join("charts/weft").display().to_string()
}

/// Runs kubectl, which must succeed. Arguments hold no spaces.
pub async fn kubectl(cluster: &Kubernetes, command: &str) -> String {
    let arguments: Vec<&str> = command.split_whitespace().collect();
    match cluster.kubectl(&arguments).await {
        Ok(said) => said,
        Err(why) => panic!("kubectl {command}: {why}"),
    }
}

/// Applies YAML, which must be accepted.
pub async fn apply(cluster: &Kubernetes, yaml: &str) {
    cluster
        .apply(yaml)
        .await
        .unwrap_or_else(|why| panic!("{why}\n{yaml}"));
}

/// Says how a namespace's pods take plaintext.
pub async fn tls_mode(cluster: &Kubernetes, namespace: &str, mode: &str) {
    let policy = format!(
        "
apiVersion: weft.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{name: adopt, namespace: {namespace}}}
spec:
  targetRefs: [{{group: '', kind: Namespace, name: {namespace}}}]
  mode: {mode}
"
    );
    apply(cluster, &policy).await;
}

/// A new namespace that is meshed.
pub async fn meshed_namespace(cluster: &Kubernetes, prefix: &str) -> String {
    let namespace = cluster.namespace(prefix).await;
    kubectl(
        cluster,
        &format!("label namespace {namespace} weft.dev/inject=enabled"),
    )
    .await;
    namespace
}

/// Deletes a namespace, and doesn't wait for it.
pub async fn forget(cluster: &Kubernetes, namespace: &str) {
    kubectl(cluster, &format!("delete namespace {namespace} --wait=false")).await;
}

/// Puts the images of `WEFT_IMAGES` into the node. Another cluster has to have them already.
pub async fn load_images(cluster: &Kubernetes) {
    let Some(folder) = std::env::var_os("WEFT_IMAGES") else {
        return;
    };
    let load = root().join("tests/cluster/load").display().to_string();
    for name in ["weft.tar", "shop.tar", "test.tar"] {
        let archive = Path::new(&folder).join(name).display().to_string();
        let loaded = cluster.tool(&load, &[&archive], "").await;
        loaded.expect("containerd takes the image");
    }
}

/// `helm install`, as the README says, with our own image and more `settings`.
pub async fn install(cluster: &Kubernetes, settings: &[&str]) {
    let chart = chart();
    let mut arguments = vec![
        "install",
        "weft",
        &chart,
        "-n",
        SYSTEM,
        "--create-namespace",
        "--wait",
    ];
    let image = "image.repository=weft.test/weft,image.tag=0.1.0";
    arguments.extend(["--timeout", "90s", "--set", image]);
    for setting in settings {
        arguments.extend(["--set", setting]);
    }
    if let Err(why) = cluster.helm(&arguments).await {
        let log = cluster
            .kubectl(&["logs", "-n", SYSTEM, "deploy/weft-control-plane", "--tail=40"])
            .await;
        panic!("helm install: {why}\n{log:?}");
    }
}

/// `helm uninstall`; waits until its pods are gone.
pub async fn uninstall(cluster: &Kubernetes) {
    let gone = cluster.helm(&["uninstall", "weft", "-n", SYSTEM, "--wait"]).await;
    gone.expect("helm uninstall");
    kubectl(
        cluster,
        &format!("wait --for=delete pod --all -n {SYSTEM} --timeout=60s"),
    )
    .await;
}

/// What is wrong with the pods of a namespace, for a test that gives up.
pub async fn describe(cluster: &Kubernetes, namespace: &str) -> String {
    let pods = cluster
        .kubectl(&["get", "pods", "-n", namespace, "-o", "wide"])
        .await;
    let events = cluster
        .kubectl(&["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"])
        .await;
    let log = cluster
        .kubectl(&["logs", "-n", SYSTEM, "deploy/weft-control-plane", "--tail=30"])
        .await;
    let tail = |text: &str| text.lines().rev().take(30).collect::<Vec<_>>().join("\n");
    format!(
        "{}\n{}\n{}",
        pods.unwrap_or_else(|why| why),
        tail(&events.unwrap_or_else(|why| why)),
        log.unwrap_or_else(|why| why)
    )
}

/// Waits until every deployment of a namespace has been rolled out.
pub async fn rolled_out(cluster: &Kubernetes, namespace: &str) {
    let names = kubectl(cluster, &format!("get deployments -n {namespace} -o name")).await;
    for deployment in names.lines() {
        let arguments = ["rollout", "status", "-n", namespace, deployment, "--timeout=120s"];
        if let Err(why) = cluster.kubectl(&arguments).await {
            panic!("{deployment}: {why}\n{}", describe(cluster, namespace).await);
        }
    }
}

/// Restarts every deployment of a namespace; waits until all are rolled out and the old pods gone.
pub async fn restart(cluster: &Kubernetes, namespace: &str) {
    kubectl(cluster, &format!("rollout restart deployment -n {namespace}")).await;
    rolled_out(cluster, namespace).await;
    let ending = format!(
        "get pods -n {namespace} -o jsonpath={{.items[?(@.metadata.deletionTimestamp)].metadata.name}}"
    );
    let deadline = Instant::now() + PATIENCE;
    while !kubectl(cluster, &ending).await.is_empty() {
        assert!(Instant::now() < deadline, "old pods do not go");
        tokio::time::sleep(GLANCE).await;
    }
}

/// A pod that serves, on its ports alone, and stays: a client to run `ask` in, or somebody who is asked.
pub fn pod(namespace: &str, name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: app, image: '{TEST_IMAGE}', args: [serve, --name, {name}]}}
"
    )
}

/// Waits until a pod is ready.
pub async fn ready(cluster: &Kubernetes, namespace: &str, pod: &str) {
    let wait = format!("wait -n {namespace} --for=condition=Ready pod/{pod} --timeout=60s");
    let wait: Vec<&str> = wait.split(' ').collect();
    if let Err(why) = cluster.kubectl(&wait).await {
        panic!("{why}\n{}", describe(cluster, namespace).await);
    }
}

/// What `weft` printed, and its exit code.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// All of it.
    pub text: String,
}

/// Runs `weft` with `arguments`, whether it succeeds or not.
pub async fn weft(cluster: &Kubernetes, arguments: &str) -> Said {
    let output = tokio::process::Command::new(weft_binary())
        .args(arguments.split_whitespace())
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdin(Stdio::null())
        .output()
        .await
        .expect("weft can be started");
    let [said, complained] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
    Said {
        code: output.status.code().expect("weft ends by itself"),
        text: said + &complained,
    }
}

/// One line of `weft check -o json`.
#[derive(Clone, Debug)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// `ok`, `warning` or `failed`.
    pub outcome: String,
    /// Everything that it says of the matter: finding and items.
    pub says: String,
    /// What to do about it.
    pub remedy: String,
}

/// What `weft check -o json` reports with more `arguments`; its exit code is as its lines say.
pub async fn check(cluster: &Kubernetes, arguments: &str) -> Vec<Check> {
    let said = weft(cluster, &format!("check -o json {arguments}")).await;
    let report: Value = serde_json::from_str(&said.text).unwrap_or_else(|why| panic!("{why}: {}", said.text));
    let text = |line: &Value, key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let lines = report["checks"].as_array().expect("checks").iter();
    let checks: Vec<Check> = lines
        .map(|line| Check {
            name: text(line, "check"),
            outcome: text(line, "outcome"),
            says: format!("{} {}", text(line, "says"), line["items"]),
            remedy: text(line, "remedy"),
        })
        .collect();
    let failed = checks.iter().any(|check| check.outcome == "failed");
    assert_eq!(said.code, i32::from(failed), "{}", said.text);
    checks
}

/// A port of a pod's loopback, as `kubectl port-forward` opens it here.
pub struct Forwarded {
    /// Where it is here.
    pub address: SocketAddr,
    _child: Child,
    /// kubectl ends when nobody can read what it prints.
    _said: Lines<BufReader<ChildStdout>>,
}

/// Forwards a port of a pod.
pub async fn forward(cluster: &Kubernetes, namespace: &str, pod: &str, port: u16) -> Forwarded {
    let mut child = tokio::process::Command::new(cluster.program("kubectl"))
        .args([
            "port-forward",
            "-n",
            namespace,
            pod,
            &format!(":{port}"),
            "--address=127.0.0.1",
        ])
        .env("KUBECONFIG", cluster.kubeconfig())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("kubectl can be started");
    let stdout = child.stdout.take().expect("stdout is piped");
    let mut said = BufReader::new(stdout).lines();
    let line = said.next_line().await;
    let line = line
        .expect("stdout is text")
        .expect("kubectl says where it listens");
    let address = line.split_whitespace().find_map(|word| word.parse().ok());
    Forwarded {
        address: address.unwrap_or_else(|| panic!("no address in {line}")),
        _child: child,
        _said: said,
    }
}
