//! The admin listener's answers: `GET /config /clients /objects`, `POST /drain` (`/log` is answered below, in
//! `weft-ops`).

use http::Method;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use weft_ops::admin::Call;

use crate::config::Config;
use crate::publish::{Command, Publisher};

/// What there is.
const KNOWN: &str = "GET /config, GET /clients, GET /objects, GET|PUT /log, POST /drain";

/// Answers calls until there are no more.
pub async fn answer(
    mut calls: mpsc::Receiver<Call>,
    config: Value,
    publisher: Publisher,
    ending: CancellationToken,
) {
    while let Some(call) = calls.recv().await {
        match (&call.method, call.path.as_str()) {
            (&Method::GET, "/config") => call.answer(config.clone()),
            (&Method::GET, "/clients") => tell(call, publisher.ask(Command::Clients).await.ok()),
            (&Method::GET, "/objects") => tell(call, publisher.ask(Command::Objects).await.ok()),
            (&Method::POST, "/drain") => {
                call.answer(json!({ "draining": true }));
                ending.cancel();
            }
            _ => call.not_found(KNOWN),
        }
    }
}

/// Without a value the call is dropped, which says that the process is ending.
fn tell(call: Call, value: Option<Value>) {
    if let Some(value) = value {
        call.answer(value);
    }
}

/// `GET /config`: the settings in force, and the roots.
pub fn config(config: &Config, roots: &str) -> Value {
    json!({
        "source": config.source,
        "state_dir": config.state_dir,
        "listen": config.listen,
        "status": config.status,
        "admin": config.admin,
        "identity": config.id.as_str(),
        "trust_domain": config.trust_domain.as_str(),
        "cluster_domain": &*config.settings.cluster_domain,
        "leaf_lifetime_seconds": config.leaf_lifetime.as_secs(),
        "registration_grace_seconds": config.registration_grace.as_secs(),
        "own_names": config.own_names,
        "root": config.root,
        "trust_bundle_fingerprint": roots,
    })
}
