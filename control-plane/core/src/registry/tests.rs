use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(30);

fn settings() -> Settings {
    Settings {
        trust_domain: "mesh.test".into(),
        cluster_domain: "cluster.local".into(),
    }
}

fn registry() -> Registry {
    Registry::new(settings(), GRACE)
}

fn at(seconds: u64) -> Now {
    Now::from_nanos(seconds * 1_000_000_000)
}

fn registration(node_id: &str, account: &str, port: u32) -> Registration {
    let account = Account::new("shop", account);
    Registration {
        node_id: node_id.into(),
        token: account.clone(),
        account,
        granted: vec!["user".into()],
        address: [10, 0, 0, 1].into(),
        ports: vec![("user".into(), 80, port)],
        labels: BTreeMap::from([("version".into(), "v1".into())]),
        zone: "z".into(),
        healthy: true,
    }
}

fn published(registry: &Registry) -> Vec<String> {
    registry
        .workloads()
        .map(|(workload, _)| workload.node.to_string())
        .collect()
}

#[test]
fn a_lost_workload_is_waited_for_and_one_that_goes_is_not() {
    let mut registry = registry();
    let changes = registry
        .register(HeartbeatId(1), registration("shop/a", "user", 1), None)
        .unwrap();
    assert!(
        matches!(&changes[..], [Change::Put(workload)] if &*workload.identity == "spiffe://mesh.test/ns/shop/sa/user")
    );
    registry.lost(HeartbeatId(1), at(10));
    assert_eq!(registry.next_expiry(), Some(at(40)));
    assert_eq!(registry.expire(at(39)), []);
    let again = registry
        .register(HeartbeatId(2), registration("shop/a", "user", 1), None)
        .unwrap();
    assert_eq!(
        (again, registry.next_expiry()),
        (vec![], None),
        "nothing changed for anybody"
    );
    assert_eq!(
        registry.withdraw(HeartbeatId(2)),
        [Change::Remove(ObjectName::new("shop", "a"))]
    );
    assert_eq!(published(&registry), [""; 0]);
}

#[test]
fn a_newer_stream_takes_over() {
    let mut registry = registry();
    registry
        .register(HeartbeatId(1), registration("shop/a", "user", 1), None)
        .unwrap();
    registry
        .register(HeartbeatId(2), registration("shop/a", "user", 2), None)
        .unwrap();
    registry.lost(HeartbeatId(1), at(0));
    assert_eq!(registry.withdraw(HeartbeatId(1)), []);
    assert_eq!(registry.health(HeartbeatId(1), false), []);
    assert_eq!(registry.expire(at(1_000)), []);
    assert_eq!(published(&registry), ["shop/a"]);
}

#[test]
fn health_is_published_when_it_changes() {
    let mut registry = registry();
    registry
        .register(HeartbeatId(1), registration("shop/a", "user", 1), None)
        .unwrap();
    assert_eq!(registry.health(HeartbeatId(1), true), []);
    let changes = registry.health(HeartbeatId(1), false);
    assert!(matches!(&changes[..], [Change::Put(workload)] if !workload.healthy));
}

#[test]
fn who_takes_the_socket_of_a_lost_one_displaces_it() {
    let mut registry = registry();
    registry
        .register(HeartbeatId(1), registration("shop/a", "user", 1), None)
        .unwrap();
    registry.lost(HeartbeatId(1), at(0));
    registry
        .register(HeartbeatId(2), registration("shop/b", "user", 2), None)
        .unwrap();
    assert_eq!(published(&registry), ["shop/a", "shop/b"]);
    let changes = registry
        .register(HeartbeatId(3), registration("shop/c", "user", 1), None)
        .unwrap();
    assert_eq!(changes[0], Change::Remove(ObjectName::new("shop", "a")));
    assert_eq!(published(&registry), ["shop/b", "shop/c"]);
}

#[test]
fn after_a_restart_nothing_is_withdrawn_before_the_grace_period() {
    let mut before = registry();
    before
        .register(HeartbeatId(1), registration("shop/a", "user", 1), None)
        .unwrap();
    before
        .register(HeartbeatId(2), registration("shop/b", "user", 2), None)
        .unwrap();
    let mut after = registry();
    assert_eq!(after.restore(before.saved(), at(100)).len(), 2);
    assert!(
        before
            .workloads()
            .map(|one| one.0)
            .eq(after.workloads().map(|one| one.0))
    );
    after
        .register(HeartbeatId(1), registration("shop/a", "user", 1), None)
        .unwrap();
    assert_eq!(after.expire(at(129)), []);
    assert_eq!(
        after.expire(at(130)),
        [Change::Remove(ObjectName::new("shop", "b"))]
    );
    assert!(matches!(
        after.register(HeartbeatId(3), registration("shop/a", "order", 1), None),
        Err(Refusal::Taken { .. })
    ));
}

#[test]
fn each_refusal() {
    let mut registry = registry();
    let mut refusal = |change: &dyn Fn(&mut Registration), pod: Option<&Account>| {
        let mut registration = registration("shop/a", "user", 1);
        change(&mut registration);
        registry
            .register(HeartbeatId(9), registration, pod)
            .expect_err("refused")
    };
    for id in ["", "a", "shop/", "shop/sa/user", "shop/A", "shop/a b"] {
        assert_eq!(
            refusal(&|one| one.node_id = id.into(), None),
            Refusal::NodeId(id.into())
        );
    }
    assert!(matches!(
        refusal(&|one| one.node_id = "other/a".into(), None),
        Refusal::Namespace { .. }
    ));
    assert!(matches!(
        refusal(&|one| one.token = Account::new("shop", "order"), None),
        Refusal::Token { .. }
    ));
    assert!(matches!(
        refusal(&|one| one.granted.clear(), None),
        Refusal::NotGranted { .. }
    ));
    assert!(matches!(
        refusal(&|_| {}, Some(&Account::new("shop", "order"))),
        Refusal::Taken { .. }
    ));
    assert_eq!(refusal(&|one| one.ports.clear(), None), Refusal::NoPorts);
    assert_eq!(refusal(&|one| one.ports[0].1 = 0, None), Refusal::Port(0));
    assert_eq!(
        refusal(&|one| one.ports[0].2 = 65_536, None),
        Refusal::Port(65_536)
    );
    let ports = |one: &mut Registration| one.ports = vec![one.ports[0].clone(); PORTS_MAX + 1];
    assert!(matches!(
        refusal(&ports, None),
        Refusal::TooMany { what: "ports", .. }
    ));
    let zone = |one: &mut Registration| one.zone = "z".repeat(LABEL_BYTES_MAX + 1);
    assert!(matches!(refusal(&zone, None), Refusal::TooMany { .. }));
}

#[derive(Clone, Debug)]
enum Step {
    Register {
        stream: u64,
        node: &'static str,
        account: &'static str,
        port: u32,
    },
    Withdraw(u64),
    Lost(u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let node = prop::sample::select(vec!["shop/a", "shop/b", "shop/c"]);
    let account = prop::sample::select(vec!["user", "user", "user", "order"]);
    prop_oneof![
        (0_u64..1, node, account, 1_u32..4).prop_map(|(stream, node, account, port)| Step::Register {
            stream,
            node,
            account,
            port
        }),
        (0_u64..12).prop_map(Step::Withdraw),
        (0_u64..12).prop_map(Step::Lost),
        (0_u64..25).prop_map(Step::Wait),
    ]
}

/// Who is there after `steps`, by the rules alone: each question goes back through the whole history.
struct History<'a>(&'a [(u64, Step)]);

impl History<'_> {
    /// The accepted registration that speaks for `node` at `end`, by its position.
    fn current(&self, node: &str, end: usize) -> Option<usize> {
        let is_accepted = |index: &usize| match &self.0[*index].1 {
            Step::Register {
                node: one, account, ..
            } if *one == node => {
                let owner = self.present(node, *index).map(|before| self.account(before));
                owner.is_none_or(|owner| owner == *account)
            }
            _ => false,
        };
        (0..end).rev().find(is_accepted)
    }

    fn account(&self, index: usize) -> &'static str {
        match &self.0[index].1 {
            Step::Register { account, .. } => account,
            _ => unreachable!("only registrations are asked about"),
        }
    }

    /// The registration that publishes `node` just before step `end`.
    fn present(&self, node: &str, end: usize) -> Option<usize> {
        let index = self.current(node, end)?;
        let Step::Register { stream, port, .. } = self.0[index].1 else {
            return None;
        };
        let mut lost_at = None;
        for later in index + 1..end {
            let (now, step) = &self.0[later];
            if lost_at.is_some_and(|lost| lost + GRACE.as_secs() <= *now) {
                return None;
            }
            match step {
                Step::Withdraw(one) if *one == stream && lost_at.is_none() => return None,
                Step::Lost(one) if *one == stream && lost_at.is_none() => lost_at = Some(*now),
                Step::Register {
                    node: other,
                    port: taken,
                    ..
                } if lost_at.is_some()
                    && *other != node
                    && *taken == port
                    && self.current(other, later + 1) == Some(later) =>
                {
                    return None;
                }
                _ => {}
            }
        }
        let now = self.0.get(end).map_or_else(|| self.0[end - 1].0, |(now, _)| *now);
        lost_at
            .is_none_or(|lost| lost + GRACE.as_secs() > now)
            .then_some(index)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// The registry against the rules read from the history; what it says changed, applied in turn, gives the same; and
    /// a restart at the end changes nothing.
    #[test]
    fn who_is_there_follows_from_the_history(steps in prop::collection::vec(step(), 1..25)) {
        let mut registry = registry();
        let (mut now, mut streams) = (0, 0);
        let mut history = Vec::new();
        let mut seen: BTreeMap<ObjectName, Workload> = BTreeMap::new();
        for mut step in steps {
            if let Step::Wait(seconds) = step {
                now += seconds;
            }
            let mut changes = registry.expire(at(now));
            match &mut step {
                Step::Register { stream, node, account, port } => {
                    *stream = streams;
                    streams += 1;
                    let asked = registration(node, account, *port);
                    changes.extend(registry.register(HeartbeatId(*stream), asked, None).unwrap_or_default());
                }
                Step::Withdraw(stream) => changes.extend(registry.withdraw(HeartbeatId(*stream))),
                Step::Lost(stream) => registry.lost(HeartbeatId(*stream), at(now)),
                Step::Wait(_) => {}
            }
            history.push((now, step));
            for change in changes {
                match change {
                    Change::Put(workload) => { seen.insert(workload.node.clone(), workload); }
                    Change::Remove(node) => { seen.remove(&node); }
                }
            }
        }
        let history = History(&history);
        let expected: Vec<String> = ["shop/a", "shop/b", "shop/c"]
            .into_iter()
            .filter(|node| history.present(node, history.0.len()).is_some())
            .map(str::to_owned)
            .collect();
        prop_assert_eq!(published(&registry), expected);
        prop_assert!(registry.workloads().map(|one| one.0).eq(seen.values()));
        let mut after = Registry::new(settings(), GRACE);
        after.restore(registry.saved(), at(0));
        prop_assert!(after.workloads().map(|one| one.0).eq(seen.values()));
    }
}
