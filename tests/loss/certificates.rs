//! A pod that mounts the mesh's certificate: its kubelet makes the key, and our signer answers. The signer runs in the
//! test, as the certificates of the mesh that the others share are shorter than the API server takes.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio_util::sync::CancellationToken;
use weft_control_plane::ca::directory;
use weft_control_plane::certificates::Issuing;
use weft_control_plane::kubernetes::leader::stand;
use weft_control_plane::kubernetes::pod_certificates;
use weft_identity::certificate::Details;
use weft_tests::kube::until;
use weft_tests::node::{TEST_IMAGE, apply, forget, kubectl};

use crate::pods::mesh;

/// A pod that shows its certificate and ends.
fn pod(namespace: &str) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata: {{name: holder, namespace: {namespace}}}
spec:
  restartPolicy: Never
  containers:
    - name: app
      image: {TEST_IMAGE}
      args: [show, /id/chain.pem]
      volumeMounts: [{{name: id, mountPath: /id}}]
  volumes:
    - name: id
      projected:
        sources:
          - podCertificate:
              signerName: weft.dev/mesh
              keyType: ECDSAP256
              keyPath: key.pem
              certificateChainPath: chain.pem
"
    )
}

#[tokio::test]
async fn a_pod_without_a_sidecar_mounts_its_certificate() {
    let kubernetes = mesh().await;
    let namespace = kubernetes.namespace("mounts").await;
    let folder = tempfile::tempdir().expect("a folder");
    let domain = "mesh.test".parse().expect("a trust domain");
    let authority = directory::open(folder.path(), None, &domain).expect("a root");
    let issuing = Issuing::new(authority, Duration::from_hours(24));
    let cluster = kubernetes.place(&namespace, "signer").await;
    let ending = CancellationToken::new();
    let (leadership, standing) = stand(&cluster, ending.clone());
    let _standing = tokio::spawn(standing);
    let _signing = tokio::spawn(pod_certificates::sign(cluster, issuing.into(), leadership));

    apply(kubernetes, &pod(&namespace)).await;
    let pods: Api<Pod> = Api::namespaced(kubernetes.client().await, &namespace);
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    until(pods, "holder", "done", |pod| {
        phase(pod).as_deref() == Some("Succeeded")
    })
    .await;
    let shown = kubectl(kubernetes, &format!("logs -n {namespace} holder")).await;
    let leaf = CertificateDer::from_pem_slice(shown.as_bytes()).expect("a certificate");
    let details = Details::read(&leaf).expect("a workload's");
    let expected = format!("spiffe://mesh.test/ns/{namespace}/sa/default");
    assert_eq!(details.id.as_str(), expected);
    ending.cancel();
    forget(kubernetes, &namespace).await;
}
