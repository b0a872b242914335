use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::resource::Hints;

const KIND: Kind = Kind::Hints;

fn name(index: usize) -> Name {
    Arc::from(format!("n{index}"))
}

fn resource(name: &Name) -> Resource {
    Resource::Hints(Hints {
        name: name.clone(),
        listeners: Vec::new(),
    })
}

fn wanted(names: &[usize]) -> BTreeSet<(Kind, Name)> {
    names.iter().map(|index| (KIND, name(*index))).collect()
}

fn response(nonce: &str, resources: &[(usize, &str, bool)], removed: &[usize]) -> Response {
    Response {
        kind: KIND,
        nonce: nonce.to_owned(),
        resources: resources
            .iter()
            .map(|(index, version, good)| {
                let name = name(*index);
                let body = if *good {
                    Ok(resource(&name))
                } else {
                    Err("bad".to_owned())
                };
                (name, (*version).to_owned(), body)
            })
            .collect(),
        removed: removed.iter().map(|index| name(*index)).collect(),
    }
}

fn connected(names: &[usize]) -> Subscription {
    let mut client = Subscription::new();
    client.set_wanted(wanted(names));
    client.on_connected();
    client
}

#[test]
fn nothing_wanted_sends_nothing_because_that_would_be_a_wildcard() {
    let mut client = connected(&[]);
    assert_eq!(client.next_request(), None);
}

#[test]
fn a_first_request_names_what_is_wanted_once() {
    let mut client = connected(&[1, 2]);
    let first = client.next_request().expect("a request");
    assert_eq!(first.subscribe, [name(1), name(2)]);
    assert!(first.initial_versions.is_empty() && first.nonce.is_none());
    assert_eq!(client.next_request(), None);
}

#[test]
fn good_resources_apply_and_the_nack_names_the_others() {
    let mut client = connected(&[1, 2, 3]);
    client.next_request();
    let applied = client.on_response(response("a", &[(1, "v1", true), (2, "v1", false)], &[3]));
    assert_eq!(applied.resources, [resource(&name(1))]);
    assert_eq!(applied.removed, [(KIND, name(3))]);
    let answer = client.next_request().expect("an answer");
    assert_eq!(answer.nonce.as_deref(), Some("a"));
    assert_eq!(
        answer.nack.expect("a NACK").rejected,
        [(name(2), "bad".to_owned())]
    );
    assert_eq!(client.known(KIND, "n1"), Known::Held);
    assert_eq!(client.known(KIND, "n2"), Known::Pending);
    assert_eq!(client.known(KIND, "n3"), Known::Absent);
    assert_eq!(client.nacks(), 1);
}

#[test]
fn a_rejected_update_keeps_the_last_good_version_across_a_reconnect() {
    let mut client = connected(&[1]);
    client.next_request();
    client.on_response(response("a", &[(1, "v1", true)], &[]));
    client.on_response(response("b", &[(1, "v2", false)], &[]));
    client.on_disconnected(Now::default(), &mut fastrand::Rng::with_seed(1));
    assert_eq!(client.next_request(), None);
    client.on_connected();
    let first = client.next_request().expect("a request");
    assert_eq!(first.initial_versions, [(name(1), "v1".to_owned())]);
    assert_eq!(first.nonce, None);
}

#[test]
fn a_name_wanted_again_is_unsubscribed_first() {
    let mut client = connected(&[1]);
    client.next_request();
    client.on_response(response("a", &[(1, "v1", true)], &[]));
    client.next_request();
    client.set_wanted(wanted(&[]));
    client.set_wanted(wanted(&[1]));
    let first = client.next_request().expect("a request");
    assert_eq!((first.unsubscribe, first.subscribe), (vec![name(1)], vec![]));
    let second = client.next_request().expect("another");
    assert_eq!((second.unsubscribe, second.subscribe), (vec![], vec![name(1)]));
    assert_eq!(client.next_request(), None);
}

#[test]
fn news_for_a_subscription_that_was_let_go_are_answered_but_not_applied() {
    let mut client = connected(&[1]);
    client.next_request();
    client.set_wanted(wanted(&[]));
    client.set_wanted(wanted(&[1]));
    assert_eq!(
        client.on_response(response("a", &[(1, "v1", true)], &[])),
        Applied::default()
    );
    let answer = client.next_request().expect("a request");
    assert_eq!(
        (answer.nonce.as_deref(), answer.unsubscribe),
        (Some("a"), vec![name(1)])
    );
    assert_eq!(client.next_request().expect("another").subscribe, [name(1)]);
}

#[test]
fn what_a_former_process_held_is_claimed() {
    let mut client = Subscription::new();
    client.restore([(KIND, name(1), "v1".to_owned()), (KIND, name(2), "v1".to_owned())]);
    client.set_wanted(wanted(&[1]));
    client.on_connected();
    let first = client.next_request().expect("a request");
    assert_eq!(first.initial_versions, [(name(1), "v1".to_owned())]);
    assert_eq!(client.held().count(), 1);
}

#[test]
fn reconnects_back_off_with_jitter_and_bounds() {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut client = Subscription::new();
    let mut longest = Duration::ZERO;
    for round in 0..200 {
        let wait = client
            .on_disconnected(Now::default(), &mut rng)
            .since(Now::default());
        let ceiling = BACKOFF_BASE.saturating_mul(1 << round.min(16)).min(BACKOFF_MAX);
        assert!(wait >= BACKOFF_MIN && wait <= ceiling, "{round}: {wait:?}");
        longest = longest.max(wait);
    }
    assert!(longest > BACKOFF_MAX / 2);
    client.on_connected();
    client.on_response(response("a", &[], &[]));
    assert!(
        client
            .on_disconnected(Now::default(), &mut rng)
            .since(Now::default())
            <= BACKOFF_BASE
    );
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    Absent,
    Version(u32),
}

/// A server as the protocol describes it, kept as slow and plain as possible.
#[derive(Default)]
struct Server {
    /// What exists: version, and whether the client can read it.
    world: BTreeMap<Name, (u32, bool)>,
    /// Of the present stream: subscribed names, and what was last sent for each.
    stream: BTreeMap<Name, Sent>,
    unanswered: VecDeque<String>,
    nonces: u32,
    rejected_by_nonce: BTreeMap<String, BTreeSet<Name>>,
}

impl Server {
    fn on_request(&mut self, request: &Request) {
        assert_eq!(request.kind, KIND);
        if let Some(nonce) = &request.nonce {
            assert_eq!(
                self.unanswered.pop_front().as_ref(),
                Some(nonce),
                "answered once, in order"
            );
            let rejected = request
                .nack
                .iter()
                .flat_map(|n| n.rejected.iter().map(|r| r.0.clone()))
                .collect();
            assert_eq!(self.rejected_by_nonce.remove(nonce), Some(rejected));
        }
        for name in &request.unsubscribe {
            assert!(self.stream.remove(name).is_some(), "was subscribed");
        }
        for name in &request.subscribe {
            let claimed = request.initial_versions.iter().find(|(n, _)| n == name);
            let state = claimed.map_or(Sent::Nothing, |(_, v)| {
                Sent::Version(v.parse().expect("our own version"))
            });
            assert!(
                self.stream.insert(name.clone(), state).is_none(),
                "subscribed once"
            );
        }
    }

    fn respond(&mut self) -> Option<Response> {
        let mut answer = Response {
            kind: KIND,
            nonce: self.nonces.to_string(),
            resources: vec![],
            removed: vec![],
        };
        for (name, sent) in &mut self.stream {
            let now = self
                .world
                .get(name)
                .map_or(Sent::Absent, |(version, _)| Sent::Version(*version));
            if std::mem::replace(sent, now) == now {
                continue;
            }
            match self.world.get(name) {
                None => answer.removed.push(name.clone()),
                Some((version, good)) => {
                    let body = if *good {
                        Ok(resource(name))
                    } else {
                        Err("bad".to_owned())
                    };
                    answer.resources.push((name.clone(), version.to_string(), body));
                }
            }
        }
        if answer.resources.is_empty() && answer.removed.is_empty() {
            return None;
        }
        self.nonces += 1;
        self.unanswered.push_back(answer.nonce.clone());
        let rejected = answer
            .resources
            .iter()
            .filter(|r| r.2.is_err())
            .map(|r| r.0.clone())
            .collect();
        self.rejected_by_nonce.insert(answer.nonce.clone(), rejected);
        Some(answer)
    }

    fn forget_stream(&mut self) {
        self.stream.clear();
        self.unanswered.clear();
        self.rejected_by_nonce.clear();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Want(Vec<usize>),
    Change(usize, bool),
    Remove(usize),
    ClientSends,
    ServerReads,
    ServerResponds,
    /// Forget what was sent for a name, so that it is sent a second time.
    ServerRepeats(usize),
    ClientReads,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let index = 0usize..5;
    prop_oneof![
        2 => proptest::collection::vec(index.clone(), 0..5).prop_map(Step::Want),
        3 => (index.clone(), prop::bool::weighted(0.7)).prop_map(|(i, good)| Step::Change(i, good)),
        1 => index.clone().prop_map(Step::Remove),
        4 => Just(Step::ClientSends),
        4 => Just(Step::ServerReads),
        4 => Just(Step::ServerResponds),
        1 => index.prop_map(Step::ServerRepeats),
        4 => Just(Step::ClientReads),
        1 => Just(Step::Reconnect),
    ]
}

/// Client, server, and what is under way between them; each direction keeps its order, the two race.
struct Pair {
    client: Subscription,
    server: Server,
    up: VecDeque<Request>,
    down: VecDeque<Response>,
    /// What the client's user has in force, by what was applied alone.
    in_force: BTreeMap<Name, Option<u32>>,
    wanted: BTreeSet<(Kind, Name)>,
    versions: u32,
    rng: fastrand::Rng,
}

impl Pair {
    fn new() -> Self {
        let mut client = Subscription::new();
        client.on_connected();
        Self {
            client,
            server: Server::default(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            in_force: BTreeMap::new(),
            wanted: BTreeSet::new(),
            versions: 0,
            rng: fastrand::Rng::with_seed(3),
        }
    }

    fn change(&mut self, name: Name, good: bool) {
        self.versions += 1;
        self.server.world.insert(name, (self.versions, good));
    }

    fn client_sends(&mut self) -> bool {
        let Some(request) = self.client.next_request() else {
            return false;
        };
        let held: BTreeMap<Name, String> = self
            .client
            .held()
            .map(|(_, n, v)| (n.clone(), v.to_owned()))
            .collect();
        for name in &request.subscribe {
            let claimed = request
                .initial_versions
                .iter()
                .find(|(n, _)| n == name)
                .map(|(_, v)| v);
            assert_eq!(
                held.get(name),
                claimed,
                "what it has is claimed, never asked for blindly"
            );
        }
        self.up.push_back(request);
        true
    }

    fn client_reads(&mut self) -> bool {
        let Some(response) = self.down.pop_front() else {
            return false;
        };
        let versions: BTreeMap<Name, u32> = response
            .resources
            .iter()
            .map(|(n, v, _)| (n.clone(), v.parse().expect("version")))
            .collect();
        let applied = self.client.on_response(response);
        for resource in applied.resources {
            self.in_force
                .insert(resource.name().clone(), Some(versions[resource.name()]));
        }
        for (_, name) in applied.removed {
            self.in_force.insert(name, None);
        }
        true
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Want(names) => {
                self.wanted = wanted(&names);
                self.client.set_wanted(self.wanted.clone());
                self.in_force
                    .retain(|name, _| self.wanted.contains(&(KIND, name.clone())));
            }
            Step::Change(index, good) => self.change(name(index), good),
            Step::Remove(index) => drop(self.server.world.remove(&name(index))),
            Step::ClientSends => drop(self.client_sends()),
            Step::ServerReads => self.server_reads(),
            Step::ServerResponds => self.down.extend(self.server.respond()),
            Step::ServerRepeats(index) => {
                if let Some(sent) = self.server.stream.get_mut(&name(index)) {
                    *sent = Sent::Nothing;
                }
            }
            Step::ClientReads => drop(self.client_reads()),
            Step::Reconnect => {
                self.up.clear();
                self.down.clear();
                self.server.forget_stream();
                self.client.on_disconnected(Now::default(), &mut self.rng);
                self.client.on_connected();
            }
        }
    }

    fn server_reads(&mut self) {
        if let Some(request) = self.up.pop_front() {
            self.server.on_request(&request);
        }
    }

    /// Runs until nobody has anything to say; panics when that doesn't come.
    fn settle(&mut self) {
        for _ in 0..200 {
            let mut busy = self.client_sends() || !self.up.is_empty();
            self.server_reads();
            let response = self.server.respond();
            busy |= response.is_some();
            self.down.extend(response);
            busy |= self.client_reads();
            if !busy {
                return;
            }
        }
        panic!("the two never stop talking");
    }
}

proptest! {
    #[test]
    fn the_client_ends_with_exactly_what_the_server_has(steps in proptest::collection::vec(step(), 0..120)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.run(step);
        }
        // Whatever can't be read is replaced by something that can; then everything must come together.
        let bad: Vec<Name> = pair.server.world.iter().filter(|(_, w)| !w.1).map(|(n, _)| n.clone()).collect();
        for name in bad {
            pair.change(name, true);
        }
        pair.settle();
        prop_assert!(pair.server.unanswered.is_empty(), "every response is answered");
        let expected: BTreeMap<Name, Option<u32>> = pair.wanted.iter()
            .map(|(_, name)| (name.clone(), pair.server.world.get(name).map(|w| w.0)))
            .collect();
        for (name, version) in &expected {
            let known = if version.is_some() { Known::Held } else { Known::Absent };
            prop_assert_eq!(pair.client.known(KIND, name), known);
        }
        let held: BTreeMap<Name, Option<u32>> =
            pair.client.held().map(|(_, n, v)| (n.clone(), Some(v.parse().expect("version")))).collect();
        let existing: BTreeMap<_, _> = expected.iter().filter(|(_, v)| v.is_some()).map(|(n, v)| (n.clone(), *v)).collect();
        prop_assert_eq!(held, existing);
        // What the user put in force is the same, without the machine's help. Names that came and went meanwhile were
        // forgotten by both.
        prop_assert_eq!(pair.in_force, expected);
    }
}
