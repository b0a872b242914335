//! TrafficPolicy and MeshTLSPolicy.

use weft_api::mesh_tls_policy::{MeshTlsPolicy, Mode};
use weft_api::traffic_policy::{self as api, Algorithm, Locality, TrafficPolicy as Object};

use super::{Rejected, head};
use crate::resource::{Balancer, Breaker, Name, Outlier, Retry};
use crate::world::ObjectName;
use crate::world::policy::{Target, TlsPolicy, TlsTarget, TrafficPolicy, TrafficSettings};

/// A TrafficPolicy, with defaults for what it leaves out.
pub(super) fn traffic(object: &Object) -> Result<TrafficPolicy, Rejected> {
    let (name, created) = head(&object.metadata)?;
    let targets = object.spec.target_refs.iter().map(|target| Target {
        service: ObjectName {
            namespace: name.namespace.clone(),
            name: target.name.as_str().into(),
        },
        port: target.section_name.as_deref().map(Name::from),
    });
    Ok(TrafficPolicy {
        targets: targets.collect(),
        says: settings(&object.spec),
        name,
        created,
    })
}

fn settings(spec: &api::TrafficPolicySpec) -> TrafficSettings {
    let default = TrafficSettings::default();
    let spread = spec.balancer.clone().unwrap_or_default();
    let limits = spec.limits.clone().unwrap_or_default();
    let breakers = spec.breaker.clone().unwrap_or_default();
    let budget = spec
        .retry
        .as_ref()
        .and_then(|retry| retry.budget.clone())
        .unwrap_or_default();
    TrafficSettings {
        balancer: balancer(&spread),
        prefer_zone: spread
            .locality
            .map(|locality| locality == Locality::PreferSameZone),
        slow_start: spread.slow_start.map_or(default.slow_start, api_duration),
        connect_timeout: spec.connect_timeout.map_or(default.connect_timeout, api_duration),
        max_connections: limits.connections.unwrap_or(default.max_connections),
        max_pending: limits.pending.unwrap_or(default.max_pending),
        max_requests: limits.requests.unwrap_or(default.max_requests),
        outlier: outlier(&spec.outlier.clone().unwrap_or_default()),
        endpoint_breaker: breakers.endpoint.as_ref().and_then(breaker),
        service_breaker: breakers.service.as_ref().and_then(breaker),
        retry: spec.retry.as_ref().map_or(default.retry, retry),
        retry_budget_percent: budget.percent.unwrap_or(default.retry_budget_percent),
        retry_budget_floor: budget.floor.unwrap_or(default.retry_budget_floor),
    }
}

fn api_duration(written: weft_api::duration::Duration) -> std::time::Duration {
    written.get()
}

fn balancer(written: &api::Balancer) -> Balancer {
    match written.algorithm.unwrap_or_default() {
        Algorithm::PeakEwma => Balancer::PeakEwma,
        Algorithm::RoundRobin => Balancer::RoundRobin,
        Algorithm::LeastRequest => Balancer::LeastRequest,
        Algorithm::Random => Balancer::Random,
        Algorithm::RingHash => {
            let header = written
                .ring_hash
                .as_ref()
                .map(|key| key.header.to_ascii_lowercase());
            Balancer::RingHash(header)
        }
    }
}

fn outlier(written: &api::OutlierDetection) -> Option<Outlier> {
    let consecutive_failures = written
        .consecutive_failures
        .unwrap_or(api::defaults::OUTLIER_FAILURES);
    let base_ejection = written
        .base_ejection
        .unwrap_or(api::defaults::BASE_EJECTION)
        .get();
    let max_ejection = written.max_ejection.unwrap_or(api::defaults::MAX_EJECTION).get();
    (consecutive_failures > 0).then(|| Outlier {
        consecutive_failures,
        base_ejection,
        max_ejection: max_ejection.max(base_ejection),
        max_ejection_percent: written
            .max_ejected_percent
            .unwrap_or(api::defaults::MAX_EJECTED_PERCENT)
            .min(100),
    })
}

fn breaker(written: &api::Breaker) -> Option<Breaker> {
    (written.consecutive_failures > 0).then(|| Breaker {
        consecutive_failures: written.consecutive_failures,
        open_for: written.open_for.unwrap_or(api::defaults::OPEN_FOR).get(),
        half_open_probes: written
            .half_open_probes
            .unwrap_or(api::defaults::HALF_OPEN_PROBES)
            .max(1),
    })
}

fn retry(written: &api::RetryPolicy) -> Retry {
    let backoff = written.backoff.clone().unwrap_or_default();
    let base = backoff.base.unwrap_or(api::defaults::BACKOFF_BASE).get();
    Retry {
        attempts: written.attempts.unwrap_or(api::defaults::RETRY_ATTEMPTS),
        statuses: written.statuses.clone(),
        grpc_codes: written.grpc_codes.iter().map(|code| code.number()).collect(),
        backoff_base: base,
        backoff_max: backoff.max.unwrap_or(api::defaults::BACKOFF_MAX).get().max(base),
    }
}

/// A MeshTLSPolicy.
pub(super) fn tls(object: &MeshTlsPolicy) -> Result<TlsPolicy, Rejected> {
    let (name, created) = head(&object.metadata)?;
    let mut targets = Vec::new();
    for (index, target) in object.spec.target_refs.iter().enumerate() {
        let service = || ObjectName {
            namespace: name.namespace.clone(),
            name: target.name.as_str().into(),
        };
        targets.push(match (target.kind.as_str(), &target.section_name) {
            ("Namespace", None) if *target.name == *name.namespace => TlsTarget::Namespace,
            ("Service", None) => TlsTarget::Service(service()),
            ("Service", Some(port)) => TlsTarget::Port(service(), port.as_str().into()),
            _ => {
                let why = "is neither the policy's own Namespace nor a Service of it";
                return Err(Rejected::new(format!("spec.targetRefs[{index}]"), why));
            }
        });
    }
    Ok(TlsPolicy {
        name,
        created,
        targets,
        permissive: object.spec.mode == Mode::Permissive,
    })
}
