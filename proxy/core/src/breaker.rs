//! The circuit breaker: three states, counted probes.
//!
//! ```text
//!            failures in a row              first request after `open_for`
//!   Closed ──────────────────────▶ Open ──────────────────────────────────▶ HalfOpen
//!     ▲                             ▲                                         │  │
//!     │                             └───────────── a probe fails ─────────────┘  │
//!     └────────────────────────── as many probes as asked for succeed ───────────┘
//! ```
//!
//! A probe has succeeded when a response begins that tells of no failure: one that then streams for hours keeps nobody
//! out.
//!
//! [`Machine`] is the state as a plain value with pure transitions; [`Cell`] keeps one in a single atomic word, so that
//! all workers of a proxy share a breaker without a lock and every change is one whole transition.
//!
//! Every transition begins a new epoch, and a verdict counts only in the epoch its request was let through in: an old
//! request that ends late can neither close a breaker nor take back a probe that isn't its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::lease::Verdict;
use crate::resource::Breaker;
use crate::time::Now;

/// Bits of an epoch. Epochs wrap; a request would have to outlive 4096 transitions to be mistaken.
const EPOCH_BITS: u32 = 12;
/// Bits for what a state counts: failures, or milliseconds, or twice the probes.
const PAYLOAD_BITS: u32 = 50;
const PAYLOAD_MASK: u64 = (1 << PAYLOAD_BITS) - 1;
const EPOCH_MASK: u16 = (1 << EPOCH_BITS) - 1;

/// The name of a state, for metrics and people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Everything passes.
    Closed,
    /// Nothing passes.
    Open,
    /// A few probes pass.
    HalfOpen,
}

impl Phase {
    /// As metrics and the admin listener write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until_ms: u64 },
    HalfOpen { running: u16, passed: u16 },
}

/// Leave to send one request, to be settled exactly once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    epoch: Option<u16>,
}

impl Pass {
    /// The pass of a breaker that isn't there.
    pub const UNGUARDED: Self = Self { epoch: None };
}

/// A breaker's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    epoch: u16,
    state: State,
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            epoch: 0,
            state: State::Closed { failures: 0 },
        }
    }
}

impl Machine {
    /// The state it is in. An open one stays so until a request asks, even when its time is over.
    pub fn phase(self) -> Phase {
        match self.state {
            State::Closed { .. } => Phase::Closed,
            State::Open { .. } => Phase::Open,
            State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    /// Whether [`admit`](Self::admit) would let a request through.
    pub fn admits(self, policy: &Breaker, now: Now) -> bool {
        self.admit(policy, now).is_some()
    }

    /// When an open one takes its first probe; `None` in the other states.
    pub fn opens_again_at(self) -> Option<Now> {
        match self.state {
            State::Open { until_ms } => Some(Now::default() + Duration::from_millis(until_ms)),
            _ => None,
        }
    }

    /// Lets a request through, or `None`.
    pub fn admit(self, policy: &Breaker, now: Now) -> Option<(Self, Pass)> {
        let after = match self.state {
            State::Closed { .. } => self,
            State::Open { until_ms } if millis(now) < until_ms => return None,
            State::Open { .. } => self.turn(State::HalfOpen {
                running: 1,
                passed: 0,
            }),
            // Only after a change of policy: enough probes have passed already.
            State::HalfOpen { running: 0, passed } if passed >= probes(policy) => {
                self.turn(State::Closed { failures: 0 })
            }
            State::HalfOpen { running, passed } if running.saturating_add(passed) < probes(policy) => Self {
                state: State::HalfOpen {
                    running: running + 1,
                    passed,
                },
                ..self
            },
            State::HalfOpen { .. } => return None,
        };
        Some((
            after,
            Pass {
                epoch: Some(after.epoch),
            },
        ))
    }

    /// Learns how a request that it let through ended.
    #[must_use]
    pub fn settle(self, policy: &Breaker, now: Now, pass: Pass, verdict: Verdict) -> Self {
        if pass.epoch != Some(self.epoch) {
            return self;
        }
        match (self.state, verdict) {
            (State::Closed { failures }, Verdict::Failure) if failures + 1 >= policy.consecutive_failures => {
                self.open(policy, now)
            }
            (State::Closed { failures }, Verdict::Failure) => self.with(State::Closed {
                failures: failures + 1,
            }),
            (State::Closed { .. }, Verdict::Success) => self.with(State::Closed { failures: 0 }),
            (State::HalfOpen { .. }, Verdict::Failure) => self.open(policy, now),
            (State::HalfOpen { passed, .. }, Verdict::Success) if passed + 1 >= probes(policy) => {
                self.turn(State::Closed { failures: 0 })
            }
            (State::HalfOpen { running, passed }, Verdict::Success) => self.with(State::HalfOpen {
                running: running.saturating_sub(1),
                passed: passed + 1,
            }),
            (State::HalfOpen { .. } | State::Closed { .. } | State::Open { .. }, _) => self.give_back(pass),
        }
    }

    /// Learns that the response to a probe has begun, and tells of no failure: that probe is over. Whatever else becomes
    /// of its request counts by the pass that is returned. `None`: it is no probe.
    pub fn answered(self, policy: &Breaker, now: Now, pass: Pass) -> Option<(Self, Pass)> {
        if self.phase() != Phase::HalfOpen || pass.epoch != Some(self.epoch) {
            return None;
        }
        let after = self.settle(policy, now, pass, Verdict::Success);
        let pass = Pass {
            epoch: (after.phase() == Phase::Closed).then_some(after.epoch),
        };
        Some((after, pass))
    }

    /// Takes back a pass whose request told nothing.
    #[must_use]
    pub fn give_back(self, pass: Pass) -> Self {
        match self.state {
            State::HalfOpen { running, passed } if pass.epoch == Some(self.epoch) => {
                self.with(State::HalfOpen {
                    running: running.saturating_sub(1),
                    passed,
                })
            }
            _ => self,
        }
    }

    fn open(self, policy: &Breaker, now: Now) -> Self {
        let until = now + policy.open_for;
        // Rounded up, so that it never opens early.
        let until_ms = until.as_nanos().div_ceil(1_000_000) & PAYLOAD_MASK;
        self.turn(State::Open { until_ms })
    }

    fn with(self, state: State) -> Self {
        Self { state, ..self }
    }

    fn turn(self, state: State) -> Self {
        Self {
            epoch: (self.epoch + 1) & EPOCH_MASK,
            state,
        }
    }

    fn pack(self) -> u64 {
        let (tag, payload) = match self.state {
            State::Closed { failures } => (0, u64::from(failures)),
            State::Open { until_ms } => (1, until_ms),
            State::HalfOpen { running, passed } => (2, u64::from(running) << 16 | u64::from(passed)),
        };
        tag << (EPOCH_BITS + PAYLOAD_BITS) | u64::from(self.epoch) << PAYLOAD_BITS | payload
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part is masked to its width")]
    fn unpack(word: u64) -> Self {
        let payload = word & PAYLOAD_MASK;
        let state = match word >> (EPOCH_BITS + PAYLOAD_BITS) {
            0 => State::Closed {
                failures: payload as u32,
            },
            1 => State::Open { until_ms: payload },
            _ => State::HalfOpen {
                running: (payload >> 16) as u16,
                passed: payload as u16,
            },
        };
        Self {
            epoch: (word >> PAYLOAD_BITS) as u16 & EPOCH_MASK,
            state,
        }
    }
}

fn millis(now: Now) -> u64 {
    now.as_nanos() / 1_000_000
}

fn probes(policy: &Breaker) -> u16 {
    u16::try_from(policy.half_open_probes).unwrap_or(u16::MAX).max(1)
}

/// A [`Machine`] that all workers share.
#[derive(Debug)]
pub struct Cell(AtomicU64);

impl Default for Cell {
    fn default() -> Self {
        Self(AtomicU64::new(Machine::default().pack()))
    }
}

impl Cell {
    /// The state right now.
    pub fn machine(&self) -> Machine {
        Machine::unpack(self.0.load(Relaxed))
    }

    /// [`Machine::admit`], and whether others may now be answered differently. Without a policy everything passes.
    pub(crate) fn admit(&self, policy: Option<&Breaker>, now: Now) -> Option<(Pass, bool)> {
        let Some(policy) = policy else {
            return Some((Pass::UNGUARDED, false));
        };
        let (before, (after, pass)) = self.change(|machine| {
            let (after, pass) = machine.admit(policy, now)?;
            Some((after, (after, pass)))
        })?;
        Some((pass, before.admits(policy, now) != after.admits(policy, now)))
    }

    /// [`Machine::settle`], and whether others may now be answered differently.
    pub(crate) fn settle(&self, policy: Option<&Breaker>, now: Now, pass: Pass, verdict: Verdict) -> bool {
        let Some(policy) = policy else {
            return self.give_back(pass);
        };
        if pass == Pass::UNGUARDED {
            return false;
        }
        self.change(|machine| {
            let after = machine.settle(policy, now, pass, verdict);
            (after != machine).then_some((after, after))
        })
        .is_some_and(|(before, after)| before.phase() != after.phase() || after.phase() == Phase::HalfOpen)
    }

    /// [`Machine::answered`]: the pass from now on, and whether others may now be answered differently.
    pub(crate) fn answered(&self, policy: Option<&Breaker>, now: Now, pass: Pass) -> (Pass, bool) {
        let after = policy.and_then(|policy| self.change(|machine| machine.answered(policy, now, pass)));
        after.map_or((pass, false), |(_, pass)| (pass, true))
    }

    /// [`Machine::give_back`], and whether others may now be answered differently.
    pub(crate) fn give_back(&self, pass: Pass) -> bool {
        pass != Pass::UNGUARDED
            && self
                .change(|machine| {
                    let after = machine.give_back(pass);
                    (after != machine).then_some((after, ()))
                })
                .is_some()
    }

    /// Applies `step` as one whole; `None` from it changes nothing. Returns the state before and what `step` told.
    fn change<T>(&self, step: impl Fn(Machine) -> Option<(Machine, T)>) -> Option<(Machine, T)> {
        let mut word = self.0.load(Relaxed);
        loop {
            let before = Machine::unpack(word);
            let (after, told) = step(before)?;
            if after == before {
                return Some((before, told));
            }
            match self.0.compare_exchange_weak(word, after.pack(), Relaxed, Relaxed) {
                Ok(_) => return Some((before, told)),
                Err(actual) => word = actual,
            }
        }
    }
}

#[cfg(test)]
mod tests;
