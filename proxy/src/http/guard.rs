//! A budget for what `h2` takes without a murmur: control frames and resets.
//!
//! `h2` answers any number of PINGs and SETTINGS, reads any number of PRIORITY frames, and lets a slow drip of resets
//! start and abandon one upstream request after another. [`Guarded`] reads the nine-byte frame headers as they pass
//! beneath it and counts; over the budget it stops reading, and the connection's owner answers with
//! GOAWAY (`ENHANCE_YOUR_CALM`). Frames that carry requests or data earn further control frames, so that a busy
//! connection is not confused with a flood. `WINDOW_UPDATE` is not counted: a peer that only downloads sends nothing
//! else, and one costs nothing but its parsing.
//!
//! It also sees when a block of fields has begun and is not whole, which `h2` would wait for without end.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::drain::HeadClock;

/// What a peer may send, each per connection and minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// PING, SETTINGS, PRIORITY and unknown frames beside what traffic earns.
    pub control: u32,
    /// Resets.
    pub resets: u32,
    /// Of the streams opened, this many percent may be reset before `resets` is touched.
    pub resets_percent: u32,
}

impl Budget {
    /// For connections from applications.
    pub const APPLICATION: Self = Self {
        control: 1_000,
        resets: 100,
        resets_percent: 0,
    };
    /// For connections from other sidecars, which carry the cancellations of many applications.
    pub const MESH: Self = Self {
        control: 10_000,
        resets: 1_000,
        resets_percent: 50,
    };
}

/// Control frames that one HEADERS or DATA frame earns.
const EARNED: u32 = 2;
/// Length of the window, in seconds.
const WINDOW: u32 = 60;
const PREFACE: usize = 24;
const FRAME_HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// Counts frames in a stream of bytes.
#[derive(Debug)]
struct Meter {
    budget: Budget,
    /// Bytes until the next frame header.
    skip: usize,
    head: [u8; FRAME_HEAD],
    filled: usize,
    window_start: u32,
    control: u32,
    earned: u32,
    resets: u32,
    opened: u32,
    block: Block,
}

/// A block of fields: HEADERS, and CONTINUATION until one says that it is the last (RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    /// None, or one that is whole.
    None,
    /// Its last frame is not whole.
    Last,
    /// More frames follow.
    Open,
}

impl Meter {
    fn new(budget: Budget) -> Self {
        Self {
            budget,
            skip: PREFACE,
            head: [0; FRAME_HEAD],
            filled: 0,
            window_start: 0,
            control: 0,
            earned: 0,
            resets: 0,
            opened: 0,
            block: Block::None,
        }
    }

    /// A block of fields has begun and is not whole.
    fn within_block(&self) -> bool {
        match self.block {
            Block::None => false,
            Block::Last => self.skip > 0,
            Block::Open => true,
        }
    }

    /// Counts the frames whose headers end in `bytes`; `false` when the budget is exceeded. `second` is a clock of
    /// whole seconds from any start.
    fn observe(&mut self, mut bytes: &[u8], second: u32) -> bool {
        if second.wrapping_sub(self.window_start) >= WINDOW {
            self.window_start = second;
            (self.control, self.earned, self.resets, self.opened) = (0, 0, 0, 0);
        }
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let taken = (FRAME_HEAD - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == FRAME_HEAD {
                self.filled = 0;
                let [a, b, c, kind, flags, ..] = self.head;
                self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.block = match kind {
                    HEADERS | CONTINUATION if flags & END_HEADERS == 0 => Block::Open,
                    HEADERS | CONTINUATION => Block::Last,
                    _ => Block::None,
                };
                if !self.count(kind) {
                    return false;
                }
            }
        }
        true
    }

    fn count(&mut self, kind: u8) -> bool {
        match kind {
            DATA => self.earned = self.earned.saturating_add(EARNED),
            HEADERS => {
                self.earned = self.earned.saturating_add(EARNED);
                self.opened = self.opened.saturating_add(1);
            }
            RST_STREAM => self.resets = self.resets.saturating_add(1),
            WINDOW_UPDATE | CONTINUATION => {}
            _ => self.control = self.control.saturating_add(1),
        }
        let share = u64::from(self.opened) * u64::from(self.budget.resets_percent) / 100;
        let resets = u64::from(self.budget.resets) + share;
        self.control <= self.budget.control.saturating_add(self.earned) && u64::from(self.resets) <= resets
    }
}

/// Tells a connection's owner that its peer went over the budget.
#[derive(Clone, Debug, Default)]
pub struct Alarm(Rc<Cell<bool>>);

impl Alarm {
    /// The peer went over the budget.
    pub fn raised(&self) -> bool {
        self.0.get()
    }
}

/// A transport whose incoming frames are counted.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    meter: Meter,
    alarm: Alarm,
    clock: HeadClock,
}

impl<S> Guarded<S> {
    /// Counts what comes from `stream`, an HTTP/2 client, by the time of `clock`, and tells that when a block of fields
    /// begins and ends.
    pub fn new(stream: S, budget: Budget, clock: HeadClock) -> (Self, Alarm) {
        let alarm = Alarm::default();
        (
            Self {
                stream,
                meter: Meter::new(budget),
                alarm: alarm.clone(),
                clock,
            },
            alarm,
        )
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.alarm.raised() {
            return Poll::Pending; // the owner has been woken and ends the connection
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let second = self.clock.second();
        if !self.meter.observe(&buf.filled()[before..], second) {
            self.alarm.0.set(true);
            cx.waker().wake_by_ref();
        }
        self.clock.within_block(self.meter.within_block());
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let mut frame = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, 0, 0, 0, 0, 1]);
        frame.extend(vec![0xff; length]);
        frame
    }

    fn fed(budget: Budget, frames: &[(u8, usize, usize)], piece: usize) -> bool {
        let mut bytes = vec![0xff; PREFACE];
        for (kind, length, times) in frames {
            for _ in 0..*times {
                bytes.extend(frame(*kind, *length));
            }
        }
        let mut meter = Meter::new(budget);
        bytes.chunks(piece).all(|chunk| meter.observe(chunk, 0))
    }

    const PING: u8 = 6;
    const SMALL: Budget = Budget {
        control: 10,
        resets: 5,
        resets_percent: 50,
    };

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        for piece in [1, 2, 7, 9, 64, 1_000_000] {
            assert!(fed(SMALL, &[(PING, 8, 10)], piece), "{piece}");
            assert!(!fed(SMALL, &[(PING, 8, 11)], piece), "{piece}");
        }
    }

    #[test]
    fn traffic_earns_control_frames_and_streams_earn_resets() {
        assert!(fed(SMALL, &[(DATA, 100, 5), (PING, 8, 20)], 33));
        assert!(!fed(SMALL, &[(DATA, 100, 5), (PING, 8, 21)], 33));
        assert!(fed(SMALL, &[(HEADERS, 30, 10), (RST_STREAM, 4, 10)], 33));
        assert!(!fed(SMALL, &[(HEADERS, 30, 10), (RST_STREAM, 4, 11)], 33));
        assert!(fed(SMALL, &[(WINDOW_UPDATE, 4, 1_000)], 33));
    }

    #[test]
    fn a_block_of_fields_is_open_until_its_last_byte() {
        let framed = |kind, flags, fields: &[u8]| {
            let mut bytes = frame(kind, fields.len());
            bytes[4] = flags;
            bytes
        };
        let block = [
            framed(HEADERS, 0, b"ab"),
            framed(CONTINUATION, 0, b""),
            framed(CONTINUATION, END_HEADERS, b"c"),
        ];
        let bytes = block.concat();
        let mut meter = Meter::new(SMALL);
        assert!(meter.observe(&[0; PREFACE], 0));
        for (at, byte) in bytes.iter().enumerate() {
            assert_eq!(meter.within_block(), at >= FRAME_HEAD, "{at}");
            assert!(meter.observe(&[*byte], 0));
        }
        assert!(!meter.within_block());
        let one = framed(HEADERS, END_HEADERS, b"ab");
        assert!(meter.observe(&one[..=FRAME_HEAD], 0));
        assert!(meter.within_block());
        assert!(meter.observe(&one[FRAME_HEAD + 1..], 0));
        assert!(!meter.within_block());
    }

    #[test]
    fn the_window_starts_anew_after_a_minute() {
        let mut meter = Meter::new(SMALL);
        assert!(meter.observe(&[0; PREFACE], 0));
        for second in [0, WINDOW, 2 * WINDOW] {
            for _ in 0..10 {
                assert!(meter.observe(&frame(PING, 8), second));
            }
        }
        assert!(!meter.observe(&frame(PING, 8), 2 * WINDOW));
    }
}
