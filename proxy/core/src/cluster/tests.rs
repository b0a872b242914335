//! A worker's view of a cluster against the rules stated one by one.

use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::breaker::Phase;
use crate::resource::{Backoff, Breaker, HashKey, Limits, Outlier, Protocol, Retry, RetryBudget};

mod probes;
mod rules;

fn at(ms: u64) -> Now {
    Now::default() + Duration::from_millis(ms)
}

fn config() -> Cluster {
    Cluster {
        name: "product.shop.svc.cluster.local:80".into(),
        protocol: Protocol::Http1,
        balancer: Balancer::PeakEwma,
        prefer_zone: false,
        slow_start: Duration::ZERO,
        connect_timeout: Duration::from_secs(1),
        limits: Limits::default(),
        outlier: None,
        endpoint_breaker: None,
        service_breaker: None,
        default_retry: Retry {
            attempts: 0,
            statuses: vec![],
            grpc_codes: vec![],
            backoff: Backoff::default(),
        },
        retry_budget: RetryBudget {
            percent: 20,
            floor: 10,
        },
    }
}

const OUTLIER: Outlier = Outlier {
    consecutive_failures: 2,
    base_ejection: Duration::from_secs(10),
    max_ejection: Duration::from_mins(1),
    max_ejection_percent: 50,
};

const BREAKER: Breaker = Breaker {
    consecutive_failures: 3,
    open_for: Duration::from_secs(5),
    half_open_probes: 1,
};

fn endpoint(port: u16) -> Endpoint {
    Endpoint {
        address: ([10, 0, 0, 1], port).into(),
        weight: 1,
        ready: true,
        zone: "".into(),
        identity: None,
        workload: "".into(),
    }
}

fn entry(config: &Cluster, endpoints: Vec<Endpoint>, previous: Option<&ClusterEntry>) -> Arc<ClusterEntry> {
    let endpoints = Endpoints {
        cluster: config.name.clone(),
        endpoints,
    };
    Arc::new(ClusterEntry::new(
        Arc::new(config.clone()),
        Arc::new(endpoints),
        previous,
    ))
}

fn state(config: &Cluster, ports: std::ops::RangeInclusive<u16>) -> ClusterState {
    ClusterState::new(entry(config, ports.map(endpoint).collect(), None), "".into())
}

fn rng() -> fastrand::Rng {
    fastrand::Rng::with_seed(42)
}

fn port(lease: &Lease) -> u16 {
    lease.endpoint().address.port()
}

fn get(state: &mut ClusterState, now: Now, rng: &mut fastrand::Rng) -> Lease {
    state.acquire(now, rng, &Pick::default()).expect("available")
}

/// Lets every request to `bad` fail until `times` have.
fn fail(state: &mut ClusterState, now: Now, rng: &mut fastrand::Rng, bad: u16, times: usize) {
    let mut failed = 0;
    for _ in 0..10_000 {
        if failed == times {
            return;
        }
        let lease = get(state, now, rng);
        let verdict = if port(&lease) == bad {
            Verdict::Failure
        } else {
            Verdict::Cancelled
        };
        failed += usize::from(verdict == Verdict::Failure);
        state.release(lease, now, verdict);
    }
    panic!("endpoint {bad} is never chosen");
}

fn ports_used(state: &mut ClusterState, now: Now, rng: &mut fastrand::Rng) -> BTreeSet<u16> {
    (0..200)
        .map(|_| {
            let lease = get(state, now, rng);
            port(&lease)
        })
        .collect()
}

#[test]
fn an_ejected_endpoint_rests_for_every_worker_and_returns() {
    let config = Cluster {
        outlier: Some(OUTLIER),
        balancer: Balancer::Random,
        ..config()
    };
    let (mut one, mut rng) = (state(&config, 1..=3), rng());
    let mut other = ClusterState::new(Arc::clone(one.entry()), "".into());
    assert_eq!(ports_used(&mut other, at(0), &mut rng).len(), 3);
    fail(&mut one, at(0), &mut rng, 2, 2);
    for worker in [&mut one, &mut other] {
        assert_eq!(ports_used(worker, at(9_999), &mut rng), [1, 3].into());
        assert_eq!(worker.shared().ejections(), 1);
        assert_eq!(
            worker.report(at(9_000)).endpoints[1].ejected_for,
            Some(Duration::from_secs(1))
        );
        assert_eq!(ports_used(worker, at(10_000), &mut rng), [1, 2, 3].into());
    }
}

#[test]
fn ejections_beyond_the_share_are_forgiven_when_endpoints_go() {
    let config = Cluster {
        outlier: Some(OUTLIER),
        balancer: Balancer::Random,
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=4), rng());
    fail(&mut state, at(0), &mut rng, 2, 2);
    fail(&mut state, at(1), &mut rng, 1, 2);
    assert_eq!(ports_used(&mut state, at(2), &mut rng), [3, 4].into());
    let fewer = entry(&config, (1..=3).map(endpoint).collect(), Some(state.entry()));
    state.update(fewer);
    assert_eq!(
        ports_used(&mut state, at(2), &mut rng),
        [2, 3].into(),
        "2 would have returned first"
    );
}

#[test]
fn nothing_is_ejected_beyond_the_share() {
    let config = Cluster {
        outlier: Some(OUTLIER),
        balancer: Balancer::Random,
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=3), rng());
    fail(&mut state, at(0), &mut rng, 1, 2);
    fail(&mut state, at(0), &mut rng, 2, 4);
    let report = state.report(at(1));
    let ejected = report
        .endpoints
        .iter()
        .filter(|endpoint| endpoint.ejected_for.is_some());
    assert_eq!((ejected.count(), report.ejections), (1, 1), "half of three");
}

#[test]
fn when_all_are_ejected_all_are_used() {
    let outlier = Outlier {
        max_ejection_percent: 100,
        ..OUTLIER
    };
    let config = Cluster {
        outlier: Some(outlier),
        balancer: Balancer::Random,
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=2), rng());
    fail(&mut state, at(0), &mut rng, 1, 2);
    assert_eq!(ports_used(&mut state, at(0), &mut rng), [2].into());
    fail(&mut state, at(0), &mut rng, 2, 2);
    assert_eq!(ports_used(&mut state, at(0), &mut rng), [1, 2].into());
    assert!(state.report(at(0)).panic);
}

#[test]
fn open_breakers_are_obeyed_even_when_nothing_is_left() {
    let config = Cluster {
        endpoint_breaker: Some(BREAKER),
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=1), rng());
    fail(&mut state, at(0), &mut rng, 1, 3);
    let refused = state
        .acquire(at(4_999), &mut rng, &Pick::default())
        .expect_err("open");
    assert_eq!(refused, Unavailable::EndpointsOpen);
    assert_eq!(state.report(at(0)).endpoints[0].breaker, Some(Phase::Open));
    let probe = get(&mut state, at(5_000), &mut rng);
    assert_eq!(state.report(at(0)).endpoints[0].breaker, Some(Phase::HalfOpen));
    assert!(
        state.acquire(at(5_000), &mut rng, &Pick::default()).is_err(),
        "one probe at a time"
    );
    drop(probe);
    let probe = get(&mut state, at(5_000), &mut rng);
    state.release(probe, at(5_001), Verdict::Success);
    assert_eq!(state.report(at(0)).endpoints[0].breaker, Some(Phase::Closed));
    assert_eq!(state.shared().requests.value(), 0);
}

#[test]
fn the_services_breaker_stops_all_endpoints() {
    let config = Cluster {
        service_breaker: Some(BREAKER),
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=3), rng());
    for _ in 0..3 {
        let lease = get(&mut state, at(0), &mut rng);
        state.release(lease, at(0), Verdict::Failure);
    }
    let refused = state
        .acquire(at(1), &mut rng, &Pick::default())
        .expect_err("open");
    assert_eq!(
        (refused, state.report(at(1)).breaker),
        (Unavailable::ServiceOpen, Some(Phase::Open))
    );
    assert_eq!(state.shared().requests.value(), 0);
}

#[test]
fn a_dropped_lease_gives_back_the_services_probe() {
    let config = Cluster {
        service_breaker: Some(BREAKER),
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=1), rng());
    fail(&mut state, at(0), &mut rng, 1, 3);
    drop(get(&mut state, at(5_000), &mut rng));
    assert!(state.acquire(at(5_000), &mut rng, &Pick::default()).is_ok());
}

#[test]
fn a_probe_is_not_lost_when_no_endpoint_takes_it() {
    let config = Cluster {
        service_breaker: Some(BREAKER),
        endpoint_breaker: Some(BREAKER),
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=1), rng());
    fail(&mut state, at(0), &mut rng, 1, 3);
    let longer = Breaker {
        open_for: Duration::from_mins(1),
        ..BREAKER
    };
    let slow = Cluster {
        endpoint_breaker: Some(longer),
        ..config.clone()
    };
    state.update(entry(&slow, vec![endpoint(1)], Some(state.entry())));
    // The service's probe passes at 5 s; the endpoint's own breaker takes it, fails, and stays open for a minute.
    let probe = get(&mut state, at(5_000), &mut rng);
    state.release(probe, at(5_000), Verdict::Failure);
    for now in [10_000, 15_000] {
        let refused = state
            .acquire(at(now), &mut rng, &Pick::default())
            .expect_err("open");
        assert_eq!(refused, Unavailable::EndpointsOpen);
    }
}

#[test]
fn running_requests_are_limited_for_all_workers_together() {
    let config = Cluster {
        limits: Limits {
            requests: 2,
            ..Limits::default()
        },
        ..config()
    };
    let (mut one, mut rng) = (state(&config, 1..=2), rng());
    let mut other = ClusterState::new(Arc::clone(one.entry()), "".into());
    let first = get(&mut one, at(0), &mut rng);
    let _second = get(&mut other, at(0), &mut rng);
    let refused = one.acquire(at(0), &mut rng, &Pick::default()).expect_err("full");
    assert_eq!(refused, Unavailable::TooManyRequests);
    one.release(first, at(0), Verdict::Success);
    assert!(other.acquire(at(0), &mut rng, &Pick::default()).is_ok());
}

#[test]
fn draining_endpoints_serve_only_when_no_ready_one_is_left() {
    let draining = |port| Endpoint {
        ready: false,
        ..endpoint(port)
    };
    let config = Cluster {
        balancer: Balancer::Random,
        ..config()
    };
    let mut state = ClusterState::new(
        entry(&config, vec![endpoint(1), draining(2), draining(3)], None),
        "".into(),
    );
    let mut rng = rng();
    assert_eq!(ports_used(&mut state, at(0), &mut rng), [1].into());
    state.update(entry(
        &config,
        vec![draining(1), draining(2)],
        Some(state.entry()),
    ));
    assert_eq!(ports_used(&mut state, at(0), &mut rng), [1, 2].into());
    state.update(entry(&config, vec![], Some(state.entry())));
    let refused = state
        .acquire(at(0), &mut rng, &Pick::default())
        .expect_err("none");
    assert_eq!(refused, Unavailable::NoEndpoints);
}

#[test]
fn what_was_tried_is_avoided_as_long_as_there_is_another() {
    let mut rng = rng();
    for balancer in [
        Balancer::PeakEwma,
        Balancer::RoundRobin,
        Balancer::RingHash(HashKey::SourceAddress),
    ] {
        let mut state = state(&Cluster { balancer, ..config() }, 1..=3);
        let [one, two, three] = [1, 2, 3].map(|port| endpoint(port).address);
        for seed in 0..50 {
            let pick = Pick {
                hash: Some(seed),
                avoid: &[one, three],
            };
            assert_eq!(
                port(&state.acquire(at(0), &mut rng, &pick).expect("available")),
                2
            );
            assert!(
                state
                    .acquire(
                        at(0),
                        &mut rng,
                        &Pick {
                            avoid: &[one, two, three],
                            ..pick
                        }
                    )
                    .is_ok()
            );
        }
    }
}

#[test]
fn a_key_stays_with_its_endpoint_on_every_worker_and_comes_back() {
    let config = Cluster {
        balancer: Balancer::RingHash(HashKey::SourceAddress),
        outlier: Some(OUTLIER),
        prefer_zone: true,
        ..config()
    };
    let zoned = |port: u16| Endpoint {
        zone: if port.is_multiple_of(2) {
            "a".into()
        } else {
            "b".into()
        },
        ..endpoint(port)
    };
    let entry = entry(&config, (1..=4).map(zoned).collect(), None);
    let mut workers = ["a", "b"].map(|zone| ClusterState::new(Arc::clone(&entry), zone.into()));
    let mut rng = rng();
    let mut owner = |workers: &mut [ClusterState; 2], now, key: u64| {
        let pick = Pick {
            hash: Some(crate::ring::hash(&key.to_be_bytes())),
            avoid: &[],
        };
        let ports = workers.each_mut().map(|worker| {
            let lease = worker.acquire(now, &mut rng, &pick).expect("available");
            port(&lease)
        });
        assert_eq!(ports[0], ports[1]);
        ports[0]
    };
    let before: Vec<u16> = (0..100).map(|key| owner(&mut workers, at(0), key)).collect();
    fail(&mut workers[0], at(0), &mut fastrand::Rng::with_seed(1), 1, 2);
    for (key, &old) in (0..).zip(&before) {
        let new = owner(&mut workers, at(1), key);
        assert!(new != 1 && (old == 1 || new == old), "only the keys of 1 move");
    }
    let after: Vec<u16> = (0..100).map(|key| owner(&mut workers, at(20_000), key)).collect();
    assert_eq!(after, before);
}

#[test]
fn our_zone_is_preferred_and_spills_over_as_it_fails() {
    let config = Cluster {
        prefer_zone: true,
        outlier: Some(OUTLIER),
        balancer: Balancer::Random,
        ..config()
    };
    let zoned = |port: u16| Endpoint {
        zone: if port <= 2 { "a".into() } else { "b".into() },
        ..endpoint(port)
    };
    let entry = entry(&config, (1..=4).map(zoned).collect(), None);
    let mut near = ClusterState::new(Arc::clone(&entry), "a".into());
    let mut nowhere = ClusterState::new(entry, "".into());
    let mut rng = rng();
    assert_eq!(ports_used(&mut near, at(0), &mut rng), [1, 2].into());
    assert_eq!(ports_used(&mut nowhere, at(0), &mut rng).len(), 4);
    fail(&mut near, at(0), &mut rng, 1, 2);
    let at_home = (0..2000)
        .filter(|_| {
            let lease = get(&mut near, at(1), &mut rng);
            port(&lease) == 2
        })
        .count();
    assert!(
        (1300..1500).contains(&at_home),
        "half of our zone carries 70 %, not {at_home} of 2000"
    );
}

#[test]
fn a_new_endpoint_starts_slowly() {
    let config = Cluster {
        slow_start: Duration::from_secs(10),
        balancer: Balancer::Random,
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=1), rng());
    state.update(entry(
        &config,
        vec![endpoint(1), endpoint(2)],
        Some(state.entry()),
    ));
    let mut share = |now| {
        let hits = |_: &i32| {
            let lease = get(&mut state, now, &mut rng);
            port(&lease) == 2
        };
        (0..4000).filter(hits).count() as f64 / 4000.0
    };
    for (now, weight) in [(1_000, 0.1), (6_000, 0.5), (11_000, 1.0), (60_000, 1.0)] {
        let (got, expected) = (share(at(now)), weight / (1.0 + weight));
        assert!((got - expected).abs() < 0.05, "at {now}: {got}, not {expected}");
    }
}

#[test]
fn a_worker_that_comes_later_knows_what_is_new() {
    let config = Cluster {
        slow_start: Duration::from_secs(10),
        balancer: Balancer::Random,
        ..config()
    };
    let (mut first, mut rng) = (state(&config, 1..=1), rng());
    let entry = entry(&config, vec![endpoint(1), endpoint(2)], Some(first.entry()));
    first.update(Arc::clone(&entry));
    let mut second = ClusterState::new(entry, "".into());
    let hits = (0..1000).filter(|_| port(&get(&mut second, at(1_000), &mut rng)) == 2);
    let hits = hits.count();
    assert!(
        (40..150).contains(&hits),
        "{hits} of 1000, a tenth of the other's weight expected"
    );
}

#[test]
fn state_survives_an_update_by_address_and_identity() {
    let (mut state, mut rng) = (state(&config(), 1..=1), rng());
    let mut lease = get(&mut state, at(0), &mut rng);
    state.responded(&mut lease, at(7));
    let weightier = Endpoint {
        weight: 5,
        ..endpoint(1)
    };
    state.update(entry(
        &config(),
        vec![endpoint(2), weightier.clone()],
        Some(state.entry()),
    ));
    let report = state.report(at(7)).endpoints.remove(1);
    assert_eq!(
        (report.latency, report.requests, report.weight),
        (Some(Duration::from_millis(7)), 1, 5)
    );
    let other = Endpoint {
        identity: Some("spiffe://cluster.local/ns/shop/sa/x".into()),
        ..weightier
    };
    state.update(entry(&config(), vec![other], Some(state.entry())));
    let report = state.report(at(8)).endpoints.remove(0);
    assert_eq!(
        (report.latency, report.requests),
        (None, 0),
        "another workload at the same address"
    );
    state.release(lease, at(9), Verdict::Success);
    assert_eq!(state.shared().requests.value(), 0);
}

/// Eight clients that ask again as soon as they are answered, for `seconds`; how many requests each port served.
fn closed_loop(
    state: &mut ClusterState,
    from: u64,
    seconds: u64,
    takes_ms: impl Fn(u16) -> u64,
) -> HashMap<u16, u64> {
    let (mut served, mut running, mut rng) = (HashMap::new(), Vec::new(), rng());
    for now in from..from + seconds * 1000 {
        let (done, rest) = running.into_iter().partition(|(end, _)| *end <= now);
        running = rest;
        for (_, lease) in done {
            *served.entry(port(&lease)).or_default() += 1;
            state.release(lease, at(now), Verdict::Success);
        }
        while running.len() < 8 {
            let lease = get(state, at(now), &mut rng);
            running.push((now + takes_ms(port(&lease)), lease));
        }
    }
    served
}

#[test]
fn peak_ewma_sends_a_slow_endpoint_little_but_not_nothing() {
    let mut state = state(&config(), 1..=4);
    let served = closed_loop(&mut state, 0, 60, |port| if port == 3 { 100 } else { 5 });
    let all: u64 = served.values().sum();
    assert!(served[&3] > 0 && served[&3] * 50 < all, "{served:?}");
    let fair = (all - served[&3]) / 3;
    for port in [1, 2, 4] {
        assert!(served[&port].abs_diff(fair) < fair / 4, "{served:?}");
    }
    closed_loop(&mut state, 60_000, 40, |_| 5);
    let recovered = closed_loop(&mut state, 100_000, 10, |_| 5);
    assert!(
        recovered[&3] * 5 > recovered.values().sum(),
        "it is found out: {recovered:?}"
    );
}

#[test]
fn a_new_endpoint_takes_its_share_within_a_second() {
    let mut state = state(&config(), 1..=2);
    closed_loop(&mut state, 0, 5, |_| 5);
    let next = entry(&config(), (1..=3).map(endpoint).collect(), Some(state.entry()));
    state.update(next);
    let served = closed_loop(&mut state, 5_000, 1, |_| 5);
    assert!(served[&3] * 4 > served.values().sum(), "{served:?}");
}

#[test]
fn a_cancelled_request_teaches_nothing_but_that_it_was_slow() {
    let (mut state, mut rng) = (
        state(
            &Cluster {
                outlier: Some(OUTLIER),
                ..config()
            },
            1..=1,
        ),
        rng(),
    );
    for _ in 0..10 {
        let lease = get(&mut state, at(0), &mut rng);
        state.release(lease, at(0), Verdict::Cancelled);
    }
    let report = state.report(at(0)).endpoints.remove(0);
    assert_eq!((report.latency, report.ejected_for), (None, None));
}
