//! Endpoints: what all workers share about one, and what each worker keeps for itself.
//!
//! | | shared by all workers ([`SharedEndpoint`], atomics) | of one worker (`Slot`) |
//! |---|---|---|
//! | why | a decision must hold for the whole proxy | changes with every request, floating point |
//! | what | requests under way, ejection, breaker, age | latency, turn in round robin |
//!
//! Both survive a change of configuration as long as the endpoint keeps its address and identity.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::cluster::SharedCluster;
use crate::latency::PeakEwma;
use crate::resource::Endpoint;
use crate::time::Now;
use crate::{breaker, outlier};

/// The least share of its weight that a new endpoint starts with.
pub const SLOW_START_FLOOR: f64 = 0.1;

/// What all workers share about an endpoint.
#[derive(Debug, Default)]
pub struct SharedEndpoint {
    running: AtomicU32,
    late: bool,
    /// When a worker first saw it, in nanoseconds plus one; 0: none has.
    appeared: AtomicU64,
    /// Its failures and ejections.
    pub(crate) outlier: outlier::Cell,
    /// Its circuit breaker.
    pub(crate) breaker: breaker::Cell,
}

impl SharedEndpoint {
    /// Requests under way, of all workers.
    pub fn running(&self) -> u32 {
        self.running.load(Relaxed)
    }

    /// One that came when its cluster was known already.
    pub(crate) fn late() -> Self {
        Self {
            late: true,
            ..Self::default()
        }
    }

    /// Since when it is here, which is when the first worker looks; `None`: it was there from the beginning, so that it
    /// counts as warm.
    fn since(&self, now: Now) -> Option<Now> {
        if !self.late {
            return None;
        }
        let mut appeared = self.appeared.load(Relaxed);
        if appeared == 0 {
            let told = now.as_nanos().saturating_add(1);
            let first = self.appeared.compare_exchange(0, told, Relaxed, Relaxed);
            appeared = first.map_or_else(|earlier| earlier, |_| told);
        }
        Some(Now::from_nanos(appeared - 1))
    }

    pub(crate) fn enter(&self) {
        self.running.fetch_add(1, Relaxed);
    }

    pub(crate) fn leave(&self) {
        let before = self.running.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "an endpoint was left more often than entered");
    }
}

/// An endpoint as configured, with its shared state and that of its cluster.
#[derive(Debug)]
pub struct Member {
    /// As configured.
    pub endpoint: Arc<Endpoint>,
    /// Its state.
    pub state: Arc<SharedEndpoint>,
    /// Its cluster's state.
    pub cluster: Arc<SharedCluster>,
}

/// What one worker keeps about an endpoint.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) member: Arc<Member>,
    pub(crate) latency: PeakEwma,
    /// Credit in smooth weighted round robin.
    pub(crate) turn: f64,
}

impl Slot {
    pub(crate) fn new(member: Arc<Member>) -> Self {
        Self {
            member,
            latency: PeakEwma::default(),
            turn: 0.0,
        }
    }

    /// Its weight, less while it is new.
    pub(crate) fn weight(&self, slow_start: Duration, now: Now) -> f64 {
        f64::from(self.member.endpoint.weight.max(1)) * self.warmth(slow_start, now).max(SLOW_START_FLOOR)
    }

    /// Whether it is still coming up to full weight.
    pub(crate) fn is_warming(&self, slow_start: Duration, now: Now) -> bool {
        self.warmth(slow_start, now) < 1.0
    }

    fn warmth(&self, slow_start: Duration, now: Now) -> f64 {
        if slow_start.is_zero() {
            return 1.0;
        }
        let since = self.member.state.since(now);
        since.map_or(1.0, |since| {
            now.since(since).div_duration_f64(slow_start).min(1.0)
        })
    }
}
