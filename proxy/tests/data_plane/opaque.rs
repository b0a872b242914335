//! Opaque bytes: bound ports, tunnels, and connections whose protocol nobody declared.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_proxy_core::resource::{Protocol, TlsMode};

use crate::apps::{Client, http1, listen, ok};
use crate::mesh::{Ca, Proxy, id, meshed, run};

const BROKER: &str = "broker.shop.svc.cluster.local:5222";

/// The broker behind its sidecar, and a client's sidecar with a port bound to it.
fn broker(app: SocketAddr, protocol: Protocol) -> (Rc<Proxy>, Rc<Proxy>) {
    let ca = Ca::new();
    let server = Proxy::service(&ca, "broker", app, protocol, TlsMode::Strict);
    let client = Proxy::start(
        Some(ca.identity(&id("order"))),
        &[],
        &["--bind=127.0.0.1:0=broker:5222"],
    );
    client.know(BROKER, protocol, vec![meshed(server.inbound[0], "broker")]);
    (client, server)
}

/// Sends back what it got, once it has all of it.
async fn echo_at_end() -> SocketAddr {
    listen(|mut stream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    })
    .await
}

#[test]
fn a_half_closed_connection_still_answers() {
    run(async {
        let (client, _server) = broker(echo_at_end().await, Protocol::Tcp);
        let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
        let sent = vec![7; 1 << 20];
        let writing = stream.write_all(&sent);
        writing.await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), sent.len());
    });
}

#[test]
fn a_reset_stays_a_reset_both_ways() {
    run(async {
        let (told, mut seen) = tokio::sync::mpsc::channel(1);
        let app = listen(move |mut stream| {
            let told = told.clone();
            async move {
                if stream.read_u8().await.unwrap() == b'r' {
                    return stream.set_zero_linger().unwrap();
                }
                let error = stream.read_u8().await.unwrap_err();
                told.send(error.kind()).await.unwrap();
            }
        })
        .await;
        let (client, _server) = broker(app, Protocol::Tcp);
        let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
        stream.write_u8(b'r').await.unwrap();
        assert_eq!(
            stream.read_u8().await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
        let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
        stream.write_u8(b'w').await.unwrap();
        tokio::task::yield_now().await;
        stream.set_zero_linger().unwrap();
        drop(stream);
        assert_eq!(seen.recv().await, Some(ErrorKind::ConnectionReset));
    });
}

#[test]
fn nobody_there_is_a_reset() {
    run(async {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let (client, _server) = broker(gone, Protocol::Tcp);
        let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
        assert_eq!(
            stream.read_u8().await.unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    });
}

#[test]
fn a_server_may_speak_first_on_an_undeclared_port() {
    run(async {
        let app = listen(|mut stream| async move {
            stream.write_all(b"220 ready\r\n").await.unwrap();
            let mut line = [0; 4];
            stream.read_exact(&mut line).await.unwrap();
            stream.write_all(&line).await.unwrap();
        })
        .await;
        let (client, _server) = broker(app, Protocol::Detect);
        let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
        let mut greeting = [0; 11];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
        stream.write_all(b"QUIT").await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"QUIT");
    });
}

#[test]
fn an_undeclared_port_tells_requests_from_bytes() {
    run(async {
        let (app, journal) = http1(|_| ok("http")).await;
        let (client, _server) = broker(app, Protocol::Detect);
        let mut connection = Client::connect(client.binds[0]).await;
        assert_eq!(connection.get("whatever", "/").await.body, "http");
        assert_eq!(
            journal.borrow()[0].field("x-weft-client-id"),
            Some(id("order").as_str())
        );
        let (client, _server) = broker(echo_at_end().await, Protocol::Detect);
        let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
        stream.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"*1\r\n$4\r\nPING\r\n");
    });
}

#[test]
fn a_request_for_a_tunnel_goes_to_the_destination_itself_or_nowhere() {
    run(async {
        let asked = "CONNECT user:80 HTTP/1.1\r\nHost: user:80\r\n\r\n";
        let (client, _server) = broker(echo_at_end().await, Protocol::Detect);
        let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
        stream.write_all(asked.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, asked, "the destination may be a proxy itself");
        let (app, journal) = http1(|_| ok("http")).await;
        let (client, _server) = broker(app, Protocol::Http1);
        let mut connection = Client::connect(client.binds[0]).await;
        let answer = connection.send(asked).await.unwrap();
        assert_eq!(answer.status, 403);
        assert!(journal.borrow().is_empty());
    });
}

/// A tunnel to the broker that was granted on `tunnel`, with `early` sent in the same breath as the request for it.
async fn tunnel(mut tunnel: Client, early: &str) -> Client {
    let asked = format!("CONNECT broker:5222 HTTP/1.1\r\nHost: broker:5222\r\n\r\n{early}");
    tunnel.0.write_all(asked.as_bytes()).await.unwrap();
    tunnel.0.flush().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tunnel.0.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    tunnel
}

#[test]
fn a_tunnel_is_a_connection_like_any_other() {
    run(async {
        let (client, _server) = broker(echo_at_end().await, Protocol::Tcp);
        let mut opaque = tunnel(Client::connect(client.outbound).await, "").await;
        opaque.0.write_all(b"through").await.unwrap();
        opaque.0.shutdown().await.unwrap();
        let mut all = Vec::new();
        opaque.0.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"through");
        let (app, journal) = http1(|_| ok("in a tunnel")).await;
        let (client, _server) = broker(app, Protocol::Http1);
        let mut requests = tunnel(Client::connect(client.outbound).await, "").await;
        assert_eq!(requests.get("broker:5222", "/x").await.body, "in a tunnel");
        assert_eq!(journal.borrow()[0].line, "GET /x HTTP/1.1");
    });
}

#[test]
fn what_comes_in_one_breath_with_the_request_for_a_tunnel_is_whole() {
    run(async {
        for length in [10, 1000, 5000, 20_000] {
            let (app, journal) = http1(|_| ok("whole")).await;
            let (client, _server) = broker(app, Protocol::Detect);
            let body = "x".repeat(length);
            let post = format!("POST / HTTP/1.1\r\nHost: broker\r\nContent-Length: {length}\r\n\r\n{body}");
            // What comes behind an earlier request is read in larger pieces than what comes first.
            let mut connection = Client::connect(client.outbound).await;
            assert_eq!(connection.get("broker:5222", "/").await.body, "whole");
            let mut requests = tunnel(connection, &post).await;
            assert_eq!(requests.read().await.unwrap().body, "whole", "{length}");
            assert_eq!(journal.borrow()[1].body.len(), length);
        }
    });
}

#[test]
fn http_1_0_without_a_host_goes_where_its_connection_goes() {
    run(async {
        let (app, journal) = http1(|_| ok("old")).await;
        let (client, _server) = broker(app, Protocol::Http1);
        let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
        stream.write_all(b"GET /x HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nold"), "{text}");
        assert_eq!(journal.borrow()[0].field("host"), Some(BROKER));
    });
}
