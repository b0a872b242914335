//! What differs between a folder of manifests and a cluster. Everything else is shared.

use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weft_ops::health::Health;

use super::StartError;
use crate::ca::CertificateAuthority;
use crate::certificates::Issuing;
use crate::config::{Config, Source};
use crate::kubernetes::{self, Cluster};
use crate::publish::Publisher;
use crate::standalone;
use crate::tokens::TokenChecker;

/// Where the world, the root and the trust in tokens come from.
pub(super) enum Mode {
    /// A folder.
    Standalone(PathBuf),
    /// An API server.
    Kubernetes(Box<Cluster>),
}

/// What has to be there before anybody can be answered.
pub(crate) struct Foundation {
    /// The root.
    pub(crate) authority: CertificateAuthority,
    /// Who a token stands for.
    pub(crate) tokens: TokenChecker,
}

/// What the parts of a mode share with the rest.
pub(crate) struct Shared {
    /// Takes the world.
    pub(crate) publisher: Publisher,
    /// Issues certificates.
    pub(crate) issuing: Arc<Issuing>,
    /// The own certificate of the moment.
    pub(crate) tls: Arc<ArcSwap<ServerConfig>>,
    /// Whether the process is ready.
    pub(crate) health: Health,
    /// Ends everything.
    pub(crate) ending: CancellationToken,
    /// What has a last thing to do after that.
    pub(crate) farewells: TaskTracker,
}

/// What has to hold before a control plane is ready: that everything has been read once, and what of the mode else.
pub(super) fn conditions(source: &Source) -> Vec<&'static str> {
    match source {
        Source::Manifests(_) => vec![standalone::start::READ],
        Source::Kubernetes(_) => kubernetes::start::conditions(),
    }
}

impl Mode {
    pub(super) async fn open(source: &Source) -> Result<Self, StartError> {
        Ok(match source {
            Source::Manifests(dir) => Self::Standalone(dir.clone()),
            Source::Kubernetes(settings) => Self::Kubernetes(Box::new(Cluster::connect(settings).await?)),
        })
    }

    pub(super) async fn foundation(&self, config: &Config) -> Result<Foundation, StartError> {
        match self {
            Self::Standalone(_) => standalone::start::foundation(config),
            Self::Kubernetes(cluster) => Ok(kubernetes::start::foundation(config, cluster).await),
        }
    }

    /// Starts what runs beside the listeners: above all whatever feeds the publisher. `webhook`: the injector's socket.
    pub(super) fn start(
        &self,
        config: &Config,
        shared: &Shared,
        webhook: Option<TcpListener>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), StartError> {
        match self {
            Self::Standalone(dir) => standalone::start::parts(dir, shared, tasks),
            Self::Kubernetes(cluster) => kubernetes::start::parts(config, cluster, shared, webhook, tasks),
        }
    }

    /// The condition that holds once the world has been read for the first time.
    pub(super) fn read(&self) -> &'static str {
        match self {
            Self::Standalone(_) => standalone::start::READ,
            Self::Kubernetes(_) => kubernetes::start::READ,
        }
    }
}
