//! Puts the kinds together: what changed goes to the publisher, what can't be used is said, and what has been read once
//! is counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use weft_api::object::{Kind, Object, ObjectRef};
use weft_api::validate::{Finding, Severity};
use weft_control_plane_core::catalog::Event;
use weft_control_plane_core::ingest::in_mesh;
use weft_control_plane_core::relist::Difference;
use weft_control_plane_core::world::ObjectName;
use weft_ops::health::Health;

use super::change::{Change, Differences, Seen};
use super::decode::{Found, Name};
use super::kinds::Watched;
use super::members::Members;
use crate::publish::{Command, Ending, Publisher};

/// See the module's head.
pub(super) struct Collector {
    publisher: Publisher,
    health: Health,
    members: Members,
    /// The definitions that the server has, once they are known.
    definitions: watch::Sender<Option<Vec<String>>>,
    present: BTreeSet<String>,
    /// Kinds that have not been read yet.
    missing: BTreeSet<Watched>,
    /// What can't be read, by kind.
    faults: BTreeMap<Watched, Finding>,
    /// What can't be read, by object.
    unreadable: BTreeMap<ObjectRef, Finding>,
}

impl Collector {
    pub(super) fn new(
        publisher: Publisher,
        health: Health,
        definitions: watch::Sender<Option<Vec<String>>>,
        members: Members,
    ) -> Self {
        Self {
            publisher,
            health,
            members,
            definitions,
            present: BTreeSet::new(),
            missing: Watched::ALL.into(),
            faults: BTreeMap::new(),
            unreadable: BTreeMap::new(),
        }
    }

    /// Runs until the publisher has ended, or all watches.
    pub(super) async fn run(mut self, mut changes: mpsc::Receiver<Change>) {
        while let Some(change) = changes.recv().await {
            if self.take(change).await.is_err() {
                return;
            }
        }
    }

    async fn take(&mut self, Change { kind, seen }: Change) -> Result<(), Ending> {
        let (differences, read) = match seen {
            Seen::Listed(differences) => {
                self.recovered(kind);
                (differences, true)
            }
            Seen::Changed(differences) => (differences, false),
            Seen::Absent => {
                self.recovered(kind);
                (Vec::new(), true)
            }
            Seen::Unserved => (Vec::new(), true),
            Seen::Fault(fault) => {
                self.failed(kind, &fault);
                (Vec::new(), false)
            }
        };
        let events = match kind {
            Watched::Definition => {
                self.define(differences, read);
                Vec::new()
            }
            Watched::Object(kind) => self.events(kind, differences, read),
        };
        if read && self.missing.remove(&kind) {
            self.health.set(kind.plural(), true);
        }
        let problems = self.faults.values().chain(self.unreadable.values());
        self.publisher
            .send(Command::World {
                events,
                problems: problems.cloned().collect(),
                complete: self.missing.is_empty(),
            })
            .await
    }

    /// Says which definitions there are, once they are known.
    fn define(&mut self, differences: Differences, read: bool) {
        for difference in differences {
            match difference {
                Difference::Put((_, name), _) => self.present.insert(name.to_string()),
                Difference::Take((_, name)) => self.present.remove(&*name),
            };
        }
        if read || self.definitions.borrow().is_some() {
            let names = self.present.iter().cloned().collect();
            self.definitions.send_replace(Some(names));
        }
    }

    /// What differences mean to the catalogue.
    fn events(&mut self, kind: Kind, differences: Differences, read: bool) -> Vec<Event> {
        let differences = differences.into_iter();
        let mut events: Vec<_> = differences
            .filter_map(|difference| self.event(kind, difference))
            .collect();
        if read && kind == Kind::Pod {
            events.push(Event::PodsTold);
        }
        self.members.told(kind, read);
        events
    }

    /// What a difference means to the catalogue.
    fn event(&mut self, kind: Kind, difference: Difference<Name, Found>) -> Option<Event> {
        let (Difference::Put((namespace, name), _) | Difference::Take((namespace, name))) = &difference;
        let object = ObjectRef {
            kind,
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
        };
        match difference {
            Difference::Put(_, Found::Object(found)) => {
                self.unreadable.remove(&object);
                let name = (object.namespace, object.name);
                self.members.applied(&name, &found);
                match &found {
                    Object::Pod(pod) if !in_mesh(pod) => Some(Event::Outside(ObjectName {
                        namespace: name.0,
                        name: name.1,
                    })),
                    Object::Namespace(_) => None,
                    _ => Some(Event::Apply(found)),
                }
            }
            Difference::Put(_, Found::Unreadable { generation, why }) => {
                let finding = Finding {
                    file: path(Watched::Object(kind)),
                    position: None,
                    severity: Severity::Error,
                    object: Some(object.clone()),
                    field: why.field.clone(),
                    reason: format!("{}; its last good version stays in force", why.why),
                    remedy: "write it for the version of the API that this mesh reads, or update the mesh"
                        .into(),
                };
                if self.unreadable.get(&object) != Some(&finding) {
                    tracing::warn!(problem = %finding, "object refused");
                    self.unreadable.insert(object.clone(), finding);
                }
                Some(Event::Refuse {
                    object,
                    generation,
                    why,
                })
            }
            Difference::Put(_, Found::Definition) => None,
            Difference::Take(_) => {
                self.unreadable.remove(&object);
                let name = (Arc::clone(&object.namespace), Arc::clone(&object.name));
                self.members.deleted(kind, &name);
                Some(Event::Delete(object))
            }
        }
    }

    fn failed(&mut self, kind: Watched, fault: &str) {
        let finding = Finding {
            file: path(kind),
            position: None,
            severity: Severity::Error,
            object: None,
            field: String::new(),
            reason: format!("{fault}; what was read earlier stays in force"),
            remedy: format!(
                "see whether the API server is well, and whether the control plane's role may list and watch {}",
                kind.plural()
            ),
        };
        if self.faults.get(&kind) != Some(&finding) {
            tracing::warn!(problem = %finding, "{} can't be read", kind.plural());
            self.faults.insert(kind, finding);
        }
    }

    fn recovered(&mut self, kind: Watched) {
        if self.faults.remove(&kind).is_some() {
            tracing::info!("{} can be read again", kind.plural());
        }
    }
}

/// Where a kind is, as findings name it.
fn path(kind: Watched) -> Arc<str> {
    format!("{} of the cluster", kind.plural()).into()
}
