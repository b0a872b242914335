//! What the admin listener shows of clusters, as JSON, and the breakers' gauge.

use metrics::gauge;
use serde_json::{Value, json};
use weft_proxy_core::breaker::Phase;
use weft_proxy_core::cluster::{ClusterReport, EndpointReport};

use super::metrics::destination_label;

fn label(phase: Phase) -> &'static str {
    match phase {
        Phase::Closed => "closed",
        Phase::Open => "open",
        Phase::HalfOpen => "half_open",
    }
}

/// A cluster as JSON.
pub fn cluster(report: &ClusterReport) -> Value {
    json!({
        "name": &*report.name,
        "requests": report.requests,
        "retries": report.retries,
        "connections": report.connections,
        "pending": report.pending,
        "ejections": report.ejections,
        "breaker": report.breaker.map(label),
        "panic": report.panic,
        "endpoints": report.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

fn endpoint(report: &EndpointReport) -> Value {
    json!({
        "address": report.address,
        "workload": &*report.workload,
        "identity": report.identity.as_deref(),
        "zone": &*report.zone,
        "weight": report.weight,
        "ready": report.ready,
        "requests": report.requests,
        "latency_ms": report.latency.map(|latency| latency.as_secs_f64() * 1e3),
        "ejected_for_ms": report.ejected_for.map(|left| left.as_secs_f64() * 1e3),
        "breaker": report.breaker.map(label),
    })
}

/// Sets the gauge of a service's breaker: 1 for the state it is in, 0 for the others. Several addresses share no gauge.
pub fn tell_breaker(destination: &str, phase: Phase) {
    if destination_label(destination) != destination {
        return;
    }
    for state in [Phase::Closed, Phase::Open, Phase::HalfOpen] {
        gauge!("weft_breaker_state", "destination" => destination.to_owned(), "state" => label(state))
            .set(if state == phase { 1.0 } else { 0.0 });
    }
}
