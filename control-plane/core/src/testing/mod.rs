//! What the tests of several modules share: objects out of YAML, and random events.

pub(crate) mod events;

use serde::Deserialize;
use weft_api::gateway::{GrpcRoute, HttpRoute};
use weft_api::kubernetes::{EndpointSlice, Namespace, Pod, Service};
use weft_api::mesh_tls_policy::MeshTlsPolicy;
use weft_api::object::Object;
use weft_api::traffic_policy::TrafficPolicy;

use crate::catalog::{Catalog, Event};
use crate::names::Settings;
use crate::resource::{Kind, Resource};
use crate::world::ObjectName;
use crate::world::workload::{Workload, WorkloadPort};

pub(crate) fn settings() -> Settings {
    Settings {
        trust_domain: "mesh.test".into(),
        cluster_domain: "cluster.local".into(),
    }
}

/// The objects of a multi-document YAML text.
pub(crate) fn objects(yaml: &str) -> Vec<Object> {
    let documents = serde_yaml::Deserializer::from_str(yaml);
    let values = documents.map(|document| serde_yaml::Value::deserialize(document).unwrap());
    values.filter(|value| !value.is_null()).map(object).collect()
}

fn object(value: serde_yaml::Value) -> Object {
    fn read<T: serde::de::DeserializeOwned + Into<Object>>(value: serde_yaml::Value) -> Object {
        serde_yaml::from_value::<T>(value).unwrap().into()
    }
    match value["kind"].as_str().unwrap() {
        "Namespace" => read::<Namespace>(value),
        "Service" => read::<Service>(value),
        "Pod" => read::<Pod>(value),
        "EndpointSlice" => read::<EndpointSlice>(value),
        "HTTPRoute" => read::<HttpRoute>(value),
        "GRPCRoute" => read::<GrpcRoute>(value),
        "TrafficPolicy" => read::<TrafficPolicy>(value),
        "MeshTLSPolicy" => read::<MeshTlsPolicy>(value),
        other => panic!("no kind of ours: {other}"),
    }
}

/// A catalogue with these objects.
pub(crate) fn catalog(yaml: &str) -> Catalog {
    let mut catalog = Catalog::new(settings());
    apply(&mut catalog, yaml);
    catalog
}

pub(crate) fn apply(catalog: &mut Catalog, yaml: &str) {
    catalog.apply(objects(yaml).into_iter().map(Event::Apply).collect());
}

/// The resource of this name, as a client of `namespace` sees it.
pub(crate) fn resource(catalog: &mut Catalog, kind: Kind, name: &str, namespace: &str) -> Option<Resource> {
    let resolved = catalog.resolve(kind, name, namespace);
    resolved.value.map(|value| (*value.resource).clone())
}

/// A healthy workload at 10.9.9.9 that registered these `(service, port, listen port)`.
pub(crate) fn workload(node: &str, ports: &[(&str, u16, u16)], labels: &[(&str, &str)]) -> Workload {
    let node = ObjectName::parse(node).unwrap();
    let port = |(service, service_port, listen_port): &(&str, u16, u16)| WorkloadPort {
        service: (*service).into(),
        service_port: *service_port,
        listen_port: *listen_port,
    };
    Workload {
        identity: settings().identity(&node.namespace, "shop"),
        node,
        address: [10, 9, 9, 9].into(),
        ports: ports.iter().map(port).collect(),
        zone: "".into(),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect(),
        healthy: true,
        ready: true,
    }
}
