//! Clients without a sidecar, ports without the mesh, and who dials the proxy itself.

use weft_tests::kube::Kubernetes;

use crate::pods::{IMAGE, apply, echo, mesh, meshed_namespace};
use crate::stage::{kubectl, rolled_out};

/// A pod that does nothing, to run `ask` in.
fn client(namespace: &str, name: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - {{name: app, image: '{IMAGE}', args: [serve, --name, {name}]}}
"
    )
}

/// What a pod gets that asks; the error is what it printed.
async fn ask(cluster: &Kubernetes, pod: (&str, &str), question: &[&str]) -> Result<String, String> {
    let mut arguments = vec!["exec", "-n", pod.0, pod.1, "-c", "app", "--", "/pod", "ask"];
    arguments.extend(question);
    cluster.kubectl(&arguments).await
}

async fn ready(cluster: &Kubernetes, namespace: &str, pod: &str) {
    kubectl(
        cluster,
        &format!("wait -n {namespace} --for=condition=Ready pod/{pod} --timeout=60s"),
    )
    .await;
}

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
        client(&outside, "stranger"),
        client(&inside, "member"),
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

    let permissive = format!(
        "
apiVersion: weft.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {{name: adopt, namespace: {inside}}}
spec:
  targetRefs: [{{group: '', kind: Namespace, name: {inside}}}]
  mode: Permissive
"
    );
    apply(cluster, &permissive).await;
    served_at_last(cluster, stranger, &at("echo", &inside, 80)).await;
    for namespace in [inside, outside] {
        kubectl(cluster, &format!("delete namespace {namespace} --wait=false")).await;
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
async fn services_of_ipv6_alone_and_of_both_families_are_reached_through_the_mesh() {
    let cluster = mesh().await;
    let inside = meshed_namespace(cluster, "families").await;
    let single = echo(&inside, "six", 1).replace(
        "selector: {app: six}",
        "selector: {app: six}\n  ipFamilyPolicy: SingleStack\n  ipFamilies: [IPv6]",
    );
    let dual = echo(&inside, "both", 1).replace(
        "selector: {app: both}",
        "selector: {app: both}\n  ipFamilyPolicy: RequireDualStack",
    );
    for yaml in [single, dual, client(&inside, "member")] {
        apply(cluster, &yaml).await;
    }
    rolled_out(cluster, &inside).await;
    ready(cluster, &inside, "member").await;
    for name in ["six", "both"] {
        for (protocol, port) in [("http", 80), ("tcp", 82)] {
            ask(
                cluster,
                (&inside, "member"),
                &[protocol, &format!("{name}:{port}")],
            )
            .await
            .unwrap_or_else(|why| panic!("{name}:{port}: {why}"));
        }
    }
    kubectl(cluster, &format!("delete namespace {inside} --wait=false")).await;
}

#[tokio::test]
async fn who_dials_the_proxys_own_ports_gains_nothing() {
    let cluster = mesh().await;
    let inside = meshed_namespace(cluster, "ports").await;
    let outside = cluster.namespace("dialler").await;
    apply(cluster, &client(&inside, "target")).await;
    apply(cluster, &client(&outside, "stranger")).await;
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
        kubectl(cluster, &format!("delete namespace {namespace} --wait=false")).await;
    }
}
