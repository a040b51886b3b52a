//! Futures that run where a peer's callbacks run.

use std::{
    pin::Pin,
    sync::{Arc, PoisonError, Weak},
    task::{Context, Poll, Wake, Waker},
};

use crate::{
    callbacks::queue::{Endless, Queue, Run},
    sync::{AtomicBool, Mutex, MutexGuard, Ordering},
};

/// What a task does.
trait Work: Send {
    /// Goes on until it has to wait.
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()>;

    /// Called once after the last step, when nobody can cancel any more.
    fn finish(self: Pin<&mut Self>);
}

type BoxWork = Pin<Box<dyn Work>>;

/// Work that the queue takes forward. A request costs one of these and no task of the runtime's: its
/// waker, called where the answer is read, only puts it into the queue.
pub(crate) struct Task<T> {
    queue: Arc<Queue<T>>,
    state: Mutex<State>,
    /// It is in the queue already.
    queued: AtomicBool,
}

enum State {
    Waiting(BoxWork),
    /// It takes a step, perhaps in a callback that cancels it.
    Running,
    /// The same, and it was its turn meanwhile: on another thread than that of its first step.
    Missed,
    Ended,
}

/// What a task waits among.
pub(crate) trait RunTasks: Run + From<Arc<Task<Self>>> {}

impl<T: Run + From<Arc<Task<T>>>> RunTasks for T {}

impl<T: RunTasks> Task<T> {
    fn new(queue: &Arc<Queue<T>>, state: State) -> Arc<Task<T>> {
        let queue = queue.clone();
        Arc::new(Task { queue, state: Mutex::new(state), queued: AtomicBool::new(false) })
    }

    /// Runs a future; its first step, too, happens where callbacks run.
    pub(crate) fn spawn(
        queue: &Arc<Queue<T>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Task<T>> {
        let task = Task::new(queue, State::Waiting(Box::pin(Plain(future))));
        task.wake_by_ref();
        task
    }

    /// As [`spawn`](Task::spawn), for what nothing ends but the end of the peer.
    pub(crate) fn spawn_endless(
        queue: &Arc<Queue<T>>,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Task<T>> {
        let task = Task::new(queue, State::Waiting(Box::pin(Plain(future))));
        let weak: Weak<Task<T>> = Arc::downgrade(&task);
        match queue.end_with_peer(weak) {
            true => task.wake_by_ref(),
            false => drop(task.cancel()),
        }
        task
    }

    /// Takes the first step of `begin` on this thread. If that is enough, gives its result and `state`
    /// back; else `then` is called with both where callbacks run.
    pub(crate) fn start<R: Send + 'static, S: Send + 'static>(
        queue: &Arc<Queue<T>>,
        begin: impl Future<Output = R> + Send + 'static,
        state: S,
        then: fn(S, R),
    ) -> Result<Arc<Task<T>>, (R, S)> {
        let task = Task::new(queue, State::Running);
        // On the heap before its first step, since it must not move after that.
        let mut work = Box::pin(Started { begin, end: End::Open(state), then });
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        // Without the lock, since it may call foreign code.
        match work.as_mut().step(&mut cx) {
            Poll::Ready(()) => {
                *task.lock() = State::Ended;
                Err(work.as_mut().end().expect("the last step leaves a result"))
            }
            Poll::Pending => {
                let before = std::mem::replace(&mut *task.lock(), State::Waiting(work));
                if matches!(before, State::Missed) {
                    task.wake_by_ref();
                }
                Ok(task)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a step, where callbacks run.
    pub(crate) fn run(self: Arc<Self>) {
        self.queued.store(false, Ordering::Release);
        let mut work = {
            let mut state = self.lock();
            match std::mem::replace(&mut *state, State::Running) {
                State::Waiting(work) => work,
                State::Running => {
                    *state = State::Missed;
                    return;
                }
                other => {
                    *state = other;
                    return;
                }
            }
        };
        let waker = Waker::from(self.clone());
        let done = work.as_mut().step(&mut Context::from_waker(&waker)).is_ready();
        let mut state = self.lock();
        match (&*state, done) {
            (State::Running, false) => *state = State::Waiting(work),
            (State::Running, true) => {
                *state = State::Ended;
                drop(state);
                work.as_mut().finish();
            }
            // It was canceled meanwhile. What is dropped may do anything: not under the lock.
            _ => drop(state),
        }
    }

    /// Ends it: false when it has ended already.
    pub(crate) fn cancel(&self) -> bool {
        let before = std::mem::replace(&mut *self.lock(), State::Ended);
        // What is dropped here, without the lock, may do anything.
        !matches!(before, State::Ended)
    }
}

impl<T: RunTasks> Endless for Task<T> {
    fn end(&self) {
        self.cancel();
    }
}

impl<T: RunTasks> Wake for Task<T> {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let queue = self.queue.clone();
            queue.push(T::from(self));
        }
    }
}

/// A future that does by itself what there is to do.
struct Plain<F>(F);

impl<F: Future<Output = ()> + Send> Work for Plain<F> {
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: the future stays where it is.
        unsafe { self.map_unchecked_mut(|plain| &mut plain.0) }.poll(cx)
    }

    fn finish(self: Pin<&mut Self>) {}
}

/// A future and what to do with its result.
struct Started<F, S, T> {
    begin: F,
    end: End<S, T>,
    then: fn(S, T),
}

enum End<S, T> {
    Open(S),
    Here(T, S),
    Over,
}

impl<F, S, T> Started<F, S, T> {
    /// What [`End`] there is to see to, once.
    fn end(self: Pin<&mut Self>) -> Option<(T, S)> {
        // SAFETY: `begin`, which alone is pinned, stays where it is.
        let Started { end, .. } = unsafe { self.get_unchecked_mut() };
        match std::mem::replace(end, End::Over) {
            End::Here(result, state) => Some((result, state)),
            End::Open(_) | End::Over => None,
        }
    }
}

impl<F, S, T> Work for Started<F, S, T>
where
    F: Future<Output = T> + Send,
    S: Send,
    T: Send,
{
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // SAFETY: `begin`, which alone is pinned, stays where it is.
        let Started { begin, end, .. } = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let begin = unsafe { Pin::new_unchecked(begin) };
        begin.poll(cx).map(|result| {
            if let End::Open(state) = std::mem::replace(end, End::Over) {
                *end = End::Here(result, state);
            }
        })
    }

    fn finish(self: Pin<&mut Self>) {
        let then = self.then;
        if let Some((result, state)) = self.end() {
            then(state, result);
        }
    }
}
