//! Whether a failed attempt may be followed by another, and when.
//!
//! Three grounds, from the safest on:
//!
//! | ground | what it covers | methods |
//! |---|---|---|
//! | unprocessed | no connection, refused streams, GOAWAY, a mesh peer's word that no application saw it | all |
//! | declared | statuses and gRPC codes that the route names | all |
//! | lost | the connection or the attempt's time ended before a response head | idempotent ones (RFC 9110 section 9.2.2) |
//!
//! Every ground needs a body that can be sent again, an attempt left, and time left; all but failures of the
//! connection itself also need a place in the budget: those reach no application, so they can't overload one. A request that
//! is a retry of the hop before is sent again only when unprocessed: otherwise attempts would multiply along a chain.
//! `attempts: 0` turns all of it off.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header::RETRY_AFTER};

use crate::outcome::{Reason, RetryDenied};
use crate::resource::{Backoff, Retry};

/// Retries of unprocessed requests are cheap and safe; this many are made even where the policy has fewer (but not none).
pub const UNPROCESSED_RETRIES: u32 = 4;

/// Longest `Retry-After` that is waited for; an answer that asks for more is passed on instead.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(2);

/// `UNAVAILABLE`, what a gRPC caller would see of a lost connection.
const GRPC_UNAVAILABLE: u32 = 14;

/// Why an attempt ended without a response head that could be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No connection.
    ConnectFailed,
    /// No connection in time.
    ConnectTimeout,
    /// TLS failed, or the peer is somebody else.
    TlsRefused,
    /// The destination's limit of connections or waiting requests is reached.
    Overloaded,
    /// Provably not processed: `REFUSED_STREAM`, a GOAWAY below this stream, a connection that closed unused.
    Refused,
    /// The connection or stream ended.
    Reset,
    /// The attempt's time limit.
    TimedOut,
    /// The response breaks the protocol.
    Protocol,
    /// The response's head is too long.
    HeadTooLarge,
    /// An upgrade went wrong.
    UpgradeFailed,
}

impl Failure {
    /// What the caller is told when nothing else follows.
    pub fn reason(self) -> Reason {
        match self {
            Self::ConnectFailed => Reason::ConnectFailed,
            Self::ConnectTimeout => Reason::ConnectTimeout,
            Self::TlsRefused => Reason::TlsRefused,
            Self::Overloaded => Reason::Overloaded,
            Self::Refused => Reason::UpstreamRefused,
            Self::Reset => Reason::UpstreamReset,
            Self::TimedOut => Reason::AttemptTimeout,
            Self::Protocol => Reason::UpstreamProtocol,
            Self::HeadTooLarge => Reason::UpstreamHeadTooLarge,
            Self::UpgradeFailed => Reason::UpgradeFailed,
        }
    }

    fn ground(self) -> Option<Ground> {
        match self {
            Self::ConnectFailed | Self::ConnectTimeout | Self::TlsRefused | Self::Refused => {
                Some(Ground::NoConnection)
            }
            Self::Reset | Self::TimedOut | Self::Protocol => Some(Ground::Lost),
            Self::Overloaded | Self::HeadTooLarge | Self::UpgradeFailed => None,
        }
    }
}

/// A response head, as far as retries care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its status.
    pub status: StatusCode,
    /// `grpc-status` of a trailers-only answer.
    pub grpc: Option<u32>,
    /// `Retry-After` in seconds.
    pub retry_after: Option<Duration>,
    /// A mesh peer's word that no application saw the request.
    pub unprocessed: bool,
}

impl Head {
    /// A head without anything special.
    pub fn new(status: StatusCode) -> Self {
        Self {
            status,
            grpc: None,
            retry_after: None,
            unprocessed: false,
        }
    }

    /// Whether the endpoint failed by this answer.
    pub fn is_failure(&self) -> bool {
        self.status.is_server_error() || self.grpc.is_some_and(crate::outcome::grpc_failed)
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempted {
    /// Without a head.
    Failed(Failure),
    /// With one, which was not forwarded yet.
    Answered(Head),
}

/// Why a retry would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ground {
    NoConnection,
    UnprocessedAnswer,
    Declared,
    Lost,
}

/// What a request allows.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The policy in force: the route's, else the cluster's default.
    pub policy: &'a Retry,
    /// By [`is_idempotent`].
    pub idempotent: bool,
    /// It is a gRPC call.
    pub grpc: bool,
    /// What was sent of the body can be sent again.
    pub replayable: bool,
    /// Attempts made here, the one that ended included.
    pub attempts: u32,
    /// Which attempt of the hop before this request is, from 1.
    pub peer_attempt: u32,
}

/// What follows, as far as the request itself decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Another attempt, after at most `ceiling` of jittered wait and at least `at_least`.
    Retry {
        /// Whether it needs a place in the budget.
        budgeted: bool,
        /// Upper end of the jitter.
        ceiling: Duration,
        /// What the endpoint asked for.
        at_least: Duration,
    },
    /// None. `None`: there was nothing to retry.
    Stop(Option<RetryDenied>),
}

/// Decides.
pub fn decide(request: &Request<'_>, ended: Attempted) -> Decision {
    let Some(ground) = ground(request, ended) else {
        return Decision::Stop(match ended {
            Attempted::Failed(Failure::Reset | Failure::TimedOut | Failure::Protocol) => {
                Some(RetryDenied::NotIdempotent)
            }
            _ => None,
        });
    };
    let unprocessed = matches!(ground, Ground::NoConnection | Ground::UnprocessedAnswer);
    let most = if unprocessed {
        request.policy.attempts.max(UNPROCESSED_RETRIES)
    } else {
        request.policy.attempts
    };
    let denied = match () {
        () if request.policy.attempts == 0 => Some(RetryDenied::Disabled),
        () if !request.replayable => Some(RetryDenied::Body),
        () if request.attempts > most || (request.peer_attempt > 1 && !unprocessed) => {
            Some(RetryDenied::Attempts)
        }
        () => None,
    };
    let at_least = retry_after(ended);
    if denied.is_some() || at_least > MAX_RETRY_AFTER {
        return Decision::Stop(denied);
    }
    // The first retry of what reached nobody goes elsewhere at once.
    let at_once = unprocessed && request.attempts == 1;
    let ceiling = if at_once {
        Duration::ZERO
    } else {
        backoff(&request.policy.backoff, request.attempts)
    };
    Decision::Retry {
        budgeted: ground != Ground::NoConnection,
        ceiling,
        at_least,
    }
}

fn ground(request: &Request<'_>, ended: Attempted) -> Option<Ground> {
    match ended {
        Attempted::Answered(head) if head.unprocessed => Some(Ground::UnprocessedAnswer),
        Attempted::Answered(head) => is_declared(request, &head).then_some(Ground::Declared),
        Attempted::Failed(failure) => match failure.ground() {
            Some(Ground::Lost) if !survives_loss(request) => None,
            ground => ground,
        },
    }
}

fn is_declared(request: &Request<'_>, head: &Head) -> bool {
    match head.grpc {
        Some(code) if request.grpc => request.policy.grpc_codes.contains(&code),
        _ => request.policy.statuses.contains(&head.status),
    }
}

fn survives_loss(request: &Request<'_>) -> bool {
    request.idempotent || (request.grpc && request.policy.grpc_codes.contains(&GRPC_UNAVAILABLE))
}

fn retry_after(ended: Attempted) -> Duration {
    match ended {
        Attempted::Answered(head) => head.retry_after.unwrap_or_default(),
        Attempted::Failed(_) => Duration::ZERO,
    }
}

/// The ceiling of the wait after the `attempts`-th attempt: doubles each time, up to the policy's.
fn backoff(policy: &Backoff, attempts: u32) -> Duration {
    let factor = 1u32.checked_shl(attempts.saturating_sub(1)).unwrap_or(u32::MAX);
    policy.base.saturating_mul(factor).min(policy.max)
}

/// Whether a method may be repeated without harm (RFC 9110 section 9.2.2).
pub fn is_idempotent(method: &Method) -> bool {
    const IDEMPOTENT: [Method; 6] = [
        Method::GET,
        Method::HEAD,
        Method::OPTIONS,
        Method::TRACE,
        Method::PUT,
        Method::DELETE,
    ];
    IDEMPOTENT.contains(method)
}

/// Reads `Retry-After` where it is a number of seconds; a date counts as absent.
pub fn parse_retry_after(headers: &HeaderMap) -> Option<Duration> {
    let digits = headers.get(RETRY_AFTER)?.as_bytes();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let seconds = std::str::from_utf8(digits).ok()?.parse().unwrap_or(u64::MAX);
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests;
