//! What [`ConnHandle`](super::ConnHandle) is made of. In core/models, loom's take the place of these.

pub(super) use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

pub(super) use futures_util::task::AtomicWaker;

pub(super) use crate::peer::lock;
