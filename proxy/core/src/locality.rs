//! How much of the traffic stays in our own zone.
//!
//! Both sides, our zone and everywhere else, are given traffic by the share of their endpoints that is healthy, times
//! [`OVERPROVISIONING`]: up to 2 endpoints of 7 may be lost before anything leaves the zone. Beyond that the rest spills over, in
//! proportion. What neither side can carry by this rule is split in proportion to what they can.

/// How much more than its healthy share a side is trusted to carry, in percent.
pub const OVERPROVISIONING: u64 = 140;

/// One side's endpoints, counted by weight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// All that should serve.
    pub total: u64,
    /// Those that can. At most `total`.
    pub healthy: u64,
}

impl Side {
    /// What it can carry, in percent of all traffic.
    fn capacity(self) -> f64 {
        if self.total == 0 {
            return 0.0;
        }
        (OVERPROVISIONING as f64 * self.healthy as f64 / self.total as f64).min(100.0)
    }
}

/// The share of traffic, 0 to 1, that stays with `near`; the rest goes to `far`. Nothing goes to a side without
/// healthy endpoints; when neither has any, the answer is 1.
pub fn near_share(near: Side, far: Side) -> f64 {
    let stays = near.capacity();
    let goes = far.capacity().min(100.0 - stays);
    if goes <= 0.0 { 1.0 } else { stays / (stays + goes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn side(healthy: u64, total: u64) -> Side {
        Side { total, healthy }
    }

    #[test]
    fn stays_until_over_provisioning_is_used_up() {
        let far = side(10, 10);
        assert!((near_share(side(7, 7), far) - 1.0).abs() < 1e-9);
        assert!((near_share(side(5, 7), far) - 1.0).abs() < 1e-9);
        assert!((near_share(side(1, 2), far) - 0.7).abs() < 1e-9);
        assert!(near_share(side(0, 2), far).abs() < 1e-9);
        assert!(near_share(side(0, 0), far).abs() < 1e-9);
        assert!((near_share(side(1, 100), side(0, 3)) - 1.0).abs() < 1e-9);
    }

    /// The rule in whole numbers: a hundred units of traffic, each carried by the near side while it has room, else by
    /// the far side while it has; what is left over is split as the carried ones were.
    fn oracle(near: Side, far: Side) -> f64 {
        const UNITS: u64 = 1_000_000;
        let room = |side: Side| {
            (UNITS * OVERPROVISIONING * side.healthy)
                .checked_div(100 * side.total)
                .unwrap_or(0)
                .min(UNITS)
        };
        let stays = room(near);
        let goes = room(far).min(UNITS - stays);
        if goes == 0 {
            1.0
        } else {
            stays as f64 / (stays + goes) as f64
        }
    }

    proptest! {
        #[test]
        fn agrees_with_counting(a in 0_u64..20, b in 0_u64..20, c in 0_u64..20, d in 0_u64..20) {
            let (near, far) = (side(a.min(b), b), side(c.min(d), d));
            let share = near_share(near, far);
            prop_assert!((share - oracle(near, far)).abs() < 1e-4);
            prop_assert!((0.0..=1.0).contains(&share));
            prop_assert!(near.healthy > 0 || far.healthy == 0 || share == 0.0);
            prop_assert!(far.healthy > 0 || share >= 1.0);
        }
    }
}
