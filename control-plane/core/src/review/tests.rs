use proptest::prelude::*;

use super::*;

const AUDIENCE: &str = "weft";

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

struct Said {
    authenticated: bool,
    audiences: Vec<String>,
    username: &'static str,
    pod_name: Vec<String>,
    pod_uid: Vec<String>,
}

impl Said {
    fn good() -> Self {
        Self {
            authenticated: true,
            audiences: words(&["weft"]),
            username: "system:serviceaccount:shop:user",
            pod_name: words(&["user-1"]),
            pod_uid: words(&["u-1"]),
        }
    }

    fn decide(&self) -> Result<Bound, Refusal> {
        let node = words(&["node-1"]);
        let review = Review {
            authenticated: self.authenticated,
            audiences: &self.audiences,
            error: Some("expired"),
            username: self.username,
            pod_name: &self.pod_name,
            pod_uid: &self.pod_uid,
            node_name: &node,
        };
        decide(&review, AUDIENCE)
    }
}

#[test]
fn everything_comes_from_the_review() {
    let bound = Said::good().decide().unwrap();
    assert_eq!(bound.account, Account::new("shop", "user"));
    assert_eq!((&*bound.pod, &*bound.uid), ("user-1", "u-1"));
    assert_eq!(bound.node.as_deref(), Some("node-1"));
}

#[test]
fn whatever_is_missing_refuses() {
    let refuse = |change: fn(&mut Said)| {
        let mut said = Said::good();
        change(&mut said);
        said.decide().unwrap_err()
    };
    assert_eq!(
        refuse(|said| said.authenticated = false),
        Refusal::Refused("expired".into())
    );
    for audiences in [&[][..], &["api"], &["weft2"], &["WEFT"], &[""]] {
        let mut said = Said::good();
        said.audiences = words(audiences);
        assert_eq!(said.decide(), Err(Refusal::Audience { expected: AUDIENCE }));
    }
    for username in [
        "",
        "admin",
        "system:node:n",
        "system:serviceaccount:",
        "system:serviceaccount:shop",
        "system:serviceaccount:shop:",
        "system:serviceaccount::user",
        "system:serviceaccount:shop:user:x",
        "system:serviceaccount:shop:us/er",
        "system:serviceaccount:Shop:user",
        "xsystem:serviceaccount:shop:user",
    ] {
        let mut said = Said::good();
        said.username = username;
        assert!(matches!(said.decide(), Err(Refusal::User(_))), "{username:?}");
    }
    for pods in [&[][..], &["a", "b"], &[""], &["../a"]] {
        let mut said = Said::good();
        said.pod_name = words(pods);
        assert!(matches!(said.decide(), Err(Refusal::Unbound(_))), "{pods:?}");
    }
    assert!(matches!(refuse(|said| said.pod_uid.clear()), Refusal::Unbound(_)));
}

fn at(seconds: u64) -> Now {
    Now::from_nanos(seconds * 1_000_000_000)
}

fn bound(uid: &str) -> Bound {
    Bound {
        account: Account::new("shop", "user"),
        pod: "user-1".into(),
        uid: uid.into(),
        node: None,
    }
}

const HOUR: Duration = Duration::from_hours(1);

#[test]
fn a_review_that_ends_after_its_pod_counts_for_nothing() {
    let mut answers = Answers::default();
    answers.pod_gone("u-1", at(10));
    let late = answers.put([1; 32], Ok(bound("u-1")), HOUR, at(11));
    assert!(matches!(late, Err(Refusal::Gone(..))));
    assert!(matches!(answers.get(&[1; 32], at(11)), Some(Err(_))));
    assert!(answers.put([2; 32], Ok(bound("u-2")), HOUR, at(11)).is_ok());
}

#[test]
fn no_more_is_held_than_is_allowed() {
    let mut answers = Answers::default();
    for count in 0..ANSWERS_MAX + 10 {
        let mut token = [0; 32];
        token[..8].copy_from_slice(&count.to_be_bytes());
        let answer = if count % 2 == 0 {
            Ok(bound(&format!("u-{count}")))
        } else {
            Err(Refusal::Refused("no".into()))
        };
        let _ = answers.put(token, answer, HOUR, at(1));
        answers.pod_gone(&format!("other-{count}"), at(1));
    }
    assert_eq!(answers.len(), ANSWERS_MAX);
    assert_eq!(answers.order.len(), ANSWERS_MAX);
    assert!(answers.by_pod.len() <= ANSWERS_MAX);
    assert!(answers.gone.len() <= GONE_MAX && answers.gone.len() == answers.went.len());
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Option<u8>, u64),
    Gone(u8),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_u8..4, prop::option::of(0_u8..3), 0_u64..100)
            .prop_map(|(token, pod, life)| Step::Put(token, pod, life)),
        (0_u8..3).prop_map(Step::Gone),
        (0_u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Against the history: a token is good exactly if its last answer was, is young enough, and its Pod did not go in
    /// the last minute before the answer or since.
    #[test]
    fn what_is_remembered_is_what_was_said(steps in prop::collection::vec(step(), 0..40)) {
        let mut answers = Answers::default();
        let mut now = 0;
        let mut history: Vec<(u64, Step)> = Vec::new();
        for step in steps {
            match &step {
                Step::Put(token, pod, life) => {
                    let answer = pod.map(|pod| bound(&pod.to_string())).ok_or(Refusal::Refused("no".into()));
                    let _ = answers.put([*token; 32], answer, Duration::from_secs(*life), at(now));
                }
                Step::Gone(pod) => answers.pod_gone(&pod.to_string(), at(now)),
                Step::Wait(seconds) => now += seconds,
            }
            history.push((now, step));
            for token in 0_u8..4 {
                let last = history.iter().rposition(|(_, step)| matches!(step, Step::Put(one, ..) if *one == token));
                let good = last.is_some_and(|index| {
                    let (said, Step::Put(_, Some(pod), life)) = &history[index] else { return false };
                    let went = |(_, step): &(u64, Step)| matches!(step, Step::Gone(one) if one == pod);
                    let before = history[..index].iter().any(|one| went(one) && said - one.0 < 60);
                    now < said + (*life).min(60) && !before && !history[index..].iter().any(went)
                });
                let held = matches!(answers.get(&[token; 32], at(now)), Some(Ok(_)));
                // A Pod that went is refused a while longer than it has to be: until the next one goes.
                prop_assert!(good || !held, "{history:?}");
                let ever_gone = history.iter().any(|(_, step)| matches!(step, Step::Gone(_)));
                prop_assert!(held || !good || ever_gone, "{history:?}");
            }
        }
    }
}
