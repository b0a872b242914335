//! Connections that stop being HTTP on the way: WebSocket and the like.

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_tests::app::Echo;
use weft_tests::client::{Ask, http1};
use weft_tests::load::upgraded;
use weft_tests::mesh::{Mesh, Sidecar, Spec};
use weft_tests::process::PATIENCE;

use crate::manifests::SERVICES;

/// More than all buffers on the way hold together, so that only bytes moving both ways get through.
const LARGE: usize = 8 << 20;

async fn pair() -> (Mesh, Echo, Sidecar, Sidecar) {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let app = Echo::start("user-0").await;
    let server = mesh
        .sidecar(&Spec::new("shop", "user", "user-0").serves("user:80", app.address))
        .await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    (mesh, app, server, client)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_way_ends_by_itself() {
    let (_mesh, app, _server, client) = pair().await;
    let mut stream = upgraded(client.outbound.to_string(), "user".to_owned())
        .await
        .expect("granted");
    let seen = app.journal().remove(0);
    assert_eq!((seen.method.as_str(), seen.uri.as_str()), ("GET", "/upgrade"));
    assert_eq!(seen.headers["upgrade"], "websocket");
    assert_eq!(
        seen.headers["x-weft-client-id"],
        "spiffe://cluster.local/ns/shop/sa/order"
    );

    // A single message goes through without anything that pushes it.
    let exchange = async {
        stream.write_all(b"hello").await?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).await.map(|_| back)
    };
    let back = tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("in time")
        .expect("passes");
    assert_eq!(&back, b"hello");

    let large: Vec<u8> = (0..LARGE)
        .map(|index| u8::try_from(index % 251).expect("below 251"))
        .collect();
    let (mut read, mut write) = stream.split();
    let sending = async {
        write.write_all(&large).await?;
        write.shutdown().await
    };
    let mut received = Vec::new();
    let receiving = read.read_to_end(&mut received);
    let both = async { tokio::join!(sending, receiving) };
    let (sent, read) = tokio::time::timeout(PATIENCE, both).await.expect("in time");
    sent.expect("writes pass");
    read.expect("a clean end");
    assert!(
        received.ends_with(b"bye"),
        "what the application said after our half-close is missing"
    );
    received.truncate(received.len() - 3);
    assert!(
        received == large,
        "other bytes came back: {} of {}",
        received.len(),
        large.len()
    );
}

#[tokio::test]
async fn bytes_that_come_with_the_head_are_not_lost() {
    let (_mesh, _app, _server, client) = pair().await;
    let mut stream = tokio::net::TcpStream::connect(client.outbound)
        .await
        .expect("listens");
    let head = "GET / HTTP/1.1\r\nHost: user\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nearly";
    stream.write_all(head.as_bytes()).await.expect("writes");
    let mut answer = Vec::new();
    let reading = async {
        while !answer.ends_with(b"early") {
            answer.push(stream.read_u8().await.expect("it goes on"));
        }
    };
    tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("the early bytes come back");
    assert!(
        answer.starts_with(b"HTTP/1.1 101 "),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}

#[tokio::test]
async fn a_refusal_is_an_ordinary_answer() {
    let (_mesh, app, _server, client) = pair().await;
    for status in ["200", "403", "426"] {
        let ask = Ask::get("http://user/")
            .header("connection", "upgrade")
            .header("upgrade", "websocket");
        let answer = http1(client.outbound, ask.header("x-status", status))
            .await
            .expect("answers");
        assert_eq!(answer.status, status.parse::<StatusCode>().expect("a status"));
        assert_eq!(
            (answer.text().as_str(), answer.proxy_status()),
            ("user-0", None),
            "{answer:?}"
        );
    }
    assert_eq!(app.journal().len(), 3, "each is asked once");
}

#[tokio::test]
async fn an_upgrade_that_reaches_nobody_is_answered_by_the_sidecar() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    let ask = Ask::get("http://user/")
        .header("connection", "upgrade")
        .header("upgrade", "websocket");
    let answer = http1(client.outbound, ask).await.expect("answers");
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(answer.proxy_status().is_some(), "{answer:?}");
}
