//! Any order of arrival: nothing open is ever linked, nothing known is lost, and the end depends on the end only.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::resource::{
    Action, Backoff, Balancer, Endpoint, HeaderEdit, HeaderMatch, InboundPort, Limits, PathMatch, Retry,
    RetryBudget, Rewrite, RouteMatch, Rule, Target, TlsMode, ValueMatch, WeightedBackend,
};

fn name(text: impl AsRef<str>) -> Name {
    text.as_ref().into()
}

fn listener(at: u8, routes: Option<u8>, cluster: Option<u8>) -> Resource {
    let protocol = if routes.is_some() {
        Protocol::Http1
    } else {
        Protocol::Tcp
    };
    let routes = routes.map(|routes| name(format!("r{routes}")));
    let cluster = cluster.map(|cluster| name(format!("c{cluster}")));
    Resource::Listener(Listener {
        name: name(format!("l{at}")),
        body: ListenerBody::Outbound {
            protocol,
            routes,
            cluster,
        },
    })
}

fn backend(cluster: u8) -> WeightedBackend {
    WeightedBackend {
        weight: 1,
        target: Target::Cluster(name(format!("c{cluster}"))),
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
    }
}

fn routes(at: u8, clusters: &[u8]) -> Resource {
    let rule = Rule {
        name: name(""),
        matches: RouteMatch {
            path: PathMatch::Prefix("/".into()),
            method: None,
            headers: vec![],
            query: vec![],
        },
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
        rewrite: Rewrite::default(),
        action: Action::Forward(clusters.iter().copied().map(backend).collect()),
        timeout: None,
        attempt_timeout: None,
        retry: None,
    };
    Resource::Routes(RouteConfig {
        name: name(format!("r{at}")),
        rules: vec![rule],
    })
}

fn cluster(at: u8, version: u8) -> Resource {
    Resource::Cluster(Cluster {
        name: name(format!("c{at}")),
        protocol: Protocol::Http1,
        balancer: Balancer::PeakEwma,
        prefer_zone: false,
        slow_start: Duration::ZERO,
        connect_timeout: Duration::from_secs(1 + u64::from(version)),
        limits: Limits::default(),
        outlier: None,
        endpoint_breaker: None,
        service_breaker: None,
        default_retry: Retry {
            attempts: 0,
            statuses: vec![],
            grpc_codes: vec![],
            backoff: Backoff::default(),
        },
        retry_budget: RetryBudget {
            percent: 20,
            floor: 10,
        },
    })
}

fn endpoints(at: u8, version: u8) -> Resource {
    let endpoint = Endpoint {
        address: ([10, 0, at, 1], 80 + u16::from(version)).into(),
        weight: 1,
        ready: true,
        zone: name(""),
        identity: None,
        workload: name(""),
    };
    Resource::Endpoints(Endpoints {
        cluster: name(format!("c{at}")),
        endpoints: vec![endpoint],
    })
}

fn roots() -> BTreeSet<(Kind, Name)> {
    (0..3)
        .map(|at| (Kind::Listener, name(format!("l{at}"))))
        .collect()
}

fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        (0_u8..3, proptest::option::of(0_u8..3), 0_u8..4).prop_map(|(at, routes, cluster)| match routes {
            Some(_) => listener(at, routes, None),
            None => listener(at, None, Some(cluster)),
        }),
        (0_u8..3, proptest::collection::vec(0_u8..4, 0..3)).prop_map(|(at, clusters)| routes(at, &clusters)),
        (0_u8..4, 0_u8..2).prop_map(|(at, version)| cluster(at, version)),
        (0_u8..4, 0_u8..2).prop_map(|(at, version)| endpoints(at, version)),
    ]
}

/// Everything that the roots can refer to, so that all of it is closed.
fn world() -> impl Strategy<Value = Vec<Resource>> {
    let listeners = proptest::collection::vec((proptest::option::of(0_u8..3), 0_u8..4), 3);
    let tables = proptest::collection::vec(proptest::collection::vec(0_u8..4, 0..3), 3);
    let versions = proptest::collection::vec((0_u8..2, 0_u8..2), 4);
    (listeners, tables, versions).prop_map(|(listeners, tables, versions)| {
        let listeners = (0..)
            .zip(listeners)
            .map(|(at, (to_routes, to_cluster))| match to_routes {
                Some(_) => listener(at, to_routes, None),
                None => listener(at, None, Some(to_cluster)),
            });
        let tables = (0..).zip(tables).map(|(at, clusters)| routes(at, &clusters));
        let halves = (0..)
            .zip(versions)
            .flat_map(|(at, (config, eds))| [cluster(at, config), endpoints(at, eds)]);
        listeners.chain(tables).chain(halves).collect()
    })
}

#[derive(Clone, Debug)]
enum Step {
    Put(Resource),
    Remove(Resource),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![4 => resource().prop_map(Step::Put), 1 => resource().prop_map(Step::Remove)]
}

fn take(store: &mut Store, step: Step) {
    let refused = match step {
        Step::Put(resource) => store.apply(vec![resource], vec![]),
        Step::Remove(resource) => store.apply(vec![], vec![(resource.kind(), resource.name().clone())]),
    };
    assert_eq!(refused, []);
}

/// A destination's content, without any state.
fn content(destination: &Destination) -> impl PartialEq + std::fmt::Debug + use<> {
    let rules: Option<Vec<Rule>> = destination
        .routes
        .as_ref()
        .map(|table| table.rules().iter().map(|rule| rule.rule().clone()).collect());
    let clusters: Vec<_> = destination
        .clusters
        .iter()
        .map(|(name, entry)| {
            (
                name.clone(),
                Cluster::clone(&entry.config),
                Endpoints::clone(&entry.endpoints),
            )
        })
        .collect();
    (
        destination.protocol,
        destination.routes.as_ref().map(|table| table.name().clone()),
        rules,
        destination.opaque.clone(),
        clusters,
    )
}

fn contents(snapshot: &Snapshot) -> Vec<(Name, String)> {
    let describe = |lookup: &Lookup| match lookup {
        Lookup::Known(destination) => format!("{:?}", content(destination)),
        Lookup::Absent => "absent".to_owned(),
        Lookup::Pending => "pending".to_owned(),
    };
    snapshot
        .destinations()
        .iter()
        .map(|(name, lookup)| (name.clone(), describe(lookup)))
        .collect()
}

fn check_closed(snapshot: &Snapshot) -> Result<(), TestCaseError> {
    for lookup in snapshot.destinations().values() {
        let Lookup::Known(destination) = lookup else {
            continue;
        };
        let named = destination
            .routes
            .iter()
            .flat_map(|table| table.clusters())
            .chain(&destination.opaque);
        for name in named {
            let entry = destination.clusters.get(name);
            prop_assert!(entry.is_some(), "{} of {}", name, destination.name);
            let shared = snapshot.clusters.get(name);
            prop_assert!(entry.zip(shared).is_some_and(|(a, b)| Arc::ptr_eq(a, b)));
        }
    }
    Ok(())
}

/// Nothing known is lost but by removal of its listener, and what is unchanged is the same object.
fn check_kept(before: &Snapshot, after: &Snapshot, step: &Step) -> Result<(), TestCaseError> {
    for (name, lookup) in before.destinations() {
        let Lookup::Known(old) = lookup else { continue };
        match after.lookup(name) {
            Lookup::Known(new) => {
                prop_assert!(
                    Arc::ptr_eq(old, &new) || content(old) != content(&new),
                    "{} was replaced by its like",
                    name
                );
            }
            Lookup::Absent => {
                prop_assert!(
                    matches!(step, Step::Remove(Resource::Listener(listener)) if listener.name == *name)
                );
            }
            Lookup::Pending => prop_assert!(false, "{} was lost", name),
        }
    }
    Ok(())
}

/// The slow way: is everything there that the name refers to, by the store's own maps?
fn is_closed(store: &Store, name: &Name) -> bool {
    let Some(ListenerBody::Outbound { routes, cluster, .. }) =
        store.listeners.get(name).map(|listener| &listener.body)
    else {
        return false;
    };
    let mut clusters: Vec<Name> = cluster.iter().cloned().collect();
    if let Some(routes) = routes {
        let Some(table) = store.tables.get(routes) else {
            return false;
        };
        clusters.extend(table.clusters().iter().cloned());
    }
    clusters
        .iter()
        .all(|name| store.clusters.contains_key(name) && store.endpoints.contains_key(name))
}

/// What a store that had never known anything else would link.
fn fresh(store: &Store) -> Snapshot {
    let mut fresh = Store {
        roots: store.roots.clone(),
        clusters: store.clusters.clone(),
        endpoints: store.endpoints.clone(),
        listeners: store.listeners.clone(),
        tables: store.tables.clone(),
        absent: store.absent.clone(),
        ..Store::default()
    };
    fresh.link(&Snapshot::default())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_step_keeps_the_promise(steps in proptest::collection::vec(step(), 0..60)) {
        let (mut store, mut snapshot) = (Store::default(), Snapshot::default());
        store.set_roots(roots());
        for step in steps {
            take(&mut store, step.clone());
            let next = store.link(&snapshot);
            check_closed(&next)?;
            check_kept(&snapshot, &next, &step)?;
            let fresh = fresh(&store);
            for (name, lookup) in next.destinations() {
                if is_closed(&store, name) {
                    let (Lookup::Known(linked), Lookup::Known(alone)) = (lookup, fresh.lookup(name)) else {
                        return Err(TestCaseError::fail("a closed destination is not known"));
                    };
                    prop_assert_eq!(content(linked), content(&alone));
                }
            }
            let wanted = store.wanted();
            for cluster in next.clusters.keys() {
                prop_assert!(wanted.contains(&(Kind::Cluster, cluster.clone())), "{} is in use, not wanted", cluster);
            }
            snapshot = next;
        }
    }

    #[test]
    fn the_end_depends_on_the_end_only(steps in proptest::collection::vec(step(), 0..40), world in world().prop_shuffle()) {
        let (mut store, mut snapshot) = (Store::default(), Snapshot::default());
        store.set_roots(roots());
        for step in steps.into_iter().chain(world.iter().cloned().map(Step::Put)) {
            take(&mut store, step);
            snapshot = store.link(&snapshot);
        }
        prop_assert_eq!(contents(&snapshot), contents(&fresh(&store)));
        prop_assert!(snapshot.destinations().values().all(|lookup| matches!(lookup, Lookup::Known(_))));
    }

    /// A control plane that sends only what is wanted: asking and linking in turns reaches everything, and in the end
    /// nothing but the closure is wanted or kept.
    #[test]
    fn asking_step_by_step_reaches_everything(earlier in world(), world in world()) {
        let (mut store, mut snapshot) = (Store::default(), Snapshot::default());
        store.set_roots(roots());
        for served in [earlier, world] {
            for _ in 0..5 {
                let wanted = store.wanted();
                store.retain(&wanted);
                let answers = served.iter().filter(|answer| wanted.contains(&(answer.kind(), answer.name().clone())));
                store.apply(answers.cloned().collect(), vec![]);
                snapshot = store.link(&snapshot);
            }
        }
        prop_assert!(snapshot.destinations().values().all(|lookup| matches!(lookup, Lookup::Known(_))));
        let kept = store.clusters.len() + store.endpoints.len() + store.tables.len() + store.listeners.len();
        let wanted = store.wanted();
        store.retain(&wanted);
        prop_assert_eq!(wanted.len(), kept);
        prop_assert_eq!(&snapshot.clusters.keys().collect::<Vec<_>>(), &store.clusters.keys().collect::<Vec<_>>());
    }
}

#[test]
fn an_unknown_name_is_pending_and_a_removed_one_absent_until_it_appears() {
    let mut store = Store::default();
    store.set_roots(roots());
    let pending = store.link(&Snapshot::default());
    assert!(
        matches!(pending.lookup("l0"), Lookup::Pending) && matches!(pending.lookup("other"), Lookup::Pending)
    );
    store.apply(vec![], vec![(Kind::Listener, name("l0"))]);
    let absent = store.link(&pending);
    assert!(matches!(absent.lookup("l0"), Lookup::Absent));
    store.apply(
        vec![listener(0, None, Some(0)), cluster(0, 0), endpoints(0, 0)],
        vec![],
    );
    assert!(matches!(store.link(&absent).lookup("l0"), Lookup::Known(_)));
}

#[test]
fn endpoints_follow_while_new_routes_still_wait() {
    let mut store = Store::default();
    store.set_roots(roots());
    store.apply(
        vec![
            listener(0, Some(0), None),
            routes(0, &[0]),
            cluster(0, 0),
            endpoints(0, 0),
        ],
        vec![],
    );
    let first = store.link(&Snapshot::default());
    store.apply(vec![routes(0, &[0, 1]), endpoints(0, 1)], vec![]);
    let second = store.link(&first);
    let Lookup::Known(destination) = second.lookup("l0") else {
        panic!("lost")
    };
    assert_eq!(destination.clusters.len(), 1, "the new routes wait for c1");
    assert_eq!(
        destination.clusters["c0"].endpoints.endpoints[0].address.port(),
        81
    );
    let state = |snapshot: &Snapshot| Arc::clone(&snapshot.clusters["c0"].shared);
    assert!(Arc::ptr_eq(&state(&first), &state(&second)), "counts survive");
}

#[test]
fn a_table_that_cannot_be_used_is_refused_and_the_last_good_one_stays() {
    let mut store = Store::default();
    store.set_roots(roots());
    store.apply(
        vec![
            listener(0, Some(0), None),
            routes(0, &[0]),
            cluster(0, 0),
            endpoints(0, 0),
        ],
        vec![],
    );
    let before = store.link(&Snapshot::default());
    let Resource::Routes(mut bad) = routes(0, &[]) else {
        panic!("routes")
    };
    let value = ValueMatch::Regex("(".into());
    bad.rules[0].matches.headers.push(HeaderMatch {
        name: http::header::HOST,
        value,
    });
    let refused = store.apply(vec![Resource::Routes(bad)], vec![]);
    assert_eq!((refused[0].kind, &*refused[0].name), (Kind::Routes, "r0"));
    assert_eq!(contents(&store.link(&before)), contents(&before));
}

#[test]
fn inbound_trust_and_hints_are_linked_beside_destinations() {
    let mut store = Store::default();
    let inbound = Inbound {
        ports: [(
            8080,
            InboundPort {
                protocol: Protocol::Http1,
                tls: TlsMode::Permissive,
                service: None,
            },
        )]
        .into(),
        undeclared: TlsMode::Permissive,
    };
    let own = name("inbound/shop/user-1");
    let bundle = TrustBundle {
        name: name("spiffe://cluster.local"),
        roots: vec![],
    };
    let hints = Hints {
        name: name("hints/shop/user-1"),
        listeners: vec![name("l1")],
    };
    store.set_roots(
        [
            (Kind::Listener, own.clone()),
            (Kind::Trust, bundle.name.clone()),
            (Kind::Hints, hints.name.clone()),
        ]
        .into(),
    );
    let own_listener = Listener {
        name: own.clone(),
        body: ListenerBody::Inbound(inbound.clone()),
    };
    let trust = bundle.name.clone();
    store.apply(
        vec![
            Resource::Listener(own_listener),
            Resource::Trust(bundle),
            Resource::Hints(hints),
        ],
        vec![],
    );
    let first = store.link(&Snapshot::default());
    assert_eq!(first.inbound.as_deref(), Some(&inbound));
    assert!(first.destinations().is_empty());
    assert_eq!(first.hints, [name("l1")].into());
    store.apply(vec![], vec![(Kind::Trust, trust.clone()), (Kind::Listener, own)]);
    let second = store.link(&first);
    assert!(second.inbound.is_none() && second.trust.contains_key(&trust));
}
