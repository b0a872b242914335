//! What the publisher knows, as JSON for people: who is connected and has what, and what is in force.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use serde_json::{Map, Value, json};
use weft_control_plane_core::acks::{Holding, StreamId};
use weft_control_plane_core::resource::Kind;
use weft_control_plane_core::stream::Variant;

use super::state::State;

impl State {
    /// `GET /clients`.
    pub(super) fn clients(&mut self) -> Value {
        let streams: Vec<StreamId> = self.streams.keys().copied().collect();
        let clients: Vec<Value> = streams.into_iter().filter_map(|id| self.client(id)).collect();
        let workloads = self.registry.workloads().map(|(workload, connected)| {
            json!({
                "node": workload.node.to_string(),
                "identity": &*workload.identity,
                "address": workload.address,
                "ports": workload.ports.iter().map(|port| json!({
                    "service": &*port.service,
                    "service_port": port.service_port,
                    "listen_port": port.listen_port,
                })).collect::<Vec<_>>(),
                "healthy": workload.healthy,
                "connected": connected,
            })
        });
        json!({ "clients": clients, "registrations": workloads.collect::<Vec<_>>() })
    }

    fn client(&mut self, id: StreamId) -> Option<Value> {
        let sync = self.sync(id);
        let stream = self.streams.get(&id)?;
        let account = stream.client.account();
        let mut resources: BTreeMap<Kind, Map<String, Value>> = BTreeMap::new();
        for ((kind, name), holding) in self.ledger.holdings(id) {
            resources
                .entry(*kind)
                .or_default()
                .insert(name.to_string(), holding_json(holding));
        }
        let resources = resources
            .into_iter()
            .map(|(kind, names)| (format!("{kind:?}"), Value::Object(names)));
        let since = stream
            .since
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let refused = sync.refused.iter();
        let refused = refused.map(|(resource, reason)| json!({ "resource": resource, "reason": reason }));
        Some(json!({
            "node": stream.client.node().to_string(),
            "version": stream.version,
            "state": sync.state(),
            "waiting": sync.waiting,
            "behind": sync.behind,
            "refused": refused.collect::<Vec<_>>(),
            "identity": &*self.catalog.settings().identity(&account.namespace, &account.name),
            "dialect": stream.client.dialect().as_str(),
            "protocol": match stream.variant {
                Variant::Delta => "delta",
                Variant::StateOfTheWorld => "state-of-the-world",
            },
            "peer": stream.peer.to_string(),
            "connected_since": since,
            "resources": resources.collect::<Map<String, Value>>(),
        }))
    }

    /// `GET /objects`: each object's conditions, and what of the manifests is not in force as it is written.
    pub(super) fn objects(&self) -> Value {
        let objects = self.catalog.conditions().into_iter().map(|status| {
            let conditions = status.conditions.iter().map(|condition| {
                json!({
                    "type": format!("{:?}", condition.kind),
                    "status": if condition.holds { "True" } else { "False" },
                    "reason": condition.reason.to_string(),
                    "message": condition.message,
                    "ancestor": condition.ancestor.as_ref().map(ToString::to_string),
                })
            });
            json!({ "object": status.object.to_string(), "generation": status.generation, "conditions": conditions.collect::<Vec<_>>() })
        });
        let (problems, notices): (Vec<_>, Vec<_>) =
            self.problems.iter().partition(|problem| problem.is_error());
        json!({ "objects": objects.collect::<Vec<_>>(), "problems": problems, "notices": notices })
    }
}

fn holding_json(holding: &Holding) -> Value {
    let mut value = json!({ "acknowledged": holding.version.map(|version| version.to_string()) });
    if let Some((version, reason)) = &holding.refused {
        value["refused"] = json!({
            "version": version.map(|version| version.to_string()),
            "reason": &**reason,
        });
    }
    value
}
