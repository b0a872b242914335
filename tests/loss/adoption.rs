//! A running namespace is taken into the mesh under load, as the README says, and loses nothing.

use weft_tests::kube::Kubernetes;
use weft_tests::node::{apply, check, forget, kubectl, ready, restart, rolled_out, tls_mode};

use crate::pods::{Load, ask, echo, mesh};

/// What must have been sent during and after each step.
const EACH: u64 = 1_000;

#[tokio::test]
async fn a_running_namespace_is_adopted_under_load() {
    let cluster = mesh().await;
    let shop = cluster.namespace("shop").await;
    let clients = cluster.namespace("clients").await;
    apply(cluster, &echo(&shop, "echo", 2)).await;
    rolled_out(cluster, &shop).await;
    let stranger = Load::start(cluster, &clients, "stranger", &shop).await;
    stranger.reaches(EACH).await;

    let adoption = async {
        mode(cluster, &shop, "Permissive").await;
        mesh_it(cluster, &shop).await;
        restart(cluster, &shop).await;
    };
    stranger.through("the servers' adoption", EACH, adoption).await;
    let seen = plaintext(cluster, &shop).await;
    for port in [80, 81, 82] {
        let named = format!("in plaintext on echo.{shop}.svc.cluster.local:{port}");
        let workload = format!("deployment/echo in namespace {shop}: ");
        let item = seen.split('"').find(|item| item.ends_with(&named));
        assert!(
            item.is_some_and(|item| item.starts_with(&workload)),
            "{named} is not in {seen}"
        );
    }

    mesh_it(cluster, &clients).await;
    let member = Load::start(cluster, &clients, "member", &shop).await;
    stranger.stop().await;

    let strict = mode(cluster, &shop, "Strict");
    member.through("Strict", EACH, strict).await;
    apply(cluster, &weft_tests::node::pod("default", "uninvited")).await;
    ready(cluster, "default", "uninvited").await;
    let authority = format!("echo.{shop}.svc.cluster.local:80");
    let answer = ask(cluster, ("default", "uninvited"), &["http", &authority]).await;
    assert!(answer.is_err(), "Strict serves a stranger: {answer:?}");
    member.stop().await;
    kubectl(cluster, "delete pod uninvited -n default --wait=false").await;
    for namespace in [shop, clients] {
        forget(cluster, &namespace).await;
    }
}

async fn mesh_it(cluster: &Kubernetes, namespace: &str) {
    kubectl(
        cluster,
        &format!("label namespace {namespace} weft.dev/inject=enabled"),
    )
    .await;
}

/// What `weft check -n` says of unmeshed clients; nothing is wrong beside them.
async fn plaintext(cluster: &Kubernetes, namespace: &str) -> String {
    let checks = check(cluster, &format!("-n {namespace}")).await;
    let failed: Vec<_> = checks.iter().filter(|check| check.outcome == "failed").collect();
    assert!(failed.is_empty(), "{failed:#?}");
    let clients = checks.into_iter().find(|check| check.name == "plaintext");
    clients.expect("clients are looked at").says
}

/// Says how a namespace's pods take plaintext, and waits until all of them do.
async fn mode(cluster: &Kubernetes, namespace: &str, mode: &str) {
    tls_mode(cluster, namespace, mode).await;
    let generation = "jsonpath={.status.ancestors[0].conditions[?(@.type=='Programmed')].observedGeneration}";
    let get = format!("get meshtlspolicy adopt -n {namespace} -o jsonpath={{.metadata.generation}}");
    let now = kubectl(cluster, &get).await;
    kubectl(
        cluster,
        &format!("wait -n {namespace} meshtlspolicy/adopt --for={generation}={now} --timeout=60s"),
    )
    .await;
}
