//! Proxies without a control plane: identities from a CA of the test's own, snapshots made by hand.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, SanType};
use rustls_pki_types::CertificateDer;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use weft_identity::bundle::TrustBundle;
use weft_identity::leaf::{KeyPair, Leaf};
use weft_proxy::config::{Config, RunArgs};
use weft_proxy::identity::Identity;
use weft_proxy::published::Published;
use weft_proxy::runtime::{Phase, WorkerContext, WorkerListeners};
use weft_proxy::{serve, socket};
use weft_proxy_core::resource::{
    Action, Backoff, Balancer, Cluster, Endpoint, Endpoints, HeaderEdit, Inbound, InboundPort, Kind, Limits,
    Listener, ListenerBody, Name, PathMatch, Protocol, Resource, Retry, RetryBudget, Rewrite, RouteConfig,
    RouteMatch, Rule, Target, TlsMode, WeightedBackend,
};
use weft_proxy_core::snapshot::{Snapshot, Store};

pub const USER: &str = "user.shop.svc.cluster.local:80";

/// Runs a test whose tasks stay on this thread.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let limited = async {
        tokio::time::timeout(Duration::from_secs(30), test)
            .await
            .expect("the test hangs");
    };
    runtime.block_on(LocalSet::new().run_until(limited));
}

/// Who signs.
pub struct Ca {
    issuer: Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
}

impl Ca {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::new("cluster.local".parse().unwrap(), vec![self.root.clone()]).unwrap()
    }

    pub fn leaf(&self, id: &str, lifetime: Duration) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let request =
            rcgen::CertificateSigningRequestParams::from_der(&key.csr_der().unwrap().into()).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = (SystemTime::now() - Duration::from_mins(10)).into();
        params.not_after = (SystemTime::now() + lifetime).into();
        let signed = params.signed_by(&request.public_key, &self.issuer).unwrap();
        Leaf::new(vec![signed.der().clone()], &key).unwrap()
    }

    pub fn identity(&self, id: &str) -> Identity {
        Identity::new(self.leaf(id, Duration::from_hours(1)), self.bundle(), 1).unwrap()
    }
}

/// The id of an account of the shop.
pub fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{account}")
}

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    run: RunArgs,
}

/// A proxy with one worker.
pub struct Proxy {
    pub outbound: SocketAddr,
    pub binds: Vec<SocketAddr>,
    pub inbound: Vec<SocketAddr>,
    pub published: Arc<Published>,
    pub phase: watch::Sender<Phase>,
    pub task: JoinHandle<()>,
    store: RefCell<Store>,
    _names: mpsc::Receiver<Name>,
}

impl Proxy {
    /// A sidecar in front of `apps`, with `flags` as on the command line.
    pub fn start(identity: Option<Identity>, apps: &[SocketAddr], flags: &[&str]) -> Rc<Self> {
        let inbound: Vec<String> = apps
            .iter()
            .map(|app| format!("--inbound=127.0.0.1:0={app}"))
            .collect();
        let given = [
            "weft-proxy",
            "--control-plane=127.0.0.1:1",
            "--trust-bundle=none",
            "--token-file=none",
            "--namespace=shop",
            "--workload=test",
            "--state-dir=none",
            "--outbound=127.0.0.1:0",
            "--status=127.0.0.1:0",
            "--admin=127.0.0.1:0",
        ];
        let args = given
            .iter()
            .copied()
            .chain(inbound.iter().map(String::as_str))
            .chain(flags.iter().copied());
        let mut config = Config::new(&Command::parse_from(args).run, 1).unwrap();
        let listen = |address| socket::listen(address, 1).unwrap().remove(0);
        let any = "127.0.0.1:0".parse().unwrap();
        let listeners = WorkerListeners {
            outbound: Some(listen(any)),
            binds: config.binds.iter().map(|_| listen(any)).collect(),
            inbound: config.inbound.iter().map(|_| listen(any)).collect(),
            ..WorkerListeners::default()
        };
        let addresses = |sockets: &[std::net::TcpListener]| -> Vec<SocketAddr> {
            sockets
                .iter()
                .map(|socket| socket.local_addr().unwrap())
                .collect()
        };
        let outbound = listeners.outbound.as_ref().unwrap().local_addr().unwrap();
        config.own_addresses = vec![outbound];
        let (binds, inbound) = (addresses(&listeners.binds), addresses(&listeners.inbound));
        let (published, names) = Published::new();
        if let Some(identity) = identity {
            published.publish_identity(identity);
        }
        let (phase, phases) = watch::channel(Phase::Serving);
        let context = WorkerContext {
            index: 0,
            config: Arc::new(config),
            published: Arc::clone(&published),
            phase: phases,
            reports: mpsc::channel(1).1,
            started: Instant::now(),
            running: Arc::default(),
        };
        let task = spawn_local(serve::run(context, listeners, None));
        Rc::new(Self {
            outbound,
            binds,
            inbound,
            published,
            phase,
            task,
            store: RefCell::default(),
            _names: names,
        })
    }

    /// A client's sidecar.
    pub fn client(ca: &Ca, account: &str) -> Rc<Self> {
        Self::start(Some(ca.identity(&id(account))), &[], &[])
    }

    /// A service's sidecar, whose one port is as `port` says.
    pub fn service(ca: &Ca, account: &str, app: SocketAddr, protocol: Protocol, tls: TlsMode) -> Rc<Self> {
        let proxy = Self::start(Some(ca.identity(&id(account))), &[app], &[]);
        proxy.offer(protocol, tls);
        proxy
    }

    /// Configures the inbound port.
    pub fn offer(&self, protocol: Protocol, tls: TlsMode) {
        let port = InboundPort {
            protocol,
            tls,
            service: Some(USER.into()),
        };
        let inbound = Inbound {
            ports: [(self.inbound[0].port(), port)].into(),
            ..Inbound::default()
        };
        self.configure(vec![Resource::Listener(Listener {
            name: "inbound/shop/test".into(),
            body: ListenerBody::Inbound(inbound),
        })]);
    }

    /// Applies resources and publishes what follows; every listener ever given is a root.
    pub fn configure(&self, resources: Vec<Resource>) {
        self.apply(resources, "absent.shop.svc.cluster.local:80");
    }

    /// Makes it known that `name` is no part of the mesh.
    pub fn know_absent(&self, name: &str) {
        self.apply(Vec::new(), name);
    }

    fn apply(&self, resources: Vec<Resource>, absent: &str) {
        let mut store = self.store.borrow_mut();
        let before = self.published.load();
        let mut roots: BTreeSet<(Kind, Name)> = before
            .snapshot
            .destinations()
            .keys()
            .map(|name| (Kind::Listener, Name::clone(name)))
            .collect();
        roots.insert((Kind::Listener, "inbound/shop/test".into()));
        roots.insert((Kind::Listener, absent.into()));
        for resource in &resources {
            if resource.kind() == Kind::Listener {
                roots.insert((Kind::Listener, Name::clone(resource.name())));
            }
        }
        store.set_roots(roots);
        let absent = vec![(Kind::Listener, absent.into())];
        let refused = store.apply(resources, absent);
        assert!(refused.is_empty(), "{refused:?}");
        let next: Snapshot = store.link(&before.snapshot);
        self.published.publish(Arc::new(next));
    }

    /// Makes the Service `name` known, with these endpoints, every request going there.
    pub fn know(&self, name: &str, protocol: Protocol, endpoints: Vec<Endpoint>) {
        self.know_with(name, protocol, endpoints, vec![rule(name)], |_| {});
    }

    /// The same, with rules of its own and a cluster to be changed.
    pub fn know_with(
        &self,
        name: &str,
        protocol: Protocol,
        endpoints: Vec<Endpoint>,
        rules: Vec<Rule>,
        change: impl FnOnce(&mut Cluster),
    ) {
        let name: Name = name.into();
        let mut cluster = cluster(&name, protocol);
        change(&mut cluster);
        self.configure(vec![
            Resource::Cluster(cluster),
            Resource::Endpoints(Endpoints {
                cluster: Name::clone(&name),
                endpoints,
            }),
            Resource::Routes(RouteConfig {
                name: Name::clone(&name),
                rules,
            }),
            Resource::Listener(Listener {
                name: Name::clone(&name),
                body: ListenerBody::Outbound {
                    protocol,
                    routes: (protocol != Protocol::Tcp).then(|| Name::clone(&name)),
                    cluster: Some(name),
                },
            }),
        ]);
    }
}

/// An endpoint that must prove `account`.
pub fn meshed(address: SocketAddr, account: &str) -> Endpoint {
    Endpoint {
        identity: Some(id(account).into()),
        ..plain(address)
    }
}

/// An endpoint outside the mesh.
pub fn plain(address: SocketAddr) -> Endpoint {
    Endpoint {
        address,
        weight: 1,
        ready: true,
        zone: "".into(),
        identity: None,
        workload: "".into(),
    }
}

pub fn cluster(name: &Name, protocol: Protocol) -> Cluster {
    Cluster {
        name: Name::clone(name),
        protocol,
        balancer: Balancer::RoundRobin,
        prefer_zone: false,
        slow_start: Duration::ZERO,
        connect_timeout: Duration::from_secs(2),
        limits: Limits::default(),
        outlier: None,
        endpoint_breaker: None,
        service_breaker: None,
        default_retry: Retry {
            attempts: 2,
            statuses: Vec::new(),
            grpc_codes: Vec::new(),
            backoff: Backoff::default(),
        },
        retry_budget: RetryBudget {
            percent: 20,
            floor: 10,
        },
    }
}

/// Everything to the cluster `name`.
pub fn rule(name: &str) -> Rule {
    Rule {
        name: "test".into(),
        matches: RouteMatch {
            path: PathMatch::Prefix("/".to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        },
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
        rewrite: Rewrite::default(),
        action: Action::Forward(vec![WeightedBackend {
            weight: 1,
            target: Target::Cluster(name.into()),
            request: HeaderEdit::default(),
            response: HeaderEdit::default(),
        }]),
        timeout: None,
        attempt_timeout: None,
        retry: None,
    }
}
