//! Sockets and their options: every TCP connection of the data plane is made or adopted here.
//!
//! Small writes that wait for an acknowledgement are the classic way to lose 40 ms per request, so `TCP_NODELAY` is
//! set on every connection, and setting it is not best effort: a connection without it is refused. Keep-alive turns a
//! peer that vanished (a killed node sends no FIN) into an error, on connections between sidecars also while sent bytes
//! wait for it, within [`USER_TIMEOUT`] ([`is_always_read`]).

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};
use weft_proxy_core::capture::TO_APPLICATION;

/// Connections that the kernel completes ahead of `accept`, per listener.
const BACKLOG: i32 = 4096;
/// Silence after which the kernel begins to probe a connection.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Probes without an answer after which a connection is dead.
const KEEPALIVE_PROBES: u32 = 4;
/// How long sent bytes may stay unacknowledged on a connection whose other end always reads.
pub const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens `workers` listening sockets on one address, so that the kernel spreads connections over them
/// (`SO_REUSEPORT`). With port 0 the kernel chooses a port once, and all share it.
pub fn listen(address: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    listen_as(address, workers, false)
}

/// As [`listen`], for one family only: a socket on every IPv6 address leaves IPv4 to another one.
pub fn listen_alone(address: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    listen_as(address, workers, true)
}

fn listen_as(address: SocketAddr, workers: usize, alone: bool) -> io::Result<Vec<StdListener>> {
    let first = bind(address, alone)?;
    let bound = first.local_addr()?;
    let mut listeners = vec![first];
    for _ in 1..workers.max(1) {
        listeners.push(bind(bound, alone)?);
    }
    Ok(listeners)
}

/// Whether `ip` is an address of this network namespace.
pub fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

/// Whether this network namespace has IPv6.
pub fn has_ipv6() -> bool {
    StdListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok()
}

fn bind(address: SocketAddr, alone: bool) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if alone && address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Sets the options of an accepted connection.
pub fn adopt(stream: &TcpStream) -> io::Result<()> {
    configure(&SockRef::from(stream))
}

fn configure(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_PROBES),
    )
}

/// Says that whoever is at the other end of `stream` reads at any time (HTTP/2 between sidecars): bytes that stay
/// unacknowledged for [`USER_TIMEOUT`] are an error. Not for other connections: the kernel applies `TCP_USER_TIMEOUT`
/// also to a window that is shut, and so ends one whose reader lives and merely takes its time.
pub fn is_always_read(stream: &TcpStream) {
    // An error means the connection is gone already.
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(USER_TIMEOUT));
}

/// Connects; the caller bounds the time.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    unconnected(address)?.connect(address).await
}

/// Connects to an application, past the rules that lead our own pod's connections to our inbound side.
pub async fn connect_to_application(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = unconnected(address)?;
    SockRef::from(&socket).set_priority(TO_APPLICATION)?;
    socket.connect(address).await
}

fn unconnected(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    configure(&SockRef::from(&socket))?;
    Ok(socket)
}

/// Makes the coming close of `stream` a reset (RST instead of FIN): whatever is unsent is thrown away, and the peer
/// learns that the stream did not end but broke.
pub fn reset_on_close(stream: &TcpStream) {
    // An error means the connection is gone already, which is what was wanted.
    let _ = stream.set_zero_linger();
}

/// Where a redirected connection was going before the redirect; `None` for one that was made to us.
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = stream.local_addr().ok()?;
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() {
        socket.original_dst_v4()
    } else {
        socket.original_dst_v6()
    };
    original.ok()?.as_socket().filter(|address| *address != local)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap().remove(0);
        let address = listener.local_addr().unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let (client, server) = tokio::join!(connect(address), listener.accept());
        let (server, _) = server.unwrap();
        adopt(&server).unwrap();
        (client.unwrap(), server)
    }

    #[tokio::test]
    async fn both_ends_have_the_options() {
        let (client, server) = pair().await;
        for stream in [&client, &server] {
            assert!(stream.nodelay().unwrap());
            let socket = SockRef::from(stream);
            assert!(socket.keepalive().unwrap());
            assert_eq!(
                socket.tcp_user_timeout().unwrap(),
                None,
                "a reader may take its time"
            );
            is_always_read(stream);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        }
    }

    #[tokio::test]
    async fn a_connection_made_to_us_has_no_original_destination() {
        let (client, server) = pair().await;
        assert_eq!(original_destination(&server), None);
        assert_eq!(original_destination(&client), None);
    }

    #[test]
    fn our_own_addresses_are_known() {
        for (ip, local) in [
            ("127.0.0.1", true),
            ("127.9.9.9", true),
            ("0.0.0.0", true),
            ("::1", true),
            ("203.0.113.77", false),
            ("2001:db8::77", false),
        ] {
            assert_eq!(is_local(ip.parse().unwrap()), local, "{ip}");
        }
    }

    #[test]
    fn workers_share_the_port_the_kernel_chose() {
        let listeners = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().unwrap().port()).collect();
        assert_eq!(ports, vec![ports[0]; 3]);
        assert_ne!(ports[0], 0);
    }

    #[tokio::test]
    async fn a_reset_reaches_the_peer_as_a_reset() {
        let (mut client, mut server) = pair().await;
        server.write_all(b"half").await.unwrap();
        let mut buffer = [0; 4];
        client.read_exact(&mut buffer).await.unwrap();
        reset_on_close(&server);
        drop(server);
        let error = client.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
}
