//! How many retries may run at once.
//!
//! A retry is load that nobody asked for, and a service that fails gets the most of it. So the share of running
//! requests that may be retries is bounded; below a floor, which covers what ran on one replica when it died, they
//! always may. A place in the budget is held from the decision to retry until that attempt is over, waiting included.

use crate::cluster::SharedCluster;
use crate::limit::Permit;
use crate::resource::RetryBudget;

/// How many retries may run while `running` requests do.
pub fn allowed(budget: &RetryBudget, running: u32) -> u32 {
    let share = u64::from(running) * u64::from(budget.percent.min(100)) / 100;
    u32::try_from(share).unwrap_or(u32::MAX).max(budget.floor)
}

/// Takes a place for one retry, unless the budget is used up.
pub fn take(budget: &RetryBudget, shared: &SharedCluster) -> Option<Permit> {
    shared.retries.permit(allowed(budget, shared.requests.value()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against the definition in rational numbers.
        #[test]
        fn is_a_percentage_with_a_floor(percent in 0u8..=100, floor in 0u32..50, running in any::<u32>()) {
            let allowed = allowed(&RetryBudget { percent, floor }, running);
            prop_assert!(allowed >= floor);
            prop_assert!(allowed == floor || u64::from(allowed) * 100 <= u64::from(running) * u64::from(percent));
            prop_assert!((u64::from(allowed) + 1) * 100 > u64::from(running) * u64::from(percent));
        }

        /// Against a count of the permits that live, while requests come and go.
        #[test]
        fn never_more_retries_than_allowed_when_the_last_one_started(
            percent in 0u8..=100, floor in 0u32..4, steps in proptest::collection::vec((any::<bool>(), any::<bool>()), 0..80)
        ) {
            let (budget, shared) = (RetryBudget { percent, floor }, SharedCluster::default());
            let (mut requests, mut retries) = (Vec::new(), Vec::new());
            for (is_retry, begins) in steps {
                match (is_retry, begins) {
                    (true, true) => {
                        let limit = allowed(&budget, u32::try_from(requests.len()).expect("few"));
                        let taken = take(&budget, &shared);
                        prop_assert_eq!(taken.is_some(), retries.len() < limit as usize);
                        retries.extend(taken);
                    }
                    (true, false) => drop(retries.pop()),
                    (false, true) => requests.extend(shared.requests.permit(u32::MAX)),
                    (false, false) => drop(requests.pop()),
                }
                prop_assert_eq!(shared.retries.value() as usize, retries.len());
            }
        }
    }
}
