//! One player: a peer in a process of its own, told what to do line by line.
//!
//! # The lines
//!
//! A player is started as `PROGRAM --player NAME DIRECTORY`, with a preshared key in the environment
//! variable `ROLETALK_DEMO_KEY` (its id is `demo`). It reads commands from its standard input and
//! writes answers and events to its standard output, one a line, in UTF-8; words are separated by
//! one space, and only the last one of an `error` may contain spaces itself. Commands are answered
//! in order, each by one line `ok WORD...` or `error KIND TEXT`, where KIND is the name of the error's
//! kind, such as `NO_UNIT`. When its standard input ends, the player exits at once.
//!
//! | command | does | answer |
//! |---|---|---|
//! | `listen PORT` | listens on 127.0.0.1; 0 takes a free port | `ok URL` |
//! | `connect URL` | dials, from now on until the end | `ok NAME`, who answered |
//! | `offer ROLE` | adds the role with the handlers below | `ok` |
//! | `disable ROLE`, `enable ROLE` | offers it no longer, offers it again | `ok` |
//! | `use ROLE` | looks for those who serve the role | `ok` |
//! | `square ROLE COUNT` | sends COUNT requests `square` at once, with the numbers from 1 on, and verifies the answers | `ok NAME=COUNT...`, who answered how many |
//! | `broadcast ROLE TEXT` | sends the message `note` to all | `ok COUNT` |
//! | `survey ROLE` | asks all for `name` | `ok NAME...`, sorted |
//! | `upload ROLE NAME FILE` | streams a file of the directory to that player | `ok BYTES` |
//! | `download ROLE NAME FILE` | streams a file from that player into the directory | `ok BYTES` |
//! | `close` | closes the peer and exits with 0 | `ok` |
//!
//! A role's handlers: the request `square` answers a number with its square, `name` with the
//! player's name; the message `note` becomes an event; the streams `upload` (the requester writes)
//! and `download` (the requester reads), both with a file's name as data, store and send a file of
//! the directory. Names of files have no slashes.
//!
//! | event | when |
//! |---|---|
//! | `event met NAME`, `event parted NAME` | a unit opened, closed |
//! | `event gained ROLE NAME`, `event lost ROLE NAME` | a unit serves, no longer serves a role in use |
//! | `event reconnected NAME` | an address that was lost is connected again |
//! | `event note NAME TEXT` | a note came |
//! | `event stored NAME FILE BYTES` | an uploaded file is complete |

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use roletalk::{Destination, ErrorKind, Peer, PeerEvent, Unit};
use tokio::{
    fs::File,
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin},
    task::JoinSet,
};

use crate::{Error, Result};

const ANSWER: Duration = Duration::from_secs(10);

pub(crate) async fn run(name: &str, directory: &Path) -> Result<()> {
    let key = std::env::var("ROLETALK_DEMO_KEY")?;
    let peer = Peer::builder().name(name).preshared_key("demo", key).build()?;
    tokio::spawn(tell_events(peer.clone()));
    let player = Player { peer, name: name.to_owned(), directory: directory.to_owned() };

    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<&str> = line.split(' ').collect();
        match player.command(&words).await {
            Ok(answer) => println!("{}", format!("ok {answer}").trim_end()),
            Err(error) => {
                let kind = match error.downcast_ref::<roletalk::Error>() {
                    Some(error) => error.kind().name(),
                    None => "OTHER",
                };
                println!("error {kind} {error}");
            }
        }
        if words == ["close"] {
            break;
        }
    }
    Ok(())
}

async fn tell_events(peer: Peer) {
    let mut events = peer.events();
    // This task must not keep the peer open.
    drop(peer);
    while let Some(event) = events.next().await {
        match event {
            PeerEvent::UnitOpened(unit) => println!("event met {}", unit.name()),
            PeerEvent::UnitClosed(unit) => println!("event parted {}", unit.name()),
            PeerEvent::DestinationGained { role, unit } => {
                println!("event gained {role} {}", unit.name());
            }
            PeerEvent::DestinationLost { role, unit } => {
                println!("event lost {role} {}", unit.name());
            }
            PeerEvent::ReconnectSucceeded { unit, .. } => {
                println!("event reconnected {}", unit.name());
            }
            _ => {}
        }
    }
}

struct Player {
    peer: Peer,
    name: String,
    directory: PathBuf,
}

impl Player {
    async fn command(&self, words: &[&str]) -> Result<String> {
        match *words {
            ["listen", port] => {
                let listener = self.peer.listen(("127.0.0.1", port.parse()?)).await?;
                Ok(listener.url().to_owned())
            }
            ["connect", url] => Ok(self.peer.connect(url).await?.unit().name()),
            ["offer", role] => self.offer(role).map(|()| String::new()),
            ["disable", role] => {
                self.peer.role(role)?.disable();
                Ok(String::new())
            }
            ["enable", role] => {
                self.peer.role(role)?.enable();
                Ok(String::new())
            }
            ["use", role] => {
                self.peer.destination(role).map(|_| String::new()).map_err(Error::from)
            }
            ["square", role, count] => self.square(role, count.parse()?).await,
            ["broadcast", role, text] => {
                let count = self.peer.destination(role)?.broadcast("note", text).await?;
                Ok(count.to_string())
            }
            ["survey", role] => self.survey(role).await,
            ["upload", role, name, file] => self.upload(role, name, file).await,
            ["download", role, name, file] => self.download(role, name, file).await,
            ["close"] => {
                self.peer.close().await;
                Ok(String::new())
            }
            _ => Err(format!("unknown command: {}", words.join(" ")).into()),
        }
    }

    fn offer(&self, role: &str) -> Result<()> {
        let role = self.peer.disabled_role(role)?;
        role.on_request("square", |ctx| async move {
            let number: i64 = ctx.parse()?;
            number
                .checked_mul(number)
                .ok_or_else(|| roletalk::Error::new(ErrorKind::HandlerFailed, "too large"))
        });
        let name = self.name.clone();
        role.on_request("name", move |_| std::future::ready(Ok::<_, Error>(name.clone())));
        role.on_message("note", |ctx| async move {
            println!("event note {} {}", ctx.unit().name(), ctx.parse::<String>()?);
            Ok::<_, roletalk::Error>(())
        });
        let directory = self.directory.clone();
        role.on_readable("upload", move |request| {
            let directory = directory.clone();
            async move {
                let name: String = request.parse()?;
                let mut file = File::create(path(&directory, &name)?).await?;
                let mut stream = request.accept(())?;
                let bytes = tokio::io::copy(&mut stream, &mut file).await?;
                file.flush().await?;
                println!("event stored {} {name} {bytes}", stream.unit().name());
                Ok::<_, Error>(())
            }
        });
        let directory = self.directory.clone();
        role.on_writable("download", move |request| {
            let directory = directory.clone();
            async move {
                let name: String = request.parse()?;
                // Opened before the stream is accepted: what is not there is refused.
                let mut file = File::open(path(&directory, &name)?).await?;
                let mut stream = request.accept(())?;
                tokio::io::copy(&mut file, &mut stream).await?;
                stream.shutdown().await?;
                Ok::<_, Error>(())
            }
        });
        role.enable();
        Ok(())
    }

    async fn square(&self, role: &str, count: i64) -> Result<String> {
        let mut asking = JoinSet::new();
        for number in 1..=count {
            let destination = self.peer.destination(role)?;
            asking.spawn(async move {
                let answer = destination.request("square", number).timeout(ANSWER).await?;
                match answer.parse::<i64>()? {
                    square if square == number * number => Ok(answer.unit().name()),
                    other => Err(Error::from(format!("{number} squared is not {other}"))),
                }
            });
        }
        let mut tally = BTreeMap::new();
        while let Some(asked) = asking.join_next().await {
            *tally.entry(asked??).or_insert(0) += 1;
        }
        let tally = tally.iter().map(|(name, count)| format!("{name}={count}"));
        Ok(tally.collect::<Vec<_>>().join(" "))
    }

    async fn survey(&self, role: &str) -> Result<String> {
        let survey = self.peer.destination(role)?.survey_within("name", (), ANSWER);
        let mut names = BTreeSet::new();
        for (_, answer) in survey.all().await {
            names.insert(answer?.parse::<String>()?);
        }
        Ok(names.into_iter().collect::<Vec<_>>().join(" "))
    }

    async fn upload(&self, role: &str, name: &str, file: &str) -> Result<String> {
        let destination = self.peer.destination(role)?;
        let unit = named(&destination, name)?;
        let mut from = File::open(path(&self.directory, file)?).await?;
        let (mut stream, _) = destination.writable("upload", file).to(&unit).await?;
        let bytes = tokio::io::copy(&mut from, &mut stream).await?;
        stream.shutdown().await?;
        Ok(bytes.to_string())
    }

    async fn download(&self, role: &str, name: &str, file: &str) -> Result<String> {
        let destination = self.peer.destination(role)?;
        let unit = named(&destination, name)?;
        let mut to = File::create(path(&self.directory, file)?).await?;
        let (mut stream, _) = destination.readable("download", file).to(&unit).await?;
        let bytes = tokio::io::copy(&mut stream, &mut to).await?;
        to.flush().await?;
        Ok(bytes.to_string())
    }
}

fn named(destination: &Destination, name: &str) -> Result<Unit> {
    let units = destination.units();
    let unit = units.into_iter().find(|unit| unit.name() == name);
    unit.ok_or_else(|| format!("{name} does not serve {}", destination.name()).into())
}

/// A file of the directory. Its name may come from another peer.
fn path(directory: &Path, name: &str) -> Result<PathBuf> {
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', ':', ' ']) {
        return Err("that is not the name of a file here".into());
    }
    Ok(directory.join(name))
}
