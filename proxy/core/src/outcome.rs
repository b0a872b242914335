//! What the proxy answers by itself, and how an exchange ended.
//!
//! Every answer that no application made comes from one closed enum, [`Reason`]. The variant fixes everything that is
//! said about it: HTTP status, gRPC status, metric label, access-log flag, whose fault it is, whether the request
//! was provably not processed, and the `proxy-status` header (RFC 9209). So a metric, a log line and a header can't
//! disagree, and a new reason can't be forgotten in one of them.
//!
//! [`Outcome`] is the one record that metrics and the access log read when an exchange is over.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

/// RFC 9209.
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The status of a gRPC call, a header in trailers-only answers, else a trailer.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The text that belongs to [`GRPC_STATUS`], percent-encoded.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Longest detail that [`Reason::proxy_status`] writes, in bytes.
pub const MAX_DETAIL: usize = 200;

/// Whose fault an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// Who sent the request.
    Downstream,
    /// Who should have answered it.
    Upstream,
    /// This proxy.
    Proxy,
    /// What was applied with kubectl.
    Config,
}

/// Everything that is fixed for a [`Reason`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The reason itself.
    pub reason: Reason,
    /// HTTP status.
    pub status: StatusCode,
    /// gRPC status code.
    pub grpc: u32,
    /// Value of the label `reason` of `weft_responses_by_proxy_total`.
    pub label: &'static str,
    /// Short code in the access log.
    pub flag: &'static str,
    /// Whose fault.
    pub blame: Blame,
    /// True when no application saw the request: whoever receives this answer may safely send it again, elsewhere.
    pub unprocessed: bool,
    /// The error token of RFC 9209.
    pub error: &'static str,
    /// One sentence for people.
    pub text: &'static str,
    /// The whole `proxy-status` value.
    proxy_status: &'static str,
    /// The whole body of the answer.
    body: &'static str,
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $status:ident $grpc:literal $label:literal $flag:literal $blame:ident
        $unprocessed:literal $error:literal $text:literal;)+) => {
        /// Why the proxy answered by itself. Closed: it is also a metric label.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])+ $name,)+ }

        const TABLE: &[Facts] = &[$(Facts {
            reason: Reason::$name,
            status: StatusCode::$status,
            grpc: $grpc,
            label: $label,
            flag: $flag,
            blame: Blame::$blame,
            unprocessed: $unprocessed,
            error: $error,
            text: $text,
            proxy_status: concat!("weft; error=", $error, "; details=\"", $text, "\""),
            body: concat!("weft: ", $text, "\n"),
        },)+];

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];
        }
    };
}

// variant = HTTP status, gRPC code, metric label, log flag, blame, provably unprocessed, RFC 9209 token, text.
reasons! {
    /// The request's head breaks a rule of [`crate::hygiene`].
    BadRequest = BAD_REQUEST 13 "bad_request" "BR" Downstream true "http_request_error"
        "the request is malformed";
    /// Host, absolute form and `:authority` don't say the same.
    AuthorityMismatch = BAD_REQUEST 13 "authority_mismatch" "AM" Downstream true "http_request_error"
        "host and request target name different authorities";
    /// Too many fields, or too long.
    HeadersTooLarge = REQUEST_HEADER_FIELDS_TOO_LARGE 8 "headers_too_large" "HL" Downstream true
        "http_request_error" "the request's header fields are too many or too long";
    /// The head or the body did not come in time.
    RequestIncomplete = REQUEST_TIMEOUT 4 "request_incomplete" "RI" Downstream false "http_request_error"
        "the request did not arrive completely in time";
    /// The request expects something else than `100-continue`.
    ExpectationFailed = EXPECTATION_FAILED 9 "expectation_failed" "EF" Downstream true "http_request_error"
        "the request expects what can't be met";
    /// CONNECT to an address that a tunnel must not reach, or a request to this proxy itself.
    ConnectForbidden = FORBIDDEN 7 "connect_forbidden" "CF" Downstream true "destination_ip_prohibited"
        "loopback, link-local and administrative addresses are no destinations of this proxy";
    /// Plaintext where the policy is Strict.
    IdentityRequired = FORBIDDEN 7 "identity_required" "IR" Downstream true "http_request_denied"
        "this port takes mesh mTLS only (MeshTLSPolicy Strict)";
    /// The route table has no rule for it.
    NoRoute = NOT_FOUND 12 "no_route" "NR" Config true "destination_not_found"
        "no rule of the destination's routes matches the request";
    /// The rule's backend does not exist.
    InvalidBackend = INTERNAL_SERVER_ERROR 14 "invalid_backend" "IB" Config true "proxy_configuration_error"
        "the route refers to a backend that does not exist";
    /// The rule has a filter that can't be honoured.
    UnsupportedFilter = INTERNAL_SERVER_ERROR 14 "unsupported_filter" "UF" Config true
        "proxy_configuration_error" "the route has a filter that is not supported";
    /// All weights of the rule are zero.
    ZeroWeight = SERVICE_UNAVAILABLE 14 "zero_weight" "ZW" Config true "destination_unavailable"
        "all backends of the matching route rule have weight zero";
    /// No part of the mesh, and egress is denied.
    DestinationUnknown = BAD_GATEWAY 14 "destination_unknown" "DU" Downstream true "destination_not_found"
        "the destination is not part of the mesh, and egress is denied";
    /// The control plane has not said yet what the destination is.
    ConfigPending = SERVICE_UNAVAILABLE 14 "config_pending" "CP" Proxy true "destination_unavailable"
        "no configuration for the destination yet, the control plane did not answer in time";
    /// The Service has no endpoint that may be used.
    NoEndpoint = SERVICE_UNAVAILABLE 14 "no_endpoint" "NE" Upstream true "destination_unavailable"
        "the destination has no ready endpoint";
    /// A circuit breaker is open.
    CircuitOpen = SERVICE_UNAVAILABLE 14 "circuit_open" "CO" Upstream true "destination_unavailable"
        "the destination's circuit breaker is open";
    /// A limit of the destination is reached.
    Overloaded = SERVICE_UNAVAILABLE 14 "overloaded" "OL" Upstream true "connection_limit_reached"
        "the destination's limit of connections or requests is reached";
    /// This proxy is short of memory.
    Shedding = SERVICE_UNAVAILABLE 14 "shedding" "SH" Proxy true "connection_limit_reached"
        "the proxy sheds load, its memory limit is near";
    /// The endpoint did not accept a connection.
    ConnectFailed = SERVICE_UNAVAILABLE 14 "connect_failed" "UC" Upstream true "connection_refused"
        "the endpoint refused the connection";
    /// The endpoint did not accept a connection in time.
    ConnectTimeout = GATEWAY_TIMEOUT 14 "connect_timeout" "CT" Upstream true "connection_timeout"
        "the endpoint did not accept the connection in time";
    /// TLS failed, or the endpoint is not who it should be.
    TlsRefused = SERVICE_UNAVAILABLE 14 "tls_refused" "TR" Upstream true "tls_certificate_error"
        "the endpoint could not prove the identity it should have, or refused ours";
    /// The endpoint had provably not begun to process the request, and no other took it.
    UpstreamRefused = SERVICE_UNAVAILABLE 14 "upstream_refused" "RF" Upstream true "connection_terminated"
        "the endpoint refused the request before processing it";
    /// The connection ended before a response head.
    UpstreamReset = BAD_GATEWAY 14 "upstream_reset" "UR" Upstream false "connection_terminated"
        "the endpoint's connection ended before a response";
    /// The response can't be understood or passed on.
    UpstreamProtocol = BAD_GATEWAY 13 "upstream_protocol" "UP" Upstream false "http_protocol_error"
        "the endpoint's response breaks the protocol";
    /// The response's header fields are too many or too long.
    UpstreamHeadTooLarge = BAD_GATEWAY 13 "upstream_head_too_large" "UL" Upstream false
        "http_response_header_section_size" "the response's header fields are too many or too long";
    /// An upgrade that was not asked for, or went wrong.
    UpgradeFailed = BAD_GATEWAY 13 "upgrade_failed" "UG" Upstream false "http_upgrade_failed"
        "the endpoint did not upgrade the connection as it was asked to";
    /// The whole exchange took too long.
    RequestTimeout = GATEWAY_TIMEOUT 4 "request_timeout" "RT" Upstream false "http_response_timeout"
        "the request's deadline passed";
    /// The last attempt took too long.
    AttemptTimeout = GATEWAY_TIMEOUT 4 "attempt_timeout" "AT" Upstream false "http_response_timeout"
        "the endpoint did not answer within the attempt's time limit";
    /// This proxy shuts down.
    Draining = SERVICE_UNAVAILABLE 14 "draining" "DR" Proxy true "destination_unavailable"
        "the proxy is shutting down";
    /// A bug.
    Panic = INTERNAL_SERVER_ERROR 13 "panic" "PA" Proxy false "proxy_internal_error"
        "the proxy failed internally, see its log";
}

impl Reason {
    /// Everything that is fixed for it.
    pub fn facts(self) -> &'static Facts {
        &TABLE[self as usize]
    }

    /// HTTP status.
    pub fn status(self) -> StatusCode {
        self.facts().status
    }

    /// gRPC status code.
    pub fn grpc_status(self) -> u32 {
        self.facts().grpc
    }

    /// Metric label.
    pub fn label(self) -> &'static str {
        self.facts().label
    }

    /// The value of [`PROXY_STATUS`]; `detail` is added to the text. What can't stand in a structured-field string
    /// is written as `?`, and at most [`MAX_DETAIL`] bytes of it.
    pub fn proxy_status(self, detail: Option<&str>) -> HeaderValue {
        let facts = self.facts();
        let Some(detail) = detail else {
            return HeaderValue::from_static(facts.proxy_status);
        };
        let mut value = format!("weft; error={}; details=\"{}: ", facts.error, facts.text);
        for byte in detail.bytes().take(MAX_DETAIL) {
            match byte {
                b'"' | b'\\' => value.extend(['\\', byte as char]),
                0x20..0x7f => value.push(byte as char),
                _ => value.push('?'),
            }
        }
        value.push('"');
        HeaderValue::from_maybe_shared(Bytes::from(value))
            .unwrap_or_else(|_| HeaderValue::from_static(facts.proxy_status))
    }

    /// The answer. For gRPC it is trailers-only: status 200, the failure in `grpc-status`, no body.
    pub fn response(self, grpc: bool, detail: Option<&str>) -> Response<Bytes> {
        let facts = self.facts();
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.insert(PROXY_STATUS, self.proxy_status(detail));
        if grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(GRPC_STATUS, HeaderValue::from(facts.grpc));
            headers.insert(GRPC_MESSAGE, HeaderValue::from_static(facts.text));
            return response;
        }
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("text/plain; charset=utf-8"),
        );
        headers.insert(CONTENT_LENGTH, HeaderValue::from(facts.body.len()));
        if self == Self::Shedding {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        *response.body_mut() = Bytes::from_static(facts.body.as_bytes());
        *response.status_mut() = facts.status;
        response
    }
}

/// Whether a message carries gRPC, by its `content-type`: `application/grpc`, alone or with `+suffix` or parameters.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const PREFIX: &[u8] = b"application/grpc";
    headers.get(CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        value.len() >= PREFIX.len()
            && value[..PREFIX.len()].eq_ignore_ascii_case(PREFIX)
            && matches!(value.get(PREFIX.len()), None | Some(b'+' | b';' | b' '))
    })
}

/// The code in `grpc-status`, of a trailers-only head or of trailers. One that can't be read counts as UNKNOWN (2).
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    let value = headers.get(GRPC_STATUS)?.as_bytes();
    let code = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
    Some(code.unwrap_or(2))
}

/// Whether a gRPC code counts as failure of an edge: `UNKNOWN`, `DEADLINE_EXCEEDED`, `INTERNAL`, `UNAVAILABLE`,
/// `DATA_LOSS`.
pub fn grpc_failed(code: u32) -> bool {
    matches!(code, 2 | 4 | 13 | 14 | 15)
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// With the end of the response.
    Complete,
    /// The endpoint broke off in the middle of the response.
    UpstreamReset,
    /// Who asked went away.
    DownstreamGone,
}

/// Why a failed attempt was not followed by another, where a policy had one to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryDenied {
    /// Turned off.
    Disabled,
    /// As many as the policy allows were made.
    Attempts,
    /// The budget is used up.
    Budget,
    /// It might have been processed, and processing it twice is not safe.
    NotIdempotent,
    /// The body is too long to be sent again.
    Body,
    /// The deadline would pass first.
    Deadline,
}

impl RetryDenied {
    /// For the access log.
    pub fn label(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Attempts => "attempts",
            Self::Budget => "budget",
            Self::NotIdempotent => "not_idempotent",
            Self::Body => "body",
            Self::Deadline => "deadline",
        }
    }
}

/// The end of an exchange: all that metrics and the access log need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// What the proxy answered by itself, or why it broke off a response; `None`: an application's response was
    /// forwarded, or nothing was sent before the caller went away.
    pub reason: Option<Reason>,
    /// Of what was sent downstream; `None` when nothing was.
    pub status: Option<StatusCode>,
    /// gRPC status, where the exchange was a gRPC call and had one.
    pub grpc: Option<u32>,
    /// How it ended.
    pub end: End,
    /// Attempts made; 0 when none was.
    pub attempts: u32,
    /// Why there was no further one.
    pub retry_denied: Option<RetryDenied>,
}

impl Outcome {
    /// Whether the edge failed: HTTP by a 5xx or an endpoint's reset, gRPC also by [`grpc_failed`] codes. A caller
    /// that goes away fails nothing.
    pub fn is_failure(&self) -> bool {
        match self.end {
            End::UpstreamReset => true,
            End::DownstreamGone => false,
            End::Complete => {
                self.status.is_some_and(|status| status.is_server_error())
                    || self.grpc.is_some_and(grpc_failed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_follows_the_enum_and_its_labels_are_unique() {
        let mut labels = BTreeSet::new();
        let mut flags = BTreeSet::new();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(reason.facts().reason, *reason);
            assert!(labels.insert(reason.label()), "{reason:?}");
            assert!(flags.insert(reason.facts().flag), "{reason:?}");
            assert!(reason.status().is_client_error() || reason.status().is_server_error());
            assert!((1..=16).contains(&reason.grpc_status()));
        }
    }

    #[test]
    fn blame_agrees_with_the_status_class() {
        for reason in Reason::ALL {
            let facts = reason.facts();
            if facts.status.is_client_error() && *reason != Reason::NoRoute {
                assert_eq!(facts.blame, Blame::Downstream, "{reason:?}");
            }
        }
    }

    #[test]
    fn a_grpc_answer_is_trailers_only() {
        let response = Reason::NoRoute.response(true, None);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()[GRPC_STATUS], "12");
        assert!(response.body().is_empty());
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
    }

    #[test]
    fn an_http_answer_carries_proxy_status_and_a_sized_body() {
        let response = Reason::NoEndpoint.response(false, None);
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            response.headers()[PROXY_STATUS],
            "weft; error=destination_unavailable; details=\"the destination has no ready endpoint\""
        );
        assert_eq!(
            response.headers()[CONTENT_LENGTH],
            response.body().len().to_string().as_str()
        );
    }

    #[test]
    fn content_types_of_grpc() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC; x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]);
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
    }

    #[test]
    fn edges_fail_by_5xx_resets_and_five_grpc_codes() {
        let ok = Outcome {
            reason: None,
            status: Some(StatusCode::OK),
            grpc: None,
            end: End::Complete,
            attempts: 1,
            retry_denied: None,
        };
        assert!(!ok.is_failure());
        assert!(
            Outcome {
                status: Some(StatusCode::BAD_GATEWAY),
                ..ok
            }
            .is_failure()
        );
        assert!(
            !Outcome {
                status: Some(StatusCode::NOT_FOUND),
                ..ok
            }
            .is_failure()
        );
        assert!(
            Outcome {
                end: End::UpstreamReset,
                ..ok
            }
            .is_failure()
        );
        assert!(
            !Outcome {
                end: End::DownstreamGone,
                status: None,
                ..ok
            }
            .is_failure()
        );
        let failing: Vec<u32> = (0..=16)
            .filter(|code| {
                Outcome {
                    grpc: Some(*code),
                    ..ok
                }
                .is_failure()
            })
            .collect();
        assert_eq!(failing, [2, 4, 13, 14, 15]);
    }

    proptest! {
        #[test]
        fn any_detail_gives_a_value_with_balanced_quotes(detail in any::<String>()) {
            let value = Reason::BadRequest.proxy_status(Some(&detail));
            let text = value.to_str().expect("visible ASCII");
            let mut open = false;
            let mut escaped = false;
            for c in text.chars() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => escaped = true,
                    '"' => open = !open,
                    _ => {}
                }
            }
            prop_assert!(!open && !escaped);
            prop_assert!(text.len() < 2 * MAX_DETAIL + 200);
        }
    }
}
