//! The commands of the runner.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use roletalk::{
    Balance, ChannelBinding, ConnectOptions, Data, HeaderValue, ListenOptions, Peer, Policy,
    TlsClient, TlsServer, Unit,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    Failure, events,
    flow::Flow,
    roles::{self, Answer, Held},
    streams::{Plan, Streams, lock},
    value::{from_wire, to_wire},
};

#[derive(Clone)]
pub(crate) struct Player {
    peer: Peer,
    name: String,
    held: Arc<Held>,
    streams: Arc<Streams>,
    /// How to give up a command that waits, by its id.
    cancels: Arc<Mutex<HashMap<u64, oneshot::Sender<()>>>>,
    /// The certificate of the listener, if it has one.
    tls: Arc<Mutex<Option<TlsServer>>>,
}

#[derive(Deserialize)]
struct Start {
    name: String,
    friendly: bool,
    keys: Vec<(String, String)>,
    #[serde(rename = "highWaterMark")]
    high_water_mark: Option<usize>,
    /// Milliseconds.
    #[serde(rename = "handshakeTimeout")]
    handshake_timeout: Option<u64>,
    /// Milliseconds.
    #[serde(rename = "connectionAge")]
    connection_age: Option<u64>,
    balance: Option<String>,
    policy: Option<Value>,
    #[serde(default)]
    origins: Vec<String>,
    #[serde(rename = "channelBinding")]
    channel_binding: Option<String>,
}

/// Everything that a command may have beside its name.
#[derive(Deserialize)]
struct Command {
    id: u64,
    command: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    event: String,
    #[serde(default)]
    data: Value,
    /// Milliseconds.
    timeout: Option<u64>,
    /// To the only unit, whether it serves the role or not.
    #[serde(default)]
    direct: bool,
    /// The name of the unit that is meant.
    to: Option<String>,
    #[serde(default = "yes")]
    active: bool,
    #[serde(default)]
    url: String,
    ca: Option<String>,
    #[serde(default)]
    once: bool,
    tls: Option<BTreeMap<String, String>>,
    #[serde(default = "localhost")]
    host: String,
    #[serde(default)]
    port: u16,
    /// The first number of a flow.
    #[serde(default)]
    from: usize,
    #[serde(rename = "inFlight")]
    in_flight: Option<usize>,
    #[serde(default)]
    count: usize,
    #[serde(default)]
    size: usize,
    plan: Option<Plan>,
    #[serde(default)]
    tag: String,
    #[serde(default)]
    target: u64,
    answers: Option<Vec<Answer>>,
    /// Names and payloads, text or binary.
    #[serde(default)]
    headers: Vec<(String, Value)>,
    /// Only a unit that takes headers.
    #[serde(default)]
    required: bool,
    traceparent: Option<String>,
}

impl Player {
    pub(crate) fn start(command: &Value) -> Result<Player, Failure> {
        let start = Start::deserialize(command)?;
        // In turn, unless told otherwise: scenarios count on it.
        let balance = Balance::named(start.balance.as_deref().unwrap_or("round_robin"))?;
        let mut builder =
            Peer::builder().name(&start.name).friendly(start.friendly).balance(balance);
        for (id, key) in start.keys {
            builder = builder.preshared_key(id, key);
        }
        if let Some(policy) = start.policy {
            builder = builder.policy(Policy::parse(&policy.to_string())?);
        }
        for origin in start.origins {
            builder = builder.allow_origin(&origin);
        }
        if let Some(mode) = start.channel_binding {
            builder = builder.channel_binding(ChannelBinding::parse(&mode)?);
        }
        if let Some(bytes) = start.high_water_mark {
            builder = builder.limits(|limits| limits.stream_window = bytes);
        }
        if let Some(millis) = start.connection_age {
            builder =
                builder.limits(|limits| limits.connection_age = Duration::from_millis(millis));
        }
        if let Some(millis) = start.handshake_timeout {
            builder =
                builder.limits(|limits| limits.handshake_timeout = Duration::from_millis(millis));
        }
        Ok(Player {
            peer: builder.build()?,
            name: start.name,
            held: Arc::default(),
            streams: Arc::default(),
            cancels: Arc::default(),
            tls: Arc::default(),
        })
    }

    pub(crate) async fn run(&self, command: &Value) -> Result<Value, Failure> {
        let command = Command::deserialize(command)?;
        match command.command.as_str() {
            "role" => self.role(&command)?,
            "handler" => self.handler(&command)?,
            "enable" => self.peer.role(&command.role)?.enable(),
            "disable" => self.peer.role(&command.role)?.disable(),
            "listen" => return self.listen(&command).await,
            "renew" => self.renew(&command)?,
            "connect" => return self.connect(&command).await,
            "destination" => drop(self.peer.destination(&command.role)?),
            "events" => events::watch(&self.peer),
            "totals" => return Ok(events::totals(&self.peer)),
            "units" => return self.units(&command),
            "stats" => return Ok(self.peer.units().iter().map(stats).collect()),
            "request" => return self.unless_cancelled(&command, self.request(&command)).await,
            "ask" => return self.unless_cancelled(&command, self.ask(&command)).await,
            "flow" => return self.flow(&command).await,
            "broadcast" => {
                let destination = self.peer.destination(&command.role)?;
                let data = from_wire(&command.data)?;
                return Ok(destination.broadcast(&command.event, data).await?.into());
            }
            "survey" => return self.survey(&command).await,
            "hold" => return self.hold(&command).await,
            "release" => self.held.release(),
            "large" => return self.large(&command).await,
            "send" => self.send(&command).await?,
            "upload" => return self.unless_cancelled(&command, self.upload(&command)).await,
            "download" => return self.unless_cancelled(&command, self.download(&command)).await,
            "resume" => self.streams.resume(&command.tag)?,
            "progress" => return Ok(self.streams.progress(&command.tag)?.into()),
            "cancel" => self.cancel(&command)?,
            "disconnect" => {
                join_all(self.peer.units().iter().map(Unit::close)).await;
            }
            "drain" => drop(self.peer.drain(Duration::from_secs(60)).await),
            "close" => self.peer.close().await,
            other => return Err(format!("unknown command {other}").into()),
        }
        Ok(Value::Null)
    }

    async fn unless_cancelled(
        &self,
        command: &Command,
        done: impl Future<Output = Result<Value, Failure>>,
    ) -> Result<Value, Failure> {
        let (cancel, cancelled) = oneshot::channel();
        lock(&self.cancels).insert(command.id, cancel);
        tokio::select! {
            result = done => result,
            Ok(()) = cancelled => Err("cancelled".into()),
        }
    }

    fn cancel(&self, command: &Command) -> Result<(), Failure> {
        let cancel = lock(&self.cancels).remove(&command.target);
        // It may be over by now.
        let _ = cancel.ok_or("no such command")?.send(());
        Ok(())
    }

    fn role(&self, command: &Command) -> Result<(), Failure> {
        let role = match command.active {
            true => self.peer.role(&command.role)?,
            false => self.peer.inactive_role(&command.role)?,
        };
        roles::serve(&self.peer, &role, &self.name, &self.held, &self.streams);
        Ok(())
    }

    fn handler(&self, command: &Command) -> Result<(), Failure> {
        let role = self.peer.role(&command.role)?;
        match &command.answers {
            Some(answers) => roles::handle(&role, &command.event, answers.clone()),
            None => roles::echo(&role, &command.event),
        }
        Ok(())
    }

    async fn listen(&self, command: &Command) -> Result<Value, Failure> {
        let mut options = ListenOptions::new();
        if let Some(pem) = &command.tls {
            options =
                options.tls(TlsServer::from_pem(pem["cert"].as_bytes(), pem["key"].as_bytes())?);
        }
        let listener = self.peer.listen_with((&*command.host, command.port), options).await?;
        *self.tls.lock().unwrap() = listener.tls().cloned();
        Ok(listener.local_addr().port().into())
    }

    fn renew(&self, command: &Command) -> Result<(), Failure> {
        let tls = self.tls.lock().unwrap();
        let (Some(tls), Some(pem)) = (&*tls, &command.tls) else { return Err("no TLS".into()) };
        tls.replace(pem["cert"].as_bytes(), pem["key"].as_bytes(), None)?;
        Ok(())
    }

    async fn connect(&self, command: &Command) -> Result<Value, Failure> {
        let mut options = ConnectOptions::new();
        if let Some(ca) = &command.ca {
            options = options.tls(TlsClient::new().ca(ca.as_bytes()));
        }
        if command.once {
            options = options.once();
        }
        let connected = self.peer.connect_with(&command.url, options).await?;
        Ok(connected.unit().name().into())
    }

    fn units(&self, command: &Command) -> Result<Value, Failure> {
        let units = match command.role.as_str() {
            "" => self.peer.units(),
            role => self.peer.destination(role)?.units(),
        };
        let mut names: Vec<_> = units.iter().map(Unit::name).collect();
        names.sort();
        Ok(names.into())
    }

    async fn request(&self, command: &Command) -> Result<Value, Failure> {
        let destination = self.peer.destination(&command.role)?;
        let mut request = destination.request(&command.event, from_wire(&command.data)?);
        if let Some(timeout) = command.timeout {
            request = request.timeout(Duration::from_millis(timeout));
        }
        if command.direct {
            request = request.to(self.peer.units().first().ok_or("no unit")?);
        } else if let Some(unit) = self.named(command)? {
            request = request.to(&unit);
        }
        to_wire(request.await?.data())
    }

    async fn ask(&self, command: &Command) -> Result<Value, Failure> {
        let destination = self.peer.destination(&command.role)?;
        let mut request = destination.request(&command.event, from_wire(&command.data)?);
        if let Some(timeout) = command.timeout {
            request = request.timeout(Duration::from_millis(timeout));
        }
        for (name, value) in &command.headers {
            let value = from_wire(value)?;
            request = match value.as_str() {
                Some(text) => request.header(name, &*text),
                None => request.header(name, value.bytes().as_ref()),
            };
        }
        if command.required {
            request = request.headers_required();
        }
        if let Some(traceparent) = &command.traceparent {
            request = request.trace(traceparent, "", "");
        }
        let answer = request.await?;
        let headers: Vec<Value> = answer
            .headers()
            .map(|(name, value)| Ok(json!([name, to_wire(&header(value))?])))
            .collect::<Result<_, Failure>>()?;
        Ok(json!({ "data": to_wire(answer.data())?, "headers": headers }))
    }

    /// The unit that is meant; none for the next in turn.
    fn named(&self, command: &Command) -> Result<Option<Unit>, Failure> {
        let Some(name) = &command.to else { return Ok(None) };
        let unit = self.peer.units().into_iter().find(|unit| unit.name() == *name);
        Ok(Some(unit.ok_or_else(|| format!("there is no unit {name}"))?))
    }

    async fn flow(&self, command: &Command) -> Result<Value, Failure> {
        let flow = Flow {
            destination: &self.peer.destination(&command.role)?,
            event: match command.event.as_str() {
                "" => "count",
                event => event,
            },
            unit: self.named(command)?,
            size: command.size,
            timeout: command.timeout.map(Duration::from_millis),
        };
        let numbers = command.from..command.from + command.count;
        Ok(flow.run(numbers, command.in_flight.unwrap_or(command.count)).await)
    }

    async fn survey(&self, command: &Command) -> Result<Value, Failure> {
        let destination = self.peer.destination(&command.role)?;
        let answers = destination.survey(&command.event, from_wire(&command.data)?).all().await;
        let answer = |(unit, answer): (Unit, roletalk::Result<roletalk::Answer>)| {
            Ok(match answer {
                Ok(answer) => json!({ "from": unit.name(), "data": to_wire(answer.data())? }),
                Err(error) => json!({ "from": unit.name(), "error": error.to_string() }),
            })
        };
        answers.into_iter().map(answer).collect()
    }

    async fn hold(&self, command: &Command) -> Result<Value, Failure> {
        let destination = self.peer.destination(&command.role)?;
        let requests =
            (0..command.count).map(|number| destination.request("hold", number).into_future());
        let mut right = 0;
        for (number, answer) in join_all(requests).await.into_iter().enumerate() {
            right += usize::from(answer?.parse::<f64>()? == number as f64);
        }
        Ok(right.into())
    }

    async fn large(&self, command: &Command) -> Result<Value, Failure> {
        let data = Data::binary(vec![1; command.size]);
        let answer = self.peer.destination(&command.role)?.request("length", data).await?;
        Ok(json!(answer.parse::<f64>()?))
    }

    async fn send(&self, command: &Command) -> Result<(), Failure> {
        let destination = self.peer.destination(&command.role)?;
        let mut send = destination.send(&command.event, from_wire(&command.data)?);
        if command.direct {
            send = send.to(self.peer.units().first().ok_or("no unit")?);
        }
        send.await?;
        Ok(())
    }

    async fn upload(&self, command: &Command) -> Result<Value, Failure> {
        let (destination, plan, text) = self.stream(command)?;
        let mut open = destination.writable(&command.event, text);
        if let Some(unit) = self.named(command)? {
            open = open.to(&unit);
        }
        let (stream, _) = open.await?;
        self.streams.write(stream, plan).await
    }

    async fn download(&self, command: &Command) -> Result<Value, Failure> {
        let (destination, plan, text) = self.stream(command)?;
        let mut open = destination.readable(&command.event, text);
        if let Some(unit) = self.named(command)? {
            open = open.to(&unit);
        }
        let (stream, _) = open.await?;
        self.streams.read(stream, plan).await
    }

    fn stream<'c>(
        &self,
        command: &'c Command,
    ) -> Result<(roletalk::Destination, &'c Plan, String), Failure> {
        let plan = command.plan.as_ref().ok_or("no plan")?;
        Ok((self.peer.destination(&command.role)?, plan, serde_json::to_string(plan)?))
    }
}

fn header(value: HeaderValue<'_>) -> Data {
    match value {
        HeaderValue::Text(text) => text.into(),
        HeaderValue::Bytes(bytes) => Data::binary(bytes.to_vec()),
    }
}

fn stats(unit: &Unit) -> Value {
    let stats = unit.stats();
    json!({
        "unit": unit.name(),
        "roles": *unit.roles(),
        "connections": stats.connections.len(),
        "messagesSent": stats.messages_sent,
        "messagesReceived": stats.messages_received,
        "requestsSent": stats.requests_sent,
        "requestsReceived": stats.requests_received,
        "streamBytesSent": stats.stream_bytes_sent,
        "streamBytesReceived": stats.stream_bytes_received,
        "waiting": stats.waiting,
    })
}

fn localhost() -> String {
    "127.0.0.1".into()
}

fn yes() -> bool {
    true
}
