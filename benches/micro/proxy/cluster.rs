//! Choosing an endpoint, by every balancer, among few and among many.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion};
use weft_benches::proxy::{cluster_state, endpoint};
use weft_proxy_core::cluster::{Pick, Verdict};
use weft_proxy_core::resource::{Balancer, HashKey};
use weft_proxy_core::ring::Ring;
use weft_proxy_core::time::Now;

/// Sizes of a cluster.
const ENDPOINTS: [usize; 2] = [10, 1000];

pub(crate) fn acquire_and_release(criterion: &mut Criterion) {
    let balancers = [
        ("peak-ewma", Balancer::PeakEwma),
        ("round-robin", Balancer::RoundRobin),
        ("least-request", Balancer::LeastRequest),
        ("random", Balancer::Random),
        ("ring-hash", Balancer::RingHash(HashKey::SourceAddress)),
    ];
    let mut group = criterion.benchmark_group("cluster/acquire and release");
    for (name, balancer) in balancers {
        for count in ENDPOINTS {
            let mut cluster = cluster_state(balancer.clone(), count);
            let mut rng = fastrand::Rng::with_seed(1);
            // Past slow start: a cluster as it is for nearly all of its life.
            let mut now = Now::default() + Duration::from_hours(1);
            group.bench_function(BenchmarkId::new(name, count), |bencher| {
                bencher.iter(|| {
                    let pick = Pick {
                        hash: Some(rng.u64(..)),
                        avoid: &[],
                    };
                    let lease = cluster.acquire(now, &mut rng, &pick).expect("all are healthy");
                    now = now + Duration::from_micros(100);
                    cluster.release(lease, now, Verdict::Success);
                });
            });
        }
    }
    group.finish();
}

pub(crate) fn build_ring(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring/build");
    for count in ENDPOINTS {
        let endpoints: Vec<(u32, SocketAddr, u32)> = (0_u32..)
            .zip(0..count)
            .map(|(index, nth)| (index, endpoint(nth).address, 1))
            .collect();
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| Ring::new(black_box(&endpoints)));
        });
    }
    group.finish();
}
