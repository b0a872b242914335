//! HTTP/2 by hand (RFC 9113): frames as bytes, for what no library would send.

/// What a client's connection begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
pub mod kind {
    /// A body.
    pub const DATA: u8 = 0;
    /// A head.
    pub const HEADERS: u8 = 1;
    /// Priority of a stream, deprecated.
    pub const PRIORITY: u8 = 2;
    /// The end of a stream.
    pub const RST_STREAM: u8 = 3;
    /// Settings.
    pub const SETTINGS: u8 = 4;
    /// A response to a request that nobody made.
    pub const PUSH_PROMISE: u8 = 5;
    /// Are you there?
    pub const PING: u8 = 6;
    /// The end of a connection.
    pub const GOAWAY: u8 = 7;
    /// Credit.
    pub const WINDOW_UPDATE: u8 = 8;
    /// More of a head.
    pub const CONTINUATION: u8 = 9;
}

/// Flags of HEADERS.
pub const END_STREAM: u8 = 1;
/// Flags of HEADERS.
pub const END_HEADERS: u8 = 4;

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Preface and empty SETTINGS.
pub fn hello() -> Vec<u8> {
    [PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat()
}

/// A field in HPACK, literal, without Huffman coding and not indexed.
pub fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        integer(text.len(), &mut bytes);
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// A length in HPACK with a prefix of seven bits (RFC 7541 section 5.1).
fn integer(value: usize, bytes: &mut Vec<u8>) {
    const PREFIX: usize = 127;
    if value < PREFIX {
        bytes.push(u8::try_from(value).expect("seven bits"));
        return;
    }
    bytes.push(127);
    let mut rest = value - PREFIX;
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128 + 128).expect("eight bits"));
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
}

/// The fields of `GET path` at `authority`.
pub fn get(authority: &str, path: &str) -> Vec<u8> {
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", authority),
        (":path", path),
    ];
    fields.map(|(name, value)| field(name, value)).concat()
}

/// A whole request without a body.
pub fn request(stream: u32, authority: &str, path: &str) -> Vec<u8> {
    frame(
        kind::HEADERS,
        END_STREAM | END_HEADERS,
        stream,
        &get(authority, path),
    )
}

/// The reason with which the other side ended the connection, if it said so: the error code of the last GOAWAY.
pub fn goaway(mut answer: &[u8]) -> Option<u32> {
    const HEAD: usize = 9;
    let mut reason = None;
    while let Some((head, rest)) = answer.split_at_checked(HEAD) {
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let Some((payload, rest)) = rest.split_at_checked(length) else {
            break;
        };
        if let (kind::GOAWAY, Some(code)) = (head[3], payload.get(4..8)) {
            reason = code.try_into().ok().map(u32::from_be_bytes);
        }
        answer = rest;
    }
    reason
}
