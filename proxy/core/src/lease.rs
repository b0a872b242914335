//! One request's hold on one endpoint.
//!
//! A [`Lease`] is what [`acquire`](crate::cluster::ClusterState::acquire) hands out: while it lives, the request is
//! counted, and its probes are taken. It ends once and only once, because it is moved: by
//! [`release`](crate::cluster::ClusterState::release) with a [`Verdict`], or by being dropped, which counts as
//! [`Verdict::Cancelled`]. So a request whose future is dropped half-way leaks nothing.

use std::sync::Arc;

use crate::breaker::Pass;
use crate::endpoint::Member;
use crate::resource::{Cluster, Endpoint};
use crate::time::Now;

/// How a request on an endpoint ended, as far as the endpoint is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The endpoint did its part.
    Success,
    /// The endpoint failed: no connection, a reset, an answer that counts as failure.
    Failure,
    /// Says nothing about the endpoint: the client went away, or the attempt was never sent.
    Cancelled,
}

/// A request's hold on an endpoint.
#[derive(Debug)]
#[must_use = "a lease that is dropped at once counts as a cancelled request"]
pub struct Lease {
    pub(crate) member: Arc<Member>,
    /// Where the member stood when the lease was made; only a hint.
    pub(crate) slot: usize,
    pub(crate) started: Now,
    pub(crate) responded: bool,
    passes: Option<Passes>,
}

#[derive(Clone, Copy, Debug)]
struct Passes {
    service: Pass,
    endpoint: Pass,
}

impl Lease {
    /// Counts the request on the endpoint. It is counted on the cluster, and both passes are taken, already.
    pub(crate) fn new(member: Arc<Member>, slot: usize, started: Now, service: Pass, endpoint: Pass) -> Self {
        member.state.enter();
        Self {
            member,
            slot,
            started,
            responded: false,
            passes: Some(Passes { service, endpoint }),
        }
    }

    /// Where to send the request.
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.member.endpoint
    }

    /// When it was acquired.
    pub fn started(&self) -> Now {
        self.started
    }

    /// The request left only now: what passed until then was the making of a connection, and says nothing about how
    /// long the endpoint takes to answer.
    pub(crate) fn sent(&mut self, now: Now) {
        self.started = self.started.max(now);
    }

    /// A response has begun that tells of no failure: where the request was a probe of a breaker's, that is over.
    pub(crate) fn answered(&mut self, config: &Cluster, now: Now) {
        let Some(passes) = &mut self.passes else { return };
        let (cluster, state) = (&self.member.cluster, &self.member.state);
        let service = config.service_breaker.as_ref();
        (passes.service, _) = cluster.breaker.answered(service, now, passes.service);
        let (endpoint, changed) =
            state
                .breaker
                .answered(config.endpoint_breaker.as_ref(), now, passes.endpoint);
        passes.endpoint = endpoint;
        if changed {
            cluster.changed();
        }
    }

    /// Tells both breakers how it ended, and gives back what it held.
    pub(crate) fn settle(mut self, config: &Cluster, now: Now, verdict: Verdict) {
        let Some(passes) = self.passes.take() else { return };
        let (cluster, state) = (&self.member.cluster, &self.member.state);
        cluster
            .breaker
            .settle(config.service_breaker.as_ref(), now, passes.service, verdict);
        if state
            .breaker
            .settle(config.endpoint_breaker.as_ref(), now, passes.endpoint, verdict)
        {
            cluster.changed();
        }
        state.leave();
        cluster.requests.leave();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(passes) = self.passes.take() else { return };
        let (cluster, state) = (&self.member.cluster, &self.member.state);
        cluster.breaker.give_back(passes.service);
        if state.breaker.give_back(passes.endpoint) {
            cluster.changed();
        }
        state.leave();
        cluster.requests.leave();
    }
}
