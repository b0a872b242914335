//! Asks the processes how they are: `/metrics` of each sidecar, `/objects` of the control plane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::timeout;
use weft_shop::client::{Call, Client, Outbound};
use weft_shop::context::Context;

use super::metrics::parse;
use super::replica::State;
use super::topology::Replica;
use super::traffic::{Counted, Traffic};

/// How long an answer may take. One that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(2);

/// One client per process that is asked, with its connection.
#[derive(Debug, Default)]
pub(crate) struct Scraper {
    clients: BTreeMap<SocketAddr, Arc<Client>>,
}

impl Scraper {
    /// Asks every sidecar that runs, all at once.
    pub(crate) async fn sidecars(
        &mut self,
        replicas: &[Replica],
        board: &BTreeMap<String, State>,
        traffic: &mut Traffic,
    ) {
        let up: BTreeSet<SocketAddr> = board
            .values()
            .filter_map(|state| Some(state.running()?.status))
            .collect();
        self.clients.retain(|address, _| up.contains(address));
        let mut asked = JoinSet::new();
        for replica in replicas {
            let Some(running) = board.get(&replica.name).and_then(State::running).copied() else {
                continue;
            };
            let client = self.client(running.status);
            let (service, name) = (replica.service(), replica.name.clone());
            asked.spawn(async move {
                let text = get(&client, running.status, "/metrics").await?;
                let counted = Counted::read(parse(&String::from_utf8_lossy(&text)));
                Some((service, name, running.sidecar, counted))
            });
        }
        while let Some(answer) = asked.join_next().await {
            if let Ok(Some((service, name, pid, counted))) = answer {
                traffic.record(service, &name, pid, counted);
            }
        }
    }

    /// What is wrong with the manifests, one line each; `None` when the control plane doesn't say.
    pub(crate) async fn problems(&self, admin: SocketAddr) -> Option<Vec<String>> {
        let client = Client::new(Outbound::Sidecar(admin));
        let body = get(&client, admin, "/objects").await?;
        Some(problems(&serde_json::from_slice(&body).ok()?))
    }

    fn client(&mut self, address: SocketAddr) -> Arc<Client> {
        let client = self
            .clients
            .entry(address)
            .or_insert_with(|| Arc::new(Client::new(Outbound::Sidecar(address))));
        Arc::clone(client)
    }
}

async fn get(client: &Client, address: SocketAddr, path: &str) -> Option<bytes::Bytes> {
    let authority = address.to_string();
    let call = Call {
        method: Method::GET,
        authority: &authority,
        path,
        body: None,
        context: &Context::new("demo"),
    };
    let answer = timeout(PATIENCE, client.call(call)).await.ok()?.ok()?;
    (answer.status == StatusCode::OK).then_some(answer.body)
}

fn problems(objects: &Value) -> Vec<String> {
    let listed = objects["problems"].as_array();
    listed.into_iter().flatten().map(problem).collect()
}

/// `file:line: object: field: reason; remedy`, as far as it is known.
fn problem(finding: &Value) -> String {
    let text = |key: &str| finding[key].as_str().filter(|text| !text.is_empty());
    let file = text("file").map(|file| match &finding["position"]["line"] {
        Value::Number(line) => format!("{file}:{line}"),
        _ => file.to_owned(),
    });
    let parts = [text("object"), text("field"), text("reason")];
    let parts: Vec<&str> = file
        .as_deref()
        .into_iter()
        .chain(parts.into_iter().flatten())
        .collect();
    let remedy = text("remedy").map_or_else(String::new, |remedy| format!("; {remedy}"));
    parts.join(": ") + &remedy
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_api::validate::check_str;

    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        let text = weft_shop::manifests::ALL[2]
            .1
            .replace("weight: 90", "weight: ninety");
        let findings = check_str("routes.yaml", &text).findings;
        let objects = json!({ "objects": [], "problems": findings });
        let lines = problems(&objects);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].starts_with("routes.yaml:") && lines[0].contains("weight"),
            "{lines:?}"
        );
        assert!(problems(&json!({ "problems": [] })).is_empty());
    }
}
