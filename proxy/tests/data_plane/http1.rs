//! HTTP/1 from end to end.

use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use weft_proxy_core::resource::{Protocol, TlsMode};

use crate::apps::{Client, Journal, http1, listen, ok, read_request};
use crate::mesh::{Ca, Proxy, USER, id, meshed, plain, run};

/// A client's sidecar that knows the Service `user`, whose one endpoint is `app` behind its own sidecar.
struct Pair {
    client: Rc<Proxy>,
    _server: Rc<Proxy>,
}

impl Pair {
    fn new(app: std::net::SocketAddr) -> Self {
        let ca = Ca::new();
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        let client = Proxy::client(&ca, "order");
        client.know(USER, Protocol::Http1, vec![meshed(server.inbound[0], "user")]);
        Self {
            client,
            _server: server,
        }
    }

    async fn connect(&self) -> Client {
        Client::connect(self.client.outbound).await
    }
}

async fn echo() -> (std::net::SocketAddr, Journal) {
    http1(|seen| ok(&String::from_utf8_lossy(&seen.body))).await
}

#[test]
fn a_request_passes_two_sidecars() {
    run(async {
        let (app, journal) = http1(|_| ok("hello")).await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        for number in 0..3 {
            let answer = connection.get("user", &format!("/things/{number}?q=1")).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
            assert_eq!(answer.field("proxy-status"), None);
        }
        let seen = journal.borrow();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[2].line, "GET /things/2?q=1 HTTP/1.1");
        assert_eq!(seen[0].field("host"), Some("user"));
        assert_eq!(seen[0].field("x-weft-client-id"), Some(id("order").as_str()));
        assert_eq!(seen[0].field("x-weft-attempt"), None);
        assert!(seen[0].field("traceparent").is_some());
    });
}

#[test]
fn bodies_pass_with_a_length_and_in_chunks() {
    run(async {
        let (app, journal) = echo().await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        let answer = connection
            .send("POST / HTTP/1.1\r\nHost: user\r\nContent-Length: 5\r\n\r\nhello")
            .await
            .unwrap();
        assert_eq!(answer.body, "hello");
        let chunked = "PUT / HTTP/1.1\r\nHost: user\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\n3\r\nbar\r\n0\r\n\r\n";
        assert_eq!(connection.send(chunked).await.unwrap().body, "foobar");
        let large = "x".repeat(3 << 20);
        let text = format!(
            "POST / HTTP/1.1\r\nHost: user\r\nContent-Length: {}\r\n\r\n{large}",
            large.len()
        );
        assert_eq!(connection.send(&text).await.unwrap().body.len(), large.len());
        assert_eq!(journal.borrow()[0].field("content-length"), Some("5"));
    });
}

#[test]
fn a_body_in_chunks_passes_whatever_the_method() {
    run(async {
        let (app, journal) = echo().await;
        let pair = Pair::new(app);
        let client = Proxy::client(&Ca::new(), "order");
        client.know(USER, Protocol::Http1, vec![plain(app)]);
        for outbound in [pair.client.outbound, client.outbound] {
            let mut connection = Client::connect(outbound).await;
            for method in ["GET", "DELETE", "OPTIONS", "PATCH"] {
                let text = format!(
                    "{method} / HTTP/1.1\r\nHost: user\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nfoo\r\n0\r\n\r\n"
                );
                assert_eq!(connection.send(&text).await.unwrap().body, "foo", "{method}");
            }
            connection.get("user", "/").await;
            let seen = journal.borrow();
            assert_eq!(
                seen.last().unwrap().field("transfer-encoding"),
                None,
                "without a body"
            );
        }
    });
}

#[test]
fn an_upload_that_outlives_its_answer_holds_up_nobody() {
    run(async {
        // Answers when it has read a head, and goes on reading.
        let app = listen(|stream| async move {
            let mut stream = BufStream::new(stream);
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
                if line == "\r\n" {
                    stream.write_all(ok("early").as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                }
                line.clear();
            }
        })
        .await;
        let pair = Pair::new(app);
        let client = Proxy::client(&Ca::new(), "order");
        client.know(USER, Protocol::Http1, vec![plain(app)]);
        for outbound in [pair.client.outbound, client.outbound] {
            let mut slow = Client::connect(outbound).await;
            let begun = "POST / HTTP/1.1\r\nHost: user\r\nContent-Length: 100\r\n\r\nx";
            assert_eq!(slow.send(begun).await.unwrap().body, "early");
            let mut other = Client::connect(outbound).await;
            assert_eq!(other.get("user", "/").await.body, "early");
        }
    });
}

#[test]
fn http_1_0_gets_an_answer_and_its_end() {
    run(async {
        let (app, _) =
            http1(|_| "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".to_owned())
                .await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        connection
            .0
            .write_all(b"GET / HTTP/1.0\r\nHost: user\r\n\r\n")
            .await
            .unwrap();
        connection.0.flush().await.unwrap();
        let mut text = String::new();
        connection.0.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.0 200 OK\r\n"), "{text}");
        assert!(text.ends_with("\r\n\r\nhi"), "{text}");
    });
}

#[test]
fn answers_without_a_body_end_where_they_should() {
    run(async {
        let (app, _) = http1(|seen| match seen.line.split(' ').nth(1) {
            Some("/none") => "HTTP/1.1 204 No Content\r\n\r\n".to_owned(),
            Some("/same") => {
                "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n".to_owned()
            }
            _ if seen.line.starts_with("HEAD") => {
                "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_owned()
            }
            _ => ok("whole"),
        })
        .await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        assert_eq!(connection.get("user", "/none").await.status, 204);
        assert_eq!(connection.get("user", "/same").await.status, 304);
        connection
            .0
            .write_all(b"HEAD / HTTP/1.1\r\nHost: user\r\n\r\n")
            .await
            .unwrap();
        connection.0.flush().await.unwrap();
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            connection.0.read_line(&mut line).await.unwrap();
            if line == "\r\n" {
                break;
            }
            head.push(line.to_ascii_lowercase());
        }
        assert!(head.contains(&"content-length: 1234\r\n".to_owned()), "{head:?}");
        assert_eq!(connection.get("user", "/").await.body, "whole");
    });
}

#[test]
fn a_client_that_expects_100_continue_gets_it() {
    run(async {
        let (app, _) = echo().await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: user\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
        assert_eq!(connection.send(head).await.unwrap().status, 100);
        assert_eq!(connection.send("body").await.unwrap().body, "body");
    });
}

#[test]
fn private_fields_and_those_of_one_connection_go_no_further() {
    run(async {
        let (app, journal) = http1(|_| {
            "HTTP/1.1 200 OK\r\nX-Weft-Unprocessed: 1\r\nConnection: x-hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n".to_owned()
        })
        .await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        let answer = connection
            .send(
                "GET / HTTP/1.1\r\nHost: user\r\nX-Weft-Client-Id: spiffe://evil\r\nx_weft_client_id: evil\r\n\
                 X-Weft-Attempt: 9\r\nConnection: x-mine, x-weft-client-id\r\nX-Mine: 1\r\nX-Kept: 1\r\n\r\n",
            )
            .await
            .unwrap();
        assert_eq!(
            (answer.field("x-hop"), answer.field("x-weft-unprocessed")),
            (None, None)
        );
        let seen = journal.borrow();
        assert_eq!(
            seen.len(),
            1,
            "an application's word about being unprocessed is not believed"
        );
        let ids: Vec<_> = seen[0]
            .fields
            .iter()
            .filter(|(name, _)| name.replace('_', "-") == "x-weft-client-id")
            .collect();
        assert_eq!(ids, [&("x-weft-client-id".to_owned(), id("order"))]);
        assert_eq!(
            (seen[0].field("x-mine"), seen[0].field("x-kept")),
            (None, Some("1"))
        );
        assert_eq!(seen[0].field("x-weft-attempt"), None);
    });
}

#[test]
fn an_endpoint_outside_the_mesh_gets_plain_http1() {
    run(async {
        let (app, journal) = http1(|_| ok("plain")).await;
        let client = Proxy::client(&Ca::new(), "order");
        client.know(USER, Protocol::Http1, vec![plain(app)]);
        let mut connection = Client::connect(client.outbound).await;
        for _ in 0..3 {
            assert_eq!(connection.get("user.shop", "/").await.body, "plain");
        }
        assert_eq!(journal.borrow()[0].field("host"), Some("user.shop"));
        assert_eq!(journal.borrow()[0].field("x-weft-attempt"), None);
    });
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    run(async {
        let app = listen(|stream| async move {
            let mut stream = BufStream::new(stream);
            let seen = read_request(&mut stream).await.unwrap();
            assert_eq!(seen.field("upgrade"), Some("websocket"));
            let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nfirst";
            stream.write_all(switch.as_bytes()).await.unwrap();
            stream.flush().await.unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).await.unwrap();
            stream.write_all(&received).await.unwrap();
            stream.shutdown().await.unwrap();
        })
        .await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        let answer = connection
            .send("GET /chat HTTP/1.1\r\nHost: user\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n")
            .await
            .unwrap();
        assert_eq!((answer.status, answer.field("upgrade")), (101, Some("websocket")));
        assert_eq!(answer.field("sec-websocket-accept"), Some("x"));
        connection.0.write_all(b" second").await.unwrap();
        connection.0.shutdown().await.unwrap();
        let mut received = String::new();
        connection.0.read_to_string(&mut received).await.unwrap();
        assert_eq!(received, "first second");
    });
}

#[test]
fn a_declined_upgrade_is_an_answer_like_any_other() {
    run(async {
        let (app, journal) = http1(|_| ok("no")).await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        let answer = connection
            .send("GET / HTTP/1.1\r\nHost: user\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            .await
            .unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "no"));
        assert_eq!(connection.get("user", "/").await.status, 200);
        assert_eq!(journal.borrow().len(), 2);
    });
}

#[test]
fn a_client_that_goes_away_takes_its_request_with_it() {
    run(async {
        let (gone, mut told) = tokio::sync::mpsc::channel(1);
        let app = listen(move |stream| {
            let gone = gone.clone();
            async move {
                let mut stream = BufStream::new(stream);
                read_request(&mut stream).await.unwrap();
                gone.send("arrived").await.unwrap();
                assert_eq!(
                    stream.read(&mut [0; 8]).await.unwrap_or(0),
                    0,
                    "no other request on this connection"
                );
                gone.send("gone").await.unwrap();
            }
        })
        .await;
        let pair = Pair::new(app);
        let mut connection = pair.connect().await;
        connection
            .0
            .write_all(b"GET / HTTP/1.1\r\nHost: user\r\n\r\n")
            .await
            .unwrap();
        connection.0.flush().await.unwrap();
        assert_eq!(told.recv().await, Some("arrived"));
        drop(connection);
        assert_eq!(told.recv().await, Some("gone"));
    });
}

#[test]
fn who_breaks_the_framing_of_its_body_is_told_so() {
    run(async {
        let (app, journal) = echo().await;
        let pair = Pair::new(app);
        let head = "POST / HTTP/1.1\r\nHost: user\r\nTransfer-Encoding: chunked\r\n\r\n";
        for body in [
            "zz\r\nabc\r\n0\r\n\r\n",
            "1\nx\r\n0\r\n\r\n",
            "1;a\nb\r\nx\r\n0\r\n\r\n",
            "1\r\nxyz",
            "0\r\na: b\nc: d\r\n\r\n",
            "0\r\na: b\r\n c\r\n\r\n",
            "0\r\na: b\rc: d\r\n\r\n",
        ] {
            let answer = pair
                .connect()
                .await
                .send(&[head, body].concat())
                .await
                .expect(body);
            assert_eq!(answer.status, 400, "{body:?}");
            let reason = answer.field("proxy-status").unwrap();
            assert!(
                reason.contains("http_request_error") && reason.contains("framing"),
                "{reason}"
            );
        }
        assert!(journal.borrow().is_empty());
    });
}

#[test]
fn as_many_fields_as_one_sidecar_takes_pass_the_next() {
    run(async {
        let (app, journal) = echo().await;
        let pair = Pair::new(app);
        let mut head = "GET / HTTP/1.1\r\nHost: user\r\n".to_owned();
        for number in 1..100 {
            head += &["x-", &number.to_string(), ": v\r\n"].concat();
        }
        let answer = pair.connect().await.send(&format!("{head}\r\n")).await.unwrap();
        assert_eq!(answer.status, 200);
        let answer = pair
            .connect()
            .await
            .send(&format!("{head}x-100: v\r\n\r\n"))
            .await
            .unwrap();
        assert_eq!(answer.status, 431);
        assert_eq!(journal.borrow().len(), 1);
    });
}
