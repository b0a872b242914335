//! HTTP/2 over the `h2` crate, with its flushes deferred and its peers on a budget.
//!
//! Windows: a connection's window covers the windows of all its streams, since `h2` returns connection credit only
//! when a stream's reader consumes: with less, readers that stall would stall their neighbours. Within a stream a piece
//! is taken from its source only when the piece before is on its way, so backpressure reaches from end to end.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use thiserror::Error;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;
use weft_proxy_core::hygiene::within_max_fields;

use super::flush::{GOODBYE, deferred};
use super::guard::{Budget, Guarded};
use super::{Body, BodyError, MAX_HEAD, UploadBody};
use crate::drain::{Busy, Signal, Tracked};
use crate::stream::Stream;
use crate::telemetry::metrics;

/// Window of a stream, in bytes.
const STREAM_WINDOW: u32 = 128 * 1024;
/// Largest DATA frame we take, in bytes.
const FRAME_SIZE: u32 = 16 * 1024;
/// Bytes of one stream that `h2` may hold for sending.
const SEND_BUFFER: usize = 64 * 1024;
/// Streams of one connection that were reset for the peer's mistakes before it is closed.
const MISTAKES: usize = 100;
/// Decoded request heads that one connection may hold, in bytes; what goes beyond is refused unprocessed.
const HELD_HEADS: usize = 512 * 1024;
/// What `h2` reads of a request's head, in bytes. It answers what is longer by itself and without a reason; so it reads
/// more than [`MAX_HEAD`], and what lies between is answered by us.
const READ_HEAD: u32 = 2 * MAX_HEAD;
/// What a field costs beside its name and value (RFC 9113 section 6.5.2), in bytes.
const FIELD_OVERHEAD: usize = 32;

/// What differs between peers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Concurrent streams.
    pub streams: u32,
    /// Control frames and resets.
    pub budget: Budget,
    /// Streams that were reset before they were looked at, at once. Clients that vanish together reset all of theirs.
    pub reset_unseen: usize,
}

impl Limits {
    /// Connections from applications.
    pub const APPLICATION: Self = Self {
        streams: 100,
        budget: Budget::APPLICATION,
        reset_unseen: 100,
    };
    /// Connections from other sidecars.
    pub const MESH: Self = Self {
        streams: 256,
        budget: Budget::MESH,
        reset_unseen: 1_024,
    };

    fn connection_window(self) -> u32 {
        self.streams * STREAM_WINDOW
    }
}

/// Serves HTTP/2 until the connection ends. Each request runs in a task of its own, which ends with its stream: a
/// reset drops what `handle` returned.
pub async fn serve<H, F, B>(stream: Stream, limits: Limits, tracked: &Tracked, handle: H)
where
    H: Fn(Request<Body>, Busy) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    let (transport, flusher) = deferred(stream);
    let flusher = spawn_local(flusher.run());
    let (transport, alarm) = Guarded::new(transport, limits.budget, tracked.head_clock());
    let mut handshake = pin!(
        h2::server::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(limits.connection_window())
            .max_frame_size(FRAME_SIZE)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(READ_HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(limits.reset_unseen)
            .max_local_error_reset_streams(Some(MISTAKES))
            .handshake::<_, Bytes>(transport)
    );
    let mut known = Signal::None;
    let handshaken = poll_fn(|cx| {
        if let Poll::Ready(Signal::Abort) = tracked.poll_signal(cx, Signal::Finish) {
            return Poll::Ready(None);
        }
        handshake.as_mut().poll(cx).map(Result::ok)
    });
    let Some(mut connection) = handshaken.await else {
        return;
    };
    let heads = Rc::new(Cell::new(0));
    let handle = Rc::new(handle);
    loop {
        let next = poll_fn(|cx| {
            while let Poll::Ready(signal) = tracked.poll_signal(cx, known) {
                known = signal;
                match signal {
                    Signal::Abort => connection.abrupt_shutdown(Reason::NO_ERROR),
                    _ => connection.graceful_shutdown(),
                }
            }
            if alarm.raised() {
                return Poll::Ready(None);
            }
            connection.poll_accept(cx)
        });
        // How a connection ended is told by its exchanges.
        let Some(Ok((request, respond))) = next.await else {
            break;
        };
        accept(request, respond, &heads, tracked, &handle);
    }
    tracked.all_has_left(); // before it ended it was flushed and shut down
    if alarm.raised() {
        // The peer's frames are not read any more; what is left is to say goodbye.
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        let _ = timeout(GOODBYE, poll_fn(|cx| connection.poll_closed(cx))).await;
    }
    drop(connection);
    // The connection keeps its place until its peer has heard why it ended.
    let _ = flusher.await;
}

/// Starts a request, or refuses it.
fn accept<H, F, B>(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    heads: &Rc<Cell<usize>>,
    tracked: &Tracked,
    handle: &Rc<H>,
) where
    H: Fn(Request<Body>, Busy) -> F + 'static,
    F: Future<Output = Response<B>> + 'static,
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin + 'static,
{
    let size = head_size(request.headers());
    if heads.get() + size > HELD_HEADS {
        respond.send_reset(Reason::REFUSED_STREAM);
        return;
    }
    heads.set(heads.get() + size);
    let share = HeldHead {
        size,
        heads: Rc::clone(heads),
    };
    if !within_max_fields(request.headers()) {
        let refused = weft_proxy_core::outcome::Reason::HeadersTooLarge;
        metrics::count_own_answer(refused, tracked.direction());
        let grpc = weft_proxy_core::outcome::is_grpc(request.headers());
        let refusal = refused.response(grpc, None).map(Body::from);
        spawn_local(send_response(refusal, respond));
        return;
    }
    let (handle, busy) = (Rc::clone(handle), tracked.begin());
    spawn_local(metrics::outliving_panics(async move {
        let _share = share;
        // Made where it runs: to move an unstarted future costs as much as it may grow to.
        let response = {
            let mut answering = pin!(handle(request.map(|body| Body::Http2(body, None)), busy));
            poll_fn(|cx| match answering.as_mut().poll(cx) {
                Poll::Ready(response) => Poll::Ready(Some(response)),
                Poll::Pending => respond.poll_reset(cx).map(|_| None),
            })
            .await
        };
        if let Some(response) = response {
            send_response(response, respond).await;
        }
    }));
}

/// A request head's share of what its connection may hold.
struct HeldHead {
    size: usize,
    heads: Rc<Cell<usize>>,
}

impl Drop for HeldHead {
    fn drop(&mut self) {
        self.heads.set(self.heads.get() - self.size);
    }
}

fn head_size(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD_OVERHEAD)
        .sum()
}

/// Sends a response; a reset by the peer ends it.
async fn send_response<B>(response: Response<B>, mut respond: SendResponse<Bytes>)
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    let ended = response.body().is_end_stream();
    let (parts, body) = response.into_parts();
    let Ok(mut stream) = respond.send_response(Response::from_parts(parts, ()), ended) else {
        return;
    };
    if !ended {
        // The body's own end tells its exchange how it went.
        let _ = send(body, &mut stream).await;
    }
}

/// Why a body was not sent to its end.
#[derive(Debug, Error)]
pub enum SendError {
    /// Its source broke off; the stream was reset.
    #[error(transparent)]
    Source(#[from] BodyError),
    /// The receiver reset the stream or is gone.
    #[error(transparent)]
    Stream(#[from] h2::Error),
    /// The receiver wants no more of it.
    #[error("the receiver reset the stream: {0}")]
    Reset(Reason),
}

/// Sends a body to its end. A body that breaks off resets the stream.
pub async fn send<B>(mut body: B, stream: &mut SendStream<Bytes>) -> Result<(), SendError>
where
    B: http_body::Body<Data = Bytes, Error = BodyError> + Unpin,
{
    loop {
        let frame = poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(Ok(frame)),
            Poll::Pending => poll_gone(stream, cx).map(Err),
        });
        match frame.await? {
            None => return Ok(stream.send_data(Bytes::new(), true)?),
            Some(Err(error)) => {
                stream.send_reset(Reason::CANCEL);
                return Err(error.into());
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if send_data(data, &body, stream).await? {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Ok(stream.send_trailers(trailers)?);
                }
            },
        }
    }
}

fn poll_gone(stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<SendError> {
    match ready!(stream.poll_reset(cx)) {
        Ok(reason) => Poll::Ready(SendError::Reset(reason)),
        Err(error) => Poll::Ready(SendError::Stream(error)),
    }
}

/// Sends a piece as the window allows; `true` when the stream was ended with it.
async fn send_data<B>(mut data: Bytes, body: &B, stream: &mut SendStream<Bytes>) -> Result<bool, SendError>
where
    B: http_body::Body<Data = Bytes, Error = BodyError>,
{
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        if stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(capacity) => capacity?,
                None => return Err(poll_fn(|cx| poll_gone(stream, cx)).await),
            };
        }
        let piece = data.split_to(stream.capacity().min(data.len()));
        let end = data.is_empty() && body.is_end_stream();
        stream.send_data(piece, end)?;
        if end {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A client connection that many requests share.
#[derive(Clone, Debug)]
pub struct Sender {
    requests: SendRequest<Bytes>,
    closed: Rc<Cell<bool>>,
}

/// The task that sends a request's body. It ends with the exchange at the latest: dropping this stops it, and a stream
/// that was not ended then is reset.
#[derive(Debug)]
pub struct Pump(AbortHandle);

impl Drop for Pump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a request got no response head.
#[derive(Debug)]
pub struct RequestError {
    /// The receiver has provably not begun to process it.
    pub unprocessed: bool,
    /// What happened.
    pub error: h2::Error,
}

impl From<h2::Error> for RequestError {
    fn from(error: h2::Error) -> Self {
        // A stream above the last one that GOAWAY(NO_ERROR) names, or refused as a stream (RFC 9113 section 8.7).
        let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
        let beyond = error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR);
        Self {
            unprocessed: refused || beyond,
            error,
        }
    }
}

impl Sender {
    /// Speaks HTTP/2 over `stream`; a task of its own drives the connection and ends with it.
    pub async fn new(stream: Stream) -> Result<Self, h2::Error> {
        let (transport, flusher) = deferred(stream);
        spawn_local(flusher.run());
        let limits = Limits::MESH;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(limits.connection_window())
            .max_frame_size(FRAME_SIZE)
            .max_header_list_size(MAX_HEAD)
            .max_send_buffer_size(SEND_BUFFER)
            .max_local_error_reset_streams(Some(MISTAKES))
            .enable_push(false)
            .initial_max_send_streams(limits.streams as usize)
            .handshake::<_, Bytes>(transport)
            .await?;
        let closed = Rc::new(Cell::new(false));
        let closing = Rc::clone(&closed);
        spawn_local(async move {
            // Every stream of the connection tells its own end.
            let _ = connection.await;
            closing.set(true);
        });
        Ok(Self { requests, closed })
    }

    /// Whether the connection takes no new request.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Streams that may be open at once, by the peer's word.
    pub fn max_streams(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Waits until a request can be sent; `false`: none can any more (GOAWAY, or the connection has ended).
    pub async fn ready(&mut self) -> bool {
        poll_fn(|cx| self.requests.poll_ready(cx)).await.is_ok()
    }

    /// Sends a request and waits for the head of its response. The body goes on streaming beside the response.
    pub async fn send(&mut self, request: Request<UploadBody>) -> Result<Response<Body>, RequestError> {
        // Nothing of the request has left while this waits.
        poll_fn(|cx| self.requests.poll_ready(cx))
            .await
            .map_err(|error| RequestError {
                unprocessed: true,
                error,
            })?;
        let (head, body) = request.into_parts();
        let ended = body.is_end_stream();
        let (response, mut stream) = self
            .requests
            .send_request(Request::from_parts(head, ()), ended)
            .map_err(|error| RequestError {
                unprocessed: true,
                error,
            })?;
        let upload = (!ended).then(|| {
            let pump = spawn_local(async move {
                // A broken upload resets the stream, which the response's reader sees.
                let _ = send(body, &mut stream).await;
            });
            Pump(pump.abort_handle())
        });
        Ok(response.await?.map(|response| Body::Http2(response, upload)))
    }
}
