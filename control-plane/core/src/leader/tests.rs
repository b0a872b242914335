use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> Now {
    Now::from_nanos(millis * 1_000_000)
}

/// The API server's side: grants what names the version in force.
#[derive(Default)]
struct Server {
    lease: Option<Lease>,
    versions: u64,
}

impl Server {
    fn write(&mut self, claim: &Claim) -> Option<Name> {
        let over = self.lease.as_ref().map(|lease| lease.version.clone());
        if over != claim.over {
            return None;
        }
        self.versions += 1;
        let version: Name = self.versions.to_string().as_str().into();
        self.lease = Some(Lease {
            version: version.clone(),
            holder: claim.holder.clone(),
            transitions: claim.transitions,
        });
        Some(version)
    }
}

#[test]
fn the_first_takes_it_and_the_second_waits_a_whole_lease() {
    let mut server = Server::default();
    let (mut a, mut b) = (
        Candidate::new("a".into(), at(0)),
        Candidate::new("b".into(), at(0)),
    );
    assert_eq!(a.step(at(0)), Step::Read);
    a.read(server.lease.clone(), at(1));
    let Step::Write(claim) = a.step(at(1)) else {
        panic!("nobody holds it")
    };
    assert!(claim.acquires && claim.over.is_none());
    let version = server.write(&claim).unwrap();
    a.granted(claim, version, at(1));
    assert!(a.leads(at(10_000)) && !a.leads(at(10_001)));

    b.read(server.lease.clone(), at(5));
    for seconds in (2..=14).step_by(2) {
        assert_eq!(b.step(at(seconds * 1_000 + 5)), Step::Read, "{seconds}");
        b.read(server.lease.clone(), at(seconds * 1_000 + 5));
        assert!(!b.leads(at(seconds * 1_000 + 5)));
    }
    let Step::Write(claim) = b.step(at(16_005)) else {
        panic!("the lease is over")
    };
    assert_eq!((claim.transitions, claim.acquires), (1, true));
    let version = server.write(&claim).unwrap();
    b.granted(claim, version, at(16_005));
    // The old leader wakes up: it doesn't lead, and what it writes is refused.
    assert!(!a.leads(at(16_006)));
    let Step::Write(claim) = a.step(at(16_006)) else {
        panic!("it thinks that the lease is its own")
    };
    assert_eq!(server.write(&claim), None);
    a.conflict(at(16_007));
    assert_eq!(a.step(at(16_007)), Step::Read);
}

#[test]
fn what_is_released_is_taken_at_once() {
    let mut server = Server::default();
    let mut a = Candidate::new("a".into(), at(0));
    a.read(None, at(0));
    let Step::Write(claim) = a.step(at(0)) else {
        panic!()
    };
    let version = server.write(&claim).unwrap();
    a.granted(claim, version, at(0));
    let claim = a.release().unwrap();
    assert!(!a.leads(at(1)));
    server.write(&claim).unwrap();
    let mut b = Candidate::new("b".into(), at(0));
    b.read(server.lease.clone(), at(10));
    assert!(matches!(
        b.step(at(10)),
        Step::Write(Claim { acquires: true, .. })
    ));
}

#[test]
fn a_write_whose_end_is_unknown_is_followed_by_a_read() {
    let mut server = Server::default();
    let mut a = Candidate::new("a".into(), at(0));
    a.read(None, at(0));
    let Step::Write(claim) = a.step(at(0)) else {
        panic!()
    };
    // It arrived, and the answer got lost.
    server.write(&claim).unwrap();
    a.failed(true, at(5_000));
    assert!(!a.leads(at(5_000)));
    assert_eq!(a.step(at(7_000)), Step::Read);
    a.read(server.lease.clone(), at(7_001));
    let Step::Write(claim) = a.step(at(7_001)) else {
        panic!("its own")
    };
    assert!(!claim.acquires && server.write(&claim).is_some());
}

/// A request on its way.
#[derive(Debug)]
enum Way {
    Read,
    Write(Claim),
}

/// One candidate in the simulation: pausing, with requests that take time both ways or get lost.
struct Replica {
    candidate: Candidate,
    paused_until: u64,
    /// (sent, arrives, answer arrives or is lost, what).
    flight: Option<(u64, u64, Option<u64>, Way)>,
    /// What the server said when the request arrived.
    said: Option<Result<Option<Name>, Option<Lease>>>,
}

const TIMEOUT: u64 = 5_000;

impl Replica {
    fn turn(&mut self, server: &mut Server, now: u64, delays: (u64, u64), lost: bool) {
        // Requests that are on their way arrive although their sender sleeps.
        if let Some((_, arrives, _, way)) = &self.flight
            && self.said.is_none()
            && now >= *arrives
        {
            self.said = Some(match way {
                Way::Read => Err(server.lease.clone()),
                Way::Write(claim) => Ok(server.write(claim)),
            });
        }
        if now < self.paused_until {
            return;
        }
        if let Some((sent, _, answers, _)) = &self.flight {
            let (sent, over) = (*sent, now - *sent > TIMEOUT);
            let answered = answers.is_some_and(|answers| now >= answers) && self.said.is_some();
            if !answered && !over {
                return;
            }
            let (Some((.., way)), said) = (self.flight.take(), self.said.take()) else {
                return;
            };
            match (answered.then_some(said).flatten(), way) {
                (Some(Err(lease)), _) => self.candidate.read(lease, at(now)),
                (Some(Ok(Some(version))), Way::Write(claim)) => {
                    self.candidate.granted(claim, version, at(sent));
                }
                (Some(Ok(_)), _) => self.candidate.conflict(at(now)),
                (None, way) => self.candidate.failed(matches!(way, Way::Write(_)), at(now)),
            }
        }
        let way = match self.candidate.step(at(now)) {
            Step::Wait(_) => return,
            Step::Read => Way::Read,
            Step::Write(claim) => Way::Write(claim),
        };
        let arrives = now + delays.0;
        self.flight = Some((now, arrives, (!lost).then_some(arrives + delays.1), way));
    }
}

proptest! {
    /// Three candidates, half an hour, pauses of up to forty seconds, slow and lost answers: never do two lead at once,
    /// by the only clock there is; and somebody leads most of the time.
    #[test]
    fn never_do_two_lead(seed in prop::collection::vec((0_u64..40_000, 0_u64..4_000, 0_u64..4_000, any::<u8>()), 60..61)) {
        let mut server = Server::default();
        let mut replicas: Vec<Replica> = ["a", "b", "c"]
            .map(|id| Replica {
                candidate: Candidate::new(id.into(), at(0)),
                paused_until: 0,
                flight: None,
                said: None,
            })
            .into();
        let (mut led, mut transitions) = (0_u64, 0_u32);
        for (round, (pause, there, back, dice)) in seed.into_iter().enumerate() {
            let begin = round as u64 * 30_000;
            let victim = usize::from(dice) % 3;
            if dice & 4 != 0 {
                replicas[victim].paused_until = begin + pause;
            }
            for now in (begin..begin + 30_000).step_by(100) {
                for (index, replica) in replicas.iter_mut().enumerate() {
                    let lost = dice & 8 != 0 && index != victim;
                    replica.turn(&mut server, now, (there / 10, back / 10), lost && now % 700 == 0);
                }
                let leaders = replicas.iter().filter(|replica| replica.candidate.leads(at(now))).count();
                prop_assert!(leaders <= 1, "at {} ms", now);
                led += leaders as u64;
                let seen = server.lease.as_ref().map_or(0, |lease| lease.transitions);
                prop_assert!(seen >= transitions, "transitions count up");
                transitions = seen;
            }
        }
        prop_assert!(led > 60 * 300 / 4, "somebody led in {} of {} moments", led, 60 * 300);
    }
}
