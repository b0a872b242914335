//! A mesh on this machine: one control plane on a directory of manifests, and sidecars.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::client::{self, Ask};
use crate::process::{Process, weft_binary};

/// A control plane and the directory it reads.
pub struct Mesh {
    directory: TempDir,
    /// The control plane.
    pub control_plane: Process,
    /// Where it serves xDS.
    pub xds: SocketAddr,
    /// Its admin page.
    pub admin: SocketAddr,
    /// Its status page.
    pub status: SocketAddr,
    options: Vec<String>,
}

/// A sidecar to start.
#[derive(Clone, Debug)]
pub struct Spec {
    namespace: String,
    account: String,
    workload: String,
    arguments: Vec<String>,
    services: Vec<String>,
}

/// A running sidecar.
pub struct Sidecar {
    /// The process.
    pub process: Process,
    /// Its explicit outbound port.
    pub outbound: SocketAddr,
    /// Its inbound ports, in the order asked for.
    pub inbound: Vec<SocketAddr>,
    /// Its local ports by authority.
    pub bind: Value,
    /// Its admin page.
    pub admin: SocketAddr,
    /// Its status page.
    pub status: SocketAddr,
}

impl Mesh {
    /// Starts a control plane on `manifests` (file name, text), with more `options`.
    pub async fn start(manifests: &[(&str, &str)], options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("the temporary folder is writable");
        std::fs::create_dir(directory.path().join("manifests")).expect("a new folder");
        for (name, text) in manifests {
            std::fs::write(directory.path().join("manifests").join(name), text).expect("a new file");
        }
        let options: Vec<String> = options.iter().map(ToString::to_string).collect();
        let (control_plane, [xds, admin, status]) =
            start_control_plane(directory.path(), "127.0.0.1:0", &options).await;
        Self {
            directory,
            control_plane,
            xds,
            admin,
            status,
            options,
        }
    }

    /// Starts the control plane again on the same port and state, after it was stopped.
    pub async fn restart_control_plane(&mut self) {
        let (process, [xds, admin, status]) =
            start_control_plane(self.directory.path(), &self.xds.to_string(), &self.options).await;
        (self.control_plane, self.xds, self.admin, self.status) = (process, xds, admin, status);
    }

    /// The folder that holds state, logs and manifests.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The control plane's state.
    pub fn state(&self) -> PathBuf {
        self.path().join("control-plane")
    }

    /// Replaces one manifest in one step, as an editor does.
    pub fn write_manifest(&self, name: &str, text: &str) {
        let folder = self.path().join("manifests");
        let temporary = folder.join(format!(".{name}.tmp"));
        std::fs::write(&temporary, text).expect("the folder is writable");
        std::fs::rename(temporary, folder.join(name)).expect("the folder is writable");
    }

    /// A token for an account that may register for `services`.
    pub fn token(&self, namespace: &str, account: &str, services: &[String]) -> PathBuf {
        let mut command = std::process::Command::new(weft_binary());
        command.args([
            "token",
            "create",
            "--namespace",
            namespace,
            "--service-account",
            account,
        ]);
        command.arg("--state-dir").arg(self.state());
        for service in services {
            command.args(["--service", service]);
        }
        let output = command.output().expect("weft runs");
        assert!(
            output.status.success(),
            "weft token: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let file = tempfile::Builder::new()
            .prefix("token-")
            .tempfile_in(self.path())
            .expect("writable");
        let (_, path) = file.keep().expect("writable");
        std::fs::write(&path, output.stdout).expect("writable");
        path
    }

    /// Starts a sidecar and waits until it is ready.
    pub async fn sidecar(&self, spec: &Spec) -> Sidecar {
        let mut sidecar = self.sidecar_starting(spec).await;
        sidecar.process.says("ready").await;
        sidecar
    }

    /// Starts a sidecar and waits until it listens.
    pub async fn sidecar_starting(&self, spec: &Spec) -> Sidecar {
        Sidecar::start(self.path(), &spec.workload, &self.arguments(spec)).await
    }

    fn arguments(&self, spec: &Spec) -> Vec<String> {
        let token = self.token(&spec.namespace, &spec.account, &spec.services);
        let state = self.path().join(&spec.workload);
        let path = |path: &Path| path.display().to_string();
        let mut arguments: Vec<String> = ["proxy", "run"].map(str::to_owned).into();
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        flag("control-plane", self.xds.to_string());
        flag("trust-bundle", path(&self.state().join("trust-bundle.pem")));
        flag("token-file", path(&token));
        flag("namespace", spec.namespace.clone());
        flag("workload", spec.workload.clone());
        flag("state-dir", path(&state));
        flag("outbound", "127.0.0.1:0".to_owned());
        flag("status", "127.0.0.1:0".to_owned());
        flag("admin", "127.0.0.1:0".to_owned());
        arguments.extend(spec.arguments.clone());
        arguments
    }
}

impl Spec {
    /// A client without an inbound side.
    pub fn new(namespace: &str, account: &str, workload: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            account: account.to_owned(),
            workload: workload.to_owned(),
            arguments: Vec::new(),
            services: Vec::new(),
        }
    }

    /// Serves `service` (`name:port`) from `app`.
    #[must_use]
    pub fn serves(mut self, service: &str, app: SocketAddr) -> Self {
        let name = service.split(':').next().unwrap_or(service);
        self.services.push(name.to_owned());
        self.arguments
            .extend(["--inbound".to_owned(), format!("127.0.0.1:0={app}")]);
        self.arguments
            .extend(["--register".to_owned(), format!("{service}={app}")]);
        self
    }

    /// With one more flag.
    #[must_use]
    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([format!("--{name}"), value.to_owned()]);
        self
    }
}

impl Sidecar {
    /// Starts the sidecar `name` with its log in `directory`, and waits until it listens.
    pub async fn start(directory: &Path, name: &str, arguments: &[String]) -> Self {
        let mut process = Process::start(directory, name, arguments).expect("the binary can be started");
        let listening = process.says("listening").await;
        let inbound = listening["inbound"].as_array().into_iter().flatten();
        Self {
            outbound: address(&listening["outbound"]),
            inbound: inbound.map(address).collect(),
            bind: listening["bind"].clone(),
            admin: address(&listening["admin"]),
            status: address(&listening["status"]),
            process,
        }
    }

    /// The local port of `authority`, in full (`<service>.<namespace>.svc.<domain>:<port>`).
    pub fn bound(&self, authority: &str) -> SocketAddr {
        address(&self.bind[authority])
    }

    /// Its metrics.
    pub async fn metrics(&self) -> String {
        metrics(self.status).await
    }

    /// One of its admin pages, as JSON.
    pub async fn page(&self, path: &str) -> Value {
        page(self.admin, path).await
    }
}

/// The metrics of the process whose status page this is.
pub async fn metrics(status: SocketAddr) -> String {
    let answer = client::http1(status, Ask::get("/metrics").header("host", "localhost")).await;
    answer.expect("the status page answers").text()
}

/// An admin page, as JSON.
pub async fn page(admin: SocketAddr, path: &str) -> Value {
    let ask = Ask::get(path).header("host", &admin.to_string());
    let answer = client::http1(admin, ask).await.expect("the admin page answers");
    serde_json::from_slice(&answer.body).expect("admin pages are JSON")
}

async fn start_control_plane(
    directory: &Path,
    listen: &str,
    options: &[String],
) -> (Process, [SocketAddr; 3]) {
    let path = |name: &str| directory.join(name).display().to_string();
    let mut arguments: Vec<String> = ["control-plane"].map(str::to_owned).into();
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    flag("manifests", path("manifests"));
    flag("state-dir", path("control-plane"));
    flag("listen", listen.to_owned());
    flag("status", "127.0.0.1:0".to_owned());
    flag("admin", "127.0.0.1:0".to_owned());
    arguments.extend(options.iter().cloned());
    let mut process =
        Process::start(directory, "control-plane", &arguments).expect("the binary can be started");
    let listening = process.says("listening").await;
    process.says("ready").await;
    (
        process,
        ["xds", "admin", "status"].map(|name| address(&listening[name])),
    )
}

fn address(value: &Value) -> SocketAddr {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("not an address: {value}"))
}
