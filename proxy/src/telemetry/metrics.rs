//! Metric handles, resolved when something is first used and cached: a request formats no label.
//!
//! The names are the contract with dashboards and with the demo's table. Labels are bounded: destinations are Services,
//! and all addresses that are dialled past them one more; reasons, protocols and results closed sets.

use std::cell::{OnceCell, RefCell};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::Duration;

use futures_util::FutureExt;
use metrics::{Counter, Histogram, counter, histogram};
use weft_proxy_core::outcome::Reason;
use weft_proxy_core::resource::Name;

/// Which side of the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the application.
    Outbound,
    /// To the application.
    Inbound,
}

impl Direction {
    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What was spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 or 1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Opaque bytes.
    Tcp,
}

impl Protocol {
    /// The protocol of a request.
    pub fn of(version: http::Version, grpc: bool) -> Self {
        match version {
            _ if grpc => Self::Grpc,
            http::Version::HTTP_2 => Self::Http2,
            _ => Self::Http1,
        }
    }

    /// The label's value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }
}

/// Lets counters stand at zero before there is anything to count: to Prometheus one that appears with its first event has
/// not increased, and an alert on it stays silent.
pub fn begin_at_zero() {
    for result in ["success", "failure"] {
        counter!("weft_certificate_renewals_total", "result" => result).increment(0);
    }
    for why in ["tls", "plaintext"] {
        counter!("weft_inbound_refused_connections_total", "why" => why).increment(0);
    }
    counter!("weft_xds_nacks_total").increment(0);
}

/// Value of the label `destination`. Addresses of pods come and go without end, and nothing told of them is ever
/// forgotten: they are told together.
pub fn destination_label(name: &str) -> String {
    let address = name.parse::<SocketAddr>().is_ok();
    if address { "address" } else { name }.to_owned()
}

/// Value of the label `tls`.
pub fn tls_label(meshed: bool) -> &'static str {
    if meshed { "mtls" } else { "none" }
}

/// Counts an answer of our own.
pub fn count_own_answer(reason: Reason, direction: Direction) {
    static ANSWERS: OnceLock<Vec<[Counter; 2]>> = OnceLock::new();
    let answers = ANSWERS.get_or_init(|| {
        let handle = |reason: &Reason, direction: Direction| {
            counter!("weft_responses_by_proxy_total", "reason" => reason.label(), "direction" => direction.label())
        };
        let both = |reason| [handle(reason, Direction::Outbound), handle(reason, Direction::Inbound)];
        Reason::ALL.iter().map(both).collect()
    });
    answers[reason as usize][direction as usize].increment(1);
}

/// Runs a task; a panic, which the process's hook counts and logs, ends this task alone.
pub fn outliving_panics<F: Future<Output = ()>>(task: F) -> impl Future<Output = ()> {
    AssertUnwindSafe(task).catch_unwind().map(|_| ())
}

/// One combination of labels of requests.
#[derive(Debug)]
pub struct Requests {
    success: Counter,
    failure: Counter,
    duration: Option<Histogram>,
}

impl Requests {
    /// Counts an exchange that is over.
    pub fn count(&self, failed: bool, duration: Duration) {
        if failed { &self.failure } else { &self.success }.increment(1);
        if let Some(histogram) = &self.duration {
            histogram.record(duration);
        }
    }
}

/// One combination of labels of opaque connections.
#[derive(Debug)]
pub struct Connections {
    opened: Counter,
    failed: Counter,
    unclean: Counter,
}

impl Connections {
    /// Counts a connection that was relayed.
    pub fn opened(&self) {
        self.opened.increment(1);
    }

    /// Counts a connection that could not be relayed.
    pub fn failed(&self) {
        self.failed.increment(1);
    }

    /// Counts a relayed connection that broke.
    pub fn unclean(&self) {
        self.unclean.increment(1);
    }
}

const PROTOCOLS: usize = 4;

/// The handles of one destination, or of one Service that this workload is part of.
#[derive(Debug)]
pub struct Edge {
    name: Name,
    direction: Direction,
    requests: RefCell<[[Option<Rc<Requests>>; 2]; PROTOCOLS]>,
    connections: [OnceCell<Connections>; 2],
    retries: OnceCell<Counter>,
}

impl Edge {
    /// Handles for `name`.
    pub fn new(name: Name, direction: Direction) -> Self {
        Self {
            name,
            direction,
            requests: RefCell::default(),
            connections: [OnceCell::new(), OnceCell::new()],
            retries: OnceCell::new(),
        }
    }

    /// What it is the edge of.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The handles for requests of `protocol`.
    pub fn requests(&self, protocol: Protocol, meshed: bool) -> Rc<Requests> {
        let slots = &mut *self.requests.borrow_mut();
        let slot = &mut slots[protocol as usize][usize::from(meshed)];
        Rc::clone(slot.get_or_insert_with(|| Rc::new(self.resolve_requests(protocol, meshed))))
    }

    fn resolve_requests(&self, protocol: Protocol, meshed: bool) -> Requests {
        let (name, protocol, tls) = (destination_label(&self.name), protocol.label(), tls_label(meshed));
        match self.direction {
            Direction::Outbound => {
                let results = |result: &'static str| {
                    counter!("weft_outbound_requests_total", "destination" => name.clone(), "protocol" => protocol,
                        "tls" => tls, "result" => result)
                };
                Requests {
                    success: results("success"),
                    failure: results("failure"),
                    duration: Some(histogram!("weft_outbound_request_duration_seconds",
                        "destination" => name.clone(), "protocol" => protocol)),
                }
            }
            Direction::Inbound => {
                let results = |result: &'static str| {
                    counter!("weft_inbound_requests_total", "service" => name.clone(), "protocol" => protocol,
                        "tls" => tls, "result" => result)
                };
                Requests {
                    success: results("success"),
                    failure: results("failure"),
                    duration: None,
                }
            }
        }
    }

    /// The handles for opaque connections.
    pub fn connections(&self, meshed: bool) -> &Connections {
        self.connections[usize::from(meshed)].get_or_init(|| {
            let (name, tls) = (destination_label(&self.name), tls_label(meshed));
            let results = |result: &'static str| match self.direction {
                Direction::Outbound => {
                    counter!("weft_outbound_tcp_connections_total", "destination" => name.clone(), "tls" => tls,
                        "result" => result)
                }
                Direction::Inbound => {
                    counter!("weft_inbound_tcp_connections_total", "service" => name.clone(), "tls" => tls,
                        "result" => result)
                }
            };
            Connections { opened: results("opened"), failed: results("failed"), unclean: results("unclean") }
        })
    }

    /// Counts retries.
    pub fn count_retries(&self, count: u32) {
        if count > 0 {
            let retries =
                || counter!("weft_outbound_retries_total", "destination" => destination_label(&self.name));
            self.retries.get_or_init(retries).increment(u64::from(count));
        }
    }
}

/// Counts a TLS handshake that was refused or not finished.
pub fn count_refused_handshake() {
    counter!("weft_inbound_refused_connections_total", "why" => "tls").increment(1);
}

/// Counts a plaintext connection that policy refused.
pub fn count_refused_plaintext() {
    counter!("weft_inbound_refused_connections_total", "why" => "plaintext").increment(1);
}

/// Counts a connection that was made to a captured port itself, instead of being led there.
pub fn count_uncaptured(direction: Direction) {
    counter!("weft_uncaptured_connections_total", "direction" => direction.label()).increment(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stays_in_its_task() {
        outliving_panics(async { panic!("as it should") }).await;
    }

    #[test]
    fn services_are_told_apart_and_addresses_are_not() {
        for (name, label) in [
            ("user.shop.svc.cluster.local:80", "user.shop.svc.cluster.local:80"),
            ("10.0.0.1:80", "address"),
            ("[2001:db8::1]:443", "address"),
        ] {
            assert_eq!(destination_label(name), label);
        }
    }

    #[test]
    fn handles_are_resolved_once() {
        let edge = Edge::new("user.shop.svc.cluster.local:80".into(), Direction::Outbound);
        let first = edge.requests(Protocol::Grpc, true);
        assert!(Rc::ptr_eq(&first, &edge.requests(Protocol::Grpc, true)));
        assert!(!Rc::ptr_eq(&first, &edge.requests(Protocol::Grpc, false)));
    }
}
