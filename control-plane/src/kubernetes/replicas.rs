//! The other replicas of the control plane: found through the slices of our own Service, asked over mTLS how far their
//! proxies are.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::ListParams;
use rustls::ClientConfig;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use weft_control_plane_core::replicas::{Others, Report};
use weft_control_plane_core::resource::Name;
use weft_control_plane_core::rights::Account;
use weft_identity::leaf::{KeyPair, Leaf, LeafError};
use weft_identity::spiffe::SpiffeError;
use weft_identity::tls::{self, Expected, TlsError, alpn};
use weft_xds_proto::weft::ReportRequest;
use weft_xds_proto::weft::replica_service_client::ReplicaServiceClient;

use super::Cluster;
use crate::certificates::{IssueError, Issuing};
use crate::config::ACCOUNT;
use crate::replica::read;

/// Between two questions.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long an answer, or a list, may take.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Bytes of one answer: ten thousand objects, and room.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Replicas that are asked; a control plane of more is beyond us.
const REPLICAS_MAX: usize = 64;

/// Name of the port that replicas, as proxies, are reached at.
const PORT: &str = "xds";

/// The label that says whose a slice is.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A replica was not heard.
#[derive(Debug, Error)]
enum AskError {
    #[error("no client certificate: {0}")]
    Issue(#[from] IssueError),
    #[error("no client certificate: {0}")]
    Leaf(#[from] LeafError),
    #[error("no client certificate: {0}")]
    Id(#[from] SpiffeError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("no connection: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("{}: {}", .0.code(), .0.message())]
    Status(#[from] tonic::Status),
    #[error("no answer within {TIMEOUT:?}")]
    TimedOut,
}

/// What is known of the others; `None` until they have been asked for the first time.
pub type Known = watch::Receiver<Option<Arc<Others>>>;

/// Makes the task that asks, and what it finds.
pub fn follow(cluster: Cluster, issuing: Arc<Issuing>) -> (Known, impl Future<Output = ()> + Send) {
    let (sender, known) = watch::channel(None);
    let asker = Asker {
        cluster,
        issuing,
        talks: BTreeMap::new(),
        tls: None,
    };
    (known, asker.run(sender))
}

/// A conversation with one replica.
#[derive(Default)]
struct Talk {
    channel: Option<Channel>,
    revision: u64,
    report: Option<Arc<Report>>,
}

/// How to dial: until the leaf's half-life, or until the roots change.
struct Dialling {
    config: Arc<ClientConfig>,
    due: SystemTime,
}

struct Asker {
    cluster: Cluster,
    issuing: Arc<Issuing>,
    talks: BTreeMap<Name, (SocketAddr, Talk)>,
    tls: Option<Dialling>,
}

impl Asker {
    async fn run(mut self, known: watch::Sender<Option<Arc<Others>>>) {
        let mut changes = self.issuing.changes();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = changes.changed() => {
                    self.tls = None;
                    self.talks.clear();
                }
            }
            let others = self.ask_all().await;
            known.send_if_modified(|before| {
                let differ = before.as_deref() != Some(&others);
                if differ {
                    *before = Some(Arc::new(others));
                }
                differ
            });
        }
    }

    async fn ask_all(&mut self) -> Others {
        let listed = tokio::time::timeout(TIMEOUT, self.list()).await;
        let listed = listed.map_err(|_| format!("no answer within {TIMEOUT:?}"));
        let replicas = match listed.and_then(|listed| listed.map_err(|error| error.to_string())) {
            Ok(replicas) => replicas,
            Err(error) => {
                tracing::warn!(error, "the replicas of the control plane can't be listed");
                return Others::default();
            }
        };
        self.talks
            .retain(|pod, (address, _)| replicas.get(pod) == Some(address));
        for (pod, address) in replicas {
            self.talks
                .entry(pod)
                .or_insert_with(|| (address, Talk::default()));
        }
        let tls = self.dialling();
        let asked = self.talks.iter_mut().map(|(pod, (address, talk))| {
            let tls = tls.as_ref();
            async move {
                let asked = match tls {
                    Ok(tls) => talk.ask(*address, tls).await,
                    Err(error) => Err(error.to_string()),
                };
                if let Err(error) = &asked {
                    tracing::warn!(%pod, %address, error, "a replica of the control plane does not answer");
                    *talk = Talk::default();
                }
                (pod.clone(), asked.ok())
            }
        });
        Others {
            heard: join_all(asked).await.into_iter().collect(),
            listed: true,
        }
    }

    /// The other replicas, whether they are ready or not: their proxies count all the same.
    async fn list(&self) -> kube::Result<BTreeMap<Name, SocketAddr>> {
        let slices: Api<EndpointSlice> =
            Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let ours = ListParams::default().labels(&format!("{SERVICE_LABEL}={}", self.cluster.service));
        let mut replicas = BTreeMap::new();
        for slice in slices.list(&ours).await? {
            replicas.extend(of_slice(&slice, &self.cluster.pod));
        }
        Ok(replicas.into_iter().take(REPLICAS_MAX).collect())
    }

    fn dialling(&mut self) -> Result<Arc<ClientConfig>, AskError> {
        let now = SystemTime::now();
        if let Some(dialling) = self.tls.as_ref().filter(|dialling| now < dialling.due) {
            return Ok(Arc::clone(&dialling.config));
        }
        let key = KeyPair::generate()?;
        let account = Account::new(ACCOUNT.0, ACCOUNT.1);
        let leaf = Leaf::new(self.issuing.issue(account, &key.csr_der()?, &[])?, &key)?;
        let bundle = self.issuing.bundle();
        let own = bundle.trust_domain().workload(ACCOUNT.0, ACCOUNT.1)?;
        let config = tls::client_config(Some(&leaf), &bundle, Expected::from(own), &[alpn::FOREIGN_H2])?;
        let rest = leaf.not_after().duration_since(now).unwrap_or_default();
        self.tls = Some(Dialling {
            config: Arc::clone(&config),
            due: now + rest / 2,
        });
        self.talks.values_mut().for_each(|(_, talk)| talk.channel = None);
        Ok(config)
    }
}

impl Talk {
    async fn ask(&mut self, address: SocketAddr, tls: &Arc<ClientConfig>) -> Result<Arc<Report>, String> {
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(address, tls)).await;
        answer
            .map_err(|_| AskError::TimedOut.to_string())?
            .map_err(|error| error.to_string())
    }

    async fn exchange(
        &mut self,
        address: SocketAddr,
        tls: &Arc<ClientConfig>,
    ) -> Result<Arc<Report>, AskError> {
        let channel = match &self.channel {
            Some(channel) => channel.clone(),
            None => self
                .channel
                .insert(connect(address, Arc::clone(tls)).await?)
                .clone(),
        };
        let mut client = ReplicaServiceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        let response = client
            .report(ReportRequest { since: self.revision })
            .await?
            .into_inner();
        let changed = response.revision != self.revision;
        self.revision = response.revision;
        let before = self.report.take().unwrap_or_default();
        let report = Arc::new(read(response, changed, &before));
        self.report = Some(Arc::clone(&report));
        Ok(report)
    }
}

/// The replicas of a slice but the one of the pod `own`.
fn of_slice(slice: &EndpointSlice, own: &str) -> Vec<(Name, SocketAddr)> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let port = ports.iter().find(|port| port.name.as_deref() == Some(PORT));
    let Some(port) = port.and_then(|port| u16::try_from(port.port?).ok()) else {
        return Vec::new();
    };
    let endpoints = slice.endpoints.iter().flatten().filter_map(|endpoint| {
        let address = endpoint.addresses.first()?.parse().ok()?;
        let pod = endpoint.target_ref.as_ref()?.name.as_deref()?;
        (pod != own).then(|| (Name::from(pod), SocketAddr::new(address, port)))
    });
    endpoints.collect()
}

async fn connect(address: SocketAddr, tls: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
    let connector = tower::service_fn(move |_: Uri| {
        let connector = TlsConnector::from(Arc::clone(&tls));
        async move {
            let tcp = TcpStream::connect(address).await?;
            Ok::<_, io::Error>(TokioIo::new(connector.connect(tls::unnamed(), tcp).await?))
        }
    });
    Endpoint::from_static("http://replica")
        .connect_with_connector(connector)
        .await
}
