//! What every request passes through.

use std::hint::black_box;
use std::time::Duration;

use criterion::Criterion;
use http::{Method, StatusCode, Uri, Version};
use weft_benches::proxy::{cluster_state, headers, routes};
use weft_proxy_core::exchange::{Action, Event, Exchange, Terms};
use weft_proxy_core::hygiene::check_request;
use weft_proxy_core::pool::{Pool, Settings, Take};
use weft_proxy_core::resource::Balancer;
use weft_proxy_core::retry::Head;
use weft_proxy_core::route::{RequestHead, Table};
use weft_proxy_core::time::Now;

/// Rules of the table; the request matches the last one only, so that all are tried.
const RULES: usize = 20;

pub(crate) fn route_find(criterion: &mut Criterion) {
    let table = Table::compile(&routes(RULES)).expect("a valid table");
    let headers = headers();
    let head = RequestHead {
        method: &Method::GET,
        path: "/users/42/profile",
        query: Some("page=2"),
        headers: &headers,
    };
    let mut rng = fastrand::Rng::with_seed(1);
    criterion.bench_function("route/find last of 20 rules and pick", |bencher| {
        bencher.iter(|| {
            let rule = table
                .find(black_box(&head))
                .expect("the last rule matches everything");
            black_box(rule.pick(&mut rng));
        });
    });
}

pub(crate) fn head_check(criterion: &mut Criterion) {
    let headers = headers();
    let uri = Uri::from_static("/users/42/profile?page=2");
    criterion.bench_function("hygiene/check head of 12 fields", |bencher| {
        bencher.iter(|| {
            check_request(
                Version::HTTP_11,
                &Method::GET,
                black_box(&uri),
                black_box(&headers),
            )
        });
    });
}

/// One request without trouble: start, response head, end.
pub(crate) fn exchange(criterion: &mut Criterion) {
    let mut cluster = cluster_state(Balancer::PeakEwma, 10);
    let mut rng = fastrand::Rng::with_seed(1);
    let mut now = Now::default() + Duration::from_secs(1);
    criterion.bench_function("exchange/one attempt", |bencher| {
        bencher.iter(|| {
            let terms = Terms {
                timeout: Some(Duration::from_secs(15)),
                ..Terms::new(&Method::GET)
            };
            let mut exchange = Exchange::new(now, terms);
            for event in [
                Event::Start,
                Event::ResponseHead(Head::new(StatusCode::OK)),
                Event::ResponseEnd(None),
            ] {
                now = now + Duration::from_micros(100);
                let action = exchange.step(event, now, &mut rng, &mut cluster);
                assert!(!matches!(action, Action::Respond(_) | Action::Wait { .. }));
                black_box(action);
            }
        });
    });
}

/// A request finds its place on the shared connection, and leaves it.
pub(crate) fn pool(criterion: &mut Criterion) {
    let now = Now::default() + Duration::from_secs(1);
    let mut pool = Pool::new(Settings::HTTP2);
    let Take::Open(id) = pool.take(now, 0) else {
        panic!("an empty pool opens a connection")
    };
    assert!(pool.opened(id, now, Some(now + Duration::from_hours(24)), 256));
    criterion.bench_function("pool/take and release", |bencher| {
        bencher.iter(|| {
            let Take::Use(id) = pool.take(black_box(now), 0) else {
                panic!("there is room")
            };
            black_box(pool.release(id, now));
        });
    });
}
