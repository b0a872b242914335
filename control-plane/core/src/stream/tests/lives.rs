//! Whole lives: a client that is written as slowly and plainly as possible, the session, a catalog that changes and a
//! connection that loses what was under way. In the end the client has what the catalog has.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::super::*;
use super::content;

type Id = (Kind, Name);

const TYPES: [Kind; 4] = [Kind::Cluster, Kind::Endpoints, Kind::Listener, Kind::Route];

/// More turns than any finite exchange needs: what is left then is a loop.
const TURNS_MAX: usize = 2_000;

#[derive(Clone, Debug)]
enum Step {
    Change(Id, Option<u64>),
    Want(Id),
    Drop(Id),
    ToServer,
    ToClient,
    /// Either side restarts: the stream and all that is under way is lost.
    Reconnect,
}

#[derive(Clone, Copy, Debug)]
struct Kindness {
    variant: Variant,
    /// Says which resources it rejects.
    lists: bool,
    /// Asks for all clusters and listeners.
    wildcard: bool,
}

/// The content a client refuses.
fn is_bad(number: u64) -> bool {
    number % 4 == 3
}

struct Life {
    kind: Kindness,
    catalog: BTreeMap<Id, u64>,
    revision: BTreeMap<Id, u64>,
    // The server's side.
    session: Session,
    followed: BTreeSet<Id>,
    everything: BTreeSet<Kind>,
    // Under way.
    requests: VecDeque<Request>,
    responses: VecDeque<(Response, BTreeMap<Id, u64>)>,
    // The client's side.
    wanted: BTreeSet<Id>,
    held: BTreeMap<Id, u64>,
    absent: BTreeSet<Id>,
    nonces: BTreeMap<Kind, String>,
    /// How often a name was asked for again on this stream: so often it may be answered unchanged.
    again: BTreeMap<Id, u32>,
    asked: BTreeSet<Id>,
    /// Version and catalog revision of what was refused last.
    refused: BTreeMap<Id, (u64, u64)>,
}

impl Life {
    fn new(kind: Kindness) -> Self {
        let mut life = Self {
            kind,
            catalog: BTreeMap::new(),
            revision: BTreeMap::new(),
            session: Session::new(kind.variant, kind.wildcard),
            followed: BTreeSet::new(),
            everything: BTreeSet::new(),
            requests: VecDeque::new(),
            responses: VecDeque::new(),
            wanted: BTreeSet::new(),
            held: BTreeMap::new(),
            absent: BTreeSet::new(),
            nonces: BTreeMap::new(),
            again: BTreeMap::new(),
            asked: BTreeSet::new(),
            refused: BTreeMap::new(),
        };
        life.connect();
        life
    }

    fn is_wildcard(&self, kind: Kind) -> bool {
        self.kind.wildcard && matches!(kind, Kind::Cluster | Kind::Listener)
    }

    fn wants(&self, id: &Id) -> bool {
        self.is_wildcard(id.0) || self.wanted.contains(id)
    }

    fn wanted_of(&self, kind: Kind) -> Vec<Name> {
        let mut names: Vec<Name> = Vec::new();
        if self.is_wildcard(kind) {
            names.push("*".into());
        } else {
            names.extend(
                self.wanted
                    .iter()
                    .filter(|id| id.0 == kind)
                    .map(|id| id.1.clone()),
            );
        }
        names
    }

    fn connect(&mut self) {
        self.session = Session::new(self.kind.variant, self.kind.wildcard);
        self.followed.clear();
        self.everything.clear();
        self.requests.clear();
        self.responses.clear();
        self.nonces.clear();
        self.again.clear();
        self.refused.clear();
        self.asked = self.wanted.clone();
        for kind in TYPES {
            let names = self.wanted_of(kind);
            if names.is_empty() {
                continue;
            }
            let held = self.held.iter().filter(|(id, _)| id.0 == kind);
            let held = held
                .map(|(id, number)| (id.1.clone(), content(*number).version.to_string()))
                .collect();
            let names = match self.kind.variant {
                Variant::Delta => Names::Change {
                    subscribe: names,
                    unsubscribe: vec![],
                    held,
                },
                Variant::StateOfTheWorld => Names::All(names),
            };
            self.say(kind, String::new(), None, names);
        }
    }

    fn say(&mut self, kind: Kind, nonce: String, rejection: Option<Rejection>, names: Names) {
        self.requests.push_back(Request {
            kind,
            nonce,
            rejection,
            names,
        });
    }

    fn change(&mut self, id: &Id, number: Option<u64>) {
        if self.catalog.get(id).copied() == number {
            return;
        }
        *self.revision.entry(id.clone()).or_default() += 1;
        match number {
            Some(number) => self.catalog.insert(id.clone(), number),
            None => self.catalog.remove(id),
        };
        if self.followed.contains(id) || self.everything.contains(&id.0) {
            self.session.update(id.0, &id.1, number.map(content));
        }
        self.pump();
    }

    fn want(&mut self, id: Id) {
        if self.is_wildcard(id.0) || !self.wanted.insert(id.clone()) {
            return;
        }
        if !self.asked.insert(id.clone()) {
            *self.again.entry(id.clone()).or_default() += 1;
        }
        self.subscription(id.0, vec![id.1], vec![]);
    }

    fn drop(&mut self, id: Id) {
        if self.is_wildcard(id.0) || !self.wanted.remove(&id) {
            return;
        }
        self.held.remove(&id);
        self.absent.remove(&id);
        self.subscription(id.0, vec![], vec![id.1]);
    }

    fn subscription(&mut self, kind: Kind, subscribe: Vec<Name>, unsubscribe: Vec<Name>) {
        match self.kind.variant {
            Variant::Delta => {
                let names = Names::Change {
                    subscribe,
                    unsubscribe,
                    held: BTreeMap::new(),
                };
                self.say(kind, String::new(), None, names);
            }
            Variant::StateOfTheWorld => {
                let nonce = self.nonces.get(&kind).cloned().unwrap_or_default();
                let names = Names::All(self.wanted_of(kind));
                self.say(kind, nonce, None, names);
            }
        }
    }

    fn deliver_request(&mut self) {
        let Some(request) = self.requests.pop_front() else {
            return;
        };
        let kind = request.kind;
        let turn = self.session.request(request).expect("a well-behaved client");
        for name in turn.interest.unsubscribe {
            self.followed.remove(&(kind, name));
        }
        for name in turn.interest.subscribe {
            let id = (kind, name);
            self.session
                .update(kind, &id.1, self.catalog.get(&id).copied().map(content));
            self.followed.insert(id);
        }
        if turn.interest.wildcard == Some(true) {
            let all = self.catalog.iter().filter(|(id, _)| id.0 == kind);
            let all = all.map(|(id, number)| (id.1.clone(), content(*number))).collect();
            self.session.all(kind, all);
            self.everything.insert(kind);
        }
        self.pump();
    }

    /// Sends what is due, and checks its order.
    fn pump(&mut self) {
        let mut last = (false, Kind::Cluster);
        while let Some(response) = self.session.next_response() {
            if self.kind.variant == Variant::Delta {
                let now = (!response.removed.is_empty(), response.kind);
                assert!(response.removed.is_empty() || response.resources.is_empty());
                let in_order = match (last, now) {
                    ((false, before), (false, after)) => before <= after,
                    ((true, before), (true, after)) => before >= after,
                    ((before, _), (after, _)) => after && !before,
                };
                assert!(in_order, "{now:?} after {last:?}");
                last = now;
            }
            let revisions = self.revision.clone();
            self.responses.push_back((response, revisions));
        }
    }

    fn deliver_response(&mut self) {
        let Some((response, revisions)) = self.responses.pop_front() else {
            return;
        };
        let kind = response.kind;
        self.nonces.insert(kind, response.nonce.clone());
        let received: Vec<(Id, u64)> = response
            .resources
            .iter()
            .map(|(name, content)| {
                let number = u64::from_be_bytes(content.body[..].try_into().expect("8 bytes"));
                ((kind, name.clone()), number)
            })
            .filter(|(id, _)| self.wants(id))
            .collect();
        let bad: Vec<(Id, u64)> = received
            .iter()
            .filter(|(_, number)| is_bad(*number))
            .cloned()
            .collect();
        let refused = if self.kind.lists || bad.is_empty() {
            &bad
        } else {
            &received
        };
        for (id, number) in refused {
            let now = (*number, revisions.get(id).copied().unwrap_or_default());
            if self.refused.insert(id.clone(), now) == Some(now) && self.kind.lists {
                self.excuse(id, "after its refusal");
            }
        }
        if bad.is_empty() || self.kind.lists {
            self.apply(&response, received);
        }
        let rejection = (!bad.is_empty()).then(|| Rejection {
            message: "bad".into(),
            resources: bad
                .into_iter()
                .filter(|_| self.kind.lists)
                .map(|(id, _)| (id.1, "bad".into()))
                .collect(),
        });
        let names = match self.kind.variant {
            Variant::Delta => Names::Change {
                subscribe: vec![],
                unsubscribe: vec![],
                held: BTreeMap::new(),
            },
            Variant::StateOfTheWorld => Names::All(self.wanted_of(kind)),
        };
        self.say(kind, response.nonce, rejection, names);
    }

    fn apply(&mut self, response: &Response, received: Vec<(Id, u64)>) {
        let kind = response.kind;
        if self.kind.variant == Variant::StateOfTheWorld && matches!(kind, Kind::Cluster | Kind::Listener) {
            self.held.retain(|id, _| id.0 != kind);
            let missing = self.wanted.iter().filter(|id| id.0 == kind).cloned();
            self.absent.extend(missing);
        }
        for (id, number) in received.into_iter().filter(|(_, number)| !is_bad(*number)) {
            self.absent.remove(&id);
            let before = self.held.insert(id.clone(), number);
            // What was refused last may be taken back by the catalog before it hears of the refusal.
            let refused = self.refused.remove(&id).is_some();
            if self.kind.variant == Variant::Delta && before == Some(number) && !refused {
                self.excuse(&id, "to a client that has it");
            }
        }
        for id in response.removed.iter().map(|name| (kind, name.clone())) {
            if self.wants(&id) {
                self.held.remove(&id);
                self.absent.insert(id);
            }
        }
    }

    /// An unchanged resource came again: only right if the client asked for it again.
    fn excuse(&mut self, id: &Id, when: &str) {
        let allowed = self.again.get_mut(id).filter(|count| **count > 0);
        *allowed.unwrap_or_else(|| panic!("{id:?} sent again unchanged {when}")) -= 1;
    }

    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.requests.is_empty() && self.responses.is_empty() {
                return;
            }
            self.deliver_request();
            self.deliver_response();
        }
        panic!("client and server never come to rest");
    }

    fn check(&self) {
        assert!(self.held.values().all(|number| !is_bad(*number)));
        for kind in TYPES {
            let of_kind = |id: &&Id| id.0 == kind;
            let trouble = self
                .catalog
                .iter()
                .any(|(id, number)| id.0 == kind && is_bad(*number));
            if trouble && !self.kind.lists {
                continue;
            }
            let known = self
                .catalog
                .keys()
                .chain(self.held.keys())
                .chain(&self.wanted)
                .filter(of_kind);
            for id in known.filter(|id| self.wants(id)) {
                let held = self.held.get(id).copied();
                match self.catalog.get(id).copied() {
                    Some(number) if is_bad(number) => assert_ne!(held, Some(number)),
                    Some(number) => assert_eq!(held, Some(number), "{id:?}"),
                    None if self.can_delete(kind) => {
                        assert_eq!(held, None, "{id:?} is gone");
                        assert!(
                            self.is_wildcard(kind) || self.absent.contains(id),
                            "{id:?} was not answered"
                        );
                    }
                    None => {}
                }
            }
        }
    }

    fn can_delete(&self, kind: Kind) -> bool {
        self.kind.variant == Variant::Delta || matches!(kind, Kind::Cluster | Kind::Listener)
    }
}

fn id() -> impl Strategy<Value = Id> {
    let kind = prop::sample::select(TYPES.to_vec());
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    (kind, name).prop_map(|(kind, name)| (kind, name.into()))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (id(), prop::option::weighted(0.8, 0_u64..8)).prop_map(|(id, number)| Step::Change(id, number)),
        3 => id().prop_map(Step::Want),
        1 => id().prop_map(Step::Drop),
        6 => Just(Step::ToServer),
        6 => Just(Step::ToClient),
        1 => Just(Step::Reconnect),
    ]
}

fn client() -> impl Strategy<Value = Kindness> {
    prop_oneof![
        (any::<bool>(), any::<bool>()).prop_map(|(lists, wildcard)| Kindness {
            variant: Variant::Delta,
            lists,
            wildcard
        }),
        any::<bool>().prop_map(|wildcard| Kindness {
            variant: Variant::StateOfTheWorld,
            lists: false,
            wildcard
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_client_ends_with_what_the_catalog_has(kind in client(), steps in prop::collection::vec(step(), 0..120)) {
        let mut life = Life::new(kind);
        for step in steps {
            match step {
                Step::Change(id, number) => life.change(&id, number),
                Step::Want(id) => life.want(id),
                Step::Drop(id) => life.drop(id),
                Step::ToServer => life.deliver_request(),
                Step::ToClient => life.deliver_response(),
                Step::Reconnect => life.connect(),
            }
        }
        life.settle();
        life.check();
    }

    /// Neither side's restart sends anything to a client that has it all.
    #[test]
    fn a_restart_sends_nothing_unchanged(steps in prop::collection::vec(step(), 0..60)) {
        let mut life = Life::new(Kindness { variant: Variant::Delta, lists: true, wildcard: false });
        for step in steps {
            match step {
                Step::Change(id, number) => life.change(&id, number.filter(|number| !is_bad(*number))),
                Step::Want(id) => life.want(id),
                _ => {}
            }
        }
        life.settle();
        life.connect();
        let mut sent = 0;
        while !life.requests.is_empty() || !life.responses.is_empty() {
            life.deliver_request();
            sent += life.responses.iter().map(|(response, _)| response.resources.len()).sum::<usize>();
            life.deliver_response();
        }
        prop_assert_eq!(sent, 0);
        life.check();
    }
}
