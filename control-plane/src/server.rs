//! The gRPC listener: TLS, with a client certificate or without, and who may call what with which.
//!
//! The accept loop is our own: it survives a process out of file descriptors, bounds connections and handshakes, and
//! learns each connection's identity once. Without a certificate only `CertificateService` answers, the connection lasts
//! a minute, and no address has more than its share of such connections. A connection whose leaf has expired goes on
//! with what runs, and begins nothing new.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use http::Response;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::service::Routes;
use weft_control_plane_core::rights::Account;
use weft_identity::tls;
use weft_ops::guests::{Guest, Guests};

use crate::peer::{Identity, NO_CERTIFICATE, Peer};

/// Connections at once.
pub const CONNECTIONS_MAX: usize = 10_000;

/// Connections at once that have not shown a certificate, or not yet.
pub const STRANGERS_MAX: usize = 512;

/// Of these, connections at once of one address.
pub const STRANGERS_PER_ADDRESS_MAX: usize = 128;

/// From the first byte to the end of the TLS handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection without a certificate may last.
pub const STRANGER_LIFETIME: Duration = Duration::from_mins(1);

/// Streams at once on one connection.
const STREAMS_MAX: u32 = 16;

/// Bytes of decoded headers on one request: a token of 16 KiB, and room.
const HEADERS_BYTES_MAX: u32 = 32 * 1024;

/// Resets that a client may have pending.
const RESETS_MAX: usize = 20;

/// How often a silent connection is asked whether it is there.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long it may take to answer.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Wait after an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long connections may take to say goodbye when the process ends.
const GOODBYE: Duration = Duration::from_millis(500);

/// Where the only service for strangers is.
const CERTIFICATE_SERVICE: &str = "/weft.v1.CertificateService/";

/// What every connection needs.
#[derive(Clone)]
pub struct Server {
    /// The TLS configuration of the moment.
    pub tls: Arc<ArcSwap<ServerConfig>>,
    /// The services.
    pub routes: Routes,
    /// Ends everything.
    pub ending: CancellationToken,
}

impl Server {
    /// Accepts until the end, and then until every connection has said goodbye.
    pub async fn run(self, listener: TcpListener) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let strangers = Strangers {
            all: Arc::new(Semaphore::new(STRANGERS_MAX)),
            guests: Guests::new(STRANGERS_PER_ADDRESS_MAX),
        };
        let tasks = TaskTracker::new();
        while let Some(Ok(permit)) = self
            .ending
            .run_until_cancelled(Arc::clone(&connections).acquire_owned())
            .await
        {
            let Some(accepted) = self.ending.run_until_cancelled(accept(&listener)).await else {
                break;
            };
            let (stream, address) = accepted;
            // A socket of both families has IPv4 peers in an IPv6 form.
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            let Some(stranger) = strangers.admit(address.ip()) else {
                metrics::counter!("weft_control_plane_connections_refused_total").increment(1);
                continue;
            };
            let server = self.clone();
            tasks.spawn(async move {
                server.connection(stream, address, stranger).await;
                drop(permit);
            });
        }
        drop(listener);
        tasks.close();
        tasks.wait().await;
    }

    async fn connection(self, stream: TcpStream, address: SocketAddr, stranger: Stranger) {
        // Without it a small answer waits for the client's delayed acknowledgement; a socket that refuses is broken
        // and will say so.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(self.tls.load_full());
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return tracing::info!(%address, %error, "TLS handshake failed"),
            Err(_) => return tracing::info!(%address, "TLS handshake took too long"),
        };
        let identity = match identity(&stream) {
            Ok(identity) => identity,
            Err(error) => return tracing::warn!(%address, error, "client certificate refused"),
        };
        if identity.is_some() {
            drop(stranger);
            self.converse(stream, Peer { address, identity }).await;
        } else {
            let conversation = self.converse(stream, Peer { address, identity });
            // A stranger's time is up, or it went: the same.
            let _ = tokio::time::timeout(STRANGER_LIFETIME, conversation).await;
            drop(stranger);
        }
    }

    async fn converse(self, stream: TlsStream<TcpStream>, peer: Peer) {
        let address = peer.address;
        let service = service_fn(move |request| answer(self.routes.clone(), peer.clone(), request));
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .max_concurrent_streams(STREAMS_MAX)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_pending_accept_reset_streams(RESETS_MAX)
            .max_local_error_reset_streams(RESETS_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.ending.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::time::timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "connection ended");
        }
    }
}

/// Places for connections that have not shown a certificate, or not yet.
struct Strangers {
    all: Arc<Semaphore>,
    guests: Guests,
}

/// Such a place; dropping it makes room.
struct Stranger {
    _place: OwnedSemaphorePermit,
    _guest: Guest,
}

impl Strangers {
    fn admit(&self, address: IpAddr) -> Option<Stranger> {
        Some(Stranger {
            _guest: self.guests.admit(address)?,
            _place: Arc::clone(&self.all).try_acquire_owned().ok()?,
        })
    }
}

/// The next connection, whatever happens to the listener meanwhile.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, "no connection can be accepted now; is the limit of open files too low?");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an error of `accept` is about the connection that was to be accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// Who a handshake proved the client to be.
fn identity(stream: &TlsStream<TcpStream>) -> Result<Option<Identity>, String> {
    let (_, session) = stream.get_ref();
    let Some(certificates) = session.peer_certificates() else {
        return Ok(None);
    };
    let details = tls::peer(certificates).map_err(|error| error.to_string())?;
    Ok(Some(Identity {
        account: Account::new(details.id.namespace(), details.id.service_account()),
        not_after: details.not_after,
    }))
}

async fn answer(
    mut routes: Routes,
    peer: Peer,
    mut request: http::Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    if !request.uri().path().starts_with(CERTIFICATE_SERVICE)
        && let Err(status) = check(peer.identity.as_ref(), SystemTime::now())
    {
        return Ok(status.into_http());
    }
    request.extensions_mut().insert(peer);
    routes.call(request).await
}

fn check(identity: Option<&Identity>, now: SystemTime) -> Result<(), Status> {
    let identity = identity.ok_or_else(|| Status::unauthenticated(NO_CERTIFICATE))?;
    if now > identity.not_after {
        return Err(Status::unauthenticated(
            "the connection's client certificate has expired; connect anew",
        ));
    }
    Ok(())
}
