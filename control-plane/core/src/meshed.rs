//! Which namespaces are meshed: those that need the trust bundle.
//!
//! A namespace is meshed if it has the label, or if a Pod in it is in the mesh or asks to be. As long as one Pod of the
//! mesh is left the namespace stays meshed, label or not: its proxy still needs the roots. A namespace that is being
//! deleted is not.

use std::collections::{BTreeMap, BTreeSet};

use crate::resource::Name;

/// See the module's head. All operations cost the logarithm of what is held.
#[derive(Clone, Debug, Default)]
pub struct Meshed {
    /// By name: whether it has the label. Namespaces that are going are left out.
    namespaces: BTreeMap<Name, bool>,
    pods: BTreeMap<Name, BTreeSet<Name>>,
}

impl Meshed {
    /// A namespace is so now.
    pub fn namespace_applied(&mut self, name: Name, labelled: bool, terminating: bool) {
        if terminating {
            self.namespaces.remove(&name);
        } else {
            self.namespaces.insert(name, labelled);
        }
    }

    /// A namespace is gone.
    pub fn namespace_deleted(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.pods.remove(name);
    }

    /// A Pod is so now; `in_mesh`: it was injected, or asks to be by annotation or label.
    pub fn pod_applied(&mut self, namespace: &Name, pod: &Name, in_mesh: bool) {
        if in_mesh {
            let pods = self.pods.entry(namespace.clone()).or_default();
            pods.insert(pod.clone());
        } else {
            self.pod_deleted(namespace, pod);
        }
    }

    /// A Pod is gone.
    pub fn pod_deleted(&mut self, namespace: &str, pod: &str) {
        if let Some(pods) = self.pods.get_mut(namespace) {
            pods.remove(pod);
            if pods.is_empty() {
                self.pods.remove(namespace);
            }
        }
    }

    /// The namespaces that are meshed.
    pub fn namespaces(&self) -> BTreeSet<Name> {
        let meshed = self
            .namespaces
            .iter()
            .filter(|(name, labelled)| **labelled || self.pods.contains_key(*name));
        meshed.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_or_a_pod_makes_it_meshed() {
        let mut meshed = Meshed::default();
        let names = |meshed: &Meshed| {
            meshed
                .namespaces()
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        meshed.namespace_applied("a".into(), true, false);
        meshed.namespace_applied("b".into(), false, false);
        assert_eq!(names(&meshed), ["a"]);
        meshed.pod_applied(&"b".into(), &"p".into(), true);
        assert_eq!(names(&meshed), ["a", "b"]);
        // The label goes, a pod of the mesh stays.
        meshed.pod_applied(&"a".into(), &"q".into(), true);
        meshed.namespace_applied("a".into(), false, false);
        assert_eq!(names(&meshed), ["a", "b"]);
        meshed.pod_applied(&"a".into(), &"q".into(), false);
        meshed.pod_deleted("b", "p");
        assert_eq!(names(&meshed), Vec::<String>::new());
        // A Pod that is seen before its namespace, a namespace that goes.
        meshed.pod_applied(&"c".into(), &"p".into(), true);
        assert_eq!(names(&meshed), Vec::<String>::new());
        meshed.namespace_applied("c".into(), false, false);
        assert_eq!(names(&meshed), ["c"]);
        meshed.namespace_applied("c".into(), true, true);
        assert_eq!(names(&meshed), Vec::<String>::new());
        meshed.namespace_deleted("c");
        assert!(meshed.pods.is_empty());
    }
}
