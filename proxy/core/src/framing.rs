//! Where messages begin and end on an HTTP/1 connection, strictly.
//!
//! Two readers of one connection must agree on where each message ends; who makes them disagree smuggles a request. The
//! HTTP library is lenient where RFC 9112 lets it be: it takes a bare LF for the end of a line, and drops a
//! `Content-Length` beside a `Transfer-Encoding`. A [`Scanner`] reads the same bytes before it, and says at which byte
//! they stop being beyond doubt; nothing from there on is to be handed to the library.
//!
//! What it refuses, beyond what the library refuses by itself: a line of a head, a chunk or a trailer section that does
//! not end in CRLF, a folded field, both lengths, a length that is not exactly one number, a coding that is not exactly
//! one `chunked`, and chunks that are not by the letter. It keeps no bytes: its state is a few words, however the
//! connection's bytes are cut.

use memchr::memchr2;

use crate::hygiene::Violation;

/// Bytes that are no longer to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// How many of the bytes are still good.
    pub at: usize,
    /// What is wrong.
    pub violation: Violation,
    /// It is in a body or its trailer section: the head before it has been handed on already.
    pub in_body: bool,
}

/// Reads one direction of a connection.
#[derive(Clone, Debug)]
pub struct Scanner {
    state: State,
    head: Head,
    responses: bool,
    /// Bytes have come while [`State::Held`].
    early: bool,
}

/// What is known of the head that is being read.
#[derive(Clone, Copy, Debug, Default)]
struct Head {
    length: Option<u64>,
    chunked: bool,
    upgrade: bool,
    connect: bool,
    /// A response's status so far.
    status: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a first line; empty lines are passed over (RFC 9112 section 2.2).
    Start,
    /// The CR of an empty line before the first line has passed.
    StartLf,
    /// So many bytes of the method are those of [`CONNECT`].
    Method(u8),
    /// So many bytes of a status line have passed.
    Status(u8),
    /// The rest of a line that says nothing about framing.
    Line,
    /// The CR of a line has passed.
    LineLf,
    /// At the beginning of a field line, or of the empty line.
    LineStart,
    /// So many bytes of a name are this field's.
    Name(Field, u8),
    /// In this field's value.
    Value(Field, Value),
    /// The CR of the empty line has passed.
    HeadLf,
    /// Bytes of a body are left.
    Body(u64),
    Chunk(Chunk),
    /// After a head that may end HTTP on this connection, until [`Scanner::resume`].
    Held,
    /// After a response's head, until [`Scanner::expect`].
    Passing,
    Broken(Violation, bool),
}

/// Within a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The size so far; `None` before its first digit.
    Size(Option<u64>),
    /// White space behind the size.
    Space(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    /// At the beginning of a trailer line, or of the empty line.
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
}

/// Fields that say something about framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    ContentLength,
    TransferEncoding,
    Upgrade,
}

/// The value of such a field, so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Value {
    /// The number, or how many bytes of [`CHUNKED`].
    read: u64,
    /// It has begun.
    begun: bool,
    /// White space has followed.
    ended: bool,
    wrong: bool,
}

const CONNECT: &[u8] = b"CONNECT ";
const CHUNKED: &[u8] = b"chunked";
/// Where a status line has its status.
const STATUS: std::ops::Range<u8> = 9..12;

impl Scanner {
    /// Reads requests.
    pub fn requests() -> Self {
        Self {
            state: State::Start,
            head: Head::default(),
            responses: false,
            early: false,
        }
    }

    /// Reads responses: the head of each after [`Scanner::expect`]. Where a response's body ends depends on its
    /// request, so bodies are passed over unread.
    pub fn responses() -> Self {
        Self {
            state: State::Passing,
            responses: true,
            ..Self::requests()
        }
    }

    /// Reads on. After a flaw every further byte is refused.
    pub fn scan(&mut self, bytes: &[u8]) -> Result<(), Flaw> {
        let mut at = 0;
        while let Some((byte, rest)) = bytes.get(at..).and_then(<[u8]>::split_first) {
            match self.step(*byte, rest) {
                Ok(taken) => at += taken,
                Err(violation) => {
                    let in_body = matches!(self.state, State::Chunk(_) | State::Broken(_, true));
                    self.state = State::Broken(violation, in_body);
                    return Err(Flaw {
                        at,
                        violation,
                        in_body,
                    });
                }
            }
        }
        Ok(())
    }

    /// A head has begun and is not whole.
    pub fn within_head(&self) -> bool {
        use State::{HeadLf, Line, LineLf, LineStart, Method, Name, Status, Value};
        matches!(
            self.state,
            Method(_) | Status(_) | Line | LineLf | LineStart | Name(..) | Value(..) | HeadLf
        )
    }

    /// The request that may have ended HTTP did not: requests go on. `false`: bytes came too early and unread, so that
    /// nobody knows what they are; the connection must end.
    pub fn resume(&mut self) -> bool {
        if self.state == State::Held {
            self.state = State::Start;
        }
        !self.early
    }

    /// A request is sent: what comes next is the head of its response.
    pub fn expect(&mut self) {
        if self.state == State::Passing {
            self.state = State::Start;
        }
    }

    /// Takes `byte`, and as many of the `rest` as need no look; says how many these were. 0: look again.
    fn step(&mut self, byte: u8, rest: &[u8]) -> Result<usize, Violation> {
        match self.state {
            State::Start | State::StartLf | State::Method(_) | State::Status(_) => self.first_line(byte),
            State::Line => self.line(byte, rest),
            State::LineLf => self.must_be(byte, b'\n', State::LineStart, Violation::LineEnd),
            State::LineStart => self.line_start(byte),
            State::Name(field, at) => Ok(self.name(field, at, byte)),
            State::Value(field, value) => self.value(field, value, byte),
            State::HeadLf => {
                let next = self.after_head();
                self.must_be(byte, b'\n', next, Violation::LineEnd)
            }
            State::Body(left) => {
                let (taken, left) = take(left, rest.len() + 1);
                self.state = if left == 0 {
                    State::Start
                } else {
                    State::Body(left)
                };
                Ok(taken)
            }
            State::Chunk(chunk) => self.chunk(chunk, byte, rest),
            State::Held => {
                self.early = true;
                Ok(rest.len() + 1)
            }
            State::Passing => Ok(rest.len() + 1),
            State::Broken(violation, _) => Err(violation),
        }
    }

    fn must_be(
        &mut self,
        byte: u8,
        wanted: u8,
        next: State,
        violation: Violation,
    ) -> Result<usize, Violation> {
        if byte != wanted {
            return Err(violation);
        }
        self.state = next;
        Ok(1)
    }

    fn first_line(&mut self, byte: u8) -> Result<usize, Violation> {
        self.state = match (self.state, byte) {
            (State::Start, b'\r') => State::StartLf,
            (State::Start, b'\n') => return Err(Violation::LineEnd),
            (State::Start, _) => {
                self.head = Head::default();
                self.state = if self.responses {
                    State::Status(0)
                } else {
                    State::Method(0)
                };
                return Ok(0);
            }
            (State::StartLf, _) => return self.must_be(byte, b'\n', State::Start, Violation::LineEnd),
            (State::Method(at), _) if CONNECT.get(usize::from(at)) == Some(&byte) => State::Method(at + 1),
            (State::Method(at), _) => {
                self.head.connect = usize::from(at) == CONNECT.len();
                self.state = State::Line;
                return Ok(0);
            }
            (State::Status(at), b' '..) if at < STATUS.end => {
                if STATUS.contains(&at) && byte.is_ascii_digit() {
                    self.head.status = self.head.status * 10 + u16::from(byte - b'0');
                }
                State::Status(at + 1)
            }
            _ => {
                self.state = State::Line;
                return Ok(0);
            }
        };
        Ok(1)
    }

    /// Within a line that says nothing about framing.
    fn line(&mut self, byte: u8, rest: &[u8]) -> Result<usize, Violation> {
        match byte {
            b'\n' => Err(Violation::LineEnd),
            b'\r' => {
                self.state = State::LineLf;
                Ok(1)
            }
            _ => Ok(1 + until_line_end(rest)),
        }
    }

    fn line_start(&mut self, byte: u8) -> Result<usize, Violation> {
        self.state = match byte {
            b'\n' => return Err(Violation::LineEnd),
            b' ' | b'\t' => return Err(Violation::Folded),
            b'\r' => State::HeadLf,
            b'c' | b'C' => State::Name(Field::ContentLength, 1),
            b't' | b'T' => State::Name(Field::TransferEncoding, 1),
            b'u' | b'U' => State::Name(Field::Upgrade, 1),
            _ => State::Line,
        };
        Ok(1)
    }

    fn name(&mut self, field: Field, at: u8, byte: u8) -> usize {
        match field.name().get(usize::from(at)) {
            Some(wanted) if *wanted == byte.to_ascii_lowercase() => {
                self.state = State::Name(field, at + 1);
                1
            }
            None if byte == b':' => {
                self.state = State::Value(field, Value::default());
                1
            }
            _ => {
                self.state = State::Line;
                0
            }
        }
    }

    fn value(&mut self, field: Field, mut value: Value, byte: u8) -> Result<usize, Violation> {
        self.state = match byte {
            b'\n' => return Err(Violation::LineEnd),
            b'\r' => {
                value.tell(field, &mut self.head)?;
                State::LineLf
            }
            _ => {
                value.take(field, byte);
                State::Value(field, value)
            }
        };
        Ok(1)
    }

    /// What a head is followed by.
    fn after_head(&self) -> State {
        let head = &self.head;
        if self.responses {
            let interim = matches!(head.status, 100..200) && head.status != 101;
            return if interim { State::Start } else { State::Passing };
        }
        match head.length {
            _ if head.connect => State::Held,
            _ if head.chunked => State::Chunk(Chunk::Size(None)),
            Some(length @ 1..) => State::Body(length),
            _ if head.upgrade => State::Held,
            _ => State::Start,
        }
    }

    fn chunk(&mut self, chunk: Chunk, byte: u8, rest: &[u8]) -> Result<usize, Violation> {
        let mut taken = 1;
        let next = match (chunk, byte) {
            (Chunk::Size(size), _) if byte.is_ascii_hexdigit() => {
                Chunk::Size(Some(longer(size, byte).ok_or(Violation::Chunks)?))
            }
            (Chunk::Size(Some(size)) | Chunk::Space(size), b' ' | b'\t') => Chunk::Space(size),
            (Chunk::Size(Some(size)) | Chunk::Space(size), b';') => Chunk::Extension(size),
            (Chunk::Size(Some(size)) | Chunk::Space(size) | Chunk::Extension(size), b'\r') => {
                Chunk::SizeLf(size)
            }
            (Chunk::Extension(_) | Chunk::Trailer, b'\n') => return Err(Violation::LineEnd),
            (Chunk::Extension(_), _) => {
                taken += until_line_end(rest);
                chunk
            }
            (Chunk::SizeLf(0), b'\n') => Chunk::TrailerStart,
            (Chunk::SizeLf(size), b'\n') => Chunk::Data(size),
            (Chunk::Data(left), _) => {
                let (data, left) = take(left, rest.len() + 1);
                taken = data;
                if left == 0 {
                    Chunk::DataCr
                } else {
                    Chunk::Data(left)
                }
            }
            (Chunk::DataCr, b'\r') => Chunk::DataLf,
            (Chunk::DataLf, b'\n') => Chunk::Size(None),
            (Chunk::TrailerStart | Chunk::Trailer | Chunk::TrailerLf | Chunk::EndLf, _) => {
                return self.trailer(chunk, byte, rest);
            }
            _ => return Err(Violation::Chunks),
        };
        self.state = State::Chunk(next);
        Ok(taken)
    }

    fn trailer(&mut self, chunk: Chunk, byte: u8, rest: &[u8]) -> Result<usize, Violation> {
        self.state = State::Chunk(match (chunk, byte) {
            (Chunk::TrailerStart, b'\r') => Chunk::EndLf,
            (Chunk::TrailerStart, b' ' | b'\t') => return Err(Violation::Folded),
            (Chunk::Trailer, b'\r') => Chunk::TrailerLf,
            (Chunk::TrailerLf, b'\n') => Chunk::TrailerStart,
            (Chunk::EndLf, b'\n') => {
                self.state = State::Start;
                return Ok(1);
            }
            (Chunk::TrailerLf | Chunk::EndLf, _) | (_, b'\n') => return Err(Violation::LineEnd),
            _ => {
                self.state = State::Chunk(Chunk::Trailer);
                return Ok(1 + until_line_end(rest));
            }
        });
        Ok(1)
    }
}

impl Field {
    fn name(self) -> &'static [u8] {
        match self {
            Self::ContentLength => b"content-length",
            Self::TransferEncoding => b"transfer-encoding",
            Self::Upgrade => b"upgrade",
        }
    }
}

impl Value {
    fn take(&mut self, field: Field, byte: u8) {
        if matches!(byte, b' ' | b'\t') {
            self.ended = self.begun;
            return;
        }
        let read = match field {
            Field::ContentLength if byte.is_ascii_digit() => self
                .read
                .checked_mul(10)
                .and_then(|read| read.checked_add(u64::from(byte - b'0'))),
            Field::TransferEncoding => usize::try_from(self.read)
                .ok()
                .and_then(|at| CHUNKED.get(at))
                .filter(|wanted| **wanted == byte.to_ascii_lowercase())
                .map(|_| self.read + 1),
            Field::ContentLength => None,
            Field::Upgrade => Some(0),
        };
        self.begun = true;
        self.wrong |= self.ended || read.is_none();
        self.read = read.unwrap_or(0);
    }

    /// The value is whole: adds what it says to the head.
    fn tell(self, field: Field, head: &mut Head) -> Result<(), Violation> {
        let right = self.begun && !self.wrong;
        match field {
            Field::ContentLength if right && head.length.is_none() => head.length = Some(self.read),
            Field::ContentLength => return Err(Violation::ContentLength),
            Field::TransferEncoding if right && !head.chunked && self.read == CHUNKED.len() as u64 => {
                head.chunked = true;
            }
            Field::TransferEncoding => return Err(Violation::TransferEncoding),
            Field::Upgrade => head.upgrade = true,
        }
        if head.chunked && head.length.is_some() {
            return Err(Violation::TwoLengths);
        }
        Ok(())
    }
}

/// How many of `have` bytes belong to `left`, and what is left then.
fn take(left: u64, have: usize) -> (usize, u64) {
    match usize::try_from(left) {
        Ok(left) if left <= have => (left, 0),
        _ => (have, left - have as u64),
    }
}

/// A chunk's size with one more hexadecimal digit.
fn longer(size: Option<u64>, digit: u8) -> Option<u64> {
    let digit = char::from(digit).to_digit(16)?;
    size.unwrap_or(0).checked_mul(16)?.checked_add(u64::from(digit))
}

/// How many bytes come before the next CR or LF.
fn until_line_end(bytes: &[u8]) -> usize {
    memchr2(b'\r', b'\n', bytes).unwrap_or(bytes.len())
}

#[cfg(test)]
mod tests;
