//! Rolls of everything, one after the other, under one load.

use std::time::{Duration, Instant};

use weft_tests::kube::{Kubernetes, PATIENCE};
use weft_tests::node::{
    GLANCE, SYSTEM, apply, chart, forget, kubectl, meshed_namespace, restart, rolled_out, weft,
};

use crate::pods::{LEAF_LIFE, Load, echo, mesh};

/// What all of it must have sent.
const ALL: u64 = 50_000;

/// What must have been sent during and after each roll alone.
const EACH: u64 = 2_000;

#[tokio::test]
async fn whatever_is_rolled_nothing_is_lost() {
    let cluster = mesh().await;
    let namespace = meshed_namespace(cluster, "rolls").await;
    apply(cluster, &echo(&namespace, "echo", 2)).await;
    rolled_out(cluster, &namespace).await;
    let load = Load::start(cluster, &namespace, "load", &namespace).await;

    let update = restart(cluster, &namespace);
    load.through("a rolling update of every deployment", EACH, update)
        .await;
    for replicas in [1, 3, 1, 2] {
        let scaled = scale(cluster, &namespace, "echo", replicas);
        load.through(&format!("a change to {replicas} replicas"), EACH, scaled)
            .await;
    }
    let roll = restart(cluster, SYSTEM);
    load.through("a roll of the control plane", EACH, roll).await;
    let nobody = scale(cluster, SYSTEM, "weft-control-plane", 0);
    load.through("an hour without a control plane, cut short", EACH, nobody)
        .await;
    let back = scale(cluster, SYSTEM, "weft-control-plane", 2);
    load.through("its return", EACH, back).await;
    let image = next_image(cluster, &namespace);
    load.through("a roll of the proxies' image", EACH, image).await;
    let certificates = next_certificates(cluster);
    load.through(
        "an exchange of every certificate and of the root",
        EACH,
        certificates,
    )
    .await;

    load.reaches(ALL).await;
    assert!(load.stop().await >= ALL);
    forget(cluster, &namespace).await;
}

/// Scales a deployment, and waits until all that should be there is, and nothing else.
async fn scale(cluster: &Kubernetes, namespace: &str, deployment: &str, replicas: usize) {
    let scale = format!("scale deployment {deployment} -n {namespace} --replicas={replicas}");
    kubectl(cluster, &scale).await;
    rolled_out(cluster, namespace).await;
    let pods = format!("get pods -n {namespace} -o name");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let pods = kubectl(cluster, &pods).await;
        let here = pods
            .lines()
            .filter(|pod| pod.contains(&format!("/{deployment}-")));
        if here.count() == replicas {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "not {replicas} of {deployment}, but {pods}"
        );
        tokio::time::sleep(GLANCE).await;
    }
}

/// Upgrades the mesh to an image of another name, and restarts what has the old one.
async fn next_image(cluster: &Kubernetes, namespace: &str) {
    let (from, to) = ("weft.test/weft:0.1.0", "weft.test/weft:next");
    let tag = ["-n", "k8s.io", "images", "tag", "--force", from, to];
    let tagged = cluster.tool("ctr", &tag, "").await;
    tagged.expect("an image can have two names");
    let chart = chart();
    let upgrade = [
        "upgrade",
        "weft",
        &chart,
        "-n",
        SYSTEM,
        "--reuse-values",
        "--set",
        "image.tag=next",
        "--wait",
    ];
    cluster.helm(&upgrade).await.expect("helm upgrade");
    restart(cluster, namespace).await;
    let images = "get pods -l app=echo -o jsonpath={..initContainers[*].image} -n";
    let images = kubectl(cluster, &format!("{images} {namespace}")).await;
    assert!(
        images.contains(to) && !images.contains(from),
        "sidecars run {images}"
    );
}

/// Exchanges the root, and waits until every certificate from before has ended.
async fn next_certificates(cluster: &Kubernetes) {
    let begun = Instant::now();
    let rotated = weft(cluster, "ca rotate").await;
    assert_eq!(rotated.code, 0, "{}", rotated.text);
    assert!(
        rotated.text.contains("retiring"),
        "the new root signs: {}",
        rotated.text
    );
    while begun.elapsed() < LEAF_LIFE + Duration::from_secs(1) {
        tokio::time::sleep(GLANCE).await;
    }
}
