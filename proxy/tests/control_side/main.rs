//! The control side against a control plane in the test's hands: certificates, registration, configuration.
#![allow(missing_docs, clippy::unwrap_used)] // a test, whose helpers lint as if they were none

mod fake;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Parser;
use fake::{CONTROL_PLANE, Ca, Fake, Seen, Signing, USER};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use weft_identity::bundle::TrustBundle;
use weft_ops::health::Health;
use weft_proxy::certificate::{self, Certificates, SignError};
use weft_proxy::config::{Config, RunArgs};
use weft_proxy::control_plane::ConnectError;
use weft_proxy::identity::Identity;
use weft_proxy::published::{MAX_WAIT, Published};
use weft_proxy::registration::{self, Registrar};
use weft_proxy::runtime::Phase;
use weft_proxy::xds::client::{Client, Inputs};
use weft_proxy::xds::state;
use weft_proxy_core::resource::Name;
use weft_proxy_core::snapshot::Lookup;
use weft_xds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource,
};
use weft_xds_proto::weft::register_request::Message;
use weft_xds_proto::weft::{self as wire, Hints};
use weft_xds_proto::{names, pack_any, types};

const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    run: RunArgs,
}

/// A proxy's control side, without sockets of its own.
struct Fixture {
    fake: Fake,
    directory: TempDir,
    config: Arc<Config>,
    published: Arc<Published>,
    asked: Option<mpsc::Receiver<Name>>,
    health: Health,
}

impl Fixture {
    async fn new(flags: &[&str]) -> Self {
        let fake = Fake::start(CONTROL_PLANE).await;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        fake.ca
            .bundle()
            .save(&directory.path().join("bundle.pem"))
            .unwrap();
        std::fs::write(directory.path().join("token"), "a.b.c\n").unwrap();
        std::fs::create_dir(directory.path().join("state")).unwrap();
        let needed = [
            "weft-proxy".to_owned(),
            format!("--control-plane={}", fake.address),
            format!("--trust-bundle={}", path("bundle.pem")),
            format!("--token-file={}", path("token")),
            format!("--state-dir={}", path("state")),
            "--namespace=shop".to_owned(),
        ];
        let flags = needed.into_iter().chain(flags.iter().map(ToString::to_string));
        let config = Config::new(&Command::parse_from(flags).run, 1).unwrap();
        let (published, asked) = Published::new();
        let health = Health::new(&[certificate::CONDITION, state::CONDITION, registration::CONDITION]);
        Self {
            fake,
            directory,
            config: Arc::new(config),
            published,
            asked: Some(asked),
            health,
        }
    }

    /// With an identity that nobody had to sign.
    async fn identified(flags: &[&str]) -> Self {
        let fixture = Self::new(flags).await;
        let identity = Identity::new(fixture.fake.ca.leaf(USER), fixture.fake.ca.bundle(), 1).unwrap();
        fixture.published.publish_identity(identity);
        fixture
    }

    fn certificates(&self) -> Result<Certificates, SignError> {
        Certificates::load(
            Arc::clone(&self.config),
            Arc::clone(&self.published),
            self.health.clone(),
        )
    }

    /// Starts renewing; roots given to the sender are taken over.
    fn renew(&self) -> watch::Sender<Option<TrustBundle>> {
        let (roots, receiver) = watch::channel(None);
        tokio::spawn(self.certificates().unwrap().run(receiver));
        roots
    }

    /// The next identity that `differs`.
    async fn identity(&self, differs: impl Fn(&Identity) -> bool) -> Arc<Identity> {
        let mut changes = self.published.identity_changes();
        let found = async {
            loop {
                match self.published.identity() {
                    Some(identity) if differs(&identity) => return identity,
                    _ => changes.changed().await.unwrap(),
                }
            }
        };
        timeout(PATIENCE, found)
            .await
            .expect("another identity should have been published")
    }

    async fn sign(&self, expected: &str, trust: &TrustBundle) -> Result<certificate::Signed, SignError> {
        certificate::sign(
            &self.fake.address.to_string(),
            &expected.parse().unwrap(),
            trust,
            "a.b.c",
        )
        .await
    }

    fn register(
        &self,
        application: watch::Receiver<bool>,
    ) -> (watch::Sender<Phase>, tokio::task::JoinHandle<()>) {
        let (config, published) = (Arc::clone(&self.config), Arc::clone(&self.published));
        let registrar = Registrar::new(config, published, self.health.clone(), &[41_000], application);
        let phase = watch::Sender::new(Phase::Serving);
        let task = tokio::spawn(registrar.run(phase.subscribe()));
        (phase, task)
    }

    async fn stream(&mut self) -> mpsc::UnboundedSender<Result<DeltaDiscoveryResponse, tonic::Status>> {
        match self.fake.next().await {
            Seen::Stream(responses) => responses,
            other => panic!("{other:?}"),
        }
    }

    async fn request(&mut self) -> DeltaDiscoveryRequest {
        match self.fake.next().await {
            Seen::Request(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    async fn registry(&mut self) -> Message {
        match self.fake.next().await {
            Seen::Registry(message) => message,
            other => panic!("{other:?}"),
        }
    }

    fn start_client(&mut self) -> tokio::task::JoinHandle<()> {
        let (_, reports) = mpsc::channel(1);
        let inputs = Inputs {
            asked: self.asked.take().unwrap(),
            reports,
        };
        let (config, published) = (Arc::clone(&self.config), Arc::clone(&self.published));
        let client = Client::start(
            config,
            published,
            self.health.clone(),
            watch::Sender::new(None),
            inputs,
        );
        tokio::spawn(async move { client.await.run(None).await })
    }
}

#[tokio::test]
async fn a_certificate_is_asked_for_with_the_token_and_kept_on_disk() {
    let mut fixture = Fixture::new(&[]).await;
    let _roots = fixture.renew();
    assert!(matches!(fixture.fake.next().await, Seen::Sign(token) if token == "Bearer a.b.c"));
    let identity = fixture.identity(|_| true).await;
    assert_eq!(identity.leaf.id().as_str(), USER);
    assert!(!fixture.health.missing().contains(&certificate::CONDITION));

    // Another process in the same state directory needs nobody.
    fixture.fake.sign_so(Signing::Refuse);
    let (published, _asked) = Published::new();
    Certificates::load(
        Arc::clone(&fixture.config),
        Arc::clone(&published),
        fixture.health.clone(),
    )
    .unwrap();
    assert_eq!(
        published.identity().unwrap().leaf.serial(),
        identity.leaf.serial()
    );
}

#[tokio::test]
async fn a_certificate_is_renewed_in_its_life() {
    let fixture = Fixture::new(&[]).await;
    fixture.fake.sign_so(Signing::Good(Duration::from_secs(3)));
    let _roots = fixture.renew();
    let first = fixture.identity(|_| true).await;
    let second = fixture
        .identity(|identity| identity.leaf.serial() != first.leaf.serial())
        .await;
    assert!(
        first.leaf.is_valid_at(SystemTime::now()),
        "the first was still good"
    );
    assert_eq!((first.generation, second.generation), (1, 2));
}

#[tokio::test]
async fn a_renewal_that_fails_keeps_the_old_one_and_is_tried_again() {
    let mut fixture = Fixture::new(&[]).await;
    fixture.fake.sign_so(Signing::Good(Duration::from_secs(5)));
    let _roots = fixture.renew();
    let first = fixture.identity(|_| true).await;
    fixture.fake.sign_so(Signing::Refuse);
    for _ in 0..3 {
        assert!(matches!(fixture.fake.next().await, Seen::Sign(_)));
    }
    assert_eq!(
        fixture.published.identity().unwrap().leaf.serial(),
        first.leaf.serial()
    );
    fixture.fake.sign_so(Signing::Good(Duration::from_hours(1)));
    fixture
        .identity(|identity| identity.leaf.serial() != first.leaf.serial())
        .await;
}

#[tokio::test]
async fn a_certificate_that_has_expired_is_missing() {
    let mut fixture = Fixture::new(&[]).await;
    fixture.fake.sign_so(Signing::Good(Duration::from_secs(2)));
    let _roots = fixture.renew();
    let first = fixture.identity(|_| true).await;
    fixture.fake.sign_so(Signing::Refuse);
    while first.leaf.is_valid_at(SystemTime::now()) {
        fixture.fake.next().await;
    }
    // Whoever asks again has seen the refusal before, which came when the leaf had expired.
    for _ in 0..2 {
        fixture.fake.next().await;
    }
    assert!(fixture.health.missing().contains(&certificate::CONDITION));
    fixture.fake.sign_so(Signing::Good(Duration::from_hours(1)));
    fixture
        .identity(|identity| identity.leaf.serial() != first.leaf.serial())
        .await;
    assert!(!fixture.health.missing().contains(&certificate::CONDITION));
}

#[tokio::test]
async fn new_roots_are_taken_over_and_a_leaf_they_do_not_know_is_replaced() {
    let fixture = Fixture::new(&[]).await;
    let roots = fixture.renew();
    let first = fixture.identity(|_| true).await;
    let both = [fixture.fake.ca.bundle().roots(), Ca::new().bundle().roots()].concat();
    let both = TrustBundle::new("cluster.local".parse().unwrap(), both).unwrap();
    roots.send_replace(Some(both.clone()));
    let second = fixture.identity(|identity| identity.bundle == both).await;
    assert_eq!(
        second.leaf.serial(),
        first.leaf.serial(),
        "the leaf is as good as before"
    );
    roots.send_replace(Some(Ca::new().bundle()));
    fixture
        .identity(|identity| identity.leaf.serial() != first.leaf.serial())
        .await;
}

#[tokio::test]
async fn unusable_answers_are_refused() {
    let fixture = Fixture::new(&[]).await;
    let trust = fixture.fake.ca.bundle();
    let refused = async |signing| {
        fixture.fake.sign_so(signing);
        fixture.sign(CONTROL_PLANE, &trust).await.unwrap_err()
    };
    assert!(matches!(refused(Signing::OtherKey).await, SignError::Leaf(_)));
    assert!(matches!(refused(Signing::Garbage).await, SignError::Leaf(_)));
    assert!(matches!(
        refused(Signing::As("spiffe://cluster.local/nonsense")).await,
        SignError::Leaf(_)
    ));
    assert!(matches!(
        refused(Signing::As("spiffe://other.local/ns/shop/sa/user")).await,
        SignError::Tls(_)
    ));
    assert!(matches!(refused(Signing::OtherRoots).await, SignError::Tls(_)));
    assert!(matches!(refused(Signing::NoRoots).await, SignError::Bundle(_)));
    assert!(matches!(refused(Signing::Expired).await, SignError::Tls(_)));
    let error = refused(Signing::Refuse).await.to_string();
    assert!(error.contains("the token has expired"), "{error}");
}

#[tokio::test]
async fn another_namespace_than_ours_is_refused() {
    let mut fixture = Fixture::new(&[]).await;
    fixture
        .fake
        .sign_so(Signing::As("spiffe://cluster.local/ns/other/sa/user"));
    let _roots = fixture.renew();
    for _ in 0..2 {
        assert!(matches!(fixture.fake.next().await, Seen::Sign(_)));
    }
    assert!(fixture.published.identity().is_none());
}

#[tokio::test]
async fn the_token_is_given_to_the_control_plane_only() {
    let mut fixture = Fixture::new(&[]).await;
    let foreign = Ca::new().bundle();
    for (expected, trust) in [(USER, &fixture.fake.ca.bundle()), (CONTROL_PLANE, &foreign)] {
        let error = fixture.sign(expected, trust).await.unwrap_err();
        assert!(
            matches!(error, SignError::Connect(ConnectError::Tls { .. })),
            "{error}"
        );
    }
    fixture
        .sign(CONTROL_PLANE, &fixture.fake.ca.bundle())
        .await
        .unwrap();
    assert!(
        matches!(fixture.fake.next().await, Seen::Sign(_)),
        "the first that it sees is the good one"
    );
}

#[tokio::test]
async fn without_bundle_or_token_the_message_says_what_to_do() {
    let fixture = Fixture::new(&[]).await;
    let token = fixture.directory.path().join("token");
    for text in ["", " \n", "two words", "\u{e4}"] {
        std::fs::write(&token, text).unwrap();
        let error = certificate::read_token(&token).unwrap_err().to_string();
        assert!(error.contains("weft token create"), "{error}");
    }
    std::fs::remove_file(fixture.directory.path().join("bundle.pem")).unwrap();
    let error = fixture.certificates().unwrap_err().to_string();
    assert!(error.contains("bundle.pem"), "{error}");
}

const WORKLOAD: &[&str] = &[
    "--workload=user-1",
    "--inbound=127.0.0.1:0=127.0.0.1:1",
    "--register=user:80",
    "--label=version=v1",
    "--zone=a",
];

#[tokio::test]
async fn a_workload_registers_reports_its_health_and_withdraws() {
    let mut fixture = Fixture::identified(WORKLOAD).await;
    let (well, application) = watch::channel(false);
    let (phase, task) = fixture.register(application);
    let Seen::Register(responses) = fixture.fake.next().await else {
        panic!("a stream should come first")
    };
    let Message::Registration(registration) = fixture.registry().await else {
        panic!("not a registration")
    };
    assert_eq!(
        (registration.node_id.as_str(), registration.token.as_str()),
        ("shop/user-1", "a.b.c")
    );
    assert_eq!((registration.zone.as_str(), registration.healthy), ("a", false));
    assert_eq!(registration.labels["version"], "v1");
    let port = &registration.ports[0];
    assert_eq!(
        (port.service.as_str(), port.service_port, port.listen_port),
        ("user", 80, 41_000)
    );
    responses
        .send(Ok(wire::RegisterResponse {
            address: "127.0.0.1".into(),
        }))
        .unwrap();
    well.send_replace(true);
    assert_eq!(
        fixture.registry().await,
        Message::Health(wire::Health { healthy: true })
    );
    assert!(!fixture.health.missing().contains(&registration::CONDITION));
    phase.send_replace(Phase::Draining);
    assert_eq!(fixture.registry().await, Message::Withdraw(wire::Withdraw {}));
    assert!(matches!(fixture.fake.next().await, Seen::RegistryEnd));
    drop(responses);
    timeout(PATIENCE, task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lost_registration_is_made_again_with_the_health_of_then() {
    let mut fixture = Fixture::identified(WORKLOAD).await;
    let (well, application) = watch::channel(false);
    let (_phase, _task) = fixture.register(application);
    let Seen::Register(responses) = fixture.fake.next().await else {
        panic!("a stream should come first")
    };
    assert!(matches!(fixture.registry().await, Message::Registration(first) if !first.healthy));
    responses
        .send(Err(tonic::Status::unavailable("going down")))
        .unwrap();
    drop(responses);
    assert!(matches!(fixture.fake.next().await, Seen::RegistryEnd));
    well.send_replace(true);
    let Seen::Register(_responses) = fixture.fake.next().await else {
        panic!("a second stream should come")
    };
    assert!(matches!(fixture.registry().await, Message::Registration(_)));
}

#[tokio::test]
async fn a_workload_that_ends_before_it_could_register_just_ends() {
    let fixture = Fixture::new(WORKLOAD).await;
    let (phase, task) = fixture.register(watch::channel(true).1);
    phase.send_replace(Phase::Draining);
    timeout(PATIENCE, task).await.unwrap().unwrap();
}

fn hints(listener: &str, version: &str) -> DeltaDiscoveryResponse {
    let name = names::hints("shop/sa/user");
    let body = Hints {
        name: name.clone(),
        listeners: vec![listener.to_owned()],
    };
    let resource = Resource {
        name,
        version: version.into(),
        resource: Some(pack_any(body)),
        ..Resource::default()
    };
    DeltaDiscoveryResponse {
        type_url: types::HINTS.into(),
        nonce: format!("nonce-{version}"),
        resources: vec![resource],
        ..DeltaDiscoveryResponse::default()
    }
}

#[tokio::test]
async fn the_stream_introduces_itself_subscribes_and_acknowledges() {
    let mut fixture = Fixture::identified(&["--zone=a"]).await;
    fixture.start_client();
    let stream = fixture.stream().await;
    let first = fixture.request().await;
    let node = first.node.unwrap();
    assert_eq!(
        (node.id.as_str(), node.user_agent_name.as_str()),
        ("shop/sa/user", "weft")
    );
    assert_eq!(node.locality.unwrap().zone, "a");
    assert_eq!(first.resource_names_subscribe, ["spiffe://cluster.local"]);
    let second = fixture.request().await;
    assert_eq!(
        (second.type_url.as_str(), second.node.is_none()),
        (types::HINTS, true)
    );

    stream.send(Ok(hints("a.b.svc.cluster.local:80", "1"))).unwrap();
    let mut subscribed = Vec::new();
    let mut acknowledged = String::new();
    for _ in 0..2 {
        let request = fixture.request().await;
        assert_eq!(request.error_detail, None);
        subscribed.extend(request.resource_names_subscribe);
        acknowledged.push_str(&request.response_nonce);
    }
    assert_eq!(
        (subscribed, acknowledged.as_str()),
        (vec!["a.b.svc.cluster.local:80".to_owned()], "nonce-1")
    );
    assert!(fixture.published.is_connected());
}

#[tokio::test]
async fn a_destination_that_is_asked_for_is_answered_as_soon_as_the_control_plane_does() {
    let mut fixture = Fixture::identified(&[]).await;
    fixture.start_client();
    let stream = fixture.stream().await;
    let (_, _) = (fixture.request().await, fixture.request().await);
    let (published, name) = (
        Arc::clone(&fixture.published),
        Name::from("no.shop.svc.cluster.local:80"),
    );
    let waiting = tokio::spawn(async move { published.destination(&name, MAX_WAIT).await });
    assert_eq!(
        fixture.request().await.resource_names_subscribe,
        ["no.shop.svc.cluster.local:80"]
    );
    let answer = DeltaDiscoveryResponse {
        type_url: types::LISTENER.into(),
        nonce: "n".into(),
        removed_resources: vec!["no.shop.svc.cluster.local:80".into()],
        ..DeltaDiscoveryResponse::default()
    };
    stream.send(Ok(answer)).unwrap();
    assert!(matches!(waiting.await.unwrap(), Lookup::Absent));
}

#[tokio::test]
async fn a_lost_stream_is_opened_again_with_what_is_held() {
    let mut fixture = Fixture::identified(&[]).await;
    fixture.start_client();
    let stream = fixture.stream().await;
    let (_, _) = (fixture.request().await, fixture.request().await);
    stream.send(Ok(hints("a.b.svc.cluster.local:80", "7"))).unwrap();
    let (_, _) = (fixture.request().await, fixture.request().await);
    drop(stream);
    let _stream = fixture.stream().await;
    let requests = [
        fixture.request().await,
        fixture.request().await,
        fixture.request().await,
    ];
    assert!(requests[0].node.is_some(), "a new stream is told who we are");
    let held: Vec<_> = requests
        .iter()
        .flat_map(|request| request.initial_resource_versions.clone())
        .collect();
    assert_eq!(held, [("hints/shop/sa/user".to_owned(), "7".to_owned())]);
    let names: Vec<_> = requests
        .iter()
        .flat_map(|request| request.resource_names_subscribe.clone())
        .collect();
    assert!(
        names.contains(&"a.b.svc.cluster.local:80".to_owned()),
        "{names:?}"
    );
}

#[tokio::test]
async fn what_was_known_survives_a_restart() {
    let mut fixture = Fixture::identified(&[]).await;
    let client = fixture.start_client();
    let stream = fixture.stream().await;
    let (_, _) = (fixture.request().await, fixture.request().await);
    stream.send(Ok(hints("a.b.svc.cluster.local:80", "7"))).unwrap();
    let file = fixture.directory.path().join("state/config.pb");
    let written = async {
        while !file.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, written)
        .await
        .expect("the configuration should be saved");
    client.abort();
    let (published, asked) = Published::new();
    let identity = Identity::new(fixture.fake.ca.leaf(USER), fixture.fake.ca.bundle(), 1).unwrap();
    published.publish_identity(identity);
    (fixture.published, fixture.asked) = (published, Some(asked));
    while let Ok(seen) = timeout(Duration::ZERO, fixture.fake.next()).await {
        drop(seen);
    }
    fixture.start_client();
    let held = loop {
        match fixture.fake.next().await {
            Seen::Request(request) if !request.initial_resource_versions.is_empty() => break request,
            _ => {}
        }
    };
    assert_eq!(held.initial_resource_versions["hints/shop/sa/user"], "7");
}
