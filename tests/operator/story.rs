//! The operator's lines, one after the other: install, adopt, route, leave, uninstall.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::json;
use weft_tests::client::{Ask, http1};
use weft_tests::kube::Kubernetes;

use crate::shop::{self, NAMESPACE};
use crate::stage::{self, SYSTEM, describe, kubectl, rolled_out};

/// How long traffic may take to follow an edited weight.
const MOVES_WITHIN: Duration = Duration::from_secs(1);
/// Requests that must have gone the new way before it counts as settled.
const SETTLED_BY: f64 = 30.0;

#[tokio::test]
async fn from_install_to_uninstall() {
    let cluster = Kubernetes::with_node();
    stage::load_images(cluster).await;
    stage::install(cluster, &[]).await;
    shop::deploy(cluster).await;
    assert_eq!(meshed(cluster).await.0, 0, "nobody asked for a sidecar yet");

    kubectl(cluster, "label namespace shop weft.dev/inject=enabled").await;
    restart(cluster).await;
    let (with, without) = meshed(cluster).await;
    assert!(with > 0 && without == 0, "{without} pods have no sidecar");

    every_edge_is_mtls(cluster).await;
    strangers_are_refused(cluster).await;
    an_edited_weight_moves_traffic(cluster).await;
    the_load_lost_nothing(cluster).await;

    kubectl(cluster, "label namespace shop weft.dev/inject-").await;
    restart(cluster).await;
    assert_eq!(meshed(cluster).await.0, 0, "a restart takes the sidecars out");
    uninstall(cluster).await;
}

/// Restarts everything in the shop and waits until the old pods are gone.
async fn restart(cluster: &Kubernetes) {
    kubectl(cluster, &format!("rollout restart deployment -n {NAMESPACE}")).await;
    rolled_out(cluster, NAMESPACE).await;
    let deadline = Instant::now() + weft_tests::kube::PATIENCE;
    while shop::terminating(cluster).await {
        assert!(Instant::now() < deadline, "old pods do not go");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// What was counted, by pod and series.
type Counts = BTreeMap<(String, String), f64>;

/// Whether a counter stands higher than `before`.
fn grew(before: &Counts, sample: &shop::Sample) -> bool {
    let key = (sample.pod.clone(), sample.series.clone());
    sample.value > before.get(&key).copied().unwrap_or_default()
}

/// How many of the shop's pods have a sidecar, and how many have not.
async fn meshed(cluster: &Kubernetes) -> (usize, usize) {
    let pods = shop::pods(cluster).await;
    let with = pods.iter().filter(|pod| shop::meshed(pod)).count();
    (with, pods.len() - with)
}

/// Every pair of services that talk has talked over mutual TLS; and over nothing else since the last pod without a
/// sidecar went: those were reached in the clear, as they had to be.
async fn every_edge_is_mtls(cluster: &Kubernetes) {
    const EDGES: [(&str, &str); 10] = [
        ("load", "user"),
        ("load", "product"),
        ("load", "order"),
        ("load", "inventory"),
        ("order", "user"),
        ("order", "product"),
        ("order", "inventory"),
        ("order", "payment"),
        ("order", "broker"),
        ("product", "inventory"),
    ];
    let before = shop::metrics(cluster, "weft_outbound_").await;
    let before: Counts = before
        .into_iter()
        .map(|sample| ((sample.pod, sample.series), sample.value))
        .collect();
    let deadline = Instant::now() + weft_tests::kube::PATIENCE;
    loop {
        let samples = shop::metrics(cluster, "weft_outbound_").await;
        let traffic: Vec<_> = samples
            .iter()
            .filter(|sample| !sample.label("tls").is_empty() && sample.label("result") != "failure")
            .filter(|sample| sample.value > 0.0)
            .collect();
        let clear: Vec<_> = traffic
            .iter()
            .filter(|sample| sample.label("tls") != "mtls" && grew(&before, sample))
            .collect();
        assert!(clear.is_empty(), "in the clear: {clear:#?}");
        let missing: Vec<_> = EDGES
            .iter()
            .filter(|(source, destination)| {
                !traffic.iter().any(|sample| {
                    sample.label("tls") == "mtls"
                        && sample.pod.starts_with(source)
                        && sample.label("destination").starts_with(destination)
                })
            })
            .collect();
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "no traffic on {missing:?}, only {traffic:#?}\n{}",
            describe(cluster, NAMESPACE).await
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// A client without a certificate, on the node itself, gets no answer of the application.
async fn strangers_are_refused(cluster: &Kubernetes) {
    let address = format!("{}:80", shop::address(cluster, "user").await);
    let ask = Ask::get("/users/1").header("host", "user");
    let answer = http1(address.parse().expect("an address"), ask).await;
    let served = answer.as_ref().is_ok_and(|answer| answer.status.is_success());
    assert!(!served, "Strict lets a stranger in: {answer:?}");
}

/// After the weights are edited, nothing goes the old way for longer than a second.
async fn an_edited_weight_moves_traffic(cluster: &Kubernetes) {
    let weights = json!([{ "op": "replace", "path": "/spec/rules/1/backendRefs/0/weight", "value": 0 },
                         { "op": "replace", "path": "/spec/rules/1/backendRefs/1/weight", "value": 100 }]);
    let patch = [
        "patch",
        "httproute",
        "product",
        "-n",
        NAMESPACE,
        "--type=json",
        "-p",
        &weights.to_string(),
    ];
    let new_way = shop::requests_to(cluster, "product-v2").await;
    cluster.kubectl(&patch).await.expect("the route can be edited");
    let edited = Instant::now();
    let mut old_way = shop::requests_to(cluster, "product-v1").await;
    let mut moved = edited;
    while shop::requests_to(cluster, "product-v2").await < new_way + SETTLED_BY {
        let now = shop::requests_to(cluster, "product-v1").await;
        if now > old_way {
            (old_way, moved) = (now, Instant::now());
        }
        assert!(
            edited.elapsed() < weft_tests::kube::PATIENCE,
            "traffic does not move"
        );
    }
    assert!(
        moved - edited < MOVES_WITHIN,
        "traffic took {:?} to move",
        moved - edited
    );
}

/// The load generator, which ran throughout in the mesh, has an answer to everything it asked.
async fn the_load_lost_nothing(cluster: &Kubernetes) {
    let follow = ["logs", "-f", "-n", NAMESPACE, "deploy/load", "-c", "app"];
    let following = cluster.kubectl(&follow);
    let stop = async {
        kubectl(
            cluster,
            &format!("scale deployment load -n {NAMESPACE} --replicas=0"),
        )
        .await
    };
    let (log, _) = tokio::join!(following, stop);
    let tally = shop::tally(&log.expect("its log")).expect("the load generator says what it has done");
    assert_eq!(tally["failed"], 0, "{tally}");
    assert!(tally["sent"].as_u64() > Some(100), "{tally}");
    kubectl(
        cluster,
        &format!("scale deployment load -n {NAMESPACE} --replicas=1"),
    )
    .await;
}

/// Uninstalls, and looks for what is left.
async fn uninstall(cluster: &Kubernetes) {
    let gone = cluster.helm(&["uninstall", "weft", "-n", SYSTEM, "--wait"]).await;
    gone.expect("helm uninstall");
    kubectl(
        cluster,
        &format!("wait --for=delete pod --all -n {SYSTEM} --timeout=60s"),
    )
    .await;
    let kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingwebhookconfigurations,\
                 clustertrustbundles,configmaps,secrets,leases,services,deployments,serviceaccounts,roles,\
                 rolebindings,poddisruptionbudgets,networkpolicies";
    let deadline = Instant::now() + weft_tests::kube::PATIENCE;
    loop {
        let all = kubectl(cluster, &format!("get {kinds} -A -o name")).await;
        // The node itself may be called weft, and has a lease.
        let ours = |name: &&str| name.contains("weft-") || name.contains("weft.dev");
        let left: Vec<&str> = all.lines().filter(ours).collect();
        if left.is_empty() {
            break;
        }
        // The garbage collector has no event that says it is done.
        assert!(Instant::now() < deadline, "uninstall leaves {left:#?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let crds = kubectl(cluster, "get crds -o name").await;
    assert!(
        crds.contains("trafficpolicies.weft.dev"),
        "policies outlive an uninstall"
    );
}
