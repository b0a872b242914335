//! HTTP/2 and gRPC from end to end.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason as Http2Reason, RecvStream};
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use weft_proxy_core::resource::{Protocol, TlsMode};

use crate::apps::{http1, listen, ok};
use crate::mesh::{Ca, Proxy, USER, meshed, plain, run};

/// An HTTP/2 application (prior knowledge) that hands every request to `handle`.
async fn http2<F: Future<Output = ()> + 'static>(
    handle: impl Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> F + Clone + 'static,
) -> SocketAddr {
    listen(move |stream| {
        let handle = handle.clone();
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                spawn_local(handle(request, respond));
            }
        }
    })
    .await
}

/// A client's connection with prior knowledge.
async fn connect(proxy: &Proxy) -> SendRequest<Bytes> {
    connect_to(proxy.outbound).await
}

async fn connect_to(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (requests, connection) = h2::client::Builder::new()
        .initial_connection_window_size(100 << 16) // our own stalled streams don't stall each other
        .handshake(stream)
        .await
        .unwrap();
    spawn_local(async move { drop(connection.await) });
    requests.ready().await.unwrap()
}

/// Two sidecars in front of `app`.
fn pair(app: SocketAddr, protocol: Protocol) -> (Rc<Proxy>, Rc<Proxy>) {
    let ca = Ca::new();
    let server = Proxy::service(&ca, "user", app, protocol, TlsMode::Strict);
    let client = Proxy::client(&ca, "order");
    client.know(USER, protocol, vec![meshed(server.inbound[0], "user")]);
    (client, server)
}

#[test]
fn an_undeclared_application_is_spoken_to_as_its_client_speaks() {
    run(async {
        let app = http2(|request, mut respond| async move {
            assert_eq!(request.version(), http::Version::HTTP_2);
            assert!(
                !request
                    .headers()
                    .keys()
                    .any(|name| name.as_str() == "x-weft-version")
            );
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"two"), true).unwrap();
        })
        .await;
        let (client, _server) = pair(app, Protocol::Detect);
        let unmeshed = Proxy::client(&Ca::new(), "order");
        unmeshed.know(USER, Protocol::Detect, vec![plain(app)]);
        let open = Proxy::service(&Ca::new(), "user", app, Protocol::Detect, TlsMode::Permissive);
        for address in [client.outbound, unmeshed.outbound, open.inbound[0]] {
            let mut requests = connect_to(address).await;
            let request = Request::get("http://user/").body(()).unwrap();
            let (response, _) = requests.send_request(request, true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200, "{:?}", response.headers());
            assert_eq!(read_all(response.into_body()).await.0, b"two");
        }
    });
}

fn call() -> Request<()> {
    Request::post("http://user/shop.User/Get")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

async fn read_all(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    (all, body.trailers().await.unwrap())
}

#[test]
fn an_http2_client_reaches_an_http1_application() {
    run(async {
        let (app, journal) = http1(|_| ok("one")).await;
        let (client, _server) = pair(app, Protocol::Http1);
        let mut requests = connect(&client).await;
        let request = Request::get("http://user/a?b")
            .header("cookie", "a=1")
            .body(())
            .unwrap();
        let (response, _) = requests.send_request(request, true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(read_all(response.into_body()).await.0, b"one");
        let seen = journal.borrow();
        assert_eq!(
            (seen[0].line.as_str(), seen[0].field("host")),
            ("GET /a?b HTTP/1.1", Some("user"))
        );
    });
}

#[test]
fn a_grpc_call_keeps_messages_and_trailers() {
    run(async {
        let app = http2(|request, mut respond| async move {
            assert_eq!(request.headers()["te"], "trailers");
            let (message, trailers) = read_all(request.into_body()).await;
            assert!(trailers.is_none());
            let head = Response::builder()
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            let mut stream = respond.send_response(head, false).unwrap();
            stream.send_data(message.into(), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("x-custom", "kept".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        let (client, _server) = pair(app, Protocol::Grpc);
        let mut requests = connect(&client).await;
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        stream
            .send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true)
            .unwrap();
        let (message, trailers) = read_all(response.await.unwrap().into_body()).await;
        assert_eq!(message, b"\0\0\0\0\x02hi");
        let trailers = trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "0");
        assert_eq!(trailers["x-custom"], "kept");
    });
}

#[test]
fn the_trailers_of_a_request_say_nothing_that_its_head_may_not() {
    run(async {
        let (told, mut seen) = mpsc::channel(1);
        let app = http2(move |request, mut respond| {
            let told = told.clone();
            async move {
                let (_, trailers) = read_all(request.into_body()).await;
                respond.send_response(Response::new(()), true).unwrap();
                told.send(trailers).await.unwrap();
            }
        })
        .await;
        let (client, _server) = pair(app, Protocol::Grpc);
        let mut requests = connect(&client).await;
        let (_response, mut stream) = requests.send_request(call(), false).unwrap();
        stream.send_data(Bytes::from_static(b"x"), false).unwrap();
        let mut trailers = HeaderMap::new();
        for name in [
            "x-weft-client-id",
            "x_weft_client_id",
            "x-weft-attempt",
            "authorization",
            "x-kept",
        ] {
            trailers.insert(name, "1".parse().unwrap());
        }
        stream.send_trailers(trailers).unwrap();
        let trailers = seen.recv().await.unwrap().unwrap();
        let names: Vec<&str> = trailers.keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["x-kept"]);
    });
}

#[test]
fn a_trailers_only_answer_stays_one() {
    run(async {
        let app = http2(|_, mut respond| async move {
            let head = Response::builder()
                .header("content-type", "application/grpc")
                .header("grpc-status", "5")
                .body(())
                .unwrap();
            respond.send_response(head, true).unwrap();
        })
        .await;
        let (client, _server) = pair(app, Protocol::Grpc);
        let (response, _) = connect(&client).await.send_request(call(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "5");
        assert!(response.body().is_end_stream());
    });
}

#[test]
fn our_own_answers_to_grpc_are_grpc() {
    run(async {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let (client, _server) = pair(gone, Protocol::Grpc);
        let (response, _) = connect(&client).await.send_request(call(), true).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert!(response.headers().contains_key("proxy-status"));
    });
}

#[test]
fn both_directions_of_a_call_stream_at_once() {
    run(async {
        let app = http2(|request, mut respond| async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let mut body = request.into_body();
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                stream.send_data(data, false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        })
        .await;
        let (client, _server) = pair(app, Protocol::Grpc);
        let (response, mut stream) = connect(&client).await.send_request(call(), false).unwrap();
        let mut body = response.await.unwrap().into_body();
        for number in 0..20_u8 {
            stream.send_data(Bytes::from(vec![number; 100]), false).unwrap();
            let mut echoed = Vec::new();
            while echoed.len() < 100 {
                let data = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                echoed.extend_from_slice(&data);
            }
            assert_eq!(echoed, vec![number; 100]);
        }
        stream.send_data(Bytes::new(), true).unwrap();
        assert!(body.data().await.is_none_or(|data| data.unwrap().is_empty()));
    });
}

#[test]
fn a_cancelled_call_is_cancelled_at_the_application() {
    run(async {
        let (told, mut seen) = mpsc::channel(1);
        let app = http2(move |request, mut respond| {
            let told = told.clone();
            async move {
                let _body = request.into_body();
                told.send(None).await.unwrap();
                let reason = poll_fn(|cx| respond.poll_reset(cx)).await.unwrap();
                told.send(Some(reason)).await.unwrap();
            }
        })
        .await;
        let (client, _server) = pair(app, Protocol::Grpc);
        let mut requests = connect(&client).await;
        let (response, mut stream) = requests.send_request(call(), false).unwrap();
        assert_eq!(seen.recv().await, Some(None));
        stream.send_reset(Http2Reason::CANCEL);
        assert_eq!(seen.recv().await, Some(Some(Http2Reason::CANCEL)));
        assert!(response.await.is_err());
    });
}

#[test]
fn stalled_readers_hold_up_nobody_else() {
    const READERS: usize = 200;
    const SIZE: usize = 1 << 20;
    run(async {
        let (app, _) = http1(|seen| {
            if seen.line.contains("/large") {
                ok(&"x".repeat(SIZE))
            } else {
                ok("small")
            }
        })
        .await;
        let (client, _server) = pair(app, Protocol::Http1);
        let (mut stalled, mut connections) = (Vec::new(), Vec::new());
        for _ in 0..READERS.div_ceil(100) {
            let mut requests = connect(&client).await;
            for _ in 0..100 {
                requests = requests.ready().await.unwrap();
                let (response, _) = requests
                    .send_request(Request::get("http://user/large").body(()).unwrap(), true)
                    .unwrap();
                stalled.push(response.await.unwrap().into_body());
            }
            connections.push(requests);
        }
        assert_eq!(stalled.len(), READERS);
        let mut neighbour = crate::apps::Client::connect(client.outbound).await;
        for _ in 0..50 {
            assert_eq!(neighbour.get("user", "/").await.body, "small");
        }
        let done = Rc::new(Cell::new(0));
        for body in stalled {
            assert_eq!(read_all(body).await.0.len(), SIZE);
            done.set(done.get() + 1);
        }
        assert_eq!(done.get(), READERS);
    });
}

#[test]
fn a_flood_of_control_frames_ends_the_connection() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    run(async {
        let (app, _) = http1(|_| ok("alive")).await;
        let (client, _server) = pair(app, Protocol::Http1);
        let mut stream = TcpStream::connect(client.outbound).await.unwrap();
        stream
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        let ping = [&b"\0\0\x08\x06\0\0\0\0\0"[..], &[0; 8]].concat();
        let flood = ping.repeat(2000);
        let _ = stream.write_all(&flood).await;
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received).await;
        let goaway = b"\0\0\x08\x07\0\0\0\0\0";
        let at = received
            .windows(goaway.len())
            .position(|window| window == goaway)
            .expect("GOAWAY was sent");
        let reason = u32::from_be_bytes(received[at + 13..at + 17].try_into().unwrap());
        assert_eq!(Http2Reason::from(reason), Http2Reason::ENHANCE_YOUR_CALM);
        let mut neighbour = crate::apps::Client::connect(client.outbound).await;
        assert_eq!(neighbour.get("user", "/").await.body, "alive");
    });
}
