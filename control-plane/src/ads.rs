//! ADS: both variants of the protocol over one driver. A stream is a task: requests in one hand, its [`Mailbox`] in the
//! other, the core's [`Session`] in between.
//!
//! A client is admitted by its first request; each name it asks for is checked before anybody looks it up. While a
//! client doesn't read, its task waits, and what changes meanwhile coalesces in the mailbox.

use std::pin::pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use weft_control_plane_core::acks::StreamId;
use weft_control_plane_core::names::Settings;
use weft_control_plane_core::resource::Kind;
use weft_control_plane_core::rights::{self, Client};
use weft_control_plane_core::stream::{Names, ProtocolError, Receipt, Response, Session, Variant};
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use weft_xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

use crate::peer::authenticated;
use crate::publish::{Admitted, Command, Ending, Hello, Mailbox, News, Publisher};
use crate::wire::{self, Asked};

/// How long a stream may be open without a request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Resources rejected by one request that are told one by one in the log.
const REJECTIONS_LOGGED_MAX: usize = 8;

/// Responses that wait to be written to a connection, per stream.
const RESPONSES_MAX: usize = 4;

/// The service.
#[derive(Clone, Debug)]
pub struct Ads {
    publisher: Publisher,
    settings: Settings,
}

/// One stream's way out.
struct Outgoing<T> {
    responses: mpsc::Sender<Result<T, Status>>,
    write: fn(Response) -> T,
}

/// Why a stream ends.
enum End {
    /// The client went.
    Gone,
    /// It is told why.
    Refused(Status),
}

impl Ads {
    /// The service on `publisher`.
    pub fn new(publisher: Publisher, settings: Settings) -> Self {
        Self { publisher, settings }
    }

    /// Starts a stream's task; returns what it will answer.
    fn start<M: Send + 'static, T: Send + 'static>(
        &self,
        request: tonic::Request<Streaming<M>>,
        variant: Variant,
        read: fn(M) -> Result<Asked, Status>,
        write: fn(Response) -> T,
    ) -> Result<tonic::Response<ReceiverStream<Result<T, Status>>>, Status> {
        let (account, peer) = authenticated(&request)?;
        let (responses, receiver) = mpsc::channel(RESPONSES_MAX);
        let requests = request.into_inner().map(move |message| message.and_then(read));
        let (ads, out) = (self.clone(), Outgoing { responses, write });
        tokio::spawn(async move {
            let hello = Hello {
                account,
                node_id: String::new(),
                user_agent: String::new(),
                version: String::new(),
                listen: None,
                peer,
                variant,
            };
            if let Err(End::Refused(status)) = ads.serve(hello, requests, &out).await {
                tracing::warn!(%peer, reason = status.message(), "stream refused");
                // The client may be gone by now.
                let _ = out.responses.send(Err(status)).await;
            }
        });
        Ok(tonic::Response::new(ReceiverStream::new(receiver)))
    }

    async fn serve<T: Send>(
        &self,
        mut hello: Hello,
        requests: impl Stream<Item = Result<Asked, Status>> + Send,
        out: &Outgoing<T>,
    ) -> Result<(), End> {
        let mut requests = pin!(requests);
        let first = tokio::time::timeout(FIRST_REQUEST_TIMEOUT, requests.next()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the stream's first request is missing"))?;
        let first = first.ok_or(End::Gone)??;
        let node = first.node.clone().unwrap_or_default();
        (hello.node_id, hello.user_agent, hello.listen) = (node.id, node.user_agent, node.listen);
        hello.version = node.version;
        let variant = hello.variant;
        let Admitted {
            stream,
            client,
            mailbox,
        } = self
            .publisher
            .ask(|answer| Command::Open(hello, answer))
            .await??;
        let session = Session::new(variant, client.dialect().wildcard());
        let mut talk = Talk {
            ads: self,
            stream,
            client,
            session,
        };
        let ended = talk.converse(first, requests, &mailbox, out).await;
        // When the publisher has ended there is nothing to close.
        let _ = self.publisher.send(Command::Close(stream)).await;
        ended
    }
}

/// An admitted stream.
struct Talk<'a> {
    ads: &'a Ads,
    stream: StreamId,
    client: Client,
    session: Session,
}

impl Talk<'_> {
    async fn converse<T: Send>(
        &mut self,
        first: Asked,
        mut requests: impl Stream<Item = Result<Asked, Status>> + Unpin + Send,
        mailbox: &Mailbox,
        out: &Outgoing<T>,
    ) -> Result<(), End> {
        self.request(first).await?;
        loop {
            tokio::select! {
                asked = requests.next() => match asked {
                    Some(asked) => self.request(asked?).await?,
                    None => return Err(End::Gone),
                },
                news = mailbox.take() => self.news(news),
            }
            while let Some(response) = self.session.next_response() {
                metrics::counter!("weft_control_plane_responses_total").increment(1);
                out.responses
                    .send(Ok((out.write)(response)))
                    .await
                    .map_err(|_| End::Gone)?;
            }
        }
    }

    async fn request(&mut self, asked: Asked) -> Result<(), End> {
        if let Some(node) = &asked.node {
            self.client.check_node(&node.id)?;
        }
        let kind = asked.request.kind;
        self.check_names(kind, &asked.request.names)?;
        let turn = self.session.request(asked.request)?;
        self.note_rejections(kind, &turn.receipts);
        let interest = turn.interest;
        let follows = interest.wildcard.is_some() || !interest.subscribe.is_empty();
        if follows || !interest.unsubscribe.is_empty() {
            self.ads
                .publisher
                .send(Command::Follow(self.stream, kind, interest))
                .await?;
        }
        if !turn.receipts.is_empty() {
            self.ads
                .publisher
                .send(Command::Receipts(self.stream, kind, turn.receipts))
                .await?;
        }
        Ok(())
    }

    fn check_names(&self, kind: Kind, names: &Names) -> Result<(), rights::Refusal> {
        let (Names::Change { subscribe: names, .. } | Names::All(names)) = names;
        let mut one_by_one = names.iter().filter(|name| &***name != "*");
        one_by_one.try_for_each(|name| self.client.check_read(kind, name, &self.ads.settings))
    }

    fn news(&mut self, news: News) {
        for (kind, resources) in news.all {
            self.session.all(kind, resources);
        }
        for ((kind, name), content) in news.updates {
            self.session.update(kind, &name, content);
        }
    }

    fn note_rejections(&self, kind: Kind, receipts: &[Receipt]) {
        let rejected = receipts.iter().filter(|receipt| receipt.rejected.is_some());
        let count = rejected.clone().count();
        if count == 0 {
            return;
        }
        metrics::counter!("weft_control_plane_rejections_total").increment(count as u64);
        let node = self.client.node();
        for receipt in rejected.take(REJECTIONS_LOGGED_MAX) {
            let reason = receipt.rejected.as_deref();
            tracing::warn!(%node, ?kind, name = &*receipt.name, reason, "resource rejected");
        }
        if count > REJECTIONS_LOGGED_MAX {
            tracing::warn!(%node, ?kind, count, "resources rejected, of which the first are told above");
        }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.start(
            request,
            Variant::StateOfTheWorld,
            wire::full_request,
            wire::full_response,
        )
    }

    async fn delta_aggregated_resources(
        &self,
        request: tonic::Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.start(request, Variant::Delta, wire::delta_request, wire::delta_response)
    }
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<Ending> for End {
    fn from(ending: Ending) -> Self {
        Self::Refused(Status::unavailable(ending.to_string()))
    }
}

impl From<rights::Refusal> for End {
    fn from(refusal: rights::Refusal) -> Self {
        Self::Refused(Status::permission_denied(refusal.to_string()))
    }
}

impl From<ProtocolError> for End {
    fn from(error: ProtocolError) -> Self {
        let message = error.to_string();
        Self::Refused(match error {
            ProtocolError::Wildcard(_) => Status::permission_denied(message),
            ProtocolError::TooManyNames => Status::resource_exhausted(message),
            ProtocolError::NameLength(_) | ProtocolError::Variant => Status::invalid_argument(message),
        })
    }
}
