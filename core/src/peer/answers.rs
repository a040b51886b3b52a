//! Where the outcomes of requests wait for those who asked.

use std::task::{Context, Poll, Waker};

use tracing::error;

use super::foreign::guarded;
use crate::{
    Result,
    engine::{Data, Fields},
};

/// More slots than this are given back when none is in use.
const KEEP: usize = 64;

/// One who asked: a slot, and a number that is never used again, so that an outcome that comes
/// after he has given up cannot reach the next one in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tag {
    slot: u32,
    serial: u64,
}

/// The outcomes of a unit's requests, each in a slot until it is fetched. Kept under the unit's
/// lock: one channel for each request would cost several times as much.
#[derive(Default)]
pub(crate) struct Answers {
    slots: Vec<Slot>,
    free: Vec<u32>,
    next_serial: u64,
}

struct Slot {
    /// Of the one it belongs to; none when it is free.
    serial: Option<u64>,
    state: State,
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
    /// Makes a slot. `waker` is woken by the outcome.
    pub(crate) fn open(&mut self, waker: Option<&Waker>) -> Tag {
        let serial = self.next_serial;
        self.next_serial += 1;
        let slot = Slot { serial: Some(serial), state: State::Waiting(waker.cloned()) };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                (self.slots.len() - 1) as u32
            }
        };
        Tag { slot: at, serial }
    }

    fn slot(&mut self, tag: Tag) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(tag.slot as usize);
        slot.filter(|slot| slot.serial == Some(tag.serial))
    }

    /// Has the outcome call a function instead of waking a task.
    pub(crate) fn call(&mut self, tag: Tag, function: OnOutcome) {
        if let Some(slot) = self.slot(tag) {
            slot.state = State::Calling(function);
        }
    }

    /// Brings an outcome. Nothing happens when nobody waits any more.
    pub(crate) fn bring(&mut self, tag: Tag, outcome: Result<Received>) -> Option<Brought> {
        let slot = self.slot(tag)?;
        match std::mem::replace(&mut slot.state, State::Here(outcome)) {
            State::Waiting(waker) => waker.map(Brought::Wake),
            State::Calling(call) => self.close(tag).map(|outcome| Brought::Call(call, outcome)),
            State::Here(_) => None,
        }
    }

    /// Fetches the outcome, which closes the slot.
    pub(crate) fn poll(&mut self, tag: Tag, cx: &Context<'_>) -> Poll<Option<Result<Received>>> {
        let Some(slot) = self.slot(tag) else { return Poll::Ready(None) };
        match &mut slot.state {
            State::Waiting(Some(waker)) => waker.clone_from(cx.waker()),
            State::Waiting(none) => *none = Some(cx.waker().clone()),
            State::Calling(_) => {}
            State::Here(_) => return Poll::Ready(self.close(tag)),
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

    /// Closes a slot. Gives the outcome, if it is there.
    pub(crate) fn close(&mut self, tag: Tag) -> Option<Result<Received>> {
        let slot = self.slot(tag)?;
        slot.serial = None;
        let state = std::mem::replace(&mut slot.state, State::Waiting(None));
        self.free.push(tag.slot);
        if self.free.len() == self.slots.len() && self.slots.len() > KEEP {
            self.slots = Vec::new();
            self.free = Vec::new();
        }
        match state {
            State::Here(outcome) => Some(outcome),
            State::Waiting(_) | State::Calling(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(n: i64) -> Result<Received> {
        Ok(Received { data: Data::from(n), fields: None })
    }

    fn poll(answers: &mut Answers, tag: Tag) -> Poll<Option<Data>> {
        let cx = Context::from_waker(Waker::noop());
        let data = |outcome: Result<Received>| outcome.expect("an answer").data;
        answers.poll(tag, &cx).map(|outcome| outcome.map(data))
    }

    #[test]
    fn each_gets_his_own() {
        let mut answers = Answers::default();
        let tags: Vec<Tag> = (0..100).map(|_| answers.open(None)).collect();
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
            let (tag, sender) = (answers.open(None), sender.clone());
            answers.call(tag, Box::new(move |outcome| sender.send(outcome).unwrap()));
            tag
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
        let early = answers.open(Some(Waker::noop()));
        assert!(answers.close(early).is_none());
        let next = answers.open(Some(Waker::noop()));
        assert_eq!(early.slot, next.slot);
        assert!(answers.bring(early, received(1)).is_none());
        assert!(poll(&mut answers, next).is_pending());
        assert!(answers.bring(next, received(2)).is_some());
        assert_eq!(poll(&mut answers, next), Poll::Ready(Some(Data::from(2))));
    }
}
