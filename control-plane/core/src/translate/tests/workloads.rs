//! Registered workloads as endpoints, and a workload's own side.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::testing::events::any_event;
use crate::testing::settings;
use crate::world::service::{Service, ServicePort, TargetPort};
use crate::world::slice::SliceEndpoint;
use crate::world::workload::Workload;
use crate::world::{Id, Item, ObjectName, World};

/// `product`, and one Service for each of its versions.
const PRODUCT: &str = "
apiVersion: v1
kind: Service
metadata: {name: product, namespace: shop}
spec: {selector: {app: product}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: product-v1, namespace: shop}
spec: {selector: {app: product, version: v1}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: product-v2, namespace: shop}
spec: {selector: {app: product, version: v2}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: payment, namespace: shop}
spec: {selector: {app: payment}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: all, namespace: shop}
spec: {ports: [{name: http, port: 80, targetPort: 8080}]}
";

fn name(service: &str) -> String {
    format!("{service}.shop.svc.cluster.local:80")
}

#[test]
fn labels_narrow_what_a_workload_registered_for() {
    let mut catalog = catalog(PRODUCT);
    register(
        &mut catalog,
        "shop/p1",
        &[("product", 80, 9001)],
        &[("app", "product"), ("version", "v1")],
    );
    register(
        &mut catalog,
        "shop/p2",
        &[("product", 80, 9002)],
        &[("app", "product"), ("version", "v2")],
    );
    assert_eq!(
        addresses(&mut catalog, &name("product")),
        ["10.9.9.9:9001", "10.9.9.9:9002"]
    );
    assert_eq!(addresses(&mut catalog, &name("product-v1")), ["10.9.9.9:9001"]);
    assert_eq!(addresses(&mut catalog, &name("product-v2")), ["10.9.9.9:9002"]);
}

#[test]
fn labels_never_widen_it() {
    let mut catalog = catalog(PRODUCT);
    // A Service that it registered for without a selector is refined by none.
    register(
        &mut catalog,
        "shop/p1",
        &[("product", 80, 9001), ("all", 80, 9001)],
        &[("app", "payment")],
    );
    assert_eq!(addresses(&mut catalog, &name("payment")), [""; 0]);
    assert_eq!(
        addresses(&mut catalog, &name("product")),
        ["10.9.9.9:9001"],
        "its own word is the registration"
    );
}

#[test]
fn another_target_port_is_another_thing() {
    let mut catalog = catalog(&PRODUCT.replacen(
        "{app: product, version: v1}, ports: [{name: http, port: 80, targetPort: 8080}]",
        "{app: product, version: v1}, ports: [{name: http, port: 80, targetPort: 9090}]",
        1,
    ));
    register(
        &mut catalog,
        "shop/p1",
        &[("product", 80, 9001)],
        &[("app", "product"), ("version", "v1")],
    );
    assert_eq!(addresses(&mut catalog, &name("product-v1")), [""; 0]);
}

#[test]
fn an_unhealthy_workload_is_no_endpoint_and_a_draining_one_not_ready() {
    let mut catalog = catalog(PRODUCT);
    let mut one = workload("shop/p1", &[("product", 80, 9001)], &[]);
    one.healthy = false;
    let mut two = workload("shop/p2", &[("product", 80, 9002)], &[]);
    two.ready = false;
    catalog.apply(vec![Event::Register(one), Event::Register(two)]);
    let found = endpoints(&mut catalog, &name("product"));
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].address.port(), found[0].ready), (9002, false));
}

#[test]
fn a_workload_is_an_endpoint_in_its_own_namespace_only() {
    let mut catalog = catalog(PRODUCT);
    register(
        &mut catalog,
        "other/p1",
        &[("product", 80, 9001)],
        &[("app", "product")],
    );
    assert_eq!(addresses(&mut catalog, &name("product")), [""; 0]);
}

#[test]
fn the_inbound_side_of_a_registered_workload_is_what_it_registered() {
    let mut catalog = catalog(PRODUCT);
    let ports = [("product", 80, 9001), ("unknown", 80, 9002)];
    register(
        &mut catalog,
        "shop/p1",
        &ports,
        &[("app", "product"), ("version", "v1")],
    );
    let expected = [
        InboundPort {
            port: 9001,
            protocol: Protocol::Http1,
            permissive: false,
            service: Some(name("product").into()),
        },
        InboundPort {
            port: 9002,
            protocol: Protocol::Detect,
            permissive: false,
            service: None,
        },
    ];
    assert_eq!(inbound(&mut catalog, "shop/p1").unwrap(), expected);
}

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: shop, labels: {app: web}}
spec:
  containers:
  - name: web
    ports: [{name: web, containerPort: 8080}, {containerPort: 9090}, {containerPort: 53, protocol: UDP}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: grpc, port: 80, targetPort: web}, {name: x, port: 81, targetPort: nowhere}]}
---
apiVersion: v1
kind: Service
metadata: {name: by-slice, namespace: shop}
spec: {ports: [{name: tcp, port: 7000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-slice-1, namespace: shop, labels: {kubernetes.io/service-name: by-slice}}
addressType: IPv4
ports: [{name: tcp, port: 7001}]
endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, name: p}}]
";

#[test]
fn the_inbound_side_of_a_pod_is_what_services_lead_to_and_what_it_declares() {
    let mut catalog = catalog(POD);
    let found = inbound(&mut catalog, "shop/p").unwrap();
    let short: Vec<_> = found
        .iter()
        .map(|port| (port.port, port.protocol, port.service.as_deref()))
        .collect();
    let expected = [
        (7001, Protocol::Tcp, Some("by-slice.shop.svc.cluster.local:7000")),
        (8080, Protocol::Grpc, Some("web.shop.svc.cluster.local:80")),
        (9090, Protocol::Detect, None),
    ];
    assert_eq!(short, expected);
}

#[test]
fn the_narrowest_tls_policy_decides() {
    let policy = |name: &str, target: &str, mode: &str| {
        format!(
            "---\n{{kind: MeshTLSPolicy, apiVersion: weft.dev/v1alpha1, metadata: {{name: {name}, namespace: shop}}, spec: {{mode: {mode}, targetRefs: [{target}]}}}}\n"
        )
    };
    let namespace = policy("n", "{group: '', kind: Namespace, name: shop}", "Permissive");
    let service = policy("s", "{group: '', kind: Service, name: web}", "Strict");
    let port = policy(
        "p",
        "{group: '', kind: Service, name: web, sectionName: grpc}",
        "Permissive",
    );
    let younger = policy(
        "z",
        "{group: '', kind: Service, name: web, sectionName: grpc}",
        "Strict",
    );
    for (policies, expected) in [
        (String::new(), [false, false, false]),
        (namespace.clone(), [true, true, true]),
        (format!("{namespace}{service}"), [true, false, true]),
        (format!("{namespace}{service}{port}"), [true, true, true]),
        (format!("{service}{younger}{port}"), [false, true, false]),
    ] {
        let mut catalog = catalog(&format!("{POD}{policies}"));
        let found = inbound(&mut catalog, "shop/p").unwrap();
        let permissive: Vec<bool> = found.iter().map(|port| port.permissive).collect();
        assert_eq!(permissive, expected, "{policies}");
        let of_namespace = policies.contains("kind: Namespace");
        assert_eq!(undeclared(&mut catalog, "shop/p"), of_namespace, "{policies}");
    }
}

#[test]
fn services_that_disagree_about_one_port_keep_it_strict() {
    let policies = "
---
{kind: Service, apiVersion: v1, metadata: {name: web2, namespace: shop}, spec: {selector: {app: web}, ports: [{name: grpc, port: 80, targetPort: 8080}]}}
---
{kind: MeshTLSPolicy, apiVersion: weft.dev/v1alpha1, metadata: {name: a, namespace: shop}, spec: {mode: Permissive, targetRefs: [{group: '', kind: Service, name: web}]}}
---
{kind: MeshTLSPolicy, apiVersion: weft.dev/v1alpha1, metadata: {name: b, namespace: shop}, spec: {mode: Strict, targetRefs: [{group: '', kind: Service, name: web2}]}}
";
    let mut catalog = catalog(&format!("{POD}{policies}"));
    let found = inbound(&mut catalog, "shop/p").unwrap();
    assert!(!found.iter().find(|port| port.port == 8080).unwrap().permissive);
}

fn services(world: &World) -> Vec<&Service> {
    let items = world.items().map(|(_, item)| item);
    items
        .filter_map(|item| {
            if let Item::Service(found) = item {
                Some(&**found)
            } else {
                None
            }
        })
        .collect()
}

/// The ports at which a workload serves a Service's port, by the words of the module's head.
fn slow_ports(world: &World, workload: &Workload, service: &Service, port: &ServicePort) -> Vec<u16> {
    let registered = workload
        .ports
        .iter()
        .filter(|own| own.service == service.name.name);
    let registered: Vec<(u16, u16)> = registered
        .map(|own| (own.service_port, own.listen_port))
        .collect();
    if !registered.is_empty() {
        return registered
            .iter()
            .filter(|(own, _)| *own == port.port)
            .map(|(_, listen)| *listen)
            .collect();
    }
    let selected = !service.selector.is_empty()
        && service
            .selector
            .iter()
            .all(|(key, value)| workload.labels.get(key) == Some(value));
    let mut found = BTreeSet::new();
    for own in workload.ports.iter().filter(|_| selected) {
        for wide in services(world) {
            let same = wide.name.namespace == workload.node.namespace && wide.name.name == own.service;
            let refined = !wide.selector.is_empty()
                && wide
                    .selector
                    .iter()
                    .all(|(key, value)| service.selector.get(key) == Some(value));
            let leads = wide
                .ports
                .iter()
                .any(|to| to.port == own.service_port && to.target == port.target);
            if same && refined && leads {
                found.insert(own.listen_port);
            }
        }
    }
    found.into_iter().take(1).collect()
}

/// Whether it is known, of the Pod that an endpoint names, if it is in the mesh.
fn is_known(world: &World, endpoint: &SliceEndpoint) -> bool {
    let told = world.item(&Id::PodsTold).is_some();
    let known = |pod: &ObjectName| {
        let ids = [Id::Pod(pod.clone()), Id::Outsider(pod.clone())];
        ids.iter().any(|id| world.item(id).is_some())
    };
    endpoint.pod.as_ref().is_none_or(|pod| !told || known(pod))
}

/// The addresses of a Service's port, by going over everything.
fn slow_addresses(world: &World, service: &Service, port: &ServicePort) -> BTreeSet<SocketAddr> {
    let mut found = BTreeSet::new();
    for (_, item) in world.items() {
        match item {
            Item::Slice(slice) if slice.service == service.name => {
                for here in slice.ports.iter().filter(|here| here.name == port.name) {
                    let target = if let TargetPort::Number(number) = port.target {
                        Some(number)
                    } else {
                        None
                    };
                    let number = here.port.or(target);
                    let known = slice
                        .endpoints
                        .iter()
                        .filter(|endpoint| is_known(world, endpoint));
                    let addresses = known.map(|endpoint| endpoint.address);
                    found.extend(addresses.filter_map(|ip| Some(SocketAddr::new(ip, number?))));
                }
            }
            Item::Workload(workload)
                if workload.healthy && workload.node.namespace == service.name.namespace =>
            {
                let ports = slow_ports(world, workload, service, port);
                found.extend(
                    ports
                        .into_iter()
                        .map(|port| SocketAddr::new(workload.address, port)),
                );
            }
            _ => {}
        }
    }
    found
}

proptest! {
    #[test]
    fn endpoints_are_what_going_over_everything_finds(events in prop::collection::vec(any_event(), 1..40)) {
        let mut catalog = Catalog::new(settings());
        catalog.apply(events);
        let world = catalog.world().clone();
        for service in services(&world) {
            for port in &service.ports {
                let name = settings().service(&service.name, port.port);
                let found = endpoints(&mut catalog, &name);
                let expected = slow_addresses(&world, service, port);
                prop_assert!(found.iter().map(|endpoint| endpoint.address).eq(expected.clone()), "{name}: {found:?} {expected:?}");
            }
        }
    }
}
