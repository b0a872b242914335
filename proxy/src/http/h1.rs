//! HTTP/1.0 and 1.1: the only module that knows who parses it (`hyper`).
//!
//! Server: [`serve`] runs one connection; requests go to a function, answers come back from it. Client: [`Sender`]
//! sends one request at a time over a connection. An upgrade (101, or 2xx to CONNECT) ends HTTP on a connection: both
//! sides then give the byte stream back, with what was read ahead.
//!
//! What `hyper` answers by itself to a head it can't read has no `proxy-status`; [`Transport`] adds it, since it sees
//! bytes leave that no exchange sent.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::{Body, BodyError, MAX_HEAD, UploadBody};
use crate::drain::{Busy, HeadClock, Signal, Tracked};
use crate::stream::Stream;
use crate::telemetry::metrics::{self, Direction};
use weft_proxy_core::outcome::Reason;

/// Serves HTTP/1 until the connection ends. `Some`: it ended with an upgrade that `handle` granted, and here is the
/// byte stream. `handle` is called once per request, never twice at a time.
pub async fn serve<H, F, B>(stream: Stream, tracked: &Tracked, handle: H) -> Option<Stream>
where
    H: Fn(Request<Body>, Busy) -> F,
    F: Future<Output = Response<B>>,
    B: http_body::Body<Data = Bytes, Error = BodyError> + 'static,
{
    let upgraded = Cell::new(false);
    let fresh = Rc::new(Cell::new(false));
    let service = service_fn(|request: Request<Incoming>| {
        fresh.set(false);
        let connect = request.method() == Method::CONNECT;
        let busy = tracked.begin();
        let (upgraded, handle) = (&upgraded, &handle);
        async move {
            // Made where it runs: to move an unstarted future costs as much as it may grow to.
            let mut response = handle(request.map(Body::Http1), busy).await;
            if tracked.finishing() && !grants_upgrade(connect, response.status()) {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            upgraded.set(grants_upgrade(connect, response.status()));
            Ok::<_, Infallible>(response)
        }
    });
    let transport = Transport {
        stream,
        head: tracked.head_clock(),
        fresh: Rc::clone(&fresh),
        direction: tracked.direction(),
    };
    let mut connection = server::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD as usize)
        .serve_connection(TokioIo::new(transport), service);
    let mut known = Signal::None;
    poll_fn(|cx| {
        while let Poll::Ready(signal) = tracked.poll_signal(cx, known) {
            known = signal;
            Pin::new(&mut connection).graceful_shutdown();
        }
        if known == Signal::Abort {
            return Poll::Ready(());
        }
        // How a connection ended is told by its exchanges; what is left are peers that went away between two.
        Pin::new(&mut connection).poll(cx).map(drop)
    })
    .await;
    upgraded.get().then(|| {
        let parts = connection.into_parts();
        parts.io.into_inner().stream.with_prefix(parts.read_buf)
    })
}

fn grants_upgrade(connect: bool, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || connect && status.is_success()
}

/// The byte stream beneath a served connection.
struct Transport {
    stream: Stream,
    head: HeadClock,
    /// Bytes have come since the last request was understood.
    fresh: Rc<Cell<bool>>,
    direction: Direction,
}

const STATUS_LINE_END: &[u8] = b"\r\n";

/// Where the `proxy-status` line belongs in an answer that `hyper` made itself, and which reason it has.
fn own_answer(bytes: &[u8]) -> Option<(usize, Reason)> {
    let reason = match bytes.get(..12)? {
        b"HTTP/1.1 400" | b"HTTP/1.1 414" | b"HTTP/1.1 505" => Reason::BadRequest,
        b"HTTP/1.1 431" => Reason::HeadersTooLarge,
        _ => return None,
    };
    let end = bytes.windows(2).position(|window| window == STATUS_LINE_END)?;
    Some((end + STATUS_LINE_END.len(), reason))
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before && !self.head.busy() {
            self.head.bytes_arrived();
            self.fresh.set(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some((line_end, reason)) = self.fresh.get().then(|| own_answer(buf)).flatten() else {
            return Pin::new(&mut self.stream).poll_write(cx, buf);
        };
        metrics::count_own_answer(reason, self.direction);
        let mut answer = buf[..line_end].to_vec();
        answer.extend_from_slice(b"proxy-status: ");
        answer.extend_from_slice(reason.proxy_status(None).as_bytes());
        answer.extend_from_slice(STATUS_LINE_END);
        answer.extend_from_slice(&buf[line_end..]);
        // The connection ends after this answer: one that does not fit the socket at once is not worth a buffer.
        ready!(Pin::new(&mut self.stream).poll_write(cx, &answer))?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.fresh.get() {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A client connection that takes one request at a time.
#[derive(Debug)]
pub struct Sender {
    requests: client::SendRequest<UploadBody>,
    upgraded: Option<oneshot::Receiver<Stream>>,
    open: Rc<Cell<bool>>,
}

/// Why a request got no response head.
#[derive(Debug)]
pub struct SendError {
    /// No byte of it was written.
    pub unsent: bool,
    /// What happened.
    pub error: hyper::Error,
}

impl Sender {
    /// Speaks HTTP/1 over `stream`; a task of its own drives the connection and ends with it.
    pub async fn new(stream: Stream) -> Result<Self, hyper::Error> {
        let (requests, mut connection) = client::Builder::new()
            .max_buf_size(MAX_HEAD as usize)
            .handshake(TokioIo::new(stream))
            .await?;
        let (give_back, upgraded) = oneshot::channel();
        let open = Rc::new(Cell::new(true));
        let still_open = Rc::clone(&open);
        spawn_local(async move {
            let ended = Pin::new(&mut connection).await;
            still_open.set(false);
            if ended.is_ok() {
                let parts = connection.into_parts();
                // Nobody waits for it unless there was an upgrade.
                let _ = give_back.send(parts.io.into_inner().with_prefix(parts.read_buf));
            }
        });
        Ok(Self {
            requests,
            upgraded: Some(upgraded),
            open,
        })
    }

    /// Whether the connection has ended or is about to.
    pub fn is_closed(&self) -> bool {
        !self.open.get() || self.requests.is_closed()
    }

    /// Whether the connection can take a request, once it knows; `false`: it never will again.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.requests.poll_ready(cx).map(|ready| ready.is_ok())
    }

    /// Sends a request and waits for the head of its response.
    pub fn send(
        &mut self,
        request: Request<UploadBody>,
    ) -> impl Future<Output = Result<Response<Body>, SendError>> + use<> {
        let sending = self.requests.try_send_request(request);
        async move {
            match sending.await {
                Ok(response) => Ok(response.map(Body::Http1)),
                Err(mut failed) => Err(SendError {
                    unsent: failed.take_message().is_some(),
                    error: failed.into_error(),
                }),
            }
        }
    }

    /// The byte stream after a response that granted an upgrade; `None` when the connection broke instead.
    pub async fn into_upgraded(mut self) -> Option<Stream> {
        let upgraded = self.upgraded.take()?;
        drop(self.requests);
        upgraded.await.ok()
    }
}
