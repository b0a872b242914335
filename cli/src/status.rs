//! `weft status`: every proxy and whether it has what it should; `weft status routes`: every route and policy and
//! whether it is in force.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use kube::Client;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Flags, SYSTEM};
use crate::objects::{self, Verdict};
use crate::output::{Format, columns};

/// Show every proxy: its identity, version, and whether it has what it should.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Status {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    flags: Flags,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show every route and policy, parent by parent: whether it is in force and how many proxies have it.
    Routes(Routes),
}

#[derive(Debug, Args)]
struct Routes {
    #[command(flatten)]
    flags: Flags,
    /// How the result is printed.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A stream of a proxy, as `/clients` tells it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Stream {
    /// `<namespace>/<pod>`.
    pub(crate) node: String,
    identity: String,
    dialect: String,
    #[serde(default)]
    version: String,
    /// SYNCED, STALE or NACK.
    pub(crate) state: String,
    #[serde(default)]
    waiting: usize,
    #[serde(default)]
    behind: Vec<String>,
    #[serde(default)]
    refused: Vec<Refused>,
}

#[derive(Clone, Debug, Deserialize)]
struct Refused {
    resource: String,
    reason: String,
}

impl Stream {
    /// Whether it belongs to a namespace; `None`: to any.
    pub(crate) fn is_of(&self, namespace: Option<&str>) -> bool {
        namespace.is_none_or(|namespace| self.node.split('/').next() == Some(namespace))
    }

    /// What is wrong, in words; empty where nothing is.
    pub(crate) fn detail(&self) -> String {
        let refused = self.refused.iter();
        let mut said: Vec<String> = refused
            .map(|refused| format!("refuses {}: {}", refused.resource, refused.reason))
            .collect();
        if self.waiting > 0 {
            said.push(format!(
                "{} not acknowledged: {}",
                self.waiting,
                self.behind.join(", ")
            ));
        }
        said.join("; ")
    }
}

/// The answer to `/clients`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Clients {
    /// All streams of one replica.
    pub(crate) clients: Vec<Stream>,
}

/// One proxy.
#[derive(Debug, Serialize)]
struct Proxy {
    node: String,
    identity: String,
    client: String,
    version: String,
    state: String,
    control_plane: String,
    detail: String,
}

/// Runs `weft status`.
pub(crate) fn run(told: Status) -> anyhow::Result<()> {
    match told.what {
        Some(What::Routes(told)) => cluster::block_on(routes(told)),
        None => cluster::block_on(proxies(told)),
    }
}

async fn proxies(told: Status) -> anyhow::Result<()> {
    let client = cluster::connect(&told.flags).await?;
    let replicas = replicas(&client).await?;
    let rows = rows(&replicas, told.flags.namespace.as_deref());
    told.output.print(&rows, |rows| table(rows))
}

/// What each replica of the control plane says of its clients. All have to answer: a list with holes would mislead.
async fn replicas(client: &Client) -> anyhow::Result<BTreeMap<String, Clients>> {
    let planes = cluster::control_planes(client)
        .await
        .map_err(anyhow::Error::msg)?;
    anyhow::ensure!(
        !planes.is_empty(),
        "there is no control plane in namespace {SYSTEM}; `weft check` says more"
    );
    let mut replicas = BTreeMap::new();
    for name in planes.into_iter().filter_map(|pod| pod.metadata.name) {
        let clients = cluster::admin(client, SYSTEM, &name, "/clients").await;
        let clients =
            clients.map_err(|why| anyhow::anyhow!("{name} doesn't say who its clients are: {why}"))?;
        replicas.insert(name, clients);
    }
    Ok(replicas)
}

fn rows(replicas: &BTreeMap<String, Clients>, namespace: Option<&str>) -> Vec<Proxy> {
    let streams = replicas
        .iter()
        .flat_map(|(replica, answer)| answer.clients.iter().map(move |stream| (replica, stream)));
    let mut rows: Vec<Proxy> = streams
        .filter(|(_, stream)| stream.is_of(namespace))
        .map(|(replica, stream)| Proxy {
            node: stream.node.clone(),
            identity: stream.identity.clone(),
            client: stream.dialect.clone(),
            version: stream.version.clone(),
            state: stream.state.clone(),
            control_plane: replica.clone(),
            detail: stream.detail(),
        })
        .collect();
    rows.sort_by(|a, b| (&a.node, &a.control_plane).cmp(&(&b.node, &b.control_plane)));
    rows
}

fn table(rows: &[Proxy]) -> String {
    if rows.is_empty() {
        return "no proxy is connected\n".to_owned();
    }
    let head = [
        "PROXY",
        "IDENTITY",
        "CLIENT",
        "VERSION",
        "STATE",
        "CONTROL PLANE",
        "DETAIL",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let version = if row.version.is_empty() { "-" } else { &row.version };
        [
            row.node.clone(),
            row.identity.clone(),
            row.client.clone(),
            version.to_owned(),
            row.state.clone(),
            row.control_plane.clone(),
            row.detail.clone(),
        ]
    }));
    columns(&lines, usize::MAX)
}

async fn routes(told: Routes) -> anyhow::Result<()> {
    let client = cluster::connect(&told.flags).await?;
    let found = objects::read(&client, told.flags.namespace.as_deref()).await;
    let verdicts: Vec<Verdict> = found
        .map_err(anyhow::Error::msg)?
        .iter()
        .flat_map(objects::verdicts)
        .collect();
    told.output.print(&verdicts, |verdicts| routes_table(verdicts))
}

fn routes_table(verdicts: &[Verdict]) -> String {
    if verdicts.is_empty() {
        return "there are no routes or policies of the mesh\n".to_owned();
    }
    let head = [
        "OBJECT",
        "ON",
        "ACCEPTED",
        "RESOLVED",
        "PROGRAMMED",
        "PROXIES",
        "DETAIL",
    ];
    let mut lines = vec![head.map(str::to_owned)];
    lines.extend(verdicts.iter().map(|verdict| {
        let status = |kind: &str| verdict.status(kind).to_owned();
        [
            verdict.object.clone(),
            verdict.ancestor.clone(),
            status("Accepted"),
            status("ResolvedRefs"),
            status("Programmed"),
            verdict.message("Programmed").to_owned(),
            verdict.wrong().join("; "),
        ]
    }));
    columns(&lines, usize::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn replica(clients: &serde_json::Value) -> Clients {
        serde_json::from_value(json!({ "clients": clients })).unwrap()
    }

    #[test]
    fn every_proxy_is_a_line_with_its_reason() {
        let one = replica(&json!([
            { "node": "shop/user-1", "identity": "spiffe://m/ns/shop/sa/user", "dialect": "weft", "version": "0.1.0",
              "state": "NACK", "refused": [{ "resource": "Route user.shop:80", "reason": "no such filter" }] },
            { "node": "other/x", "identity": "spiffe://m/ns/other/sa/x", "dialect": "envoy", "state": "SYNCED" },
        ]));
        let two = replica(&json!([
            { "node": "shop/cart-1", "identity": "spiffe://m/ns/shop/sa/cart", "dialect": "weft", "version": "0.1.0",
              "state": "STALE", "waiting": 2, "behind": ["Cluster a:80", "Route a:80"] },
        ]));
        let replicas = BTreeMap::from([("cp-1".to_owned(), one), ("cp-2".to_owned(), two)]);
        let text = table(&rows(&replicas, Some("shop")));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[1].contains("shop/cart-1")
                && lines[1].ends_with("2 not acknowledged: Cluster a:80, Route a:80"),
            "{text}"
        );
        assert!(
            lines[2].ends_with("refuses Route user.shop:80: no such filter"),
            "{text}"
        );
        assert_eq!(rows(&replicas, None).len(), 3);
    }

    #[test]
    fn nothing_is_said_in_words() {
        assert_eq!(table(&[]), "no proxy is connected\n");
        assert_eq!(routes_table(&[]), "there are no routes or policies of the mesh\n");
    }
}
