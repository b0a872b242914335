//! Load and application that allocate nothing while they run, so that what is counted is the sidecars' own.
//!
//! Blocking sockets and buffers on the stack. Requests come in waves: one on each connection at once, and the
//! application answers when all of a wave have arrived. So the number of requests under way is the same in every run.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

const REQUEST: &[u8] = b"GET /users/42 HTTP/1.1\r\nhost: user\r\nuser-agent: budget/1\r\naccept: */*\r\n\r\n";
const RESPONSE_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1024\r\n\r\n";
const BODY: [u8; 1024] = [b'x'; 1024];
/// Longest message, in bytes.
const MESSAGE_MAX: usize = 8192;
/// How long anybody waits for the other side.
const PATIENCE: Duration = Duration::from_secs(30);

/// An application that answers `wave` requests together.
pub(crate) fn application(wave: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    let address = listener.local_addr().expect("it is bound");
    let together = Arc::new(Barrier::new(wave));
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let together = Arc::clone(&together);
            thread::spawn(move || answer(stream, &together));
        }
    });
    address
}

fn answer(mut stream: TcpStream, together: &Barrier) {
    let mut response = [0; RESPONSE_HEAD.len() + BODY.len()];
    response[..RESPONSE_HEAD.len()].copy_from_slice(RESPONSE_HEAD);
    response[RESPONSE_HEAD.len()..].copy_from_slice(&BODY);
    // Ends with the connection: the sidecar's pool closes what it no longer needs.
    while read_message(&mut stream, 0).is_some() {
        together.wait();
        if stream.write_all(&response).is_err() {
            return;
        }
    }
}

/// A client with a fixed number of connections.
pub(crate) struct Client {
    streams: Vec<TcpStream>,
}

impl Client {
    pub(crate) fn connect(proxy: SocketAddr, connections: usize) -> Self {
        let connect = |_| {
            let stream = TcpStream::connect(proxy).expect("the sidecar listens");
            stream.set_nodelay(true).expect("an open socket");
            stream.set_read_timeout(Some(PATIENCE)).expect("an open socket");
            stream
        };
        Self {
            streams: (0..connections).map(connect).collect(),
        }
    }

    /// One request on each connection at once; all must succeed.
    pub(crate) fn wave(&mut self) {
        for stream in &mut self.streams {
            stream.write_all(REQUEST).expect("the sidecar reads");
        }
        for stream in &mut self.streams {
            read_message(stream, BODY.len()).expect("a 200 with the application's body");
        }
    }
}

/// Reads a head, which for a response must say 200, and `body` bytes. `None`: the connection ended, or something else
/// came.
fn read_message(stream: &mut TcpStream, body: usize) -> Option<()> {
    let mut message = [0; MESSAGE_MAX];
    let mut length = 0;
    loop {
        let read = stream
            .read(&mut message[length..])
            .ok()
            .filter(|read| *read > 0)?;
        length += read;
        let Some(end) = message[..length]
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
        else {
            continue;
        };
        if body > 0 && !message.starts_with(b"HTTP/1.1 200") {
            return None;
        }
        if length == end + 4 + body {
            return Some(());
        }
    }
}
