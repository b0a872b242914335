//! Scenarios one by one; whole lives of client and server together are in [`lives`].

use super::*;

mod lives;

fn name(text: &str) -> Name {
    text.into()
}

fn content(number: u64) -> Content {
    Content {
        version: Version::of(&number),
        body: number.to_be_bytes().as_slice().into(),
    }
}

fn delta(kind: Kind, nonce: &str, subscribe: &[&str]) -> Request {
    Request {
        kind,
        nonce: nonce.into(),
        rejection: None,
        names: Names::Change {
            subscribe: subscribe.iter().copied().map(name).collect(),
            unsubscribe: Vec::new(),
            held: BTreeMap::new(),
        },
    }
}

fn full(kind: Kind, nonce: &str, names: &[&str]) -> Request {
    Request {
        kind,
        nonce: nonce.into(),
        rejection: None,
        names: Names::All(names.iter().copied().map(name).collect()),
    }
}

fn rejected(mut request: Request, resources: &[&str]) -> Request {
    request.rejection = Some(Rejection {
        message: "no".into(),
        resources: resources.iter().map(|one| (name(one), "no".into())).collect(),
    });
    request
}

fn names_of(response: &Response) -> Vec<&str> {
    response.resources.iter().map(|(name, _)| &**name).collect()
}

fn drain(session: &mut Session) -> Vec<Response> {
    std::iter::from_fn(|| session.next_response()).collect()
}

#[test]
fn a_missing_name_is_answered_and_its_creation_pushed() {
    let mut session = Session::new(Variant::Delta, false);
    let turn = session.request(delta(Kind::Listener, "", &["a"])).unwrap();
    assert_eq!(turn.interest.subscribe, [name("a")]);
    assert_eq!(
        session.next_response(),
        None,
        "nothing is said before the catalog has answered"
    );
    session.update(Kind::Listener, &name("a"), None);
    let response = session.next_response().unwrap();
    assert_eq!((response.removed, response.resources), (vec![name("a")], vec![]));
    session.request(delta(Kind::Listener, "1", &[])).unwrap();
    session.update(Kind::Listener, &name("a"), Some(content(1)));
    assert_eq!(names_of(&session.next_response().unwrap()), ["a"]);
    assert_eq!(session.next_response(), None);
}

#[test]
fn what_the_client_holds_is_not_sent_again() {
    let mut session = Session::new(Variant::Delta, false);
    let mut request = delta(Kind::Cluster, "", &["same", "old", "gone", "garbled"]);
    let Names::Change { held, .. } = &mut request.names else {
        unreachable!()
    };
    held.insert(name("same"), content(1).version.to_string());
    held.insert(name("old"), content(1).version.to_string());
    held.insert(name("gone"), content(1).version.to_string());
    held.insert(name("garbled"), "v1".into());
    let turn = session.request(request).unwrap();
    assert_eq!(
        turn.receipts.len(),
        3,
        "a version that reads back counts as acknowledged"
    );
    for (one, number) in [("same", 1), ("old", 2), ("garbled", 1)] {
        session.update(Kind::Cluster, &name(one), Some(content(number)));
    }
    session.update(Kind::Cluster, &name("gone"), None);
    let responses = drain(&mut session);
    assert_eq!(names_of(&responses[0]), ["garbled", "old"]);
    assert_eq!(responses[1].removed, [name("gone")]);
    assert_eq!(responses.len(), 2);
}

#[test]
fn an_unsubscription_is_not_answered_and_a_repeated_subscription_is() {
    let mut session = Session::new(Variant::Delta, false);
    session.request(delta(Kind::Route, "", &["a", "b"])).unwrap();
    session.update(Kind::Route, &name("a"), Some(content(1)));
    session.update(Kind::Route, &name("b"), Some(content(1)));
    assert_eq!(drain(&mut session).len(), 1);
    let mut request = delta(Kind::Route, "1", &[]);
    let Names::Change { unsubscribe, .. } = &mut request.names else {
        unreachable!()
    };
    unsubscribe.push(name("a"));
    assert_eq!(
        session.request(request).unwrap().interest.unsubscribe,
        [name("a")]
    );
    session.update(Kind::Route, &name("a"), Some(content(2)));
    assert_eq!(session.next_response(), None);
    session.request(delta(Kind::Route, "", &["b"])).unwrap();
    assert_eq!(names_of(&session.next_response().unwrap()), ["b"]);
}

#[test]
fn a_listed_rejection_keeps_the_rest_in_force() {
    let mut session = Session::new(Variant::Delta, false);
    session.request(delta(Kind::Cluster, "", &["a", "b"])).unwrap();
    session.update(Kind::Cluster, &name("a"), Some(content(1)));
    session.update(Kind::Cluster, &name("b"), Some(content(1)));
    drain(&mut session);
    let turn = session
        .request(rejected(delta(Kind::Cluster, "1", &[]), &["b"]))
        .unwrap();
    let verdicts: Vec<_> = turn
        .receipts
        .iter()
        .map(|one| (&*one.name, one.rejected.is_some()))
        .collect();
    assert_eq!(verdicts, [("a", false), ("b", true)]);
    assert_eq!(
        session.next_response(),
        None,
        "nothing is sent again before its content changes"
    );
    session.update(Kind::Cluster, &name("b"), Some(content(1)));
    assert_eq!(session.next_response(), None);
    session.update(Kind::Cluster, &name("b"), Some(content(2)));
    assert_eq!(names_of(&session.next_response().unwrap()), ["b"]);
}

#[test]
fn what_was_rejected_along_with_something_is_offered_again_when_that_changes() {
    let mut session = Session::new(Variant::Delta, false);
    session
        .request(delta(Kind::Cluster, "", &["bad", "good"]))
        .unwrap();
    session.update(Kind::Cluster, &name("bad"), Some(content(1)));
    session.update(Kind::Cluster, &name("good"), Some(content(1)));
    drain(&mut session);
    session
        .request(rejected(delta(Kind::Cluster, "1", &[]), &[]))
        .unwrap();
    assert_eq!(session.next_response(), None);
    session.update(Kind::Cluster, &name("bad"), Some(content(2)));
    assert_eq!(names_of(&session.next_response().unwrap()), ["bad", "good"]);
}

#[test]
fn additions_go_by_kind_and_removals_last_the_other_way() {
    let mut session = Session::new(Variant::Delta, false);
    let kinds = [Kind::Route, Kind::Listener, Kind::Endpoints, Kind::Cluster];
    for kind in kinds {
        session.request(delta(kind, "", &["new", "gone"])).unwrap();
        session.update(kind, &name("gone"), None);
        session.update(kind, &name("new"), Some(content(1)));
    }
    let order: Vec<_> = drain(&mut session)
        .iter()
        .map(|one| (one.kind, one.removed.len()))
        .collect();
    let additions = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route].map(|kind| (kind, 0));
    let removals = kinds.map(|kind| (kind, 1));
    assert_eq!(order, [additions, removals].concat());
}

#[test]
fn a_client_that_never_answers_is_sent_a_bounded_number() {
    let mut session = Session::new(Variant::Delta, false);
    session.request(delta(Kind::Cluster, "", &["a"])).unwrap();
    for number in 0..100 {
        session.update(Kind::Cluster, &name("a"), Some(content(number)));
        drain(&mut session);
    }
    session
        .request(delta(Kind::Cluster, &OUTSTANDING_MAX.to_string(), &[]))
        .unwrap();
    let rest = drain(&mut session);
    assert_eq!(rest.len(), 1, "what happened meanwhile is one change");
    assert_eq!(rest[0].resources, [(name("a"), content(99))]);
}

#[test]
fn large_answers_are_cut_between_resources() {
    let mut session = Session::new(Variant::Delta, false);
    session
        .request(delta(Kind::Cluster, "", &["a", "b", "c"]))
        .unwrap();
    for one in ["a", "b", "c"] {
        let body = vec![0; RESPONSE_BYTES_MAX / 2].into();
        session.update(Kind::Cluster, &name(one), Some(Content { body, ..content(1) }));
    }
    let sizes: Vec<_> = drain(&mut session)
        .iter()
        .map(|one| one.resources.len())
        .collect();
    assert_eq!(sizes, [2, 1]);
}

#[test]
fn everything_is_for_those_who_may_and_only_listeners_and_clusters() {
    let mut session = Session::new(Variant::Delta, false);
    let refused = session.request(delta(Kind::Cluster, "", &["*"]));
    assert_eq!(refused, Err(ProtocolError::Wildcard(Kind::Cluster)));
    let turn = session.request(delta(Kind::Listener, "", &[])).unwrap();
    assert_eq!(turn.interest.wildcard, None);
    let mut session = Session::new(Variant::Delta, true);
    let refused = session.request(delta(Kind::Route, "", &["*"]));
    assert_eq!(refused, Err(ProtocolError::Wildcard(Kind::Route)));
    let turn = session.request(delta(Kind::Endpoints, "", &[])).unwrap();
    assert_eq!(turn.interest.wildcard, None);
    let turn = session.request(delta(Kind::Cluster, "", &[])).unwrap();
    assert_eq!(turn.interest.wildcard, Some(true));
}

#[test]
fn everything_of_nothing_is_an_answer() {
    for variant in [Variant::Delta, Variant::StateOfTheWorld] {
        let mut session = Session::new(variant, true);
        let request = match variant {
            Variant::Delta => delta(Kind::Cluster, "", &["*"]),
            Variant::StateOfTheWorld => full(Kind::Cluster, "", &[]),
        };
        session.request(request).unwrap();
        assert_eq!(session.next_response(), None);
        session.all(Kind::Cluster, Vec::new());
        assert_eq!(drain(&mut session).len(), 1, "{variant:?}");
    }
}

#[test]
fn a_name_left_to_everything_is_answered_once_more() {
    let mut session = Session::new(Variant::Delta, true);
    session
        .request(delta(Kind::Cluster, "", &["*", "a", "b"]))
        .unwrap();
    session.all(Kind::Cluster, vec![(name("a"), content(1))]);
    session.update(Kind::Cluster, &name("b"), None);
    drain(&mut session);
    let mut request = delta(Kind::Cluster, "1", &[]);
    let Names::Change { unsubscribe, .. } = &mut request.names else {
        unreachable!()
    };
    unsubscribe.extend([name("a"), name("b")]);
    session.request(request).unwrap();
    assert_eq!(
        session.next_response(),
        None,
        "whether they are a part of everything is the catalog's to say"
    );
    session.update(Kind::Cluster, &name("a"), Some(content(1)));
    session.update(Kind::Cluster, &name("b"), None);
    let responses = drain(&mut session);
    assert_eq!(names_of(&responses[0]), ["a"]);
    assert_eq!(responses[1].removed, [name("b")]);
}

#[test]
fn what_a_client_says_it_holds_changes_nothing_of_what_it_asked_for() {
    let mut session = Session::new(Variant::Delta, true);
    session.request(delta(Kind::Cluster, "", &["a"])).unwrap();
    session.update(Kind::Cluster, &name("a"), Some(content(1)));
    drain(&mut session);
    let mut request = delta(Kind::Cluster, "1", &["*"]);
    let Names::Change { held, .. } = &mut request.names else {
        unreachable!()
    };
    held.insert(name("a"), content(2).version.to_string());
    held.insert(name("b"), content(1).version.to_string());
    let turn = session.request(request).unwrap();
    assert_eq!(
        turn.receipts.len(),
        2,
        "its acknowledgement, and what it holds of b"
    );
    session.update(Kind::Cluster, &name("a"), Some(content(1)));
    session.all(Kind::Cluster, vec![(name("b"), content(1))]);
    session.update(Kind::Cluster, &name("a"), None);
    let responses = drain(&mut session);
    assert_eq!(
        responses.last().unwrap().removed,
        [name("a")],
        "a name that was asked for is answered although it is no part of everything"
    );
}

#[test]
fn a_state_of_the_world_request_counts_by_its_nonce() {
    let mut session = Session::new(Variant::StateOfTheWorld, false);
    session.request(full(Kind::Listener, "", &["a"])).unwrap();
    session.update(Kind::Listener, &name("a"), Some(content(1)));
    assert_eq!(names_of(&session.next_response().unwrap()), ["a"]);
    let turn = session.request(full(Kind::Listener, "1", &["a"])).unwrap();
    assert_eq!(
        (turn.receipts.len(), turn.interest),
        (1, Interest::default()),
        "a plain acknowledgement"
    );
    assert_eq!(session.next_response(), None);
    session.update(Kind::Listener, &name("a"), Some(content(2)));
    assert!(session.next_response().is_some());
    let turn = session.request(full(Kind::Listener, "1", &["a", "b"])).unwrap();
    assert_eq!(
        turn.interest,
        Interest::default(),
        "said before the newest response arrived"
    );
    let turn = session.request(full(Kind::Listener, "2", &["a", "b"])).unwrap();
    assert_eq!(turn.interest.subscribe, [name("b")]);
    assert_eq!(
        session.next_response(),
        None,
        "a full state waits until each name is known"
    );
    session.update(Kind::Listener, &name("b"), Some(content(1)));
    assert_eq!(names_of(&session.next_response().unwrap()), ["a", "b"]);
}

#[test]
fn only_what_changed_of_endpoints_is_sent_but_all_of_clusters() {
    for (kind, expected) in [(Kind::Endpoints, vec!["b"]), (Kind::Cluster, vec!["a", "b"])] {
        let mut session = Session::new(Variant::StateOfTheWorld, false);
        session.request(full(kind, "", &["a", "b", "missing"])).unwrap();
        for one in ["a", "b"] {
            session.update(kind, &name(one), Some(content(1)));
        }
        session.update(kind, &name("missing"), None);
        let first = drain(&mut session);
        assert_eq!((first.len(), names_of(&first[0])), (1, vec!["a", "b"]));
        session.request(full(kind, "1", &["a", "b", "missing"])).unwrap();
        session.update(kind, &name("b"), Some(content(2)));
        assert_eq!(names_of(&session.next_response().unwrap()), expected);
    }
}

#[test]
fn a_leaving_cluster_is_named_until_the_routes_have_changed() {
    let mut session = Session::new(Variant::StateOfTheWorld, false);
    session.request(full(Kind::Cluster, "", &["old", "new"])).unwrap();
    session.request(full(Kind::Route, "", &["r"])).unwrap();
    session.update(Kind::Cluster, &name("old"), Some(content(1)));
    session.update(Kind::Cluster, &name("new"), None);
    session.update(Kind::Route, &name("r"), Some(content(1)));
    drain(&mut session);
    session.update(Kind::Cluster, &name("old"), None);
    session.update(Kind::Cluster, &name("new"), Some(content(1)));
    session.update(Kind::Route, &name("r"), Some(content(2)));
    let responses = drain(&mut session);
    let sent: Vec<_> = responses.iter().map(|one| (one.kind, names_of(one))).collect();
    let expected = [
        (Kind::Cluster, vec!["new", "old"]),
        (Kind::Route, vec!["r"]),
        (Kind::Cluster, vec!["new"]),
    ];
    assert_eq!(sent, expected);
}

#[test]
fn a_rejected_state_of_the_world_rests_until_something_changes() {
    let mut session = Session::new(Variant::StateOfTheWorld, false);
    session.request(full(Kind::Cluster, "", &["a"])).unwrap();
    session.update(Kind::Cluster, &name("a"), Some(content(1)));
    drain(&mut session);
    session
        .request(rejected(full(Kind::Cluster, "1", &["a"]), &[]))
        .unwrap();
    assert_eq!(session.next_response(), None);
    session.update(Kind::Cluster, &name("a"), Some(content(2)));
    assert_eq!(drain(&mut session).len(), 1);
}

#[test]
fn bounds_end_the_stream() {
    let mut session = Session::new(Variant::Delta, false);
    let long = "x".repeat(NAME_BYTES_MAX + 1);
    assert_eq!(
        session.request(delta(Kind::Cluster, "", &[&long])),
        Err(ProtocolError::NameLength(NAME_BYTES_MAX + 1))
    );
    assert_eq!(
        session.request(delta(Kind::Cluster, "", &[""])),
        Err(ProtocolError::NameLength(0))
    );
    let many: Vec<String> = (0..=NAMES_MAX).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(
        session
            .request(delta(Kind::Cluster, "", &many[..NAMES_MAX]))
            .is_ok()
    );
    assert_eq!(
        session.request(delta(Kind::Endpoints, "", &many[NAMES_MAX..])),
        Err(ProtocolError::TooManyNames)
    );
    assert_eq!(
        session.request(full(Kind::Cluster, "", &[])),
        Err(ProtocolError::Variant)
    );
    let mut session = Session::new(Variant::Delta, true);
    let mut request = delta(Kind::Cluster, "", &["*"]);
    let Names::Change { held, .. } = &mut request.names else {
        unreachable!()
    };
    held.extend(many.iter().map(|one| (name(one), "1".to_owned())));
    assert!(session.request(request) == Err(ProtocolError::TooManyNames));
}

#[test]
fn names_that_are_let_go_make_room_for_others() {
    for variant in [Variant::Delta, Variant::StateOfTheWorld] {
        let mut session = Session::new(variant, true);
        let many: Vec<String> = (0..NAMES_MAX).map(|number| number.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for everything in [false, true, false] {
            let (first, second) = match variant {
                Variant::Delta => {
                    let mut second = delta(Kind::Cluster, "", if everything { &["*"] } else { &[] });
                    let Names::Change { unsubscribe, .. } = &mut second.names else {
                        unreachable!()
                    };
                    unsubscribe.extend(many.iter().map(|one| name(one)));
                    (delta(Kind::Cluster, "", &many), second)
                }
                Variant::StateOfTheWorld => (
                    full(Kind::Cluster, "", &many),
                    full(Kind::Cluster, "", if everything { &["*"] } else { &[] }),
                ),
            };
            session.request(first).unwrap();
            session.request(second).unwrap();
        }
        assert!(
            session.request(delta_or_full(variant, &many)).is_ok(),
            "{variant:?}"
        );
    }
}

fn delta_or_full(variant: Variant, names: &[&str]) -> Request {
    match variant {
        Variant::Delta => delta(Kind::Endpoints, "", names),
        Variant::StateOfTheWorld => full(Kind::Endpoints, "", names),
    }
}

#[test]
fn a_long_reason_is_cut_between_characters() {
    let mut session = Session::new(Variant::Delta, false);
    session.request(delta(Kind::Cluster, "", &["a"])).unwrap();
    session.update(Kind::Cluster, &name("a"), Some(content(1)));
    drain(&mut session);
    let mut request = rejected(delta(Kind::Cluster, "1", &[]), &[]);
    request.rejection = Some(Rejection {
        message: "é".repeat(REASON_BYTES_MAX),
        resources: vec![],
    });
    let turn = session.request(request).unwrap();
    assert_eq!(
        turn.receipts[0].rejected.as_ref().unwrap().len(),
        REASON_BYTES_MAX
    );
}
