//! What applications and peers send: HTTP of both versions, and the first bytes of anything.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use tokio::io::{AsyncRead, ReadBuf};
use weft_proxy::drain::Tracker;
use weft_proxy::http::guard::{Budget, Guarded};
use weft_proxy::protocol::hello_alpn;
use weft_proxy::telemetry::metrics::Direction;
use weft_proxy_core::authority::{Authority, MAX_NAME, Scope, check_connect};
use weft_proxy_core::deadline::parse_grpc_timeout;
use weft_proxy_core::framing::{Flaw, Scanner};
use weft_proxy_core::hygiene::{
    check_request, check_response, clean_trailers, strip_hop_by_hop, strip_private, take_private,
};
use weft_proxy_core::outcome::grpc_status;
use weft_proxy_core::protocol::{Detected, detect};
use weft_proxy_core::retry::parse_retry_after;
use weft_proxy_core::trace::TraceContext;

/// How the bytes of one input are cut beside coming all at once: one by one, and by lengths that fit nothing.
const CUTS: [usize; 3] = [1, 7, 61];

fn scanned(mut scanner: Scanner, data: &[u8], piece: usize) -> Option<Flaw> {
    for (index, piece_of) in data.chunks(piece.max(1)).enumerate() {
        scanner.expect();
        if let Err(flaw) = scanner.scan(piece_of) {
            assert!(flaw.at < piece_of.len());
            let at = index * piece + flaw.at;
            return Some(Flaw { at, ..flaw });
        }
    }
    None
}

/// Bytes of an HTTP/1 client, and of a server.
pub(crate) fn http1_framing(data: &[u8]) {
    let whole = scanned(Scanner::requests(), data, data.len());
    for piece in CUTS {
        assert_eq!(scanned(Scanner::requests(), data, piece), whole, "{piece}");
    }
    // What follows a response's head depends on its request, which is said in between.
    let _ = scanned(Scanner::responses(), data, data.len());
}

pub(crate) fn http1_messages() -> Vec<Vec<u8>> {
    super::texts(&[
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nX: y\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ])
}

/// Bytes that come in pieces, and then no more.
struct Pieces<'a> {
    rest: &'a [u8],
    piece: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = self.piece.min(self.rest.len()).min(buf.remaining());
        let (now, rest) = self.rest.split_at(length);
        buf.put_slice(now);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// Whether the guard let all of it pass, unchanged.
fn passes(data: &[u8], piece: usize) -> bool {
    let tracked = Tracker::new(Arc::default()).track(Direction::Outbound);
    let budget = Budget {
        control: 10,
        resets: 5,
        resets_percent: 50,
    };
    let pieces = Pieces { rest: data, piece };
    let (mut guarded, alarm) = Guarded::new(pieces, budget, tracked.head_clock());
    let (mut passed, mut scratch) = (Vec::new(), [0; 256]);
    loop {
        let mut buf = ReadBuf::new(&mut scratch);
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut guarded).poll_read(&mut cx, &mut buf) {
            Poll::Ready(Ok(())) if !buf.filled().is_empty() => passed.extend_from_slice(buf.filled()),
            _ => break,
        }
    }
    assert!(data.starts_with(&passed));
    assert!(alarm.raised() || passed.len() == data.len());
    !alarm.raised()
}

/// Bytes of an HTTP/2 client.
pub(crate) fn http2_guard(data: &[u8]) {
    let whole = passes(data, data.len().max(1));
    for piece in CUTS {
        assert_eq!(passes(data, piece), whole, "{piece}");
    }
}

pub(crate) fn http2_frames() -> Vec<Vec<u8>> {
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap_or_default();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let begin = |frames: Vec<Vec<u8>>| [preface.clone(), frames.concat()].concat();
    vec![
        begin(vec![frame(4, 0, &[]), frame(1, 5, &[0x82, 0x86, 0x84])]),
        begin(vec![frame(6, 0, &[0; 8]); 12]),
        begin(vec![
            frame(1, 0, &[0x82]),
            frame(9, 4, &[0x84]),
            frame(3, 0, &[0, 0, 0, 8]),
        ]),
        begin(vec![frame(0, 1, b"data"), frame(8, 0, &[0, 0, 1, 0])]),
    ]
}

/// A message's head: a line `METHOD target version status`, and fields. What a good one leads to is done to it.
pub(crate) fn request_head(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(|byte| *byte == b' ');
    let mut word = || words.next().unwrap_or_default();
    let (Ok(method), Ok(uri)) = (Method::from_bytes(word()), Uri::try_from(word())) else {
        return;
    };
    let version = match word() {
        b"2" => Version::HTTP_2,
        b"0" => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let status = StatusCode::from_bytes(word()).unwrap_or(StatusCode::OK);
    let mut headers = HeaderMap::new();
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let field = (
            HeaderName::from_bytes(&line[..colon]),
            HeaderValue::from_bytes(value),
        );
        if let (Ok(name), Ok(value)) = field {
            headers.append(name, value);
        }
    }
    if let Err(violation) = check_request(version, &method, &uri, &headers) {
        let _ = violation
            .of_request()
            .response(true, Some(&violation.to_string()));
    }
    if let Err(violation) = check_response(version, status, &headers, false) {
        let _ = violation.of_response();
    }
    let _ = (parse_retry_after(&headers), grpc_status(&headers));
    for value in headers.values() {
        let _ = (parse_grpc_timeout(value), TraceContext::parse(value.as_bytes()));
    }
    strip(&headers);
}

/// What is stripped is gone, and stripping again finds nothing more.
fn strip(headers: &HeaderMap) {
    for change in [strip_hop_by_hop, strip_private] {
        let mut once = headers.clone();
        change(&mut once);
        let mut twice = once.clone();
        change(&mut twice);
        assert_eq!(once, twice);
    }
    let mut taken = headers.clone();
    take_private(&mut taken);
    let mut stripped = headers.clone();
    strip_private(&mut stripped);
    assert_eq!(taken, stripped);
    let _ = clean_trailers(&mut taken);
}

pub(crate) fn request_heads() -> Vec<Vec<u8>> {
    super::texts(&[
        "GET /a?b 1 200\nHost: a\nConnection: keep-alive, x-a\nX-A: b\nKeep-Alive: timeout=5",
        "POST http://user:80/ 2 503\ncontent-length: 5\nretry-after: 120\ngrpc-status: 14\ngrpc-timeout: 100m",
        "CONNECT user:80 1 101\nHost: user:80\nUpgrade: websocket\nConnection: upgrade",
        "PUT / 1 304\nTransfer-Encoding: chunked\nExpect: 100-continue\nTE: trailers\nx-weft-attempt: 2",
        "GET / 2 200\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\nx-weft-unprocessed: 1",
    ])
}

/// The first bytes of a connection: once they are decided, more of them change nothing.
pub(crate) fn protocol(data: &[u8]) {
    let mut decided = Detected::NeedMore;
    for end in 0..=data.len().min(512) {
        let now = detect(&data[..end]);
        assert!(
            decided == Detected::NeedMore || now == decided,
            "{end}: {decided:?}, {now:?}"
        );
        decided = now;
    }
    let _ = (detect(data), hello_alpn(data));
}

pub(crate) fn first_bytes() -> Vec<Vec<u8>> {
    let mut seeds = super::texts(&[
        "GET / HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "PRI * HTTP/1.1\r\n",
        "EHLO example.com\r\n",
        "CONNECT a:80 HTTP/1.1\r\n",
    ]);
    seeds.extend([&b"weft-h2"[..], b"h2", b"http/1.1"].map(client_hello));
    seeds
}

/// A `ClientHello` that offers one ALPN name.
fn client_hello(alpn: &[u8]) -> Vec<u8> {
    let mut config = rustls::ClientConfig::builder_with_provider(weft_identity::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3 is there")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let client = rustls::ClientConnection::new(Arc::new(config), weft_identity::tls::unnamed());
    let mut bytes = Vec::new();
    client
        .expect("a client")
        .write_tls(&mut bytes)
        .expect("memory takes it");
    bytes
}

/// What stands in `Host`, `:authority` and in targets.
pub(crate) fn authority(data: &[u8]) {
    let Ok(authority) = Authority::parse(data) else {
        return;
    };
    let shown = authority.to_string();
    assert_eq!(
        Authority::parse(shown.as_bytes()).as_ref(),
        Ok(&authority),
        "{shown}"
    );
    let _ = check_connect(&authority, &["127.0.0.1:15001".parse().expect("an address")]);
    let scope = Scope::new("shop", "cluster.local").expect("valid names");
    let expanded = scope.expand(&authority, 80);
    match Authority::parse(expanded.as_bytes()) {
        Ok(again) => assert_eq!(scope.expand(&again, 80), expanded),
        // With the domain behind it a name may get too long to be one; nobody has it then.
        Err(_) => assert!(expanded.len() > MAX_NAME, "{expanded}"),
    }
}

pub(crate) fn authorities() -> Vec<Vec<u8>> {
    super::texts(&[
        "user",
        "user.shop:80",
        "User.Shop.svc.cluster.local.:8080",
        "[::1]:80",
        "[::ffff:10.0.0.1]",
        "10.0.0.1:80",
        "0x7f.1",
        "a@b:80",
    ])
}
