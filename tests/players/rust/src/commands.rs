//! The commands of the runner.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use roletalk::{ConnectOptions, Data, ListenOptions, Peer, TlsClient, TlsServer, Unit};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    Failure,
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
}

#[derive(Deserialize)]
struct Start {
    name: String,
    friendly: bool,
    keys: Vec<(String, String)>,
    #[serde(rename = "highWaterMark")]
    high_water_mark: Option<usize>,
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
    #[serde(default = "yes")]
    active: bool,
    #[serde(default)]
    url: String,
    ca: Option<String>,
    tls: Option<BTreeMap<String, String>>,
    #[serde(default)]
    count: usize,
    #[serde(default)]
    size: usize,
    plan: Option<Plan>,
    #[serde(default)]
    tag: String,
    #[serde(default)]
    target: u64,
    #[serde(default)]
    answers: Vec<Answer>,
}

impl Player {
    pub(crate) fn start(command: &Value) -> Result<Player, Failure> {
        let start = Start::deserialize(command)?;
        let mut builder = Peer::builder().name(&start.name).friendly(start.friendly);
        for (id, key) in start.keys {
            builder = builder.preshared_key(id, key);
        }
        if let Some(bytes) = start.high_water_mark {
            builder = builder.limits(|limits| limits.stream_window = bytes);
        }
        Ok(Player {
            peer: builder.build()?,
            name: start.name,
            held: Arc::default(),
            streams: Arc::default(),
            cancels: Arc::default(),
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
            "connect" => return self.connect(&command).await,
            "destination" => drop(self.peer.destination(&command.role)?),
            "units" => return self.units(&command),
            "request" => return self.unless_cancelled(&command, self.request(&command)).await,
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
            false => self.peer.disabled_role(&command.role)?,
        };
        roles::serve(&role, &self.name, &self.held, &self.streams);
        Ok(())
    }

    fn handler(&self, command: &Command) -> Result<(), Failure> {
        let role = self.peer.role(&command.role)?;
        roles::handle(&role, &command.event, command.answers.clone());
        Ok(())
    }

    async fn listen(&self, command: &Command) -> Result<Value, Failure> {
        let mut options = ListenOptions::new();
        if let Some(pem) = &command.tls {
            options =
                options.tls(TlsServer::from_pem(pem["cert"].as_bytes(), pem["key"].as_bytes())?);
        }
        let listener = self.peer.listen_with((Ipv4Addr::LOCALHOST, 0), options).await?;
        Ok(listener.local_addr().port().into())
    }

    async fn connect(&self, command: &Command) -> Result<Value, Failure> {
        let mut options = ConnectOptions::new();
        if let Some(ca) = &command.ca {
            options = options.tls(TlsClient::new().ca(ca.as_bytes()));
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
        }
        to_wire(request.await?.data())
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
        let (stream, _) = destination.writable(&command.event, text).await?;
        self.streams.write(stream, plan).await
    }

    async fn download(&self, command: &Command) -> Result<Value, Failure> {
        let (destination, plan, text) = self.stream(command)?;
        let (stream, _) = destination.readable(&command.event, text).await?;
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

fn yes() -> bool {
    true
}
