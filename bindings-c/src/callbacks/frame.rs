//! What belongs to the callbacks that a thread is running.

use std::{
    any::Any,
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
};

use engine::{Context, Data, Deferred, Error};

use crate::{
    border::{table::Specials, units::LentUnit},
    sync::thread_local,
};

/// Answers that are given together at most.
pub(super) const ANSWERS: usize = 64;

/// Whose callbacks they are: a queue, which lives as long as its frames.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Owner {
    pub(super) queue: *const (),
    /// Callbacks run on the thread that does the peer's input and output, and hold it up.
    pub(super) inline: bool,
}

pub(super) struct Frame {
    pub(super) owner: Owner,
    /// False between two callbacks on the thread of input and output, whose frame stays.
    running: bool,
    answers: Vec<(Deferred, engine::Result<Data>)>,
    /// Answers that may wait.
    bound: usize,
    pub(super) lent: Lent,
    /// What the owner has not handed over yet: on the thread of input and output, when callbacks run
    /// elsewhere.
    pub(super) outbox: Option<Box<dyn Any>>,
}

/// What the running callback was lent; see [`lend`](super::lend).
#[derive(Default)]
pub(super) struct Lent {
    /// The unit that the last callback was about: mostly, the next one is, too.
    pub(super) unit: Option<LentUnit>,
    /// What the running handler is to answer, and by which number it is known.
    pub(super) exchange: Option<NonNull<dyn Any>>,
    pub(super) number: u64,
    pub(super) numbers: Specials,
    /// What the running handler is looking at, when the exchange has gone on.
    pub(super) looked_at: Option<Context>,
}

thread_local! {
    /// More than one when `roletalk_peer_poll` of one peer is called in a callback of another.
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// The frame, as long as it lives.
pub(super) struct Entered(());

/// Runs foreign code that chooses where something is sent to: it must not wait, whichever thread this is, and sees
/// nothing of what the callback around it was lent.
pub(super) fn hold_up<T>(work: impl FnOnce() -> T) -> T {
    let nobody = Owner { queue: std::ptr::null(), inline: true };
    let _entered = begin(nobody, true, None);
    work()
}

/// Begins a frame on this thread: `running` says that its callbacks do so until it ends.
pub(super) fn begin(owner: Owner, running: bool, outbox: Option<Box<dyn Any>>) -> Entered {
    let frame = Frame {
        owner,
        running,
        answers: Vec::new(),
        bound: ANSWERS,
        lent: Lent::default(),
        outbox,
    };
    // None while the thread ends.
    let _ = FRAMES.try_with(|frames| frames.borrow_mut().push(frame));
    Entered(())
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut frame = FRAMES.try_with(|frames| frames.borrow_mut().pop()).ok().flatten();
        // The rest of the frame is dropped behind them.
        if let Some(answers) = frame.as_mut().map(|frame| std::mem::take(&mut frame.answers)) {
            Deferred::respond_all(answers);
        }
    }
}

/// Works on the frame of this thread, if there is one.
pub(super) fn with<T>(work: impl FnOnce(&mut Frame) -> T) -> Option<T> {
    // No frame while the thread ends.
    FRAMES.try_with(|frames| frames.borrow_mut().last_mut().map(work)).ok().flatten()
}

/// While a callback runs in a frame that stays.
pub(crate) struct Running(());

impl Running {
    /// None when callbacks of this owner do not run here, or one is running.
    pub(super) fn begin(owner: Owner) -> Option<Running> {
        let begun = with(|frame| {
            let idle = !frame.running && frame.owner == owner;
            frame.running |= idle;
            idle
        });
        (begun == Some(true)).then_some(Running(()))
    }

    /// Runs foreign code.
    pub(crate) fn run(self, work: impl FnOnce()) {
        guarded(work);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        with(|frame| frame.running = false);
    }
}

/// Runs foreign code.
pub(super) fn guarded(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        // What was thrown may throw again when it is dropped.
        std::mem::forget(panic);
    }
}

/// In the child of a fork inside a callback: that callback is the parent's.
pub(crate) fn leave_all() {
    let frames = FRAMES.try_with(|frames| std::mem::take(&mut *frames.borrow_mut()));
    // What they hold may be locked by threads that do not exist here.
    std::mem::forget(frames);
}

/// Whether this thread is inside a callback that `which` is true for.
fn in_frame(which: impl Fn(&Frame) -> bool) -> bool {
    // In any frame: what runs inside a callback holds that up, too.
    let found =
        FRAMES.try_with(|frames| frames.borrow().iter().any(|frame| frame.running && which(frame)));
    found.unwrap_or(false)
}

/// Whether this thread is inside a callback.
pub(crate) fn in_callback() -> bool {
    in_frame(|_| true)
}

/// Whether this thread is inside a callback that holds up a peer's input and output.
pub(crate) fn is_inline() -> bool {
    in_frame(|frame| frame.owner.inline)
}

/// How many answers may wait for the next from now on.
pub(super) fn bound_answers(bound: usize) {
    with(|frame| frame.bound = bound);
}

/// Gives an answer, together with others if this thread is running callbacks. `inline` says that callbacks
/// of its peer run where things are read.
pub(crate) fn answer(inline: bool, deferred: Deferred, outcome: Result<Data, Error>) {
    // The connection puts the answers of the handlers that it calls together itself.
    if inline {
        return deferred.respond(outcome);
    }
    let mut given = Some((deferred, outcome));
    let full = with(|frame| {
        if frame.owner.inline {
            return None;
        }
        frame.answers.extend(given.take());
        (frame.answers.len() >= frame.bound).then(|| std::mem::take(&mut frame.answers))
    });
    if let Some((deferred, outcome)) = given {
        return deferred.respond(outcome);
    }
    Deferred::respond_all(full.flatten().into_iter().flatten());
}

/// Lets all answers leave that were given in this callback and those before it.
pub(crate) fn flush_answers() {
    let answers = with(|frame| std::mem::take(&mut frame.answers));
    Deferred::respond_all(answers.into_iter().flatten());
}
