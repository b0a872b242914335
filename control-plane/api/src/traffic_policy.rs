//! TrafficPolicy: how requests to a Service are spread, limited, retried and cut off.
//!
//! Everything is optional; what is left out has the default that [`defaults`] names and the field's text repeats.
//! Numbers of failures may be 0, which switches the mechanism off; there is no second switch beside them.

#![allow(clippy::doc_markdown, reason = "field texts are what kubectl explain shows")]
#![allow(clippy::duplicated_attributes, reason = "printer columns repeat their keys")]
#![allow(unreachable_pub, reason = "the derive repeats each struct inside a function")]

use kube_derive::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::policy::{PolicyStatus, ServiceTarget};

/// What holds where no policy speaks.
pub mod defaults {
    use crate::duration::Duration;

    /// How long a connection may take to open, TCP and TLS together.
    pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
    /// Connections at once, for a whole proxy.
    pub const MAX_CONNECTIONS: u32 = 1024;
    /// Requests waiting for a connection at once, for a whole proxy.
    pub const MAX_PENDING: u32 = 1024;
    /// Requests running at once, for a whole proxy.
    pub const MAX_REQUESTS: u32 = 4096;
    /// Failures in a row that eject an endpoint.
    pub const OUTLIER_FAILURES: u32 = 5;
    /// First ejection.
    pub const BASE_EJECTION: Duration = Duration::from_secs(10);
    /// Longest ejection.
    pub const MAX_EJECTION: Duration = Duration::from_secs(300);
    /// Share of the endpoints that may be ejected, in percent.
    pub const MAX_EJECTED_PERCENT: u8 = 50;
    /// How long a breaker stays open.
    pub const OPEN_FOR: Duration = Duration::from_secs(5);
    /// Probes while a breaker is half open.
    pub const HALF_OPEN_PROBES: u32 = 1;
    /// Retries beyond the first attempt.
    pub const RETRY_ATTEMPTS: u32 = 2;
    /// Ceiling of the wait before the first retry.
    pub const BACKOFF_BASE: Duration = Duration::from_millis(25);
    /// Ceiling of the wait before any retry.
    pub const BACKOFF_MAX: Duration = Duration::from_millis(250);
    /// Retries running at once, in percent of the requests running.
    pub const RETRY_BUDGET_PERCENT: u8 = 20;
    /// Retries that may always run, whatever the percentage says: one replica's running requests.
    pub const RETRY_BUDGET_FLOOR: u32 = 100;
}

/// How requests to a Service are spread over its endpoints, limited, retried and cut off.
#[derive(Clone, Debug, Default, PartialEq, CustomResource, Serialize, Deserialize, KubeSchema)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[kube(
    crates(kube = "::kube_derive", kube_core = "::kube_core"),
    attr = r#"x_kube(crates(kube_core = "::kube_core"))"#,
    group = "weft.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    root = "TrafficPolicy",
    plural = "trafficpolicies",
    singular = "trafficpolicy",
    shortname = "tp",
    category = "weft",
    category = "weft-policy",
    namespaced,
    status = "PolicyStatus",
    derive = "PartialEq",
    cel,
    doc = "Says how the mesh's callers treat a Service: how requests are spread over its endpoints, how many may run, when they are retried, and when a failing endpoint or the whole Service is left alone. Attached to a Service or one of its ports, in the same namespace; the narrower policy decides.",
    label("gateway.networking.k8s.io/policy", "Direct"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(
        name = "Balancer",
        type_ = "string",
        json_path = ".spec.balancer.algorithm",
        priority = 1
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = ".status.ancestors[*].conditions[?(@.type==\"Accepted\")].status"
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = ".status.ancestors[*].conditions[?(@.type==\"Programmed\")].status"
    ),
    printcolumn(
        name = "Proxies",
        type_ = "string",
        json_path = ".status.ancestors[*].conditions[?(@.type==\"Programmed\")].message",
        priority = 1
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.ancestors[*].conditions[?(@.type==\"Accepted\")].reason",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TrafficPolicySpec {
    /// The Services this policy holds for, in its own namespace. At least one, at most 16, none twice.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, a.name == b.name \
        && (has(a.sectionName) ? a.sectionName : '') == (has(b.sectionName) ? b.sectionName : '')))")
        .message("the same target is named twice"))]
    pub target_refs: Vec<ServiceTarget>,
    /// How an endpoint is chosen for each request or connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<Balancer>,
    /// How long opening a connection may take, TCP and TLS together: 1ms to 1m. Default 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('60s')")
        .message("must lie between 1ms and 1m"))]
    pub connect_timeout: Option<Duration>,
    /// How much may run at once; what goes beyond is refused with 503 at once instead of queueing up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// When an endpoint that keeps failing is left out for a while. Default: after 5 failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier: Option<OutlierDetection>,
    /// Three-state circuit breakers. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<Breakers>,
    /// Retries of requests whose route says nothing about retries, and the budget that holds for all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
}

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.ringHash) || (has(self.algorithm) && self.algorithm == 'RingHash')")
    .message("ringHash is only read by algorithm RingHash"))]
pub struct Balancer {
    /// PeakEwma (default): of two endpoints drawn at random the one that answers faster and has less to do.
    /// RoundRobin: in turn. LeastRequest: of two drawn at random the one with fewer running requests. Random: any.
    /// RingHash: the same endpoint for the same key, as long as it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// What RingHash takes for its key. Left out, the caller's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring_hash: Option<RingHash>,
    /// How long a new endpoint takes to get its full share: 0s (off, the default) to 1h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("must not exceed 1h"))]
    pub slow_start: Option<Duration>,
    /// Which endpoints come first. PreferSameZone: those of the caller's zone, others when they are too few or busy.
    /// Any: all alike. Left out, the Service's own trafficDistribution decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locality: Option<Locality>,
}

/// How an endpoint is chosen. PeakEwma (default): of two drawn at random the one that answers faster and has less to
/// do. RoundRobin: in turn. LeastRequest: of two drawn at random the one with fewer running requests. Random: any.
/// RingHash: the same endpoint for the same key, as long as it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Algorithm {
    /// Of two endpoints drawn at random the one that answers faster and has less to do.
    #[default]
    PeakEwma,
    /// In turn.
    RoundRobin,
    /// Of two endpoints drawn at random the one with fewer running requests.
    LeastRequest,
    /// Any.
    Random,
    /// The same endpoint for the same key.
    RingHash,
}

/// The key of a consistent hash.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RingHash {
    /// The request header whose value is the key. A request without it is keyed by the caller's address.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^[A-Za-z0-9!#$%&'*+\-.^_|~]+$"))]
    pub header: String,
}

/// Which endpoints come first. PreferSameZone: those of the caller's zone, others when they are too few or busy.
/// Any: all alike. Left out, the Service's own trafficDistribution decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Locality {
    /// Those of the caller's zone.
    PreferSameZone,
    /// All alike.
    Any,
}

/// How much may run at once, counted for one caller's whole proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Connections open at once. Default 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub connections: Option<u32>,
    /// Requests waiting for a connection at once. Default 1024.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub pending: Option<u32>,
    /// Requests running at once. Default 4096.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: Option<u32>,
}

/// When an endpoint that keeps failing is left out for a while.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.baseEjection) || !has(self.maxEjection) \
    || duration(self.baseEjection) <= duration(self.maxEjection)")
    .message("baseEjection must not exceed maxEjection"))]
pub struct OutlierDetection {
    /// Failures in a row that eject an endpoint; 0 switches ejection off. Default 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000))]
    pub consecutive_failures: Option<u32>,
    /// How long the first ejection lasts; each further one lasts longer by as much. 1ms to 1h. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("must lie between 1ms and 1h"))]
    pub base_ejection: Option<Duration>,
    /// How long any ejection lasts at most: 1ms to 24h. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('24h')")
        .message("must lie between 1ms and 24h"))]
    pub max_ejection: Option<Duration>,
    /// How many of the endpoints may be ejected at once, in percent. Default 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejected_percent: Option<u8>,
}

/// Circuit breakers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Breakers {
    /// One for each endpoint: while open, the endpoint is not chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Breaker>,
    /// One for the whole Service: while open, requests are refused with 503 at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Breaker>,
}

/// A three-state circuit breaker: Closed, Open, HalfOpen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Breaker {
    /// Failures in a row that open it; 0 switches it off.
    #[schemars(range(min = 0, max = 100_000))]
    pub consecutive_failures: u32,
    /// How long it stays open before probes are let through: 1ms to 1h. Default 5s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("must lie between 1ms and 1h"))]
    pub open_for: Option<Duration>,
    /// Probes let through while half open; all must succeed to close it, one failure opens it again. Default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000))]
    pub half_open_probes: Option<u32>,
}

/// Retries where a route says nothing, and the budget of all retries.
///
/// Whatever is said here: a request is retried only while no part of an answer was forwarded and while its body is
/// still at hand (up to 64 KiB).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryPolicy {
    /// Retries beyond the first attempt; 0 switches them off, those on lost connections too. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10))]
    pub attempts: Option<u32>,
    /// HTTP statuses that are retried, beside lost connections of idempotent requests. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(range(min = 400, max = 599)))]
    pub statuses: Vec<u16>,
    /// gRPC status codes that are retried. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub grpc_codes: Vec<GrpcCode>,
    /// How long to wait before a retry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// How many retries may run at once. Holds for the retries of routes too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<RetryBudget>,
}

/// Waits before retries: exponential, with full jitter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(crates(kube_core = "::kube_core"))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("!has(self.base) || !has(self.max) || duration(self.base) <= duration(self.max)")
    .message("base must not exceed max"))]
pub struct Backoff {
    /// Longest wait before the first retry; it doubles with each further one. 1ms to 1m. Default 25ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('60s')")
        .message("must lie between 1ms and 1m"))]
    pub base: Option<Duration>,
    /// Longest wait before any retry: 1ms to 1m. Default 250ms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('60s')")
        .message("must lie between 1ms and 1m"))]
    pub max: Option<Duration>,
}

/// How many retries may run at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// In percent of the requests running. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percent: Option<u8>,
    /// Retries that may always run, so that a Service with little traffic is retried too. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub floor: Option<u32>,
}

/// A gRPC status code, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GrpcCode {
    /// 1.
    Cancelled,
    /// 2.
    Unknown,
    /// 4.
    DeadlineExceeded,
    /// 8.
    ResourceExhausted,
    /// 10.
    Aborted,
    /// 13.
    Internal,
    /// 14.
    Unavailable,
    /// 15.
    DataLoss,
}

impl GrpcCode {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::Cancelled => 1,
            Self::Unknown => 2,
            Self::DeadlineExceeded => 4,
            Self::ResourceExhausted => 8,
            Self::Aborted => 10,
            Self::Internal => 13,
            Self::Unavailable => 14,
            Self::DataLoss => 15,
        }
    }
}
