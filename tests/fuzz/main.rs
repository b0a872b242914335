//! Every decoder, on inputs that are nearly good: for a moment, the same ones in every run. `fuzz/run` goes on from there
//! for as long as one likes, guided by coverage; what it finds lies in `fuzz/corpus` and is tried here, too.

#[allow(dead_code, unreachable_pub, reason = "it is a library of its own")]
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Mutated inputs of each target, at most.
const INPUTS: u64 = 20_000;
/// After so long a slow decoder has seen enough.
const MOMENT: Duration = Duration::from_secs(3);
/// Changes to one input, at most.
const CHANGES: usize = 6;
/// Bytes that decoders look out for.
const TELLING: &[u8] = b"\0\x01\x7f\x80\xff\r\n\t :/;,.*-_[]{}()'\"%&@!|>#";

/// What has once fallen.
fn fallen(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/corpus")
        .join(name);
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    files
        .map(|file| fs::read(file.path()).expect("the corpus is readable"))
        .collect()
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Rng) {
    let at = random.usize(..=input.len());
    let end = (at + random.usize(..32)).min(input.len());
    match random.u8(..8) {
        0 => drop(input.drain(at..end)),
        1 => input.insert(at, random.u8(..)),
        2 => input.insert(at, TELLING[random.usize(..TELLING.len())]),
        3 => {
            let again = input[at..end].repeat(random.usize(1..20));
            drop(input.splice(at..at, again));
        }
        4 => input.truncate(at),
        5 => {
            let other = &seeds[random.usize(..seeds.len())];
            let from = random.usize(..=other.len());
            drop(input.splice(at..end, other[from..].iter().copied()));
        }
        6 if at < input.len() => input[at] = TELLING[random.usize(..TELLING.len())],
        _ if at < input.len() => input[at] ^= 1 << random.u8(..8),
        _ => {}
    }
}

fn mutated(name: &str) {
    let target = targets::TARGETS.iter().find(|target| target.name == name);
    let target = target.expect("a target's name");
    let mut seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "nothing to begin with");
    seeds.extend(fallen(name));
    for seed in &seeds {
        (target.run)(seed);
    }
    let mut random = Rng::with_seed(1);
    let started = Instant::now();
    for number in 0..INPUTS {
        let mut input = seeds[random.usize(..seeds.len())].clone();
        for _ in 0..random.usize(1..=CHANGES) {
            change(&mut input, &seeds, &mut random);
        }
        let run = std::panic::catch_unwind(|| (target.run)(&input));
        assert!(
            run.is_ok(),
            "input {number} of {name} fell: {}",
            input.escape_ascii()
        );
        if started.elapsed() > MOMENT {
            println!("{name}: {number} inputs");
            return;
        }
    }
}

macro_rules! targets {
    ($($name:ident)*) => { $(#[test] fn $name() { mutated(stringify!($name)); })* };
}

targets! {
    xds_decode discovery_request manifests http1_framing http2_guard request_head protocol authority names
    certificate_request token
}

#[test]
fn every_target_is_tried_here_and_has_a_program_of_its_own() {
    let source = include_str!("main.rs");
    for target in targets::TARGETS {
        let program = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../fuzz/fuzz_targets")
            .join(format!("{}.rs", target.name));
        assert!(program.exists(), "{}", program.display());
        assert!(
            source.split_whitespace().any(|word| word == target.name),
            "{}",
            target.name
        );
    }
}
