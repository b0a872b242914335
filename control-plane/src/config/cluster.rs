//! Settings of a control plane in a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::{ACCOUNT, Problems, is_dns_name};

/// Flags and environment that only a cluster needs, unchecked.
#[derive(Clone, Debug, clap::Args)]
pub struct ClusterArgs {
    /// Read the mesh's objects from the API server of the cluster that this runs in, or of `KUBECONFIG`.
    #[arg(long, env = "WEFT_KUBERNETES")]
    pub kubernetes: bool,
    /// Namespace that the control plane runs in.
    #[arg(long, env = "WEFT_NAMESPACE", default_value = ACCOUNT.0, value_name = "NAME")]
    pub namespace: String,
    /// Name of the control plane's own pod.
    #[arg(long, env = "WEFT_POD", default_value = ACCOUNT.1, value_name = "NAME")]
    pub pod: String,
    /// Service under which proxies and the API server reach the control plane.
    #[arg(long, env = "WEFT_SERVICE", default_value = ACCOUNT.1, value_name = "NAME")]
    pub service: String,
    /// `ClusterRole` that owns the objects made at run time, so that they go with it.
    #[arg(long, env = "WEFT_OWNER", default_value = ACCOUNT.1, value_name = "NAME")]
    pub owner: String,
    /// Never make a root: somebody else writes the Secret `weft-ca`, in cert-manager's form.
    #[arg(long, env = "WEFT_SUPPLIED_ROOT")]
    pub supplied_root: bool,
    /// Answer the cluster's requests for pods' certificates (`PodCertificateRequest`) of signer `weft.dev/mesh`: there
    /// the kubelet makes the key. It takes a leaf lifetime of at least an hour.
    #[arg(long, env = "WEFT_POD_CERTIFICATES")]
    pub pod_certificates: bool,
    /// Where the API server calls the injector (HTTPS).
    #[arg(
        long,
        env = "WEFT_WEBHOOK",
        default_value = "0.0.0.0:15017",
        value_name = "ADDRESS"
    )]
    pub webhook: String,
    /// YAML file of the values that pods are injected with; without it nothing is injected.
    #[arg(long, env = "WEFT_INJECTION", value_name = "FILE")]
    pub injection: Option<PathBuf>,
}

/// What these flags mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InCluster {
    /// The control plane's namespace.
    pub namespace: Arc<str>,
    /// Its pod.
    pub pod: Arc<str>,
    /// Its Service.
    pub service: Arc<str>,
    /// The `ClusterRole` that owns what is made at run time.
    pub owner: Arc<str>,
    /// Whether the root's Secret is made by somebody else.
    pub supplied_root: bool,
    /// Whether requests for pods' certificates are answered.
    pub pod_certificates: bool,
    /// The injector.
    pub webhook: SocketAddr,
    /// Values of the injector; `None`: there is none.
    pub injection: Option<PathBuf>,
}

impl InCluster {
    /// The names that the Service has for clients of the cluster.
    pub(super) fn service_names(&self, cluster_domain: &str) -> impl Iterator<Item = String> + use<> {
        let short = format!("{}.{}", self.service, self.namespace);
        [
            short.clone(),
            format!("{short}.svc"),
            format!("{short}.svc.{cluster_domain}"),
        ]
        .into_iter()
    }
}

/// Every part is parsed before the first `?`, so that all mistakes are found.
pub(super) fn parse(args: &ClusterArgs, problems: &mut Problems) -> Option<InCluster> {
    let mut name = |flag: &str, text: &str| {
        let checked = is_dns_name(text).then(|| text.into());
        problems.check(flag, text, checked.ok_or("it is no name of a Kubernetes object"))
    };
    let namespace = name("--namespace", &args.namespace);
    let pod = name("--pod", &args.pod);
    let service = name("--service", &args.service);
    // Names of roles may hold more; the chart's does not.
    let owner = name("--owner", &args.owner);
    let webhook = problems.parse("--webhook", &args.webhook);
    Some(InCluster {
        namespace: namespace?,
        pod: pod?,
        service: service?,
        owner: owner?,
        supplied_root: args.supplied_root,
        pod_certificates: args.pod_certificates,
        webhook: webhook?,
        injection: args.injection.clone(),
    })
}
