//! W3C Trace Context: `traceparent`, taken over or begun, and passed on with a span of our own.
//!
//! A field that breaks the grammar counts as absent, and then `tracestate` is dropped too: it belongs to a trace
//! that can't be followed. Versions above 00 are read as far as version 00 goes, as the recommendation has it.

use std::fmt::{self, Write};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The trace and the caller's span.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What vendors add to it.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The only defined bit of the flags: the caller recorded its span.
const SAMPLED: u8 = 1;

/// Length of a `traceparent` of version 00, in bytes.
const LENGTH: usize = 55;

/// A place in a trace: the trace, one span in it, and whether it is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    trace: u128,
    span: u64,
    flags: u8,
}

impl TraceContext {
    /// Reads a `traceparent`.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(LENGTH)?;
        let [version, trace, span, flags] = fields(head)?;
        let version = u8::try_from(version).ok().filter(|version| *version != 0xff)?;
        // Version 00 ends here; a later one may go on after a dash.
        let ends = rest.is_empty() || (version > 0 && rest[0] == b'-');
        let context = Self {
            trace,
            span: u64::try_from(span).ok()?,
            flags: u8::try_from(flags).ok()? & SAMPLED,
        };
        (ends && context.trace != 0 && context.span != 0).then_some(context)
    }

    /// What all spans of the trace have in common: 32 digits, as other programs write it.
    pub fn id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// The first span of a new trace.
    pub fn new(rng: &mut fastrand::Rng, sampled: bool) -> Self {
        let trace = rng.u128(1..);
        Self {
            trace,
            span: rng.u64(1..),
            flags: u8::from(sampled),
        }
    }

    /// A new span in the same trace.
    #[must_use]
    pub fn child(self, rng: &mut fastrand::Rng) -> Self {
        Self {
            span: rng.u64(1..),
            ..self
        }
    }

    /// The trace's id.
    pub fn trace_id(self) -> u128 {
        self.trace
    }

    /// The span's id.
    pub fn span_id(self) -> u64 {
        self.span
    }

    /// Whether it is recorded.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The value of [`TRACEPARENT`].
    pub fn value(self) -> HeaderValue {
        let mut text = String::with_capacity(LENGTH);
        // Writing to a string does not fail, and hexadecimal digits are visible ASCII.
        let written = write!(text, "{self}");
        let value = HeaderValue::from_maybe_shared(Bytes::from(text));
        written
            .ok()
            .and(value.ok())
            .unwrap_or_else(|| HeaderValue::from_static(""))
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, self.flags)
    }
}

/// `version-trace-span-flags` as numbers, if the dashes stand where they should.
fn fields(head: &[u8]) -> Option<[u128; 4]> {
    let dashes = [2, 35, 52];
    if !dashes.iter().all(|at| head.get(*at) == Some(&b'-')) {
        return None;
    }
    Some([
        hex(&head[..2])?,
        hex(&head[3..35])?,
        hex(&head[36..52])?,
        hex(&head[53..])?,
    ])
}

/// Lower-case hexadecimal digits only.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number: u128, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some((number << 4) | u128::from(value))
    })
}

/// Takes over the trace that a request belongs to, or begins one, and writes our own span into it. `sampled` decides
/// for a new trace only.
pub fn continue_trace(headers: &mut HeaderMap, rng: &mut fastrand::Rng, sampled: bool) -> TraceContext {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let parent = match (values.next(), values.next()) {
        (Some(value), None) => TraceContext::parse(value.as_bytes()),
        _ => None,
    };
    let context = if let Some(parent) = parent {
        parent.child(rng)
    } else {
        headers.remove(TRACESTATE);
        TraceContext::new(rng, sampled)
    };
    headers.insert(TRACEPARENT, context.value());
    context
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn reads_the_recommendations_example() {
        let context = TraceContext::parse(GOOD.as_bytes()).expect("valid");
        assert_eq!(context.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!(context.span_id(), 0x00f0_67aa_0ba9_02b7);
        assert!(context.is_sampled());
        assert_eq!(context.value(), GOOD);
    }

    #[test]
    fn refuses_what_the_grammar_does_not_have() {
        let zero_trace = GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_span = GOOD.replace("00f067aa0ba902b7", &"0".repeat(16));
        for text in [
            "",
            "00",
            &GOOD[..54],
            &GOOD.to_uppercase(),
            &GOOD.replace('-', "_"),
            &format!("{GOOD}-x"),
            &format!("{GOOD}x"),
            &GOOD.replacen("00", "ff", 1),
            &zero_trace,
            &zero_span,
        ] {
            assert_eq!(TraceContext::parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = GOOD.replacen("00", "cc", 1).replace("-01", "-09");
        let context =
            TraceContext::parse(format!("{later}-what-the-future-holds").as_bytes()).expect("readable");
        assert_eq!(context.value(), GOOD);
        assert_eq!(TraceContext::parse(format!("{later}.").as_bytes()), None);
    }

    #[test]
    fn a_trace_is_taken_over_or_begun() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.insert(TRACESTATE, HeaderValue::from_static("a=b"));
        let parent = TraceContext::parse(GOOD.as_bytes()).expect("valid");
        let ours = continue_trace(&mut headers, &mut rng, false);
        assert_eq!((ours.trace_id(), ours.is_sampled()), (parent.trace_id(), true));
        assert_ne!(ours.span_id(), parent.span_id());
        assert_eq!(headers[TRACEPARENT], ours.to_string().as_str());
        assert!(headers.contains_key(TRACESTATE));

        headers.append(TRACEPARENT, HeaderValue::from_static(GOOD));
        let new = continue_trace(&mut headers, &mut rng, false);
        assert_ne!(new.trace_id(), parent.trace_id());
        assert!(!new.is_sampled() && !headers.contains_key(TRACESTATE));
        assert_eq!(headers.get_all(TRACEPARENT).iter().count(), 1);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seed: u64, sampled: bool) {
            let context = TraceContext::new(&mut fastrand::Rng::with_seed(seed), sampled);
            prop_assert!(context.value().as_bytes() == context.to_string().as_bytes());
            prop_assert_eq!(TraceContext::parse(context.value().as_bytes()), Some(context));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            if let Some(context) = TraceContext::parse(&bytes) {
                prop_assert!(context.trace_id() != 0 && context.span_id() != 0);
            }
        }
    }
}
