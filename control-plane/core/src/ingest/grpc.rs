//! GRPCRoute. A method is a path: `/<service>/<method>`.

use weft_api::gateway::GrpcRoute as Object;
use weft_api::gateway::grpc as api;

use super::filter::{condition, header_modifier, reference, regular, value, weight};
use super::{Rejected, head};
use crate::resource::{Action, HeaderEdit, Name, PathMatch, Rewrite, RouteMatch};
use crate::world::rank::Specificity;
use crate::world::route::{BackendRef, BackendTarget, Does, Match, Route, RouteKind, RouteRule};

/// What a rule answers that can't be honoured (Gateway API).
const UNSUPPORTED_STATUS: u16 = 500;

/// One segment of a path, whatever it says.
const ANY_SEGMENT: &str = "[^/]+";

/// A GRPCRoute.
pub(super) fn route(object: &Object) -> Result<Route, Rejected> {
    let (name, created) = head(&object.metadata)?;
    let mut parents = Vec::new();
    for (index, written) in object.spec.parent_refs.iter().flatten().enumerate() {
        let section = written.section_name.as_deref();
        let field = format!("spec.parentRefs[{index}]");
        parents.extend(reference!(written, section).parent(&field, &name.namespace)?);
    }
    let mut unsupported = Vec::new();
    let mut rules = Vec::new();
    for (index, written) in object.spec.rules.iter().flatten().enumerate() {
        rules.push(rule(&name.namespace, index, written, &mut unsupported)?);
    }
    let hostnames = object
        .spec
        .hostnames
        .as_ref()
        .is_some_and(|hostnames| !hostnames.is_empty());
    Ok(Route {
        kind: RouteKind::Grpc,
        name,
        created,
        parents,
        rules,
        unsupported,
        hostnames,
    })
}

fn rule(
    namespace: &Name,
    index: usize,
    written: &api::GrpcRouteRules,
    unsupported: &mut Vec<String>,
) -> Result<RouteRule, Rejected> {
    let field = format!("spec.rules[{index}]");
    let mut matches = Vec::new();
    for (index, written) in written.matches.iter().flatten().enumerate() {
        matches.push(when(&format!("{field}.matches[{index}]"), written)?);
    }
    if matches.is_empty() {
        matches.push(when("", &api::GrpcRouteRulesMatches::default())?);
    }
    let (mut request, mut response) = (HeaderEdit::default(), HeaderEdit::default());
    let before = unsupported.len();
    for (index, filter) in written.filters.iter().flatten().enumerate() {
        let field = format!("{field}.filters[{index}]");
        if let Some(modifier) = &filter.request_header_modifier {
            header_modifier!(&field, &mut request, modifier)?;
        } else if let Some(modifier) = &filter.response_header_modifier {
            header_modifier!(&field, &mut response, modifier)?;
        } else {
            unsupported.push(format!(
                "{field}.type: the mesh doesn't do {:?} yet",
                filter.r#type
            ));
        }
    }
    let does = if unsupported.len() > before {
        Does::Answer(Action::Respond(UNSUPPORTED_STATUS))
    } else {
        Does::Forward(backends(namespace, &field, written, unsupported)?)
    };
    Ok(RouteRule {
        name: written
            .name
            .as_deref()
            .map_or_else(|| index.to_string().into(), Name::from),
        matches,
        request,
        response,
        rewrite: Rewrite::default(),
        does,
        timeout: None,
        attempt_timeout: None,
        retry: None,
    })
}

fn when(field: &str, written: &api::GrpcRouteRulesMatches) -> Result<Match, Rejected> {
    let mut headers = Vec::new();
    for (index, header) in written.headers.iter().flatten().enumerate() {
        let regex = matches!(
            header.r#type,
            Some(api::GrpcRouteRulesMatchesHeadersType::RegularExpression)
        );
        let value = value(&format!("{field}.headers[{index}].value"), regex, &header.value)?;
        condition(&mut headers, header.name.to_ascii_lowercase(), value);
    }
    let wanted = written.method.clone().unwrap_or_default();
    let regex = matches!(
        wanted.r#type,
        Some(api::GrpcRouteRulesMatchesMethodType::RegularExpression)
    );
    let service = wanted.service.as_deref().filter(|name| !name.is_empty());
    let method = wanted.method.as_deref().filter(|name| !name.is_empty());
    let rank = Specificity::grpc(
        regex,
        service.unwrap_or_default(),
        method.unwrap_or_default(),
        headers.len(),
    );
    let path = if regex {
        path_regex(field, service, method)?
    } else {
        path_exact(service, method)
    };
    Ok(Match {
        when: RouteMatch {
            path,
            method: None,
            headers,
            query: Vec::new(),
            grpc: true,
        },
        rank,
    })
}

fn path_exact(service: Option<&str>, method: Option<&str>) -> PathMatch {
    match (service, method) {
        (None, None) => PathMatch::Prefix("/".into()),
        (Some(service), None) => PathMatch::Prefix(format!("/{service}")),
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
        (None, Some(method)) => PathMatch::Regex(format!("/{ANY_SEGMENT}/{}", regex::escape(method))),
    }
}

fn path_regex(field: &str, service: Option<&str>, method: Option<&str>) -> Result<PathMatch, Rejected> {
    let part = |name: &str, written: Option<&str>| match written {
        Some(written) => Ok(format!(
            "(?:{})",
            regular(&format!("{field}.method.{name}"), written)?
        )),
        None => Ok(ANY_SEGMENT.to_owned()),
    };
    Ok(PathMatch::Regex(format!(
        "/{}/{}",
        part("service", service)?,
        part("method", method)?
    )))
}

fn backends(
    namespace: &Name,
    field: &str,
    written: &api::GrpcRouteRules,
    unsupported: &mut Vec<String>,
) -> Result<Vec<BackendRef>, Rejected> {
    let mut backends = Vec::new();
    for (index, written) in written.backend_refs.iter().flatten().enumerate() {
        let field = format!("{field}.backendRefs[{index}]");
        let mut backend = BackendRef {
            weight: weight(&field, written.weight)?,
            target: reference!(written, None).backend(&field, namespace)?,
            request: HeaderEdit::default(),
            response: HeaderEdit::default(),
        };
        for (index, filter) in written.filters.iter().flatten().enumerate() {
            let field = format!("{field}.filters[{index}]");
            if let Some(modifier) = &filter.request_header_modifier {
                header_modifier!(&field, &mut backend.request, modifier)?;
            } else if let Some(modifier) = &filter.response_header_modifier {
                header_modifier!(&field, &mut backend.response, modifier)?;
            } else {
                unsupported.push(format!(
                    "{field}.type: the mesh doesn't do {:?} on a backend yet",
                    filter.r#type
                ));
                backend.target = BackendTarget::Refused;
            }
        }
        backends.push(backend);
    }
    Ok(backends)
}
