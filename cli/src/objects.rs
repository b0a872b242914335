//! Routes and policies as the API server has them, and what the control plane says of them in their status.

use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use serde::Serialize;
use serde_json::Value;

use crate::cluster;

/// Whose entries are ours.
const CONTROLLER: &str = "weft.dev/control-plane";

/// The kinds with a status of ours: group, version, kind and plural.
const KINDS: [(&str, &str, &str, &str); 4] = [
    ("gateway.networking.k8s.io", "v1", "HTTPRoute", "httproutes"),
    ("gateway.networking.k8s.io", "v1", "GRPCRoute", "grpcroutes"),
    ("weft.dev", "v1alpha1", "TrafficPolicy", "trafficpolicies"),
    ("weft.dev", "v1alpha1", "MeshTLSPolicy", "meshtlspolicies"),
];

/// What is said of an object on one parent or target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// `<kind> <namespace>/<name>`.
    pub(crate) object: String,
    /// `Service <namespace>/<name>` with the port, if one is named.
    pub(crate) ancestor: String,
    /// The generation of the object.
    pub(crate) generation: i64,
    /// As they are written; none: nobody has looked at it yet.
    pub(crate) conditions: Vec<Value>,
}

impl Verdict {
    fn condition(&self, kind: &str) -> Option<&Value> {
        self.conditions.iter().find(|condition| condition["type"] == kind)
    }

    /// The status of a condition; `-`: it isn't there.
    pub(crate) fn status(&self, kind: &str) -> &str {
        let found = self
            .condition(kind)
            .and_then(|condition| condition["status"].as_str());
        found.unwrap_or("-")
    }

    /// The message of a condition.
    pub(crate) fn message(&self, kind: &str) -> &str {
        let found = self
            .condition(kind)
            .and_then(|condition| condition["message"].as_str());
        found.unwrap_or_default()
    }

    /// Whether the control plane has looked at the object as it is now.
    pub(crate) fn is_observed(&self) -> bool {
        let observed = |condition: &Value| condition["observedGeneration"].as_i64() == Some(self.generation);
        !self.conditions.is_empty() && self.conditions.iter().all(observed)
    }

    /// What doesn't hold, as `<reason>: <message>`; proxies that are still on their way are no fault.
    pub(crate) fn wrong(&self) -> Vec<String> {
        let wrong = |condition: &&Value| {
            let pending = condition["type"] == "Programmed" && condition["reason"] != "Refused";
            condition["status"] == "False" && !pending
        };
        let said = |condition: &Value| {
            let text = |key: &str| condition[key].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", text("reason"), text("message"))
        };
        let mut said: Vec<String> = self.conditions.iter().filter(wrong).map(said).collect();
        said.dedup();
        said
    }
}

/// Every object of the kinds with a status. A kind that the cluster doesn't know has none.
pub(crate) async fn read(client: &Client, namespace: Option<&str>) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    for (group, version, kind, plural) in KINDS {
        let known = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&known, plural);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        if !serves(client, group, version, plural).await? {
            continue;
        }
        for object in cluster::list(&api, &ListParams::default()).await? {
            let mut value = serde_json::to_value(&object).map_err(|error| error.to_string())?;
            value["kind"] = kind.into();
            found.push(value);
        }
    }
    Ok(found)
}

/// Whether the API server knows a kind.
async fn serves(client: &Client, group: &str, version: &str, plural: &str) -> Result<bool, String> {
    let listed = cluster::answer(client.list_api_group_resources(&format!("{group}/{version}"))).await;
    match listed {
        Ok(listed) => Ok(listed.resources.iter().any(|resource| resource.name == plural)),
        Err(why) if why.contains("not found") || why.contains("could not find") => Ok(false),
        Err(why) => Err(why),
    }
}

/// What is said of an object, parent by parent; parents that are no part of the mesh are left out.
pub(crate) fn verdicts(object: &Value) -> Vec<Verdict> {
    let text = |pointer: &str| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let name = format!(
        "{} {}/{}",
        text("/kind"),
        text("/metadata/namespace"),
        text("/metadata/name")
    );
    let own = text("/metadata/namespace");
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let references = ["/spec/parentRefs", "/spec/targetRefs"]
        .into_iter()
        .filter_map(|pointer| object.pointer(pointer)?.as_array())
        .flatten();
    let mut verdicts: Vec<Verdict> = Vec::new();
    for ancestor in references.filter_map(|reference| ancestor(reference, own)) {
        if verdicts.iter().any(|known| known.ancestor == ancestor) {
            continue;
        }
        verdicts.push(Verdict {
            object: name.clone(),
            conditions: conditions(object, &ancestor, own),
            ancestor,
            generation: generation.unwrap_or_default(),
        });
    }
    verdicts
}

fn conditions(object: &Value, ancestor_name: &str, own: &str) -> Vec<Value> {
    let entries = ["/status/parents", "/status/ancestors"]
        .into_iter()
        .filter_map(|pointer| object.pointer(pointer)?.as_array())
        .flatten();
    let ours = entries.filter(|entry| entry["controllerName"] == CONTROLLER);
    let reference = |entry: &Value| {
        let reference = entry.get("parentRef").or_else(|| entry.get("ancestorRef"))?;
        ancestor(reference, own)
    };
    let mut about = ours.filter(|entry| reference(entry).as_deref() == Some(ancestor_name));
    let conditions = about.next().and_then(|entry| entry["conditions"].as_array());
    conditions.cloned().unwrap_or_default()
}

/// What a reference names, if it can be a part of the mesh. A parent without a group is a Gateway.
fn ancestor(reference: &Value, own: &str) -> Option<String> {
    if reference["group"] != "" {
        return None;
    }
    let name = reference["name"].as_str()?;
    match reference["kind"].as_str()? {
        "Namespace" => Some(format!("Namespace {name}")),
        "Service" => {
            let namespace = reference["namespace"].as_str().unwrap_or(own);
            let port = reference["port"].as_u64().map(|port| port.to_string());
            let port = port.or_else(|| reference["sectionName"].as_str().map(str::to_owned));
            let port = port.map_or_else(String::new, |port| format!(":{port}"));
            Some(format!("Service {namespace}/{name}{port}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_parent_of_the_mesh_has_a_verdict() {
        let condition = |kind: &str, status: &str, reason: &str| json!({ "type": kind, "status": status, "reason": reason, "message": "m", "observedGeneration": 2 });
        let object = json!({
            "kind": "HTTPRoute", "metadata": { "namespace": "shop", "name": "r", "generation": 2 },
            "spec": { "parentRefs": [
                { "name": "gateway" }, { "group": "", "kind": "Service", "name": "a" },
                { "group": "", "kind": "Service", "name": "b", "port": 80 },
            ] },
            "status": { "parents": [
                { "parentRef": { "name": "gateway" }, "controllerName": "example.com/gateway", "conditions": [] },
                { "parentRef": { "group": "", "kind": "Service", "name": "a" }, "controllerName": CONTROLLER,
                  "conditions": [condition("Accepted", "False", "Conflicted"), condition("Programmed", "False", "Pending")] },
            ] },
        });
        let found = verdicts(&object);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].ancestor, "Service shop/a");
        assert_eq!(
            (found[0].status("Accepted"), found[0].wrong()),
            ("False", vec!["Conflicted: m".to_owned()])
        );
        assert!(found[0].is_observed());
        assert_eq!(
            (found[1].ancestor.as_str(), found[1].status("Accepted")),
            ("Service shop/b:80", "-")
        );
        assert!(!found[1].is_observed(), "nobody has looked at it");
    }
}
