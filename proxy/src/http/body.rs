//! A message body from either version of HTTP, or made here.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::h2::RecvStream;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use weft_proxy_core::hygiene::clean_trailers;

use super::h2::Pump;

/// Why a body ended before its end.
#[derive(Debug, Error)]
pub enum BodyError {
    /// An HTTP/1 sender broke off or broke the framing.
    #[error("the HTTP/1 body broke off: {0}")]
    Http1(#[from] hyper::Error),
    /// An HTTP/2 sender reset the stream, or its connection ended.
    #[error("the HTTP/2 body broke off: {0}")]
    Http2(#[from] ::h2::Error),
    /// The exchange's deadline passed.
    #[error("the exchange's time was up")]
    Late,
    /// Another attempt reads the body now.
    #[error("the attempt was given up")]
    Superseded,
}

/// A body: data frames, then perhaps trailers.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// One piece.
    Full(Bytes),
    /// From `hyper`.
    Http1(Incoming),
    /// From `h2`; a response holds the task that still sends its request's body.
    Http2(RecvStream, Option<Pump>),
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        if bytes.is_empty() {
            Self::Empty
        } else {
            Self::Full(bytes)
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Http1),
            Self::Http2(body, _) => poll_http2(body, cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body, _) if body.is_end_stream() => SizeHint::with_exact(0),
            Self::Http2(..) => SizeHint::default(),
        }
    }
}

/// Window is given back as data is taken: who takes it has room for it.
fn poll_http2(body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    match ready!(body.poll_data(cx)) {
        Some(Ok(data)) => {
            // Fails only for a stream that is gone, which the next poll reports.
            let _ = body.flow_control().release_capacity(data.len());
            Poll::Ready(Some(Ok(Frame::data(data))))
        }
        Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
        None => match ready!(body.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        },
    }
}

/// Drops what may not stand in a trailer section; one that is too long goes as a whole.
pub fn clean(trailers: &mut HeaderMap) {
    if clean_trailers(trailers).is_err() {
        trailers.clear();
    }
}
