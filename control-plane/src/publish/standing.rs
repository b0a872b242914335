//! How far the proxies are: what each stream has confirmed, against what it should have by now.

use std::collections::BTreeMap;

use weft_control_plane_core::acks::{Ledger, Standing, StreamId};
use weft_control_plane_core::catalog::{Catalog, Resolved};
use weft_control_plane_core::ingest;
use weft_control_plane_core::resource::{Key, Kind, Name};
use weft_control_plane_core::status::Count;
use weft_control_plane_core::world::{Id, Reader};

use super::encoder::Encoder;
use super::state::{Follows, State, Stream};
use super::{RootsTaken, Statuses};

/// Names of resources that are shown of a stream that is behind.
const BEHIND_SHOWN_MAX: usize = 5;

/// A stream and what it lacks.
#[derive(Debug, Default)]
pub(super) struct Sync {
    /// Names it has neither confirmed nor refused.
    pub(super) waiting: usize,
    /// The first of them.
    pub(super) behind: Vec<String>,
    /// What it refused, and why.
    pub(super) refused: Vec<(String, String)>,
}

impl Sync {
    /// In one word.
    pub(super) fn state(&self) -> &'static str {
        match (self.refused.is_empty(), self.waiting) {
            (false, _) => "NACK",
            (true, 0) => "SYNCED",
            (true, _) => "STALE",
        }
    }
}

impl State {
    /// What is in force of each object with a status, and how far the proxies are; `None`: as at `since`, or not known
    /// yet: of a world that is read in part much would be said to be missing.
    pub(super) fn statuses(&mut self, since: u64) -> Option<Statuses> {
        if since == self.revision || !self.complete {
            return None;
        }
        self.flush();
        let mut counts = self.counts();
        let all = self.catalog.statuses().into_iter().map(|status| {
            let count = ingest::id(&status.object).and_then(|id| counts.remove(&id));
            (status, count.unwrap_or_default())
        });
        Some(Statuses {
            objects: all.collect(),
            revision: self.revision,
        })
    }

    /// The roots that are published, and how far the proxies are that follow them.
    pub(super) fn roots(&mut self) -> RootsTaken {
        self.flush();
        let name = self.catalog.settings().trust_bundle();
        let followed = self.followers.keys();
        let keys: Vec<Key> = followed
            .filter(|key| key.kind == Kind::Secret && key.name == name)
            .cloned()
            .collect();
        let roots = Reader::new(self.catalog.world()).trust().cloned();
        RootsTaken {
            roots: roots.map(|roots| roots.to_vec()).unwrap_or_default(),
            count: self.count(&keys),
        }
    }

    /// For each object, the streams that follow something built from it. Cost follows the number of such pairs.
    fn counts(&mut self) -> BTreeMap<Id, Count> {
        let built = self.catalog.built().into_iter();
        let built: Vec<(Id, Vec<Key>)> = built
            .map(|(id, keys)| (id, keys.into_iter().cloned().collect()))
            .collect();
        built
            .into_iter()
            .map(|(id, keys)| (id, self.count(&keys)))
            .collect()
    }

    fn count(&mut self, keys: &[Key]) -> Count {
        let mut streams: BTreeMap<StreamId, Standing> = BTreeMap::new();
        for key in keys {
            for (id, follows) in self.followers.get(key).into_iter().flatten() {
                let (Follows::Named(name) | Follows::Part(name), Some(stream)) =
                    (follows, self.streams.get(id))
                else {
                    continue;
                };
                let (catalog, encoder) = (&mut self.catalog, &mut self.encoder);
                let standing = standing(catalog, encoder, &self.ledger, (*id, stream), key, name);
                let worst = streams.entry(*id).or_default();
                *worst = standing.max(worst.clone());
            }
        }
        let mut count = Count {
            proxies: streams.len() as u64,
            ..Count::default()
        };
        for (id, standing) in &streams {
            match standing {
                Standing::Confirmed => count.confirmed += 1,
                Standing::Waiting => {}
                Standing::Refused(why) => {
                    count.refused += 1;
                    let node = self.streams[id].client.node();
                    count.refusal.get_or_insert_with(|| format!("{node}: {why}"));
                }
            }
        }
        count
    }

    /// What a stream lacks of all that it asked for by name.
    pub(super) fn sync(&mut self, id: StreamId) -> Sync {
        let mut sync = Sync::default();
        let Some(stream) = self.streams.get(&id) else {
            return sync;
        };
        for ((kind, name), key) in &stream.named {
            let (catalog, encoder) = (&mut self.catalog, &mut self.encoder);
            let shown = || format!("{kind:?} {name}");
            match standing(catalog, encoder, &self.ledger, (id, stream), key, name) {
                Standing::Confirmed => {}
                Standing::Waiting => {
                    sync.waiting += 1;
                    if sync.behind.len() < BEHIND_SHOWN_MAX {
                        sync.behind.push(shown());
                    }
                }
                Standing::Refused(why) => sync.refused.push((shown(), why.to_string())),
            }
        }
        sync
    }
}

/// Where a stream stands with what `key` is now, which it follows as `name`.
fn standing(
    catalog: &mut Catalog,
    encoder: &mut Encoder,
    ledger: &Ledger,
    (id, stream): (StreamId, &Stream),
    key: &Key,
    name: &Name,
) -> Standing {
    let resolved = Resolved {
        key: key.clone(),
        value: catalog.get(key),
    };
    let content = encoder.content(&resolved, name, stream.client.dialect(), stream.listen);
    ledger.standing(id, key.kind, name, content.map(|content| content.version))
}
