//! A request body that can be sent again: it streams to the first attempt and is kept while it does.
//!
//! Up to [`MAX_REPLAY`] bytes are kept until the exchange says that no further attempt can follow
//! ([`Upload::forget`]). A body that grows beyond is no longer replayable, and no longer kept. Only the newest attempt
//! may read: an older one that is still being torn down gets an error, so that no byte is ever taken by the wrong one.
//! Trailers are cleaned on their way.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::body::clean;
use super::{Body, BodyError};

/// Bytes of a body that are kept for another attempt.
pub const MAX_REPLAY: usize = 64 * 1024;
/// In so many pieces at most: each costs memory beside its bytes.
const MAX_PIECES: usize = 1024;

/// The request body of an exchange.
#[derive(Debug)]
pub struct Upload(Option<Rc<RefCell<Shared>>>);

/// Whether an attempt still sends its body.
#[derive(Debug)]
pub struct Sending {
    shared: Option<Rc<RefCell<Shared>>>,
    attempt: u32,
}

/// The request body as one attempt sends it.
#[derive(Debug)]
pub struct UploadBody {
    shared: Option<Rc<RefCell<Shared>>>,
    attempt: u32,
    next: usize,
    trailed: bool,
}

#[derive(Debug)]
struct Shared {
    source: Body,
    length: Option<u64>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    keeping: bool,
    /// Something was read that is not kept.
    lost: bool,
    failed: bool,
    attempt: u32,
    /// The newest attempt whose body was sent or given up.
    over: u32,
}

impl Upload {
    /// A body that no attempt has read from.
    pub fn new(source: Body) -> Self {
        if source.is_end_stream() {
            return Self(None);
        }
        Self(Some(Rc::new(RefCell::new(Shared {
            length: source.size_hint().exact(),
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            trailers: None,
            keeping: true,
            lost: false,
            failed: false,
            attempt: 0,
            over: 0,
        }))))
    }

    /// Whether there is no body.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether a further attempt could send all of it.
    pub fn replayable(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| !shared.borrow().lost)
    }

    /// Whether its sender broke off.
    pub fn failed(&self) -> bool {
        self.0.as_ref().is_some_and(|shared| shared.borrow().failed)
    }

    /// The body for the next attempt, from the beginning; earlier attempts can't read any more.
    pub fn attempt(&self) -> UploadBody {
        let attempt = self.0.as_ref().map_or(0, |shared| {
            let mut shared = shared.borrow_mut();
            shared.attempt += 1;
            shared.attempt
        });
        UploadBody {
            shared: self.0.clone(),
            attempt,
            next: 0,
            trailed: false,
        }
    }

    /// No further attempt will follow: what is kept is only needed until the present one has sent it.
    pub fn forget(&self) {
        if let Some(shared) = &self.0 {
            shared.borrow_mut().keeping = false;
        }
    }
}

impl Shared {
    fn keep(&mut self, data: &Bytes) {
        let fits = self.kept_bytes + data.len() <= MAX_REPLAY && self.kept.len() < MAX_PIECES;
        if self.keeping && fits {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
            return;
        }
        self.keeping = false;
        self.lost = true;
        self.kept = Vec::new();
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut frame = match ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => {
                self.failed = true;
                return Poll::Ready(Some(Err(error)));
            }
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            self.keep(data);
        } else if let Some(trailers) = frame.trailers_mut() {
            clean(trailers);
            self.trailers = Some(trailers.clone());
        }
        Poll::Ready(Some(Ok(frame)))
    }
}

impl UploadBody {
    /// Tells whether it is still being sent.
    pub fn sending(&self) -> Sending {
        Sending {
            shared: self.shared.clone(),
            attempt: self.attempt,
        }
    }
}

impl Drop for UploadBody {
    fn drop(&mut self) {
        if let Some(shared) = &self.shared {
            let over = &mut shared.borrow_mut().over;
            *over = self.attempt.max(*over);
        }
    }
}

impl Sending {
    /// Whether its body was neither sent nor given up yet.
    pub fn under_way(&self) -> bool {
        self.shared
            .as_ref()
            .is_some_and(|shared| shared.borrow().over < self.attempt)
    }
}

impl http_body::Body for UploadBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let Some(shared) = &this.shared else {
            return Poll::Ready(None);
        };
        let shared = &mut *shared.borrow_mut();
        if shared.attempt != this.attempt {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(data) = shared.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        if let Some(trailers) = &shared.trailers {
            let again =
                (!std::mem::replace(&mut this.trailed, true)).then(|| Ok(Frame::trailers(trailers.clone())));
            return Poll::Ready(again);
        }
        let frame = ready!(shared.poll_source(cx));
        this.next = shared.kept.len();
        this.trailed = shared.trailers.is_some();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.shared.as_ref().is_none_or(|shared| {
            let shared = shared.borrow();
            self.next >= shared.kept.len()
                && shared.source.is_end_stream()
                && (self.trailed || shared.trailers.is_none())
        })
    }

    fn size_hint(&self) -> SizeHint {
        match &self.shared {
            None => SizeHint::with_exact(0),
            Some(shared) => shared
                .borrow()
                .length
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn body(size: usize) -> Upload {
        Upload::new(Bytes::from(vec![1; size]).into())
    }

    #[tokio::test]
    async fn a_small_body_is_sent_again_from_the_beginning() {
        let upload = body(MAX_REPLAY);
        for _ in 0..3 {
            assert!(upload.replayable());
            let sent = upload.attempt().collect().await.unwrap().to_bytes();
            assert_eq!(sent.len(), MAX_REPLAY);
        }
    }

    #[tokio::test]
    async fn a_long_body_streams_once() {
        let upload = body(MAX_REPLAY + 1);
        let sent = upload.attempt().collect().await.unwrap().to_bytes();
        assert_eq!(sent.len(), MAX_REPLAY + 1);
        assert!(!upload.replayable());
    }

    #[test]
    fn a_body_in_too_many_pieces_is_not_kept() {
        let upload = body(1);
        let shared = upload.0.as_ref().unwrap();
        for piece in 0..=MAX_PIECES {
            assert!(upload.replayable(), "{piece}");
            shared.borrow_mut().keep(&Bytes::from_static(b"x"));
        }
        assert!(!upload.replayable());
        assert_eq!(shared.borrow().kept.capacity(), 0);
    }

    #[test]
    fn a_body_is_being_sent_until_it_is_dropped() {
        let upload = body(10);
        let (first, second) = (upload.attempt(), upload.attempt());
        let both = [first.sending(), second.sending()];
        assert!(both.iter().all(Sending::under_way));
        drop(first);
        assert_eq!(both.each_ref().map(Sending::under_way), [false, true]);
        drop(second);
        assert!(!both.iter().any(Sending::under_way));
        assert!(!Upload::new(Body::Empty).attempt().sending().under_way());
    }

    #[tokio::test]
    async fn an_older_attempt_can_take_nothing() {
        let upload = body(10);
        let mut old = upload.attempt();
        let new = upload.attempt();
        assert!(matches!(old.frame().await, Some(Err(BodyError::Superseded))));
        assert_eq!(new.collect().await.unwrap().to_bytes().len(), 10);
    }

    #[test]
    fn no_body_has_a_known_length_and_no_frames() {
        let upload = Upload::new(Body::Empty);
        assert!(upload.is_empty() && upload.replayable());
        let attempt = upload.attempt();
        assert!(attempt.is_end_stream());
        assert_eq!(attempt.size_hint().exact(), Some(0));
    }
}
