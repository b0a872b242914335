//! What is refused rather than normalised, and what is answered when a client is slow.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::Instant;
use weft_proxy_core::outcome::Reason;
use weft_proxy_core::resource::{Protocol, TlsMode};

use crate::apps::{Answer, Client, Journal, http1, listen};
use crate::mesh::{Ca, Proxy, USER, meshed, plain, run};

/// A client's sidecar in front of an application outside the mesh.
async fn direct(answer: &'static str) -> (Rc<Proxy>, Journal) {
    let (app, journal) = http1(move |_| answer.to_owned()).await;
    let client = Proxy::client(&Ca::new(), "order");
    client.know(USER, Protocol::Http1, vec![plain(app)]);
    (client, journal)
}

const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine";

/// The answer is for `reason`, with this detail.
fn check(answer: &Answer, reason: Reason, detail: &str) {
    assert_eq!(answer.status, reason.status().as_u16(), "{answer:?}");
    let told = answer.field("proxy-status").unwrap_or_default();
    assert!(
        told.contains(reason.facts().error) && told.contains(detail),
        "{told}"
    );
}

#[test]
fn what_two_readers_could_read_differently_is_refused() {
    run(async {
        let (client, journal) = direct(FINE).await;
        for (text, detail) in [
            ("GET / HTTP/1.1\nHost: user\n\n", "CRLF"),
            ("GET / HTTP/1.1\r\nHost: user\nX: 1\r\n\r\n", "CRLF"),
            ("GET / HTTP/1.1\r\nHost: user\r\nX: 1\r\n 2\r\n\r\n", "folded"),
            (
                "POST / HTTP/1.1\r\nHost: user\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                "both Transfer-Encoding and Content-Length",
            ),
            (
                "POST / HTTP/1.1\r\nHost: user\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
                "both Transfer-Encoding and Content-Length",
            ),
            (
                "POST / HTTP/1.1\r\nHost: user\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
                "exactly one decimal number",
            ),
        ] {
            let mut connection = Client::connect(client.outbound).await;
            check(&connection.send(text).await.unwrap(), Reason::BadRequest, detail);
            assert!(connection.read().await.is_none(), "the connection ends");
            // The same behind a good request, which is answered as if nothing followed it.
            let mut connection = Client::connect(client.outbound).await;
            let both = format!("GET /good HTTP/1.1\r\nHost: user\r\n\r\n{text}");
            assert_eq!(connection.send(&both).await.unwrap().body, "fine");
            check(&connection.read().await.unwrap(), Reason::BadRequest, detail);
            assert!(connection.read().await.is_none(), "the connection ends");
        }
        assert!(journal.borrow().iter().all(|seen| seen.line.contains("/good")));
    });
}

#[test]
fn a_target_for_tls_and_another_expectation_are_refused() {
    run(async {
        let (client, journal) = direct(FINE).await;
        let mut connection = Client::connect(client.outbound).await;
        let answer = connection
            .send("GET https://user/ HTTP/1.1\r\nHost: user\r\n\r\n")
            .await;
        check(&answer.unwrap(), Reason::BadRequest, "use CONNECT");
        let answer = connection
            .send("GET / HTTP/1.1\r\nHost: user\r\nExpect: miracles\r\n\r\n")
            .await;
        check(&answer.unwrap(), Reason::ExpectationFailed, "100-continue");
        assert_eq!(connection.get("user", "/").await.body, "fine");
        assert_eq!(journal.borrow().len(), 1);
    });
}

#[test]
fn an_answer_that_two_readers_could_read_differently_is_refused() {
    run(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 4\n\nfine",
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nX: 1\nContent-Length: 4\r\n\r\nfine",
        ] {
            let (client, _) = direct(answer).await;
            let mut connection = Client::connect(client.outbound).await;
            for _ in 0..2 {
                check(
                    &connection.get("user", "/").await,
                    Reason::UpstreamProtocol,
                    "breaks the protocol",
                );
            }
        }
    });
}

#[test]
fn an_interim_answer_is_passed_over() {
    run(async {
        let (client, _) = direct(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine",
        )
        .await;
        let mut connection = Client::connect(client.outbound).await;
        for _ in 0..2 {
            assert_eq!(connection.get("user", "/").await.body, "fine");
        }
    });
}

#[test]
fn what_comes_before_an_upgrade_is_granted_goes_nowhere() {
    run(async {
        let (client, journal) = direct(FINE).await;
        let mut connection = Client::connect(client.outbound).await;
        let early = "GET / HTTP/1.1\r\nHost: user\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\
                     GET /smuggled HTTP/1.1\r\nHost: user\r\n\r\n";
        let answer = connection.send(early).await.unwrap();
        assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
        assert!(connection.read().await.is_none(), "the connection ends");
        assert_eq!(journal.borrow().len(), 1);
    });
}

#[test]
fn a_tunnel_takes_bytes_of_any_kind_at_once() {
    run(async {
        let app = listen(|mut stream| async move {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        })
        .await;
        let ca = Ca::new();
        let server = Proxy::service(&ca, "user", app, Protocol::Tcp, TlsMode::Strict);
        let client = Proxy::client(&ca, "order");
        client.know(USER, Protocol::Tcp, vec![meshed(server.inbound[0], "user")]);
        let mut stream = TcpStream::connect(client.outbound).await.unwrap();
        let bytes = b"\n\x16\rContent-Length: 1\nTransfer-Encoding: chunked\n\n";
        let head = b"CONNECT user:80 HTTP/1.1\r\nHost: user:80\r\n\r\n";
        stream.write_all(&[&head[..], bytes].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", answer.escape_ascii());
        assert!(answer.ends_with(bytes), "{}", answer.escape_ascii());
    });
}

/// Everything that comes until the connection ends, and when that was.
async fn until_the_end(client: &Proxy, bytes: &[u8]) -> (Vec<u8>, Duration) {
    let start = Instant::now();
    let mut stream = TcpStream::connect(client.outbound).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _ = stream.read_to_end(&mut answer).await;
    (answer, start.elapsed())
}

#[test]
fn a_head_has_ten_seconds_from_its_first_byte() {
    const SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    run(async {
        let (client, journal) = direct(FINE).await;
        let block = [SETTINGS, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat();
        let part = [SETTINGS, b"\0\0\x09\x01\x05\0\0\0\x01\x82"].concat();
        let served = "GET / HTTP/1.1\r\nHost: user\r\n\r\nGET / HTTP/1.1\r\nHo";
        let (line, head, second, block, part) = tokio::join!(
            until_the_end(&client, b"GET / HT"),
            until_the_end(&client, b"GET / HTTP/1.1\r\nHost: us"),
            until_the_end(&client, served.as_bytes()),
            until_the_end(&client, &block),
            until_the_end(&client, &part),
        );
        for (answer, after) in [&line, &head, &second] {
            let text = String::from_utf8_lossy(answer);
            assert!(
                text.contains("HTTP/1.1 408 ") && text.contains("proxy-status: weft"),
                "{text}"
            );
            assert!((9.5..13.0).contains(&after.as_secs_f64()), "{after:?}");
        }
        for (_, after) in [&block, &part] {
            assert!((9.5..13.0).contains(&after.as_secs_f64()), "{after:?}");
        }
        assert_eq!(journal.borrow().len(), 1);
    });
}

#[test]
fn http2_heads_that_are_refused_are_told_why() {
    run(async {
        let (client, journal) = direct(FINE).await;
        let stream = TcpStream::connect(client.outbound).await.unwrap();
        let (requests, connection) = h2::client::handshake(stream).await.unwrap();
        spawn_local(async move { drop(connection.await) });
        let mut requests = requests.ready().await.unwrap();
        let long = Request::get("http://user/")
            .header("x-long", "x".repeat(70 * 1024))
            .body(())
            .unwrap();
        let connect = Request::builder()
            .method(Method::CONNECT)
            .uri("user:80")
            .body(())
            .unwrap();
        for (request, status, detail) in [(long, 431, "header fields"), (connect, 400, "HTTP/1.1 only")] {
            let (response, mut stream) = requests.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), status);
            let told = response.headers()["proxy-status"].to_str().unwrap();
            assert!(
                told.starts_with("weft; error=") && told.contains(detail),
                "{told}"
            );
            stream.send_data(Bytes::new(), true).unwrap_or_default();
            requests = requests.ready().await.unwrap();
        }
        assert!(journal.borrow().is_empty());
        let (response, _) = requests
            .send_request(Request::get("http://user/").body(()).unwrap(), true)
            .unwrap();
        assert_eq!(response.await.map(|response| response.status()).unwrap(), 200);
    });
}
