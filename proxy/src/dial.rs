//! Making connections: TCP, and mTLS where the endpoint has an identity.
//!
//! An endpoint with an identity is never spoken to without proof of it: there is no fallback to plaintext, and the ALPN
//! name must be the one that was asked for.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_identity::spiffe::SpiffeId;
use weft_identity::tls;
use weft_proxy_core::resource::Endpoint;
use weft_proxy_core::time::Now;

use crate::local::Local;
use crate::socket;
use crate::stream::Stream;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// TCP failed.
    #[error("{0} does not accept connections: {1}")]
    Refused(SocketAddr, io::Error),
    /// TCP and TLS together took longer than allowed.
    #[error("{0} did not accept the connection within {1:?}")]
    Timeout(SocketAddr, Duration),
    /// TLS failed: the endpoint is not who it should be, or does not take us.
    #[error("TLS with {0}, which should be {1}, failed: {2}")]
    Tls(SocketAddr, String, io::Error),
    /// We have no certificate yet.
    #[error("no certificate yet to connect to {0} with; is the control plane reachable?")]
    NoIdentity(SocketAddr),
}

/// A new connection.
#[derive(Debug)]
pub struct Dialled {
    /// Its bytes.
    pub stream: Stream,
    /// When the earlier of the two leaves expires; `None` without TLS.
    pub expires: Option<Now>,
}

/// Connects to `endpoint` within `limit`, speaking `protocol` (an ALPN name) where it is meshed.
pub async fn dial(
    local: &Local,
    endpoint: &Endpoint,
    protocol: &'static [u8],
    limit: Duration,
) -> Result<Dialled, DialError> {
    let address = endpoint.address;
    let connecting = async {
        let refused = |error| DialError::Refused(address, error);
        match &endpoint.identity {
            None => Ok(Dialled {
                stream: plain(local, address).await.map_err(refused)?.into(),
                expires: None,
            }),
            Some(identity) => {
                let tcp = socket::connect(address).await.map_err(refused)?;
                handshake(local, tcp, address, identity, protocol).await
            }
        }
    };
    timeout(limit, connecting)
        .await
        .unwrap_or(Err(DialError::Timeout(address, limit)))
}

/// Connects to what speaks without TLS: the application, or what is not meshed. The caller bounds the time.
pub async fn plain(local: &Local, address: SocketAddr) -> io::Result<TcpStream> {
    if local.config.capture.inbound.is_some() {
        socket::connect_to_application(address).await
    } else {
        socket::connect(address).await
    }
}

async fn handshake(
    local: &Local,
    tcp: TcpStream,
    address: SocketAddr,
    expected: &str,
    protocol: &'static [u8],
) -> Result<Dialled, DialError> {
    let refused = |error: io::Error| DialError::Tls(address, expected.to_owned(), error);
    let own = local.published.identity().ok_or(DialError::NoIdentity(address))?;
    let id: SpiffeId = expected
        .parse()
        .map_err(|error| refused(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
    let config = local
        .client_configs
        .borrow_mut()
        .get(&own, &id, protocol)
        .map_err(|error| refused(io::Error::other(error)))?;
    let connector = TlsConnector::from(Arc::clone(&config));
    let stream = connector.connect(tls::unnamed(), tcp).await.map_err(refused)?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(protocol) {
        return Err(refused(io::Error::new(
            io::ErrorKind::Unsupported,
            "it does not speak the mesh's protocol",
        )));
    }
    let peer = session.peer_certificates().unwrap_or_default();
    let peer = tls::peer(peer).map_err(|error| refused(io::Error::other(error)))?;
    let expires = local.at(own.leaf.not_after().min(peer.not_after));
    Ok(Dialled {
        stream: stream.into(),
        expires: Some(expires),
    })
}
