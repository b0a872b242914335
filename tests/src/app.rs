//! Small applications to put behind a sidecar.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryFutureExt;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
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
/// The request header `x-status` sets the status of the answer; gRPC is answered with one message and trailers. A
/// request to upgrade is answered `101`, unless `x-status` says otherwise; after that it echoes, and says `bye` when its
/// client has ended.
pub struct Echo {
    /// Where it listens.
    pub address: SocketAddr,
    journal: Arc<Mutex<Vec<Seen>>>,
    leaving: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// How long clients have to take note that an application leaves.
const FAREWELL: Duration = Duration::from_secs(1);

impl Echo {
    /// Starts on a port of the kernel's choice.
    pub async fn start(name: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        Self::on(listener.expect("loopback has free ports"), name)
    }

    /// Starts on `listener`.
    pub fn on(listener: TcpListener, name: &str) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address");
        let journal = Arc::new(Mutex::new(Vec::new()));
        let (leaving, left) = watch::channel(false);
        let task = tokio::spawn(serve(listener, name.to_owned(), Arc::clone(&journal), left));
        Self {
            address,
            journal,
            leaving,
            task,
        }
    }

    /// Leaves as a good application does: it tells the clients of its connections in its answers to them, and cuts
    /// only what has been idle since.
    pub async fn leave(self) {
        self.leaving.send_replace(true);
        tokio::time::sleep(FAREWELL).await;
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

async fn serve(
    listener: TcpListener,
    name: String,
    journal: Arc<Mutex<Vec<Seen>>>,
    left: watch::Receiver<bool>,
) {
    // Ends every connection with the application.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(
            stream,
            name.clone(),
            Arc::clone(&journal),
            left.clone(),
        ));
    }
}

async fn connection(
    stream: TcpStream,
    name: String,
    journal: Arc<Mutex<Vec<Seen>>>,
    mut left: watch::Receiver<bool>,
) {
    let multiplexed = AtomicBool::new(false);
    let leaving = left.clone();
    let service = service_fn(|request: Request<Incoming>| {
        let http2 = request.version() == Version::HTTP_2;
        multiplexed.store(http2, Relaxed);
        let answered = answer(request, name.clone(), Arc::clone(&journal));
        let last = !http2 && *leaving.borrow();
        answered.map_ok(move |mut response| {
            if last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            response
        })
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // A connection that fails is the client's business: it asserts on what it got.
    let told = async {
        let _ = left.wait_for(|left| *left).await;
        if !multiplexed.load(Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        _ = connection.as_mut() => return,
        () = told => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn answer(
    request: Request<Incoming>,
    name: String,
    journal: Arc<Mutex<Vec<Seen>>>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let upgrade = request.headers().get(http::header::UPGRADE).cloned();
    let upgrade = upgrade.filter(|_| !request.headers().contains_key("x-status"));
    if let Some(protocol) = upgrade {
        note(&journal, &request, 0);
        return Ok(switch(request, protocol));
    }
    let (head, body) = request.into_parts();
    let body_bytes = body
        .collect()
        .await
        .map(|body| body.to_bytes().len())
        .unwrap_or_default();
    let grpc = head
        .headers
        .get("content-type")
        .is_some_and(|value| value == "application/grpc");
    let status = head
        .headers
        .get("x-status")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(200);
    note(&journal, &Request::from_parts(head, ()), body_bytes);
    let body = if grpc {
        let trailers = HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]);
        let message = Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]));
        message.with_trailers(async move { Some(Ok(trailers)) }).boxed()
    } else {
        Full::new(Bytes::from(name)).boxed()
    };
    let mut response = Response::new(body);
    if grpc {
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
    }
    *response.status_mut() = StatusCode::from_u16(status).expect("tests ask for real statuses");
    Ok(response)
}

fn note<T>(journal: &Mutex<Vec<Seen>>, request: &Request<T>, body_bytes: usize) {
    journal.lock().expect("no holder panics").push(Seen {
        method: request.method().to_string(),
        uri: request.uri().to_string(),
        headers: request.headers().clone(),
        body_bytes,
    });
}

/// Grants an upgrade to `protocol`, and echoes from then on.
fn switch(request: Request<Incoming>, protocol: HeaderValue) -> Response<BoxBody<Bytes, Infallible>> {
    tokio::spawn(async move {
        // A client that went away meanwhile has noticed by itself.
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        let _ = echo(&mut read, &mut write).await;
    });
    let mut response = Response::new(Full::default().boxed());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(http::header::UPGRADE, protocol);
    response
}

/// Echoes until the end of input; says so, then ends.
async fn echo(
    read: &mut (impl AsyncRead + Unpin),
    write: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    tokio::io::copy(read, write).await?;
    write.write_all(b"bye").await?;
    write.shutdown().await
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
        let listener = TcpListener::bind("127.0.0.1:0").await;
        Self::on(listener.expect("loopback has free ports"), banner)
    }

    /// Starts on `listener`.
    pub fn on(listener: TcpListener, banner: &'static str) -> Self {
        let address = listener.local_addr().expect("a bound socket has an address");
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    stream.write_all(banner.as_bytes()).await?;
                    let (mut read, mut write) = stream.split();
                    echo(&mut read, &mut write).await?;
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
