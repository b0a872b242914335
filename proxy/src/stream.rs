//! One type for every byte stream: plain TCP or TLS from either side, with bytes that were read ahead put back.
//!
//! A closed enum instead of a boxed trait: HTTP, the relay and the tests see one concrete type, and a reset or a
//! half-close is decided here for all of them. What a half-close is on TLS: `close_notify` and then FIN; a FIN without
//! `close_notify` is an error (truncation), never an end.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

use crate::socket;

/// Bytes read from a TLS stream to see whether there are any.
const FIRST_READ: usize = 256;

/// A TCP connection whose first bytes may have been read already.
#[derive(Debug)]
pub struct Prefixed {
    tcp: TcpStream,
    prefix: Bytes,
}

impl Prefixed {
    /// `tcp` as it was before `prefix` was read from it.
    pub fn new(tcp: TcpStream, prefix: Bytes) -> Self {
        Self { tcp, prefix }
    }
}

/// Any byte stream of the data plane. A prefix in front of a TLS stream is plaintext read ahead.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    prefix: Bytes,
}

#[derive(Debug)]
enum Transport {
    Tcp(Prefixed),
    Client(Box<client::TlsStream<TcpStream>>),
    Server(Box<server::TlsStream<Prefixed>>),
}

impl From<Prefixed> for Stream {
    fn from(tcp: Prefixed) -> Self {
        Self {
            transport: Transport::Tcp(tcp),
            prefix: Bytes::new(),
        }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Prefixed::new(tcp, Bytes::new()).into()
    }
}

impl From<client::TlsStream<TcpStream>> for Stream {
    fn from(tls: client::TlsStream<TcpStream>) -> Self {
        Self {
            transport: Transport::Client(Box::new(tls)),
            prefix: Bytes::new(),
        }
    }
}

impl From<server::TlsStream<Prefixed>> for Stream {
    fn from(tls: server::TlsStream<Prefixed>) -> Self {
        Self {
            transport: Transport::Server(Box::new(tls)),
            prefix: Bytes::new(),
        }
    }
}

impl Stream {
    /// Puts bytes back that were read ahead, before what is left of those that were put back earlier.
    #[must_use]
    pub fn with_prefix(mut self, read_ahead: Bytes) -> Self {
        if self.prefix.is_empty() {
            self.prefix = read_ahead;
        } else if !read_ahead.is_empty() {
            self.prefix = [read_ahead, self.prefix].concat().into();
        }
        self
    }

    /// What was read ahead and put back.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// The TCP connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        match &self.transport {
            Transport::Tcp(plain) => &plain.tcp,
            Transport::Client(tls) => tls.get_ref().0,
            Transport::Server(tls) => &tls.get_ref().0.tcp,
        }
    }

    /// The connection itself, for a TLS handshake on it; `None` when it carries TLS already.
    pub fn into_plain(self) -> Option<Prefixed> {
        match self.transport {
            Transport::Tcp(plain) if plain.prefix.is_empty() => Some(Prefixed {
                prefix: self.prefix,
                ..plain
            }),
            Transport::Tcp(plain) if self.prefix.is_empty() => Some(plain),
            _ => None,
        }
    }

    /// Waits until there is something to read, or the end; `false`: the end. On plain TCP no buffer is needed for it
    /// before there is something.
    pub async fn speaks(&mut self) -> io::Result<bool> {
        if !self.prefix.is_empty() {
            return Ok(true);
        }
        if let Transport::Tcp(plain) = &self.transport {
            // Readiness alone may be reported for nothing.
            return Ok(!plain.prefix.is_empty() || plain.tcp.peek(&mut [0; 1]).await? > 0);
        }
        let mut first = [0; FIRST_READ];
        let count = self.read(&mut first).await?;
        self.prefix = Bytes::copy_from_slice(&first[..count]);
        Ok(count > 0)
    }

    /// The address of the other end, if the connection still has one.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }

    /// Whoever is at the other end always reads; see [`socket::is_always_read`].
    pub fn is_always_read(&self) {
        socket::is_always_read(self.tcp());
    }

    /// Makes the coming drop a reset.
    pub fn reset_on_close(&self) {
        socket::reset_on_close(self.tcp());
    }
}

fn drain(prefix: &mut Bytes, buf: &mut ReadBuf<'_>) -> bool {
    if prefix.is_empty() {
        return false;
    }
    let count = prefix.len().min(buf.remaining());
    buf.put_slice(&prefix[..count]);
    prefix.advance(count);
    if prefix.is_empty() {
        *prefix = Bytes::new(); // gives the memory back
    }
    true
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if drain(&mut self.prefix, buf) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if drain(&mut self.prefix, buf) {
            return Poll::Ready(Ok(()));
        }
        match &mut self.transport {
            Transport::Tcp(plain) => Pin::new(plain).poll_read(cx, buf),
            Transport::Client(tls) => Pin::new(tls).poll_read(cx, buf),
            Transport::Server(tls) => Pin::new(tls).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(plain) => Pin::new(plain).poll_write(cx, buf),
            Transport::Client(tls) => Pin::new(tls).poll_write(cx, buf),
            Transport::Server(tls) => Pin::new(tls).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Tcp(plain) => Pin::new(plain).poll_write_vectored(cx, bufs),
            Transport::Client(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
            Transport::Server(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(plain) => Pin::new(plain).poll_flush(cx),
            Transport::Client(tls) => Pin::new(tls).poll_flush(cx),
            Transport::Server(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Tcp(plain) => Pin::new(plain).poll_shutdown(cx),
            Transport::Client(tls) => Pin::new(tls).poll_shutdown(cx),
            Transport::Server(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
