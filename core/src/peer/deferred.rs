//! The answer of a handler that is given the means to answer.

use std::{fmt, sync::Arc};

use tokio::sync::oneshot;

use super::{
    handler::Names,
    outcome::{Outcome, Outcomes, Reply, report, with_batch},
    unit::UnitInner,
};
use crate::{Error, ErrorKind, Result, wire::Data};

/// The means to answer what a [deferred](crate::Role::on_deferred) handler was called for: once, at
/// any time, on any thread.
///
/// Dropping it unanswered rejects a request or a stream that was not accepted; so does a panic of the
/// handler that drops it, with a text that says so. A message has no answer; dropping its `Deferred` says that it has been dealt with. What is not answered yet counts as a
/// running handler ([`Limits::running_handlers`](crate::Limits)).
pub struct Deferred(pub(crate) Option<Way>);

/// Where an outcome goes.
pub(crate) enum Way {
    Unit(Arc<UnitInner>, Arc<Names>, Reply),
    Middleware(oneshot::Sender<Result<Data>>),
}

impl Deferred {
    /// Answers, or rejects with the error's text. Never waits: when the unit has no room, a task
    /// does. Within the handler itself the answer leaves with those of the handlers that the connection
    /// calls next.
    pub fn respond(mut self, outcome: Result<Data>) {
        match self.0.take() {
            Some(Way::Unit(unit, names, reply)) => {
                report(&unit, &names, reply.is_heard(), &outcome);
                let outcome = unscoped(&unit, reply, outcome);
                if let Some(outcome) = with_batch(&unit, outcome) {
                    let mut outcomes = Outcomes::default();
                    outcomes.add(outcome);
                    outcomes.give_back(&unit);
                }
            }
            Some(Way::Middleware(sender)) => {
                // The middleware may have gone on without it.
                let _ = sender.send(outcome);
            }
            None => {}
        }
    }

    /// Answers many at once, which costs less than one after the other.
    #[doc(hidden)] // For bindings; no promise of compatibility.
    pub fn respond_all(answers: impl IntoIterator<Item = (Deferred, Result<Data>)>) {
        let mut batch = Outcomes::default();
        let mut of: Option<Arc<UnitInner>> = None;
        for (mut deferred, outcome) in answers {
            match deferred.0.take() {
                Some(Way::Unit(unit, names, reply)) => {
                    report(&unit, &names, reply.is_heard(), &outcome);
                    if let Some(other) = of.take_if(|of| !Arc::ptr_eq(of, &unit)) {
                        batch.give_back(&other);
                    }
                    let unit = of.get_or_insert(unit);
                    batch.add(unscoped(unit, reply, outcome));
                }
                Some(Way::Middleware(sender)) => {
                    // The middleware may have gone on without it.
                    let _ = sender.send(outcome);
                }
                None => {}
            }
        }
        if let Some(unit) = of {
            batch.give_back(&unit);
        }
    }
}

/// The outcome of a handler that is to be told nothing more.
fn unscoped(unit: &UnitInner, reply: Reply, outcome: Result<Data>) -> Outcome {
    let scope = reply.request().and_then(|request| unit.scopes.remove(request));
    Outcome::new(reply, outcome, scope)
}

impl Drop for Deferred {
    fn drop(&mut self) {
        if let Some(way) = self.0.take() {
            let outcome = match &way {
                Way::Unit(_, _, Reply::Question(question)) if !question.is_heard() => {
                    Ok(Data::null())
                }
                // What is to be told of the panic is told where it is caught.
                _ if std::thread::panicking() => Err(failed("The handler panicked")),
                _ => Err(unanswered()),
            };
            Deferred(Some(way)).respond(outcome);
        }
    }
}

impl fmt::Debug for Deferred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Deferred")
    }
}

pub(crate) fn unanswered() -> Error {
    failed("The handler did not answer")
}

fn failed(text: &'static str) -> Error {
    Error::new(ErrorKind::HandlerFailed, text)
}
