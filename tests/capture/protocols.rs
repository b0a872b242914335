//! What is spoken over captured connections: servers that speak first, TLS of the application, silence.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use crate::app::{connect, echo, greet, listen};
use crate::net::OUTSIDE;
use crate::pod::{Cluster, Pod, cluster_ips};

/// What a connection to a server that speaks first may take: far less than any time-out.
const AT_ONCE: Duration = Duration::from_secs(2);
/// A `ClientHello` of TLS 1.2 as far as detection looks, with more behind it.
const HELLO: &[u8] = b"\x16\x03\x01\x00\x2e\x01\x00\x00\x2a\x03\x03 and then whatever an application sends";

/// A pod `mail` with a server that speaks first on 25 (Service port 25, declared by nobody) and an echo on 7 (Service
/// port 7), and a client `order`.
async fn cluster(run: &[&str]) -> (Cluster, Pod, Pod) {
    let mut cluster = Cluster::new();
    let (mut mail, mut order) = (cluster.pod("mail"), cluster.pod("order"));
    let ports = [
        ("a", 25, 2525, None),
        ("b", 7, 7777, None),
        ("tcp-c", 26, 2525, None),
    ];
    cluster.service("mail", 1, &ports, &[&mail]);
    cluster.start().await;
    listen(&mail.namespace, crate::app::address("::", 2525), greet, "mail");
    listen(&mail.namespace, crate::app::address("::", 7777), echo, "echo");
    listen(
        &cluster.node.namespace,
        SocketAddr::new(OUTSIDE, 2525),
        greet,
        "world",
    );
    cluster.mesh(&mut mail, &[], &[]).await;
    cluster.mesh(&mut order, &[], run).await;
    (cluster, mail, order)
}

fn greeting(order: &Pod, to: SocketAddr, name: &str) -> Duration {
    let started = Instant::now();
    let mut stream = connect(&order.namespace, to).expect("connects");
    let expected = format!("220 {name} ready\r\n");
    let mut seen = vec![0; expected.len()];
    stream.read_exact(&mut seen).expect("the server speaks first");
    let took = started.elapsed();
    assert_eq!(String::from_utf8_lossy(&seen), expected);
    stream.write_all(b"HELO\r\n").expect("writes");
    stream.shutdown(Shutdown::Write).expect("half-closes");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("echoes, and ends");
    assert_eq!(rest, "HELO\r\n");
    took
}

#[tokio::test]
async fn a_server_that_speaks_first_does_not_stall() {
    let (_cluster, mail, order) = cluster(&["--mesh-cidrs=10.0.0.0/8"]).await;
    for port in [25, 26] {
        for to in cluster_ips(1, port) {
            let took = greeting(&order, to, "mail");
            assert!(took < AT_ONCE, "{to}: {took:?}");
        }
    }
    for to in mail.both(2525) {
        let took = greeting(&order, to, "mail");
        assert!(took < AT_ONCE, "{to}: {took:?}");
    }
    let took = greeting(&order, SocketAddr::new(OUTSIDE, 2525), "world");
    assert!(took < AT_ONCE, "outside: {took:?}");
}

#[tokio::test]
async fn opaque_ports_are_opaque_from_the_first_byte() {
    let (_cluster, _mail, order) = cluster(&["--opaque-ports=25,7"]).await;
    let took = greeting(&order, cluster_ips(1, 25)[0], "mail");
    assert!(took < AT_ONCE, "{took:?}");
    let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert_eq!(
        echoed(&order, cluster_ips(1, 7)[0], request),
        request,
        "what looks like HTTP is passed too"
    );
}

fn echoed(order: &Pod, to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(&order.namespace, to).expect("connects");
    stream.write_all(bytes).expect("writes");
    stream.shutdown(Shutdown::Write).expect("half-closes");
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).expect("a clean end");
    seen
}

#[tokio::test]
async fn tls_of_the_application_passes_as_it_is_inside_mtls() {
    let (_cluster, mail, order) = cluster(&[]).await;
    for to in cluster_ips(1, 7) {
        assert_eq!(echoed(&order, to, HELLO), HELLO, "{to}");
    }
    let metrics = mail.metrics();
    let meshed = metrics
        .lines()
        .any(|line| line.starts_with("weft_inbound_tcp_connections_total") && line.contains("tls=\"mtls\""));
    assert!(meshed, "{metrics}");
}

#[tokio::test]
async fn silence_decides_nothing() {
    let (_cluster, _mail, order) = cluster(&[]).await;
    let mut stream = connect(&order.namespace, cluster_ips(1, 7)[0]).expect("connects");
    // Longer than any race between the two sides; who is silent is not taken for opaque, or for anything.
    stream
        .set_read_timeout(Some(Duration::from_secs(1)))
        .expect("a socket option");
    let mut byte = [0];
    let silent = stream.read(&mut byte).expect_err("nobody says anything");
    assert!(
        matches!(
            silent.kind(),
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
        ),
        "{silent}"
    );
    stream
        .set_read_timeout(Some(crate::app::PATIENCE))
        .expect("a socket option");
    stream.write_all(b"late").expect("writes");
    stream.shutdown(Shutdown::Write).expect("half-closes");
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).expect("a clean end");
    assert_eq!(seen, b"late");
}
