//! The relay for opaque bytes: two directions, each ended by itself.
//!
//! An end of stream passes as an end of stream (FIN, or `close_notify` and FIN on TLS) while the other direction goes
//! on; a reset passes as a reset. Memory follows what is stuck, not what is open: a direction reads into a buffer that
//! the whole worker shares and writes at once; only what the peer did not take is copied into a buffer of its own, and
//! while there is such a rest nothing more is read. An idle connection therefore holds no buffer at all.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Stream;

/// Bytes read at once, and the most a stuck direction holds.
const CHUNK: usize = 64 * 1024;
/// Chunks a direction moves before it lets other connections of this worker have a turn.
const CHUNKS_PER_TURN: u32 = 4;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions ended by themselves.
    Clean,
    /// The first stream broke.
    FirstBroke,
    /// The second stream broke.
    SecondBroke,
}

/// What a relay did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relayed {
    /// Bytes from the first to the second stream.
    pub forth: u64,
    /// Bytes from the second to the first stream.
    pub back: u64,
    /// How it ended.
    pub end: End,
}

/// Relays until both directions have ended or either stream breaks; a break is passed on as a reset.
pub async fn relay(mut first: Stream, mut second: Stream) -> Relayed {
    let mut forth = Direction::default();
    let mut back = Direction::default();
    let end = poll_fn(|cx| poll_relay(cx, &mut first, &mut second, &mut forth, &mut back)).await;
    if end != End::Clean {
        first.reset_on_close();
        second.reset_on_close();
    }
    Relayed {
        forth: forth.moved,
        back: back.moved,
        end,
    }
}

fn poll_relay(
    cx: &mut Context<'_>,
    first: &mut Stream,
    second: &mut Stream,
    forth: &mut Direction,
    back: &mut Direction,
) -> Poll<End> {
    match (forth.poll(cx, first, second), back.poll(cx, second, first)) {
        (Poll::Ready(Err(Broke::Source)), _) | (_, Poll::Ready(Err(Broke::Sink))) => {
            Poll::Ready(End::FirstBroke)
        }
        (Poll::Ready(Err(Broke::Sink)), _) | (_, Poll::Ready(Err(Broke::Source))) => {
            Poll::Ready(End::SecondBroke)
        }
        (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Clean),
        _ => Poll::Pending,
    }
}

#[derive(Clone, Copy)]
enum Broke {
    Source,
    Sink,
}

/// One direction of a relay.
#[derive(Default)]
struct Direction {
    rest: Vec<u8>,
    written: usize,
    moved: u64,
    unflushed: bool,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The source has ended; the rest is written, then the sink is shut down.
    Ending,
    Ended,
}

impl Direction {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        sink: &mut Stream,
    ) -> Poll<Result<(), Broke>> {
        for _ in 0..CHUNKS_PER_TURN {
            match self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Ending => {
                    ready!(self.poll_rest(cx, sink)).map_err(|_| Broke::Sink)?;
                    ready!(Pin::new(&mut *sink).poll_shutdown(cx)).map_err(|_| Broke::Sink)?;
                    self.state = State::Ended;
                }
                State::Open => {
                    ready!(self.poll_rest(cx, sink)).map_err(|_| Broke::Sink)?;
                    ready!(SCRATCH.with_borrow_mut(|scratch| self.poll_chunk(cx, source, sink, scratch)))?;
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what the sink did not take before.
    fn poll_rest(&mut self, cx: &mut Context<'_>, sink: &mut Stream) -> Poll<io::Result<()>> {
        while self.written < self.rest.len() {
            match ready!(Pin::new(&mut *sink).poll_write(cx, &self.rest[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.rest = Vec::new();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Moves one chunk; `Pending` when the source has nothing (then what was written is flushed).
    fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Stream,
        sink: &mut Stream,
        scratch: &mut [u8],
    ) -> Poll<Result<(), Broke>> {
        let mut chunk = ReadBuf::new(scratch);
        match Pin::new(source).poll_read(cx, &mut chunk) {
            Poll::Pending => {
                if self.unflushed {
                    ready!(Pin::new(sink).poll_flush(cx)).map_err(|_| Broke::Sink)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            Poll::Ready(read) => read.map_err(|_| Broke::Source)?,
        }
        let bytes = chunk.filled();
        if bytes.is_empty() {
            self.state = State::Ending;
            return Poll::Ready(Ok(()));
        }
        self.moved += bytes.len() as u64;
        self.unflushed = true;
        let taken = match Pin::new(sink).poll_write(cx, bytes) {
            Poll::Pending => 0,
            Poll::Ready(count) => count.map_err(|_| Broke::Sink)?,
        };
        self.rest.extend_from_slice(&bytes[taken..]);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    const TOTAL: usize = 32 << 20;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        (near.unwrap(), far.unwrap().0)
    }

    /// Two ends with a relay between them.
    async fn relayed() -> (TcpStream, TcpStream, tokio::task::JoinHandle<Relayed>) {
        let (client, left) = pair().await;
        let (right, server) = pair().await;
        let task = tokio::spawn(async move { relay(left.into(), right.into()).await });
        (client, server, task)
    }

    #[tokio::test]
    async fn each_direction_ends_by_itself() {
        let (mut client, mut server, task) = relayed().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        server.write_all(b"a longer answer").await.unwrap();
        drop(server);
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"a longer answer");
        assert_eq!(
            task.await.unwrap(),
            Relayed {
                forth: 8,
                back: 15,
                end: End::Clean
            }
        );
    }

    #[tokio::test]
    async fn a_reset_stays_a_reset() {
        let (mut client, mut server, task) = relayed().await;
        client.write_all(b"x").await.unwrap();
        server.read_u8().await.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(task.await.unwrap().end, End::SecondBroke);
    }

    #[tokio::test]
    async fn a_reader_that_stalls_holds_up_its_writer_and_loses_nothing() {
        let (mut client, mut server, task) = relayed().await;
        let writer = tokio::spawn(async move {
            let block = vec![7_u8; 1 << 20];
            for _ in 0..TOTAL >> 20 {
                client.write_all(&block).await.unwrap();
            }
            client.shutdown().await.unwrap();
            client
        });
        tokio::task::yield_now().await;
        assert!(!writer.is_finished(), "32 MiB can't all sit in buffers");
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), TOTAL);
        drop(server);
        drop(writer.await.unwrap());
        assert_eq!(task.await.unwrap().forth, TOTAL as u64);
    }
}
