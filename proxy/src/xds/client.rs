//! The configuration stream: delta ADS over mTLS, on the control thread.
//!
//! It opens the stream, hands what arrives to [`State`] and sends what that says; when the stream is lost it tries
//! again after a jittered wait, for ever, and everything known stays in force meanwhile. What is in force is saved a
//! moment after it changed.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_identity::bundle::TrustBundle;
use weft_identity::tls::{self, Expected, TlsError, alpn};
use weft_ops::health::Health;
use weft_proxy_core::resource::Name;
use weft_proxy_core::time::Now;
use weft_xds_proto::envoy::config::core::v3::{Locality, Node, node};
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use weft_xds_proto::names;

use super::saved;
use super::state::{Always, State};
use crate::config::Config;
use crate::control_plane::{self, ConnectError};
use crate::published::Published;
use crate::runtime::ReportRequest;

/// The last known configuration, in the state directory.
const CONFIG_FILE: &str = "config.pb";
/// From a change to its being saved.
const SAVE_DELAY: Duration = Duration::from_millis(250);
/// How often use is looked at.
const USE_INTERVAL: Duration = Duration::from_mins(1);
/// Requests on their way to the control plane.
const MAX_QUEUED_REQUESTS: usize = 64;
/// Names that are taken in together: linking anew for each of a flood of names would take long.
const MAX_ASKED_AT_ONCE: usize = 256;
/// How often unsent requests are tried again when that queue was full.
const QUEUE_RETRY: Duration = Duration::from_millis(50);
/// Largest response, in bytes.
const MAX_RESPONSE_BYTES: usize = 64 * 1024 * 1024;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the control plane ended it: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<Status>),
    #[error("the control plane ended it")]
    Ended,
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// What reaches the client beside the stream.
#[derive(Debug)]
pub struct Inputs {
    /// Names that workers ask for.
    pub asked: mpsc::Receiver<Name>,
    /// Questions of the admin listener.
    pub reports: mpsc::Receiver<ReportRequest>,
}

enum Event {
    Asked(Vec<Name>),
    Report(ReportRequest),
    Minute,
    Save,
    Resend,
}

/// The client. It runs for ever.
pub struct Client {
    config: Arc<Config>,
    published: Arc<Published>,
    node_id: String,
    state: State,
    inputs: Inputs,
    minute: Interval,
    save_at: Option<Instant>,
    saving: Option<JoinHandle<()>>,
    resend_at: Option<Instant>,
    /// To the open stream.
    requests: Option<mpsc::Sender<DeltaDiscoveryRequest>>,
    /// Whether the open stream knows who we are.
    introduced: bool,
    started: Instant,
    rng: fastrand::Rng,
}

impl Client {
    /// A client with what an earlier process had saved. Waits for our identity. `roots` takes new trust bundles.
    pub async fn start(
        config: Arc<Config>,
        published: Arc<Published>,
        health: Health,
        roots: watch::Sender<Option<TrustBundle>>,
        inputs: Inputs,
    ) -> Self {
        let identity = published.identified().await;
        let always = Always {
            node_id: config.node_id(identity.leaf.id()),
            inbound: config.has_inbound(),
            must_be_known: config.capture.inbound.is_some(),
            binds: config
                .binds
                .iter()
                .map(|bind| config.expand(&bind.authority))
                .collect(),
        };
        let mut state = State::new(
            &always,
            config.trust_domain.clone(),
            Arc::clone(&published),
            health,
            roots,
        );
        match saved::load(&config.state_dir.join(CONFIG_FILE), &always.node_id) {
            Ok(saved) if saved.is_empty() => {}
            Ok(saved) => state.restore(saved),
            Err(error) => tracing::warn!(%error, "the last known configuration can't be read"),
        }
        let started = Instant::now();
        let mut minute = interval_at(started + USE_INTERVAL, USE_INTERVAL);
        minute.set_missed_tick_behavior(MissedTickBehavior::Delay);
        metrics::gauge!("weft_xds_connected").set(0.0);
        Self {
            config,
            published,
            node_id: always.node_id,
            state,
            inputs,
            minute,
            save_at: None,
            saving: None,
            resend_at: None,
            requests: None,
            introduced: false,
            started,
            rng: fastrand::Rng::new(),
        }
    }

    /// Keeps a stream open. `registered`: the control plane knows our node id; before that it would refuse us.
    pub async fn run(mut self, mut registered: Option<watch::Receiver<bool>>) {
        if let Some(registered) = &mut registered {
            let registered = registered.wait_for(|registered| *registered);
            // An error means that the registrar has ended with the process.
            let _ = self.meanwhile(registered).await;
        }
        loop {
            let lost = self.stream().await;
            self.requests = None;
            self.published.set_connected(false);
            metrics::gauge!("weft_xds_connected").set(0.0);
            let retry = self.state_retry();
            tracing::warn!(reason = %lost, retry_ms = retry.as_millis(), "no configuration stream; all that is known stays in force");
            self.meanwhile(sleep(retry)).await;
        }
    }

    fn state_retry(&mut self) -> Duration {
        let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let now = Now::from_nanos(elapsed);
        self.state
            .subscription()
            .on_disconnected(now, &mut self.rng)
            .since(now)
    }

    /// One stream, from opening to its end.
    async fn stream(&mut self) -> Lost {
        let opening = open(Arc::clone(&self.config), Arc::clone(&self.published));
        let (requests, mut responses) = match self.meanwhile(opening).await {
            Ok(stream) => stream,
            Err(lost) => return lost,
        };
        self.requests = Some(requests);
        self.introduced = false;
        self.state.subscription().on_connected();
        self.published.set_connected(true);
        metrics::gauge!("weft_xds_connected").set(1.0);
        tracing::info!(node = self.node_id, "configuration stream open");
        self.send();
        loop {
            match self.meanwhile(responses.message()).await {
                Ok(Some(message)) => self.receive(message),
                Ok(None) => return Lost::Ended,
                Err(status) => return status.into(),
            }
        }
    }

    fn receive(&mut self, message: DeltaDiscoveryResponse) {
        if self.state.on_response(message) {
            self.save_at.get_or_insert_with(|| Instant::now() + SAVE_DELAY);
        }
        self.send();
    }

    /// Waits for `future` and handles everything else meanwhile.
    async fn meanwhile<F: Future>(&mut self, future: F) -> F::Output {
        let mut future = pin!(future);
        loop {
            let event = tokio::select! {
                output = &mut future => return output,
                event = self.event() => event,
            };
            self.handle(event);
        }
    }

    async fn event(&mut self) -> Event {
        let (save_at, resend_at) = (self.save_at, self.resend_at);
        let mut names = Vec::new();
        tokio::select! {
            1.. = self.inputs.asked.recv_many(&mut names, MAX_ASKED_AT_ONCE) => Event::Asked(names),
            Some(request) = self.inputs.reports.recv() => Event::Report(request),
            _ = self.minute.tick() => Event::Minute,
            () = at(save_at) => Event::Save,
            () = at(resend_at) => Event::Resend,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Asked(names) => self.state.ask(&names),
            Event::Minute => self.state.minute(),
            Event::Save => self.save(),
            Event::Resend => self.resend_at = None,
            Event::Report(request) => {
                // Whoever asked may have gone away meanwhile.
                let _ = request.send(self.report());
            }
        }
        self.send();
    }

    fn report(&self) -> Value {
        let mut report = self.state.report();
        report["node_id"] = self.node_id.as_str().into();
        report["control_plane"] = self.config.control_plane.as_str().into();
        report
    }

    /// Sends all there is to send. A full queue (the control plane doesn't read) is tried again later.
    fn send(&mut self) {
        let Some(requests) = &self.requests else { return };
        loop {
            let permit = match requests.try_reserve() {
                Ok(permit) => permit,
                Err(TrySendError::Full(())) => {
                    self.resend_at = Some(Instant::now() + QUEUE_RETRY);
                    return;
                }
                // The stream is about to report its end.
                Err(TrySendError::Closed(())) => return,
            };
            let Some(mut request) = self.state.next_request() else {
                return;
            };
            if !std::mem::replace(&mut self.introduced, true) {
                request.node = Some(node(&self.node_id, &self.config.zone));
            }
            permit.send(request);
        }
    }

    /// Saves on a thread of its own; one at a time, so that the newest is written last.
    fn save(&mut self) {
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            self.save_at = Some(Instant::now() + SAVE_DELAY);
            return;
        }
        self.save_at = None;
        let (path, node_id) = (self.config_file(), self.node_id.clone());
        let saved = self.state.saved();
        self.saving = Some(tokio::task::spawn_blocking(move || {
            if let Err(error) = saved::save(&path, &node_id, saved) {
                tracing::warn!(%error, "the configuration can't be saved; a restart will need the control plane");
            }
        }));
    }

    fn config_file(&self) -> PathBuf {
        self.config.state_dir.join(CONFIG_FILE)
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

type Stream = (
    mpsc::Sender<DeltaDiscoveryRequest>,
    Streaming<DeltaDiscoveryResponse>,
);

async fn open(config: Arc<Config>, published: Arc<Published>) -> Result<Stream, Lost> {
    let identity = published.identified().await;
    let expected = Expected::from(config.control_plane_id.clone());
    let tls = tls::client_config(
        Some(&identity.leaf),
        &identity.bundle,
        expected,
        &[alpn::FOREIGN_H2],
    )?;
    let channel = control_plane::connect(&config.control_plane, tls).await?;
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(MAX_RESPONSE_BYTES);
    let (requests, outgoing) = mpsc::channel(MAX_QUEUED_REQUESTS);
    let responses = client
        .delta_aggregated_resources(ReceiverStream::new(outgoing))
        .await?;
    Ok((requests, responses.into_inner()))
}

fn node(id: &str, zone: &str) -> Node {
    let version = node::UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").to_owned());
    Node {
        id: id.to_owned(),
        locality: Some(Locality {
            zone: zone.to_owned(),
            ..Locality::default()
        }),
        user_agent_name: names::USER_AGENT.to_owned(),
        user_agent_version_type: Some(version),
        ..Node::default()
    }
}
