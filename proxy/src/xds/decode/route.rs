//! `RouteConfiguration` -> [`RouteConfig`].

use http::{HeaderName, HeaderValue, Method, StatusCode};
use weft_proxy_core::hygiene::may_be_edited;
use weft_proxy_core::resource::{
    Action, Backoff, HeaderEdit, HeaderMatch, PathMatch, PathRewrite, QueryMatch, Redirect, Retry, Rewrite,
    RouteConfig, RouteMatch, Rule, Target, ValueMatch, WeightedBackend,
};
use weft_proxy_core::route::Table;
use weft_xds_proto::envoy::config::core::v3::{HeaderValueOption, header_value_option::HeaderAppendAction};
use weft_xds_proto::envoy::config::route::v3 as route;
use weft_xds_proto::envoy::r#type::matcher::v3 as matcher;
use weft_xds_proto::names;

use super::{DecodeError, RULES_MAX, duration, invalid, too_many};

/// Characters of one pattern, at most.
pub(super) const PATTERN_MAX: usize = 1_024;
/// Regular expressions of one route table, at most: each may take a quarter of a MiB when it is compiled.
pub(super) const PATTERNS_MAX: usize = 256;
/// gRPC requests are told by this.
const GRPC_CONTENT_TYPE: &str = "application/grpc([+;].*)?";

/// Decodes one route table: the rules of its only virtual host.
pub(super) fn decode(value: &route::RouteConfiguration) -> Result<RouteConfig, DecodeError> {
    let [host] = value.virtual_hosts.as_slice() else {
        return Err(invalid("virtual_hosts", "a destination has exactly one"));
    };
    if host.routes.len() > RULES_MAX {
        return Err(too_many("routes", "rules", RULES_MAX));
    }
    let rules: Vec<Rule> = host.routes.iter().map(decode_rule).collect::<Result<_, _>>()?;
    if rules.iter().map(patterns).sum::<usize>() > PATTERNS_MAX {
        return Err(too_many("routes", "regular expressions", PATTERNS_MAX));
    }
    let config = RouteConfig {
        name: value.name.as_str().into(),
        rules,
    };
    // Patterns and rewrites are checked by what will use them.
    Table::compile(&config).map_err(|error| invalid("routes", error.to_string()))?;
    Ok(config)
}

fn decode_rule(value: &route::Route) -> Result<Rule, DecodeError> {
    let matches = route_match(
        value
            .r#match
            .as_ref()
            .ok_or_else(|| invalid("route.match", "is missing"))?,
    )?;
    let request = header_edit(&value.request_headers_to_add, &value.request_headers_to_remove)?;
    let response = header_edit(&value.response_headers_to_add, &value.response_headers_to_remove)?;
    let rule = Rule {
        name: value.name.as_str().into(),
        matches,
        request,
        response,
        rewrite: Rewrite::default(),
        action: Action::Forward(Vec::new()),
        timeout: None,
        attempt_timeout: None,
        retry: None,
    };
    match &value.action {
        Some(route::route::Action::DirectResponse(direct)) => Ok(Rule {
            action: Action::Respond(status("direct_response.status", direct.status)?),
            ..rule
        }),
        Some(route::route::Action::Redirect(value)) => Ok(Rule {
            action: Action::Redirect(redirect(value)?),
            ..rule
        }),
        Some(route::route::Action::Route(action)) => forward(rule, action),
        _ => Err(invalid(
            "route.action",
            "must be route, redirect or direct_response",
        )),
    }
}

/// How many regular expressions a rule has of its own.
fn patterns(rule: &Rule) -> usize {
    let RouteMatch {
        path, headers, query, ..
    } = &rule.matches;
    let headers = headers.iter().map(|header| &header.value);
    let own = |value: &&ValueMatch| matches!(value, ValueMatch::Regex(text) if text != GRPC_CONTENT_TYPE);
    let values = headers.chain(query.iter().map(|query| &query.value)).filter(own);
    values.count() + usize::from(matches!(path, PathMatch::Regex(_)))
}

fn route_match(value: &route::RouteMatch) -> Result<RouteMatch, DecodeError> {
    let mut method = None;
    let mut headers = Vec::new();
    for item in &value.headers {
        if item.name == ":method" {
            method = Some(exact_method(item)?);
        } else {
            headers.push(header_match(item)?);
        }
    }
    if value.grpc.is_some() {
        headers.push(HeaderMatch {
            name: http::header::CONTENT_TYPE,
            value: ValueMatch::Regex(GRPC_CONTENT_TYPE.to_owned()),
        });
    }
    let query = value
        .query_parameters
        .iter()
        .map(query_match)
        .collect::<Result<_, _>>()?;
    Ok(RouteMatch {
        path: path_match(value.path_specifier.as_ref())?,
        method,
        headers,
        query,
    })
}

fn path_match(value: Option<&route::route_match::PathSpecifier>) -> Result<PathMatch, DecodeError> {
    use route::route_match::PathSpecifier;
    match value {
        Some(PathSpecifier::Path(path)) => Ok(PathMatch::Exact(absolute("match.path", path)?)),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => Ok(PathMatch::Prefix(absolute(
            "match.path_separated_prefix",
            prefix,
        )?)),
        Some(PathSpecifier::Prefix(prefix)) if prefix == "/" => Ok(PathMatch::Prefix(prefix.clone())),
        Some(PathSpecifier::SafeRegex(pattern)) => Ok(PathMatch::Regex(regex("match.safe_regex", pattern)?)),
        _ => Err(invalid(
            "match",
            "must hold path, path_separated_prefix, prefix `/` or safe_regex",
        )),
    }
}

fn absolute(field: &'static str, path: &str) -> Result<String, DecodeError> {
    if path.starts_with('/') {
        Ok(path.to_owned())
    } else {
        Err(invalid(field, "must start with `/`"))
    }
}

fn exact_method(value: &route::HeaderMatcher) -> Result<Method, DecodeError> {
    match header_match_value(value)? {
        ValueMatch::Exact(method) => method
            .parse()
            .map_err(|_| invalid("match.method", format!("{method:?} is not a method"))),
        ValueMatch::Regex(_) | ValueMatch::Present => Err(invalid("match.method", "must be exact")),
    }
}

fn header_match(value: &route::HeaderMatcher) -> Result<HeaderMatch, DecodeError> {
    let name = header_name("match.headers", &value.name)?;
    Ok(HeaderMatch {
        name,
        value: header_match_value(value)?,
    })
}

fn header_match_value(value: &route::HeaderMatcher) -> Result<ValueMatch, DecodeError> {
    use route::header_matcher::HeaderMatchSpecifier;
    if value.invert_match {
        return Err(invalid(
            "match.headers",
            "invert_match is not known to this proxy",
        ));
    }
    match &value.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(text)) => string_match("match.headers", text),
        Some(HeaderMatchSpecifier::PresentMatch(true)) => Ok(ValueMatch::Present),
        _ => Err(invalid("match.headers", "must be string_match or present_match")),
    }
}

fn query_match(value: &route::QueryParameterMatcher) -> Result<QueryMatch, DecodeError> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    let decoded = match &value.query_parameter_match_specifier {
        Some(QueryParameterMatchSpecifier::StringMatch(text)) => {
            string_match("match.query_parameters", text)?
        }
        Some(QueryParameterMatchSpecifier::PresentMatch(true)) => ValueMatch::Present,
        _ => {
            return Err(invalid(
                "match.query_parameters",
                "must be string_match or present_match",
            ));
        }
    };
    Ok(QueryMatch {
        name: value.name.clone(),
        value: decoded,
    })
}

fn string_match(field: &'static str, value: &matcher::StringMatcher) -> Result<ValueMatch, DecodeError> {
    use matcher::string_matcher::MatchPattern;
    match &value.match_pattern {
        Some(MatchPattern::Exact(text)) if !value.ignore_case => Ok(ValueMatch::Exact(text.clone())),
        Some(MatchPattern::SafeRegex(pattern)) => Ok(ValueMatch::Regex(regex(field, pattern)?)),
        _ => Err(invalid(field, "must be exact or safe_regex")),
    }
}

fn regex(field: &'static str, value: &matcher::RegexMatcher) -> Result<String, DecodeError> {
    if value.regex.len() > PATTERN_MAX {
        return Err(too_many(field, "characters in a pattern", PATTERN_MAX));
    }
    Ok(value.regex.clone())
}

fn header_name(field: &'static str, name: &str) -> Result<HeaderName, DecodeError> {
    HeaderName::try_from(name).map_err(|_| invalid(field, format!("{name:?} is not a header name")))
}

fn edited(field: &'static str, name: &str) -> Result<HeaderName, DecodeError> {
    let name = header_name(field, name)?;
    if may_be_edited(&name) {
        return Ok(name);
    }
    Err(invalid(
        field,
        format!("{name} is written by sidecars themselves, and no route may change it"),
    ))
}

fn header_edit(add: &[HeaderValueOption], remove: &[String]) -> Result<HeaderEdit, DecodeError> {
    const FIELD: &str = "headers_to_add";
    let mut edit = HeaderEdit {
        remove: remove
            .iter()
            .map(|name| edited("headers_to_remove", name))
            .collect::<Result<_, _>>()?,
        ..HeaderEdit::default()
    };
    for option in add {
        let header = option
            .header
            .as_ref()
            .ok_or_else(|| invalid(FIELD, "header is missing"))?;
        let name = edited(FIELD, &header.key)?;
        let value = HeaderValue::from_str(&header.value)
            .map_err(|_| invalid(FIELD, format!("the value of {name} is not a header value")))?;
        match HeaderAppendAction::try_from(option.append_action) {
            Ok(HeaderAppendAction::AppendIfExistsOrAdd) => edit.add.push((name, value)),
            Ok(HeaderAppendAction::OverwriteIfExistsOrAdd) => edit.set.push((name, value)),
            _ => return Err(invalid(FIELD, "append_action must be append or overwrite")),
        }
    }
    Ok(edit)
}

fn status(field: &'static str, value: u32) -> Result<StatusCode, DecodeError> {
    u16::try_from(value)
        .ok()
        .and_then(|value| StatusCode::from_u16(value).ok())
        .filter(|status| status.as_u16() >= 200 && status.as_u16() < 600)
        .ok_or_else(|| invalid(field, format!("{value} is not a final status")))
}

fn redirect(value: &route::RedirectAction) -> Result<Redirect, DecodeError> {
    use route::redirect_action::{
        PathRewriteSpecifier, RedirectResponseCode as Code, SchemeRewriteSpecifier,
    };
    let scheme = match &value.scheme_rewrite_specifier {
        None => None,
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => Some(scheme.clone()),
        Some(SchemeRewriteSpecifier::HttpsRedirect(https)) => https.then(|| "https".to_owned()),
    };
    let path = match &value.path_rewrite_specifier {
        None => None,
        Some(PathRewriteSpecifier::PathRedirect(path)) => Some(PathRewrite::Full(path.clone())),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => Some(PathRewrite::Prefix(prefix.clone())),
        Some(PathRewriteSpecifier::RegexRewrite(_) | PathRewriteSpecifier::PathRewrite(_)) => {
            return Err(invalid("redirect", "patterns are not known to this proxy"));
        }
    };
    let status = match Code::try_from(value.response_code) {
        Ok(Code::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(Code::Found) => StatusCode::FOUND,
        Ok(Code::SeeOther) => StatusCode::SEE_OTHER,
        Ok(Code::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(Code::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return Err(invalid("redirect.response_code", "is not a redirect")),
    };
    Ok(Redirect {
        scheme,
        host: (!value.host_redirect.is_empty()).then(|| value.host_redirect.clone()),
        port: match value.port_redirect {
            0 => None,
            port => Some(super::port_number("redirect.port_redirect", port)?),
        },
        path,
        status,
    })
}

fn forward(rule: Rule, value: &route::RouteAction) -> Result<Rule, DecodeError> {
    use route::route_action::{ClusterSpecifier, HostRewriteSpecifier};
    let Some(ClusterSpecifier::WeightedClusters(clusters)) = &value.cluster_specifier else {
        return Err(invalid("route.cluster_specifier", "must be weighted_clusters"));
    };
    let host = match &value.host_rewrite_specifier {
        None => None,
        Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => Some(host.clone()),
        Some(_) => return Err(invalid("route.host_rewrite", "must be literal")),
    };
    let policy = value.retry_policy.as_ref();
    Ok(Rule {
        action: Action::Forward(backends(&clusters.clusters)?),
        rewrite: Rewrite {
            host,
            path: path_rewrite(value)?,
        },
        timeout: duration("route.timeout", value.timeout)?.filter(|timeout| !timeout.is_zero()),
        attempt_timeout: duration(
            "retry_policy.per_try_timeout",
            policy.and_then(|policy| policy.per_try_timeout),
        )?
        .filter(|timeout| !timeout.is_zero()),
        retry: policy.map(retry).transpose()?.flatten(),
        ..rule
    })
}

fn path_rewrite(value: &route::RouteAction) -> Result<Option<PathRewrite>, DecodeError> {
    if let Some(rewrite) = &value.regex_rewrite {
        let pattern = rewrite.pattern.as_ref().map(|pattern| pattern.regex.as_str());
        if pattern != Some(names::FULL_PATH_PATTERN) {
            return Err(invalid(
                "route.regex_rewrite",
                "only the whole path can be replaced",
            ));
        }
        return Ok(Some(PathRewrite::Full(
            rewrite.substitution.replace("\\\\", "\\"),
        )));
    }
    Ok((!value.prefix_rewrite.is_empty()).then(|| PathRewrite::Prefix(value.prefix_rewrite.clone())))
}

fn backends(
    clusters: &[route::weighted_cluster::ClusterWeight],
) -> Result<Vec<WeightedBackend>, DecodeError> {
    let decoded: Vec<WeightedBackend> = clusters.iter().map(backend).collect::<Result<_, _>>()?;
    let total = decoded
        .iter()
        .try_fold(0u32, |sum, backend| sum.checked_add(backend.weight));
    if total.is_none() {
        return Err(invalid(
            "weighted_clusters",
            "the weights add up to more than 4294967295",
        ));
    }
    Ok(decoded)
}

fn backend(value: &route::weighted_cluster::ClusterWeight) -> Result<WeightedBackend, DecodeError> {
    let target = match value.name.as_str() {
        "" => return Err(invalid("weighted_clusters.name", "is missing")),
        names::INVALID_BACKEND => Target::Invalid,
        name => Target::Cluster(name.into()),
    };
    Ok(WeightedBackend {
        weight: value.weight.as_ref().map_or(0, |weight| weight.value),
        target,
        request: header_edit(&value.request_headers_to_add, &value.request_headers_to_remove)?,
        response: header_edit(&value.response_headers_to_add, &value.response_headers_to_remove)?,
    })
}

/// Absent `num_retries`: as the cluster says.
fn retry(value: &route::RetryPolicy) -> Result<Option<Retry>, DecodeError> {
    let Some(attempts) = &value.num_retries else {
        return Ok(None);
    };
    let statuses = value
        .retriable_status_codes
        .iter()
        .map(|code| status("retry_policy.retriable_status_codes", *code))
        .collect::<Result<_, _>>()?;
    let default = Backoff::default();
    let backoff = value.retry_back_off.as_ref();
    let base = duration(
        "retry_back_off.base_interval",
        backoff.and_then(|backoff| backoff.base_interval),
    )?;
    let max = duration(
        "retry_back_off.max_interval",
        backoff.and_then(|backoff| backoff.max_interval),
    )?;
    Ok(Some(Retry {
        attempts: attempts.value,
        statuses,
        grpc_codes: value.retry_on.split(',').filter_map(grpc_code).collect(),
        backoff: Backoff {
            base: base.unwrap_or(default.base),
            max: max.unwrap_or(default.max),
        },
    }))
}

/// The gRPC conditions among Envoy's names for `retry_on`.
fn grpc_code(condition: &str) -> Option<u32> {
    match condition {
        "cancelled" => Some(1),
        "deadline-exceeded" => Some(4),
        "resource-exhausted" => Some(8),
        "internal" => Some(13),
        "unavailable" => Some(14),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weft_xds_proto::envoy::config::core::v3::HeaderValue;

    #[test]
    fn a_table_has_so_many_regular_expressions_and_no_more() {
        let rule = |number: usize| route::Route {
            r#match: Some(route::RouteMatch {
                path_specifier: Some(route::route_match::PathSpecifier::SafeRegex(
                    matcher::RegexMatcher {
                        regex: format!("/{number}/.*"),
                        ..matcher::RegexMatcher::default()
                    },
                )),
                grpc: Some(route::route_match::GrpcRouteMatchOptions::default()),
                ..route::RouteMatch::default()
            }),
            action: Some(route::route::Action::DirectResponse(
                route::DirectResponseAction {
                    status: 404,
                    ..route::DirectResponseAction::default()
                },
            )),
            ..route::Route::default()
        };
        let table = |rules: usize| route::RouteConfiguration {
            virtual_hosts: vec![route::VirtualHost {
                routes: (0..rules).map(rule).collect(),
                ..route::VirtualHost::default()
            }],
            ..route::RouteConfiguration::default()
        };
        assert_eq!(decode(&table(PATTERNS_MAX)).unwrap().rules.len(), PATTERNS_MAX);
        let error = decode(&table(PATTERNS_MAX + 1)).unwrap_err();
        assert!(error.to_string().contains("regular expressions"), "{error}");
    }

    #[test]
    fn headers_that_sidecars_write_are_edited_by_no_route() {
        let set = |name: &str| HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_owned(),
                value: "v".to_owned(),
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        };
        let edit = header_edit(&[set("x-canary")], &["x-debug".to_owned()]).unwrap();
        assert_eq!((edit.add.len(), edit.remove.len()), (1, 1));
        for name in ["host", "transfer-encoding", "x-weft-client-id"] {
            let added = header_edit(&[set(name)], &[]).unwrap_err();
            let removed = header_edit(&[], &[name.to_owned()]).unwrap_err();
            for error in [added, removed] {
                assert!(error.to_string().contains(name), "{error}");
            }
        }
    }
}
