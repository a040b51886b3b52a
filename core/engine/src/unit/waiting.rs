//! Requests that wait for an answer.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use rustc_hash::FxHashMap;

use crate::{ConnId, Load, Moment, NoHandler, StreamId, UnitInfo, bulkhead::Entered, hint};

/// Deadlines are kept to within this: one sweep serves all that are due by then.
const GRAIN: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Waiting<R> {
    pub(super) tag: R,
    /// The connection that it went on.
    pub(super) conn: ConnId,
    /// Its place among the frames of that connection.
    pub(super) frame: u64,
    /// Since when its time runs: it may have waited, or been elsewhere, before.
    pub(super) sent: Moment,
    /// When it was sent, in nanoseconds.
    pub(super) asked: u64,
    pub(super) timeout: Duration,
    /// The stream that the answer opens.
    pub(super) stream: Option<StreamId>,
    /// See [`AskedNames`].
    pub(super) names: NamesNumber,
    /// Its place in a [`Bulkhead`](crate::Bulkhead).
    pub(super) _entered: Option<Entered>,
}

impl<R> Waiting<R> {
    /// A timeout may be as long as there is time.
    fn deadline(&self) -> Moment {
        self.sent + self.timeout
    }
}

/// The place of a pair of names, none where there were too many.
pub(super) type NamesNumber = Option<NonZeroU32>;

/// Roles and events that requests were sent for, so that those that fail can say what they were.
#[derive(Debug, Default)]
pub(super) struct AskedNames {
    pairs: Vec<(Box<str>, Box<str>)>,
    places: FxHashMap<Box<str>, FxHashMap<Box<str>, NonZeroU32>>,
    /// The last one: it is nearly always the next one, too.
    last: NamesNumber,
}

/// So many pairs are remembered: more of them are made up, such as from ids.
const PAIRS: usize = 1024;
/// So long ones: a hint shows less.
const PAIR: usize = 512;

impl AskedNames {
    #[inline]
    pub(super) fn number(&mut self, role: &str, event: &str) -> NamesNumber {
        match self.names(self.last) {
            Some((last_role, last_event)) if last_event == event && last_role == role => self.last,
            _ => self.other(role, event),
        }
    }

    fn other(&mut self, role: &str, event: &str) -> NamesNumber {
        let known = self.places.get(role).and_then(|events| events.get(event)).copied();
        let room = self.pairs.len() < PAIRS && role.len() + event.len() <= PAIR;
        if known.is_none() && !room {
            return None;
        }
        self.last = known.or_else(|| {
            self.pairs.push((role.into(), event.into()));
            let place = NonZeroU32::new(self.pairs.len() as u32)?;
            self.places.entry(role.into()).or_default().insert(event.into(), place);
            Some(place)
        });
        self.last
    }

    #[inline]
    fn names(&self, number: NamesNumber) -> Option<(&str, &str)> {
        let (role, event) = self.pairs.get(number?.get() as usize - 1)?;
        Some((role, event))
    }

    /// Whether a rejection with this text says that the request's own role is not offered.
    pub(super) fn is_refused(&self, number: NamesNumber, text: &str) -> bool {
        let Some((role, _)) = self.names(number) else { return false };
        [NoHandler::NotRegistered, NoHandler::Disabled].iter().any(|why| why.text(role) == text)
    }

    /// The event of a request that failed.
    pub(super) fn event(&self, number: NamesNumber) -> Option<&str> {
        Some(self.names(number)?.1)
    }

    /// What a request that failed was.
    #[cold]
    pub(super) fn hint(&self, number: NamesNumber, unit: &UnitInfo) -> String {
        hint::asked(self.names(number), unit.label())
    }
}

/// The table of waiting requests, by correlation. There is no timer for each: one sweep looks at
/// all of them when the earliest may be due.
#[derive(Debug)]
pub(super) struct WaitingTable<R> {
    by_corr: FxHashMap<u64, Waiting<R>>,
    /// No deadline is before this.
    earliest: Option<Moment>,
    /// Knows how many there are.
    load: Arc<Load>,
}

impl<R> WaitingTable<R> {
    pub(super) fn new(load: Arc<Load>) -> WaitingTable<R> {
        WaitingTable { by_corr: FxHashMap::default(), earliest: None, load }
    }

    pub(super) fn len(&self) -> usize {
        self.by_corr.len()
    }

    pub(super) fn insert(&mut self, corr: u64, waiting: Waiting<R>) {
        let deadline = waiting.deadline();
        if self.earliest.is_none_or(|earliest| deadline < earliest) {
            self.earliest = Some(deadline);
        }
        let asked = waiting.asked;
        self.by_corr.insert(corr, waiting);
        self.load.note_asked(self.by_corr.len(), asked);
    }

    fn note(&self) {
        self.load.set_waiting(self.by_corr.len());
    }

    /// Whether a request went on this connection.
    pub(super) fn is_on(&self, corr: u64, conn: ConnId) -> bool {
        self.by_corr.get(&corr).is_some_and(|waiting| waiting.conn == conn)
    }

    /// A request was sent on another connection, as this of its frames.
    pub(super) fn moved(&mut self, corr: u64, conn: ConnId, frame: u64) {
        if let Some(waiting) = self.by_corr.get_mut(&corr) {
            (waiting.conn, waiting.frame) = (conn, frame);
        }
    }

    /// Whether any went on this connection.
    pub(super) fn any_on(&self, conn: ConnId) -> bool {
        self.by_corr.values().any(|waiting| waiting.conn == conn)
    }

    pub(super) fn contains(&self, corr: u64) -> bool {
        self.by_corr.contains_key(&corr)
    }

    /// Takes one that was answered.
    pub(super) fn answered(&mut self, corr: u64, rejects: bool, now: Moment) -> Option<Waiting<R>> {
        let waiting = self.remove(corr)?;
        self.load.note_answered(waiting.asked, rejects, now);
        Some(waiting)
    }

    pub(super) fn remove(&mut self, corr: u64) -> Option<Waiting<R>> {
        let waiting = self.by_corr.remove(&corr);
        self.note();
        waiting
    }

    /// Takes all, or else those that were not sent, in their order.
    pub(super) fn take(
        &mut self,
        all: bool,
        was_sent: impl Fn(&Waiting<R>) -> bool,
    ) -> Vec<(u64, Waiting<R>)> {
        let mut taken: Vec<_> =
            self.by_corr.extract_if(|_, waiting| all || !was_sent(waiting)).collect();
        if all {
            self.earliest = None;
        }
        self.note();
        taken.sort_unstable_by_key(|(corr, _)| *corr);
        taken
    }

    /// When the next sweep is due. May be early, when the earliest request was answered.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.earliest.map(|earliest| earliest + GRAIN)
    }

    /// Takes the requests whose time is up, in the order of their deadlines, then in that in which
    /// they were sent.
    pub(super) fn take_due(&mut self, now: Moment) -> Vec<(u64, Waiting<R>)> {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return Vec::new();
        }
        let mut due: Vec<(Moment, u64)> = self
            .by_corr
            .iter()
            .map(|(corr, waiting)| (waiting.deadline(), *corr))
            .filter(|(deadline, _)| *deadline <= now)
            .collect();
        due.sort_unstable();
        let waited = due.iter().filter_map(|(_, corr)| Some(self.by_corr.get(corr)?.timeout)).max();
        if let Some(waited) = waited {
            self.load.note_unanswered(due.len(), waited, now);
        }
        let taken =
            due.iter().filter_map(|(_, corr)| Some((*corr, self.by_corr.remove(corr)?))).collect();
        self.earliest = self.by_corr.values().map(Waiting::deadline).min();
        self.note();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting<R>(tag: R, timeout: Duration) -> Waiting<R> {
        let (conn, sent) = (ConnId(0), Moment::EPOCH);
        let (stream, names, entered) = (None, None, None);
        Waiting { tag, conn, frame: 0, sent, asked: 0, timeout, stream, names, _entered: entered }
    }

    #[test]
    fn those_that_are_due_are_taken_and_the_rest_stays() {
        let mut table = WaitingTable::new(Arc::default());
        for n in 0..10u64 {
            table.insert(n, waiting(n, Duration::from_millis(n * 100 + 100)));
        }
        assert!(table.take_due(Moment::at(Duration::from_millis(99))).is_empty());
        let due: Vec<_> = table
            .take_due(Moment::at(Duration::from_millis(300)))
            .into_iter()
            .map(|(_, w)| w.tag)
            .collect();
        assert_eq!(due, [0, 1, 2]);
        assert_eq!(table.deadline(), Some(Moment::at(Duration::from_millis(400)) + GRAIN));
        assert!(table.remove(3).is_some() && table.remove(3).is_none());
        assert_eq!(table.take(false, |waiting| waiting.tag != 9).len(), 1);
        assert_eq!(table.take(true, |_| true).len(), 5);
        assert_eq!(table.deadline(), None);
    }

    #[test]
    fn those_that_one_sweep_takes_are_in_the_order_of_their_deadlines() {
        let mut table = WaitingTable::new(Arc::default());
        for (corr, timeout) in [300, 100, 200, 100].into_iter().enumerate() {
            table.insert(corr as u64, waiting(corr, Duration::from_millis(timeout)));
        }
        let due = table.take_due(Moment::at(Duration::from_secs(1)));
        assert_eq!(due.into_iter().map(|(_, w)| w.tag).collect::<Vec<_>>(), [1, 3, 2, 0]);
    }

    #[test]
    fn names_are_remembered_within_bounds() {
        let mut asked = AskedNames::default();
        let first = asked.number("r", "a");
        assert_eq!((asked.number("r", "b") == first, asked.number("r", "a")), (false, first));
        assert_eq!(asked.names(first), Some(("r", "a")));
        assert_eq!(asked.number("r", &"x".repeat(PAIR)), None);
        for n in 0..2 * PAIRS {
            asked.number("r", &n.to_string());
        }
        assert_eq!(asked.pairs.len(), PAIRS);
        assert_eq!((asked.number("r", "new"), asked.number("r", "a")), (None, first));
    }
}
