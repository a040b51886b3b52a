//! The messages and requests that the application sends.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use roletalk::{Answer, Data, Destination, Error, ErrorKind, SendRequest, Unit};
use roletalk_engine::UnitId;
use tokio::time::{sleep, timeout};

use super::{Node, Result, payload};

/// Of a request whose unit the destination chooses.
const ANY: UnitId = UnitId(u64::MAX);

impl Node {
    // Messages.

    /// Sends a message, and enters it at the moment at which it is queued. Waits for room.
    pub(super) async fn send(
        &self,
        role: &str,
        unit: Option<&Unit>,
        kept: bool,
        len: usize,
        sound: bool,
    ) -> Result<()> {
        let id = self.world.number();
        let to = self.peer.destination(role)?;
        let mut message = to.send("e", payload(id, 8 + len));
        if let Some(unit) = unit {
            message = message.to(unit);
        }
        if !kept {
            message = message.unordered();
        }
        let mut sending = pin!(message.into_future());
        poll_fn(|cx| {
            let sent = ready!(sending.as_mut().poll(cx));
            Poll::Ready(sent.map(|unit| self.sent(id, &unit, kept, sound)))
        })
        .await
    }

    fn sent(&self, id: u64, unit: &Unit, kept: bool, sound: bool) {
        let unit_id = self.unit_id(unit);
        let conns: Vec<_> = unit.stats().connections.iter().map(|conn| conn.conn).collect();
        let mut app = self.app();
        self.world.with(|state| {
            state.note(self.index, format_args!("sent {id} to {unit_id:?}, kept: {kept}"));
            let order = kept.then(|| {
                // Any of them may have carried it.
                let is_open = |conn| conns.contains(&conn);
                let ledger = &mut state.ledger;
                let place = app.runs.place(unit_id, conns.clone(), is_open, ledger);
                (self.index, place.0, place.1)
            });
            state.ledger.message_sent(id, order, sound);
        });
    }

    pub(super) fn send_some(self: &Arc<Node>, unit: Option<Unit>) {
        let node = self.clone();
        let (kept, count) = self.world.with(|s| (s.rng.percent(70), s.rng.between(1, 8)));
        self.spawn(async move {
            for _ in 0..count {
                let role = node.random_role();
                let max = node.world.profile().message;
                let (len, patience) = node.world.with(|state| {
                    let cancelled = state.rng.percent(10);
                    (state.rng.size(max), cancelled.then(|| state.rng.millis(0, 50)))
                });
                let sending = node.send(role, unit.as_ref(), kept, len, false);
                // One that is dropped was not sent.
                let sent = match patience {
                    Some(patience) => timeout(patience, sending).await.unwrap_or(Ok(())),
                    None => sending.await,
                };
                if let Err(error) = sent {
                    node.expect_loss(&error);
                }
            }
        });
    }

    /// Only for want of a unit may a message be refused.
    pub(super) fn expect_loss(&self, error: &Error) {
        let kind = error.kind();
        let lost =
            matches!(kind, ErrorKind::ConnectionLost | ErrorKind::NoUnit | ErrorKind::Closed);
        self.world.with(|_| assert!(lost, "a message was refused: {error:?}"));
    }

    /// Gives the message and the number of units.
    pub(super) async fn broadcast(&self, role: &str, len: usize) -> (u64, usize) {
        let id = self.world.with(|state| {
            let id = state.ledger.number();
            state.ledger.broadcast_begun(id);
            id
        });
        let Ok(to) = self.peer.destination(role) else { return (id, 0) };
        match to.broadcast("e", payload(id, 8 + len)).await {
            Ok(count) => (id, count),
            Err(error) => {
                self.expect_loss(&error);
                (id, 0)
            }
        }
    }

    // Requests.

    /// Enters a request that is about to be sent.
    pub(super) fn asks(&self, id: u64, unit: Option<&Unit>, timeout: Duration) {
        let unit = unit.map_or(ANY, |unit| self.unit_id(unit));
        let now = self.world.now();
        self.world.with(|state| {
            state.note(self.index, format_args!("asks {unit:?} {id} for {timeout:?}"));
            state.ledger.request_sent(id, self.index, unit, now, timeout);
        });
    }

    pub(super) fn answered(&self, id: u64, outcome: &Result<Data>) {
        let now = self.world.now();
        self.world.with(|state| {
            let kind = outcome.as_ref().err().map(Error::kind);
            state.note(self.index, format_args!("{id} has its outcome: {kind:?}"));
            match kind {
                Some(ErrorKind::Overloaded | ErrorKind::NoUnit | ErrorKind::Closed) => {
                    state.ledger.refused(id);
                }
                _ => state.ledger.answered(id, self.index, outcome, now),
            }
        });
    }

    pub(super) fn abandoned(&self, id: u64) {
        self.world.with(|state| {
            state.note(self.index, format_args!("abandons {id}"));
            state.ledger.abandoned(id);
        });
    }

    /// Asks with patience.
    pub(super) async fn ask(&self, role: &str, event: &str, unit: Option<&Unit>, len: usize) {
        let (id, limit) = (self.world.number(), Duration::from_secs(30));
        self.asks(id, unit, limit);
        let outcome = match self.peer.destination(role) {
            Ok(to) => Ask { to: &to, event, id, len, unit, limit, unordered: false }.send().await,
            Err(error) => Err(error),
        };
        self.answered(id, &outcome);
    }

    pub(super) fn ask_some(self: &Arc<Node>, unit: Option<Unit>) {
        let node = self.clone();
        let (id, role) = (self.world.number(), self.random_role());
        let max = self.world.profile().message;
        let (event, limit, len, dice, patience) = self.world.with(|state| {
            let rng = &mut state.rng;
            let (event, limit) = (rng.pick(&["e", "e", "d"]), rng.millis(500, 10_000));
            (event, limit, 8 + rng.size(max), rng.below(100), rng.millis(0, 1000))
        });
        let Ok(to) = self.peer.destination(role) else { return };
        self.spawn(async move {
            let (to, unit, unordered) = (&to, unit.as_ref(), dice < 60);
            let ask = Ask { to, event, id, len, unit, limit, unordered };
            node.asks(id, unit, limit);
            if dice < 20 {
                return node.call(&ask, patience).await;
            }
            let outcome = match dice < 30 {
                true => timeout(patience, ask.send()).await,
                false => Ok(ask.send().await),
            };
            match outcome {
                Ok(outcome) => node.answered(id, &outcome),
                Err(_) => node.abandoned(id),
            }
        });
    }

    /// As C asks: with a function that is called back.
    async fn call(self: &Arc<Node>, ask: &Ask<'_>, patience: Duration) {
        let id = ask.id;
        let called = ask.request().call((self.clone(), id), |(node, id), outcome| {
            node.answered(id, &outcome.map(Answer::into_data));
        });
        match called {
            Ok(call) if self.percent(50) => {
                sleep(patience).await;
                if call.cancel() {
                    self.abandoned(id);
                }
            }
            Ok(_) => {}
            Err((_, Some(error))) => self.answered(id, &Err(error)),
            // There is no room.
            Err((_, None)) => self.world.with(|state| state.ledger.refused(id)),
        }
    }

    pub(super) async fn survey(&self, role: &str, limit: Duration, dropped: bool) {
        let id = self.world.number();
        let Ok(to) = self.peer.destination(role) else { return };
        let mut survey = to.survey_within("e", payload(id, 8), limit);
        let asked = survey.asked();
        self.world.with(|state| state.ledger.survey_begun(id, asked));
        let mut units = Vec::new();
        while let Some((unit, outcome)) = survey.next().await {
            let outcome = outcome.map(Answer::into_data);
            self.world.with(|state| {
                assert!(!units.contains(&unit), "two answers of one unit");
                state.ledger.survey_outcome(id, &outcome);
            });
            units.push(unit);
            if dropped {
                return;
            }
        }
        self.world.with(|state| state.ledger.survey_ended(id));
    }
}

/// A request.
struct Ask<'a> {
    to: &'a Destination,
    event: &'a str,
    id: u64,
    len: usize,
    unit: Option<&'a Unit>,
    limit: Duration,
    unordered: bool,
}

impl<'a> Ask<'a> {
    fn request(&self) -> SendRequest<'a> {
        let mut request =
            self.to.request(self.event, payload(self.id, self.len)).timeout(self.limit);
        if let Some(unit) = self.unit {
            request = request.to(unit);
        }
        if self.unordered { request.unordered() } else { request }
    }

    async fn send(&self) -> Result<Data> {
        self.request().await.map(Answer::into_data)
    }
}
