//! What is known of an installation: answers of the API server and of processes, as they came. Nothing is judged here.

use std::collections::BTreeMap;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::version::Info;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::cluster::SYSTEM;
use crate::status::Stream;

/// An answer, or why there is none.
pub(crate) type Answer<T> = Result<T, String>;

/// Says whether a namespace or pod is meshed.
pub(crate) const INJECT: &str = "weft.dev/inject";

/// The sidecar's container.
pub(crate) const PROXY: &str = "weft-proxy";

/// The container that installs capture.
pub(crate) const INIT: &str = "weft-init";

/// Namespaces whose pods are never injected.
const NEVER: [&str; 2] = ["kube-system", SYSTEM];

/// Whether an account may do something.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Right {
    /// `verb resource[.group][/sub]`.
    pub(crate) what: String,
    pub(crate) allowed: bool,
}

/// What a replica of the control plane says of itself and its clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    pub(crate) streams: Vec<Stream>,
    pub(crate) objects: Objects,
}

/// The answer to `/objects`, as far as it matters here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Objects {
    #[serde(default)]
    pub(crate) objects: Vec<Judged>,
}

/// What is said of one object.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Judged {
    pub(crate) object: String,
    pub(crate) conditions: Vec<Value>,
}

/// What came of a pod that was created only in rehearsal.
#[derive(Clone, Debug)]
pub(crate) enum Rehearsal {
    /// It came back, with these init containers.
    Admitted(Vec<String>),
    /// It was refused.
    Refused(String),
}

/// Unmeshed callers of one proxy, from its metrics.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Metrics {
    /// By Service and port: requests and connections that came in plaintext.
    pub(crate) plaintext: BTreeMap<String, u64>,
    /// Connections that were refused because they came in plaintext.
    pub(crate) refused: u64,
    /// When its certificate ends.
    pub(crate) certificate_ends: Option<Timestamp>,
}

/// Everything that was gathered.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) now: Timestamp,
    /// Only this namespace's workloads were looked at.
    pub(crate) namespace: Option<String>,
    pub(crate) version: Answer<Info>,
    pub(crate) crds: Answer<Vec<CustomResourceDefinition>>,
    /// Of whoever asks: what an installation takes (`--pre`).
    pub(crate) own_rights: Answer<Vec<Right>>,
    /// Of the control plane's account.
    pub(crate) rights: Answer<Vec<Right>>,
    pub(crate) deployment: Answer<Option<Deployment>>,
    pub(crate) planes: Answer<Vec<Pod>>,
    /// Ready endpoints of its Service, of both families together.
    pub(crate) endpoints: Answer<usize>,
    pub(crate) webhooks: Answer<Option<MutatingWebhookConfiguration>>,
    pub(crate) rehearsal: Option<Rehearsal>,
    pub(crate) lease: Answer<Option<Lease>>,
    /// Trust bundles of all namespaces.
    pub(crate) bundles: Answer<Vec<ConfigMap>>,
    pub(crate) namespaces: Answer<Vec<Namespace>>,
    pub(crate) pods: Answer<Vec<Pod>>,
    pub(crate) services: Answer<Vec<Service>>,
    /// Routes and policies.
    pub(crate) objects: Answer<Vec<Value>>,
    /// By pod of the control plane.
    pub(crate) replicas: BTreeMap<String, Answer<Replica>>,
    /// By `<namespace>/<pod>`.
    pub(crate) metrics: BTreeMap<String, Answer<Metrics>>,
}

impl Facts {
    /// Whether there is a control plane at all. When nobody can tell, there is.
    pub(crate) fn is_installed(&self) -> bool {
        let deployed = !matches!(&self.deployment, Ok(None));
        deployed || matches!(&self.planes, Ok(pods) if !pods.is_empty())
    }

    /// Whether one of its pods is ready.
    pub(crate) fn is_serving(&self) -> bool {
        self.planes.as_ref().is_ok_and(|pods| pods.iter().any(is_ready))
    }

    /// A namespace by its name.
    fn namespace_of(&self, pod: &Pod) -> Option<&Namespace> {
        let name = pod.metadata.namespace.as_deref()?;
        let mut all = self.namespaces.as_ref().ok()?.iter();
        all.find(|namespace| namespace.metadata.name.as_deref() == Some(name))
    }

    /// Whether a pod should have a sidecar: what it says itself, else what its namespace says.
    pub(crate) fn wants(&self, pod: &Pod) -> bool {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        if NEVER.contains(&namespace) {
            return false;
        }
        let own = pod.metadata.annotations.as_ref().and_then(|all| all.get(INJECT));
        let own = own.or_else(|| pod.metadata.labels.as_ref()?.get(INJECT));
        match own.map(String::as_str) {
            Some("enabled") => true,
            Some("disabled") => false,
            _ => self.namespace_of(pod).is_some_and(is_meshed),
        }
    }

    /// The pods that were looked at and have not ended.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().flatten().filter(|pod| !has_ended(pod))
    }
}

/// Whether a namespace carries the label.
pub(crate) fn is_meshed(namespace: &Namespace) -> bool {
    let labels = namespace.metadata.labels.as_ref();
    let labelled = labels.and_then(|labels| labels.get(INJECT)).map(String::as_str) == Some("enabled");
    let name = namespace.metadata.name.as_deref().unwrap_or_default();
    labelled && !NEVER.contains(&name) && namespace.metadata.deletion_timestamp.is_none()
}

/// `<namespace>/<name>`.
pub(crate) fn name(pod: &Pod) -> String {
    format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    )
}

/// Whether a pod has the sidecar.
pub(crate) fn is_injected(pod: &Pod) -> bool {
    let containers = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    containers.into_iter().any(|container| container.name == PROXY)
}

/// Whether a pod shares its node's network.
pub(crate) fn is_on_host(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|spec| spec.host_network == Some(true))
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut ready = conditions
        .into_iter()
        .filter(|condition| condition.type_ == "Ready");
    ready.any(|condition| condition.status == "True")
}

/// Whether a pod is over, or on its way out.
fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed"))
}

/// Who made a pod, as kubectl names it: `deployment/user`, or `pod/user` for one that nobody made.
pub(crate) fn workload(pod: &Pod) -> String {
    let owners = pod.metadata.owner_references.iter().flatten();
    let Some(owner) = owners.into_iter().find(|owner| owner.controller == Some(true)) else {
        return format!("pod/{}", pod.metadata.name.as_deref().unwrap_or_default());
    };
    let labels = pod.metadata.labels.as_ref();
    let hash = labels.and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(&format!("-{hash}")));
    match (owner.kind.as_str(), deployment) {
        ("ReplicaSet", Some(deployment)) => format!("deployment/{deployment}"),
        (kind, _) => format!("{}/{}", kind.to_ascii_lowercase(), owner.name),
    }
}
