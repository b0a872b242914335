//! What objects come to, one rule of the Gateway API or of the mesh at a time.

mod cluster;
mod destinations;
mod policies;
mod routes;
mod workloads;

use crate::catalog::{Catalog, Event};
use crate::resource::{Cluster, Endpoint, InboundPort, Kind, Listener, Protocol, Resource, RouteTable};
use crate::testing::{catalog, resource, workload};

/// A Service `user` in `shop`, port 80 without a protocol, and one endpoint behind it.
const USER: &str = "
apiVersion: v1
kind: Service
metadata: {name: user, namespace: shop}
spec: {clusterIP: 10.0.0.1, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: user-1
  namespace: shop
  labels: {kubernetes.io/service-name: user}
  annotations: {weft.dev/service-account: user}
addressType: IPv4
ports: [{port: 8080}]
endpoints: [{addresses: [10.1.0.1], zone: west}]
";

/// Its cluster's name.
const USER_NAME: &str = "user.shop.svc.cluster.local:80";

fn listener(catalog: &mut Catalog, name: &str, namespace: &str) -> Option<Listener> {
    resource(catalog, Kind::Listener, name, namespace).map(|found| match found {
        Resource::Listener(listener) => listener,
        other => panic!("{other:?}"),
    })
}

fn protocol(catalog: &mut Catalog, name: &str, namespace: &str) -> Protocol {
    match listener(catalog, name, namespace) {
        Some(Listener::Outbound { protocol, .. }) => protocol,
        other => panic!("{other:?}"),
    }
}

fn inbound(catalog: &mut Catalog, node: &str) -> Option<Vec<InboundPort>> {
    listener(catalog, &format!("inbound/{node}"), "shop").map(|found| match found {
        Listener::Inbound { ports, .. } => ports,
        other => panic!("{other:?}"),
    })
}

/// Whether plaintext is let in on ports that nobody declared.
fn undeclared(catalog: &mut Catalog, node: &str) -> bool {
    match listener(catalog, &format!("inbound/{node}"), "shop") {
        Some(Listener::Inbound { permissive, .. }) => permissive,
        other => panic!("{other:?}"),
    }
}

fn table(catalog: &mut Catalog, name: &str, namespace: &str) -> Option<RouteTable> {
    resource(catalog, Kind::Route, name, namespace).map(|found| match found {
        Resource::Route(table) => table,
        other => panic!("{other:?}"),
    })
}

fn cluster(catalog: &mut Catalog, name: &str) -> Cluster {
    match resource(catalog, Kind::Cluster, name, "shop") {
        Some(Resource::Cluster(cluster)) => cluster,
        other => panic!("{other:?}"),
    }
}

fn endpoints(catalog: &mut Catalog, name: &str) -> Vec<Endpoint> {
    match resource(catalog, Kind::Endpoints, name, "shop") {
        Some(Resource::Endpoints(found)) => found.endpoints,
        other => panic!("{other:?}"),
    }
}

/// The addresses of a cluster's endpoints.
fn addresses(catalog: &mut Catalog, name: &str) -> Vec<String> {
    endpoints(catalog, name)
        .iter()
        .map(|endpoint| endpoint.address.to_string())
        .collect()
}

fn register(catalog: &mut Catalog, node: &str, ports: &[(&str, u16, u16)], labels: &[(&str, &str)]) {
    catalog.apply(vec![Event::Register(workload(node, ports, labels))]);
}

/// [`USER`] and more.
fn user_and(yaml: &str) -> Catalog {
    catalog(&format!("{USER}---\n{yaml}"))
}
