//! Everything at once: requests, endings, time and endpoints in any order, two workers taking turns.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Acquire,
    Finish(usize, Option<Verdict>),
    Wait(u64),
    Endpoints(Vec<(u16, bool, u32)>),
}

fn step() -> impl Strategy<Value = Step> {
    let verdict = prop_oneof![
        1 => Just(Some(Verdict::Success)),
        3 => Just(Some(Verdict::Failure)),
        1 => Just(Some(Verdict::Cancelled)),
        1 => Just(None),
    ];
    let endpoints =
        proptest::collection::btree_map(1_u16..7, (any::<bool>(), 1_u32..4), 0..6).prop_map(|map| {
            map.into_iter()
                .map(|(port, (ready, weight))| (port, ready, weight))
                .collect()
        });
    prop_oneof![
        10 => Just(Step::Acquire),
        8 => (any::<usize>(), verdict).prop_map(|(which, verdict)| Step::Finish(which, verdict)),
        2 => (0_u64..8_000).prop_map(Step::Wait),
        1 => endpoints.prop_map(Step::Endpoints),
    ]
}

fn any_config() -> impl Strategy<Value = Cluster> {
    let balancer = prop_oneof![
        Just(Balancer::PeakEwma),
        Just(Balancer::RoundRobin),
        Just(Balancer::LeastRequest),
        Just(Balancer::Random),
        Just(Balancer::RingHash(HashKey::SourceAddress)),
    ];
    let outlier = proptest::option::of((0_u8..=100).prop_map(|percent| Outlier {
        max_ejection_percent: percent,
        ..OUTLIER
    }));
    (balancer, outlier, any::<bool>(), any::<bool>(), 1_u32..8).prop_map(
        |(balancer, outlier, breaker, service, requests)| Cluster {
            balancer,
            outlier,
            endpoint_breaker: breaker.then_some(BREAKER),
            service_breaker: service.then_some(Breaker {
                consecutive_failures: 12,
                ..BREAKER
            }),
            limits: Limits {
                requests,
                ..Limits::default()
            },
            slow_start: Duration::from_secs(5),
            ..config()
        },
    )
}

/// Who may be chosen, rule by rule.
fn allowed(entry: &ClusterEntry, now: Now) -> BTreeSet<u16> {
    let port = |member: &Member| member.endpoint.address.port();
    let any_ready = entry.members.iter().any(|member| member.endpoint.ready);
    let in_service: Vec<&Arc<Member>> = entry
        .members
        .iter()
        .filter(|member| member.endpoint.ready || !any_ready)
        .collect();
    let passes = |member: &&&Arc<Member>| {
        let breaker = member.state.breaker.machine();
        entry
            .config
            .endpoint_breaker
            .is_none_or(|policy| breaker.admits(&policy, now))
    };
    let mut ejected: Vec<_> = in_service
        .iter()
        .filter(|member| entry.config.outlier.is_some() && member.state.outlier.record().is_ejected(now))
        .collect();
    ejected.sort_by_key(|member| std::cmp::Reverse(member.state.outlier.record().until()));
    let most = entry.config.outlier.map_or(0, |policy| {
        in_service.len() * usize::from(policy.max_ejection_percent) / 100
    });
    // Those that return at the same moment may be told apart either way: nobody of them counts as surely ejected.
    let last_in = ejected
        .get(most)
        .map(|member| member.state.outlier.record().until());
    let surely = |member: &Arc<Member>| {
        ejected.iter().take(most).any(|other| Arc::ptr_eq(other, member))
            && last_in != Some(member.state.outlier.record().until())
    };
    let usable: BTreeSet<u16> = in_service
        .iter()
        .filter(passes)
        .filter(|member| !surely(member))
        .map(|member| port(member))
        .collect();
    if usable.is_empty() {
        in_service
            .iter()
            .filter(passes)
            .map(|member| port(member))
            .collect()
    } else {
        usable
    }
}

fn check_counts(state: &ClusterState, leases: &[Lease]) -> Result<(), TestCaseError> {
    prop_assert_eq!(state.shared().requests.value() as usize, leases.len());
    for member in &state.entry().members {
        let held = leases
            .iter()
            .filter(|lease| Arc::ptr_eq(&lease.member.state, &member.state))
            .count();
        prop_assert_eq!(member.state.running() as usize, held);
    }
    Ok(())
}

fn check_share(state: &ClusterState, now: Now) -> Result<(), TestCaseError> {
    let Some(policy) = state.config().outlier else {
        return Ok(());
    };
    let breakers = |slot: &Slot| {
        state
            .config()
            .endpoint_breaker
            .is_none_or(|policy| slot.member.state.breaker.machine().admits(&policy, now))
    };
    let any_ready = state.slots.iter().any(|slot| slot.member.endpoint.ready);
    let in_service = |slot: &&Slot| slot.member.endpoint.ready || !any_ready;
    let total = state.slots.iter().filter(in_service).count();
    let out = (0..)
        .zip(&state.slots)
        .filter(|(at, slot)| in_service(slot) && breakers(slot) && !state.selection.is_usable(*at))
        .count();
    prop_assert!(
        out * 100 <= usize::from(policy.max_ejection_percent) * total,
        "{} of {} are ejected",
        out,
        total
    );
    Ok(())
}

fn check_refusal(
    why: Unavailable,
    entry: &ClusterEntry,
    running: usize,
    now: Now,
) -> Result<(), TestCaseError> {
    let expected = match why {
        Unavailable::NoEndpoints => entry.members.is_empty(),
        Unavailable::TooManyRequests => running >= entry.config.limits.requests as usize,
        Unavailable::ServiceOpen => entry
            .config
            .service_breaker
            .is_some_and(|policy| !entry.shared.breaker().admits(&policy, now)),
        Unavailable::EndpointsOpen => allowed(entry, now).is_empty(),
    };
    prop_assert!(expected, "{:?}", why);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_rules_hold_whatever_happens(config in any_config(), steps in proptest::collection::vec(step(), 0..150), seed in any::<u64>()) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut state = state(&config, 1..=4);
        let mut other = ClusterState::new(Arc::clone(state.entry()), "".into());
        let (mut now, mut leases) = (0, Vec::new());
        for step in steps {
            std::mem::swap(&mut state, &mut other);
            match step {
                Step::Wait(ms) => now += ms,
                Step::Acquire => {
                    let allowed = allowed(state.entry(), at(now));
                    match state.acquire(at(now), &mut rng, &Pick { hash: Some(seed ^ now), avoid: &[] }) {
                        Ok(lease) => {
                            prop_assert!(allowed.contains(&port(&lease)), "{} is not in {:?}", port(&lease), allowed);
                            leases.push(lease);
                            state.selection.refresh(&state.entry.config, &state.entry.shared, &state.slots, "", at(now));
                            check_share(&state, at(now))?;
                        }
                        Err(why) => check_refusal(why, state.entry(), leases.len(), at(now))?,
                    }
                }
                Step::Finish(..) if leases.is_empty() => {}
                Step::Finish(which, verdict) => {
                    let lease = leases.swap_remove(which % leases.len());
                    match verdict {
                        Some(verdict) => state.release(lease, at(now), verdict),
                        None => drop(lease),
                    }
                }
                Step::Endpoints(endpoints) => {
                    let endpoints = endpoints.into_iter().map(|(port, ready, weight)| Endpoint { weight, ready, ..endpoint(port) });
                    let next = entry(&config, endpoints.collect(), Some(state.entry()));
                    state.update(Arc::clone(&next));
                    other.update(next);
                }
            }
            check_counts(&state, &leases)?;
        }
        drop(leases);
        check_counts(&state, &[])?;
    }
}
