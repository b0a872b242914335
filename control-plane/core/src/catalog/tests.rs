use proptest::prelude::*;

use super::*;
use crate::testing::events::{any_event, one, subject};
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
        prop_assert_eq!(catalog.built(), fresh.built());
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
        Listener::Inbound { .. } => return Ok(()),
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
