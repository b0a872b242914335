//! One kind, followed through everything that an API server may do. Time is paused: an hour costs nothing.

mod fake;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use weft_api::object::{Kind, Object};
use weft_control_plane_core::relist::Difference;

use super::api::Source;
use super::change::{Change, Seen};
use super::decode::{Found, Name};
use super::follow::{Follower, Presence};
use super::kinds::Watched;
use fake::{Fake, Weather};

/// With nothing new for so long, nothing more will come. Longer than any wait between two attempts, and than a silent
/// watch.
const SETTLED: Duration = Duration::from_mins(5);

/// What a follower has told, put together.
struct Site {
    fake: Fake,
    news: mpsc::Receiver<Change>,
    held: BTreeMap<String, Found>,
    listed: usize,
    absent: usize,
    faults: Vec<String>,
}

impl Site {
    fn begin(kind: Kind, presence: Option<Presence>) -> Self {
        let fake = Fake::new();
        let (changes, news) = mpsc::channel(64);
        let source = Source::new(fake.client(), Watched::Object(kind));
        tokio::spawn(Follower::new(source, presence, changes).run());
        Self {
            fake,
            news,
            held: BTreeMap::new(),
            listed: 0,
            absent: 0,
            faults: Vec::new(),
        }
    }

    /// A Service that is there is never taken away.
    fn apply(&mut self, differences: Vec<Difference<Name, Found>>, really: bool) {
        for difference in differences {
            match difference {
                Difference::Put((_, name), found) => drop(self.held.insert(name.to_string(), found)),
                Difference::Take((_, name)) => {
                    assert!(
                        !really || !self.fake.has(&name),
                        "{name} was taken away and is there"
                    );
                    self.held.remove(&*name);
                }
            }
        }
    }

    async fn settle(&mut self) {
        while let Ok(Some(change)) = tokio::time::timeout(SETTLED, self.news.recv()).await {
            match change.seen {
                Seen::Listed(differences) => {
                    self.listed += 1;
                    self.apply(differences, true);
                }
                Seen::Changed(differences) => self.apply(differences, self.absent == 0),
                Seen::Absent | Seen::Unserved => self.absent += 1,
                Seen::Fault(fault) => {
                    self.faults.push(fault);
                    assert!(self.fake.requests() < 100_000, "the server is not left alone");
                }
            }
        }
    }

    /// What is held is what the server has.
    fn agrees(&self) {
        let held: BTreeMap<_, _> = self
            .held
            .iter()
            .map(|(name, found)| (name.clone(), port(found)))
            .collect();
        let there = self.fake.objects().into_iter();
        let there: BTreeMap<_, _> = there
            .map(|(name, object)| (name, object["spec"]["ports"][0]["port"].as_i64()))
            .collect();
        assert_eq!(held, there);
    }
}

fn port(found: &Found) -> Option<i64> {
    match found {
        Found::Object(Object::Service(service)) => {
            Some(service.spec.as_ref()?.ports.as_ref()?.first()?.port.into())
        }
        other => panic!("{other:?}"),
    }
}

fn service(port: u16) -> Value {
    json!({ "ports": [{ "port": port }] })
}

/// A site with five Services that has settled.
async fn settled() -> Site {
    let mut site = Site::begin(Kind::Service, None);
    for name in ["a", "b", "c", "d", "e"] {
        site.fake.put(name, &service(80));
    }
    site.settle().await;
    site.agrees();
    assert_eq!(site.faults, [""; 0]);
    site
}

/// Whatever changes while nobody hears of it.
fn change(fake: &Fake) {
    fake.delete("b");
    fake.put("c", &service(81));
    fake.put("f", &service(82));
}

#[tokio::test(start_paused = true)]
async fn a_watch_says_what_changes() {
    let mut site = settled().await;
    change(&site.fake);
    site.settle().await;
    site.agrees();
    assert_eq!(site.listed, 1, "a quiet watch that is begun anew needs no list");
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_cut_goes_on_where_it_was() {
    let mut site = settled().await;
    site.fake.cut();
    change(&site.fake);
    site.settle().await;
    site.agrees();
    assert_eq!(site.listed, 1);
}

#[tokio::test(start_paused = true)]
async fn after_every_fault_what_is_held_is_what_is_there() {
    for weather in [
        Weather::Down,
        Weather::Refusing(429),
        Weather::Refusing(500),
        Weather::Refusing(403),
        Weather::Refusing(410),
        Weather::Refusing(504),
        Weather::Forgetful,
        Weather::Silent,
    ] {
        let mut site = settled().await;
        site.fake.be(weather);
        site.fake.cut();
        change(&site.fake);
        site.settle_for(Duration::from_mins(10)).await;
        site.fake.be(Weather::Fine);
        site.settle().await;
        site.agrees();
        assert!(!site.faults.is_empty(), "{weather:?}");
    }
}

impl Site {
    /// Lets time pass, and takes in what comes meanwhile.
    async fn settle_for(&mut self, time: Duration) {
        // What is still to come is no reason to stop before.
        let _ = tokio::time::timeout(time, async {
            loop {
                self.settle().await;
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_breaks_off_is_forgotten() {
    let mut site = settled().await;
    for count in 0..6 {
        site.fake.be(Weather::Cutting(count));
        site.fake.cut();
        site.settle_for(Duration::from_mins(2)).await;
    }
    assert_eq!(site.held.len(), 5);
    // Half of the old and half of the new would hold both.
    site.fake.delete("a");
    site.fake.be(Weather::Fine);
    site.settle().await;
    site.agrees();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_back_is_noticed() {
    let mut site = settled().await;
    let back = site.fake.backup();
    change(&site.fake);
    site.settle().await;
    site.agrees();
    // Restored between two requests: nothing fails, and a watch from the version that was seen would be silent.
    back(&site.fake);
    site.fake.cut();
    site.settle().await;
    site.agrees();
    assert!(
        site.faults.iter().any(|fault| fault.contains("went back")),
        "{:?}",
        site.faults
    );
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_a_server_changes_nothing_and_costs_little() {
    let mut site = settled().await;
    let before = site.held.clone();
    let asked = site.fake.requests();
    site.fake.be(Weather::Down);
    site.fake.cut();
    site.settle_for(Duration::from_hours(1)).await;
    assert_eq!(site.held, before);
    let asked = site.fake.requests() - asked;
    assert!((30..600).contains(&asked), "{asked} requests in an hour");
    change(&site.fake);
    site.fake.be(Weather::Fine);
    site.settle().await;
    site.agrees();
}

#[tokio::test(start_paused = true)]
async fn without_streaming_a_list_comes_in_pages() {
    let mut site = Site::begin(Kind::Service, None);
    site.fake.never_stream();
    for name in ["a", "b", "c", "d", "e"] {
        site.fake.put(name, &service(80));
    }
    site.settle().await;
    site.agrees();
    change(&site.fake);
    site.settle().await;
    site.agrees();
    assert_eq!((site.listed, site.faults.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_spoils_no_other() {
    let mut site = Site::begin(Kind::HttpRoute, None);
    let route = |kind: &str| json!({ "rules": [{ "filters": [{ "type": kind }] }] });
    site.fake.put("good", &route("URLRewrite"));
    site.fake.put("bad", &route("FromTheFuture"));
    site.settle().await;
    assert!(
        matches!(site.held["good"], Found::Object(_)),
        "{:?}",
        site.held["good"]
    );
    let Found::Unreadable { why, .. } = &site.held["bad"] else {
        panic!("{:?}", site.held["bad"])
    };
    assert!(why.why.contains("FromTheFuture"), "{why}");
    site.fake.put("bad", &route("URLRewrite"));
    site.settle().await;
    assert!(matches!(site.held["bad"], Found::Object(_)));
    assert_eq!(site.faults, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_kind_comes_and_goes_with_its_definition() {
    let name = "httproutes.gateway.networking.k8s.io".to_owned();
    let (definitions, known) = watch::channel(None);
    let mut site = Site::begin(Kind::HttpRoute, Some(Presence::new(name.clone(), known)));
    site.fake.put("r", &json!({}));
    site.settle().await;
    assert_eq!((site.absent, site.fake.requests()), (0, 0), "nobody knows yet");
    definitions.send_replace(Some(vec!["other".to_owned()]));
    site.settle().await;
    assert_eq!(
        (site.absent, site.fake.requests()),
        (1, 0),
        "there is no such kind"
    );
    definitions.send_replace(Some(vec![name.clone()]));
    site.settle().await;
    assert_eq!(site.held.len(), 1);
    // An error is no removal, not even one that says that there is nothing here.
    site.fake.be(Weather::Refusing(404));
    site.fake.cut();
    site.settle_for(Duration::from_mins(10)).await;
    assert_eq!(site.held.len(), 1);
    definitions.send_replace(Some(Vec::new()));
    site.settle().await;
    assert!(site.held.is_empty());
    site.fake.be(Weather::Fine);
    definitions.send_replace(Some(vec![name]));
    site.settle().await;
    assert_eq!(site.held.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_could_be_told_when_a_definition_went_goes_with_it() {
    let name = "httproutes.gateway.networking.k8s.io".to_owned();
    let (definitions, known) = watch::channel(Some(vec![name.clone()]));
    let mut site = Site::begin(Kind::HttpRoute, Some(Presence::new(name, known)));
    for number in 0..200 {
        site.fake.put(&number.to_string(), &json!({}));
    }
    site.settle().await;
    assert_eq!(site.held.len(), 200);
    // More than can wait for whoever takes them, who takes nothing before the definition is gone too.
    for number in 0..200 {
        site.fake.delete(&number.to_string());
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    definitions.send_replace(Some(Vec::new()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.settle().await;
    assert!(site.held.is_empty(), "{:?}", site.held.keys());
}
