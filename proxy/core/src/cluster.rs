//! A cluster as a worker uses it: which endpoint takes the next request, and what its end teaches.
//!
//! ```text
//! ClusterEntry (immutable, linked, for all workers)      ClusterState (one per worker)
//!   config, endpoints, hash ring                           latency, turns, age of each endpoint
//!   shared ── counts, ejections, breakers (atomics) ◀────  which endpoints may be chosen now
//! ```
//!
//! Call order: [`ClusterState::update`] whenever the snapshot holds another entry (a pointer comparison),
//! [`acquire`](ClusterState::acquire), optionally [`responded`](ClusterState::responded) at the response head, and
//! [`release`](ClusterState::release). In the steady state none of them allocates.
//!
//! What workers share is carried from entry to entry when configuration is linked, so that no map and no lock is
//! needed to find it. Sharing moments between workers supposes that all of them count [`Now`] from the same start.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::endpoint::{Member, SharedEndpoint, Slot};
use crate::limit::Gauge;
use crate::outlier::most_ejected;
use crate::resource::{Balancer, Cluster, Endpoint, Endpoints, Name};
use crate::ring::Ring;
use crate::selection::Selection;
use crate::time::Now;
use crate::{balance::Group, breaker};

pub use crate::lease::{Lease, Verdict};

mod report;

pub use report::{ClusterReport, EndpointReport};

/// Why a request gets no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unavailable {
    /// Nothing serves it.
    #[error("the service has no endpoints; is a workload behind it running and ready?")]
    NoEndpoints,
    /// The circuit breaker of each endpoint is open.
    #[error(
        "the circuit breakers of all endpoints are open after repeated failures; look at the workloads' own logs"
    )]
    EndpointsOpen,
    /// The service's circuit breaker is open.
    #[error("the service's circuit breaker is open after repeated failures; look at the workloads' own logs")]
    ServiceOpen,
    /// As many requests as allowed are under way.
    #[error(
        "as many requests to the service as its policy allows are under way; it is slow, or the limit too low"
    )]
    TooManyRequests,
}

/// What distinguishes one choice from another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pick<'a> {
    /// For [`Balancer::RingHash`]: [`ring::hash`](crate::ring::hash) of the key; `None` chooses at random.
    pub hash: Option<u64>,
    /// Addresses that were tried already; used only when there is nothing else.
    pub avoid: &'a [SocketAddr],
}

/// What all workers share about a cluster.
#[derive(Debug, Default)]
pub struct SharedCluster {
    /// Requests under way. [`ClusterState::acquire`] enters, the lease leaves.
    pub requests: Arc<Gauge>,
    /// Those of them that are retries; kept by the retry budget.
    pub retries: Arc<Gauge>,
    /// Connections; kept by the pool.
    pub connections: Arc<Gauge>,
    /// Requests that wait for a connection; kept by the pool.
    pub pending: Arc<Gauge>,
    pub(crate) breaker: breaker::Cell,
    revision: AtomicU64,
    ejections: AtomicU64,
}

impl SharedCluster {
    /// Ejections since the cluster is known.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Relaxed)
    }

    /// State of the whole service's circuit breaker, which is meaningful only where there is a policy for it.
    pub fn breaker(&self) -> breaker::Machine {
        self.breaker.machine()
    }

    /// Rises whenever other endpoints than before may be chosen.
    pub(crate) fn revision(&self) -> u64 {
        self.revision.load(Relaxed)
    }

    pub(crate) fn changed(&self) {
        self.revision.fetch_add(1, Relaxed);
    }
}

/// A cluster with its endpoints, linked: immutable, but for the counts in `shared`.
#[derive(Debug)]
pub struct ClusterEntry {
    /// How it is used.
    pub config: Arc<Cluster>,
    /// What is behind it.
    pub endpoints: Arc<Endpoints>,
    /// What all workers share.
    pub shared: Arc<SharedCluster>,
    /// `endpoints`, in the same order, each with its state.
    pub members: Vec<Arc<Member>>,
    ring: Ring,
}

impl ClusterEntry {
    /// Links the two. State is carried over from `previous`, the last entry of the same cluster: the cluster's own,
    /// and that of every endpoint that keeps its address and identity.
    pub fn new(config: Arc<Cluster>, endpoints: Arc<Endpoints>, previous: Option<&Self>) -> Self {
        let shared = previous.map_or_else(Arc::default, |entry| Arc::clone(&entry.shared));
        let known: HashMap<_, _> = previous
            .iter()
            .flat_map(|entry| &entry.members)
            .map(|member| (key(&member.endpoint), &member.state))
            .collect();
        let members: Vec<_> = endpoints
            .endpoints
            .iter()
            .map(|endpoint| {
                let state = known.get(&key(endpoint)).copied().map(Arc::clone);
                let late = || previous.map(|_| Arc::new(SharedEndpoint::late()));
                member(endpoint, state.or_else(late), &shared)
            })
            .collect();
        let ring = match config.balancer {
            Balancer::RingHash(_) => ring(&members),
            _ => Ring::default(),
        };
        // The order of endpoints, or what they may be chosen by, has changed for workers that hold this entry.
        shared.changed();
        Self {
            config,
            endpoints,
            shared,
            members,
            ring,
        }
    }
}

fn key(endpoint: &Endpoint) -> (SocketAddr, Option<&str>) {
    (endpoint.address, endpoint.identity.as_deref())
}

fn member(
    endpoint: &Endpoint,
    state: Option<Arc<SharedEndpoint>>,
    cluster: &Arc<SharedCluster>,
) -> Arc<Member> {
    Arc::new(Member {
        endpoint: Arc::new(endpoint.clone()),
        state: state.unwrap_or_default(),
        cluster: Arc::clone(cluster),
    })
}

/// The ring of those in service.
fn ring(members: &[Arc<Member>]) -> Ring {
    let any_ready = members.iter().any(|member| member.endpoint.ready);
    let points: Vec<_> = (0_u32..)
        .zip(members)
        .filter(|(_, member)| member.endpoint.ready || !any_ready)
        .map(|(index, member)| (index, member.endpoint.address, member.endpoint.weight))
        .collect();
    Ring::new(&points)
}

/// A cluster as one worker uses it.
#[derive(Debug)]
pub struct ClusterState {
    entry: Arc<ClusterEntry>,
    zone: Name,
    /// In the order of the entry's members.
    slots: Vec<Slot>,
    selection: Selection,
    /// Reused: what is left of the selection without the addresses to avoid.
    others: Group,
}

impl ClusterState {
    /// For a worker in `zone` (empty: unknown).
    pub fn new(entry: Arc<ClusterEntry>, zone: Name) -> Self {
        let slots = entry
            .members
            .iter()
            .map(|member| Slot::new(Arc::clone(member)))
            .collect();
        Self {
            entry,
            zone,
            slots,
            selection: Selection::default(),
            others: Group::default(),
        }
    }

    /// Takes over another version of the cluster. Costs nothing when it is the same. Endpoints that keep their address
    /// and identity keep their state; new ones start slowly if the policy says so.
    pub fn update(&mut self, entry: Arc<ClusterEntry>) {
        if Arc::ptr_eq(&self.entry, &entry) {
            return;
        }
        let mut known: HashMap<_, _> = self
            .slots
            .drain(..)
            .map(|slot| (Arc::as_ptr(&slot.member.state), slot))
            .collect();
        for member in &entry.members {
            let member = Arc::clone(member);
            self.slots.push(match known.remove(&Arc::as_ptr(&member.state)) {
                Some(slot) => Slot { member, ..slot },
                None => Slot::new(member),
            });
        }
        self.entry = entry;
        self.selection.invalidate();
    }

    /// The version in use.
    pub fn entry(&self) -> &Arc<ClusterEntry> {
        &self.entry
    }

    /// Its policy.
    pub fn config(&self) -> &Arc<Cluster> {
        &self.entry.config
    }

    /// What it shares with other workers.
    pub fn shared(&self) -> &Arc<SharedCluster> {
        &self.entry.shared
    }

    /// Chooses an endpoint and counts a request on it, within the limit of running requests and by leave of both
    /// breakers.
    pub fn acquire(
        &mut self,
        now: Now,
        rng: &mut fastrand::Rng,
        pick: &Pick<'_>,
    ) -> Result<Lease, Unavailable> {
        if self.slots.is_empty() {
            return Err(Unavailable::NoEndpoints);
        }
        let ClusterEntry { config, shared, .. } = &*self.entry;
        if !shared.requests.enter(config.limits.requests) {
            return Err(Unavailable::TooManyRequests);
        }
        let Some((service, _)) = shared.breaker.admit(config.service_breaker.as_ref(), now) else {
            shared.requests.leave();
            return Err(Unavailable::ServiceOpen);
        };
        let Some((slot, endpoint)) = self.admit(now, rng, pick) else {
            self.shared().breaker.give_back(service);
            self.shared().requests.leave();
            return Err(Unavailable::EndpointsOpen);
        };
        let member = Arc::clone(&self.slots[slot].member);
        Ok(Lease::new(member, slot, now, service, endpoint))
    }

    /// Learns that the response head has arrived, so that the latency is known, and a breaker's probe is over, before a
    /// long response ends. Not to be called when the head itself tells of a failure.
    pub fn responded(&mut self, lease: &mut Lease, now: Now) {
        if !lease.responded {
            lease.responded = true;
            lease.answered(&self.entry.config, now);
            if let Some(slot) = self.slot_of(lease) {
                slot.latency.observe(now, now.since(lease.started));
            }
        }
    }

    /// Learns how a request ended, and counts it no more.
    pub fn release(&mut self, lease: Lease, now: Now, verdict: Verdict) {
        let elapsed = now.since(lease.started);
        let responded = lease.responded;
        if let Some(slot) = self.slot_of(&lease) {
            match verdict {
                Verdict::Failure => slot.latency.failed(now, elapsed),
                Verdict::Success if !responded => slot.latency.observe(now, elapsed),
                Verdict::Cancelled if !responded => slot.latency.gave_up(now, elapsed),
                Verdict::Success | Verdict::Cancelled => {}
            }
        }
        self.judge(&lease, now, verdict);
        lease.settle(&self.entry.config, now, verdict);
    }

    /// One choice and the leave of its breaker. Another worker may take a breaker's last probe in between: then the
    /// choice is made again.
    fn admit(
        &mut self,
        now: Now,
        rng: &mut fastrand::Rng,
        pick: &Pick<'_>,
    ) -> Option<(usize, breaker::Pass)> {
        for _ in 0..=self.slots.len() {
            self.selection.refresh(
                &self.entry.config,
                &self.entry.shared,
                &self.slots,
                &self.zone,
                now,
            );
            let slot = self.choose(now, rng, pick)?;
            let breaker = &self.slots[slot].member.state.breaker;
            let admitted = breaker.admit(self.entry.config.endpoint_breaker.as_ref(), now);
            if !matches!(admitted, Some((_, false))) {
                self.entry.shared.changed();
            }
            if let Some((pass, _)) = admitted {
                return Some((slot, pass));
            }
        }
        None
    }

    fn choose(&mut self, now: Now, rng: &mut fastrand::Rng, pick: &Pick<'_>) -> Option<usize> {
        let policy = &self.entry.config.balancer;
        if let (Balancer::RingHash(_), Some(hash)) = (policy, pick.hash) {
            return self.choose_by(hash, pick.avoid);
        }
        let selection = &self.selection;
        let group = if !pick.avoid.is_empty() && retain(&mut self.others, selection, &self.slots, pick.avoid)
        {
            &self.others
        } else if stays(selection, rng) {
            &selection.near
        } else {
            &selection.far
        };
        group.choose(policy, &mut self.slots, now, rng)
    }

    fn choose_by(&self, hash: u64, avoid: &[SocketAddr]) -> Option<usize> {
        let ring = &self.entry.ring;
        let usable = |index: u32| self.selection.is_usable(index as usize);
        let fresh = |index: u32| !avoid.contains(&self.slots[index as usize].member.endpoint.address);
        ring.find(hash, |index| usable(index) && fresh(index))
            .or_else(|| ring.find(hash, usable))
            .map(|index| index as usize)
    }

    /// Outlier ejection.
    fn judge(&self, lease: &Lease, now: Now, verdict: Verdict) {
        let Some(policy) = &self.entry.config.outlier else {
            return;
        };
        let record = &lease.member.state.outlier;
        match verdict {
            Verdict::Success => record.succeeded(),
            Verdict::Cancelled => {}
            Verdict::Failure => {
                if record.failed(policy, now, || self.has_room_for_an_ejection(now)) {
                    let shared = &self.entry.shared;
                    shared.ejections.fetch_add(1, Relaxed);
                    shared.changed();
                }
            }
        }
    }

    fn has_room_for_an_ejection(&self, now: Now) -> bool {
        let members = || self.slots.iter().map(|slot| &slot.member);
        let any_ready = members().any(|member| member.endpoint.ready);
        let in_service = || members().filter(|member| member.endpoint.ready || !any_ready);
        let ejected = in_service()
            .filter(|member| member.state.outlier.record().is_ejected(now))
            .count();
        let policy = self.entry.config.outlier;
        policy.is_some_and(|policy| ejected < most_ejected(&policy, in_service().count()))
    }

    /// What is known about the lease's endpoint, unless it has gone.
    fn slot_of(&mut self, lease: &Lease) -> Option<&mut Slot> {
        let is_it = |slot: &Slot| Arc::ptr_eq(&slot.member.state, &lease.member.state);
        let at = match self.slots.get(lease.slot) {
            Some(slot) if is_it(slot) => lease.slot,
            _ => self.slots.iter().position(is_it)?,
        };
        self.slots.get_mut(at)
    }
}

/// Whether the next request stays in our zone.
fn stays(selection: &Selection, rng: &mut fastrand::Rng) -> bool {
    selection.far.is_empty() || (!selection.near.is_empty() && rng.f64() < selection.near_share)
}

/// Fills `others` with what is usable and not to be avoided, of our zone if possible; says whether there is any.
fn retain(others: &mut Group, selection: &Selection, slots: &[Slot], avoid: &[SocketAddr]) -> bool {
    for group in [&selection.near, &selection.far] {
        others.clear();
        for (slot, weight) in group.iter() {
            if !avoid.contains(&slots[slot].member.endpoint.address) {
                others.push(slot, weight);
            }
        }
        if !others.is_empty() {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
