//! A mesh of pods: a control plane on the node, and pods whose connections are captured as injection has it.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;
use weft_tests::process::{Process, weft_binary};

use crate::net::{Addresses, CONTROL_PLANE, Namespace, Node};

/// The uid that the proxy runs as.
pub(crate) const PROXY_UID: u32 = 2102;
/// Where the control plane serves xDS.
const XDS: SocketAddr = SocketAddr::new(CONTROL_PLANE, 15010);

/// A node with a control plane.
pub(crate) struct Cluster {
    /// The node.
    pub(crate) node: Node,
    /// What is written into manifests.
    manifests: RefCell<String>,
    directory: TempDir,
    /// The control plane, once it runs.
    pub(crate) control_plane: Option<Process>,
}

/// A pod, with or without a sidecar.
pub(crate) struct Pod {
    /// Its name and account.
    pub(crate) name: String,
    /// Its network namespace.
    pub(crate) namespace: Namespace,
    /// Its addresses.
    pub(crate) addresses: Addresses,
    /// Its proxy, if it has one.
    pub(crate) proxy: Option<Process>,
    /// What the proxy said about its listeners.
    pub(crate) listening: Value,
    /// The memory that its control group allows its proxy, in bytes.
    pub(crate) memory: Option<u64>,
}

/// A port of a Service: name, port, the pods' port, and `appProtocol` if there is one.
pub(crate) type ServicePort<'a> = (&'a str, u16, u16, Option<&'a str>);

impl Cluster {
    /// A node without pods, and no control plane yet.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("the temporary folder is writable");
        open_to_all(directory.path());
        std::fs::create_dir(directory.path().join("manifests")).expect("a new folder");
        Self {
            node: Node::new(),
            manifests: RefCell::default(),
            directory,
            control_plane: None,
        }
    }

    /// A pod that is part of the mesh: the control plane knows it, and `meshed` makes it so.
    pub(crate) fn pod(&self, name: &str) -> Pod {
        let pod = self.stranger(name);
        let Addresses { ipv4, ipv6 } = pod.addresses;
        self.manifest(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, labels: {{app: {name}}}}}\n\
             spec: {{serviceAccountName: {name}, containers: [{{name: app, image: app}}]}}\n\
             status: {{podIP: '{ipv4}', podIPs: [{{ip: '{ipv4}'}}, {{ip: '{ipv6}'}}]}}\n"
        ));
        pod
    }

    /// A pod that nobody but the network knows.
    pub(crate) fn stranger(&self, name: &str) -> Pod {
        let (namespace, addresses) = self.node.pod();
        Pod {
            name: name.to_owned(),
            namespace,
            addresses,
            proxy: None,
            listening: Value::Null,
            memory: None,
        }
    }

    /// A Service with the cluster addresses `10.96.0.<number>` and `fd96::<number>`, of which `pods` are the endpoints.
    pub(crate) fn service(&self, name: &str, number: u8, ports: &[ServicePort<'_>], pods: &[&Pod]) {
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  clusterIP: 10.96.0.{number}\n  clusterIPs: ['10.96.0.{number}', 'fd96::{number}']\n  \
             ipFamilies: [IPv4, IPv6]\n  ipFamilyPolicy: RequireDualStack\n  selector: {{app: {name}}}\n  ports:\n"
        );
        let mut slice_ports = String::new();
        for (port_name, port, target, protocol) in ports {
            let declared = protocol.map_or(String::new(), |protocol| format!(", appProtocol: {protocol}"));
            let _ = writeln!(
                text,
                "  - {{name: {port_name}, port: {port}, targetPort: {target}{declared}}}"
            );
            let _ = writeln!(
                slice_ports,
                "- {{name: {port_name}, port: {target}, protocol: TCP}}"
            );
        }
        for (family, suffix) in [("IPv4", "four"), ("IPv6", "six")] {
            let _ = write!(
                text,
                "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}-{suffix}\n  \
                 namespace: shop\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: {family}\n\
                 ports:\n{slice_ports}endpoints:\n"
            );
            for pod in pods {
                let ip = if family == "IPv4" {
                    pod.addresses.ipv4
                } else {
                    pod.addresses.ipv6
                };
                let _ = writeln!(
                    text,
                    "- {{addresses: ['{ip}'], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: {}, namespace: \
                     shop}}}}",
                    pod.name
                );
            }
        }
        self.manifest(&text);
    }

    /// Adds a manifest.
    pub(crate) fn manifest(&self, text: &str) {
        let mut manifests = self.manifests.borrow_mut();
        manifests.push_str("---\n");
        manifests.push_str(text);
    }

    /// Starts the control plane on what was said so far.
    pub(crate) async fn start(&mut self) {
        std::fs::write(self.path("manifests/all.yaml"), &*self.manifests.borrow()).expect("writable");
        let mut arguments = self.node.namespace.enter();
        arguments.push(weft_binary().display().to_string());
        arguments.push("control-plane".to_owned());
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        flag("manifests", self.path("manifests").display().to_string());
        flag("state-dir", self.path("state").display().to_string());
        flag("listen", XDS.to_string());
        flag("status", "127.0.0.1:0".to_owned());
        flag("admin", "127.0.0.1:0".to_owned());
        let mut process = self.process("control-plane", &arguments);
        process.says("ready").await;
        self.control_plane = Some(process);
    }

    /// Captures the pod's connections and starts its proxy, and waits until it is ready.
    pub(crate) async fn mesh(&self, pod: &mut Pod, init: &[&str], run: &[&str]) {
        self.mesh_starting(pod, init, run).await;
        if let Some(proxy) = &mut pod.proxy {
            proxy.says("ready").await;
        }
    }

    /// Captures the pod's connections and starts its proxy, and waits until it listens.
    pub(crate) async fn mesh_starting(&self, pod: &mut Pod, init: &[&str], run: &[&str]) {
        pod.init(init);
        let mut process = self.process(&pod.name, &self.arguments(pod, run));
        pod.listening = process.says("listening").await;
        pod.proxy = Some(process);
    }

    fn process(&self, name: &str, arguments: &[String]) -> Process {
        Process::start_program(
            Path::new(&arguments[0]),
            self.directory.path(),
            name,
            &arguments[1..],
        )
        .expect("nsenter (util-linux) is installed")
    }

    fn arguments(&self, pod: &Pod, run: &[&str]) -> Vec<String> {
        let own = self.path(&pod.name);
        std::fs::create_dir_all(&own).expect("writable");
        let (token, bundle) = (own.join("token"), own.join("bundle.pem"));
        std::fs::write(&token, self.token(&pod.name)).expect("writable");
        std::fs::copy(self.path("state/trust-bundle.pem"), &bundle).expect("the control plane has one");
        for path in [&own, &token, &bundle] {
            chown(path, Some(PROXY_UID), Some(PROXY_UID)).expect("root");
        }
        let uid = format!("--reuid={PROXY_UID}");
        let gid = format!("--regid={PROXY_UID}");
        let mut arguments = pod.namespace.enter();
        if let Some(bytes) = pod.memory {
            let groups = own.join("cgroup");
            std::fs::create_dir_all(&groups).expect("writable");
            std::fs::write(groups.join("memory.max"), bytes.to_string()).expect("writable");
            let mount = "mount --bind \"$0\" /sys/fs/cgroup && exec \"$@\"";
            arguments.extend(["unshare", "--mount", "sh", "-c", mount].map(str::to_owned));
            arguments.push(groups.display().to_string());
        }
        let drop_rights = [
            "setpriv",
            &uid,
            &gid,
            "--clear-groups",
            "--bounding-set=-all",
            "--no-new-privs",
        ];
        arguments.extend(drop_rights.map(str::to_owned));
        arguments.push(weft_binary().display().to_string());
        arguments.extend(["proxy", "run"].map(str::to_owned));
        let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
        flag("control-plane", XDS.to_string());
        flag("trust-bundle", bundle.display().to_string());
        flag("token-file", token.display().to_string());
        flag("namespace", "shop".to_owned());
        flag("workload", pod.name.clone());
        flag("state-dir", own.join("state").display().to_string());
        flag("captured-outbound", "[::]:15001".to_owned());
        flag("captured-inbound", "[::]:15006".to_owned());
        flag("outbound", "127.0.0.1:15002".to_owned());
        flag("status", "[::]:15020".to_owned());
        flag("egress", "allow".to_owned());
        arguments.extend(run.iter().map(ToString::to_string));
        arguments
    }

    fn token(&self, account: &str) -> Vec<u8> {
        let output = Command::new(weft_binary())
            .args([
                "token",
                "create",
                "--namespace",
                "shop",
                "--service-account",
                account,
            ])
            .arg("--state-dir")
            .arg(self.path("state"))
            .output()
            .expect("weft runs");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Pod {
    /// Puts capture in force.
    pub(crate) fn init(&self, flags: &[&str]) {
        let mut command = init();
        command.extend(flags.iter().map(ToString::to_string));
        self.namespace
            .must(&command.iter().map(|part| &**part).collect::<Vec<_>>());
    }

    /// A port of the pod's IPv4 address.
    pub(crate) fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.addresses.ipv4, port)
    }

    /// A port of each of the pod's addresses.
    pub(crate) fn both(&self, port: u16) -> [SocketAddr; 2] {
        [self.addresses.ipv4, self.addresses.ipv6].map(|ip| SocketAddr::new(ip, port))
    }

    /// Its identity.
    pub(crate) fn identity(&self) -> String {
        format!("spiffe://cluster.local/ns/shop/sa/{}", self.name)
    }

    /// Waits until the proxy knows that the control plane is gone.
    pub(crate) fn disconnected(&self) {
        let deadline = std::time::Instant::now() + crate::app::PATIENCE;
        while self.admin("/config").contains("\"connected\": true") {
            assert!(std::time::Instant::now() < deadline, "{}", self.admin("/config"));
            std::thread::yield_now();
        }
    }

    fn admin(&self, path: &str) -> String {
        self.ask(15000, path).1
    }

    /// The proxy's metrics.
    pub(crate) fn metrics(&self) -> String {
        self.page("/metrics").1
    }

    /// A page of the proxy's status port: status and text.
    pub(crate) fn page(&self, path: &str) -> (u16, String) {
        self.ask(15020, path)
    }

    fn ask(&self, port: u16, path: &str) -> (u16, String) {
        use std::io::{Read, Write};
        let mut stream = crate::app::connect(&self.namespace, crate::app::address("127.0.0.1", port))
            .expect("the proxy's own ports listen");
        let asked = write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        );
        asked.expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answers");
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
        (status.expect("a status"), body.unwrap_or_default())
    }
}

/// The command that puts capture in force, without flags.
pub(crate) fn init() -> Vec<String> {
    vec![
        weft_binary().display().to_string(),
        "proxy".to_owned(),
        "init".to_owned(),
    ]
}

/// The addresses of the Service with this number.
pub(crate) fn cluster_ips(number: u8, port: u16) -> [SocketAddr; 2] {
    let ips: [IpAddr; 2] = [
        format!("10.96.0.{number}").parse().expect("an address"),
        format!("fd96::{number}").parse().expect("an address"),
    ];
    ips.map(|ip| SocketAddr::new(ip, port))
}

fn open_to_all(path: &Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("our own folder");
}
