//! What is known of a unit where one is chosen.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use twox_hash::XxHash3_64;

use crate::{
    Candidate, Ejection, Moment, UnitId, UnitInfo,
    policy::{Access, Rights},
};

/// An answer time counts for half after so much time, as a power of two of nanoseconds: 0.54 s. After an answer that
/// took a second, a unit has its share again in less than five.
const HALF_LIFE: u32 = 29;
/// Answers that took longer, in nanoseconds, count as if they took this: what was held up by a stop must not be held
/// against a unit for long.
const MOST: u64 = 1_000_000_000;
/// A unit that does not answer is asked again, once, after this time, then less and less often.
const PROBE: u64 = 1_000_000_000;

/// What is known of a unit without its lock, for the choice among units: see [`Balance`](crate::Balance).
#[derive(Debug, Default)]
pub struct Load {
    open: AtomicBool,
    fields: AtomicBool,
    /// Whether another unit that serves roles has the same name.
    alike: AtomicBool,
    waiting: AtomicUsize,
    // Times are in nanoseconds. Each is written by one thread at a time, which has the unit's lock; that a reader
    // sees some of them before others does no harm.
    answer_time: AtomicU64,
    /// When that was the last one.
    measured: AtomicU64,
    asked: AtomicU64,
    /// The last answer, or when it was asked again after it owed nothing.
    answered: AtomicU64,
    /// The same, or the last probe.
    silent: AtomicU64,
    /// Requests in a row that it has not answered in time.
    unanswered: AtomicUsize,
    /// Requests in a row that it has rejected.
    rejected: AtomicUsize,
    /// The last of either.
    failed: AtomicU64,
    access: Access,
    name: String,
    name_hash: u64,
    id: Arc<str>,
    id_hash: u64,
    tags: BTreeMap<String, String>,
}

impl Load {
    pub(crate) fn new(info: &UnitInfo) -> Load {
        Load {
            name_hash: XxHash3_64::oneshot(info.name.as_bytes()),
            name: info.name.clone(),
            id_hash: XxHash3_64::oneshot(info.id.as_bytes()),
            id: info.id.clone(),
            tags: info.tags.clone(),
            ..Load::default()
        }
    }

    /// That of a unit that is gone.
    pub fn none() -> &'static Load {
        static NONE: LazyLock<Load> = LazyLock::new(Load::default);
        &NONE
    }

    /// What a function that chooses is told of the unit.
    pub fn candidate(&self, unit: UnitId, now: Moment) -> Candidate<'_> {
        Candidate {
            unit,
            id: &self.id,
            name: &self.name,
            tags: &self.tags,
            waiting: self.waiting(),
            answer_time: self.likely_answer_time(now),
        }
    }

    /// Whether the unit has a connection that takes messages.
    pub fn is_open(&self) -> bool {
        self.open.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Whether all its connections take [fields](crate::Fields).
    pub fn takes_fields(&self) -> bool {
        self.fields.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Requests that wait for its answer, stream openings included.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// The time that its answers have taken, smoothed, a second at most; none before the first one.
    pub fn answer_time(&self) -> Option<Duration> {
        let time = self.answer_time.load(Relaxed);
        (time > 0).then(|| Duration::from_nanos(time))
    }

    /// The time that an answer is likely to take: what answers have taken counts for less and less as time goes by, and
    /// a unit that owes answers and gives none will take longer than it has been silent.
    pub fn likely_answer_time(&self, now: Moment) -> Duration {
        Duration::from_nanos(self.likely(nanos(now)))
    }

    pub(crate) fn likely(&self, now: u64) -> u64 {
        let since = now.saturating_sub(self.measured.load(Relaxed));
        faded(self.answer_time.load(Relaxed), since).max(self.silence(now))
    }

    /// The time that an answer takes at least, where nothing speaks for it but what it has shown: as `otherwise`
    /// as long as it has never answered.
    pub(crate) fn proven(&self, otherwise: u64, now: u64) -> u64 {
        let known = match self.answer_time.load(Relaxed) {
            0 => otherwise,
            known => known,
        };
        known.max(self.silence(now))
    }

    fn silence(&self, now: u64) -> u64 {
        match self.waiting() == 0 || self.is_probed(now) {
            true => 0,
            false => now.saturating_sub(self.silent.load(Relaxed)),
        }
    }

    /// Whether it owes answers and is to be asked all the same, to see whether it answers again.
    pub(crate) fn is_probed(&self, now: u64) -> bool {
        // Nearly always not.
        let since = now.saturating_sub(self.asked.load(Relaxed));
        if since <= PROBE || self.waiting() == 0 {
            return false;
        }
        let silence = now.saturating_sub(self.answered.load(Relaxed));
        since > silence / 2
    }

    /// Requests in a row that have failed: that were not answered in time, or were rejected, if that counts.
    pub fn failures(&self, rejections: bool) -> usize {
        let rejected = if rejections { self.rejected() } else { 0 };
        self.unanswered.load(Relaxed).saturating_add(rejected)
    }

    /// Requests in a row that it has rejected.
    pub fn rejected(&self) -> usize {
        self.rejected.load(Relaxed)
    }

    /// Whether it has failed so often that it may be left out.
    pub(crate) fn is_failing(&self, how: &Ejection) -> bool {
        self.failures(how.rejections) >= how.failures.max(1) as usize
    }

    /// How long it is still left out for its failures; zero while it is tried whether it has recovered. None when it
    /// may be asked.
    pub fn ejected(&self, how: &Ejection, now: Moment) -> Option<Duration> {
        let over = self.failures(how.rejections).checked_sub(how.failures.max(1) as usize)?;
        let doubled = 1u32.checked_shl(over.min(31) as u32).unwrap_or(u32::MAX);
        let time = how.time.saturating_mul(doubled).min(how.most.max(how.time));
        let end = Moment::at(Duration::from_nanos(self.failed.load(Relaxed))) + time;
        let left = end.since(now);
        // One request tells whether it has recovered.
        let is_tried = self.waiting() > 0 && self.asked.load(Relaxed) >= nanos(end);
        (!left.is_zero() || is_tried).then_some(left)
    }

    /// Its static tags.
    pub fn tags(&self) -> &BTreeMap<String, String> {
        &self.tags
    }

    /// What tells it from others for as long as possible: its name, which outlives a restart, unless it has none or
    /// shares it.
    pub(crate) fn stable_hash(&self) -> u64 {
        match self.name.is_empty() || self.alike.load(Relaxed) {
            true => self.id_hash,
            false => self.name_hash,
        }
    }

    /// What the policy gives to the unit; none when there is no policy.
    pub(crate) fn rights(&self) -> Option<Arc<Rights>> {
        self.access.rights()
    }

    pub(crate) fn set_rights(&self, rights: Option<Arc<Rights>>) {
        self.access.set(rights);
    }

    /// Counts how often the rights were set.
    #[inline]
    pub(crate) fn rights_changes(&self) -> u64 {
        self.access.changes()
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.store(open, std::sync::atomic::Ordering::Release);
    }

    pub(crate) fn set_fields(&self, fields: bool) {
        self.fields.store(fields, std::sync::atomic::Ordering::Release);
    }

    pub(crate) fn set_alike(&self, alike: bool) {
        self.alike.store(alike, Relaxed);
    }

    pub(crate) fn set_waiting(&self, waiting: usize) {
        self.waiting.store(waiting, Relaxed);
    }

    /// It was asked at this time, in nanoseconds, and so many requests wait now.
    #[inline]
    pub(crate) fn note_asked(&self, waiting: usize, now: u64) {
        if waiting <= 1 {
            self.answered.store(now, Relaxed);
            self.silent.store(now, Relaxed);
        } else if self.is_probed(now) {
            self.silent.store(now, Relaxed);
        }
        self.asked.store(now, Relaxed);
        self.waiting.store(waiting, Relaxed);
    }

    /// It has answered what was sent at this time, in nanoseconds.
    #[inline]
    pub(crate) fn note_answered(&self, sent: u64, rejects: bool, now: Moment) {
        self.unanswered.store(0, Relaxed);
        match rejects {
            true => self.note_failures(&self.rejected, 1, now),
            false => self.rejected.store(0, Relaxed),
        }
        let now = nanos(now);
        let took = now.saturating_sub(sent);
        // Answers that come together have one time: all but the slowest change nothing.
        let known = self.answered.load(Relaxed) == now && self.measured.load(Relaxed) == now;
        if known && took <= self.answer_time.load(Relaxed) {
            return;
        }
        self.answered.store(now, Relaxed);
        self.silent.store(now, Relaxed);
        self.note_time(took, now);
    }

    /// It has not answered so many, of which one was given this time.
    pub(crate) fn note_unanswered(&self, count: usize, time: Duration, now: Moment) {
        self.note_failures(&self.unanswered, count, now);
        self.note_time(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), nanos(now));
    }

    fn note_failures(&self, failures: &AtomicUsize, count: usize, now: Moment) {
        failures.store(failures.load(Relaxed).saturating_add(count), Relaxed);
        self.failed.store(nanos(now), Relaxed);
    }

    fn note_time(&self, took: u64, now: u64) {
        let took = took.min(MOST);
        let before = self.answer_time.load(Relaxed);
        let since = now.saturating_sub(self.measured.load(Relaxed));
        // Slow answers count at once, quick ones only in the course of time.
        let time = match before.checked_sub(took) {
            Some(above) => took + faded(above, since),
            None if before == 0 => took,
            None => before + (took - before) / 2,
        };
        self.answer_time.store(time, Relaxed);
        self.measured.store(now, Relaxed);
    }
}

#[cfg(test)]
impl Load {
    /// That of a unit with this name and this id.
    pub(crate) fn of(name: &str, id: &str) -> Load {
        let (name, id) = (name.to_owned(), id.into());
        Load::new(&UnitInfo { name, id, ..UnitInfo::clone(&UnitInfo::example(crate::Dialect::Go)) })
    }

    pub(crate) fn with_tag(mut self, tag: &str, value: &str) -> Load {
        self.tags.insert(tag.into(), value.into());
        self
    }
}

#[inline]
pub(crate) fn nanos(moment: Moment) -> u64 {
    let since = moment.since_epoch();
    since.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(since.subsec_nanos()))
}

/// What is left of a value after this time: half of it after each half-life, on a straight line in between.
fn faded(value: u64, since: u64) -> u64 {
    let halves = since >> HALF_LIFE;
    let rest = since & ((1 << HALF_LIFE) - 1);
    let value = value.checked_shr(u32::try_from(halves).unwrap_or(u32::MAX)).unwrap_or(0);
    // Neither is more than 30 bits long: see `MOST`.
    value - ((value * rest) >> (HALF_LIFE + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::at(Duration::from_millis(millis))
    }

    #[test]
    fn a_value_fades_by_half_each_half_life() {
        let half = 1 << HALF_LIFE;
        assert_eq!(
            [0, half, 2 * half, 3 * half].map(|since| faded(800, since)),
            [800, 400, 200, 100]
        );
        assert_eq!(faded(800, half / 2), 600);
        assert_eq!(faded(MOST, u64::MAX), 0);
        assert!(faded(MOST, half - 1) > MOST / 2);
    }

    #[test]
    fn slow_answers_count_at_once_and_quick_ones_in_time() {
        let load = Load::default();
        assert_eq!(load.answer_time(), None);
        load.note_answered(nanos(at(0)), false, at(2));
        assert_eq!(load.answer_time(), Some(Duration::from_millis(2)));
        load.note_answered(nanos(at(2)), false, at(102));
        assert_eq!(load.answer_time(), Some(Duration::from_millis(51)));
        // At the same moment nothing has faded.
        load.note_answered(nanos(at(101)), false, at(102));
        assert_eq!(load.answer_time(), Some(Duration::from_millis(51)));
        load.note_answered(nanos(at(10_000)), false, at(10_001));
        assert!(load.answer_time() < Some(Duration::from_micros(1_010)), "{load:?}");
    }

    #[test]
    fn of_answers_that_come_together_the_slowest_counts() {
        let load = Load::default();
        let answered = |sent, rejects| load.note_answered(nanos(at(sent)), rejects, at(100));
        answered(98, false);
        answered(99, true);
        answered(99, true);
        assert_eq!((load.answer_time(), load.rejected()), (Some(Duration::from_millis(2)), 2));
        answered(90, false);
        assert_eq!((load.answer_time(), load.rejected()), (Some(Duration::from_millis(6)), 0));
        assert_eq!(load.likely_answer_time(at(100)), Duration::from_millis(6));
        // One that was late by then is answered at the same moment.
        load.note_unanswered(1, Duration::from_millis(50), at(100));
        answered(99, false);
        assert_eq!(
            (load.answer_time(), load.failures(false)),
            (Some(Duration::from_millis(28)), 0)
        );
    }

    #[test]
    fn who_owes_an_answer_is_as_slow_as_it_is_silent() {
        let load = Load::default();
        load.note_answered(nanos(at(0)), false, at(1));
        load.note_asked(1, nanos(at(1)));
        assert_eq!(load.likely_answer_time(at(500)), Duration::from_millis(499));
        // It is tried again after a second, after one and a half, ...
        assert!(load.likely_answer_time(at(1_000)) > Duration::from_millis(900));
        assert!(load.likely_answer_time(at(1_002)) < Duration::from_millis(1));
        load.note_asked(2, nanos(at(1_002)));
        assert!(load.likely_answer_time(at(1_100)) >= Duration::from_millis(98));
        assert!(load.likely_answer_time(at(2_000)) > Duration::from_millis(900));
        assert!(load.likely_answer_time(at(2_100)) < Duration::from_millis(1));
        load.note_asked(3, nanos(at(10_000)));
        assert!(load.likely_answer_time(at(14_000)) > Duration::from_secs(3));
        // ... and is as quick as others when it answers.
        load.note_answered(nanos(at(13_999)), false, at(14_000));
        assert!(load.likely_answer_time(at(14_000)) < Duration::from_millis(2));
    }
}
