//! Where a peer's callbacks wait until they are run: by a thread of the library's, by the thread that
//! does input and output, or by the program itself.
//!
//! Whatever happens on the input's side only puts items here, so foreign code never runs while a lock
//! is held, and a slow callback holds up no heartbeat. The consumer takes all that waits at once and
//! is woken once for it; the answers that its callbacks give leave together.

use std::{
    cell::RefCell,
    io::{Read, Write},
    os::fd::{AsRawFd, RawFd},
    os::unix::net::UnixStream,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use engine::{Data, Deferred, Error, Unit};

use crate::{
    closure::Release,
    incoming::Exchange,
    status::{Failure, RT_INVALID_HANDLE},
    table,
    task::Task,
    types::rt_unit,
    unit::UnitHandle,
    wait::{Limit, check_may_wait},
};

/// Callbacks of the dispatch thread may block: heartbeats and other traffic go on meanwhile.
pub const RT_CALLBACKS_THREAD: i32 = 0;
/// Callbacks run right on the thread that does the peer's input and output: the fastest way, for
/// callbacks that never wait. Blocking calls return RT_WOULD_DEADLOCK there.
pub const RT_CALLBACKS_INLINE: i32 = 1;
/// Callbacks run only inside rt_poll, which the program calls when rt_fd is readable.
pub const RT_CALLBACKS_POLL: i32 = 2;

/// Answers that are given together at most.
const ANSWERS: usize = 64;
/// When a batch took longer, answers leave one by one for a while.
const SLOW_BATCH: Duration = Duration::from_millis(5);
const SLOW_FOR: Duration = Duration::from_secs(1);

pub(crate) enum Item {
    /// Something came for a handler, or goes on.
    Exchange(Exchange),
    Task(Arc<Task>),
    Call(Box<dyn FnOnce() + Send>),
    Release(Release),
}

impl Item {
    fn run(self) {
        match self {
            Item::Exchange(exchange) => exchange.run(),
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
    /// For the dispatch thread, and for those who wait in `rt_poll`.
    ready: Condvar,
}

#[derive(Default)]
struct State {
    items: Vec<Item>,
    /// Tasks that nothing ends but the end of the peer.
    endless: Vec<Weak<Task>>,
    /// The consumer was told, or is at work and looks again before it waits.
    told: bool,
    /// The program is inside `rt_poll`.
    polled: bool,
    /// Nothing comes from the peer any more: when the queue is empty, it ends.
    finishing: bool,
    ended: bool,
    /// Answers leave one by one until then.
    slow_until: Option<Instant>,
}

impl Queue {
    /// # Errors
    /// `RT_INVALID_ARGUMENT` for an unknown way to run callbacks, `RT_IO`.
    pub(crate) fn new(callbacks: i32) -> Result<Arc<Queue>, Failure> {
        let consumer = match callbacks {
            RT_CALLBACKS_THREAD => Consumer::Thread,
            RT_CALLBACKS_INLINE => Consumer::Inline(Mutex::default()),
            RT_CALLBACKS_POLL => {
                let io =
                    |error: std::io::Error| Failure::new(crate::status::RT_IO, error.to_string());
                let (reader, writer) = UnixStream::pair().map_err(io)?;
                reader.set_nonblocking(true).map_err(io)?;
                writer.set_nonblocking(true).map_err(io)?;
                Consumer::Poll(reader, writer)
            }
            other => {
                return Err(Failure::invalid(format!("there is no way {other} to run callbacks")));
            }
        };
        Ok(Arc::new(Queue { consumer, state: Mutex::default(), ready: Condvar::new() }))
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
        let mut state = self.lock();
        if state.ended {
            drop(state);
            match item {
                Item::Exchange(_) | Item::Task(_) => {}
                Item::Call(_) | Item::Release(_) => item.run(),
            }
            return;
        }
        state.items.push(item);
        if !std::mem::replace(&mut state.told, true) {
            drop(state);
            self.tell();
        }
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

    /// The body of `rt_poll`: waits until something is there, and runs it. How many callbacks' worth
    /// that was, and whether the queue has ended.
    ///
    /// # Errors
    /// `RT_INVALID_ARGUMENT` when another thread is doing so, or callbacks run elsewhere.
    pub(crate) fn poll(self: &Arc<Queue>, wait: Option<Instant>) -> Result<(usize, bool), Failure> {
        if !self.is_polled() {
            return Err(Failure::invalid("The peer was not made with RT_CALLBACKS_POLL"));
        }
        if wait.is_some() {
            check_may_wait(Limit::Never)?;
        }
        let mut items = Vec::new();
        let mut state = self.lock();
        if state.polled {
            return Err(Failure::invalid("Another thread is inside rt_poll, or this one already"));
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

    /// What to wait on until `rt_poll` has something to do.
    pub(crate) fn fd(&self) -> Result<RawFd, Failure> {
        match &self.consumer {
            Consumer::Poll(reader, _) => Ok(reader.as_raw_fd()),
            _ => Err(Failure::invalid("The peer was not made with RT_CALLBACKS_POLL")),
        }
    }

    fn run(self: &Arc<Queue>, items: &mut Vec<Item>) {
        if items.is_empty() {
            return;
        }
        let begun = Instant::now();
        let slow = self.lock().slow_until.is_some_and(|until| begun < until);
        let _frame = Frame::enter(self, if slow { 1 } else { ANSWERS });
        for item in items.drain(..) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| item.run())) {
                std::mem::forget(panic);
            }
        }
        let now = Instant::now();
        if now - begun > SLOW_BATCH {
            self.lock().slow_until = Some(now + SLOW_FOR);
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
    answers: Vec<(Deferred, engine::Result<Data>)>,
    /// Answers that may wait.
    bound: usize,
    /// The handle of the unit that the last callback was about: mostly, the next one is, too.
    unit: Option<(Unit, u64)>,
    /// What the running handler is to answer, and by which number it is known.
    exchange: Option<Exchange>,
    number: u64,
}

thread_local! {
    /// More than one when `rt_poll` of one peer is called in a callback of another.
    static FRAMES: RefCell<Vec<Frame>> = const { RefCell::new(Vec::new()) };
}

/// The frame, as long as it lives.
struct Entered;

impl Frame {
    fn enter(queue: &Arc<Queue>, bound: usize) -> Entered {
        let queue = queue.clone();
        let frame =
            Frame { queue, answers: Vec::new(), bound, unit: None, exchange: None, number: 0 };
        FRAMES.with_borrow_mut(|frames| frames.push(frame));
        Entered
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        let frame = FRAMES.with_borrow_mut(Vec::pop);
        let Some(Frame { answers, unit, .. }) = frame else { return };
        Deferred::respond_all(answers);
        forget_unit(unit);
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

/// Whether this thread is inside a callback.
pub(crate) fn in_callback() -> bool {
    with_frame(|_| ()).is_some()
}

/// Whether this thread does a peer's input and output.
pub(crate) fn is_inline() -> bool {
    // In any frame: what runs inside a callback holds that up, too.
    let inline =
        FRAMES.try_with(|frames| frames.borrow().iter().any(|frame| frame.queue.is_inline()));
    inline.unwrap_or(false)
}

/// Gives an answer, together with others if this thread is running callbacks.
pub(crate) fn answer(deferred: Deferred, outcome: Result<Data, Error>) {
    let mut given = Some((deferred, outcome));
    let full = with_frame(|frame| {
        frame.answers.extend(given.take());
        (frame.answers.len() >= frame.bound).then(|| std::mem::take(&mut frame.answers))
    });
    Deferred::respond_all(given.into_iter().chain(full.flatten().into_iter().flatten()));
}

/// Lets all answers leave that were given in this callback and those before it.
pub(crate) fn flush_answers() {
    let answers = with_frame(|frame| std::mem::take(&mut frame.answers));
    Deferred::respond_all(answers.into_iter().flatten());
}

/// A handle that lives as long as the callback that it is lent to.
pub(crate) fn lend_unit(unit: &Unit) -> rt_unit {
    let known = with_frame(|frame| match &frame.unit {
        Some((known, handle)) if known == unit => Some(*handle),
        _ => None,
    });
    match known {
        Some(Some(handle)) => rt_unit { id: handle },
        Some(None) => {
            let handle = table::insert(Arc::new(UnitHandle::lent(unit.clone())));
            let new = Some((unit.clone(), handle));
            let old = with_frame(|frame| std::mem::replace(&mut frame.unit, new));
            forget_unit(old.flatten());
            rt_unit { id: handle }
        }
        None => rt_unit::NONE,
    }
}

/// Makes something what the handler is to answer that is called next. The number of its handle.
pub(crate) fn set_exchange(exchange: Exchange) -> u64 {
    let number = table::special();
    with_frame(|frame| {
        frame.exchange = Some(exchange);
        frame.number = number;
    });
    number
}

/// Takes back what was not answered.
pub(crate) fn take_exchange() -> Option<Exchange> {
    with_frame(|frame| frame.exchange.take()).flatten()
}

/// Works on what the running handler is to answer.
///
/// # Errors
/// `RT_INVALID_HANDLE` when it was answered or deferred, or the handle is not the running handler's.
pub(crate) fn with_exchange<T>(
    handle: u64,
    work: impl FnOnce(&mut Option<Exchange>) -> T,
) -> Result<T, Failure> {
    let text =
        "The handler has answered or deferred already, or it has returned, or runs elsewhere";
    with_frame(|frame| {
        let known = frame.number == handle && frame.exchange.is_some();
        known.then(|| work(&mut frame.exchange))
    })
    .flatten()
    .ok_or_else(|| Failure::new(RT_INVALID_HANDLE, text))
}
