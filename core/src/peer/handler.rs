//! What serves an event, and the middleware in front of it.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
};

use tokio::sync::oneshot;

use super::{
    context::Context,
    deferred::{Deferred, Way, unanswered},
    scope::OnCancel,
};
use crate::{Result, wire::Data};

/// A future of a handler, on the heap.
pub(crate) type HandlerFuture = Pin<Box<dyn Future<Output = Result<Data>> + Send>>;

/// What serves an event.
pub(crate) struct Handler {
    pub(crate) names: Arc<Names>,
    pub(crate) function: Function,
    pub(crate) on_cancel: OnCancel,
}

/// What a handler was set for.
pub(crate) struct Names {
    pub(crate) role: Arc<str>,
    pub(crate) event: Arc<str>,
}

/// What is given the means to answer.
pub(crate) type DeferredFunction = dyn Fn(Context, Deferred) + Send + Sync;

pub(crate) enum Function {
    /// Its outcome is the answer.
    Future {
        start: Box<dyn Fn(Context) -> HandlerFuture + Send + Sync>,
        /// Makes what can be called over and over.
        call: Box<dyn Fn() -> Box<dyn Call> + Send + Sync>,
    },
    /// It is given the means to answer.
    Deferred(Box<DeferredFunction>),
}

/// A handler's future whose place on the heap serves for one call after the other: most handlers end at
/// once, and making room for each costs more than many of them.
pub(crate) trait Call: Send {
    /// Calls the handler, which takes the context. Once it is ready, the next call may begin.
    fn begin(
        &mut self,
        context: &mut Option<Context>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<Data>>;

    /// Goes on with the call.
    fn poll(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<Data>>;
}

impl Function {
    /// Behind middleware, which waits for an outcome in any case.
    pub(crate) fn start(&self, context: Context) -> HandlerFuture {
        match self {
            Function::Future { start, .. } => start(context),
            Function::Deferred(function) => {
                let (sender, receiver) = oneshot::channel();
                function(context, Deferred(Some(Way::Middleware(sender))));
                Box::pin(async { receiver.await.unwrap_or_else(|_| Err(unanswered())) })
            }
        }
    }
}

pub(crate) type Middleware = Arc<dyn Fn(Context, Next) -> HandlerFuture + Send + Sync>;

/// The middleware that something goes through.
#[derive(Clone)]
pub(crate) struct Chain {
    pub(crate) peer: Arc<Vec<Middleware>>,
    pub(crate) role: Arc<Vec<Middleware>>,
}

/// The rest of the chain behind a middleware: further middleware, then the handler.
pub struct Next {
    pub(crate) chain: Chain,
    pub(crate) at: usize,
    pub(crate) handler: Arc<Handler>,
}

impl Next {
    /// Runs the rest of the chain and gives its outcome, which the middleware may pass on, change
    /// or replace. Not calling it means that the handler does not run.
    ///
    /// # Errors
    /// What the handler or a later middleware failed with.
    pub async fn run(self, context: Context) -> Result<Data> {
        self.start(context).await
    }

    pub(crate) fn start(mut self, context: Context) -> HandlerFuture {
        let Chain { peer, role } = &self.chain;
        let middleware = match peer.get(self.at) {
            Some(middleware) => Some(middleware),
            None => role.get(self.at - peer.len()),
        };
        match middleware.cloned() {
            Some(middleware) => {
                self.at += 1;
                middleware(context, self)
            }
            None => self.handler.function.start(context),
        }
    }
}
