//! What the admin listener answers: `GET /config /clients /objects`, `POST /drain`.
//!
//! Each part of the process knows its own: the configuration stream is asked for its report, each worker for its own.
//! One that doesn't answer in time is shown as such and holds up nobody.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use weft_ops::admin::Call;
use weft_ops::health::Health;

use crate::config::Config;
use crate::identity::Identity;
use crate::published::Published;
use crate::runtime::ReportRequest;

/// Time for a part to report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Whom to ask.
#[derive(Debug)]
pub struct Sources {
    /// The settings.
    pub config: Arc<Config>,
    /// Identity and snapshot.
    pub published: Arc<Published>,
    /// Readiness.
    pub health: Health,
    /// The configuration stream.
    pub stream: mpsc::Sender<ReportRequest>,
    /// The workers.
    pub workers: Vec<mpsc::Sender<ReportRequest>>,
    /// Begins the drain.
    pub drain: mpsc::Sender<()>,
}

/// Answers `calls` until there are no more.
pub async fn answer(sources: Sources, mut calls: mpsc::Receiver<Call>) {
    while let Some(call) = calls.recv().await {
        match (&call.method, call.path.as_str()) {
            (&Method::GET, "/config") => {
                let config = config(&sources).await;
                call.answer(config);
            }
            (&Method::GET, "/clients") => {
                let clients = clients(&sources).await;
                call.answer(clients);
            }
            (&Method::GET, "/objects") => {
                let objects = ask(&sources.stream).await;
                call.answer(objects);
            }
            (&Method::POST, "/drain") => {
                // A drain that was asked for already needs no second request.
                let _ = sources.drain.try_send(());
                call.answer_with(StatusCode::ACCEPTED, json!({ "draining": true }));
            }
            _ => call.not_found("GET /config, /clients, /objects and /log, PUT /log and POST /drain"),
        }
    }
}

async fn config(sources: &Sources) -> Value {
    let config = &sources.config;
    let settings = json!({
        "control_plane": config.control_plane,
        "namespace": config.namespace,
        "workload": config.workload,
        "outbound": config.outbound,
        "binds": config.binds.iter().map(|bind| json!({
            "listen": bind.listen, "authority": config.expand(&bind.authority).to_string(),
        })).collect::<Vec<_>>(),
        "inbound": config.inbound.iter().map(|i| json!({ "listen": i.listen, "app": i.app })).collect::<Vec<_>>(),
        "captured_outbound": config.capture.outbound,
        "captured_inbound": config.capture.inbound,
        "mesh_cidrs": config.capture.mesh_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "opaque_ports": config.capture.opaque_ports.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "egress_allowed": config.egress_allowed,
        "workers": config.workers,
        "drain_time_seconds": config.drain_time.as_secs_f64(),
    });
    json!({
        "ready": sources.health.is_ready(),
        "missing": sources.health.missing(),
        "identity": sources.published.identity().map(|identity| certificate(&identity)),
        "snapshot_generation": sources.published.load().generation,
        "settings": settings,
        "stream": ask(&sources.stream).await,
    })
}

fn certificate(identity: &Identity) -> Value {
    let unix = |time: SystemTime| {
        time.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    json!({
        "id": identity.leaf.id().as_str(),
        "serial": identity.leaf.serial(),
        "not_before_unix": unix(identity.leaf.not_before()),
        "not_after_unix": unix(identity.leaf.not_after()),
        "trust_bundle_sha256": identity.bundle.fingerprint(),
        "roots": identity.bundle.roots().len(),
        "generation": identity.generation,
    })
}

async fn clients(sources: &Sources) -> Value {
    let mut workers = Vec::new();
    for worker in &sources.workers {
        workers.push(ask(worker).await);
    }
    json!({ "workers": workers })
}

async fn ask(part: &mpsc::Sender<ReportRequest>) -> Value {
    let (request, report) = oneshot::channel();
    let asked = async {
        part.send(request).await.ok()?;
        report.await.ok()
    };
    let answer = timeout(REPORT_TIMEOUT, asked).await.ok().flatten();
    answer.unwrap_or_else(|| json!({ "error": "no answer in time" }))
}
