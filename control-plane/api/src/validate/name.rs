//! How names must look, each rule with the words that explain it.

/// A rule for names: whether a text keeps it, and how it reads.
pub(super) struct Rule {
    keeps: fn(&str) -> bool,
    /// Follows "must be".
    pub(super) is: &'static str,
}

impl Rule {
    /// Whether the text keeps the rule.
    pub(super) fn keeps(&self, text: &str) -> bool {
        (self.keeps)(text)
    }
}

/// RFC 1123, one label.
pub(super) const LABEL: Rule = Rule {
    keeps: |text| text.len() <= 63 && label(text),
    is: "1 to 63 lower-case letters, digits and dashes, beginning and ending with a letter or digit",
};

/// RFC 1123, labels with dots.
pub(super) const SUBDOMAIN: Rule = Rule {
    keeps: |text| text.len() <= 253 && text.split('.').all(label),
    is: "1 to 253 lower-case letters, digits, dashes and dots, each part beginning and ending with a letter or digit",
};

/// A host, perhaps with `*.` in front.
pub(super) const HOSTNAME: Rule = Rule {
    keeps: |text| {
        let host = text.strip_prefix("*.").unwrap_or(text);
        SUBDOMAIN.keeps(host) && host.parse::<std::net::IpAddr>().is_err()
    },
    is: "a DNS name in lower case, perhaps with *. in front, and no IP address",
};

/// A host without a wildcard.
pub(super) const PRECISE_HOSTNAME: Rule = Rule {
    keeps: |text| SUBDOMAIN.keeps(text) && text.parse::<std::net::IpAddr>().is_err(),
    is: "a DNS name in lower case, without a wildcard, and no IP address",
};

/// A port's name at the container (RFC 6335).
pub(super) const PORT: Rule = Rule {
    keeps: |text| {
        (1..=15).contains(&text.len())
            && label(text)
            && !text.contains("--")
            && text.bytes().any(|byte| byte.is_ascii_lowercase())
    },
    is: "1 to 15 lower-case letters, digits and single dashes, with at least one letter",
};

/// The key of a label or annotation.
pub(super) const QUALIFIED: Rule = Rule {
    keeps: |text| match text.split_once('/') {
        Some((prefix, name)) => SUBDOMAIN.keeps(prefix) && qualified(name),
        None => qualified(text),
    },
    is: "a name of at most 63 letters, digits, dashes, dots and underscores, perhaps with a domain and a slash in \
         front",
};

/// The value of a label.
pub(super) const LABEL_VALUE: Rule = Rule {
    keeps: |text| text.is_empty() || qualified(text),
    is: "at most 63 letters, digits, dashes, dots and underscores, beginning and ending with a letter or digit",
};

/// The name of a header or query parameter (RFC 9110, token).
pub(super) const TOKEN: Rule = Rule {
    keeps: |text| {
        (1..=256).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    },
    is: "1 to 256 letters, digits or any of !#$%&'*+-.^_`|~",
};

fn label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.len() <= 63
        && text.bytes().all(|byte| inner(byte) || byte == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

fn qualified(text: &str) -> bool {
    text.len() <= 63
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        && text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
        && text
            .bytes()
            .last()
            .is_some_and(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_take_and_refuse() {
        let long = "a".repeat(64);
        for (rule, good, bad) in [
            (
                &LABEL,
                vec!["a", "a-1", "0"],
                vec!["", "-a", "a-", "A", "a.b", "a_b", long.as_str()],
            ),
            (
                &SUBDOMAIN,
                vec!["a", "a.b-c", "10.0"],
                vec!["", ".", "a..b", "a.", "A.b"],
            ),
            (
                &HOSTNAME,
                vec!["a.example", "*.a.example"],
                vec!["*", "*a.b", "10.0.0.1", "a.*.b"],
            ),
            (
                &PRECISE_HOSTNAME,
                vec!["a.example"],
                vec!["*.a.example", "10.0.0.1", ""],
            ),
            (
                &PORT,
                vec!["http", "h2c-1"],
                vec!["", "80", "a--b", "-a", "abcdefghijklmnop"],
            ),
            (
                &QUALIFIED,
                vec!["a", "A_b.c", "x.dev/A"],
                vec!["", "/a", "x.dev/", "X.dev/a", "a/b/c"],
            ),
            (
                &LABEL_VALUE,
                vec!["", "v1", "A_b"],
                vec!["-a", "a b", long.as_str()],
            ),
            (&TOKEN, vec!["x-a", "X`~"], vec!["", "a b", "a:b", "ä"]),
        ] {
            for text in good {
                assert!(rule.keeps(text), "{text:?} is {}", rule.is);
            }
            for text in bad {
                assert!(!rule.keeps(text), "{text:?} is not {}", rule.is);
            }
        }
    }
}
