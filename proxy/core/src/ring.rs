//! Consistent hashing (Ketama): every endpoint owns many points on a ring of 64-bit hashes, a key belongs to the next
//! point at or after its own hash. When an endpoint comes or goes, only the keys of its points move.
//!
//! Points depend on nothing but addresses and weights, so that every proxy sends a key to the same endpoint. An
//! endpoint that is out of service for the moment keeps its points: its keys pass on to the next one on the ring and
//! come back with it. Zones are not considered, for the same reason.

use std::net::{IpAddr, SocketAddr};

use twox_hash::XxHash64;

/// Points of an endpoint of average weight.
pub const POINTS_PER_ENDPOINT: usize = 160;
/// Points of a whole ring, beyond one for each endpoint: 128 KiB.
pub const MAX_POINTS: usize = 8192;

const SEED: u64 = 0;

/// The hash of a key: what [`Pick::hash`](crate::cluster::Pick::hash) takes.
pub fn hash(key: &[u8]) -> u64 {
    XxHash64::oneshot(SEED, key)
}

/// The points of a cluster's endpoints, in order.
#[derive(Debug, Default)]
pub struct Ring {
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// A ring of `(index, address, weight)`; `index` is what a lookup answers with. At most [`MAX_POINTS`] points and
    /// one for each endpoint.
    pub fn new(endpoints: &[(u32, SocketAddr, u32)]) -> Self {
        let total: u64 = endpoints
            .iter()
            .map(|&(_, _, weight)| u64::from(weight.max(1)))
            .sum();
        let target = (endpoints.len() * POINTS_PER_ENDPOINT).min(MAX_POINTS) as u64;
        let mut points = Vec::new();
        for &(index, address, weight) in endpoints {
            let count = (u64::from(weight.max(1)) * target)
                .checked_div(total)
                .unwrap_or(0)
                .max(1);
            points.extend((0..count).map(|nth| (point(address, nth), index)));
        }
        points.sort_unstable();
        Self { points }
    }

    /// How many points there are.
    pub fn len(&self) -> usize {
        self.points.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    /// The index that `hash` belongs to, among those that are `usable`.
    pub fn find(&self, hash: u64, usable: impl Fn(u32) -> bool) -> Option<u32> {
        let start = self.points.partition_point(|&(point, _)| point < hash);
        let (before, after) = self.points.split_at(start);
        after
            .iter()
            .chain(before)
            .map(|&(_, index)| index)
            .find(|&index| usable(index))
    }
}

/// The `nth` point of an address.
fn point(address: SocketAddr, nth: u64) -> u64 {
    let mut key = [0; 26];
    match address.ip() {
        IpAddr::V4(ip) => key[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => key[..16].copy_from_slice(&ip.octets()),
    }
    key[16..18].copy_from_slice(&address.port().to_be_bytes());
    key[18..].copy_from_slice(&nth.to_be_bytes());
    XxHash64::oneshot(SEED, &key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn endpoints(ports: &BTreeSet<u16>) -> Vec<(u32, SocketAddr, u32)> {
        ports
            .iter()
            .map(|&port| (u32::from(port), SocketAddr::from(([10, 0, 0, 1], port)), 1))
            .collect()
    }

    #[test]
    fn is_bounded_and_empty_when_nothing_is_there() {
        assert!(Ring::new(&[]).find(7, |_| true).is_none());
        let many: BTreeSet<u16> = (0..20_000).collect();
        assert!(Ring::new(&endpoints(&many)).len() <= MAX_POINTS + many.len());
    }

    #[test]
    fn shares_follow_weights() {
        let address = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let ring = Ring::new(&[(0, address(1), 1), (1, address(2), 1), (2, address(3), 2)]);
        let mut counts = [0_u32; 3];
        for key in 0..40_000_u32 {
            counts[ring.find(hash(&key.to_be_bytes()), |_| true).expect("not empty") as usize] += 1;
        }
        for (count, expected) in counts.iter().zip([10_000, 10_000, 20_000]) {
            assert!(count.abs_diff(expected) < expected / 4, "{counts:?}");
        }
    }

    proptest! {
        /// Against a walk over all points in a map.
        #[test]
        fn finds_the_next_usable_point(ports in proptest::collection::btree_set(1_u16..60, 1..12), out in any::<u64>(), keys in proptest::collection::vec(any::<u64>(), 1..50)) {
            let ring = Ring::new(&endpoints(&ports));
            let map: BTreeMap<u64, u32> = ring.points.iter().copied().collect();
            let usable = |index: u32| out >> index & 1 == 0;
            for key in keys {
                let oracle = map.range(key..).chain(map.range(..key)).map(|(_, &index)| index).find(|&index| usable(index));
                prop_assert_eq!(ring.find(key, usable), oracle);
            }
        }

        /// What makes it consistent: without an endpoint, only that endpoint's keys move.
        #[test]
        fn removing_one_moves_only_its_keys(ports in proptest::collection::btree_set(1_u16..500, 2..30), keys in proptest::collection::vec(any::<u64>(), 1..100)) {
            let gone = *ports.first().expect("two at least");
            let mut rest = ports.clone();
            rest.remove(&gone);
            let (before, after) = (Ring::new(&endpoints(&ports)), Ring::new(&endpoints(&rest)));
            for key in keys {
                let old = before.find(key, |_| true);
                if old != Some(u32::from(gone)) {
                    prop_assert_eq!(after.find(key, |_| true), old);
                }
                prop_assert_eq!(before.find(key, |index| index != u32::from(gone)), after.find(key, |_| true));
            }
        }
    }
}
