//! Manifests from a directory instead of a cluster: read, validated, watched.
//!
//! What people edit here is edited with editors: files are replaced by renaming, written in halves, saved with a
//! typing mistake, swapped by a symlink. So nothing is believed that can't be read:
//! - an object that is refused keeps its last good version in force;
//! - an object is deleted only when it is gone from every file, and a file that is empty or can't be read as a whole
//!   still counts as holding what it held;
//! - an object that stands in two places stays with the one that had it;
//! - a directory that can't be read changes nothing.
//!
//! [`directory`] reads files, [`state`] decides (pure: directory in, [`Change`] out), [`watch`] waits for events.

pub mod directory;
pub(crate) mod start;
pub mod state;
mod watcher;

use weft_api::object::{Object, ObjectRef};
use weft_api::validate::Finding;

pub use watcher::{WatchError, watch};

/// What an edit came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    /// New objects and new versions.
    pub applied: Vec<Object>,
    /// Objects that are gone.
    pub deleted: Vec<ObjectRef>,
    /// Everything there is to say about the directory as it is now; not only about this edit.
    pub problems: Vec<Finding>,
}
