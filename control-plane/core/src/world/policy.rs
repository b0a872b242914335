//! Policies: how a Service's traffic is balanced, limited and retried, and who may connect.

use std::time::Duration;

use weft_api::traffic_policy::defaults;

use super::{Created, ObjectName};
use crate::resource::{Balancer, Breaker, Name, Outlier, Retry};

/// A TrafficPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficPolicy {
    /// Its name.
    pub name: ObjectName,
    /// Its age.
    pub created: Created,
    /// Services of its own namespace.
    pub targets: Vec<Target>,
    /// What it says.
    pub says: TrafficSettings,
}

/// What a policy is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The Service.
    pub service: ObjectName,
    /// The name of one port; `None`: all.
    pub port: Option<Name>,
}

/// What a TrafficPolicy says, filled up with what holds where it says nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrafficSettings {
    /// How endpoints are chosen.
    pub balancer: Balancer,
    /// Endpoints of the caller's zone first; `None`: as the Service says.
    pub prefer_zone: Option<bool>,
    /// How long a new endpoint takes to its full share.
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
    pub retry: Retry,
    /// Share of running requests that may be retries, 0 to 100.
    pub retry_budget_percent: u8,
    /// Retries that may always run.
    pub retry_budget_floor: u32,
}

impl Default for TrafficSettings {
    fn default() -> Self {
        Self {
            balancer: Balancer::default(),
            prefer_zone: None,
            slow_start: Duration::ZERO,
            connect_timeout: defaults::CONNECT_TIMEOUT.get(),
            max_connections: defaults::MAX_CONNECTIONS,
            max_pending: defaults::MAX_PENDING,
            max_requests: defaults::MAX_REQUESTS,
            outlier: Some(Outlier {
                consecutive_failures: defaults::OUTLIER_FAILURES,
                base_ejection: defaults::BASE_EJECTION.get(),
                max_ejection: defaults::MAX_EJECTION.get(),
                max_ejection_percent: defaults::MAX_EJECTED_PERCENT,
            }),
            endpoint_breaker: None,
            service_breaker: None,
            retry: Retry {
                attempts: defaults::RETRY_ATTEMPTS,
                statuses: Vec::new(),
                grpc_codes: Vec::new(),
                backoff_base: defaults::BACKOFF_BASE.get(),
                backoff_max: defaults::BACKOFF_MAX.get(),
            },
            retry_budget_percent: defaults::RETRY_BUDGET_PERCENT,
            retry_budget_floor: defaults::RETRY_BUDGET_FLOOR,
        }
    }
}

/// A MeshTLSPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPolicy {
    /// Its name.
    pub name: ObjectName,
    /// Its age.
    pub created: Created,
    /// What it is about.
    pub targets: Vec<TlsTarget>,
    /// Whether plaintext is let in too.
    pub permissive: bool,
}

/// What a MeshTLSPolicy is about. The narrowest wins.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsTarget {
    /// Its own namespace.
    Namespace,
    /// A Service of it.
    Service(ObjectName),
    /// One port of a Service, by name.
    Port(ObjectName, Name),
}
