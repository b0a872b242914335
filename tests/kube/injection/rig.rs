//! An API server with the chart's webhooks, and the injector that they call, with the chart's values.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{Api, Client};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::RwLock;
use tokio_util::sync::CancellationToken;
use weft_control_plane::ca::directory;
use weft_control_plane::certificates::Issuing;
use weft_control_plane::config::OwnName;
use weft_control_plane::kubernetes::leader;
use weft_control_plane::kubernetes::webhook::server::Server;
use weft_control_plane::kubernetes::webhook::values::InjectorFile;
use weft_control_plane::kubernetes::webhook::{Webhook, ca_bundle, notice};
use weft_control_plane::own;
use weft_identity::spiffe::TrustDomain;
use weft_tests::kube::{Kubernetes, PATIENCE, until};

/// All tests of injection share one; it is ended with the process.
pub(super) struct Rig {
    pub(super) kubernetes: Kubernetes,
    folder: TempDir,
    /// Held by whoever breaks the webhooks for a moment, shared by whom that would hurt.
    pub(super) calm: RwLock<()>,
}

impl Rig {
    /// The one; made by whoever comes first.
    pub(super) fn shared() -> &'static Self {
        static RIG: OnceLock<Rig> = OnceLock::new();
        RIG.get_or_init(|| {
            let (ready, is_ready) = std::sync::mpsc::channel();
            // The injector outlives the runtime of the test that happens to be the first.
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(async {
                    ready.send(Self::start().await).expect("somebody waits");
                    std::future::pending::<()>().await;
                });
            });
            is_ready.recv().expect("the injector starts")
        })
    }

    async fn start() -> Self {
        let rig = Self {
            kubernetes: Kubernetes::start(),
            folder: tempfile::tempdir().expect("the temporary folder is writable"),
            calm: RwLock::new(()),
        };
        let file = rig.values();
        std::fs::write(
            &file,
            rig.chart("injection.yaml").await["data"]["values.yaml"]
                .as_str()
                .expect("values"),
        )
        .expect("writable");
        let client = rig.kubernetes.client().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let issuing = Arc::new(authority(rig.folder.path()));
        let names = [OwnName::Address(address.ip())];
        let (tls, _) = own::issue(&issuing, &names).expect("a certificate");
        let (notices, telling) = notice::notices(client.clone(), &"weft-control-plane-0".into());
        let values = InjectorFile::open(&file).expect("the chart's values can be used");
        let webhook = Webhook::new(values, client.clone(), notices);
        tokio::spawn(telling);
        tokio::spawn(Server::new(webhook, Arc::new(ArcSwap::new(tls))).run(listener));
        let place = rig.kubernetes.place("default", "weft-control-plane-0").await;
        let (leadership, standing) = leader::stand(&place, CancellationToken::new());
        tokio::spawn(standing);
        tokio::spawn(ca_bundle::keep(client.clone(), issuing, leadership));
        rig.install(&format!("https://{address}/inject"), &client).await;
        rig
    }

    /// The chart's webhooks, at an address of this machine; done when the API server trusts them.
    async fn install(&self, url: &str, client: &Client) {
        let configuration = self.webhooks("weft-injector", url).await;
        self.kubernetes
            .apply(&configuration.to_string())
            .await
            .expect("webhooks can be set up");
        let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        until(api, "weft-injector", "trusted", is_trusted).await;
        let namespace = self.namespace(&[super::ENABLED]).await;
        self.settled(&namespace, &super::pod(), |made| {
            made.as_ref().is_ok_and(super::is_meshed)
        })
        .await;
    }

    /// Until the API server goes by what it was told about webhooks, which it says nowhere: a pod that would be made is
    /// as expected.
    pub(super) async fn settled(
        &self,
        namespace: &str,
        pod: &Value,
        expected: impl Fn(&Result<Value, String>) -> bool,
    ) {
        let asking = async { while !expected(&self.create(namespace, pod, &["--dry-run=server"]).await) {} };
        tokio::time::timeout(PATIENCE, asking)
            .await
            .expect("the API server knows its webhooks");
    }

    /// The chart's webhook configuration under another name and address.
    pub(super) async fn webhooks(&self, name: &str, url: &str) -> Value {
        let mut configuration = self.chart("webhooks.yaml").await;
        configuration["metadata"]["name"] = json!(name);
        for webhook in configuration["webhooks"].as_array_mut().expect("webhooks") {
            webhook["clientConfig"] = json!({ "url": url });
        }
        configuration
    }

    /// Where the injector's values are.
    pub(super) fn values(&self) -> std::path::PathBuf {
        self.folder.path().join("values.yaml")
    }

    /// One object of the chart.
    async fn chart(&self, template: &str) -> Value {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/weft");
        let (chart, template) = (chart.display().to_string(), format!("templates/{template}"));
        let arguments = [
            "template",
            "weft",
            &chart,
            "-n",
            "weft-system",
            "--kube-version",
            "v1.36.0",
            "--show-only",
            &template,
        ];
        let text = self.kubernetes.helm(&arguments).await.expect("the chart renders");
        let arguments = [
            "create",
            "--dry-run=client",
            "--validate=ignore",
            "-o",
            "json",
            "-f",
            "-",
        ];
        let object = self
            .kubernetes
            .tool("kubectl", &arguments, &text)
            .await
            .expect("an object");
        serde_json::from_str(&object).expect("JSON")
    }

    /// A namespace with labels, whose default account has been made.
    pub(super) async fn namespace(&self, labels: &[&str]) -> String {
        let name = self.kubernetes.namespace("inject").await;
        if !labels.is_empty() {
            let arguments = [&["label", "namespace", name.as_str()], labels].concat();
            self.kubernetes.kubectl(&arguments).await.expect("labelled");
        }
        let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
            Api::namespaced(self.kubernetes.client().await, &name);
        until(accounts, "default", "made by the controllers", |_| true).await;
        name
    }

    /// What the API server makes of an object, or why it refuses.
    pub(super) async fn create(
        &self,
        namespace: &str,
        object: &Value,
        more: &[&str],
    ) -> Result<Value, String> {
        let arguments = ["create", "-n", namespace, "-o", "json", "-f", "-"];
        let arguments = [&arguments[..], more].concat();
        let made = self
            .kubernetes
            .tool("kubectl", &arguments, &object.to_string())
            .await?;
        Ok(serde_json::from_str(&made).expect("JSON"))
    }
}

pub(super) fn is_trusted(configuration: &MutatingWebhookConfiguration) -> bool {
    let mut webhooks = configuration.webhooks.iter().flatten();
    webhooks.all(|webhook| {
        let bundle = webhook.client_config.ca_bundle.as_ref();
        bundle.is_some_and(|bundle| bundle.0.starts_with(b"-----BEGIN CERTIFICATE-----"))
    })
}

fn authority(folder: &Path) -> Issuing {
    let domain: TrustDomain = "cluster.local".parse().expect("a trust domain");
    let authority = directory::open(folder, None, &domain).expect("a root");
    Issuing::new(authority, Duration::from_hours(1))
}
