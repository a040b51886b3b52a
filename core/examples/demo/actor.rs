//! The director's view of one player: its process, and what it has seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use crate::Result;

/// How long anything may take that a player is waited for. Only there to fail.
const LIMIT: Duration = Duration::from_secs(20);

/// How a player is started.
pub(crate) struct Part {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<String>,
    pub(crate) key: String,
}

/// What a player has told of so far.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// The units that are connected.
    pub(crate) met: BTreeSet<String>,
    /// Who serves a role.
    pub(crate) serving: BTreeMap<String, BTreeSet<String>>,
    /// Who was found again.
    pub(crate) reconnected: Vec<String>,
    /// Notes: who sent them, and their text.
    pub(crate) notes: Vec<(String, String)>,
    /// Files that came: from whom, name and bytes.
    pub(crate) stored: Vec<(String, String, u64)>,
}

impl Seen {
    /// Who serves a role, in alphabetical order.
    pub(crate) fn serves(&self, role: &str) -> Vec<&str> {
        self.serving.get(role).into_iter().flatten().map(String::as_str).collect()
    }

    fn event(&mut self, words: &[&str]) -> Result<()> {
        match *words {
            ["met", name] => {
                self.met.insert(name.to_owned());
            }
            ["parted", name] => {
                self.met.remove(name);
            }
            ["gained", role, name] => {
                self.serving.entry(role.to_owned()).or_default().insert(name.to_owned());
            }
            ["lost", role, name] => {
                self.serving.entry(role.to_owned()).or_default().remove(name);
            }
            ["reconnected", name] => self.reconnected.push(name.to_owned()),
            ["note", from, text] => self.notes.push((from.to_owned(), text.to_owned())),
            ["stored", from, file, bytes] => {
                self.stored.push((from.to_owned(), file.to_owned(), bytes.parse()?));
            }
            _ => return Err(format!("unknown event: {}", words.join(" ")).into()),
        }
        Ok(())
    }
}

/// A player at work. Its process is killed when this is dropped.
pub(crate) struct Actor {
    name: &'static str,
    child: Child,
    commands: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    seen: Seen,
    directory: PathBuf,
}

impl Actor {
    /// Starts a player whose files are in a directory of its own below `directory`.
    pub(crate) fn start(part: &Part, directory: &Path) -> Result<Actor> {
        let directory = directory.join(part.name);
        std::fs::create_dir_all(&directory)?;
        let mut child = Command::new(&part.program)
            .args(&part.arguments)
            .args(["--player", part.name])
            .arg(&directory)
            .env("ROLETALK_DEMO_KEY", &part.key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (Some(commands), Some(lines)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("a player has no pipes".into());
        };
        let lines = BufReader::new(lines).lines();
        let seen = Seen::default();
        Ok(Actor { name: part.name, child, commands, lines, seen, directory })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Gives a command and waits for its answer.
    pub(crate) async fn tell(&mut self, command: &str) -> Result<String> {
        let answer = self.try_tell(command).await?;
        answer.map_err(|error| format!("{}: {command}: {error}", self.name).into())
    }

    /// Gives a command that may fail: then the inner result is the kind and text of the error.
    pub(crate) async fn try_tell(&mut self, command: &str) -> Result<Result<String, String>> {
        self.commands.write_all(format!("{command}\n").as_bytes()).await?;
        let answer = async {
            loop {
                let line = self.line().await?;
                if let Some(answer) = line.strip_prefix("ok") {
                    return Ok(Ok(answer.trim_start().to_owned()));
                } else if let Some(error) = line.strip_prefix("error ") {
                    return Ok(Err(error.to_owned()));
                }
                self.heard(&line)?;
            }
        };
        let answer = timeout(LIMIT, answer).await;
        answer.unwrap_or_else(|_| Err(format!("{}: no answer to {command}", self.name).into()))
    }

    /// Waits until what the player has seen is as it should be. True when that has come.
    pub(crate) async fn sees(&mut self, what: impl Fn(&Seen) -> bool) -> Result<bool> {
        let seeing = async {
            while !what(&self.seen) {
                let line = self.line().await?;
                self.heard(&line)?;
            }
            Ok(true)
        };
        if let Ok(result) = timeout(LIMIT, seeing).await {
            return result;
        }
        println!("   {:<9}sees only {:?}", self.name, self.seen);
        Ok(false)
    }

    pub(crate) fn seen(&self) -> &Seen {
        &self.seen
    }

    async fn line(&mut self) -> Result<String> {
        let line = self.lines.next_line().await?;
        line.ok_or_else(|| format!("{} has gone", self.name).into())
    }

    fn heard(&mut self, line: &str) -> Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words.split_first() {
            Some((&"event", event)) => self.seen.event(event),
            _ => Err(format!("{} says {line:?}", self.name).into()),
        }
    }

    /// SIGKILL, without a word to anybody.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// Lets the player close, and waits for its exit. True when that was in order.
    pub(crate) async fn close(mut self) -> Result<bool> {
        self.tell("close").await?;
        let exit = timeout(LIMIT, self.child.wait()).await;
        Ok(exit.map_err(|_| format!("{} does not exit", self.name))??.success())
    }
}
