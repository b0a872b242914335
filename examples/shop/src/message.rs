//! What a service is asked and what it answers, apart from how that travels.

use std::io;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::context::Context;

/// A request, read to its end.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) context: Context,
    pub(crate) body: Bytes,
}

impl Asked {
    /// The body as `T`, or the answer that says why not.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Reply> {
        serde_json::from_slice(&self.body)
            .map_err(|error| Reply::new(StatusCode::BAD_REQUEST, &json!({ "error": error.to_string() })))
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn new(status: StatusCode, body: &impl Serialize) -> Self {
        Self {
            status,
            body: to_json(body),
        }
    }

    pub(crate) fn ok(body: &impl Serialize) -> Self {
        Self::new(StatusCode::OK, body)
    }

    /// An answer without a body.
    pub(crate) fn empty(status: StatusCode) -> Self {
        Self {
            status,
            body: Bytes::new(),
        }
    }

    pub(crate) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, &json!({ "error": "no such thing here" }))
    }

    /// 500, for what the machine refused.
    pub(crate) fn failed(error: &io::Error) -> Self {
        tracing::error!(%error, "a ledger can't be used");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!({ "error": error.to_string() }),
        )
    }
}

/// The `/`-separated parts of a path: `/users/7` is `["users", "7"]`.
pub(crate) fn segments(path: &str) -> Vec<&str> {
    path.split('/').filter(|part| !part.is_empty()).collect()
}

/// `{"error": …}`.
pub(crate) fn problem(text: impl Into<String>) -> Value {
    json!({ "error": text.into() })
}

/// JSON bytes of a value whose keys are strings.
pub(crate) fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec(value).map_or_else(|_| Bytes::new(), Bytes::from)
}
