//! What both kinds of route share: header changes, regular expressions, backends and parents.

use regex::RegexBuilder;

use super::{Rejected, port};
use crate::resource::{HeaderEdit, Name, ValueMatch};
use crate::world::ObjectName;
use crate::world::route::{BackendTarget, Parent};

/// Most memory of a compiled regular expression, in bytes. What is larger costs every request more than a route is
/// worth.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// Most of a backend's weight (Gateway API).
const WEIGHT_MAX: i32 = 1_000_000;

/// Header fields that no route may change: they say where a message goes, how long it is, or what belongs to one
/// connection, and are written by the sidecars themselves.
const RESERVED: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// How the sidecars' own header fields begin.
const RESERVED_PREFIX: &str = "x-weft-";

/// Adds a header modifier to what was said before. Names are the same in any case.
pub(super) fn edit_headers(
    field: &str,
    edit: &mut HeaderEdit,
    remove: Option<&[String]>,
    set: impl Iterator<Item = (String, String)>,
    add: impl Iterator<Item = (String, String)>,
) -> Result<(), Rejected> {
    let lower = |(name, value): (String, String)| (name.to_ascii_lowercase(), value);
    edit.remove
        .extend(remove.into_iter().flatten().map(|name| name.to_ascii_lowercase()));
    for (name, value) in set.map(lower) {
        // The first entry of a name counts (Gateway API).
        if edit.set.iter().all(|(known, _)| *known != name) {
            edit.set.push((name, value));
        }
    }
    for (name, value) in add.map(lower) {
        if edit.add.iter().all(|(known, _)| *known != name) {
            edit.add.push((name, value));
        }
    }
    let changed = edit.set.iter().chain(&edit.add).map(|(name, _)| name);
    match changed.chain(&edit.remove).find(|name| is_reserved(name)) {
        Some(name) => Err(Rejected::new(
            field,
            format!("may not change the header {name}, which sidecars write themselves; leave it out"),
        )),
        None => Ok(()),
    }
}

fn is_reserved(name: &str) -> bool {
    // Some applications read `_` as `-`.
    RESERVED.contains(&name) || name.replace('_', "-").starts_with(RESERVED_PREFIX)
}

/// Applies one of the bindings' many header modifiers, all of the same shape.
macro_rules! header_modifier {
    ($field:expr, $edit:expr, $modifier:expr) => {{
        let modifier = $modifier;
        $crate::ingest::filter::edit_headers(
            $field,
            $edit,
            modifier.remove.as_deref(),
            modifier
                .set
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone())),
            modifier
                .add
                .iter()
                .flatten()
                .map(|header| (header.name.clone(), header.value.clone())),
        )
    }};
}
pub(super) use header_modifier;

/// A value, exact or by a regular expression.
pub(super) fn value(field: &str, regex: bool, written: &str) -> Result<ValueMatch, Rejected> {
    if regex {
        Ok(ValueMatch::Regex(regular(field, written)?))
    } else {
        Ok(ValueMatch::Exact(written.into()))
    }
}

/// A regular expression that compiles.
pub(super) fn regular(field: &str, written: &str) -> Result<String, Rejected> {
    match RegexBuilder::new(written).size_limit(REGEX_BYTES_MAX).build() {
        Ok(_) => Ok(written.into()),
        Err(error) => Err(Rejected::new(
            field,
            format!("is no regular expression (RE2 syntax): {error}"),
        )),
    }
}

/// Adds a condition; the first of a name counts (Gateway API).
pub(super) fn condition(conditions: &mut Vec<(String, ValueMatch)>, name: String, value: ValueMatch) {
    if conditions.iter().all(|(known, _)| *known != name) {
        conditions.push((name, value));
    }
}

/// A reference of a route, as both kinds of route and both ends write it.
pub(super) struct Reference<'a> {
    pub(super) group: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) port: Option<i32>,
    pub(super) section: Option<&'a str>,
}

/// Reads the fields of one of the bindings' many references.
macro_rules! reference {
    ($written:expr, $section:expr) => {
        $crate::ingest::filter::Reference {
            group: $written.group.as_deref(),
            kind: $written.kind.as_deref(),
            namespace: $written.namespace.as_deref(),
            name: &$written.name,
            port: $written.port,
            section: $section,
        }
    };
}
pub(super) use reference;

impl Reference<'_> {
    fn object(&self, namespace: &Name) -> ObjectName {
        let namespace = self.namespace.map_or_else(|| namespace.clone(), Name::from);
        ObjectName {
            namespace,
            name: self.name.into(),
        }
    }

    /// As a parent; `None`: not a Service, and so none of the mesh's business. A parent without a kind is a Gateway.
    pub(super) fn parent(&self, field: &str, namespace: &Name) -> Result<Option<Parent>, Rejected> {
        if self.group != Some("") || self.kind != Some("Service") {
            return Ok(None);
        }
        let port = self
            .port
            .map(|number| port(&format!("{field}.port"), number))
            .transpose()?;
        Ok(Some(Parent {
            service: self.object(namespace),
            port,
            section: self.section.map(Name::from),
        }))
    }

    /// As a backend. A backend without a kind is a Service.
    pub(super) fn backend(&self, field: &str, namespace: &Name) -> Result<BackendTarget, Rejected> {
        let kind = self.kind.unwrap_or("Service");
        if !self.group.unwrap_or_default().is_empty() || kind != "Service" {
            return Ok(BackendTarget::OtherKind(kind.into()));
        }
        let field = format!("{field}.port");
        let number = self
            .port
            .ok_or_else(|| Rejected::new(&field, "is missing: name the Service's port"))?;
        Ok(BackendTarget::Service(
            self.object(namespace),
            port(&field, number)?,
        ))
    }
}

/// A backend's share; 1 where nothing is said.
pub(super) fn weight(field: &str, written: Option<i32>) -> Result<u32, Rejected> {
    let written = written.unwrap_or(1);
    let weight = u32::try_from(written).ok().filter(|_| written <= WEIGHT_MAX);
    weight.ok_or_else(|| {
        Rejected::new(
            format!("{field}.weight"),
            format!("{written} is not within 0 to {WEIGHT_MAX}"),
        )
    })
}
