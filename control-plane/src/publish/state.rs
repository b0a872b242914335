//! What the publisher knows, and what each command does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use weft_api::validate::Finding;
use weft_control_plane_core::acks::{Ledger, StreamId};
use weft_control_plane_core::catalog::{ALL, Catalog, Event, Resolved};
use weft_control_plane_core::registry::{self, HeartbeatId, Registration, Registry, Saved};
use weft_control_plane_core::resource::{Key, Kind, Name};
use weft_control_plane_core::rights::{self, Account, Client, Node};
use weft_control_plane_core::stream::{Interest, Receipt, Variant};
use weft_control_plane_core::world::{ObjectName, Reader};

use super::encoder::Encoder;
use super::hints::Used;
use super::{Admitted, Beginning, Command, Hello, Mailbox};
use crate::clock::Clock;

/// How a stream came to follow a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Follows {
    /// It asked for this name.
    Named(Name),
    /// It asked for everything, of which this is a part.
    Part(Name),
    /// It asked for everything, which this key stands for.
    Everything,
}

/// A stream, as the publisher knows it.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) client: Client,
    pub(super) listen: Option<SocketAddr>,
    pub(super) version: String,
    pub(super) peer: SocketAddr,
    pub(super) variant: Variant,
    pub(super) since: SystemTime,
    pub(super) mailbox: Arc<Mailbox>,
    /// The names it asked for.
    pub(super) named: BTreeMap<(Kind, Name), Key>,
    /// Where it asked for everything: the key for that, and the parts.
    pub(super) everything: BTreeMap<Kind, (Key, BTreeMap<Name, Key>)>,
}

/// See the module's head.
pub(super) struct State {
    pub(super) catalog: Catalog,
    pub(super) registry: Registry,
    saved: watch::Sender<Vec<Saved>>,
    /// Registrations changed that are not handed on yet to be kept.
    unsaved: bool,
    pub(super) clock: Clock,
    pub(super) ledger: Ledger,
    pub(super) encoder: Encoder,
    used: Used,
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) followers: BTreeMap<Key, BTreeSet<(StreamId, Follows)>>,
    pub(super) problems: Vec<Finding>,
    /// Of streams and heartbeats.
    pub(super) next_id: u64,
    /// Counts up with everything that may change what is in force, or who has it. It begins with the time, in
    /// microseconds, which no process before this one has counted up to: who asked that one is told anew.
    pub(super) revision: u64,
    /// Everything has been read once.
    pub(super) complete: bool,
}

fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

impl State {
    pub(super) fn new(beginning: Beginning) -> Self {
        let Beginning {
            mut catalog,
            registry,
            restored,
            saved,
            clock,
        } = beginning;
        catalog.apply(restored.into_iter().map(Event::from).collect());
        let encoder = Encoder::new(catalog.settings().trust_domain.clone());
        Self {
            catalog,
            registry,
            saved,
            unsaved: false,
            clock,
            ledger: Ledger::default(),
            encoder,
            used: Used::default(),
            streams: BTreeMap::new(),
            followers: BTreeMap::new(),
            problems: Vec::new(),
            next_id: 0,
            revision: unix_micros(),
            complete: false,
        }
    }

    pub(super) fn obey(&mut self, command: Command) {
        self.revision += u64::from(!command.is_question());
        match command {
            Command::World {
                events,
                problems,
                complete,
            } => {
                self.catalog.apply(events);
                self.problems = problems;
                self.complete |= complete;
            }
            Command::Trust(roots) => self.catalog.apply(vec![Event::Trust(roots)]),
            Command::Open(hello, answer) => {
                // Whoever asked may be gone: then the stream ends before it began.
                if let Err(Ok(unheard)) = answer.send(self.open(hello)) {
                    self.close(unheard.stream);
                }
            }
            Command::Follow(stream, kind, interest) => self.follow(stream, kind, interest),
            Command::Receipts(stream, kind, receipts) => self.receipts(stream, kind, receipts),
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
            Command::Roots(answer) => drop(answer.send(self.roots())),
            Command::Statuses(since, answer) => drop(answer.send(self.statuses(since))),
        }
    }

    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn pod_owner(&self, node: &ObjectName) -> Option<Account> {
        let pod = Reader::new(self.catalog.world()).pod(node)?;
        Some(Account {
            namespace: node.namespace.clone(),
            name: pod.account.clone(),
        })
    }

    fn open(&mut self, hello: Hello) -> Result<Admitted, rights::Refusal> {
        let node = Node::parse(&hello.node_id)
            .ok_or_else(|| rights::Refusal::NodeId(hello.node_id.chars().take(128).collect()))?;
        let owner = match &node {
            Node::Workload(name) => self
                .pod_owner(name)
                .or_else(|| self.registry.owner(name).cloned()),
            Node::Account(_) => None,
        };
        let client = Client::admit(hello.account, node, &hello.user_agent, owner.as_ref())?;
        let stream = StreamId(self.next_id());
        let mailbox = Arc::new(Mailbox::default());
        let known = Stream {
            client: client.clone(),
            listen: hello.listen,
            version: hello.version,
            peer: hello.peer,
            variant: hello.variant,
            since: SystemTime::now(),
            mailbox: Arc::clone(&mailbox),
            named: BTreeMap::new(),
            everything: BTreeMap::new(),
        };
        self.streams.insert(stream, known);
        tracing::info!(stream = stream.0, node = %client.node(), dialect = %client.dialect(), "stream opened");
        Ok(Admitted {
            stream,
            client,
            mailbox,
        })
    }

    fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        for ((kind, name), key) in stream.named {
            self.used.remove(&stream.client, kind, &key);
            self.encoder
                .forget_form(&key, &name, stream.client.dialect(), stream.listen);
            self.unfollow(id, &key, &Follows::Named(name));
        }
        for (key, parts) in stream.everything.into_values() {
            for (name, part) in parts {
                self.encoder
                    .forget_form(&part, &name, stream.client.dialect(), stream.listen);
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
            self.let_go(id, kind, name);
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

    /// Takes down what a stream's client said. That a part of everything is gone is not kept once it has been heard.
    fn receipts(&mut self, id: StreamId, kind: Kind, receipts: Vec<Receipt>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let gone = receipts
            .iter()
            .filter(|receipt| receipt.version.is_none() && receipt.rejected.is_none())
            .map(|receipt| receipt.name.clone());
        let gone: Vec<Name> = gone
            .filter(|name| !stream.named.contains_key(&(kind, name.clone())))
            .collect();
        self.ledger.record(id, kind, receipts);
        self.ledger.unsubscribed(id, kind, &gone);
    }

    /// A stream follows a name no longer, unless as a part of everything: then it is told what that is.
    fn let_go(&mut self, id: StreamId, kind: Kind, name: Name) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some((_, parts)) = stream.everything.get(&kind) {
            let part = parts.get(&name).map(|key| Resolved {
                key: key.clone(),
                value: self.catalog.get(key),
            });
            let dialect = stream.client.dialect();
            let content = part.and_then(|part| self.encoder.content(&part, &name, dialect, stream.listen));
            stream.mailbox.put(kind, name.clone(), content);
        }
        if let Some(key) = stream.named.remove(&(kind, name.clone())) {
            self.used.remove(&stream.client, kind, &key);
            self.encoder
                .forget_form(&key, &name, stream.client.dialect(), stream.listen);
            self.unfollow(id, &key, &Follows::Named(name));
        }
    }

    fn follow_name(&mut self, id: StreamId, kind: Kind, name: Name) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let resolved = self
            .catalog
            .resolve(kind, &name, &stream.client.account().namespace);
        let content = self
            .encoder
            .content(&resolved, &name, stream.client.dialect(), stream.listen);
        stream.mailbox.put(kind, name.clone(), content);
        if stream
            .named
            .insert((kind, name.clone()), resolved.key.clone())
            .is_some()
        {
            // Asked for twice: one interest is enough.
            self.catalog.release(&resolved.key);
            return;
        }
        self.used.add(&stream.client, kind, &resolved.key);
        self.followers
            .entry(resolved.key)
            .or_default()
            .insert((id, Follows::Named(name)));
    }

    fn follow_everything(&mut self, id: StreamId, kind: Kind) {
        self.unfollow_everything(id, kind);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let all = self.catalog.all(kind, &stream.client.account().namespace);
        let mut parts = BTreeMap::new();
        let mut contents = Vec::new();
        for resolved in all.resources {
            let name = resolved.key.name.clone();
            let content = self
                .encoder
                .content(&resolved, &name, stream.client.dialect(), stream.listen);
            contents.extend(content.map(|content| (name.clone(), content)));
            let followers = self.followers.entry(resolved.key.clone()).or_default();
            followers.insert((id, Follows::Part(name.clone())));
            parts.insert(name, resolved.key);
        }
        self.followers
            .entry(all.key.clone())
            .or_default()
            .insert((id, Follows::Everything));
        stream.everything.insert(kind, (all.key, parts));
        stream.mailbox.put_all(kind, contents);
    }

    fn unfollow_everything(&mut self, id: StreamId, kind: Kind) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some((key, parts)) = stream.everything.remove(&kind) else {
            return;
        };
        let (dialect, listen) = (stream.client.dialect(), stream.listen);
        let forgotten: Vec<Name> = parts
            .keys()
            .filter(|name| !stream.named.contains_key(&(kind, (*name).clone())))
            .cloned()
            .collect();
        self.ledger.unsubscribed(id, kind, &forgotten);
        for (name, part) in parts {
            self.encoder.forget_form(&part, &name, dialect, listen);
            self.unfollow(id, &part, &Follows::Part(name));
        }
        self.unfollow(id, &key, &Follows::Everything);
    }

    fn unfollow(&mut self, id: StreamId, key: &Key, follows: &Follows) {
        self.catalog.release(key);
        let Some(followers) = self.followers.get_mut(key) else {
            return;
        };
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

    /// Publishes what changed of the registrations.
    pub(super) fn registered(&mut self, changes: Vec<registry::Change>) {
        if changes.is_empty() {
            return;
        }
        for change in &changes {
            if let registry::Change::Remove(node) = change {
                tracing::info!(%node, "workload withdrawn");
            }
        }
        self.catalog.apply(changes.into_iter().map(Event::from).collect());
        self.unsaved = true;
    }

    /// Tells the streams what changed, and has the registrations kept.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.unsaved) {
            self.saved.send_replace(self.registry.saved());
        }
        let used = self.used.changes(self.catalog.settings());
        self.catalog.apply(used);
        for key in self.catalog.changes() {
            let followers = self.followers.get(&key).cloned().unwrap_or_default();
            let value = if &*key.name == ALL {
                None
            } else {
                self.catalog.get(&key)
            };
            let resolved = Resolved { key, value };
            for (id, follows) in followers {
                match follows {
                    Follows::Everything => self.refresh_everything(id, resolved.key.kind),
                    Follows::Named(name) | Follows::Part(name) => {
                        let Some(stream) = self.streams.get(&id) else {
                            continue;
                        };
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
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let Some((_, before)) = stream.everything.remove(&kind) else {
            return;
        };
        let all = self.catalog.all(kind, &stream.client.account().namespace);
        let mut parts = BTreeMap::new();
        for resolved in all.resources {
            let name = resolved.key.name.clone();
            if !before.contains_key(&name) {
                let content = self
                    .encoder
                    .content(&resolved, &name, stream.client.dialect(), stream.listen);
                stream.mailbox.put(kind, name.clone(), content);
            }
            let followers = self.followers.entry(resolved.key.clone()).or_default();
            followers.insert((id, Follows::Part(name.clone())));
            parts.insert(name, resolved.key);
        }
        let gone: Vec<Name> = before
            .keys()
            .filter(|name| !parts.contains_key(*name))
            .cloned()
            .collect();
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

    /// Whether nothing is kept for anybody.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty()
            && self.followers.is_empty()
            && self.encoder.is_empty()
            && self.catalog.keys().next().is_none()
    }
}
