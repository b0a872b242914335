//! The catalogue of resources: what clients are interested in, kept up to date.
//!
//! Events change the world at once; resources are computed again only when somebody asks ([`Catalog::resolve`],
//! [`Catalog::get`], [`Catalog::changes`]), and only those that read something that an event touched. What a resource
//! read was recorded while it was computed (see [`crate::world`]), so that incremental and from scratch can't differ.
//!
//! Only what somebody holds an interest in is kept: cost follows what clients use, not the size of the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weft_api::object::{Kind as ObjectKind, Object, ObjectRef};

use crate::conditions::{self, Known, ObjectStatus};
use crate::ingest::{self, Rejected};
use crate::names::INBOUND_PREFIX;
pub use crate::names::Settings;
use crate::resource::{Key, Kind, Name, Resource, View};
use crate::translate::{self, Context};
use crate::version::Version;
use crate::world::workload::Workload;
use crate::world::{Fact, Id, Item, ObjectName, Read, Reader, World};

/// Something that changed.
#[derive(Clone, Debug)]
pub enum Event {
    /// An object appeared or changed.
    Apply(Object),
    /// A new version of an object can't be read at all: its last good version stays in force, and its status says why.
    Refuse {
        /// The object.
        object: ObjectRef,
        /// `metadata.generation` of that version.
        generation: Option<i64>,
        /// The field and the reason.
        why: Rejected,
    },
    /// An object is gone.
    Delete(ObjectRef),
    /// A Pod is outside the mesh.
    Outside(ObjectName),
    /// Every Pod that is there has been told. From now on an endpoint whose Pod is not known waits for it, as nobody
    /// knows whether it is in the mesh.
    PodsTold,
    /// A workload registered, or what it said changed.
    Register(Workload),
    /// A workload is gone.
    Unregister(ObjectName),
    /// The roots, DER.
    Trust(Vec<Arc<[u8]>>),
    /// What the workloads of an identity use now, by names of listeners.
    UsedBy {
        /// SPIFFE id.
        identity: Name,
        /// All of them.
        listeners: BTreeSet<Name>,
    },
}

/// A resource and its version. Equal versions mean equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// Hash of the content.
    pub version: Version,
    /// The content.
    pub resource: Arc<Resource>,
}

impl Versioned {
    fn new(resource: Resource) -> Self {
        Self {
            version: Version::of(&resource),
            resource: Arc::new(resource),
        }
    }
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The resource's key: the same for all names of one thing.
    pub key: Key,
    /// The resource; `None`: there is none.
    pub value: Option<Versioned>,
}

/// What a wildcard stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct All {
    /// The key of the wildcard itself, with the name `*`. It is among [`Catalog::changes`] when resources came or
    /// went, has no resource of its own, and is released like any other.
    pub key: Key,
    /// The resources, ascending by name.
    pub resources: Vec<Resolved>,
}

/// Name of the key of a wildcard.
pub const ALL: &str = "*";

/// What is kept under a key.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Resource(Option<Versioned>),
    Members(Vec<Name>),
}

/// What is kept for a key that somebody holds an interest in.
#[derive(Debug)]
struct Entry {
    value: Value,
    asked: BTreeSet<Fact>,
    /// The routes and policies that the value says something of.
    built_from: BTreeSet<Id>,
    interest: usize,
}

/// All resources that anybody is interested in, and the world they come from.
#[derive(Debug)]
pub struct Catalog {
    settings: Settings,
    world: World,
    /// What was applied and is not gone, with why its last version is not in force, if so.
    objects: BTreeMap<ObjectRef, Known>,
    entries: BTreeMap<Key, Entry>,
    /// Who asked for a fact.
    askers: BTreeMap<Fact, BTreeSet<Key>>,
    /// Keys whose value may have changed since it was computed.
    stale: BTreeSet<Key>,
    /// Keys whose value changed since the last call of `changes`.
    changed: BTreeSet<Key>,
}

impl Catalog {
    /// An empty one.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            world: World::default(),
            objects: BTreeMap::new(),
            entries: BTreeMap::new(),
            askers: BTreeMap::new(),
            stale: BTreeSet::new(),
            changed: BTreeSet::new(),
        }
    }

    /// Takes events in. Cost follows what they touch; nothing is translated yet.
    pub fn apply(&mut self, events: Vec<Event>) {
        for event in events {
            let touched = match event {
                Event::Apply(object) => self.apply_object(&object),
                Event::Refuse {
                    object,
                    generation,
                    why,
                } => {
                    let rejected = Some(why);
                    self.objects.insert(object, Known { generation, rejected });
                    BTreeSet::new()
                }
                Event::Delete(object) => self.delete(&object),
                Event::Outside(pod) => {
                    let object = ObjectRef {
                        kind: ObjectKind::Pod,
                        namespace: pod.namespace.clone(),
                        name: pod.name.clone(),
                    };
                    let mut touched = self.delete(&object);
                    touched.extend(self.world.put(Item::Outsider(pod)));
                    touched
                }
                Event::PodsTold => self.world.put(Item::PodsTold),
                Event::Register(workload) => self.world.put(Item::Workload(Arc::new(workload))),
                Event::Unregister(node) => self.world.remove(&Id::Workload(node)),
                Event::Trust(mut roots) => {
                    roots.sort();
                    roots.dedup();
                    self.world.put(Item::Trust(roots.into()))
                }
                Event::UsedBy { identity, listeners } if listeners.is_empty() => {
                    self.world.remove(&Id::Used(identity))
                }
                Event::UsedBy { identity, listeners } => {
                    self.world.put(Item::Used(identity, Arc::new(listeners)))
                }
            };
            for fact in touched {
                self.stale
                    .extend(self.askers.get(&fact).into_iter().flatten().cloned());
            }
        }
    }

    fn delete(&mut self, object: &ObjectRef) -> BTreeSet<Fact> {
        self.objects.remove(object);
        let Some(id) = ingest::id(object) else {
            return BTreeSet::new();
        };
        let mut touched = self.world.remove(&id);
        if let Id::Pod(pod) = id {
            touched.extend(self.world.remove(&Id::Outsider(pod)));
        }
        touched
    }

    /// An object that can't be understood leaves its last good version in force.
    fn apply_object(&mut self, object: &Object) -> BTreeSet<Fact> {
        let name = object.object_ref();
        let generation = object.metadata().generation;
        match ingest::ingest(object) {
            Ok(item) => {
                let rejected = item.is_none().then(|| ingest::outside(object)).flatten();
                self.objects.insert(name.clone(), Known { generation, rejected });
                match (item, ingest::id(&name)) {
                    (Some(Item::Pod(pod)), _) => {
                        let mut touched = self.world.remove(&Id::Outsider(pod.name.clone()));
                        touched.extend(self.world.put(Item::Pod(pod)));
                        touched
                    }
                    (Some(item), _) => self.world.put(item),
                    (None, Some(id)) => self.world.remove(&id),
                    (None, None) => BTreeSet::new(),
                }
            }
            Err(rejected) => {
                let rejected = Some(rejected);
                self.objects.insert(name, Known { generation, rejected });
                BTreeSet::new()
            }
        }
    }

    /// What a client of `namespace` means by a name. Takes an interest in it, whether it exists or not, until
    /// [`Catalog::release`]. Names are as typed: see [`Settings::authority`].
    pub fn resolve(&mut self, kind: Kind, name_as_asked: &str, namespace: &str) -> Resolved {
        let key = self.key(kind, name_as_asked, namespace);
        let value = self.hold(&key);
        Resolved { key, value }
    }

    /// Everything of a kind that a client of `namespace` may see: what a wildcard stands for. Takes an interest in
    /// each of the keys returned, the wildcard's own too.
    pub fn all(&mut self, kind: Kind, namespace: &str) -> All {
        let key = Key {
            kind,
            name: ALL.into(),
            view: View::Namespace(namespace.into()),
        };
        self.hold(&key);
        let names = match &self.entries[&key].value {
            Value::Members(names) => names.clone(),
            Value::Resource(_) => Vec::new(),
        };
        All {
            key,
            resources: names
                .iter()
                .map(|name| self.resolve(kind, name, namespace))
                .collect(),
        }
    }

    /// Gives up one interest, taken by [`Catalog::resolve`] or [`Catalog::all`]. Without any left the key is
    /// forgotten.
    pub fn release(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        entry.interest -= 1;
        if entry.interest > 0 {
            return;
        }
        if let Some(entry) = self.entries.remove(key) {
            forget(&mut self.askers, key, &entry.asked);
        }
        self.stale.remove(key);
        self.changed.remove(key);
    }

    /// The resource of a key that somebody holds an interest in; `None`: there is none.
    pub fn get(&mut self, key: &Key) -> Option<Versioned> {
        self.refresh(key);
        match &self.entries.get(key)?.value {
            Value::Resource(value) => value.clone(),
            Value::Members(_) => None,
        }
    }

    /// The keys that somebody holds an interest in and whose value changed since the last call. A change that was
    /// taken back before anybody looked is none.
    pub fn changes(&mut self) -> BTreeSet<Key> {
        while let Some(key) = self.stale.first().cloned() {
            self.refresh(&key);
        }
        std::mem::take(&mut self.changed)
    }

    /// What is in force of each object, and why the rest isn't. Cost follows the number of objects.
    pub fn conditions(&self) -> Vec<ObjectStatus> {
        conditions::of_all(&self.world, &self.settings, self.objects.iter())
    }

    /// As [`Catalog::conditions`], of those kinds that have a status for the mesh to write.
    pub fn statuses(&self) -> Vec<ObjectStatus> {
        let written = self.objects.iter().filter(|(object, _)| has_status(object.kind));
        conditions::of_all(&self.world, &self.settings, written)
    }

    /// For each object, the keys that somebody holds an interest in and whose value is built from it. Values that are
    /// stale count as they were: call [`Catalog::changes`] before. Cost follows the number of keys.
    pub fn built(&self) -> BTreeMap<Id, Vec<&Key>> {
        let mut built: BTreeMap<Id, Vec<&Key>> = BTreeMap::new();
        for (key, entry) in &self.entries {
            for id in &entry.built_from {
                built.entry(id.clone()).or_default().push(key);
            }
        }
        built
    }

    /// The mesh's domains.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The world behind the resources, for rights and admin.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// Keys that somebody holds an interest in, ascending.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// The key that a name stands for. A name that nothing of the mesh can have stands for itself.
    fn key(&self, kind: Kind, name: &str, namespace: &str) -> Key {
        let workload = matches!(kind, Kind::Listener) && name.starts_with(INBOUND_PREFIX);
        let view = match kind {
            Kind::Listener | Kind::Route if !workload => View::Namespace(namespace.into()),
            _ => View::Shared,
        };
        let authority = match kind {
            Kind::Secret | Kind::Hints => None,
            Kind::Listener | Kind::Route | Kind::Cluster | Kind::Endpoints => {
                self.settings.authority(name, namespace)
            }
        };
        let name = authority.map_or_else(|| name.into(), |authority| authority.name(&self.settings));
        Key { kind, name, view }
    }

    /// Takes an interest and returns the value.
    fn hold(&mut self, key: &Key) -> Option<Versioned> {
        if !self.entries.contains_key(key) {
            let (value, read) = compute(&self.world, &self.settings, key);
            remember(&mut self.askers, key, &read.asked);
            self.entries.insert(
                key.clone(),
                Entry {
                    value,
                    asked: read.asked,
                    built_from: read.built_from,
                    interest: 0,
                },
            );
        }
        if let Some(entry) = self.entries.get_mut(key) {
            entry.interest += 1;
        }
        self.get(key)
    }

    /// Computes a stale value again.
    fn refresh(&mut self, key: &Key) {
        if !self.stale.remove(key) {
            return;
        }
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        let (value, Read { asked, built_from }) = compute(&self.world, &self.settings, key);
        if asked != entry.asked {
            forget(&mut self.askers, key, &entry.asked);
            remember(&mut self.askers, key, &asked);
            entry.asked = asked;
        }
        entry.built_from = built_from;
        if value != entry.value {
            entry.value = value;
            self.changed.insert(key.clone());
        }
    }
}

/// Whether objects of a kind have a status that the mesh writes.
pub fn has_status(kind: weft_api::object::Kind) -> bool {
    use weft_api::object::Kind as Of;
    matches!(
        kind,
        Of::HttpRoute | Of::GrpcRoute | Of::TrafficPolicy | Of::MeshTlsPolicy
    )
}

/// Translates a key from nothing; also returns what that read of the world.
fn compute(world: &World, settings: &Settings, key: &Key) -> (Value, Read) {
    let mut context = Context {
        world: Reader::new(world),
        settings,
    };
    let value = if &*key.name == ALL {
        Value::Members(translate::members(&mut context, key.kind))
    } else {
        Value::Resource(translate::translate(&mut context, key).map(Versioned::new))
    };
    (value, context.world.into_read())
}

fn remember(askers: &mut BTreeMap<Fact, BTreeSet<Key>>, key: &Key, asked: &BTreeSet<Fact>) {
    for fact in asked {
        askers.entry(fact.clone()).or_default().insert(key.clone());
    }
}

fn forget(askers: &mut BTreeMap<Fact, BTreeSet<Key>>, key: &Key, asked: &BTreeSet<Fact>) {
    for fact in asked {
        if let Some(keys) = askers.get_mut(fact) {
            keys.remove(key);
            if keys.is_empty() {
                askers.remove(fact);
            }
        }
    }
}

#[cfg(test)]
mod tests;
