//! The deferred flush: between `h2` and TLS, so that all frames that are ready leave in one write.
//!
//! `h2` writes to its transport whenever a payload of some size is queued, so that every response would become one
//! TLS record and one system call, however many responses are ready in the same turn. Here a write only appends to a
//! buffer and a flush is always "done"; the connection's flusher, a task that the first byte wakes, stands in the run
//! queue behind every task that is ready now, and when its turn comes it writes all that has gathered. There is no
//! timer: nothing ever waits for more to come.
//!
//! Fairness: in one turn a connection reads and writes at most [`TURN`], then others of its worker have theirs. What has
//! gathered is written from one buffer while the next gathers; above [`HIGH_WATER`] writers wait until that one's
//! turn comes, not until all is gone. So what stands before a frame is bounded, and its memory is given back after a
//! burst.
//!
//! The end: what a peer had sent and nobody read would turn our close into a reset, which throws away at the peer what we
//! said last (a GOAWAY's reason). So after our side is shut down, the flusher goes on reading for a while, for nothing.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// Bytes gathered before writers wait.
const HIGH_WATER: usize = 256 * 1024;
/// Bytes that a connection reads, and that it writes, before others have a turn.
const TURN: usize = 128 * 1024;
/// Memory that each of the two buffers may keep while idle, in bytes.
const KEPT: usize = 8 * 1024;
/// Small flushes in a row after which a buffer that has grown is given back.
const SMALL_FLUSHES: u32 = 64;
/// For the last words of a connection to leave, and for its peer to end it then.
pub const GOODBYE: Duration = Duration::from_secs(5);
/// Bytes that are read for nothing after our end, at most.
const DISCARDED: usize = 8 * 1024 * 1024;
/// Bytes that are read for nothing at once.
const SCRATCH: usize = 16 * 1024;

/// The transport as `h2` sees it.
#[derive(Debug)]
pub struct Deferred<S>(Rc<RefCell<Shared<S>>>);

/// What writes; [`run`](Self::run) is to be a task of its own.
#[derive(Debug)]
#[must_use = "nothing is written unless it runs"]
pub struct Flusher<S>(Rc<RefCell<Shared<S>>>);

#[derive(Debug)]
struct Shared<S> {
    stream: S,
    /// What will be written next.
    gathered: Vec<u8>,
    /// What is being written, and how much of it was.
    leaving: Vec<u8>,
    written: usize,
    /// Bytes read in this turn.
    read: usize,
    small_flushes: u32,
    unflushed: bool,
    closing: Closing,
    failed: Option<io::ErrorKind>,
    flusher: Option<Waker>,
    /// The connection's task: waits for room, for the shutdown, or to learn of an error.
    connection: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    No,
    /// The connection waits until all is written and our side is shut down.
    Wanted,
    /// The same, but it does not wait.
    Dropped,
    Done,
}

/// Puts a deferred flush in front of `stream`.
pub fn deferred<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> (Deferred<S>, Flusher<S>) {
    let shared = Rc::new(RefCell::new(Shared {
        stream,
        gathered: Vec::new(),
        leaving: Vec::new(),
        written: 0,
        read: 0,
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

    fn wake_connection(&mut self) {
        if let Some(waker) = self.connection.take() {
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

    fn close(&mut self, how: Closing) {
        if self.closing == Closing::No || self.closing == Closing::Wanted && how == Closing::Dropped {
            self.closing = how;
            self.wake_flusher();
        }
    }

    /// All of `leaving` is written: what has gathered leaves next. `false`: there is nothing.
    fn next(&mut self) -> bool {
        if self.written > KEPT {
            self.small_flushes = 0;
        } else {
            self.small_flushes = self.small_flushes.saturating_add(1);
        }
        self.written = 0;
        self.leaving.clear();
        if self.leaving.capacity() > KEPT && self.small_flushes > SMALL_FLUSHES {
            self.leaving = Vec::new();
        }
        if self.gathered.is_empty() {
            return false;
        }
        if self.gathered.len() >= HIGH_WATER {
            self.wake_connection();
        }
        mem::swap(&mut self.gathered, &mut self.leaving);
        true
    }
}

impl<S: AsyncWrite + Unpin> Shared<S> {
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut turn = TURN;
        while self.written < self.leaving.len() || self.next() {
            if turn == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.unflushed = true;
            let rest = &self.leaving[self.written..];
            let piece = &rest[..rest.len().min(turn)];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, piece))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => {
                    self.written += count;
                    turn -= count;
                }
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes what there is, and shuts our side down when that is wanted; ready when nothing more will be written.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flusher = Some(cx.waker().clone());
        let mut result = ready!(self.poll_drain(cx));
        if result.is_ok() {
            if self.closing == Closing::No {
                return Poll::Pending;
            }
            result = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            self.closing = Closing::Done;
        }
        self.failed = result.as_ref().err().map(io::Error::kind);
        self.wake_connection();
        Poll::Ready(result)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Flusher<S> {
    /// Writes until the transport is shut down or dropped or breaks, then waits a while for the peer to end, too.
    pub async fn run(self) {
        let served = poll_fn(|cx| {
            let shared = &mut *self.0.borrow_mut();
            match shared.poll_written(cx) {
                Poll::Pending if shared.closing == Closing::Dropped => Poll::Ready(None),
                written => written.map(Some),
            }
        });
        let served = served.await;
        // A peer that takes nothing any more is not waited for.
        let goodbye = async {
            let written = match served {
                Some(written) => written,
                None => poll_fn(|cx| self.0.borrow_mut().poll_written(cx)).await,
            };
            if written.is_ok() {
                self.discard().await;
            }
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }

    /// Reads for nothing until the peer ends.
    async fn discard(&self) {
        let mut scratch = vec![0; SCRATCH];
        let mut discarded = 0;
        while discarded < DISCARDED {
            let mut buf = ReadBuf::new(&mut scratch);
            let read = poll_fn(|cx| Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, &mut buf));
            if read.await.is_err() || buf.filled().is_empty() {
                return;
            }
            discarded += buf.filled().len();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Deferred<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let shared = &mut *self.0.borrow_mut();
        shared.check()?;
        if shared.read >= TURN {
            shared.read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut shared.stream).poll_read(cx, buf);
        if read.is_pending() {
            shared.read = 0;
            shared.remember_connection(cx);
        } else {
            shared.read += buf.filled().len() - before;
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
        if before == 0 && shared.leaving.is_empty() {
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
        if shared.closing == Closing::Done {
            return Poll::Ready(Ok(()));
        }
        shared.close(Closing::Wanted);
        shared.remember_connection(cx);
        Poll::Pending
    }
}

impl<S> Drop for Deferred<S> {
    fn drop(&mut self) {
        self.0.borrow_mut().close(Closing::Dropped);
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
                spawn_local(flusher.run());
                yield_now().await;
                let stream = Rc::new(RefCell::new(stream));
                for _ in 0..10 {
                    let stream = Rc::clone(&stream);
                    spawn_local(async move {
                        let write =
                            poll_fn(|cx| Pin::new(&mut *stream.borrow_mut()).poll_write(cx, &[0; 100]));
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
                spawn_local(flusher.run());
                let block = vec![0; HIGH_WATER];
                for _ in ["what leaves", "what gathers"] {
                    stream.write_all(&block).await.unwrap();
                }
                let writing = spawn_local(async move { stream.write_all(b"more").await });
                for _ in 0..10 {
                    yield_now().await;
                }
                assert!(!writing.is_finished());
                limit.set(usize::MAX);
                let stuck: Vec<Waker> = waker.borrow_mut().drain(..).collect();
                stuck.into_iter().for_each(Waker::wake);
                writing.await.unwrap().unwrap();
                while writes.borrow().iter().sum::<usize>() < 2 * HIGH_WATER + 4 {
                    yield_now().await;
                }
            })
            .await;
    }

    #[tokio::test]
    async fn writers_go_on_while_what_they_wrote_before_still_leaves() {
        LocalSet::new()
            .run_until(async {
                let (sink, writes) = sink(10);
                let (mut stream, flusher) = deferred(sink);
                spawn_local(flusher.run());
                stream.write_all(&vec![0; HIGH_WATER]).await.unwrap();
                let writing = spawn_local(async move {
                    stream.write_all(&vec![0; HIGH_WATER]).await.unwrap();
                    stream
                });
                let stream = writing.await.unwrap();
                assert_eq!(*writes.borrow(), [10]);
                assert_eq!(stream.0.borrow().gathered.len(), HIGH_WATER);
            })
            .await;
    }

    #[tokio::test]
    async fn others_have_their_turn_while_much_leaves_and_comes() {
        LocalSet::new()
            .run_until(async {
                let (sink, writes) = sink(usize::MAX);
                let (mut stream, flusher) = deferred(sink);
                stream.write_all(&vec![0; 2 * TURN]).await.unwrap();
                for turns in 1..=2 {
                    let over = poll_fn(|cx| Poll::Ready(flusher.0.borrow_mut().poll_drain(cx).is_ready()));
                    assert_eq!((over.await, writes.borrow().len()), (turns == 2, turns));
                }
                assert_eq!(*writes.borrow(), [TURN, TURN]);
                let (near, mut far) = tokio::io::duplex(4 * TURN);
                let (mut stream, _flusher) = deferred(near);
                far.write_all(&vec![0; 3 * TURN]).await.unwrap();
                let (mut scratch, mut taken) = (vec![0; KEPT], 0);
                let reading = poll_fn(|cx| {
                    loop {
                        let mut buf = ReadBuf::new(&mut scratch);
                        if Pin::new(&mut stream).poll_read(cx, &mut buf).is_pending() {
                            return Poll::Ready(());
                        }
                        taken += buf.filled().len();
                    }
                });
                reading.await;
                assert_eq!(taken, TURN);
            })
            .await;
    }

    #[tokio::test]
    async fn what_nobody_read_does_not_take_away_what_was_said_last() {
        LocalSet::new()
            .run_until(async {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let mut far = tokio::net::TcpStream::connect(address).await.unwrap();
                let (mut stream, flusher) = deferred(listener.accept().await.unwrap().0);
                let flusher = spawn_local(flusher.run());
                // What is on its way when we end, and what comes later.
                far.write_all(&[1; 1000]).await.unwrap();
                stream.write_all(b"goodbye").await.unwrap();
                stream.shutdown().await.unwrap();
                drop(stream);
                far.write_all(&[1; 1000]).await.unwrap();
                assert!(!flusher.is_finished());
                let mut said = Vec::new();
                far.read_to_end(&mut said).await.unwrap();
                assert_eq!(said, b"goodbye");
                far.write_all(&[1; 1000]).await.unwrap();
                drop(far);
                flusher.await.unwrap();
            })
            .await;
    }

    #[tokio::test]
    async fn what_was_written_before_the_drop_still_arrives() {
        LocalSet::new()
            .run_until(async {
                let (near, mut far) = tokio::io::duplex(64);
                let (mut stream, flusher) = deferred(near);
                spawn_local(flusher.run());
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
                spawn_local(flusher.run());
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
