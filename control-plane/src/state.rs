//! The registrations in the state directory: read once at the start, written whenever they change.
//!
//! The file is replaced as a whole, so that a crash leaves the old content or the new. Writing happens beside
//! everything else; what changes meanwhile is written next, so a burst costs two writes.

use std::path::{Path, PathBuf};

use thiserror::Error;
use tokio::sync::watch;
use weft_control_plane_core::registry::Saved;
use weft_identity::files::{self, FileError};

/// Name of the file.
const FILE: &str = "registrations.json";

/// The registrations can't be read.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file system.
    #[error(transparent)]
    File(#[from] FileError),
    /// The content.
    #[error(
        "{} is no list of registrations: {source}; move it away, and every sidecar registers anew", path.display()
    )]
    Content {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// What was kept; nothing on the first start.
pub fn load(state_dir: &Path) -> Result<Vec<Saved>, StateError> {
    let path = state_dir.join(FILE);
    let Some(bytes) = files::read(&path)? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&bytes).map_err(|source| StateError::Content { path, source })
}

/// Keeps what `registrations` holds whenever it changes, until its sender is gone.
pub async fn keep(state_dir: PathBuf, mut registrations: watch::Receiver<Vec<Saved>>) {
    while registrations.changed().await.is_ok() {
        let saved = registrations.borrow_and_update().clone();
        let path = state_dir.join(FILE);
        let written = tokio::task::spawn_blocking(move || save(&path, &saved)).await;
        if let Ok(Err(error)) = written {
            tracing::error!(%error, "registrations are not kept: after a restart they have to come anew");
        }
    }
}

fn save(path: &Path, saved: &[Saved]) -> Result<(), FileError> {
    let text = serde_json::to_vec_pretty(saved).map_err(|error| FileError::Write {
        path: path.to_owned(),
        source: error.into(),
    })?;
    files::write_private(path, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_kept_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(load(dir.path()).unwrap(), []);
        let text = r#"[{"node_id":"shop/a","namespace":"shop","account":"user","address":"10.0.0.1",
            "ports":[["user",80,8080]],"labels":{},"zone":"","healthy":true}]"#;
        let saved: Vec<Saved> = serde_json::from_str(text).unwrap();
        let (sender, receiver) = watch::channel(Vec::new());
        let keeping = tokio::spawn(keep(dir.path().to_owned(), receiver));
        sender.send_replace(saved.clone());
        drop(sender);
        keeping.await.unwrap();
        assert_eq!(load(dir.path()).unwrap(), saved);
        std::fs::write(dir.path().join(FILE), "{").unwrap();
        assert!(load(dir.path()).unwrap_err().to_string().contains(FILE));
    }
}
