//! How the unit is chosen that what is sent to a role goes to.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use twox_hash::XxHash3_64;

use crate::{
    Load, Moment, Tried, UnitId,
    error::{Error, ErrorKind, Result},
    load::nanos,
};

/// Below this, differences between answer times mean nothing: they are the machine's.
const NOISE: u64 = 1_000_000;

/// How a destination chooses among the units that serve its role.
///
/// ```
/// use roletalk_engine::Balance;
///
/// let balance = Balance::least_loaded().prefer("zone", "a");
/// let for_one_user = balance.with_key("user 17");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Balance {
    by: By,
    /// Tags that a unit should have.
    prefer: Option<Arc<[(String, String)]>>,
    eject: Option<Ejection>,
}

/// When a unit that keeps failing is left out for a while. Never more than half of those that serve a role are.
///
/// It is asked again, once, when its time is over: if that fails, too, it is left out for twice as long, otherwise it
/// is as good as any.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Ejection {
    /// So many requests in a row that fail. Default 5, 0 counts as 1. A request fails when it is not answered within its time.
    pub failures: u32,
    /// Whether rejections are failures, too: by handlers, for want of a handler, or because the unit is overloaded.
    /// Default false, since a handler may reject what is wrong with the request.
    pub rejections: bool,
    /// How long the unit is left out at first. Default 5 s.
    pub time: Duration,
    /// The longest that it is left out. Default 60 s, and never less than `time`.
    pub most: Duration,
}

impl Default for Ejection {
    fn default() -> Ejection {
        let (time, most) = (Duration::from_secs(5), Duration::from_secs(60));
        Ejection { failures: 5, rejections: false, time, most }
    }
}

#[derive(Clone, Default)]
enum By {
    #[default]
    Turn,
    Load,
    Key(u64),
    Custom(Arc<Custom>),
}

/// A function that chooses: see [`Balance::custom`].
type Custom = dyn Fn(&[Candidate<'_>]) -> Result<Option<usize>> + Send + Sync;

impl fmt::Debug for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            By::Turn => "round robin",
            By::Load => "least loaded",
            By::Key(_) => "by key",
            By::Custom(_) => "custom",
        })
    }
}

impl Balance {
    /// One unit after the other, as the original does.
    pub const fn round_robin() -> Balance {
        Balance { by: By::Turn, prefer: None, eject: None }
    }

    /// One unit after the other, but instead of one another that is drawn by lot where that is clearly better: has
    /// fewer requests to answer, or is to answer in less than half of the time. Answer times of up to a
    /// millisecond count as equal, and so do those of a second and more. A unit that was slow is asked again after
    /// some seconds at most, and one that does not answer at all after a second, then less and less often.
    pub const fn least_loaded() -> Balance {
        Balance { by: By::Load, prefer: None, eject: None }
    }

    /// The same unit for the same key, as long as it is there: by rendezvous hashing, so that only the keys of a unit
    /// that leaves or comes move. Every peer chooses alike.
    ///
    /// Units are told apart by their names, which outlive a restart. A unit without one, or with one that another
    /// unit has too, is known by its id, which does not.
    pub fn key(key: impl AsRef<[u8]>) -> Balance {
        Balance { by: By::Key(XxHash3_64::oneshot(key.as_ref())), prefer: None, eject: None }
    }

    /// As the function says: it is given those that can be asked, and returns the place of one. `None`, or a
    /// place that there is not, means that none of them will do. It must not block, and is not called when there is
    /// none to choose.
    pub fn custom(
        choose: impl Fn(&[Candidate<'_>]) -> Option<usize> + Send + Sync + 'static,
    ) -> Balance {
        Balance::try_custom(move |candidates| Ok(choose(candidates)))
    }

    /// As [`custom`](Balance::custom), by a function that may fail. Its error is at once that of what is sent, also of
    /// what waits for a unit, goes on to another, or is [made again](crate::Retry). It should be of another kind than
    /// [`ErrorKind::NoUnit`].
    pub fn try_custom(
        choose: impl Fn(&[Candidate<'_>]) -> Result<Option<usize>> + Send + Sync + 'static,
    ) -> Balance {
        Balance { by: By::Custom(Arc::new(choose)), prefer: None, eject: None }
    }

    /// Only among units with this [tag](crate::Config::tags), such as those in the same zone, as long as one of them
    /// can be asked; among all others otherwise. Several tags must all be there.
    #[must_use]
    pub fn prefer(mut self, tag: impl Into<String>, value: impl Into<String>) -> Balance {
        let before = self.prefer.iter().flat_map(|tags| tags.iter().cloned());
        self.prefer = Some(before.chain([(tag.into(), value.into())]).collect());
        self
    }

    /// Leaves out those that keep failing. What a unit has failed with before counts as well, whatever it was asked for.
    #[must_use]
    pub fn eject(mut self, ejection: Ejection) -> Balance {
        self.eject = Some(ejection);
        self
    }

    /// The same, but [by key](Balance::key).
    #[must_use]
    pub fn with_key(&self, key: impl AsRef<[u8]>) -> Balance {
        Balance { by: Balance::key(key).by, ..self.clone() }
    }

    /// By the name that other languages give it: `round_robin` or `least_loaded`, with `-` as well.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for any other name.
    pub fn named(name: &str) -> Result<Balance> {
        match name.replace('-', "_").as_str() {
            "round_robin" => Ok(Balance::round_robin()),
            "least_loaded" => Ok(Balance::least_loaded()),
            _ => {
                let text = format!("there is no balance {name:?}");
                let error = Error::new(ErrorKind::InvalidArgument, text);
                Err(error.with_hint("Use \"round_robin\", \"least_loaded\" or a function."))
            }
        }
    }

    /// Whether the choice depends on how many requests [wait](Load::waiting), so that all that was sent has to
    /// be counted before.
    pub fn counts_requests(&self) -> bool {
        matches!(self.by, By::Load | By::Custom(_))
    }

    /// Whether it may choose none though there is one.
    #[inline]
    pub fn may_refuse(&self) -> bool {
        matches!(self.by, By::Custom(_))
    }

    /// Whether it means one unit and no other: what is queued for that when it is lost goes nowhere else. So it is by
    /// key, and where a function has chosen.
    pub fn means_one(&self) -> bool {
        matches!(self.by, By::Key(_) | By::Custom(_))
    }

    fn prefers(&self, load: &Load) -> bool {
        let has = |(tag, value): &(String, String)| load.tags().get(tag) == Some(value);
        self.prefer.iter().all(|tags| tags.iter().all(has))
    }
}

/// A unit that can be asked.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// The unit.
    pub unit: UnitId,
    /// The remote peer's id.
    pub id: &'a Arc<str>,
    /// Its name, possibly empty.
    pub name: &'a str,
    /// Its static tags.
    pub tags: &'a BTreeMap<String, String>,
    /// Requests that wait for its answer.
    pub waiting: usize,
    /// The time that an answer is [likely to take](Load::likely_answer_time); zero when nothing is known.
    pub answer_time: Duration,
}

/// The units that a destination chooses from.
pub trait Units {
    /// How many they are.
    fn count(&self) -> usize;
    /// One of them, by its place.
    fn unit(&self, at: usize) -> UnitId;
    /// What is known of it.
    fn load(&self, at: usize) -> &Load;
}

/// What is to be sent, as far as the choice hangs on it.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// How to choose.
    pub balance: &'a Balance,
    /// Whether only units will do that take [fields](crate::Fields).
    pub takes_fields: bool,
    /// Where it has been.
    pub tried: &'a Tried,
}

impl Wanted<'_> {
    fn is_for(&self, units: &dyn Units, at: usize) -> bool {
        let load = units.load(at);
        load.is_open()
            && (!self.takes_fields || load.takes_fields())
            && !self.tried.contains(units.unit(at))
    }

    /// Whether it is for any unit that is open.
    fn is_for_all(&self) -> bool {
        let Balance { prefer, eject, .. } = self.balance;
        !self.takes_fields && self.tried.is_empty() && prefer.is_none() && eject.is_none()
    }

    /// The places of those that it may go to. `now` is only called when that hangs on the time. `turn` is that of the
    /// destination, where it is noted who is left out.
    pub fn candidates(
        &self,
        turn: &Turn,
        units: &dyn Units,
        now: &dyn Fn() -> Moment,
    ) -> Vec<usize> {
        let mut all: Vec<usize> = (0..units.count()).filter(|at| self.is_for(units, *at)).collect();
        if let Some(eject) = &self.balance.eject {
            let ejected = ejected(eject, units, now());
            turn.note(eject, units, &ejected);
            all.retain(|at| !ejected.contains(at));
        }
        let preferred = |at: &usize| self.balance.prefers(units.load(*at));
        if self.balance.prefer.is_some() && all.iter().any(preferred) {
            all.retain(preferred);
        }
        all
    }
}

/// The places of those that are left out: those with the most failures, and half of all at most.
fn ejected(how: &Ejection, units: &dyn Units, now: Moment) -> Vec<usize> {
    let open = (0..units.count()).filter(|at| units.load(*at).is_open());
    let open: Vec<usize> = open.collect();
    let fails = |at: &usize| units.load(*at).ejected(how, now).is_some();
    let mut failing: Vec<usize> = open.iter().copied().filter(fails).collect();
    failing.sort_by_key(|at| std::cmp::Reverse(units.load(*at).failures(how.rejections)));
    failing.truncate(open.len() / 2);
    failing
}

/// How a unit that serves a role stands.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Standing {
    /// The unit.
    pub unit: UnitId,
    /// Requests that wait for its answer.
    pub waiting: usize,
    /// The time that an answer is [likely to take](Load::likely_answer_time); zero when nothing is known.
    pub answer_time: Duration,
    /// Requests in a row that were not answered in time.
    pub unanswered: usize,
    /// Requests in a row that were rejected.
    pub rejected: usize,
    /// How long it is still left out, if it is; zero while one request finds out whether it has recovered.
    pub ejected: Option<Duration>,
}

impl Balance {
    /// How all units stand, in their order.
    pub fn standings(&self, units: &dyn Units, now: Moment) -> Vec<Standing> {
        let out = self.eject.as_ref().map(|eject| (eject, ejected(eject, units, now)));
        let standing = |at: usize| {
            let load = units.load(at);
            let ejected = out.as_ref().filter(|(_, out)| out.contains(&at));
            Standing {
                unit: units.unit(at),
                waiting: load.waiting(),
                answer_time: load.likely_answer_time(now),
                unanswered: load.failures(false),
                rejected: load.rejected(),
                ejected: ejected.and_then(|(eject, _)| load.ejected(eject, now)),
            }
        };
        (0..units.count()).map(standing).collect()
    }
}

/// Whose turn it is at a destination, and who is left out there. Each has one of its own.
#[derive(Debug, Default)]
pub struct Turn {
    turns: AtomicUsize,
    /// Whether anybody is left out.
    any_out: AtomicBool,
    out: Mutex<LeftOut>,
    /// Whether anything has changed there; shared by the destinations of a peer.
    changed: Arc<AtomicBool>,
}

/// Who was left out at the last choice.
#[derive(Debug, Default)]
struct LeftOut {
    how: Ejection,
    units: Vec<UnitId>,
    changes: Vec<(UnitId, bool)>,
}

impl Turn {
    pub(crate) fn new(changed: Arc<AtomicBool>) -> Turn {
        Turn { changed, ..Turn::default() }
    }

    /// Whether units are left out, or not any more, of which the peer has not
    /// [told](crate::Peer::tell_ejections).
    #[inline]
    pub fn has_news(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// The units that are left out since, and those that are not any more.
    pub(crate) fn take_changes(&self) -> Vec<(UnitId, bool)> {
        std::mem::take(&mut self.left_out().changes)
    }

    fn left_out(&self) -> MutexGuard<'_, LeftOut> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes who is left out, and who has recovered. One that is tried again is not back yet.
    fn note(&self, how: &Ejection, units: &dyn Units, ejected: &[usize]) {
        if ejected.is_empty() && !self.any_out.load(Ordering::Relaxed) {
            return;
        }
        let mut out = self.left_out();
        let LeftOut { how: noted, units: before, changes } = &mut *out;
        // Where calls differ in what they leave out, units would come and go with each.
        if noted != how {
            let is_out =
                |at: &usize| before.contains(&units.unit(*at)) && units.load(*at).is_failing(noted);
            if (0..units.count()).any(|at| is_out(&at)) {
                return;
            }
            *noted = *how;
        }
        let now = (0..units.count()).filter(|at| {
            let was_out = || before.contains(&units.unit(*at));
            ejected.contains(at) || (units.load(*at).is_failing(how) && was_out())
        });
        let now: Vec<UnitId> = now.map(|at| units.unit(at)).collect();
        let is_there = |unit: &UnitId| (0..units.count()).any(|at| units.unit(at) == *unit);
        let back = before.iter().filter(|unit| !now.contains(unit) && is_there(unit));
        let gone = now.iter().filter(|unit| !before.contains(unit));
        let noted = changes.len();
        changes.extend(back.map(|unit| (*unit, false)).chain(gone.map(|unit| (*unit, true))));
        if changes.len() > noted {
            self.changed.store(true, Ordering::Relaxed);
        }
        self.any_out.store(!now.is_empty(), Ordering::Relaxed);
        *before = now;
    }

    /// The place of the unit that what is wanted goes to; none when none of them will do.
    ///
    /// `now` is only called when the choice hangs on the time.
    ///
    /// # Errors
    /// That of a [function](Balance::try_custom).
    pub fn choose(
        &self,
        units: &dyn Units,
        wanted: Wanted<'_>,
        now: &dyn Fn() -> Moment,
    ) -> Result<Option<usize>> {
        if wanted.is_for_all() {
            return self.among(units.count(), units, &|at| at, wanted.balance, now);
        }
        let all = wanted.candidates(self, units, now);
        let chosen = self.among(all.len(), units, &|at| all[at], wanted.balance, now)?;
        Ok(chosen.map(|at| all[at]))
    }

    /// As [`choose`](Turn::choose), among so many of which each is `at` some place.
    fn among(
        &self,
        count: usize,
        units: &dyn Units,
        at: &dyn Fn(usize) -> usize,
        balance: &Balance,
        now: &dyn Fn() -> Moment,
    ) -> Result<Option<usize>> {
        let load = |n: usize| units.load(at(n));
        let open = |n: &usize| load(*n).is_open();
        Ok(match &balance.by {
            By::Turn => self.next(count, &open).map(|(n, _)| n),
            By::Load => {
                let Some((first, turn)) = self.next(count, &open) else { return Ok(None) };
                if count < 2 {
                    return Ok(Some(first));
                }
                // Any of the others, without a source of randomness: turns are scattered.
                let lot = scattered(turn) % (count - 1);
                let other = (first + 1 + lot) % count;
                let (first_load, other_load) = (load(first), load(other));
                let better =
                    other_load.is_open() && is_better(other_load, first_load, nanos(now()));
                Some(if better { other } else { first })
            }
            By::Key(key) => {
                let score = |n: &usize| {
                    XxHash3_64::oneshot_with_seed(*key, &load(*n).stable_hash().to_le_bytes())
                };
                (0..count).filter(open).max_by_key(score)
            }
            By::Custom(choose) => {
                let now = now();
                let places: Vec<usize> = (0..count).filter(open).collect();
                let candidates = places.iter().map(|n| load(*n).candidate(units.unit(at(*n)), now));
                let candidates: Vec<Candidate<'_>> = candidates.collect();
                if candidates.is_empty() {
                    return Ok(None);
                }
                choose(&candidates)?.and_then(|place| places.get(place).copied())
            }
        })
    }

    /// The next one that is open, and how many turns there were before.
    fn next(&self, count: usize, open: &dyn Fn(&usize) -> bool) -> Option<(usize, usize)> {
        let turn = match count {
            0 | 1 => 0,
            _ => self.turns.fetch_add(1, Ordering::Relaxed),
        };
        let mut in_turn = (0..count).map(|n| turn.wrapping_add(n) % count);
        in_turn.find(open).map(|n| (n, turn))
    }
}

/// A number of its own for each turn, without a pattern that requests could have as well.
fn scattered(turn: usize) -> usize {
    (turn as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32) as usize
}

/// Whether a unit is clearly better than the one whose turn it is.
fn is_better(other: &Load, first: &Load, now: u64) -> bool {
    if first.is_probed(now) {
        return false;
    }
    let (waits, first_waits) = (other.waiting() as u64, first.waiting() as u64);
    let first_takes = first.likely(now).max(NOISE);
    // What has faded is reason enough for a request in turn, not for more than its turn.
    let takes = other.proven(first_takes, now).max(NOISE);
    if takes / 2 <= first_takes && first_takes / 2 <= takes {
        return waits < first_waits;
    }
    takes.saturating_mul(waits + 1) < first_takes.saturating_mul(first_waits + 1)
}

#[cfg(test)]
mod tests;
