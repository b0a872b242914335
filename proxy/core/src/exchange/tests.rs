use super::*;
use crate::cluster::ClusterEntry;
use crate::resource::{Backoff, Balancer, Cluster, Endpoints, Limits, Protocol, RetryBudget};

fn policy(attempts: u32) -> Retry {
    Retry {
        attempts,
        statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
        grpc_codes: vec![14],
        backoff: Backoff {
            base: Duration::from_millis(10),
            max: Duration::from_millis(40),
        },
    }
}

fn cluster(endpoints: u8, default_retry: Retry, retry_budget: RetryBudget) -> ClusterState {
    let config = Cluster {
        name: "user.shop.svc.cluster.local:80".into(),
        protocol: Protocol::Http1,
        balancer: Balancer::RoundRobin,
        prefer_zone: false,
        slow_start: Duration::ZERO,
        connect_timeout: Duration::from_secs(1),
        limits: Limits::default(),
        outlier: None,
        endpoint_breaker: None,
        service_breaker: None,
        default_retry,
        retry_budget,
    };
    let endpoint = |index| Endpoint {
        address: SocketAddr::from(([10, 0, 0, index], 80)),
        weight: 1,
        ready: true,
        zone: "".into(),
        identity: None,
        workload: "".into(),
    };
    let endpoints = Endpoints {
        cluster: config.name.clone(),
        endpoints: (0..endpoints).map(endpoint).collect(),
    };
    let entry = ClusterEntry::new(Arc::new(config), Arc::new(endpoints), None);
    ClusterState::new(Arc::new(entry), "".into())
}

/// A shell for one exchange.
struct Run<'a> {
    exchange: Exchange<'a>,
    cluster: ClusterState,
    rng: fastrand::Rng,
    now: Now,
}

impl<'a> Run<'a> {
    fn new(terms: Terms<'a>, cluster: ClusterState) -> Self {
        let now = Now::from_nanos(1_000_000_000);
        Self {
            exchange: Exchange::new(now, terms),
            cluster,
            rng: fastrand::Rng::with_seed(5),
            now,
        }
    }

    fn step(&mut self, event: Event) -> Action {
        self.exchange
            .step(event, self.now, &mut self.rng, &mut self.cluster)
    }

    fn running(&self) -> (u32, u32) {
        (
            self.cluster.shared().requests.value(),
            self.cluster.shared().retries.value(),
        )
    }

    /// Steps, and goes through the waits.
    fn onward(&mut self, event: Event) -> Action {
        match self.step(event) {
            Action::Wait { until } => {
                self.now = until;
                self.onward(Event::Timer)
            }
            action => action,
        }
    }
}

const AMPLE: RetryBudget = RetryBudget {
    percent: 20,
    floor: 10,
};
const GET: Method = Method::GET;
const POST: Method = Method::POST;

fn head(status: u16) -> Event {
    Event::ResponseHead(Head::new(StatusCode::from_u16(status).expect("status")))
}

fn run(method: &Method, endpoints: u8) -> Run<'_> {
    Run::new(Terms::new(method), cluster(endpoints, policy(2), AMPLE))
}

fn address(action: &Action) -> SocketAddr {
    match action {
        Action::Attempt { endpoint, .. } => endpoint.address,
        other => panic!("{other:?}"),
    }
}

fn outcome(action: &Action) -> Outcome {
    match action {
        Action::Done(outcome) => *outcome,
        other => panic!("{other:?}"),
    }
}

fn reason(action: &Action) -> Reason {
    match action {
        Action::Respond(reason) => *reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_making_of_a_connection_is_no_latency_of_the_endpoint() {
    let mut run = run(&GET, 1);
    run.step(Event::Start);
    run.now = run.now + Duration::from_millis(900);
    run.exchange.sent(run.now);
    run.now = run.now + Duration::from_millis(3);
    run.step(head(200));
    run.step(Event::ResponseEnd(None));
    let latency = run.cluster.report(run.now).endpoints[0].latency;
    assert_eq!(latency, Some(Duration::from_millis(3)));
}

#[test]
fn an_ordinary_request() {
    let mut run = run(&GET, 2);
    assert!(matches!(
        run.step(Event::Start),
        Action::Attempt {
            number: 1,
            deadline: None,
            ..
        }
    ));
    assert_eq!(run.running(), (1, 0));
    assert!(matches!(run.step(head(200)), Action::Forward { deadline: None }));
    let outcome = outcome(&run.step(Event::ResponseEnd(None)));
    assert!(!outcome.is_failure());
    assert_eq!(
        (outcome.reason, outcome.attempts, outcome.status),
        (None, 1, Some(StatusCode::OK))
    );
    assert_eq!(run.running(), (0, 0));
}

#[test]
fn a_lost_get_is_sent_elsewhere_and_a_lost_post_is_answered_502_once() {
    let mut get = run(&GET, 2);
    let first = address(&get.step(Event::Start));
    let second = get.onward(Event::AttemptFailed(Failure::Reset));
    assert_ne!(address(&second), first);
    assert!(matches!(second, Action::Attempt { number: 2, .. }));
    assert_eq!(get.running(), (1, 1));

    let mut post = run(&POST, 2);
    post.step(Event::Start);
    assert_eq!(
        reason(&post.step(Event::AttemptFailed(Failure::Reset))).status(),
        StatusCode::BAD_GATEWAY
    );
    let outcome = outcome(&post.step(Event::ResponseEnd(None)));
    assert_eq!(
        (outcome.attempts, outcome.retry_denied),
        (1, Some(RetryDenied::NotIdempotent))
    );
    assert!(outcome.is_failure());
    assert_eq!(post.running(), (0, 0));
}

#[test]
fn an_unprocessed_post_goes_elsewhere_at_once() {
    let mut run = run(&POST, 3);
    let mut seen = vec![address(&run.step(Event::Start))];
    seen.push(address(&run.step(Event::AttemptFailed(Failure::Refused))));
    seen.push(address(&run.onward(Event::AttemptFailed(Failure::ConnectFailed))));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 3, "tried addresses are avoided");
}

#[test]
fn a_body_that_overflowed_is_not_sent_again() {
    let mut run = run(&GET, 2);
    run.step(Event::Start);
    run.exchange.body_overflowed();
    assert_eq!(
        reason(&run.step(Event::AttemptFailed(Failure::Refused))),
        Reason::UpstreamRefused
    );
    assert_eq!(
        outcome(&run.step(Event::ResponseEnd(None))).retry_denied,
        Some(RetryDenied::Body)
    );
}

#[test]
fn a_declared_status_is_retried_and_the_last_one_forwarded() {
    let mut run = run(&POST, 2);
    run.step(Event::Start);
    for _ in 0..2 {
        assert!(matches!(run.onward(head(503)), Action::Attempt { .. }));
    }
    assert!(matches!(run.step(head(503)), Action::Forward { .. }));
    let outcome = outcome(&run.step(Event::ResponseEnd(None)));
    assert_eq!(
        (outcome.attempts, outcome.retry_denied),
        (3, Some(RetryDenied::Attempts))
    );
}

#[test]
fn the_routes_policy_stands_before_the_clusters() {
    let none = policy(0);
    let terms = Terms {
        retry: Some(&none),
        ..Terms::new(&GET)
    };
    let mut run = Run::new(terms, cluster(2, policy(2), AMPLE));
    run.step(Event::Start);
    assert_eq!(
        reason(&run.step(Event::AttemptFailed(Failure::Reset))),
        Reason::UpstreamReset
    );
}

#[test]
fn an_empty_budget_denies_what_reached_an_application_and_nothing_else() {
    let nothing = RetryBudget { percent: 0, floor: 0 };
    let start = || {
        let mut run = Run::new(Terms::new(&GET), cluster(2, policy(2), nothing));
        run.step(Event::Start);
        run
    };
    let mut lost = start();
    assert_eq!(
        reason(&lost.step(Event::AttemptFailed(Failure::Reset))),
        Reason::UpstreamReset
    );
    assert_eq!(
        outcome(&lost.step(Event::ResponseEnd(None))).retry_denied,
        Some(RetryDenied::Budget)
    );
    assert!(matches!(
        start().step(Event::AttemptFailed(Failure::ConnectFailed)),
        Action::Attempt { .. }
    ));
}

#[test]
fn without_an_endpoint_the_answer_says_why() {
    let mut run = run(&GET, 0);
    assert_eq!(reason(&run.step(Event::Start)), Reason::NoEndpoint);
    assert_eq!(outcome(&run.step(Event::ResponseEnd(None))).attempts, 0);
}

#[test]
fn deadlines_are_recomputed_and_the_overall_one_bounds_all() {
    let terms = Terms {
        timeout: Some(Duration::from_millis(100)),
        attempt_timeout: Some(Duration::from_millis(60)),
        ..Terms::new(&GET)
    };
    let mut run = Run::new(terms, cluster(2, policy(3), AMPLE));
    let start = run.now;
    let at = |ms| start + Duration::from_millis(ms);
    assert!(matches!(run.step(Event::Start), Action::Attempt { deadline: Some(d), .. } if d == at(60)));
    run.now = at(60);
    let Action::Wait { until } = run.step(Event::Timer) else {
        panic!("a wait")
    };
    run.now = until;
    assert!(matches!(run.step(Event::Timer), Action::Attempt { deadline: Some(d), .. } if d == at(100)));
    run.now = at(100);
    assert_eq!(reason(&run.step(Event::Timer)), Reason::RequestTimeout);
}

#[test]
fn no_wait_reaches_beyond_the_deadline() {
    let patient = Head {
        retry_after: Some(Duration::from_secs(1)),
        ..Head::new(StatusCode::SERVICE_UNAVAILABLE)
    };
    for (timeout, waits) in [(1000, false), (1001, true)] {
        let terms = Terms {
            timeout: Some(Duration::from_millis(timeout)),
            ..Terms::new(&GET)
        };
        let mut run = Run::new(terms, cluster(2, policy(3), AMPLE));
        run.step(Event::Start);
        let action = run.step(Event::ResponseHead(patient));
        assert_eq!(matches!(action, Action::Wait { .. }), waits);
        if !waits {
            assert_eq!(
                outcome(&run.step(Event::ResponseEnd(None))).retry_denied,
                Some(RetryDenied::Deadline)
            );
        }
    }
}

#[test]
fn a_callers_grpc_timeout_is_passed_on_shortened() {
    let terms = Terms {
        grpc: true,
        grpc_timeout: Some(Duration::from_millis(80)),
        ..Terms::new(&POST)
    };
    let mut run = Run::new(terms, cluster(1, policy(1), AMPLE));
    run.step(Event::Start);
    assert_eq!(
        run.exchange.grpc_timeout(run.now),
        Some(HeaderValue::from_static("80000000n"))
    );
    run.now = run.now + Duration::from_millis(30);
    assert_eq!(
        run.exchange.grpc_timeout(run.now),
        Some(HeaderValue::from_static("50000000n"))
    );
    assert_eq!(reason(&run.step(Event::Timer)), Reason::RequestTimeout);
    let outcome = outcome(&run.step(Event::ResponseEnd(None)));
    assert_eq!((outcome.status, outcome.grpc), (Some(StatusCode::OK), Some(4)));
    assert!(outcome.is_failure());
}

#[test]
fn a_grpc_timeout_of_zero_has_passed_already() {
    let terms = Terms {
        grpc: true,
        grpc_timeout: Some(Duration::ZERO),
        ..Terms::new(&POST)
    };
    let mut run = Run::new(terms, cluster(1, policy(1), AMPLE));
    assert_eq!(reason(&run.step(Event::Start)), Reason::RequestTimeout);
}

#[test]
fn grpc_fails_by_its_trailers_and_trailers_only_answers_are_retried() {
    let terms = Terms {
        grpc: true,
        ..Terms::new(&POST)
    };
    let mut run = Run::new(terms, cluster(2, policy(1), AMPLE));
    run.step(Event::Start);
    let trailers_only = Event::ResponseHead(Head {
        grpc: Some(14),
        ..Head::new(StatusCode::OK)
    });
    assert!(matches!(
        run.onward(trailers_only),
        Action::Attempt { number: 2, .. }
    ));
    assert!(matches!(run.step(head(200)), Action::Forward { .. }));
    let outcome = outcome(&run.step(Event::ResponseEnd(Some(13))));
    assert!(outcome.is_failure());
    assert_eq!(outcome.grpc, Some(13));
}

#[test]
fn an_upgrade_outlives_the_requests_limits() {
    let terms = Terms {
        timeout: Some(Duration::from_secs(1)),
        ..Terms::new(&GET)
    };
    let mut run = Run::new(terms, cluster(1, policy(1), AMPLE));
    run.step(Event::Start);
    assert!(matches!(run.step(head(101)), Action::Forward { deadline: None }));
}

#[test]
fn nothing_follows_a_forwarded_head_but_its_end() {
    for (event, reason) in [
        (Event::ResponseReset, Some(Reason::UpstreamReset)),
        (Event::Timer, Some(Reason::RequestTimeout)),
        (Event::DownstreamGone, None),
    ] {
        let terms = Terms {
            timeout: Some(Duration::from_secs(1)),
            ..Terms::new(&GET)
        };
        let mut run = Run::new(terms, cluster(2, policy(3), AMPLE));
        run.step(Event::Start);
        run.step(head(200));
        let outcome = outcome(&run.step(event));
        assert_eq!((outcome.reason, outcome.status), (reason, Some(StatusCode::OK)));
        assert_eq!(outcome.is_failure(), reason.is_some());
        assert_eq!(run.running(), (0, 0));
    }
}

#[test]
fn a_decided_exchange_outlives_its_request() {
    let mut run = run(&GET, 2);
    run.step(Event::Start);
    run.step(head(200));
    let mut response = run.exchange.into_response();
    let end = response.step(Event::ResponseEnd(None), run.now, &mut run.rng, &mut run.cluster);
    assert_eq!(outcome(&end).status, Some(StatusCode::OK));
    assert_eq!(run.cluster.shared().requests.value(), 0);
}

#[test]
fn attempts_are_counted_on_from_the_hop_before() {
    let terms = Terms {
        peer_attempt: 3,
        ..Terms::new(&GET)
    };
    let mut run = Run::new(terms, cluster(2, policy(3), AMPLE));
    assert!(matches!(
        run.step(Event::Start),
        Action::Attempt { number: 3, .. }
    ));
    assert!(matches!(
        run.step(Event::AttemptFailed(Failure::Refused)),
        Action::Attempt { number: 4, .. }
    ));
    assert_eq!(
        reason(&run.step(Event::AttemptFailed(Failure::Reset))),
        Reason::UpstreamReset
    );
}

#[test]
fn a_dropped_exchange_leaks_nothing() {
    let mut dropped = run(&GET, 2);
    dropped.step(Event::Start);
    dropped.step(Event::AttemptFailed(Failure::ConnectFailed));
    let shared = Arc::clone(dropped.cluster.shared());
    assert_eq!((shared.requests.value(), shared.retries.value()), (1, 1));
    drop(dropped);
    assert_eq!((shared.requests.value(), shared.retries.value()), (0, 0));
}

mod properties;
