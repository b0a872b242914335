//! Small applications to put behind a sidecar.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What an [`Echo`] was asked.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `GET`, …
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// The head's fields.
    pub headers: HeaderMap,
    /// Bytes of the body.
    pub body_bytes: usize,
}

/// An HTTP application (1.1 and h2c) that answers `200` with its own name and remembers what it was asked.
/// The request header `x-status` sets the status of the answer; gRPC is answered with one message and trailers.
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    journal: Arc<Mutex<Vec<Seen>>>,
    task: JoinHandle<()>,
}

impl Echo {
    /// Starts on a port of the kernel's choice.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let journal = Arc::new(Mutex::new(Vec::new()));
        let task = tokio::spawn(serve(listener, name.to_owned(), Arc::clone(&journal)));
        Self { address, journal, task }
    }

    /// What it was asked so far.
    pub fn journal(&self) -> Vec<Seen> {
        self.journal.lock().expect("no holder panics").clone()
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, name: String, journal: Arc<Mutex<Vec<Seen>>>) {
    // Ends every connection with the application.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (name, journal) = (name.clone(), Arc::clone(&journal));
        connections.spawn(async move {
            let service = service_fn(move |request| answer(request, name.clone(), Arc::clone(&journal)));
            let connection = auto::Builder::new(TokioExecutor::new());
            // A connection that fails is the client's business: it asserts on what it got.
            let _ = connection.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    name: String,
    journal: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let (head, body) = request.into_parts();
    let body_bytes = body.collect().await.map(|body| body.to_bytes().len()).unwrap_or_default();
    let grpc = head.headers.get("content-type").is_some_and(|value| value == "application/grpc");
    let status = head.headers.get("x-status").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(200);
    journal.lock().expect("no holder panics").push(Seen {
        method: head.method.to_string(),
        uri: head.uri.to_string(),
        headers: head.headers,
        body_bytes,
    });
    let body = if grpc {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            http::HeaderValue::from_static("0"),
        )]);
        let message = Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]));
        message.with_trailers(async move { Some(Ok(trailers)) }).boxed()
    } else {
        Full::new(Bytes::from(name)).boxed()
    };
    let mut response = Response::new(body);
    if grpc {
        let kind = http::HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    *response.status_mut() = http::StatusCode::from_u16(status).expect("tests ask for real statuses");
    Ok(response)
}

/// A TCP application that sends a banner first, then echoes until the end of its input.
pub struct TcpEcho {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl TcpEcho {
    /// Starts on a port of the kernel's choice.
    pub async fn start(banner: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    stream.write_all(banner.as_bytes()).await?;
                    let (mut read, mut write) = stream.split();
                    tokio::io::copy(&mut read, &mut write).await?;
                    // Half-close seen: say so, then end.
                    write.write_all(b"bye").await?;
                    write.shutdown().await?;
                    read.read_to_end(&mut Vec::new()).await
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        self.task.abort();
    }
}
