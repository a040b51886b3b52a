//! Which handlers run, by the requests that they were called for.

use rustc_hash::FxHashMap;

#[cfg(doc)]
use roletalk_engine::Event;
use roletalk_engine::{Question, RequestId, UnitId};

/// The handlers of requests that may be [cancelled](Event::Cancelled), each with what the binding knows it by.
///
/// A binding [adds](Running::add) a handler that it calls, and [removes](Running::remove) it when it takes the
/// question back or when a stream is accepted; what is cancelled removes itself.
#[derive(Debug)]
pub struct Running<T>(FxHashMap<RequestId, (UnitId, T)>);

impl<T> Default for Running<T> {
    fn default() -> Running<T> {
        Running(FxHashMap::default())
    }
}

impl<T> Running<T> {
    /// A handler is called for a question; nothing happens for one whose answer nobody waits for.
    pub fn add(&mut self, unit: UnitId, question: &Question, handler: T) {
        if let Some(request) = question.request() {
            self.0.insert(request, (unit, handler));
        }
    }

    /// A handler has ended, or nobody can give its request up any more.
    pub fn remove(&mut self, question: &Question) -> Option<T> {
        let (_, handler) = self.0.remove(&question.request()?)?;
        Some(handler)
    }

    /// The handlers that an [`Event::Cancelled`] of a unit is about, in no order.
    pub fn cancelled(&mut self, unit: UnitId, request: Option<RequestId>) -> Vec<T> {
        match request {
            Some(request) => {
                self.0.remove(&request).map(|(_, handler)| handler).into_iter().collect()
            }
            None => {
                let gone = self.0.extract_if(|_, (of, _)| *of == unit);
                gone.map(|(_, (_, handler))| handler).collect()
            }
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
