//! W3C trace context on requests: taken over or begun, and passed on. Spans are not exported yet; the ids stand in the
//! access log, so that logs of a call can be found together.

use http::HeaderMap;
use weft_proxy_core::trace::{TraceContext, continue_trace};

/// New traces are marked as not recorded: whoever wants one recorded begins it.
const SAMPLED: bool = false;

/// Takes the trace over, or begins one, and writes our own span into `headers`.
pub fn pass_on(headers: &mut HeaderMap, rng: &mut fastrand::Rng) -> TraceContext {
    continue_trace(headers, rng, SAMPLED)
}
