//! The requests that wait for an answer, and when the next one is due.

use std::collections::BTreeMap;

use kube::ResourceExt;
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use tokio::time::{Duration, Instant, sleep_until};
use weft_control_plane_core::pod_certificate::Request;

use super::wire;

/// Namespace and name of a request.
pub(super) type Name = (String, String);

/// A request that is to be answered now.
#[derive(Clone)]
pub(super) struct Waiting {
    pub(super) name: Name,
    /// The version that was read, and is answered.
    pub(super) version: Option<String>,
    pub(super) request: Request,
}

struct Entry {
    waiting: Waiting,
    /// When it is tried; `None`: it is being answered.
    due: Option<Instant>,
}

/// See the module's head.
#[derive(Default)]
pub(super) struct Open(BTreeMap<Name, Entry>);

impl Open {
    /// Takes in what the watch says.
    pub(super) fn take(&mut self, event: Event<DynamicObject>) {
        match event {
            // What is being answered stays, so that nothing is answered twice at once.
            Event::Init => self.0.retain(|_, entry| entry.due.is_none()),
            Event::InitApply(object) | Event::Apply(object) => self.apply(&object),
            Event::InitDone => {}
            Event::Delete(object) => drop(self.0.remove(&name(&object))),
        }
    }

    fn apply(&mut self, object: &DynamicObject) {
        let name = name(object);
        let request = match wire::request(object) {
            Ok(request) if request.is_open() => request,
            Ok(_) => {
                self.0.remove(&name);
                return;
            }
            Err(error) => {
                tracing::warn!(namespace = name.0, name = name.1, %error, "a PodCertificateRequest can't be read");
                self.0.remove(&name);
                return;
            }
        };
        let due = match self.0.get(&name) {
            Some(entry) => entry.due,
            None => Some(Instant::now()),
        };
        let waiting = Waiting {
            name: name.clone(),
            version: object.resource_version(),
            request,
        };
        self.0.insert(name, Entry { waiting, due });
    }

    /// The next request that is due, which is being answered from now on.
    pub(super) async fn next(&mut self) -> Waiting {
        let due = |entry: &Entry| entry.due;
        let Some(moment) = self.0.values().filter_map(due).min() else {
            return std::future::pending().await;
        };
        sleep_until(moment).await;
        let next = self.0.values_mut().find(|entry| entry.due == Some(moment));
        let Some(entry) = next else {
            return std::future::pending().await;
        };
        entry.due = None;
        entry.waiting.clone()
    }

    /// A request has been answered, or is left for as long as this.
    pub(super) fn settle(&mut self, name: &Name, wait: Option<Duration>) {
        match (wait, self.0.get_mut(name)) {
            (Some(wait), Some(entry)) => entry.due = Some(Instant::now() + wait),
            (None, _) => drop(self.0.remove(name)),
            (Some(_), None) => {}
        }
    }
}

fn name(object: &DynamicObject) -> Name {
    (object.namespace().unwrap_or_default(), object.name_any())
}
