//! Outlier ejection: an endpoint that fails several times in a row is left out for a while, and always returns.
//!
//! Unlike a [breaker](crate::breaker), which is a command, an ejection is advice: when every endpoint is ejected, all
//! are used. At most a share of the endpoints is ejected at once. The n-th ejection in a row lasts n times as long; a
//! row ends when the endpoint stays in for as long as its last ejection lasted.
//!
//! [`Record`] is the state as a plain value; [`Cell`] keeps one in a single atomic word that all workers share, so
//! that what one of them learns holds for all.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::resource::Outlier;
use crate::time::Now;

/// Bits of the moment of return, in milliseconds: 34 years.
const UNTIL_BITS: u32 = 40;
const UNTIL_MASK: u64 = (1 << UNTIL_BITS) - 1;

/// What is known about one endpoint's failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Record {
    failures: u16,
    ejections: u8,
    until_ms: u64,
}

impl Record {
    /// Whether it is left out.
    pub fn is_ejected(self, now: Now) -> bool {
        millis(now) < self.until_ms
    }

    /// When it returns, or has returned; the start of time when it was never ejected.
    pub fn until(self) -> Now {
        Now::default() + Duration::from_millis(self.until_ms)
    }

    /// Ejections in the current row.
    pub fn ejections(self) -> u8 {
        self.ejections
    }

    /// A request failed. `may_eject` is asked only when this failure is one too many; when it says no, the next
    /// failure asks again. Failures while ejected change nothing, so that nothing holds an endpoint out.
    #[must_use]
    pub fn failed(self, policy: &Outlier, now: Now, may_eject: impl FnOnce() -> bool) -> Self {
        if self.is_ejected(now) {
            return self;
        }
        let failures = self.failures.saturating_add(1);
        if u32::from(failures) < policy.consecutive_failures || !may_eject() {
            return Self { failures, ..self };
        }
        let ejections = if self.in_a_row(policy, now) {
            self.ejections.saturating_add(1)
        } else {
            1
        };
        let lasts = duration_ms(policy, ejections);
        Self {
            failures: 0,
            ejections,
            until_ms: (millis(now) + lasts) & UNTIL_MASK,
        }
    }

    /// A request succeeded.
    #[must_use]
    pub fn succeeded(self) -> Self {
        Self { failures: 0, ..self }
    }

    fn in_a_row(self, policy: &Outlier, now: Now) -> bool {
        self.ejections > 0 && millis(now).saturating_sub(self.until_ms) < duration_ms(policy, self.ejections)
    }

    fn pack(self) -> u64 {
        self.until_ms << 24 | u64::from(self.ejections) << 16 | u64::from(self.failures)
    }

    #[expect(clippy::cast_possible_truncation, reason = "each part is cut to its width")]
    fn unpack(word: u64) -> Self {
        Self {
            failures: word as u16,
            ejections: (word >> 16) as u8,
            until_ms: word >> 24,
        }
    }
}

/// How long the `n`-th ejection in a row lasts, in milliseconds; at least one.
fn duration_ms(policy: &Outlier, n: u8) -> u64 {
    let lasts = policy
        .base_ejection
        .saturating_mul(u32::from(n))
        .min(policy.max_ejection.max(policy.base_ejection));
    u64::try_from(lasts.as_millis())
        .unwrap_or(UNTIL_MASK)
        .clamp(1, UNTIL_MASK / 2)
}

fn millis(now: Now) -> u64 {
    now.as_nanos() / 1_000_000
}

/// How many of `endpoints` may be ejected at once: never more than the share asked for.
pub fn most_ejected(policy: &Outlier, endpoints: usize) -> usize {
    endpoints * usize::from(policy.max_ejection_percent.min(100)) / 100
}

/// A [`Record`] that all workers share.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// What is known right now.
    pub fn record(&self) -> Record {
        Record::unpack(self.0.load(Relaxed))
    }

    /// [`Record::failed`]; whether it ejected.
    pub(crate) fn failed(&self, policy: &Outlier, now: Now, may_eject: impl Fn() -> bool) -> bool {
        let mut word = self.0.load(Relaxed);
        loop {
            let before = Record::unpack(word);
            let after = before.failed(policy, now, &may_eject);
            if after == before {
                return false;
            }
            match self.0.compare_exchange_weak(word, after.pack(), Relaxed, Relaxed) {
                Ok(_) => return after.until_ms != before.until_ms,
                Err(actual) => word = actual,
            }
        }
    }

    /// [`Record::succeeded`]. Writes only when there is something to forget.
    pub(crate) fn succeeded(&self) {
        if self.record().failures == 0 {
            return;
        }
        // Losing the race against a failure that arrives at the same moment is as good as having come before it.
        let _ = self.0.fetch_update(Relaxed, Relaxed, |word| {
            Some(Record::unpack(word).succeeded().pack())
        });
    }
}

#[cfg(test)]
mod tests;
