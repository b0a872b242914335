//! Applications and clients inside namespaces: blocking sockets on threads of their own, as plain as can be.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::net::Namespace;

/// How long a client waits for anything; far above what it takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What an application answered about the request that it saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reply {
    /// The status of the answer, whoever gave it.
    pub(crate) status: u16,
    /// `proxy-status`, where a proxy answered itself.
    pub(crate) reason: String,
    /// The name of the application.
    pub(crate) app: String,
    /// Whom it saw.
    pub(crate) peer: String,
    /// Whose identity it was told.
    pub(crate) client: String,
    /// Which `Host` it was asked for.
    pub(crate) host: String,
}

/// Accepts at `address` for ever, and hands each connection to `serve` on a thread of its own.
pub(crate) fn listen(namespace: &Namespace, address: SocketAddr, serve: fn(&str, TcpStream), name: &str) {
    let listener = namespace.within(|| TcpListener::bind(address).expect("a free port"));
    let name = name.to_owned();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let name = name.clone();
            std::thread::spawn(move || serve(&name, stream));
        }
    });
}

/// An HTTP application on every address that answers what it saw.
pub(crate) fn web(namespace: &Namespace, port: u16, name: &str) {
    // One socket of both families: two would claim the same port.
    listen(namespace, address("::", port), answer, name);
}

/// The address of a port.
pub(crate) fn address(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// One request, and its answer.
pub(crate) fn answer(name: &str, mut stream: TcpStream) {
    let peer = stream
        .peer_addr()
        .map(|peer| peer.ip().to_canonical().to_string());
    let Some(head) = read_head(&stream) else { return };
    let field = |wanted: &str| {
        let mut fields = head.iter().filter_map(|line| line.split_once(": "));
        let found = fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let body = format!(
        "app={name}\npeer={}\nclient={}\nhost={}\n",
        peer.unwrap_or_default(),
        field("x-weft-client-id"),
        field("host")
    );
    let length = body.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
    let _ = stream.write_all(answer.as_bytes());
}

fn read_head(stream: &TcpStream) -> Option<Vec<String>> {
    let mut lines = Vec::new();
    for line in BufReader::new(stream).lines() {
        let line = line.ok()?;
        if line.is_empty() {
            return Some(lines);
        }
        lines.push(line);
    }
    None
}

/// Says `220 <name> ready` first, then echoes.
pub(crate) fn greet(name: &str, mut stream: TcpStream) {
    if stream
        .write_all(format!("220 {name} ready\r\n").as_bytes())
        .is_ok()
    {
        echo(name, stream);
    }
}

/// Echoes.
#[allow(clippy::needless_pass_by_value)] // It has the shape of all servers here.
pub(crate) fn echo(_: &str, stream: TcpStream) {
    let (mut from, mut to) = (&stream, &stream);
    let _ = io::copy(&mut from, &mut to);
    let _ = stream.shutdown(Shutdown::Write);
}

/// A connection from `namespace`.
pub(crate) fn connect(namespace: &Namespace, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = namespace.within(|| TcpStream::connect_timeout(&to, PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Asks for `/` from `namespace`.
pub(crate) fn get(namespace: &Namespace, to: SocketAddr, host: &str) -> io::Result<Reply> {
    ask(connect(namespace, to)?, host)
}

/// Asks for `/` on a connection.
pub(crate) fn ask(mut stream: TcpStream, host: &str) -> io::Result<Reply> {
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("no answer"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let of = |text: &str, separator: &str, name: &str| {
        let found = text.lines().filter_map(|line| line.split_once(separator));
        let mut named = found.filter(|(found, _)| found.eq_ignore_ascii_case(name));
        named
            .next()
            .map(|(_, value)| value.to_owned())
            .unwrap_or_default()
    };
    Ok(Reply {
        status: status.ok_or_else(|| io::Error::other("no status"))?,
        reason: of(head, ": ", "proxy-status"),
        app: of(body, "=", "app"),
        peer: of(body, "=", "peer"),
        client: of(body, "=", "client"),
        host: of(body, "=", "host"),
    })
}

/// Whether a connection from `namespace` is refused, or ends before it says anything.
pub(crate) fn refused(namespace: &Namespace, to: SocketAddr) -> bool {
    let Ok(mut stream) = connect(namespace, to) else {
        return true;
    };
    let mut byte = [0];
    let asked = stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    asked.is_err() || !matches!(stream.read(&mut byte), Ok(count) if count > 0)
}

/// The canonical text of an address, as applications report it.
pub(crate) fn shown(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}
