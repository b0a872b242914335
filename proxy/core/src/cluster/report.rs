//! What an operator sees of a cluster.

use std::net::SocketAddr;
use std::time::Duration;

use crate::breaker::Phase;
use crate::cluster::ClusterState;
use crate::endpoint::Slot;
use crate::resource::Name;
use crate::time::Now;

/// A cluster at one moment. Counts are of the whole proxy, latencies of the worker that was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterReport {
    /// Its name.
    pub name: Name,
    /// Requests under way.
    pub requests: u32,
    /// Retries among them.
    pub retries: u32,
    /// Connections.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending: u32,
    /// Ejections so far.
    pub ejections: u64,
    /// State of the service's breaker; `None` without a policy.
    pub breaker: Option<Phase>,
    /// Whether all endpoints are ejected, so that ejections are ignored.
    pub panic: bool,
    /// Its endpoints.
    pub endpoints: Vec<EndpointReport>,
}

/// An endpoint at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct EndpointReport {
    /// Where it is.
    pub address: SocketAddr,
    /// `<namespace>/<name>`, or empty.
    pub workload: Name,
    /// Its identity; `None`: not meshed.
    pub identity: Option<Name>,
    /// Its zone, or empty.
    pub zone: Name,
    /// Its weight.
    pub weight: u32,
    /// Whether it takes new requests.
    pub ready: bool,
    /// Requests under way.
    pub requests: u32,
    /// Estimated response time; `None`: nothing known.
    pub latency: Option<Duration>,
    /// How long it stays ejected; `None`: it isn't.
    pub ejected_for: Option<Duration>,
    /// State of its breaker; `None` without a policy.
    pub breaker: Option<Phase>,
}

impl ClusterState {
    /// What an operator sees.
    pub fn report(&self, now: Now) -> ClusterReport {
        let (config, shared) = (self.config(), self.shared());
        ClusterReport {
            name: config.name.clone(),
            requests: shared.requests.value(),
            retries: shared.retries.value(),
            connections: shared.connections.value(),
            pending: shared.pending.value(),
            ejections: shared.ejections(),
            breaker: config.service_breaker.map(|_| shared.breaker().phase()),
            panic: self.selection.is_panic(),
            endpoints: self
                .slots
                .iter()
                .map(|slot| self.endpoint_report(slot, now))
                .collect(),
        }
    }

    fn endpoint_report(&self, slot: &Slot, now: Now) -> EndpointReport {
        let (endpoint, state) = (&slot.member.endpoint, &slot.member.state);
        let record = state.outlier.record();
        EndpointReport {
            address: endpoint.address,
            workload: endpoint.workload.clone(),
            identity: endpoint.identity.clone(),
            zone: endpoint.zone.clone(),
            weight: endpoint.weight,
            ready: endpoint.ready,
            requests: state.running(),
            latency: slot.latency.estimate(now),
            ejected_for: (self.config().outlier.is_some() && record.is_ejected(now))
                .then(|| record.until().since(now)),
            breaker: self
                .config()
                .endpoint_breaker
                .map(|_| state.breaker.machine().phase()),
        }
    }
}
