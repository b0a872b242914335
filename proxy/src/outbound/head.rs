//! What happens to a request's head on its way out, and the answers that a rule itself gives.

use std::net::SocketAddr;

use http::header::{CONNECTION, EXPECT, HOST, LOCATION, UPGRADE};
use http::uri::{Authority, PathAndQuery};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use weft_proxy_core::deadline::{GRPC_TIMEOUT, parse_grpc_timeout};
use weft_proxy_core::exchange::Terms;
use weft_proxy_core::hygiene::{ATTEMPT, RequestFacts, strip_hop_by_hop, strip_private};
use weft_proxy_core::resource::{Balancer, Cluster, HashKey, Redirect, WeightedBackend};
use weft_proxy_core::ring;
use weft_proxy_core::route::{Asked, CompiledRule};

use crate::finish::{Finish, Judge, Open, Relayed, completed};
use crate::http::{Body, Upload, absolute};
use crate::telemetry::trace;

/// The rule that matched, and the share of its traffic that a request fell into.
#[derive(Clone, Copy)]
pub(super) struct Route<'a> {
    pub(super) rule: &'a CompiledRule,
    pub(super) backend: &'a WeightedBackend,
}

/// What the head and the rule say about attempts.
pub(super) fn terms<'a>(
    method: &'a Method,
    headers: &HeaderMap,
    grpc: bool,
    route: &Route<'a>,
    peer: SocketAddr,
    cluster: &Cluster,
) -> Terms<'a> {
    let rule = route.rule.rule();
    let caller = if grpc { headers.get(GRPC_TIMEOUT) } else { None };
    Terms {
        grpc,
        retry: rule.retry.as_ref(),
        timeout: rule.timeout,
        attempt_timeout: rule.attempt_timeout,
        grpc_timeout: caller.and_then(parse_grpc_timeout),
        hash: hash(&cluster.balancer, headers, peer),
        ..Terms::new(method)
    }
}

fn hash(balancer: &Balancer, headers: &HeaderMap, peer: SocketAddr) -> Option<u64> {
    let Balancer::RingHash(key) = balancer else {
        return None;
    };
    let by_header = match key {
        HashKey::Header(name) => headers.get(name).map(|value| ring::hash(value.as_bytes())),
        HashKey::SourceAddress => None,
    };
    Some(by_header.unwrap_or_else(|| match peer.ip() {
        std::net::IpAddr::V4(ip) => ring::hash(&ip.octets()),
        std::net::IpAddr::V6(ip) => ring::hash(&ip.octets()),
    }))
}

/// The head that every attempt sends, in absolute form, and the body. What belongs to one connection and private fields
/// go; then come our own fields and the rule's changes.
pub(super) fn prepare(
    request: Request<Body>,
    facts: &RequestFacts,
    route: &Route<'_>,
    upgrade: Option<&HeaderValue>,
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
    let trace = trace::pass_on(&mut head.headers, &mut finish.worker().local.rng.borrow_mut());
    finish.note(|noted| noted.trace = Some(trace.id()));
    let authority = authority(&head.uri, &head.headers, facts, route.rule);
    head.headers.remove(HOST);
    route.rule.edit_request(Some(route.backend), &mut head.headers);
    head.headers.insert(ATTEMPT, HeaderValue::from_static("1")); // here, lest each attempt's copy has to grow
    let path = path(&head.uri, route.rule);
    head.uri = absolute(authority, path);
    (head, Upload::new(body))
}

fn authority(uri: &Uri, headers: &HeaderMap, facts: &RequestFacts, rule: &CompiledRule) -> Option<Authority> {
    if let Some(host) = rule.rewrite_host() {
        return Authority::try_from(host).ok();
    }
    if let Some(authority) = uri.authority() {
        return Some(authority.clone());
    }
    let host = headers
        .get(HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok());
    host.or_else(|| Authority::try_from(facts.authority.as_ref()?.to_string()).ok())
}

fn path(uri: &Uri, rule: &CompiledRule) -> PathAndQuery {
    let as_sent = || {
        uri.path_and_query()
            .cloned()
            .unwrap_or_else(|| PathAndQuery::from_static("/"))
    };
    let Some(mut path) = rule.rewrite_path(uri.path()) else {
        return as_sent();
    };
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    PathAndQuery::try_from(path).unwrap_or_else(|_| as_sent())
}

/// The redirect that a rule answers with.
pub(super) fn redirect(
    rule: &CompiledRule,
    redirect: &Redirect,
    request: &Request<Body>,
    facts: &RequestFacts,
    finish: Finish,
) -> Response<Relayed> {
    let host = facts
        .authority
        .as_ref()
        .map(|authority| authority.host.to_string())
        .unwrap_or_default();
    let port = facts
        .authority
        .as_ref()
        .map(|authority| authority.port_or(facts.default_port));
    let asked = Asked {
        scheme: request.uri().scheme_str().unwrap_or("http"),
        host: &host,
        port,
        path: request.uri().path(),
        query: request.uri().query(),
    };
    let location = rule
        .location(&asked)
        .and_then(|text| HeaderValue::try_from(text).ok());
    let mut response = plain(redirect.status, rule, finish);
    if let Some(location) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// An answer without a body that a rule gives by itself.
pub(super) fn plain(status: StatusCode, rule: &CompiledRule, finish: Finish) -> Response<Relayed> {
    let outcome = completed(status, 0);
    let open = Open {
        finish,
        judge: Judge::Plain(outcome),
        held: None,
    };
    let mut response = Response::new(Relayed::new(Body::Empty, open, None, None));
    *response.status_mut() = status;
    rule.edit_response(None, response.headers_mut());
    response
}
