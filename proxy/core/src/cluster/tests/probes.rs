//! What ends a breaker's probe.

use super::*;

#[test]
fn a_probe_that_is_answered_is_over_for_the_breakers_however_long_it_runs() {
    let breaker = Breaker {
        half_open_probes: 2,
        ..BREAKER
    };
    let config = Cluster {
        endpoint_breaker: Some(breaker),
        service_breaker: Some(breaker),
        ..config()
    };
    let (mut state, mut rng) = (state(&config, 1..=1), rng());
    fail(&mut state, at(0), &mut rng, 1, 3);
    let mut probes = [(); 2].map(|()| get(&mut state, at(5_000), &mut rng));
    assert!(state.acquire(at(5_000), &mut rng, &Pick::default()).is_err());
    for probe in &mut probes {
        assert_eq!(state.shared().breaker().phase(), Phase::HalfOpen);
        state.responded(probe, at(5_001));
        state.responded(probe, at(5_002));
    }
    let phases = |state: &ClusterState| {
        let report = state.report(at(5_002));
        (report.breaker, report.endpoints[0].breaker)
    };
    assert_eq!(phases(&state), (Some(Phase::Closed), Some(Phase::Closed)));
    let other = get(&mut state, at(5_002), &mut rng);
    for probe in probes {
        state.release(probe, at(9_000), Verdict::Failure);
        assert_eq!(phases(&state), (Some(Phase::Closed), Some(Phase::Closed)));
    }
    fail(&mut state, at(9_000), &mut rng, 1, 2);
    assert_eq!(
        phases(&state),
        (Some(Phase::Open), Some(Phase::Open)),
        "that the last probe's response broke off was a failure like any other"
    );
    drop(other);
    assert_eq!(state.shared().requests.value(), 0);
}
