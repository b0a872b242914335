//! One pod's settings: the operator's values, refined by the pod's own annotations.

use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;
use weft_api::annotation::GROUP;
use weft_api::duration::Duration;

use super::text::{self, Ports, TextError};
use super::values::{Resources, Values};

/// Whether a pod is to be in the mesh: `enabled` or `disabled`.
pub const INJECT: &str = "weft.dev/inject";
/// On pods that were injected: by which version.
pub const INJECTED: &str = "weft.dev/injected";
/// On pods that were injected: what injection replaced, so that it can be given back.
pub const REPLACED: &str = "weft.dev/replaced";
/// Ports whose inbound traffic isn't captured.
pub const SKIP_INBOUND_PORTS: &str = "weft.dev/skip-inbound-ports";
/// Ports to which outbound traffic isn't captured.
pub const SKIP_OUTBOUND_PORTS: &str = "weft.dev/skip-outbound-ports";
/// Networks to which outbound traffic isn't captured.
pub const SKIP_OUTBOUND_CIDRS: &str = "weft.dev/skip-outbound-cidrs";
/// Ports whose traffic is passed as bytes, without looking for a protocol.
pub const OPAQUE_PORTS: &str = "weft.dev/opaque-ports";
/// What the sidecar logs.
pub const LOG_LEVEL: &str = "weft.dev/log-level";
/// The sidecar's processor time.
pub const PROXY_CPU: &str = "weft.dev/proxy-cpu";
/// The sidecar's memory.
pub const PROXY_MEMORY: &str = "weft.dev/proxy-memory";
/// How long the sidecar waits for what runs when it is told to end.
pub const DRAIN_TIME: &str = "weft.dev/drain-time";

/// All annotations that a pod may have for injection.
const KNOWN: [&str; 11] = [
    INJECT,
    INJECTED,
    REPLACED,
    SKIP_INBOUND_PORTS,
    SKIP_OUTBOUND_PORTS,
    SKIP_OUTBOUND_CIDRS,
    OPAQUE_PORTS,
    LOG_LEVEL,
    PROXY_CPU,
    PROXY_MEMORY,
    DRAIN_TIME,
];

/// An annotation whose value isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("annotation {name}: {problem}")]
pub struct AnnotationError {
    /// Its name.
    pub name: &'static str,
    /// What is wrong with its value.
    pub problem: TextError,
}

/// A value of the operator's that isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct ValueError {
    /// Its path.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: TextError,
}

/// A pod's annotations, which may be none.
#[derive(Clone, Copy)]
pub(super) struct Annotations<'a>(Option<&'a serde_json::Map<String, Value>>);

impl<'a> Annotations<'a> {
    /// Those of an object.
    pub(super) fn of(object: &'a Value) -> Self {
        Self(object.pointer("/metadata/annotations").and_then(Value::as_object))
    }

    /// The text of one.
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0?.get(name)?.as_str()
    }

    fn read<T>(
        self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, TextError>,
    ) -> Result<Option<T>, AnnotationError> {
        let read = self.get(name).map(read).transpose();
        read.map_err(|problem| AnnotationError { name, problem })
    }

    /// Whether the pod says that it is to be in the mesh, or not to be; `None`: it says nothing. A label of the same
    /// name says it as well.
    pub(super) fn switch(self, labels: Self) -> Result<Option<bool>, AnnotationError> {
        Ok(match self.read(INJECT, text::switch)? {
            Some(told) => Some(told),
            None => labels.read(INJECT, text::switch)?,
        })
    }

    /// An object's labels, read in the same way.
    pub(super) fn labels_of(object: &'a Value) -> Self {
        Self(object.pointer("/metadata/labels").and_then(Value::as_object))
    }

    /// Names of our group that mean nothing, such as misspelt ones.
    pub(super) fn unknown(self) -> impl Iterator<Item = &'a str> {
        let names = self.0.into_iter().flatten().map(|(name, _)| name.as_str());
        names.filter(|name| {
            name.strip_prefix(GROUP).is_some_and(|rest| rest.starts_with('/')) && !KNOWN.contains(name)
        })
    }
}

/// What one pod's sidecar is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tuning {
    pub(super) skip_inbound_ports: Vec<Ports>,
    pub(super) skip_outbound_ports: Vec<Ports>,
    pub(super) skip_outbound_cidrs: Vec<IpNet>,
    pub(super) opaque_ports: Vec<Ports>,
    pub(super) log_level: String,
    pub(super) drain_time: Duration,
    pub(super) resources: Resources,
}

impl Tuning {
    /// The operator's part alone; every mistake in it is told.
    pub(super) fn of_values(values: &Values) -> Result<Self, Vec<ValueError>> {
        let mut problems = Problems::default();
        let amounts = &values.resources;
        problems.check("image", text::word(&values.image, 512));
        problems.check("controlPlane", text::authority(&values.control_plane));
        problems.check(
            "controlPlaneNamespace",
            text::word(&values.control_plane_namespace, 63),
        );
        problems.check("trustDomain", text::word(&values.trust_domain, 253));
        problems.check("clusterDomain", text::word(&values.cluster_domain, 253));
        problems.check("uid", text::user(values.uid));
        problems.check("meshCidrs", text::networks(&values.mesh_cidrs.join(",")));
        for (field, amount) in [
            ("resources.requests.cpu", &amounts.requests.cpu),
            ("resources.limits.cpu", &amounts.limits.cpu),
        ] {
            problems.check(field, amount.as_deref().map(text::cpu).transpose());
        }
        for (field, amount) in [
            ("resources.requests.memory", &amounts.requests.memory),
            ("resources.limits.memory", &amounts.limits.memory),
        ] {
            problems.check(field, amount.as_deref().map(text::memory).transpose());
        }
        let ports = |list: &[String]| text::ports(&list.join(","));
        let inbound = problems.check("skipInboundPorts", ports(&values.skip_inbound_ports));
        let outbound = problems.check("skipOutboundPorts", ports(&values.skip_outbound_ports));
        let networks = text::networks(&values.skip_outbound_cidrs.join(","));
        let networks = problems.check("skipOutboundCidrs", networks);
        let log_level = problems.check("logLevel", text::log_level(&values.log_level));
        let drain_time = problems.check("drainTime", text::drain(&values.drain_time.to_string()));
        let tuning = || {
            Some(Self {
                skip_inbound_ports: inbound?,
                skip_outbound_ports: outbound?,
                skip_outbound_cidrs: networks?,
                opaque_ports: Vec::new(),
                log_level: log_level?,
                drain_time: drain_time?,
                resources: values.resources.clone(),
            })
        };
        tuning().filter(|_| problems.0.is_empty()).ok_or(problems.0)
    }

    /// With what a pod's annotations say: lists are added to, the rest is replaced.
    pub(super) fn refined(mut self, annotations: Annotations<'_>) -> Result<Self, AnnotationError> {
        let ports = |name| annotations.read(name, text::ports).map(Option::unwrap_or_default);
        self.skip_inbound_ports.extend(ports(SKIP_INBOUND_PORTS)?);
        self.skip_outbound_ports.extend(ports(SKIP_OUTBOUND_PORTS)?);
        self.opaque_ports.extend(ports(OPAQUE_PORTS)?);
        let networks = annotations.read(SKIP_OUTBOUND_CIDRS, text::networks)?;
        self.skip_outbound_cidrs.extend(networks.unwrap_or_default());
        self.log_level = annotations
            .read(LOG_LEVEL, text::log_level)?
            .unwrap_or(self.log_level);
        self.drain_time = annotations
            .read(DRAIN_TIME, text::drain)?
            .unwrap_or(self.drain_time);
        let Resources { requests, limits } = &mut self.resources;
        if let Some(cpu) = annotations.read(PROXY_CPU, text::cpu)? {
            amount(&mut requests.cpu, &mut limits.cpu, cpu);
        }
        if let Some(memory) = annotations.read(PROXY_MEMORY, text::memory)? {
            amount(&mut requests.memory, &mut limits.memory, memory);
        }
        Ok(self)
    }
}

/// What a pod asks for is requested, and is its limit where the operator has set one.
fn amount(request: &mut Option<String>, limit: &mut Option<String>, asked: String) {
    if let Some(limit) = limit {
        limit.clone_from(&asked);
    }
    *request = Some(asked);
}

#[derive(Default)]
struct Problems(Vec<ValueError>);

impl Problems {
    fn check<T>(&mut self, field: &'static str, result: Result<T, TextError>) -> Option<T> {
        result
            .map_err(|problem| self.0.push(ValueError { field, problem }))
            .ok()
    }
}
