//! One task that owns what the control plane knows: the catalog of resources, the registrations, who is connected and
//! who acknowledged what. Everybody else sends it [`Command`]s; nothing here is shared or locked.
//!
//! Commands are taken in batches. After each batch the catalog says which resources changed, and only the streams that
//! follow one of those are told, through their [`Mailbox`], which holds one entry per name: a slow client costs
//! nothing but its own latency. A resource is encoded once per dialect and shared by all its streams.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use weft_api::validate::Finding;
use weft_control_plane_core::acks::{Ledger, StreamId};
use weft_control_plane_core::catalog::{ALL, Catalog, Event};
use weft_control_plane_core::registry::{self, HeartbeatId, Registration, Registry, Saved};
use weft_control_plane_core::resource::{Key, Kind, Name};
use weft_control_plane_core::rights::{self, Account, Client, Node};
use weft_control_plane_core::stream::{Content, Interest, Receipt, Variant};
use weft_control_plane_core::world::{ObjectName, Reader};

use crate::clock::Clock;

mod encoder;
mod hints;
mod mailbox;
mod report;

use encoder::Encoder;
use hints::Used;
pub use mailbox::{Mailbox, News};

/// Commands that wait; beyond it senders wait.
const COMMANDS_MAX: usize = 1_024;

/// Commands that are taken together.
const BATCH_MAX: usize = 256;

/// A stream that wants to begin.
#[derive(Debug)]
pub struct Hello {
    /// Its identity, from the verified certificate.
    pub account: Account,
    /// `node.id`.
    pub node_id: String,
    /// `node.user_agent_name`.
    pub user_agent: String,
    /// Where Envoy's one listener binds.
    pub listen: Option<SocketAddr>,
    /// The connection's other end.
    pub peer: SocketAddr,
    /// The protocol's variant.
    pub variant: Variant,
}

/// A stream that was admitted.
#[derive(Debug)]
pub struct Admitted {
    /// Names it.
    pub stream: StreamId,
    /// Who it is.
    pub client: Client,
    /// What it follows, as it changes.
    pub mailbox: Arc<Mailbox>,
}

/// What the publisher is told or asked.
#[derive(Debug)]
pub enum Command {
    /// The world changed. `problems`: all that is not in force now.
    World {
        /// What changed.
        events: Vec<Event>,
        /// Whole list.
        problems: Vec<Finding>,
    },
    /// A stream wants to begin.
    Open(Hello, oneshot::Sender<Result<Admitted, rights::Refusal>>),
    /// A stream follows other names now. They were checked.
    Follow(StreamId, Kind, Interest),
    /// A stream's client acknowledged something, or refused it.
    Receipts(StreamId, Kind, Vec<Receipt>),
    /// A stream has ended.
    Close(StreamId),
    /// A workload registers. Answers with the name of its heartbeat.
    Register(Box<Registration>, oneshot::Sender<Result<HeartbeatId, registry::Refusal>>),
    /// It reports its health.
    Health(HeartbeatId, bool),
    /// It goes.
    Withdraw(HeartbeatId),
    /// Its stream ended without a word.
    Lost(HeartbeatId),
    /// Who is connected and has what: for people.
    Clients(oneshot::Sender<Value>),
    /// What is in force: for people.
    Objects(oneshot::Sender<Value>),
}

/// Sends commands to the publisher.
#[derive(Clone, Debug)]
pub struct Publisher(mpsc::Sender<Command>);

/// The publisher has ended, and with it the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the control plane is ending")]
pub struct Ending;

impl Publisher {
    /// Sends a command.
    pub async fn send(&self, command: Command) -> Result<(), Ending> {
        self.0.send(command).await.map_err(|_| Ending)
    }

    /// Sends a question and waits for its answer.
    pub async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Ending> {
        let (answer, answered) = oneshot::channel();
        self.send(question(answer)).await?;
        answered.await.map_err(|_| Ending)
    }
}

/// How a stream came to follow a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Follows {
    /// It asked for this name.
    Named(Name),
    /// It asked for everything, of which this is a part.
    Part(Name),
    /// It asked for everything, which this key stands for.
    Everything,
}

/// A stream, as the publisher knows it.
#[derive(Debug)]
struct Stream {
    client: Client,
    listen: Option<SocketAddr>,
    peer: SocketAddr,
    variant: Variant,
    since: SystemTime,
    mailbox: Arc<Mailbox>,
    /// The names it asked for.
    named: BTreeMap<(Kind, Name), Key>,
    /// Where it asked for everything: the key for that, and the parts.
    everything: BTreeMap<Kind, (Key, BTreeMap<Name, Key>)>,
}

/// What the publisher begins with.
#[derive(Debug)]
pub struct Beginning {
    /// The catalog, with the roots in it.
    pub catalog: Catalog,
    /// Registrations, restored.
    pub registry: Registry,
    /// What restoring them changed.
    pub restored: Vec<registry::Change>,
    /// Where registrations go to be kept.
    pub saved: watch::Sender<Vec<Saved>>,
    /// The process's clock.
    pub clock: Clock,
}

/// See the module's head.
struct State {
    catalog: Catalog,
    registry: Registry,
    saved: watch::Sender<Vec<Saved>>,
    clock: Clock,
    ledger: Ledger,
    encoder: Encoder,
    used: Used,
    streams: BTreeMap<StreamId, Stream>,
    followers: BTreeMap<Key, BTreeSet<(StreamId, Follows)>>,
    problems: Vec<Finding>,
    /// Of streams and heartbeats.
    next_id: u64,
}

/// Makes the publisher: a handle for everybody, and the task itself, which ends when all handles are gone. `loaded`
/// becomes true when the world is known for the first time; nobody should be answered before.
pub fn publisher(
    beginning: Beginning,
    loaded: watch::Sender<bool>,
) -> (Publisher, impl Future<Output = ()> + Send) {
    let (sender, commands) = mpsc::channel(COMMANDS_MAX);
    (Publisher(sender), run(State::new(beginning), commands, loaded))
}

async fn run(mut state: State, mut commands: mpsc::Receiver<Command>, loaded: watch::Sender<bool>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    loop {
        let expiry = state.registry.next_expiry().map(|moment| state.clock.instant(moment));
        let expired = async {
            match expiry {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            taken = commands.recv_many(&mut batch, BATCH_MAX) => if taken == 0 { return },
            () = expired => {}
        }
        let changes = state.registry.expire(state.clock.now());
        state.registered(changes);
        let world = batch.iter().any(|command| matches!(command, Command::World { .. }));
        for command in batch.drain(..) {
            state.obey(command);
        }
        state.flush();
        if world {
            loaded.send_replace(true);
        }
    }
}

impl State {
    fn new(beginning: Beginning) -> Self {
        let Beginning { mut catalog, registry, restored, saved, clock } = beginning;
        catalog.apply(restored.into_iter().map(Event::from).collect());
        let encoder = Encoder::new(catalog.settings().trust_domain.clone());
        Self {
            catalog,
            registry,
            saved,
            clock,
            ledger: Ledger::default(),
            encoder,
            used: Used::default(),
            streams: BTreeMap::new(),
            followers: BTreeMap::new(),
            problems: Vec::new(),
            next_id: 0,
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::World { events, problems } => {
                self.catalog.apply(events);
                self.problems = problems;
            }
            Command::Open(hello, answer) => {
                // Whoever asked may be gone: then the stream ends before it began.
                if let Err(Ok(unheard)) = answer.send(self.open(hello)) {
                    self.close(unheard.stream);
                }
            }
            Command::Follow(stream, kind, interest) => self.follow(stream, kind, interest),
            Command::Receipts(stream, kind, receipts) => self.ledger.record(stream, kind, receipts),
            Command::Close(stream) => self.close(stream),
            Command::Register(registration, answer) => {
                if let Err(Ok(unheard)) = answer.send(self.register(*registration)) {
                    self.registry.lost(unheard, self.clock.now());
                }
            }
            Command::Health(heartbeat, healthy) => {
                let changes = self.registry.health(heartbeat, healthy);
                self.registered(changes);
            }
            Command::Withdraw(heartbeat) => {
                let changes = self.registry.withdraw(heartbeat);
                self.registered(changes);
            }
            Command::Lost(heartbeat) => self.registry.lost(heartbeat, self.clock.now()),
            // Nobody waits for an answer that can't be sent.
            Command::Clients(answer) => drop(answer.send(self.clients())),
            Command::Objects(answer) => drop(answer.send(self.objects())),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn pod_owner(&self, node: &ObjectName) -> Option<Account> {
        let pod = Reader::new(self.catalog.world()).pod(node)?;
        Some(Account { namespace: node.namespace.clone(), name: pod.account.clone() })
    }

    fn open(&mut self, hello: Hello) -> Result<Admitted, rights::Refusal> {
        let node = Node::parse(&hello.node_id)
            .ok_or_else(|| rights::Refusal::NodeId(hello.node_id.chars().take(128).collect()))?;
        let owner = match &node {
            Node::Workload(name) => self.pod_owner(name).or_else(|| self.registry.owner(name).cloned()),
            Node::Account(_) => None,
        };
        let client = Client::admit(hello.account, node, &hello.user_agent, owner.as_ref())?;
        let stream = StreamId(self.next_id());
        let mailbox = Arc::new(Mailbox::default());
        let known = Stream {
            client: client.clone(),
            listen: hello.listen,
            peer: hello.peer,
            variant: hello.variant,
            since: SystemTime::now(),
            mailbox: Arc::clone(&mailbox),
            named: BTreeMap::new(),
            everything: BTreeMap::new(),
        };
        self.streams.insert(stream, known);
        tracing::info!(stream = stream.0, node = %client.node(), dialect = %client.dialect(), "stream opened");
        Ok(Admitted { stream, client, mailbox })
    }

    fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        for ((kind, name), key) in stream.named {
            self.used.remove(&stream.client, kind, &key);
            self.unfollow(id, &key, &Follows::Named(name));
        }
        for (key, parts) in stream.everything.into_values() {
            for (name, part) in parts {
                self.unfollow(id, &part, &Follows::Part(name));
            }
            self.unfollow(id, &key, &Follows::Everything);
        }
        self.ledger.closed(id);
        tracing::info!(stream = id.0, node = %stream.client.node(), "stream closed");
    }

    fn follow(&mut self, id: StreamId, kind: Kind, interest: Interest) {
        self.ledger.subscribed(id, kind, &interest.subscribe);
        self.ledger.unsubscribed(id, kind, &interest.unsubscribe);
        for name in interest.unsubscribe {
            let Some(stream) = self.streams.get_mut(&id) else { return };
            if let Some(key) = stream.named.remove(&(kind, name.clone())) {
                self.used.remove(&stream.client, kind, &key);
                self.unfollow(id, &key, &Follows::Named(name));
            }
        }
        match interest.wildcard {
            Some(true) => self.follow_everything(id, kind),
            Some(false) => self.unfollow_everything(id, kind),
            None => {}
        }
        for name in interest.subscribe {
            self.follow_name(id, kind, name);
        }
    }

    fn follow_name(&mut self, id: StreamId, kind: Kind, name: Name) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let resolved = self.catalog.resolve(kind, &name, &stream.client.account().namespace);
        let content = self.encoder.content(&resolved, &name, stream.client.dialect(), stream.listen);
        stream.mailbox.put(kind, name.clone(), content);
        if stream.named.insert((kind, name.clone()), resolved.key.clone()).is_some() {
            // Asked for twice: one interest is enough.
            self.catalog.release(&resolved.key);
            return;
        }
        self.used.add(&stream.client, kind, &resolved.key);
        self.followers.entry(resolved.key).or_default().insert((id, Follows::Named(name)));
    }

    fn follow_everything(&mut self, id: StreamId, kind: Kind) {
        self.unfollow_everything(id, kind);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let all = self.catalog.all(kind, &stream.client.account().namespace);
        let mut parts = BTreeMap::new();
        let mut contents = Vec::new();
        for resolved in all.resources {
            let name = resolved.key.name.clone();
            let content = self.encoder.content(&resolved, &name, stream.client.dialect(), stream.listen);
            contents.extend(content.map(|content| (name.clone(), content)));
            let followers = self.followers.entry(resolved.key.clone()).or_default();
            followers.insert((id, Follows::Part(name.clone())));
            parts.insert(name, resolved.key);
        }
        self.followers.entry(all.key.clone()).or_default().insert((id, Follows::Everything));
        stream.everything.insert(kind, (all.key, parts));
        stream.mailbox.put_all(kind, contents);
    }

    fn unfollow_everything(&mut self, id: StreamId, kind: Kind) {
        let everything = self.streams.get_mut(&id).and_then(|stream| stream.everything.remove(&kind));
        let Some((key, parts)) = everything else { return };
        for (name, part) in parts {
            self.unfollow(id, &part, &Follows::Part(name));
        }
        self.unfollow(id, &key, &Follows::Everything);
    }

    fn unfollow(&mut self, id: StreamId, key: &Key, follows: &Follows) {
        self.catalog.release(key);
        let Some(followers) = self.followers.get_mut(key) else { return };
        followers.remove(&(id, follows.clone()));
        if followers.is_empty() {
            self.followers.remove(key);
            self.encoder.forget(key);
        }
    }

    fn register(&mut self, registration: Registration) -> Result<HeartbeatId, registry::Refusal> {
        let heartbeat = HeartbeatId(self.next_id());
        let pod = registration.node_id.split_once('/');
        let pod = pod.and_then(|(namespace, name)| self.pod_owner(&ObjectName::new(namespace, name)));
        let (node, address): (_, IpAddr) = (registration.node_id.clone(), registration.address);
        let changes = self.registry.register(heartbeat, registration, pod.as_ref())?;
        tracing::info!(node, %address, "workload registered");
        self.registered(changes);
        Ok(heartbeat)
    }

    /// Publishes and keeps what changed of the registrations.
    fn registered(&mut self, changes: Vec<registry::Change>) {
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            if let registry::Change::Remove(node) = change {
                tracing::info!(%node, "workload withdrawn");
            }
        }
        self.catalog.apply(changes.into_iter().map(Event::from).collect());
        self.saved.send_replace(self.registry.saved());
    }

    /// Tells the streams what changed.
    fn flush(&mut self) {
        let used = self.used.changes(self.catalog.settings());
        self.catalog.apply(used);
        for key in self.catalog.changes() {
            let followers = self.followers.get(&key).cloned().unwrap_or_default();
            let value = if &*key.name == ALL { None } else { self.catalog.get(&key) };
            let resolved = weft_control_plane_core::catalog::Resolved { key, value };
            for (id, follows) in followers {
                match follows {
                    Follows::Everything => self.refresh_everything(id, resolved.key.kind),
                    Follows::Named(name) | Follows::Part(name) => {
                        let Some(stream) = self.streams.get(&id) else { continue };
                        let dialect = stream.client.dialect();
                        let content = self.encoder.content(&resolved, &name, dialect, stream.listen);
                        stream.mailbox.put(resolved.key.kind, name, content);
                    }
                }
            }
        }
    }

    /// What is a part of everything has changed.
    fn refresh_everything(&mut self, id: StreamId, kind: Kind) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some((_, before)) = stream.everything.remove(&kind) else { return };
        let all = self.catalog.all(kind, &stream.client.account().namespace);
        let mut parts = BTreeMap::new();
        for resolved in all.resources {
            let name = resolved.key.name.clone();
            if !before.contains_key(&name) {
                let content = self.encoder.content(&resolved, &name, stream.client.dialect(), stream.listen);
                stream.mailbox.put(kind, name.clone(), content);
            }
            let followers = self.followers.entry(resolved.key.clone()).or_default();
            followers.insert((id, Follows::Part(name.clone())));
            parts.insert(name, resolved.key);
        }
        let gone: Vec<Name> = before.keys().filter(|name| !parts.contains_key(*name)).cloned().collect();
        for name in &gone {
            stream.mailbox.put(kind, name.clone(), None);
        }
        let everything = (all.key.clone(), parts);
        stream.everything.insert(kind, everything);
        self.drop_parts(id, kind, before, &gone);
        self.catalog.release(&all.key);
    }

    /// Gives up the interests that a former set of parts held. Those that are still parts hold new ones.
    fn drop_parts(&mut self, id: StreamId, kind: Kind, before: BTreeMap<Name, Key>, gone: &[Name]) {
        for (name, key) in before {
            if gone.contains(&name) {
                self.unfollow(id, &key, &Follows::Part(name));
            } else {
                debug_assert_eq!(key.kind, kind, "parts of everything are of one kind");
                self.catalog.release(&key);
            }
        }
    }
}

/// What a mailbox holds for a name.
type Update = Option<Content>;
