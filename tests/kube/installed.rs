//! The mesh as the chart installs it on an API server without a node: its control planes and sidecars are processes of
//! this machine, with the rights of the accounts that their pods would have.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tempfile::TempDir;
use weft_control_plane::kubernetes::leader::LEASE_NAME;
use weft_control_plane::kubernetes::trust::{CONFIG_MAP, KEY};
use weft_tests::kube::{Kubernetes, until};
use weft_tests::mesh::Sidecar;

use crate::place::ControlPlane;

/// The control plane's namespace.
pub(crate) const SYSTEM: &str = "weft-system";

/// The control plane's account, Service and roles.
pub(crate) const NAME: &str = "weft-control-plane";

/// The namespace of the workloads, which is in the mesh.
pub(crate) const SHOP: &str = "shop";

/// See the module's head.
pub(crate) struct Installed {
    pub(crate) kubernetes: Kubernetes,
    pub(crate) client: Client,
    folder: TempDir,
    /// An address of this machine that isn't loopback: in an `EndpointSlice` no other may be.
    host: String,
}

/// A kubeconfig, and what the API server calls its token in the audit log.
pub(crate) struct Credential {
    pub(crate) kubeconfig: PathBuf,
    pub(crate) id: String,
}

impl Installed {
    /// Installs the chart. Nothing runs yet.
    pub(crate) async fn new() -> Self {
        let kubernetes = Kubernetes::start();
        kubernetes.install_gateway_api().await;
        let chart = format!("{}/../charts/weft", env!("CARGO_MANIFEST_DIR"));
        let install = [
            "install",
            "weft",
            &chart,
            "--namespace",
            SYSTEM,
            "--create-namespace",
        ];
        kubernetes.helm(&install).await.expect("helm installs");
        let wait = ["wait", "--for=condition=Established", "crd", "--all"];
        kubernetes.kubectl(&wait).await.expect("CRDs are served");
        let host = kubernetes
            .tool("hostname", &["--all-ip-addresses"], "")
            .await
            .expect("addresses");
        let host = host.split_whitespace().next();
        let host = host.expect("this machine has an address that isn't loopback; add one, such as 192.0.2.2");
        let installed = Self {
            client: kubernetes.client().await,
            folder: tempfile::tempdir().expect("the temporary folder is writable"),
            host: host.to_owned(),
            kubernetes,
        };
        let values: Api<ConfigMap> = Api::namespaced(installed.client.clone(), SYSTEM);
        let values = values.get("weft-injection").await.expect("the injector's values");
        let values = &values.data.expect("values")["values.yaml"];
        std::fs::write(installed.values(), values).expect("writable");
        installed
    }

    fn values(&self) -> PathBuf {
        self.path().join("values.yaml")
    }

    /// Where files of the processes are.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The rights of an account, by a token of its own; `line`: another way to the API server.
    pub(crate) async fn credential(
        &self,
        namespace: &str,
        account: &str,
        line: Option<SocketAddr>,
    ) -> Credential {
        Credential::new(&self.kubernetes, self.path(), [namespace, account], line).await
    }

    /// Starts the replica `pod` of the control plane, and waits until it serves.
    pub(crate) async fn replica(&self, pod: &str, credential: &Credential) -> ControlPlane {
        let injection = format!("--injection={}", self.values().display());
        let plane = ControlPlane::start(
            &credential.kubeconfig,
            self.path(),
            pod,
            &self.host,
            &[&injection],
        )
        .await;
        self.announce(&plane).await;
        plane.ready().await
    }

    /// Makes it an endpoint of the control plane's Service, as the cluster would.
    async fn announce(&self, plane: &ControlPlane) {
        let host: IpAddr = self.host.parse().expect("an address");
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": plane.pod, "namespace": SYSTEM,
                "labels": { "kubernetes.io/service-name": NAME },
            },
            "addressType": if host.is_ipv4() { "IPv4" } else { "IPv6" },
            "ports": [
                { "name": "xds", "port": plane.address("xds").port() },
                { "name": "webhook", "port": plane.address("webhook").port() },
            ],
            "endpoints": [{
                "addresses": [host], "conditions": { "ready": true },
                "targetRef": { "kind": "Pod", "namespace": SYSTEM, "name": plane.pod },
            }],
        });
        self.kubernetes
            .apply(&slice.to_string())
            .await
            .expect("an EndpointSlice");
    }

    /// The replica is gone, and so is its endpoint.
    pub(crate) async fn forget(&self, pod: &str) {
        let delete = ["delete", "endpointslice", pod, "--namespace", SYSTEM];
        self.kubernetes.kubectl(&delete).await.expect("deleted");
    }

    /// Waits until the lease is the replica `pod`'s; when it became so.
    pub(crate) async fn leads(&self, pod: &str) -> String {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM);
        let holds = |lease: &Lease| {
            let holder = lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_deref());
            holder.is_some_and(|holder| holder.starts_with(&format!("{pod}_")))
        };
        let lease = until(leases, LEASE_NAME, &format!("held by {pod}"), holds).await;
        let acquired = lease.spec.and_then(|spec| spec.acquire_time).expect("a time");
        format!("{:.6}", acquired.0)
    }

    /// Puts the namespace of the workloads into the mesh.
    pub(crate) async fn shop(&self) {
        let namespace =
            "{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {weft.dev/inject: enabled}}}";
        self.kubernetes.apply(namespace).await.expect("a namespace");
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), SHOP);
        until(accounts, "default", "made by the controllers", |_| true).await;
    }

    /// Makes the pod `name` in the shop; its token, as the kubelet would project it.
    pub(crate) async fn pod(&self, name: &str) -> String {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": name, "namespace": SHOP },
            "spec": { "containers": [{ "name": "app", "image": "none" }] },
        });
        let create = ["create", "-f", "-", "-o", "json"];
        let made = self
            .kubernetes
            .tool("kubectl", &create, &pod.to_string())
            .await
            .expect("a pod");
        let made: Value = serde_json::from_str(&made).expect("JSON");
        assert_eq!(
            made["spec"]["initContainers"][1]["name"], "weft-proxy",
            "{made:#}"
        );
        let uid = made["metadata"]["uid"].as_str().expect("a uid");
        let create = format!(
            "create token default -n {SHOP} --audience=weft --bound-object-kind=Pod --bound-object-name={name} \
             --bound-object-uid={uid}"
        );
        let token = self
            .kubernetes
            .kubectl(&create.split_whitespace().collect::<Vec<_>>())
            .await;
        token.expect("a token").trim().to_owned()
    }

    /// The pod `name` of the shop, whose sidecar runs here as a client of `plane`, with more flags.
    pub(crate) async fn sidecar(&self, name: &str, plane: &ControlPlane, more: &[&str]) -> Sidecar {
        let [bundle, token] = ["pem", "token"].map(|kind| self.path().join(format!("{name}.{kind}")));
        std::fs::write(&token, self.pod(name).await).expect("writable");
        std::fs::write(&bundle, self.bundle(SHOP).await).expect("writable");
        let mut line = vec![
            "proxy".to_owned(),
            "run".to_owned(),
            format!("--control-plane={}", plane.address("xds")),
            format!("--trust-bundle={}", bundle.display()),
            format!("--token-file={}", token.display()),
            format!("--namespace={SHOP}"),
            format!("--workload={name}"),
            format!("--state-dir={}", self.path().join(name).display()),
        ];
        line.extend(["outbound", "status", "admin"].map(|listener| format!("--{listener}=127.0.0.1:0")));
        line.extend(more.iter().map(ToString::to_string));
        let mut sidecar = Sidecar::start(self.path(), name, &line).await;
        sidecar.process.says("ready").await;
        sidecar
    }

    /// The roots to trust, as a pod of the namespace finds them.
    pub(crate) async fn bundle(&self, namespace: &str) -> String {
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let map = until(maps, CONFIG_MAP, "published", |map| map.data.is_some()).await;
        map.data.expect("data")[KEY].clone()
    }

    /// What service accounts have asked the API server for, as it has written that down so far.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let file = self.kubernetes.state().join("log/audit.log");
        let text = std::fs::read_to_string(file).expect("the audit log");
        // The last line may not be whole yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON lines"))
            .collect()
    }
}

impl Credential {
    /// The rights of an account (namespace and name), by a token of its own; `line`: another way to the API server.
    pub(crate) async fn new(
        kubernetes: &Kubernetes,
        folder: &Path,
        [namespace, account]: [&str; 2],
        line: Option<SocketAddr>,
    ) -> Self {
        let create = ["create", "token", account, "--namespace", namespace];
        let token = kubernetes.kubectl(&create).await.expect("a token");
        let token = token.trim();
        let file = Kubeconfig::read_from(kubernetes.kubeconfig()).expect("a kubeconfig");
        let cluster = file.clusters[0].cluster.as_ref().expect("a cluster");
        let server = line.map(|line| format!("https://{line}"));
        let server = server.or_else(|| cluster.server.clone());
        let cluster = json!({ "server": server, "certificate-authority": cluster.certificate_authority });
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "it", "cluster": cluster }],
            "users": [{ "name": "it", "user": { "token": token } }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
            "current-context": "it",
        });
        let id = token_id(token);
        let kubeconfig = folder.join(format!("{id}.kubeconfig"));
        std::fs::write(&kubeconfig, config.to_string()).expect("writable");
        Self {
            kubeconfig,
            id: format!("JTI={id}"),
        }
    }

    /// A client with these rights.
    pub(crate) async fn client(&self) -> Client {
        let file = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
    }
}

fn token_id(token: &str) -> String {
    let claims = token.split('.').nth(1).expect("three parts");
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).expect("base64url");
    let claims: Value = serde_json::from_slice(&claims).expect("claims");
    claims["jti"].as_str().expect("every token has a name").to_owned()
}
