//! A request to every unit of a destination.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use futures_util::{StreamExt, stream::FuturesUnordered};

use super::{request::Answer, send::Boxed, unit::Unit};
use crate::Result;

pub(crate) type Asking = Boxed<'static, (Unit, Result<Answer>)>;

/// The answers to a survey as they arrive: a [`Stream`]. Dropping it gives up waiting. Nothing is
/// sent before it is first polled.
#[must_use = "nothing is asked until the answers are awaited"]
pub struct Survey {
    pub(crate) asked: usize,
    pub(crate) answers: FuturesUnordered<Asking>,
}

impl Survey {
    /// How many units are asked.
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// The next answer, or why a unit gave none; none when every unit has been heard. Cancel-safe.
    pub async fn next(&mut self) -> Option<(Unit, Result<Answer>)> {
        self.answers.next().await
    }

    /// All answers, in the order of arrival.
    pub async fn all(self) -> Vec<(Unit, Result<Answer>)> {
        self.answers.collect().await
    }
}

impl Stream for Survey {
    type Item = (Unit, Result<Answer>);

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.answers.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Survey")
            .field("asked", &self.asked)
            .field("open", &self.answers.len())
            .finish()
    }
}
