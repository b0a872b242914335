//! Choosing one of several endpoints that all could serve.
//!
//! Two draws and a comparison ("power of two choices") keep the load even without looking at everyone: the first is
//! drawn by weight, the second too, among the others, and takes the request only when it is clearly better. While all
//! are alike the shares are therefore exactly those of the weights, and differences that are only noise move nothing.

use crate::endpoint::Slot;
use crate::resource::Balancer;
use crate::time::Now;

/// How much cheaper the second choice must be to be taken instead of the first, as a factor.
const CLEARLY_CHEAPER: f64 = 0.8;

/// Endpoints to choose from, as indices of slots, with their weights.
#[derive(Debug, Default)]
pub(crate) struct Group {
    slots: Vec<usize>,
    /// Sum of the weights up to and including each.
    upto: Vec<f64>,
    even: bool,
}

impl Group {
    pub(crate) fn clear(&mut self) {
        self.slots.clear();
        self.upto.clear();
        self.even = true;
    }

    pub(crate) fn push(&mut self, slot: usize, weight: f64) {
        self.even &= self.slots.is_empty() || (weight - self.upto[0]).abs() < f64::EPSILON;
        self.upto.push(self.total() + weight);
        self.slots.push(slot);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The slots and their weights.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, f64)> {
        (0..self.slots.len()).map(|at| (self.slots[at], self.weight(at)))
    }

    fn total(&self) -> f64 {
        self.upto.last().copied().unwrap_or(0.0)
    }

    fn before(&self, at: usize) -> f64 {
        if at == 0 { 0.0 } else { self.upto[at - 1] }
    }

    fn weight(&self, at: usize) -> f64 {
        self.upto[at] - self.before(at)
    }

    /// Requests under way on the one at `at`, per unit of average weight.
    fn load(&self, at: usize, slots: &[Slot]) -> f64 {
        let running = f64::from(slots[self.slots[at]].member.state.running());
        if self.even {
            running
        } else {
            running * self.total() / (self.weight(at) * self.slots.len() as f64)
        }
    }

    /// One at random, by weight.
    fn draw(&self, rng: &mut fastrand::Rng) -> usize {
        if self.even {
            rng.usize(..self.slots.len())
        } else {
            self.find(rng.f64() * self.total())
        }
    }

    /// Another one than `first` at random, by weight. There are at least two.
    fn draw_other(&self, first: usize, rng: &mut fastrand::Rng) -> usize {
        if self.even {
            let other = rng.usize(..self.slots.len() - 1);
            return if other < first { other } else { other + 1 };
        }
        let at = rng.f64() * (self.total() - self.weight(first));
        if at < self.before(first) {
            self.find(at)
        } else {
            self.find(at + self.weight(first))
        }
    }

    fn find(&self, weight: f64) -> usize {
        self.upto
            .partition_point(|&upto| upto <= weight)
            .min(self.slots.len() - 1)
    }

    /// The slot to use by `policy`, or `None` when the group is empty. Ring hash without a ring is random.
    pub(crate) fn choose(
        &self,
        policy: &Balancer,
        slots: &mut [Slot],
        now: Now,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let at = match (self.slots.len(), policy) {
            (0, _) => return None,
            (1, _) => 0,
            (_, Balancer::Random | Balancer::RingHash(_)) => self.draw(rng),
            (_, Balancer::RoundRobin) => self.in_turn(slots, rng),
            (_, Balancer::LeastRequest) => self.better_of_two(rng, |at| self.load(at, slots), 1.0),
            (_, Balancer::PeakEwma) => {
                let cost = |at: usize| slots[self.slots[at]].latency.cost(now, self.load(at, slots));
                self.better_of_two(rng, cost, CLEARLY_CHEAPER)
            }
        };
        Some(self.slots[at])
    }

    fn better_of_two(&self, rng: &mut fastrand::Rng, cost: impl Fn(usize) -> f64, factor: f64) -> usize {
        let first = self.draw(rng);
        let second = self.draw_other(first, rng);
        if cost(second) < cost(first) * factor {
            second
        } else {
            first
        }
    }

    /// Smooth weighted round robin: everyone earns its weight, the richest is chosen and pays for all. In a round of as
    /// many requests as the weights add up to, each is chosen by its weight exactly. Who begins a round is drawn, so that
    /// proxies that start together don't march in step.
    fn in_turn(&self, slots: &mut [Slot], rng: &mut fastrand::Rng) -> usize {
        let mut best = 0;
        let mut begins = true;
        for (at, &slot) in self.slots.iter().enumerate() {
            begins &= slots[slot].turn == 0.0;
            slots[slot].turn += self.weight(at);
            if slots[slot].turn > slots[self.slots[best]].turn {
                best = at;
            }
        }
        if begins {
            best = self.draw(rng);
        }
        slots[self.slots[best]].turn -= self.total();
        best
    }
}

#[cfg(test)]
mod tests;
