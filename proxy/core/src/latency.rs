//! Peak-sensitive moving average of response times, after Finagle's `PeakEwma`.
//!
//! A response slower than the estimate replaces it at once; a faster one only moves it by how much time has passed.
//! Between responses the estimate fades, so that an endpoint that was slow is tried again after a while. A failure
//! doubles it, lest an endpoint that fails at once looks like the fastest of all.
//!
//! Each worker keeps its own estimates: they are floating point and change with every response.

use std::time::Duration;

use crate::time::Now;

/// Time in which an estimate fades to a third (1/e).
pub const DECAY: Duration = Duration::from_secs(10);
/// What an endpoint that has never answered is taken for while it has requests under way.
pub const UNKNOWN: Duration = Duration::from_millis(30);
/// Differences below this are noise.
pub const FLOOR: Duration = Duration::from_micros(10);
/// The most that failures alone make of an estimate.
pub const FAILURE_CEILING: Duration = Duration::from_secs(1);

/// An estimate of one endpoint's response time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PeakEwma {
    /// Nanoseconds; `None` until the first answer.
    estimate: Option<f64>,
    seen: Now,
}

impl PeakEwma {
    /// The estimate as faded at `now`; `None` when nothing is known.
    pub fn estimate(&self, now: Now) -> Option<Duration> {
        self.faded(now).map(|nanos| Duration::from_secs_f64(nanos / 1e9))
    }

    /// What one more request would cost, in nanoseconds: the estimate times the load it would meet. `load` is the
    /// number of requests under way, divided by the endpoint's weight in relation to the others'. An endpoint that
    /// nothing is known of costs nothing as long as it is idle: one request finds out.
    pub fn cost(&self, now: Now, load: f64) -> f64 {
        match self.faded(now) {
            Some(nanos) => nanos * (load + 1.0),
            None if load > 0.0 => nanos(UNKNOWN) * (load + 1.0),
            None => 0.0,
        }
    }

    /// A response took `elapsed`.
    pub fn observe(&mut self, now: Now, elapsed: Duration) {
        let elapsed = nanos(elapsed);
        let estimate = match self.estimate {
            Some(old) if elapsed < old => {
                let keep = fade(now.since(self.seen));
                old * keep + elapsed * (1.0 - keep)
            }
            _ => elapsed,
        };
        self.set(now, estimate);
    }

    /// A request failed after `elapsed`.
    pub fn failed(&mut self, now: Now, elapsed: Duration) {
        let doubled = self.faded(now).unwrap_or(nanos(UNKNOWN)) * 2.0;
        let punished = doubled
            .min(nanos(FAILURE_CEILING))
            .max(self.faded(now).unwrap_or(0.0));
        self.set(now, punished.max(nanos(elapsed)));
    }

    /// A request was given up after `elapsed`: it would have taken at least as long.
    pub fn gave_up(&mut self, now: Now, elapsed: Duration) {
        if self.faded(now).is_some_and(|estimate| estimate < nanos(elapsed)) {
            self.set(now, nanos(elapsed));
        }
    }

    fn set(&mut self, now: Now, estimate: f64) {
        self.estimate = Some(estimate.max(nanos(FLOOR)));
        self.seen = now;
    }

    fn faded(&self, now: Now) -> Option<f64> {
        self.estimate
            .map(|estimate| (estimate * fade(now.since(self.seen))).max(nanos(FLOOR)))
    }
}

fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

fn fade(elapsed: Duration) -> f64 {
    (-elapsed.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u64) -> Now {
        Now::default() + Duration::from_millis(ms)
    }

    #[test]
    fn unknown_is_free_once_then_dear() {
        let unknown = PeakEwma::default();
        assert!(unknown.cost(at(0), 0.0) < 1.0);
        let mut known = PeakEwma::default();
        known.observe(at(0), MS);
        assert!(unknown.cost(at(0), 1.0) > known.cost(at(0), 1.0));
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let mut ewma = PeakEwma::default();
        ewma.observe(at(0), MS);
        ewma.observe(at(1), 100 * MS);
        assert_eq!(ewma.estimate(at(1)), Some(100 * MS));
        let third = ewma.estimate(at(10_001)).expect("known");
        assert!(third > 36 * MS && third < 37 * MS, "{third:?}");
    }

    #[test]
    fn failing_fast_is_not_attractive() {
        let (mut good, mut bad) = (PeakEwma::default(), PeakEwma::default());
        good.observe(at(0), 5 * MS);
        for ms in 0..10 {
            bad.failed(at(ms), Duration::from_micros(50));
        }
        assert!(bad.cost(at(10), 0.0) > good.cost(at(10), 0.0));
        assert!(bad.estimate(at(10)).expect("known") <= FAILURE_CEILING);
    }

    #[test]
    fn a_request_given_up_early_tells_nothing() {
        let mut ewma = PeakEwma::default();
        ewma.observe(at(0), 10 * MS);
        let before = ewma;
        ewma.gave_up(at(0), MS);
        assert_eq!(ewma, before);
        ewma.gave_up(at(0), 50 * MS);
        assert_eq!(ewma.estimate(at(0)), Some(50 * MS));
    }

    proptest! {
        /// The slow way: a weighted sum over the whole history since the last peak.
        #[test]
        fn equals_the_sum_over_its_history(steps in proptest::collection::vec((0_u64..5_000, 1_u64..200), 1..40)) {
            let (mut ewma, mut now) = (PeakEwma::default(), 0);
            let mut history: Vec<(u64, f64)> = Vec::new();
            for (pause, took) in steps {
                now += pause;
                ewma.observe(at(now), Duration::from_millis(took));
                let took = took as f64;
                if history.is_empty() || took >= sum(&history) { history.clear(); }
                history.push((now, took));
                let got = ewma.estimate(at(now)).expect("known").as_secs_f64() * 1e3;
                prop_assert!((got - sum(&history)).abs() < 1e-3 * got, "{} {}", got, sum(&history));
            }
        }
    }

    /// The first entry is the peak; each later one takes over by the time since the one before it.
    fn sum(history: &[(u64, f64)]) -> f64 {
        let Some(&(mut last, first)) = history.first() else {
            return 0.0;
        };
        history.iter().skip(1).fold(first, |old, &(at, took)| {
            let keep = (-((at - last) as f64) / 10_000.0).exp();
            last = at;
            old * keep + took * (1.0 - keep)
        })
    }
}
