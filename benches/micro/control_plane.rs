//! The control plane's core: what one change costs in a large world.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use weft_benches::control_plane::{catalog, slice};
use weft_control_plane_core::catalog::Event;

/// Services of the large world.
const SERVICES: usize = 10_000;
/// The one that changes.
const CHANGED: usize = 4_711;

/// An endpoint becomes unready and ready again, by turns. Exactly one resource must change each time.
fn endpoint_change(criterion: &mut Criterion) {
    let mut catalog = catalog(SERVICES);
    let versions = [slice(CHANGED, false), slice(CHANGED, true)];
    let mut turn = 0;
    criterion.bench_function("catalog/one endpoint of 10,000 services", |bencher| {
        bencher.iter(|| {
            catalog.apply(vec![Event::Apply(versions[turn % 2].clone())]);
            turn += 1;
            let changes = catalog.changes();
            assert_eq!(changes.len(), 1);
            for key in &changes {
                black_box(catalog.get(key));
            }
        });
    });
}

criterion_group!(benches, endpoint_change);
criterion_main!(benches);
