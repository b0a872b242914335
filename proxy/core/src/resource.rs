//! xDS resources as the core reads them: decoded and checked, but still referring to each other by name.
//!
//! The shell decodes protobuf into these; [`crate::snapshot`] links them into what a request uses. Every
//! constructor-less struct here is plain data: what must hold is written at the field, and the decoder refuses what
//! breaks it, so that linking can't fail on content, only on absence.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};

/// The name of a resource.
pub type Name = Arc<str>;

/// One resource.
// Made once per response and moved into the store: boxing would cost more than the copy.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// CDS.
    Cluster(Cluster),
    /// EDS.
    Endpoints(Endpoints),
    /// LDS.
    Listener(Listener),
    /// RDS.
    Routes(RouteConfig),
    /// SDS: a trust bundle.
    Trust(TrustBundle),
    /// Names that peers of this workload use.
    Hints(Hints),
}

/// The kinds of resource, in the order in which they are applied (make before break).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Cluster`].
    Cluster,
    /// [`Endpoints`].
    Endpoints,
    /// [`Listener`].
    Listener,
    /// [`RouteConfig`].
    Routes,
    /// [`TrustBundle`].
    Trust,
    /// [`Hints`].
    Hints,
}

impl Resource {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Cluster(_) => Kind::Cluster,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Listener(_) => Kind::Listener,
            Self::Routes(_) => Kind::Routes,
            Self::Trust(_) => Kind::Trust,
            Self::Hints(_) => Kind::Hints,
        }
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        match self {
            Self::Cluster(r) => &r.name,
            Self::Endpoints(r) => &r.cluster,
            Self::Listener(r) => &r.name,
            Self::Routes(r) => &r.name,
            Self::Trust(r) => &r.name,
            Self::Hints(r) => &r.name,
        }
    }
}

/// How a destination or an application speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Nothing declared: detected from the first bytes of either side.
    #[default]
    Detect,
    /// HTTP/1.0 and 1.1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// HTTP/2 that carries gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

/// What is behind an authority, or this workload's own inbound side.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// The name it was asked for by.
    pub name: Name,
    /// Which of the two.
    pub body: ListenerBody,
}

/// See [`Listener`].
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerBody {
    /// A destination.
    Outbound {
        /// The declared protocol.
        protocol: Protocol,
        /// The route table for requests; `None` only for [`Protocol::Tcp`].
        routes: Option<Name>,
        /// The cluster for opaque bytes; `None` where only requests make sense.
        cluster: Option<Name>,
    },
    /// This workload.
    Inbound(Inbound),
}

/// What this workload offers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Inbound {
    /// By the port that is dialled.
    pub ports: BTreeMap<u16, InboundPort>,
    /// Who may connect to a port that is not listed, whose protocol is [`Protocol::Detect`].
    pub undeclared: TlsMode,
}

/// One inbound port.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPort {
    /// How the application behind it speaks.
    pub protocol: Protocol,
    /// Who may connect.
    pub tls: TlsMode,
    /// `<service>.<namespace>.svc.<domain>:<port>` of the Service that selects it.
    pub service: Option<Name>,
}

/// MeshTLSPolicy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// mTLS from the mesh only.
    #[default]
    Strict,
    /// Plaintext too.
    Permissive,
}

/// A route table: the first rule that matches wins, no match is 404.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteConfig {
    /// The authority it belongs to.
    pub name: Name,
    /// In order of precedence (the control plane sorts by the Gateway API's rules).
    pub rules: Vec<Rule>,
}

/// One rule of a route table.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// `<kind>/<namespace>/<route>/<rule>`, for logs; may be empty.
    pub name: Name,
    /// When it applies.
    pub matches: RouteMatch,
    /// Changes to the request's head.
    pub request: HeaderEdit,
    /// Changes to the response's head.
    pub response: HeaderEdit,
    /// Changes to host and path.
    pub rewrite: Rewrite,
    /// What it does.
    pub action: Action,
    /// Whole exchange, from request head to response end; `None` or zero: no limit.
    pub timeout: Option<Duration>,
    /// One attempt; `None` or zero: no limit of its own.
    pub attempt_timeout: Option<Duration>,
    /// Retries; `None`: the cluster's default.
    pub retry: Option<Retry>,
}

/// When a rule applies: all of it must hold.
#[derive(Clone, Debug, PartialEq)]
pub struct RouteMatch {
    /// The path, without the query.
    pub path: PathMatch,
    /// `None`: any.
    pub method: Option<Method>,
    /// All must match. A header sent several times is compared as its values joined by `,`.
    pub headers: Vec<HeaderMatch>,
    /// All must match, each against the first parameter of that name.
    pub query: Vec<QueryMatch>,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Byte for byte.
    Exact(String),
    /// By whole segments: `/a` matches `/a` and `/a/b`, not `/ab`. `/` matches everything.
    Prefix(String),
    /// The whole path. Bounded in length and compiled size by the decoder.
    Regex(String),
}

/// A condition on a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: ValueMatch,
}

/// A condition on a query parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name, as it stands on the wire.
    pub name: String,
    /// Its value.
    pub value: ValueMatch,
}

/// How a value is compared. Values are bytes: one that isn't UTF-8 is compared all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(String),
    /// The whole value.
    Regex(String),
    /// Any value, even an empty one.
    Present,
}

/// Header changes, applied in this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdit {
    /// Names to take away.
    pub remove: Vec<HeaderName>,
    /// Replaces every value.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Adds a value.
    pub add: Vec<(HeaderName, HeaderValue)>,
}

/// Changes of host and path before a request is forwarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// New authority.
    pub host: Option<String>,
    /// New path; the query stays.
    pub path: Option<PathRewrite>,
}

/// How a path is replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// All of it.
    Full(String),
    /// The part that [`PathMatch::Prefix`] matched.
    Prefix(String),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// To one of these by weight. All weights zero, or none: 503.
    Forward(Vec<WeightedBackend>),
    /// Answered with a redirect.
    Redirect(Redirect),
    /// Answered with this status (500 for a rule with a filter that can't be honoured).
    Respond(http::StatusCode),
}

/// A share of a rule's traffic.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedBackend {
    /// Its share.
    pub weight: u32,
    /// Where to.
    pub target: Target,
    /// Changes on this share only, after the rule's own.
    pub request: HeaderEdit,
    /// Changes on this share only, after the rule's own.
    pub response: HeaderEdit,
}

/// Where a share goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A cluster.
    Cluster(Name),
    /// Nothing that exists: 500.
    Invalid,
}

/// A redirect. What is `None` stays as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Host without port.
    pub host: Option<String>,
    /// Port; left out of `Location` where it is the scheme's own.
    pub port: Option<u16>,
    /// Path.
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: http::StatusCode,
}

/// Retries that a route declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// At most this many beyond the first attempt; 0 turns retries off, the default ones too.
    pub attempts: u32,
    /// Response statuses to retry.
    pub statuses: Vec<http::StatusCode>,
    /// gRPC status codes to retry (trailers-only answers).
    pub grpc_codes: Vec<u32>,
    /// Base and ceiling of the exponential backoff with full jitter.
    pub backoff: Backoff,
}

/// Exponential backoff with full jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Ceiling of the first wait.
    pub base: Duration,
    /// Ceiling of any wait.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        }
    }
}

/// A Service's port, and how it is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Cluster {
    /// `<service>.<namespace>.svc.<domain>:<port>`.
    pub name: Name,
    /// How its application speaks.
    pub protocol: Protocol,
    /// How endpoints are chosen.
    pub balancer: Balancer,
    /// Endpoints of our own zone first.
    pub prefer_zone: bool,
    /// New endpoints come up to full weight over this time; zero: at once.
    pub slow_start: Duration,
    /// TCP and TLS together.
    pub connect_timeout: Duration,
    /// How much at once.
    pub limits: Limits,
    /// When an endpoint is left out.
    pub outlier: Option<Outlier>,
    /// One per endpoint.
    pub endpoint_breaker: Option<Breaker>,
    /// One for the whole cluster.
    pub service_breaker: Option<Breaker>,
    /// Retries where the route says nothing.
    pub default_retry: Retry,
    /// How many retries may run.
    pub retry_budget: RetryBudget,
}

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Balancer {
    /// The better of two random ones by latency times load (Finagle's peak EWMA).
    #[default]
    PeakEwma,
    /// In turn, by weight.
    RoundRobin,
    /// The less loaded of two random ones, by weight.
    LeastRequest,
    /// By weight, at random.
    Random,
    /// Consistent hashing (Ketama).
    RingHash(HashKey),
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A request header; a request without it is hashed by its peer's address.
    Header(HeaderName),
    /// The peer's address.
    SourceAddress,
}

/// Limits of one cluster, each for the whole proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Requests under way.
    pub requests: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending: 1024,
            requests: 4096,
        }
    }
}

/// Outlier ejection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlier {
    /// Failures in a row that eject.
    pub consecutive_failures: u32,
    /// First ejection; the n-th in a row lasts n times as long.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// At most this share of the endpoints at once, 0 to 100.
    pub max_ejection_percent: u8,
}

/// A three-state circuit breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// How long it stays open.
    pub open_for: Duration,
    /// Probes let through while half-open, all of which must succeed; 1 or more.
    pub half_open_probes: u32,
}

/// How many retries may run at once: `percent` of running requests, or `floor`, whichever is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudget {
    /// 0 to 100.
    pub percent: u8,
    /// Retries that may always run.
    pub floor: u32,
}

/// The endpoints of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoints {
    /// The cluster.
    pub cluster: Name,
    /// No address twice.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where to dial.
    pub address: SocketAddr,
    /// 1 or more.
    pub weight: u32,
    /// Takes new requests. One that doesn't (draining) is used only when no other is left.
    pub ready: bool,
    /// Topology zone; empty: unknown.
    pub zone: Name,
    /// The SPIFFE id it must prove; `None`: not meshed, plaintext.
    pub identity: Option<Name>,
    /// `<namespace>/<name>`, for people; may be empty.
    pub workload: Name,
}

/// Roots that peers are checked against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    /// `spiffe://<trust domain>`.
    pub name: Name,
    /// DER.
    pub roots: Vec<Arc<[u8]>>,
}

/// Names that peers of this workload use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hints {
    /// `hints/<node id>`.
    pub name: Name,
    /// Listener names.
    pub listeners: Vec<Name>,
}
