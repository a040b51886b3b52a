//! What the application does with what comes.

use std::{sync::Arc, time::Duration};

use roletalk::{Context, Data, Deferred, Error, ErrorKind, Kind, Role};
use tokio::time::sleep;

use super::{ALWAYS, Node, Result, number, payload};

impl Node {
    /// Sets all handlers of a role.
    pub(super) fn serve(self: &Arc<Node>, role: &Role, mischief: bool) {
        let with = |node: &Arc<Node>| {
            let node = Arc::downgrade(node);
            move || node.upgrade().ok_or_else(|| Error::new(ErrorKind::Closed, "over"))
        };
        let node = with(self);
        role.on_message("e", move |context| {
            let node = node().map(|node| node.message_came(&context, mischief));
            async move { Ok(node?.await?) }
        });
        let node = with(self);
        role.on_request("e", move |context| {
            let node = node().map(|node| node.request_came(&context, mischief));
            async move { Ok(node?.await?) }
        });
        let node = with(self);
        role.on_deferred(Kind::Request, "d", move |context, deferred| {
            if let Ok(node) = node() {
                node.deferred_came(&context, deferred, mischief);
            }
        });
        // Answers, and talks back to the one who asks, all in the first step.
        let node = with(self);
        role.on_request("chain", move |context| {
            let node = node();
            async move {
                let (node, id) = (node?, number(&context));
                node.world.with(|state| state.ledger.request_handled(id, node.index));
                let unit = context.unit();
                node.send(ALWAYS, Some(&unit), true, 100, true).await?;
                node.ask(ALWAYS, "e", Some(&unit), 8).await;
                Ok(payload(id, 8))
            }
        });
        let node = with(self);
        role.on_readable("s", move |request| {
            let node = node();
            async move {
                let (node, id) = (node?, number(request.context()));
                node.offer_came(id, mischief).await?;
                let stream = request.accept(payload(id, 8))?;
                node.world.with(|state| state.ledger.reader_opened(id));
                node.go_on(mischief, node.clone().read_all(id, stream, mischief)).await;
                Ok(())
            }
        });
        let node = with(self);
        role.on_writable("s", move |request| {
            let node = node();
            async move {
                let (node, id) = (node?, number(request.context()));
                node.offer_came(id, mischief).await?;
                let stream = request.accept(payload(id, 8))?;
                let dialect = node.writer_opens(id, &stream.unit());
                node.go_on(mischief, node.clone().write_all(id, stream, dialect, mischief)).await;
                Ok(())
            }
        });
        let node = with(self);
        role.on_deferred(Kind::Readable, "t", move |context, deferred| {
            let Ok(node) = node() else { return };
            let id = number(&context);
            node.world.with(|state| state.ledger.request_handled(id, node.index));
            if let Ok(stream) = context.accept_readable(payload(id, 8)) {
                node.world.with(|state| state.ledger.reader_opened(id));
                let reading = node.clone().read_all(id, stream, mischief);
                node.spawn(async move {
                    reading.await;
                    deferred.respond(Ok(Data::null()));
                });
            }
        });
        let node = with(self);
        role.on_deferred(Kind::Writable, "t", move |context, deferred| {
            let Ok(node) = node() else { return };
            let id = number(&context);
            node.world.with(|state| state.ledger.request_handled(id, node.index));
            if mischief && node.percent(20) {
                return deferred.respond(Err(Error::new(ErrorKind::HandlerFailed, "not now")));
            }
            if let Ok(stream) = context.accept_writable(payload(id, 8)) {
                let dialect = node.writer_opens(id, &stream.unit());
                node.spawn(node.clone().write_all(id, stream, dialect, mischief));
            }
        });
        if role.name() == "r1" {
            let node = with(self);
            role.layer(move |context, next| {
                // Messages are to keep their order.
                let may_wait = context.kind() == Kind::Request;
                let slow = may_wait && node().is_ok_and(|node| node.percent(10));
                async move {
                    if slow {
                        sleep(Duration::from_millis(20)).await;
                    }
                    next.run(context).await
                }
            });
        }
    }

    // Handlers. What they decide is decided before they first wait, which is in order.

    fn message_came(
        self: Arc<Node>,
        context: &Context,
        mischief: bool,
    ) -> impl Future<Output = Result<()>> + use<> {
        let id = number(context);
        let dice = self.world.with(|state| {
            state.note(self.index, format_args!("message {id}"));
            state.ledger.message_received(id, self.index, None);
            if mischief { state.rng.below(100) } else { 99 }
        });
        let unit = context.unit();
        async move {
            match dice {
                0..20 => sleep(self.world.millis(0, 500)).await,
                20..25 => return Err(Error::new(ErrorKind::HandlerFailed, "not that")),
                25..27 => self.block(),
                // Within the task of the connection.
                27..35 => drop(self.send("r0", Some(&unit), false, 100, false).await),
                _ => {}
            }
            Ok(())
        }
    }

    fn request_came(
        self: Arc<Node>,
        context: &Context,
        mischief: bool,
    ) -> impl Future<Output = Result<Data>> + use<> {
        let id = number(context);
        let unit = self.unit_id(&context.unit());
        let (dice, len) = self.world.with(|state| {
            state.note(self.index, format_args!("request {id}"));
            state.ledger.request_handled(id, self.index);
            let dice = if mischief { state.rng.below(100) } else { 99 };
            (dice, 8 + state.rng.size(20_000))
        });
        async move {
            match dice {
                0..22 => sleep(self.world.millis(0, 3000)).await,
                22..30 if !self.world.profile().few_handlers => {
                    *self.app().stuck.entry(unit).or_default() += 1;
                    let mut over = self.world.over.subscribe();
                    drop(self);
                    let _ = over.wait_for(|over| *over).await;
                    return Err(Error::new(ErrorKind::HandlerFailed, "over"));
                }
                22..42 => return Err(Error::new(ErrorKind::HandlerFailed, "no")),
                // Without a word in the output of the test.
                42..44 => std::panic::resume_unwind(Box::new("a handler that panics")),
                44..46 => self.block(),
                _ => {}
            }
            Ok(payload(id, len))
        }
    }

    /// Keeps the thread so long that the next handlers are started by a task of their own.
    fn block(&self) {
        if self.world.profile().blocking {
            std::thread::sleep(Duration::from_millis(6));
        }
    }

    fn deferred_came(self: Arc<Node>, context: &Context, deferred: Deferred, mischief: bool) {
        let id = number(context);
        let (dice, len) = self.world.with(|state| {
            state.note(self.index, format_args!("request {id}, deferred"));
            state.ledger.request_handled(id, self.index);
            let dice = if mischief { state.rng.below(100) } else { 99 };
            (dice, 8 + state.rng.size(20_000))
        });
        let outcome = Ok(payload(id, len));
        match dice {
            0..30 => {
                let wait = self.world.millis(0, 1000);
                self.spawn(async move {
                    sleep(wait).await;
                    Deferred::respond_all([(deferred, outcome)]);
                });
            }
            30..40 => drop(deferred),
            40..50 => deferred.respond(Err(Error::new(ErrorKind::HandlerFailed, "no"))),
            // In another task, at once.
            50..70 => self.spawn(async move { deferred.respond(outcome) }),
            _ => deferred.respond(outcome),
        }
    }

    /// What a handler of streams does before it accepts.
    async fn offer_came(&self, id: u64, mischief: bool) -> Result<()> {
        let dice = self.world.with(|state| {
            state.note(self.index, format_args!("stream request {id}"));
            state.ledger.request_handled(id, self.index);
            if mischief { state.rng.below(100) } else { 99 }
        });
        match dice {
            0..10 => sleep(self.world.millis(0, 3000)).await,
            10..20 => return Err(Error::new(ErrorKind::HandlerFailed, "not now")),
            _ => {}
        }
        Ok(())
    }

    /// Works on a stream within its handler, or behind it.
    async fn go_on(
        self: &Arc<Node>,
        mischief: bool,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        match mischief && self.percent(50) {
            true => self.spawn(work),
            false => work.await,
        }
    }
}
