//! The registry service: a workload's stream is its heartbeat. What it comes to is decided in the core
//! ([`weft_control_plane_core::registry`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_control_plane_core::registry::{HeartbeatId, Refusal, Registration};
use weft_control_plane_core::rights::Account;
use weft_xds_proto::weft::register_request::Message;
use weft_xds_proto::weft::registry_service_server::RegistryService;
use weft_xds_proto::weft::{self as wire, RegisterRequest, RegisterResponse};

use crate::peer::authenticated;
use crate::publish::{Command, Ending, Publisher};
use crate::tokens::TokenChecker;

/// How long a stream may be open without its registration.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Answers that wait to be written: there is one per stream.
const RESPONSES_MAX: usize = 1;

/// The service.
#[derive(Clone)]
pub struct Registrations {
    publisher: Publisher,
    tokens: Arc<TokenChecker>,
}

impl Registrations {
    /// The service on `publisher`.
    pub fn new(publisher: Publisher, tokens: Arc<TokenChecker>) -> Self {
        Self { publisher, tokens }
    }

    async fn serve(
        &self,
        account: Account,
        peer: SocketAddr,
        mut messages: Streaming<RegisterRequest>,
        responses: &mpsc::Sender<Result<RegisterResponse, Status>>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, messages.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the registration is missing"))??;
        let Some(Message::Registration(said)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("a registration has to come first"));
        };
        let registration = self.registration(account, peer, said).await?;
        let address = registration.address;
        let asked = |answer| Command::Register(Box::new(registration), answer);
        let heartbeat = self
            .publisher
            .ask(asked)
            .await
            .map_err(ending)?
            .map_err(|error| refused(&error))?;
        // A client that is gone is noticed by reading.
        let _ = responses
            .send(Ok(RegisterResponse {
                address: address.to_string(),
            }))
            .await;
        self.listen(heartbeat, &mut messages).await
    }

    /// Follows a workload until its stream ends, with a word or without.
    async fn listen(
        &self,
        heartbeat: HeartbeatId,
        messages: &mut Streaming<RegisterRequest>,
    ) -> Result<(), Status> {
        let (last, ended) = loop {
            match messages
                .message()
                .await
                .map(|message| message.and_then(|message| message.message))
            {
                Ok(Some(Message::Health(health))) => {
                    let command = Command::Health(heartbeat, health.healthy);
                    self.publisher.send(command).await.map_err(ending)?;
                }
                Ok(Some(Message::Withdraw(_))) => break (Command::Withdraw(heartbeat), Ok(())),
                Ok(Some(Message::Registration(_))) => {
                    let error = Status::invalid_argument("a stream is one registration");
                    break (Command::Lost(heartbeat), Err(error));
                }
                Ok(None) | Err(_) => break (Command::Lost(heartbeat), Ok(())),
            }
        };
        self.publisher.send(last).await.map_err(ending)?;
        ended
    }

    async fn registration(
        &self,
        account: Account,
        peer: SocketAddr,
        said: wire::Registration,
    ) -> Result<Registration, Status> {
        let bearer = self.tokens.check(&said.token).await?;
        let ports = said.ports.into_iter();
        Ok(Registration {
            node_id: said.node_id,
            account,
            token: bearer.account,
            granted: bearer.services,
            address: peer.ip().to_canonical(),
            ports: ports
                .map(|port| (port.service, port.service_port, port.listen_port))
                .collect(),
            labels: said.labels,
            zone: said.zone,
            healthy: said.healthy,
        })
    }
}

#[tonic::async_trait]
impl RegistryService for Registrations {
    type RegisterStream = ReceiverStream<Result<RegisterResponse, Status>>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let (account, peer) = authenticated(&request)?;
        let (responses, receiver) = mpsc::channel(RESPONSES_MAX);
        let (service, messages) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Err(status) = service.serve(account, peer, messages, &responses).await {
                tracing::warn!(%peer, reason = status.message(), "registration refused");
                // The client may be gone by now.
                let _ = responses.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

fn ending(ending: Ending) -> Status {
    Status::unavailable(ending.to_string())
}

fn refused(refusal: &Refusal) -> Status {
    let message = refusal.to_string();
    match refusal {
        Refusal::NodeId(_) | Refusal::Port(_) | Refusal::NoPorts => Status::invalid_argument(message),
        Refusal::TooMany { .. } => Status::resource_exhausted(message),
        Refusal::Namespace { .. }
        | Refusal::Token { .. }
        | Refusal::NotGranted { .. }
        | Refusal::Taken { .. } => Status::permission_denied(message),
    }
}
