//! The proxy's core: what a request's decisions cost, one by one.

mod cluster;
mod config;
mod request;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    benches,
    request::route_find,
    request::head_check,
    request::exchange,
    request::pool,
    cluster::acquire_and_release,
    cluster::build_ring,
    config::subscription,
);
criterion_main!(benches);
