use proptest::prelude::*;
use proptest::{collection, option, sample};
use weft_api::object::Kind;

use super::*;

fn namespace(name: &str, team: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: {team}}}}}\n")
}

fn named(name: &str) -> ObjectRef {
    ObjectRef::new(Kind::Namespace, "", name)
}

fn directory(files: &[(&str, &str)]) -> Directory {
    files
        .iter()
        .map(|(name, text)| (Arc::from(*name), Ok(Arc::from(*text))))
        .collect()
}

fn said(change: &Change) -> Vec<String> {
    change.problems.iter().map(ToString::to_string).collect()
}

fn applied(change: &Change) -> Vec<ObjectRef> {
    change.applied.iter().map(Object::object_ref).collect()
}

#[test]
fn an_invalid_object_keeps_its_last_good_version() {
    let mut state = State::default();
    let good = [namespace("a", "x"), namespace("b", "x")].concat();
    assert_eq!(
        applied(&state.update(directory(&[("f.yaml", &good)]))),
        [named("a"), named("b")]
    );
    let bad = [namespace("a", "\"no label\""), namespace("b", "y")].concat();
    let change = state.update(directory(&[("f.yaml", &bad)]));
    assert_eq!(applied(&change), [named("b")]);
    assert!(change.deleted.is_empty());
    assert!(
        said(&change)
            .iter()
            .any(|line| line.contains("Namespace a: the object is refused; its last good version"))
    );
    let gone = namespace("b", "y");
    assert_eq!(
        state.update(directory(&[("f.yaml", &gone)])).deleted,
        [named("a")]
    );
}

#[test]
fn a_file_that_cant_be_read_keeps_all_that_it_held() {
    let mut state = State::default();
    let good = [namespace("a", "x"), namespace("b", "x")].concat();
    state.update(directory(&[("f.yaml", &good)]));
    let half = [namespace("a", "y"), "---\napiVersion: v1\nki: [".to_owned()].concat();
    let change = state.update(directory(&[("f.yaml", &half)]));
    assert_eq!((applied(&change), change.deleted.len()), (vec![named("a")], 0));
    assert!(
        said(&change)
            .iter()
            .any(|line| line.contains("1 object read earlier and not seen now stay in force"))
    );
    let unreadable = Directory::from([(Arc::from("f.yaml"), Err("no".to_owned()))]);
    assert!(state.update(unreadable).deleted.is_empty());
    assert_eq!(state.update(Directory::new()).deleted, [named("a"), named("b")]);
}

#[test]
fn a_file_that_was_just_emptied_keeps_all_that_it_held() {
    let mut state = State::default();
    state.update(directory(&[("f.yaml", &namespace("a", "x"))]));
    for empty in ["", "\n", " \r\n\t\n"] {
        let change = state.update(directory(&[("f.yaml", empty)]));
        assert!(change.applied.is_empty() && change.deleted.is_empty());
        assert!(
            said(&change)[0].contains("1 object read earlier"),
            "{:?}",
            said(&change)
        );
    }
    assert_eq!(
        state.update(directory(&[("f.yaml", "# nothing\n")])).deleted,
        [named("a")]
    );
}

#[test]
fn an_object_moved_into_a_broken_file_is_not_deleted() {
    let mut state = State::default();
    state.update(directory(&[
        ("a.yaml", &namespace("moved", "x")),
        ("b.yaml", &namespace("other", "x")),
    ]));
    let broken = [
        namespace("other", "x"),
        namespace("moved", "x"),
        "---\n{".to_owned(),
    ]
    .concat();
    let broken = broken.replace("name: moved", "name: &x moved, *y");
    let change = state.update(directory(&[("a.yaml", "# moved\n"), ("b.yaml", &broken)]));
    assert!(change.deleted.is_empty(), "{change:?}");
    let change = state.update(directory(&[("a.yaml", "# moved\n"), ("b.yaml", "{")]));
    assert_eq!(change.deleted, [named("moved")], "nobody names it any more");
}

#[test]
fn a_duplicate_is_refused_and_named_with_both_files() {
    let mut state = State::default();
    let (mine, theirs) = (namespace("a", "mine"), namespace("a", "theirs"));
    state.update(directory(&[("m.yaml", &mine)]));
    let change = state.update(directory(&[("a.yaml", &theirs), ("m.yaml", &mine)]));
    assert!(
        change.applied.is_empty(),
        "the copy in force stays, whatever the names"
    );
    let line = "a.yaml:2:1: error: Namespace a: metadata.name: the object stands in m.yaml:2 too";
    assert!(said(&change)[0].starts_with(line), "{:?}", said(&change));
    let change = state.update(directory(&[("a.yaml", &theirs)]));
    assert_eq!(applied(&change), [named("a")], "once it is alone, it counts");
    assert!(change.problems.is_empty());
}

#[test]
fn moving_an_object_changes_nothing() {
    let mut state = State::default();
    let text = namespace("a", "x");
    state.update(directory(&[("a.yaml", &text)]));
    assert_eq!(state.update(directory(&[("b.yaml", &text)])), Change::default());
}

/// What a file holds in the model: per object a version, or none that is valid.
#[derive(Clone, Debug)]
struct Model {
    objects: BTreeMap<&'static str, Option<u8>>,
    broken: bool,
}

fn file() -> impl Strategy<Value = Model> {
    let names = sample::select(vec!["alpha", "beta", "gamma"]);
    let objects = collection::btree_map(names, option::weighted(0.8, 0..3_u8), 0..3);
    (objects, prop::bool::weighted(0.2)).prop_map(|(objects, broken)| Model { objects, broken })
}

fn files() -> impl Strategy<Value = BTreeMap<&'static str, Model>> {
    collection::btree_map(sample::select(vec!["1.yaml", "2.yaml", "3.yaml"]), file(), 0..3)
}

fn text(model: &Model) -> String {
    let object = |(name, version): (&&str, &Option<u8>)| match version {
        Some(version) => namespace(name, &format!("v{version}")),
        None => namespace(name, "\"no label\""),
    };
    let mut text = "# manifests\n".to_owned();
    text.extend(model.objects.iter().map(object));
    if model.broken {
        text.push_str("---\n[");
    }
    text
}

/// The same rules once more, slowly, object by object: name -> (version, file).
fn oracle(
    held: &BTreeMap<&'static str, (u8, &'static str)>,
    files: &BTreeMap<&'static str, Model>,
) -> BTreeMap<&'static str, (u8, &'static str)> {
    let mut now = BTreeMap::new();
    for name in ["alpha", "beta", "gamma"] {
        let earlier = held.get(name).copied();
        let places: Vec<_> = files
            .iter()
            .filter_map(|(file, model)| model.objects.get(name).map(|version| (*file, *version)))
            .collect();
        let own = places
            .iter()
            .find(|(file, _)| earlier.is_some_and(|(_, holder)| holder == *file));
        let first = places.iter().find(|(_, version)| version.is_some());
        let next = match own.or(first) {
            Some((file, Some(version))) => Some((*version, *file)),
            Some((_, None)) => earlier,
            None if !places.is_empty() => earlier,
            None => earlier.filter(|(_, holder)| files.get(holder).is_some_and(|model| model.broken)),
        };
        next.map(|next| now.insert(name, next));
    }
    now
}

proptest! {
    #[test]
    fn states_follow_the_slow_rules_and_changes_add_up(steps in collection::vec(files(), 1..8)) {
        let mut state = State::default();
        let mut expected = BTreeMap::new();
        let mut mirror = BTreeMap::<ObjectRef, Object>::new();
        for files in &steps {
            let directory: Directory =
                files.iter().map(|(name, model)| (Arc::from(*name), Ok(Arc::from(text(model))))).collect();
            let change = state.update(directory.clone());
            for object in &change.applied {
                let earlier = mirror.insert(object.object_ref(), object.clone());
                prop_assert_ne!(earlier.as_ref(), Some(object), "what is applied differs from before");
            }
            for name in &change.deleted {
                prop_assert!(mirror.remove(name).is_some(), "what is deleted was there");
            }
            expected = oracle(&expected, files);
            let versions: BTreeMap<_, _> = mirror.iter().map(|(name, object)| {
                (name.name.to_string(), object.metadata().labels.as_ref().unwrap()["team"].clone())
            }).collect();
            let wanted: BTreeMap<_, _> =
                expected.iter().map(|(name, (version, _))| ((*name).to_owned(), format!("v{version}"))).collect();
            prop_assert_eq!(versions, wanted);
            let again = state.update(directory);
            prop_assert!(again.applied.is_empty() && again.deleted.is_empty());
            prop_assert_eq!(again.problems, change.problems, "the same directory says the same");
        }
    }
}
