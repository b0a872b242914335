//! Route tables: the rules for one authority, in order of precedence.

use super::attach::{self, Destination};
use super::{Context, endpoints};
use crate::names::Authority;
use crate::precedence::in_order;
use crate::resource::{
    Action, Backend, HeaderEdit, Name, PathMatch, Rewrite, RouteMatch, RouteTable, Rule, VirtualHost,
};
use crate::world::Id;
use crate::world::route::{BackendRef, BackendTarget, Does, Match, Route, RouteRule};

/// What a rule without any backend answers, as one with a backend that names nothing (Gateway API).
const NO_BACKEND_STATUS: u16 = 500;

/// The table of an authority, as clients of `viewer` see it. None where only opaque bytes pass.
pub fn translate(context: &mut Context<'_>, authority: &Authority, viewer: &Name) -> Option<RouteTable> {
    let rules = match authority {
        Authority::Service(service, port) => {
            let destination = Destination::find(context, service, *port)?;
            attach::takes_routes(context, destination).then(|| rules(context, destination, viewer))?
        }
        Authority::Address(_) if Destination::at(context, authority).is_some() => return None,
        Authority::Address(_) => {
            let (owner, endpoint) = endpoints::at(context, authority)?;
            let opaque = owner.is_some_and(|owner| !attach::takes_routes(context, owner));
            let name = format!("Endpoint/{}", endpoint.workload);
            (!opaque).then(|| vec![pass(name.into(), authority.name(context.settings))])?
        }
    };
    let host = VirtualHost {
        name: authority.name(context.settings),
        domains: vec!["*".into()],
        rules,
    };
    Some(RouteTable { hosts: vec![host] })
}

/// The rules of a Service's port: those of the routes attached to it, or one that passes everything to the Service
/// itself where there are none.
pub fn rules(context: &mut Context<'_>, destination: Destination<'_>, viewer: &Name) -> Vec<Rule> {
    let routes = attach::routes(context, destination, Some(viewer));
    if routes.is_empty() {
        let name = format!("Service/{}/{}", destination.service.name, destination.port.port);
        return vec![pass(name.into(), destination.name(context))];
    }
    for route in &routes {
        let id = Id::Route(route.kind, route.name.clone());
        context.world.builds_from(id);
    }
    in_order(&routes)
        .into_iter()
        .map(|(route, said, found)| rule(context, route, said, found))
        .collect()
}

/// The rule that passes everything to one cluster.
fn pass(name: Name, cluster: Name) -> Rule {
    let backend = Backend {
        weight: 1,
        cluster: Some(cluster),
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
    };
    Rule {
        name,
        matches: RouteMatch {
            path: PathMatch::Prefix("/".into()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        },
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
        rewrite: Rewrite::default(),
        action: Action::Forward(vec![backend]),
        timeout: None,
        attempt_timeout: None,
        retry: None,
    }
}

fn rule(context: &mut Context<'_>, route: &Route, said: &RouteRule, found: &Match) -> Rule {
    let action = match &said.does {
        Does::Answer(action) => action.clone(),
        Does::Forward(backends) if backends.is_empty() => Action::Respond(NO_BACKEND_STATUS),
        Does::Forward(backends) => {
            Action::Forward(backends.iter().map(|named| backend(context, named)).collect())
        }
    };
    Rule {
        name: format!("{}/{}/{}", route.kind, route.name, said.name).into(),
        matches: found.when.clone(),
        request: said.request.clone(),
        response: said.response.clone(),
        rewrite: said.rewrite.clone(),
        action,
        timeout: said.timeout,
        attempt_timeout: said.attempt_timeout,
        retry: said.retry.clone(),
    }
}

fn backend(context: &mut Context<'_>, named: &BackendRef) -> Backend {
    let cluster = match &named.target {
        BackendTarget::Service(service, port) => {
            Destination::find(context, service, *port).map(|found| found.name(context))
        }
        BackendTarget::OtherKind(_) | BackendTarget::Refused => None,
    };
    Backend {
        weight: named.weight,
        cluster,
        request: named.request.clone(),
        response: named.response.clone(),
    }
}
