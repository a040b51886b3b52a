//! Futures that run where a peer's callbacks run.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use crate::queue::{Item, Queue};

pub(crate) type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A future that the queue polls. A request costs one of these and no task of the runtime's: its
/// waker, called where the answer is read, only puts it into the queue.
pub(crate) struct Task {
    queue: Arc<Queue>,
    state: Mutex<State>,
    /// It is in the queue already.
    queued: AtomicBool,
}

enum State {
    Waiting(BoxFuture),
    /// It is being polled, perhaps in a callback that cancels it.
    Polled,
    Ended,
}

impl Task {
    fn new(queue: &Arc<Queue>, state: State) -> Arc<Task> {
        let queue = queue.clone();
        Arc::new(Task { queue, state: Mutex::new(state), queued: AtomicBool::new(false) })
    }

    /// Runs a future; its first step, too, happens where callbacks run.
    pub(crate) fn spawn(queue: &Arc<Queue>, future: BoxFuture) -> Arc<Task> {
        let task = Task::new(queue, State::Waiting(future));
        task.wake_by_ref();
        task
    }

    /// Takes the first step of `begin` on this thread. If that is enough, gives its result and `state`
    /// back; else `then` is called with both where callbacks run.
    pub(crate) fn start<T: Send + 'static, S: Send + 'static>(
        queue: &Arc<Queue>,
        begin: impl Future<Output = T> + Send + 'static,
        state: S,
        then: fn(S, T),
    ) -> Result<Arc<Task>, (T, S)> {
        let task = Task::new(queue, State::Polled);
        // On the heap before its first step, since it must not move after that.
        let mut future = Box::pin(Started { begin, state: Some(state), then });
        let waker = Waker::from(task.clone());
        let mut cx = Context::from_waker(&waker);
        // Woken meanwhile, it waits for this lock.
        let mut guard = task.lock();
        match future.as_mut().step(&mut cx) {
            Poll::Ready(ended) => {
                *guard = State::Ended;
                Err(ended)
            }
            Poll::Pending => {
                *guard = State::Waiting(future);
                drop(guard);
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
        let mut future = {
            let mut state = self.lock();
            match std::mem::replace(&mut *state, State::Polled) {
                State::Waiting(future) => future,
                other => {
                    *state = other;
                    return;
                }
            }
        };
        let waker = Waker::from(self.clone());
        let done = future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready();
        let mut state = self.lock();
        match &*state {
            State::Polled if !done => *state = State::Waiting(future),
            // It was canceled meanwhile, or is done.
            _ => {
                *state = State::Ended;
                drop(state);
                drop(future);
            }
        }
    }

    /// Ends it: false when it has ended already.
    pub(crate) fn cancel(&self) -> bool {
        let mut state = self.lock();
        let before = std::mem::replace(&mut *state, State::Ended);
        drop(state);
        // A future that is dropped may do anything.
        !matches!(before, State::Ended)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let queue = self.queue.clone();
            queue.push(Item::Task(self));
        }
    }
}

/// A future and what to do with its result.
struct Started<F, S, T> {
    begin: F,
    state: Option<S>,
    then: fn(S, T),
}

impl<F: Future<Output = T>, S, T> Started<F, S, T> {
    fn step(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<(T, S)> {
        // SAFETY: `begin` stays where it is; `state` is not pinned.
        let Started { begin, state, .. } = unsafe { self.get_unchecked_mut() };
        // SAFETY: as above.
        let begin = unsafe { Pin::new_unchecked(begin) };
        begin.poll(cx).map(|result| {
            let state = state.take();
            (result, state.expect("a task is not polled after its end"))
        })
    }
}

impl<F: Future<Output = T>, S, T> Future for Started<F, S, T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let then = self.then;
        self.step(cx).map(|(result, state)| then(state, result))
    }
}
