//! The sockets of every mode.

use std::io;
use std::net::{SocketAddr, TcpListener};

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
}

/// The three sockets.
pub(super) struct Listeners {
    pub(super) xds: TcpListener,
    pub(super) status: TcpListener,
    pub(super) admin: TcpListener,
}

impl Listeners {
    pub(super) fn bind(config: &Config) -> Result<Self, StartError> {
        Ok(Self {
            xds: bind(config.listen)?,
            status: bind(config.status)?,
            admin: bind(config.admin)?,
        })
    }

    pub(super) fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            xds: self.xds.local_addr()?,
            status: self.status.local_addr()?,
            admin: self.admin.local_addr()?,
        })
    }
}

/// A bound socket.
pub(crate) fn bind(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|source| StartError::Listen { address, source })
}

/// The same, for the runtime.
pub(crate) fn adopt(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}
