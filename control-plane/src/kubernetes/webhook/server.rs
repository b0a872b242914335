//! The injector's listener: HTTPS with the control plane's own certificate, `POST /inject`.
//!
//! No client certificate is asked for: API servers have none for webhooks. So anybody who reaches the port may ask what
//! would become of a pod, which is no secret; what such calls may cost is bounded, and no address has more than its
//! share, so that the API server's calls find room.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_identity::tls::{alpn, server_config_for_anybody};
use weft_ops::guests::{Guest, Guests};

use super::Webhook;
use crate::server::{HANDSHAKE_TIMEOUT, accept};

/// Where calls go to.
const PATH: &str = "/inject";

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;

/// Connections at once of one address: an API server needs one or two, and several may stand behind one address.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 32;

/// How long a connection may last; API servers dial again without a word.
const CONNECTION_LIFETIME: Duration = Duration::from_mins(10);

/// Calls at once.
const CALLS_MAX: usize = 32;

/// Calls at once from one address; further ones wait for these.
const CALLS_PER_ADDRESS_MAX: usize = 8;

/// Streams at once on one connection.
const STREAMS_MAX: u32 = 64;

/// Bytes of a call: the API server takes pods of up to 3 MiB, which escapes make longer.
const BODY_BYTES_MAX: usize = 6 * 1024 * 1024;

/// How long a call may take to arrive, and how long it may wait for others.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(10);

/// The listener. Cheap to clone.
#[derive(Clone)]
pub struct Server {
    webhook: Webhook,
    tls: Arc<ArcSwap<ServerConfig>>,
    calls: Calls,
}

/// Whose turn it is.
#[derive(Clone)]
struct Calls {
    all: Arc<Semaphore>,
    /// By address, for as long as it has a connection.
    each: Arc<Mutex<HashMap<IpAddr, Weak<Semaphore>>>>,
}

impl Calls {
    fn new() -> Self {
        Self {
            all: Arc::new(Semaphore::new(CALLS_MAX)),
            each: Arc::default(),
        }
    }

    /// The turns of an address, for one of its connections.
    fn of(&self, address: IpAddr) -> Arc<Semaphore> {
        let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        each.retain(|_, turns| turns.strong_count() > 0);
        if let Some(turns) = each.get(&address).and_then(Weak::upgrade) {
            return turns;
        }
        let turns = Arc::new(Semaphore::new(CALLS_PER_ADDRESS_MAX));
        each.insert(address, Arc::downgrade(&turns));
        turns
    }

    /// Waits for its address's turn, and then for one of all.
    async fn turn<'a>(&'a self, own: &'a Semaphore) -> Option<(SemaphorePermit<'a>, SemaphorePermit<'a>)> {
        Some((own.acquire().await.ok()?, self.all.acquire().await.ok()?))
    }
}

impl Server {
    /// One that answers with the certificate of `tls`, which may be exchanged at any time.
    pub fn new(webhook: Webhook, tls: Arc<ArcSwap<ServerConfig>>) -> Self {
        Self {
            webhook,
            tls,
            calls: Calls::new(),
        }
    }

    /// Accepts for ever; dropping it ends all connections.
    pub async fn run(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        let guests = Guests::new(CONNECTIONS_PER_ADDRESS_MAX);
        loop {
            while connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
            tokio::select! {
                (stream, peer) = accept(&listener) => {
                    let address = peer.ip().to_canonical();
                    if let Some(guest) = guests.admit(address) {
                        connections.spawn(self.clone().connection(stream, address, guest));
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self, stream: TcpStream, address: IpAddr, _guest: Guest) {
        // Without it a small answer waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let config = match server_config_for_anybody(&self.tls.load(), &[alpn::FOREIGN_H2, alpn::FOREIGN_H1])
        {
            Ok(config) => config,
            Err(error) => return tracing::error!(%error, "the injector has no TLS"),
        };
        let handshake = TlsAcceptor::from(config).accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => self.converse(stream, address).await,
            Ok(Err(error)) => {
                tracing::info!(%error, "TLS handshake with the injector failed; is its caBundle the mesh's root?");
            }
            Err(_) => tracing::info!("TLS handshake with the injector took too long"),
        }
    }

    async fn converse(self, stream: TlsStream<TcpStream>, address: IpAddr) {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(alpn::FOREIGN_H2);
        let turns = self.calls.of(address);
        let service = service_fn(move |request| {
            let (server, turns) = (self.clone(), Arc::clone(&turns));
            async move { Ok::<_, Infallible>(server.call(request, &turns).await) }
        });
        // Both kinds of connections are driven in the same way, but are of different types.
        macro_rules! drive {
            ($connection:expr) => {{
                let mut connection = std::pin::pin!($connection);
                if tokio::time::timeout(CONNECTION_LIFETIME, connection.as_mut())
                    .await
                    .is_err()
                {
                    connection.as_mut().graceful_shutdown();
                    // It said goodbye, or is cut: its client dials again.
                    let _ = tokio::time::timeout(GOODBYE, connection).await;
                }
            }};
        }
        if is_http2 {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            let builder = builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX);
            drive!(builder.serve_connection(TokioIo::new(stream), service));
        } else {
            let mut builder = http1::Builder::new();
            let builder = builder.timer(TokioTimer::new()).header_read_timeout(CALL_TIMEOUT);
            drive!(builder.serve_connection(TokioIo::new(stream), service));
        }
    }

    async fn call(self, request: Request<Incoming>, turns: &Semaphore) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return refused(StatusCode::NOT_FOUND, "calls go to /inject");
        }
        if request.method() != Method::POST {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "calls are POSTs");
        }
        let Ok(Some(_turn)) = tokio::time::timeout(CALL_TIMEOUT, self.calls.turn(turns)).await else {
            return refused(StatusCode::SERVICE_UNAVAILABLE, "too many calls at once");
        };
        let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
        let body = match tokio::time::timeout(CALL_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return refused(StatusCode::PAYLOAD_TOO_LARGE, "no pod is that large");
            }
            Ok(Err(_)) => return refused(StatusCode::BAD_REQUEST, "the call ended early"),
            Err(_) => return refused(StatusCode::REQUEST_TIMEOUT, "the call took too long to arrive"),
        };
        match self.webhook.answer(&body).await {
            Ok(answer) => json(answer),
            Err(problem) => {
                tracing::info!(problem, "a call of the injector is not understood");
                refused(StatusCode::BAD_REQUEST, &problem)
            }
        }
    }
}

fn json(body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

fn refused(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{text}\n")));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
