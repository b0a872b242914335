//! A control plane's place in a test's cluster.

use weft_control_plane::config::InCluster;
use weft_control_plane::kubernetes::Cluster;
use weft_tests::kube::Kubernetes;

/// As the replica `pod` in `namespace`.
pub(crate) async fn cluster(kubernetes: &Kubernetes, namespace: &str, pod: &str) -> Cluster {
    let settings = InCluster {
        namespace: namespace.into(),
        pod: pod.into(),
        service: "weft-control-plane".into(),
        owner: "weft-control-plane".into(),
        supplied_root: false,
        pod_certificates: true,
        webhook: ([127, 0, 0, 1], 0).into(),
        injection: None,
    };
    Cluster::new(kubernetes.client().await, &settings)
}
