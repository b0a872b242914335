//! Accepting connections.
//!
//! One loop per listening socket and worker. What a connection costs is bounded before it can say anything: there is a
//! cap for all connections of a worker, and one per peer address for those that come from the network. A process that
//! is out of file descriptors waits a moment instead of spinning.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use crate::socket;

/// Accepted connections of one worker at once.
pub const MAX_CONNECTIONS: u32 = 65_536;
/// Accepted connections of one worker from one address other than loopback at once.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 8_192;
/// Pause after the system refused to accept.
const PAUSE: Duration = Duration::from_millis(50);

/// How many connections a worker has, and from whom.
#[derive(Debug, Default)]
pub struct Admission {
    counts: RefCell<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: u32,
    peers: HashMap<IpAddr, u32>,
}

/// A connection's place; dropping it makes room.
#[derive(Debug)]
pub struct Admitted {
    admission: Rc<Admission>,
    peer: Option<IpAddr>,
}

impl Admission {
    /// A place for a connection from `peer`, if there is one.
    pub fn admit(self: &Rc<Self>, peer: IpAddr) -> Option<Admitted> {
        let counts = &mut *self.counts.borrow_mut();
        if counts.all >= MAX_CONNECTIONS {
            return None;
        }
        let peer = (!peer.is_loopback()).then_some(peer);
        if let Some(peer) = peer {
            let count = counts.peers.entry(peer).or_default();
            if *count >= MAX_CONNECTIONS_PER_PEER {
                return None;
            }
            *count += 1;
        }
        counts.all += 1;
        Some(Admitted {
            admission: Rc::clone(self),
            peer,
        })
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let counts = &mut *self.admission.counts.borrow_mut();
        counts.all -= 1;
        if let Some(peer) = self.peer
            && let Some(count) = counts.peers.get_mut(&peer)
        {
            *count -= 1;
            if *count == 0 {
                counts.peers.remove(&peer);
            }
        }
    }
}

/// Accepts for ever; `take` starts a task for each connection. One that finds no room is reset.
pub async fn accept<F>(listener: TcpListener, admission: Rc<Admission>, take: F)
where
    F: Fn(TcpStream, SocketAddr, Admitted),
{
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match admission.admit(peer.ip()) {
                Some(place) if socket::adopt(&stream).is_ok() => take(stream, peer, place),
                Some(_) => {} // gone already
                None => socket::reset_on_close(&stream),
            },
            Err(error) if of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(%error, "can't accept connections; is the limit of open files (ulimit -n) too low?");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an error concerns only the connection that would have been accepted (accept(2)).
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_can_not_take_every_place() {
        let admission = Rc::new(Admission::default());
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let mut places: Vec<_> = (0..MAX_CONNECTIONS_PER_PEER)
            .map(|_| admission.admit(peer).unwrap())
            .collect();
        assert!(admission.admit(peer).is_none());
        let other = admission.admit("10.0.0.2".parse().unwrap());
        assert!(other.is_some());
        places.pop();
        assert!(admission.admit(peer).is_some());
        drop((places, other));
        assert!(admission.counts.borrow().peers.is_empty());
        assert_eq!(admission.counts.borrow().all, 0);
    }

    #[test]
    fn the_cap_for_all_holds_for_loopback_too() {
        let admission = Rc::new(Admission::default());
        let local: IpAddr = "127.0.0.1".parse().unwrap();
        let places: Vec<_> = (0..MAX_CONNECTIONS)
            .map(|_| admission.admit(local).unwrap())
            .collect();
        assert!(admission.admit(local).is_none());
        drop(places);
        assert!(admission.admit(local).is_some());
    }
}
