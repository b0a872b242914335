//! Time limits of one request, and `grpc-timeout`.
//!
//! A deadline is a moment, computed once from what was said (route, caller), and never added up. What is left of it is
//! what the next hop is told, so every hop's view ends at the same moment or earlier.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::time::Now;

/// How long a gRPC caller waits at most.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Most digits of a `grpc-timeout`.
const MAX_DIGITS: usize = 8;

/// The moment after which `limit` is over; none for `None` and for zero, which stand for "no limit".
pub fn after(start: Now, limit: Option<Duration>) -> Option<Now> {
    limit.filter(|limit| !limit.is_zero()).map(|limit| start + limit)
}

/// The earlier of two deadlines.
pub fn earlier(a: Option<Now>, b: Option<Now>) -> Option<Now> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// Reads `grpc-timeout`: 1 to 8 digits and a unit. `None`: malformed.
pub fn parse_grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let (unit, digits) = value.as_bytes().split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits
        .iter()
        .fold(0, |sum: u64, digit| sum * 10 + u64::from(digit - b'0'));
    match unit {
        b'H' => Some(Duration::from_secs(count * 3600)),
        b'M' => Some(Duration::from_secs(count * 60)),
        b'S' => Some(Duration::from_secs(count)),
        b'm' => Some(Duration::from_millis(count)),
        b'u' => Some(Duration::from_micros(count)),
        b'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

/// Writes `grpc-timeout` in the finest unit that 8 digits can hold, rounded down.
pub fn write_grpc_timeout(left: Duration) -> HeaderValue {
    const LIMIT: u128 = 100_000_000;
    const UNITS: [(u128, char); 6] = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let nanos = left.as_nanos();
    let fitting = UNITS.iter().find(|(unit, _)| nanos / unit < LIMIT);
    let (count, unit) = fitting.map_or((LIMIT - 1, 'H'), |(unit, letter)| (nanos / unit, *letter));
    let text = format!("{count}{unit}");
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_the_grammar_allows_and_nothing_else() {
        for (text, expected) in [
            ("1H", Some(Duration::from_hours(1))),
            ("2M", Some(Duration::from_mins(2))),
            ("00000003S", Some(Duration::from_secs(3))),
            ("99999999m", Some(Duration::from_millis(99_999_999))),
            ("5u", Some(Duration::from_micros(5))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("1", None),
            ("123456789S", None),
            ("-1S", None),
            ("1.5S", None),
            ("1s", None),
            ("1 S", None),
        ] {
            assert_eq!(
                parse_grpc_timeout(&HeaderValue::from_static(text)),
                expected,
                "{text}"
            );
        }
    }

    #[test]
    fn zero_and_nothing_are_no_limit() {
        let start = Now::from_nanos(5);
        assert_eq!(after(start, None), None);
        assert_eq!(after(start, Some(Duration::ZERO)), None);
        assert_eq!(
            after(start, Some(Duration::from_nanos(3))),
            Some(Now::from_nanos(8))
        );
        assert_eq!(earlier(None, Some(start)), Some(start));
        assert_eq!(
            earlier(Some(Now::from_nanos(4)), Some(start)),
            Some(Now::from_nanos(4))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_shortened_by_less_than_its_precision(nanos in any::<u64>()) {
            let left = Duration::from_nanos(nanos);
            let read = parse_grpc_timeout(&write_grpc_timeout(left)).expect("our own writing");
            prop_assert!(read <= left);
            prop_assert!(left.saturating_sub(read) <= left / 1_000_000 + Duration::from_nanos(1));
        }

        #[test]
        fn any_value_is_read_or_refused(bytes in proptest::collection::vec(0x20u8..0x7f, 0..12)) {
            let value = HeaderValue::from_bytes(&bytes).expect("visible");
            if let Some(duration) = parse_grpc_timeout(&value) {
                prop_assert!(duration <= Duration::from_hours(99_999_999));
            }
        }
    }
}
