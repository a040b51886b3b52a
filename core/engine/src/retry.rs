//! What is done for requests that may be handled more than once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use crate::error::{Error, ErrorKind};

/// How requests are made again that may be handled more than once: after a failure, or besides one that is slow. Always
/// at another unit than before, and all within the time limit of the request.
///
/// A value has an account, which its clones share: each request pays in a part of a further one (see
/// [`budget`](Retry::budget)), and each further one takes out a whole. So when everything fails, those that serve the
/// role get little more than they would get anyway.
///
/// ```
/// use std::time::Duration;
/// use roletalk_engine::{Hedge, Retry};
///
/// let retry = Retry::new().attempts(4).hedge(Hedge::Quantile(0.95));
/// ```
#[derive(Clone, Debug)]
pub struct Retry {
    attempts: u32,
    backoff: Duration,
    longest: Duration,
    /// Thousandths of a request.
    budget: i64,
    hedge: Option<Hedge>,
    shared: Arc<Shared>,
}

/// When a request is made a second time though the first one may still be answered. Whichever answer is first counts,
/// and the other request is given up.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Hedge {
    /// After this time.
    After(Duration),
    /// After the time within which this part of all answers has come, from 0 to 1: 0.95 asks again for the slowest
    /// twentieth. Nothing is done before a hundred answers are known.
    Quantile(f64),
}

#[derive(Debug)]
struct Shared {
    /// Thousandths of a request.
    account: AtomicI64,
    times: Times,
    retried: AtomicU64,
    hedged: AtomicU64,
    refused: AtomicU64,
}

/// So many further requests can be saved up, and are there at first.
const SAVED: i64 = 10;
const WHOLE: i64 = 1000;

impl Default for Retry {
    fn default() -> Retry {
        Retry::new()
    }
}

impl Retry {
    /// Three attempts, 25 ms apart at first, at most a tenth more requests, and none besides one that is slow.
    pub fn new() -> Retry {
        Retry {
            attempts: 3,
            backoff: Duration::from_millis(25),
            longest: Duration::from_secs(1),
            budget: WHOLE / 10,
            hedge: None,
            shared: Arc::new(Shared {
                account: AtomicI64::new(SAVED * WHOLE),
                times: Times::default(),
                retried: AtomicU64::new(0),
                hedged: AtomicU64::new(0),
                refused: AtomicU64::new(0),
            }),
        }
    }

    /// Attempts in all, those besides a slow one included. Default 3; 1 is no further one.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Retry {
        self.attempts = attempts.max(1);
        self
    }

    /// The wait before the second attempt, and the longest before any. It doubles each time, and a random half of it is
    /// left out. Default 25 ms and 1 s. A time that the other side [asks for](Error::retry_after) is kept to.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Retry {
        (self.backoff, self.longest) = (first, longest);
        self
    }

    /// How many further requests there may be for each, from 0 to 1, and ten besides. Default 0.1.
    #[must_use]
    pub fn budget(mut self, part: f64) -> Retry {
        self.budget = (part.clamp(0.0, 1.0) * WHOLE as f64) as i64;
        self
    }

    /// Makes a request a second time when the first one is slow. Off by default.
    #[must_use]
    pub fn hedge(mut self, hedge: Hedge) -> Retry {
        self.hedge = Some(hedge);
        self
    }

    /// Requests that were made again after a failure.
    pub fn retried(&self) -> u64 {
        self.shared.retried.load(Relaxed)
    }

    /// Requests that were made besides one that was slow.
    pub fn hedged(&self) -> u64 {
        self.shared.hedged.load(Relaxed)
    }

    /// Requests that were not made again because the account was empty.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Relaxed)
    }

    // For hosts.

    /// The wait before the second attempt, and the longest before any: see [`backoff`](Retry::backoff).
    pub fn waits(&self) -> (Duration, Duration) {
        (self.backoff, self.longest)
    }

    /// A request is made for the first time.
    pub fn begin(&self) {
        let Shared { account, .. } = &*self.shared;
        if account.fetch_add(self.budget, Relaxed) + self.budget > SAVED * WHOLE {
            account.store(SAVED * WHOLE, Relaxed);
        }
    }

    /// After so many attempts, of which the last has failed with this error: how long to wait before the next one.
    /// `left` is what is left of the time, `random` any number. None when the error is the outcome.
    pub fn again(&self, made: u32, error: &Error, left: Duration, random: u64) -> Option<Duration> {
        if made >= self.attempts || !Retry::may_help(error) {
            return None;
        }
        let doubled = 1u32.checked_shl(made.saturating_sub(1)).unwrap_or(u32::MAX);
        let most = self.backoff.saturating_mul(doubled).min(self.longest.max(self.backoff));
        let part = (random >> 11) as f64 / (1u64 << 53) as f64;
        // Not by a multiplication, which the longest times would not stand.
        let wait = (most - most.mul_f64(part / 2.0)).max(error.retry_after().unwrap_or_default());
        // There would be no time for an answer.
        if wait >= left || !self.take() {
            return None;
        }
        self.shared.retried.fetch_add(1, Relaxed);
        Some(wait)
    }

    /// When to make a request a second time that is still the only one.
    pub fn hedge_after(&self) -> Option<Duration> {
        if self.attempts < 2 {
            return None;
        }
        match self.hedge? {
            Hedge::After(time) => Some(time),
            Hedge::Quantile(part) => self.shared.times.quantile(part),
        }
    }

    /// Whether that may be done now. True at most as often as it is done.
    pub fn may_hedge(&self) -> bool {
        let may = self.take();
        self.shared.hedged.fetch_add(u64::from(may), Relaxed);
        may
    }

    /// An attempt has been answered after this time.
    pub fn answered(&self, took: Duration) {
        if matches!(self.hedge, Some(Hedge::Quantile(_))) {
            self.shared.times.note(took);
        }
    }

    /// Whether another unit may do better than one that has failed with this error, or the same one later.
    pub fn may_help(error: &Error) -> bool {
        let kind = matches!(error.kind(), ErrorKind::ConnectionLost | ErrorKind::Overloaded);
        kind || error.is_unhandled() || error.retry_after().is_some()
    }

    fn take(&self) -> bool {
        let Shared { account, refused, .. } = &*self.shared;
        let taken =
            account.fetch_update(Relaxed, Relaxed, |saved| (saved >= WHOLE).then(|| saved - WHOLE));
        refused.fetch_add(u64::from(taken.is_err()), Relaxed);
        taken.is_ok()
    }
}

/// Buckets for each doubling.
const FINE: u32 = 8;
const BUCKETS: usize = (FINE * 40) as usize;
/// Old times count for half after so many new ones.
const REMEMBERED: u32 = 10_000;
const ENOUGH: u32 = 100;

/// How often answers took how long: microseconds, in buckets that are an eighth of a doubling wide.
#[derive(Debug)]
struct Times {
    buckets: Box<[AtomicU32; BUCKETS]>,
    count: AtomicU32,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            buckets: Box::new([const { AtomicU32::new(0) }; BUCKETS]),
            count: AtomicU32::new(0),
        }
    }
}

impl Times {
    fn note(&self, took: Duration) {
        let micros = took.as_micros().max(1) as f64;
        let bucket = (micros.log2() * f64::from(FINE)) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Relaxed);
        if self.count.fetch_add(1, Relaxed) + 1 < REMEMBERED {
            return;
        }
        // That others note something in between makes no difference.
        let mut left = 0;
        for bucket in self.buckets.iter() {
            let half = bucket.load(Relaxed) / 2;
            bucket.store(half, Relaxed);
            left += half;
        }
        self.count.store(left, Relaxed);
    }

    /// The end of the bucket that this part of all times does not exceed.
    fn quantile(&self, part: f64) -> Option<Duration> {
        let count = self.count.load(Relaxed);
        if count < ENOUGH || part.is_nan() {
            return None;
        }
        let wanted = (part.clamp(0.0, 1.0) * f64::from(count)).ceil() as u64;
        let mut sum = 0;
        let bucket = self.buckets.iter().position(|bucket| {
            sum += u64::from(bucket.load(Relaxed));
            sum >= wanted
        });
        let end = (bucket.unwrap_or(BUCKETS - 1) + 1) as f64 / f64::from(FINE);
        Some(Duration::from_secs_f64(end.exp2() / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEFT: Duration = Duration::from_secs(10);

    fn lost() -> Error {
        Error::new(ErrorKind::ConnectionLost, "lost")
    }

    #[test]
    fn so_many_attempts_further_and_further_apart() {
        let retry = Retry::new().attempts(4).budget(1.0);
        for (made, most) in [(1, 25), (2, 50), (3, 100)] {
            for random in [0, u64::MAX / 2, u64::MAX] {
                retry.begin();
                let wait = retry.again(made, &lost(), LEFT, random).unwrap().as_micros();
                assert!((most * 500 - 1..=most * 1000).contains(&wait), "{wait} after {made}");
            }
        }
        assert_eq!(retry.again(4, &lost(), LEFT, 0), None);
        assert_eq!(retry.retried(), 9);
        assert_eq!(Retry::new().attempts(1).again(1, &lost(), LEFT, 0), None);
        assert_eq!(Retry::new().waits(), (Duration::from_millis(25), Duration::from_secs(1)));
        let patient = Retry::new().attempts(100);
        assert_eq!(patient.again(60, &lost(), LEFT, 0), Some(Duration::from_secs(1)));
        // As long as there is time, however long that is.
        let never = Retry::new().backoff(Duration::MAX, Duration::MAX);
        for random in [0, u64::MAX] {
            assert_eq!(never.again(2, &lost(), LEFT, random), None);
        }
    }

    #[test]
    fn only_what_may_help_is_tried_again() {
        let retry = Retry::new();
        let again = |error: &Error, left| retry.again(1, error, left, 0);
        let rejected = Error::rejection("no");
        assert_eq!(again(&rejected, LEFT), None);
        assert_eq!(again(&Error::new(ErrorKind::Timeout, "late"), LEFT), None);
        let later = Error::rejection("later").with_retry_after(Duration::from_secs(2));
        assert_eq!(again(&later, LEFT), Some(Duration::from_secs(2)));
        // There is no time for that.
        assert_eq!(again(&later, Duration::from_secs(2)), None);
        assert!(again(&Error::new(ErrorKind::Overloaded, "full"), LEFT).is_some());
        assert!(again(&Error::unit_gone(), LEFT).is_some());
        assert_eq!(again(&lost(), Duration::from_millis(1)), None);
    }

    #[test]
    fn when_everything_fails_there_are_a_tenth_more() {
        let retry = Retry::new();
        let mut made = 0;
        for _ in 0..10_000 {
            retry.begin();
            for attempt in 1.. {
                made += 1;
                if retry.again(attempt, &lost(), LEFT, 0).is_none() {
                    break;
                }
            }
        }
        assert!((10_900..=11_010).contains(&made), "{made}");
        assert_eq!(retry.retried(), made - 10_000);
        assert!(retry.refused() > 8_000);
        // A clone has the same account, another value has its own.
        assert_eq!(retry.clone().again(1, &lost(), LEFT, 0), None);
        assert!(Retry::new().again(1, &lost(), LEFT, 0).is_some());
        let none = Retry::new().budget(0.0);
        assert_eq!((0..20).filter(|_| none.again(1, &lost(), LEFT, 0).is_some()).count(), 10);
    }

    #[test]
    fn slow_ones_are_asked_again_after_the_time_that_most_have_taken() {
        assert_eq!(Retry::new().hedge_after(), None);
        let after = Retry::new().hedge(Hedge::After(LEFT));
        assert_eq!(after.hedge_after(), Some(LEFT));
        assert_eq!(after.clone().attempts(1).hedge_after(), None);
        let retry = Retry::new().hedge(Hedge::Quantile(0.95));
        for n in 1..=99 {
            retry.answered(Duration::from_millis(n));
        }
        assert_eq!(retry.hedge_after(), None);
        retry.answered(Duration::from_millis(100));
        let time = retry.hedge_after().unwrap();
        assert!((95..=104).contains(&time.as_millis()), "{time:?}");
        // It follows what has become of the times.
        for _ in 0..60_000 {
            retry.answered(Duration::from_millis(1));
        }
        assert!(retry.hedge_after().unwrap() < Duration::from_micros(1_100));
        retry.answered(Duration::ZERO);
        retry.answered(Duration::MAX);
        assert!(retry.may_hedge());
        assert_eq!(retry.hedged(), 1);
        assert_eq!(retry.hedge(Hedge::Quantile(f64::NAN)).hedge_after(), None);
    }

    /// One in a hundred answers takes a second longer.
    #[test]
    fn hedging_takes_the_late_answers_away_for_few_more_requests() {
        let retry = Retry::new().hedge(Hedge::Quantile(0.95));
        let mut state = 7u64;
        let mut answer = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = (state >> 33) % 10_000;
            let late = if random < 100 { 1000.0 } else { 0.0 };
            // From 0.8 to 1.2 ms.
            Duration::from_secs_f64((0.8 + 0.4 * (random % 97) as f64 / 96.0 + late) / 1e3)
        };
        let mut times = Vec::new();
        let asked = 100_000;
        for _ in 0..asked {
            retry.begin();
            let first = answer();
            let took = match retry.hedge_after() {
                Some(wait) if wait < first && retry.may_hedge() => first.min(wait + answer()),
                _ => first,
            };
            retry.answered(took);
            times.push(took);
        }
        times.sort();
        let at = |part: f64| times[(times.len() as f64 * part) as usize];
        assert!(at(0.999) < 3 * at(0.5), "{:?} and {:?}", at(0.999), at(0.5));
        assert!(retry.hedged() <= asked * 6 / 100, "{}", retry.hedged());
    }
}
