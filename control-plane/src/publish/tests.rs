//! Streams that follow and let go, while the world changes: what they are told, put together, is what a new publisher
//! says of the same world; and when all have gone nothing is left.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use weft_api::validate::check_str;
use weft_control_plane_core::acks::StreamId;
use weft_control_plane_core::names::Settings;
use weft_control_plane_core::resource::Name;

use super::*;

const SERVICES: [&str; 3] = ["a", "b", "c"];

type Id = (Kind, Name);

#[derive(Clone, Debug)]
enum Step {
    /// A Service with this port, or none.
    World(&'static str, Option<u16>),
    Follow(usize, Kind, &'static str),
    LetGo(usize, Kind, &'static str),
    Everything(usize, Kind, bool),
    Reopen(usize),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop::sample::select(vec![Kind::Cluster, Kind::Listener, Kind::Endpoints]);
    let wild = prop::sample::select(vec![Kind::Cluster, Kind::Listener]);
    // Two spellings of one name, and one that never exists.
    let name = || prop::sample::select(vec!["a:80", "a.shop:80", "b:80", "c:81", "none"]);
    let service = prop::sample::select(SERVICES.to_vec());
    prop_oneof![
        3 => (service, prop::option::of(80_u16..82)).prop_map(|(service, port)| Step::World(service, port)),
        4 => (0..3_usize, kind(), name()).prop_map(|(stream, kind, name)| Step::Follow(stream, kind, name)),
        2 => (0..3_usize, kind(), name()).prop_map(|(stream, kind, name)| Step::LetGo(stream, kind, name)),
        2 => (wild, any::<bool>()).prop_map(|(kind, on)| Step::Everything(2, kind, on)),
        1 => (0..3_usize).prop_map(Step::Reopen),
        3 => Just(Step::Flush),
    ]
}

fn state() -> State {
    let settings = Settings {
        trust_domain: "mesh.test".into(),
        cluster_domain: "cluster.local".into(),
    };
    State::new(Beginning {
        catalog: Catalog::new(settings.clone()),
        registry: Registry::new(settings, std::time::Duration::from_secs(30)),
        restored: Vec::new(),
        saved: watch::channel(Vec::new()).0,
        clock: Clock::start(),
    })
}

fn world(service: &str, port: u16) -> Vec<Event> {
    let yaml = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\nspec:\n  selector: {{app: \
         {service}}}\n  ports: [{{name: http, port: {port}, appProtocol: http}}]\n"
    );
    let report = check_str("test.yaml", &yaml);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    report
        .objects
        .into_iter()
        .map(|located| Event::Apply(located.value))
        .collect()
}

/// A stream's client: what it follows, and what it was told.
struct Listener {
    id: StreamId,
    mailbox: Arc<Mailbox>,
    named: BTreeSet<Id>,
    everything: BTreeSet<Kind>,
    heard: BTreeMap<Id, Content>,
}

impl Listener {
    fn open(state: &mut State, number: usize) -> Self {
        let listen = (number == 2).then(|| ([127, 0, 0, 1], 15_001).into());
        Self::open_at(state, number, listen)
    }

    fn open_at(state: &mut State, number: usize, listen: Option<SocketAddr>) -> Self {
        let (answer, mut answered) = oneshot::channel();
        let hello = Hello {
            account: Account::new("shop", "user"),
            node_id: "shop/sa/user".into(),
            user_agent: if number == 2 { "envoy" } else { "weft" }.into(),
            version: String::new(),
            listen,
            peer: ([127, 0, 0, 1], 1).into(),
            variant: Variant::Delta,
        };
        state.obey(Command::Open(hello, answer));
        let admitted = answered.try_recv().expect("an answer").expect("an admission");
        Self {
            id: admitted.stream,
            mailbox: admitted.mailbox,
            named: BTreeSet::new(),
            everything: BTreeSet::new(),
            heard: BTreeMap::new(),
        }
    }

    fn follow(&mut self, state: &mut State, kind: Kind, interest: Interest) {
        for name in &interest.unsubscribe {
            self.named.remove(&(kind, name.clone()));
        }
        self.named
            .extend(interest.subscribe.iter().map(|name| (kind, name.clone())));
        match interest.wildcard {
            Some(true) => drop(self.everything.insert(kind)),
            Some(false) => drop(self.everything.remove(&kind)),
            None => {}
        }
        state.obey(Command::Follow(self.id, kind, interest));
    }

    /// Reads its mailbox, and forgets what it doesn't follow.
    fn read(&mut self) {
        let news = self.mailbox.take_now();
        for (kind, resources) in news.all {
            let named = &self.named;
            self.heard.retain(|id, _| id.0 != kind || named.contains(id));
            self.heard.extend(
                resources
                    .into_iter()
                    .map(|(name, content)| ((kind, name), content)),
            );
        }
        for (id, update) in news.updates {
            match update {
                Some(content) => drop(self.heard.insert(id, content)),
                None => drop(self.heard.remove(&id)),
            }
        }
        let (named, everything) = (&self.named, &self.everything);
        self.heard
            .retain(|id, _| named.contains(id) || everything.contains(&id.0));
    }

    /// What a publisher that is new to the world says of all that this one follows.
    fn oracle(&self, services: &BTreeMap<&'static str, u16>, number: usize) -> BTreeMap<Id, Content> {
        let mut state = state();
        state.obey(Command::World {
            events: services
                .iter()
                .flat_map(|(service, port)| world(service, *port))
                .collect(),
            problems: Vec::new(),
            complete: true,
        });
        let mut fresh = Self::open(&mut state, number);
        for kind in &self.everything {
            fresh.follow(
                &mut state,
                *kind,
                Interest {
                    wildcard: Some(true),
                    ..Interest::default()
                },
            );
        }
        for (kind, name) in &self.named {
            fresh.follow(
                &mut state,
                *kind,
                Interest {
                    subscribe: vec![name.clone()],
                    ..Interest::default()
                },
            );
        }
        fresh.read();
        fresh.heard
    }
}

fn act(state: &mut State, streams: &mut [Listener], services: &mut BTreeMap<&'static str, u16>, step: &Step) {
    match step.clone() {
        Step::World(service, port) => {
            let events = match port {
                Some(port) => world(service, port),
                None => world(service, 80).iter().map(gone).collect(),
            };
            match port {
                Some(port) => drop(services.insert(service, port)),
                None => drop(services.remove(service)),
            }
            state.obey(Command::World {
                events,
                problems: Vec::new(),
                complete: true,
            });
        }
        Step::Follow(stream, kind, name) => {
            if !streams[stream].named.contains(&(kind, name.into())) {
                let interest = Interest {
                    subscribe: vec![name.into()],
                    ..Interest::default()
                };
                streams[stream].follow(state, kind, interest);
            }
        }
        Step::LetGo(stream, kind, name) => {
            let interest = Interest {
                unsubscribe: vec![name.into()],
                ..Interest::default()
            };
            streams[stream].follow(state, kind, interest);
        }
        Step::Everything(stream, kind, on) => {
            let interest = Interest {
                wildcard: Some(on),
                ..Interest::default()
            };
            streams[stream].follow(state, kind, interest);
        }
        Step::Reopen(number) => {
            state.obey(Command::Close(streams[number].id));
            streams[number] = Listener::open(state, number);
        }
        Step::Flush => state.flush(),
    }
    for stream in streams {
        stream.read();
    }
}

fn gone(event: &Event) -> Event {
    match event {
        Event::Apply(object) => Event::Delete(object.object_ref()),
        other => other.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn streams_hear_of_all_they_follow_and_leave_nothing_behind(steps in prop::collection::vec(step(), 0..40)) {
        let mut state = state();
        let mut services = BTreeMap::new();
        let mut streams: Vec<Listener> = (0..3).map(|number| Listener::open(&mut state, number)).collect();
        for step in steps {
            act(&mut state, &mut streams, &mut services, &step);
        }
        state.flush();
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.read();
            prop_assert_eq!(&stream.heard, &stream.oracle(&services, number));
            state.obey(Command::Close(stream.id));
        }
        prop_assert!(state.is_idle());
    }
}

#[test]
fn spellings_that_nobody_uses_any_longer_are_not_kept() {
    let mut state = state();
    state.obey(Command::World {
        events: world("a", 80),
        problems: Vec::new(),
        complete: true,
    });
    let follow = |name: &str| Interest {
        subscribe: vec![name.into()],
        ..Interest::default()
    };
    let mut faithful = Listener::open(&mut state, 0);
    faithful.follow(&mut state, Kind::Cluster, follow("a.shop.svc.cluster.local:80"));
    let mut fickle = Listener::open(&mut state, 1);
    for name in ["a:80", "A:80", "a.shop.svc:80", "a.shop:80"] {
        fickle.follow(&mut state, Kind::Cluster, follow(name));
        let unsubscribe = vec![name.into()];
        fickle.follow(
            &mut state,
            Kind::Cluster,
            Interest {
                unsubscribe,
                ..Interest::default()
            },
        );
    }
    assert_eq!(state.encoder.len(), 1, "what is still followed");
    for port in 0..3_u16 {
        let mut envoy = Listener::open_at(&mut state, 2, Some(([127, 0, 0, 1], 15_001 + port).into()));
        let everything = Interest {
            wildcard: Some(true),
            ..Interest::default()
        };
        envoy.follow(&mut state, Kind::Listener, everything);
        if port > 0 {
            state.obey(Command::Close(envoy.id));
        }
    }
    assert_eq!(
        state.encoder.len(),
        2,
        "and the listener of the Envoy that is still there"
    );
}

#[test]
fn what_one_process_said_is_not_taken_for_what_the_next_one_says() {
    let mut states = (0..2).map(|_| {
        let mut state = state();
        state.obey(Command::World {
            events: Vec::new(),
            problems: Vec::new(),
            complete: true,
        });
        state
    });
    let (mut first, mut second) = (states.next().unwrap(), states.next().unwrap());
    let seen = first.statuses(0).expect("all that there is").revision;
    assert!(first.statuses(seen).is_none());
    assert!(second.statuses(seen).is_some());
}

#[test]
fn what_became_of_a_part_of_everything_is_not_kept_for_ever() {
    let mut state = state();
    let mut envoy = Listener::open(&mut state, 2);
    let change = |events| Command::World {
        events,
        problems: Vec::new(),
        complete: true,
    };
    state.obey(change(world("a", 80)));
    let everything = |wildcard| Interest {
        wildcard: Some(wildcard),
        ..Interest::default()
    };
    envoy.follow(&mut state, Kind::Cluster, everything(true));
    let name: Name = "a.shop.svc.cluster.local:80".into();
    let said = |envoy: &Listener, version| {
        let (name, rejected) = (name.clone(), None);
        let receipt = Receipt {
            name,
            version,
            rejected,
        };
        Command::Receipts(envoy.id, Kind::Cluster, vec![receipt])
    };
    envoy.read();
    let version = envoy.heard[&(Kind::Cluster, name.clone())].version;
    state.obey(said(&envoy, Some(version)));
    assert_eq!(state.ledger.holdings(envoy.id).count(), 1);
    state.obey(change(world("a", 80).iter().map(gone).collect()));
    state.flush();
    state.obey(said(&envoy, None));
    assert_eq!(state.ledger.holdings(envoy.id).count(), 0, "it is gone");

    state.obey(change(world("a", 80)));
    state.flush();
    state.obey(said(&envoy, Some(version)));
    envoy.follow(&mut state, Kind::Cluster, everything(false));
    assert_eq!(state.ledger.holdings(envoy.id).count(), 0, "nothing is followed");
}

const ROUTE: &str = "
{kind: Service, apiVersion: v1, metadata: {name: a, namespace: shop}, spec: {ports: [{name: http, port: 80}]}}
---
{kind: HTTPRoute, apiVersion: gateway.networking.k8s.io/v1, metadata: {name: r, namespace: shop, generation: 3}, spec: {parentRefs: [{group: '', kind: Service, name: a}], rules: [{backendRefs: [{name: a, port: 80}]}]}}
";

fn read(text: &str) -> Vec<Event> {
    let report = check_str("test.yaml", text);
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let objects = report.objects.into_iter();
    objects.map(|located| Event::Apply(located.value)).collect()
}

/// Proxies of the route, those that have confirmed it, those that have refused it.
fn counted(state: &mut State) -> (u64, u64, u64) {
    let statuses = state.statuses(0).expect("something happened");
    let (status, count) = &statuses.objects[0];
    assert_eq!(status.generation, Some(3));
    (count.proxies, count.confirmed, count.refused)
}

#[test]
fn an_object_counts_the_streams_that_follow_what_is_built_from_it() {
    let mut state = state();
    let world = |events, complete| Command::World {
        events,
        problems: Vec::new(),
        complete,
    };
    state.obey(world(read(ROUTE), false));
    assert!(state.statuses(0).is_none(), "not everything has been read");
    state.obey(world(Vec::new(), true));
    let mut stream = Listener::open(&mut state, 0);
    assert_eq!(counted(&mut state), (0, 0, 0));
    let subscribe = |name: &str| Interest {
        subscribe: vec![name.into()],
        ..Interest::default()
    };
    stream.follow(&mut state, Kind::Cluster, subscribe("a.shop:80"));
    assert_eq!(counted(&mut state), (0, 0, 0), "a cluster says nothing of routes");
    stream.follow(&mut state, Kind::Route, subscribe("a.shop:80"));
    assert_eq!(counted(&mut state), (1, 0, 0));
    assert_eq!(
        (state.sync(stream.id).state(), state.sync(stream.id).waiting),
        ("STALE", 2)
    );

    stream.read();
    let receipts = |stream: &Listener, kind, rejected: Option<&str>| {
        let name: Name = "a.shop:80".into();
        let version = Some(stream.heard[&(kind, name.clone())].version);
        let rejected = rejected.map(Into::into);
        Command::Receipts(
            stream.id,
            kind,
            vec![Receipt {
                name,
                version,
                rejected,
            }],
        )
    };
    state.obey(receipts(&stream, Kind::Cluster, None));
    state.obey(receipts(&stream, Kind::Route, Some("no such filter")));
    assert_eq!(counted(&mut state), (1, 0, 1));
    assert_eq!(state.sync(stream.id).state(), "NACK");
    state.obey(receipts(&stream, Kind::Route, None));
    assert_eq!(counted(&mut state), (1, 1, 0));
    assert_eq!(state.sync(stream.id).state(), "SYNCED");
    let statuses = state.statuses(0).expect("something happened");
    assert!(
        state.statuses(statuses.revision).is_none(),
        "nothing happened since"
    );

    state.obey(world(
        read(&ROUTE.replace("rules: [{", "rules: [{name: first, ")),
        true,
    ));
    assert_eq!(
        counted(&mut state),
        (1, 0, 0),
        "a new version has to be confirmed anew"
    );
    state.obey(Command::Close(stream.id));
    assert_eq!(counted(&mut state), (0, 0, 0));
}
