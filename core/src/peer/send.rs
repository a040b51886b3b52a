//! Messages on their way out, and what everything that is sent begins with: to whom.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    Destination,
    unit::{Unit, UnitInner},
};
#[cfg(doc)]
use crate::ErrorKind;
use crate::{
    Result,
    engine::{Order, Outgoing},
    wire::{Data, Payload},
};

pub(crate) type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A payload about to be sent.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    Owned(Data),
    Borrowed(Payload<'a>),
}

impl Content<'_> {
    fn payload(&self) -> Payload<'_> {
        match self {
            Content::Owned(data) => data.payload(),
            Content::Borrowed(payload) => *payload,
        }
    }
}

/// What is about to be sent, and to whom.
#[derive(Debug)]
pub(crate) struct Addressed<'a> {
    pub(crate) destination: &'a Destination,
    pub(crate) event: &'a str,
    pub(crate) data: Content<'a>,
    pub(crate) unit: Option<Unit>,
    pub(crate) order: Order,
}

impl Addressed<'_> {
    /// The chosen unit, or the next one.
    #[inline]
    pub(crate) fn unit(&self) -> Result<Arc<UnitInner>> {
        self.destination.pick(self.unit.as_ref())
    }

    #[inline]
    pub(crate) fn outgoing(&self) -> Outgoing<'_> {
        outgoing(self.destination.role(), self.event, self.data.payload(), self.order)
    }
}

#[inline]
pub(crate) fn outgoing<'a>(
    role: &'a str,
    event: &'a str,
    payload: Payload<'a>,
    order: Order,
) -> Outgoing<'a> {
    Outgoing { role, event, payload, order, fields: None }
}

/// A message about to be sent: `await` it. Made by [`Destination::send`].
#[must_use = "nothing is sent until it is awaited"]
#[derive(Debug)]
pub struct SendMessage<'a> {
    pub(crate) what: Addressed<'a>,
}

impl<'a> SendMessage<'a> {
    /// Sends to this unit instead of the next in turn.
    pub fn to(mut self, unit: &Unit) -> SendMessage<'a> {
        self.what.unit = Some(unit.clone());
        self
    }

    /// Takes the least loaded connection of the unit, though the message may then overtake others.
    pub fn unordered(mut self) -> SendMessage<'a> {
        self.what.order = Order::Any;
        self
    }
}

impl<'a> IntoFuture for SendMessage<'a> {
    type Output = Result<Unit>;
    type IntoFuture = Sending<'a>;

    fn into_future(self) -> Sending<'a> {
        Sending { what: Some(self.what), queued: None }
    }
}

/// A message on its way into a queue. Dropping it before it is finished sends nothing. Made by
/// awaiting [`SendMessage`].
///
/// # Errors
/// [`ErrorKind::NoUnit`], [`ErrorKind::ConnectionLost`], [`ErrorKind::TooLarge`],
/// [`ErrorKind::InvalidArgument`] for an event name over 65 535 bytes, [`ErrorKind::Closed`].
pub struct Sending<'a> {
    what: Option<Addressed<'a>>,
    /// The unit had no room at first.
    queued: Option<Boxed<'a, Result<Unit>>>,
}

impl<'a> Sending<'a> {
    /// Sends at once if the unit has room.
    fn start(&mut self) -> Result<Option<Unit>> {
        // Used where it is: moving it would cost as much as some of the work.
        let Some(what) = &self.what else { return Ok(None) };
        let unit = what.unit()?;
        if let Some(sent) = unit.send_if_room(what.outgoing()) {
            return sent.map(|()| Some(Unit::new(unit)));
        }
        self.queued = self.what.take().map(|what| -> Boxed<'a, _> {
            Box::pin(async move {
                unit.send(what.outgoing()).await?;
                Ok(Unit::new(unit))
            })
        });
        Ok(None)
    }
}

impl Future for Sending<'_> {
    type Output = Result<Unit>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Unit>> {
        if self.queued.is_none() {
            let started = self.start();
            if let Some(sent) = started.transpose() {
                self.what = None;
                return Poll::Ready(sent);
            }
        }
        match &mut self.queued {
            Some(queued) => queued.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for Sending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sending").field("queued", &self.queued.is_some()).finish()
    }
}
