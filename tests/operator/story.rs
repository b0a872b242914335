//! The operator's lines, one after the other: install, adopt, route, leave, uninstall.

use std::time::{Duration, Instant};

use serde_json::json;
use weft_tests::kube::Kubernetes;
use weft_tests::node::{self, GLANCE, SYSTEM, check, kubectl, restart, tls_mode};

use crate::shop::{self, NAMESPACE};
use crate::turn::alone;
use crate::{edges, shop_test};

/// How long traffic may take to follow an edited weight.
const MOVES_WITHIN: Duration = Duration::from_secs(1);
/// Requests that must have gone the new way before it counts as settled.
const SETTLED_BY: f64 = 30.0;
/// Requests that the shop's load must have sent for its tally to mean something.
const ENOUGH: u64 = 100;

#[tokio::test]
async fn from_install_to_uninstall() {
    let (cluster, _turn) = alone().await;
    node::install(cluster, &[]).await;
    shop::deploy(cluster).await;
    assert_eq!(meshed(cluster).await.0, 0, "nobody asked for a sidecar yet");

    adopt(cluster).await;
    all_is_well(cluster).await;
    edges::strangers_are_refused(cluster).await;
    edges::are_all_mtls(cluster).await;
    shop_test::passes(cluster).await;
    an_edited_weight_moves_traffic(cluster).await;
    loses_nothing(cluster, shop::scale_load(cluster, 0)).await;

    kubectl(cluster, "label namespace shop weft.dev/inject-").await;
    restart(cluster, NAMESPACE).await;
    assert_eq!(meshed(cluster).await.0, 0, "a restart takes the sidecars out");
    node::uninstall(cluster).await;
    nothing_is_left(cluster).await;
    kubectl(cluster, &format!("delete namespace {NAMESPACE}")).await;
}

/// Takes the running shop into the mesh as the README says, under its own load: Permissive, the label, a restart, a
/// look at who is not meshed, Strict.
async fn adopt(cluster: &Kubernetes) {
    tls_mode(cluster, NAMESPACE, "Permissive").await;
    kubectl(cluster, "label namespace shop weft.dev/inject=enabled").await;
    loses_nothing(cluster, restart(cluster, NAMESPACE)).await;
    let (with, without) = meshed(cluster).await;
    assert!(with > 0 && without == 0, "{without} pods have no sidecar");
    tls_mode(cluster, NAMESPACE, "Strict").await;
}

/// How many of the shop's pods have a sidecar, and how many have not.
async fn meshed(cluster: &Kubernetes) -> (usize, usize) {
    let pods = shop::pods(cluster).await;
    let with = pods.iter().filter(|pod| shop::meshed(pod)).count();
    (with, pods.len() - with)
}

/// `weft check` finds nothing, once every proxy has what was changed last.
async fn all_is_well(cluster: &Kubernetes) {
    let deadline = Instant::now() + weft_tests::kube::PATIENCE;
    loop {
        let checks = check(cluster, "").await;
        let failed: Vec<_> = checks.iter().filter(|check| check.outcome == "failed").collect();
        if failed.is_empty() {
            assert!(checks.len() > 15, "all of it is looked at: {checks:#?}");
            return;
        }
        assert!(Instant::now() < deadline, "{failed:#?}");
        tokio::time::sleep(GLANCE).await;
    }
}

/// After the weights are edited, nothing goes the old way for longer than a second.
async fn an_edited_weight_moves_traffic(cluster: &Kubernetes) {
    let weights = json!([{ "op": "replace", "path": "/spec/rules/1/backendRefs/0/weight", "value": 0 },
                         { "op": "replace", "path": "/spec/rules/1/backendRefs/1/weight", "value": 100 }]);
    let weights = weights.to_string();
    let patch = [
        "patch",
        "httproute",
        "product",
        "-n",
        NAMESPACE,
        "--type=json",
        "-p",
        &weights,
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

/// The load generator, which `ending` stops, had an answer to everything it asked.
async fn loses_nothing<T>(cluster: &Kubernetes, ending: impl Future<Output = T>) {
    let load = format!("get pods -n {NAMESPACE} -l app=load -o name");
    let load = kubectl(cluster, &load).await;
    let follow = ["logs", "-f", "-n", NAMESPACE, load.trim(), "-c", "app"];
    let (log, _) = tokio::join!(cluster.kubectl(&follow), ending);
    let log = log.expect("its log");
    let tally = shop::tally(&log).expect("the load generator says what it has done");
    assert_eq!(tally["failed"], 0, "{log}");
    assert!(tally["sent"].as_u64() > Some(ENOUGH), "{tally}");
}

/// What is the mesh's is gone, but for the CRDs.
async fn nothing_is_left(cluster: &Kubernetes) {
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
        tokio::time::sleep(GLANCE).await;
    }
    assert!(
        kubectl(cluster, &format!("get pods -n {SYSTEM} -o name"))
            .await
            .is_empty()
    );
    let crds = kubectl(cluster, "get crds -o name").await;
    assert!(
        crds.contains("trafficpolicies.weft.dev"),
        "policies outlive an uninstall"
    );
}
