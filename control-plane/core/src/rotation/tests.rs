use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::status::Count;

fn sight(proxies: u64, confirmed: u64, unreachable: &[&str]) -> Sight {
    Sight {
        own: true,
        taken: Taken {
            count: Count {
                proxies,
                confirmed,
                ..Count::default()
            },
            unreachable: unreachable.iter().map(ToString::to_string).collect(),
            ..Taken::default()
        },
        behind: Vec::new(),
        distributed: true,
    }
}

const DAY: Duration = Duration::from_hours(24);
const NOW: UnixTime = UnixTime(1_000_000);

#[test]
fn every_step_waits_for_everybody() {
    let step = |phase, sight: &Sight| next(phase, None, sight, DAY, NOW);
    let publishing = Some(Phase::Publishing);
    assert_eq!(step(publishing, &sight(3, 3, &[])), Step::Switch);
    assert!(matches!(
        step(publishing, &sight(3, 2, &[])),
        Step::Wait(Wait::Proxies { .. })
    ));
    assert!(matches!(
        step(publishing, &sight(3, 3, &["b"])),
        Step::Wait(Wait::Unreachable(_))
    ));
    let behind = Sight {
        behind: vec!["b".into()],
        ..sight(3, 3, &[])
    };
    for phase in [Phase::Publishing, Phase::Switching, Phase::Retiring(NOW)] {
        assert!(
            matches!(step(Some(phase), &behind), Step::Wait(Wait::Behind(_))),
            "{phase:?}"
        );
    }
    let undistributed = Sight {
        distributed: false,
        ..sight(0, 0, &[])
    };
    assert_eq!(step(publishing, &undistributed), Step::Wait(Wait::Distribution));
    let until = UnixTime(NOW.0 + DAY.as_secs() + MARGIN.as_secs());
    assert_eq!(
        step(Some(Phase::Switching), &sight(3, 0, &[])),
        Step::Retire(until)
    );
    assert_eq!(
        step(Some(Phase::Retiring(until)), &sight(3, 3, &[])),
        Step::Wait(Wait::Leaves(until))
    );
    assert_eq!(
        next(Some(Phase::Retiring(until)), None, &sight(3, 3, &[]), DAY, until),
        Step::Finish
    );
}

#[test]
fn requests_are_obeyed_where_they_mean_something() {
    let step = |phase, request| next(phase, Some(request), &sight(3, 0, &["b"]), DAY, NOW);
    assert_eq!(step(None, Request::Start), Step::Begin);
    assert_eq!(step(None, Request::Abort), Step::Dismiss);
    assert_eq!(step(Some(Phase::Publishing), Request::Start), Step::Dismiss);
    assert_eq!(step(Some(Phase::Publishing), Request::Abort), Step::Undo);
    assert_eq!(step(Some(Phase::Switching), Request::Abort), Step::Revert);
    assert_eq!(step(Some(Phase::Retiring(NOW)), Request::Abort), Step::Revert);
}

/// The Secret: what signs, what is trusted, what else is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Secret {
    phase: Option<Phase>,
    issuer: u64,
    other: Option<u64>,
}

impl Secret {
    fn trusted(&self) -> BTreeSet<u64> {
        std::iter::once(self.issuer).chain(self.other).collect()
    }

    fn obey(&mut self, step: &Step, fresh: u64) {
        match step {
            Step::Begin => (self.phase, self.other) = (Some(Phase::Publishing), Some(fresh)),
            Step::Switch | Step::Revert => {
                if let Some(other) = self.other {
                    self.other = Some(std::mem::replace(&mut self.issuer, other));
                }
                self.phase = Some(Phase::Switching);
            }
            Step::Retire(until) => self.phase = Some(Phase::Retiring(*until)),
            Step::Finish | Step::Undo => (self.phase, self.other) = (None, None),
            Step::Dismiss | Step::Wait(_) => {}
        }
    }
}

const LEAVES: Duration = Duration::from_hours(1);
const REPLICAS: usize = 3;

/// A mesh: replicas that follow the Secret late, proxies that follow their replica late, leaves that live an hour.
struct Mesh {
    secret: Secret,
    replicas: Vec<Secret>,
    /// Each proxy: its replica, the roots it trusts, the issuer and the end of its leaf.
    proxies: Vec<(usize, BTreeSet<u64>, u64, u64)>,
    cut: Option<usize>,
    now: u64,
    fresh: u64,
}

impl Mesh {
    fn new() -> Self {
        let secret = Secret {
            phase: None,
            issuer: 0,
            other: None,
        };
        Self {
            replicas: vec![secret.clone(); REPLICAS],
            proxies: (0..6)
                .map(|proxy| (proxy % REPLICAS, BTreeSet::from([0]), 0, 3_600))
                .collect(),
            secret,
            cut: None,
            now: 0,
            fresh: 1,
        }
    }

    /// As the leader, replica 0, sees it.
    fn sight(&self) -> Sight {
        let own = self.replicas[0].trusted();
        let same = |replica: &Secret| replica.trusted() == own && replica.issuer == self.replicas[0].issuer;
        let reached = |replica: usize| self.cut != Some(replica);
        let counted = self.proxies.iter().filter(|proxy| reached(proxy.0));
        let confirmed = counted
            .clone()
            .filter(|proxy| proxy.1 == own && self.replicas[proxy.0].trusted() == own);
        Sight {
            own: self.replicas[0].trusted() == self.secret.trusted()
                && self.replicas[0].issuer == self.secret.issuer,
            taken: Taken {
                count: Count {
                    proxies: counted.clone().count() as u64,
                    confirmed: confirmed.count() as u64,
                    ..Count::default()
                },
                unreachable: self.cut.map(|cut| cut.to_string()).into_iter().collect(),
                ..Taken::default()
            },
            behind: (1..REPLICAS)
                .filter(|replica| reached(*replica) && !same(&self.replicas[*replica]))
                .map(|replica| replica.to_string())
                .collect(),
            distributed: true,
        }
    }

    fn lead(&mut self, request: Option<Request>) {
        let step = next(
            self.secret.phase,
            request,
            &self.sight(),
            LEAVES,
            UnixTime(self.now),
        );
        let fresh = self.fresh;
        self.secret.obey(&step, fresh);
        self.fresh += u64::from(step == Step::Begin);
    }

    fn everybody_trusts_everybody(&self) -> bool {
        self.proxies.iter().all(|verifier| {
            let good =
                |peer: &(usize, BTreeSet<u64>, u64, u64)| peer.3 <= self.now || verifier.1.contains(&peer.2);
            self.proxies.iter().all(good)
        })
    }
}

#[derive(Clone, Debug)]
enum Event {
    Lead(Option<Request>),
    Follow(usize),
    Take(usize),
    Renew(usize),
    Cut(Option<usize>),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let request = prop_oneof![
        6 => Just(None),
        2 => Just(Some(Request::Start)),
        1 => Just(Some(Request::Abort)),
    ];
    prop_oneof![
        4 => request.prop_map(Event::Lead),
        4 => (0..REPLICAS).prop_map(Event::Follow),
        6 => (0_usize..6).prop_map(Event::Take),
        3 => (0_usize..6).prop_map(Event::Renew),
        1 => prop::option::of(1..REPLICAS).prop_map(Event::Cut),
        2 => (0_u64..2_000).prop_map(Event::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever lags, whoever is cut off, whenever the operator changes their mind: no leaf in force is ever of an issuer
    /// that a proxy doesn't trust.
    #[test]
    fn no_leaf_is_ever_without_its_root(events in prop::collection::vec(event(), 0..120)) {
        let mut mesh = Mesh::new();
        for event in events {
            match event {
                Event::Lead(request) => mesh.lead(request),
                Event::Follow(replica) => mesh.replicas[replica] = mesh.secret.clone(),
                Event::Take(proxy) => mesh.proxies[proxy].1 = mesh.replicas[mesh.proxies[proxy].0].trusted(),
                Event::Renew(proxy) => {
                    // A signature brings the roots along.
                    let replica = &mesh.replicas[mesh.proxies[proxy].0];
                    let signed = (replica.trusted(), replica.issuer, mesh.now + LEAVES.as_secs());
                    (mesh.proxies[proxy].1, mesh.proxies[proxy].2, mesh.proxies[proxy].3) = signed;
                }
                Event::Cut(replica) => mesh.cut = replica,
                Event::Wait(seconds) => mesh.now += seconds,
            }
            prop_assert!(mesh.everybody_trusts_everybody(), "{:?} {:?}", mesh.secret, mesh.proxies);
        }
        // Left alone, with everybody there, it comes to an end.
        mesh.cut = None;
        for _ in 0..8 {
            mesh.lead(None);
            for replica in 0..REPLICAS {
                mesh.replicas[replica] = mesh.secret.clone();
            }
            for proxy in 0..6 {
                mesh.proxies[proxy].1 = mesh.replicas[mesh.proxies[proxy].0].trusted();
            }
            mesh.now += 3_600;
        }
        prop_assert_eq!(mesh.secret.phase, None);
    }
}
