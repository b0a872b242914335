//! Requests for pods' certificates, as kubelets make them, and what our signer answers. In an API server of its own: the
//! signer answers everywhere.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, PostParams};
use kube::{Api, Client, ResourceExt};
use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use weft_control_plane::kubernetes::leader::stand;
use weft_control_plane::kubernetes::pod_certificates::sign;
use weft_control_plane_core::issue::BURST;
use weft_identity::certificate::Details;
use weft_tests::kube::{Kubernetes, until};

use crate::forged;

/// A namespace with a pod on a node.
struct Place {
    client: Client,
    namespace: String,
    pod: Pod,
    requests: Api<DynamicObject>,
}

/// The fields of a request that a kubelet makes for a pod.
fn spec(pod: &Pod, csr: &[u8]) -> Value {
    json!({
        "signerName": "weft.dev/mesh",
        "podName": pod.name_any(),
        "podUID": pod.uid(),
        "serviceAccountName": "order",
        "serviceAccountUID": "an-account",
        "nodeName": "a-node",
        "nodeUID": "a-nodes-uid",
        "maxExpirationSeconds": 86_400,
        "stubPKCS10Request": BASE64_STANDARD.encode(csr),
    })
}

impl Place {
    async fn new(kubernetes: &Kubernetes) -> Self {
        let client = kubernetes.client().await;
        let namespace = kubernetes.namespace("shop").await;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace);
        let account = serde_json::from_value(json!({ "metadata": { "name": "order" } })).expect("an account");
        accounts
            .create(&PostParams::default(), &account)
            .await
            .expect("made");
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let pod = json!({
            "metadata": { "name": "order-1" },
            "spec": {
                "serviceAccountName": "order",
                "nodeName": "a-node",
                "containers": [{ "name": "app", "image": "none" }],
            },
        });
        let pod = serde_json::from_value(pod).expect("a pod");
        let kind = GroupVersionKind::gvk("certificates.k8s.io", "v1beta1", "PodCertificateRequest");
        let kind = ApiResource::from_gvk_with_plural(&kind, "podcertificaterequests");
        Self {
            pod: pods.create(&PostParams::default(), &pod).await.expect("made"),
            requests: Api::namespaced_with(client.clone(), &namespace, &kind),
            client,
            namespace,
        }
    }

    async fn request(&self, name: &str, spec: Value) {
        let request = json!({ "metadata": { "name": name }, "spec": spec });
        let request = serde_json::from_value(request).expect("an object");
        let made = self.requests.create(&PostParams::default(), &request).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    async fn answered(&self, name: &str) -> Value {
        let has_answer = |object: &DynamicObject| object.data["status"]["conditions"].is_array();
        let answered = until(self.requests.clone(), name, "answered", has_answer).await;
        answered.data["status"].clone()
    }
}

fn csr(algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
    let key = KeyPair::generate_for(algorithm).expect("a key");
    let request = CertificateParams::default()
        .serialize_request(&key)
        .expect("a request");
    request.der().to_vec()
}

async fn rsa(kubernetes: &Kubernetes) -> Vec<u8> {
    let line = "req -new -newkey rsa:3072 -nodes -subj / -keyout /dev/null";
    let line: Vec<_> = line.split(' ').collect();
    let pem = kubernetes.tool("openssl", &line, "").await.expect("a request");
    let request = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes());
    request.expect("PEM").as_ref().to_vec()
}

fn good() -> Vec<u8> {
    csr(&rcgen::PKCS_ECDSA_P256_SHA256)
}

fn condition(status: &Value) -> (&str, &str) {
    let condition = &status["conditions"][0];
    let word = |field: &str| condition[field].as_str().expect("a word");
    (word("type"), word("reason"))
}

fn moment(status: &Value, field: &str) -> SystemTime {
    let text = status[field].as_str().expect("a moment");
    let moment: k8s_openapi::jiff::Timestamp = text.parse().expect("a moment");
    moment.into()
}

#[tokio::test]
async fn a_pod_gets_its_identity_and_whatever_is_wrong_is_denied_by_name() {
    let kubernetes = Kubernetes::start();
    let place = Place::new(&kubernetes).await;
    let cluster = kubernetes.place(&place.namespace, "replica").await;
    // One that was there before the signer is answered, too.
    place.request("early", spec(&place.pod, &good())).await;
    let issuing = forged::issuing();
    let ending = CancellationToken::new();
    let (leadership, standing) = stand(&cluster, ending.clone());
    let _standing = tokio::spawn(standing);
    let signing = tokio::spawn(sign(cluster, issuing.clone(), leadership));

    is_the_pods(&place, &place.answered("early").await);
    let cases = cases(&kubernetes, &place).await;
    let mut other = spec(&place.pod, &good());
    other["signerName"] = json!("weft.dev/mesh2");
    place.request("another-signers", other).await;
    for (name, spec, _) in &cases {
        place.request(name, spec.clone()).await;
    }
    for (name, _, expected) in &cases {
        let status = place.answered(name).await;
        assert_eq!(condition(&status), *expected, "{name}: {status:#}");
    }
    // It was there before all of these.
    let left = place.requests.get("another-signers").await.expect("there");
    assert!(left.data["status"]["conditions"].is_null(), "{:#}", left.data);
    assert!(!signing.is_finished());
    ending.cancel();
}

/// What was issued is the identity of the pod's account, for the shortest time there is.
fn is_the_pods(place: &Place, status: &Value) {
    assert_eq!(condition(status), ("Issued", "Issued"));
    let chain = status["certificateChain"].as_str().expect("a chain");
    let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes()).collect();
    let leaf = chain[0].as_ref().expect("a leaf");
    let details = Details::read(leaf).expect("a workload's");
    let expected = format!("spiffe://mesh.test/ns/{}/sa/order", place.namespace);
    assert_eq!(details.id.as_str(), expected);
    let (begin, end) = (moment(status, "notBefore"), moment(status, "notAfter"));
    let span = end.duration_since(begin).expect("an end after its beginning");
    assert!(
        span >= Duration::from_hours(1) && span < Duration::from_mins(63),
        "{span:?}"
    );
    let refresh = moment(status, "beginRefreshAt")
        .duration_since(begin)
        .expect("later");
    assert_eq!(refresh.as_secs(), span.as_secs() / 2);
}

/// A request, and the condition and its reason that answer it.
type Case = (&'static str, Value, (&'static str, &'static str));

async fn cases(kubernetes: &Kubernetes, place: &Place) -> Vec<Case> {
    let changed = |field: &str, value: Value| {
        let mut spec = spec(&place.pod, &good());
        spec[field] = value;
        spec
    };
    let ed25519 = spec(&place.pod, &csr(&rcgen::PKCS_ED25519));
    let p521 = spec(&place.pod, &csr(&rcgen::PKCS_ECDSA_P521_SHA512));
    let p384 = spec(&place.pod, &csr(&rcgen::PKCS_ECDSA_P384_SHA384));
    let rsa = spec(&place.pod, &rsa(kubernetes).await);
    vec![
        ("p384", p384, ("Issued", "Issued")),
        (
            "hour",
            changed("maxExpirationSeconds", json!(3_600)),
            ("Issued", "Issued"),
        ),
        ("ed25519", ed25519, ("Denied", "UnsupportedKeyType")),
        ("p521", p521, ("Denied", "UnsupportedKeyType")),
        ("rsa", rsa, ("Denied", "UnsupportedKeyType")),
        (
            "account",
            changed("serviceAccountName", json!("bank")),
            ("Denied", "PodMismatch"),
        ),
        (
            "uid",
            changed("podUID", json!("another")),
            ("Denied", "PodMismatch"),
        ),
        (
            "node",
            changed("nodeName", json!("elsewhere")),
            ("Denied", "PodMismatch"),
        ),
        (
            "nobody",
            changed("podName", json!("order-2")),
            ("Denied", "PodMismatch"),
        ),
        (
            "words",
            changed("unverifiedUserAnnotations", json!({ "example.com/san": "bank" })),
            ("Denied", "InvalidUnverifiedUserAnnotations"),
        ),
    ]
}

#[tokio::test]
async fn a_burst_beyond_the_rate_is_answered_bit_by_bit() {
    let kubernetes = Kubernetes::start();
    let place = Place::new(&kubernetes).await;
    let csr = good();
    let issuing = forged::issuing();
    let account = || weft_control_plane_core::rights::Account::new(&place.namespace, "order");
    while issuing.issue(account(), &csr, &[]).is_ok() {}
    let cluster = kubernetes.place(&place.namespace, "replica").await;
    let ending = CancellationToken::new();
    let (leadership, standing) = stand(&cluster, ending.clone());
    let _standing = tokio::spawn(standing);
    let _signing = tokio::spawn(sign(cluster, issuing, leadership));
    for number in 0..BURST / 10 {
        place.request(&format!("r{number}"), spec(&place.pod, &csr)).await;
    }
    for number in 0..BURST / 10 {
        let status = place.answered(&format!("r{number}")).await;
        assert_eq!(condition(&status), ("Issued", "Issued"));
    }
    ending.cancel();
}

#[tokio::test]
async fn a_cluster_that_begins_to_serve_requests_finds_them_answered() {
    let kubernetes = Kubernetes::start();
    let run = kubernetes.state().join("run/kube-apiserver");
    let with = std::fs::read_to_string(&run).expect("how the API server is started");
    let without = with.replace("PodCertificateRequest=true", "PodCertificateRequest=false");
    assert_ne!(with, without);
    std::fs::write(&run, without).expect("written");
    kubernetes.kill_component("kube-apiserver").await;
    let mut server = kubernetes.start_component("kube-apiserver");
    kubernetes.serves().await;

    let place = Place::new(&kubernetes).await;
    let cluster = kubernetes.place(&place.namespace, "replica").await;
    let ending = CancellationToken::new();
    let (leadership, standing) = stand(&cluster, ending.clone());
    let mut leads = leadership.changes();
    let _standing = tokio::spawn(standing);
    let signing = tokio::spawn(sign(cluster, forged::issuing(), leadership));
    leads.wait_for(|leads| *leads).await.expect("it leads");
    let pods: Api<Pod> = Api::namespaced(place.client.clone(), &place.namespace);
    pods.get("order-1").await.expect("all else is served");

    std::fs::write(&run, with).expect("written");
    server.kill().await.expect("ended");
    let _server = kubernetes.start_component("kube-apiserver");
    kubernetes.serves().await;
    place.request("late", spec(&place.pod, &good())).await;
    assert_eq!(condition(&place.answered("late").await), ("Issued", "Issued"));
    assert!(!signing.is_finished());
    let now = DeleteParams::default().grace_period(0);
    pods.delete("order-1", &now).await.expect("deleted");
    place.request("gone", spec(&place.pod, &good())).await;
    assert_eq!(
        condition(&place.answered("gone").await),
        ("Denied", "PodMismatch")
    );
    ending.cancel();
}
