//! Shares of a group's members, counted.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::endpoint::Member;
use crate::resource::{Endpoint, HashKey};

fn slots(weights: &[u32]) -> Vec<Slot> {
    let cluster = Arc::default();
    (1_u16..)
        .zip(weights)
        .map(|(port, &weight)| {
            let endpoint = Endpoint {
                address: ([10, 0, 0, 1], port).into(),
                weight,
                ready: true,
                zone: "".into(),
                identity: None,
                workload: "".into(),
            };
            let member = Member {
                endpoint: Arc::new(endpoint),
                state: Arc::default(),
                cluster: Arc::clone(&cluster),
            };
            Slot::new(Arc::new(member))
        })
        .collect()
}

fn group(weights: &[u32]) -> Group {
    let mut group = Group::default();
    group.clear();
    for (slot, &weight) in weights.iter().enumerate() {
        group.push(slot, f64::from(weight));
    }
    group
}

fn counts(policy: &Balancer, weights: &[u32], slots: &mut [Slot], seed: u64, times: usize) -> Vec<usize> {
    let (group, mut rng) = (group(weights), fastrand::Rng::with_seed(seed));
    let mut counts = vec![0; weights.len()];
    for _ in 0..times {
        counts[group
            .choose(policy, slots, Now::default(), &mut rng)
            .expect("not empty")] += 1;
    }
    counts
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(1_u32..10, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// While all are alike, every policy gives shares by weight; six standard deviations are allowed.
    #[test]
    fn shares_follow_weights(weights in weights(), seed in any::<u64>()) {
        const TIMES: usize = 4000;
        let total: u32 = weights.iter().sum();
        let hash = Balancer::RingHash(HashKey::SourceAddress);
        for policy in [Balancer::PeakEwma, Balancer::LeastRequest, Balancer::Random, Balancer::RoundRobin, hash] {
            let counts = counts(&policy, &weights, &mut slots(&weights), seed, TIMES);
            for (&count, &weight) in counts.iter().zip(&weights) {
                let share = f64::from(weight) / f64::from(total);
                let allowed = 6.0 * (TIMES as f64 * share * (1.0 - share)).sqrt() + 1.0;
                prop_assert!((count as f64 - share * TIMES as f64).abs() < allowed, "{:?} {:?} {:?}", policy, weights, counts);
            }
        }
    }

    /// Round robin: exact in every round, and after every request within one of its share.
    #[test]
    fn round_robin_is_exact(weights in weights(), seed in any::<u64>(), rounds in 1_usize..4) {
        let total: u32 = weights.iter().sum();
        let counts = counts(&Balancer::RoundRobin, &weights, &mut slots(&weights), seed, total as usize * rounds);
        let expected: Vec<usize> = weights.iter().map(|&weight| weight as usize * rounds).collect();
        prop_assert_eq!(counts, expected);
    }

    /// The second draw is never the first, and by weight among the others: against drawing again until it differs.
    #[test]
    fn the_second_draw_is_another(weights in proptest::collection::vec(1_u32..10, 2..6), seed in any::<u64>()) {
        const TIMES: usize = 4000;
        let (group, mut rng) = (group(&weights), fastrand::Rng::with_seed(seed));
        let mut counts = vec![0_i64; weights.len()];
        for _ in 0..TIMES {
            counts[group.draw_other(0, &mut rng)] += 1;
            let again = std::iter::repeat_with(|| group.draw(&mut rng)).find(|&at| at != 0).expect("two at least");
            counts[again] -= 1;
        }
        prop_assert_eq!(counts[0], 0);
        let allowed = 6.0 * (TIMES as f64 / 2.0).sqrt();
        prop_assert!(counts.iter().all(|&count| (count as f64).abs() < allowed), "{:?}", counts);
    }

    /// Least request never takes the worse of a pair, so that the most loaded of all never gets any.
    #[test]
    fn least_request_leaves_the_most_loaded_alone(count in 2_usize..8, loaded in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (weights, loaded) = (vec![1; count], loaded.index(count));
        let mut slots = slots(&weights);
        for _ in 0..3 { slots[loaded].member.state.enter(); }
        prop_assert_eq!(counts(&Balancer::LeastRequest, &weights, &mut slots, seed, 300)[loaded], 0);
    }

    /// Nor does peak EWMA take the slowest of all.
    #[test]
    fn peak_ewma_leaves_the_slowest_alone(count in 2_usize..8, slow in any::<prop::sample::Index>(), seed in any::<u64>()) {
        let (weights, slow) = (vec![1; count], slow.index(count));
        let mut slots = slots(&weights);
        for (at, slot) in slots.iter_mut().enumerate() {
            slot.latency.observe(Now::default(), Duration::from_millis(if at == slow { 50 } else { 5 }));
        }
        prop_assert_eq!(counts(&Balancer::PeakEwma, &weights, &mut slots, seed, 300)[slow], 0);
    }
}

#[test]
fn a_heavier_endpoint_may_carry_more_before_it_counts_as_loaded() {
    let weights = [3, 1];
    let mut slots = slots(&weights);
    for _ in 0..2 {
        slots[0].member.state.enter();
    }
    slots[1].member.state.enter();
    assert_eq!(
        counts(&Balancer::LeastRequest, &weights, &mut slots, 7, 100),
        [100, 0]
    );
}

#[test]
fn noise_in_latency_moves_nothing() {
    let weights = [1, 1];
    let mut slots = slots(&weights);
    slots[0].latency.observe(Now::default(), Duration::from_millis(1));
    slots[1]
        .latency
        .observe(Now::default(), Duration::from_micros(1100));
    let counts = counts(&Balancer::PeakEwma, &weights, &mut slots, 7, 1000);
    assert!(counts[0].abs_diff(counts[1]) < 200, "{counts:?}");
}

#[test]
fn an_empty_group_gives_nothing() {
    let mut rng = fastrand::Rng::with_seed(1);
    assert_eq!(
        group(&[]).choose(&Balancer::RoundRobin, &mut [], Now::default(), &mut rng),
        None
    );
}
