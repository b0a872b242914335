//! Images, the mesh and namespaces: what each story begins with.

use std::path::{Path, PathBuf};

use weft_tests::kube::Kubernetes;

/// Where the mesh lives.
pub(crate) const SYSTEM: &str = "weft-system";

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests are in the repository").to_path_buf()
}

/// Runs kubectl, which must succeed.
pub(crate) async fn kubectl(cluster: &Kubernetes, command: &str) -> String {
    let arguments: Vec<&str> = command.split(' ').collect();
    match cluster.kubectl(&arguments).await {
        Ok(said) => said,
        Err(why) => panic!("kubectl {command}: {why}"),
    }
}

/// Puts the images of `WEFT_IMAGES` into the node. Another cluster has to have them already.
pub(crate) async fn load_images(cluster: &Kubernetes) {
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

/// `helm install`, as the README says, with our own image.
pub(crate) async fn install(cluster: &Kubernetes, settings: &[&str]) {
    cluster.install_gateway_api().await;
    let chart = root().join("charts/weft").display().to_string();
    let mut arguments = vec![
        "install",
        "weft",
        &chart,
        "-n",
        SYSTEM,
        "--create-namespace",
        "--wait",
    ];
    arguments.extend([
        "--timeout",
        "90s",
        "--set",
        "image.repository=weft.test/weft,image.tag=0.1.0",
    ]);
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

/// What is wrong with the pods of a namespace, for a test that gives up.
pub(crate) async fn describe(cluster: &Kubernetes, namespace: &str) -> String {
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
pub(crate) async fn rolled_out(cluster: &Kubernetes, namespace: &str) {
    let names = kubectl(cluster, &format!("get deployments -n {namespace} -o name")).await;
    for deployment in names.lines() {
        let arguments = ["rollout", "status", "-n", namespace, deployment, "--timeout=120s"];
        if let Err(why) = cluster.kubectl(&arguments).await {
            panic!("{deployment}: {why}\n{}", describe(cluster, namespace).await);
        }
    }
}
