//! How the guard of blocked loops falls asleep and is woken, in every order in which threads can run.
//!
//! The protocol: whoever changes what there is to watch does so under a lock, then rings; the guard says that it sleeps,
//! then looks under the lock, and only then waits. No change may be left unseen while the guard waits, and it has to
//! end when it is told to: loom reports a thread that waits for ever as a deadlock.
//!
//! `bell` is the code of the host. [`watch`] stands for `Watch::run`, and [`Wire`] for its pair of sockets.

#[path = "../host/src/bell.rs"]
mod bell;

/// In the place of that in core/host/src/lib.rs.
mod sync {
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering};
}

use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};

use bell::{Bell, Line};

/// A number that threads wait for.
#[derive(Default)]
struct Count {
    value: Mutex<u32>,
    changed: Condvar,
}

impl Count {
    fn get(&self) -> u32 {
        *self.value.lock().unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut u32)) {
        change(&mut self.value.lock().unwrap());
        self.changed.notify_all();
    }

    fn wait_for(&self, holds: impl Fn(u32) -> bool) {
        let mut value = self.value.lock().unwrap();
        while !holds(*value) {
            value = self.changed.wait(value).unwrap();
        }
    }
}

/// Bytes on their way to the guard.
#[derive(Default)]
struct Wire(Count);

impl Wire {
    fn wait(&self) {
        self.0.wait_for(|bytes| bytes > 0);
        self.read();
    }

    fn read(&self) {
        self.0.change(|bytes| *bytes = 0);
    }
}

impl Line for Arc<Wire> {
    fn wake(&self) {
        self.0.change(|bytes| *bytes += 1);
    }
}

struct Stage {
    bell: Bell<Arc<Wire>>,
    wire: Arc<Wire>,
    /// What there is to watch, and what of it the guard has seen.
    there: Count,
    seen: Count,
}

impl Stage {
    fn new() -> Arc<Stage> {
        let wire = Arc::new(Wire::default());
        let bell = Bell::new(wire.clone());
        Arc::new(Stage { bell, wire, there: Count::default(), seen: Count::default() })
    }

    fn add(&self) {
        self.there.change(|there| *there += 1);
        self.bell.ring();
    }

    fn look(&self) {
        let there = self.there.get();
        self.seen.change(|seen| *seen = there);
    }
}

fn watch(stage: &Arc<Stage>) -> thread::JoinHandle<()> {
    let stage = stage.clone();
    thread::spawn(move || {
        while let Ok(()) = stage.bell.sleep(|| stage.look(), |()| stage.wire.wait()) {
            // Its time is over at once.
            let Ok(()) = stage.bell.wait(|| stage.wire.read()) else { return };
            stage.look();
        }
    })
}

fn add_from_thread(stage: &Arc<Stage>) -> thread::JoinHandle<()> {
    let stage = stage.clone();
    thread::spawn(move || stage.add())
}

fn model(work: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    // LOOM_MAX_PREEMPTIONS sets another bound.
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(work);
}

#[test]
fn what_is_added_is_seen() {
    model(|| {
        let stage = Stage::new();
        let guard = watch(&stage);
        stage.add();
        stage.seen.wait_for(|seen| seen == 1);
        stage.bell.finish();
        guard.join().unwrap();
    });
}

#[test]
fn what_two_threads_add_is_seen() {
    model(|| {
        let stage = Stage::new();
        let guard = watch(&stage);
        let adds = add_from_thread(&stage);
        stage.add();
        stage.seen.wait_for(|seen| seen == 2);
        stage.bell.finish();
        adds.join().unwrap();
        guard.join().unwrap();
    });
}

#[test]
fn it_ends_whatever_is_added_meanwhile() {
    model(|| {
        let stage = Stage::new();
        let guard = watch(&stage);
        let adds = add_from_thread(&stage);
        stage.bell.finish();
        adds.join().unwrap();
        guard.join().unwrap();
    });
}
