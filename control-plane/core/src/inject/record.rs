//! What injection replaced in a pod, kept in the pod itself, so that it can be given back.
//!
//! What was added is known by its name. Kept is only what can't be told from the result: the actions of probes, and
//! which collections weren't there, or were `null`, before something was put into them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tuning::{Annotations, INJECTED, REPLACED};
use super::{INIT_CONTAINER, PROXY_CONTAINER, Refusal, member, probes, sidecar};

/// The record; see the module's head.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// Collections that were made.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    made: BTreeMap<Place, Was>,
    /// By `container/kind`: the members of a probe that were replaced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) probes: BTreeMap<String, Map<String, Value>>,
}

/// A collection that injection adds to. Inner ones stand before what they are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Place {
    Volumes,
    InitContainers,
    Annotations,
    Metadata,
}

/// What there was instead of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Was {
    Absent,
    Null,
}

impl Place {
    /// The object that has it, and its key.
    fn of(self) -> (&'static str, &'static str) {
        match self {
            Self::Volumes => ("/spec", "volumes"),
            Self::InitContainers => ("/spec", "initContainers"),
            Self::Annotations => ("/metadata", "annotations"),
            Self::Metadata => ("", "metadata"),
        }
    }
}

impl Record {
    /// That of an injected pod.
    pub(super) fn read(pod: &Value) -> Result<Self, Refusal> {
        match Annotations::of(pod).get(REPLACED) {
            None => Ok(Self::default()),
            Some(text) => serde_json::from_str(text).map_err(|_| Refusal::Record),
        }
    }

    /// Puts items before all others of a list.
    pub(super) fn prepend(&mut self, pod: &mut Value, place: List, items: Vec<Value>) {
        let list = self.collection(pod, place.into(), json!([]));
        if let Some(list) = list.and_then(Value::as_array_mut) {
            list.splice(0..0, items);
        }
    }

    /// Marks a pod as injected, with this record; the last step.
    pub(super) fn mark(mut self, pod: &mut Value, version: &str) {
        self.collection(pod, Place::Metadata, json!({}));
        self.collection(pod, Place::Annotations, json!({}));
        let text = (self != Self::default()).then(|| json!(self).to_string());
        let Some(annotations) = pod
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut)
        else {
            return;
        };
        annotations.insert(INJECTED.to_owned(), json!(version));
        if let Some(text) = text {
            annotations.insert(REPLACED.to_owned(), json!(text));
        }
    }

    /// A collection that is there from now on.
    fn collection<'a>(&mut self, pod: &'a mut Value, place: Place, empty: Value) -> Option<&'a mut Value> {
        let (parent, key) = place.of();
        let parent = pod.pointer_mut(parent)?.as_object_mut()?;
        match parent.get(key) {
            None => self.made.insert(place, Was::Absent),
            Some(Value::Null) => self.made.insert(place, Was::Null),
            Some(_) => return parent.get_mut(key),
        };
        parent.insert(key.to_owned(), empty);
        parent.get_mut(key)
    }

    /// Gives a pod back. What others have added since stays.
    pub(super) fn restore(self, pod: &mut Value) {
        probes::restore(pod, &self);
        let is_ours = |item: &Value, names: &[&str]| {
            let name = item.get("name").and_then(Value::as_str);
            name.is_some_and(|name| names.contains(&name))
        };
        let containers: &[&str] = &[INIT_CONTAINER, PROXY_CONTAINER];
        for (list, names) in [("initContainers", containers), ("volumes", &sidecar::VOLUMES)] {
            let list = pod.get_mut("spec").and_then(|spec| member(spec, list));
            if let Some(items) = list.and_then(Value::as_array_mut) {
                items.retain(|item| !is_ours(item, names));
            }
        }
        let annotations = pod.pointer_mut("/metadata/annotations");
        if let Some(annotations) = annotations.and_then(Value::as_object_mut) {
            annotations.remove(INJECTED);
            annotations.remove(REPLACED);
        }
        for (place, was) in self.made {
            unmake(pod, place, was);
        }
    }
}

/// Makes an empty collection what it was; one that has something in it stays.
fn unmake(pod: &mut Value, place: Place, was: Was) {
    let (parent, key) = place.of();
    let Some(parent) = pod.pointer_mut(parent).and_then(Value::as_object_mut) else {
        return;
    };
    let is_empty = match parent.get(key) {
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
        _ => false,
    };
    if is_empty {
        match was {
            Was::Null => _ = parent.insert(key.to_owned(), Value::Null),
            Was::Absent => _ = parent.remove(key),
        }
    }
}

/// A list in a pod's spec that injection adds to.
#[derive(Clone, Copy, Debug)]
pub(super) enum List {
    /// `spec.initContainers`.
    InitContainers,
    /// `spec.volumes`.
    Volumes,
}

impl From<List> for Place {
    fn from(list: List) -> Self {
        match list {
            List::InitContainers => Self::InitContainers,
            List::Volumes => Self::Volumes,
        }
    }
}
