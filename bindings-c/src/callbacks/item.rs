//! What there is to run. Each of these holds the queue that it comes into, and puts items into it.

use std::sync::Arc;

use crate::callbacks::{
    closure::Release,
    completion::{Asked, Outcome},
    exchange::Exchange,
    queue::{self, Call, Run},
    task,
};

/// Where a peer's callbacks wait.
pub(crate) type Callbacks = queue::Queue<Item>;

/// A future that waits among them.
pub(crate) type Task = task::Task<Item>;

pub(crate) enum Item {
    /// Something came for a handler, or goes on.
    Exchange(Exchange),
    /// A request was answered.
    Answer(Asked, Outcome),
    Task(Arc<Task>),
    Call(Call),
    Release(Release),
}

impl Run for Item {
    fn run(self) {
        match self {
            Item::Exchange(exchange) => exchange.run(),
            Item::Answer(asked, outcome) => asked.complete(Ok(outcome)),
            Item::Task(task) => task.run(),
            Item::Call(call) => call(),
            Item::Release(release) => release.call(),
        }
    }

    fn is_owed(&self) -> bool {
        match self {
            Item::Exchange(_) | Item::Task(_) => false,
            Item::Answer(..) | Item::Call(_) | Item::Release(_) => true,
        }
    }
}

impl From<Call> for Item {
    fn from(call: Call) -> Item {
        Item::Call(call)
    }
}

impl From<Arc<Task>> for Item {
    fn from(task: Arc<Task>) -> Item {
        Item::Task(task)
    }
}
