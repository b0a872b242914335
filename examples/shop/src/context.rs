//! What a request passes on to the requests it causes.

use http::{HeaderMap, HeaderName, HeaderValue};

/// Names one POST, end to end: the key of the [`crate::journal`].
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The id of a request, and its W3C trace context.
#[derive(Clone, Debug)]
pub struct Context {
    /// The request's id.
    pub id: String,
    trace: Vec<(HeaderName, HeaderValue)>,
}

impl Context {
    /// A context that begins here.
    pub fn new(id: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            trace: Vec::new(),
        }
    }

    /// The context that came with a request. One without an id gets one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let id = headers
            .get(REQUEST_ID)
            .and_then(|id| id.to_str().ok())
            .map_or_else(random_id, str::to_owned);
        let trace = [TRACEPARENT, TRACESTATE]
            .into_iter()
            .filter_map(|name| Some((name.clone(), headers.get(&name)?.clone())))
            .collect();
        Self { id, trace }
    }

    /// The same trace under the id `<id>/<step>`: one POST that this request causes.
    pub(crate) fn step(&self, step: &str) -> Self {
        Self {
            id: format!("{}/{step}", self.id),
            trace: self.trace.clone(),
        }
    }

    /// Its headers.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (HeaderName, HeaderValue)> + '_ {
        let id = HeaderValue::from_str(&self.id).ok();
        id.map(|id| (REQUEST_ID, id))
            .into_iter()
            .chain(self.trace.iter().cloned())
    }
}

fn random_id() -> String {
    format!("{:016x}", fastrand::u64(..))
}
