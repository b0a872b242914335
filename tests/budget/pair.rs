//! Two sidecars in this process: real workers on threads of their own, real mTLS between them, and the configuration
//! that a control plane would send for one Service with the default policy.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use tokio::sync::{mpsc, watch};
use weft_control_plane::ca::{CertificateAuthority, ProvenKey, directory};
use weft_control_plane_core::issue::{LeafSpec, UnixTime};
use weft_control_plane_core::rights::Account;
use weft_identity::leaf::{KeyPair, Leaf};
use weft_proxy::config::{Config, RunArgs};
use weft_proxy::identity::Identity;
use weft_proxy::published::Published;
use weft_proxy::runtime::{self, Phase, WorkerContext, WorkerListeners};
use weft_proxy::socket;
use weft_proxy_core::resource::{
    Action, Backoff, Balancer, Breaker, Cluster, Endpoint, Endpoints, HeaderEdit, Inbound, InboundPort, Kind,
    Limits, Listener, ListenerBody, Name, Outlier, PathMatch, Protocol, Resource, Retry, RetryBudget,
    Rewrite, RouteConfig, RouteMatch, Rule, Target, TlsMode, WeightedBackend,
};
use weft_proxy_core::snapshot::{Snapshot, Store};

const USER: &str = "user.shop.svc.cluster.local:80";
const INBOUND: &str = "inbound/shop/user";
const LEAF_LIFETIME: Duration = Duration::from_hours(1);

/// The pair. Its threads end with the process.
pub(crate) struct Pair {
    /// The client's explicit outbound port.
    pub(crate) outbound: SocketAddr,
    _sidecars: [Sidecar; 2],
}

/// What a sidecar's worker needs to stay alive.
struct Sidecar {
    address: SocketAddr,
    _phase: watch::Sender<Phase>,
    _names: mpsc::Receiver<Name>,
    _ended: mpsc::Receiver<()>,
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    run: RunArgs,
}

impl Pair {
    /// Both sidecars, the inbound one in front of `app`. Keeps the root in `folder`.
    pub(crate) fn start(app: SocketAddr, folder: &Path) -> Self {
        let domain = "cluster.local".parse().expect("a trust domain");
        let authority = directory::open(folder, None, &domain).expect("a root is made");
        let inbound = listen();
        let address = inbound.local_addr().expect("it is bound");
        let listeners = WorkerListeners {
            inbound: vec![inbound],
            ..WorkerListeners::default()
        };
        let flag = format!("--inbound={address}={app}");
        let offer = offer(address.port());
        let server = sidecar(identity(&authority, "user"), &[&flag], listeners, vec![offer]);
        let listeners = WorkerListeners {
            outbound: Some(listen()),
            ..WorkerListeners::default()
        };
        let client = sidecar(
            identity(&authority, "order"),
            &[],
            listeners,
            destination(server.address),
        );
        Self {
            outbound: client.address,
            _sidecars: [client, server],
        }
    }
}

fn listen() -> TcpListener {
    socket::listen(SocketAddr::from(([127, 0, 0, 1], 0)), 1)
        .expect("loopback has free ports")
        .remove(0)
}

fn sidecar(
    identity: Identity,
    flags: &[&str],
    listeners: WorkerListeners,
    resources: Vec<Resource>,
) -> Sidecar {
    let given = "weft-proxy --control-plane=127.0.0.1:1 --trust-bundle=none --token-file=none --namespace=shop \
                 --workload=user --state-dir=none --outbound=127.0.0.1:0 --status=127.0.0.1:0 --admin=127.0.0.1:0";
    let arguments = given.split_whitespace().chain(flags.iter().copied());
    let config = Config::new(&Command::parse_from(arguments).run, 1).expect("valid settings");
    let (published, names) = Published::new();
    published.publish_identity(identity);
    published.publish(Arc::new(link(resources)));
    let listener = listeners
        .outbound
        .as_ref()
        .or(listeners.inbound.first())
        .expect("one of both");
    let address = listener.local_addr().expect("it is bound");
    let (phase, phases) = watch::channel(Phase::Serving);
    let (ended, ends) = mpsc::channel(1);
    let context = WorkerContext {
        index: 0,
        config: Arc::new(config),
        published,
        phase: phases,
        reports: mpsc::channel(1).1,
        started: Instant::now(),
        running: Arc::default(),
    };
    runtime::spawn(context, listeners, None, ended).expect("a thread can be started");
    Sidecar {
        address,
        _phase: phase,
        _names: names,
        _ended: ends,
    }
}

fn link(resources: Vec<Resource>) -> Snapshot {
    let mut store = Store::default();
    let is_root = |resource: &&Resource| resource.kind() == Kind::Listener;
    store.set_roots(
        resources
            .iter()
            .filter(is_root)
            .map(|r| (Kind::Listener, Name::clone(r.name())))
            .collect(),
    );
    let refused = store.apply(resources, Vec::new());
    assert!(refused.is_empty(), "{refused:?}");
    store.link(&Snapshot::default())
}

fn identity(authority: &CertificateAuthority, account: &str) -> Identity {
    let key = KeyPair::generate().expect("a key");
    let proven = ProvenKey::from_csr(&key.csr_der().expect("a request")).expect("our own request");
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .expect("after 1970")
        .as_secs();
    let spec = LeafSpec {
        account: Account {
            namespace: "shop".into(),
            name: account.into(),
        },
        not_before: UnixTime(now - 60),
        not_after: UnixTime(now + LEAF_LIFETIME.as_secs()),
    };
    let chain = authority.sign(&spec, &proven, &[]).expect("the root signs");
    let leaf = Leaf::new(chain, &key).expect("a leaf");
    Identity::new(leaf, authority.bundle().clone(), 1).expect("a usable identity")
}

/// What the inbound side is told.
fn offer(port: u16) -> Resource {
    let port_policy = InboundPort {
        protocol: Protocol::Http1,
        tls: TlsMode::Strict,
        service: Some(USER.into()),
    };
    let inbound = Inbound {
        ports: [(port, port_policy)].into(),
        ..Inbound::default()
    };
    Resource::Listener(Listener {
        name: INBOUND.into(),
        body: ListenerBody::Inbound(inbound),
    })
}

/// What the outbound side is told: one endpoint, one rule, and a policy with everything on.
fn destination(address: SocketAddr) -> Vec<Resource> {
    let identity = Some("spiffe://cluster.local/ns/shop/sa/user".into());
    let workload = "shop/user".into();
    let endpoint = Endpoint {
        address,
        weight: 1,
        ready: true,
        zone: "".into(),
        identity,
        workload,
    };
    let outbound = ListenerBody::Outbound {
        protocol: Protocol::Http1,
        routes: Some(USER.into()),
        cluster: Some(USER.into()),
    };
    vec![
        Resource::Cluster(cluster()),
        Resource::Endpoints(Endpoints {
            cluster: USER.into(),
            endpoints: vec![endpoint],
        }),
        Resource::Routes(RouteConfig {
            name: USER.into(),
            rules: vec![rule()],
        }),
        Resource::Listener(Listener {
            name: USER.into(),
            body: outbound,
        }),
    ]
}

fn cluster() -> Cluster {
    let breaker = Breaker {
        consecutive_failures: 5,
        open_for: Duration::from_secs(5),
        half_open_probes: 3,
    };
    Cluster {
        name: USER.into(),
        protocol: Protocol::Http1,
        balancer: Balancer::PeakEwma,
        prefer_zone: true,
        slow_start: Duration::from_secs(10),
        connect_timeout: Duration::from_secs(1),
        limits: Limits::default(),
        outlier: Some(Outlier {
            consecutive_failures: 5,
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_mins(5),
            max_ejection_percent: 50,
        }),
        endpoint_breaker: Some(breaker),
        service_breaker: Some(breaker),
        default_retry: Retry {
            attempts: 2,
            statuses: vec![],
            grpc_codes: vec![],
            backoff: Backoff::default(),
        },
        retry_budget: RetryBudget {
            percent: 20,
            floor: 10,
        },
    }
}

fn rule() -> Rule {
    let path = PathMatch::Prefix("/".to_owned());
    let backend = WeightedBackend {
        weight: 1,
        target: Target::Cluster(USER.into()),
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
    };
    Rule {
        name: "".into(),
        matches: RouteMatch {
            path,
            method: None,
            headers: vec![],
            query: vec![],
        },
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
        rewrite: Rewrite::default(),
        action: Action::Forward(vec![backend]),
        timeout: Some(Duration::from_secs(15)),
        attempt_timeout: None,
        retry: None,
    }
}
