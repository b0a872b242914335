//! Random events of a small world, in which most things meet.

use std::sync::Arc;

use proptest::prelude::*;
use weft_api::object::ObjectRef;

use super::{objects, workload};
use crate::catalog::Event;
use crate::resource::Name;
use crate::world::ObjectName;

/// One object, applied.
pub(crate) fn one(yaml: &str) -> Event {
    Event::Apply(objects(yaml).remove(0))
}

fn any_service() -> impl Strategy<Value = Event> {
    let port = prop_oneof![
        Just("name: http, port: 80, targetPort: 8080"),
        Just("name: tcp, port: 80, targetPort: 8080"),
        Just("name: x, port: 80, targetPort: web"),
    ];
    let selector = prop_oneof![Just(""), Just("app: s"), Just("app: s, version: v1")];
    ("[ab]", "[st]", port, selector, 0..3_u8, any::<bool>()).prop_map(|(namespace, name, port, selector, ip, two)| {
        let second = if two { ", {name: y, port: 81, targetPort: 8080}" } else { "" };
        one(&format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{clusterIP: \
             10.0.0.{ip}, selector: {{{selector}}}, ports: [{{{port}}}{second}]}}}}"
        ))
    })
}

fn any_slice() -> impl Strategy<Value = Event> {
    ("[ab]", "[st]", "[mn]", 0..3_u8, any::<bool>(), any::<bool>()).prop_map(
        |(namespace, service, name, ip, ready, pod)| {
            let target = if pod { ", targetRef: {kind: Pod, name: p}" } else { "" };
            one(&format!(
                "{{kind: EndpointSlice, apiVersion: discovery.k8s.io/v1, metadata: {{name: {name}, namespace: {namespace}, \
                 labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{name: http, port: \
                 8080}}, {{name: x, port: 8080}}], endpoints: [{{addresses: [10.1.0.{ip}], conditions: {{ready: \
                 {ready}, serving: true}}{target}}}]}}"
            ))
        },
    )
}

fn any_pod() -> impl Strategy<Value = Event> {
    ("[ab]", "[uv]", 0..3_u8).prop_map(|(namespace, account, ip)| {
        one(&format!(
            "{{kind: Pod, apiVersion: v1, metadata: {{name: p, namespace: {namespace}, labels: {{app: s}}}}, spec: \
             {{serviceAccountName: {account}, containers: [{{name: c, ports: [{{name: web, containerPort: 8080}}]}}]}}, \
             status: {{podIP: 10.1.0.{ip}}}}}"
        ))
    })
}

fn any_route() -> impl Strategy<Value = Event> {
    ("[ab]", "[qr]", "[ab]", "[st]", 79..82_u16, any::<bool>(), any::<bool>()).prop_map(
        |(namespace, name, of, service, port, grpc, whole)| {
            let kind = if grpc { "GRPCRoute" } else { "HTTPRoute" };
            let parent_port = if whole { String::new() } else { format!(", port: {port}") };
            one(&format!(
                "{{kind: {kind}, apiVersion: gateway.networking.k8s.io/v1, metadata: {{name: {name}, namespace: \
                 {namespace}}}, spec: {{parentRefs: [{{group: '', kind: Service, namespace: {of}, name: \
                 {service}{parent_port}}}], rules: [{{backendRefs: [{{name: s, port: {port}}}, {{name: t, namespace: b, \
                 port: 80, weight: 3}}]}}]}}}}"
            ))
        },
    )
}

fn any_policy() -> impl Strategy<Value = Event> {
    ("[ab]", "[kl]", "[st]", any::<bool>(), any::<bool>(), 1..3_u32).prop_map(
        |(namespace, name, service, tls, section, number)| {
            let section = if section { ", sectionName: http" } else { "" };
            let target = format!("[{{group: '', kind: Service, name: {service}{section}}}]");
            let (kind, says) = if tls {
                ("MeshTLSPolicy", format!("mode: {}", if number == 1 { "Strict" } else { "Permissive" }))
            } else {
                ("TrafficPolicy", format!("retry: {{attempts: {number}}}"))
            };
            one(&format!(
                "{{kind: {kind}, apiVersion: weft.dev/v1alpha1, metadata: {{name: {name}, namespace: {namespace}}}, spec: \
                 {{targetRefs: {target}, {says}}}}}"
            ))
        },
    )
}

fn any_registration() -> impl Strategy<Value = Event> {
    ("[ab]", "[st]", 9000..9002_u16, any::<bool>(), any::<bool>()).prop_map(
        |(namespace, service, listen, healthy, ready)| {
            let node = format!("{namespace}/w");
            let mut workload = workload(
                &node,
                &[(&service, 80, listen)],
                &[("app", "s"), ("version", "v1")],
            );
            workload.healthy = healthy;
            workload.ready = ready;
            Event::Register(workload)
        },
    )
}

fn any_delete() -> impl Strategy<Value = Event> {
    use weft_api::object::Kind as Object;
    let object = prop_oneof![
        ("[ab]", "[st]").prop_map(|(namespace, name)| ObjectRef::new(Object::Service, &namespace, &name)),
        ("[ab]", "[mn]").prop_map(|(namespace, name)| ObjectRef::new(
            Object::EndpointSlice,
            &namespace,
            &name
        )),
        ("[ab]", "p").prop_map(|(namespace, name)| ObjectRef::new(Object::Pod, &namespace, &name)),
        ("[ab]", "[qr]").prop_map(|(namespace, name)| ObjectRef::new(Object::HttpRoute, &namespace, &name)),
        ("[ab]", "[qr]").prop_map(|(namespace, name)| ObjectRef::new(Object::GrpcRoute, &namespace, &name)),
        ("[ab]", "[kl]").prop_map(|(namespace, name)| ObjectRef::new(
            Object::TrafficPolicy,
            &namespace,
            &name
        )),
        ("[ab]", "[kl]").prop_map(|(namespace, name)| ObjectRef::new(
            Object::MeshTlsPolicy,
            &namespace,
            &name
        )),
    ];
    object.prop_map(Event::Delete)
}

/// Anything that may happen in a small world: two namespaces `a` and `b`, Services `s` and `t`, a Pod `p` and a
/// workload `w` in each.
pub(crate) fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any_service(),
        4 => any_slice(),
        2 => any_pod(),
        4 => any_route(),
        2 => any_policy(),
        3 => any_registration(),
        3 => any_delete(),
        1 => "[ab]".prop_map(|namespace| Event::Outside(ObjectName::new(&namespace, "p"))),
        1 => Just(Event::PodsTold),
        1 => "[ab]".prop_map(|namespace| Event::Unregister(ObjectName::new(&namespace, "w"))),
        1 => prop::collection::vec(0_u8..3, 0..3)
            .prop_map(|roots| Event::Trust(roots.into_iter().map(|root| Arc::from([root])).collect())),
        1 => prop::collection::btree_set("[stu]:80", 0..3).prop_map(|listeners| Event::UsedBy {
            identity: "spiffe://mesh.test/ns/a/sa/shop".into(),
            listeners: listeners.into_iter().map(Name::from).collect(),
        }),
    ]
}

/// What an event replaces: of two events with the same subject only the later counts.
pub(crate) fn subject(event: &Event) -> String {
    match event {
        Event::Apply(object) => object.object_ref().to_string(),
        Event::Delete(object) | Event::Refuse { object, .. } => object.to_string(),
        Event::Register(workload) => workload.node.to_string(),
        Event::Unregister(node) => node.to_string(),
        Event::Outside(pod) => format!("Pod {pod}"),
        Event::PodsTold => "pods told".into(),
        Event::Trust(_) => "trust".into(),
        Event::UsedBy { identity, .. } => identity.to_string(),
    }
}
