//! The parts of a standalone control plane: a root and a token key in the state directory, objects from a folder.

use std::path::Path;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use weft_api::validate::Finding;
use weft_control_plane_core::catalog::Event;
use weft_identity::token::SigningKey;

use super::{Change, watch};
use crate::app::{Foundation, Shared, StartError};
use crate::ca::directory;
use crate::config::Config;
use crate::publish::{Command, Publisher};
use crate::tokens::TokenChecker;

/// The condition that holds once the manifests have been read.
pub(crate) const READ: &str = "manifests";

/// The key of standalone tokens, in the state directory.
const TOKEN_KEY_FILE: &str = "token-key.pem";

/// The root and the tokens' key.
pub(crate) fn foundation(config: &Config) -> Result<Foundation, StartError> {
    let authority = directory::open(&config.state_dir, config.root.as_ref(), &config.trust_domain)?;
    let tokens = SigningKey::load_or_create(&config.state_dir.join(TOKEN_KEY_FILE))?;
    Ok(Foundation {
        authority,
        tokens: TokenChecker::Standalone(tokens.verifying_key()),
    })
}

/// Watches the manifests.
pub(crate) fn parts(dir: &Path, shared: &Shared, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
    let changes = watch(dir.to_owned())?;
    tasks.spawn(feed(changes, shared.publisher.clone()));
    Ok(())
}

/// Takes manifests into the publisher as they change.
async fn feed(mut changes: mpsc::Receiver<Change>, publisher: Publisher) {
    let mut known: Vec<Finding> = Vec::new();
    while let Some(Change {
        applied,
        deleted,
        problems,
    }) = changes.recv().await
    {
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            if problem.is_error() {
                tracing::warn!(%problem, "manifest refused; its last good version stays in force");
            } else {
                tracing::info!(%problem, "manifest");
            }
        }
        known.clone_from(&problems);
        let events = deleted
            .into_iter()
            .map(Event::Delete)
            .chain(applied.into_iter().map(Event::Apply));
        let command = Command::World {
            events: events.collect(),
            problems,
            complete: true,
        };
        if publisher.send(command).await.is_err() {
            return;
        }
    }
}
