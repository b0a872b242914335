//! The bytes beneath an HTTP/1 connection, read by a [`Scanner`] before `hyper` reads them.
//!
//! Of bytes with a flaw `hyper` gets what is good, and then bytes that it refuses in its turn, behind the answers to what
//! came before: one that no head may hold; or, in a body, the bad byte itself and a line that no trailer section may hold.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weft_proxy_core::framing::{Flaw, Scanner};
use weft_proxy_core::hygiene::Violation;
use weft_proxy_core::outcome::Reason;

use crate::drain::HeadClock;
use crate::stream::Stream;
use crate::telemetry::metrics::{self, Direction};

/// What no head may hold anywhere.
const REFUSED: u8 = 0;
/// What refuses a body whose bad byte `hyper` takes: it takes none but in a trailer section.
const REFUSED_TRAILER: &[u8] = b"\0\r\n\r\n";
const STATUS_LINE_END: &[u8] = b"\r\n";

/// What a connection's bytes and its messages tell each other.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) scanner: RefCell<Scanner>,
    flaw: Cell<Option<Flaw>>,
    /// What is still to be read behind a flaw in a body.
    end: Cell<&'static [u8]>,
    /// Bytes have come since the last request was understood.
    pub(super) fresh: Cell<bool>,
}

impl Wire {
    pub(super) fn new(scanner: Scanner) -> Rc<Self> {
        Rc::new(Self {
            scanner: RefCell::new(scanner),
            flaw: Cell::new(None),
            end: Cell::new(REFUSED_TRAILER),
            fresh: Cell::new(false),
        })
    }
}

/// A byte stream of which only what is framed beyond doubt is read.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) stream: Stream,
    pub(super) wire: Rc<Wire>,
}

impl AsyncRead for Scanned {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.wire.flaw.get() {
            None => {}
            Some(flaw) if flaw.in_body => {
                let end = self.wire.end.get();
                let (now, later) = end.split_at(end.len().min(buf.remaining()));
                buf.put_slice(now);
                self.wire.end.set(later);
                return Poll::Ready(Ok(()));
            }
            // The head that can't be read is answered; nothing else is waited for.
            Some(_) => return Poll::Pending,
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let scanned = self.wire.scanner.borrow_mut().scan(&buf.filled()[before..]);
        if let Err(flaw) = scanned {
            self.wire.flaw.set(Some(flaw));
            buf.set_filled(before + flaw.at + usize::from(flaw.in_body));
            if !flaw.in_body {
                buf.put_slice(&[REFUSED]); // where the bad byte was
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scanned {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
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

/// The bytes beneath a served connection: it notes when a head has begun, and adds the reason to what `hyper` answers by
/// itself.
#[derive(Debug)]
pub(super) struct Transport {
    pub(super) scanned: Scanned,
    pub(super) clock: HeadClock,
    pub(super) direction: Direction,
}

impl Transport {
    fn wire(&self) -> &Wire {
        &self.scanned.wire
    }

    fn note_head(&self) {
        if !self.clock.busy() && self.wire().scanner.borrow().within_head() {
            self.clock.begun();
        }
    }

    /// Whether what leaves now may be an answer of `hyper`'s own.
    fn answers_itself(&self) -> bool {
        let head = |flaw: Flaw| !flaw.in_body;
        self.wire().fresh.get() || self.wire().flaw.get().is_some_and(head) && !self.clock.busy()
    }
}

/// Where the `proxy-status` line belongs in an answer that `hyper` made itself, and which reason it has. Such an answer is
/// empty, and the last one.
fn own_answer(bytes: &[u8]) -> Option<(usize, Reason)> {
    let says = |line: &[u8]| bytes.windows(line.len()).any(|window| window == line);
    let reason = match bytes.get(..12)? {
        b"HTTP/1.1 400" | b"HTTP/1.1 414" | b"HTTP/1.1 505" => Reason::BadRequest,
        b"HTTP/1.1 431" => Reason::HeadersTooLarge,
        _ => return None,
    };
    if !says(b"\r\nconnection: close\r\n") || !says(b"\r\ncontent-length: 0\r\n") {
        return None;
    }
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
        let read = Pin::new(&mut self.scanned).poll_read(cx, buf);
        self.note_head();
        if buf.filled().len() > before && !self.clock.busy() {
            self.wire().fresh.set(true);
        }
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Some((line_end, reason)) = self.answers_itself().then(|| own_answer(buf)).flatten() else {
            return Pin::new(&mut self.scanned).poll_write(cx, buf);
        };
        metrics::count_own_answer(reason, self.direction);
        let violation = self.wire().flaw.get().map(|flaw| flaw.violation);
        let detail = violation.as_ref().map(Violation::to_string);
        let mut answer = buf[..line_end].to_vec();
        answer.extend_from_slice(b"proxy-status: ");
        answer.extend_from_slice(reason.proxy_status(detail.as_deref()).as_bytes());
        answer.extend_from_slice(STATUS_LINE_END);
        answer.extend_from_slice(&buf[line_end..]);
        // The connection ends after this answer: one that does not fit the socket at once is not worth a buffer.
        ready!(Pin::new(&mut self.scanned).poll_write(cx, &answer))?;
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.answers_itself() {
            return Pin::new(&mut self.scanned).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|buf| !buf.is_empty()).map_or(&[][..], |buf| buf);
        self.poll_write(cx, first)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.scanned).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.scanned).poll_shutdown(cx)
    }
}

/// Tells a client whose head did not come in time so, if the socket takes it at once, and ends the connection.
pub fn too_late(mut stream: Stream, direction: Direction) {
    let reason = Reason::RequestIncomplete;
    metrics::count_own_answer(reason, direction);
    let (head, body) = reason.response(false, None).into_parts();
    let mut answer = format!("HTTP/1.1 {}\r\nconnection: close\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(STATUS_LINE_END);
    }
    answer.extend_from_slice(STATUS_LINE_END);
    answer.extend_from_slice(&body);
    // Nobody waits for who was late: what the socket does not take now is lost.
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let _ = Pin::new(&mut stream).poll_write(&mut cx, &answer);
    let _ = Pin::new(&mut stream).poll_shutdown(&mut cx);
}
