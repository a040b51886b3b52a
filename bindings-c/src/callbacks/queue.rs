//! Where a peer's callbacks wait until they are run: by a thread of the library's, by the thread that
//! does input and output, or by the program itself.
//!
//! Unless callbacks are to run right there, what happens on the input's side only puts items here, so a slow
//! callback holds up no heartbeat. The consumer takes all that waits at once and is woken once for it;
//! the answers that its callbacks give leave together. Foreign code never runs while a lock is held.

use std::{
    cell::RefCell,
    io::{Read, Write},
    os::fd::{AsRawFd, RawFd},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr::NonNull,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use engine::{Context, Data, Deferred, Error, Unit};

use crate::{
    border::{
        failure::{Failure, Status},
        handles::roletalk_unit,
        table::{self, Specials},
    },
    callbacks::{
        closure::Release,
        completion::{Asked, Outcome},
        exchange::Exchange,
        task::Task,
    },
    runtime::wait::{Limit, check_may_wait},
    unit::UnitHandle,
};

/// Callbacks of the dispatch thread may block: heartbeats and other traffic go on meanwhile.
pub const ROLETALK_CALLBACKS_THREAD: i32 = 0;
/// Callbacks run right on the thread that does the peer's input and output: the fastest way, for
/// callbacks that never wait. Blocking calls return ROLETALK_STATUS_WOULD_DEADLOCK there.
pub const ROLETALK_CALLBACKS_INLINE: i32 = 1;
/// Callbacks run only inside roletalk_peer_poll, which the program calls when roletalk_peer_fd is readable.
pub const ROLETALK_CALLBACKS_POLL: i32 = 2;

/// Answers that are given together at most.
const ANSWERS: usize = 64;
/// A longer list is given back when it was worked off.
const KEEP: usize = 4096;
/// When so many callbacks took longer, the answers of the next ones leave one by one.
const SLOW_BATCH: Duration = Duration::from_millis(5);
const ALONE: usize = 256;

pub(crate) enum Item {
    /// Something came for a handler, or goes on.
    Exchange(Exchange),
    /// A request was answered.
    Answer(Asked, Outcome),
    Task(Arc<Task>),
    Call(Box<dyn FnOnce() + Send>),
    Release(Release),
}

impl Item {
    fn run(self) {
        match self {
            Item::Exchange(exchange) => exchange.run(),
            Item::Answer(asked, outcome) => asked.complete(Ok(outcome)),
            Item::Task(task) => task.run(),
            Item::Call(call) => call(),
            Item::Release(release) => release.call(),
        }
    }
}

/// Who runs the callbacks, and how it is woken.
enum Consumer {
    Thread,
    Inline(Mutex<Option<Waker>>),
    /// The two ends of a socket pair: one byte is in it while something waits.
    Poll(UnixStream, UnixStream),
}

pub(crate) struct Queue {
    consumer: Consumer,
    state: Mutex<State>,
    /// For the dispatch thread, and for those who wait in `roletalk_peer_poll`.
    ready: Condvar,
    /// So many of the next answers leave one by one. Only the consumer uses it.
    alone: AtomicUsize,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    /// Tasks that nothing ends but the end of the peer.
    endless: Vec<Weak<Task>>,
    /// The consumer was told, or is at work and looks again before it waits.
    told: bool,
    /// The program is inside `roletalk_peer_poll`.
    polled: bool,
    /// Nothing comes from the peer any more: when the queue is empty, it ends.
    finishing: bool,
    ended: bool,
}

impl Queue {
    /// # Errors
    /// `Status::InvalidArgument` for an unknown way to run callbacks, `Status::Io`.
    pub(crate) fn new(callbacks: i32) -> Result<Arc<Queue>, Failure> {
        let consumer = match callbacks {
            ROLETALK_CALLBACKS_THREAD => Consumer::Thread,
            ROLETALK_CALLBACKS_INLINE => Consumer::Inline(Mutex::default()),
            ROLETALK_CALLBACKS_POLL => {
                let io = |error: std::io::Error| Failure::new(Status::Io, error.to_string());
                let (reader, writer) = UnixStream::pair().map_err(io)?;
                reader.set_nonblocking(true).map_err(io)?;
                writer.set_nonblocking(true).map_err(io)?;
                Consumer::Poll(reader, writer)
            }
            other => {
                return Err(Failure::invalid(format!("there is no way {other} to run callbacks")));
            }
        };
        Ok(Arc::new(Queue {
            consumer,
            state: Mutex::default(),
            ready: Condvar::new(),
            alone: AtomicUsize::new(0),
        }))
    }

    pub(crate) fn has_thread(&self) -> bool {
        matches!(self.consumer, Consumer::Thread)
    }

    pub(crate) fn is_inline(&self) -> bool {
        matches!(self.consumer, Consumer::Inline(_))
    }

    pub(crate) fn is_polled(&self) -> bool {
        matches!(self.consumer, Consumer::Poll(..))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into the queue. What comes after its end is done here and now if it is owed to
    /// the other side, and dropped if not.
    pub(crate) fn push(&self, item: Item) {
        let Some(item) = self.put_aside(item) else { return };
        let mut state = self.lock();
        if state.ended {
            drop(state);
            match item {
                Item::Exchange(_) | Item::Task(_) => {}
                Item::Answer(..) | Item::Call(_) | Item::Release(_) => item.run(),
            }
            return;
        }
        state.items.push(item);
        if !std::mem::replace(&mut state.told, true) {
            drop(state);
            self.tell();
        }
    }

    /// On the thread of input and output: keeps an item until what has arrived is read. Elsewhere gives it
    /// back.
    fn put_aside(&self, item: Item) -> Option<Item> {
        let mut item = Some(item);
        let waker = with_frame(|frame| {
            let outbox = frame.outbox.as_mut().filter(|_| std::ptr::eq(&*frame.queue, self))?;
            let first = outbox.items.is_empty();
            outbox.items.extend(item.take());
            outbox.waker.clone().filter(|_| first)
        });
        if let Some(waker) = waker.flatten() {
            waker.wake();
        }
        item
    }

    /// Hands over what was put aside: one lock and one wake-up for all.
    fn hand_over(&self) {
        let told = with_frame(|frame| {
            let outbox = frame.outbox.as_mut().filter(|outbox| !outbox.items.is_empty())?;
            let mut state = self.lock();
            match state.items.is_empty() {
                true => std::mem::swap(&mut state.items, &mut outbox.items),
                false => state.items.append(&mut outbox.items),
            }
            Some(std::mem::replace(&mut state.told, true))
        });
        if told.flatten() == Some(false) {
            self.tell();
        }
    }

    /// The task that hands over what is put aside, when other tasks have had their turn.
    pub(crate) async fn run_outbox(self: Arc<Queue>) {
        std::future::poll_fn(|cx| {
            with_frame(|frame| {
                if let Some(outbox) = &mut frame.outbox {
                    outbox.waker.get_or_insert_with(|| cx.waker().clone());
                }
            });
            self.hand_over();
            Poll::Pending
        })
        .await
    }

    /// The right to run foreign code here and now: on the thread where callbacks run, and outside of any.
    pub(crate) fn begin_here(self: &Arc<Queue>) -> Option<Running> {
        if self.is_inline() { Running::begin(self) } else { None }
    }

    /// Makes this thread the one of the peer's input and output.
    pub(crate) fn enter_io(self: &Arc<Queue>) -> Entered {
        Frame::enter(self, false)
    }

    fn tell(&self) {
        match &self.consumer {
            Consumer::Thread => self.ready.notify_one(),
            Consumer::Inline(waker) => {
                let waker = waker.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Consumer::Poll(_, writer) => {
                // Full means that there is something in it.
                let _ = (&*writer).write(&[0]);
                self.ready.notify_all();
            }
        }
    }

    /// Calls `drop` of a closure soon.
    pub(crate) fn release(&self, release: Release) {
        self.push(Item::Release(release));
    }

    /// Ends a task together with the peer. False when that has ended already.
    pub(crate) fn end_with_peer(&self, task: &Arc<Task>) -> bool {
        let mut state = self.lock();
        if state.ended {
            return false;
        }
        let endless = &mut state.endless;
        if endless.len().is_power_of_two() {
            endless.retain(|task| task.strong_count() > 0);
        }
        endless.push(Arc::downgrade(task));
        true
    }

    /// Says that the peer has ended: what waits is still run.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.finishing = true;
        state.told = true;
        drop(state);
        self.tell();
    }

    /// Takes what waits. `None` when nothing will come any more.
    fn take(&self, state: &mut State, into: &mut Vec<Item>) -> Option<()> {
        if state.items.is_empty() {
            if state.finishing {
                let endless = std::mem::take(&mut state.endless);
                if endless.is_empty() {
                    state.ended = true;
                    return None;
                }
                // They have seen the last event by now.
                into.push(Item::Call(Box::new(move || {
                    for task in endless.iter().filter_map(Weak::upgrade) {
                        task.cancel();
                    }
                })));
                return Some(());
            }
            state.told = false;
        }
        if let Consumer::Poll(reader, _) = &self.consumer {
            state.told = false;
            let _ = (&*reader).read(&mut [0; 64]);
        }
        std::mem::swap(&mut state.items, into);
        Some(())
    }

    /// The body of the dispatch thread.
    pub(crate) fn run_thread(self: Arc<Queue>) {
        let mut items = Vec::new();
        loop {
            let mut state = self.lock();
            loop {
                if self.take(&mut state, &mut items).is_none() {
                    return;
                }
                if !items.is_empty() {
                    break;
                }
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            drop(state);
            self.run(&mut items);
        }
    }

    /// The task that runs callbacks on the thread of input and output. Ends with the queue.
    pub(crate) async fn run_inline(self: Arc<Queue>) {
        let mut items = Vec::new();
        std::future::poll_fn(move |cx| {
            if let Consumer::Inline(waker) = &self.consumer {
                let mut waker = waker.lock().unwrap_or_else(PoisonError::into_inner);
                *waker = Some(cx.waker().clone());
            }
            if self.take(&mut self.lock(), &mut items).is_none() {
                return Poll::Ready(());
            }
            if !items.is_empty() {
                self.run(&mut items);
                // After the connections have had their turn.
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    /// Runs what waits until the queue ends, when the peer has ended.
    pub(crate) fn run_rest(self: &Arc<Queue>) {
        let mut state = self.lock();
        while state.polled {
            state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let _polling = Polling::begin(self, &mut state);
        let mut items = Vec::new();
        while self.take(&mut state, &mut items).is_some() {
            if items.is_empty() {
                state = self.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            drop(state);
            self.run(&mut items);
            state = self.lock();
        }
        // Before `_polling`, which takes it.
        drop(state);
    }

    /// The body of `roletalk_peer_poll`: waits until something is there, and runs it. How many callbacks'
    /// worth that was, and whether the queue has ended.
    ///
    /// # Errors
    /// `Status::InvalidArgument` when another thread is doing so, or callbacks run elsewhere.
    pub(crate) fn poll(self: &Arc<Queue>, wait: Option<Instant>) -> Result<(usize, bool), Failure> {
        if !self.is_polled() {
            return Err(Failure::invalid("The peer was not made with ROLETALK_CALLBACKS_POLL"));
        }
        if wait.is_some() {
            check_may_wait(Limit::Never)?;
        }
        let mut items = Vec::new();
        let mut state = self.lock();
        if state.polled {
            return Err(Failure::invalid(
                "Another thread is inside roletalk_peer_poll, or this one already",
            ));
        }
        let _polling = Polling::begin(self, &mut state);
        let ended = loop {
            if self.take(&mut state, &mut items).is_none() {
                break true;
            }
            if !items.is_empty() {
                break false;
            }
            let Some(until) = wait else { break false };
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                break false;
            }
            let waited = self.ready.wait_timeout(state, rest);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(state);
        let count = items.len();
        self.run(&mut items);
        Ok((count, ended))
    }

    /// What to wait on until `roletalk_peer_poll` has something to do.
    pub(crate) fn fd(&self) -> Result<RawFd, Failure> {
        match &self.consumer {
            Consumer::Poll(reader, _) => Ok(reader.as_raw_fd()),
            _ => Err(Failure::invalid("The peer was not made with ROLETALK_CALLBACKS_POLL")),
        }
    }

    fn run(self: &Arc<Queue>, items: &mut Vec<Item>) {
        if items.is_empty() {
            return;
        }
        if self.is_inline() {
            let _running = Running::begin(self);
            items.drain(..).for_each(|item| guarded(|| item.run()));
            return;
        }
        let _frame = Frame::enter(self, true);
        let mut begun = Instant::now();
        let mut rest = items.drain(..);
        while !rest.as_slice().is_empty() {
            let alone = self.alone.load(Ordering::Relaxed);
            with_frame(|frame| frame.bound = if alone > 0 { 1 } else { ANSWERS });
            rest.by_ref().take(ANSWERS).for_each(|item| guarded(|| item.run()));
            flush_answers();
            let now = Instant::now();
            let alone = match now - begun > SLOW_BATCH {
                true => ALONE,
                false => alone.saturating_sub(ANSWERS),
            };
            self.alone.store(alone, Ordering::Relaxed);
            begun = now;
        }
        drop(rest);
        if items.capacity() > KEEP {
            *items = Vec::new();
        }
    }
}

/// The right to be the one who runs callbacks of [`Consumer::Poll`].
struct Polling<'a>(&'a Queue);

impl<'a> Polling<'a> {
    fn begin(queue: &'a Queue, state: &mut State) -> Polling<'a> {
        state.polled = true;
        Polling(queue)
    }
}

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.lock().polled = false;
        self.0.ready.notify_all();
    }
}

/// What belongs to the callbacks that this thread is running.
struct Frame {
    queue: Arc<Queue>,
    /// False between two callbacks on the thread of input and output, whose frame stays.
    running: bool,
    answers: Vec<(Deferred, engine::Result<Data>)>,
    /// Answers that may wait.
    bound: usize,
    /// The handle of the unit that the last callback was about: mostly, the next one is, too.
    unit: Option<(Unit, u64)>,
    /// What the running handler is to answer, and by which number it is known.
    exchange: Option<NonNull<Option<Exchange>>>,
    number: u64,
    numbers: Specials,
    /// What the running handler is looking at, when the exchange has gone on.
    looked_at: Option<Context>,
    /// On the thread of input and output, when callbacks run elsewhere.
    outbox: Option<Outbox>,
}

/// What is not handed over yet.
#[derive(Default)]
struct Outbox {
    items: Vec<Item>,
    /// Of the task that hands it over.
    waker: Option<Waker>,
}

thread_local! {
    /// More than one when `roletalk_peer_poll` of one peer is called in a callback of another.
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// The frame, as long as it lives.
pub(crate) struct Entered;

impl Frame {
    fn enter(queue: &Arc<Queue>, running: bool) -> Entered {
        let frame = Frame {
            queue: queue.clone(),
            running,
            answers: Vec::new(),
            bound: ANSWERS,
            unit: None,
            exchange: None,
            number: 0,
            numbers: Specials::default(),
            looked_at: None,
            outbox: (!running && !queue.is_inline()).then(Outbox::default),
        };
        FRAMES.with_borrow_mut(|frames| frames.push(frame));
        Entered
    }

    /// The handle of the unit that the last callback was about, if it is this one.
    fn handle_if(&self, is: impl FnOnce(&Unit) -> bool) -> Option<u64> {
        self.unit.as_ref().filter(|(known, _)| is(known)).map(|(_, handle)| *handle)
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        if let Some(queue) = with_frame(|frame| frame.queue.clone()) {
            queue.hand_over();
        }
        let frame = FRAMES.with_borrow_mut(Vec::pop);
        let Some(Frame { answers, unit, .. }) = frame else { return };
        Deferred::respond_all(answers);
        forget_unit(unit);
    }
}

/// While a callback runs in a frame that stays.
pub(crate) struct Running(());

impl Running {
    /// Runs foreign code.
    pub(crate) fn run(self, work: impl FnOnce()) {
        guarded(work);
    }

    /// None when callbacks of this queue do not run here, or one is running.
    fn begin(queue: &Arc<Queue>) -> Option<Running> {
        let begun = with_frame(|frame| {
            let idle = !frame.running && Arc::ptr_eq(&frame.queue, queue);
            frame.running |= idle;
            idle
        });
        (begun == Some(true)).then_some(Running(()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        with_frame(|frame| frame.running = false);
    }
}

/// Runs foreign code.
fn guarded(work: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
        // What was thrown may throw again when it is dropped.
        std::mem::forget(panic);
    }
}

fn forget_unit(unit: Option<(Unit, u64)>) {
    if let Some((_, handle)) = unit {
        let _ = table::remove::<UnitHandle>(handle);
    }
}

/// In the child of a fork inside a callback: that callback is the parent's.
pub(crate) fn leave_frames() {
    let frames = FRAMES.try_with(|frames| std::mem::take(&mut *frames.borrow_mut()));
    // What they hold may be locked by threads that do not exist here.
    std::mem::forget(frames);
}

fn with_frame<T>(work: impl FnOnce(&mut Frame) -> T) -> Option<T> {
    // No frame while the thread ends.
    FRAMES.try_with(|frames| frames.borrow_mut().last_mut().map(work)).ok().flatten()
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
    in_frame(|frame| frame.queue.is_inline())
}

/// Gives an answer, together with others if this thread is running callbacks. `inline` says that callbacks
/// of its peer run where things are read.
pub(crate) fn answer(inline: bool, deferred: Deferred, outcome: Result<Data, Error>) {
    // The connection puts the answers of the handlers that it calls together itself.
    if inline {
        return deferred.respond(outcome);
    }
    let mut given = Some((deferred, outcome));
    let full = with_frame(|frame| {
        if frame.queue.is_inline() {
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
    let answers = with_frame(|frame| std::mem::take(&mut frame.answers));
    Deferred::respond_all(answers.into_iter().flatten());
}

/// A handle that lives as long as the callback that it is lent to.
pub(crate) fn lend_unit(unit: &Unit) -> roletalk_unit {
    let known = with_frame(|frame| frame.handle_if(|known| known == unit));
    roletalk_unit {
        id: known.map_or(0, |known| known.unwrap_or_else(|| lend_new_unit(unit.clone()))),
    }
}

/// Another unit than the last time.
fn lend_new_unit(unit: Unit) -> u64 {
    let handle = table::insert(Arc::new(UnitHandle::lent(unit.clone())));
    let old = with_frame(|frame| frame.unit.replace((unit, handle)));
    forget_unit(old.flatten());
    handle
}

/// Runs a handler that is to answer what is in `slot`, which it may take out: it is told the number of
/// the handle of that and that of the unit. Not while the thread ends: nothing is known of callbacks then.
pub(crate) fn lend_exchange(slot: &mut Option<Exchange>, call: impl FnOnce(u64, roletalk_unit)) {
    let lend = |frame: &mut Frame, slot: &mut Option<Exchange>| {
        frame.number = frame.numbers.next();
        frame.exchange = Some(NonNull::from(slot));
        frame.number
    };
    let known = with_frame(|frame| {
        let context = slot.as_ref().map(Exchange::context)?;
        let unit = frame.handle_if(|known| context.is_from(known))?;
        Some((lend(frame, slot), unit))
    });
    let (number, unit) = match known.flatten() {
        Some((number, unit)) => (Some(number), unit),
        None => {
            let Some(unit) = slot.as_ref().map(|exchange| exchange.context().unit()) else {
                return;
            };
            let unit = lend_new_unit(unit);
            (with_frame(|frame| lend(frame, slot)), unit)
        }
    };
    if let Some(number) = number {
        call(number, roletalk_unit { id: unit });
        // Dropped without the frame.
        let _looked_at = with_frame(|frame| {
            frame.exchange = None;
            frame.looked_at.take()
        });
    }
}

/// Works on what the running handler is to answer.
///
/// # Errors
/// `Status::InvalidHandle` when it was answered or deferred, or the handle is not the
/// running handler's.
pub(crate) fn with_exchange<T>(
    handle: u64,
    work: impl FnOnce(&mut Exchange) -> T,
) -> Result<T, Failure> {
    with_slot(handle, |slot| slot.as_mut().map(work))
}

fn with_slot<T>(
    handle: u64,
    work: impl FnOnce(&mut Option<Exchange>) -> Option<T>,
) -> Result<T, Failure> {
    let text =
        "The handler has answered or deferred already, or it has returned, or runs elsewhere";
    with_frame(|frame| {
        let slot = frame.exchange.filter(|_| frame.number == handle)?;
        // SAFETY: `lend_exchange` has exclusive access to the slot, takes it back from the frame when the
        // handler has returned, and leaves it alone until then; only this thread sees the frame.
        let slot = unsafe { &mut *slot.as_ptr() };
        slot.as_ref().is_some_and(Exchange::is_open).then(|| work(slot))
    })
    .flatten()
    .flatten()
    .ok_or_else(|| Failure::new(Status::InvalidHandle, text))
}

/// Takes what the running handler is to answer, which may go on looking at it.
///
/// # Errors
/// As [`with_exchange`].
pub(crate) fn part_with_exchange(handle: u64) -> Result<Exchange, Failure> {
    let exchange = with_slot(handle, Option::take)?;
    with_frame(|frame| frame.looked_at = Some(exchange.context().clone()));
    Ok(exchange)
}
