//! One application: what it is told, and how it runs until it is stopped.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use http::uri::Authority;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server as GrpcServer;

use crate::application::Application;
use crate::client::{CallError, Client, Outbound};
use crate::events;
use crate::inventory::Inventory;
use crate::journal::Journal;
use crate::order::Orders;
use crate::payment::Payments;
use crate::product::Products;
use crate::proto::inventory_server::InventoryServer;
use crate::server::Server;
use crate::user::Users;

/// The five services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// `user`.
    User,
    /// `product`.
    Product,
    /// `order`.
    Order,
    /// `payment`.
    Payment,
    /// `inventory`.
    Inventory,
}

impl Service {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::User,
        Self::Product,
        Self::Order,
        Self::Payment,
        Self::Inventory,
    ];

    /// Its name in the mesh.
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Product => "product",
            Self::Order => "order",
            Self::Payment => "payment",
            Self::Inventory => "inventory",
        }
    }

    /// Whether it speaks with the broker.
    pub const fn uses_broker(self) -> bool {
        matches!(self, Self::User | Self::Order)
    }

    /// Whether it offers gRPC too.
    pub const fn offers_grpc(self) -> bool {
        matches!(self, Self::Inventory)
    }
}

/// What an application is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this replica, shown in answers and in the journal.
    pub replica: String,
    /// Its version, `v1` or `v2`.
    pub version: String,
    /// Where its requests go.
    pub outbound: Outbound,
    /// Where the broker is; `None`: events are neither published nor heard.
    pub broker: Option<Authority>,
    /// A folder that the replicas of this service share; `None`: nothing is shared or kept.
    pub data: Option<PathBuf>,
}

/// The sockets of an application.
#[derive(Debug)]
pub struct Listeners {
    /// For HTTP.
    pub http: TcpListener,
    /// For gRPC; used by inventory alone.
    pub grpc: Option<TcpListener>,
}

/// Why an application can't run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A file of the data folder.
    #[error("the data folder can't be used: {0}")]
    Data(#[from] io::Error),
    /// A peer.
    #[error(transparent)]
    Peer(#[from] CallError),
}

/// Serves until `stop`, and until the requests then running have ended.
///
/// # Errors
/// When the application can't start.
pub async fn run(
    service: Service,
    config: Config,
    listeners: Listeners,
    stop: CancellationToken,
) -> Result<(), RunError> {
    let mut tasks = JoinSet::new();
    // Events end last: requests that are still running publish theirs.
    let events_stop = CancellationToken::new();
    let application = build(service, &config, &mut tasks, &events_stop)?;
    if let (Application::Inventory(inventory), Some(listener)) = (&application, listeners.grpc) {
        tasks.spawn(serve_grpc(inventory.clone(), listener, stop.clone()));
    }
    let server = Server {
        journal: Mutex::new(Journal::open(path(&config, "journal").as_deref())?),
        replica: config.replica,
        version: config.version,
        application,
    };
    Arc::new(server).serve(listeners.http, stop).await;
    events_stop.cancel();
    while tasks.join_next().await.is_some() {}
    Ok(())
}

fn build(
    service: Service,
    config: &Config,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Result<Application, RunError> {
    let ledger = path(config, service.name());
    let ledger = ledger.as_deref();
    Ok(match service {
        Service::User => {
            let users = Users::open(ledger)?;
            if let Some(broker) = config.broker.clone() {
                let (name, heard, stop) = (config.replica.clone(), users.heard(), stop.clone());
                tasks.spawn(async move { events::listen(&name, broker, heard, stop).await });
            }
            Application::User(users)
        }
        Service::Product => Application::Product(Products::new(&config.version, &config.outbound)?),
        Service::Order => {
            let client = Arc::new(Client::new(config.outbound.clone()));
            let publisher = config.broker.as_ref().map(|broker| {
                let (publisher, driver) = events::publisher(&config.replica, broker, stop.clone());
                tasks.spawn(driver);
                publisher
            });
            Application::Order(Orders::open(ledger, client, publisher)?)
        }
        Service::Payment => Application::Payment(Payments::open(ledger)?),
        Service::Inventory => Application::Inventory(Inventory::open(ledger)?),
    })
}

fn path(config: &Config, name: &str) -> Option<PathBuf> {
    config
        .data
        .as_ref()
        .map(|folder| folder.join(format!("{name}.jsonl")))
}

async fn serve_grpc(inventory: Inventory, listener: TcpListener, stop: CancellationToken) {
    let result = GrpcServer::builder()
        .tcp_nodelay(true)
        .add_service(InventoryServer::new(inventory))
        .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
        .await;
    if let Err(error) = result {
        tracing::error!(%error, "gRPC is no longer served");
    }
}

/// The authorities that the shop uses, for [`Outbound::Direct`].
pub fn direct(peers: impl IntoIterator<Item = (&'static str, SocketAddr)>) -> Outbound {
    let peers = peers
        .into_iter()
        .map(|(name, address)| (name.to_owned(), address));
    Outbound::Direct(peers.collect::<BTreeMap<_, _>>())
}
