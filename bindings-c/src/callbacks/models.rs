//! Every order in which the threads that share a queue can take their steps: `make -C bindings-c models`.
//!
//! A wake-up that is lost leaves all threads waiting, which loom reports as a deadlock: so nothing here ends a
//! queue before what is waited for has been run.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use loom::{
    future::block_on,
    sync::{Condvar, Mutex},
    thread,
};

use super::{
    queue::{Call, Queue, Run, Way},
    task::Task,
};

/// What waits in the queues of models.
enum Item {
    Count(Arc<Counter>),
    Task(Arc<Task<Item>>),
    Call(Call),
}

impl Run for Item {
    fn run(self) {
        match self {
            Item::Count(counter) => counter.add(),
            Item::Task(task) => task.run(),
            Item::Call(call) => call(),
        }
    }

    fn is_owed(&self) -> bool {
        !matches!(self, Item::Task(_))
    }
}

impl From<Call> for Item {
    fn from(call: Call) -> Item {
        Item::Call(call)
    }
}

impl From<Arc<Task<Item>>> for Item {
    fn from(task: Arc<Task<Item>>) -> Item {
        Item::Task(task)
    }
}

/// Counts, and can be waited for.
struct Counter {
    count: Mutex<usize>,
    changed: Condvar,
}

impl Counter {
    fn new() -> Arc<Counter> {
        Arc::new(Counter { count: Mutex::new(0), changed: Condvar::new() })
    }

    fn add(&self) {
        *self.count.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    fn get(&self) -> usize {
        *self.count.lock().unwrap()
    }

    fn wait_for(&self, count: usize) {
        let mut now = self.count.lock().unwrap();
        while *now < count {
            now = self.changed.wait(now).unwrap();
        }
    }
}

/// Something that a future waits for.
struct Signal(Mutex<(bool, Option<Waker>)>);

impl Signal {
    fn new() -> Arc<Signal> {
        Arc::new(Signal(Mutex::new((false, None))))
    }

    fn set(&self) {
        let waker = {
            let mut state = self.0.lock().unwrap();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn model(work: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // Two or three switches in unlucky places show most faults, as loom says, and each more costs much time.
    // LOOM_MAX_PREEMPTIONS sets another bound.
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(work);
}

/// Starts a queue's thread.
fn dispatch(queue: &Arc<Queue<Item>>) -> thread::JoinHandle<()> {
    let queue = queue.clone();
    thread::spawn(move || queue.run_thread())
}

fn push_from_thread(queue: &Arc<Queue<Item>>, counter: &Arc<Counter>) -> thread::JoinHandle<()> {
    let (queue, counter) = (queue.clone(), counter.clone());
    thread::spawn(move || queue.push(Item::Count(counter)))
}

#[test]
fn the_dispatch_thread_runs_what_two_threads_push() {
    model(|| {
        let queue = Queue::new(Way::Thread).unwrap();
        let counter = Counter::new();
        let consumer = dispatch(&queue);
        let producer = push_from_thread(&queue, &counter);
        queue.push(Item::Count(counter.clone()));
        counter.wait_for(2);
        queue.finish();
        producer.join().unwrap();
        consumer.join().unwrap();
        assert_eq!(counter.get(), 2);
    });
}

#[test]
fn the_dispatch_thread_runs_what_is_handed_over_beside_what_is_pushed() {
    model(|| {
        let queue = Queue::new(Way::Thread).unwrap();
        let counter = Counter::new();
        let consumer = dispatch(&queue);
        let producer = push_from_thread(&queue, &counter);
        {
            // This thread is the one of input and output: what it pushes it puts aside.
            let _io = queue.enter_io();
            queue.push(Item::Count(counter.clone()));
            queue.push(Item::Count(counter.clone()));
        }
        counter.wait_for(3);
        queue.finish();
        producer.join().unwrap();
        consumer.join().unwrap();
        assert_eq!(counter.get(), 3);
    });
}

#[test]
fn what_is_pushed_while_the_queue_ends_is_run_once() {
    model(|| {
        let queue = Queue::new(Way::Thread).unwrap();
        let counter = Counter::new();
        let consumer = dispatch(&queue);
        let producer = push_from_thread(&queue, &counter);
        queue.finish();
        producer.join().unwrap();
        consumer.join().unwrap();
        assert_eq!(counter.get(), 1);
    });
}

#[test]
fn inline_callbacks_run_what_another_thread_pushes() {
    model(|| {
        let queue = Queue::new(Way::Inline).unwrap();
        let counter = Counter::new();
        let io = {
            let queue = queue.clone();
            thread::spawn(move || {
                let _io = queue.enter_io();
                block_on(queue.clone().run_inline());
            })
        };
        let producer = push_from_thread(&queue, &counter);
        queue.push(Item::Count(counter.clone()));
        counter.wait_for(2);
        queue.finish();
        producer.join().unwrap();
        io.join().unwrap();
        assert_eq!(counter.get(), 2);
    });
}

/// Whether a program that waits for the descriptor would wake up.
fn is_readable(fd: i32) -> bool {
    let mut state = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one struct, which is a local variable.
    unsafe { libc::poll(&mut state, 1, 0) == 1 }
}

#[test]
fn while_something_waits_to_be_polled_the_descriptor_is_readable() {
    model(|| {
        let queue = Queue::new(Way::Poll).unwrap();
        let counter = Counter::new();
        let fd = queue.fd().unwrap();
        let producers = [push_from_thread(&queue, &counter), push_from_thread(&queue, &counter)];
        // At any time, and not only when it is readable.
        queue.poll(None).unwrap();
        for producer in producers {
            producer.join().unwrap();
        }
        while counter.get() < 2 {
            assert!(is_readable(fd), "something waits, and nothing tells of it");
            queue.poll(None).unwrap();
        }
        assert!(!is_readable(fd), "nothing waits, and the program would not sleep");
    });
}

#[test]
fn a_task_goes_on_when_it_is_woken() {
    model(|| {
        let queue = Queue::new(Way::Thread).unwrap();
        let (first, second, done) = (Signal::new(), Signal::new(), Counter::new());
        let consumer = dispatch(&queue);
        let waker = {
            let (first, second) = (first.clone(), second.clone());
            thread::spawn(move || {
                first.set();
                second.set();
            })
        };
        let ended = done.clone();
        let _task = Task::spawn(&queue, async move {
            poll_fn(|cx| first.poll(cx)).await;
            poll_fn(|cx| second.poll(cx)).await;
            ended.add();
        });
        done.wait_for(1);
        queue.finish();
        waker.join().unwrap();
        consumer.join().unwrap();
        assert_eq!(done.get(), 1);
    });
}

#[test]
fn a_task_either_calls_back_or_was_canceled() {
    model(|| {
        let queue = Queue::new(Way::Thread).unwrap();
        let (signal, called) = (Signal::new(), Counter::new());
        let consumer = dispatch(&queue);
        let waker = {
            let signal = signal.clone();
            thread::spawn(move || signal.set())
        };
        let begin = poll_fn(move |cx| signal.poll(cx));
        let started = Task::start(&queue, begin, called.clone(), |called, ()| called.add());
        let called_back = match started {
            Ok(task) => !task.cancel(),
            Err(((), _)) => false,
        };
        if called_back {
            // It ended by itself: the call is on its way, or done.
            called.wait_for(1);
        }
        queue.finish();
        waker.join().unwrap();
        consumer.join().unwrap();
        assert_eq!(called.get(), usize::from(called_back));
    });
}

#[test]
fn a_task_that_is_woken_in_its_first_step_goes_on() {
    model(|| {
        let queue = Queue::new(Way::Thread).unwrap();
        let (signal, called) = (Signal::new(), Counter::new());
        let consumer = dispatch(&queue);
        let waker = {
            let signal = signal.clone();
            thread::spawn(move || signal.set())
        };
        let begin = poll_fn(move |cx| signal.poll(cx));
        match Task::start(&queue, begin, called.clone(), |called, ()| called.add()) {
            Ok(_) => called.wait_for(1),
            Err(((), called)) => called.add(),
        }
        queue.finish();
        waker.join().unwrap();
        consumer.join().unwrap();
        assert_eq!(called.get(), 1);
    });
}
