//! Which endpoints may be chosen at the moment.
//!
//! 1. In service are the ready endpoints; draining ones only when there is no ready one at all.
//! 2. Of these, usable are the ones whose breaker lets a request through and which aren't ejected. More ejections than
//!    the policy's share (endpoints may have gone since) are forgiven, those first that would return first.
//! 3. None usable but some merely ejected: panic, all that the breakers let through are used.
//! 4. With `prefer_zone`, the usable ones of our zone and the others form two groups.
//!
//! This is worked out only when something changed: a [revision](SharedCluster::revision) that every ejection and every
//! turn of a breaker raises, or the moment when one of them ends. In between a request just draws.

use std::time::Duration;

use crate::balance::Group;
use crate::cluster::SharedCluster;
use crate::endpoint::Slot;
use crate::locality::{Side, near_share};
use crate::outlier::most_ejected;
use crate::resource::{Balancer, Cluster};
use crate::time::Now;

/// Weights of new endpoints are raised in this many steps.
const SLOW_START_STEPS: u32 = 20;
/// ... but not more often than this.
const SLOW_START_MIN_STEP: Duration = Duration::from_millis(50);

/// The endpoints that may be chosen.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Those of our zone, or all when zones don't matter.
    pub(crate) near: Group,
    /// Those of other zones.
    pub(crate) far: Group,
    /// Share of traffic for `near`.
    pub(crate) near_share: f64,
    states: Vec<State>,
    /// Reused: ejected slots with their return.
    ejected: Vec<(Now, usize)>,
    panic: bool,
    /// `None`: nothing is worked out yet.
    worked_out: Option<WorkedOut>,
}

#[derive(Clone, Copy, Debug)]
struct WorkedOut {
    revision: u64,
    until: Option<Now>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Draining while others are ready.
    OutOfService,
    /// In service, but its breaker lets nothing through.
    Refused,
    Ejected,
    Usable,
}

impl Selection {
    /// Whether `slot` may be chosen.
    pub(crate) fn is_usable(&self, slot: usize) -> bool {
        self.states.get(slot) == Some(&State::Usable)
    }

    /// Whether ejections are being ignored because they left nothing.
    pub(crate) fn is_panic(&self) -> bool {
        self.panic
    }

    /// Forgets everything: the slots have changed.
    pub(crate) fn invalidate(&mut self) {
        self.worked_out = None;
    }

    /// Works it out again if anything has changed.
    pub(crate) fn refresh(
        &mut self,
        config: &Cluster,
        shared: &SharedCluster,
        slots: &[Slot],
        zone: &str,
        now: Now,
    ) {
        let revision = shared.revision();
        let current = self
            .worked_out
            .is_some_and(|done| done.revision == revision && done.until.is_none_or(|until| now < until));
        if !current {
            self.classify(config, slots, now);
            self.group(config, slots, zone, now);
            let until = next_change(config, slots, now);
            self.worked_out = Some(WorkedOut { revision, until });
        }
    }

    fn classify(&mut self, config: &Cluster, slots: &[Slot], now: Now) {
        let any_ready = slots.iter().any(|slot| slot.member.endpoint.ready);
        self.states.clear();
        self.ejected.clear();
        for (index, slot) in slots.iter().enumerate() {
            let record = slot.member.state.outlier.record();
            let state = if any_ready && !slot.member.endpoint.ready {
                State::OutOfService
            } else if refuses(config, slot, now) {
                State::Refused
            } else {
                State::Usable
            };
            if state != State::OutOfService && config.outlier.is_some() && record.is_ejected(now) {
                self.ejected.push((record.until(), index));
            }
            self.states.push(state);
        }
        self.eject(config);
    }

    fn eject(&mut self, config: &Cluster) {
        let in_service = self
            .states
            .iter()
            .filter(|&&state| state != State::OutOfService)
            .count();
        let most = config
            .outlier
            .map_or(0, |policy| most_ejected(&policy, in_service));
        let forgiven = self.ejected.len().saturating_sub(most);
        self.ejected.sort_unstable();
        for &(_, index) in &self.ejected[forgiven..] {
            if self.states[index] == State::Usable {
                self.states[index] = State::Ejected;
            }
        }
        self.panic = !self.states.contains(&State::Usable) && self.states.contains(&State::Ejected);
        if self.panic {
            for state in self.states.iter_mut().filter(|state| **state == State::Ejected) {
                *state = State::Usable;
            }
        }
    }

    fn group(&mut self, config: &Cluster, slots: &[Slot], zone: &str, now: Now) {
        // A key must belong to the same endpoint wherever it is asked from.
        let by_zone =
            config.prefer_zone && !zone.is_empty() && !matches!(config.balancer, Balancer::RingHash(_));
        let (mut near, mut far) = (Side::default(), Side::default());
        self.near.clear();
        self.far.clear();
        for (index, slot) in slots.iter().enumerate() {
            let is_near = !by_zone || &*slot.member.endpoint.zone == zone;
            let (side, group) = if is_near {
                (&mut near, &mut self.near)
            } else {
                (&mut far, &mut self.far)
            };
            let weight = u64::from(slot.member.endpoint.weight.max(1));
            if self.states[index] != State::OutOfService {
                side.total += weight;
            }
            if self.states[index] == State::Usable {
                side.healthy += weight;
                group.push(index, slot.weight(config.slow_start, now));
            }
        }
        self.near_share = near_share(near, far);
    }
}

/// Whether its breaker lets nothing through.
fn refuses(config: &Cluster, slot: &Slot, now: Now) -> bool {
    config
        .endpoint_breaker
        .is_some_and(|policy| !slot.member.state.breaker.machine().admits(&policy, now))
}

/// The first moment at which time alone changes something.
fn next_change(config: &Cluster, slots: &[Slot], now: Now) -> Option<Now> {
    let step = (config.slow_start / SLOW_START_STEPS).max(SLOW_START_MIN_STEP);
    slots
        .iter()
        .flat_map(|slot| {
            let state = &slot.member.state;
            [
                config.outlier.map(|_| state.outlier.record().until()),
                config
                    .endpoint_breaker
                    .and_then(|_| state.breaker.machine().opens_again_at()),
                slot.is_warming(config.slow_start, now).then(|| now + step),
            ]
        })
        .flatten()
        .filter(|&at| at > now)
        .min()
}
