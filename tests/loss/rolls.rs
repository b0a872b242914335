//! Rolls of everything, under load.

use crate::pods::{mesh, more, none_failed, under_load};
use crate::stage::{SYSTEM, kubectl, rolled_out, root};

/// What each roll must have sent at least, so that it proves something.
const ENOUGH: u64 = 1000;

#[tokio::test]
async fn a_rolling_update_loses_nothing() {
    let cluster = mesh().await;
    let namespace = under_load(cluster, "roll").await;
    for _ in 0..2 {
        more(cluster, &namespace, ENOUGH).await;
        kubectl(cluster, &format!("rollout restart deployment -n {namespace}")).await;
        rolled_out(cluster, &namespace).await;
    }
    more(cluster, &namespace, ENOUGH).await;
    none_failed(cluster, &namespace).await;
}

#[tokio::test]
async fn scaling_to_one_and_back_loses_nothing() {
    let cluster = mesh().await;
    let namespace = under_load(cluster, "scale").await;
    for replicas in [1, 3, 1, 2] {
        kubectl(
            cluster,
            &format!("scale deployment echo -n {namespace} --replicas={replicas}"),
        )
        .await;
        rolled_out(cluster, &namespace).await;
        more(cluster, &namespace, ENOUGH).await;
    }
    none_failed(cluster, &namespace).await;
}

#[tokio::test]
async fn a_roll_of_the_control_plane_loses_nothing() {
    let cluster = mesh().await;
    let namespace = under_load(cluster, "control").await;
    kubectl(
        cluster,
        &format!("rollout restart deployment/weft-control-plane -n {SYSTEM}"),
    )
    .await;
    rolled_out(cluster, SYSTEM).await;
    more(cluster, &namespace, ENOUGH).await;
    // And with nobody there at all.
    kubectl(
        cluster,
        &format!("scale deployment weft-control-plane -n {SYSTEM} --replicas=0"),
    )
    .await;
    kubectl(
        cluster,
        &format!("wait --for=delete pod --all -n {SYSTEM} --timeout=60s"),
    )
    .await;
    more(cluster, &namespace, ENOUGH).await;
    kubectl(
        cluster,
        &format!("scale deployment weft-control-plane -n {SYSTEM} --replicas=2"),
    )
    .await;
    rolled_out(cluster, SYSTEM).await;
    more(cluster, &namespace, ENOUGH).await;
    none_failed(cluster, &namespace).await;
}

#[tokio::test]
async fn a_roll_of_the_proxies_image_loses_nothing() {
    const NEXT: &str = "image.tag=next";
    let cluster = mesh().await;
    let (from, to) = ("weft.test/weft:0.1.0", "weft.test/weft:next");
    let tag = ["-n", "k8s.io", "images", "tag", "--force", from, to];
    cluster
        .tool("ctr", &tag, "")
        .await
        .expect("an image can have two names");
    let namespace = under_load(cluster, "image").await;
    let chart = root().join("charts/weft").display().to_string();
    let upgrade = [
        "upgrade",
        "weft",
        &chart,
        "-n",
        SYSTEM,
        "--reuse-values",
        "--set",
        NEXT,
        "--wait",
    ];
    cluster.helm(&upgrade).await.expect("helm upgrade");
    kubectl(cluster, &format!("rollout restart deployment -n {namespace}")).await;
    rolled_out(cluster, &namespace).await;
    let images = "get pods -l app=echo -o jsonpath={..initContainers[*].image} -n";
    let images = kubectl(cluster, &format!("{images} {namespace}")).await;
    assert!(images.contains(to), "sidecars run {images}");
    more(cluster, &namespace, ENOUGH).await;
    none_failed(cluster, &namespace).await;
}

/// Certificates live for a minute here: this outlasts all those that its connections began with.
#[tokio::test]
async fn certificates_are_renewed_under_load() {
    let cluster = mesh().await;
    let namespace = under_load(cluster, "renewal").await;
    let begun = std::time::Instant::now();
    while begun.elapsed() < std::time::Duration::from_secs(75) {
        more(cluster, &namespace, ENOUGH).await;
    }
    none_failed(cluster, &namespace).await;
}
