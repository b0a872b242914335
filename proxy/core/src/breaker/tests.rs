//! The machine against one that keeps a list of everything, and the cell against the machine.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const POLICY: Breaker = Breaker {
    consecutive_failures: 3,
    open_for: Duration::from_secs(5),
    half_open_probes: 2,
};

fn at(ms: u64) -> Now {
    Now::default() + Duration::from_millis(ms)
}

fn fail(machine: Machine, now: Now) -> Machine {
    let (machine, pass) = machine.admit(&POLICY, now).expect("admitted");
    machine.settle(&POLICY, now, pass, Verdict::Failure)
}

fn opened() -> Machine {
    (0..3).fold(Machine::default(), |machine, _| fail(machine, at(0)))
}

#[test]
fn opens_after_failures_in_a_row_only() {
    let mut machine = fail(fail(Machine::default(), at(0)), at(0));
    let (next, pass) = machine.admit(&POLICY, at(0)).expect("closed");
    machine = next.settle(&POLICY, at(0), pass, Verdict::Success);
    machine = fail(fail(machine, at(0)), at(0));
    assert_eq!(machine.phase(), Phase::Closed);
    assert_eq!(fail(machine, at(0)).phase(), Phase::Open);
}

#[test]
fn lets_counted_probes_through_after_its_time() {
    assert!(opened().admit(&POLICY, at(4999)).is_none());
    let (machine, first) = opened().admit(&POLICY, at(5000)).expect("a probe");
    let (machine, second) = machine.admit(&POLICY, at(5000)).expect("another");
    assert_eq!(machine.phase(), Phase::HalfOpen);
    assert!(machine.admit(&POLICY, at(9000)).is_none());
    let machine = machine.settle(&POLICY, at(9000), first, Verdict::Success);
    assert!(
        machine.admit(&POLICY, at(9000)).is_none(),
        "one has passed, one runs: two are enough"
    );
    let machine = machine.settle(&POLICY, at(9000), second, Verdict::Success);
    assert_eq!(machine.phase(), Phase::Closed);
}

#[test]
fn a_failed_probe_opens_it_again_and_a_cancelled_one_is_given_back() {
    let (machine, probe) = opened().admit(&POLICY, at(5000)).expect("a probe");
    let cancelled = machine.settle(&POLICY, at(5001), probe, Verdict::Cancelled);
    assert!(cancelled.admits(&POLICY, at(5001)));
    let failed = machine.settle(&POLICY, at(5001), probe, Verdict::Failure);
    assert_eq!(failed.opens_again_at(), Some(at(10_001)));
}

#[test]
fn a_verdict_from_an_earlier_epoch_changes_nothing() {
    let (closed, old) = Machine::default().admit(&POLICY, at(0)).expect("closed");
    let open = (0..3).fold(closed, |machine, _| fail(machine, at(0)));
    let (half_open, _) = open.admit(&POLICY, at(5000)).expect("a probe");
    for verdict in [Verdict::Success, Verdict::Failure, Verdict::Cancelled] {
        assert_eq!(half_open.settle(&POLICY, at(5000), old, verdict), half_open);
    }
}

#[test]
fn fewer_probes_by_a_new_policy_do_not_lock_it() {
    let policy = |half_open_probes| Breaker {
        half_open_probes,
        ..POLICY
    };
    let (mut machine, mut now) = (opened(), at(5000));
    for _ in 0..2 {
        let (next, pass) = machine.admit(&policy(3), now).expect("a probe");
        machine = next.settle(&policy(3), now, pass, Verdict::Success);
        now = now + Duration::from_millis(1);
    }
    let (machine, _) = machine.admit(&policy(1), now).expect("enough have passed");
    assert_eq!(machine.phase(), Phase::Closed);
}

#[derive(Clone, Debug)]
enum Step {
    Ask,
    Settle(usize, Verdict),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        Just(Verdict::Success),
        Just(Verdict::Failure),
        Just(Verdict::Cancelled)
    ];
    prop_oneof![
        4 => Just(Step::Ask),
        4 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Step::Settle(which, verdict)),
        1 => (0_u64..4000).prop_map(Step::Wait),
    ]
}

/// Keeps every request of the current period apart, where the machine only counts.
#[derive(Default)]
struct Oracle {
    phase: Option<Phase>,
    period: u64,
    since_ms: u64,
    row: Vec<Verdict>,
    probes: BTreeMap<u64, Option<Verdict>>,
}

impl Oracle {
    fn phase(&self) -> Phase {
        self.phase.unwrap_or(Phase::Closed)
    }

    fn turn(&mut self, phase: Phase, now_ms: u64) {
        *self = Self {
            phase: Some(phase),
            period: self.period + 1,
            since_ms: now_ms,
            ..Self::default()
        };
    }

    fn ask(&mut self, id: u64, now_ms: u64) -> bool {
        if self.phase() == Phase::Open && now_ms >= self.since_ms + 5000 {
            self.turn(Phase::HalfOpen, now_ms);
        }
        match self.phase() {
            Phase::Closed => true,
            Phase::Open => false,
            Phase::HalfOpen => {
                let counted = self
                    .probes
                    .values()
                    .filter(|probe| **probe != Some(Verdict::Cancelled))
                    .count();
                if counted < 2 {
                    self.probes.insert(id, None);
                }
                counted < 2
            }
        }
    }

    fn settle(&mut self, id: u64, period: u64, verdict: Verdict, now_ms: u64) {
        if period != self.period {
            return;
        }
        if self.phase() == Phase::HalfOpen {
            self.probes.insert(id, Some(verdict));
            let passed = self
                .probes
                .values()
                .filter(|probe| **probe == Some(Verdict::Success))
                .count();
            if verdict == Verdict::Failure {
                self.turn(Phase::Open, now_ms);
            } else if passed == 2 {
                self.turn(Phase::Closed, now_ms);
            }
            return;
        }
        self.row.push(verdict);
        let heard = self
            .row
            .iter()
            .rev()
            .filter(|verdict| **verdict != Verdict::Cancelled);
        if heard.take_while(|verdict| **verdict == Verdict::Failure).count() == 3 {
            self.turn(Phase::Open, now_ms);
        }
    }
}

fn legal(before: Phase, after: Phase) -> bool {
    use Phase::{Closed, HalfOpen, Open};
    before == after
        || matches!(
            (before, after),
            (Closed, Open) | (Open, HalfOpen) | (HalfOpen, Closed | Open)
        )
}

proptest! {
    #[test]
    fn agrees_with_the_oracle(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut oracle, cell) = (Oracle::default(), Cell::default());
        let (mut now, mut id, mut running) = (0, 0, Vec::new());
        for step in steps {
            let before = cell.machine().phase();
            match step {
                Step::Wait(ms) => now += ms,
                Step::Ask => {
                    id += 1;
                    let expected = cell.machine().admit(&POLICY, at(now)).map(|(machine, _)| machine);
                    let admitted = cell.admit(Some(&POLICY), at(now));
                    prop_assert_eq!(admitted.is_some(), oracle.ask(id, now));
                    if let Some((pass, _)) = admitted {
                        prop_assert_eq!(Some(cell.machine()), expected);
                        running.push((id, oracle.period, pass));
                    }
                }
                Step::Settle(..) if running.is_empty() => {}
                Step::Settle(which, verdict) => {
                    let (id, period, pass) = running.swap_remove(which % running.len());
                    oracle.settle(id, period, verdict, now);
                    cell.settle(Some(&POLICY), at(now), pass, verdict);
                }
            }
            let phase = cell.machine().phase();
            prop_assert!(legal(before, phase), "{:?} to {:?}", before, phase);
            prop_assert_eq!(phase, oracle.phase());
            let probing = running.iter().filter(|(_, period, _)| *period == oracle.period).count();
            prop_assert!(phase != Phase::HalfOpen || probing <= 2);
        }
    }

    #[test]
    fn packing_loses_nothing(epoch in 0..=EPOCH_MASK, failures in any::<u32>(), until_ms in 0..=PAYLOAD_MASK, running in any::<u16>(), passed in any::<u16>()) {
        for state in [State::Closed { failures }, State::Open { until_ms }, State::HalfOpen { running, passed }] {
            let machine = Machine { epoch, state };
            prop_assert_eq!(Machine::unpack(machine.pack()), machine);
        }
    }
}

#[test]
fn threads_together_get_no_more_probes_than_counted() {
    let cell = Cell(AtomicU64::new(opened().pack()));
    let admitted: usize = std::thread::scope(|scope| {
        let ask = || {
            (0..100)
                .filter(|_| cell.admit(Some(&POLICY), at(6000)).is_some())
                .count()
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("no panic"))
            .sum()
    });
    assert_eq!(admitted, 2);
}
