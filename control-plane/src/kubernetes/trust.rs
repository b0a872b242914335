//! The trust bundle in the cluster: `weft-trust-bundle`, a `ConfigMap`, in every namespace that is meshed, and in our
//! own.
//!
//! Every replica watches, the leader writes. What somebody edited is put right, what somebody deleted comes back, what
//! isn't needed any longer goes. The rule for where it is needed is [`weft_control_plane_core::meshed`]'s; a namespace
//! that isn't known yet is never taken for one that isn't meshed.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use weft_control_plane_core::resource::Name;
use weft_control_plane_core::trust::{Action, Copy, plan};

use super::leader::{Leadership, WriteError};
use super::{Cluster, FIELD_MANAGER, MANAGED_BY, labels};
use crate::certificates::Issuing;

/// Name of the objects.
pub const CONFIG_MAP: &str = "weft-trust-bundle";

/// Their key.
pub const KEY: &str = "ca.crt";

/// Writes that are under way at once.
const WRITES_MAX: usize = 16;

/// Wait before what failed is tried again.
const PAUSE: Duration = Duration::from_secs(2);

/// Keeps the copies right, for ever. `distributed`: the fingerprint of the bundle that is everywhere now, while this
/// replica leads.
pub async fn publish(
    cluster: Cluster,
    issuing: Arc<Issuing>,
    leadership: Leadership,
    distributed: watch::Sender<Option<String>>,
) {
    let maps: Api<ConfigMap> = Api::all(cluster.client.clone());
    let named = watcher::Config::default().fields(&format!("metadata.name={CONFIG_MAP}"));
    let mut events = pin!(watcher(maps, named).default_backoff());
    let mut meshed = cluster.meshing.changes();
    let mut roots = issuing.changes();
    let mut leads = leadership.changes();
    let mut copies = Copies::default();
    let mut again: Option<Instant> = None;
    let publisher = Publisher { cluster, leadership };
    loop {
        let retry = async {
            match again {
                Some(moment) => tokio::time::sleep_until(moment).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => copies.take(event),
                Some(Err(error)) => tracing::warn!(%error, "the ConfigMaps {CONFIG_MAP} can't be watched now"),
                None => return,
            },
            // The senders outlive this task.
            _ = meshed.changed() => {}
            _ = roots.changed() => {}
            _ = leads.changed() => {}
            () = retry => {}
        }
        again = None;
        let Some(wanted) = meshed.borrow_and_update().clone() else {
            continue;
        };
        if copies.complete && publisher.leadership.held() {
            let bundle = issuing.bundle();
            let done = publisher.put_right(&wanted, &mut copies, &bundle.to_pem()).await;
            if !done {
                again = Some(Instant::now() + PAUSE);
            }
            distributed.send_replace(done.then(|| bundle.fingerprint()));
        } else {
            distributed.send_replace(None);
        }
    }
}

/// What the API server has.
#[derive(Default)]
struct Copies {
    known: BTreeMap<Name, ConfigMap>,
    listed: BTreeMap<Name, ConfigMap>,
    complete: bool,
}

impl Copies {
    fn take(&mut self, event: Event<ConfigMap>) {
        let name = |map: &ConfigMap| Name::from(map.namespace().unwrap_or_default().as_str());
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(map) => drop(self.listed.insert(name(&map), map)),
            Event::InitDone => {
                self.known = std::mem::take(&mut self.listed);
                self.complete = true;
            }
            Event::Apply(map) => drop(self.known.insert(name(&map), map)),
            Event::Delete(map) => drop(self.known.remove(&name(&map))),
        }
    }

    fn against(&self, bundle: &str) -> BTreeMap<Name, Copy> {
        let copy = |map: &ConfigMap| Copy {
            right: map
                .data
                .as_ref()
                .and_then(|data| data.get(KEY))
                .map(String::as_str)
                == Some(bundle),
            ours: map.labels().get(MANAGED_BY.0).map(String::as_str) == Some(MANAGED_BY.1),
        };
        self.known
            .iter()
            .map(|(name, map)| (name.clone(), copy(map)))
            .collect()
    }
}

struct Publisher {
    cluster: Cluster,
    leadership: Leadership,
}

impl Publisher {
    /// Does what has to be done; whether all of it was done. What was written counts as seen, so that it isn't written
    /// again before the watch has told.
    async fn put_right(&self, meshed: &BTreeSet<Name>, copies: &mut Copies, bundle: &str) -> bool {
        let mut wanted = meshed.clone();
        wanted.insert(self.cluster.namespace.as_ref().into());
        let actions = plan(&wanted, &copies.against(bundle));
        let known = &copies.known;
        let acting = actions.into_iter().map(|action| async move {
            let done = self.act(&action, known, bundle).await;
            (action, done)
        });
        let done: Vec<_> = stream::iter(acting).buffer_unordered(WRITES_MAX).collect().await;
        let mut all = true;
        for (action, result) in done {
            match (action, result) {
                (Action::Create(name) | Action::Correct(name), Ok(Some(map))) => {
                    copies.known.insert(name, map);
                }
                (Action::Delete(name), Ok(_)) => drop(copies.known.remove(&name)),
                (_, Ok(None)) => {}
                // The watch will tell what somebody else wrote; a namespace that went is none any longer.
                (_, Err(error)) if error.is_conflict() || error.is_not_found() => all = false,
                (action, Err(error)) => {
                    tracing::warn!(?action, %error, "ConfigMap {CONFIG_MAP} is not right yet; it is tried again");
                    all = false;
                }
            }
        }
        all
    }

    async fn act(
        &self,
        action: &Action,
        known: &BTreeMap<Name, ConfigMap>,
        bundle: &str,
    ) -> Result<Option<ConfigMap>, WriteError> {
        let (Action::Create(name) | Action::Correct(name) | Action::Delete(name)) = action;
        let maps: Api<ConfigMap> = Api::namespaced(self.cluster.client.clone(), name);
        match action {
            Action::Create(_) => {
                let map = self.new_map(bundle).await;
                let params = PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                self.leadership.write(maps.create(&params, &map)).await.map(Some)
            }
            Action::Correct(name) => {
                let version = known.get(name).and_then(ResourceExt::resource_version);
                let patch = Patch::Merge(json!({
                    "metadata": { "resourceVersion": version },
                    "data": { KEY: bundle },
                }));
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                self.leadership
                    .write(maps.patch(CONFIG_MAP, &params, &patch))
                    .await
                    .map(Some)
            }
            Action::Delete(name) => {
                let map = known.get(name);
                let preconditions = Preconditions {
                    uid: map.and_then(ResourceExt::uid),
                    resource_version: map.and_then(ResourceExt::resource_version),
                };
                let params = DeleteParams::default().preconditions(preconditions);
                self.leadership
                    .write(maps.delete(CONFIG_MAP, &params))
                    .await
                    .map(|_| None)
            }
        }
    }

    async fn new_map(&self, bundle: &str) -> ConfigMap {
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(CONFIG_MAP.to_owned()),
                labels: Some(labels()),
                owner_references: self.cluster.owner_reference().await.map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([(KEY.to_owned(), bundle.to_owned())])),
            ..ConfigMap::default()
        }
    }
}
