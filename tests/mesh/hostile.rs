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
use weft_tests::frames::{self, END_HEADERS, END_STREAM, field, frame, kind, request};
use weft_tests::mesh::{Mesh, Sidecar, Spec, metrics, page};
use weft_tests::process::PATIENCE;
use weft_tests::raw::say;

use crate::manifests::{SERVICES, split};

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
struct Target {
    mesh: Mesh,
    user: Echo,
    cart: Echo,
    _queue: TcpEcho,
    servers: [Sidecar; 3],
    client: Sidecar,
    peer: Forged,
}

impl Target {
    async fn start() -> Self {
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

/// Heads that break a rule, and what they are answered.
fn bad_heads() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let head = |fields: &str| format!("GET /bad HTTP/1.1\r\nHost: cart\r\n{fields}\r\n").into_bytes();
    let posted =
        |fields: &str| format!("POST /bad HTTP/1.1\r\nHost: cart\r\n{fields}\r\n0\r\n\r\n").into_bytes();
    let many: String = (0..100).map(|field| format!("x-{field}: 1\r\n")).collect();
    vec![
        (
            "an oversize head",
            head(&format!("x: {}\r\n", "x".repeat(66_000))),
            &[431],
        ),
        ("101 fields", head(&many), &[431]),
        (
            "two lengths",
            posted("Content-Length: 5\r\nContent-Length: 6\r\n"),
            &[400],
        ),
        ("a list of lengths", posted("Content-Length: 5, 6\r\n"), &[400]),
        ("a negative length", posted("Content-Length: -1\r\n"), &[400]),
        (
            "a length beyond all numbers",
            posted("Content-Length: 99999999999999999999\r\n"),
            &[400],
        ),
        (
            "chunks that are not last",
            posted("Transfer-Encoding: chunked, gzip\r\n"),
            &[400, 501],
        ),
        (
            "chunks twice",
            posted("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            &[400, 501],
        ),
        ("two hosts", head("Host: user\r\n"), &[400]),
        ("the same host twice", head("Host: cart\r\n"), &[400]),
        ("no host", b"GET /bad HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("a folded field", head("x: 1\r\n 2\r\n"), &[400]),
        ("a space before the colon", head("x : 1\r\n"), &[400]),
        ("NUL in a value", head("x: a\0b\r\n"), &[400]),
        ("CR in a value", head("x: a\rb\r\n"), &[400]),
        ("no name", head(": 1\r\n"), &[400]),
        ("no colon", head("x\r\n"), &[400]),
        (
            "a bad method",
            b"G@T( /bad HTTP/1.1\r\nHost: cart\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "a space in the path",
            b"GET /b ad HTTP/1.1\r\nHost: cart\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "another version",
            b"GET /bad HTTP/3.0\r\nHost: cart\r\n\r\n".to_vec(),
            &[400, 505],
        ),
        (
            "a user in the host",
            b"GET /bad HTTP/1.1\r\nHost: a@cart\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "a path as host",
            b"GET /bad HTTP/1.1\r\nHost: cart/x\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "another target",
            b"GET http://cart/bad HTTP/1.1\r\nHost: user\r\n\r\n".to_vec(),
            &[400],
        ),
    ]
}

fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

#[tokio::test]
async fn heads_that_break_a_rule_are_answered_and_go_no_further() {
    let target = Target::start().await;
    for (what, bytes, expected) in bad_heads() {
        for (port, address, tls) in target.http_ports(alpn::H1) {
            let answer = say(address, tls, &bytes, "\r\n\r\n").await;
            let text = String::from_utf8_lossy(&answer);
            assert!(
                status(&answer).is_some_and(|status| expected.contains(&status)),
                "{what} at {port}: {text:?}"
            );
            assert!(text.contains("proxy-status: weft"), "{what} at {port}: {text:?}");
        }
        for port in [
            target.client.status,
            target.client.admin,
            target.mesh.status,
            target.mesh.admin,
        ] {
            let answer = say(port, None, &bytes, "\r\n\r\n").await;
            assert!(
                status(&answer).is_none_or(|status| (400..500).contains(&status) || status == 505),
                "{what}"
            );
        }
    }
    // A body that turns out bad is cut off; whether its head had been passed on by then is a matter of time.
    for chunk in [
        "g\r\n",
        "ffffffffffffffffff\r\n",
        "1\r\nab",
        "-1\r\n",
        "1;\u{1}\r\n",
    ] {
        for (port, address, tls) in target.http_ports(alpn::H1) {
            let bytes = format!(
                "POST /cut HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}\r\n\r\n"
            );
            let answer = say(address, tls, bytes.as_bytes(), "\r\n\r\n").await;
            assert!(
                status(&answer) != Some(200),
                "{chunk:?} at {port}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    target.assert_well().await;
    let bad = target.bad_requests();
    assert!(bad.iter().all(|seen| seen == "POST /cut"), "{bad:?}");
}

/// RFC 9112 section 6.3: chunks win, the length is not passed on, and the connection ends with the answer.
#[tokio::test]
async fn a_length_beside_chunks_smuggles_nothing() {
    let target = Target::start().await;
    let bytes = b"POST /both HTTP/1.1\r\nHost: cart\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                  GET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\n";
    for (port, address, tls) in target.http_ports(alpn::FOREIGN_H1) {
        let answer = say(
            address,
            tls,
            bytes,
            "no such text: only the end of the connection ends this",
        )
        .await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{port}: {text}");
    }
    let seen = target.cart.journal();
    assert!(
        seen.iter()
            .all(|seen| seen.uri == "/both" && seen.body_bytes == 0),
        "{seen:?}"
    );
    assert!(
        seen.iter().all(|seen| seen
            .headers
            .get("content-length")
            .is_none_or(|length| length == "0")),
        "{seen:?}"
    );
    target.assert_well().await;
}

/// A head in HTTP/2 with `extra` fields after the good ones.
fn head(extra: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = frames::get("cart", "/bad");
    for (name, value) in extra {
        fields.extend(field(name, value));
    }
    frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &fields)
}

/// Connections that are no HTTP/2, or too much of it.
fn bad_connections() -> Vec<(&'static str, Vec<u8>)> {
    let again = |piece: Vec<u8>, times: usize| piece.repeat(times);
    let reset = |stream: u32| {
        [
            request(stream, "cart", "/bad"),
            frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
    };
    let begun = frame(kind::HEADERS, END_STREAM, 1, &frames::get("cart", "/bad"));
    let grown = field("x-more", &"x".repeat(16_000));
    let endless = |piece: &[u8], times| {
        [
            begun.clone(),
            again(frame(kind::CONTINUATION, 0, 1, piece), times),
        ]
        .concat()
    };
    vec![
        (
            "rapid resets",
            (0..5_000).flat_map(|n| reset(2 * n + 1).concat()).collect(),
        ),
        ("pings", again(frame(kind::PING, 0, 0, &[0; 8]), 20_000)),
        (
            "settings",
            again(frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), 20_000),
        ),
        (
            "priorities",
            again(frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 7]), 20_000),
        ),
        ("empty continuations", endless(&[], 20_000)),
        ("continuations without end", endless(&grown, 200)),
        (
            "empty data",
            [
                frame(kind::HEADERS, END_HEADERS, 1, &frames::get("cart", "/bad")),
                again(frame(kind::DATA, 0, 1, &[]), 20_000),
            ]
            .concat(),
        ),
        ("unknown frames", again(frame(0x42, 0, 0, &[0; 64]), 20_000)),
        ("no credit", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "too much credit",
            again(frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), 3),
        ),
        ("data on no stream", frame(kind::DATA, 0, 0, b"x")),
        ("a stream of ours", request(2, "cart", "/bad")),
        (
            "a stream again",
            [request(3, "cart", "/bad"), request(1, "cart", "/bad")].concat(),
        ),
        (
            "a frame without end",
            vec![0xff, 0xff, 0xff, kind::DATA, 0, 0, 0, 0, 1, 0],
        ),
        (
            "a head that is none",
            frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &[0xff; 64]),
        ),
        (
            "a table beyond all sizes",
            frame(
                kind::HEADERS,
                END_STREAM | END_HEADERS,
                1,
                &[0x3f, 0xff, 0xff, 0xff, 0xff, 0x7f],
            ),
        ),
        ("a push", frame(5, END_HEADERS, 1, &[0, 0, 0, 2])),
    ]
}

#[tokio::test]
async fn floods_end_their_connection_only() {
    let target = Target::start().await;
    for (what, bytes) in bad_connections() {
        let bytes = [frames::hello(), bytes].concat();
        let mut talks = JoinSet::new();
        let mut ports = target.http_ports(alpn::H2);
        ports.push(("xds", target.mesh.xds, Some(target.peer.client(alpn::FOREIGN_H2))));
        for (port, address, tls) in ports {
            let bytes = bytes.clone();
            talks.spawn(async move { (port, say(address, tls, &bytes, "").await) });
        }
        for (port, answer) in talks.join_all().await {
            let passed = String::from_utf8_lossy(&answer).contains("cart-0");
            assert!(
                !passed || what == "a stream again",
                "{what} was answered at {port}"
            );
        }
        let seen = target.bad_requests().len();
        assert!(seen < 1_500, "{what}: {seen} requests reached the application");
    }
    target.assert_well().await;
}

#[tokio::test]
async fn heads_of_http2_that_break_a_rule_go_no_further() {
    let target = Target::start().await;
    let many: Vec<(String, String)> = (0..101).map(|n| (format!("x-{n}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let bare = |fields: &[(&str, &str)]| {
        let fields: Vec<u8> = fields
            .iter()
            .flat_map(|(name, value)| field(name, value))
            .collect();
        frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &fields)
    };
    let get = (":method", "GET");
    for (what, bytes) in [
        ("101 fields", head(&many)),
        ("upper case", head(&[("X-Upper", "1")])),
        ("a field of the connection", head(&[("connection", "close")])),
        ("chunks", head(&[("transfer-encoding", "chunked")])),
        ("a late pseudo field", head(&[("x", "1"), (":path", "/bad")])),
        ("an unknown pseudo field", head(&[(":weft", "1")])),
        (
            "two paths",
            bare(&[
                get,
                (":scheme", "http"),
                (":authority", "cart"),
                (":path", "/bad"),
                (":path", "/bad"),
            ]),
        ),
        (
            "no path",
            bare(&[get, (":scheme", "http"), (":authority", "cart")]),
        ),
        (
            "an empty path",
            bare(&[get, (":scheme", "http"), (":authority", "cart"), (":path", "")]),
        ),
        (
            "no method",
            bare(&[(":scheme", "http"), (":authority", "cart"), (":path", "/bad")]),
        ),
        (
            "no authority",
            bare(&[get, (":scheme", "http"), (":path", "/bad")]),
        ),
        ("another host", head(&[("host", "user")])),
        ("two hosts", head(&[("host", "cart"), ("host", "cart")])),
        ("a length without a body", head(&[("content-length", "5")])),
        ("a line end in a value", head(&[("x", "a\r\nb: c")])),
        ("NUL in a value", head(&[("x", "a\0b")])),
        (
            "a user in the authority",
            bare(&[
                get,
                (":scheme", "http"),
                (":authority", "a@cart"),
                (":path", "/bad"),
            ]),
        ),
    ] {
        let bytes = [frames::hello(), bytes].concat();
        for (port, address, tls) in target.http_ports(alpn::H2) {
            let answer = say(address, tls, &bytes, "").await;
            let seen = target.bad_requests();
            assert!(
                seen.is_empty(),
                "{what} passed {port}: {seen:?}, {}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    target.assert_well().await;
}

#[tokio::test]
async fn malformed_manifests_are_named_and_change_nothing() {
    let target = Target::start().await;
    let nested = |open: &str, depth| format!("a: {}", open.repeat(depth));
    let mut laughs = "a0: &a0 [ha]\n".to_owned();
    for level in 1..30 {
        laughs += &format!("a{level}: &a{level} [*a{0}, *a{0}, *a{0}, *a{0}]\n", level - 1);
    }
    let files = [
        ("deep-list.yaml", nested("[", 100_000)),
        ("deep-map.yaml", nested("{a: ", 100_000)),
        ("deep-json.json", nested("{\"a\":[", 50_000)),
        ("laughs.yaml", laughs),
        ("large.yaml", "x".repeat(10 << 20)),
        ("many.yaml", "---\na: 1\n".repeat(200_000)),
        (
            "cut.yaml",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nspec: [".to_owned(),
        ),
        (
            "kind.yaml",
            "apiVersion: v1\nkind: [Service]\nmetadata: {name: {}, namespace: 7}\n".to_owned(),
        ),
        ("tabs.yaml", "apiVersion:\tv1\n\tkind: Service\n".to_owned()),
        (
            "ports.yaml",
            SERVICES
                .replace("port: 80", "port: 800000")
                .replace("name: user", "name: broken"),
        ),
    ];
    for (name, text) in &files {
        target.mesh.write_manifest(name, text);
    }
    let mut random = fastrand::Rng::with_seed(7);
    let folder = target.mesh.path().join("manifests");
    let garbage: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(100_000).collect();
    std::fs::write(folder.join("garbage.yaml"), garbage).expect("writable");
    std::fs::create_dir(folder.join("folder.yaml")).expect("writable");
    std::os::unix::fs::symlink("nowhere", folder.join("dangling.yaml")).expect("writable");
    let fifo = std::process::Command::new("mkfifo")
        .arg(folder.join("fifo.yaml"))
        .status()
        .expect("mkfifo runs");
    assert!(fifo.success());

    // Every one of them is named as what it is, ...
    let started = std::time::Instant::now();
    let named = files.iter().map(|(name, _)| *name).chain(["garbage.yaml"]);
    for name in named {
        while !page(target.mesh.admin, "/objects").await["problems"]
            .to_string()
            .contains(name)
        {
            let objects = page(target.mesh.admin, "/objects").await;
            assert!(
                started.elapsed() < PATIENCE,
                "{name} is not among {:#}",
                objects["problems"]
            );
        }
    }
    target.assert_well().await;
    // ... and a good edit beside them takes its way.
    target.mesh.write_manifest("routes.yaml", &split(1, 0));
    while http1(target.client.outbound, Ask::get("http://user/good"))
        .await
        .expect("answers")
        .text()
        != "user-0"
    {
        assert!(started.elapsed() < PATIENCE, "the good edit never arrived");
    }
    assert_no_panic(&metrics(target.mesh.status).await);
}
