//! Taking configuration in.

use std::collections::BTreeSet;
use std::hint::black_box;

use criterion::{BatchSize, Criterion};
use weft_benches::proxy::{CLUSTER, endpoints};
use weft_proxy_core::resource::{Kind, Resource};
use weft_proxy_core::subscription::{Response, Subscription};

/// Names that are subscribed beside the one that changes.
const NAMES: usize = 100;
/// Endpoints of the one that changes.
const ENDPOINTS: usize = 10;

/// A response with one changed resource, applied and acknowledged.
pub(crate) fn subscription(criterion: &mut Criterion) {
    let mut subscription = Subscription::new();
    let others = (0..NAMES).map(|index| {
        (
            Kind::Endpoints,
            format!("svc-{index}.shop.svc.cluster.local:80").into(),
        )
    });
    let wanted: BTreeSet<_> = others.chain([(Kind::Endpoints, CLUSTER.into())]).collect();
    subscription.set_wanted(wanted);
    subscription.on_connected();
    while subscription.next_request().is_some() {}
    let mut nonce = 0_u64;
    criterion.bench_function("subscription/response of one resource among 100", |bencher| {
        bencher.iter_batched(
            || {
                nonce += 1;
                let resource = Ok(Resource::Endpoints(endpoints(ENDPOINTS)));
                let resources = vec![(CLUSTER.into(), nonce.to_string(), resource)];
                Response {
                    kind: Kind::Endpoints,
                    nonce: nonce.to_string(),
                    resources,
                    removed: vec![],
                }
            },
            |response| {
                let applied = subscription.on_response(response);
                assert_eq!(applied.resources.len(), 1);
                black_box(subscription.next_request());
                applied
            },
            BatchSize::SmallInput,
        );
    });
}
