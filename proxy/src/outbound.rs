//! From the application to the mesh: one request, read top to bottom.
//!
//! ```text
//! explicit port ─ CONNECT ─▶ tunnel ─┐
//! bound port ────────────────────────┴▶ declared protocol, else detection ─▶ requests | opaque bytes
//! requests: check head ▶ destination ▶ rule ▶ backend ▶ exchange: attempt, wait, forward, respond
//! ```
//!
//! Every decision is a call into `weft_proxy_core`; what is here awaits. A client that goes away drops the future, and
//! with it the exchange, whose lease counts as cancelled.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use tokio::net::TcpStream;
use weft_proxy_core::authority::{AuthorityError, check_connect};
use weft_proxy_core::cluster::ClusterEntry;
use weft_proxy_core::exchange::{Action, Event, Exchange};
use weft_proxy_core::hygiene::{RequestFacts, Violation, check_request};
use weft_proxy_core::outcome::{Reason, is_grpc};
use weft_proxy_core::protocol::Detected;
use weft_proxy_core::resource::{
    Action as RuleAction, Name, Protocol, Target as RuleTarget, WeightedBackend,
};
use weft_proxy_core::route::{CompiledRule, RequestHead};
use weft_proxy_core::snapshot::{Destination, Lookup};

use crate::drain::{Busy, Tracked};
use crate::finish::{Finish, Noted, Relayed, answer};
use crate::http::h2::Limits;
use crate::http::{Body, Upload, h1, h2};
use crate::memory::Pressure;
use crate::protocol::sniff;
use crate::socket::{self, original_destination};
use crate::stream::Stream;
use crate::telemetry::metrics::{self, Direction};
use crate::upstream::Bounds;
use crate::worker::{Target, Worker};

mod attempt;
mod egress;
mod head;
mod opaque;
mod upgrade;

use upgrade::Slot;

/// Where requests of a connection go.
#[derive(Clone, Debug)]
enum Aim {
    /// Where each says.
    Named,
    /// All to this destination: a bound port, a tunnel, a redirected connection.
    Fixed(Name),
}

/// Who sends, over which connection.
#[derive(Clone, Debug)]
struct Client {
    worker: Rc<Worker>,
    peer: SocketAddr,
    aim: Aim,
}

impl Client {
    /// What is known of a request that names no authority, as HTTP/1.0 need not: it goes where its connection goes.
    fn named(&self, mut facts: RequestFacts) -> RequestFacts {
        if let (None, Aim::Fixed(name)) = (&facts.authority, &self.aim) {
            facts.authority = name.parse().ok();
        }
        facts
    }
}

/// Serves a connection to the explicit port, or one that was redirected to it.
pub async fn explicit(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr) {
    if let Some(address) = original_destination(&tcp) {
        let name = Name::from(address.to_string());
        return bound(worker, tcp.into(), peer, name).await;
    }
    let tracked = worker.tracker.track(Direction::Outbound);
    let client = Client {
        worker,
        peer,
        aim: Aim::Named,
    };
    let Some((detected, stream)) = first_bytes(tcp.into(), &tracked).await else {
        return;
    };
    requests(client, stream, detected, tracked).await;
}

/// Serves a connection that was led here from where it was going. That decides, whatever a request in it says.
pub async fn captured(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr) {
    let Some(address) = original_destination(&tcp) else {
        metrics::count_uncaptured(Direction::Outbound);
        tracing::info!(%peer, "a connection to the proxy's own port was refused");
        return socket::reset_on_close(&tcp);
    };
    let name = Name::from(address.to_string());
    toward(worker, tcp.into(), peer, name, Some(address)).await;
}

/// Serves a connection that is meant for the destination `name`, in any protocol.
pub async fn bound(worker: Rc<Worker>, stream: Stream, peer: SocketAddr, name: Name) {
    toward(worker, stream, peer, name, None).await;
}

/// Serves a connection to the destination `name`, which was captured on its way to `original`.
async fn toward(
    worker: Rc<Worker>,
    stream: Stream,
    peer: SocketAddr,
    name: Name,
    original: Option<SocketAddr>,
) {
    let tracked = worker.tracker.track(Direction::Outbound);
    if original.is_some_and(|address| egress::passes_at_once(&worker, address, &name)) {
        return egress::pass(&worker, stream, &name, &tracked).await;
    }
    let found = worker.destination(&name).await;
    let client = Client {
        worker,
        peer,
        aim: Aim::Fixed(Name::clone(&name)),
    };
    let destination = match found {
        Lookup::Known(destination) => destination,
        Lookup::Absent if client.worker.local.config.egress_allowed => {
            return egress::pass(&client.worker, stream, &name, &tracked).await;
        }
        // The control plane may have been lost while its answer was waited for.
        Lookup::Pending if original.is_some_and(|to| egress::passes_at_once(&client.worker, to, &name)) => {
            return egress::pass(&client.worker, stream, &name, &tracked).await;
        }
        Lookup::Absent | Lookup::Pending => {
            tracing::info!(%name, "a connection to an unknown destination was refused");
            return stream.reset_on_close();
        }
    };
    let opaque = destination.opaque.is_some()
        && original.is_some_and(|address| client.worker.local.config.capture.is_opaque(address.port()));
    match destination.protocol {
        _ if opaque => opaque::serve(&client, stream, &destination, &tracked).await,
        Protocol::Tcp => opaque::serve(&client, stream, &destination, &tracked).await,
        Protocol::Http1 | Protocol::Http2 | Protocol::Grpc => {
            let Some((detected, stream)) = first_bytes(stream, &tracked).await else {
                return;
            };
            requests(client, stream, detected, tracked).await;
        }
        Protocol::Detect => opaque::detect(client, stream, &destination, tracked).await,
    }
}

/// The first bytes, unless the connection is asked to end before there are any.
async fn first_bytes(stream: Stream, tracked: &Tracked) -> Option<(Detected, Stream)> {
    tokio::select! {
        sniffed = sniff(stream) => sniffed,
        () = tracked.finished() => None,
    }
}

/// Serves requests in whichever version the client speaks.
async fn requests(client: Client, stream: Stream, detected: Detected, tracked: Tracked) {
    let worker = Rc::clone(&client.worker);
    if detected == Detected::NeedMore {
        return h1::too_late(stream, tracked.direction());
    }
    if detected == Detected::Http2 {
        let handle =
            move |request: Request<Body>, busy: Busy| self::request(client.clone(), request, busy, None);
        return h2::serve(stream, Limits::APPLICATION, &tracked, handle).await;
    }
    let peer = client.peer;
    let slot = Slot::default();
    let handle =
        |request: Request<Body>, busy: Busy| self::request(client.clone(), request, busy, Some(slot.clone()));
    let Some(stream) = h1::serve(stream, &tracked, handle).await else {
        return;
    };
    drop(tracked);
    upgrade::go_on(worker, stream, peer, slot).await;
}

/// One request.
async fn request(
    client: Client,
    request: Request<Body>,
    busy: Busy,
    slot: Option<Slot>,
) -> Response<Relayed> {
    let worker = &client.worker;
    let protocol = metrics::Protocol::of(request.version(), is_grpc(request.headers()));
    let mut finish = Finish::new(worker, busy, worker.local.now(), Direction::Outbound, protocol);
    let method = request.method().clone();
    if worker.pressure() != Pressure::None {
        return answer(Reason::Shedding, None, &method, finish, None);
    }
    let facts = match check_request(request.version(), &method, request.uri(), request.headers()) {
        Ok(facts) => client.named(facts),
        Err(violation) => return refuse(violation, &method, finish),
    };
    note(&mut finish, &client, &request, &facts);
    if method == Method::CONNECT && matches!(client.aim, Aim::Fixed(_)) {
        let detail = "a captured connection goes where it was going; declare a proxy's port as tcp";
        return answer(Reason::ConnectForbidden, Some(detail), &method, finish, None);
    }
    if method == Method::CONNECT {
        return Box::pin(upgrade::connect(&client, &facts, finish, slot)).await;
    }
    let name = match (&client.aim, &facts.authority) {
        (Aim::Fixed(name), _) => Name::clone(name),
        (Aim::Named, Some(authority)) => worker.name_of(authority, facts.default_port),
        (Aim::Named, None) => return refuse(Violation::NoHost, &method, finish),
    };
    match worker.destination(&name).await {
        Lookup::Known(destination) => routed(&client, request, facts, finish, &destination, slot).await,
        Lookup::Absent if worker.local.config.egress_allowed => {
            let fixed = matches!(client.aim, Aim::Fixed(_));
            Box::pin(egress::request(worker, request, &facts, &name, fixed, finish)).await
        }
        Lookup::Absent => answer(Reason::DestinationUnknown, Some(&name), &method, finish, None),
        Lookup::Pending => answer(Reason::ConfigPending, Some(&name), &method, finish, None),
    }
}

fn refuse(violation: Violation, method: &Method, finish: Finish) -> Response<Relayed> {
    answer(
        violation.of_request(),
        Some(&violation.to_string()),
        method,
        finish,
        None,
    )
}

fn note(finish: &mut Finish, client: &Client, request: &Request<Body>, facts: &RequestFacts) {
    if client.worker.log().is_none() {
        return;
    }
    finish.noted = Some(Box::new(Noted {
        peer: Some(client.peer),
        method: request.method().clone(),
        authority: facts.authority.as_ref().map(ToString::to_string),
        path: request.uri().path().to_owned(),
        ..Noted::default()
    }));
}

/// A request to a known destination: finds its rule, and does what that says.
async fn routed(
    client: &Client,
    request: Request<Body>,
    facts: RequestFacts,
    mut finish: Finish,
    destination: &Arc<Destination>,
    slot: Option<Slot>,
) -> Response<Relayed> {
    finish.edge = Some(client.worker.edge(&destination.name, Direction::Outbound));
    let method = request.method().clone();
    let head = RequestHead {
        method: &method,
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
    };
    let Some(rule) = destination.routes.as_ref().and_then(|routes| routes.find(&head)) else {
        return answer(Reason::NoRoute, None, &method, finish, None);
    };
    finish.note(|noted| noted.route = Some(Name::clone(&rule.rule().name)));
    let refused = match &rule.rule().action {
        RuleAction::Redirect(redirect) => return head::redirect(rule, redirect, &request, &facts, finish),
        RuleAction::Respond(StatusCode::INTERNAL_SERVER_ERROR) => Reason::UnsupportedFilter,
        RuleAction::Respond(status) => return head::plain(*status, rule, finish),
        RuleAction::Forward(_) => match backend(client, rule, destination) {
            Ok((backend, entry)) => {
                let route = head::Route { rule, backend };
                return forwarded(client, request, facts, finish, route, entry, slot).await;
            }
            Err(reason) => reason,
        },
    };
    answer(refused, Some(&rule.rule().name), &method, finish, None)
}

/// The share of a rule's traffic that a request falls into, and its cluster.
fn backend<'a>(
    client: &Client,
    rule: &'a CompiledRule,
    destination: &'a Destination,
) -> Result<(&'a WeightedBackend, &'a Arc<ClusterEntry>), Reason> {
    let backend = rule
        .pick(&mut client.worker.local.rng.borrow_mut())
        .ok_or(Reason::ZeroWeight)?;
    match &backend.target {
        RuleTarget::Cluster(name) => destination.clusters.get(name).map(|entry| (backend, entry)),
        RuleTarget::Invalid => None,
    }
    .ok_or(Reason::InvalidBackend)
}

/// A request whose cluster is known: lets an exchange carry it there.
async fn forwarded(
    client: &Client,
    request: Request<Body>,
    facts: RequestFacts,
    mut finish: Finish,
    route: head::Route<'_>,
    entry: &Arc<ClusterEntry>,
    slot: Option<Slot>,
) -> Response<Relayed> {
    let worker = &client.worker;
    let method = request.method().clone();
    let target = worker.target(entry);
    finish.edge = Some(Rc::clone(&target.edge));
    finish.note(|noted| noted.destination = Some(Name::clone(&entry.config.name)));
    let grpc = finish.grpc();
    let terms = head::terms(
        &method,
        request.headers(),
        grpc,
        &route,
        client.peer,
        &entry.config,
    );
    let upgrade = facts.upgrade.clone().filter(|_| slot.is_some());
    let (sent, upload) = head::prepare(request, &facts, &route, upgrade.as_ref(), &mut finish);
    let forwarding = Forwarding {
        worker,
        target: &target,
        route,
        sent,
        upload,
        upgrade,
        slot,
    };
    let exchange = Exchange::new(finish.started(), terms);
    forwarding.run(exchange, finish, &method).await
}

/// A request on its way to a cluster.
struct Forwarding<'a> {
    worker: &'a Rc<Worker>,
    target: &'a Rc<Target>,
    route: head::Route<'a>,
    /// The head as every attempt sends it, but for what differs between attempts.
    sent: http::request::Parts,
    upload: Upload,
    upgrade: Option<http::HeaderValue>,
    slot: Option<Slot>,
}

impl Forwarding<'_> {
    /// Performs what the exchange says until there is something to answer.
    async fn run(self, mut exchange: Exchange<'_>, mut finish: Finish, method: &Method) -> Response<Relayed> {
        let worker = self.worker;
        let mut event = Event::Start;
        let mut answered = None;
        loop {
            if !self.upload.replayable() {
                exchange.body_overflowed();
            }
            let action = worker.step(&mut exchange, event, self.target);
            event = match action {
                Action::Attempt {
                    endpoint,
                    number,
                    deadline,
                } => {
                    answered = None;
                    finish.meshed = endpoint.identity.is_some();
                    finish.note(|noted| noted.endpoint = Some(endpoint.address));
                    let request = self.attempt_head(&exchange, number, finish.meshed);
                    let attempt = self.attempt(&endpoint, request);
                    match attempt::within(worker, deadline, attempt).await {
                        Some(Ok((head, response))) => {
                            exchange.sent(response.sent());
                            answered = Some(response);
                            Event::ResponseHead(head)
                        }
                        Some(Err(_)) if self.upload.failed() => Event::DownstreamGone,
                        Some(Err(failure)) => Event::AttemptFailed(failure),
                        None => Event::Timer,
                    }
                }
                Action::Wait { until } => {
                    answered = None;
                    tokio::time::sleep_until(worker.local.instant(until)).await;
                    Event::Timer
                }
                Action::Forward { deadline } => {
                    self.upload.forget();
                    return match answered {
                        Some(response) => self.forward(response, exchange, finish, deadline),
                        None => answer(Reason::Panic, None, method, finish, None),
                    };
                }
                Action::Respond(reason) => {
                    return answer(
                        reason,
                        None,
                        method,
                        finish,
                        Some((exchange, Rc::clone(self.target))),
                    );
                }
                Action::Done(outcome) => {
                    // Who broke off its own request reads nothing; who broke the framing of its body does.
                    let grpc = finish.grpc();
                    finish.tell(&outcome);
                    let detail = Some("the body broke off or breaks its framing");
                    let response = Reason::BadRequest.response(grpc, detail);
                    return response.map(|text| Relayed::untold(Body::from(text)));
                }
            };
        }
    }
}

/// What bounds connections to a cluster.
fn bounds(target: &Target) -> Bounds {
    let state = target.state.borrow();
    let (config, shared) = (state.config(), state.shared());
    Bounds {
        connect_timeout: config.connect_timeout,
        connections: (Arc::clone(&shared.connections), config.limits.connections),
        pending: (Arc::clone(&shared.pending), config.limits.pending),
    }
}

fn forbidden(worker: &Worker, facts: &RequestFacts) -> Option<AuthorityError> {
    let authority = facts.authority.as_ref()?;
    check_connect(authority, &worker.local.config.own_addresses).err()
}
