//! How results are printed: for people, or as JSON or YAML.

use clap::ValueEnum;
use serde::Serialize;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON value.
    Json,
    /// One YAML document.
    Yaml,
}

impl Format {
    /// The value as JSON or YAML; `None` for a table.
    pub(crate) fn encode(self, value: &impl Serialize) -> Option<anyhow::Result<String>> {
        match self {
            Self::Table => None,
            Self::Json => Some(
                serde_json::to_string_pretty(value)
                    .map(|json| json + "\n")
                    .map_err(Into::into),
            ),
            Self::Yaml => Some(weft_api::yaml::to_string(value).map_err(Into::into)),
        }
    }

    /// Prints the value, or what `table` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        print(&self.encode(value).unwrap_or_else(|| Ok(table(value)))?)
    }
}

/// Writes to stdout. A reader that has gone is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    use std::io::{ErrorKind, Write, stdout};
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format() {
        let value = serde_json::json!({ "a": 1 });
        assert!(Format::Table.encode(&value).is_none());
        assert_eq!(
            Format::Json.encode(&value).unwrap().unwrap(),
            "{\n  \"a\": 1\n}\n"
        );
        assert_eq!(Format::Yaml.encode(&value).unwrap().unwrap(), "a: 1\n");
    }
}
