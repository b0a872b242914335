//! What the control plane's core is given: a cluster of Services with their EndpointSlices, all of them in use.

use serde_json::json;
use weft_api::kubernetes::{EndpointSlice, Service};
use weft_api::object::Object;
use weft_control_plane_core::catalog::{Catalog, Event, Settings};
use weft_control_plane_core::resource::Kind;

/// Services that share a namespace.
const SERVICES_PER_NAMESPACE: usize = 100;
/// Endpoints of each Service.
const ENDPOINTS: usize = 4;

fn namespace(index: usize) -> String {
    format!("ns-{}", index / SERVICES_PER_NAMESPACE)
}

/// The `index`th Service.
///
/// # Panics
/// Never: the manifest is a constant shape.
pub fn service(index: usize) -> Object {
    let service: Service = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": format!("svc-{index}"), "namespace": namespace(index) },
        "spec": {
            "selector": { "app": format!("svc-{index}") },
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http" }],
        },
    }))
    .expect("a Service");
    service.into()
}

/// The `index`th Service's endpoints, the first of which is ready or not.
///
/// # Panics
/// Never: the manifest is a constant shape.
pub fn slice(index: usize, first_ready: bool) -> Object {
    let endpoint = |nth: usize| {
        let ready = nth > 0 || first_ready;
        json!({
            "addresses": [format!("10.{}.{}.{nth}", index / 250, index % 250)],
            "conditions": { "ready": ready, "serving": true, "terminating": !ready },
            "zone": "zone-a",
        })
    };
    let slice: EndpointSlice = serde_json::from_value(json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "addressType": "IPv4",
        "metadata": {
            "name": format!("svc-{index}-a"),
            "namespace": namespace(index),
            "labels": { "kubernetes.io/service-name": format!("svc-{index}") },
        },
        "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        "endpoints": (0..ENDPOINTS).map(endpoint).collect::<Vec<_>>(),
    }))
    .expect("an EndpointSlice");
    slice.into()
}

/// A world of `services`, each used by somebody: everything that a proxy asks for is held.
pub fn catalog(services: usize) -> Catalog {
    let settings = Settings {
        trust_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
    };
    let mut catalog = Catalog::new(settings);
    let objects = (0..services).flat_map(|index| [service(index), slice(index, true)]);
    catalog.apply(objects.map(Event::Apply).collect());
    for index in 0..services {
        let namespace = namespace(index);
        let name = format!("svc-{index}.{namespace}.svc.cluster.local:80");
        for kind in [Kind::Listener, Kind::Route, Kind::Cluster, Kind::Endpoints] {
            catalog.resolve(kind, &name, &namespace);
        }
    }
    catalog.changes();
    catalog
}
