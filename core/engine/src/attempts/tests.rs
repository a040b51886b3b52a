use std::collections::BTreeMap;

use super::*;
use crate::Hedge;

const LIMIT: Duration = Duration::from_secs(10);
const A: UnitId = UnitId(1);
const B: UnitId = UnitId(2);
const C: UnitId = UnitId(3);

fn at(millis: u64) -> Moment {
    Moment::at(Duration::from_millis(millis))
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "lost")
}

fn no_unit() -> Error {
    Error::new(ErrorKind::NoUnit, "no unit")
}

fn started(retry: Option<Retry>, waits: bool) -> Attempts {
    let mut attempts = Attempts::new(retry, waits, LIMIT, at(0));
    assert!(attempts.asks(A, at(0)));
    attempts
}

fn ended(attempts: &mut Attempts, now: Moment) -> Option<ErrorKind> {
    match attempts.step(now) {
        Step::End(error) => Some(error.kind()),
        _ => None,
    }
}

#[test]
fn what_was_not_begun_goes_on_and_what_may_have_been_does_not() {
    let mut attempts = started(None, false);
    assert!(matches!(attempts.step(at(0)), Step::Wait(None)));
    attempts.failed(A, Error::unit_gone(), at(1), 0);
    assert!(matches!(attempts.step(at(1)), Step::Choose));
    assert!(attempts.tried().contains(A));
    assert_eq!(attempts.take_rerouted(), None);
    assert!(attempts.asks(B, at(1)));
    assert_eq!(attempts.take_rerouted(), Some(A));
    assert_eq!(attempts.take_rerouted(), None);
    attempts.failed(B, lost(), at(2), 0);
    assert_eq!(ended(&mut attempts, at(2)), Some(ErrorKind::ConnectionLost));
}

#[test]
fn with_nowhere_to_go_it_ends_with_the_first_error() {
    let mut attempts = started(None, false);
    let unhandled = |text: &str| Error::unit_gone().with_hint(text.to_owned());
    attempts.failed(A, unhandled("first"), at(1), 0);
    assert!(attempts.asks(B, at(1)));
    attempts.failed(B, unhandled("second"), at(1), 0);
    attempts.nowhere(no_unit(), at(1));
    let Step::End(error) = attempts.step(at(1)) else { panic!("it goes on") };
    assert_eq!(error.hint(), Some("first"));
    // One that was never sent has only the reason.
    let mut attempts = Attempts::new(None, false, LIMIT, at(0));
    attempts.nowhere(no_unit(), at(0));
    assert_eq!(ended(&mut attempts, at(0)), Some(ErrorKind::NoUnit));
}

#[test]
fn it_waits_for_a_unit_until_its_time_is_up() {
    let mut attempts = Attempts::new(None, true, LIMIT, at(5));
    attempts.nowhere(no_unit(), at(5));
    let end = at(10_005);
    assert!(matches!(attempts.step(at(5)), Step::Park(until) if until == end));
    attempts.look();
    assert!(matches!(attempts.step(at(6)), Step::Choose));
    attempts.nowhere(no_unit(), at(6));
    assert_eq!(ended(&mut attempts, end), Some(ErrorKind::Timeout));
    // Neither what is wrong otherwise nor what may not wait is waited for.
    for kind in [ErrorKind::Unsupported, ErrorKind::Closed] {
        let mut attempts = Attempts::new(None, true, LIMIT, at(0));
        attempts.nowhere(Error::new(kind, "no"), at(0));
        assert_eq!(ended(&mut attempts, at(0)), Some(kind));
    }
    let mut attempts = Attempts::new(None, true, LIMIT, at(0));
    attempts.nowhere(no_unit(), at(0));
    attempts.stop_waiting(crate::too_many_parked(3));
    assert_eq!(ended(&mut attempts, at(0)), Some(ErrorKind::Overloaded));
}

#[test]
fn it_is_made_again_after_a_while() {
    let mut attempts = started(Some(Retry::new()), false);
    attempts.failed(A, lost(), at(100), 0);
    assert!(matches!(attempts.step(at(100)), Step::Wait(Some(until)) if until == at(125)));
    assert!(attempts.is_idle());
    assert!(matches!(attempts.step(at(125)), Step::Choose));
    assert!(attempts.asks(B, at(125)));
    assert_eq!(attempts.take_rerouted(), None);
    attempts.failed(B, lost(), at(126), 0);
    assert!(matches!(attempts.step(at(176)), Step::Choose));
    // Nobody is left but those that have failed: the one that has failed last is not asked again.
    attempts.nowhere(no_unit(), at(176));
    assert!(matches!(attempts.step(at(176)), Step::Choose));
    assert!(attempts.tried().contains(B) && !attempts.tried().contains(A));
    assert!(attempts.asks(A, at(176)));
    attempts.failed(A, lost(), at(177), 0);
    assert_eq!(ended(&mut attempts, at(177)), Some(ErrorKind::ConnectionLost));
    // With nobody else at all, what it has failed with stands; also when the peer is closed meanwhile.
    for stop in [false, true] {
        let mut attempts = started(Some(Retry::new()), false);
        attempts.failed(A, lost(), at(0), 0);
        match stop {
            true => attempts.stop_waiting(Error::peer_closed()),
            false => {
                assert!(matches!(attempts.step(at(25)), Step::Choose));
                attempts.nowhere(no_unit(), at(25));
            }
        }
        assert_eq!(ended(&mut attempts, at(25)), Some(ErrorKind::ConnectionLost));
    }
}

#[test]
fn a_slow_one_is_made_a_second_time() {
    let retry = Retry::new().hedge(Hedge::After(Duration::from_millis(30)));
    let mut attempts = started(Some(retry.clone()), false);
    assert!(matches!(attempts.step(at(0)), Step::Wait(Some(until)) if until == at(30)));
    assert!(matches!(attempts.step(at(30)), Step::Choose));
    assert!(attempts.tried().contains(A));
    assert!(attempts.asks(B, at(30)));
    assert!(matches!(attempts.step(at(30)), Step::Wait(None)));
    assert_eq!(retry.hedged(), 1);
    // That one of the two fails is not the end, unless the other would do the same.
    attempts.failed(B, lost(), at(31), 0);
    assert!(matches!(attempts.step(at(31)), Step::Wait(None)));
    attempts.failed(A, lost(), at(32), 0);
    assert!(matches!(attempts.step(at(82)), Step::Choose));
    let mut attempts = started(Some(retry.clone()), false);
    assert!(matches!(attempts.step(at(30)), Step::Choose));
    assert!(attempts.asks(B, at(30)));
    attempts.failed(A, Error::rejection("no"), at(31), 0);
    assert_eq!(ended(&mut attempts, at(31)), Some(ErrorKind::HandlerFailed));
    // With nobody else it goes on as it is, and costs nothing.
    let hedged = retry.hedged();
    let mut attempts = started(Some(retry.clone()), false);
    assert!(matches!(attempts.step(at(30)), Step::Choose));
    attempts.nowhere(no_unit(), at(30));
    assert!(matches!(attempts.step(at(30)), Step::Wait(None)));
    assert_eq!((retry.hedged(), retry.refused()), (hedged, 0));
}

/// One that is there and has failed does not change by being waited for; one that is gone may come back.
#[test]
fn the_only_unit_is_waited_for_when_it_is_gone() {
    let busy = || Error::new(ErrorKind::Overloaded, "busy");
    for (error, outcome) in [(lost(), None), (busy(), Some(ErrorKind::Overloaded))] {
        let mut attempts = started(Some(Retry::new()), true);
        attempts.failed(A, error, at(0), 0);
        assert!(matches!(attempts.step(at(25)), Step::Choose));
        attempts.nowhere(no_unit(), at(25));
        if matches!(attempts.step(at(25)), Step::Choose) {
            attempts.nowhere(no_unit(), at(25));
        }
        assert_eq!(ended(&mut attempts, at(25)), outcome);
    }
}

/// It is wrong in itself, whatever the attempts have come to.
#[test]
fn a_function_that_fails_to_choose_ends_it() {
    let retry = Retry::new().hedge(Hedge::After(Duration::from_millis(30)));
    // A further attempt, one elsewhere, and one besides.
    for (failure, time) in [(Some(lost()), 26), (Some(Error::unit_gone()), 1), (None, 30)] {
        let mut attempts = started(Some(retry.clone()), true);
        if let Some(error) = failure {
            attempts.failed(A, error, at(1), 0);
        }
        assert!(matches!(attempts.step(at(time)), Step::Choose));
        attempts.nowhere(Error::new(ErrorKind::InvalidArgument, "it fails"), at(time));
        assert_eq!(ended(&mut attempts, at(time)), Some(ErrorKind::InvalidArgument));
    }
}

#[test]
fn reports_of_what_is_not_under_way_change_nothing() {
    let mut attempts = started(None, true);
    assert!(!attempts.asks(C, at(0)));
    attempts.failed(C, lost(), at(0), 0);
    attempts.look();
    attempts.nowhere(no_unit(), at(0));
    attempts.stop_waiting(Error::peer_closed());
    assert!(matches!(attempts.step(at(0)), Step::Wait(None)));
}

/// Numbers as if drawn by lot.
struct Lot(u64);

impl Lot {
    fn draw(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// What becomes of an attempt.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Answer,
    NotBegun,
    /// A handler may have begun.
    Lost,
    Rejection,
    Later,
}

/// One request at units that fail, are slow, come and leave, in virtual time.
fn schedule(lot: &mut Lot, retry: Option<&Retry>, asked: &mut u64) {
    let fates = [Fate::Answer, Fate::NotBegun, Fate::Lost, Fate::Rejection, Fate::Later];
    let (waits, limit) = (lot.draw(2) == 0, Duration::from_millis(1 + lot.draw(400)));
    let mut units: Vec<UnitId> = (0..lot.draw(5)).map(UnitId).collect();
    let mut now = at(lot.draw(1_000));
    let end = now + limit;
    let mut attempts = Attempts::new(retry.cloned(), waits, limit, now);
    let mut under_way: BTreeMap<Moment, (UnitId, Fate)> = BTreeMap::new();
    let (mut begun, mut made) = (0, 0);
    let mut last = None;
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 1_000, "it does not end");
        match attempts.step(now) {
            Step::Choose => {
                let free: Vec<UnitId> = units
                    .iter()
                    .copied()
                    .filter(|unit| !attempts.tried().contains(*unit))
                    .collect();
                if free.is_empty() {
                    attempts.nowhere(no_unit(), now);
                    continue;
                }
                let unit = free[lot.draw(free.len() as u64) as usize];
                if !attempts.asks(unit, now) {
                    continue;
                }
                let is_under_way = |(asked, _): &(UnitId, Fate)| *asked == unit;
                assert!(!under_way.values().any(is_under_way), "twice at once at the same unit");
                assert_ne!(last, Some(unit), "where it has just failed");
                // What is not to be made again is made once more only if surely nothing was begun.
                if retry.is_none() {
                    assert!(begun == 0 && under_way.is_empty(), "begun before");
                }
                made += 1;
                let fate = fates[lot.draw(5) as usize];
                let mut ends = now + Duration::from_micros(1 + lot.draw(200_000));
                while under_way.contains_key(&ends) {
                    ends += Duration::from_nanos(1);
                }
                under_way.insert(ends, (unit, fate));
                assert!(under_way.len() <= 2);
            }
            Step::Wait(until) => {
                let first = under_way.first_key_value().map(|(time, _)| *time);
                assert!(first.is_some() || until.is_some(), "nothing is waited for");
                let next = first.into_iter().chain(until).min().expect("one of them");
                now = now.max(next);
                let Some((unit, mut fate)) = under_way.remove(&next) else { continue };
                let late = now >= end;
                if late {
                    fate = Fate::Lost;
                }
                if !matches!(fate, Fate::NotBegun) {
                    begun += 1;
                }
                last = Some(unit);
                let error = match fate {
                    Fate::Answer => {
                        attempts.answered(now);
                        break;
                    }
                    _ if late => timed_out(limit),
                    Fate::NotBegun => Error::unit_gone(),
                    Fate::Lost => lost(),
                    Fate::Rejection => Error::rejection("no"),
                    Fate::Later => {
                        let later = Duration::from_millis(lot.draw(50));
                        Error::rejection("later").with_retry_after(later)
                    }
                };
                attempts.failed(unit, error, now, lot.draw(u64::MAX));
                // Whoever has failed may do better, or leave.
                if lot.draw(3) == 0 {
                    units.retain(|other| *other != unit);
                }
            }
            Step::Park(until) => {
                assert!(waits && until == end && under_way.is_empty());
                match lot.draw(3) {
                    0 => now = until,
                    1 => {
                        now = until.min(now + Duration::from_millis(lot.draw(100)));
                        units.push(UnitId(100 + steps));
                        attempts.look();
                    }
                    _ => attempts.look(),
                }
                if lot.draw(20) == 0 {
                    attempts.stop_waiting(Error::peer_closed());
                }
            }
            Step::End(_) => break,
        }
    }
    // It ends in its time: an attempt that is late is ended by its unit.
    assert!(now <= end + Duration::from_millis(200), "{now:?} after {end:?}");
    *asked += made;
}

/// `ROLETALK_SCHEDULES` says how many; without it, as many as take a second or two.
#[test]
fn whatever_happens_it_is_begun_once_unless_it_may_be_made_again() {
    let schedules = std::env::var("ROLETALK_SCHEDULES").ok();
    let schedules: u64 = schedules.map_or(30_000, |count| count.parse().expect("a number"));
    let mut lot = Lot(0x9e37_79b9_7f4a_7c15);
    for _ in 0..schedules / 3 {
        schedule(&mut lot, None, &mut 0);
    }
    for hedge in [false, true] {
        let retry = Retry::new().attempts(4);
        let retry = match hedge {
            true => retry.hedge(Hedge::After(Duration::from_millis(40))),
            false => retry,
        };
        let mut asked = 0;
        for _ in 0..schedules / 3 {
            schedule(&mut lot, Some(&retry), &mut asked);
        }
        let further = retry.retried() + retry.hedged();
        assert!(further <= schedules / 30 + 10, "{further} of {}", schedules / 3);
        assert!(further > 0 && asked > 0);
    }
}
