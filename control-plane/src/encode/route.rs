//! Route tables.

use std::time::Duration;

use weft_control_plane_core::dialect::Dialect;
use weft_control_plane_core::resource::{
    Action, Backend, HeaderEdit, PathMatch, PathRewrite, Retry, RouteMatch, RouteTable, Rule, ValueMatch,
    VirtualHost,
};
use weft_xds_proto::envoy::config::core::v3::{HeaderValue, HeaderValueOption, header_value_option};
use weft_xds_proto::envoy::config::route::v3 as route;
use weft_xds_proto::envoy::r#type::matcher::v3 as matcher;
use weft_xds_proto::names;

use super::{duration, number};

/// What foreign clients retry where neither route nor policy says anything: provably unprocessed requests only.
const SAFE_RETRIES: &str = "connect-failure,refused-stream";
const SAFE_RETRY_ATTEMPTS: u32 = 2;

/// gRPC status codes that `retry_on` has names for.
const GRPC_RETRY_NAMES: [(u32, &str); 5] = [
    (1, "cancelled"),
    (4, "deadline-exceeded"),
    (8, "resource-exhausted"),
    (13, "internal"),
    (14, "unavailable"),
];

/// Encodes route table `name`.
pub(super) fn encode(name: &str, value: &RouteTable, dialect: Dialect) -> route::RouteConfiguration {
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: value
            .hosts
            .iter()
            .map(|host| virtual_host(host, dialect))
            .collect(),
        ..route::RouteConfiguration::default()
    }
}

fn virtual_host(value: &VirtualHost, dialect: Dialect) -> route::VirtualHost {
    route::VirtualHost {
        name: value.name.to_string(),
        domains: value.domains.iter().map(ToString::to_string).collect(),
        routes: value
            .rules
            .iter()
            .map(|rule| encode_rule(rule, dialect))
            .collect(),
        ..route::VirtualHost::default()
    }
}

fn encode_rule(value: &Rule, dialect: Dialect) -> route::Route {
    let (request_add, request_remove) = header_edit(&value.request);
    let (response_add, response_remove) = header_edit(&value.response);
    route::Route {
        name: value.name.to_string(),
        r#match: Some(route_match(&value.matches, dialect)),
        request_headers_to_add: request_add,
        request_headers_to_remove: request_remove,
        response_headers_to_add: response_add,
        response_headers_to_remove: response_remove,
        action: Some(action(value, dialect)),
        ..route::Route::default()
    }
}

fn route_match(value: &RouteMatch, dialect: Dialect) -> route::RouteMatch {
    let method = value
        .method
        .iter()
        .map(|method| (":method", ValueMatch::Exact(method.clone())));
    let headers = value
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.clone()));
    route::RouteMatch {
        path_specifier: Some(path_match(&value.path, dialect)),
        headers: method
            .chain(headers)
            .map(|(name, value)| header_matcher(name, &value))
            .collect(),
        query_parameters: value
            .query
            .iter()
            .map(|(name, value)| query_matcher(name, value))
            .collect(),
        grpc: value
            .grpc
            .then(route::route_match::GrpcRouteMatchOptions::default),
        ..route::RouteMatch::default()
    }
}

/// By whole segments is `path_separated_prefix`, which may not be `/` and which gRPC does not know.
fn path_match(value: &PathMatch, dialect: Dialect) -> route::route_match::PathSpecifier {
    use route::route_match::PathSpecifier;
    match value {
        PathMatch::Exact(path) => PathSpecifier::Path(path.clone()),
        PathMatch::Prefix(prefix) if prefix == "/" => PathSpecifier::Prefix(prefix.clone()),
        PathMatch::Prefix(prefix) if dialect == Dialect::Grpc => {
            PathSpecifier::SafeRegex(regex(&format!("{}(/.*)?", escape(prefix))))
        }
        PathMatch::Prefix(prefix) => PathSpecifier::PathSeparatedPrefix(prefix.clone()),
        PathMatch::Regex(pattern) => PathSpecifier::SafeRegex(regex(pattern)),
    }
}

fn header_matcher(name: &str, value: &ValueMatch) -> route::HeaderMatcher {
    route::HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(route::header_matcher::HeaderMatchSpecifier::StringMatch(string(
            value,
        ))),
        ..route::HeaderMatcher::default()
    }
}

fn query_matcher(name: &str, value: &ValueMatch) -> route::QueryParameterMatcher {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    route::QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(string(value))),
    }
}

fn string(value: &ValueMatch) -> matcher::StringMatcher {
    use matcher::string_matcher::MatchPattern;
    let pattern = match value {
        ValueMatch::Exact(text) => MatchPattern::Exact(text.clone()),
        ValueMatch::Regex(pattern) => MatchPattern::SafeRegex(regex(pattern)),
    };
    matcher::StringMatcher {
        match_pattern: Some(pattern),
        ..matcher::StringMatcher::default()
    }
}

fn regex(pattern: &str) -> matcher::RegexMatcher {
    matcher::RegexMatcher {
        regex: pattern.to_owned(),
        ..matcher::RegexMatcher::default()
    }
}

fn escape(literal: &str) -> String {
    literal
        .chars()
        .flat_map(|c| {
            (!c.is_ascii_alphanumeric() && c.is_ascii())
                .then_some('\\')
                .into_iter()
                .chain([c])
        })
        .collect()
}

fn header_edit(value: &HeaderEdit) -> (Vec<HeaderValueOption>, Vec<String>) {
    use header_value_option::HeaderAppendAction::{AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    let option = |(key, value): &(String, String), action: header_value_option::HeaderAppendAction| {
        HeaderValueOption {
            header: Some(HeaderValue {
                key: key.clone(),
                value: value.clone(),
                ..HeaderValue::default()
            }),
            append_action: action.into(),
            ..HeaderValueOption::default()
        }
    };
    let set = value.set.iter().map(|pair| option(pair, OverwriteIfExistsOrAdd));
    let add = value.add.iter().map(|pair| option(pair, AppendIfExistsOrAdd));
    (set.chain(add).collect(), value.remove.clone())
}

fn action(rule: &Rule, dialect: Dialect) -> route::route::Action {
    use route::route::Action as Encoded;
    match &rule.action {
        Action::Respond(status) => Encoded::DirectResponse(respond(*status)),
        Action::Redirect {
            scheme,
            host,
            port,
            path,
            status,
        } => Encoded::Redirect(route::RedirectAction {
            host_redirect: host.clone().unwrap_or_default(),
            port_redirect: port.map_or(0, u32::from),
            response_code: redirect_code(*status).into(),
            scheme_rewrite_specifier: scheme
                .clone()
                .map(route::redirect_action::SchemeRewriteSpecifier::SchemeRedirect),
            path_rewrite_specifier: path.as_ref().map(|path| match path {
                PathRewrite::Full(path) => {
                    route::redirect_action::PathRewriteSpecifier::PathRedirect(path.clone())
                }
                PathRewrite::Prefix(prefix) => {
                    route::redirect_action::PathRewriteSpecifier::PrefixRewrite(prefix.clone())
                }
            }),
            ..route::RedirectAction::default()
        }),
        // Foreign clients refuse a set of weights that adds up to nothing.
        Action::Forward(backends)
            if dialect != Dialect::Weft && backends.iter().all(|backend| backend.weight == 0) =>
        {
            Encoded::DirectResponse(respond(503))
        }
        Action::Forward(backends) => Encoded::Route(forward(rule, backends, dialect)),
    }
}

fn respond(status: u16) -> route::DirectResponseAction {
    route::DirectResponseAction {
        status: status.into(),
        ..route::DirectResponseAction::default()
    }
}

fn redirect_code(status: u16) -> route::redirect_action::RedirectResponseCode {
    use route::redirect_action::RedirectResponseCode as Code;
    match status {
        301 => Code::MovedPermanently,
        303 => Code::SeeOther,
        307 => Code::TemporaryRedirect,
        308 => Code::PermanentRedirect,
        _ => Code::Found,
    }
}

fn forward(rule: &Rule, backends: &[Backend], dialect: Dialect) -> route::RouteAction {
    use route::route_action::{
        ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, MaxStreamDuration,
    };
    let clusters = backends.iter().map(cluster_weight).collect();
    let weighted = route::WeightedCluster {
        clusters,
        ..route::WeightedCluster::default()
    };
    let timeout = rule.timeout.unwrap_or_default();
    let encoded = route::RouteAction {
        cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)),
        cluster_not_found_response_code: ClusterNotFoundResponseCode::InternalServerError.into(),
        host_rewrite_specifier: rule
            .rewrite
            .host
            .clone()
            .map(HostRewriteSpecifier::HostRewriteLiteral),
        // Absent would be Envoy's default of 15 s; zero is none.
        timeout: Some(duration(timeout)),
        max_stream_duration: (dialect == Dialect::Grpc && timeout > Duration::ZERO).then(|| {
            MaxStreamDuration {
                max_stream_duration: Some(duration(timeout)),
                ..MaxStreamDuration::default()
            }
        }),
        retry_policy: retry_policy(rule, dialect),
        ..route::RouteAction::default()
    };
    rewrite_path(encoded, rule, dialect)
}

fn cluster_weight(value: &Backend) -> route::weighted_cluster::ClusterWeight {
    let (request_add, request_remove) = header_edit(&value.request);
    let (response_add, response_remove) = header_edit(&value.response);
    route::weighted_cluster::ClusterWeight {
        name: value
            .cluster
            .as_deref()
            .unwrap_or(names::INVALID_BACKEND)
            .to_owned(),
        weight: Some(number(value.weight)),
        request_headers_to_add: request_add,
        request_headers_to_remove: request_remove,
        response_headers_to_add: response_add,
        response_headers_to_remove: response_remove,
        ..route::weighted_cluster::ClusterWeight::default()
    }
}

fn rewrite_path(action: route::RouteAction, rule: &Rule, dialect: Dialect) -> route::RouteAction {
    let substitute = |pattern: String, substitution: String| {
        Some(matcher::RegexMatchAndSubstitute {
            pattern: Some(regex(&pattern)),
            substitution,
        })
    };
    match &rule.rewrite.path {
        None => action,
        Some(PathRewrite::Full(path)) => route::RouteAction {
            regex_rewrite: substitute(names::FULL_PATH_PATTERN.to_owned(), path.replace('\\', "\\\\")),
            ..action
        },
        // Envoy would turn `/a/b`, with `/a` replaced by `/`, into `//b`.
        Some(PathRewrite::Prefix(prefix)) if dialect == Dialect::Envoy && prefix.ends_with('/') => {
            let matched = match &rule.matches.path {
                PathMatch::Prefix(matched) => matched.trim_end_matches('/'),
                PathMatch::Exact(_) | PathMatch::Regex(_) => "",
            };
            route::RouteAction {
                regex_rewrite: substitute(format!("^{}/*", escape(matched)), prefix.replace('\\', "\\\\")),
                ..action
            }
        }
        Some(PathRewrite::Prefix(prefix)) => route::RouteAction {
            prefix_rewrite: prefix.clone(),
            ..action
        },
    }
}

/// For our proxy, absent `num_retries` means "as the cluster says": then only the time of one attempt is in here.
fn retry_policy(rule: &Rule, dialect: Dialect) -> Option<route::RetryPolicy> {
    let per_try_timeout = rule.attempt_timeout.map(duration);
    match (&rule.retry, dialect) {
        // gRPC refuses a policy of no retries.
        (Some(retry), Dialect::Grpc) if retry.attempts == 0 => None,
        (Some(retry), _) => Some(route::RetryPolicy {
            per_try_timeout,
            ..declared_retry(retry)
        }),
        (None, Dialect::Weft) => per_try_timeout.map(|timeout| route::RetryPolicy {
            per_try_timeout: Some(timeout),
            ..route::RetryPolicy::default()
        }),
        (None, Dialect::Envoy) => Some(route::RetryPolicy {
            retry_on: SAFE_RETRIES.to_owned(),
            num_retries: Some(number(SAFE_RETRY_ATTEMPTS)),
            per_try_timeout,
            ..route::RetryPolicy::default()
        }),
        // gRPC retries what is provably unprocessed by itself.
        (None, Dialect::Grpc) => None,
    }
}

fn declared_retry(retry: &Retry) -> route::RetryPolicy {
    let statuses = (!retry.statuses.is_empty()).then_some("retriable-status-codes");
    let codes = GRPC_RETRY_NAMES
        .iter()
        .filter(|(code, _)| retry.grpc_codes.contains(code))
        .map(|(_, name)| *name);
    let conditions: Vec<&str> = SAFE_RETRIES.split(',').chain(statuses).chain(codes).collect();
    route::RetryPolicy {
        retry_on: conditions.join(","),
        num_retries: Some(number(retry.attempts)),
        retriable_status_codes: retry.statuses.iter().map(|status| u32::from(*status)).collect(),
        retry_back_off: Some(route::retry_policy::RetryBackOff {
            base_interval: Some(duration(retry.backoff_base)),
            max_interval: Some(duration(retry.backoff_max)),
        }),
        ..route::RetryPolicy::default()
    }
}
