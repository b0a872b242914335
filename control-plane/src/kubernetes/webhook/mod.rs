//! The injector: the API server asks it about every pod that is to be in the mesh, before the pod exists.
//!
//! [`server`] takes the calls, over HTTPS with the control plane's own certificate; [`admission`] reads a call and
//! writes the answer; what is decided is decided in the core's `inject`, which `weft inject` calls too. [`values`] keeps
//! the operator's values as their file changes. [`ca_bundle`] tells the API server which root to trust, and writes
//! nothing else into its webhook configuration. [`notice`] tells people what they would not notice otherwise.

pub mod admission;
pub mod ca_bundle;
pub mod notice;
pub mod server;
pub mod values;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use kube::Api;
use kube::api::PartialObjectMeta;
use tokio::task::JoinSet;
pub use weft_control_plane_core::inject;

use crate::app::{Shared, StartError, adopt};
use admission::Request;
use inject::Namespace;
use notice::Notices;
use server::Server;
use values::InjectorFile;

use super::Cluster;
use super::leader::Leadership;

/// How long the API server may take to say which labels a namespace has. Without them a pod is injected that Pod
/// Security then refuses in its own words, so nothing is lost by not knowing.
const NAMESPACE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

/// Answers one call. Cheap to clone.
#[derive(Clone)]
pub struct Webhook {
    values: Arc<InjectorFile>,
    namespaces: Api<NamespaceObject>,
    notices: Notices,
}

impl Webhook {
    /// One that goes by the values in a file, and asks and tells the API server behind `client`.
    pub fn new(values: InjectorFile, client: kube::Client, notices: Notices) -> Self {
        Self {
            values: Arc::new(values),
            namespaces: Api::all(client),
            notices,
        }
    }

    /// The answer to an `AdmissionReview`, as JSON; the error is that of a call that is none.
    pub async fn answer(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        let request = Request::read(body)?;
        let namespace = self.namespace(&request.namespace).await;
        let decided = admission::decide(&self.values.current(), &request, &namespace);
        if let Some(surprise) = decided.surprise.filter(|_| !request.dry_run) {
            self.notices.tell(surprise);
        }
        Ok(decided.answer.to_string().into_bytes())
    }

    async fn namespace(&self, name: &str) -> Namespace {
        let got = tokio::time::timeout(NAMESPACE_TIMEOUT, self.namespaces.get_metadata(name)).await;
        let found: Option<PartialObjectMeta<NamespaceObject>> = match got {
            Ok(Ok(found)) => Some(found),
            Ok(Err(error)) => {
                tracing::warn!(namespace = name, %error, "a namespace's labels can't be read");
                None
            }
            Err(_) => {
                tracing::warn!(namespace = name, "a namespace's labels take too long to read");
                None
            }
        };
        Namespace {
            name: name.to_owned(),
            labels: found.and_then(|found| found.metadata.labels).unwrap_or_default(),
        }
    }
}

/// Starts the injector, if there are values to inject with.
pub(crate) fn start(
    cluster: &Cluster,
    shared: &Shared,
    listener: Option<TcpListener>,
    leadership: Leadership,
    tasks: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let (Some(file), Some(listener)) = (cluster.injection.as_deref(), listener) else {
        tracing::info!("without --injection no pod gets a sidecar");
        return Ok(());
    };
    let values = InjectorFile::open(Path::new(file))?;
    let listener = adopt(listener)?;
    let (notices, telling) = notice::notices(cluster.client.clone(), &cluster.pod);
    tasks.spawn(telling);
    tasks.spawn(ca_bundle::keep(
        cluster.client.clone(),
        Arc::clone(&shared.issuing),
        leadership,
    ));
    let webhook = Webhook::new(values, cluster.client.clone(), notices);
    let server = Server::new(webhook, Arc::clone(&shared.tls));
    tasks.spawn(server.run(listener));
    Ok(())
}
