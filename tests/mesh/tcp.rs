//! Opaque bytes.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_tests::app::{Echo, TcpEcho};
use weft_tests::client::{Ask, http1};
use weft_tests::mesh::{Mesh, Spec};

use crate::manifests::SERVICES;

#[tokio::test]
async fn the_server_may_speak_first_and_half_closes_pass() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let app = TcpEcho::start("hello ").await;
    let _server = mesh
        .sidecar(&Spec::new("shop", "queue", "queue-0").serves("queue:1883", app.address))
        .await;
    let bind = "127.0.0.1:0=queue:1883";
    let client = mesh
        .sidecar(&Spec::new("shop", "order", "order-0").flag("bind", bind))
        .await;

    let mut stream = TcpStream::connect(client.bound("queue.shop.svc.cluster.local:1883"))
        .await
        .expect("listens");
    let mut banner = [0; 6];
    stream
        .read_exact(&mut banner)
        .await
        .expect("the server speaks first");
    assert_eq!(&banner, b"hello ");
    let large = vec![42u8; 1 << 20];
    let (mut read, mut write) = stream.split();
    let (sent, received) = tokio::join!(
        async {
            write.write_all(&large).await?;
            write.shutdown().await
        },
        async {
            let mut text = Vec::new();
            read.read_to_end(&mut text).await.map(|_| text)
        }
    );
    sent.expect("writes pass");
    let received = received.expect("a clean end");
    assert_eq!(
        received.len(),
        large.len() + 3,
        "all of it, and what the server said after our half-close"
    );
    assert!(received.ends_with(b"bye"));
}

#[tokio::test]
async fn a_tunnel_goes_where_requests_go_and_nowhere_else() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let app = Echo::start("user-0").await;
    let _server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", app.address))
        .await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;

    let mut stream = TcpStream::connect(client.outbound).await.expect("listens");
    stream
        .write_all(b"CONNECT user:80 HTTP/1.1\r\nHost: user:80\r\n\r\n")
        .await
        .expect("writes");
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.expect("answers");
    assert_eq!(&head, b"HTTP/1.1 200");
    let mut byte = [0; 1];
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).await.expect("the head ends");
        seen.push(byte[0]);
    }
    stream
        .write_all(b"GET /in HTTP/1.1\r\nHost: user\r\nConnection: close\r\n\r\n")
        .await
        .expect("writes");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("reads to the end");
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("user-0"),
        "{answer}"
    );

    for forbidden in [
        "127.0.0.1:22",
        "localhost:22",
        "169.254.169.254:80",
        "[::1]:80",
        &client.admin.to_string(),
    ] {
        let ask = Ask::get(forbidden)
            .method(http::Method::CONNECT)
            .header("host", forbidden);
        let answer = http1(client.outbound, ask).await.expect("answers");
        assert_eq!(
            answer.status,
            http::StatusCode::FORBIDDEN,
            "{forbidden}: {answer:?}"
        );
    }
}
