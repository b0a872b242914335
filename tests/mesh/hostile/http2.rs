//! Frames by hand: floods, and heads that break a rule.

use tokio::task::JoinSet;
use weft_identity::tls::alpn;
use weft_tests::frames::{self, END_HEADERS, END_STREAM, field, frame, kind, request};
use weft_tests::raw::say;

use super::Target;

/// A head in HTTP/2 with `extra` fields after the good ones.
fn head(extra: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = frames::get("cart", "/bad");
    for (name, value) in extra {
        fields.extend(field(name, value));
    }
    frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &fields)
}

/// Why a connection ends (RFC 9113 section 7).
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const FRAME_SIZE_ERROR: u32 = 6;
const ENHANCE_YOUR_CALM: u32 = 11;

/// Too much of something.
fn floods() -> Vec<(&'static str, Vec<u8>)> {
    let again = |piece: Vec<u8>, times: usize| piece.repeat(times);
    let reset = |stream: u32| {
        [
            request(stream, "cart", "/bad"),
            frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]),
        ]
    };
    let fields = frames::get("cart", "/bad");
    let begun = frame(kind::HEADERS, END_STREAM, 1, &fields);
    let open = frame(kind::HEADERS, END_HEADERS, 1, &fields);
    let more = |piece: &[u8], times| again(frame(kind::CONTINUATION, 0, 1, piece), times);
    let grown = field("x-more", &"x".repeat(16_000));
    vec![
        (
            "rapid resets",
            (0..5_000).flat_map(|n| reset(2 * n + 1).concat()).collect(),
        ),
        ("pings", again(frame(kind::PING, 0, 0, &[0; 8]), 20_000)),
        (
            "settings",
            again(frame(kind::SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]), 20_000),
        ),
        (
            "priorities",
            again(frame(kind::PRIORITY, 0, 1, &[0, 0, 0, 3, 7]), 20_000),
        ),
        ("unknown frames", again(frame(0x42, 0, 0, &[0; 64]), 20_000)),
        ("empty continuations", [begun.clone(), more(&[], 20_000)].concat()),
        ("endless continuations", [begun, more(&grown, 200)].concat()),
        (
            "empty data",
            [open, again(frame(kind::DATA, 0, 1, &[]), 20_000)].concat(),
        ),
    ]
}

/// Frames that break a rule.
fn bad_frames() -> Vec<(&'static str, Vec<u8>, u32)> {
    const WHOLE: u8 = END_STREAM | END_HEADERS;
    let credit = frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]);
    let table = [0x3f, 0xff, 0xff, 0xff, 0xff, 0x7f];
    vec![
        (
            "no credit",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
            PROTOCOL_ERROR,
        ),
        ("too much credit", credit.repeat(3), FLOW_CONTROL_ERROR),
        ("data on no stream", frame(kind::DATA, 0, 0, b"x"), PROTOCOL_ERROR),
        ("a stream of ours", request(2, "cart", "/bad"), PROTOCOL_ERROR),
        (
            "a frame without end",
            vec![0xff, 0xff, 0xff, kind::DATA, 0, 0, 0, 0, 1, 0],
            FRAME_SIZE_ERROR,
        ),
        (
            "a head that is none",
            frame(kind::HEADERS, WHOLE, 1, &[0xff; 64]),
            PROTOCOL_ERROR,
        ),
        (
            "a table beyond all sizes",
            frame(kind::HEADERS, WHOLE, 1, &table),
            PROTOCOL_ERROR,
        ),
        (
            "a push",
            frame(kind::PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            PROTOCOL_ERROR,
        ),
    ]
}

#[tokio::test]
async fn floods_and_bad_frames_end_their_connection_only() {
    let target = Target::start().await;
    let floods = floods()
        .into_iter()
        .map(|(what, bytes)| (what, bytes, ENHANCE_YOUR_CALM));
    for (what, bytes, expected) in floods.chain(bad_frames()) {
        let bytes = [frames::hello(), bytes].concat();
        let mut talks = JoinSet::new();
        let mut ports = target.http_ports(alpn::H2);
        ports.push(("xds", target.mesh.xds, Some(target.peer.client(alpn::FOREIGN_H2))));
        for (port, address, tls) in ports {
            let bytes = bytes.clone();
            talks.spawn(async move { (port, say(address, tls, &bytes, "").await) });
        }
        for (port, answer) in talks.join_all().await {
            // What costs the control plane nothing but its parsing, it lets pass.
            let reason = frames::goaway(&answer);
            let passed = port == "xds" && expected == ENHANCE_YOUR_CALM && reason.is_none();
            assert!(passed || reason == Some(expected), "{what} at {port}: {reason:?}");
        }
        // Resets within the budget may have got through before they were too many.
        let seen = target.bad_requests().len();
        assert!(seen < 1_500, "{what}: {seen} requests reached the application");
    }
    target.assert_well().await;
}

#[tokio::test]
async fn a_hundred_resets_are_borne_and_no_more() {
    const BORNE: u32 = 100;
    let target = Target::start().await;
    let resets = |count: u32| {
        let reset = |number| {
            let stream = 2 * number + 1;
            let end = frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]);
            [request(stream, "cart", "/reset"), end].concat()
        };
        let resets: Vec<u8> = (0..count).flat_map(reset).collect();
        [frames::hello(), resets, request(2 * count + 1, "cart", "/good")].concat()
    };
    let borne = say(target.client.outbound, None, &resets(BORNE), "cart-0").await;
    assert_eq!(frames::goaway(&borne), None);
    let answer = String::from_utf8_lossy(&borne);
    assert!(
        answer.contains("cart-0"),
        "what comes after them is answered: {answer}"
    );
    let ended = say(target.client.outbound, None, &resets(BORNE + 1), "").await;
    assert_eq!(frames::goaway(&ended), Some(ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn heads_of_http2_that_break_a_rule_go_no_further() {
    let target = Target::start().await;
    let many: Vec<(String, String)> = (0..101).map(|n| (format!("x-{n}"), "1".to_owned())).collect();
    let many: Vec<(&str, &str)> = many
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let bare = |fields: &[(&str, &str)]| {
        let fields: Vec<u8> = fields
            .iter()
            .flat_map(|(name, value)| field(name, value))
            .collect();
        frame(kind::HEADERS, END_STREAM | END_HEADERS, 1, &fields)
    };
    let get = (":method", "GET");
    for (what, bytes) in [
        ("101 fields", head(&many)),
        ("upper case", head(&[("X-Upper", "1")])),
        ("a field of the connection", head(&[("connection", "close")])),
        ("chunks", head(&[("transfer-encoding", "chunked")])),
        ("a late pseudo field", head(&[("x", "1"), (":path", "/bad")])),
        ("an unknown pseudo field", head(&[(":weft", "1")])),
        (
            "two paths",
            bare(&[
                get,
                (":scheme", "http"),
                (":authority", "cart"),
                (":path", "/bad"),
                (":path", "/bad"),
            ]),
        ),
        (
            "no path",
            bare(&[get, (":scheme", "http"), (":authority", "cart")]),
        ),
        (
            "an empty path",
            bare(&[get, (":scheme", "http"), (":authority", "cart"), (":path", "")]),
        ),
        (
            "no method",
            bare(&[(":scheme", "http"), (":authority", "cart"), (":path", "/bad")]),
        ),
        (
            "no authority",
            bare(&[get, (":scheme", "http"), (":path", "/bad")]),
        ),
        ("another host", head(&[("host", "user")])),
        ("two hosts", head(&[("host", "cart"), ("host", "cart")])),
        ("a length without a body", head(&[("content-length", "5")])),
        ("a line end in a value", head(&[("x", "a\r\nb: c")])),
        ("NUL in a value", head(&[("x", "a\0b")])),
        (
            "a user in the authority",
            bare(&[
                get,
                (":scheme", "http"),
                (":authority", "a@cart"),
                (":path", "/bad"),
            ]),
        ),
    ] {
        let bytes = [frames::hello(), bytes].concat();
        for (port, address, tls) in target.http_ports(alpn::H2) {
            let answer = say(address, tls, &bytes, "").await;
            let seen = target.bad_requests();
            assert!(
                seen.is_empty(),
                "{what} passed {port}: {seen:?}, {}",
                String::from_utf8_lossy(&answer)
            );
        }
    }
    target.assert_well().await;
}
