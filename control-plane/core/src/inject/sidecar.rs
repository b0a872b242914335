//! The two containers and their volumes, as Kubernetes objects.

use serde_json::{Value, json};

use super::text::{joined, networks};
use super::tuning::Tuning;
use super::values::{Amounts, Resources, Values};
use super::{INIT_CONTAINER, PROXY_CONTAINER, object};

/// The program in the image.
const PROGRAM: &str = "/weft-proxy";

/// Where captured outbound connections arrive.
const OUTBOUND_PORT: u16 = 15001;
/// Where applications may go on purpose; loopback.
const EXPLICIT_PORT: u16 = 15002;
/// Where captured inbound connections arrive.
const INBOUND_PORT: u16 = 15006;
/// Commands; loopback.
const ADMIN_PORT: u16 = 15000;
/// Readiness, metrics and the probes of applications.
pub(crate) const STATUS_PORT: u16 = 15020;

/// All ports on which the sidecar listens.
pub(super) const PORTS: [u16; 5] = [
    ADMIN_PORT,
    OUTBOUND_PORT,
    EXPLICIT_PORT,
    INBOUND_PORT,
    STATUS_PORT,
];

/// The token by which the sidecar is known to the control plane.
const TOKEN_VOLUME: &str = "weft-token";
/// The roots that it trusts to begin with.
const TRUST_VOLUME: &str = "weft-trust";
/// Key, leaf, bundle and last known configuration: in memory, gone with the pod.
const STATE_VOLUME: &str = "weft-state";
/// All volumes that injection adds.
pub(super) const VOLUMES: [&str; 3] = [TOKEN_VOLUME, TRUST_VOLUME, STATE_VOLUME];

/// The `ConfigMap` of the roots, in every meshed namespace, and its key.
const TRUST_BUNDLE: (&str, &str) = ("weft-trust-bundle", "ca.crt");
/// Whom the token is for.
const TOKEN_AUDIENCE: &str = "weft";
/// How long a token is valid, in seconds; the kubelet renews it in time.
const TOKEN_SECS: u64 = 3600;
/// Bytes of the state, as a quantity.
const STATE_SIZE: &str = "32Mi";

/// Seconds between two looks at a sidecar that starts, and how many may fail: ten minutes for a control plane that isn't
/// there yet. After that the sidecar is started anew, with what it has kept.
const STARTUP_PROBE: (u64, u64) = (1, 600);
/// Seconds between two looks at one that runs. There is no liveness probe: a restart would cut connections, and a
/// sidecar without readiness gets no new ones.
const READINESS_PERIOD_SECS: u64 = 5;

/// Where Kubernetes mounts a pod's API token into containers that have nothing there.
const API_TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The init container that installs the capture rules: root, for the kernel wants it, with one capability.
pub(super) fn init(values: &Values, tuning: &Tuning) -> Value {
    let flag = |name: &str, value: String| (!value.is_empty()).then(|| format!("--{name}={value}"));
    let always = [
        ("proxy-uid", values.uid.to_string()),
        ("outbound-port", OUTBOUND_PORT.to_string()),
        ("inbound-port", INBOUND_PORT.to_string()),
        ("skip-inbound-ports", joined(&tuning.skip_inbound_ports)),
        ("skip-outbound-ports", joined(&tuning.skip_outbound_ports)),
        ("skip-outbound-cidrs", joined(&tuning.skip_outbound_cidrs)),
    ];
    let flags = always.into_iter().filter_map(|(name, value)| flag(name, value));
    let args: Vec<String> = ["init".to_owned()].into_iter().chain(flags).collect();
    json!({
        "name": INIT_CONTAINER,
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy,
        "command": [PROGRAM],
        "args": args,
        "resources": {
            "requests": { "cpu": "10m", "memory": "16Mi" },
            "limits": { "memory": "64Mi" },
        },
        "securityContext": security(0, &["NET_ADMIN"]),
        "volumeMounts": [mount(TRUST_VOLUME, API_TOKEN_PATH, true)],
    })
}

/// The sidecar: a native one, started before and ended after everything that follows.
pub(super) fn proxy(values: &Values, tuning: &Tuning, probes: &str) -> Value {
    let (period, failures) = STARTUP_PROBE;
    let ready = json!({ "path": "/ready", "port": STATUS_PORT });
    json!({
        "name": PROXY_CONTAINER,
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy,
        "command": [PROGRAM],
        "args": ["run"],
        "restartPolicy": "Always",
        "env": environment(values, tuning, probes),
        "ports": [{ "name": "weft-status", "containerPort": STATUS_PORT, "protocol": "TCP" }],
        "startupProbe": { "httpGet": ready, "periodSeconds": period, "failureThreshold": failures },
        "readinessProbe": { "httpGet": ready, "periodSeconds": READINESS_PERIOD_SECS },
        "resources": resources(&tuning.resources),
        "securityContext": security(values.uid, &[]),
        "volumeMounts": [
            mount(TOKEN_VOLUME, "/var/run/weft/token", true),
            mount(TRUST_VOLUME, "/var/run/weft/trust", true),
            mount(STATE_VOLUME, "/var/run/weft/state", false),
            mount(TRUST_VOLUME, API_TOKEN_PATH, true),
        ],
    })
}

/// The volumes of both.
pub(super) fn volumes() -> Vec<Value> {
    let (trust_bundle, key) = TRUST_BUNDLE;
    let token = json!({
        "audience": TOKEN_AUDIENCE,
        "expirationSeconds": TOKEN_SECS,
        "path": "token",
    });
    let roots = json!({ "name": trust_bundle, "items": [{ "key": key, "path": key }] });
    vec![
        json!({ "name": TOKEN_VOLUME, "projected": { "sources": [{ "serviceAccountToken": token }] } }),
        json!({ "name": TRUST_VOLUME, "projected": { "sources": [{ "configMap": roots }] } }),
        json!({ "name": STATE_VOLUME, "emptyDir": { "medium": "Memory", "sizeLimit": STATE_SIZE } }),
    ]
}

fn environment(values: &Values, tuning: &Tuning, probes: &str) -> Vec<Value> {
    let from_pod = |name: &str, path: &str| {
        json!({
            "name": name,
            "valueFrom": { "fieldRef": { "apiVersion": "v1", "fieldPath": path } },
        })
    };
    let mesh = networks(&values.mesh_cidrs.join(",")).unwrap_or_default();
    let plain = [
        ("WEFT_CONTROL_PLANE", values.control_plane.clone()),
        ("WEFT_TRUST_DOMAIN", values.trust_domain.clone()),
        ("WEFT_CLUSTER_DOMAIN", values.cluster_domain.clone()),
        ("WEFT_TRUST_BUNDLE", "/var/run/weft/trust/ca.crt".to_owned()),
        ("WEFT_TOKEN_FILE", "/var/run/weft/token/token".to_owned()),
        ("WEFT_STATE_DIR", "/var/run/weft/state".to_owned()),
        ("WEFT_CAPTURED_OUTBOUND", format!("[::]:{OUTBOUND_PORT}")),
        ("WEFT_CAPTURED_INBOUND", format!("[::]:{INBOUND_PORT}")),
        ("WEFT_OUTBOUND", format!("127.0.0.1:{EXPLICIT_PORT}")),
        ("WEFT_STATUS", format!("[::]:{STATUS_PORT}")),
        ("WEFT_ADMIN", format!("127.0.0.1:{ADMIN_PORT}")),
        ("WEFT_EGRESS", values.egress.as_str().to_owned()),
        ("WEFT_MESH_CIDRS", joined(&mesh)),
        ("WEFT_OPAQUE_PORTS", joined(&tuning.opaque_ports)),
        ("WEFT_PROBES", probes.to_owned()),
        ("WEFT_DRAIN_TIME", tuning.drain_time.to_string()),
        ("WEFT_LOG_LEVEL", tuning.log_level.clone()),
    ];
    let plain = plain.into_iter().filter(|(_, value)| !value.is_empty());
    let mut variables = vec![
        from_pod("WEFT_NAMESPACE", "metadata.namespace"),
        from_pod("WEFT_WORKLOAD", "metadata.name"),
        from_pod("WEFT_POD_IPS", "status.podIPs"),
        // The kubelet's API server copies it from the node (from 1.35 on); where it doesn't, the zone is unknown.
        from_pod("WEFT_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
    ];
    variables.extend(plain.map(|(name, value)| json!({ "name": name, "value": value })));
    variables
}

fn resources(resources: &Resources) -> Value {
    let amounts = |amounts: &Amounts| {
        let Amounts { cpu, memory } = amounts.clone();
        let members = object([("cpu", cpu.map(Value::from)), ("memory", memory.map(Value::from))]);
        (members != json!({})).then_some(members)
    };
    object([
        ("requests", amounts(&resources.requests)),
        ("limits", amounts(&resources.limits)),
    ])
}

/// As restricted as Pod Security knows it, but for the given user and capabilities.
fn security(uid: u32, capabilities: &[&str]) -> Value {
    let mut allowed = json!({ "drop": ["ALL"] });
    if !capabilities.is_empty() {
        allowed["add"] = json!(capabilities);
    }
    json!({
        "runAsUser": uid,
        "runAsGroup": uid,
        "runAsNonRoot": uid != 0,
        "privileged": false,
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": allowed,
        "seccompProfile": { "type": "RuntimeDefault" },
    })
}

/// A mount. The sidecar's containers have the roots, which are no secret, where Kubernetes would mount the pod's API
/// token: neither of them has any use for that.
fn mount(volume: &str, path: &str, read_only: bool) -> Value {
    if read_only {
        json!({ "name": volume, "mountPath": path, "readOnly": true })
    } else {
        json!({ "name": volume, "mountPath": path })
    }
}
