//! Where the outcomes of requests wait for those who asked.

use std::task::{Context, Poll, Waker};

use tracing::error;

use super::{foreign::guarded, unit::Unit};
use crate::{
    Result,
    engine::{Data, Fields, Moment},
};

/// More slots than this are given back when none is in use.
const KEEP: usize = 64;

/// One who asked: a slot, and a number that is never used again, so that an outcome that comes
/// after he has given up cannot reach the next one in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    pub(crate) slot: u32,
    pub(crate) serial: u64,
}

/// The outcomes of a unit's requests, each in a slot until it is fetched. Kept under the unit's
/// lock: one channel for each request would cost several times as much.
#[derive(Default)]
pub(crate) struct Answers {
    slots: Vec<Slot>,
    free: Vec<u32>,
    last_serial: u64,
}

struct Slot {
    /// Of the one it belongs to; zero when it is free.
    serial: u64,
    asked: Asked,
    state: State,
}

/// What was asked.
#[derive(Clone, Copy)]
pub(crate) struct Asked {
    /// The number under which it can be abandoned.
    pub(crate) corr: u64,
    pub(crate) since: Moment,
}

/// How something has ended that was asked.
pub(crate) struct Outcome {
    pub(crate) since: Moment,
    pub(crate) result: Result<Received>,
}

enum State {
    /// The task to wake, once it has asked.
    Waiting(Option<Waker>),
    /// The function to call.
    Calling(OnOutcome),
    Here(Result<Received>),
}

/// An answer, and what came with it.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) data: Data,
    pub(crate) fields: Option<Box<Fields>>,
}

/// Called with an outcome, where it was read.
pub(crate) type OnOutcome = Box<dyn FnOnce(Result<Received>) + Send>;

/// What is to be done for one who asked, without the lock.
pub(crate) enum Brought {
    Wake(Waker),
    Call(OnOutcome, Result<Received>),
}

impl Brought {
    pub(crate) fn finish(self) {
        match self {
            Brought::Wake(waker) => waker.wake(),
            Brought::Call(call, outcome) => {
                if guarded(|| call(outcome)).is_none() {
                    error!("the function that a request was to call panicked");
                }
            }
        }
    }
}

impl Answers {
    /// The slot that is made next: what is asked goes before it, since that may fail.
    #[inline]
    pub(crate) fn next(&self) -> Tag {
        let slot = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        Tag { slot, serial: self.last_serial + 1 }
    }

    /// Makes a slot. `waker` is woken by the outcome.
    #[inline]
    pub(crate) fn open(&mut self, asked: Asked, waker: Option<&Waker>) -> Tag {
        self.add(asked, State::Waiting(waker.cloned()))
    }

    /// Makes a slot whose outcome calls a function instead of waking a task.
    pub(crate) fn open_for_call(&mut self, asked: Asked, function: OnOutcome) -> Tag {
        self.add(asked, State::Calling(function))
    }

    #[inline]
    fn add(&mut self, asked: Asked, state: State) -> Tag {
        let tag = self.next();
        self.last_serial = tag.serial;
        let slot = Slot { serial: tag.serial, asked, state };
        match self.free.pop() {
            Some(at) => self.slots[at as usize] = slot,
            None => self.slots.push(slot),
        }
        tag
    }

    #[inline]
    fn slot(&mut self, tag: Tag) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(tag.slot as usize);
        slot.filter(|slot| slot.serial == tag.serial)
    }

    /// Brings an outcome. Nothing happens when nobody waits any more.
    pub(crate) fn bring(&mut self, tag: Tag, outcome: Result<Received>) -> Option<Brought> {
        let slot = self.slot(tag)?;
        match std::mem::replace(&mut slot.state, State::Here(outcome)) {
            State::Waiting(waker) => waker.map(Brought::Wake),
            State::Calling(call) => {
                let outcome = self.end(tag)?;
                Some(Brought::Call(call, outcome.result))
            }
            State::Here(_) => None,
        }
    }

    /// Fetches the outcome, which closes the slot.
    pub(crate) fn poll(&mut self, tag: Tag, cx: &Context<'_>) -> Poll<Outcome> {
        let Some(slot) = self.slot(tag) else { return Poll::Ready(Outcome::gone()) };
        match &mut slot.state {
            State::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            State::Waiting(none) => *none = Some(cx.waker().clone()),
            State::Calling(_) => {}
            State::Here(_) => return Poll::Ready(self.end(tag).unwrap_or_else(Outcome::gone)),
        }
        Poll::Pending
    }

    /// Closes a slot whose function was not called yet, and gives that function, which is to be dropped
    /// without the lock.
    pub(crate) fn give_up(&mut self, tag: Tag) -> Option<OnOutcome> {
        let slot = self.slot(tag)?;
        match std::mem::replace(&mut slot.state, State::Waiting(None)) {
            State::Calling(call) => {
                self.close(tag);
                Some(call)
            }
            other => {
                slot.state = other;
                None
            }
        }
    }

    /// Closes a slot. Gives the number under which what was asked can be abandoned.
    pub(crate) fn close(&mut self, tag: Tag) -> Option<u64> {
        let (Asked { corr, .. }, _) = self.take(tag)?;
        Some(corr)
    }

    /// Closes a slot. Gives the outcome, if it is there.
    #[inline]
    fn end(&mut self, tag: Tag) -> Option<Outcome> {
        match self.take(tag)? {
            (Asked { since, .. }, State::Here(result)) => Some(Outcome { since, result }),
            _ => None,
        }
    }

    #[inline]
    fn take(&mut self, tag: Tag) -> Option<(Asked, State)> {
        let slot = self.slot(tag)?;
        slot.serial = 0;
        let asked = slot.asked;
        let state = std::mem::replace(&mut slot.state, State::Waiting(None));
        self.free.push(tag.slot);
        if self.free.len() == self.slots.len() && self.slots.len() > KEEP {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
        Some((asked, state))
    }
}

impl Outcome {
    /// Of what nobody waits for any more.
    #[cold]
    fn gone() -> Outcome {
        Outcome { since: Moment::EPOCH, result: Err(Unit::gone()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(n: i64) -> Result<Received> {
        Ok(Received { data: Data::from(n), fields: None })
    }

    const ASKED: Asked = Asked { corr: 7, since: Moment::EPOCH };

    fn poll(answers: &mut Answers, tag: Tag) -> Poll<Option<Data>> {
        let cx = Context::from_waker(Waker::noop());
        answers.poll(tag, &cx).map(|outcome| outcome.result.ok().map(|received| received.data))
    }

    #[test]
    fn each_gets_his_own() {
        let mut answers = Answers::default();
        let tags: Vec<Tag> = (0..100).map(|_| answers.open(ASKED, None)).collect();
        assert!(tags.iter().all(|tag| poll(&mut answers, *tag).is_pending()));
        for (n, tag) in tags.iter().enumerate() {
            assert!(answers.bring(*tag, received(n as i64)).is_some(), "has polled");
        }
        for (n, tag) in tags.iter().enumerate().rev() {
            assert_eq!(poll(&mut answers, *tag), Poll::Ready(Some(Data::from(n as i64))));
            assert_eq!(poll(&mut answers, *tag), Poll::Ready(None), "fetched already");
        }
        assert_eq!(answers.slots.len(), 0, "the room is given back");
    }

    #[test]
    fn a_function_is_called_with_the_outcome_or_given_back() {
        let mut answers = Answers::default();
        let (sender, receiver) = std::sync::mpsc::channel();
        let mut open = || {
            let sender = sender.clone();
            answers.open_for_call(ASKED, Box::new(move |outcome| sender.send(outcome).unwrap()))
        };
        let (called, given_up) = (open(), open());
        answers.bring(called, received(1)).expect("a function").finish();
        assert_eq!(receiver.try_recv().unwrap().unwrap().data, Data::from(1));
        assert!(answers.give_up(called).is_none());
        assert!(answers.give_up(given_up).is_some());
        assert!(answers.bring(given_up, received(2)).is_none());
        assert!(receiver.try_recv().is_err());
        assert_eq!(answers.free.len(), 2);
    }

    #[test]
    fn what_comes_too_late_reaches_nobody() {
        let mut answers = Answers::default();
        let early = answers.open(ASKED, Some(Waker::noop()));
        assert_eq!((answers.close(early), answers.close(early)), (Some(7), None));
        let told = answers.next();
        let next = answers.open(ASKED, Some(Waker::noop()));
        assert_eq!(told, next);
        assert_eq!(early.slot, next.slot);
        assert!(answers.bring(early, received(1)).is_none());
        assert!(poll(&mut answers, next).is_pending());
        assert!(answers.bring(next, received(2)).is_some());
        assert_eq!(poll(&mut answers, next), Poll::Ready(Some(Data::from(2))));
    }
}
