//! What every role of a player does.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex},
    time::Duration,
};

use roletalk::{CancelReason, Data, DataType, Error, Peer, Role};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    Failure, observe,
    streams::{Plan, Streams, lock},
    value::{from_wire, to_wire},
};

/// Requests that are answered when the runner says so.
#[derive(Default)]
pub(crate) struct Held(Mutex<Vec<oneshot::Sender<()>>>);

impl Held {
    /// The last first, so that an answer that finds its request by position is seen.
    pub(crate) fn release(&self) {
        let mut held = lock(&self.0);
        while let Some(answer) = held.pop() {
            // Its requester may be gone.
            let _ = answer.send(());
        }
    }

    fn hold(&self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut held = lock(&self.0);
        held.push(sender);
        observe("held", json!({ "count": held.len() }));
        receiver
    }
}

/// What a `relay` asks, and whom.
#[derive(Deserialize)]
struct Relay {
    role: String,
    event: String,
    data: String,
}

/// How a `failure` fails.
#[derive(Deserialize)]
struct Told {
    text: String,
    code: String,
    data: Value,
    /// Milliseconds.
    retry: u64,
}

pub(crate) fn serve(
    peer: &Peer,
    role: &Role,
    peer_name: &str,
    held: &Arc<Held>,
    streams: &Arc<Streams>,
) {
    observe_messages(role, "note");
    let name = role.name().to_owned();
    role.on_request("echo", move |context| {
        let seen = seen(&name, &context);
        async move {
            observe("request", seen?);
            Ok(context.into_data())
        }
    });
    let name = peer_name.to_owned();
    role.on_request("name", move |_| std::future::ready(Ok(name.clone())));
    let name = peer_name.to_owned();
    role.on_request("count", move |context| {
        let counted = counted(&context.data(), &name);
        async move { counted }
    });
    role.on_request("length", |context| async move {
        Ok(context.into_data().as_binary().ok_or("not binary")?.len())
    });
    role.on_request("fail", |context| async move {
        Err::<(), _>(
            context.into_data().as_str().map_or("no such luck".into(), Cow::into_owned).into(),
        )
    });
    role.on_message("throw", |context| async move { throw(&context) });
    role.on_request("throw", |context| async move { throw(&context) });
    role.on_request("never", |_| async {
        observe("ignored", json!({}));
        std::future::pending::<Result<(), Failure>>().await
    });
    role.on_request("wait", |context| async move {
        let remaining = context.remaining().map(|time| time.as_millis() as u64);
        let traceparent = context.traceparent();
        let token = context.cancellation();
        observe("waiting", json!({ "remaining": remaining, "traceparent": traceparent }));
        token.cancelled().await;
        let reason = match context.cancel_reason() {
            Some(CancelReason::Requester) => "requester",
            Some(CancelReason::Deadline) => "deadline",
            Some(CancelReason::UnitLost) => "unitLost",
            _ => "unknown",
        };
        observe("cancelled", json!({ "reason": reason }));
        Err::<(), Failure>("cancelled".into())
    });
    let relaying = peer.clone();
    role.on_request("relay", move |context| {
        let peer = relaying.clone();
        async move {
            let to: Relay = context.parse()?;
            let answer = peer.destination(&to.role)?.request(&to.event, to.data).await?;
            Ok(answer.into_data())
        }
    });
    role.on_request("headers", |context| async move {
        for (name, value) in context.headers() {
            context.set_header(name, value)?;
        }
        Ok(())
    });
    role.on_request("failure", |context| async move {
        let told: Told = context.parse()?;
        let error = Error::rejection(told.text).with_code(told.code).with_data(&told.data)?;
        let error = error.with_retry_after(Duration::from_millis(told.retry));
        Err::<(), Failure>(error.into())
    });
    let held = held.clone();
    role.on_request("hold", move |context| {
        let released = held.hold();
        async move {
            released.await?;
            Ok(context.into_data())
        }
    });
    let reading = streams.clone();
    role.on_readable("up", move |request| {
        let streams = reading.clone();
        async move {
            let plan = plan(&request.context().data())?;
            let stream = request.accept("go on")?;
            settle("received", &plan, streams.read(stream, &plan)).await;
            Ok(())
        }
    });
    let writing = streams.clone();
    role.on_writable("down", move |request| {
        let streams = writing.clone();
        async move {
            let plan = plan(&request.context().data())?;
            let stream = request.accept("go on")?;
            settle("sent", &plan, streams.write(stream, &plan)).await;
            Ok(())
        }
    });
    role.on_readable("refuse", |request| async move { refuse(&request.context().data()) });
    role.on_writable("refuse", |request| async move { refuse(&request.context().data()) });
}

/// What a handler that the runner has asked for answers with.
#[derive(Clone, Deserialize)]
pub(crate) struct Answer {
    result: Option<Value>,
    error: Option<String>,
}

fn throw(context: &roletalk::Context) -> Result<(), Failure> {
    panic!("thrown by the handler of {}", context.event());
}

/// Takes messages of an event, and answers requests with their own payload.
pub(crate) fn echo(role: &Role, event: &str) {
    role.on_message(event, |_| async { Ok(()) });
    role.on_request(event, |context| async move { Ok(context.into_data()) });
}

/// Handles an event for messages, and for requests with these answers, one after the other.
pub(crate) fn handle(role: &Role, event: &str, answers: Vec<Answer>) {
    observe_messages(role, event);
    let name = role.name().to_owned();
    let answers = Mutex::new(answers.into_iter());
    role.on_request(event, move |context| {
        let seen = seen(&name, &context);
        let answer = lock(&answers).next();
        async move {
            observe("request", seen?);
            match answer.ok_or("no answer is left")? {
                Answer { error: Some(reason), .. } => Err::<Data, Failure>(reason.into()),
                Answer { result, .. } => from_wire(&result.ok_or("neither result nor error")?),
            }
        }
    });
}

fn observe_messages(role: &Role, event: &str) {
    let name = role.name().to_owned();
    role.on_message(event, move |context| {
        let seen = seen(&name, &context);
        async move {
            observe("message", seen?);
            Ok(())
        }
    });
}

fn seen(role: &str, context: &roletalk::Context) -> Result<Value, Failure> {
    let from = context.unit().name();
    Ok(json!({ "role": role, "from": from, "data": to_wire(&context.data())? }))
}

/// Observes the number with which the payload begins; the answer.
fn counted(data: &Data, peer_name: &str) -> Result<String, Failure> {
    let text = data.as_str().ok_or("not a text")?;
    let number: usize = text.split(' ').next().unwrap_or_default().parse()?;
    observe("counted", json!({ "number": number }));
    Ok(format!("{number} {peer_name}"))
}

fn plan(data: &Data) -> Result<Plan, Failure> {
    if data.kind() != DataType::String {
        return Ok(Plan::default());
    }
    Ok(serde_json::from_str(&data.as_str().ok_or("the plan is not a text")?)?)
}

fn refuse(data: &Data) -> Result<(), Failure> {
    Err(plan(data)?.reason.into())
}

/// Reports how a stream of a handler has ended.
async fn settle(event: &str, plan: &Plan, ended: impl Future<Output = Result<Value, Failure>>) {
    observe(
        event,
        match ended.await {
            Ok(result) => json!({ "tag": plan.tag, "result": result }),
            Err(error) => json!({ "tag": plan.tag, "error": error.to_string() }),
        },
    );
}
