//! Heads in HTTP/1 that break a rule.

use weft_identity::tls::alpn;
use weft_tests::raw::say;

use super::Target;

/// Heads that break a rule, and what they are answered.
fn bad_heads() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    let head = |fields: &str| format!("GET /bad HTTP/1.1\r\nHost: cart\r\n{fields}\r\n").into_bytes();
    let posted =
        |fields: &str| format!("POST /bad HTTP/1.1\r\nHost: cart\r\n{fields}\r\n0\r\n\r\n").into_bytes();
    let many: Vec<String> = (0..100).map(|field| format!("x-{field}: 1\r\n")).collect();
    vec![
        (
            "an oversize head",
            head(&format!("x: {}\r\n", "x".repeat(66_000))),
            &[431],
        ),
        ("101 fields", head(&many.concat()), &[431]),
        (
            "two lengths",
            posted("Content-Length: 5\r\nContent-Length: 6\r\n"),
            &[400],
        ),
        ("a list of lengths", posted("Content-Length: 5, 6\r\n"), &[400]),
        ("a negative length", posted("Content-Length: -1\r\n"), &[400]),
        (
            "a length beyond all numbers",
            posted("Content-Length: 99999999999999999999\r\n"),
            &[400],
        ),
        (
            "chunks that are not last",
            posted("Transfer-Encoding: chunked, gzip\r\n"),
            &[400, 501],
        ),
        (
            "chunks twice",
            posted("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            &[400, 501],
        ),
        (
            "a length beside chunks",
            posted("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            &[400],
        ),
        ("a bare LF", head("x: 1\ny: 2\r\n"), &[400]),
        (
            "bare LFs only",
            b"GET /bad HTTP/1.1\nHost: cart\n\n".to_vec(),
            &[400],
        ),
        (
            "an expectation that nobody can meet",
            head("Expect: more\r\n"),
            &[417],
        ),
        (
            "TLS without TLS",
            b"GET https://cart/bad HTTP/1.1\r\nHost: cart\r\n\r\n".to_vec(),
            &[400],
        ),
        ("two hosts", head("Host: user\r\n"), &[400]),
        ("the same host twice", head("Host: cart\r\n"), &[400]),
        ("no host", b"GET /bad HTTP/1.1\r\n\r\n".to_vec(), &[400]),
        ("a folded field", head("x: 1\r\n 2\r\n"), &[400]),
        ("a space before the colon", head("x : 1\r\n"), &[400]),
        ("NUL in a value", head("x: a\0b\r\n"), &[400]),
        ("CR in a value", head("x: a\rb\r\n"), &[400]),
        ("no name", head(": 1\r\n"), &[400]),
        ("no colon", head("x\r\n"), &[400]),
        (
            "a bad method",
            b"G@T( /bad HTTP/1.1\r\nHost: cart\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "a space in the path",
            b"GET /b ad HTTP/1.1\r\nHost: cart\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "another version",
            b"GET /bad HTTP/3.0\r\nHost: cart\r\n\r\n".to_vec(),
            &[400, 505],
        ),
        (
            "a user in the host",
            b"GET /bad HTTP/1.1\r\nHost: a@cart\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "a path as host",
            b"GET /bad HTTP/1.1\r\nHost: cart/x\r\n\r\n".to_vec(),
            &[400],
        ),
        (
            "another target",
            b"GET http://cart/bad HTTP/1.1\r\nHost: user\r\n\r\n".to_vec(),
            &[400],
        ),
    ]
}

fn status(answer: &[u8]) -> Option<u16> {
    std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()
}

#[tokio::test]
async fn heads_that_break_a_rule_are_answered_and_go_no_further() {
    let target = Target::start().await;
    for (what, bytes, expected) in bad_heads() {
        for (port, address, tls) in target.http_ports(alpn::H1) {
            let answer = say(address, tls, &bytes, "\r\n\r\n").await;
            let text = String::from_utf8_lossy(&answer);
            assert!(
                status(&answer).is_some_and(|status| expected.contains(&status)),
                "{what} at {port}: {text:?}"
            );
            assert!(text.contains("proxy-status: weft"), "{what} at {port}: {text:?}");
        }
        for port in [
            target.client.status,
            target.client.admin,
            target.mesh.status,
            target.mesh.admin,
        ] {
            let answer = say(port, None, &bytes, "\r\n\r\n").await;
            assert!(
                status(&answer).is_none_or(|status| (400..500).contains(&status) || status == 505),
                "{what}"
            );
        }
    }
    // A body that turns out bad is cut off; whether its head had been passed on by then is a matter of time.
    for chunk in [
        "g\r\n",
        "ffffffffffffffffff\r\n",
        "1\r\nab",
        "-1\r\n",
        "1;\u{1}\r\n",
        "1\nx\r\n0\r\n",
        "0\r\na: b\nc: d\r\n",
    ] {
        for (port, address, tls) in target.http_ports(alpn::H1) {
            let bytes = format!(
                "POST /cut HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}\r\n\r\n"
            );
            let answer = say(address, tls, bytes.as_bytes(), "\r\n\r\n").await;
            assert!(
                status(&answer) != Some(200),
                "{chunk:?} at {port}: {}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    target.assert_well().await;
    let bad = target.bad_requests();
    assert!(bad.iter().all(|seen| seen == "POST /cut"), "{bad:?}");
}

/// RFC 9112 section 6.3 lets chunks win over a length; here nobody has to know who wins.
#[tokio::test]
async fn a_length_beside_chunks_smuggles_nothing() {
    let target = Target::start().await;
    let bytes = b"POST /both HTTP/1.1\r\nHost: cart\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n\
                  GET /smuggled HTTP/1.1\r\nHost: cart\r\n\r\n";
    for (port, address, tls) in target.http_ports(alpn::FOREIGN_H1) {
        let answer = say(
            address,
            tls,
            bytes,
            "no such text: only the end of the connection ends this",
        )
        .await;
        let text = String::from_utf8_lossy(&answer);
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{port}: {text}");
        assert_eq!(status(&answer), Some(400), "{port}: {text}");
    }
    let seen = target.cart.journal();
    assert!(seen.is_empty(), "{seen:?}");
    target.assert_well().await;
}
