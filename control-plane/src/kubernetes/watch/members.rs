//! Who has to know of Namespaces and Pods beside the catalogue: which namespaces are meshed, and whose tokens no longer
//! count.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_api::kubernetes::{Namespace, ObjectMeta, Pod};
use weft_api::object::{Kind, Object};
use weft_control_plane_core::ingest::in_mesh;
use weft_control_plane_core::inject::tuning::INJECT;

use super::decode::Name;
use crate::kubernetes::meshing::Meshing;
use crate::kubernetes::review::Reviewer;

/// See the module's head.
pub(super) struct Members {
    meshing: Arc<Meshing>,
    reviewer: Arc<Reviewer>,
    /// The uids of the mesh's Pods.
    pods: BTreeMap<Name, String>,
    /// Of Namespaces and Pods, those that have been read once.
    read: BTreeSet<Kind>,
}

impl Members {
    pub(super) fn new(meshing: Arc<Meshing>, reviewer: Arc<Reviewer>) -> Self {
        Self {
            meshing,
            reviewer,
            pods: BTreeMap::new(),
            read: BTreeSet::new(),
        }
    }

    /// An object is so now.
    pub(super) fn applied(&mut self, name: &Name, object: &Object) {
        match object {
            Object::Namespace(namespace) => self.namespace(name, namespace),
            Object::Pod(pod) => self.pod(name, pod),
            _ => {}
        }
    }

    fn namespace(&self, (_, name): &Name, namespace: &Namespace) {
        let metadata = &namespace.metadata;
        let terminating = metadata.deletion_timestamp.is_some();
        let labelled = label(metadata) == Some("enabled");
        self.meshing
            .change(|meshed| meshed.namespace_applied(name.clone(), labelled, terminating));
    }

    fn pod(&mut self, name: &Name, pod: &Pod) {
        let metadata = &pod.metadata;
        let annotation = metadata.annotations.as_ref().and_then(|all| all.get(INJECT));
        let asks = annotation.map(String::as_str).or(label(metadata)) == Some("enabled");
        let member = in_mesh(pod);
        self.meshing
            .change(|meshed| meshed.pod_applied(&name.0, &name.1, member || asks));
        let uid = metadata.uid.clone().filter(|_| member);
        let before = match uid.clone() {
            Some(uid) => self.pods.insert(name.clone(), uid),
            None => self.pods.remove(name),
        };
        if before != uid {
            self.gone(before);
        }
    }

    /// An object is gone.
    pub(super) fn deleted(&mut self, kind: Kind, name: &Name) {
        match kind {
            Kind::Namespace => self.meshing.change(|meshed| meshed.namespace_deleted(&name.1)),
            Kind::Pod => {
                self.meshing.change(|meshed| meshed.pod_deleted(&name.0, &name.1));
                let uid = self.pods.remove(name);
                self.gone(uid);
            }
            _ => {}
        }
    }

    /// A change of a kind has been told; `read`: the whole kind.
    pub(super) fn told(&mut self, kind: Kind, read: bool) {
        if !matches!(kind, Kind::Namespace | Kind::Pod) {
            return;
        }
        if read {
            self.read.insert(kind);
        }
        // Before both are known a namespace would look as if it were no longer meshed.
        if self.read.len() == 2 {
            self.meshing.publish();
        }
    }

    fn gone(&self, uid: Option<String>) {
        if let Some(uid) = uid {
            self.reviewer.pod_deleted(&uid);
        }
    }
}

fn label(metadata: &ObjectMeta) -> Option<&str> {
    Some(metadata.labels.as_ref()?.get(INJECT)?.as_str())
}
