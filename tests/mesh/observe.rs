//! What operators look at: metrics that alerts and dashboard ask for, and the access log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde_json::Value;
use weft_tests::app::Echo;
use weft_tests::client::{Ask, http1, http2};
use weft_tests::mesh::{Mesh, Sidecar, Spec, metrics};
use weft_tests::process::PATIENCE;

use crate::manifests::SERVICES;

/// A breaker, without which nobody tells its state.
const BREAKER: &str = "
apiVersion: weft.dev/v1alpha1
kind: TrafficPolicy
metadata: {name: user, namespace: shop}
spec:
  targetRefs: [{group: '', kind: Service, name: user}]
  breaker: {service: {consecutiveFailures: 20}}
";

/// Metrics that come with what these processes don't have or don't do here: egress, TCP, a retry, an ejection, and answers
/// of the sidecar's own.
const ELSEWHERE: [&str; 6] = [
    "weft_egress_connections_total",
    "weft_egress_requests_total",
    "weft_endpoint_ejections_total",
    "weft_outbound_retries_total",
    "weft_outbound_tcp_connections_total",
    "weft_responses_by_proxy_total",
];

/// Between two looks at what comes by itself.
const GLANCE: Duration = Duration::from_millis(20);

/// A client's sidecar and a server's.
struct Pair {
    mesh: Mesh,
    app: Echo,
    client: Sidecar,
    server: Sidecar,
}

impl Pair {
    async fn start(flags: &[(&str, &str)]) -> Self {
        let manifests = [("services.yaml", SERVICES), ("policies.yaml", BREAKER)];
        let mesh = Mesh::start(&manifests, &[]).await;
        let app = Echo::start("user-0").await;
        let with = |spec: Spec| {
            flags
                .iter()
                .fold(spec, |spec, (name, value)| spec.flag(name, value))
        };
        let server = with(Spec::new("shop", "user", "user-0").serves("user:80", app.address));
        let server = mesh.sidecar(&server).await;
        let client = mesh.sidecar(&with(Spec::new("shop", "order", "order-0"))).await;
        Self {
            mesh,
            app,
            client,
            server,
        }
    }

    async fn get(&self, path: &str) -> StatusCode {
        let ask = Ask::get(&format!("http://user{path}"));
        http1(self.client.outbound, ask).await.expect("answers").status
    }
}

/// A metric that is asked for, with the values of labels that are.
type Selector = (String, BTreeMap<String, String>);

/// The selectors of our metrics in a query.
fn selectors(text: &str) -> BTreeSet<Selector> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("weft_") {
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let rest = &text[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let labels = rest[end..]
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next());
        let labels = labels.unwrap_or_default().replace('\\', "");
        let exact = labels
            .split(',')
            .filter_map(|label| label.trim().split_once("=\""))
            .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()));
        found.insert((rest[..end].to_owned(), exact.collect()));
    }
    found
}

/// Whether there is a series that a selector picks.
fn picks((name, labels): &Selector, metrics: &str) -> bool {
    metrics.lines().any(|line| {
        let series = line.strip_prefix(name.as_str());
        series.is_some_and(|rest| {
            rest.starts_with(['{', ' '])
                && labels
                    .iter()
                    .all(|(label, value)| rest.contains(&format!("{label}=\"{value}\"")))
        })
    })
}

/// The text of a file of the chart, without what people read.
fn asked(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../charts/weft/files")
        .join(file);
    let text = std::fs::read_to_string(path).expect("the chart has it");
    let is_text = |line: &&str| !line.trim_start().starts_with("weft_") || line.contains('(');
    text.lines().filter(is_text).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn what_alerts_and_dashboard_ask_for_is_counted() {
    let pair = Pair::start(&[]).await;
    let at_first = [pair.mesh.status, pair.server.status];
    let at_first = [metrics(at_first[0]).await, metrics(at_first[1]).await].concat();
    // A counter that appears with its first event has not increased, so these have to be there before.
    let alerts = asked("alerts.yaml");
    let mut increases: BTreeSet<Selector> = BTreeSet::new();
    for part in alerts.split("increase(").skip(1) {
        increases.extend(selectors(part.split(')').next().unwrap_or_default()));
    }
    assert!(increases.len() >= 5, "{increases:?}");
    for selector in &increases {
        assert!(
            picks(selector, &at_first),
            "{selector:?} does not begin at zero:\n{at_first}"
        );
    }

    assert_eq!(pair.get("/").await, StatusCode::OK);
    let everything = selectors(&(alerts + &asked("dashboard.json")));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut all = String::new();
        for status in [pair.mesh.status, pair.server.status, pair.client.status] {
            all += &metrics(status).await;
        }
        let here = |selector: &&Selector| !ELSEWHERE.contains(&selector.0.as_str());
        let missing = everything.iter().filter(here);
        let missing: Vec<_> = missing.filter(|selector| !picks(selector, &all)).collect();
        if missing.is_empty() {
            return;
        }
        // The state of a breaker is told every second.
        assert!(Instant::now() < deadline, "nobody tells {missing:#?}");
        tokio::time::sleep(GLANCE).await;
    }
}

/// Records of the access log that a sidecar has written so far.
fn records(sidecar: &Sidecar) -> Vec<Value> {
    let log = sidecar.process.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line.get("direction").is_some()).collect()
}

async fn until_recorded(sidecar: &Sidecar, count: usize) -> Vec<Value> {
    let waiting = async {
        while records(sidecar).len() < count {
            tokio::time::sleep(GLANCE).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    let records = records(sidecar);
    waited.unwrap_or_else(|_| panic!("{count} records were expected: {records:#?}"));
    records
}

#[tokio::test]
async fn each_exchange_leaves_one_record() {
    let pair = Pair::start(&[("access-log", "on")]).await;
    for path in ["/a?secret=1", "/b"] {
        assert_eq!(pair.get(path).await, StatusCode::OK);
    }
    let traced = Ask::post("http://user/c", "body").header(
        "traceparent",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    );
    let answer = http2(pair.client.outbound, traced).await.expect("answers");
    assert_eq!(answer.status, StatusCode::OK);
    let unknown = http1(pair.client.outbound, Ask::get("http://nobody/d")).await;
    assert!(unknown.expect("answers").proxy_status().is_some());

    let seen = until_recorded(&pair.client, 4).await;
    let said = |record: &Value| {
        let text = |field: &str| record[field].as_str().unwrap_or_default().to_owned();
        (text("method"), text("path"), record["status"].as_u64())
    };
    let mut all: Vec<_> = seen.iter().map(said).collect();
    all.sort();
    let get = |path: &str, status| ("GET".to_owned(), path.to_owned(), Some(status));
    let expected = [
        get("/a", 200),
        get("/b", 200),
        get("/d", 502),
        ("POST".to_owned(), "/c".to_owned(), Some(200)),
    ];
    assert_eq!(all, expected, "one each, and no query");
    let of = |path: &str| {
        seen.iter()
            .find(|record| record["path"] == path)
            .expect("it is there")
    };
    assert_eq!(of("/c")["trace"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(of("/c")["protocol"], "http2");
    assert_eq!(of("/d")["reason"], "destination_unknown");
    assert_eq!(of("/a")["destination"], "user.shop.svc.cluster.local:80");
    assert!(seen.iter().all(|record| record["direction"] == "outbound"));

    let inbound = until_recorded(&pair.server, 3).await;
    let caller = "spiffe://cluster.local/ns/shop/sa/order";
    assert_eq!(inbound.len(), 3, "{inbound:#?}");
    assert!(
        inbound.iter().all(|record| record["identity"] == caller),
        "{inbound:#?}"
    );
    let ids: BTreeSet<_> = inbound.iter().map(|record| record["trace"].to_string()).collect();
    assert_eq!(
        ids.len(),
        3,
        "a trace is begun where there was none: {inbound:#?}"
    );
    assert_eq!(pair.app.journal().len(), 3);
}

#[tokio::test]
async fn a_running_sidecar_logs_more_when_it_is_told_and_drains_when_it_is_told() {
    let mut pair = Pair::start(&[("log-level", "error")]).await;
    assert_eq!(pair.client.process.log(), "", "nothing went wrong");
    let admin = pair.client.admin;
    let tell = |ask: Ask| async move {
        let answer = http1(admin, ask.header("host", &admin.to_string())).await;
        answer.expect("the admin listener answers")
    };
    let louder = Ask::post("/log", "debug").method(http::Method::PUT);
    let answer = tell(louder).await;
    assert!(answer.status.is_success(), "{answer:?}");
    let level = tell(Ask::get("/log")).await.text();
    assert!(level.contains("debug"), "{level}");
    assert_eq!(pair.get("/").await, StatusCode::OK);
    assert!(pair.client.process.log().contains("\"level\":\"DEBUG\""));

    let drained = tell(Ask::post("/drain", "")).await;
    assert!(drained.status.is_success(), "{drained:?}");
    assert_eq!(pair.client.process.ended().await, Some(0), "it ends by itself");
}
