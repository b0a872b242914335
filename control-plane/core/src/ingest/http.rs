//! HTTPRoute.

use std::time::Duration;

use weft_api::gateway::HttpRoute as Object;
use weft_api::gateway::http as api;
use weft_api::traffic_policy::defaults;

use super::filter::{condition, header_modifier, reference, regular, value, weight};
use super::{Rejected, head, port};
use crate::resource::{Action, HeaderEdit, Name, PathMatch, PathRewrite, Retry, Rewrite, RouteMatch};
use crate::world::rank::Specificity;
use crate::world::route::{BackendRef, BackendTarget, Does, Match, Route, RouteKind, RouteRule};

/// The status of a redirect that names none.
const REDIRECT_STATUS: i64 = 302;

/// What a rule answers that can't be honoured (Gateway API).
const UNSUPPORTED_STATUS: u16 = 500;

/// How much longer than the first wait any wait may be, where a route names only the first.
const BACKOFF_MAX_FACTOR: u32 = 10;

/// An HTTPRoute.
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
        let reader = RuleReader {
            field: format!("spec.rules[{index}]"),
            namespace: &name.namespace,
        };
        rules.push(reader.rule(index, written, &mut unsupported)?);
    }
    let hostnames = object
        .spec
        .hostnames
        .as_ref()
        .is_some_and(|hostnames| !hostnames.is_empty());
    Ok(Route {
        kind: RouteKind::Http,
        name,
        created,
        parents,
        rules,
        unsupported,
        hostnames,
    })
}

/// Reads one rule of a route.
struct RuleReader<'a> {
    field: String,
    namespace: &'a Name,
}

/// What a rule's filters come to.
#[derive(Default)]
struct Filters {
    request: HeaderEdit,
    response: HeaderEdit,
    rewrite: Rewrite,
    redirect: Option<Action>,
}

impl RuleReader<'_> {
    fn rule(
        &self,
        index: usize,
        written: &api::HttpRouteRules,
        unsupported: &mut Vec<String>,
    ) -> Result<RouteRule, Rejected> {
        let mut matches = Vec::new();
        for (index, written) in written.matches.iter().flatten().enumerate() {
            matches.push(when(&format!("{}.matches[{index}]", self.field), written)?);
        }
        if matches.is_empty() {
            matches.push(when("", &api::HttpRouteRulesMatches::default())?);
        }
        let before = unsupported.len();
        let filters = self.filters(written, unsupported)?;
        if written.session_persistence.is_some() {
            unsupported.push(format!(
                "{}.sessionPersistence: the mesh doesn't do this yet",
                self.field
            ));
        }
        self.check_prefixes(&filters, &matches, unsupported);
        let does = if unsupported.len() > before {
            Does::Answer(Action::Respond(UNSUPPORTED_STATUS))
        } else if let Some(redirect) = filters.redirect {
            Does::Answer(redirect)
        } else {
            Does::Forward(self.backends(written, unsupported)?)
        };
        let timeouts = written.timeouts.clone().unwrap_or_default();
        Ok(RouteRule {
            name: written
                .name
                .as_deref()
                .map_or_else(|| index.to_string().into(), Name::from),
            matches,
            request: filters.request,
            response: filters.response,
            rewrite: filters.rewrite,
            does,
            timeout: self.limit("timeouts.request", timeouts.request.as_deref())?,
            attempt_timeout: self.limit("timeouts.backendRequest", timeouts.backend_request.as_deref())?,
            retry: written
                .retry
                .as_ref()
                .map(|retry| self.retry(retry))
                .transpose()?,
        })
    }

    fn filters(
        &self,
        written: &api::HttpRouteRules,
        unsupported: &mut Vec<String>,
    ) -> Result<Filters, Rejected> {
        let mut filters = Filters::default();
        for (index, filter) in written.filters.iter().flatten().enumerate() {
            let field = format!("{}.filters[{index}]", self.field);
            if let Some(modifier) = &filter.request_header_modifier {
                header_modifier!(&field, &mut filters.request, modifier)?;
            } else if let Some(modifier) = &filter.response_header_modifier {
                header_modifier!(&field, &mut filters.response, modifier)?;
            } else if let Some(rewrite) = &filter.url_rewrite {
                filters.rewrite.host.clone_from(&rewrite.hostname);
                filters.rewrite.path = rewrite.path.as_ref().and_then(|path| {
                    rewritten(
                        path.replace_full_path.as_ref(),
                        path.replace_prefix_match.as_ref(),
                    )
                });
            } else if let Some(redirect) = &filter.request_redirect {
                filters.redirect = Some(redirection(&field, redirect)?);
            } else {
                unsupported.push(format!(
                    "{field}.type: the mesh doesn't do {:?} yet",
                    filter.r#type
                ));
            }
        }
        Ok(filters)
    }

    /// A prefix can be replaced only where a prefix was matched.
    fn check_prefixes(&self, filters: &Filters, matches: &[Match], unsupported: &mut Vec<String>) {
        let redirected = match &filters.redirect {
            Some(Action::Redirect { path, .. }) => path.as_ref(),
            _ => None,
        };
        let paths = [filters.rewrite.path.as_ref(), redirected];
        let replaces = paths
            .into_iter()
            .flatten()
            .any(|path| matches!(path, PathRewrite::Prefix(_)));
        if replaces
            && matches
                .iter()
                .any(|found| !matches!(found.when.path, PathMatch::Prefix(_)))
        {
            let why = "needs matches of type PathPrefix, in every match of the rule";
            unsupported.push(format!("{}.filters: replacePrefixMatch {why}", self.field));
        }
    }

    fn backends(
        &self,
        written: &api::HttpRouteRules,
        unsupported: &mut Vec<String>,
    ) -> Result<Vec<BackendRef>, Rejected> {
        let mut backends = Vec::new();
        for (index, written) in written.backend_refs.iter().flatten().enumerate() {
            let field = format!("{}.backendRefs[{index}]", self.field);
            let mut backend = BackendRef {
                weight: weight(&field, written.weight)?,
                target: reference!(written, None).backend(&field, self.namespace)?,
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

    /// A time limit; `0s` (no limit) is the same as none.
    fn limit(&self, field: &str, written: Option<&str>) -> Result<Option<Duration>, Rejected> {
        let Some(written) = written else { return Ok(None) };
        let parsed = duration(&format!("{}.{field}", self.field), written)?;
        Ok(Some(parsed).filter(|limit| !limit.is_zero()))
    }

    fn retry(&self, written: &api::HttpRouteRulesRetry) -> Result<Retry, Rejected> {
        let field = format!("{}.retry", self.field);
        let attempts = written
            .attempts
            .map_or(Ok(defaults::RETRY_ATTEMPTS), u32::try_from);
        let attempts =
            attempts.map_err(|_| Rejected::new(format!("{field}.attempts"), "must be 0 or more"))?;
        let mut statuses = Vec::new();
        for (index, code) in written.codes.iter().flatten().enumerate() {
            let status = u16::try_from(*code)
                .ok()
                .filter(|status| (400..600).contains(status));
            let why = || {
                Rejected::new(
                    format!("{field}.codes[{index}]"),
                    format!("{code} is not within 400 to 599"),
                )
            };
            statuses.push(status.ok_or_else(why)?);
        }
        statuses.sort_unstable();
        statuses.dedup();
        let backoff = written.backoff.as_deref();
        let base = backoff
            .map(|written| duration(&format!("{field}.backoff"), written))
            .transpose()?;
        Ok(Retry {
            attempts,
            statuses,
            grpc_codes: Vec::new(),
            backoff_base: base.unwrap_or(defaults::BACKOFF_BASE.get()),
            backoff_max: base.map_or(defaults::BACKOFF_MAX.get(), |base| {
                base.saturating_mul(BACKOFF_MAX_FACTOR)
            }),
        })
    }
}

fn when(field: &str, written: &api::HttpRouteRulesMatches) -> Result<Match, Rejected> {
    let mut headers = Vec::new();
    for (index, header) in written.headers.iter().flatten().enumerate() {
        let regex = matches!(
            header.r#type,
            Some(api::HttpRouteRulesMatchesHeadersType::RegularExpression)
        );
        let value = value(&format!("{field}.headers[{index}].value"), regex, &header.value)?;
        condition(&mut headers, header.name.to_ascii_lowercase(), value);
    }
    let mut query = Vec::new();
    for (index, param) in written.query_params.iter().flatten().enumerate() {
        let regex = matches!(
            param.r#type,
            Some(api::HttpRouteRulesMatchesQueryParamsType::RegularExpression)
        );
        let value = value(
            &format!("{field}.queryParams[{index}].value"),
            regex,
            &param.value,
        )?;
        condition(&mut query, param.name.clone(), value);
    }
    let path = path(&format!("{field}.path.value"), written.path.as_ref())?;
    let method = written.method.as_ref().map(|found| method(found).to_owned());
    let when = RouteMatch {
        path,
        method,
        headers,
        query,
        grpc: false,
    };
    Ok(Match {
        rank: Specificity::http(&when),
        when,
    })
}

fn duration(field: &str, written: &str) -> Result<Duration, Rejected> {
    let parsed = written.parse::<weft_api::duration::Duration>();
    parsed
        .map(weft_api::duration::Duration::get)
        .map_err(|error| Rejected::new(field, error.to_string()))
}

fn path(field: &str, written: Option<&api::HttpRouteRulesMatchesPath>) -> Result<PathMatch, Rejected> {
    let value = written.and_then(|path| path.value.as_deref()).unwrap_or("/");
    Ok(match written.and_then(|path| path.r#type.as_ref()) {
        Some(api::HttpRouteRulesMatchesPathType::Exact) => PathMatch::Exact(value.into()),
        Some(api::HttpRouteRulesMatchesPathType::RegularExpression) => {
            PathMatch::Regex(regular(field, value)?)
        }
        Some(api::HttpRouteRulesMatchesPathType::PathPrefix) | None => {
            let trimmed = value.trim_end_matches('/');
            PathMatch::Prefix(if trimmed.is_empty() {
                "/".into()
            } else {
                trimmed.into()
            })
        }
    })
}

fn method(written: &api::HttpRouteRulesMatchesMethod) -> &'static str {
    use api::HttpRouteRulesMatchesMethod as Method;
    match written {
        Method::Get => "GET",
        Method::Head => "HEAD",
        Method::Post => "POST",
        Method::Put => "PUT",
        Method::Delete => "DELETE",
        Method::Connect => "CONNECT",
        Method::Options => "OPTIONS",
        Method::Trace => "TRACE",
        Method::Patch => "PATCH",
    }
}

fn rewritten(full: Option<&String>, prefix: Option<&String>) -> Option<PathRewrite> {
    let full = full.map(|path| PathRewrite::Full(path.clone()));
    full.or_else(|| prefix.map(|path| PathRewrite::Prefix(path.clone())))
}

/// A redirect that names a scheme but no port goes to the scheme's own port.
fn redirection(field: &str, written: &api::HttpRouteRulesFiltersRequestRedirect) -> Result<Action, Rejected> {
    use api::HttpRouteRulesFiltersRequestRedirectScheme as Scheme;
    let (scheme, own_port) = match &written.scheme {
        None => (None, None),
        Some(Scheme::Http) => (Some("http".to_owned()), Some(80)),
        Some(Scheme::Https) => (Some("https".to_owned()), Some(443)),
    };
    let port = written
        .port
        .map(|number| port(&format!("{field}.requestRedirect.port"), number))
        .transpose()?;
    let path = written.path.as_ref();
    let path = path.and_then(|path| {
        rewritten(
            path.replace_full_path.as_ref(),
            path.replace_prefix_match.as_ref(),
        )
    });
    let status = written.status_code.unwrap_or(REDIRECT_STATUS);
    let known = u16::try_from(status)
        .ok()
        .filter(|status| matches!(status, 301 | 302 | 303 | 307 | 308));
    let unknown = || {
        let field = format!("{field}.requestRedirect.statusCode");
        Rejected::new(field, format!("{status} is not one of 301, 302, 303, 307, 308"))
    };
    Ok(Action::Redirect {
        scheme,
        host: written.hostname.clone(),
        port: port.or(own_port),
        path,
        status: known.ok_or_else(unknown)?,
    })
}
