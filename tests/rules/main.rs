//! The rules of the repository itself.

mod dependencies;
mod sources;

use std::path::PathBuf;

/// The repository's root.
fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}
