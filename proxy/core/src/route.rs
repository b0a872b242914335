//! Routes: a route table compiled once, and found in for every request without allocating.
//!
//! Rules stand in their order of precedence (the control plane sorts by the Gateway API's rules), the first that
//! matches wins. Everything is compared as bytes: a header value that isn't UTF-8 can neither slip through a rule nor
//! fail it by that alone.
//!
//! What is compared, where the Gateway API leaves room:
//! - a path is compared as it was sent, without decoding `%xx`: whoever wants `/%61` to be `/a` must say so;
//! - a header that was sent several times is its values joined by `,` (`cookie`: by `; `, RFC 9113, 8.2.3);
//! - of a query parameter the first occurrence counts. Name and value match as sent, or else with `%xx` and `+`
//!   decoded, so that both `a%20b` and `a b` can be written in a rule;
//! - a regular expression must match the whole of what it is compared with, and sees bytes: `.` is any byte but a
//!   line feed. `(?u)` switches to characters.

use std::fmt;

use http::{HeaderMap, Method};

use crate::resource::{
    Action, HeaderEdit, Name, PathRewrite, Rewrite, RouteConfig, Rule, Target, WeightedBackend,
};

use matcher::Matcher;

mod matcher;
mod rewrite;

pub use rewrite::Asked;

/// Why a route table can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A regular expression is wrong or too large.
    #[error(
        "rule {rule}: the regular expression `{pattern}` for {what} can't be used: {reason}; use RE2 syntax, without look-around and back-references"
    )]
    Pattern {
        /// The rule's name.
        rule: Name,
        /// What it is compared with.
        what: String,
        /// As written.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A prefix is to be replaced in a path that isn't matched by prefix.
    #[error(
        "rule {rule}: replaces a path prefix, but doesn't match by path prefix; match by `PathPrefix` or replace the full path"
    )]
    PrefixWithoutPrefix {
        /// The rule's name.
        rule: Name,
    },
    /// A new path, or part of one, that can't stand in a request.
    #[error(
        "rule {rule}: `{path}` can't be a path; percent-encode what isn't allowed in one, and leave out query and fragment"
    )]
    Path {
        /// The rule's name.
        rule: Name,
        /// As written.
        path: String,
    },
    /// A new host that can't stand in a request.
    #[error("rule {rule}: `{host}` can't be a host")]
    Host {
        /// The rule's name.
        rule: Name,
        /// As written.
        host: String,
    },
}

/// What a rule is matched against.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The method.
    pub method: &'a Method,
    /// The path as sent, without the query.
    pub path: &'a str,
    /// The query as sent, without the `?`.
    pub query: Option<&'a str>,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// A route table, compiled.
#[derive(Debug)]
pub struct Table {
    name: Name,
    rules: Vec<CompiledRule>,
    clusters: Vec<Name>,
}

impl Table {
    /// Compiles `config`, or says which rule can't be used.
    pub fn compile(config: &RouteConfig) -> Result<Self, RouteError> {
        let rules = config
            .rules
            .iter()
            .map(CompiledRule::compile)
            .collect::<Result<Vec<_>, _>>()?;
        let mut clusters: Vec<Name> = config.rules.iter().flat_map(clusters).collect();
        clusters.sort_unstable();
        clusters.dedup();
        Ok(Self {
            name: Name::clone(&config.name),
            rules,
            clusters,
        })
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Its rules, in order of precedence.
    pub fn rules(&self) -> &[CompiledRule] {
        &self.rules
    }

    /// Every cluster that a rule forwards to, sorted, each once.
    pub fn clusters(&self) -> &[Name] {
        &self.clusters
    }

    /// Whether it was compiled from an equal configuration.
    pub fn is_of(&self, config: &RouteConfig) -> bool {
        self.name == config.name && self.rules.iter().map(CompiledRule::rule).eq(&config.rules)
    }

    /// The first rule that matches; `None` is answered with 404.
    pub fn find(&self, request: &RequestHead<'_>) -> Option<&CompiledRule> {
        self.rules.iter().find(|rule| rule.matcher.matches(request))
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self
                .rules
                .iter()
                .map(CompiledRule::rule)
                .eq(other.rules.iter().map(CompiledRule::rule))
    }
}

fn clusters(rule: &Rule) -> impl Iterator<Item = Name> {
    backends(&rule.action)
        .iter()
        .filter_map(|backend| match &backend.target {
            Target::Cluster(name) => Some(Name::clone(name)),
            Target::Invalid => None,
        })
}

fn backends(action: &Action) -> &[WeightedBackend] {
    match action {
        Action::Forward(backends) => backends,
        Action::Redirect(_) | Action::Respond(_) => &[],
    }
}

/// One rule of a [`Table`].
pub struct CompiledRule {
    rule: Rule,
    matcher: Matcher,
}

impl fmt::Debug for CompiledRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rule.fmt(f)
    }
}

impl CompiledRule {
    fn compile(rule: &Rule) -> Result<Self, RouteError> {
        let matcher = Matcher::compile(&rule.name, &rule.matches)?;
        rewrite::check(rule)?;
        Ok(Self {
            rule: rule.clone(),
            matcher,
        })
    }

    /// As configured.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// One of the backends it forwards to, by weight. `None`, which is answered with 503, when no backend has any
    /// weight, and for rules that don't forward.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> Option<&WeightedBackend> {
        let backends = backends(&self.rule.action);
        let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.u64(..total);
        backends.iter().find(|backend| {
            let weight = u64::from(backend.weight);
            let found = at < weight;
            at = at.saturating_sub(weight);
            found
        })
    }

    /// Changes a request's headers: the rule's changes, then those of the `backend` it goes to.
    pub fn edit_request(&self, backend: Option<&WeightedBackend>, headers: &mut HeaderMap) {
        edit(headers, &self.rule.request);
        if let Some(backend) = backend {
            edit(headers, &backend.request);
        }
    }

    /// Changes a response's headers: the rule's changes, then those of the `backend` it came from.
    pub fn edit_response(&self, backend: Option<&WeightedBackend>, headers: &mut HeaderMap) {
        edit(headers, &self.rule.response);
        if let Some(backend) = backend {
            edit(headers, &backend.response);
        }
    }

    /// The path that `path` (without query) becomes; `None`: it stays.
    pub fn rewrite_path(&self, path: &str) -> Option<String> {
        let Rewrite { path: rewrite, .. } = &self.rule.rewrite;
        rewrite.as_ref().map(|rewrite| self.replace_path(rewrite, path))
    }

    fn replace_path(&self, rewrite: &PathRewrite, path: &str) -> String {
        rewrite::path(rewrite, &self.rule.matches.path, path)
    }

    /// The authority that the request gets; `None`: it stays.
    pub fn rewrite_host(&self) -> Option<&str> {
        self.rule.rewrite.host.as_deref()
    }

    /// `Location` of the answer, for a rule that redirects.
    pub fn location(&self, asked: &Asked<'_>) -> Option<String> {
        let Action::Redirect(redirect) = &self.rule.action else {
            return None;
        };
        let path = redirect
            .path
            .as_ref()
            .map(|rewrite| self.replace_path(rewrite, asked.path));
        Some(rewrite::location(
            redirect,
            asked,
            path.as_deref().unwrap_or(asked.path),
        ))
    }
}

/// Changes `headers`: remove, set, add, in this order.
pub fn edit(headers: &mut HeaderMap, edit: &HeaderEdit) {
    for name in &edit.remove {
        headers.remove(name);
    }
    for (name, value) in &edit.set {
        headers.insert(name, value.clone());
    }
    for (name, value) in &edit.add {
        headers.append(name, value.clone());
    }
}

#[cfg(test)]
mod tests;
