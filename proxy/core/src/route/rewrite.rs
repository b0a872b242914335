//! New paths and `Location`, by the rules of the Gateway API.

use std::fmt::Write as _;

use http::uri::{Authority, PathAndQuery};

use crate::resource::{Action, PathMatch, PathRewrite, Redirect, Rule};
use crate::route::RouteError;
use crate::route::matcher::without_slash;

/// What a redirected request asked for: what the redirect doesn't change stays.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The authority's host; an IPv6 address in brackets.
    pub host: &'a str,
    /// The authority's port, or the port that was dialled.
    pub port: Option<u16>,
    /// The path as sent.
    pub path: &'a str,
    /// The query as sent.
    pub query: Option<&'a str>,
}

/// Refuses what couldn't be put into a request or an answer later.
pub(super) fn check(rule: &Rule) -> Result<(), RouteError> {
    let (redirect, redirect_host) = match &rule.action {
        Action::Redirect(redirect) => (redirect.path.as_ref(), redirect.host.as_ref()),
        Action::Forward(_) | Action::Respond(_) => (None, None),
    };
    for rewrite in rule.rewrite.path.iter().chain(redirect) {
        let (PathRewrite::Full(path) | PathRewrite::Prefix(path)) = rewrite;
        if matches!(rewrite, PathRewrite::Prefix(_)) && !matches!(rule.matches.path, PathMatch::Prefix(_)) {
            return Err(RouteError::PrefixWithoutPrefix {
                rule: rule.name.clone(),
            });
        }
        if path.contains(['?', '#']) || PathAndQuery::try_from(rooted(path.clone())).is_err() {
            return Err(RouteError::Path {
                rule: rule.name.clone(),
                path: path.clone(),
            });
        }
    }
    match rule
        .rewrite
        .host
        .iter()
        .chain(redirect_host)
        .find(|host| Authority::try_from(host.as_str()).is_err())
    {
        Some(host) => Err(RouteError::Host {
            rule: rule.name.clone(),
            host: host.clone(),
        }),
        None => Ok(()),
    }
}

/// The new path for `path`, which `matched` matches.
pub(super) fn path(rewrite: &PathRewrite, matched: &PathMatch, path: &str) -> String {
    match (rewrite, matched) {
        (PathRewrite::Full(full), _) => rooted(full.clone()),
        (PathRewrite::Prefix(new), PathMatch::Prefix(old)) => {
            let rest = path.strip_prefix(without_slash(old)).unwrap_or(path);
            rooted(format!("{}{rest}", without_slash(new)))
        }
        // Compiling refuses it.
        (PathRewrite::Prefix(_), PathMatch::Exact(_) | PathMatch::Regex(_)) => path.to_owned(),
    }
}

fn rooted(path: String) -> String {
    if path.starts_with('/') {
        path
    } else {
        format!("/{path}")
    }
}

/// `Location`. A scheme without a port means the scheme's own port; neither means the port that was asked. The
/// scheme's own port is left out.
pub(super) fn location(redirect: &Redirect, asked: &Asked<'_>, path: &str) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(asked.scheme);
    let host = redirect.host.as_deref().unwrap_or(asked.host);
    let own_port = match scheme {
        "https" => Some(443),
        "http" => Some(80),
        _ => None,
    };
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => Some(port),
        (None, Some(_)) => None,
        (None, None) => asked.port,
    };
    let mut location = format!("{scheme}://{host}");
    // Writing to a string can't fail.
    if let Some(port) = port.filter(|&port| Some(port) != own_port) {
        let _ = write!(location, ":{port}");
    }
    location.push_str(path);
    if let Some(query) = asked.query {
        let _ = write!(location, "?{query}");
    }
    location
}
