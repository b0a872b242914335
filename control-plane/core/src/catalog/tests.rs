use proptest::prelude::*;

use super::*;
use crate::testing::{objects, settings, workload};

/// Every name that a test asks for, with the namespace that asks.
fn names() -> Vec<(Kind, String, &'static str)> {
    let mut names = Vec::new();
    for viewer in ["a", "b"] {
        for authority in [
            "s:80",
            "t.a:80",
            "t.b:81",
            "10.0.0.1:80",
            "10.1.0.1:8080",
            "10.1.0.2:8080",
            "10.9.9.9:9000",
        ] {
            names.push((Kind::Listener, authority.to_owned(), viewer));
            names.push((Kind::Route, authority.to_owned(), viewer));
            names.push((Kind::Cluster, authority.to_owned(), viewer));
            names.push((Kind::Endpoints, authority.to_owned(), viewer));
        }
        names.push((Kind::Listener, format!("inbound/{viewer}/p"), viewer));
        names.push((Kind::Listener, format!("inbound/{viewer}/w"), viewer));
        names.push((Kind::Hints, format!("hints/{viewer}/p"), viewer));
        names.push((Kind::Hints, format!("hints/{viewer}/sa/shop"), viewer));
        names.push((Kind::Listener, crate::names::WILDCARD.to_owned(), viewer));
        names.push((Kind::Route, crate::names::WILDCARD.to_owned(), viewer));
        names.push((Kind::Secret, "spiffe://mesh.test".to_owned(), viewer));
    }
    names
}

fn one(yaml: &str) -> Event {
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

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any_service(),
        4 => any_slice(),
        2 => any_pod(),
        4 => any_route(),
        2 => any_policy(),
        3 => any_registration(),
        3 => any_delete(),
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
fn subject(event: &Event) -> String {
    match event {
        Event::Apply(object) => object.object_ref().to_string(),
        Event::Delete(object) => object.to_string(),
        Event::Register(workload) => workload.node.to_string(),
        Event::Unregister(node) => node.to_string(),
        Event::Trust(_) => "trust".into(),
        Event::UsedBy { identity, .. } => identity.to_string(),
    }
}

/// A new catalogue of the same events.
fn from_scratch(events: Vec<Event>) -> Catalog {
    let mut catalog = Catalog::new(settings());
    catalog.apply(events);
    catalog
}

fn values(catalog: &mut Catalog) -> BTreeMap<Key, Option<Versioned>> {
    let keys: Vec<Key> = catalog.keys().cloned().collect();
    keys.into_iter()
        .map(|key| (key.clone(), catalog.get(&key)))
        .collect()
}

#[derive(Clone, Debug)]
enum Step {
    Apply(Vec<Event>),
    Hold(usize),
    Release(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop::collection::vec(any_event(), 1..4).prop_map(Step::Apply),
        4 => any::<prop::sample::Index>().prop_map(|index| Step::Hold(index.index(names().len()))),
        1 => any::<prop::sample::Index>().prop_map(|index| Step::Release(index.index(names().len()))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// After any sequence of events, and whatever was asked between them: what is kept is what a new catalogue
    /// computes, and `changes` names exactly the keys whose value is another than it was.
    #[test]
    fn incremental_equals_from_scratch(steps in prop::collection::vec(any_step(), 1..25)) {
        let names = names();
        let mut catalog = Catalog::new(settings());
        let mut events = Vec::new();
        let mut held = BTreeMap::new();
        for step in steps {
            let before = values(&mut catalog);
            match step {
                Step::Hold(index) => {
                    let (kind, name, namespace) = &names[index];
                    let resolved = catalog.resolve(*kind, name, namespace);
                    if let Some(value) = before.get(&resolved.key) {
                        prop_assert_eq!(value, &resolved.value);
                    }
                    *held.entry(resolved.key).or_insert(0) += 1;
                }
                Step::Release(index) => {
                    let (kind, name, namespace) = &names[index];
                    let key = catalog.key(*kind, name, namespace);
                    catalog.release(&key);
                    if let Some(interest) = held.remove(&key).filter(|interest| *interest > 1) {
                        held.insert(key, interest - 1);
                    }
                }
                Step::Apply(batch) => {
                    events.extend(batch.clone());
                    catalog.apply(batch);
                    let changed = catalog.changes();
                    let after = values(&mut catalog);
                    let differing: BTreeSet<Key> =
                        after.iter().filter(|(key, value)| before[*key] != **value).map(|(key, _)| key.clone()).collect();
                    prop_assert_eq!(changed, differing);
                }
            }
            prop_assert!(catalog.keys().eq(held.keys()));
        }
        prop_assert!(catalog.changes().is_empty());
        let mut fresh = from_scratch(events);
        for (key, value) in values(&mut catalog) {
            let View::Namespace(namespace) = &key.view else {
                prop_assert_eq!(value, fresh.resolve(key.kind, &key.name, "a").value);
                continue;
            };
            prop_assert_eq!(value, fresh.resolve(key.kind, &key.name, namespace).value);
        }
    }

    /// Events about different things may come in any order.
    #[test]
    fn order_of_independent_events_is_nothing(events in prop::collection::vec(any_event(), 1..25)) {
        let last: BTreeMap<String, Event> = events.iter().map(|event| (subject(event), event.clone())).collect();
        let mut one = from_scratch(events);
        let mut other = from_scratch(last.into_values().rev().collect());
        for (kind, name, namespace) in names() {
            prop_assert_eq!(one.resolve(kind, &name, namespace), other.resolve(kind, &name, namespace));
        }
        for kind in [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route] {
            prop_assert_eq!(one.all(kind, "a"), other.all(kind, "a"));
        }
        prop_assert_eq!(one.conditions(), other.conditions());
    }

    /// Versions are equal if and only if the content is.
    #[test]
    fn a_version_stands_for_one_content(batches in prop::collection::vec(prop::collection::vec(any_event(), 1..6), 1..5)) {
        let mut catalog = Catalog::new(settings());
        let mut by_version: BTreeMap<Version, Arc<Resource>> = BTreeMap::new();
        for (kind, name, namespace) in names() {
            catalog.resolve(kind, &name, namespace);
        }
        for batch in batches {
            catalog.apply(batch);
            for value in values(&mut catalog).into_values().flatten() {
                let known = by_version.entry(value.version).or_insert_with(|| value.resource.clone());
                prop_assert_eq!(&**known, &*value.resource);
            }
        }
        let contents: Vec<&Arc<Resource>> = by_version.values().collect();
        for (index, content) in contents.iter().enumerate() {
            prop_assert!(!contents[..index].contains(content));
        }
    }

    /// Whatever a resource refers to exists.
    #[test]
    fn every_reference_resolves(events in prop::collection::vec(any_event(), 1..40)) {
        let mut catalog = from_scratch(events);
        for (kind, name, namespace) in names() {
            if kind == Kind::Listener {
                closed(&mut catalog, &name, namespace)?;
            }
        }
    }

    /// A wildcard's clusters are all that its routes refer to, and each is the one that its name stands for.
    #[test]
    fn a_wildcard_is_closed(events in prop::collection::vec(any_event(), 1..25)) {
        let mut catalog = from_scratch(events);
        let clusters: BTreeSet<Key> =
            catalog.all(Kind::Cluster, "a").resources.into_iter().map(|found| found.key).collect();
        for found in catalog.all(Kind::Route, "a").resources {
            for name in clusters_of(&found.value.unwrap().resource) {
                let key = Key { kind: Kind::Cluster, name, view: View::Shared };
                prop_assert!(clusters.contains(&key));
            }
        }
        for key in clusters {
            prop_assert!(catalog.get(&key).is_some());
            prop_assert!(catalog.resolve(Kind::Endpoints, &key.name, "b").value.is_some());
        }
    }
}

fn clusters_of(resource: &Resource) -> Vec<Name> {
    use crate::resource::Action;
    let Resource::Route(table) = resource else {
        return Vec::new();
    };
    let rules = table.hosts.iter().flat_map(|host| &host.rules);
    let backends = rules.flat_map(|rule| match &rule.action {
        Action::Forward(backends) => backends.as_slice(),
        Action::Redirect { .. } | Action::Respond(_) => &[],
    });
    backends.filter_map(|backend| backend.cluster.clone()).collect()
}

fn closed(catalog: &mut Catalog, name: &str, namespace: &str) -> Result<(), TestCaseError> {
    use crate::resource::Listener;
    let Some(listener) = catalog.resolve(Kind::Listener, name, namespace).value else {
        return Ok(());
    };
    let Resource::Listener(listener) = &*listener.resource else {
        panic!("no listener")
    };
    let (routes, mut clusters) = match listener {
        Listener::Inbound(_) => return Ok(()),
        Listener::Outbound { routes, cluster, .. } => (routes.clone(), cluster.iter().cloned().collect()),
        Listener::Wildcard { routes } => (Some(routes.clone()), Vec::new()),
    };
    prop_assert!(routes.is_some() || !clusters.is_empty());
    if let Some(routes) = routes {
        let table = catalog.resolve(Kind::Route, &routes, namespace).value;
        prop_assert!(table.is_some(), "{}", routes);
        clusters.extend(clusters_of(&table.unwrap().resource));
    }
    for cluster in clusters {
        let found = catalog.resolve(Kind::Cluster, &cluster, namespace).value;
        prop_assert!(found.is_some(), "{}", cluster);
        let Resource::Cluster(described) = &*found.unwrap().resource else {
            panic!("no cluster")
        };
        let found = catalog.resolve(Kind::Endpoints, &cluster, namespace).value;
        prop_assert!(found.is_some(), "{}", cluster);
        let Resource::Endpoints(found) = &*found.unwrap().resource else {
            panic!("no endpoints")
        };
        let identities: BTreeSet<&Name> = found
            .endpoints
            .iter()
            .filter_map(|found| found.identity.as_ref())
            .collect();
        prop_assert!(identities.into_iter().eq(&described.identities));
        prop_assert!(found.endpoints.is_sorted_by(|a, b| a.address < b.address));
    }
    Ok(())
}

const SHOP: &str = "
{kind: Service, apiVersion: v1, metadata: {name: user, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
---
{kind: Service, apiVersion: v1, metadata: {name: order, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
";

#[test]
fn a_new_endpoint_changes_the_endpoints_and_nothing_beside() {
    let mut catalog = from_scratch(objects(SHOP).into_iter().map(Event::Apply).collect());
    for service in ["user:80", "order:80"] {
        for kind in [Kind::Listener, Kind::Route, Kind::Cluster, Kind::Endpoints] {
            catalog.resolve(kind, service, "shop");
        }
    }
    let first = workload("shop/user-1", &[("user", 80, 9001)], &[]);
    catalog.apply(vec![Event::Register(first)]);
    let changed: Vec<Kind> = catalog.changes().into_iter().map(|key| key.kind).collect();
    assert_eq!(
        changed,
        [Kind::Cluster, Kind::Endpoints],
        "the first brings an identity"
    );
    let second = workload("shop/user-2", &[("user", 80, 9002)], &[]);
    catalog.apply(vec![Event::Register(second)]);
    let changed = catalog.changes();
    assert_eq!(changed.len(), 1);
    let name = "user.shop.svc.cluster.local:80".into();
    assert!(changed.contains(&Key {
        kind: Kind::Endpoints,
        name,
        view: View::Shared
    }));
}

#[test]
fn a_change_that_is_taken_back_before_anybody_looks_is_none() {
    let mut catalog = from_scratch(objects(SHOP).into_iter().map(Event::Apply).collect());
    catalog.resolve(Kind::Endpoints, "user:80", "shop");
    let user = workload("shop/user-1", &[("user", 80, 9001)], &[]);
    catalog.apply(vec![Event::Register(user.clone())]);
    catalog.apply(vec![Event::Unregister(user.node)]);
    assert!(catalog.changes().is_empty());
}

#[test]
fn what_does_not_exist_yet_is_reported_when_it_appears_and_again_when_it_goes() {
    let mut catalog = Catalog::new(settings());
    let asked = catalog.resolve(Kind::Listener, "user:80", "shop");
    assert_eq!(asked.value, None);
    catalog.apply(objects(SHOP).into_iter().map(Event::Apply).collect());
    assert_eq!(catalog.changes(), BTreeSet::from([asked.key.clone()]));
    assert!(catalog.get(&asked.key).is_some());
    catalog.apply(vec![Event::Delete(ObjectRef::new(
        weft_api::object::Kind::Service,
        "shop",
        "user",
    ))]);
    assert_eq!(catalog.changes(), BTreeSet::from([asked.key.clone()]));
    assert!(catalog.get(&asked.key).is_none());
}

#[test]
fn interests_are_counted_and_without_any_nothing_is_kept() {
    let mut catalog = from_scratch(objects(SHOP).into_iter().map(Event::Apply).collect());
    let first = catalog.resolve(Kind::Listener, "user:80", "shop");
    let second = catalog.resolve(Kind::Listener, "user.shop.svc", "shop");
    assert_eq!(first, second, "two names of one thing");
    catalog.release(&first.key);
    assert!(catalog.get(&first.key).is_some());
    catalog.release(&second.key);
    assert!(catalog.get(&first.key).is_none());
    assert_eq!((catalog.keys().count(), catalog.askers.len()), (0, 0));
}

#[test]
fn a_wildcard_reports_what_comes_and_goes() {
    let mut catalog = Catalog::new(settings());
    let all = catalog.all(Kind::Cluster, "shop");
    assert_eq!(all.resources, []);
    catalog.apply(objects(SHOP).into_iter().map(Event::Apply).collect());
    assert_eq!(catalog.changes(), BTreeSet::from([all.key.clone()]));
    let again = catalog.all(Kind::Cluster, "shop");
    let names: Vec<&str> = again.resources.iter().map(|found| &*found.key.name).collect();
    assert_eq!(
        names,
        [
            "order.shop.svc.cluster.local:80",
            "user.shop.svc.cluster.local:80"
        ]
    );
    for key in again
        .resources
        .into_iter()
        .map(|found| found.key)
        .chain([all.key, again.key])
    {
        catalog.release(&key);
    }
    assert_eq!(catalog.keys().count(), 0);
}

#[test]
fn an_object_that_cannot_be_understood_leaves_its_last_good_version_in_force() {
    let mut catalog = from_scratch(objects(SHOP).into_iter().map(Event::Apply).collect());
    let before = catalog.resolve(Kind::Listener, "user:80", "shop");
    catalog.apply(vec![one(
        "{kind: Service, apiVersion: v1, metadata: {name: user, namespace: shop}, spec: {ports: [{port: 70000}]}}",
    )]);
    assert!(catalog.changes().is_empty());
    assert_eq!(catalog.get(&before.key), before.value);
    let status = catalog
        .conditions()
        .into_iter()
        .find(|status| &*status.object.name == "user")
        .unwrap();
    assert_eq!(status.conditions[0].reason, conditions::Reason::Invalid);
    assert!(
        status.conditions[0]
            .message
            .starts_with("spec.ports[0].port: 70000 is no port"),
        "{status:?}"
    );
}
