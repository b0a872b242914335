//! A connection to the control plane: TCP, TLS with the control plane's identity checked, HTTP/2, gRPC.
//!
//! Each stream has a connection of its own and ends with it; whoever holds the stream makes another. So the choice of
//! certificate (none, the first, the renewed one) is made when a connection is made, and nothing reconnects behind
//! anybody's back.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_identity::tls;

use crate::socket;

/// Time for name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// HTTP/2 pings in silence, so that a vanished control plane is noticed.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Time for the answer to a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the control plane can't be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Its name has no address.
    #[error("the control plane's name {address} can't be resolved: {source}")]
    Resolve {
        /// The name.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// No address of it answers.
    #[error("the control plane at {address} can't be reached: {source}")]
    Tcp {
        /// Where it should be.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// Whoever is there isn't the control plane, or doesn't accept our certificate.
    #[error(
        "no TLS with the control plane at {address}: {source} (is the trust bundle the control plane's own?)"
    )]
    Tls {
        /// Where it should be.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// It took too long.
    #[error("the control plane at {0} did not answer within {CONNECT_TIMEOUT:?}")]
    Timeout(String),
    /// It doesn't speak HTTP/2.
    #[error("no HTTP/2 with the control plane: {0}")]
    Http(#[from] tonic::transport::Error),
}

/// Connects to `address` (`host:port`) with `tls`.
pub async fn connect(address: &str, tls: Arc<ClientConfig>) -> Result<Channel, ConnectError> {
    let stream = timeout(CONNECT_TIMEOUT, dial(address, tls)).await;
    let stream = stream.map_err(|_| ConnectError::Timeout(address.to_owned()))??;
    let mut once = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = once
            .take()
            .ok_or_else(|| io::Error::other("the connection has ended"));
        async move { stream }
    });
    let channel = Endpoint::from_static("http://control-plane")
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_with_connector(connector)
        .await?;
    Ok(channel)
}

async fn dial(address: &str, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, ConnectError> {
    let resolved = tokio::net::lookup_host(address).await;
    let resolved = resolved.map_err(|source| ConnectError::Resolve {
        address: address.to_owned(),
        source,
    })?;
    let tcp = first_that_answers(resolved).await;
    let tcp = tcp.map_err(|source| ConnectError::Tcp {
        address: address.to_owned(),
        source,
    })?;
    let handshake = TlsConnector::from(tls).connect(tls::unnamed(), tcp).await;
    handshake.map_err(|source| ConnectError::Tls {
        address: address.to_owned(),
        source,
    })
}

async fn first_that_answers(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match socket::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
