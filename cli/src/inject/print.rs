//! Manifests as YAML that every reader takes for the same. kubectl reads YAML 1.1, where `yes` is a boolean and `1_000` a
//! number, and `serde_yaml` writes YAML 1.2, where both are text. So text stands in quotes unless it is a plain word that
//! no reader takes for anything else.

use serde_json::Value;

/// Words that some reader takes for something else, in lower case.
const NOT_TEXT: [&str; 12] = [
    "y", "n", "yes", "no", "on", "off", "true", "false", "null", "inf", "nan", "~",
];

/// `value` in block style, with a line's end.
pub(super) fn yaml(value: &Value) -> String {
    let mut text = String::new();
    if is_leaf(value) {
        text.push_str(&leaf(value));
        text.push('\n');
    } else {
        block(value, 0, &mut text);
    }
    text
}

fn is_leaf(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => true,
    }
}

fn block(value: &Value, indent: usize, text: &mut String) {
    let pad = " ".repeat(indent);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                text.push_str(&pad);
                text.push_str(&word(name));
                text.push(':');
                below(value, indent, text);
            }
        }
        Value::Array(items) => {
            for item in items {
                text.push_str(&pad);
                text.push('-');
                if is_leaf(item) {
                    below(item, indent, text);
                } else {
                    // The item's first line stands behind the dash.
                    let mut inner = String::new();
                    block(item, indent + 2, &mut inner);
                    text.push(' ');
                    text.push_str(&inner[indent + 2..]);
                }
            }
        }
        _ => {}
    }
}

/// What stands behind a name.
fn below(value: &Value, indent: usize, text: &mut String) {
    if is_leaf(value) {
        text.push(' ');
        text.push_str(&leaf(value));
        text.push('\n');
    } else {
        text.push('\n');
        // A list stands as deep as its name.
        let deeper = if value.is_array() { indent } else { indent + 2 };
        block(value, deeper, text);
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => word(text),
        other => other.to_string(),
    }
}

fn word(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/');
    let is_word = text
        .bytes()
        .next()
        .is_some_and(|first| first.is_ascii_alphabetic() || first == b'/')
        && text.bytes().all(plain)
        && !NOT_TEXT.contains(&text.to_ascii_lowercase().as_str());
    // JSON's quotes and escapes are YAML's too.
    if is_word {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_api::yaml;

    #[test]
    fn what_is_written_reads_back_as_it_was() {
        for value in [
            json!({ "kind": "A", "spec": { "b": [], "c": {}, "d": null, "e": [1, 2.5, true, "x"] } }),
            json!({ "kind": "A", "list": [{ "a": 1, "b": { "c": [[1], [{ "d": "e" }]] } }, "yes", ["no"]] }),
            json!({ "kind": "A", "text": ["", " a", "a: b", "# c", "- d", "line\nline\n", "\t", "\u{1}", "ü", "'\"", "1", "*a", "%"] }),
            json!({ "kind": "A", "8080": "a", "weft.dev/inject": "enabled", "y": "z", "a b": 1 }),
        ] {
            let text = super::yaml(&value);
            assert_eq!(yaml::values(&text).unwrap(), [value], "{text}");
        }
    }
}
