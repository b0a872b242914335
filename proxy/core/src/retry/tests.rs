use http::HeaderValue;
use proptest::prelude::*;

use super::*;

fn policy(attempts: u32) -> Retry {
    Retry {
        attempts,
        statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
        grpc_codes: vec![8],
        backoff: Backoff {
            base: Duration::from_millis(10),
            max: Duration::from_millis(50),
        },
    }
}

fn request(policy: &Retry) -> Request<'_> {
    Request {
        policy,
        idempotent: false,
        grpc: false,
        replayable: true,
        attempts: 1,
        peer_attempt: 1,
    }
}

fn retries(request: &Request<'_>, ended: Attempted) -> bool {
    matches!(decide(request, ended), Decision::Retry { .. })
}

const LOST: Attempted = Attempted::Failed(Failure::Reset);
const REFUSED: Attempted = Attempted::Failed(Failure::Refused);

#[test]
fn a_lost_connection_is_retried_for_idempotent_methods_only() {
    let policy = policy(2);
    let post = request(&policy);
    assert_eq!(
        decide(&post, LOST),
        Decision::Stop(Some(RetryDenied::NotIdempotent))
    );
    assert!(retries(
        &Request {
            idempotent: true,
            ..post
        },
        LOST
    ));
    assert!(retries(&post, REFUSED));
}

#[test]
fn a_lost_grpc_call_is_retried_where_the_route_declares_unavailable() {
    let mut policy = policy(2);
    assert!(!retries(
        &Request {
            grpc: true,
            ..request(&policy)
        },
        LOST
    ));
    policy.grpc_codes.push(14);
    assert!(retries(
        &Request {
            grpc: true,
            ..request(&policy)
        },
        LOST
    ));
    assert!(!retries(&request(&policy), LOST));
}

#[test]
fn declared_answers_are_retried_for_every_method() {
    let policy = policy(2);
    let answered = |status, grpc| {
        Attempted::Answered(Head {
            grpc,
            ..Head::new(status)
        })
    };
    assert!(retries(
        &request(&policy),
        answered(StatusCode::SERVICE_UNAVAILABLE, None)
    ));
    assert_eq!(
        decide(&request(&policy), answered(StatusCode::BAD_GATEWAY, None)),
        Decision::Stop(None)
    );
    let call = Request {
        grpc: true,
        ..request(&policy)
    };
    assert!(retries(&call, answered(StatusCode::OK, Some(8))));
    assert!(!retries(&call, answered(StatusCode::OK, Some(14))));
    assert!(
        !retries(&request(&policy), answered(StatusCode::OK, Some(8))),
        "not a gRPC call"
    );
}

#[test]
fn a_peers_word_that_nobody_saw_the_request_counts_for_every_method_within_the_budget() {
    let policy = policy(1);
    let head = Head {
        unprocessed: true,
        ..Head::new(StatusCode::BAD_GATEWAY)
    };
    let decision = decide(&request(&policy), Attempted::Answered(head));
    assert!(matches!(
        decision,
        Decision::Retry {
            budgeted: true,
            ceiling: Duration::ZERO,
            ..
        }
    ));
}

#[test]
fn zero_attempts_turn_everything_off() {
    let policy = policy(0);
    let get = Request {
        idempotent: true,
        ..request(&policy)
    };
    for ended in [
        LOST,
        REFUSED,
        Attempted::Answered(Head::new(StatusCode::SERVICE_UNAVAILABLE)),
    ] {
        assert_eq!(decide(&get, ended), Decision::Stop(Some(RetryDenied::Disabled)));
    }
}

#[test]
fn a_retry_of_the_hop_before_is_repeated_only_when_unprocessed() {
    let policy = policy(3);
    let retried = Request {
        idempotent: true,
        peer_attempt: 2,
        ..request(&policy)
    };
    assert_eq!(
        decide(&retried, LOST),
        Decision::Stop(Some(RetryDenied::Attempts))
    );
    assert!(retries(&retried, REFUSED));
}

#[test]
fn a_long_retry_after_is_passed_on_and_a_short_one_waited_for() {
    let policy = policy(3);
    let head = |seconds| {
        let head = Head::new(StatusCode::SERVICE_UNAVAILABLE);
        Attempted::Answered(Head {
            retry_after: Some(Duration::from_secs(seconds)),
            ..head
        })
    };
    assert!(!retries(&request(&policy), head(3)));
    let decision = decide(&request(&policy), head(1));
    assert!(matches!(decision, Decision::Retry { at_least, .. } if at_least == Duration::from_secs(1)));
    let parse = |text| {
        parse_retry_after(&HeaderMap::from_iter([(
            RETRY_AFTER,
            HeaderValue::from_static(text),
        )]))
    };
    assert_eq!(parse("120"), Some(Duration::from_mins(2)));
    assert_eq!(
        parse("99999999999999999999999"),
        Some(Duration::from_secs(u64::MAX))
    );
    assert_eq!(parse("Fri, 31 Dec 1999 23:59:59 GMT"), None);
    assert_eq!(parse(""), None);
}

#[test]
fn waits_double_up_to_the_ceiling() {
    let policy = policy(40);
    let ceiling = |attempts| match decide(
        &Request {
            idempotent: true,
            attempts,
            ..request(&policy)
        },
        LOST,
    ) {
        Decision::Retry { ceiling, .. } => ceiling.as_millis(),
        Decision::Stop(denied) => panic!("{denied:?}"),
    };
    assert_eq!([1, 2, 3, 4, 40].map(ceiling), [10, 20, 40, 50, 50]);
}

#[test]
fn idempotent_methods_are_those_of_the_rfc() {
    for (method, expected) in [
        ("GET", true),
        ("DELETE", true),
        ("POST", false),
        ("PATCH", false),
        ("CONNECT", false),
    ] {
        assert_eq!(
            is_idempotent(&Method::from_bytes(method.as_bytes()).expect("method")),
            expected
        );
    }
    assert!(!is_idempotent(&Method::from_bytes(b"PROPFIND").expect("method")));
}

fn failure() -> impl Strategy<Value = Failure> {
    use Failure as F;
    prop::sample::select(vec![
        F::ConnectFailed,
        F::ConnectTimeout,
        F::TlsRefused,
        F::Overloaded,
        F::Refused,
        F::Reset,
        F::TimedOut,
        F::Protocol,
        F::HeadTooLarge,
        F::UpgradeFailed,
    ])
}

fn ended() -> impl Strategy<Value = Attempted> {
    let head = (
        prop::sample::select(vec![200u16, 429, 500, 502, 503]),
        prop::option::of(0u32..17),
        prop::option::of(0u64..4),
        prop::bool::weighted(0.2),
    );
    prop_oneof![
        failure().prop_map(Attempted::Failed),
        head.prop_map(|(status, grpc, after, unprocessed)| Attempted::Answered(Head {
            status: StatusCode::from_u16(status).expect("status"),
            grpc,
            retry_after: after.map(Duration::from_secs),
            unprocessed,
        })),
    ]
}

/// The rules once more, as sentences.
fn oracle(request: &Request<'_>, ended: Attempted) -> bool {
    use Failure as F;
    let nobody_saw_it = matches!(
        ended,
        Attempted::Failed(F::ConnectFailed | F::ConnectTimeout | F::TlsRefused | F::Refused)
            | Attempted::Answered(Head {
                unprocessed: true,
                ..
            })
    );
    let lost = matches!(ended, Attempted::Failed(F::Reset | F::TimedOut | F::Protocol));
    let harmless = request.idempotent || (request.grpc && request.policy.grpc_codes.contains(&14));
    let declared = match ended {
        Attempted::Answered(Head { grpc: Some(code), .. }) if request.grpc => {
            request.policy.grpc_codes.contains(&code)
        }
        Attempted::Answered(head) => request.policy.statuses.contains(&head.status),
        Attempted::Failed(_) => false,
    };
    let patient = matches!(ended, Attempted::Answered(Head { retry_after: Some(after), .. }) if after > MAX_RETRY_AFTER);
    let made = request.attempts - 1;
    let left = made < request.policy.attempts || (nobody_saw_it && made < UNPROCESSED_RETRIES);
    let chained = request.peer_attempt > 1;
    request.policy.attempts > 0
        && request.replayable
        && left
        && !patient
        && (nobody_saw_it || (!chained && (declared || (lost && harmless))))
}

proptest! {
    #[test]
    fn decides_as_the_rules_say(
        ended in ended(), attempts in 1u32..8, most in 0u32..7, idempotent: bool, grpc: bool, replayable: bool,
        peer_attempt in 1u32..3, unavailable: bool,
    ) {
        let mut policy = policy(most);
        if unavailable {
            policy.grpc_codes.push(14);
        }
        let request = Request { policy: &policy, idempotent, grpc, replayable, attempts, peer_attempt };
        prop_assert_eq!(retries(&request, ended), oracle(&request, ended));
        if let Decision::Retry { ceiling, at_least, .. } = decide(&request, ended) {
            prop_assert!(ceiling <= policy.backoff.max && at_least <= MAX_RETRY_AFTER);
        }
    }
}
