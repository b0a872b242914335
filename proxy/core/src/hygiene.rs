//! What a message head must look like before it is passed on, beyond what the HTTP library refuses by itself.
//!
//! Each rule here closes a gap between two readers of one message: a rule is either a typed [`Violation`] (the message
//! is refused, nothing of it reaches anybody) or a field that is taken away. The order of a proxy's work is: check,
//! take private fields ([`take_private`], from mesh peers only), strip ([`strip_hop_by_hop`], [`strip_private`]), then add
//! its own fields; so no field that a message names in `Connection` can remove one of ours.
//!
//! Not here, because it can't be seen here: how the bytes of an HTTP/1 connection are framed, which [`crate::framing`]
//! reads before the HTTP library does; and a `#fragment`, which hyper drops before a head is handed out and which is not
//! forwarded, so the next reader doesn't see it either.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, COOKIE, EXPECT,
    HOST, MAX_FORWARDS, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use smallvec::SmallVec;

use crate::authority::{Authority, AuthorityError};
use crate::outcome::Reason;
use crate::trace::TRACEPARENT;

/// Most header fields of one head, cookie crumbs included.
pub const MAX_FIELDS: usize = 100;

/// Most bytes of one decoded head: names, values and the request target.
pub const MAX_HEAD: usize = 64 * 1024;

/// Most bytes of a trailer section, names and values.
pub const MAX_TRAILERS: usize = 16 * 1024;

/// Which attempt of its exchange a request is, counted from 1; between sidecars only.
pub const ATTEMPT: HeaderName = HeaderName::from_static("x-weft-attempt");

/// That a request's client spoke HTTP/2 (`2`), where nobody declared how the application speaks; between sidecars only,
/// whose own version says nothing.
pub const VERSION: HeaderName = HeaderName::from_static("x-weft-version");

/// On a response between sidecars: no application saw the request, it may be sent again.
pub const UNPROCESSED: HeaderName = HeaderName::from_static("x-weft-unprocessed");

/// Between sidecars, on an answer of a sidecar's own: the application's connection ended before its response head. The
/// peer treats it as its own connection to that application lost.
pub const LOST: HeaderName = HeaderName::from_static("x-weft-lost");

/// The SPIFFE id of who asks, from the proxy to its application.
pub const CLIENT_ID: HeaderName = HeaderName::from_static("x-weft-client-id");

/// What a trailer section must not hold, beside what belongs to one connection.
const NO_TRAILERS: [HeaderName; 13] = [
    AUTHORIZATION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    COOKIE,
    EXPECT,
    HOST,
    MAX_FORWARDS,
    SET_COOKIE,
    TE,
    TRAILER,
    UPGRADE,
];

const PRIVATE_PREFIX: &[u8] = b"x-weft-";
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// RFC 9112 section 3.2.
    #[error("an HTTP/1.1 request needs a Host field")]
    NoHost,
    /// RFC 9112 section 3.2.
    #[error("there is more than one Host field")]
    ManyHosts,
    /// What stands there can't be used.
    #[error("{0}")]
    Authority(#[from] AuthorityError),
    /// RFC 9113 section 8.3.1, and absolute form on HTTP/1.
    #[error("Host and the request target name different authorities")]
    AuthorityMismatch,
    /// Neither `http` nor `https`.
    #[error("the target's scheme is neither http nor https")]
    Scheme,
    /// A NUL in a path ends a C string.
    #[error("the path holds an encoded NUL (%00)")]
    Nul,
    /// RFC 9112 section 6.1: exactly one, exactly `chunked`, on HTTP/1.1 only.
    #[error("Transfer-Encoding is not exactly one `chunked`")]
    TransferEncoding,
    /// RFC 9112 section 6.1.
    #[error("there are both Transfer-Encoding and Content-Length")]
    TwoLengths,
    /// RFC 9110 section 8.6.
    #[error("Content-Length is not exactly one decimal number")]
    ContentLength,
    /// RFC 9112 section 2.2 lets a bare LF pass for a line's end; not every reader does.
    #[error("a line does not end in CRLF")]
    LineEnd,
    /// RFC 9112 section 5.2.
    #[error("a header field is folded over several lines")]
    Folded,
    /// RFC 9112 section 7.1.
    #[error("the body's chunks are malformed")]
    Chunks,
    /// What was meant for TLS would leave in the clear.
    #[error(
        "an https:// target can't be asked for without TLS: use CONNECT, or http:// and the mesh's own TLS"
    )]
    Https,
    /// RFC 9110 section 10.1.1.
    #[error("Expect is not exactly one `100-continue`")]
    Expect,
    /// RFC 9110 section 9.3.6.
    #[error("a CONNECT request has no body")]
    ConnectWithBody,
    /// [`MAX_FIELDS`].
    #[error("there are more than {MAX_FIELDS} header fields")]
    ManyFields,
    /// [`MAX_HEAD`].
    #[error("the head is longer than {MAX_HEAD} bytes")]
    LongHead,
    /// [`MAX_TRAILERS`].
    #[error("the trailer section is longer than {MAX_TRAILERS} bytes")]
    LongTrailers,
    /// A 101 that nobody asked for.
    #[error("the endpoint switched protocols without being asked to")]
    Unsolicited101,
}

impl Violation {
    /// What a request is answered with that breaks it.
    pub fn of_request(self) -> Reason {
        match self {
            Self::AuthorityMismatch => Reason::AuthorityMismatch,
            Self::Authority(AuthorityError::Forbidden) => Reason::ConnectForbidden,
            Self::Expect => Reason::ExpectationFailed,
            Self::ManyFields | Self::LongHead | Self::LongTrailers => Reason::HeadersTooLarge,
            _ => Reason::BadRequest,
        }
    }

    /// What a request is answered with whose response breaks it.
    pub fn of_response(self) -> Reason {
        match self {
            Self::ManyFields | Self::LongHead | Self::LongTrailers => Reason::UpstreamHeadTooLarge,
            Self::Unsolicited101 => Reason::UpgradeFailed,
            _ => Reason::UpstreamProtocol,
        }
    }
}

/// The length of a message's body, as its head declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Nothing said: none on an HTTP/1 request, until the end of the stream on HTTP/2.
    Undeclared,
    /// In bytes.
    Known(u64),
    /// Chunked.
    Chunked,
}

/// What the check of a request's head found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestFacts {
    /// Where it wants to go; `None`: it doesn't say (HTTP/1.0, or HTTP/2 without `:authority` and `host`).
    pub authority: Option<Authority>,
    /// The port where the authority has none.
    pub default_port: u16,
    /// Its body.
    pub length: BodyLength,
    /// The value of `Upgrade` where it is to be passed on: HTTP/1.1, named in `Connection`, no body, not h2c.
    pub upgrade: Option<HeaderValue>,
}

/// Checks a request's head, before anything in it is changed.
pub fn check_request(
    version: Version,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<RequestFacts, Violation> {
    check_size(Some(uri), headers)?;
    check_target(version, uri)?;
    check_expect(headers)?;
    let length = check_length(version, headers)?;
    if method == Method::CONNECT && !matches!(length, BodyLength::Undeclared) {
        return Err(Violation::ConnectWithBody);
    }
    let default_port = default_port(method, uri);
    let authority = check_authority(version, method, uri, headers, default_port)?;
    let no_body = matches!(length, BodyLength::Undeclared | BodyLength::Known(0));
    let upgrade = if version == Version::HTTP_11 && no_body {
        wanted_upgrade(headers)
    } else {
        None
    };
    Ok(RequestFacts {
        authority,
        default_port,
        length,
        upgrade,
    })
}

/// Checks a response's head, before anything in it is changed. `upgrade`: the request asked for one.
pub fn check_response(
    version: Version,
    status: StatusCode,
    headers: &HeaderMap,
    upgrade: bool,
) -> Result<BodyLength, Violation> {
    check_size(None, headers)?;
    if status == StatusCode::SWITCHING_PROTOCOLS && !(upgrade && version == Version::HTTP_11) {
        return Err(Violation::Unsolicited101);
    }
    check_length(version, headers)
}

/// Drops from a trailer section what may not stand there (RFC 9110 section 6.5.1): what frames or routes a message,
/// authenticates, or describes its content, and private fields.
pub fn clean_trailers(trailers: &mut HeaderMap) -> Result<(), Violation> {
    if trailers.len() > MAX_FIELDS {
        return Err(Violation::ManyFields);
    }
    if fields_len(trailers) > MAX_TRAILERS {
        return Err(Violation::LongTrailers);
    }
    for name in &NO_TRAILERS {
        trailers.remove(name);
    }
    strip_hop_by_hop(trailers);
    strip_private(trailers);
    Ok(())
}

/// Takes away what belongs to one connection: fields named in `Connection`, and those that always do (RFC 9110
/// section 7.6.1). `TE: trailers` stays, every other coding in it goes. Fields that frame or route a message, and
/// private ones, can't be named away.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        for name in named_in_connection(headers) {
            if !is_protected(&name) {
                headers.remove(&name);
            }
        }
    }
    let trailers = list_has(headers, &TE, b"trailers");
    for name in [
        &CONNECTION,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &PROXY_AUTHENTICATE,
        &PROXY_AUTHORIZATION,
        &TE,
        &TRANSFER_ENCODING,
        &UPGRADE,
        &HTTP2_SETTINGS,
    ] {
        headers.remove(name);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether a route may change a field: none that says where a message goes or how long it is, none that belongs to one
/// connection, and none of the sidecars' own.
pub fn may_be_edited(name: &HeaderName) -> bool {
    let reserved = [
        &CONNECTION,
        &CONTENT_LENGTH,
        &HOST,
        &HTTP2_SETTINGS,
        &KEEP_ALIVE,
        &PROXY_CONNECTION,
        &TE,
        &TRAILER,
        &TRANSFER_ENCODING,
        &UPGRADE,
    ];
    !reserved.contains(&name) && !is_private(name)
}

/// Takes away every private field, also spelled with underscores (some applications read `_` as `-`).
pub fn strip_private(headers: &mut HeaderMap) {
    let private: SmallVec<[HeaderName; 4]> =
        headers.keys().filter(|name| is_private(name)).cloned().collect();
    for name in &private {
        headers.remove(name);
    }
}

/// What a mesh peer says of its response in private fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Private {
    /// [`UNPROCESSED`].
    pub unprocessed: bool,
    /// [`LOST`].
    pub lost: bool,
}

/// Reads the private fields of a response of a mesh peer and takes them away. Never ask it of an application's.
pub fn take_private(headers: &mut HeaderMap) -> Private {
    let private = Private {
        unprocessed: headers.contains_key(UNPROCESSED),
        lost: headers.contains_key(LOST),
    };
    strip_private(headers);
    private
}

fn check_size(uri: Option<&Uri>, headers: &HeaderMap) -> Result<(), Violation> {
    if !within_max_fields(headers) {
        return Err(Violation::ManyFields);
    }
    let target = uri.map_or(0, |uri| {
        uri.authority().map_or(0, |a| a.as_str().len()) + uri.path_and_query().map_or(0, |p| p.as_str().len())
    });
    if target + fields_len(headers) > MAX_HEAD {
        Err(Violation::LongHead)
    } else {
        Ok(())
    }
}

/// Whether a head has no more than [`MAX_FIELDS`] fields, beside those that sidecars add between each other: what one
/// hop takes, the next must not refuse.
pub fn within_max_fields(headers: &HeaderMap) -> bool {
    let added = |name: &HeaderName| *name == TRACEPARENT || is_private(name);
    headers.len() <= MAX_FIELDS || headers.iter().filter(|(name, _)| !added(name)).count() <= MAX_FIELDS
}

fn fields_len(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum()
}

fn check_target(version: Version, uri: &Uri) -> Result<(), Violation> {
    match uri.scheme_str() {
        None | Some("http") => {}
        // On HTTP/2 the scheme is said with every request, and behind our own TLS it may be either.
        Some("https") if version == Version::HTTP_2 => {}
        Some("https") => return Err(Violation::Https),
        Some(_) => return Err(Violation::Scheme),
    }
    if uri.path().contains("%00") {
        Err(Violation::Nul)
    } else {
        Ok(())
    }
}

/// The one expectation there is; of any other nobody can say that it will be met.
fn check_expect(headers: &HeaderMap) -> Result<(), Violation> {
    let mut values = headers.get_all(EXPECT).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(()),
        (Some(value), None) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => Err(Violation::Expect),
    }
}

fn default_port(method: &Method, uri: &Uri) -> u16 {
    // A `Host` without port beside a CONNECT target means the target's port.
    let connect = if method == Method::CONNECT {
        uri.port_u16()
    } else {
        None
    };
    connect.unwrap_or(if uri.scheme_str() == Some("https") {
        443
    } else {
        80
    })
}

fn check_authority(
    version: Version,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    default_port: u16,
) -> Result<Option<Authority>, Violation> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = match hosts.next() {
        Some(value) => Some(Authority::parse(value.as_bytes())?),
        None if version == Version::HTTP_11 => return Err(Violation::NoHost),
        None => None,
    };
    if hosts.next().is_some() {
        return Err(Violation::ManyHosts);
    }
    let target = uri
        .authority()
        .map(|a| Authority::parse(a.as_str().as_bytes()))
        .transpose()?;
    if method == Method::CONNECT && target.as_ref().is_none_or(|target| target.port.is_none()) {
        return Err(AuthorityError::NoPort.into());
    }
    match (target, host) {
        (Some(target), Some(host)) if !target.same_as(&host, default_port) => {
            Err(Violation::AuthorityMismatch)
        }
        (Some(authority), _) | (None, Some(authority)) => Ok(Some(authority)),
        (None, None) => Ok(None),
    }
}

fn check_length(version: Version, headers: &HeaderMap) -> Result<BodyLength, Violation> {
    let length = content_length(headers)?;
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(length.map_or(BodyLength::Undeclared, BodyLength::Known));
    };
    let exact = coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none();
    if version != Version::HTTP_11 || !exact {
        return Err(Violation::TransferEncoding);
    }
    if length.is_some() {
        Err(Violation::TwoLengths)
    } else {
        Ok(BodyLength::Chunked)
    }
}

fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Violation> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let digits = value.as_bytes();
    if values.next().is_some() || digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(Violation::ContentLength);
    }
    let length = std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse().ok());
    length.map(Some).ok_or(Violation::ContentLength)
}

/// `Upgrade`, where `Connection` names it and none of its protocols is h2c (RFC 9113 took that upgrade away; passing
/// it on would let a client speak past us).
fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut values = headers.get_all(UPGRADE).iter();
    let value = values.next()?;
    let one = values.next().is_none() && list_has(headers, &CONNECTION, b"upgrade");
    let h2c = |item: &[u8]| item.len() >= 3 && item[..3].eq_ignore_ascii_case(b"h2c");
    if one && !items(value).any(h2c) {
        Some(value.clone())
    } else {
        None
    }
}

fn named_in_connection(headers: &HeaderMap) -> SmallVec<[HeaderName; 4]> {
    headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(items)
        .filter_map(|item| HeaderName::from_bytes(item).ok())
        .collect()
}

fn is_protected(name: &HeaderName) -> bool {
    [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, TE, AUTHORIZATION].contains(name)
        || is_private(name)
        || authority_like(name)
}

/// Fields that say who asks and from where: removing one behind a client's back changes what an application believes.
fn authority_like(name: &HeaderName) -> bool {
    let name = name.as_str();
    name == "forwarded" || name.starts_with("x-forwarded-") || name == "traceparent" || name == "tracestate"
}

fn is_private(name: &HeaderName) -> bool {
    let name = name.as_str().as_bytes();
    name.len() >= PRIVATE_PREFIX.len()
        && PRIVATE_PREFIX
            .iter()
            .zip(name)
            .all(|(want, have)| want == have || (*want == b'-' && *have == b'_'))
}

fn list_has(headers: &HeaderMap, name: &HeaderName, item: &[u8]) -> bool {
    headers
        .get_all(name)
        .iter()
        .flat_map(items)
        .any(|have| have.eq_ignore_ascii_case(item))
}

/// The items of a comma-separated list, without space around and parameters behind.
fn items(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(|item| {
            item.split(|byte| *byte == b';')
                .next()
                .unwrap_or(item)
                .trim_ascii()
        })
        .filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests;
