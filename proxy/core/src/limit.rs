//! Counts of what runs at once, for the whole proxy.
//!
//! A [`Gauge`] is one relaxed atomic that all workers share. Nothing is ordered by it: it bounds how much is done, not
//! what is seen. The bound is exact: a gauge never passes the limit it was entered under, however workers interleave.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How many of something are under way.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU32);

impl Gauge {
    /// Counts one more unless `limit` are under way already; says whether it did. A limit of zero lets nothing in.
    /// Each success is matched by one [`leave`](Self::leave).
    pub fn enter(&self, limit: u32) -> bool {
        self.0
            .fetch_update(Relaxed, Relaxed, |n| (n < limit).then(|| n + 1))
            .is_ok()
    }

    /// Takes back one [`enter`](Self::enter).
    pub fn leave(&self) {
        let before = self.0.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "a gauge was left more often than entered");
    }

    /// How many are under way.
    pub fn value(&self) -> u32 {
        self.0.load(Relaxed)
    }

    /// Like [`enter`](Self::enter), as a value that leaves when it is dropped.
    pub fn permit(self: &Arc<Self>, limit: u32) -> Option<Permit> {
        self.enter(limit).then(|| Permit(Arc::clone(self)))
    }
}

/// A place in a [`Gauge`], given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Gauge>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Against a vector of the permits that are held.
        #[test]
        fn holds_exactly_the_permits_that_live(limit in 0_u32..5, steps in proptest::collection::vec(any::<Option<u8>>(), 0..60)) {
            let gauge = Arc::new(Gauge::default());
            let mut held = Vec::new();
            for step in steps {
                match step {
                    None => {
                        let permit = gauge.permit(limit);
                        prop_assert!(permit.is_some() || held.len() == limit as usize);
                        held.extend(permit);
                    }
                    Some(at) if !held.is_empty() => drop(held.swap_remove(usize::from(at) % held.len())),
                    Some(_) => {}
                }
                prop_assert_eq!(gauge.value() as usize, held.len());
            }
            drop(held);
            prop_assert_eq!(gauge.value(), 0);
        }
    }

    #[test]
    fn never_passes_its_limit_between_threads() {
        const LIMIT: u32 = 3;
        let gauge = Gauge::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2000 {
                        if gauge.enter(LIMIT) {
                            assert!(gauge.value() <= LIMIT);
                            gauge.leave();
                        }
                    }
                });
            }
        });
        assert_eq!(gauge.value(), 0);
    }
}
