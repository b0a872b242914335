//! Waits between attempts that fail: exponential, with full jitter, so that many proxies don't come back at once.

use std::time::Duration;

/// Counts failures in a row.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is at most `base`, no wait is longer than `max`.
    pub fn new(base: Duration, max: Duration) -> Self {
        Self {
            base,
            max,
            failures: 0,
        }
    }

    /// Another failure: how long to wait. Never less than a tenth of `base`.
    pub fn next(&mut self, rng: &mut fastrand::Rng) -> Duration {
        const MAX_DOUBLINGS: u32 = 16;
        let ceiling = self
            .base
            .saturating_mul(1 << self.failures.min(MAX_DOUBLINGS))
            .min(self.max);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(rng.f64()).max(self.base / 10)
    }

    /// It worked: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_ceiling_and_begin_anew() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (base, max) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut longest = Duration::ZERO;
        for _ in 0..1000 {
            let mut backoff = Backoff::new(base, max);
            for attempt in 0..20_u32 {
                let wait = backoff.next(&mut rng);
                assert!(wait >= base / 10 && wait <= max && wait <= base * 2_u32.pow(attempt.min(16)));
                longest = longest.max(wait);
            }
            backoff.reset();
            assert!(backoff.next(&mut rng) <= base);
        }
        assert!(longest > max.mul_f64(0.9), "the ceiling is reached: {longest:?}");
    }
}
