//! Bad input to every port of both processes: typed answers, no panic, and everything good goes on.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use rustls::ClientConfig;
use tokio::task::JoinSet;
use weft_identity::tls::alpn;
use weft_tests::app::{Echo, TcpEcho};
use weft_tests::client::{Ask, http1, http2};
use weft_tests::forge::{Authority, Forged, workload};
use weft_tests::frames::{self, request};
use weft_tests::mesh::{Mesh, Sidecar, Spec, metrics, page};
use weft_tests::raw::say;

use crate::manifests::{SERVICES, split};

mod heads;
mod http2;
mod manifests;
mod xds;

const CART: &str = "cart.shop.svc.cluster.local:80";
const QUEUE: &str = "queue.shop.svc.cluster.local:1883";

/// Connections with random bytes per port.
const RANDOM_CONNECTIONS: u64 = 24;
/// Most random bytes of a connection.
const RANDOM_BYTES: usize = 8 * 1024;

/// The process whose metrics these are has not panicked, and says so.
pub(crate) fn assert_no_panic(metrics: &str) {
    let lines: Vec<_> = metrics
        .lines()
        .filter(|line| line.starts_with("weft_panics_total"))
        .collect();
    assert!(
        !lines.is_empty() && lines.iter().all(|line| line.ends_with(" 0")),
        "{lines:?}"
    );
}

/// A mesh to be mistreated: requests for `user` are split, so that a lost route shows.
pub(crate) struct Target {
    mesh: Mesh,
    user: Echo,
    cart: Echo,
    _queue: TcpEcho,
    servers: [Sidecar; 3],
    client: Sidecar,
    peer: Forged,
}

impl Target {
    pub(crate) async fn start() -> Self {
        let manifests = [("services.yaml", SERVICES), ("routes.yaml", &split(0, 1))];
        let mesh = Mesh::start(&manifests, &[]).await;
        let (user, cart, queue) = (
            Echo::start("user-0").await,
            Echo::start("cart-0").await,
            TcpEcho::start("").await,
        );
        let server = |service: &str, app| {
            let name = service.split(':').next().unwrap_or(service);
            Spec::new("shop", name, &format!("{name}-0")).serves(service, app)
        };
        let servers = [
            mesh.sidecar(&server("user:80", user.address)).await,
            mesh.sidecar(&server("cart:80", cart.address)).await,
            mesh.sidecar(&server("queue:1883", queue.address)).await,
        ];
        let client = Spec::new("shop", "order", "order-0")
            .flag("bind", "127.0.0.1:0=cart:80")
            .flag("bind", "127.0.0.1:0=queue:1883");
        let client = mesh.sidecar(&client).await;
        let peer = Authority::of(&mesh).sign(&workload(&["spiffe://cluster.local/ns/shop/sa/order"]));
        Self {
            mesh,
            user,
            cart,
            _queue: queue,
            servers,
            client,
            peer,
        }
    }

    /// Every port of both processes.
    fn ports(&self) -> Vec<SocketAddr> {
        let mut ports = vec![self.mesh.xds, self.mesh.status, self.mesh.admin];
        for sidecar in self.servers.iter().chain([&self.client]) {
            ports.extend([sidecar.outbound, sidecar.status, sidecar.admin]);
            ports.extend(&sidecar.inbound);
        }
        ports.extend([CART, QUEUE].map(|authority| self.client.bound(authority)));
        ports
    }

    /// Ports that speak HTTP to anybody or to a mesh peer, and how to be heard there.
    fn http_ports(&self, alpn: &[u8]) -> Vec<(&'static str, SocketAddr, Option<Arc<ClientConfig>>)> {
        vec![
            ("outbound", self.client.outbound, None),
            ("bind", self.client.bound(CART), None),
            (
                "inbound",
                self.servers[1].inbound[0],
                Some(self.peer.client(alpn)),
            ),
        ]
    }

    /// All processes are there and have not panicked; what was good before is in force.
    async fn assert_well(&self) {
        for status in self
            .servers
            .iter()
            .chain([&self.client])
            .map(|one| one.status)
            .chain([self.mesh.status])
        {
            assert_no_panic(&metrics(status).await);
            let ready = http1(status, Ask::get("/ready").header("host", "localhost"))
                .await
                .expect("answers");
            assert_eq!(ready.status, StatusCode::OK, "{}", ready.text());
        }
        for admin in [self.mesh.admin, self.client.admin] {
            assert!(page(admin, "/config").await.is_object());
        }
        let answers = [
            http1(self.client.outbound, Ask::get("http://user/good")).await,
            http1(self.client.bound(CART), Ask::get("/good").header("host", "cart")).await,
            http2(self.client.outbound, Ask::get("http://user/good")).await,
        ];
        for answer in answers {
            let answer = answer.expect("answers");
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (StatusCode::OK, "cart-0"),
                "{answer:?}"
            );
        }
        let echoed = say(self.client.bound(QUEUE), None, b"good", "").await;
        assert_eq!(echoed, b"goodbye");
        assert!(self.user.journal().is_empty(), "its route gives it nothing");
    }

    /// Requests that reached the application, without our own good ones.
    fn bad_requests(&self) -> Vec<String> {
        let seen = self.cart.journal().into_iter();
        seen.filter(|seen| seen.uri != "/good")
            .map(|seen| format!("{} {}", seen.method, seen.uri))
            .collect()
    }
}

/// Something that may begin well.
fn noise(random: &mut fastrand::Rng) -> Vec<u8> {
    const BEGINNINGS: [&[u8]; 8] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: user\r\n",
        b"POST / HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: cart\r\nContent-Length: 5\r\n\r\n",
        frames::PREFACE,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"CONNECT queue:1883 HTTP/1.1\r\nHost: queue:1883\r\n\r\n",
    ];
    let mut bytes = BEGINNINGS[random.usize(..BEGINNINGS.len())].to_vec();
    let length = random.usize(1..RANDOM_BYTES);
    bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(length));
    bytes
}

#[tokio::test]
async fn random_bytes_on_every_port() {
    let target = Target::start().await;
    for seed in 0..RANDOM_CONNECTIONS {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut talks = JoinSet::new();
        for port in target.ports() {
            let bytes = noise(&mut random);
            talks.spawn(async move { say(port, None, &bytes, "").await });
        }
        // The same behind the handshake, where a peer of the mesh is heard.
        for name in [alpn::H2, alpn::H1, alpn::TCP] {
            let (bytes, tls) = (noise(&mut random), target.peer.client(name));
            let port = target.servers[1].inbound[0];
            talks.spawn(async move { say(port, Some(tls), &bytes, "").await });
        }
        talks.join_all().await;
    }
    target.assert_well().await;
}

#[tokio::test]
async fn half_heads_and_silence_hold_up_nobody() {
    let target = Target::start().await;
    let head = b"GET /half HTTP/1.1\r\nHost: cart\r\n\r\n";
    let second = [frames::hello(), request(1, "cart", "/half")].concat();
    for cut in [1, 3, 10, 18, 30, head.len() - 1] {
        for port in target.ports() {
            say(port, None, &head[..cut], "").await;
        }
        for (_, port, tls) in target.http_ports(alpn::H1) {
            say(port, tls, &head[..cut], "").await;
        }
        for (_, port, tls) in target.http_ports(alpn::H2) {
            say(port, tls, &second[..frames::PREFACE.len() + cut], "").await;
        }
    }
    // Those that say nothing more, and stay.
    let mut open = Vec::new();
    for port in target.ports() {
        for cut in [0, 1, 18] {
            let mut stream = tokio::net::TcpStream::connect(port).await.expect("listens");
            tokio::io::AsyncWriteExt::write_all(&mut stream, &head[..cut])
                .await
                .expect("room for a few bytes");
            open.push(stream);
        }
    }
    target.assert_well().await;
    assert_eq!(target.bad_requests(), [""; 0]);
}
