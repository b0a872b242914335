//! Which protocol a connection speaks, by its first bytes.
//!
//! A pure function of a prefix of the stream. It is monotone: once a prefix is decided, every longer one is decided
//! alike, so how bytes were split on the wire doesn't matter. Undecided prefixes are bounded ([`MAX_BYTES`]), except
//! by time, which is the shell's: a peer that sends a prefix and falls silent is decided by a deadline, and a server
//! that speaks first never shows anything here at all.
//!
//! HTTP/1 is recognised by a whole request line, not by a method's name: `OPTIONS sip:… SIP/2.0` and RTSP begin alike.

/// How many bytes are looked at: room for a request line of the length that RFC 9112 section 3 recommends.
pub const MAX_BYTES: usize = 8192;

/// The client connection preface of HTTP/2 (RFC 9113 section 3.4).
pub const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest method that is taken for one, in bytes.
const MAX_METHOD: usize = 32;

/// Methods that a request line too long to be seen whole is recognised by (RFC 9110, RFC 5789).
const METHODS: [&[u8]; 9] = [
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH",
];

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Detected {
    /// A TLS `ClientHello`.
    Tls,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// A request line of HTTP/1.
    Http1,
    /// None of these.
    Opaque,
    /// Can't be told yet.
    NeedMore,
}

/// Decides by a prefix of what a client sent.
pub fn detect(prefix: &[u8]) -> Detected {
    let seen = &prefix[..prefix.len().min(MAX_BYTES)];
    match seen.first() {
        None => Detected::NeedMore,
        Some(0x16) => detect_tls(seen),
        Some(b'P') if seen.starts_with(HTTP2_PREFACE) => Detected::Http2,
        Some(b'P') if HTTP2_PREFACE.starts_with(seen) => Detected::NeedMore,
        Some(_) => detect_http1(seen),
    }
}

/// A record of type handshake, version 3.x, of a legal length, whose first message is a `ClientHello` (RFC 8446 section 5.1).
fn detect_tls(seen: &[u8]) -> Detected {
    const MAX_RECORD: u16 = 1 << 14;
    const MIN_RECORD: u16 = 4;
    if seen.get(1).is_some_and(|major| *major != 3) || seen.get(2).is_some_and(|minor| *minor > 4) {
        return Detected::Opaque;
    }
    if let (Some(high), Some(low)) = (seen.get(3), seen.get(4))
        && !(MIN_RECORD..=MAX_RECORD).contains(&u16::from_be_bytes([*high, *low]))
    {
        return Detected::Opaque;
    }
    match seen.get(5) {
        None => Detected::NeedMore,
        Some(1) => Detected::Tls,
        Some(_) => Detected::Opaque,
    }
}

/// `method SP request-target SP HTTP/1.x`, ended by LF.
fn detect_http1(seen: &[u8]) -> Detected {
    let method_len = seen.iter().take_while(|b| is_token(**b)).count();
    match seen.get(method_len) {
        _ if method_len == 0 || method_len > MAX_METHOD => return Detected::Opaque,
        None => return Detected::NeedMore,
        Some(b' ') => {}
        Some(_) => return Detected::Opaque,
    }
    let rest = &seen[method_len + 1..];
    let target_len = rest
        .iter()
        .take_while(|b| b.is_ascii_graphic() || **b >= 0x80)
        .count();
    match rest.get(target_len) {
        None if seen.len() < MAX_BYTES => Detected::NeedMore,
        None if METHODS.contains(&&seen[..method_len]) => Detected::Http1,
        Some(b' ') if target_len > 0 => detect_version(&rest[target_len + 1..], seen.len() == MAX_BYTES),
        _ => Detected::Opaque,
    }
}

/// `HTTP/1.` DIGIT, then LF or CRLF.
fn detect_version(rest: &[u8], full: bool) -> Detected {
    const VERSION: &[u8] = b"HTTP/1.";
    let matches = |(index, byte): (usize, &u8)| match index {
        0..=6 => *byte == VERSION[index],
        7 => byte.is_ascii_digit(),
        8 => matches!(byte, b'\r' | b'\n'),
        _ => *byte == b'\n',
    };
    let end = if rest.get(8) == Some(&b'\n') { 9 } else { 10 };
    let seen = &rest[..rest.len().min(end)];
    match seen.iter().enumerate().all(matches) {
        true if seen.len() == end => Detected::Http1,
        true if !full => Detected::NeedMore,
        _ => Detected::Opaque,
    }
}

/// A character of a token (RFC 9110 section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn recognises() {
        for (bytes, expected) in [
            (&b""[..], Detected::NeedMore),
            (b"GET / HTTP/1.1\r\n", Detected::Http1),
            (b"GET / HTTP/1.0\n", Detected::Http1),
            (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", Detected::Http1),
            (b"POST http://a/ HTTP/1.1\r\n", Detected::Http1),
            (b"PROPFIND /\xc3\xa9 HTTP/1.1\r\n", Detected::Http1),
            (b"CONNECT a:80 HTTP/1.1\r\n", Detected::Http1),
            (b"GET / HTTP/1.1", Detected::NeedMore),
            (b"GET / HTTP/1.1\r", Detected::NeedMore),
            (b"GET / HTTP/1.1\rx", Detected::Opaque),
            (b"GET /\r\n", Detected::Opaque),
            (b"GET  / HTTP/1.1\r\n", Detected::Opaque),
            (b"OPTIONS sip:a@b SIP/2.0\r\n", Detected::Opaque),
            (b"DESCRIBE rtsp://a RTSP/1.0\r\n", Detected::Opaque),
            (b"EHLO example.com\r\n", Detected::Opaque),
            (b"PING\r\n", Detected::Opaque),
            (b"*1\r\n$4\r\nPING\r\n", Detected::Opaque),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Detected::Opaque),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detected::Http2),
            (b"PRI * HTTP/2.0\r\n\r\n", Detected::NeedMore),
            (b"PRI * HTTP/1.1\r\n", Detected::Http1),
            (b"\x16\x03\x01\x02\x00\x01", Detected::Tls),
            (b"\x16\x03\x01\x02\x00\x02", Detected::Opaque),
            (b"\x16\x03\x01\x02", Detected::NeedMore),
            (b"\x16\x02", Detected::Opaque),
            (b"\x16\x03\x03\xff\xff", Detected::Opaque),
        ] {
            assert_eq!(detect(bytes), expected, "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_request_line_beyond_the_bound_is_decided_by_its_method() {
        let long = |method: &str| format!("{method} /{}", "a".repeat(MAX_BYTES)).into_bytes();
        assert_eq!(detect(&long("GET")), Detected::Http1);
        assert_eq!(detect(&long("FETCH")), Detected::Opaque);
        assert_eq!(detect(&long("GET")[..MAX_BYTES - 1]), Detected::NeedMore);
    }

    #[test]
    fn a_version_that_the_bound_cuts_is_not_waited_for() {
        let line = format!("GET /{} HT", "a".repeat(MAX_BYTES - "GET / HT".len()));
        assert_eq!(line.len(), MAX_BYTES);
        assert_eq!(detect(line.as_bytes()), Detected::Opaque);
        assert_eq!(detect(&line.as_bytes()[..MAX_BYTES - 1]), Detected::NeedMore);
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let tail = proptest::collection::vec(any::<u8>(), 0..40);
        let head = prop_oneof![
            Just(Vec::new()),
            Just(HTTP2_PREFACE.to_vec()),
            "[A-Z]{1,8} /[a-z]{0,20} HTTP/1\\.[01]\r?\n".prop_map(String::into_bytes),
            Just(b"\x16\x03\x01\x02\x00\x01".to_vec()),
            (8100usize..8200).prop_map(|n| format!("GET /{} HTTP/1.1\r\n", "a".repeat(n)).into_bytes()),
        ];
        (head, any::<prop::sample::Index>(), any::<bool>(), tail).prop_map(|(mut head, cut, whole, tail)| {
            if !whole {
                head.truncate(cut.index(head.len() + 1));
            }
            head.extend(tail);
            head
        })
    }

    proptest! {
        /// The oracle reads byte by byte (in steps within a long line) and stops at the first decision; any other
        /// split must give the same.
        #[test]
        fn the_decision_does_not_depend_on_how_bytes_are_split(
            bytes in stream(), cuts in proptest::collection::vec(0usize..8300, 0..6)
        ) {
            let near = |end: usize| end < 128 || bytes.len() - end < 128 || end.abs_diff(MAX_BYTES) < 128;
            let ends = (0..=bytes.len()).filter(|end| near(*end) || end % 512 == 0);
            let first = ends.map(|end| detect(&bytes[..end])).find(|d| *d != Detected::NeedMore);
            let mut ends: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            ends.sort_unstable();
            ends.push(bytes.len());
            let split = ends.into_iter().map(|end| detect(&bytes[..end])).find(|d| *d != Detected::NeedMore);
            prop_assert_eq!(split, first);
        }

        #[test]
        fn enough_bytes_always_decide(mut bytes in stream(), fill in any::<u8>()) {
            bytes.resize(bytes.len().max(MAX_BYTES), fill);
            prop_assert_ne!(detect(&bytes), Detected::NeedMore);
        }
    }
}
