//! Puts the control plane together, from top to bottom: sockets, root, publisher, what feeds it, listeners. What a
//! folder of manifests and a cluster do differently is in [`mode`].
//!
//! Sockets are bound before anything else, so that nobody who dials early is turned away; connections are taken only
//! once the mesh's objects have been read for the first time. A control plane that answered before would tell clients that
//! what they hold is gone.

use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use weft_control_plane_core::catalog::{Catalog, Event};
use weft_control_plane_core::registry::Registry;
use weft_identity::files;
use weft_ops::health::Health;
use weft_ops::log::Log;
use weft_ops::recorder::Recorder;
use weft_ops::signal::Signals;
use weft_xds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use weft_xds_proto::weft::certificate_service_server::CertificateServiceServer;
use weft_xds_proto::weft::registry_service_server::RegistryServiceServer;
use weft_xds_proto::weft::replica_service_server::ReplicaServiceServer;

use crate::admin;
use crate::ads::Ads;
use crate::certificates::{Certificates, Issuing};
use crate::clock::Clock;
use crate::config::{Args, Config};
use crate::counters;
use crate::own;
use crate::publish::{Beginning, Command, Publisher, publisher};
use crate::registry::Registrations;
use crate::replica::Replica;
use crate::server::Server;
use crate::state;
use crate::tokens::TokenChecker;

mod error;
mod listeners;
mod mode;

pub use error::StartError;
pub use listeners::Addresses;
use listeners::Listeners;
pub(crate) use listeners::adopt;
use mode::Mode;
pub(crate) use mode::{Foundation, Shared};

/// Exit code for settings that can't be.
const USAGE: u8 = 2;

/// Bytes of one message of certificate requests and registrations.
const SMALL_MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one discovery request: the names and versions that a proxy knows.
const DISCOVERY_REQUEST_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A control plane that runs, within one process; several may.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where it listens.
    pub addresses: Addresses,
    /// Whether it is ready.
    pub health: Health,
    ending: CancellationToken,
    server: tokio::task::JoinHandle<()>,
    /// The condition that no longer holds when it ends.
    read: &'static str,
    /// What ends by itself, after a last word.
    farewells: TaskTracker,
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
    counters::begin_at_zero();
    tokio::spawn(recorder.clone().run_upkeep());
    let control_plane = tokio::select! {
        started = ControlPlane::start(&config, log, recorder) => started?,
        () = signals.next() => return Ok(()),
    };
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

impl ControlPlane {
    /// Starts one on the current runtime. In a cluster that takes until its root is there.
    pub async fn start(config: &Config, log: Log, recorder: Recorder) -> Result<Self, StartError> {
        let listeners = Listeners::bind(config)?;
        let addresses = listeners.addresses()?;
        files::create_private_directory(&config.state_dir)?;
        let mut tasks = JoinSet::new();
        let health = Health::new(&mode::conditions(&config.source));
        let status = weft_ops::status::serve(listeners.status, health.clone(), recorder)?;
        tasks.spawn(status);

        let mode = Mode::open(&config.source).await?;
        let Foundation { authority, tokens } = mode.foundation(config).await?;
        let issuing = Arc::new(Issuing::new(authority, config.leaf_lifetime));
        let (publisher, loaded) = start_publisher(config, &issuing, &mut tasks)?;
        let tls = own_certificate(config, &issuing, &mut tasks)?;
        let shared = Shared {
            publisher,
            issuing,
            tls,
            health,
            ending: CancellationToken::new(),
            farewells: TaskTracker::new(),
        };
        tasks.spawn(follow_roots(
            Arc::clone(&shared.issuing),
            shared.publisher.clone(),
        ));
        mode.start(config, &shared, listeners.webhook, &mut tasks)?;
        start_admin(config, listeners.admin, log, &shared, &mut tasks)?;

        let server = Server {
            tls: Arc::clone(&shared.tls),
            routes: routes(config, &shared, Arc::new(tokens)),
            ending: shared.ending.clone(),
        };
        let listener = adopt(listeners.xds)?;
        let server = tokio::spawn(serve(
            server,
            listener,
            loaded,
            shared.health.clone(),
            mode.read(),
        ));
        Ok(Self {
            addresses,
            health: shared.health,
            ending: shared.ending,
            server,
            read: mode.read(),
            farewells: shared.farewells,
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
        self.health.set(self.read, false);
        // A server that panicked has ended too.
        let _ = self.server.await;
        self.farewells.close();
        // Each bounds its last word.
        self.farewells.wait().await;
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
    catalog.apply(vec![Event::Trust(issuing.roots())]);
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

/// Serves the admin listener.
fn start_admin(
    config: &Config,
    listener: TcpListener,
    log: Log,
    shared: &Shared,
    tasks: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let (serving, calls) = weft_ops::admin::serve(listener, log)?;
    tasks.spawn(serving);
    let shown = admin::config(config, &shared.issuing.bundle().fingerprint());
    let (publisher, ending) = (shared.publisher.clone(), shared.ending.clone());
    tasks.spawn(admin::answer(calls, shown, publisher, ending));
    Ok(())
}

/// Issues the own certificate, and goes on renewing it.
fn own_certificate(
    config: &Config,
    issuing: &Arc<Issuing>,
    tasks: &mut JoinSet<()>,
) -> Result<Arc<ArcSwap<ServerConfig>>, StartError> {
    let (tls, due) = own::issue(issuing, &config.own_names)?;
    let tls = Arc::new(ArcSwap::new(tls));
    let (issuing, names) = (Arc::clone(issuing), config.own_names.clone());
    tasks.spawn(own::renew(issuing, names, Arc::clone(&tls), due));
    Ok(tls)
}

fn routes(config: &Config, shared: &Shared, tokens: Arc<TokenChecker>) -> Routes {
    let ads = Ads::new(shared.publisher.clone(), config.settings.clone());
    let certificates = Certificates::new(Arc::clone(&shared.issuing), Arc::clone(&tokens));
    let registrations = Registrations::new(shared.publisher.clone(), tokens);
    let replica = Replica::new(shared.publisher.clone(), Arc::clone(&shared.issuing));
    let replica = ReplicaServiceServer::new(replica);
    let ads = AggregatedDiscoveryServiceServer::new(ads);
    let certificates = CertificateServiceServer::new(certificates);
    let registrations = RegistryServiceServer::new(registrations);
    Routes::new(ads.max_decoding_message_size(DISCOVERY_REQUEST_BYTES_MAX))
        .add_service(certificates.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX))
        .add_service(replica.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX))
        .add_service(registrations.max_decoding_message_size(SMALL_MESSAGE_BYTES_MAX))
        .prepare()
}

/// Takes connections once the world has been read.
async fn serve(
    server: Server,
    listener: tokio::net::TcpListener,
    mut loaded: watch::Receiver<bool>,
    health: Health,
    read: &'static str,
) {
    let ending = server.ending.clone();
    let is_loaded = loaded.wait_for(|loaded| *loaded);
    if !matches!(ending.run_until_cancelled(is_loaded).await, Some(Ok(_))) {
        return;
    }
    health.set(read, true);
    server.run(listener).await;
}

/// Publishes the roots whenever they change.
async fn follow_roots(issuing: Arc<Issuing>, publisher: Publisher) {
    let mut changes = issuing.changes();
    while changes.changed().await.is_ok() {
        if publisher.send(Command::Trust(issuing.roots())).await.is_err() {
            return;
        }
    }
}
