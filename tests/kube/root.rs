//! The root's Secret: made once, supplied, refused, waited for.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use weft_control_plane::certificates::Issuing;
use weft_control_plane::kubernetes::root::{self, SECRET};
use weft_control_plane::kubernetes::{Cluster, MANAGED_BY};
use weft_control_plane_core::rights::Account;
use weft_identity::leaf;
use weft_identity::spiffe::TrustDomain;
use weft_tests::kube::Kubernetes;

fn domain() -> TrustDomain {
    "mesh.test".parse().expect("a trust domain")
}

async fn fingerprint(cluster: &Cluster) -> String {
    root::open(cluster, &domain()).await.bundle().fingerprint()
}

#[tokio::test]
async fn first_starts_that_race_have_one_root() {
    let kubernetes = Kubernetes::shared();
    let namespace = kubernetes.namespace("root").await;
    let mut replicas = Vec::new();
    for replica in 0..8 {
        replicas.push(kubernetes.place(&namespace, &format!("replica-{replica}")).await);
    }
    let roots = futures_util::future::join_all(replicas.iter().map(fingerprint)).await;
    assert!(roots.iter().all(|root| *root == roots[0]), "{roots:#?}");
    let secrets: Api<Secret> = Api::namespaced(kubernetes.client().await, &namespace);
    let secret = secrets.get(SECRET).await.expect("it was made");
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    let labels = secret.metadata.labels.unwrap_or_default();
    assert_eq!(labels.get(MANAGED_BY.0).map(String::as_str), Some(MANAGED_BY.1));
    let version = secret.metadata.resource_version;
    // A later start uses it and writes nothing.
    assert_eq!(fingerprint(&replicas[3]).await, roots[0]);
    let again = secrets.get(SECRET).await.expect("still there");
    assert_eq!(again.metadata.resource_version, version);
}

/// An authority of cert-manager's: an intermediate below a root, its key in the form that it writes by default.
fn supplied() -> BTreeMap<String, ByteString> {
    let authority = |name: &str| {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params
    };
    let (root_key, key) = (
        KeyPair::generate().expect("a key"),
        KeyPair::generate().expect("a key"),
    );
    let root = authority("root of the operator")
        .self_signed(&root_key)
        .expect("a root");
    let issuer = Issuer::from_ca_cert_der(root.der(), &root_key).expect("an issuer");
    let issuing = authority("mesh")
        .signed_by(&key, &issuer)
        .expect("an intermediate");
    let data = [
        ("tls.crt", issuing.pem()),
        ("tls.key", key.serialize_pem()),
        ("ca.crt", root.pem()),
    ];
    data.map(|(key, value)| (key.to_owned(), ByteString(value.into_bytes())))
        .into()
}

fn secret(data: BTreeMap<String, ByteString>) -> Secret {
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}

#[tokio::test]
async fn a_supplied_authority_below_a_root_signs() {
    let kubernetes = Kubernetes::shared();
    let namespace = kubernetes.namespace("root").await;
    let mut cluster = kubernetes.place(&namespace, "replica").await;
    cluster.supplied_root = true;
    let secrets: Api<Secret> = Api::namespaced(kubernetes.client().await, &namespace);
    let data = supplied();
    let root = data["ca.crt"].clone();
    // It comes after the control plane, which waits.
    let domain = domain();
    let (authority, _) = tokio::join!(root::open(&cluster, &domain), async {
        secrets
            .create(&PostParams::default(), &secret(data))
            .await
            .expect("supplied")
    });
    assert_eq!(
        authority.bundle().to_pem().as_bytes(),
        root.0,
        "the root is trusted, not what is below it"
    );
    let issuing = Issuing::new(authority, std::time::Duration::from_hours(1));
    let csr = leaf::KeyPair::generate()
        .expect("a key")
        .csr_der()
        .expect("a request");
    let chain = issuing
        .issue(Account::new("shop", "user"), &csr, &[])
        .expect("it signs");
    assert_eq!(chain.len(), 2, "the leaf, and what leads to the root");
    assert_eq!(Arc::new(issuing).bundle().roots().len(), 1);
}

#[test]
fn what_can_not_be_an_authority_is_refused_with_the_reason() {
    type Change = fn(&mut BTreeMap<String, ByteString>);
    let cases: [(&str, Change); 7] = [
        ("has no tls.key", |data| drop(data.remove("tls.key"))),
        ("has no ca.crt", |data| {
            drop(data.insert("ca.crt".into(), ByteString(Vec::new())));
        }),
        ("is of another key", |data| {
            drop(data.insert("tls.key".into(), supplied()["tls.key"].clone()));
        }),
        ("is not accepted by those who trust", |data| {
            drop(data.insert("ca.crt".into(), supplied()["ca.crt"].clone()));
        }),
        ("it holds no certificate", |data| {
            drop(data.insert("tls.crt".into(), ByteString(b"x".to_vec())));
        }),
        (
            "the root's key in Secret weft-ca (tls.key) can't be used",
            |data| {
                drop(data.insert("tls.key".into(), ByteString(b"secret".to_vec())));
            },
        ),
        ("is no authority", |data| {
            let key = KeyPair::generate().expect("a key");
            let leaf = CertificateParams::default().self_signed(&key).expect("a leaf");
            data.insert("tls.crt".into(), ByteString(leaf.pem().into_bytes()));
            data.insert("tls.key".into(), ByteString(key.serialize_pem().into_bytes()));
        }),
    ];
    for (expected, change) in cases {
        let mut data = supplied();
        change(&mut data);
        let Err(error) = root::authority(&secret(data), &domain()) else {
            panic!("{expected}: taken");
        };
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
    root::authority(&secret(supplied()), &domain()).expect("unchanged it is good");
}
