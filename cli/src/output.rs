//! How results are printed: for people, or as JSON or YAML.

use std::fmt::Write as _;

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

/// Lines in columns; those from `right` on are aligned to the right, except the last one.
pub(crate) fn columns<const N: usize>(lines: &[[String; N]], right: usize) -> String {
    let width = |column: usize| {
        lines
            .iter()
            .map(|line| line[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut out = String::new();
    for line in lines {
        let mut text = String::new();
        for (column, cell) in line.iter().enumerate() {
            let width = widths[column];
            let _ = if column >= right && (column + 1 < N || is_number(cell)) {
                write!(text, "{cell:>width$}  ")
            } else {
                write!(text, "{cell:<width$}  ")
            };
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
    out
}

fn is_number(cell: &str) -> bool {
    cell.chars().all(|c| c.is_ascii_digit())
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
