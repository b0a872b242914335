//! How specific a match of a route is, by the Gateway API's rules. Regular expressions, whose place it leaves open, come
//! after exact paths and before prefixes: who writes one means something narrower than a prefix.

use std::cmp::Reverse;

use crate::resource::{PathMatch, RouteMatch};

/// How specific a match is; the least comes first. Matches of the two kinds of route never meet in one table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Specificity {
    /// HTTPRoute: the path, then a method, then more headers, then more query parameters.
    Http {
        /// What the path is compared with.
        path: PathRank,
        /// Whether a method is asked for.
        method: Reverse<bool>,
        /// How many headers.
        headers: Reverse<usize>,
        /// How many query parameters.
        query: Reverse<usize>,
    },
    /// GRPCRoute: longer service, longer method, more headers.
    Grpc {
        /// Regular expressions come after exact names.
        regex: bool,
        /// Characters of the service.
        service: Reverse<usize>,
        /// Characters of the method.
        method: Reverse<usize>,
        /// How many headers.
        headers: Reverse<usize>,
    },
}

/// How specific a path is: exact, then regular expressions, then prefixes, the longer first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// Characters of an exact path.
    Exact(Reverse<usize>),
    /// Characters of a regular expression.
    Regex(Reverse<usize>),
    /// Characters of a prefix.
    Prefix(Reverse<usize>),
}

impl Specificity {
    /// The rank of a match of an HTTPRoute.
    pub fn http(when: &RouteMatch) -> Self {
        let path = match &when.path {
            PathMatch::Exact(path) => PathRank::Exact(length(path)),
            PathMatch::Regex(path) => PathRank::Regex(length(path)),
            PathMatch::Prefix(path) => PathRank::Prefix(length(path)),
        };
        Self::Http {
            path,
            method: Reverse(when.method.is_some()),
            headers: Reverse(when.headers.len()),
            query: Reverse(when.query.len()),
        }
    }

    /// The rank of a match of a GRPCRoute, by what it says of service and method.
    pub fn grpc(regex: bool, service: &str, method: &str, headers: usize) -> Self {
        Self::Grpc {
            regex,
            service: length(service),
            method: length(method),
            headers: Reverse(headers),
        }
    }
}

fn length(text: &str) -> Reverse<usize> {
    Reverse(text.chars().count())
}
