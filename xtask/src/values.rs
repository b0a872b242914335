//! What can be set in charts/weft, as types: values.schema.json is made from them, so that helm refuses a value that
//! the programs would refuse, before anything is installed.

#![allow(
    clippy::doc_markdown,
    reason = "field texts are what editors show beside values"
)]

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_control_plane_core::inject;

/// The schema of `T` in a draft that every helm reads.
pub(crate) fn schema<T: JsonSchema>() -> Schema {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.into_generator().into_root_schema_for::<T>()
}

/// Settings of the chart weft-crds.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Values of charts/weft-crds")]
pub(crate) struct CrdsChart {
    /// The kinds TrafficPolicy and MeshTLSPolicy.
    pub(crate) crds: Crds,
    /// Values that helm shares between charts; not read.
    #[serde(default)]
    pub(crate) global: Map<String, Value>,
}

/// Settings of the chart weft.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(title = "Values of charts/weft")]
pub(crate) struct Chart {
    /// The one image of control plane and sidecars.
    pub(crate) image: Image,
    /// Names of Secrets with which the control plane's image is pulled.
    #[schemars(length(max = 16), inner(length(min = 1, max = 253)))]
    pub(crate) image_pull_secrets: Vec<String>,
    /// The trust domain of all identities.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))]
    pub(crate) trust_domain: String,
    /// The domain in which Services have their names.
    #[schemars(length(min = 1, max = 253), regex(pattern = DNS_NAME))]
    pub(crate) cluster_domain: String,
    /// The kinds TrafficPolicy and MeshTLSPolicy.
    pub(crate) crds: Crds,
    /// Certificates of workloads.
    pub(crate) identity: Identity,
    /// The Deployment weft-control-plane.
    pub(crate) control_plane: ControlPlane,
    /// The two webhooks that put sidecars into pods.
    pub(crate) injector: Injector,
    /// Settings of every sidecar; the pods' own annotations go before them.
    #[schemars(schema_with = "injection")]
    pub(crate) injection: Map<String, Value>,
    /// For the Prometheus operator and Grafana.
    pub(crate) monitoring: Monitoring,
    /// Any further objects, as they are; templates in them are filled in.
    #[schemars(length(max = 256))]
    pub(crate) extra_objects: Vec<Map<String, Value>>,
    /// Values that helm shares between charts; not read.
    #[serde(default)]
    pub(crate) global: Map<String, Value>,
}

/// A DNS name in lower case.
const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// An image's name without a tag.
const IMAGE_NAME: &str = r"^[a-z0-9][a-z0-9._:-]*(/[a-z0-9._-]+)*$";

/// An image's tag, or none.
const IMAGE_TAG: &str = r"^([A-Za-z0-9_][A-Za-z0-9_.-]*)?$";

/// An image's digest, or none.
const IMAGE_DIGEST: &str = r"^(sha256:[0-9a-f]{64})?$";

/// A level, or `target=level,…`.
const LOG_LEVEL: &str = r"^[A-Za-z0-9_:=,.-]+$";

/// The one image of control plane and sidecars.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Image {
    /// Its name without a tag.
    #[schemars(length(min = 1, max = 255), regex(pattern = IMAGE_NAME))]
    pub(crate) repository: String,
    /// Its tag; left empty, the chart's appVersion.
    #[schemars(length(max = 128), regex(pattern = IMAGE_TAG))]
    pub(crate) tag: String,
    /// sha256:…; goes before the tag.
    #[schemars(length(max = 71), regex(pattern = IMAGE_DIGEST))]
    pub(crate) digest: String,
    /// When nodes pull it.
    pub(crate) pull_policy: PullPolicy,
}

/// When nodes pull an image.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// The kinds TrafficPolicy and MeshTLSPolicy.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Crds {
    /// Install them.
    pub(crate) enabled: bool,
    /// Leave them when the chart is uninstalled.
    pub(crate) keep: bool,
}

/// Certificates of workloads.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Identity {
    /// How long a workload's certificate is valid: 60s to 168h.
    pub(crate) leaf_lifetime: weft_api::duration::Duration,
    /// Never make a root: wait for the Secret weft-ca.
    pub(crate) supplied_root: bool,
    /// Answer pods that mount a certificate of signer weft.dev/mesh.
    pub(crate) pod_certificates: bool,
}

/// The Deployment weft-control-plane.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ControlPlane {
    /// How many run; ignored with autoscaling.
    #[schemars(range(min = 1, max = 100))]
    pub(crate) replicas: u32,
    /// A level, or target=level,…
    #[schemars(length(min = 1, max = 256), regex(pattern = LOG_LEVEL))]
    pub(crate) log_level: String,
    /// What it is given, as in a container.
    pub(crate) resources: Map<String, Value>,
    /// system-cluster-critical keeps it running when nodes fill up.
    #[schemars(length(max = 253))]
    pub(crate) priority_class_name: String,
    /// As in a pod.
    pub(crate) node_selector: Map<String, Value>,
    /// As in a pod.
    #[schemars(length(max = 64))]
    pub(crate) tolerations: Vec<Map<String, Value>>,
    /// As in a pod.
    pub(crate) affinity: Map<String, Value>,
    /// How replicas are spread over nodes and zones.
    pub(crate) topology_spread: TopologySpread,
    /// Seconds from the request to stop until it is ended by force.
    #[schemars(range(min = 1, max = 3600))]
    pub(crate) termination_grace_period_seconds: u32,
    /// Further annotations of its pods.
    pub(crate) pod_annotations: Map<String, Value>,
    /// Further labels of its pods.
    pub(crate) pod_labels: Map<String, Value>,
    /// Keeps at least all replicas but one while nodes are drained.
    pub(crate) pod_disruption_budget: Switch,
    /// As many replicas as its CPU time asks for.
    pub(crate) autoscaling: Autoscaling,
    /// Lets others reach its three ports, and nothing else of it.
    pub(crate) network_policy: Switch,
}

/// How replicas are spread: a preference, a demand (for nodes), or not at all.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) enum TopologySpread {
    ScheduleAnyway,
    DoNotSchedule,
    // Not `Off`, which YAML takes for a boolean.
    Disabled,
}

/// Something that is there or not.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Switch {
    /// Whether it is.
    pub(crate) enabled: bool,
}

/// As many replicas as CPU time asks for.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Autoscaling {
    /// Whether it is on.
    pub(crate) enabled: bool,
    /// At least.
    #[schemars(range(min = 1, max = 100))]
    pub(crate) min_replicas: u32,
    /// At most.
    #[schemars(range(min = 1, max = 100))]
    pub(crate) max_replicas: u32,
    /// Of the requested CPU, in percent.
    #[serde(rename = "targetCPUUtilization")]
    #[schemars(range(min = 1, max = 100))]
    pub(crate) target_cpu_utilization: u32,
}

/// The two webhooks that put sidecars into pods.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Injector {
    /// Seconds that the API server waits for an answer.
    #[schemars(range(min = 1, max = 30))]
    pub(crate) timeout_seconds: u32,
}

/// What the chart itself tells the sidecars, from other values.
const DERIVED: [&str; 6] = [
    "image",
    "imagePullPolicy",
    "controlPlane",
    "controlPlaneNamespace",
    "trustDomain",
    "clusterDomain",
];

/// The injector's own settings without those that the chart derives.
fn injection(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = inject::Values::json_schema(generator);
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.retain(|name, _| !DERIVED.contains(&name.as_str()));
    }
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| name.as_str().is_none_or(|name| !DERIVED.contains(&name)));
    }
    schema
}

/// For the Prometheus operator and Grafana.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Monitoring {
    /// PodMonitors of the control plane and of all sidecars.
    pub(crate) pod_monitor: PodMonitor,
    /// Alerts.
    pub(crate) prometheus_rule: Labelled,
    /// A ConfigMap that Grafana's sidecar finds by its label.
    pub(crate) dashboard: Labelled,
}

/// PodMonitors.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct PodMonitor {
    /// Whether they are made.
    pub(crate) enabled: bool,
    /// Between two scrapes.
    #[schemars(length(min = 2, max = 16), regex(pattern = r"^([0-9]+(ms|s|m|h))+$"))]
    pub(crate) interval: String,
    /// Further labels, by which a Prometheus may pick them.
    pub(crate) labels: Map<String, Value>,
}

/// An object that is found by its labels.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Labelled {
    /// Whether it is made.
    pub(crate) enabled: bool,
    /// Its labels.
    pub(crate) labels: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_are_set_by_the_injectors_own_fields() {
        let schema = serde_json::to_value(schema::<Chart>()).unwrap();
        let fields = &schema["properties"]["injection"]["properties"];
        assert!(fields["logLevel"]["maxLength"].is_u64(), "{fields:#}");
        for derived in DERIVED {
            assert_eq!(fields.get(derived), None);
        }
        assert_eq!(schema["properties"]["injection"]["additionalProperties"], false);
    }
}
