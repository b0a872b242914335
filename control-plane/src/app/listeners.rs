//! The sockets of every mode.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use serde::Serialize;

use super::StartError;
use crate::config::Config;

/// Where a control plane listens.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Addresses {
    /// gRPC.
    pub xds: SocketAddr,
    /// Status.
    pub status: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
    /// The injector, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<SocketAddr>,
}

/// The sockets, all bound before anything else is done.
pub(super) struct Listeners {
    pub(super) xds: TcpListener,
    pub(super) status: TcpListener,
    pub(super) admin: TcpListener,
    pub(super) webhook: Option<TcpListener>,
}

impl Listeners {
    pub(super) fn bind(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            xds: bind(config.listen)?,
            status: bind(config.status)?,
            admin: bind(config.admin)?,
            webhook: config.source.webhook().map(bind).transpose()?,
        })
    }

    pub(super) fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            xds: self.xds.local_addr()?,
            status: self.status.local_addr()?,
            admin: self.admin.local_addr()?,
            webhook: self.webhook.as_ref().map(TcpListener::local_addr).transpose()?,
        })
    }
}

/// A bound socket. `[::]` is all addresses of both families, and of IPv4 alone where the kernel has no IPv6.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).or_else(|error| {
        let is_ours = matches!(
            error.kind(),
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
        );
        if is_ours || address.ip() != Ipv6Addr::UNSPECIFIED {
            return Err(error);
        }
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port()))
    });
    bound.map_err(|source| StartError::Listen { address, source })
}

/// The same, for the runtime.
pub(crate) fn adopt(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
