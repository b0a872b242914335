use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::world::service::{ServicePort, TargetPort};

fn service(namespace: &str, name: &str, ip: u8) -> Item {
    Item::Service(Arc::new(Service {
        name: ObjectName::new(namespace, name),
        created: Created::default(),
        cluster_ips: BTreeSet::from([[10, 0, 0, ip].into()]),
        ipv6_first: false,
        ports: vec![ServicePort {
            name: "".into(),
            port: 80,
            target: TargetPort::Number(80),
            protocol: crate::resource::Protocol::Detect,
        }],
        selector: BTreeMap::new(),
        prefer_zone: false,
    }))
}

fn used(identity: &str, name: &str) -> Item {
    Item::Used(identity.into(), Arc::new(BTreeSet::from([name.into()])))
}

fn any_item() -> impl Strategy<Value = Item> {
    prop_oneof![
        ("[ab]", "[st]", 0_u8..3).prop_map(|(namespace, name, ip)| service(&namespace, &name, ip)),
        ("[xy]", "[pq]").prop_map(|(identity, name)| used(&identity, &name)),
    ]
}

/// The answer to a fact by going over everything.
fn slow(items: &BTreeMap<Id, Item>, fact: &Fact) -> BTreeMap<Id, Item> {
    items
        .iter()
        .filter(|(_, item)| item.facts().contains(fact))
        .map(|(id, item)| (id.clone(), item.clone()))
        .collect()
}

proptest! {
    /// What is filed is what going over all items finds, and what differs between two states was touched.
    #[test]
    fn filing_equals_going_over_everything(steps in prop::collection::vec((any_item(), any::<bool>()), 0..30)) {
        let mut world = World::default();
        let mut items = BTreeMap::new();
        for (item, put) in steps {
            let before = world.filed.clone();
            let touched = if put {
                items.insert(item.id(), item.clone());
                world.put(item)
            } else {
                items.remove(&item.id());
                world.remove(&item.id())
            };
            let facts: BTreeSet<Fact> = before.keys().chain(world.filed.keys()).cloned().collect();
            for fact in facts {
                prop_assert_eq!(world.filed.get(&fact).cloned().unwrap_or_default(), slow(&items, &fact));
                prop_assert!(before.get(&fact) == world.filed.get(&fact) || touched.contains(&fact));
            }
        }
        prop_assert_eq!(&world.items, &items);
    }
}

#[test]
fn the_same_again_touches_nothing() {
    let mut world = World::default();
    assert!(!world.put(service("a", "s", 1)).is_empty());
    assert!(world.put(service("a", "s", 1)).is_empty());
}

#[test]
fn a_changed_address_touches_the_old_and_the_new() {
    let mut world = World::default();
    world.put(service("a", "s", 1));
    let touched = world.put(service("a", "s", 2));
    assert!(touched.contains(&Fact::ClusterIp([10, 0, 0, 1].into())));
    assert!(touched.contains(&Fact::ClusterIp([10, 0, 0, 2].into())));
}

#[test]
fn a_reader_remembers_what_it_was_asked_also_in_vain() {
    let world = World::default();
    let mut reader = Reader::new(&world);
    assert!(reader.service(&ObjectName::new("a", "s")).is_none());
    assert_eq!(
        reader.into_read().asked,
        BTreeSet::from([Fact::Service(ObjectName::new("a", "s"))])
    );
}
