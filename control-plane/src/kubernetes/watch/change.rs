//! What who follows a kind tells who puts the kinds together.

use weft_control_plane_core::relist::Difference;

use super::decode::{Found, Name};
use super::kinds::Watched;

/// What changed of a kind.
pub(super) type Differences = Vec<Difference<Name, Found>>;

/// News of a kind.
pub(super) struct Change {
    pub(super) kind: Watched,
    pub(super) seen: Seen,
}

/// What is new.
pub(super) enum Seen {
    /// A list is complete; this is what it changed.
    Listed(Differences),
    /// Something changed since.
    Changed(Differences),
    /// The server doesn't have the kind.
    Absent,
    /// The server has the kind's definition and doesn't serve it, not for some time now.
    Unserved,
    /// It can't be read at the moment.
    Fault(String),
}
