//! How work is handed over to the task of a connection, in every order in which threads can run.
//!
//! The protocol: whoever has something for the task changes what is under the unit's lock, then wakes the
//! task unless that says that it is running; the task says that it is running no longer, then looks once
//! more under the lock, and only then sleeps. Nothing may be left behind while the task sleeps: loom tries
//! all orders of the threads, and what the memory model allows them to see, and reports a task that sleeps
//! for ever as a deadlock.
//!
//! `handle` is the code of the tokio host. `Unit` stands for the rest: for what `UnitInner::with` and
//! `if_room` do under the lock and behind it, and [`Task::poll`] for what `Drive::poll` and its `settle` do.
//! The waker is loom's model of `AtomicWaker`.

#[path = "../src/net/handle.rs"]
mod handle;

/// In the place of core/src/net/sync.rs.
mod sync {
    pub(super) use loom::{
        future::AtomicWaker,
        sync::{
            Mutex, MutexGuard,
            atomic::{AtomicBool, Ordering},
        },
    };

    pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
        mutex.lock().expect("nobody panics")
    }
}

use std::{
    future::poll_fn,
    task::{Context, Poll},
};

use loom::{future::block_on, sync::Arc, thread};

use handle::{CloseCommand, ConnHandle};
use sync::{Mutex, lock};

/// What is under the unit's lock.
#[derive(Default)]
struct State {
    queued: usize,
    /// The task knows of what is queued, or will be told.
    announced: bool,
    deadline: Option<u32>,
    /// When the task will look at the time.
    armed: Option<u32>,
}

#[derive(Default)]
struct Unit {
    state: Mutex<State>,
    handle: ConnHandle,
}

impl Unit {
    /// Queues a frame, which wakes the task if it is the first.
    fn send(&self) {
        let mut state = lock(&self.state);
        state.queued += 1;
        let first = !std::mem::replace(&mut state.announced, true);
        drop(state);
        if first {
            self.handle.wake();
        }
    }

    /// Something is due then. Wakes the task, under the lock, if it would look later.
    fn set_deadline(&self, at: u32) {
        let mut state = lock(&self.state);
        state.deadline = Some(state.deadline.map_or(at, |before| before.min(at)));
        if state.armed.is_none_or(|armed| at < armed) {
            state.armed = Some(at);
            self.handle.wake();
        }
    }

    fn judge(&self) {
        self.handle.judge(Ok(Default::default()));
    }

    fn close(&self) {
        let (frames, reason) = (vec![vec![1]], "enough".to_owned());
        self.handle.close(CloseCommand { frames, code: 4000, reason, at_once: false });
    }
}

/// What the task has come to.
#[derive(Default)]
struct Task {
    written: usize,
    timer: Option<u32>,
    closed: bool,
    judged: bool,
}

impl Task {
    fn poll(&mut self, unit: &Unit, cx: &Context<'_>, is_done: fn(&Task) -> bool) -> Poll<()> {
        unit.handle.waker.register_by_ref(cx.waker());
        loop {
            unit.handle.set_polling(true);
            if let Some(CloseCommand { frames, code, reason, at_once }) = unit.handle.take_command()
            {
                assert_eq!((frames, code, &reason[..]), (vec![vec![1]], 4000, "enough"));
                assert!(!at_once);
                assert!(!std::mem::replace(&mut self.closed, true), "the first call counts");
            }
            if unit.handle.take_verdict().is_some() {
                assert!(!std::mem::replace(&mut self.judged, true), "there is one verdict");
            }
            let mut state = lock(&unit.state);
            self.written += std::mem::take(&mut state.queued);
            state.announced = false;
            drop(state);
            unit.handle.set_polling(false);
            if !self.settle(unit) {
                return if is_done(self) { Poll::Ready(()) } else { Poll::Pending };
            }
        }
    }

    /// Whether there is more to do that others have left.
    fn settle(&mut self, unit: &Unit) -> bool {
        let mut state = lock(&unit.state);
        state.armed = state.deadline;
        let (deadline, has_output) = (state.armed, state.queued > 0);
        drop(state);
        if has_output {
            return true;
        }
        self.timer = deadline;
        unit.handle.has_command()
    }
}

/// Runs threads beside the task, until that has done all that they have given it.
fn model(threads: &'static [fn(&Unit)], is_done: fn(&Task) -> bool) {
    let mut model = loom::model::Builder::new();
    // Every order in which threads are interrupted so often, at any place: all of them would take hours.
    model.preemption_bound = Some(3);
    model.check(move || {
        let unit = Arc::new(Unit::default());
        let threads: Vec<_> = threads
            .iter()
            .map(|work| {
                let (work, unit) = (*work, unit.clone());
                thread::spawn(move || work(&unit))
            })
            .collect();
        let mut task = Task::default();
        block_on(poll_fn(|cx| task.poll(&unit, cx, is_done)));
        for thread in threads {
            thread.join().expect("nobody panics");
        }
    });
}

#[test]
fn what_one_sender_queues_is_written() {
    model(&[|unit| (0..3).for_each(|_| unit.send())], |task| task.written == 3);
}

#[test]
fn what_two_senders_queue_is_written() {
    model(&[Unit::send, Unit::send], |task| task.written == 2);
}

#[test]
fn a_command_to_close_is_seen() {
    model(&[Unit::close], |task| task.closed);
}

#[test]
fn of_two_commands_to_close_the_first_counts() {
    model(&[Unit::close, Unit::close], |task| task.closed);
}

#[test]
fn a_command_is_seen_and_what_was_queued_is_written() {
    let is_done = |task: &Task| task.written == 1 && task.closed;
    model(&[Unit::send, Unit::close], is_done);
}

#[test]
fn a_deadline_that_comes_nearer_sets_the_timer() {
    let is_done = |task: &Task| task.timer == Some(5);
    model(&[|unit| [7, 5].into_iter().for_each(|at| unit.set_deadline(at))], is_done);
}

#[test]
fn a_deadline_is_noticed_beside_a_sender() {
    let is_done = |task: &Task| task.timer == Some(5) && task.written == 1;
    model(&[|unit| unit.set_deadline(5), Unit::send], is_done);
}

#[test]
fn a_verdict_is_heard_beside_what_is_queued_and_the_end() {
    model(&[Unit::judge, Unit::send], |task| task.judged && task.written == 1);
    model(&[Unit::judge, Unit::close], |task| task.judged && task.closed);
}
