//! A Kubernetes to test against: the one that `KUBECONFIG` names, or an API server of our own from `tests/cluster`.
//!
//! An API server of our own has etcd and the controllers but no node: pods are created and stay Pending. What needs
//! a node is run by `tests/cluster/run`, which sets `KUBECONFIG`. Tests wait on watches, never on time; each works in
//! a namespace of its own, and one that changes what is cluster-wide starts an API server of its own.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use kube::api::{Api, ObjectMeta, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::{Client, Config};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use weft_control_plane::config::InCluster;
use weft_control_plane::kubernetes::Cluster;

/// How long one condition of an object may take; pods on a loaded machine are the slowest.
pub const PATIENCE: Duration = Duration::from_mins(2);

/// One cluster.
#[derive(Debug)]
pub struct Kubernetes {
    kubeconfig: PathBuf,
    tools: Tools,
    /// What tools remember of it.
    cache: TempDir,
    server: Option<Server>,
}

/// What `tests/cluster/build` made.
#[derive(Clone, Debug)]
struct Tools {
    binaries: PathBuf,
    gateway_api: PathBuf,
}

/// An API server of our own. It ends when its stdin does, so also when this process is killed.
#[derive(Debug)]
struct Server {
    child: Child,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // Whether it ended well is of no interest to the test.
        let _ = self.child.wait();
    }
}

fn cache() -> TempDir {
    tempfile::tempdir().expect("the temporary folder is writable")
}

fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

impl Tools {
    fn find() -> Self {
        let output = Command::new("bash")
            .arg("-c")
            .arg(r#". "$0/settings" && echo "$BIN" && echo "$CRDS""#)
            .arg(scripts())
            .output()
            .expect("bash runs");
        let text = String::from_utf8(output.stdout).expect("paths are UTF-8");
        let mut lines = text.lines().map(PathBuf::from);
        let mut next = || lines.next().expect("tests/cluster/settings names its folders");
        Self {
            binaries: next(),
            gateway_api: next(),
        }
    }

    /// Where programs are looked for: ours first.
    fn path(&self) -> OsString {
        let mut path = self.binaries.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        path
    }
}

impl Kubernetes {
    /// The cluster that tests share: the one that `KUBECONFIG` names, else an API server of our own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Kubernetes> = OnceLock::new();
        SHARED.get_or_init(|| Self::named().unwrap_or_else(Self::start))
    }

    /// A cluster with a node, which only `KUBECONFIG` can name.
    pub fn with_node() -> &'static Self {
        static NODE: OnceLock<Kubernetes> = OnceLock::new();
        NODE.get_or_init(|| Self::named().expect("no KUBECONFIG: run this test by `tests/cluster/run CMD`"))
    }

    /// An API server of our own, for tests that change what is cluster-wide, or restart it.
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        let mut child = Command::new(scripts().join("api"))
            .arg(folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("tests/cluster/api can be started");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("stdout is text");
        assert!(!line.is_empty(), "tests/cluster/api failed: see above");
        Self {
            kubeconfig: line.trim_end().into(),
            tools: Tools::find(),
            cache: cache(),
            server: Some(Server { child, folder }),
        }
    }

    fn named() -> Option<Self> {
        Some(Self {
            kubeconfig: std::env::var_os("KUBECONFIG")?.into(),
            tools: Tools::find(),
            cache: cache(),
            server: None,
        })
    }

    /// The file that says where it is and who we are.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A client with all rights.
    pub async fn client(&self) -> Client {
        let file = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a usable kubeconfig")).expect("a client")
    }

    /// A control plane's place here, within the test: the replica `pod` in `namespace`.
    pub async fn place(&self, namespace: &str, pod: &str) -> Cluster {
        let settings = InCluster {
            namespace: namespace.into(),
            pod: pod.into(),
            service: "weft-control-plane".into(),
            owner: "weft-control-plane".into(),
            supplied_root: false,
            pod_certificates: true,
            webhook: ([127, 0, 0, 1], 0).into(),
            injection: None,
        };
        Cluster::new(self.client().await, &settings)
    }

    /// Makes a namespace whose name begins with `prefix`.
    pub async fn namespace(&self, prefix: &str) -> String {
        let namespace = k8s_openapi::api::core::v1::Namespace {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                ..ObjectMeta::default()
            },
            ..Default::default()
        };
        let api = Api::all(self.client().await);
        let made = api.create(&PostParams::default(), &namespace).await;
        made.expect("namespaces can be made")
            .metadata
            .name
            .expect("the server chose a name")
    }

    /// What `kubectl` printed, or why it failed.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        self.tool("kubectl", arguments, "").await
    }

    /// What `helm` printed, or why it failed.
    pub async fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        self.tool("helm", arguments, "").await
    }

    /// Server-side apply of YAML, with strict field validation; the error is the server's.
    pub async fn apply(&self, yaml: &str) -> Result<String, String> {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        self.tool("kubectl", &arguments, yaml).await
    }

    /// Installs the Gateway API's standard CRDs and waits until they are served.
    pub async fn install_gateway_api(&self) {
        let folder = self.tools.gateway_api.display().to_string();
        let applied = self
            .kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &folder])
            .await;
        applied.expect("the Gateway API's CRDs can be applied");
        let wait = ["wait", "--for=condition=Established", "crd", "--all"];
        self.kubectl(&wait).await.expect("CRDs are served");
    }

    /// One of the cluster's tools: our own, else the machine's.
    pub fn program(&self, name: &str) -> PathBuf {
        let built = self.tools.binaries.join(name);
        if built.exists() {
            built
        } else {
            PathBuf::from(name)
        }
    }

    /// Runs one of the cluster's tools with `stdin`.
    pub async fn tool(&self, name: &str, arguments: &[&str], stdin: &str) -> Result<String, String> {
        let mut child = tokio::process::Command::new(self.program(name))
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", self.cache.path())
            .env("PATH", self.tools.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{name} can't be started: {error}"))?;
        let mut pipe = child.stdin.take().expect("stdin is piped");
        let text = stdin.to_owned();
        // Beside the reading: neither side may wait for the other.
        let feeding = tokio::spawn(async move { pipe.write_all(text.as_bytes()).await });
        let output = child
            .wait_with_output()
            .await
            .map_err(|error| error.to_string())?;
        // A tool that ended without reading all says why on stderr.
        let _ = feeding.await;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Kills a component of an API server of our own: `kube-apiserver`, `etcd`, `kube-controller-manager`.
    pub async fn kill_component(&self, name: &str) {
        let file = self.state().join("log").join(format!("{name}.pid"));
        let pid = std::fs::read_to_string(&file).expect("a component's pid");
        let script = r#"kill -KILL "$0"; while [ -e "/proc/$0/fd/0" ]; do sleep 0.02; done"#;
        let ended = tokio::process::Command::new("bash")
            .args(["-c", script, pid.trim()])
            .status();
        assert!(
            ended.await.expect("bash runs").success(),
            "{name} was not running"
        );
    }

    /// Starts a component again, on the same port and state; it ends with the answer.
    pub fn start_component(&self, name: &str) -> tokio::process::Child {
        let file = |kind: &str| self.state().join("log").join(format!("{name}.{kind}"));
        let log = std::fs::File::options().append(true).open(file("log"));
        let child = tokio::process::Command::new(self.state().join("run").join(name))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("its log"))
            .kill_on_drop(true)
            .spawn()
            .expect("a component can be started");
        let pid = child.id().expect("it was not waited for").to_string();
        std::fs::write(file("pid"), pid).expect("the state is writable");
        child
    }

    /// Waits until the API server answers, after it was started again.
    pub async fn serves(&self) {
        let ready = ["get", "--raw", "/readyz"];
        let waiting = async { while self.kubectl(&ready).await.is_err() {} };
        let waited = tokio::time::timeout(PATIENCE, waiting).await;
        waited.unwrap_or_else(|_| panic!("the API server does not serve after {PATIENCE:?}"));
    }

    /// Where an API server of our own keeps everything; `etcd` is its data.
    pub fn state(&self) -> &Path {
        let server = self.server.as_ref();
        server
            .expect("only an API server of our own has a state to look at")
            .folder
            .path()
    }
}

/// Waits, by watching, until `name` satisfies `condition`, and answers it as it then is.
pub async fn until<K>(api: Api<K>, name: &str, what: &str, condition: impl Fn(&K) -> bool) -> K
where
    K: Clone + Debug + Send + serde::de::DeserializeOwned + kube::Resource + 'static,
{
    let check = |object: Option<&K>| object.is_some_and(&condition);
    match tokio::time::timeout(PATIENCE, await_condition(api.clone(), name, check)).await {
        Ok(Ok(Some(object))) => object,
        Ok(result) => panic!("{name} can't be watched until {what}: {result:?}"),
        Err(tokio::time::error::Elapsed { .. }) => {
            let now = api.get_opt(name).await;
            panic!("{name} is not {what} after {PATIENCE:?}; it is {now:#?}")
        }
    }
}

/// Waits, by watching, until `name` is gone.
pub async fn until_gone<K>(api: Api<K>, name: &str)
where
    K: Clone + Debug + Send + serde::de::DeserializeOwned + kube::Resource + 'static,
{
    let gone = await_condition(api, name, |object: Option<&K>| object.is_none());
    let result = tokio::time::timeout(PATIENCE, gone).await;
    result
        .unwrap_or_else(|_| panic!("{name} is still there after {PATIENCE:?}"))
        .unwrap_or_else(|error| panic!("{name} can't be watched: {error}"));
}
