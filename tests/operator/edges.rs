//! Who talks to whom, and how.

use std::collections::BTreeMap;
use std::time::Instant;

use weft_tests::client::{Ask, http1};
use weft_tests::kube::Kubernetes;
use weft_tests::node::{GLANCE, describe};

use crate::shop::{self, NAMESPACE, Sample};

/// Every pair of services that talk: caller and called.
const EDGES: [(&str, &str); 11] = [
    ("load", "user"),
    ("load", "product"),
    ("load", "order"),
    ("load", "inventory"),
    ("order", "user"),
    ("order", "product"),
    ("order", "inventory"),
    ("order", "payment"),
    ("order", "broker"),
    ("user", "broker"),
    ("product", "inventory"),
];

/// What was counted, by pod and series.
type Counts = BTreeMap<(String, String), f64>;

/// Whether a counter stands higher than `before`.
fn grew(before: &Counts, sample: &Sample) -> bool {
    let key = (sample.pod.clone(), sample.series.clone());
    sample.value > before.get(&key).copied().unwrap_or_default()
}

/// Traffic that arrived, of all sidecars.
async fn traffic(cluster: &Kubernetes) -> Vec<Sample> {
    let samples = shop::metrics(cluster, "weft_outbound_").await;
    let counts = samples
        .into_iter()
        .filter(|sample| !sample.label("tls").is_empty());
    counts
        .filter(|sample| sample.label("result") != "failure" && sample.value > 0.0)
        .collect()
}

/// Every pair of services that talk has talked over mutual TLS; and over nothing else since the last pod without a
/// sidecar went: those were reached in the clear, as they had to be.
pub(crate) async fn are_all_mtls(cluster: &Kubernetes) {
    let before = traffic(cluster).await;
    let before: Counts = before
        .into_iter()
        .map(|sample| ((sample.pod, sample.series), sample.value))
        .collect();
    let deadline = Instant::now() + weft_tests::kube::PATIENCE;
    loop {
        let traffic = traffic(cluster).await;
        let clear = |sample: &&Sample| sample.label("tls") != "mtls" && grew(&before, sample);
        let clear: Vec<_> = traffic.iter().filter(clear).collect();
        assert!(clear.is_empty(), "in the clear: {clear:#?}");
        let missing: Vec<_> = EDGES.iter().filter(|edge| !has(&traffic, edge)).collect();
        if missing.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{}\nno traffic on {missing:?}, only {traffic:#?}",
            describe(cluster, NAMESPACE).await
        );
        tokio::time::sleep(GLANCE).await;
    }
}

/// Whether a caller has reached a called service over mutual TLS.
fn has(traffic: &[Sample], (from, to): &(&str, &str)) -> bool {
    traffic.iter().any(|sample| {
        sample.label("tls") == "mtls"
            && sample.pod.starts_with(from)
            && sample.label("destination").starts_with(to)
    })
}

/// A client without a certificate, on the node itself, gets no answer of the application.
pub(crate) async fn strangers_are_refused(cluster: &Kubernetes) {
    let address = format!("{}:80", shop::address(cluster, "user").await);
    let ask = Ask::get("/users/1").header("host", "user");
    let answer = http1(address.parse().expect("an address"), ask).await;
    let served = answer.as_ref().is_ok_and(|answer| answer.status.is_success());
    assert!(!served, "Strict lets a stranger in: {answer:?}");
}
