//! Objects that have a pod in them: what people give to `weft inject`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Injector, Namespace, Outcome, Refusal, Unmeshed, uninject};

/// Kinds with a pod's template, and where it is.
const TEMPLATES: [(&str, &str); 8] = [
    ("Pod", ""),
    ("Deployment", "/spec/template"),
    ("StatefulSet", "/spec/template"),
    ("DaemonSet", "/spec/template"),
    ("ReplicaSet", "/spec/template"),
    ("ReplicationController", "/spec/template"),
    ("Job", "/spec/template"),
    ("CronJob", "/spec/jobTemplate/spec/template"),
];

/// Objects in a list of lists of lists, at most that deep.
const LIST_DEPTH_MAX: usize = 4;

/// What became of one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Its kind and name, `deployment/cart`.
    pub object: String,
    /// What there is to say about it.
    pub verdict: Verdict,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// It has a sidecar; with warnings.
    Injected(Vec<String>),
    /// It stays as it is.
    Unmeshed(Unmeshed),
    /// No pods come from it; it stays as it is.
    NoPods,
    /// It is refused, and stays as it is.
    Refused(Refusal),
}

/// Injects into an object, or into all objects of a list; `namespace`: of objects that don't say theirs.
pub fn inject_object(injector: &Injector, object: &Value, namespace: &str) -> (Value, Vec<Report>) {
    let mut reports = Vec::new();
    let result = each(object, 0, &mut |object, place| {
        let verdict = match pod(object, place) {
            None => (None, Verdict::NoPods),
            Some(pod) => injected(injector, pod, &namespace_of(object, namespace)),
        };
        reports.push(Report {
            object: title(object),
            verdict: verdict.1,
        });
        verdict.0
    });
    (result, reports)
}

/// Gives an object, or all objects of a list, back as they were before injection.
pub fn uninject_object(object: &Value) -> Result<Value, (String, Refusal)> {
    let mut refused = None;
    let result = each(object, 0, &mut |object, place| {
        let restored = uninject(pod(object, place)?);
        restored
            .map_err(|refusal| refused = Some((title(object), refusal)))
            .ok()
    });
    refused.map_or(Ok(result), Err)
}

fn injected(injector: &Injector, pod: &Value, namespace: &str) -> (Option<Value>, Verdict) {
    let namespace = Namespace {
        name: namespace.to_owned(),
        labels: BTreeMap::new(),
    };
    match injector.inject(pod, &namespace) {
        Ok(Outcome::Injected(done)) => (Some(done.pod), Verdict::Injected(done.warnings)),
        Ok(Outcome::Unmeshed(reason)) => (None, Verdict::Unmeshed(reason)),
        Err(refusal) => (None, Verdict::Refused(refusal)),
    }
}

/// An object with its pod replaced by what `decide` makes of it.
fn each(object: &Value, depth: usize, decide: &mut impl FnMut(&Value, &str) -> Option<Value>) -> Value {
    let mut result = object.clone();
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    if let Some(items) = object.get("items").and_then(Value::as_array)
        && kind.ends_with("List")
        && depth < LIST_DEPTH_MAX
    {
        let items = items.iter().map(|item| each(item, depth + 1, decide)).collect();
        result["items"] = Value::Array(items);
        return result;
    }
    let place = TEMPLATES.iter().find(|(known, _)| *known == kind);
    let place = place.map_or("/none", |(_, place)| *place);
    if let Some(pod) = decide(object, place)
        && let Some(old) = result.pointer_mut(place)
    {
        *old = pod;
    }
    result
}

/// The pod in an object.
fn pod<'a>(object: &'a Value, place: &str) -> Option<&'a Value> {
    object.pointer(place)
}

fn namespace_of(object: &Value, default: &str) -> String {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
    namespace
        .filter(|name| !name.is_empty())
        .unwrap_or(default)
        .to_owned()
}

fn title(object: &Value) -> String {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").or_else(|| text("/metadata/generateName"));
    let kind = text("/kind").unwrap_or("object").to_lowercase();
    format!("{kind}/{}", name.unwrap_or("without a name"))
}
