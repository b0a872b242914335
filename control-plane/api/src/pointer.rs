//! Where in an object a value stands: a JSON pointer (RFC 6901), shown the way people write fields.

use std::fmt;

/// A place in a document. Empty for the document itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Pointer(String);

impl Pointer {
    /// The member `key` of this mapping.
    pub(crate) fn key(&self, key: &str) -> Self {
        Self(format!(
            "{}/{}",
            self.0,
            key.replace('~', "~0").replace('/', "~1")
        ))
    }

    /// The item `index` of this sequence.
    pub(crate) fn index(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0))
    }

    /// What this stands in; `None` for the document itself.
    pub(crate) fn parent(&self) -> Option<Self> {
        self.0.rsplit_once('/').map(|(parent, _)| Self(parent.to_owned()))
    }

    /// The same place, where this document stands at `base` in another.
    pub(crate) fn within(&self, base: &Self) -> Self {
        Self(format!("{}{}", base.0, self.0))
    }

    /// From the path that a CEL rule names: `spec.targetRefs[0].name`. Only for plain keys.
    pub(crate) fn from_dotted(path: &str) -> Self {
        path.split(['.', '[', ']'])
            .filter(|part| !part.is_empty())
            .fold(Self::default(), |at, part| at.key(part))
    }
}

/// As people write it: `spec.rules[0].name`, `metadata.labels["app.kubernetes.io/name"]`.
impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, part) in self.0.split('/').skip(1).enumerate() {
            let part = part.replace("~1", "/").replace("~0", "~");
            let plain = part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
            match (part.bytes().all(|byte| byte.is_ascii_digit()), plain) {
                (true, _) => write!(f, "[{part}]")?,
                (false, true) if position == 0 => f.write_str(&part)?,
                (false, true) => write!(f, ".{part}")?,
                (false, false) => write!(f, "[{part:?}]")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_like_a_field() {
        let rules = Pointer::default().key("spec").key("rules").index(0);
        assert_eq!(rules.key("name").to_string(), "spec.rules[0].name");
        let label = Pointer::default()
            .key("metadata")
            .key("labels")
            .key("app.kubernetes.io/name");
        assert_eq!(label.to_string(), "metadata.labels[\"app.kubernetes.io/name\"]");
        assert_eq!(label.parent().unwrap().to_string(), "metadata.labels");
    }

    #[test]
    fn dotted_paths_and_pointers_agree() {
        let pointer = Pointer::from_dotted("spec.targetRefs[1].name");
        assert_eq!(
            pointer,
            Pointer::default()
                .key("spec")
                .key("targetRefs")
                .index(1)
                .key("name")
        );
    }

    #[test]
    fn a_base_comes_in_front() {
        let base = Pointer::default().key("items").index(3);
        assert_eq!(Pointer::default().key("spec").within(&base), base.key("spec"));
    }
}
