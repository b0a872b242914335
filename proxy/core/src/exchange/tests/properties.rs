//! Several exchanges on one cluster, in every interleaving.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Fate {
    Fails(Failure),
    Answers(u16, Option<u32>, bool),
    TimesOut,
    Overflows,
    CallerLeaves,
    Ends(Option<u32>),
    Breaks,
}

fn fate() -> impl Strategy<Value = Fate> {
    use Failure as F;
    let failure = prop::sample::select(vec![
        F::ConnectFailed,
        F::ConnectTimeout,
        F::TlsRefused,
        F::Overloaded,
        F::Refused,
        F::Reset,
        F::Protocol,
    ]);
    prop_oneof![
        6 => failure.prop_map(Fate::Fails),
        4 => (prop::sample::select(vec![200u16, 404, 500, 503]), prop::option::of(prop::sample::select(vec![0u32, 13, 14])),
            prop::bool::weighted(0.2)).prop_map(|(s, g, u)| Fate::Answers(s, g, u)),
        1 => Just(Fate::TimesOut),
        1 => Just(Fate::Overflows),
        1 => Just(Fate::CallerLeaves),
        4 => prop::option::of(0u32..17).prop_map(Fate::Ends),
        1 => Just(Fate::Breaks),
    ]
}

/// What the machine waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    New,
    Attempt { timed: bool },
    Wait,
    Forward { timed: bool },
    Respond,
    Done,
}

/// The event that a fate means where the machine stands; `None`: not possible there.
fn event(phase: Phase, fate: &Fate) -> Option<Event> {
    let event = match (phase, fate) {
        (Phase::New, _) => Event::Start,
        (Phase::Done, _) => return None,
        (_, Fate::CallerLeaves) => Event::DownstreamGone,
        (Phase::Wait, _) => Event::Timer,
        (Phase::Respond, _) => Event::ResponseEnd(None),
        (Phase::Attempt { timed } | Phase::Forward { timed }, Fate::TimesOut) if timed => Event::Timer,
        (Phase::Attempt { .. }, Fate::Fails(failure)) => Event::AttemptFailed(*failure),
        (Phase::Attempt { .. }, Fate::Answers(status, grpc, unprocessed)) => Event::ResponseHead(Head {
            grpc: *grpc,
            unprocessed: *unprocessed,
            ..Head::new(StatusCode::from_u16(*status).expect("status"))
        }),
        (Phase::Forward { .. }, Fate::Ends(grpc)) => Event::ResponseEnd(*grpc),
        (Phase::Forward { .. }, Fate::Breaks) => Event::ResponseReset,
        _ => return None,
    };
    Some(event)
}

fn phase(action: &Action) -> Phase {
    match action {
        Action::Attempt { deadline, .. } => Phase::Attempt {
            timed: deadline.is_some(),
        },
        Action::Wait { .. } => Phase::Wait,
        Action::Forward { deadline } => Phase::Forward {
            timed: deadline.is_some(),
        },
        Action::Respond(_) => Phase::Respond,
        Action::Done(_) => Phase::Done,
    }
}

/// Several exchanges on one cluster, and what must hold between them.
struct World<'a> {
    cluster: ClusterState,
    exchanges: Vec<(Exchange<'a>, Phase, Trail)>,
    rng: fastrand::Rng,
    now: Now,
    most: u32,
}

/// What one exchange did.
#[derive(Default)]
struct Trail {
    attempts: u32,
    steps: u32,
    overflowed: bool,
    forwarded: bool,
    done: u32,
}

impl World<'_> {
    fn advance(&mut self, index: usize, fate: &Fate) {
        let (exchange, phase_now, trail) = &mut self.exchanges[index];
        if matches!(fate, Fate::Overflows) && matches!(phase_now, Phase::Attempt { .. }) {
            exchange.body_overflowed();
            trail.overflowed = true;
            return;
        }
        let Some(event) = event(*phase_now, fate) else {
            return;
        };
        let (running, retries) = (
            self.cluster.shared().requests.value(),
            self.cluster.shared().retries.value(),
        );
        let action = exchange.step(event, self.now, &mut self.rng, &mut self.cluster);
        trail.steps += 1;
        match &action {
            Action::Attempt { deadline, .. } => {
                assert!(
                    !trail.forwarded && (trail.attempts == 0 || !trail.overflowed),
                    "no retry after {event:?}"
                );
                assert!(deadline.is_none_or(|at| at >= self.now));
                trail.attempts += 1;
            }
            Action::Wait { until } => {
                assert!(!trail.forwarded && !trail.overflowed);
                self.now = self.now.max(*until);
            }
            Action::Forward { .. } => trail.forwarded = true,
            Action::Respond(_) => assert!(!trail.forwarded),
            Action::Done(outcome) => {
                trail.done += 1;
                assert_eq!(outcome.attempts, trail.attempts);
            }
        }
        *phase_now = phase(&action);
        let shared = self.cluster.shared();
        if shared.retries.value() > retries {
            let allowed = budget::allowed(&self.cluster.config().retry_budget, running);
            assert!(shared.retries.value() <= allowed, "the budget holds");
        }
        assert!(trail.attempts <= 1 + self.most.max(retry::UNPROCESSED_RETRIES));
        assert!(
            trail.steps <= 3 * trail.attempts + 3,
            "terminates in a few steps per attempt"
        );
    }

    fn check_counts(&self) {
        let held = |phase: &Phase| matches!(phase, Phase::Attempt { .. } | Phase::Forward { .. });
        let holding = self.exchanges.iter().filter(|(_, phase, _)| held(phase)).count();
        assert_eq!(self.cluster.shared().requests.value() as usize, holding);
    }
}

proptest! {
    #[test]
    fn every_interleaving_ends_once_and_gives_everything_back(
        fates in proptest::collection::vec((0usize..6, fate()), 0..200),
        kinds in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 6),
        most in 0u32..4, floor in 0u32..3, percent in 0u8..=100, endpoints in 0u8..4, seed: u64,
    ) {
        let now = Now::from_nanos(7);
        let exchanges = kinds.iter().map(|(idempotent, grpc, timed)| {
            let terms = Terms {
                grpc: *grpc,
                timeout: timed.then_some(Duration::from_millis(90)),
                attempt_timeout: timed.then_some(Duration::from_millis(20)),
                ..Terms::new(if *idempotent { &GET } else { &POST })
            };
            (Exchange::new(now, terms), Phase::New, Trail::default())
        });
        let mut world = World {
            exchanges: exchanges.collect(),
            cluster: cluster(endpoints, policy(most), RetryBudget { percent, floor }),
            rng: fastrand::Rng::with_seed(seed),
            now,
            most,
        };
        for (index, fate) in &fates {
            world.advance(*index, fate);
            world.check_counts();
        }
        // Whatever is still under way is answered well, which must be enough to end it.
        for index in 0..world.exchanges.len() {
            for fate in [Fate::Answers(200, None, false), Fate::Ends(None)].iter().cycle().take(12) {
                world.advance(index, fate);
            }
        }
        world.check_counts();
        prop_assert_eq!(world.cluster.shared().requests.value(), 0);
        prop_assert_eq!(world.cluster.shared().retries.value(), 0);
        for (_, phase, trail) in &world.exchanges {
            prop_assert_eq!((*phase, trail.done), (Phase::Done, 1));
        }
    }

    #[test]
    fn waits_are_jittered_within_the_policys_ceiling(seed: u64) {
        let mut run = run(&GET, 2);
        run.rng = fastrand::Rng::with_seed(seed);
        run.step(Event::Start);
        let mut waits = BTreeMap::new();
        for attempt in 1..=2u32 {
            if let Action::Wait { until } = run.step(Event::AttemptFailed(Failure::Reset)) {
                waits.insert(attempt, until.since(run.now));
                run.now = until;
                run.step(Event::Timer);
            }
        }
        for (attempt, wait) in waits {
            prop_assert!(wait <= Duration::from_millis(10 << (attempt - 1)));
        }
    }
}
