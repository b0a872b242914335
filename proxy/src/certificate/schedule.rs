//! When to renew: at half of the life, with jitter, and soon again after a failure.

use std::time::{Duration, SystemTime};

use weft_identity::leaf::Leaf;

use crate::backoff::Backoff;

/// How far leaves are dated back against wrong clocks: no part of their life.
const BACKDATE: Duration = Duration::from_mins(10);
/// Share of the life after which to renew, at least and at most.
const RENEWAL_SHARE: (f64, f64) = (0.45, 0.55);
/// Ceiling of the first wait after a failure.
const RETRY_BASE: Duration = Duration::from_millis(500);
/// Ceiling of any wait after a failure: bounds how long we stay without once the control plane is back.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// When the next renewal is due.
#[derive(Clone, Debug)]
pub struct Schedule {
    due: SystemTime,
    backoff: Backoff,
}

impl Schedule {
    /// At once.
    pub fn now() -> Self {
        Self {
            due: SystemTime::UNIX_EPOCH,
            backoff: Backoff::new(RETRY_BASE, RETRY_MAX),
        }
    }

    /// For `leaf`, which may be in use for a while already.
    pub fn new(leaf: &Leaf, rng: &mut fastrand::Rng) -> Self {
        Self {
            due: renewal(leaf.not_before(), leaf.not_after(), rng),
            ..Self::now()
        }
    }

    /// When to renew.
    pub fn due(&self) -> SystemTime {
        self.due
    }

    /// A renewal failed: the next one is due soon, later with each failure.
    pub fn failed(&mut self, rng: &mut fastrand::Rng) {
        self.due = SystemTime::now() + self.backoff.next(rng);
    }
}

fn renewal(not_before: SystemTime, not_after: SystemTime, rng: &mut fastrand::Rng) -> SystemTime {
    let whole = not_after.duration_since(not_before).unwrap_or_default();
    let life = whole
        .checked_sub(BACKDATE)
        .filter(|life| !life.is_zero())
        .unwrap_or(whole);
    let share = RENEWAL_SHARE.0 + (RENEWAL_SHARE.1 - RENEWAL_SHARE.0) * rng.f64();
    // What is left at renewal is counted from the end, so that the start's date plays no role.
    not_after - life.mul_f64(1.0 - share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_half_of_the_life_with_jitter() {
        let mut rng = fastrand::Rng::with_seed(7);
        let issued = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        for life in [60, 3_600, 86_400_u64] {
            let mut due: Vec<f64> = (0..1000)
                .map(|_| {
                    let end = issued + Duration::from_secs(life);
                    let due = renewal(issued - BACKDATE, end, &mut rng)
                        .duration_since(issued)
                        .unwrap();
                    due.as_secs_f64() / Duration::from_secs(life).as_secs_f64()
                })
                .collect();
            due.sort_by(f64::total_cmp);
            assert!(due[0] >= 0.449 && due[999] <= 0.551, "{} {}", due[0], due[999]);
            assert!(due[999] - due[0] > 0.09, "renewals of many proxies are spread");
        }
    }

    #[test]
    fn a_leaf_that_is_not_dated_back_is_renewed_in_its_life() {
        let mut rng = fastrand::Rng::with_seed(7);
        let issued = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let end = issued + Duration::from_mins(5);
        let due = renewal(issued, end, &mut rng);
        assert!(due > issued && due < end);
    }

    #[test]
    fn failures_postpone_a_little() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut schedule = Schedule::now();
        assert!(schedule.due() <= SystemTime::now());
        for _ in 0..50 {
            schedule.failed(&mut rng);
            assert!(schedule.due() <= SystemTime::now() + RETRY_MAX);
        }
    }
}
