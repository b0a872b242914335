//! Every listening socket of the process: opened before anything else, so that what can't be had is said at once.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use serde_json::{Map, Value, json};

use crate::config::Config;
use crate::runtime::WorkerListeners;
use crate::socket;

/// A listening socket that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({flag}): {source}")]
pub struct BindError {
    /// Which setting.
    pub flag: &'static str,
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// See the module's head.
#[derive(Debug)]
pub struct Sockets {
    /// One set for each worker.
    pub workers: Vec<WorkerListeners>,
    /// `/live`, `/ready`, `/metrics` and probes.
    pub status: TcpListener,
    /// The admin listener.
    pub admin: TcpListener,
}

impl Sockets {
    /// Opens what `config` names.
    pub fn bind(config: &Config) -> Result<Self, BindError> {
        let mut sets = Sets((0..config.workers).map(|_| WorkerListeners::default()).collect());
        sets.add("--outbound", config.outbound, socket::listen, |set, socket| {
            set.outbound = Some(socket);
        })?;
        for bind in &config.binds {
            sets.add("--bind", bind.listen, socket::listen, |set, socket| {
                set.binds.push(socket);
            })?;
        }
        for inbound in &config.inbound {
            sets.add("--inbound", inbound.listen, socket::listen, |set, socket| {
                set.inbound.push(socket);
            })?;
        }
        for address in both_families(config.capture.outbound) {
            sets.add(
                "--captured-outbound",
                address,
                socket::listen_alone,
                |set, socket| {
                    set.captured_outbound.push(socket);
                },
            )?;
        }
        for address in both_families(config.capture.inbound) {
            sets.add(
                "--captured-inbound",
                address,
                socket::listen_alone,
                |set, socket| {
                    set.captured_inbound.push(socket);
                },
            )?;
        }
        let status = both_families(Some(config.status));
        Ok(Self {
            workers: sets.0,
            status: single("--status", status.first().copied().unwrap_or(config.status))?,
            admin: single("--admin", config.admin)?,
        })
    }

    fn first(&self) -> Result<&WorkerListeners, io::Error> {
        self.workers
            .first()
            .ok_or_else(|| io::Error::other("there is no worker"))
    }

    /// What no application may be led to.
    pub fn own_addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let first = self.first()?;
        let applications = first.outbound.iter().chain(&first.binds);
        let captured = first.captured_outbound.iter().chain(&first.captured_inbound);
        applications
            .chain(captured)
            .chain([&self.status, &self.admin])
            .map(TcpListener::local_addr)
            .collect()
    }

    /// The ports of the inbound listeners, in the order of the settings.
    pub fn inbound_ports(&self) -> io::Result<Vec<u16>> {
        self.first()?
            .inbound
            .iter()
            .map(|socket| Ok(socket.local_addr()?.port()))
            .collect()
    }

    /// Where everything listens, for whoever started the process.
    pub fn addresses(&self, config: &Config) -> io::Result<Value> {
        let first = self.first()?;
        let all = |sockets: &[TcpListener]| -> io::Result<Vec<SocketAddr>> {
            sockets.iter().map(TcpListener::local_addr).collect()
        };
        let mut binds = Map::new();
        for (bind, socket) in config.binds.iter().zip(&first.binds) {
            binds.insert(
                config.expand(&bind.authority).to_string(),
                json!(socket.local_addr()?),
            );
        }
        let outbound = first.outbound.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(json!({
            "outbound": outbound,
            "inbound": all(&first.inbound)?,
            "captured_outbound": all(&first.captured_outbound)?,
            "captured_inbound": all(&first.captured_inbound)?,
            "bind": binds,
            "status": self.status.local_addr()?,
            "admin": self.admin.local_addr()?,
        }))
    }
}

/// The workers' sets while they are filled.
struct Sets(Vec<WorkerListeners>);

impl Sets {
    /// Gives every worker a socket on `address`, which `listen` opens.
    fn add(
        &mut self,
        flag: &'static str,
        address: SocketAddr,
        listen: fn(SocketAddr, usize) -> io::Result<Vec<TcpListener>>,
        put: fn(&mut WorkerListeners, TcpListener),
    ) -> Result<(), BindError> {
        let sockets = check_free(address).and_then(|()| listen(address, self.0.len()));
        let sockets = sockets.map_err(|source| BindError {
            flag,
            address,
            source,
        })?;
        self.0
            .iter_mut()
            .zip(sockets)
            .for_each(|(set, socket)| put(set, socket));
        Ok(())
    }
}

/// An address of every interface is meant for both families, each with a socket of its own; where there is no IPv6, it
/// is IPv4 alone.
fn both_families(address: Option<SocketAddr>) -> Vec<SocketAddr> {
    match address {
        Some(address) if address.is_ipv6() && address.ip().is_unspecified() => {
            let ipv4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            if socket::has_ipv6() {
                vec![address, ipv4]
            } else {
                vec![ipv4]
            }
        }
        address => address.into_iter().collect(),
    }
}

fn single(flag: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).map_err(|source| BindError {
        flag,
        address,
        source,
    })
}

/// Workers share a port, and the kernel would let another process of the same user share it too: half of its
/// connections would be ours. So a port that somebody listens on is refused.
fn check_free(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    TcpListener::bind(address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_another_process_shares_out_is_not_free() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        check_free(address).unwrap();
        let listeners = socket::listen(address, 2).unwrap();
        let taken = listeners[0].local_addr().unwrap();
        assert_eq!(check_free(taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listeners);
        check_free(taken).unwrap();
    }
}
