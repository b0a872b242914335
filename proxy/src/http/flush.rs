//! The deferred flush: between `h2` and TLS, so that all frames that are ready leave in one write.
//!
//! `h2` writes to its transport whenever a payload of some size is queued, so that every response would become one
//! TLS record and one system call, however many responses are ready in the same turn. Here a write only appends to a
//! buffer and a flush is always "done"; the connection's flusher, a task that the first byte wakes, stands in the run
//! queue behind every task that is ready now, and when its turn comes it writes all that has gathered. There is no
//! timer: nothing ever waits for more to come. Above [`HIGH_WATER`] writers wait (backpressure), and the buffer gives
//! its memory back after a burst.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes gathered before writers wait.
const HIGH_WATER: usize = 1024 * 1024;
/// Memory that an idle buffer may keep, in bytes.
const KEPT: usize = 16 * 1024;
/// Small flushes in a row after which a buffer that has grown is given back.
const SMALL_FLUSHES: u32 = 64;

/// The transport as `h2` sees it.
#[derive(Debug)]
pub struct Deferred<S>(Rc<RefCell<Shared<S>>>);

/// The task that writes; it ends when the transport is shut down or dropped and all is written, or on an error.
#[derive(Debug)]
#[must_use = "nothing is written unless it is spawned"]
pub struct Flusher<S>(Rc<RefCell<Shared<S>>>);

#[derive(Debug)]
struct Shared<S> {
    stream: S,
    gathered: Vec<u8>,
    written: usize,
    small_flushes: u32,
    unflushed: bool,
    closing: Closing,
    failed: Option<io::ErrorKind>,
    flusher: Option<Waker>,
    /// The connection's task: waits for room, for the shutdown, or to learn of an error.
    connection: Option<Waker>,
}

#[derive(Debug, PartialEq, Eq)]
enum Closing {
    No,
    Wanted,
    Done,
}

/// Puts a deferred flush in front of `stream`.
pub fn deferred<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (Deferred<S>, Flusher<S>) {
    let shared = Rc::new(RefCell::new(Shared {
        stream,
        gathered: Vec::new(),
        written: 0,
        small_flushes: 0,
        unflushed: false,
        closing: Closing::No,
        failed: None,
        flusher: None,
        connection: None,
    }));
    (Deferred(Rc::clone(&shared)), Flusher(shared))
}

impl<S> Shared<S> {
    fn wake_flusher(&mut self) {
        if let Some(waker) = self.flusher.take() {
            waker.wake();
        }
    }

    fn remember_connection(&mut self, cx: &Context<'_>) {
        match &mut self.connection {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    fn check(&self) -> io::Result<()> {
        self.failed.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl<S: AsyncWrite + Unpin> Shared<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.gathered.len() {
            self.unflushed = true;
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.gathered[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.recycle();
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn recycle(&mut self) {
        if self.written > KEPT {
            self.small_flushes = 0;
        } else {
            self.small_flushes += 1;
        }
        self.written = 0;
        self.gathered.clear();
        if self.gathered.capacity() > KEPT && self.small_flushes > SMALL_FLUSHES {
            self.gathered = Vec::with_capacity(KEPT);
        }
    }
}

impl<S: AsyncWrite + Unpin> Future for Flusher<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let shared = &mut *self.0.borrow_mut();
        shared.flusher = Some(cx.waker().clone());
        let was_full = shared.gathered.len() >= HIGH_WATER;
        let mut result = ready!(shared.poll_drain(cx));
        if result.is_ok() && shared.closing == Closing::Wanted {
            result = ready!(Pin::new(&mut shared.stream).poll_shutdown(cx));
            shared.closing = Closing::Done;
        }
        if let Err(error) = &result {
            shared.failed = Some(error.kind());
        }
        let over = result.is_err() || shared.closing == Closing::Done;
        if (over || was_full)
            && let Some(waker) = shared.connection.take()
        {
            waker.wake();
        }
        if over { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Deferred<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.0.borrow_mut();
        shared.check()?;
        let read = Pin::new(&mut shared.stream).poll_read(cx, buf);
        if read.is_pending() {
            shared.remember_connection(cx);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Deferred<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let shared = &mut *self.0.borrow_mut();
        shared.check()?;
        if shared.gathered.len() >= HIGH_WATER {
            shared.remember_connection(cx);
            return Poll::Pending;
        }
        let before = shared.gathered.len();
        for buf in bufs {
            shared.gathered.extend_from_slice(buf);
        }
        if before == 0 {
            shared.wake_flusher();
        }
        Poll::Ready(Ok(shared.gathered.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.borrow().check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.0.borrow_mut();
        shared.check()?;
        match shared.closing {
            Closing::Done => return Poll::Ready(Ok(())),
            Closing::Wanted => {}
            Closing::No => {
                shared.closing = Closing::Wanted;
                shared.wake_flusher();
            }
        }
        shared.remember_connection(cx);
        Poll::Pending
    }
}

impl<S> Drop for Deferred<S> {
    fn drop(&mut self) {
        let mut shared = self.0.borrow_mut();
        if shared.closing == Closing::No {
            shared.closing = Closing::Wanted;
            shared.wake_flusher();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::VecDeque;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::{LocalSet, spawn_local, yield_now};

    /// Counts writes; takes at most `limit` bytes in all.
    #[derive(Default)]
    struct Sink {
        writes: Rc<RefCell<Vec<usize>>>,
        limit: Rc<Cell<usize>>,
        waker: Rc<RefCell<VecDeque<Waker>>>,
    }

    impl AsyncRead for Sink {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Sink {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            let room = self.limit.get();
            if room == 0 {
                self.waker.borrow_mut().push_back(cx.waker().clone());
                return Poll::Pending;
            }
            let count = buf.len().min(room);
            self.limit.set(room - count);
            self.writes.borrow_mut().push(count);
            Poll::Ready(Ok(count))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn sink(limit: usize) -> (Sink, Rc<RefCell<Vec<usize>>>) {
        let sink = Sink::default();
        sink.limit.set(limit);
        let writes = Rc::clone(&sink.writes);
        (sink, writes)
    }

    #[tokio::test]
    async fn all_that_is_ready_leaves_in_one_write() {
        LocalSet::new()
            .run_until(async {
                let (sink, writes) = sink(usize::MAX);
                let (stream, flusher) = deferred(sink);
                spawn_local(flusher);
                yield_now().await;
                let stream = Rc::new(RefCell::new(stream));
                for _ in 0..10 {
                    let stream = Rc::clone(&stream);
                    spawn_local(async move {
                        let write = std::future::poll_fn(|cx| {
                            Pin::new(&mut *stream.borrow_mut()).poll_write(cx, &[0; 100])
                        });
                        write.await.unwrap();
                    });
                }
                while writes.borrow().is_empty() {
                    yield_now().await;
                }
                assert_eq!(*writes.borrow(), [1000]);
            })
            .await;
    }

    #[tokio::test]
    async fn writers_wait_above_high_water_and_go_on_below() {
        LocalSet::new()
            .run_until(async {
                let (sink, writes) = sink(0);
                let (limit, waker) = (Rc::clone(&sink.limit), Rc::clone(&sink.waker));
                let (mut stream, flusher) = deferred(sink);
                spawn_local(flusher);
                let block = vec![0; HIGH_WATER];
                stream.write_all(&block).await.unwrap();
                let writing = spawn_local(async move { stream.write_all(b"more").await });
                for _ in 0..10 {
                    yield_now().await;
                }
                assert!(!writing.is_finished());
                limit.set(usize::MAX);
                let stuck: Vec<Waker> = waker.borrow_mut().drain(..).collect();
                stuck.into_iter().for_each(Waker::wake);
                writing.await.unwrap().unwrap();
                while writes.borrow().iter().sum::<usize>() < HIGH_WATER + 4 {
                    yield_now().await;
                }
            })
            .await;
    }

    #[tokio::test]
    async fn what_was_written_before_the_drop_still_arrives() {
        LocalSet::new()
            .run_until(async {
                let (near, mut far) = tokio::io::duplex(64);
                let (mut stream, flusher) = deferred(near);
                spawn_local(flusher);
                stream.write_all(&[5; 1000]).await.unwrap();
                drop(stream);
                let mut received = Vec::new();
                far.read_to_end(&mut received).await.unwrap();
                assert_eq!(received, vec![5; 1000]);
            })
            .await;
    }

    #[tokio::test]
    async fn a_failed_write_is_told_to_the_next_one_and_to_a_waiting_reader() {
        LocalSet::new()
            .run_until(async {
                let (near, far) = tokio::io::duplex(64);
                let (mut stream, flusher) = deferred(near);
                spawn_local(flusher);
                drop(far);
                stream.write_all(b"lost").await.unwrap();
                while stream.write_all(b"x").await.is_ok() {
                    yield_now().await;
                }
                assert!(stream.read_u8().await.is_err());
            })
            .await;
    }
}
