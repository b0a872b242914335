//! Request targets.

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// The absolute form; the mere path where there is no authority.
pub fn absolute(authority: Option<Authority>, path: PathAndQuery) -> Uri {
    let mut parts = http::uri::Parts::default();
    if authority.is_some() {
        parts.scheme = Some(Scheme::HTTP);
    }
    parts.authority = authority;
    parts.path_and_query = Some(path);
    // Scheme and authority come together, and there is a path: nothing can be missing.
    Uri::from_parts(parts).unwrap_or_default()
}
