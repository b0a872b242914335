//! What a cluster's operator decides for all sidecars, once; the chart writes it, and pods' annotations refine it.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};
use weft_api::duration::Duration;

/// The user and group that sidecars run as, where nothing else is said.
pub const PROXY_UID: u32 = 2102;

/// When the kubelet pulls the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    /// Before every start.
    Always,
    /// When the node doesn't have it.
    #[default]
    IfNotPresent,
    /// Not at all: the node has it.
    Never,
}

/// What happens to traffic that leaves the mesh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Egress {
    /// It goes to its original destination, unchanged.
    #[default]
    Allow,
    /// It is refused.
    Deny,
}

impl Egress {
    /// As the sidecar's flag has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// An amount of memory.
const MEMORY: &str = r"^[0-9]{1,15}(\.[0-9]{1,3})?(m|k|M|G|Ki|Mi|Gi)?$";

/// A network, or a single address, of either family. What else can't be is found when it is read. Nothing is an entry,
/// too: `--set list={}` has one.
const NETWORK: &str = r"^(([0-9]{1,3}(\.[0-9]{1,3}){3}|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*)(/[0-9]{1,3})?)?$";

/// Text, or a number that stands for it: who writes YAML leaves the quotes of `3306` away.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Whole(u64),
    Fraction(f64),
    Text(String),
}

impl From<Written> for String {
    fn from(written: Written) -> Self {
        match written {
            Written::Whole(number) => number.to_string(),
            Written::Fraction(number) => number.to_string(),
            Written::Text(text) => text,
        }
    }
}

fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(Option::<Written>::deserialize(from)?.map(String::from))
}

fn texts<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let written = Vec::<Written>::deserialize(from)?;
    Ok(written.into_iter().map(String::from).collect())
}

fn processor_time(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": ["string", "number", "null"],
        "minimum": 0.001,
        "maximum": 64,
        "minLength": 1,
        "maxLength": 32,
        "pattern": r"^[0-9]{1,15}(\.[0-9]{1,3})?m?$",
    })
}

fn ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 64,
        "items": {
            "type": ["string", "integer"],
            "minimum": 1,
            "maximum": 65_535,
            "maxLength": 11,
            "pattern": "^([0-9]{1,5}(-[0-9]{1,5})?)?$",
        },
    })
}

/// Amounts of what a container may use, as Kubernetes writes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Amounts {
    /// Processor time, such as `100m` or `2`.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "text")]
    #[schemars(schema_with = "processor_time")]
    pub cpu: Option<String>,
    /// Memory, such as `64Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), regex(pattern = MEMORY))]
    pub memory: Option<String>,
}

/// What a container is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Resources {
    /// Kept for it.
    pub requests: Amounts,
    /// The most that it gets.
    pub limits: Amounts,
}

impl Default for Resources {
    fn default() -> Self {
        let amounts = |cpu: Option<&str>, memory: &str| Amounts {
            cpu: cpu.map(str::to_owned),
            memory: Some(memory.to_owned()),
        };
        Self {
            requests: amounts(Some("10m"), "32Mi"),
            limits: amounts(None, "256Mi"),
        }
    }
}

/// Settings of every sidecar that is injected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Values {
    /// The image, with its tag or digest.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    /// When it is pulled.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// The control plane, as `host:port`.
    #[serde(default = "Values::default_control_plane")]
    #[schemars(length(min = 1, max = 259))]
    pub control_plane: String,
    /// The control plane's own namespace, in which nothing is injected.
    #[serde(default = "Values::default_namespace")]
    #[schemars(length(min = 1, max = 63))]
    pub control_plane_namespace: String,
    /// The trust domain of all identities.
    #[serde(default = "Values::default_domain")]
    #[schemars(length(min = 1, max = 253))]
    pub trust_domain: String,
    /// The domain of Services' names.
    #[serde(default = "Values::default_domain")]
    #[schemars(length(min = 1, max = 253))]
    pub cluster_domain: String,
    /// Where addresses of the mesh are; what lies outside passes at once while the control plane can't be reached.
    #[serde(default = "Values::default_mesh_cidrs")]
    #[schemars(length(max = 64), inner(length(max = 49), regex(pattern = NETWORK)))]
    pub mesh_cidrs: Vec<String>,
    /// What sidecars log: a level, or `target=level,…`.
    #[serde(default = "Values::default_log_level")]
    #[schemars(length(min = 1, max = 256))]
    pub log_level: String,
    /// How long a sidecar that is told to end waits for what runs.
    #[serde(default = "Values::default_drain_time")]
    pub drain_time: Duration,
    /// What happens to traffic that leaves the mesh.
    #[serde(default)]
    pub egress: Egress,
    /// The user and group that sidecars run as. Its traffic isn't captured, so nothing else may run as it.
    #[serde(default = "Values::default_uid")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub uid: u32,
    /// What a sidecar is given; a pod's annotations `weft.dev/proxy-cpu` and `weft.dev/proxy-memory` go before it.
    #[serde(default)]
    pub resources: Resources,
    /// Ports, and ranges such as `9000-9010`, on which no pod's inbound traffic is captured.
    #[serde(default, deserialize_with = "texts")]
    #[schemars(schema_with = "ports")]
    pub skip_inbound_ports: Vec<String>,
    /// Ports and ranges to which no pod's outbound traffic is captured.
    #[serde(default, deserialize_with = "texts")]
    #[schemars(schema_with = "ports")]
    pub skip_outbound_ports: Vec<String>,
    /// Networks to which no pod's outbound traffic is captured.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 49), regex(pattern = NETWORK)))]
    pub skip_outbound_cidrs: Vec<String>,
}

impl Values {
    /// What holds where nothing else is said, for sidecars of this image.
    pub fn of_image(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            image_pull_policy: PullPolicy::default(),
            control_plane: Self::default_control_plane(),
            control_plane_namespace: Self::default_namespace(),
            trust_domain: Self::default_domain(),
            cluster_domain: Self::default_domain(),
            mesh_cidrs: Self::default_mesh_cidrs(),
            log_level: Self::default_log_level(),
            drain_time: Self::default_drain_time(),
            egress: Egress::default(),
            uid: PROXY_UID,
            resources: Resources::default(),
            skip_inbound_ports: Vec::new(),
            skip_outbound_ports: Vec::new(),
            skip_outbound_cidrs: Vec::new(),
        }
    }

    fn default_control_plane() -> String {
        "weft-control-plane.weft-system.svc:15010".to_owned()
    }

    fn default_namespace() -> String {
        "weft-system".to_owned()
    }

    fn default_domain() -> String {
        "cluster.local".to_owned()
    }

    /// The private ranges of both families.
    fn default_mesh_cidrs() -> Vec<String> {
        [
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "100.64.0.0/10",
            "fc00::/7",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn default_log_level() -> String {
        "info".to_owned()
    }

    fn default_drain_time() -> Duration {
        Duration::from_secs(30)
    }

    fn default_uid() -> u32 {
        PROXY_UID
    }
}
