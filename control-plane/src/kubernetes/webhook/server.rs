//! The injector's listener: HTTPS with the control plane's own certificate, `POST /inject`.
//!
//! No client certificate is asked for: API servers have none for webhooks. So anybody who reaches the port may ask what
//! would become of a pod, which is no secret; what such calls may cost is bounded.

use std::convert::Infallible;
use std::sync::Arc;
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
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use weft_identity::tls::{alpn, server_config_for_anybody};

use super::Webhook;
use crate::server::{HANDSHAKE_TIMEOUT, accept};

/// Where calls go to.
const PATH: &str = "/inject";

/// Connections at once.
const CONNECTIONS_MAX: usize = 256;

/// How long a connection may last; API servers dial again without a word.
const CONNECTION_LIFETIME: Duration = Duration::from_mins(10);

/// Calls at once.
const CALLS_MAX: usize = 8;

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
    calls: Arc<Semaphore>,
}

impl Server {
    /// One that answers with the certificate of `tls`, which may be exchanged at any time.
    pub fn new(webhook: Webhook, tls: Arc<ArcSwap<ServerConfig>>) -> Self {
        Self {
            webhook,
            tls,
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
        }
    }

    /// Accepts for ever; dropping it ends all connections.
    pub async fn run(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS_MAX {
                connections.join_next().await;
            }
            tokio::select! {
                (stream, _) = accept(&listener) => {
                    connections.spawn(self.clone().connection(stream));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }

    async fn connection(self, stream: TcpStream) {
        // Without it a small answer waits for the client's delayed acknowledgement.
        let _ = stream.set_nodelay(true);
        let config = match server_config_for_anybody(&self.tls.load(), &[alpn::FOREIGN_H2, alpn::FOREIGN_H1])
        {
            Ok(config) => config,
            Err(error) => return tracing::error!(%error, "the injector has no TLS"),
        };
        let handshake = TlsAcceptor::from(config).accept(stream);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => self.converse(stream).await,
            Ok(Err(error)) => {
                tracing::info!(%error, "TLS handshake with the injector failed; is its caBundle the mesh's root?");
            }
            Err(_) => tracing::info!("TLS handshake with the injector took too long"),
        }
    }

    async fn converse(self, stream: TlsStream<TcpStream>) {
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(alpn::FOREIGN_H2);
        let service = service_fn(move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.call(request).await) }
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

    async fn call(self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.uri().path() != PATH {
            return refused(StatusCode::NOT_FOUND, "calls go to /inject");
        }
        if request.method() != Method::POST {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "calls are POSTs");
        }
        let Ok(Ok(_turn)) = tokio::time::timeout(CALL_TIMEOUT, self.calls.acquire()).await else {
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
