//! Traffic per edge and per replica, added up over the lives of all sidecars.
//!
//! An edge is counted by its source's sidecar. A sidecar that was killed starts again at zero, so each life counts by
//! itself, and a total is the sum over lives. What a sidecar counted after it was last asked is lost with it.

use std::collections::BTreeMap;

use super::metrics::{Histogram, Sample};
use super::topology::service_of;

/// From whom to whom, and how.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// `http1`, `http2`, `grpc` or `tcp`.
    pub(crate) protocol: String,
}

impl Edge {
    pub(crate) fn new(source: &str, destination: &str, protocol: &str) -> Self {
        Self {
            source: source.to_owned(),
            destination: destination.to_owned(),
            protocol: protocol.to_owned(),
        }
    }
}

/// What was counted on an edge. For TCP, connections stand for requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) failures: u64,
    /// Requests that succeeded, but not over mTLS.
    pub(crate) plaintext: u64,
    pub(crate) retries: u64,
    pub(crate) durations: Histogram,
}

impl Counts {
    /// Adds another one.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.plaintext += other.plaintext;
        self.retries += other.retries;
        self.durations.merge(&other.durations);
    }

    /// What was counted since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
            plaintext: self.plaintext.saturating_sub(earlier.plaintext),
            retries: self.retries.saturating_sub(earlier.retries),
            durations: self.durations.since(&earlier.durations),
        }
    }

    /// The share that succeeded; `None` without traffic.
    pub(crate) fn success_rate(&self) -> Option<f64> {
        (self.requests > 0).then(|| 1.0 - self.failures.min(self.requests) as f64 / self.requests as f64)
    }

    /// Whether there was traffic, all of it over mTLS.
    pub(crate) fn mtls(&self) -> bool {
        self.requests > 0 && self.plaintext == 0
    }
}

/// What one sidecar counted in its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// By destination and protocol.
    outbound: BTreeMap<(String, String), Counts>,
    /// Requests that reached its application.
    inbound: u64,
    /// Requests of its application that it answered itself, by reason.
    refused: BTreeMap<String, u64>,
}

impl Counted {
    /// Reads it from a sidecar's samples.
    pub(crate) fn read(samples: impl Iterator<Item = Sample>) -> Self {
        let mut counted = Self::default();
        let mut retries: BTreeMap<String, u64> = BTreeMap::new();
        for sample in samples {
            match sample.name.as_str() {
                "weft_outbound_requests_total" => {
                    let protocol = sample.label("protocol");
                    counted.count(&sample, protocol, sample.label("result") == "failure");
                }
                "weft_outbound_tcp_connections_total" => counted.count_connections(&sample),
                "weft_outbound_request_duration_seconds_bucket" => counted
                    .edge(&sample, sample.label("protocol"))
                    .durations
                    .add(sample.label("le"), sample.count()),
                "weft_outbound_retries_total" => {
                    *retries.entry(sample.label("destination").to_owned()).or_default() += sample.count();
                }
                "weft_inbound_requests_total" => counted.inbound += sample.count(),
                "weft_responses_by_proxy_total" if sample.label("direction") == "outbound" => {
                    *counted
                        .refused
                        .entry(sample.label("reason").to_owned())
                        .or_default() += sample.count();
                }
                _ => {}
            }
        }
        counted.add_retries(&retries);
        counted
    }

    fn edge(&mut self, sample: &Sample, protocol: &str) -> &mut Counts {
        let destination = sample.label("destination").to_owned();
        self.outbound
            .entry((destination, protocol.to_owned()))
            .or_default()
    }

    fn count(&mut self, sample: &Sample, protocol: &str, failed: bool) {
        let counts = self.edge(sample, protocol);
        counts.requests += sample.count();
        match (failed, sample.label("tls")) {
            // One that failed may never have had a connection, and is counted for what it is.
            (true, _) => counts.failures += sample.count(),
            (false, "mtls") => {}
            (false, _) => counts.plaintext += sample.count(),
        }
    }

    /// A connection is opened or fails; one that was opened may end uncleanly later.
    fn count_connections(&mut self, sample: &Sample) {
        match sample.label("result") {
            "unclean" => self.edge(sample, "tcp").failures += sample.count(),
            result => self.count(sample, "tcp", result == "failed"),
        }
    }

    /// Retries are counted by destination alone; they belong to the protocol that is spoken there most.
    fn add_retries(&mut self, retries: &BTreeMap<String, u64>) {
        for (destination, retried) in retries {
            let spoken = self.outbound.iter_mut().filter(|((to, _), _)| to == destination);
            if let Some((_, counts)) = spoken.max_by_key(|(_, counts)| counts.requests) {
                counts.retries += retried;
            }
        }
    }
}

/// Totals of a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) edges: BTreeMap<Edge, Counts>,
    /// Requests by replica.
    pub(crate) replicas: BTreeMap<String, u64>,
    /// Requests that sidecars answered themselves, by source and reason; none is zero.
    pub(crate) refused: BTreeMap<(String, String), u64>,
}

/// All lives of all sidecars.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// By service, replica and pid of the sidecar.
    lives: BTreeMap<(String, String, u32), Counted>,
}

impl Traffic {
    /// Takes what a sidecar has counted so far, in place of what it had counted before.
    pub(crate) fn record(&mut self, service: &str, replica: &str, pid: u32, counted: Counted) {
        self.lives
            .insert((service.to_owned(), replica.to_owned(), pid), counted);
    }

    /// Everything so far.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for ((service, replica, _), counted) in &self.lives {
            for ((destination, protocol), counts) in &counted.outbound {
                let edge = Edge::new(service, service_of(destination), protocol);
                totals.edges.entry(edge).or_default().merge(counts);
            }
            *totals.replicas.entry(replica.clone()).or_default() += counted.inbound;
            for (reason, count) in counted.refused.iter().filter(|(_, count)| **count > 0) {
                *totals
                    .refused
                    .entry((service.clone(), reason.clone()))
                    .or_default() += count;
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::super::metrics::parse;
    use super::*;

    const SIDECAR: &str = r#"
weft_outbound_requests_total{destination="product-v1.shop.svc.cluster.local:80",protocol="http1",tls="mtls",result="success"} 90
weft_outbound_requests_total{destination="product-v2.shop.svc.cluster.local:80",protocol="http1",tls="mtls",result="success"} 9
weft_outbound_requests_total{destination="product-v2.shop.svc.cluster.local:80",protocol="http1",tls="none",result="failure"} 1
weft_outbound_requests_total{destination="user.shop.svc.cluster.local:80",protocol="http1",tls="none",result="success"} 1
weft_outbound_request_duration_seconds_bucket{destination="product-v1.shop.svc.cluster.local:80",protocol="http1",le="0.001"} 90
weft_outbound_request_duration_seconds_bucket{destination="product-v1.shop.svc.cluster.local:80",protocol="http1",le="+Inf"} 90
weft_outbound_retries_total{destination="product-v2.shop.svc.cluster.local:80"} 2
weft_outbound_tcp_connections_total{destination="broker.shop.svc.cluster.local:1883",tls="mtls",result="opened"} 3
weft_outbound_tcp_connections_total{destination="broker.shop.svc.cluster.local:1883",tls="mtls",result="failed"} 1
weft_outbound_tcp_connections_total{destination="broker.shop.svc.cluster.local:1883",tls="mtls",result="unclean"} 1
weft_inbound_requests_total{service="order.shop.svc.cluster.local:80",protocol="http1",tls="mtls",result="success"} 7
weft_inbound_requests_total{service="order.shop.svc.cluster.local:80",protocol="http1",tls="mtls",result="failure"} 1
weft_responses_by_proxy_total{reason="upstream_reset",direction="outbound"} 1
weft_responses_by_proxy_total{reason="draining",direction="outbound"} 0
weft_responses_by_proxy_total{reason="connect_failed",direction="inbound"} 5
"#;

    fn recorded() -> Traffic {
        let mut traffic = Traffic::default();
        traffic.record("order", "order-1", 1, Counted::read(parse(SIDECAR)));
        traffic
    }

    #[test]
    fn versions_of_a_service_are_one_edge() {
        let totals = recorded().totals();
        let counts = &totals.edges[&Edge::new("order", "product", "http1")];
        assert_eq!(
            (counts.requests, counts.failures, counts.plaintext, counts.retries),
            (100, 1, 0, 2)
        );
        assert!(!totals.edges[&Edge::new("order", "user", "http1")].mtls());
        assert_eq!(counts.success_rate(), Some(0.99));
        assert!(counts.mtls());
        assert_eq!(counts.durations.quantile_ms(1.0), Some(1.0));
        assert_eq!(totals.replicas["order-1"], 8);
        let refused = BTreeMap::from([(("order".to_owned(), "upstream_reset".to_owned()), 1)]);
        assert_eq!(totals.refused, refused);
    }

    #[test]
    fn connections_count_once_even_when_they_end_uncleanly() {
        let totals = recorded().totals();
        let counts = &totals.edges[&Edge::new("order", "broker", "tcp")];
        assert_eq!((counts.requests, counts.failures), (4, 2));
        assert!(counts.mtls());
    }

    #[test]
    fn lives_add_up_and_a_later_answer_replaces_an_earlier_one() {
        let mut traffic = recorded();
        traffic.record("order", "order-1", 1, Counted::read(parse(SIDECAR)));
        traffic.record("order", "order-1", 2, Counted::read(parse(SIDECAR)));
        traffic.record("order", "order-2", 3, Counted::read(parse(SIDECAR)));
        let totals = traffic.totals();
        assert_eq!(
            totals.edges[&Edge::new("order", "product", "http1")].requests,
            300
        );
        assert_eq!(totals.replicas["order-1"], 16);
        assert_eq!(totals.replicas["order-2"], 8);
    }

    #[test]
    fn an_edge_without_traffic_has_neither_success_nor_mtls() {
        let counts = Counts::default();
        assert_eq!(counts.success_rate(), None);
        assert!(!counts.mtls());
    }
}
