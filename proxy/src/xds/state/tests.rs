use prost::Message;
use weft_xds_proto::envoy::config::core::v3::{DataSource, Metadata, data_source};
use weft_xds_proto::envoy::config::listener::v3::Listener;
use weft_xds_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, secret,
};
use weft_xds_proto::envoy::service::discovery::v3::Resource as Sent;
use weft_xds_proto::weft::{Hints, Inbound, InboundPort};

use super::*;

const NODE: &str = "shop/user-1";

struct Fixture {
    state: State,
    published: Arc<Published>,
    health: Health,
    roots: watch::Receiver<Option<TrustBundle>>,
}

impl Fixture {
    fn new(inbound: bool, binds: &[&str]) -> Self {
        let (published, _) = Published::new();
        let health = Health::new(&[CONDITION]);
        let (sender, roots) = watch::channel(None);
        let always = Always {
            node_id: NODE.into(),
            inbound,
            must_be_known: false,
            binds: binds.iter().map(|name| Name::from(*name)).collect(),
        };
        let domain = "cluster.local".parse().unwrap();
        let state = State::new(&always, domain, Arc::clone(&published), health.clone(), sender);
        Self {
            state,
            published,
            health,
            roots,
        }
    }

    fn connected(inbound: bool, binds: &[&str]) -> Self {
        let mut fixture = Self::new(inbound, binds);
        fixture.state.subscription().on_connected();
        fixture
    }

    fn requests(&mut self) -> Vec<DeltaDiscoveryRequest> {
        std::iter::from_fn(|| self.state.next_request()).collect()
    }

    /// All names subscribed to and unsubscribed from in what is to be sent now.
    fn names(&mut self) -> (BTreeSet<String>, BTreeSet<String>) {
        let requests = self.requests();
        let subscribe = requests
            .iter()
            .flat_map(|r| r.resource_names_subscribe.clone())
            .collect();
        (
            subscribe,
            requests
                .iter()
                .flat_map(|r| r.resource_names_unsubscribe.clone())
                .collect(),
        )
    }

    fn receive(&mut self, type_url: &str, resources: Vec<(&str, &str, Any)>, removed: &[&str]) -> bool {
        let sent = |(name, version, body): (&str, &str, Any)| Sent {
            name: name.into(),
            version: version.into(),
            resource: Some(body),
            ..Sent::default()
        };
        self.state.on_response(DeltaDiscoveryResponse {
            type_url: type_url.into(),
            nonce: "n".into(),
            resources: resources.into_iter().map(sent).collect(),
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        })
    }
}

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

fn hints(listeners: &[&str]) -> Any {
    let listeners = listeners.iter().map(ToString::to_string).collect();
    pack_any(Hints {
        name: names::hints(NODE),
        listeners,
    })
}

fn inbound() -> Any {
    let ports = vec![InboundPort {
        port: 15_006,
        protocol: 1,
        ..InboundPort::default()
    }];
    let metadata = [(
        names::METADATA_KEY.to_owned(),
        pack_any(Inbound {
            ports,
            ..Inbound::default()
        }),
    )];
    pack_any(Listener {
        name: names::inbound(NODE),
        metadata: Some(Metadata {
            typed_filter_metadata: metadata.into(),
            ..Metadata::default()
        }),
        ..Listener::default()
    })
}

fn trust() -> Any {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
    let trusted_ca = DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(root.pem().into_bytes())),
        ..DataSource::default()
    };
    let context = CertificateValidationContext {
        trusted_ca: Some(trusted_ca),
        ..Default::default()
    };
    pack_any(Secret {
        name: "spiffe://cluster.local".into(),
        r#type: Some(secret::Type::ValidationContext(context)),
    })
}

#[test]
fn the_first_requests_name_what_is_always_wanted() {
    let mut fixture = Fixture::new(true, &["broker.shop.svc.cluster.local:5222"]);
    assert!(fixture.requests().is_empty(), "nothing is sent without a stream");
    fixture.state.subscription().on_connected();
    let (subscribe, unsubscribe) = fixture.names();
    let expected = set([
        "broker.shop.svc.cluster.local:5222",
        "hints/shop/user-1",
        "inbound/shop/user-1",
        "spiffe://cluster.local",
    ]);
    assert_eq!((subscribe, unsubscribe), (expected, BTreeSet::new()));
    assert!(fixture.requests().is_empty(), "and only once");
}

#[test]
fn ready_when_everything_needed_is_known_either_way() {
    let mut fixture = Fixture::connected(true, &["gone.shop.svc.cluster.local:80"]);
    fixture.requests();
    assert!(fixture.receive(types::SECRET, vec![("spiffe://cluster.local", "1", trust())], &[]));
    assert!(fixture.receive(
        types::LISTENER,
        vec![("inbound/shop/user-1", "1", inbound())],
        &[]
    ));
    assert!(!fixture.health.is_ready());
    assert!(fixture.receive(types::LISTENER, vec![], &["gone.shop.svc.cluster.local:80"]));
    assert!(
        fixture.health.is_ready(),
        "to know that something doesn't exist is to know"
    );
    let view = fixture.published.load();
    assert!(
        view.snapshot
            .inbound
            .as_ref()
            .is_some_and(|inbound| inbound.ports.contains_key(&15_006))
    );
    assert!(matches!(
        view.lookup("gone.shop.svc.cluster.local:80"),
        Lookup::Absent
    ));
}

#[test]
fn a_pod_is_ready_only_once_the_control_plane_knows_its_own_side() {
    let mut fixture = Fixture::connected(true, &[]);
    fixture.state.must_exist = Some(names::inbound(NODE).into());
    fixture.requests();
    fixture.receive(types::SECRET, vec![("spiffe://cluster.local", "1", trust())], &[]);
    fixture.receive(types::LISTENER, vec![], &["inbound/shop/user-1"]);
    assert!(!fixture.health.is_ready(), "its Pod has not been seen yet");
    fixture.receive(
        types::LISTENER,
        vec![("inbound/shop/user-1", "1", inbound())],
        &[],
    );
    assert!(fixture.health.is_ready());
}

#[test]
fn our_own_side_outlives_its_withdrawal() {
    let mut fixture = Fixture::connected(true, &[]);
    fixture.requests();
    fixture.receive(types::LISTENER, vec![], &["inbound/shop/user-1"]);
    assert!(
        fixture.published.load().snapshot.inbound.is_none(),
        "not known to the control plane yet"
    );
    fixture.receive(
        types::LISTENER,
        vec![("inbound/shop/user-1", "1", inbound())],
        &[],
    );
    fixture.receive(types::LISTENER, vec![], &["inbound/shop/user-1"]);
    assert!(fixture.published.load().snapshot.inbound.is_some());
    assert_eq!(fixture.state.saved().len(), 1);
}

#[test]
fn roots_are_handed_on_once_per_change() {
    let mut fixture = Fixture::connected(false, &[]);
    fixture.requests();
    let bundle = trust();
    fixture.receive(
        types::SECRET,
        vec![("spiffe://cluster.local", "1", bundle.clone())],
        &[],
    );
    assert!(fixture.roots.has_changed().unwrap() && fixture.roots.borrow_and_update().is_some());
    fixture.receive(types::SECRET, vec![("spiffe://cluster.local", "2", bundle)], &[]);
    assert!(!fixture.roots.has_changed().unwrap());
    fixture.receive(types::SECRET, vec![("spiffe://cluster.local", "3", trust())], &[]);
    assert!(fixture.roots.has_changed().unwrap());
}

#[test]
fn hints_and_questions_lead_to_subscriptions_and_disuse_ends_them() {
    let mut fixture = Fixture::connected(false, &[]);
    fixture.requests();
    fixture.receive(
        types::HINTS,
        vec![("hints/shop/user-1", "1", hints(&["a.b.svc.cluster.local:80"]))],
        &[],
    );
    assert_eq!(fixture.names().0, set(["a.b.svc.cluster.local:80"]));
    fixture.state.ask(&["c.b.svc.cluster.local:80".into()]);
    assert_eq!(fixture.names().0, set(["c.b.svc.cluster.local:80"]));
    fixture.state.ask(&["c.b.svc.cluster.local:80".into()]);
    assert!(fixture.requests().is_empty());
    for _ in 0..=super::super::wants::MAX_IDLE_MINUTES {
        fixture.published.load().lookup("c.b.svc.cluster.local:80");
        fixture.state.minute();
    }
    assert_eq!(
        fixture.names(),
        (BTreeSet::new(), set(["a.b.svc.cluster.local:80"]))
    );
}

#[test]
fn nothing_is_let_go_while_nobody_could_bring_it_back() {
    let mut fixture = Fixture::connected(false, &[]);
    fixture.state.ask(&["a:80".into()]);
    fixture.requests();
    let mut rng = fastrand::Rng::with_seed(1);
    let retry = |fixture: &mut Fixture, rng: &mut _| {
        let now = weft_proxy_core::time::Now::default();
        fixture.state.subscription().on_disconnected(now, rng);
    };
    retry(&mut fixture, &mut rng);
    for _ in 0..60 {
        fixture.state.minute();
    }
    assert!(
        fixture
            .published
            .load()
            .snapshot
            .destinations()
            .contains_key("a:80")
    );
    fixture.state.subscription().on_connected();
    assert!(fixture.names().0.contains("a:80"));
    for _ in 0..=crate::xds::wants::MAX_IDLE_MINUTES {
        fixture.state.minute();
    }
    assert_eq!(fixture.names().1, set(["a:80"]), "now it may go");
}

#[test]
fn a_bad_resource_is_refused_by_name_and_the_others_apply() {
    let mut fixture = Fixture::connected(true, &["a.b.svc.cluster.local:80"]);
    fixture.requests();
    let broken = Any {
        type_url: types::LISTENER.into(),
        value: vec![0xff; 9],
    };
    let resources = vec![
        ("inbound/shop/user-1", "1", inbound()),
        ("a.b.svc.cluster.local:80", "1", broken),
    ];
    assert!(fixture.receive(types::LISTENER, resources, &[]));
    let answer = fixture.requests().remove(0);
    assert_eq!(answer.response_nonce, "n");
    let error = answer.error_detail.unwrap();
    assert_eq!(error.code, INVALID_ARGUMENT);
    let details = RejectedResources::decode(&error.details[0].value[..]).unwrap();
    assert_eq!(details.resources.len(), 1);
    assert_eq!(details.resources[0].name, "a.b.svc.cluster.local:80");
    assert!(!details.resources[0].reason.is_empty());
    assert!(fixture.published.load().snapshot.inbound.is_some());
    let report = fixture.state.report();
    assert_eq!(report["rejected"][0]["name"], "a.b.svc.cluster.local:80");
    assert_eq!(report["nacks"], 1);
    assert_eq!(report["resources"][0]["acked_version"], "1");
    fixture.receive(types::LISTENER, vec![], &["a.b.svc.cluster.local:80"]);
    fixture.receive(types::HINTS, vec![("hints/shop/user-1", "1", inbound())], &[]);
    assert!(
        fixture.state.report()["rejected"][0]["nack_reason"]
            .as_str()
            .unwrap()
            .contains("own name")
    );
}

#[test]
fn a_type_nobody_asked_for_changes_nothing() {
    let mut fixture = Fixture::connected(false, &[]);
    fixture.requests();
    assert!(!fixture.receive(
        "type.googleapis.com/google.protobuf.Empty",
        vec![("x", "1", hints(&[]))],
        &["y"]
    ));
    assert!(fixture.requests().is_empty());
}

#[test]
fn what_was_saved_is_in_force_at_once_and_claimed_to_the_control_plane() {
    let mut before = Fixture::connected(true, &[]);
    before.requests();
    before.receive(
        types::SECRET,
        vec![("spiffe://cluster.local", "s1", trust())],
        &[],
    );
    before.receive(
        types::LISTENER,
        vec![("inbound/shop/user-1", "l1", inbound())],
        &[],
    );
    let mut saved = before.state.saved();
    assert_eq!(saved.len(), 2);
    saved.push(Saved {
        name: "broken".into(),
        version: "1".into(),
        body: Any::default(),
    });

    let mut after = Fixture::new(true, &[]);
    after.state.restore(saved);
    assert!(after.health.is_ready(), "without a control plane");
    assert!(after.published.load().snapshot.inbound.is_some());
    assert!(after.roots.has_changed().unwrap());
    after.state.subscription().on_connected();
    let requests = after.requests();
    let versions: Vec<_> = requests
        .iter()
        .flat_map(|r| r.initial_resource_versions.clone())
        .collect();
    let expected = [("spiffe://cluster.local", "s1"), ("inbound/shop/user-1", "l1")];
    assert_eq!(
        versions,
        expected.map(|(name, version)| (name.to_owned(), version.to_owned()))
    );
}
