//! The difference between two pods as a JSON patch (RFC 6902).

use serde_json::{Map, Value, json};

/// The operations that make `after` out of `before`. Objects are compared member by member; everything else is replaced
/// as a whole, for positions in lists mean nothing once something stands before them.
pub fn patch(before: &Value, after: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    compare("", before, after, &mut operations);
    operations
}

fn compare(path: &str, before: &Value, after: &Value, operations: &mut Vec<Value>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => members(path, before, after, operations),
        _ if before == after => {}
        _ => operations.push(json!({ "op": "replace", "path": path, "value": after })),
    }
}

fn members(path: &str, before: &Map<String, Value>, after: &Map<String, Value>, operations: &mut Vec<Value>) {
    let below = |key: &str| format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
    for key in before.keys().filter(|key| !after.contains_key(*key)) {
        operations.push(json!({ "op": "remove", "path": below(key) }));
    }
    for (key, value) in after {
        match before.get(key) {
            Some(old) => compare(&below(key), old, value, operations),
            None => operations.push(json!({ "op": "add", "path": below(key), "value": value })),
        }
    }
}
