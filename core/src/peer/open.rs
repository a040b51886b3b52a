//! Streams that are asked for.

use std::{future::poll_fn, sync::Arc, time::Duration};

use super::{
    answers::Tag,
    request::{Answer, Waiting},
    route::Route,
    scope::Watch,
    send::{Addressed, Boxed, Prepared, addressed},
    unit::{Unit, UnitInner},
};
#[cfg(doc)]
use crate::{Destination, ErrorKind, SendRequest};
use crate::{
    Result,
    engine::{self, Outgoing, StreamId, TimeLimit},
    wire::Direction,
};

/// A stream about to be asked for: `await` it to get the stream and the answer's payload. Made by
/// [`Destination::readable`] and [`Destination::writable`].
#[must_use = "nothing is asked until it is awaited"]
pub struct OpenStream<'a, S> {
    pub(crate) what: Addressed<'a>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) direction: Direction,
    pub(crate) make: fn(Arc<UnitInner>, StreamId) -> S,
}

impl<'a, S> OpenStream<'a, S> {
    addressed!();

    /// Asks this unit instead of the next in turn.
    pub fn to(mut self, unit: &Unit) -> OpenStream<'a, S> {
        self.what.unit = Some(unit.clone());
        self
    }

    /// Waits for a unit, within the time limit, when none serves the role, as [`SendRequest::wait_for_unit`].
    pub fn wait_for_unit(mut self) -> OpenStream<'a, S> {
        self.what.waits = true;
        self
    }

    /// Fails with [`ErrorKind::Timeout`] when the stream is not accepted within this time. It does
    /// not limit the stream itself.
    pub fn timeout(mut self, timeout: Duration) -> OpenStream<'a, S> {
        self.timeout = Some(timeout);
        self
    }
}

impl<'a, S: Send + 'a> IntoFuture for OpenStream<'a, S> {
    type Output = Result<(S, Answer)>;
    type IntoFuture = Boxed<'a, Result<(S, Answer)>>;

    /// # Errors
    /// As [`SendRequest`]; [`ErrorKind::Rejected`] when the stream is refused,
    /// [`ErrorKind::Overloaded`] also when too many streams are open.
    fn into_future(self) -> Self::IntoFuture {
        let OpenStream { mut what, timeout, direction, make } = self;
        let prepared = what.prepare(timeout);
        Box::pin(async move {
            let Prepared { unit, scope, timeout } = prepared?;
            let mut watch = Watch::new(scope);
            let opening = async {
                let mut route = Route::from_now(&what, timeout);
                let mut first = unit.inspect(|unit| route.begin(unit));
                loop {
                    let unit = match first.take() {
                        Some(unit) => unit,
                        None => route.unit().await?,
                    };
                    match open(&unit, direction, what.outgoing(), route.limit(), make).await {
                        Err(error) => route.failed(unit, error)?,
                        opened => return opened,
                    }
                }
            };
            watch.run(opening).await
        })
    }
}

/// Opens a stream with this unit.
async fn open<S>(
    unit: &Arc<UnitInner>,
    direction: Direction,
    outgoing: Outgoing<'_>,
    limit: TimeLimit,
    make: fn(Arc<UnitInner>, StreamId) -> S,
) -> Result<(S, Answer)> {
    let attempt = || {
        let ask = |machine: &mut engine::Unit<Tag>, now, tag| {
            machine.open_stream(direction, outgoing, limit, now, tag)
        };
        Waiting::begin(unit, None, engine::Unit::deadline, ask, |_| None)
    };
    let (mut waiting, (id, _)) = unit.when_room_within(limit, attempt).await?;
    // From here on it closes the stream when it is dropped, also while it is being opened.
    let stream = make(unit.clone(), id);
    let answer = poll_fn(|cx| waiting.poll(cx)).await?;
    Ok((stream, answer))
}
