//! Puts a sidecar into a pod, or says why not.
//!
//! Pods come as they are written: JSON, with fields that nobody here knows, which stay. [`Injector::inject`] adds two
//! init containers before all others, `weft-init`, which installs the capture rules and ends, and `weft-proxy`, the
//! sidecar, and the volumes that they mount; it sends the kubelet's probes through the sidecar's status port, because
//! under strict mutual TLS the kubelet itself is nobody; and it records in an annotation what it replaced.
//! [`uninject`] gives exactly the input back, and a pod that was injected already is given back first and injected
//! anew: twice is the same as once, and what runs is always what the operator's values say.
//!
//! The webhook and `weft inject` call the same function. What it refuses it refuses in one sentence with the remedy;
//! a pod that can't be in the mesh by its nature (host network, Windows) stays as it is.
//!
//! Start here, then [`values`], what an operator sets, and [`tuning`], what a pod's annotations may say.

mod check;
pub mod patch;
mod probes;
mod record;
mod sidecar;
mod text;
pub mod tuning;
pub mod values;
pub mod workload;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};
use thiserror::Error;

use check::Pod;
use record::{List, Record};
pub(crate) use sidecar::STATUS_PORT;
pub use text::TextError;
pub(crate) use text::{Ports, ports};
use tuning::{AnnotationError, Annotations, INJECTED, REPLACED, Tuning, ValueError};
pub use values::Values;

/// The init container that installs the capture rules.
pub const INIT_CONTAINER: &str = "weft-init";
/// The sidecar.
pub const PROXY_CONTAINER: &str = "weft-proxy";
/// What injects: the version that injected pods are marked with.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The label by which a namespace enforces a level of Pod Security.
const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";
/// Namespaces of the cluster itself, beside the control plane's own.
const SYSTEM_NAMESPACE: &str = "kube-system";
/// Warnings about one pod, at most.
const WARNINGS_MAX: usize = 8;

/// What has to be known of a pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels; empty where they aren't known.
    pub labels: BTreeMap<String, String>,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is in the mesh.
    Injected(Injected),
    /// It stays as it is.
    Unmeshed(Unmeshed),
}

/// A pod with its sidecar.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// The pod.
    pub pod: Value,
    /// What its author should know, one sentence each.
    pub warnings: Vec<String>,
}

/// Why a pod stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unmeshed {
    /// Nothing is injected in this namespace.
    Namespace(String),
    /// It says so itself.
    OptedOut,
    /// It is the API server's image of a pod that a kubelet runs from a file.
    Mirror,
    /// It uses its node's network.
    HostNetwork,
    /// It runs on Windows.
    Windows,
}

impl Unmeshed {
    /// Whether its author may have expected otherwise.
    pub fn is_surprising(&self) -> bool {
        matches!(self, Self::HostNetwork | Self::Windows)
    }
}

impl fmt::Display for Unmeshed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "nothing is injected in the namespace {name}"),
            Self::OptedOut => write!(f, "the pod is kept out by {}=disabled", tuning::INJECT),
            Self::Mirror => f.write_str("the pod mirrors one that a kubelet runs from a file"),
            Self::HostNetwork => f.write_str(
                "the pod is not in the mesh: it uses its node's network (hostNetwork), where nothing can be captured \
                 for one pod alone",
            ),
            Self::Windows => f.write_str("the pod is not in the mesh: it runs on Windows"),
        }
    }
}

/// Why a pod is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// An annotation's value.
    #[error(transparent)]
    Annotation(#[from] AnnotationError),
    /// The record of what injection replaced isn't one.
    #[error("annotation {REPLACED}: injection did not write this; remove it together with {INJECTED}")]
    Record,
    /// The namespace allows no capture.
    #[error(
        "namespace {namespace} enforces the Pod Security level {level}, which forbids the capability NET_ADMIN that \
         capturing traffic needs; label the namespace {POD_SECURITY}=privileged, or keep the pod out of the mesh by \
         the annotation {}=disabled",
        tuning::INJECT
    )]
    PodSecurity {
        /// The namespace.
        namespace: String,
        /// What it enforces.
        level: String,
    },
    /// A container would pass the mesh by.
    #[error(
        "container {container} runs as user {uid}, which is the sidecar's, so that its traffic would pass the mesh \
         by; give it another runAsUser"
    )]
    User {
        /// The container.
        container: String,
        /// The user.
        uid: u32,
    },
    /// A name that is the mesh's own.
    #[error("the name {name} of a {what} is reserved for the mesh; give it another one")]
    Reserved {
        /// What has the name.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// A container mounts what belongs to the sidecar.
    #[error(
        "container {container} mounts the volume {volume}, which is the sidecar's alone; remove the mount"
    )]
    Mount {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
    },
    /// A container wants to listen where the sidecar does.
    #[error("container {container} has the port {port}, on which the sidecar listens; choose another one")]
    Port {
        /// The container.
        container: String,
        /// The port.
        port: u16,
    },
    /// The probes don't fit into the sidecar's environment.
    #[error("the probes of the pod's containers have {0} bytes, at most {max} can be rewritten; shorten their headers", max = probes::BYTES_MAX)]
    Probes(usize),
    /// It is no pod.
    #[error("this is no pod: {0}")]
    Malformed(String),
}

/// Puts sidecars into pods, all by the same values.
#[derive(Clone, Debug, PartialEq)]
pub struct Injector {
    values: Values,
    tuning: Tuning,
}

impl Injector {
    /// One that goes by these values; everything that is wrong with them is told.
    pub fn new(values: Values) -> Result<Self, Vec<ValueError>> {
        let tuning = Tuning::of_values(&values)?;
        Ok(Self { values, tuning })
    }

    /// What it goes by.
    pub fn values(&self) -> &Values {
        &self.values
    }

    /// Decides about a pod of this namespace. Nothing of the pod is read that needn't be, and nothing is changed that
    /// [`uninject`] couldn't give back.
    pub fn inject(&self, pod: &Value, namespace: &Namespace) -> Result<Outcome, Refusal> {
        if let Some(unmeshed) = self.unmeshed(pod, namespace)? {
            return Ok(Outcome::Unmeshed(unmeshed));
        }
        if let Some(level) = namespace
            .labels
            .get(POD_SECURITY)
            .filter(|level| *level != "privileged")
        {
            return Err(Refusal::PodSecurity {
                namespace: namespace.name.clone(),
                level: level.clone(),
            });
        }
        let mut pod = uninject(pod)?;
        let annotations = Annotations::of(&pod);
        if annotations.get(REPLACED).is_some() {
            return Err(Refusal::Record);
        }
        let tuning = self.tuning.clone().refined(annotations)?;
        let mut warnings: Vec<String> = annotations.unknown().map(unknown).collect();
        warnings.extend(short_grace(&pod, annotations, &tuning));
        let checked = Pod::read(&pod)?;
        checked.check(self.values.uid)?;
        let mut record = Record::default();
        let probes = probes::rewrite(&mut pod, &mut record, &mut warnings)?;
        let init = sidecar::init(&self.values, &tuning);
        let proxy = sidecar::proxy(&self.values, &tuning, &probes);
        record.prepend(&mut pod, List::InitContainers, vec![init, proxy]);
        record.prepend(&mut pod, List::Volumes, sidecar::volumes());
        record.mark(&mut pod, VERSION);
        warnings.truncate(WARNINGS_MAX);
        Ok(Outcome::Injected(Injected { pod, warnings }))
    }

    /// Why a pod stays as it is, if it does.
    fn unmeshed(&self, pod: &Value, namespace: &Namespace) -> Result<Option<Unmeshed>, Refusal> {
        let name = &namespace.name;
        if name == SYSTEM_NAMESPACE || *name == self.values.control_plane_namespace {
            return Ok(Some(Unmeshed::Namespace(name.clone())));
        }
        let annotations = Annotations::of(pod);
        if annotations.get("kubernetes.io/config.mirror").is_some() {
            return Ok(Some(Unmeshed::Mirror));
        }
        if annotations.switch(Annotations::labels_of(pod))? == Some(false) {
            return Ok(Some(Unmeshed::OptedOut));
        }
        if pod.pointer("/spec/hostNetwork") == Some(&Value::Bool(true)) {
            return Ok(Some(Unmeshed::HostNetwork));
        }
        let windows = pod.pointer("/spec/os/name").and_then(Value::as_str) == Some("windows");
        Ok(windows.then_some(Unmeshed::Windows))
    }
}

/// Gives back what a pod was before injection; a pod that wasn't injected stays as it is.
pub fn uninject(pod: &Value) -> Result<Value, Refusal> {
    if Annotations::of(pod).get(INJECTED).is_none() {
        return Ok(pod.clone());
    }
    let record = Record::read(pod)?;
    let mut pod = pod.clone();
    record.restore(&mut pod);
    Ok(pod)
}

fn unknown(name: &str) -> String {
    let name: String = name.chars().take(128).collect();
    format!("annotation {name} means nothing to the mesh; is it misspelt?")
}

/// A pod that asks for a longer drain than its grace period allows doesn't get it.
fn short_grace(pod: &Value, annotations: Annotations<'_>, tuning: &Tuning) -> Option<String> {
    const GRACE_SECS: u64 = 30;
    let grace = pod.pointer("/spec/terminationGracePeriodSeconds");
    let grace = grace.and_then(Value::as_u64).unwrap_or(GRACE_SECS);
    annotations.get(tuning::DRAIN_TIME)?;
    (tuning.drain_time.get().as_secs() > grace).then(|| {
        format!(
            "annotation {}: the pod is ended after terminationGracePeriodSeconds, {grace} s, whatever still runs",
            tuning::DRAIN_TIME
        )
    })
}

/// The member `key` of an object, as one that can be written to.
fn member<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    object.as_object_mut()?.get_mut(key)
}

/// An object out of pairs whose value is there.
fn object<const N: usize>(pairs: [(&str, Option<Value>); N]) -> Value {
    let pairs = pairs.into_iter();
    let members: Map<String, Value> = pairs
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect();
    json!(members)
}
