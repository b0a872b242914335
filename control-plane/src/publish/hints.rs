//! Which destinations the workloads of an identity use: what their hints are made of. Counted per stream, so that a name
//! is used until the last stream has let it go. Told are no more than hints hold, so that a change costs no more.

use std::collections::{BTreeMap, BTreeSet};

use weft_control_plane_core::catalog::Event;
use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::names::{INBOUND_PREFIX, Settings};
use weft_control_plane_core::resource::{Key, Kind, Name};
use weft_control_plane_core::rights::{Account, Client};
use weft_control_plane_core::translate::hints::HINTS_MAX;

/// See the module's head.
#[derive(Debug, Default)]
pub(super) struct Used {
    counts: BTreeMap<Account, BTreeMap<Name, usize>>,
    changed: BTreeSet<Account>,
}

impl Used {
    pub(super) fn add(&mut self, client: &Client, kind: Kind, key: &Key) {
        if !is_destination(client, kind, key) {
            return;
        }
        let counts = self.counts.entry(client.account().clone()).or_default();
        let count = counts.entry(key.name.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.changed.insert(client.account().clone());
        }
    }

    pub(super) fn remove(&mut self, client: &Client, kind: Kind, key: &Key) {
        if !is_destination(client, kind, key) {
            return;
        }
        let account = client.account();
        let Some(counts) = self.counts.get_mut(account) else {
            return;
        };
        if let Some(count) = counts.get_mut(&key.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&key.name);
                self.changed.insert(account.clone());
            }
        }
        if counts.is_empty() {
            self.counts.remove(account);
        }
    }

    /// What changed since the last call.
    pub(super) fn changes(&mut self, settings: &Settings) -> Vec<Event> {
        let changed = std::mem::take(&mut self.changed).into_iter();
        let event = |account: Account| Event::UsedBy {
            identity: settings.identity(&account.namespace, &account.name),
            listeners: self
                .counts
                .get(&account)
                .into_iter()
                .flat_map(BTreeMap::keys)
                .take(HINTS_MAX)
                .cloned()
                .collect(),
        };
        changed.map(event).collect()
    }
}

/// Hints are for our own proxy, and of destinations only.
fn is_destination(client: &Client, kind: Kind, key: &Key) -> bool {
    client.dialect() == Dialect::Weft && kind == Kind::Listener && !key.name.starts_with(INBOUND_PREFIX)
}
