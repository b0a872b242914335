//! Who is at the other end of a connection: what the accept loop learnt and every service goes by.

use std::net::SocketAddr;
use std::time::SystemTime;

use tonic::{Request, Status};
use weft_control_plane_core::rights::Account;

/// The other end. Without a client certificate it has no identity.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Who it is, by its verified certificate.
    pub identity: Option<Identity>,
}

/// A verified identity.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The service account.
    pub account: Account,
    /// Until when the certificate is valid; a connection outlives it, but begins nothing new.
    pub not_after: SystemTime,
}

/// The peer of a request.
pub(crate) fn peer<T>(request: &Request<T>) -> Result<&Peer, Status> {
    let peer = request.extensions().get::<Peer>();
    peer.ok_or_else(|| Status::internal("the connection's other end is not known"))
}

/// The account of a request's peer, and its address.
pub(crate) fn authenticated<T>(request: &Request<T>) -> Result<(Account, SocketAddr), Status> {
    let peer = peer(request)?;
    let identity = peer
        .identity
        .as_ref()
        .ok_or_else(|| Status::unauthenticated(NO_CERTIFICATE))?;
    Ok((identity.account.clone(), peer.address))
}

/// What a client without a certificate is told.
pub(crate) const NO_CERTIFICATE: &str =
    "a client certificate of the mesh is needed; without one only CertificateService answers";
