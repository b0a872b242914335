//! The shop in pods.

use std::os::unix::fs::PermissionsExt;

use k8s_openapi::api::core::v1::{Pod, Service};
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;
use weft_tests::kube::Kubernetes;

use weft_tests::node::{kubectl, rolled_out, root};

/// Its namespace.
pub(crate) const NAMESPACE: &str = "shop";

/// Where a sidecar shows its metrics.
const STATUS_PORT: u16 = 15020;

/// Its volume, in a folder of the node that vanishes with it.
const DATA: &str = "/run/shop-data";
const VOLUME: &str = "
apiVersion: v1
kind: PersistentVolume
metadata: {name: shop-data}
spec:
  capacity: {storage: 64Mi}
  accessModes: [ReadWriteOnce]
  claimRef: {namespace: shop, name: shop-data}
  hostPath: {path: /run/shop-data}
";

/// Deploys it with kubectl and waits until all of it is ready.
pub(crate) async fn deploy(cluster: &Kubernetes) {
    std::fs::create_dir_all(DATA).expect("the node's /run is writable");
    let everybody = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(DATA, everybody).expect("our own folder");
    cluster.apply(VOLUME).await.expect("a volume");
    let folder = root().join("examples/shop");
    let manifests = folder.join("manifests").display().to_string();
    let workloads = folder.join("kubernetes").display().to_string();
    // The namespace first: files of a folder are applied in the order of their names.
    kubectl(cluster, &format!("apply --server-side -f {manifests}")).await;
    kubectl(cluster, &format!("apply --server-side -f {workloads}")).await;
    rolled_out(cluster, NAMESPACE).await;
    // The load began before there was anybody to answer: it begins anew.
    scale_load(cluster, 0).await;
    kubectl(
        cluster,
        &format!("wait --for=delete pod -l app=load -n {NAMESPACE} --timeout=60s"),
    )
    .await;
    scale_load(cluster, 1).await;
    rolled_out(cluster, NAMESPACE).await;
}

/// Stops the load, or starts it.
pub(crate) async fn scale_load(cluster: &Kubernetes, replicas: u32) {
    let scale = format!("scale deployment load -n {NAMESPACE} --replicas={replicas}");
    kubectl(cluster, &scale).await;
}

/// All its pods that are not about to go.
pub(crate) async fn pods(cluster: &Kubernetes) -> Vec<Pod> {
    let api: Api<Pod> = Api::namespaced(cluster.client().await, NAMESPACE);
    let list = api
        .list(&ListParams::default())
        .await
        .expect("pods can be listed");
    let running = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
    list.items.into_iter().filter(running).collect()
}

/// Whether a pod has our sidecar.
pub(crate) fn meshed(pod: &Pod) -> bool {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.init_containers.as_ref())
        .is_some_and(|containers| containers.iter().any(|container| container.name == "weft-proxy"))
}

/// A Service's cluster address.
pub(crate) async fn address(cluster: &Kubernetes, service: &str) -> String {
    let api: Api<Service> = Api::namespaced(cluster.client().await, NAMESPACE);
    let service = api.get(service).await.expect("a Service of the shop");
    let spec = service.spec.expect("a Service has a spec");
    spec.cluster_ip.expect("an address was given")
}

/// One sample of a sidecar's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// The pod.
    pub(crate) pod: String,
    /// Name and labels.
    pub(crate) series: String,
    /// What it counts.
    pub(crate) value: f64,
}

impl Sample {
    /// The value of a label, empty where there is none.
    pub(crate) fn label(&self, name: &str) -> &str {
        let after = self.series.split(&format!("{name}=\"")).nth(1);
        after
            .and_then(|after| after.split('"').next())
            .unwrap_or_default()
    }
}

/// All samples of all sidecars of the shop whose name begins with `prefix`.
pub(crate) async fn metrics(cluster: &Kubernetes, prefix: &str) -> Vec<Sample> {
    let mut samples = Vec::new();
    for pod in pods(cluster).await.iter().filter(|pod| meshed(pod)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let status = pod.status.as_ref();
        let Some(ip) = status.and_then(|status| status.pod_ip.as_ref()) else {
            continue;
        };
        let address = format!("{ip}:{STATUS_PORT}").parse().expect("an address");
        let text = weft_tests::mesh::metrics(address).await;
        let lines = text.lines().filter(|line| line.starts_with(prefix));
        samples.extend(lines.filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some(Sample {
                pod: name.clone(),
                series: series.to_owned(),
                value: value.parse().ok()?,
            })
        }));
    }
    samples
}

/// Requests that reached a destination whose name begins with `destination`, summed over all sidecars.
pub(crate) async fn requests_to(cluster: &Kubernetes, destination: &str) -> f64 {
    let samples = metrics(cluster, "weft_outbound_requests_total").await;
    samples
        .iter()
        .filter(|sample| sample.label("destination").starts_with(destination))
        .map(|sample| sample.value)
        .sum()
}

/// What the load generator says it has done, once it is stopped.
pub(crate) fn tally(log: &str) -> Option<Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find_map(|value| value.get("tally").cloned())
}
