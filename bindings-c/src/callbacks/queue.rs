//! Where a peer's callbacks wait until they are run: by a thread of the library's, by the thread that
//! does input and output, or by the program itself.
//!
//! Unless callbacks are to run right there, what happens on the input's side only puts items here, so a slow
//! callback holds up no heartbeat. The consumer takes all that waits at once and is woken once for it;
//! the answers that its callbacks give leave together. Foreign code never runs while a lock is held.

use std::{
    any::Any,
    io::{Read, Write},
    os::fd::{AsRawFd, RawFd},
    os::unix::net::UnixStream,
    sync::{Arc, PoisonError, Weak},
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use crate::{
    border::failure::Failure,
    callbacks::frame::{self, ANSWERS, Entered, Owner, Running},
    sync::{AtomicUsize, Condvar, Mutex, MutexGuard, Ordering},
};

/// A longer list is given back when it was worked off.
const KEEP: usize = 4096;
/// When so many callbacks took longer, the answers of the next ones leave one by one.
const SLOW_BATCH: Duration = Duration::from_millis(5);
const ALONE: usize = 256;

/// Something that waits in a queue.
pub(crate) trait Run: From<Call> + Send + 'static {
    /// Runs it, where callbacks run.
    fn run(self);

    /// Whether the other side is owed that it is run: then it is, also behind the queue's end.
    fn is_owed(&self) -> bool;
}

/// A function of the library's that waits its turn.
pub(crate) type Call = Box<dyn FnOnce() + Send>;

/// What nothing ends but the end of the peer.
pub(crate) trait Endless: Send + Sync {
    fn end(&self);
}

/// Who is to run callbacks.
#[derive(Clone, Copy)]
pub(crate) enum Way {
    /// A thread of their own.
    Thread,
    /// The thread of input and output.
    Inline,
    /// The program, when it polls.
    Poll,
}

/// Who runs the callbacks, and how it is woken.
enum Consumer {
    Thread,
    Inline(Mutex<Option<Waker>>),
    /// The two ends of a socket pair: one byte is in it while something waits.
    Poll(UnixStream, UnixStream),
}

pub(crate) struct Queue<T> {
    consumer: Consumer,
    state: Mutex<State<T>>,
    /// For the dispatch thread, and for those who wait in `roletalk_peer_poll`.
    ready: Condvar,
    /// So many of the next answers leave one by one. Only the consumer uses it.
    alone: AtomicUsize,
}

struct State<T> {
    items: Vec<T>,
    endless: Vec<Weak<dyn Endless>>,
    /// The consumer was told, or is at work and looks again before it waits.
    told: bool,
    /// The program is inside `roletalk_peer_poll`.
    polled: bool,
    /// Nothing comes from the peer any more: when the queue is empty, it ends.
    finishing: bool,
    ended: bool,
}

impl<T: Run> Queue<T> {
    /// # Errors
    /// `Status::Io`.
    pub(crate) fn new(way: Way) -> Result<Arc<Queue<T>>, Failure> {
        let consumer = match way {
            Way::Thread => Consumer::Thread,
            Way::Inline => Consumer::Inline(Mutex::new(None)),
            Way::Poll => {
                let (reader, writer) = UnixStream::pair().map_err(Failure::io)?;
                reader.set_nonblocking(true).map_err(Failure::io)?;
                writer.set_nonblocking(true).map_err(Failure::io)?;
                Consumer::Poll(reader, writer)
            }
        };
        Ok(Arc::new(Queue {
            consumer,
            state: Mutex::new(State {
                items: Vec::new(),
                endless: Vec::new(),
                told: false,
                polled: false,
                finishing: false,
                ended: false,
            }),
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

    fn owner(&self) -> Owner {
        Owner { queue: std::ptr::from_ref(self).cast(), inline: self.is_inline() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts something into the queue. What comes after its end is done here and now if it is owed to
    /// the other side, and dropped if not.
    pub(crate) fn push(&self, item: T) {
        let Some(item) = self.put_aside(item) else { return };
        let mut state = self.lock();
        if state.ended {
            drop(state);
            if item.is_owed() {
                item.run();
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
    fn put_aside(&self, item: T) -> Option<T> {
        let mut item = Some(item);
        let waker = self.with_outbox(|outbox| {
            let first = outbox.items.is_empty();
            outbox.items.extend(item.take());
            outbox.waker.clone().filter(|_| first)
        });
        if let Some(waker) = waker.flatten() {
            waker.wake();
        }
        item
    }

    /// Works on what is not handed over yet, on the thread of input and output.
    fn with_outbox<R>(&self, work: impl FnOnce(&mut Outbox<T>) -> R) -> Option<R> {
        let in_frame = frame::with(|frame| {
            let outbox = frame.outbox.as_mut().filter(|_| frame.owner == self.owner())?;
            outbox.downcast_mut().map(work)
        });
        in_frame.flatten()
    }

    /// Hands over what was put aside: one lock and one wake-up for all.
    fn hand_over(&self) {
        let told = self.with_outbox(|outbox| {
            if outbox.items.is_empty() {
                return true;
            }
            let mut state = self.lock();
            match state.items.is_empty() {
                true => std::mem::swap(&mut state.items, &mut outbox.items),
                false => state.items.append(&mut outbox.items),
            }
            std::mem::replace(&mut state.told, true)
        });
        if told == Some(false) {
            self.tell();
        }
    }

    /// The task that hands over what is put aside, when other tasks have had their turn.
    pub(crate) async fn run_outbox(self: Arc<Self>) {
        std::future::poll_fn(|cx| {
            self.with_outbox(|outbox| {
                outbox.waker.get_or_insert_with(|| cx.waker().clone());
            });
            self.hand_over();
            Poll::Pending
        })
        .await
    }

    /// The right to run foreign code here and now: on the thread where callbacks run, and outside of any.
    pub(crate) fn begin_here(&self) -> Option<Running> {
        if self.is_inline() { Running::begin(self.owner()) } else { None }
    }

    /// Makes this thread the one of the peer's input and output.
    pub(crate) fn enter_io(self: &Arc<Self>) -> IoThread<T> {
        let outbox = || Box::new(Outbox::<T> { items: Vec::new(), waker: None });
        let outbox = (!self.is_inline()).then(|| outbox() as Box<dyn Any>);
        let entered = frame::begin(self.owner(), false, outbox);
        IoThread { queue: self.clone(), _entered: entered }
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

    /// Ends something together with the peer. False when that has ended already.
    pub(crate) fn end_with_peer(&self, what: Weak<dyn Endless>) -> bool {
        let mut state = self.lock();
        if state.ended {
            return false;
        }
        let endless = &mut state.endless;
        if endless.len().is_power_of_two() {
            endless.retain(|what| what.strong_count() > 0);
        }
        endless.push(what);
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
    fn take(&self, state: &mut State<T>, into: &mut Vec<T>) -> Option<()> {
        if state.items.is_empty() {
            if state.finishing {
                let endless = std::mem::take(&mut state.endless);
                if endless.is_empty() {
                    state.ended = true;
                    return None;
                }
                // They have seen the last event by now.
                let end: Call = Box::new(move || {
                    endless.iter().filter_map(Weak::upgrade).for_each(|what| what.end());
                });
                into.push(T::from(end));
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
    pub(crate) fn run_thread(self: Arc<Self>) {
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
    pub(crate) async fn run_inline(self: Arc<Self>) {
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
    pub(crate) fn run_rest(&self) {
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
    /// `Status::InvalidArgument` when another thread is doing so.
    pub(crate) fn poll(&self, wait: Option<Instant>) -> Result<(usize, bool), Failure> {
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

    fn run(&self, items: &mut Vec<T>) {
        if items.is_empty() {
            return;
        }
        if self.is_inline() {
            let _running = Running::begin(self.owner());
            items.drain(..).for_each(|item| frame::guarded(|| item.run()));
            return;
        }
        let _frame = frame::begin(self.owner(), true, None);
        let mut begun = Instant::now();
        let mut rest = items.drain(..);
        while !rest.as_slice().is_empty() {
            let alone = self.alone.load(Ordering::Relaxed);
            frame::bound_answers(if alone > 0 { 1 } else { ANSWERS });
            rest.by_ref().take(ANSWERS).for_each(|item| frame::guarded(|| item.run()));
            frame::flush_answers();
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

/// What is not handed over yet.
struct Outbox<T> {
    items: Vec<T>,
    /// Of the task that hands it over.
    waker: Option<Waker>,
}

/// This thread, as long as it does a peer's input and output: at its end it hands over the rest.
pub(crate) struct IoThread<T: Run> {
    queue: Arc<Queue<T>>,
    _entered: Entered,
}

impl<T: Run> Drop for IoThread<T> {
    fn drop(&mut self) {
        self.queue.hand_over();
    }
}

/// The right to be the one who runs callbacks of [`Consumer::Poll`].
struct Polling<'a, T: Run>(&'a Queue<T>);

impl<'a, T: Run> Polling<'a, T> {
    fn begin(queue: &'a Queue<T>, state: &mut State<T>) -> Polling<'a, T> {
        state.polled = true;
        Polling(queue)
    }
}

impl<T: Run> Drop for Polling<'_, T> {
    fn drop(&mut self) {
        self.0.lock().polled = false;
        self.0.ready.notify_all();
    }
}
