//! What translation produces: plain values, one per xDS resource, independent of protobuf and of the client's
//! dialect. The shell encodes them; versions are hashes of these values.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// The name of a resource.
pub type Name = Arc<str>;

/// The kinds of resource. Their order is the order of sending: clusters, endpoints, listeners, routes (make before
/// break); removals go last, in the opposite order. Do not reorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// [`Cluster`].
    Cluster,
    /// [`Endpoints`].
    Endpoints,
    /// [`Listener`].
    Listener,
    /// [`RouteTable`].
    Route,
    /// A trust bundle.
    Secret,
    /// Names that peers of a workload use.
    Hints,
}

/// Who a resource's content depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum View {
    /// Nobody: the same for all.
    Shared,
    /// The namespace that looks (consumer routes).
    Namespace(Arc<str>),
}

/// Names one resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: Name,
    /// Whose view it is.
    pub view: View,
}

/// One resource's content.
#[allow(clippy::large_enum_variant)] // Always behind an `Arc`, never in an array.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// CDS.
    Cluster(Cluster),
    /// EDS.
    Endpoints(Endpoints),
    /// LDS.
    Listener(Listener),
    /// RDS.
    Route(RouteTable),
    /// SDS: roots, DER, sorted.
    TrustBundle(Vec<Arc<[u8]>>),
    /// Names that peers of a workload use, sorted.
    Hints(Vec<Name>),
}

/// How a port speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// Nothing declared.
    #[default]
    Detect,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Detect => "undeclared",
            Self::Http1 => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        })
    }
}

/// A listener.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listener {
    /// A destination, by authority.
    Outbound {
        /// The declared protocol.
        protocol: Protocol,
        /// Route table for requests; `None` only for [`Protocol::Tcp`].
        routes: Option<Name>,
        /// Cluster for opaque bytes ([`Protocol::Tcp`] and [`Protocol::Detect`]).
        cluster: Option<Name>,
    },
    /// A workload's own side.
    Inbound {
        /// Ascending.
        ports: Vec<InboundPort>,
        /// Whether plaintext is let in too where no port is listed: as the namespace's policy says.
        permissive: bool,
    },
    /// Envoy's one outbound listener: everything its namespace may see.
    Wildcard {
        /// Route tables by Host.
        routes: Name,
    },
}

/// One port of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct InboundPort {
    /// The port that is dialled.
    pub port: u16,
    /// How the application speaks.
    pub protocol: Protocol,
    /// Whether plaintext is let in too.
    pub permissive: bool,
    /// `<service>.<namespace>.svc.<domain>:<port>`, where a Service selects it.
    pub service: Option<Name>,
}

/// A route table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteTable {
    /// One for a single destination; several for [`Listener::Wildcard`].
    pub hosts: Vec<VirtualHost>,
}

/// The rules for one authority.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct VirtualHost {
    /// `<service>.<namespace>.svc.<domain>:<port>`.
    pub name: Name,
    /// Authorities; `*` in a table of its own.
    pub domains: Vec<Name>,
    /// In order of precedence.
    pub rules: Vec<Rule>,
}

/// One rule, with one match (a route's rule with n matches becomes n of these).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// `<kind>/<namespace>/<route>/<rule>`.
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
    /// Whole exchange.
    pub timeout: Option<Duration>,
    /// One attempt.
    pub attempt_timeout: Option<Duration>,
    /// Retries; `None`: the cluster's default.
    pub retry: Option<Retry>,
}

/// When a rule applies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteMatch {
    /// The path.
    pub path: PathMatch,
    /// Upper case; `None`: any.
    pub method: Option<String>,
    /// All must match; names in lower case.
    pub headers: Vec<(String, ValueMatch)>,
    /// All must match.
    pub query: Vec<(String, ValueMatch)>,
    /// Only requests of gRPC (`content-type: application/grpc…`).
    pub grpc: bool,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathMatch {
    /// Byte for byte.
    Exact(String),
    /// By whole segments, without a trailing slash (but `/` itself).
    Prefix(String),
    /// The whole path.
    Regex(String),
}

/// How a value is compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(String),
    /// The whole value.
    Regex(String),
}

/// Header changes: remove, set, add. Names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct HeaderEdit {
    /// Taken away.
    pub remove: Vec<String>,
    /// Replaces.
    pub set: Vec<(String, String)>,
    /// Adds.
    pub add: Vec<(String, String)>,
}

/// Changes of host and path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rewrite {
    /// New authority.
    pub host: Option<String>,
    /// New path.
    pub path: Option<PathRewrite>,
}

/// How a path is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathRewrite {
    /// All of it.
    Full(String),
    /// The part that [`PathMatch::Prefix`] matched.
    Prefix(String),
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// To one of these by weight.
    Forward(Vec<Backend>),
    /// A redirect.
    Redirect {
        /// `http` or `https`.
        scheme: Option<String>,
        /// Host without port.
        host: Option<String>,
        /// Port.
        port: Option<u16>,
        /// Path.
        path: Option<PathRewrite>,
        /// 301, 302, 303, 307 or 308.
        status: u16,
    },
    /// A fixed status (500 for a rule whose filter can't be honoured).
    Respond(u16),
}

/// A share of a rule's traffic.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Its share.
    pub weight: u32,
    /// Cluster name; `None`: nothing that exists, 500.
    pub cluster: Option<Name>,
    /// Changes on this share only.
    pub request: HeaderEdit,
    /// Changes on this share only.
    pub response: HeaderEdit,
}

/// Retries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Beyond the first attempt; 0: none at all.
    pub attempts: u32,
    /// HTTP statuses.
    pub statuses: Vec<u16>,
    /// gRPC codes.
    pub grpc_codes: Vec<u32>,
    /// Ceiling of the first wait.
    pub backoff_base: Duration,
    /// Ceiling of any wait.
    pub backoff_max: Duration,
}

/// A Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// How its application speaks.
    pub protocol: Protocol,
    /// How endpoints are chosen.
    pub balancer: Balancer,
    /// Endpoints of the caller's zone first (`trafficDistribution`).
    pub prefer_zone: bool,
    /// Zero: off.
    pub slow_start: Duration,
    /// TCP and TLS together.
    pub connect_timeout: Duration,
    /// At once, for a whole proxy.
    pub max_connections: u32,
    /// At once, for a whole proxy.
    pub max_pending: u32,
    /// At once, for a whole proxy.
    pub max_requests: u32,
    /// Outlier ejection.
    pub outlier: Option<Outlier>,
    /// Per endpoint.
    pub endpoint_breaker: Option<Breaker>,
    /// For the whole Service.
    pub service_breaker: Option<Breaker>,
    /// Where a route says nothing.
    pub default_retry: Retry,
    /// 0 to 100.
    pub retry_budget_percent: u8,
    /// Retries that may always run.
    pub retry_budget_floor: u32,
    /// Every SPIFFE id its endpoints may have, sorted: what dialects without an identity per endpoint check
    /// (SANs). Empty: no endpoint is meshed.
    pub identities: Vec<Name>,
}

/// How endpoints are chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Balancer {
    /// P2C over peak EWMA.
    #[default]
    PeakEwma,
    /// In turn.
    RoundRobin,
    /// P2C over running requests.
    LeastRequest,
    /// At random.
    Random,
    /// Consistent hashing of this header, or of the peer's address.
    RingHash(Option<String>),
}

/// Outlier ejection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outlier {
    /// Failures in a row.
    pub consecutive_failures: u32,
    /// First ejection.
    pub base_ejection: Duration,
    /// Longest ejection.
    pub max_ejection: Duration,
    /// 0 to 100.
    pub max_ejection_percent: u8,
}

/// A three-state circuit breaker.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// Failures in a row that open it.
    pub consecutive_failures: u32,
    /// How long it stays open.
    pub open_for: Duration,
    /// Probes while half-open.
    pub half_open_probes: u32,
}

/// The endpoints of a cluster, ascending by address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoints {
    /// No address twice.
    pub endpoints: Vec<Endpoint>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Where to dial.
    pub address: SocketAddr,
    /// 1 or more.
    pub weight: u32,
    /// Takes new requests.
    pub ready: bool,
    /// Topology zone; empty: unknown.
    pub zone: Name,
    /// SPIFFE id; `None`: not meshed.
    pub identity: Option<Name>,
    /// `<namespace>/<name>`; may be empty.
    pub workload: Name,
}
