use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::pointer::Pointer;

fn only(text: &str) -> Document {
    let mut documents = documents(text);
    assert_eq!(documents.len(), 1, "{documents:?}");
    documents.remove(0).unwrap()
}

fn error(text: &str) -> YamlError {
    documents(text)
        .into_iter()
        .find_map(Result::err)
        .expect("an error")
}

fn line(document: &Document, dotted: &str) -> (usize, usize) {
    let position = document.positions.find(&Pointer::from_dotted(dotted)).unwrap();
    (position.line, position.column)
}

#[test]
fn values_and_places_belong_together() {
    let document = only("# head\na: 1\nb:\n  - c: x\n    d: [1, {e: 2}]\n  - 7\n");
    assert_eq!(
        document.value,
        json!({"a": 1, "b": [{"c": "x", "d": [1, {"e": 2}]}, 7]})
    );
    assert_eq!(line(&document, "a"), (2, 1));
    assert_eq!(line(&document, "b[0].c"), (4, 5));
    assert_eq!(line(&document, "b[0].d[1].e"), (5, 13));
    assert_eq!(line(&document, "b[1]"), (6, 5));
    assert_eq!(
        line(&document, "b[0].missing.deeper"),
        (4, 5),
        "what isn't there stands in what would hold it"
    );
}

#[test]
fn documents_are_counted_alike_by_both_readers() {
    for (text, count) in [
        ("", 0),
        ("# nothing\n", 0),
        ("---\n", 0),
        ("---\n---\na: 1\n", 1),
        ("a: 1\n---\n# only a comment\n---\nb: 2\n...\n---\nc: 3\n", 3),
        ("\u{feff}a: 1\r\n---\r\nb: 2\r\n", 2),
    ] {
        let found = documents(text);
        assert_eq!(found.len(), count, "{text:?}: {found:?}");
        assert!(found.iter().all(Result::is_ok), "{text:?}: {found:?}");
    }
    let found = documents("a: 1\n---\n---\nb: 2\n");
    let last = found.last().unwrap().as_ref().unwrap();
    assert_eq!(last.value, json!({"b": 2}));
    assert_eq!(line(last, "b"), (4, 1));
}

#[test]
fn nulls_and_merges_and_numeric_keys_are_read_as_kubectl_does() {
    let document = only("base: &b {x: 1, y: null}\nc:\n  <<: *b\n  80: http\n");
    assert_eq!(
        document.value,
        json!({"base": {"x": 1}, "c": {"x": 1, "80": "http"}})
    );
    assert_eq!(line(&document, "c.80"), (4, 3));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let doubled = error("a: 1\nb: 2\na: 3\n");
    let place = |line, column| Position { line, column };
    assert_eq!(
        doubled,
        YamlError::DuplicateKey {
            key: "a".into(),
            position: place(3, 1),
            first: place(1, 1)
        }
    );
    assert_eq!(error("? [x]\n: 1\n"), YamlError::KeyNotText(place(1, 3)));
    assert!(matches!(
        error("a: [1, 2\nb: 3\n"),
        YamlError::Syntax {
            position: Some(_),
            ..
        }
    ));
    assert!(matches!(
        error("a: {{ .Values.x }}\n"),
        YamlError::KeyNotText(_) | YamlError::Syntax { .. }
    ));
    assert_eq!(
        error(&" ".repeat(MAX_FILE_BYTES + 1)),
        YamlError::TooLarge(MAX_FILE_BYTES + 1)
    );
}

#[test]
fn a_doubled_key_spoils_only_its_own_document() {
    let found = documents("a: 1\na: 2\n---\nb: 1\n");
    assert!(matches!(found[0], Err(YamlError::DuplicateKey { .. })));
    assert_eq!(found[1].as_ref().unwrap().value, json!({"b": 1}));
}

#[test]
fn documents_before_a_broken_one_are_read() {
    let found = documents("a: 1\n---\nb: [\n");
    assert_eq!(found[0].as_ref().unwrap().value, json!({"a": 1}));
    assert!(matches!(found.last(), Some(Err(YamlError::Syntax { .. }))));
}

#[test]
fn bounds_hold() {
    let deep = format!("a: {}{}\n", "[".repeat(MAX_DEPTH + 1), "]".repeat(MAX_DEPTH + 1));
    assert!(matches!(error(&deep), YamlError::TooDeep(_)));
    let many = "---\na: 1\n".repeat(MAX_DOCUMENTS + 1);
    assert!(matches!(error(&many), YamlError::TooManyDocuments(_)));
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..10 {
        let references = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb += &[
            "a",
            &level.to_string(),
            ": &a",
            &level.to_string(),
            " [",
            &references,
            "]\n",
        ]
        .concat();
    }
    assert!(matches!(error(&bomb), YamlError::TooManyValues(_)));
}

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z/.~0-9]{1,6}", inner, 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Every place in a value.
fn places(value: &Value, at: &Pointer, found: &mut Vec<Pointer>) {
    found.push(at.clone());
    match value {
        Value::Array(items) => {
            items
                .iter()
                .enumerate()
                .for_each(|(index, item)| places(item, &at.index(index), found));
        }
        Value::Object(members) => {
            members
                .iter()
                .for_each(|(key, member)| places(member, &at.key(key), found));
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn everything_written_is_read_and_has_a_place(value in values()) {
        let text = to_string(&json!({"top": value.clone()})).unwrap();
        let document = only(&text);
        prop_assert_eq!(&document.value["top"], &value);
        let mut expected = Vec::new();
        places(&document.value, &Pointer::default(), &mut expected);
        for place in expected {
            let position = document.positions.find(&place).unwrap();
            prop_assert!(position.line <= text.lines().count());
        }
    }

    #[test]
    fn no_text_panics(text in "[ -~\n]{0,200}") {
        let _ = documents(&text);
    }

    #[test]
    fn no_yaml_like_text_panics(parts in prop::collection::vec(
        prop::sample::select(vec!["a", ": ", "- ", "\n", "  ", "[", "]", "{", "}", "&x", "*x", "!t ", "\"", "'", "|",
            "---\n", "...\n", "? ", "#", "<<", ",", "%", "\t", "é"]), 0..40)) {
        let _ = documents(&parts.concat());
    }
}
