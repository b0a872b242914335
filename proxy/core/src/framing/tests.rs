use proptest::prelude::*;

use super::*;

/// What a scanner says to bytes that come all at once: the first flaw, and whether a head is open at the end.
fn scanned(mut scanner: Scanner, bytes: &[u8]) -> (Option<Flaw>, bool) {
    match scanner.scan(bytes) {
        Ok(()) => (None, scanner.within_head()),
        Err(flaw) => (Some(flaw), false),
    }
}

/// Reads the whole of a connection's bytes with the tools of a text processor, slowly.
struct Oracle<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// Why the oracle stops: a flaw, or no more bytes (within a head or not).
enum Stop {
    Flaw(usize, Violation, bool),
    End(bool),
}

impl<'a> Oracle<'a> {
    fn read(bytes: &'a [u8]) -> (Option<Flaw>, bool) {
        let mut oracle = Self { bytes, at: 0 };
        loop {
            match oracle.message() {
                Ok(()) => {}
                Err(Stop::End(within_head)) => return (None, within_head),
                Err(Stop::Flaw(at, violation, in_body)) => {
                    let flaw = Flaw {
                        at,
                        violation,
                        in_body,
                    };
                    return (Some(flaw), false);
                }
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// A line without its CRLF; `check` sees it before the LF is looked at.
    fn line(
        &mut self,
        head: bool,
        check: &mut dyn FnMut(&str) -> Result<(), Violation>,
    ) -> Result<String, Stop> {
        let start = self.at;
        let Some(length) = self.bytes[start..]
            .iter()
            .position(|byte| matches!(byte, b'\r' | b'\n'))
        else {
            return Err(Stop::End(head && start < self.bytes.len()));
        };
        let end = start + length;
        let flaw = |at, violation| Stop::Flaw(at, violation, !head);
        if self.bytes[end] == b'\n' {
            return Err(flaw(end, Violation::LineEnd));
        }
        let text: String = self.bytes[start..end]
            .iter()
            .map(|byte| char::from(*byte))
            .collect();
        check(&text).map_err(|violation| flaw(end, violation))?;
        match self.bytes.get(end + 1) {
            None => Err(Stop::End(head)),
            Some(b'\n') => {
                self.at = end + 2;
                Ok(text)
            }
            Some(_) => Err(flaw(end + 1, Violation::LineEnd)),
        }
    }

    fn folded(&self, in_body: bool) -> Result<(), Stop> {
        match self.peek() {
            Some(b' ' | b'\t') => Err(Stop::Flaw(self.at, Violation::Folded, in_body)),
            _ => Ok(()),
        }
    }

    fn message(&mut self) -> Result<(), Stop> {
        match self.bytes.get(self.at..self.at + 2) {
            Some(b"\r\n") => {
                self.at += 2;
                return Ok(());
            }
            Some([b'\r', _]) => return Err(Stop::Flaw(self.at + 1, Violation::LineEnd, false)),
            None if self.peek() == Some(b'\r') => return Err(Stop::End(false)),
            _ => {}
        }
        let first = self.line(true, &mut |_| Ok(()))?;
        let (mut lengths, mut codings, mut upgrade) = (Vec::new(), Vec::new(), false);
        loop {
            if self.peek().is_none() {
                return Err(Stop::End(true));
            }
            self.folded(false)?;
            let mut field = |line: &str| {
                let Some((name, value)) = line.split_once(':') else {
                    return Ok(());
                };
                let value = value.trim_matches([' ', '\t']);
                match name.to_lowercase().as_str() {
                    "content-length" => {
                        let digits = !value.is_empty() && value.chars().all(|c| c.is_ascii_digit());
                        let length = value.parse::<u64>().ok().filter(|_| digits && lengths.is_empty());
                        lengths.push(length.ok_or(Violation::ContentLength)?);
                    }
                    "transfer-encoding" => {
                        if value.to_lowercase() != "chunked" || !codings.is_empty() {
                            return Err(Violation::TransferEncoding);
                        }
                        codings.push(());
                    }
                    "upgrade" => upgrade = true,
                    _ => return Ok(()),
                }
                if lengths.is_empty() || codings.is_empty() {
                    Ok(())
                } else {
                    Err(Violation::TwoLengths)
                }
            };
            if self.line(true, &mut field)?.is_empty() {
                break;
            }
        }
        if first.starts_with("CONNECT ") {
            Err(Stop::End(false))
        } else if !codings.is_empty() {
            self.chunks()
        } else if let Some(length @ 1..) = lengths.first() {
            self.skip(*length)
        } else if upgrade {
            Err(Stop::End(false))
        } else {
            Ok(())
        }
    }

    fn skip(&mut self, length: u64) -> Result<(), Stop> {
        let left = (self.bytes.len() - self.at) as u64;
        if left < length {
            return Err(Stop::End(false));
        }
        self.at += usize::try_from(length).unwrap();
        Ok(())
    }

    fn byte(&mut self, wanted: u8) -> Result<(), Stop> {
        match self.peek() {
            None => Err(Stop::End(false)),
            Some(byte) if byte == wanted => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(Stop::Flaw(self.at, Violation::Chunks, true)),
        }
    }

    fn chunks(&mut self) -> Result<(), Stop> {
        loop {
            let wrong = |at| Stop::Flaw(at, Violation::Chunks, true);
            let start = self.at;
            while self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                self.at += 1;
                let digits = std::str::from_utf8(&self.bytes[start..self.at]).unwrap();
                if u64::from_str_radix(digits, 16).is_err() {
                    return Err(wrong(self.at - 1));
                }
            }
            let digits = std::str::from_utf8(&self.bytes[start..self.at]).unwrap();
            let Some(next) = self.peek() else {
                return Err(Stop::End(false));
            };
            let Ok(size) = u64::from_str_radix(digits, 16) else {
                return Err(wrong(self.at));
            };
            let mut behind = next;
            while matches!(behind, b' ' | b'\t') {
                self.at += 1;
                behind = self.peek().ok_or(Stop::End(false))?;
            }
            if behind == b';' {
                while !matches!(self.peek().ok_or(Stop::End(false))?, b'\r' | b'\n') {
                    self.at += 1;
                }
                if self.peek() == Some(b'\n') {
                    return Err(Stop::Flaw(self.at, Violation::LineEnd, true));
                }
            }
            self.byte(b'\r')?;
            self.byte(b'\n')?;
            if size == 0 {
                return self.trailers();
            }
            self.skip(size)?;
            self.byte(b'\r')?;
            self.byte(b'\n')?;
        }
    }

    fn trailers(&mut self) -> Result<(), Stop> {
        loop {
            self.folded(true)?;
            if self.line(false, &mut |_| Ok(()))?.is_empty() {
                return Ok(());
            }
        }
    }
}

/// Pieces of which connections are made, good and bad.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => Just("\r\n".to_owned()),
        4 => Just("GET / HTTP/1.1\r\nHost: a\r\n".to_owned()),
        1 => Just("CONNECT a:1 HTTP/1.1\r\n".to_owned()),
        1 => Just("CONNECTED / HTTP/1.1\r\n".to_owned()),
        2 => (0u8..6).prop_map(|n| format!("content-length:{n}\r\n")),
        2 => Just("Transfer-Encoding: chunked\r\n".to_owned()),
        1 => Just("Upgrade: websocket\r\n".to_owned()),
        1 => Just("Content-Lengthy: x\r\n".to_owned()),
        1 => "(?i)content-length: ?[0-9+, x]{0,4}\r\n",
        1 => "(?i)transfer-encoding:[ \t]?(chunked|gzip|chunkedx|chunke)[ \t]?\r\n",
        3 => (1u8..6).prop_map(|n| format!("{n:x}\r\n{}\r\n", "y".repeat(n.into()))),
        3 => Just("0\r\n\r\n".to_owned()),
        2 => "[0-9a-fA-F]{1,17}[ ;]?[a-z\"=]{0,3}\r\n",
        1 => "[a-z]{1,12}: [a-z]{0,9}\r\n",
        1 => "[\r\n :;0-9a-zA-Z\t]{1,3}",
    ]
}

fn connection() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(piece(), 0..14).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn agrees_with_a_slow_reader(bytes in connection()) {
        let shown = bytes.escape_ascii().to_string();
        prop_assert_eq!(scanned(Scanner::requests(), &bytes), Oracle::read(&bytes), "{}", shown);
    }

    #[test]
    fn how_bytes_are_cut_does_not_matter(bytes in connection(), sizes in proptest::collection::vec(1usize..9, 1..9)) {
        let whole = scanned(Scanner::requests(), &bytes);
        let (mut cut, mut at, mut sizes) = (Scanner::requests(), 0, sizes.into_iter().cycle());
        let mut flaw = None;
        while at < bytes.len() && flaw.is_none() {
            let end = bytes.len().min(at + sizes.next().unwrap_or(1));
            flaw = cut.scan(&bytes[at..end]).err().map(|flaw| Flaw { at: flaw.at + at, ..flaw });
            at = end;
        }
        prop_assert_eq!((flaw, flaw.is_none() && cut.within_head()), whole);
        if let Some(flaw) = flaw {
            prop_assert_eq!(cut.scan(b"GET / HTTP/1.1\r\n"), Err(Flaw { at: 0, ..flaw }));
        }
    }

    #[test]
    fn any_bytes_are_read_to_the_end_or_to_a_flaw(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for scanner in [Scanner::requests(), Scanner::responses()] {
            if let (Some(flaw), _) = scanned(scanner, &bytes) {
                prop_assert!(flaw.at < bytes.len());
            }
        }
    }
}

fn refused(text: &str) -> Option<(Violation, String)> {
    let (flaw, _) = scanned(Scanner::requests(), text.as_bytes());
    flaw.map(|flaw| (flaw.violation, text[flaw.at..].to_owned()))
}

#[test]
fn refuses_what_two_readers_read_differently() {
    for (text, violation, rest) in [
        ("GET / HTTP/1.1\n\n", Violation::LineEnd, "\n\n"),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n", Violation::LineEnd, "\n\r\n"),
        ("GET / HTTP/1.1\r\nX: a\rb\r\n", Violation::LineEnd, "b\r\n"),
        ("GET / HTTP/1.1\r\nX: a\r\n b\r\n", Violation::Folded, " b\r\n"),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
            Violation::TwoLengths,
            "\r\n\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 3\r\ntransfer-encoding:chunked\r\n\r\n",
            Violation::TwoLengths,
            "\r\n\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 3\r\n",
            Violation::ContentLength,
            "\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n",
            Violation::TransferEncoding,
            "\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n",
            Violation::Chunks,
            "\nx\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\na: b\nc: d\r\n\r\n",
            Violation::LineEnd,
            "\nc: d\r\n\r\n",
        ),
    ] {
        assert_eq!(refused(text), Some((violation, rest.to_owned())), "{text:?}");
    }
}

#[test]
fn finds_the_next_head_behind_any_body() {
    let bad = "GET / HTTP/1.1\n";
    for body in [
        "POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\n\n\n\n\n\n",
        "POST / HTTP/1.1\r\nTransfer-Encoding:\tChunked \r\n\r\n2;a=b\r\n\n\n\r\n00\r\na: b\r\n\r\n",
        "\r\n\r\nGET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n",
    ] {
        assert_eq!(refused(body), None, "{body:?}");
        let both = format!("{body}{bad}");
        assert_eq!(
            refused(&both),
            Some((Violation::LineEnd, "\n".to_owned())),
            "{body:?}"
        );
    }
}

#[test]
fn what_may_be_no_http_any_more_is_not_read() {
    for head in [
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ] {
        let mut scanner = Scanner::requests();
        assert_eq!(scanner.scan(head.as_bytes()), Ok(()));
        assert!(scanner.resume(), "declined, and nothing came before it was");
        assert!(
            scanner.scan(b"GET / HTTP/1.1\n").is_err(),
            "requests are read again"
        );
        let mut scanner = Scanner::requests();
        assert_eq!(scanner.scan(head.as_bytes()), Ok(()));
        assert_eq!(scanner.scan(b"\n\x16\n"), Ok(()), "a tunnel's own bytes");
        assert!(!scanner.resume(), "nobody knows what these were");
    }
}

#[test]
fn responses_are_read_head_by_head() {
    let mut scanner = Scanner::responses();
    assert_eq!(scanner.scan(b"nothing was asked\n"), Ok(()));
    scanner.expect();
    let interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n";
    assert_eq!(scanner.scan(interim), Ok(()));
    assert_eq!(
        scanner.scan(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\n\n"),
        Ok(())
    );
    scanner.expect();
    assert_eq!(
        scanner.scan(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\n"),
        Ok(())
    );
    scanner.expect();
    let both = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n";
    let flaw = scanner.scan(both).unwrap_err();
    assert_eq!((flaw.violation, flaw.in_body), (Violation::TwoLengths, false));
}
