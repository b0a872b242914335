//! `weft ca`: the mesh's root, and its exchange.
//!
//! The leader of the control plane does the work, step by step, and everything about it is in the Secret; this command
//! asks for it and shows how far it is. Whoever interrupts it interrupts nothing else.

use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde_json::json;
use weft_control_plane::kubernetes::root::SECRET;
use weft_control_plane::kubernetes::rotation::{NOTE, PHASE, REQUEST};

use crate::cluster::{self, Access, SYSTEM};
use crate::output::{self, Format};

/// Between two looks at the Secret.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long the control plane may take to see a request.
const HEARD_WITHIN: Duration = Duration::from_mins(1);

/// The root of the mesh.
#[derive(Debug, Subcommand)]
pub(crate) enum Ca {
    /// Exchange the root: publish a new one beside it, wait until every proxy has confirmed, sign with it, and let the
    /// former one go when the last certificate under it has expired.
    Rotate(Asked),
    /// Say how far an exchange is.
    Status(Shown),
    /// Give an exchange up: the former root signs again.
    Abort(Asked),
    /// Wait for an exchange that is going on.
    Resume(Asked),
}

/// What is asked for.
#[derive(Debug, Args)]
pub(crate) struct Asked {
    #[command(flatten)]
    cluster: Access,
    /// Don't wait for it.
    #[arg(long)]
    no_wait: bool,
}

/// What is shown.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    #[command(flatten)]
    cluster: Access,
    /// How it is printed.
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// How far an exchange is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct State {
    /// The phase; `null`: none is going on.
    phase: Option<String>,
    /// A request that has not been seen.
    request: Option<String>,
    /// What is waited for, or what became of the last request.
    note: Option<String>,
}

impl State {
    /// Whether there is nothing to wait for: what is left needs time, and nobody.
    fn is_settled(&self) -> bool {
        let retires = |phase: &String| phase.starts_with("retiring");
        self.request.is_none() && self.phase.as_ref().is_none_or(retires)
    }

    fn in_words(&self) -> String {
        let phase = self.phase.as_deref().unwrap_or("no exchange is going on");
        let note = self.note.as_deref().map(|note| format!(": {note}"));
        format!("{phase}{}", note.unwrap_or_default())
    }
}

/// Runs the command.
pub(crate) fn run(told: Ca) -> anyhow::Result<()> {
    cluster::block_on(async {
        match told {
            Ca::Rotate(asked) => request(&asked, "start").await,
            Ca::Abort(asked) => request(&asked, "abort").await,
            Ca::Resume(asked) => {
                let secrets = secrets(&asked.cluster).await?;
                if state(&secrets).await?.phase.is_none() {
                    bail!("no exchange of the root is going on; `weft ca rotate` begins one");
                }
                follow(&secrets).await
            }
            Ca::Status(shown) => {
                let state = state(&secrets(&shown.cluster).await?).await?;
                shown.output.print(&state, |state| state.in_words() + "\n")
            }
        }
    })
}

async fn secrets(access: &Access) -> anyhow::Result<Api<Secret>> {
    Ok(Api::namespaced(cluster::reach(access).await?, SYSTEM))
}

async fn request(asked: &Asked, request: &str) -> anyhow::Result<()> {
    let secrets = secrets(&asked.cluster).await?;
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { REQUEST: request } } }));
    let asking = secrets.patch(SECRET, &PatchParams::default(), &patch).await;
    asking.with_context(|| {
        format!("Secret {SECRET} can't be written; is the mesh installed, and may you patch it?")
    })?;
    if asked.no_wait {
        return Ok(());
    }
    heard(&secrets).await?;
    follow(&secrets).await
}

/// Waits until the control plane has seen the request.
async fn heard(secrets: &Api<Secret>) -> anyhow::Result<()> {
    let seen = async {
        while state(secrets).await?.request.is_some() {
            tokio::time::sleep(INTERVAL).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(HEARD_WITHIN, seen).await.with_context(|| {
        format!("no control plane has taken the request within {HEARD_WITHIN:?}; see `kubectl -n {SYSTEM} get pods,lease`")
    })?
}

/// Shows every change until nothing is left to wait for.
async fn follow(secrets: &Api<Secret>) -> anyhow::Result<()> {
    let mut shown = None;
    loop {
        let state = state(secrets).await?;
        if shown.as_ref() != Some(&state) {
            output::print(&(state.in_words() + "\n"))?;
        }
        if state.is_settled() {
            return Ok(());
        }
        shown = Some(state);
        tokio::time::sleep(INTERVAL).await;
    }
}

async fn state(secrets: &Api<Secret>) -> anyhow::Result<State> {
    // Never the key: only what is written about it.
    let secret = secrets.get_metadata(SECRET).await;
    let secret = secret.with_context(|| format!("Secret {SECRET} can't be read; is the mesh installed?"))?;
    let mut annotations = secret.metadata.annotations.unwrap_or_default();
    Ok(State {
        phase: annotations.remove(PHASE),
        request: annotations.remove(REQUEST),
        note: annotations.remove(NOTE),
    })
}
