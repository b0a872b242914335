//! What only a cluster has: Pods in the mesh and outside, and Services of two address families.

use super::*;
use crate::testing::{apply, objects};
use crate::world::ObjectName;

const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  selector: {app: web}
  clusterIPs: [10.0.0.1, 'fd00::1']
  ipFamilies: [IPv4, IPv6]
  ports: [{name: http, port: 80, targetPort: web}, {name: metrics, port: 9090, targetPort: 9090}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-4, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080}, {name: metrics, port: 9090}]
endpoints:
- {addresses: [10.1.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: a, namespace: shop}}
- {addresses: [10.1.0.2], conditions: {ready: true}, targetRef: {kind: Pod, name: b, namespace: shop}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-6, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv6
ports: [{name: http, port: 8080}, {name: metrics, port: 9090}]
endpoints:
- {addresses: ['fd01::1'], conditions: {ready: true}, targetRef: {kind: Pod, name: a, namespace: shop}}
- {addresses: ['fd01::3'], conditions: {ready: true}, targetRef: {kind: Pod, name: c, namespace: shop}}
";

const HTTP: &str = "web.shop.svc.cluster.local:80";
const METRICS: &str = "web.shop.svc.cluster.local:9090";

fn pod(name: &str, annotations: &str) -> String {
    format!(
        "{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, namespace: shop, labels: {{app: web}}, annotations: \
         {{{annotations}}}}}, spec: {{serviceAccountName: web, containers: [{{name: c, ports: [{{name: web, \
         containerPort: 8080}}]}}]}}}}"
    )
}

fn identities(catalog: &mut Catalog, name: &str) -> Vec<(String, bool)> {
    let found = endpoints(catalog, name).into_iter();
    found
        .map(|endpoint| (endpoint.address.to_string(), endpoint.identity.is_some()))
        .collect()
}

fn known(endpoints: &[(&str, bool)]) -> Vec<(String, bool)> {
    endpoints
        .iter()
        .map(|(address, meshed)| ((*address).to_owned(), *meshed))
        .collect()
}

#[test]
fn an_endpoint_waits_until_it_is_known_whether_its_pod_is_in_the_mesh() {
    let mut catalog = catalog(WEB);
    catalog.apply(vec![Event::PodsTold]);
    assert_eq!(identities(&mut catalog, HTTP), []);
    apply(&mut catalog, &pod("a", ""));
    catalog.apply(vec![Event::Outside(ObjectName::new("shop", "b"))]);
    let both = known(&[("10.1.0.1:8080", true), ("10.1.0.2:8080", false)]);
    assert_eq!(identities(&mut catalog, HTTP), both);
    // A Pod of that name is made anew: injected, and then not.
    apply(&mut catalog, &pod("b", ""));
    assert_eq!(
        identities(&mut catalog, HTTP)[1],
        ("10.1.0.2:8080".to_owned(), true)
    );
    catalog.apply(vec![Event::Outside(ObjectName::new("shop", "b"))]);
    assert_eq!(identities(&mut catalog, HTTP), both);
    catalog.apply(vec![Event::Delete(objects(&pod("b", ""))[0].object_ref())]);
    assert_eq!(identities(&mut catalog, HTTP), both[..1]);
}

#[test]
fn a_pod_of_two_families_is_one_workload() {
    let mut catalog = catalog(WEB);
    for name in ["a", "b", "c"] {
        apply(&mut catalog, &pod(name, ""));
    }
    let first = ["10.1.0.1:8080", "10.1.0.2:8080", "[fd01::3]:8080"];
    assert_eq!(addresses(&mut catalog, HTTP), first);
    apply(&mut catalog, &WEB.replace("[IPv4, IPv6]", "[IPv6, IPv4]"));
    let mut found = addresses(&mut catalog, HTTP);
    found.sort();
    assert_eq!(found, ["10.1.0.2:8080", "[fd01::1]:8080", "[fd01::3]:8080"]);
}

#[test]
fn a_port_that_the_sidecar_does_not_capture_is_outside_the_mesh() {
    let mut catalog = catalog(WEB);
    let skipping = pod("a", "weft.dev/skip-inbound-ports: '9000-9100'");
    let addressed = skipping
        .strip_suffix('}')
        .map(|pod| format!("{pod}, status: {{podIP: 10.1.0.1}}}}"));
    apply(&mut catalog, &addressed.unwrap());
    catalog.apply(vec![Event::PodsTold]);
    assert_eq!(identities(&mut catalog, HTTP), known(&[("10.1.0.1:8080", true)]));
    assert_eq!(
        identities(&mut catalog, METRICS),
        known(&[("10.1.0.1:9090", false)])
    );
    let status = "10.1.0.1:15020";
    assert_eq!(identities(&mut catalog, status), known(&[(status, false)]));
    let ports = inbound(&mut catalog, "shop/a").unwrap();
    assert_eq!(ports.iter().map(|port| port.port).collect::<Vec<_>>(), [8080]);
}

#[test]
fn an_opaque_port_carries_bytes_at_both_ends() {
    let mut catalog = catalog(WEB);
    apply(&mut catalog, &pod("a", ""));
    assert_eq!(protocol(&mut catalog, "web:80", "shop"), Protocol::Http1);
    apply(&mut catalog, &pod("b", "weft.dev/opaque-ports: '8080'"));
    assert_eq!(protocol(&mut catalog, "web:80", "shop"), Protocol::Tcp);
    for node in ["shop/a", "shop/b"] {
        assert_eq!(inbound(&mut catalog, node).unwrap()[0].protocol, Protocol::Tcp);
    }
    assert_eq!(protocol(&mut catalog, "web:9090", "shop"), Protocol::Detect);
}

#[test]
fn an_external_name_is_refused_with_its_reason() {
    let mut catalog = catalog(WEB);
    apply(
        &mut catalog,
        "{kind: Service, apiVersion: v1, metadata: {name: web, namespace: shop}, spec: {type: ExternalName, \
         externalName: example.com, ports: [{port: 80}]}}",
    );
    assert_eq!(listener(&mut catalog, "web:80", "shop"), None);
    let conditions = catalog.conditions();
    let web = conditions
        .iter()
        .find(|status| status.object.to_string() == "Service shop/web");
    let message = &web.unwrap().conditions[0].message;
    assert!(message.contains("ExternalName"), "{message}");
}
