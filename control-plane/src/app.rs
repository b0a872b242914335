//! Puts the control plane together, from top to bottom: state, root, publisher, manifests, listeners.
//!
//! Sockets are bound before anything else, so that nobody who dials early is turned away; connections are taken only
//! once the manifests have been read for the first time. A control plane that answered before would tell clients that
//! what they hold is gone.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use weft_api::validate::Finding;
use weft_control_plane_core::catalog::{Catalog, Event};
use weft_control_plane_core::issue::Issuer;
use weft_control_plane_core::registry::Registry;
use weft_identity::files::{self, FileError};
use weft_identity::token::{SigningKey, TokenError};
use weft_ops::admin::AdminError;
use weft_ops::health::Health;
use weft_ops::log::{Log, LogError};
use weft_ops::recorder::{Recorder, RecorderError};
use weft_ops::signal::Signals;
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use weft_xds_proto::weft::certificate_service_server::CertificateServiceServer;
use weft_xds_proto::weft::registry_service_server::RegistryServiceServer;

use crate::admin;
use crate::ads::Ads;
use crate::ca::{CaError, CertificateAuthority};
use crate::certificates::{Certificates, Issuing};
use crate::clock::Clock;
use crate::config::{Args, Config};
use crate::own::{self, OwnError};
use crate::publish::{Beginning, Command, Publisher, publisher};
use crate::registry::Registrations;
use crate::server::Server;
use crate::standalone::{self, Change, WatchError};
use crate::state::{self, StateError};
use crate::tokens::TokenChecker;

/// Exit code for settings that can't be.
const USAGE: u8 = 2;

/// Bytes of one message of certificate requests and registrations.
const SMALL_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one discovery request: the names and versions that a proxy knows.
const DISCOVERY_REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The key of standalone tokens, in the state directory.
const TOKEN_KEY_FILE: &str = "token-key.pem";

/// What has to hold before the control plane is ready.
const MANIFESTS_READ: &str = "manifests";

/// The control plane can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The root.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The token key.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The own certificate.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// The registrations.
    #[error(transparent)]
    State(#[from] StateError),
    /// The manifests.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// A listener.
    #[error("cannot listen on {address}: {source}; is something else listening there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Metrics.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// The operating system.
    #[error("the process can't be set up: {0}")]
    System(#[from] io::Error),
}

/// Where a control plane listens.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Addresses {
    /// gRPC.
    pub xds: SocketAddr,
    /// Status.
    pub status: SocketAddr,
    /// Admin.
    pub admin: SocketAddr,
}

/// A control plane that runs, within one process; several may.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where it listens.
    pub addresses: Addresses,
    /// Whether it is ready.
    pub health: Health,
    ending: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    /// Everything that ends when the server has ended.
    tasks: JoinSet<()>,
}

/// Runs a control plane as a process of its own, until it is told to end.
pub fn run(args: &Args) -> ExitCode {
    let config = match Config::parse(args) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(USAGE);
        }
    };
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => match runtime.block_on(live(config)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error),
        },
        Err(error) => fail(&StartError::System(error)),
    }
}

fn fail(error: &StartError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::FAILURE
}

async fn live(config: Config) -> Result<(), StartError> {
    let mut signals = Signals::new()?;
    let log = weft_ops::log::init(&config.log_level)?;
    weft_ops::descriptors::raise_limit();
    let recorder = weft_ops::recorder::install()?;
    weft_ops::panics::install();
    tokio::spawn(recorder.clone().run_upkeep());
    let control_plane = ControlPlane::start(&config, log, recorder)?;
    weft_ops::announce::listening(&control_plane.addresses);
    tokio::select! {
        () = control_plane.health.ready() => weft_ops::announce::ready(),
        () = signals.next() => control_plane.end(),
    }
    tokio::select! {
        () = control_plane.ending.cancelled() => {}
        () = signals.next() => {}
    }
    tracing::info!("ending");
    tokio::select! {
        () = control_plane.stop() => {}
        () = signals.next() => {}
    }
    Ok(())
}

/// The three sockets.
struct Listeners {
    xds: TcpListener,
    status: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    fn bind(config: &Config) -> Result<Self, StartError> {
        let bind =
            |address| TcpListener::bind(address).map_err(|source| StartError::Listen { address, source });
        Ok(Self {
            xds: bind(config.listen)?,
            status: bind(config.status)?,
            admin: bind(config.admin)?,
        })
    }

    fn addresses(&self) -> io::Result<Addresses> {
        Ok(Addresses {
            xds: self.xds.local_addr()?,
            status: self.status.local_addr()?,
            admin: self.admin.local_addr()?,
        })
    }
}

impl ControlPlane {
    /// Starts one on the current runtime.
    pub fn start(config: &Config, log: Log, recorder: Recorder) -> Result<Self, StartError> {
        let listeners = Listeners::bind(config)?;
        let addresses = listeners.addresses()?;
        files::create_private_directory(&config.state_dir)?;
        let authority =
            CertificateAuthority::open(&config.state_dir, config.root.as_ref(), &config.trust_domain)?;
        let issuer = Issuer::new(config.leaf_lifetime, authority.not_after());
        let issuing = Arc::new(Issuing::new(authority, issuer));
        let tokens = SigningKey::load_or_create(&config.state_dir.join(TOKEN_KEY_FILE))?;
        let tokens = Arc::new(TokenChecker::Standalone(tokens.verifying_key()));
        let mut tasks = JoinSet::new();
        let (ending, health) = (CancellationToken::new(), Health::new(&[MANIFESTS_READ]));

        let (publisher, loaded) = start_publisher(config, &issuing, &mut tasks)?;
        let changes = standalone::watch(config.manifests.clone())?;
        tasks.spawn(feed(changes, publisher.clone()));

        tasks.spawn(weft_ops::status::serve(
            listeners.status,
            health.clone(),
            recorder,
        )?);
        let (serving, calls) = weft_ops::admin::serve(listeners.admin, log)?;
        tasks.spawn(serving);
        let shown = admin::config(config, &issuing.bundle().fingerprint());
        tasks.spawn(admin::answer(calls, shown, publisher.clone(), ending.clone()));

        let (tls, due) = own::issue(&issuing, &config.own_names)?;
        let tls = Arc::new(ArcSwap::new(tls));
        tasks.spawn(own::renew(
            Arc::clone(&issuing),
            config.own_names.clone(),
            Arc::clone(&tls),
            due,
        ));
        let routes = routes(config, issuing, tokens, publisher);
        let server = Server {
            tls,
            routes,
            ending: ending.clone(),
        };
        let server = tokio::spawn(serve(server, adopt(listeners.xds)?, loaded, health.clone()));
        Ok(Self {
            addresses,
            health,
            ending,
            server,
            tasks,
        })
    }

    /// Tells it to end; [`ControlPlane::stop`] also waits for that.
    pub fn end(&self) {
        self.ending.cancel();
    }

    /// Ends it: what runs says goodbye, then everything is gone.
    pub async fn stop(mut self) {
        self.ending.cancel();
        self.health.set(MANIFESTS_READ, false);
        // A server that panicked has ended too.
        let _ = self.server.await;
        self.tasks.shutdown().await;
    }
}

/// Starts the publisher on what was kept, and the keeping.
fn start_publisher(
    config: &Config,
    issuing: &Issuing,
    tasks: &mut JoinSet<()>,
) -> Result<(Publisher, watch::Receiver<bool>), StartError> {
    let clock = Clock::start();
    let mut catalog = Catalog::new(config.settings.clone());
    let roots = issuing.bundle().roots().iter();
    catalog.apply(vec![Event::Trust(
        roots.map(|root| Arc::from(root.as_ref())).collect(),
    )]);
    let mut registry = Registry::new(config.settings.clone(), config.registration_grace);
    let restored = registry.restore(state::load(&config.state_dir)?, clock.now());
    let (saved, keep) = watch::channel(registry.saved());
    tasks.spawn(state::keep(config.state_dir.clone(), keep));
    let (loaded, is_loaded) = watch::channel(false);
    let beginning = Beginning {
        catalog,
        registry,
        restored,
        saved,
        clock,
    };
    let (publisher, publishing) = publisher(beginning, loaded);
    tasks.spawn(publishing);
    Ok((publisher, is_loaded))
}

/// Takes manifests into the publisher as they change.
async fn feed(mut changes: mpsc::Receiver<Change>, publisher: Publisher) {
    let mut known: Vec<Finding> = Vec::new();
    while let Some(Change {
        applied,
        deleted,
        problems,
    }) = changes.recv().await
    {
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            if problem.is_error() {
                tracing::warn!(%problem, "manifest refused; its last good version stays in force");
            } else {
                tracing::info!(%problem, "manifest");
            }
        }
        known.clone_from(&problems);
        let events = deleted
            .into_iter()
            .map(Event::Delete)
            .chain(applied.into_iter().map(Event::Apply));
        let command = Command::World {
            events: events.collect(),
            problems,
        };
        if publisher.send(command).await.is_err() {
            return;
        }
    }
}

fn routes(config: &Config, issuing: Arc<Issuing>, tokens: Arc<TokenChecker>, publisher: Publisher) -> Routes {
    let ads = Ads::new(publisher.clone(), config.settings.clone());
    let certificates = Certificates::new(issuing, Arc::clone(&tokens));
    let registrations = Registrations::new(publisher, tokens);
    let ads = AggregatedDiscoveryServiceServer::new(ads);
    let certificates = CertificateServiceServer::new(certificates);
    let registrations = RegistryServiceServer::new(registrations);
    Routes::new(ads.max_decoding_message_size(DISCOVERY_REQUEST_BYTES_MAX))
        .add_service(certificates.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX))
        .add_service(registrations.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX))
        .prepare()
}

fn adopt(listener: TcpListener) -> io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

/// Takes connections once the manifests have been read.
async fn serve(
    server: Server,
    listener: tokio::net::TcpListener,
    mut loaded: watch::Receiver<bool>,
    health: Health,
) {
    let ending = server.ending.clone();
    let is_loaded = loaded.wait_for(|loaded| *loaded);
    if !matches!(ending.run_until_cancelled(is_loaded).await, Some(Ok(_))) {
        return;
    }
    health.set(MANIFESTS_READ, true);
    server.run(listener).await;
}
