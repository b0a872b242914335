//! One request to the application.

use std::cell::RefCell;
use std::rc::Rc;

use http::header::{CONNECTION, EXPECT, HOST, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use weft_proxy_core::hygiene::{
    BodyLength, CLIENT_ID, LOST, RequestFacts, UNPROCESSED, VERSION, check_request, check_response,
    strip_hop_by_hop, strip_private,
};
use weft_proxy_core::outcome::{Blame, Reason, is_grpc};
use weft_proxy_core::resource::{Name, Protocol, TlsMode};
use weft_proxy_core::retry::Failure;

use super::{CONNECT_TIMEOUT, Site};
use crate::drain::Busy;
use crate::finish::{Finish, Judge, Noted, Open, Relayed, answer, completed};
use crate::http::{Body, Upload, absolute};
use crate::memory::Pressure;
use crate::telemetry::metrics::{self, Direction};
use crate::telemetry::trace;
use crate::upstream::{Bounds, Held, Own, Speak, build};

/// The application's end of an upgraded connection, and the exchange that goes on.
pub(super) type Slot = Rc<RefCell<Option<(Box<Own>, Box<Open>)>>>;

/// Answers a request: with the application's response, or by ourselves.
pub(super) async fn serve(
    site: Rc<Site>,
    request: Request<Body>,
    busy: Busy,
    slot: Option<Slot>,
) -> Response<Relayed> {
    let worker = &site.worker;
    let grpc = is_grpc(request.headers());
    let policy = site.policy();
    let speak = speak(policy.protocol, grpc || client_speaks_http2(&site, &request));
    let spoken = if speak == Speak::Http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    let protocol = metrics::Protocol::of(spoken, grpc);
    let mut finish = Finish::new(worker, busy, worker.local.now(), Direction::Inbound, protocol);
    finish.edge = Some(Rc::clone(&site.edge));
    finish.meshed = site.identity.is_some();
    let method = request.method().clone();
    if policy.tls == TlsMode::Strict && site.identity.is_none() {
        return refuse(&site, Reason::IdentityRequired, None, &method, finish);
    }
    if worker.pressure() != Pressure::None {
        return refuse(&site, Reason::Shedding, None, &method, finish);
    }
    let facts = match check_request(request.version(), &method, request.uri(), request.headers()) {
        Ok(facts) if method != Method::CONNECT => facts,
        Ok(_) => {
            return refuse(
                &site,
                Reason::BadRequest,
                Some("CONNECT is not taken here"),
                &method,
                finish,
            );
        }
        Err(violation) => {
            return refuse(
                &site,
                violation.of_request(),
                Some(&violation.to_string()),
                &method,
                finish,
            );
        }
    };
    note(&mut finish, &site, &request, &facts);
    let upgrade = facts.upgrade.clone().filter(|_| slot.is_some());
    let (head, upload) = prepare(&site, request, &facts, upgrade.as_ref(), speak, &mut finish);
    if let (Some(_), Some(slot)) = (&upgrade, slot) {
        return match send_upgrade(&site, head, &upload).await {
            Ok((response, own)) => switch(&site, response, own, finish, &slot, &method),
            Err(failure) => refuse(&site, failure.reason(), None, &method, finish),
        };
    }
    let upstream = &worker.upstream;
    let sent = upstream
        .send_alone(&worker.local, &site.app, speak, &bounds(), &head, &upload)
        .await;
    upload.forget();
    match sent {
        Ok((response, place)) => forward(&site, response, Some(place), finish, &method),
        Err(failure) => refuse(&site, failure.reason(), None, &method, finish),
    }
}

/// Whether the client speaks HTTP/2. A sidecar always does, and says what its own client speaks.
fn client_speaks_http2(site: &Site, request: &Request<Body>) -> bool {
    if site.identity.is_some() {
        request
            .headers()
            .get(VERSION)
            .is_some_and(|version| version == "2")
    } else {
        request.version() == Version::HTTP_2
    }
}

/// How the application is spoken to: as declared, else as its client speaks.
fn speak(declared: Protocol, http2: bool) -> Speak {
    match declared {
        Protocol::Http2 | Protocol::Grpc => Speak::Http2,
        Protocol::Detect if http2 => Speak::Http2,
        Protocol::Detect | Protocol::Http1 | Protocol::Tcp => Speak::Http1,
    }
}

/// An answer of our own; a mesh peer is told when the application saw nothing of the request, or was lost over it.
fn refuse(
    site: &Site,
    reason: Reason,
    detail: Option<&str>,
    method: &Method,
    finish: Finish,
) -> Response<Relayed> {
    let mut response = answer(reason, detail, method, finish, None);
    let told = match reason {
        Reason::UpstreamReset => Some(LOST),
        // What is wrong with the request itself is so at every other replica.
        _ if reason.facts().blame == Blame::Downstream => None,
        _ => reason.facts().unprocessed.then_some(UNPROCESSED),
    };
    if let Some(told) = told.filter(|_| site.identity.is_some()) {
        response.headers_mut().insert(told, HeaderValue::from_static("1"));
    }
    response
}

fn note(finish: &mut Finish, site: &Site, request: &Request<Body>, facts: &RequestFacts) {
    if site.worker.log().is_none() {
        return;
    }
    finish.noted = Some(Box::new(Noted {
        peer: Some(site.peer),
        identity: site.identity.clone(),
        method: request.method().clone(),
        authority: facts.authority.as_ref().map(ToString::to_string),
        path: request.uri().path().to_owned(),
        destination: Some(Name::clone(site.edge.name())),
        endpoint: Some(site.app.address),
        ..Noted::default()
    }));
}

/// The head that the application gets, and the body.
fn prepare(
    site: &Site,
    request: Request<Body>,
    facts: &RequestFacts,
    upgrade: Option<&HeaderValue>,
    speak: Speak,
    finish: &mut Finish,
) -> (http::request::Parts, Upload) {
    let (mut head, body) = request.into_parts();
    head.extensions.clear();
    strip_hop_by_hop(&mut head.headers);
    strip_private(&mut head.headers);
    head.headers.remove(EXPECT); // whoever reads the body here has said "100 Continue"
    if let Some(protocol) = upgrade {
        head.headers
            .insert(CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(UPGRADE, protocol.clone());
    }
    if let Some(identity) = &site.told {
        head.headers.insert(CLIENT_ID, identity.clone());
    }
    let trace = trace::pass_on(&mut head.headers, &mut site.worker.local.rng.borrow_mut());
    finish.note(|noted| noted.trace = Some(trace.id()));
    address(
        &mut head.uri,
        &mut head.headers,
        facts,
        speak == Speak::Http2 && upgrade.is_none(),
    );
    head.version = if speak == Speak::Http2 {
        Version::HTTP_2
    } else {
        Version::HTTP_11
    };
    (head, Upload::new(body))
}

/// Names the authority as the application's version of HTTP does: in the target, or in `Host`.
fn address(uri: &mut Uri, headers: &mut HeaderMap, facts: &RequestFacts, http2: bool) {
    let path = uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    let text = || facts.authority.as_ref().map(ToString::to_string);
    if http2 {
        let authority = uri
            .authority()
            .cloned()
            .or_else(|| Authority::try_from(text()?).ok());
        headers.remove(HOST);
        *uri = absolute(authority, path);
        return;
    }
    let named = uri
        .authority()
        .and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
    if let Some(host) = named {
        headers.insert(HOST, host);
    } else if !headers.contains_key(HOST) {
        let host = text().and_then(|text| HeaderValue::try_from(text).ok());
        headers.insert(HOST, host.unwrap_or(HeaderValue::from_static("")));
    }
    *uri = path.into();
}

fn bounds() -> Bounds {
    Bounds::local(CONNECT_TIMEOUT)
}

async fn send_upgrade(
    site: &Site,
    mut head: http::request::Parts,
    upload: &Upload,
) -> Result<(Response<Body>, Box<Own>), Failure> {
    head.version = Version::HTTP_11;
    let mut own = Box::new(Own::connect(&site.worker.local, &site.app, &bounds()).await?);
    let response = own.send(build(&head, upload)).await?;
    Ok((response, own))
}

/// The application's answer to a request for an upgrade, which need not be 101.
fn switch(
    site: &Site,
    response: Response<Body>,
    own: Box<Own>,
    finish: Finish,
    slot: &Slot,
    method: &Method,
) -> Response<Relayed> {
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return forward(site, response, None, finish, method);
    }
    let protocol = response.headers().get(UPGRADE).cloned();
    if let Err(violation) = check_response(response.version(), response.status(), response.headers(), true) {
        return refuse(
            site,
            violation.of_response(),
            Some(&violation.to_string()),
            method,
            finish,
        );
    }
    let (mut head, _) = response.into_parts();
    head.extensions.clear();
    strip_hop_by_hop(&mut head.headers);
    strip_private(&mut head.headers);
    head.headers
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Some(protocol) = protocol {
        head.headers.insert(UPGRADE, protocol);
    }
    let judge = Judge::Plain(completed(head.status, 1));
    *slot.borrow_mut() = Some((
        own,
        Box::new(Open {
            finish,
            judge,
            held: None,
        }),
    ));
    Response::from_parts(head, Relayed::untold(Body::Empty))
}

/// Sends the application's response on.
fn forward(
    site: &Site,
    mut response: Response<Body>,
    held: Option<Held>,
    finish: Finish,
    method: &Method,
) -> Response<Relayed> {
    let length = match check_response(response.version(), response.status(), response.headers(), false) {
        Ok(length) => length,
        Err(violation) => {
            return refuse(
                site,
                violation.of_response(),
                Some(&violation.to_string()),
                method,
                finish,
            );
        }
    };
    strip_hop_by_hop(response.headers_mut());
    strip_private(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().clear();
    let mut outcome = completed(response.status(), 1);
    outcome.grpc = weft_proxy_core::outcome::grpc_status(response.headers()).filter(|_| finish.grpc());
    let known = match length {
        BodyLength::Known(length) if method != Method::HEAD => Some(length),
        _ => None,
    };
    let open = Open {
        finish,
        judge: Judge::Plain(outcome),
        held,
    };
    response.map(|body| Relayed::new(body, open, None, known))
}
