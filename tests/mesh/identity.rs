//! Who may talk to whom.

use std::net::SocketAddr;

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
