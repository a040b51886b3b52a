//! The server and the client process. The client does what it is told, line by line, and answers
//! each line with one.

use std::{io::Write, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    runtime::{Builder, Runtime},
    task::JoinSet,
};

use crate::{
    bare_tcp, bare_ws, bare_ws_calls, ours,
    system::{Client, Done, Outcome, System},
};

pub(crate) const SERVER: &str = "--as-server";
pub(crate) const CLIENT: &str = "--as-client";

/// What a client can be told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    /// So many in flight on each of so many connections.
    Requests {
        size: usize,
        window: usize,
        connections: usize,
        time: Duration,
    },
    Messages {
        size: usize,
        time: Duration,
    },
    Stream {
        bytes: u64,
    },
    /// Opens so many connections, echoes once on each and keeps them.
    Idle {
        connections: usize,
    },
}

impl Command {
    pub(crate) fn to_line(self) -> String {
        match self {
            Command::Requests { size, window, connections, time } => {
                format!("requests {size} {window} {connections} {}", time.as_micros())
            }
            Command::Messages { size, time } => format!("messages {size} {}", time.as_micros()),
            Command::Stream { bytes } => format!("stream {bytes}"),
            Command::Idle { connections } => format!("idle {connections}"),
        }
    }

    fn from_line(line: &str) -> Option<Command> {
        let mut words = line.split(' ');
        let name = words.next()?;
        let numbers: Vec<u64> = words.map_while(|word| word.parse().ok()).collect();
        Some(match (name, numbers.as_slice()) {
            ("requests", [size, window, connections, micros]) => Command::Requests {
                size: *size as usize,
                window: *window as usize,
                connections: *connections as usize,
                time: Duration::from_micros(*micros),
            },
            ("messages", [size, micros]) => {
                Command::Messages { size: *size as usize, time: Duration::from_micros(*micros) }
            }
            ("stream", [bytes]) => Command::Stream { bytes: *bytes },
            ("idle", [connections]) => Command::Idle { connections: *connections as usize },
            _ => return None,
        })
    }
}

impl Done {
    fn to_line(self) -> String {
        let [time, p50, p99] = [self.time, self.p50, self.p99].map(|time| time.as_nanos());
        format!("{} {time} {p50} {p99}", self.count)
    }

    pub(crate) fn from_line(line: &str) -> Option<Done> {
        let numbers: Vec<u64> =
            line.trim().split(' ').map_while(|word| word.parse().ok()).collect();
        let [count, time, p50, p99] = numbers.as_slice() else { return None };
        let [time, p50, p99] = [time, p50, p99].map(|nanos| Duration::from_nanos(*nanos));
        Some(Done { count: *count, time, p50, p99 })
    }
}

/// `SYSTEM THREADS`: serves until its standard input ends.
pub(crate) fn server(arguments: &[String]) -> Outcome<()> {
    let (system, runtime) = prepare(arguments)?;
    runtime.block_on(async {
        match system {
            System::Tcp => drop(tokio::spawn(bare_tcp::serve(announce))),
            System::Ws | System::WsCalls => drop(tokio::spawn(bare_ws::serve(announce))),
            System::Ours | System::OursJoined => drop(tokio::spawn(ours::serve(announce))),
        }
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    });
    // Do not wait for the thread that reads the standard input.
    runtime.shutdown_background();
    Ok(())
}

/// `SYSTEM THREADS ADDRESS`: does what it is told.
pub(crate) fn client(arguments: &[String]) -> Outcome<()> {
    let (system, runtime) = prepare(arguments)?;
    let address = arguments.get(2).ok_or("an address is missing")?.parse()?;
    let done = runtime.block_on(async {
        // In a task, so that a runtime with several threads uses its own.
        let task = match system {
            System::Tcp => tokio::spawn(obey::<bare_tcp::Client>(address)),
            System::Ws => tokio::spawn(obey::<bare_ws::Client>(address)),
            System::Ours => tokio::spawn(obey::<ours::Client>(address)),
            System::OursJoined => tokio::spawn(obey::<ours::Joined>(address)),
            System::WsCalls => tokio::spawn(obey::<bare_ws_calls::Client>(address)),
        };
        task.await
    });
    runtime.shutdown_background();
    done?
}

fn prepare(arguments: &[String]) -> Outcome<(System, Runtime)> {
    let [system, threads, ..] = arguments else { return Err("system and threads".into()) };
    let system = System::from_name(system).ok_or("an unknown system")?;
    let runtime = match threads.parse()? {
        1 => Builder::new_current_thread().enable_all().build()?,
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build()?,
    };
    Ok((system, runtime))
}

/// Tells the directing process where the server listens.
fn announce(address: SocketAddr) {
    say(&address.to_string());
}

fn say(line: &str) {
    println!("{line}");
    let _ = std::io::stdout().flush();
}

async fn obey<C: Client + 'static>(address: SocketAddr) -> Outcome<()> {
    // Made anew for the connections that are only to be there.
    let mut clients: Vec<C> = Vec::new();
    let mut idle = Vec::new();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let command = Command::from_line(&line).ok_or("an unknown command")?;
        if let Command::Idle { connections } = command {
            for _ in 0..connections {
                let mut client = C::connect(address).await?;
                client.requests(32, 1, Duration::ZERO).await?;
                idle.push(client);
            }
            say(&Done { count: idle.len() as u64, ..Done::default() }.to_line());
            continue;
        }
        let needed = match command {
            Command::Requests { connections, .. } => connections,
            _ => 1,
        };
        while clients.len() < needed {
            clients.push(C::connect(address).await?);
        }
        let Some(client) = clients.first_mut() else { continue };
        let done = match command {
            Command::Requests { size, window, connections: 1, time } => {
                client.requests(size, window, time).await
            }
            Command::Requests { size, window, connections, time } => {
                let rest = clients.split_off(connections);
                let done = on_each(&mut clients, size, window, time).await;
                clients.extend(rest);
                done
            }
            Command::Messages { size, time } => client.messages(size, time).await,
            Command::Stream { bytes } => client.stream(bytes).await,
            Command::Idle { .. } => continue,
        };
        say(&done?.to_line());
    }
    Ok(())
}

/// Requests on each of the connections, at the same time.
async fn on_each<C: Client + 'static>(
    clients: &mut Vec<C>,
    size: usize,
    window: usize,
    time: Duration,
) -> Outcome<Done> {
    let mut tasks = JoinSet::new();
    for mut client in clients.drain(..) {
        tasks.spawn(async move {
            let done = client.requests(size, window, time).await;
            (client, done)
        });
    }
    let mut sum = Done::default();
    while let Some(ended) = tasks.join_next().await {
        let (client, done) = ended?;
        let done = done?;
        sum = Done { count: sum.count + done.count, time: sum.time.max(done.time), ..sum };
        clients.push(client);
    }
    Ok(sum)
}
