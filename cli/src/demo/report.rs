//! The demo's result: one object, and whether everything was well.

use serde::Serialize;

use super::topology::{EDGES, Replica, Role};
use super::traffic::{Counts, Edge, Totals};

/// What `-o json` prints.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Every edge had traffic, all of it over mTLS, and nothing failed. The exit code says the same.
    pub(crate) healthy: bool,
    pub(crate) edges: Vec<EdgeReport>,
    pub(crate) replicas: Vec<ReplicaReport>,
}

#[derive(Debug, Serialize)]
pub(crate) struct EdgeReport {
    pub(crate) source: String,
    pub(crate) destination: String,
    /// `http1`, `http2`, `grpc` or `tcp`.
    pub(crate) protocol: String,
    pub(crate) mtls: bool,
    /// Requests; for TCP, connections.
    pub(crate) requests: u64,
    /// 0 to 1; 0 without traffic.
    pub(crate) success_rate: f64,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) retries: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct ReplicaReport {
    pub(crate) service: String,
    pub(crate) replica: String,
    pub(crate) version: String,
    pub(crate) requests: u64,
}

impl Report {
    pub(crate) fn new(totals: &Totals, replicas: &[Replica]) -> Self {
        let edges: Vec<EdgeReport> = with_expected(totals)
            .map(|(edge, counts)| edge_report(edge, &counts))
            .collect();
        let services = replicas
            .iter()
            .filter(|replica| matches!(replica.role, Role::Service(_)));
        Self {
            healthy: edges.iter().all(EdgeReport::healthy),
            edges,
            replicas: services
                .map(|replica| ReplicaReport {
                    service: replica.service().to_owned(),
                    replica: replica.name.clone(),
                    version: replica.version.to_owned(),
                    requests: totals.replicas.get(&replica.name).copied().unwrap_or(0),
                })
                .collect(),
        }
    }
}

impl Report {
    /// Why it is not healthy, by edge.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let wrong = self.edges.iter().filter(|edge| !edge.healthy());
        wrong
            .map(|edge| {
                let what = match (edge.requests, edge.mtls) {
                    (0, _) => "no traffic",
                    (_, false) => "not over mTLS",
                    (_, true) => "failures",
                };
                let EdgeReport {
                    source,
                    destination,
                    protocol,
                    ..
                } = edge;
                format!("{source} to {destination} ({protocol}): {what}")
            })
            .collect()
    }
}

impl EdgeReport {
    #[allow(clippy::float_cmp, reason = "exactly 1 is what no failure at all comes to")]
    fn healthy(&self) -> bool {
        self.requests > 0 && self.mtls && self.success_rate == 1.0
    }
}

/// All edges that had traffic, and those that should have.
pub(crate) fn with_expected(totals: &Totals) -> impl Iterator<Item = (Edge, Counts)> {
    let mut edges = totals.edges.clone();
    for (source, destination, protocol) in EDGES {
        edges.entry(Edge::new(source, destination, protocol)).or_default();
    }
    edges.into_iter()
}

fn edge_report(edge: Edge, counts: &Counts) -> EdgeReport {
    let quantile = |q| {
        (edge.protocol != "tcp")
            .then(|| counts.durations.quantile_ms(q))
            .flatten()
            .map(|ms| (ms * 1000.0).round() / 1000.0)
    };
    EdgeReport {
        mtls: counts.mtls(),
        requests: counts.requests,
        success_rate: counts.success_rate().unwrap_or(0.0),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        retries: counts.retries,
        source: edge.source,
        destination: edge.destination,
        protocol: edge.protocol,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::topology;
    use super::*;

    fn totals() -> Totals {
        let mut totals = Totals::default();
        for (source, destination, protocol) in EDGES {
            let mut counts = Counts {
                requests: 10,
                ..Counts::default()
            };
            counts.durations.add("0.001", 10);
            counts.durations.add("+Inf", 10);
            totals
                .edges
                .insert(Edge::new(source, destination, protocol), counts);
        }
        totals.replicas.insert("user-2".into(), 5);
        totals
    }

    #[test]
    fn the_object_has_the_promised_form() {
        let report = Report::new(&totals(), &topology::replicas());
        assert!(report.healthy);
        let value = serde_json::to_value(&report).unwrap();
        let edge = json!({ "source": "product", "destination": "inventory", "protocol": "grpc", "mtls": true,
            "requests": 10, "success_rate": 1.0, "p50_ms": 0.5, "p99_ms": 0.99, "retries": 0 });
        let tcp = json!({ "source": "order", "destination": "broker", "protocol": "tcp", "mtls": true,
            "requests": 10, "success_rate": 1.0, "p50_ms": null, "p99_ms": null, "retries": 0 });
        let edges = value["edges"].as_array().unwrap();
        assert!(edges.contains(&edge) && edges.contains(&tcp), "{edges:?}");
        let replicas = value["replicas"].as_array().unwrap();
        assert_eq!(replicas.len(), 12, "the five services only");
        let user = json!({ "service": "user", "replica": "user-2", "version": "v1", "requests": 5 });
        assert!(replicas.contains(&user));
    }

    #[test]
    fn one_failure_one_plain_request_or_one_silent_edge_is_unhealthy() {
        let edge = Edge::new("order", "payment", "http1");
        let spoil: [fn(&mut Counts); 3] = [|c| c.failures = 1, |c| c.plaintext = 1, |c| c.requests = 0];
        for spoil in spoil {
            let mut totals = totals();
            spoil(totals.edges.get_mut(&edge).unwrap());
            assert!(!Report::new(&totals, &[]).healthy);
        }
        let mut silent = totals();
        silent.edges.remove(&edge);
        let report = Report::new(&silent, &[]);
        assert!(!report.healthy);
        assert_eq!(report.edges.len(), EDGES.len(), "a silent edge is shown");
        assert_eq!(report.complaints(), ["order to payment (http1): no traffic"]);
    }
}
