//! An API server that can be made to fail: lists, streams and watches as Kubernetes does them, from memory.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Objects in one page of a list.
const PAGE: usize = 2;

/// How the server is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Weather {
    Fine,
    /// Nobody listens.
    Down,
    /// Every request is refused with this code.
    Refusing(u16),
    /// Streaming lists end after so many objects, and a watch from any version is answered with 410.
    Cutting(usize),
    /// A watch from any version is answered with 410.
    Forgetful,
    /// Answers never come.
    Silent,
}

struct Watch {
    from: u64,
    lines: UnboundedSender<Bytes>,
}

#[derive(Clone, Default)]
struct Store {
    version: u64,
    objects: BTreeMap<String, Value>,
    history: Vec<(u64, &'static str, Value)>,
}

struct Inner {
    weather: Weather,
    streams: bool,
    store: Store,
    watches: Vec<Watch>,
    requests: usize,
}

/// See the module's head. It has one kind.
#[derive(Clone)]
pub(super) struct Fake(Arc<Mutex<Inner>>);

impl Fake {
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Inner {
            weather: Weather::Fine,
            streams: true,
            store: Store {
                version: 100,
                ..Store::default()
            },
            watches: Vec::new(),
            requests: 0,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    pub(super) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                if fake.lock().weather == Weather::Silent {
                    std::future::pending::<()>().await;
                }
                fake.answer(&request)
            }
        });
        Client::new(service, "default")
    }

    pub(super) fn be(&self, weather: Weather) {
        self.lock().weather = weather;
    }

    pub(super) fn never_stream(&self) {
        self.lock().streams = false;
    }

    pub(super) fn requests(&self) -> usize {
        self.lock().requests
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.lock().store.objects.contains_key(name)
    }

    pub(super) fn objects(&self) -> BTreeMap<String, Value> {
        self.lock().store.objects.clone()
    }

    pub(super) fn put(&self, name: &str, spec: &Value) {
        let mut inner = self.lock();
        inner.store.version += 1;
        let version = inner.store.version;
        let object = json!({
            "metadata": { "name": name, "namespace": "n", "resourceVersion": version.to_string() },
            "spec": spec,
        });
        let kind = if inner.store.objects.contains_key(name) {
            "MODIFIED"
        } else {
            "ADDED"
        };
        inner.store.objects.insert(name.to_owned(), object.clone());
        inner.tell(version, kind, object);
    }

    pub(super) fn delete(&self, name: &str) {
        let mut inner = self.lock();
        inner.store.version += 1;
        let version = inner.store.version;
        let mut object = inner.store.objects.remove(name).unwrap();
        object["metadata"]["resourceVersion"] = version.to_string().into();
        inner.tell(version, "DELETED", object);
    }

    /// Ends every watch in good order.
    pub(super) fn cut(&self) {
        self.lock().watches.clear();
    }

    /// What can be gone back to.
    pub(super) fn backup(&self) -> Box<dyn FnOnce(&Self)> {
        let store = self.lock().store.clone();
        Box::new(move |fake| fake.lock().store = store)
    }

    fn answer(&self, request: &Request<Body>) -> Result<Response<Answer>, io::Error> {
        let mut inner = self.lock();
        inner.requests += 1;
        let query = request.uri().query().unwrap_or_default();
        let asked: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        match inner.weather {
            Weather::Down => return Err(io::ErrorKind::ConnectionRefused.into()),
            Weather::Refusing(code) => return Ok(refusal(code)),
            _ => {}
        }
        if !asked.contains_key("watch") {
            return Ok(text(200, inner.list(&asked).to_string()));
        }
        let (lines, read) = unbounded_channel();
        let version = asked["resourceVersion"];
        if asked.contains_key("sendInitialEvents") {
            if !inner.streams {
                return Ok(refusal(400));
            }
            inner.stream(lines);
        } else if matches!(inner.weather, Weather::Forgetful | Weather::Cutting(_)) {
            let gone = json!({ "kind": "Status", "code": 410, "reason": "Expired", "message": "too old" });
            lines.send(line("ERROR", &gone)).unwrap();
        } else {
            inner.watch(version.parse().unwrap(), lines);
        }
        Ok(Response::new(body(read)))
    }
}

impl Inner {
    /// Watches hear of what is newer than what they began with, as with Kubernetes: a watch from the future is silent.
    fn tell(&mut self, version: u64, kind: &'static str, object: Value) {
        let told = line(kind, &object);
        self.store.history.push((version, kind, object));
        self.watches
            .retain(|watch| version <= watch.from || watch.lines.send(told.clone()).is_ok());
    }

    fn stream(&mut self, lines: UnboundedSender<Bytes>) {
        let (cut, count) = match self.weather {
            Weather::Cutting(count) => (true, count),
            _ => (false, usize::MAX),
        };
        for object in self.store.objects.values().take(count) {
            lines.send(line("ADDED", object)).unwrap();
        }
        if cut {
            return;
        }
        let end = json!({ "apiVersion": "v1", "kind": "Service", "metadata": {
            "resourceVersion": self.store.version.to_string(),
            "annotations": { "k8s.io/initial-events-end": "true" },
        }});
        lines.send(line("BOOKMARK", &end)).unwrap();
        self.watches.push(Watch {
            from: self.store.version,
            lines,
        });
    }

    fn watch(&mut self, from: u64, lines: UnboundedSender<Bytes>) {
        for (_, kind, object) in self.store.history.iter().filter(|(version, ..)| *version > from) {
            lines.send(line(kind, object)).unwrap();
        }
        self.watches.push(Watch { from, lines });
    }

    fn list(&self, asked: &BTreeMap<&str, &str>) -> Value {
        let from: usize = asked.get("continue").map_or(0, |token| token.parse().unwrap());
        let items: Vec<_> = self.store.objects.values().skip(from).take(PAGE).collect();
        let next = from + items.len();
        let next = if next < self.store.objects.len() {
            next.to_string()
        } else {
            String::new()
        };
        json!({
            "metadata": { "resourceVersion": self.store.version.to_string(), "continue": next },
            "items": items,
        })
    }
}

type Answer =
    StreamBody<std::pin::Pin<Box<dyn futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>>;

fn line(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({ "type": kind, "object": object })).into()
}

fn body(lines: tokio::sync::mpsc::UnboundedReceiver<Bytes>) -> Answer {
    StreamBody::new(
        UnboundedReceiverStream::new(lines)
            .map(|line| Ok(Frame::data(line)))
            .boxed(),
    )
}

fn text(code: u16, text: String) -> Response<Answer> {
    let (lines, read) = unbounded_channel();
    lines.send(text.into()).unwrap();
    Response::builder().status(code).body(body(read)).unwrap()
}

fn refusal(code: u16) -> Response<Answer> {
    let status = json!({
        "kind": "Status", "status": "Failure", "code": code, "reason": "R", "message": "no",
        "details": { "retryAfterSeconds": 7 },
    });
    text(code, status.to_string())
}
