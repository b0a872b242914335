//! A cluster, as a person reaches it: kubectl's flags, the API server, and the admin listeners inside pods.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

/// The namespace of the control plane.
pub(crate) const SYSTEM: &str = "weft-system";

/// The name of its Deployment, Service, account, lease and, in pods, of its label.
pub(crate) const CONTROL_PLANE: &str = "weft-control-plane";

/// The port of a process's admin listener, on loopback within its pod.
pub(crate) const ADMIN_PORT: u16 = 15_000;

/// For one question, of the API server or through it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// Objects that are listed at once; the rest follows in further pages.
const PAGE_MAX: u32 = 500;

/// Bytes of an answer of an admin listener.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Which cluster: kubectl's flags.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Access {
    /// The context of the kubeconfig [default: its current one].
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The kubeconfig; left out: `KUBECONFIG`, `~/.kube/config`, or the pod that this runs in.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Which part of a cluster.
#[derive(Clone, Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    access: Access,
    /// Only this namespace.
    #[arg(short, long, value_name = "NAME", conflicts_with = "all_namespaces")]
    pub(crate) namespace: Option<String>,
    /// All namespaces, which is the default.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

/// A client of the API server. Nothing has been asked yet.
pub(crate) async fn connect(flags: &Flags) -> anyhow::Result<Client> {
    reach(&flags.access).await
}

/// The same, where no part of the cluster is meant.
pub(crate) async fn reach(access: &Access) -> anyhow::Result<Client> {
    let options = KubeConfigOptions {
        context: access.context.clone(),
        ..KubeConfigOptions::default()
    };
    let written = match &access.kubeconfig {
        Some(file) => {
            let written = Kubeconfig::read_from(file)
                .with_context(|| format!("{} is no kubeconfig", file.display()))?;
            Config::from_custom_kubeconfig(written, &options).await
        }
        None => Config::from_kubeconfig(&options).await,
    };
    let mut config = match written {
        Ok(config) => config,
        Err(error) if access.context.is_some() || access.kubeconfig.is_some() => {
            return Err(error).context("the kubeconfig can't be used");
        }
        // Its complaint says less than the kubeconfig's: hardly anybody means a pod.
        Err(error) => Config::incluster()
            .map_err(|_| error)
            .context("no cluster is configured: set KUBECONFIG, or name a file by --kubeconfig")?,
    };
    config.connect_timeout = Some(ANSWER_TIMEOUT);
    Ok(Client::try_from(config)?)
}

/// Runs a command against a cluster on a runtime of its own.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(work)
}

/// An answer, within [`ANSWER_TIMEOUT`], or why there is none.
pub(crate) async fn answer<T>(question: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(ANSWER_TIMEOUT, question).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(status.message.clone()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_words = cause.to_string();
        if !words.contains(&cause_words) {
            words = format!("{words}: {cause_words}");
        }
        source = cause.source();
    }
    words
}

/// Everything that matches, page by page.
pub(crate) async fn list<K>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, String>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut params = params.clone().limit(PAGE_MAX);
    let mut found = Vec::new();
    loop {
        let page = answer(api.list(&params)).await?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(found),
        }
    }
}

/// The pods of the control plane.
pub(crate) async fn control_planes(client: &Client) -> Result<Vec<Pod>, String> {
    let pods = Api::namespaced(client.clone(), SYSTEM);
    let label = format!("app.kubernetes.io/name={CONTROL_PLANE}");
    list(&pods, &ListParams::default().labels(&label)).await
}

/// What the admin listener of a pod answers to `GET path`, as JSON.
pub(crate) async fn admin<T: DeserializeOwned>(
    client: &Client,
    namespace: &str,
    pod: &str,
    path: &str,
) -> Result<T, String> {
    let asked = timeout(ANSWER_TIMEOUT, get(client, namespace, pod, path)).await;
    let body = asked
        .map_err(|_| format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))?
        .map_err(|error| format!("{error:#}"))?;
    serde_json::from_slice(&body).map_err(|error| format!("the answer is no JSON: {error}"))
}

async fn get(client: &Client, namespace: &str, pod: &str, path: &str) -> anyhow::Result<Vec<u8>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut forwarded = pods.portforward(pod, &[ADMIN_PORT]).await?;
    let stream = forwarded
        .take_stream(ADMIN_PORT)
        .context("the port isn't forwarded")?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path)
        .header(http::header::HOST, "localhost")
        .header(http::header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
        .collect()
        .await;
    connection.abort();
    let body = body.map_err(|error| anyhow::anyhow!(error))?.to_bytes();
    anyhow::ensure!(status.is_success(), "{path} answers {status}");
    Ok(body.to_vec())
}
