//! Handlers of units whose handlers are slow: a task of the unit starts them.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustc_hash::FxHashSet;

use super::{
    context::Context,
    dispatch::{Service, first_step, not_begun},
    lock,
    outcome::{Reply, Room, run_all},
    scope::{OnCancel, Scope},
    unit::UnitInner,
};
use crate::engine::RequestId;

/// A batch of handlers that takes longer than this keeps the connection from answering pings: the
/// following ones are started by another task, until so many in a row were quick.
pub(crate) const SLOW_BATCH: Duration = Duration::from_millis(5);
pub(crate) const SLOW_FOR: Duration = Duration::from_secs(1);
/// A batch that turns out to be slow is looked at after so many handlers; the rest is left to the task.
pub(crate) const LOOK: usize = 24;
const QUICK: usize = 1024;
/// How long that task collects the answers of quick handlers.
const SHARED: Duration = Duration::from_micros(200);
/// So many handlers behind a slow one leave their answers alone.
const ALONE: usize = 64;

/// A handler that was found for something that came, and all that it needs.
pub(crate) struct Job {
    pub(crate) service: Service,
    pub(crate) context: Context,
    pub(crate) reply: Reply,
    pub(crate) scope: Option<Arc<Scope>>,
    /// Whether it is still to be started.
    pub(crate) begins: bool,
}

/// Handlers of a unit that a task of its own starts, one after the other, in the order in which
/// their messages came: those of a connection that must not be held up, and all that come after
/// them until the task is through. Bounded by [`Limits::running_handlers`](engine::Limits).
#[derive(Default)]
pub(crate) struct Backlog(Mutex<BacklogState>);

#[derive(Default)]
struct BacklogState {
    waiting: VecDeque<Job>,
    task: bool,
    /// Until then the task starts all.
    until: Option<Instant>,
    /// Handlers that were quick, in a row.
    quick: usize,
    /// The correlations of requests that were given up, some of them perhaps waiting.
    given_up: FxHashSet<u64>,
    /// The unit is gone.
    lost: bool,
}

impl Backlog {
    /// Handlers were slow: the task is to start the next ones.
    pub(crate) fn begin(&self, until: Instant) {
        let mut state = lock(&self.0);
        state.until = Some(until);
        state.quick = 0;
    }

    /// Whether the task is to start what comes now.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        let state = lock(&self.0);
        state.task || state.until.is_some_and(|until| now < until)
    }

    /// Leaves handlers to the task.
    pub(crate) fn add(&self, unit: &Arc<UnitInner>, jobs: Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = lock(&self.0);
        state.waiting.extend(jobs);
        if !std::mem::replace(&mut state.task, true) {
            unit.shared.spawn_handler(backlog_task(unit.clone()));
        }
    }

    /// Handlers of requests that nobody waits for any more are not to be started: of one, or of all.
    pub(crate) fn cancel(&self, request: Option<RequestId>) {
        let mut state = lock(&self.0);
        match request {
            // Not more than can matter.
            Some(request) if state.given_up.len() < state.waiting.len() => {
                state.given_up.insert(request.corr);
            }
            Some(_) => {}
            None => state.lost = true,
        }
    }

    /// The next handler to start, and whether its answer is to leave alone. None ends the task.
    fn next(&self) -> Option<(Job, bool)> {
        let mut state = lock(&self.0);
        let next = state.pop();
        state.task = next.is_some();
        next.map(|job| (job, state.quick < ALONE))
    }

    /// So many handlers were quick, or one of them was not.
    fn note(&self, quick: bool, handlers: usize) {
        let mut state = lock(&self.0);
        state.quick = if quick { state.quick + handlers } else { 0 };
        if state.quick >= QUICK {
            state.until = None;
        }
    }

    /// As [`next`](Backlog::next), but the task goes on in any case.
    fn next_if_any(&self) -> Option<Job> {
        lock(&self.0).pop()
    }
}

impl BacklogState {
    fn pop(&mut self) -> Option<Job> {
        let mut job = self.waiting.pop_front();
        match &mut job {
            None => self.given_up.clear(),
            Some(job) if self.lost || !self.given_up.is_empty() => job.begins = self.begins(job),
            Some(_) => {}
        }
        job
    }

    fn begins(&mut self, job: &Job) -> bool {
        let Some(request) = job.reply.request() else { return true };
        let given_up = !self.given_up.is_empty() && self.given_up.remove(&request.corr);
        job.service.handler.on_cancel == OnCancel::Ignore || !(given_up || self.lost)
    }
}

async fn backlog_task(unit: Arc<UnitInner>) {
    let mut room = Room::default();
    while let Some((first, alone)) = unit.backlog.next() {
        // Those that are quick leave their answers together; behind a slow one nobody is to wait.
        let until = Instant::now() + SHARED;
        let mut started = 1;
        let more = std::iter::from_fn(|| match !alone && Instant::now() < until {
            true => unit.backlog.next_if_any().inspect(|_| started += 1),
            false => None,
        });
        run_all(&unit, &mut room, |outcomes| {
            for Job { mut service, context, reply, scope, begins } in
                std::iter::once(first).chain(more)
            {
                if !begins {
                    not_begun(&unit, reply);
                    continue;
                }
                first_step(&unit, &mut service, &mut Some(context), reply, scope, outcomes);
            }
        });
        let quick = Instant::now() < until;
        unit.backlog.note(quick, started);
        match quick {
            true => tokio::task::consume_budget().await,
            // Pings are to be answered meanwhile.
            false => tokio::task::yield_now().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_ends_when_enough_handlers_in_a_row_were_quick() {
        let backlog = Backlog::default();
        let is_on = || lock(&backlog.0).until.is_some();
        backlog.begin(Instant::now() + SLOW_FOR);
        backlog.note(true, QUICK - 1);
        assert!(is_on());
        // A slow one: the count begins anew.
        backlog.note(false, 1);
        backlog.note(true, QUICK - 1);
        assert!(is_on());
        backlog.note(true, 1);
        assert!(!is_on());
        // What was quick before counts no more when it begins again.
        backlog.begin(Instant::now() + SLOW_FOR);
        backlog.note(true, QUICK - 1);
        assert!(is_on());
    }
}
