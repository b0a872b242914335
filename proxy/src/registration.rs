//! Registration: we say that we are there, for as long as we are.
//!
//! The stream is the heartbeat: while it is open and the application is well, the control plane publishes our endpoint.
//! When it ends it is opened again, and the control plane's grace period covers the gap. On SIGTERM we withdraw, so
//! that peers stop sending before we stop accepting.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_identity::tls::{self, Expected, alpn};
use weft_ops::health::Health;
use weft_xds_proto::weft::register_request::Message;
use weft_xds_proto::weft::registry_service_client::RegistryServiceClient;
use weft_xds_proto::weft::{self as wire, RegisterRequest, RegisterResponse, RegisteredPort};

use crate::backoff::Backoff;
use crate::certificate::{self, SignError};
use crate::config::Config;
use crate::control_plane::{self, ConnectError};
use crate::published::Published;
use crate::runtime::Phase;

/// Name of the readiness condition.
pub const CONDITION: &str = "registration";

/// Ceiling of the first wait before we register again.
const RETRY_BASE: Duration = Duration::from_millis(250);
/// Ceiling of any such wait; well within the control plane's grace period.
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Time for the control plane to confirm that we are withdrawn.
const WITHDRAW_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages on their way to the control plane.
const MAX_QUEUED_MESSAGES: usize = 8;

/// Why a registration ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Token(#[from] SignError),
    #[error(transparent)]
    Tls(#[from] tls::TlsError),
    #[error("the control plane refused: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<Status>),
    #[error("the control plane ended the stream")]
    Ended,
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

/// What registers us.
#[derive(Debug)]
pub struct Registrar {
    config: Arc<Config>,
    published: Arc<Published>,
    health: Health,
    ports: Vec<RegisteredPort>,
    application: watch::Receiver<bool>,
    registered: watch::Sender<bool>,
}

impl Registrar {
    /// `listen_ports`: the bound ports, one per inbound address of `config`. `application` says whether it is well.
    pub fn new(
        config: Arc<Config>,
        published: Arc<Published>,
        health: Health,
        listen_ports: &[u16],
        application: watch::Receiver<bool>,
    ) -> Self {
        let port = |registration: &crate::config::Registration| RegisteredPort {
            service: registration.service.clone(),
            service_port: registration.service_port.into(),
            listen_port: listen_ports[registration.inbound].into(),
        };
        let ports = config.registrations.iter().map(port).collect();
        Self {
            config,
            published,
            health,
            ports,
            application,
            registered: watch::Sender::new(false),
        }
    }

    /// Turns true when the control plane has accepted us for the first time.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.subscribe()
    }

    /// Registers until `phase` says that the process ends, and has withdrawn when it returns.
    pub async fn run(mut self, mut phase: watch::Receiver<Phase>) {
        let mut backoff = Backoff::new(RETRY_BASE, RETRY_MAX);
        let mut rng = fastrand::Rng::new();
        while let Err(lost) = self.stay(&mut backoff, &mut phase).await {
            if matches!(lost, Lost::Connect(_)) {
                // Nobody there to accept us is no reason to call ourselves unready.
                self.health.set(CONDITION, true);
            }
            tracing::warn!(reason = %lost, "not registered; trying again");
            tokio::select! {
                () = sleep(backoff.next(&mut rng)) => {}
                () = told_to_end(&mut phase) => return,
            }
        }
    }

    /// One stream, from its start until it is lost or we have withdrawn.
    async fn stay(&mut self, backoff: &mut Backoff, phase: &mut watch::Receiver<Phase>) -> Result<(), Lost> {
        let (requests, mut responses) = tokio::select! {
            opened = self.open() => opened?,
            () = told_to_end(phase) => return Ok(()),
        };
        loop {
            tokio::select! {
                response = responses.message() => {
                    let response = response?.ok_or(Lost::Ended)?;
                    backoff.reset();
                    self.accepted(&response);
                }
                Ok(()) = self.application.changed() => {
                    let healthy = *self.application.borrow_and_update();
                    let message = Message::Health(wire::Health { healthy });
                    requests.send(request(message)).await.map_err(|_| Lost::Ended)?;
                }
                () = told_to_end(phase) => {
                    withdraw(requests, responses).await;
                    return Ok(());
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(mpsc::Sender<RegisterRequest>, Streaming<RegisterResponse>), Lost> {
        let identity = self.published.identified().await;
        let expected = Expected::from(self.config.control_plane_id.clone());
        let tls = tls::client_config(
            Some(&identity.leaf),
            &identity.bundle,
            expected,
            &[alpn::FOREIGN_H2],
        )?;
        let channel = control_plane::connect(&self.config.control_plane, tls).await?;
        let registration = wire::Registration {
            node_id: self.config.node_id(identity.leaf.id()),
            token: certificate::read_token(&self.config.token_file)?,
            ports: self.ports.clone(),
            labels: self.config.labels.clone(),
            zone: self.config.zone.to_string(),
            healthy: *self.application.borrow_and_update(),
        };
        let (requests, outgoing) = mpsc::channel(MAX_QUEUED_MESSAGES);
        requests
            .send(request(Message::Registration(registration)))
            .await
            .map_err(|_| Lost::Ended)?;
        let mut client = RegistryServiceClient::new(channel);
        let responses = client.register(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok((requests, responses))
    }

    fn accepted(&self, response: &RegisterResponse) {
        if !self.registered.send_replace(true) {
            tracing::info!(address = response.address, "registered");
        }
        self.health.set(CONDITION, true);
    }
}

/// Ends when the process is told to end, or has ended.
async fn told_to_end(phase: &mut watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase != Phase::Serving).await.is_ok();
}

fn request(message: Message) -> RegisterRequest {
    RegisterRequest {
        message: Some(message),
    }
}

/// Says goodbye, and waits until the control plane has read it.
async fn withdraw(requests: mpsc::Sender<RegisterRequest>, mut responses: Streaming<RegisterResponse>) {
    let goodbye = async {
        if requests
            .send(request(Message::Withdraw(wire::Withdraw {})))
            .await
            .is_err()
        {
            return;
        }
        drop(requests);
        while let Ok(Some(_)) = responses.message().await {}
    };
    if timeout(WITHDRAW_TIMEOUT, goodbye).await.is_ok() {
        tracing::info!("withdrawn");
    } else {
        tracing::warn!("the control plane did not confirm that we are withdrawn");
    }
}
