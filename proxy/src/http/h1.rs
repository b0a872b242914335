//! HTTP/1.0 and 1.1: the only module that knows who parses it (`hyper`).
//!
//! Server: [`serve`] runs one connection; requests go to a function, answers come back from it. Client: [`Sender`]
//! sends one request at a time over a connection. An upgrade (101, or 2xx to CONNECT) ends HTTP on a connection: both
//! sides then give the byte stream back, with what was read ahead.
//!
//! Beneath `hyper`, [`transport`] holds it to the letter of RFC 9112: bytes about whose framing two readers might
//! disagree never reach it. What `hyper` answers by itself to a head it can't read has no `proxy-status`; the transport
//! adds it, since it sees bytes leave that no exchange sent.
//!
//! `Expect: 100-continue` is answered here, when the request's body is first asked for: its destination is known then,
//! and takes it; a request that is refused before is answered without 100. Other 1xx answers of an application are not
//! passed on: `hyper`'s server and the `h2` crate can't send them. Names of fields are in lower case everywhere, since
//! HTTP/2 between the sidecars has no other.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::{Body, BodyError, MAX_HEAD, UploadBody};
use crate::drain::{Busy, Signal, Tracked};
use crate::stream::Stream;
use transport::{Scanned, Transport, Wire};
use weft_proxy_core::framing::Scanner;

mod transport;

pub use transport::too_late;

/// Serves HTTP/1 until the connection ends. `Some`: it ended with an upgrade that `handle` granted, and here is the
/// byte stream. `handle` is called once per request, never twice at a time.
pub async fn serve<H, F, B>(stream: Stream, tracked: &Tracked, handle: H) -> Option<Stream>
where
    H: Fn(Request<Body>, Busy) -> F,
    F: Future<Output = Response<B>>,
    B: http_body::Body<Data = Bytes, Error = BodyError> + 'static,
{
    let upgraded = Cell::new(false);
    let wire = Wire::new(Scanner::requests());
    let service = service_fn(|request: Request<Incoming>| {
        wire.fresh.set(false);
        let connect = request.method() == Method::CONNECT;
        let busy = tracked.begin();
        let (upgraded, handle, wire) = (&upgraded, &handle, &wire);
        async move {
            // Made where it runs: to move an unstarted future costs as much as it may grow to.
            let mut response = handle(request.map(Body::Http1), busy).await;
            let granted = grants_upgrade(connect, response.status());
            if !granted && (!wire.scanner.borrow_mut().resume() || tracked.finishing()) {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            upgraded.set(granted);
            Ok::<_, Infallible>(response)
        }
    });
    let transport = Transport {
        scanned: Scanned {
            stream,
            wire: Rc::clone(&wire),
        },
        clock: tracked.head_clock(),
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
    if upgraded.get() {
        let parts = connection.into_parts();
        return Some(parts.io.into_inner().scanned.stream.with_prefix(parts.read_buf));
    }
    if known == Signal::Abort && tracked.head_is_late() {
        too_late(
            connection.into_parts().io.into_inner().scanned.stream,
            tracked.direction(),
        );
    }
    None
}

fn grants_upgrade(connect: bool, status: StatusCode) -> bool {
    status == StatusCode::SWITCHING_PROTOCOLS || connect && status.is_success()
}

/// A client connection that takes one request at a time.
#[derive(Debug)]
pub struct Sender {
    requests: client::SendRequest<UploadBody>,
    upgraded: Option<oneshot::Receiver<Stream>>,
    open: Rc<Cell<bool>>,
    wire: Rc<Wire>,
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
        let wire = Wire::new(Scanner::responses());
        let scanned = Scanned {
            stream,
            wire: Rc::clone(&wire),
        };
        let (requests, mut connection) = client::Builder::new()
            .max_buf_size(MAX_HEAD as usize)
            .handshake(TokioIo::new(scanned))
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
                let _ = give_back.send(parts.io.into_inner().stream.with_prefix(parts.read_buf));
            }
        });
        Ok(Self {
            requests,
            upgraded: Some(upgraded),
            open,
            wire,
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
        mut request: Request<UploadBody>,
    ) -> impl Future<Output = Result<Response<Body>, SendError>> + use<> {
        declare_body(&mut request);
        self.wire.scanner.borrow_mut().expect();
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

/// With some methods (GET, HEAD) `hyper` sends no body of unknown length unless the head says that there is one.
fn declare_body(request: &mut Request<UploadBody>) {
    let body = request.body();
    let unknown = !body.is_end_stream() && body.size_hint().exact().is_none();
    if unknown && !request.headers().contains_key(CONTENT_LENGTH) {
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
}
