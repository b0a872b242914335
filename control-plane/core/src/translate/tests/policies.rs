//! TrafficPolicy, and what holds without one.

use std::time::Duration;

use super::*;
use crate::resource::{Balancer, Breaker, Outlier, Retry};

fn policy(name: &str, created: &str, section: &str, says: &str) -> String {
    let section = if section.is_empty() {
        String::new()
    } else {
        format!(", sectionName: {section}")
    };
    format!(
        "---\n{{kind: TrafficPolicy, apiVersion: weft.dev/v1alpha1, metadata: {{name: {name}, namespace: shop, \
         creationTimestamp: '{created}'}}, spec: {{targetRefs: [{{group: '', kind: Service, name: web{section}}}], {says}}}}}\n"
    )
}

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}, {name: http-b, port: 81}]}
";

fn attempts(catalog: &mut Catalog, port: u16) -> u32 {
    cluster(catalog, &format!("web.shop.svc.cluster.local:{port}"))
        .default_retry
        .attempts
}

#[test]
fn what_holds_without_a_policy() {
    let expected = Cluster {
        protocol: Protocol::Http1,
        balancer: Balancer::PeakEwma,
        prefer_zone: false,
        slow_start: Duration::ZERO,
        connect_timeout: Duration::from_secs(2),
        max_connections: 1024,
        max_pending: 1024,
        max_requests: 4096,
        outlier: Some(Outlier {
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(10),
            max_ejection: Duration::from_mins(5),
            max_ejection_percent: 50,
        }),
        endpoint_breaker: None,
        service_breaker: None,
        default_retry: Retry {
            attempts: 2,
            statuses: Vec::new(),
            grpc_codes: Vec::new(),
            backoff_base: Duration::from_millis(25),
            backoff_max: Duration::from_millis(250),
        },
        retry_budget_percent: 20,
        retry_budget_floor: 100,
        identities: Vec::new(),
    };
    assert_eq!(
        cluster(&mut catalog(WEB), "web.shop.svc.cluster.local:80"),
        expected
    );
}

#[test]
fn what_a_policy_says_is_in_the_cluster() {
    let says = "balancer: {algorithm: RingHash, ringHash: {header: X-User}, slowStart: 10s, locality: PreferSameZone}, \
                connectTimeout: 1s, limits: {connections: 1, pending: 2, requests: 3}, outlier: {consecutiveFailures: 0}, \
                breaker: {endpoint: {consecutiveFailures: 7, openFor: 3s, halfOpenProbes: 2}, service: {consecutiveFailures: 0}}, \
                retry: {attempts: 0, statuses: [503], grpcCodes: [Unavailable], backoff: {base: 1s}, budget: {percent: 5, floor: 6}}";
    let mut catalog = catalog(&format!("{WEB}{}", policy("p", "2026-01-01T00:00:00Z", "", says)));
    let found = cluster(&mut catalog, "web.shop.svc.cluster.local:80");
    assert_eq!(found.balancer, Balancer::RingHash(Some("x-user".into())));
    assert!(found.prefer_zone);
    assert_eq!(
        (found.slow_start, found.connect_timeout),
        (Duration::from_secs(10), Duration::from_secs(1))
    );
    assert_eq!(
        (found.max_connections, found.max_pending, found.max_requests),
        (1, 2, 3)
    );
    assert_eq!((found.outlier, found.service_breaker), (None, None));
    let breaker = Breaker {
        consecutive_failures: 7,
        open_for: Duration::from_secs(3),
        half_open_probes: 2,
    };
    assert_eq!(found.endpoint_breaker, Some(breaker));
    let retry = Retry {
        attempts: 0,
        statuses: vec![503],
        grpc_codes: vec![14],
        backoff_base: Duration::from_secs(1),
        backoff_max: Duration::from_secs(1),
    };
    assert_eq!(found.default_retry, retry);
    assert_eq!((found.retry_budget_percent, found.retry_budget_floor), (5, 6));
}

#[test]
fn the_port_goes_before_the_service_and_the_older_before_the_younger() {
    let text = [
        WEB.to_owned(),
        policy("a-young", "2026-02-01T00:00:00Z", "", "retry: {attempts: 3}"),
        policy("z-old", "2026-01-01T00:00:00Z", "", "retry: {attempts: 4}"),
        policy("port", "2026-03-01T00:00:00Z", "http-b", "retry: {attempts: 5}"),
    ];
    let mut catalog = catalog(&text.concat());
    assert_eq!(attempts(&mut catalog, 80), 4);
    assert_eq!(attempts(&mut catalog, 81), 5);
}

#[test]
fn closeness_is_the_services_word_unless_a_policy_has_one() {
    let web = WEB.replace("spec: {ports", "spec: {trafficDistribution: PreferClose, ports");
    let prefers = |text: &str| cluster(&mut catalog(text), "web.shop.svc.cluster.local:80").prefer_zone;
    assert!(prefers(&web));
    assert!(!prefers(WEB));
    assert!(!prefers(&format!(
        "{web}{}",
        policy("p", "2026-01-01T00:00:00Z", "", "balancer: {locality: Any}")
    )));
}

/// A slice of `web` with these endpoints, each an address, its zone, and the zones that it is hinted to.
fn slice(endpoints: &[(&str, &str, &[&str])]) -> String {
    let endpoint = |(address, zone, hints): &(&str, &str, &[&str])| {
        let hints: Vec<_> = hints.iter().map(|zone| format!("{{name: {zone}}}")).collect();
        format!(
            "- {{addresses: [{address}], zone: {zone}, hints: {{forZones: [{}]}}}}\n",
            hints.join(", ")
        )
    };
    format!(
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: web-1, namespace: shop, labels: \
         {{kubernetes.io/service-name: web}}}}\naddressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints:\n{}",
        endpoints.iter().map(endpoint).collect::<String>()
    )
}

#[test]
fn hints_count_when_every_endpoint_has_one() {
    let zones = |slice: &str| {
        let mut catalog = catalog(&format!("{WEB}{slice}"));
        let name = "web.shop.svc.cluster.local:80";
        let prefers = cluster(&mut catalog, name).prefer_zone;
        let found = endpoints(&mut catalog, name);
        let zones: Vec<_> = found.iter().map(|endpoint| endpoint.zone.to_string()).collect();
        (prefers, zones.join(" "))
    };
    let all = slice(&[
        ("10.1.0.1", "a", &["b"]),
        ("10.1.0.2", "a", &["b", "a"]),
        ("10.1.0.3", "c", &["c"]),
    ]);
    assert_eq!(zones(&all), (true, "b a c".to_owned()));
    // One that takes new requests has none: nobody's counts.
    let some = slice(&[("10.1.0.1", "a", &["b"]), ("10.1.0.2", "a", &[])]);
    assert_eq!(zones(&some), (false, "a a".to_owned()));
    // One that ends is not asked.
    let ending =
        "- {addresses: [10.1.0.2], zone: a, conditions: {ready: false, serving: true, terminating: true}}\n";
    let ending = format!("{}{ending}", slice(&[("10.1.0.1", "a", &["b"])]));
    assert_eq!(zones(&ending), (true, "b a".to_owned()));
    // A policy has the last word on whether zones matter.
    let any = policy("p", "2026-01-01T00:00:00Z", "", "balancer: {locality: Any}");
    assert!(!zones(&format!("{all}{any}")).0);
}
