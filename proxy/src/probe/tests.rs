use std::sync::Arc;

use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

fn probes(text: &str) -> Probes {
    Probes::read(text, None).unwrap()
}

async fn run(probes: &Probes, name: &str) -> (u16, String) {
    let mut head = HeaderMap::new();
    head.insert(USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    let answer = probes.answer(&format!("/probe/{name}"), &head).unwrap().await;
    (answer.0.as_u16(), answer.1)
}

async fn listener() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

/// Reads a head, answers, and returns the head.
async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, status: &str) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
    stream.write_all(answer.as_bytes()).await.unwrap();
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn http_is_asked_as_kubelet_asks() {
    let (listener, port) = listener().await;
    let probes = probes(&format!(
        r#"{{"app/liveness": {{"httpGet": {{"path": "healthz?deep=1", "port": {port},
            "httpHeaders": [{{"name": "Host", "value": "shop"}}, {{"name": "X-A", "value": "b"}}]}}}}}}"#
    ));
    for (status, expected) in [
        ("200 OK", 200),
        ("204 No Content", 200),
        ("302 Found", 200),
        ("404 Not Found", 503),
        ("500 Broken", 503),
    ] {
        let app = async { answer(listener.accept().await.unwrap().0, status).await };
        let ((answered, reason), head) = tokio::join!(run(&probes, "app/liveness"), app);
        assert_eq!(answered, expected, "{status}: {reason}");
        assert!(head.starts_with("GET /healthz?deep=1 HTTP/1.1\r\n"), "{head}");
        for field in ["host: shop", "x-a: b", "user-agent: kube-probe/1.36"] {
            assert!(head.contains(field), "{head}");
        }
    }
    drop(listener);
    let (answered, reason) = run(&probes, "app/liveness").await;
    assert!(
        answered == 503 && reason.contains("does not accept connections"),
        "{reason}"
    );
}

#[tokio::test]
async fn https_takes_any_certificate() {
    let (listener, port) = listener().await;
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["somebody".to_owned()]).unwrap();
    let certificate = certificate.self_signed(&key).unwrap().der().clone();
    let probes = probes(&format!(
        r#"{{"app/readiness": {{"httpGet": {{"scheme": "HTTPS", "port": {port}}}}}}}"#
    ));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let app = async {
            let stream = listener.accept().await.unwrap().0;
            let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
            answer(stream, "200 OK").await
        };
        let ((answered, reason), head) = tokio::join!(run(&probes, "app/readiness"), app);
        assert_eq!(answered, 200, "{reason}");
        assert!(head.starts_with("GET / HTTP/1.1\r\n"), "{head}");
    }
}

#[tokio::test]
async fn tcp_is_well_when_it_accepts() {
    let (listener, port) = listener().await;
    let probes = probes(&format!(
        r#"{{"app/startup": {{"tcpSocket": {{"port": {port}}}}}}}"#
    ));
    assert_eq!(run(&probes, "app/startup").await.0, 200);
    drop(listener);
    assert_eq!(run(&probes, "app/startup").await.0, 503);
}

#[tokio::test(start_paused = true)]
async fn an_application_that_does_not_answer_in_its_time_fails() {
    let (listener, port) = listener().await;
    let probes = probes(&format!(
        r#"{{"app/liveness": {{"httpGet": {{"port": {port}}}, "timeoutSeconds": 7}}}}"#
    ));
    let started = tokio::time::Instant::now();
    let (answered, reason) = run(&probes, "app/liveness").await;
    assert!(answered == 503 && reason.contains("within 7s"), "{reason}");
    assert_eq!(started.elapsed(), Duration::from_secs(7));
    drop(listener);
}

/// A gRPC server of one call that answers `body` and `status` (in trailers, or in the head when there is no body).
async fn health(listener: &TcpListener, body: &'static [u8], status: &'static str) -> String {
    let stream = listener.accept().await.unwrap().0;
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
    let path = request.uri().path().to_owned();
    let mut head = http::Response::builder().header("content-type", "application/grpc");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    if body.is_empty() {
        head = head.header("grpc-status", status);
        respond.send_response(head.body(()).unwrap(), true).unwrap();
    } else {
        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
        stream.send_data(body.into(), false).unwrap();
        stream.send_trailers(trailers).unwrap();
    }
    while connection.accept().await.is_some() {}
    path
}

#[tokio::test]
async fn grpc_is_well_when_it_says_that_it_serves() {
    let (listener, port) = listener().await;
    let probes = probes(&format!(
        r#"{{"app/liveness": {{"grpc": {{"port": {port}, "service": "shop"}}}}}}"#
    ));
    for (body, status, expected) in [
        (&b"\0\0\0\0\x02\x08\x01"[..], "0", 200),
        (b"\0\0\0\0\x02\x08\x02", "0", 503),
        (b"\0\0\0\0\0", "0", 503),
        (b"\0\0\0\0\x02\x08\x01", "13", 503),
        (b"", "12", 503),
        (b"\0\0\0\0\x02\xff", "0", 503),
    ] {
        let ((answered, reason), path) =
            tokio::join!(run(&probes, "app/liveness"), health(&listener, body, status));
        assert_eq!(answered, expected, "{body:?} {status}: {reason}");
        assert_eq!(path, "/grpc.health.v1.Health/Check");
    }
}

#[tokio::test]
async fn what_is_no_probe_is_not_found_or_no_page_of_ours() {
    let probes = probes(r#"{"app/liveness": {"tcpSocket": {"port": 1}}}"#);
    assert!(probes.answer("/ready", &HeaderMap::new()).is_none());
    for name in ["app/readiness", "", "app", "../ready"] {
        assert_eq!(run(&probes, name).await.0, 404, "{name}");
    }
}

#[test]
fn what_injection_does_not_write_is_refused() {
    for text in [
        "",
        "[]",
        r#"{"a": {}}"#,
        r#"{"a": {"tcpSocket": {"port": 1}, "grpc": {"port": 1}}}"#,
        r#"{"a": {"tcpSocket": {"port": "http"}}}"#,
        r#"{"a": {"tcpSocket": {"port": 65536}}}"#,
        r#"{"a": {"exec": {"command": ["true"]}}}"#,
    ] {
        assert!(Probes::read(text, None).is_err(), "{text}");
    }
    let many: Vec<String> = (0..=MAX_PROBES)
        .map(|index| format!(r#""{index}/liveness": {{"tcpSocket": {{"port": 1}}}}"#))
        .collect();
    let many = format!("{{{}}}", many.join(","));
    assert!(matches!(Probes::read(&many, None), Err(ProbesError::TooMany(_))));
}

#[test]
fn times_are_bounded() {
    for (written, expected) in [
        ("", DEFAULT_TIMEOUT),
        (r#", "timeoutSeconds": 0"#, DEFAULT_TIMEOUT),
        (r#", "timeoutSeconds": 9"#, Duration::from_secs(9)),
        (r#", "timeoutSeconds": 99999999"#, MAX_TIMEOUT),
    ] {
        let text = format!(r#"{{"a/liveness": {{"tcpSocket": {{"port": 1}}{written}}}}}"#);
        assert_eq!(probes(&text).probes["a/liveness"].timeout, expected, "{text}");
    }
}
