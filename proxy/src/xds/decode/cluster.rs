//! `Cluster` of Envoy -> [`Cluster`] of the core.

use std::time::Duration;

use http::HeaderName;
use weft_proxy_core::resource::{
    Backoff, Balancer, Breaker, Cluster, HashKey, Limits, Outlier, Retry, RetryBudget,
};
use weft_xds_proto::envoy::config::cluster::v3 as cluster;
use weft_xds_proto::envoy::config::cluster::v3::cluster::LbPolicy;
use weft_xds_proto::weft;

use super::{DecodeError, duration, extension, invalid, protocol};

/// Where a cluster names no connect timeout.
const CONNECT_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// Where a cluster has no retry budget: a fifth of the running requests, at least three.
const RETRY_BUDGET_DEFAULT: RetryBudget = RetryBudget {
    percent: 20,
    floor: 3,
};

/// Decodes one cluster.
pub(super) fn decode(value: &cluster::Cluster) -> Result<Cluster, DecodeError> {
    let policy: weft::ClusterPolicy = extension(value.metadata.as_ref())?;
    let thresholds = value
        .circuit_breakers
        .as_ref()
        .and_then(|breakers| breakers.thresholds.first());
    Ok(Cluster {
        name: value.name.as_str().into(),
        protocol: protocol(policy.protocol)?,
        balancer: balancer(value.lb_policy, &policy)?,
        prefer_zone: policy.prefer_zone,
        slow_start: duration("slow_start", policy.slow_start)?.unwrap_or_default(),
        connect_timeout: duration("connect_timeout", value.connect_timeout)?
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(CONNECT_TIMEOUT_DEFAULT),
        limits: thresholds.map(limits).unwrap_or_default(),
        outlier: value.outlier_detection.as_ref().map(outlier).transpose()?,
        endpoint_breaker: policy.endpoint_breaker.as_ref().map(breaker).transpose()?,
        service_breaker: policy.service_breaker.as_ref().map(breaker).transpose()?,
        default_retry: default_retry(policy.default_retry.unwrap_or_default())?,
        retry_budget: thresholds
            .map(retry_budget)
            .transpose()?
            .unwrap_or(RETRY_BUDGET_DEFAULT),
    })
}

fn balancer(lb_policy: i32, policy: &weft::ClusterPolicy) -> Result<Balancer, DecodeError> {
    if policy.peak_ewma {
        return Ok(Balancer::PeakEwma);
    }
    match LbPolicy::try_from(lb_policy) {
        Ok(LbPolicy::RoundRobin) => Ok(Balancer::RoundRobin),
        Ok(LbPolicy::LeastRequest) => Ok(Balancer::LeastRequest),
        Ok(LbPolicy::Random) => Ok(Balancer::Random),
        Ok(LbPolicy::RingHash) => Ok(Balancer::RingHash(hash_key(&policy.hash_header)?)),
        _ => Err(invalid(
            "lb_policy",
            format!("{lb_policy} is not a balancer of this proxy"),
        )),
    }
}

fn hash_key(header: &str) -> Result<HashKey, DecodeError> {
    if header.is_empty() {
        return Ok(HashKey::SourceAddress);
    }
    HeaderName::try_from(header)
        .map(HashKey::Header)
        .map_err(|_| invalid("hash_header", format!("{header:?} is not a header name")))
}

fn limits(value: &cluster::circuit_breakers::Thresholds) -> Limits {
    let default = Limits::default();
    Limits {
        connections: value
            .max_connections
            .map_or(default.connections, |number| number.value),
        pending: value
            .max_pending_requests
            .map_or(default.pending, |number| number.value),
        requests: value.max_requests.map_or(default.requests, |number| number.value),
    }
}

fn retry_budget(value: &cluster::circuit_breakers::Thresholds) -> Result<RetryBudget, DecodeError> {
    let Some(budget) = &value.retry_budget else {
        return Ok(RETRY_BUDGET_DEFAULT);
    };
    let share = budget
        .budget_percent
        .map_or(f64::from(RETRY_BUDGET_DEFAULT.percent), |percent| percent.value);
    if !(0.0..=100.0).contains(&share) {
        return Err(invalid(
            "retry_budget.budget_percent",
            format!("{share} is not within 0 and 100"),
        ));
    }
    // Within 0 and 100, as was just checked.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let percent = share.round() as u8;
    let floor = budget
        .min_retry_concurrency
        .map_or(RETRY_BUDGET_DEFAULT.floor, |number| number.value);
    Ok(RetryBudget { percent, floor })
}

fn outlier(value: &cluster::OutlierDetection) -> Result<Outlier, DecodeError> {
    let base_ejection =
        duration("base_ejection_time", value.base_ejection_time)?.unwrap_or(Duration::from_secs(10));
    let max_ejection =
        duration("max_ejection_time", value.max_ejection_time)?.unwrap_or(Duration::from_mins(5));
    let percent = value.max_ejection_percent.map_or(50, |number| number.value);
    Ok(Outlier {
        consecutive_failures: value.consecutive_5xx.map_or(5, |number| number.value).max(1),
        base_ejection,
        max_ejection: max_ejection.max(base_ejection),
        max_ejection_percent: u8::try_from(percent)
            .ok()
            .filter(|percent| *percent <= 100)
            .ok_or_else(|| invalid("max_ejection_percent", format!("{percent} is more than 100")))?,
    })
}

fn breaker(value: &weft::Breaker) -> Result<Breaker, DecodeError> {
    if value.consecutive_failures == 0 || value.half_open_probes == 0 {
        return Err(invalid(
            "breaker",
            "consecutive_failures and half_open_probes must be 1 or more",
        ));
    }
    Ok(Breaker {
        consecutive_failures: value.consecutive_failures,
        open_for: duration("breaker.open_for", value.open_for)?.unwrap_or_default(),
        half_open_probes: value.half_open_probes,
    })
}

fn default_retry(value: weft::DefaultRetry) -> Result<Retry, DecodeError> {
    let default = Backoff::default();
    Ok(Retry {
        attempts: value.attempts,
        statuses: Vec::new(),
        grpc_codes: Vec::new(),
        backoff: Backoff {
            base: duration("default_retry.backoff_base", value.backoff_base)?.unwrap_or(default.base),
            max: duration("default_retry.backoff_max", value.backoff_max)?.unwrap_or(default.max),
        },
    })
}
