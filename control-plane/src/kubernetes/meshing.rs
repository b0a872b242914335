//! Which namespaces are meshed, as those who watch Namespaces and Pods tell, for those who act on it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use weft_control_plane_core::meshed::Meshed;
use weft_control_plane_core::resource::Name;

/// The set, once it is whole.
pub type Namespaces = Option<Arc<BTreeSet<Name>>>;

/// See the module's head.
#[derive(Debug)]
pub struct Meshing {
    meshed: Mutex<Meshed>,
    published: watch::Sender<Namespaces>,
}

impl Default for Meshing {
    fn default() -> Self {
        Self {
            meshed: Mutex::default(),
            published: watch::Sender::new(None),
        }
    }
}

impl Meshing {
    /// Changes what is known. Nobody sees it before [`Meshing::publish`].
    pub fn change(&self, change: impl FnOnce(&mut Meshed)) {
        change(&mut self.meshed());
    }

    /// Everything that is there has been told, up to now: from here on the set counts.
    pub fn publish(&self) {
        let namespaces = self.meshed().namespaces();
        self.published.send_if_modified(|before| {
            let changed = before.as_deref() != Some(&namespaces);
            if changed {
                *before = Some(Arc::new(namespaces));
            }
            changed
        });
    }

    /// Follows the set; `None` until it is whole.
    pub fn changes(&self) -> watch::Receiver<Namespaces> {
        self.published.subscribe()
    }

    fn meshed(&self) -> MutexGuard<'_, Meshed> {
        self.meshed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
