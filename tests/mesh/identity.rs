//! Who may talk to whom.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_tests::app::Echo;
use weft_tests::mesh::{Mesh, Spec};

use crate::manifests::SERVICES;

/// Sends a request in the clear and answers what came back.
async fn plaintext(address: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("listens");
    let mut answer = Vec::new();
    // Being cut off in the middle is one of the ways to be refused.
    if stream
        .write_all(b"GET / HTTP/1.1\r\nHost: user\r\nConnection: close\r\n\r\n")
        .await
        .is_ok()
    {
        let _ = stream.read_to_end(&mut answer).await;
    }
    answer
}

#[tokio::test]
async fn plaintext_is_refused_unless_permissive() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let app = Echo::start("user-0").await;
    let server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", app.address))
        .await;
    let answer = plaintext(server.inbound[0]).await;
    assert!(!String::from_utf8_lossy(&answer).contains("200 OK"), "{answer:?}");
    assert!(app.journal().is_empty(), "nothing may reach the application");

    let permissive = r"
apiVersion: weft.dev/v1alpha1
kind: MeshTLSPolicy
metadata: {name: adopt, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: user}]
  mode: Permissive
";
    mesh.write_manifest("policy.yaml", permissive);
    let started = std::time::Instant::now();
    while !String::from_utf8_lossy(&plaintext(server.inbound[0]).await).contains("user-0") {
        assert!(
            started.elapsed() < weft_tests::process::PATIENCE,
            "the policy never arrived"
        );
    }
    let seen = app.journal().remove(0);
    assert!(
        !seen.headers.contains_key("x-weft-client-id"),
        "nobody was authenticated"
    );
}

/// A client certificate from a CA that the mesh has never heard of.
#[tokio::test]
async fn a_foreign_certificate_is_refused() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let app = Echo::start("user-0").await;
    let server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", app.address))
        .await;
    // A second mesh of the same trust domain: same names, another root.
    let other = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let directory = other.path().join("stolen");
    let token = other.token("shop", "order", &[]);
    let status = std::process::Command::new(weft_tests::process::weft_binary())
        .args([
            "identity",
            "--once",
            "--control-plane",
            &other.xds.to_string(),
            "--trust-bundle",
        ])
        .arg(other.state().join("trust-bundle.pem"))
        .arg("--token-file")
        .arg(&token)
        .arg("--out")
        .arg(&directory)
        .status()
        .expect("weft runs");
    assert!(status.success());
    let read = |name: &str| std::fs::read(directory.join(name)).expect("weft identity writes it");
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let pem = read("tls.crt");
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(&read("tls.key")).expect("PEM");
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(
        &std::fs::read(mesh.state().join("trust-bundle.pem")).expect("readable"),
    ) {
        roots.add(root.expect("PEM")).expect("a root");
    }
    let mut config = rustls::ClientConfig::builder_with_provider(weft_identity::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .expect("key and certificate match");
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(server.inbound[0]).await.expect("listens");
    let name = ServerName::try_from("user").expect("a name");
    // Whichever side speaks first refuses; either way no byte of an answer arrives.
    if let Ok(mut stream) = connector.connect(name, stream).await {
        let _ = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty(), "{answer:?}");
    }
    assert!(app.journal().is_empty(), "nothing may reach the application");
}
