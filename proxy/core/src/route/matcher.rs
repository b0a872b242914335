//! Conditions, compiled. See [`route`](super) for what is compared with what.

use http::header::{COOKIE, HeaderMap, HeaderName};
use http::{HeaderValue, Method};
use regex::bytes::{Regex, RegexBuilder};
use smallvec::SmallVec;

use crate::resource::{HeaderMatch, Name, PathMatch, QueryMatch, RouteMatch, ValueMatch};
use crate::route::{RequestHead, RouteError};

/// Longest pattern, in bytes.
const MAX_PATTERN: usize = 4096;
/// Largest compiled pattern, in bytes.
const MAX_COMPILED: usize = 256 * 1024;
/// Most memory that matching with a pattern may keep, in bytes.
const MAX_CACHE: usize = 256 * 1024;

/// Room on the stack for a value that must be put together before a pattern sees it.
type Scratch = SmallVec<[u8; 512]>;

#[derive(Debug)]
pub(super) struct Matcher {
    path: Path,
    method: Option<Method>,
    headers: Vec<(HeaderName, Value)>,
    query: Vec<(String, Value)>,
}

#[derive(Debug)]
enum Path {
    Exact(String),
    /// Without the slash at its end.
    Prefix(String),
    Regex(Regex),
}

#[derive(Debug)]
enum Value {
    Exact(Vec<u8>),
    Regex(Regex),
    Present,
}

impl Matcher {
    pub(super) fn compile(rule: &Name, matches: &RouteMatch) -> Result<Self, RouteError> {
        let path = match &matches.path {
            PathMatch::Exact(path) => Path::Exact(path.clone()),
            PathMatch::Prefix(prefix) => Path::Prefix(without_slash(prefix).to_owned()),
            PathMatch::Regex(pattern) => Path::Regex(compile(rule, "the path", pattern)?),
        };
        let header = |HeaderMatch { name, value }: &HeaderMatch| {
            let what = format!("the header {name}");
            Ok((name.clone(), Value::compile(rule, &what, value)?))
        };
        let parameter = |QueryMatch { name, value }: &QueryMatch| {
            let what = format!("the query parameter {name}");
            Ok((name.clone(), Value::compile(rule, &what, value)?))
        };
        Ok(Self {
            path,
            method: matches.method.clone(),
            headers: matches.headers.iter().map(header).collect::<Result<_, _>>()?,
            query: matches.query.iter().map(parameter).collect::<Result<_, _>>()?,
        })
    }

    pub(super) fn matches(&self, request: &RequestHead<'_>) -> bool {
        self.path.matches(request.path)
            && self.method.as_ref().is_none_or(|method| method == request.method)
            && self
                .headers
                .iter()
                .all(|(name, value)| value.matches_header(request.headers, name))
            && self
                .query
                .iter()
                .all(|(name, value)| value.matches_parameter(request.query.unwrap_or(""), name))
    }
}

/// A prefix matches by whole segments, with or without a slash at its end.
pub(super) fn without_slash(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

impl Path {
    fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) if prefix.is_empty() => true,
            Self::Prefix(prefix) => path
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Regex(regex) => regex.is_match(path.as_bytes()),
        }
    }
}

impl Value {
    fn compile(rule: &Name, what: &str, value: &ValueMatch) -> Result<Self, RouteError> {
        Ok(match value {
            ValueMatch::Exact(exact) => Self::Exact(exact.clone().into_bytes()),
            ValueMatch::Regex(pattern) => Self::Regex(compile(rule, what, pattern)?),
            ValueMatch::Present => Self::Present,
        })
    }

    fn matches_header(&self, headers: &HeaderMap, name: &HeaderName) -> bool {
        let mut values = headers.get_all(name).iter();
        let Some(first) = values.next() else { return false };
        match (self, values.next()) {
            (Self::Present, _) => true,
            (_, None) => self.matches_bytes(first.as_bytes()),
            (_, Some(_)) => self.matches_bytes(&joined(headers, name)),
        }
    }

    fn matches_parameter(&self, query: &str, name: &str) -> bool {
        let mut parameters = query
            .split('&')
            .map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
        let is_it = |key: &str| key == name || (is_encoded(key) && decoded(key).eq(name.bytes()));
        let Some((_, value)) = parameters.find(|(key, _)| !query.is_empty() && is_it(key)) else {
            return false;
        };
        if self.matches_bytes(value.as_bytes()) {
            return true;
        }
        is_encoded(value) && self.matches_bytes(&decoded(value).collect::<Scratch>())
    }

    fn matches_bytes(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact == bytes,
            Self::Regex(regex) => regex.is_match(bytes),
            Self::Present => true,
        }
    }
}

/// All values of a header as one.
fn joined(headers: &HeaderMap, name: &HeaderName) -> Scratch {
    let separator: &[u8] = if name == COOKIE { b"; " } else { b"," };
    let mut all = Scratch::new();
    for (nth, value) in headers
        .get_all(name)
        .iter()
        .map(HeaderValue::as_bytes)
        .enumerate()
    {
        if nth > 0 {
            all.extend_from_slice(separator);
        }
        all.extend_from_slice(value);
    }
    all
}

fn is_encoded(text: &str) -> bool {
    text.bytes().any(|byte| matches!(byte, b'%' | b'+'))
}

/// The bytes that `%xx` and `+` stand for. A `%` that isn't followed by two hexadecimal digits stands for itself.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        at += 1;
        match byte {
            b'+' => Some(b' '),
            b'%' => match (digit(bytes.get(at)), digit(bytes.get(at + 1))) {
                (Some(high), Some(low)) => {
                    at += 2;
                    Some(high << 4 | low)
                }
                _ => Some(b'%'),
            },
            _ => Some(byte),
        }
    })
}

fn digit(byte: Option<&u8>) -> Option<u8> {
    let digit = char::from(*byte?).to_digit(16)?;
    u8::try_from(digit).ok()
}

/// Compiles a pattern that matches the whole of a value.
fn compile(rule: &Name, what: &str, pattern: &str) -> Result<Regex, RouteError> {
    let refuse = |reason: String| RouteError::Pattern {
        rule: Name::clone(rule),
        what: what.to_owned(),
        pattern: pattern.chars().take(100).collect(),
        reason,
    };
    if pattern.len() > MAX_PATTERN {
        return Err(refuse(format!("it is longer than {MAX_PATTERN} bytes")));
    }
    // By itself first: what is wrong is said about the pattern as written, and one with a bracket too many can't
    // break out of the anchors.
    build(pattern)
        .and_then(|_| build(&format!(r"\A(?:{pattern})\z")))
        .map_err(|error| refuse(one_line(&error)))
}

fn build(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(MAX_COMPILED)
        .dfa_size_limit(MAX_CACHE)
        .build()
}

/// Syntax errors come as a drawing of several lines, of which the last says what is wrong.
fn one_line(error: &regex::Error) -> String {
    match error {
        regex::Error::CompiledTooBig(_) => format!("compiled, it is larger than {MAX_COMPILED} bytes"),
        _ => error
            .to_string()
            .lines()
            .last()
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    }
}
