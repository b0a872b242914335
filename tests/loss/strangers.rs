//! Clients without a sidecar, ports without the mesh, and who dials the proxy itself.

use weft_tests::kube::Kubernetes;

use crate::pods::{ask, echo, mesh};
use weft_tests::node::{apply, forget, kubectl, meshed_namespace, pod, ready, rolled_out, tls_mode};

#[tokio::test]
async fn strangers_are_refused_by_strict_and_served_by_permissive_and_on_excluded_ports() {
    let cluster = mesh().await;
    let inside = meshed_namespace(cluster, "inside").await;
    let outside = cluster.namespace("outside").await;
    let excluded = echo(&inside, "open", 1).replace(
        "metadata: {labels: {app: open}}",
        "metadata: {labels: {app: open}, annotations: {weft.dev/skip-inbound-ports: '8080'}}",
    );
    for yaml in [
        echo(&inside, "echo", 1),
        excluded,
        echo(&outside, "plain", 1),
        pod(&outside, "stranger"),
        pod(&inside, "member"),
    ] {
        apply(cluster, &yaml).await;
    }
    rolled_out(cluster, &inside).await;
    rolled_out(cluster, &outside).await;
    ready(cluster, &outside, "stranger").await;
    ready(cluster, &inside, "member").await;
    let (stranger, member) = ((outside.as_str(), "stranger"), (inside.as_str(), "member"));
    let at = |name: &str, namespace: &str, port: u16| format!("{name}.{namespace}.svc.cluster.local:{port}");

    let strict = ask(cluster, stranger, &["http", &at("echo", &inside, 80)]).await;
    assert!(strict.is_err(), "Strict serves a stranger: {strict:?}");
    let open = ask(cluster, stranger, &["http", &at("open", &inside, 80)]).await;
    open.expect("an excluded port is served to strangers");
    ask(cluster, stranger, &["http", &at("plain", &outside, 80)])
        .await
        .expect("a pod without the mesh reaches what it reached before");
    for (name, namespace) in [("echo", &inside), ("plain", &outside)] {
        ask(cluster, member, &["http", &at(name, namespace, 80)])
            .await
            .expect("a member reaches both");
        ask(cluster, member, &["tcp", &at(name, namespace, 82)])
            .await
            .expect("a member's TCP reaches both");
        ask(
            cluster,
            member,
            &["tcp", &at(name, namespace, 83), "--banner", "hello"],
        )
        .await
        .expect("a server may speak first");
    }

    tls_mode(cluster, &inside, "Permissive").await;
    served_at_last(cluster, stranger, &at("echo", &inside, 80)).await;
    for namespace in [inside, outside] {
        forget(cluster, &namespace).await;
    }
}

/// Waits until a stranger is served: the policy reaches the proxy some time after it was applied.
async fn served_at_last(cluster: &Kubernetes, pod: (&str, &str), authority: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while let Err(why) = ask(cluster, pod, &["http", authority]).await {
        assert!(
            std::time::Instant::now() < deadline,
            "Permissive refuses a stranger: {why}"
        );
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn who_dials_the_proxys_own_ports_gains_nothing() {
    let cluster = mesh().await;
    let inside = meshed_namespace(cluster, "ports").await;
    let outside = cluster.namespace("dialler").await;
    apply(cluster, &pod(&inside, "target")).await;
    apply(cluster, &pod(&outside, "stranger")).await;
    ready(cluster, &inside, "target").await;
    ready(cluster, &outside, "stranger").await;
    let ip = kubectl(
        cluster,
        &format!("get pod target -n {inside} -o jsonpath={{.status.podIP}}"),
    )
    .await;
    for port in [8080, 15000, 15001, 15002, 15006] {
        let answer = ask(
            cluster,
            (&outside, "stranger"),
            &["http", &format!("{ip}:{port}")],
        )
        .await;
        assert!(answer.is_err(), "port {port} serves a stranger: {answer:?}");
    }
    for namespace in [inside, outside] {
        forget(cluster, &namespace).await;
    }
}
