//! Where a peer's callbacks wait, run, and what they are lent. Foreign code never runs while a lock is
//! held.
//!
//! From the bottom up: [`frame`] has what belongs to the callbacks that a thread is running, [`lend`] the
//! handles that they are lent, [`queue`] is where things wait until they are run, whatever they are, and
//! [`task`] is a future that waits there. [`item`] says what there is to run: a [closure](closure) whose life
//! has ended, something that came [for a handler](exchange), the end [of an operation](completion). Each of
//! these three puts items into the queue, too, so that these four files know each other. A [function that
//! chooses](chooser) is called on whichever thread sends, and only its life ends in the queue. One that
//! [judges](judge) upgrades is called where the others are.

pub mod chooser;
pub mod closure;
pub mod completion;
pub mod exchange;
pub mod frame;
pub mod item;
pub mod judge;
pub mod lend;
pub mod queue;
pub mod task;

#[cfg(all(test, loom))]
mod models;
