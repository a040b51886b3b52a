//! What handlers have come to, on its way back to the unit that asked.

use std::{cell::RefCell, sync::Arc};

use tracing::warn;

use super::{
    context::Offer,
    event::PeerEvent,
    handler::Names,
    scope::{self, Current, Scope},
    unit::UnitInner,
};
use crate::{
    Error, ErrorKind, Result,
    engine::{Fields, Question, RequestId, printable},
    wire::{Data, Payload},
};

/// The way back for an outcome.
pub(crate) enum Reply {
    Question(Question),
    /// That of a stream, which the context may accept.
    Stream(Arc<Offer>),
}

impl Reply {
    /// Whether a requester hears of the outcome.
    #[inline]
    pub(crate) fn is_heard(&self) -> bool {
        match self {
            Reply::Question(question) => question.is_heard(),
            Reply::Stream(offer) => offer.is_heard(),
        }
    }

    /// The request that it belongs to.
    #[inline]
    pub(crate) fn request(&self) -> Option<RequestId> {
        match self {
            Reply::Question(question) => question.request(),
            Reply::Stream(offer) => offer.request(),
        }
    }

    #[inline]
    fn question(self) -> Option<Question> {
        match self {
            Reply::Question(question) => Some(question),
            Reply::Stream(offer) => offer.take(),
        }
    }
}

/// What a handler has come to, and what goes with it.
pub(crate) struct Outcome {
    pub(crate) reply: Reply,
    pub(crate) result: Result<Data>,
    pub(crate) fields: Option<Box<Fields>>,
    /// Nobody waits for it any more.
    pub(crate) cancelled: bool,
}

impl Outcome {
    /// The result, with what was put into the scope of a handler that has one.
    pub(crate) fn new(reply: Reply, result: Result<Data>, scope: Option<Arc<Scope>>) -> Outcome {
        let cancelled = scope.as_ref().is_some_and(|scope| scope.reason().is_some());
        let mut fields = scope.and_then(|scope| scope.take_answer());
        if let Err(error) = &result
            && let Some(failure) = error.failure()
        {
            let fields = fields.get_or_insert_default();
            if let Err(error) = fields.set_failure(failure) {
                warn!(%error, "what is told of a handler's failure");
            }
        }
        Outcome { reply, result, fields, cancelled }
    }
}

/// What handlers of one unit have come to, until all is given back under one lock.
#[derive(Default)]
pub(crate) struct Outcomes {
    heard: Vec<Outcome>,
    /// The questions of messages, all in one.
    unheard: Option<Question>,
}

impl Outcomes {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        match outcome.reply {
            Reply::Question(question) if !question.is_heard() => self.add_unheard(question),
            reply => self.add_heard(Outcome { reply, ..outcome }),
        }
    }

    /// Of a requester who waits for it.
    #[inline]
    pub(crate) fn add_heard(&mut self, outcome: Outcome) {
        self.heard.push(outcome);
    }

    /// Of one that nobody hears of, whatever it is.
    #[inline]
    pub(crate) fn add_unheard(&mut self, question: Question) {
        match &mut self.unheard {
            Some(unheard) => unheard.join(question),
            none => *none = Some(question),
        }
    }

    fn append(&mut self, other: &mut Outcomes) {
        self.heard.append(&mut other.heard);
        match (&mut self.unheard, other.unheard.take()) {
            (Some(unheard), Some(question)) => unheard.join(question),
            (none @ None, question) => *none = question,
            (Some(_), None) => {}
        }
    }

    /// Gives all questions back. The allocation is kept.
    pub(crate) fn give_back(&mut self, unit: &UnitInner) {
        let unheard = self.unheard.take();
        if self.heard.is_empty() && unheard.is_none() {
            return;
        }
        let now = unit.shared.clock.now();
        unit.with(|state| {
            for Outcome { reply, result, fields, cancelled } in self.heard.drain(..) {
                if let Some(question) = reply.question() {
                    if cancelled {
                        state.machine.forget(question, now);
                        continue;
                    }
                    let result = result.as_ref().map(Data::payload).map_err(Error::text);
                    state.machine.answer_with(question, result, fields.as_deref(), now);
                }
            }
            if let Some(question) = unheard {
                state.machine.answer(question, Ok(Payload::NULL), now);
            }
        });
    }
}

/// The answers that deferred handlers give before they return.
struct Batch {
    unit: Arc<UnitInner>,
    outcomes: Outcomes,
}

thread_local! {
    /// That of the handlers that this thread is calling.
    static BATCH: RefCell<Option<Batch>> = const { RefCell::new(None) };
}

/// Puts an answer to the others of the unit, or gives it back.
pub(crate) fn with_batch(unit: &Arc<UnitInner>, answer: Outcome) -> Option<Outcome> {
    let mut answer = Some(answer);
    // While the thread ends, there is none.
    let _ = BATCH.try_with(|batch| {
        if let Some(batch) = &mut *batch.borrow_mut()
            && Arc::ptr_eq(&batch.unit, unit)
            && let Some(outcome) = answer.take()
        {
            batch.outcomes.add(outcome);
        }
    });
    answer
}

/// The unit whose handlers this thread is calling.
pub(crate) fn batch_unit() -> Option<Arc<UnitInner>> {
    let unit = BATCH.try_with(|batch| batch.borrow().as_ref().map(|batch| batch.unit.clone()));
    unit.ok().flatten()
}

/// Room for the outcomes of a batch, empty between two.
#[derive(Default)]
pub(crate) struct Room {
    outcomes: Outcomes,
    /// Of deferred handlers.
    deferred: Outcomes,
}

/// Has handlers started one after the other; all answers that they give at once leave together.
pub(crate) fn run_all(unit: &Arc<UnitInner>, room: &mut Room, start: impl FnOnce(&mut Outcomes)) {
    let Room { outcomes, deferred } = room;
    let batch = Batch { unit: unit.clone(), outcomes: std::mem::take(deferred) };
    let before = BATCH.replace(Some(batch));
    let handler = scope::enter(Current::None);
    start(outcomes);
    scope::enter(handler);
    if let Some(batch) = BATCH.replace(before) {
        *deferred = batch.outcomes;
        outcomes.append(deferred);
    }
    outcomes.give_back(unit);
}

/// Tells of errors that no requester will hear of, and of panics.
#[inline]
pub(crate) fn report(unit: &Arc<UnitInner>, names: &Names, heard: bool, outcome: &Result<Data>) {
    if let Err(error) = outcome {
        report_error(unit, names, heard, error);
    }
}

#[cold]
fn report_error(unit: &Arc<UnitInner>, names: &Names, heard: bool, error: &Error) {
    if !heard || error.kind() == ErrorKind::HandlerPanicked {
        let Names { role, event } = names;
        let info = unit.info.load();
        let (id, name) = (printable(&info.id), printable(&info.name));
        let (shown_role, shown_event) = (printable(role), printable(event));
        warn!(unit = %id, name, role = shown_role, event = shown_event, %error, "handler failed");
        unit.shared.emit(PeerEvent::HandlerFailed {
            unit: super::Unit::new(unit.clone()),
            role: role.clone(),
            event: event.clone(),
            error: error.clone(),
        });
    }
}
