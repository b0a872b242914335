//! The small HTTP/1 server under `status` and `admin`: one connection loop with limits, and plain answers.
//!
//! Not for traffic. Few clients, short questions: connections, request heads, bodies and time are all bounded, and an
//! accept error (out of file descriptors) pauses the loop instead of ending it. On `status` the kubelet's probes arrive
//! beside whoever reaches the address, so no address has more than its share of the connections, and a client that
//! reads no answer is given up.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::guests::Guests;

/// Connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// Connections at once of one address; more are refused.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 128;
/// How long a client may leave an answer unread.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Time for a request head, also between requests of one connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Largest request head, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Largest request body, in bytes.
const MAX_BODY_BYTES: usize = 16 * 1024;
/// Time for a request body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after an accept error.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) type Answer = Response<Full<Bytes>>;

/// Serves `listener` until the task is dropped. `handle` answers each request.
pub(crate) async fn serve<H, F>(listener: TcpListener, handle: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let guests = Guests::new(MAX_CONNECTIONS_PER_ADDRESS);
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = accept(&listener).await;
        let Some(guest) = guests.admit(peer.ip()) else {
            continue;
        };
        // A socket that takes no options is gone already, and says so when it is read.
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNREAD_TIMEOUT));
        let handle = handle.clone();
        tokio::spawn(async move {
            connection(stream, handle).await;
            drop((place, guest));
        });
    }
}

async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting a status or admin connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<H, F>(stream: TcpStream, handle: H)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Answer>,
{
    let service = service_fn(move |request| {
        let answer = handle(request);
        async { Ok::<_, Infallible>(answer.await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a status or admin connection ended early");
    }
}

/// The whole body, or the answer to one that is too large or too slow.
pub(crate) async fn body(body: Incoming) -> Result<Bytes, Answer> {
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(_)) => Err(text(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too large or broke off\n",
        )),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n")),
    }
}

pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    answer(status, "text/plain; charset=utf-8", body.into())
}

pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Answer {
    answer(status, "application/json", format!("{value:#}\n").into())
}

pub(crate) fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// A listener for tokio from one that was bound before there was a runtime.
pub(crate) fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

#[cfg(test)]
pub(crate) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Sends `request` as it is and returns everything that comes back.
    pub(crate) async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        // A refused request may be cut off while the answer is on its way: what arrived is what counts.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// A connection from another address of this machine, which says nothing.
    async fn silent(from: [u8; 4], to: SocketAddr) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn one_address_cannot_keep_the_others_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, |_| async { text(StatusCode::OK, "") }));
        let mut crowd = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            crowd.push(silent([127, 0, 0, 2], address).await);
        }
        let get = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
        let answer = tokio::time::timeout(HEAD_TIMEOUT / 2, ask(address, get)).await;
        let answer = answer.expect("an answer while the others still have time");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        drop(crowd);
        server.abort();
    }

    #[tokio::test]
    async fn limits_hold() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, |request: Request<Incoming>| async {
            match body(request.into_body()).await {
                Ok(body) => text(StatusCode::OK, body),
                Err(refusal) => refusal,
            }
        }));
        let small = ask(
            address,
            b"PUT / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        )
        .await;
        assert!(
            small.starts_with("HTTP/1.1 200") && small.ends_with("hi"),
            "{small}"
        );
        let mut large =
            b"PUT / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 20000\r\n\r\n".to_vec();
        large.resize(large.len() + 20_000, b'x');
        assert!(ask(address, &large).await.starts_with("HTTP/1.1 413"));
        let mut head = b"GET / HTTP/1.1\r\nx: ".to_vec();
        head.resize(MAX_HEAD_BYTES + 1024, b'x');
        assert!(ask(address, &head).await.starts_with("HTTP/1.1 431"));
        for noise in [
            &b"\0\0\0\0\r\n\r\n"[..],
            b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
            b"GET\r\n\r\n",
        ] {
            assert!(!ask(address, noise).await.contains("200 OK"));
        }
        server.abort();
    }
}
