//! One test at a time, on a cluster without a mesh.

use tokio::sync::{Mutex, MutexGuard, OnceCell};
use weft_tests::kube::Kubernetes;
use weft_tests::node::{SYSTEM, kubectl, load_images};

static TURN: Mutex<()> = Mutex::const_new(());

/// Waits for everybody else, and takes away what a test that failed has left: a mesh that its pods have outlived would
/// be taken for the next test's.
pub(crate) async fn alone() -> (&'static Kubernetes, MutexGuard<'static, ()>) {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    let turn = TURN.lock().await;
    let cluster = Kubernetes::with_node();
    PREPARED
        .get_or_init(|| async {
            load_images(cluster).await;
            cluster.install_gateway_api().await;
        })
        .await;
    let gone = ["uninstall", "weft", "-n", SYSTEM, "--ignore-not-found", "--wait"];
    cluster.helm(&gone).await.expect("helm uninstall");
    let left = kubectl(cluster, "get namespaces -o name -l weft.dev/inject").await;
    for namespace in left.lines() {
        kubectl(cluster, &format!("delete {namespace}")).await;
    }
    (cluster, turn)
}
