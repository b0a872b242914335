//! Patches, applied as the API server would, over statuses that others write too.

use proptest::prelude::*;

use super::*;
use crate::testing::catalog;

const THEN: &str = "2026-01-01T00:00:00Z";
const NOW: &str = "2026-02-02T00:00:00Z";

fn time(text: &str) -> Time {
    serde_json::from_value(json!(text)).unwrap()
}

fn service(name: &str, port: Option<u16>) -> Ancestor {
    Ancestor::Service {
        name: ObjectName::new("shop", name),
        port,
        section: None,
    }
}

fn said(kind: &'static str, holds: bool, reason: &str) -> Said {
    Said {
        kind,
        status: if holds { Truth::True } else { Truth::False },
        reason: reason.into(),
        message: "because".into(),
    }
}

fn desired(entries: Vec<Entry>) -> Desired {
    Desired {
        object: ObjectRef::new(Kind::HttpRoute, "shop", "r"),
        generation: 3,
        entries,
    }
}

fn accepted(about: Ancestor) -> Entry {
    Entry {
        ancestor: Some(about),
        says: vec![said("Accepted", true, "Accepted")],
    }
}

fn parent(name: &str) -> Value {
    json!({ "group": "", "kind": "Service", "name": name })
}

fn object(parents: &[Value], entries: &[Value]) -> Value {
    json!({
        "metadata": { "generation": 3, "resourceVersion": "7", "namespace": "shop", "name": "r" },
        "spec": { "parentRefs": parents },
        "status": { "parents": entries },
    })
}

fn apply(current: &Value, outcome: &Outcome) -> Value {
    let mut next = current.clone();
    if let Outcome::Write { body, .. } = outcome {
        assert_eq!(
            body["metadata"]["resourceVersion"],
            current["metadata"]["resourceVersion"]
        );
        next["status"]["parents"] = body["status"]["parents"].clone();
    }
    next
}

#[test]
fn a_parent_gets_its_entry_as_it_is_written() {
    let foreign = json!({ "name": "gateway" });
    let spelt = json!({ "group": "", "kind": "Service", "namespace": "shop", "name": "b", "port": 80 });
    let current = object(&[foreign, parent("a"), spelt.clone()], &[]);
    let entries = vec![accepted(service("a", None)), accepted(service("b", Some(80)))];
    let next = apply(&current, &patch(&desired(entries), &current, &time(NOW)));
    let parents = next["status"]["parents"].as_array().unwrap();
    assert_eq!(parents.len(), 2, "the Gateway is somebody else's");
    assert_eq!(parents[0]["parentRef"], parent("a"));
    assert_eq!(parents[1]["parentRef"], spelt);
    assert_eq!(
        parents[0]["conditions"][0],
        json!({ "type": "Accepted", "status": "True", "reason": "Accepted", "message": "because",
            "observedGeneration": 3, "lastTransitionTime": NOW })
    );
}

#[test]
fn what_cant_be_read_is_said_of_every_parent() {
    let current = object(&[parent("a"), parent("b")], &[]);
    let invalid = Entry {
        ancestor: None,
        says: vec![said("Accepted", false, "Invalid")],
    };
    let Outcome::Write { body, news } = patch(&desired(vec![invalid]), &current, &time(NOW)) else {
        panic!("something is to be written");
    };
    assert_eq!(body["status"]["parents"].as_array().unwrap().len(), 2);
    assert_eq!(news.len(), 2);
    assert!(
        news[0].warning && news[0].note == "Service shop/a: because",
        "{news:?}"
    );
}

#[test]
fn another_generation_waits() {
    let mut current = object(&[parent("a")], &[]);
    current["metadata"]["generation"] = json!(4);
    let wish = desired(vec![accepted(service("a", None))]);
    assert_eq!(patch(&wish, &current, &time(NOW)), Outcome::Later);
}

#[test]
fn people_hear_of_a_refusal_once_and_of_its_cure() {
    let about = |holds, reason: &str| {
        desired(vec![Entry {
            ancestor: Some(service("a", None)),
            says: vec![said("Accepted", holds, reason)],
        }])
    };
    let mut current = object(&[parent("a")], &[]);
    let mut heard = Vec::new();
    for wish in [
        about(false, "Conflicted"),
        about(false, "Conflicted"),
        about(false, "UnsupportedValue"),
        about(true, "Accepted"),
        about(true, "Accepted"),
    ] {
        let outcome = patch(&wish, &current, &time(NOW));
        current = apply(&current, &outcome);
        if let Outcome::Write { news, .. } = outcome {
            heard.extend(news.into_iter().map(|news| (news.warning, news.reason)));
        }
    }
    let expected = [
        (true, "Conflicted"),
        (true, "UnsupportedValue"),
        (false, "Accepted"),
    ];
    assert_eq!(
        heard,
        expected.map(|(warning, reason)| (warning, reason.to_owned()))
    );
}

#[test]
fn proxies_are_counted_in_a_sentence() {
    let taken = |proxies, confirmed, refused, unreachable: &[&str]| Taken {
        count: Count {
            proxies,
            confirmed,
            refused,
            refusal: (refused > 0).then(|| "shop/user-1: no such filter".into()),
        },
        unreachable: unreachable.iter().map(|name| (*name).to_owned()).collect(),
        ..Taken::default()
    };
    for (taken, status, reason, message) in [
        (
            taken(0, 0, 0, &[]),
            Truth::True,
            "Programmed",
            "in use by no proxy",
        ),
        (
            taken(412, 412, 0, &[]),
            Truth::True,
            "Programmed",
            "412/412 proxies",
        ),
        (
            taken(412, 409, 0, &[]),
            Truth::False,
            "Pending",
            "409/412 proxies",
        ),
        (
            taken(412, 410, 2, &[]),
            Truth::False,
            "Refused",
            "410/412 proxies; 2 refused it: shop/user-1: no such filter",
        ),
        (
            taken(5, 5, 0, &["cp-2"]),
            Truth::Unknown,
            "ReplicaUnreachable",
            "5/5 proxies, without those of cp-2, which can't be reached",
        ),
    ] {
        let said = programmed(true, &taken);
        assert_eq!(
            (said.status, &*said.reason, &*said.message),
            (status, reason, message)
        );
    }
    assert_eq!(programmed(false, &taken(1, 1, 0, &[])).reason, "Invalid");
}

#[test]
fn conditions_of_a_catalog_become_entries() {
    let text = "{kind: HTTPRoute, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: r, namespace: shop, generation: 4}, \
                spec: {parentRefs: [{name: gateway}, {group: '', kind: Service, name: a}, {group: '', kind: Service, name: b, port: 80}], \
                rules: [{}]}}\n";
    let statuses = catalog(text).statuses();
    let desired = Desired::new(&statuses[0], &Taken::default()).unwrap();
    assert_eq!(desired.generation, 4);
    let about: Vec<_> = desired
        .entries
        .iter()
        .map(|entry| entry.ancestor.clone().unwrap())
        .collect();
    assert_eq!(about, [service("a", None), service("b", Some(80))]);
    let kinds: Vec<_> = desired.entries[0].says.iter().map(|said| said.kind).collect();
    assert_eq!(kinds, ["Accepted", "ResolvedRefs", "Programmed"]);
}

fn wish(generation: i64, proxies: u64, confirmed: u64) -> Desired {
    let taken = Taken {
        count: Count {
            proxies,
            confirmed,
            ..Count::default()
        },
        ..Taken::default()
    };
    let mut entry = accepted(service("a", None));
    entry.says.push(programmed(true, &taken));
    Desired {
        generation,
        ..desired(vec![entry])
    }
}

#[test]
fn counts_wait_and_words_do_not() {
    let at = |seconds: u64| Now::from_nanos(seconds * 1_000_000_000);
    let mut book = Book::default();
    let mut due = |wish: Desired, seconds: u64| {
        let found = book.due(&[wish], at(seconds));
        let is_due = !found.is_empty();
        for one in found {
            book.wrote(one, at(seconds));
        }
        is_due
    };
    assert!(due(wish(1, 3, 3), 0), "what was never written");
    assert!(!due(wish(1, 3, 3), 1), "nothing is new");
    assert!(!due(wish(1, 4, 4), 2), "a count alone");
    assert!(!due(wish(1, 4, 3), 9), "one more proxy, not there yet");
    assert!(due(wish(1, 4, 3), 10));
    assert!(due(wish(1, 4, 4), 11), "it has arrived everywhere");
    assert!(due(wish(2, 4, 4), 12), "another generation");
    assert!(!due(wish(2, 4, 4), 611));
    assert!(due(wish(2, 4, 4), 612), "somebody may have changed it");
}

#[test]
fn a_flood_of_events_is_cut() {
    let mut allowance = Allowance::default();
    let start = Now::from_nanos(5);
    let taken = (0..1000).filter(|_| allowance.take(start)).count();
    assert_eq!(taken, 60);
    assert!(allowance.take(start + ALLOWANCE_TIME));
}

#[test]
fn what_fails_is_repeated_with_longer_pauses() {
    let mut book = Book::default();
    let mut now = Now::default();
    let mut pauses = Vec::new();
    for _ in 0..9 {
        let start = now;
        while book.due(&[wish(1, 1, 1)], now).is_empty() {
            now = now + Duration::from_secs(1);
        }
        pauses.push(now.since(start).as_secs());
        book.failed(&wish(1, 1, 1).object, now);
    }
    assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60]);
    assert!(book.due(&[], now).is_empty());
    assert_eq!(
        book.due(&[wish(1, 1, 1)], now).len(),
        1,
        "an object that was gone is a new one"
    );
}

/// Conditions and parents at random; those of ours and of others, in any order.
fn any_says() -> impl Strategy<Value = Vec<Said>> {
    (any::<bool>(), any::<bool>(), 0..4_u64, 0..4_u64).prop_map(|(accepted, resolved, proxies, confirmed)| {
        let taken = Taken {
            count: Count {
                proxies: proxies.max(confirmed),
                confirmed,
                ..Count::default()
            },
            ..Taken::default()
        };
        vec![
            said(
                "Accepted",
                accepted,
                if accepted { "Accepted" } else { "Conflicted" },
            ),
            said(
                "ResolvedRefs",
                resolved,
                if resolved {
                    "ResolvedRefs"
                } else {
                    "BackendNotFound"
                },
            ),
            programmed(accepted, &taken),
        ]
    })
}

fn any_entry() -> impl Strategy<Value = Value> {
    let controller = prop::sample::select(vec![CONTROLLER, "example.com/gateway"]);
    let kind = prop::sample::select(vec!["Accepted", "Programmed", "Other"]);
    let status = prop::sample::select(vec!["True", "False", "Unknown"]);
    (controller, "[a-e]", kind, status).prop_map(|(controller, name, kind, status)| {
        json!({
            "parentRef": parent(&name), "controllerName": controller, "unknown": 1,
            "conditions": [{ "type": kind, "status": status, "reason": "R", "message": "",
                "observedGeneration": 1, "lastTransitionTime": THEN }],
        })
    })
}

fn is_ours(entry: &Value) -> bool {
    entry["controllerName"] == CONTROLLER
}

proptest! {
    #[test]
    fn a_patch_says_all_of_ours_and_touches_nothing_else(
        wishes in prop::collection::btree_map("[a-d]", any_says(), 0..4),
        entries in prop::collection::vec(any_entry(), 0..36),
        spec in prop::collection::btree_set("[a-d]", 0..4),
    ) {
        let parents: Vec<Value> = spec.iter().map(|name| parent(name)).collect();
        let current = object(&parents, &entries);
        let wish = desired(wishes.iter().map(|(name, says)| Entry { ancestor: Some(service(name, None)), says: says.clone() }).collect());
        let outcome = patch(&wish, &current, &time(NOW));
        let next = apply(&current, &outcome);
        prop_assert_eq!(patch(&wish, &next, &time("2030-01-01T00:00:00Z")), Outcome::Nothing, "one write is enough");

        let after = next["status"]["parents"].as_array().unwrap();
        let others = |all: &[Value]| all.iter().filter(|entry| !is_ours(entry)).cloned().collect::<Vec<_>>();
        prop_assert_eq!(others(&entries), others(after), "what others said stays");
        prop_assert!(after.len() <= PARENTS_MAX.max(entries.len()));

        let ours: Vec<&Value> = after.iter().filter(|entry| is_ours(entry)).collect();
        let expected = wishes.iter().filter(|(name, _)| spec.contains(*name));
        let room = PARENTS_MAX.saturating_sub(others(&entries).len());
        prop_assert!(ours.len() >= expected.clone().count().min(room));
        for (name, says) in expected {
            let Some(entry) = ours.iter().find(|entry| entry["parentRef"] == parent(name)) else { continue };
            let before = entries.iter().filter(|entry| is_ours(entry)).find(|entry| entry["parentRef"] == parent(name));
            for said in says {
                let now = condition(entry, said.kind).unwrap();
                prop_assert_eq!(&now["status"], said.status.as_str());
                prop_assert_eq!(&now["observedGeneration"], 3);
                let kept = before.and_then(|entry| condition(entry, said.kind)).is_some_and(|old| old["status"] == now["status"]);
                prop_assert_eq!(&now["lastTransitionTime"], if kept { THEN } else { NOW });
            }
        }
    }
}
