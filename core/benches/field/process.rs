//! The processes that are measured, and what the system knows about them.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command as Program, Stdio},
    time::Duration,
};

use crate::{
    child::{CLIENT, Command, SERVER},
    system::{Done, Outcome, System},
};

/// How the two processes of a system run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    /// Threads of each process's runtime; 1 is the current-thread flavour.
    pub(crate) threads: usize,
    /// The CPUs of client and server, when they are bound to one.
    pub(crate) cpus: Option<(usize, usize)>,
}

struct Process {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Process {
    fn start(cpu: Option<usize>, arguments: &[&str]) -> Outcome<Process> {
        let exe = std::env::current_exe()?;
        // As many open files as the system allows; the process id stays that of the last program.
        let mut program = Program::new("sh");
        program.args(["-c", r#"ulimit -n "$(ulimit -Hn)" 2>/dev/null; exec "$@""#, "sh"]);
        if let Some(cpu) = cpu {
            program.args(["taskset", "-c", &cpu.to_string()]);
        }
        program.arg(exe).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = program.spawn()?;
        let output = child.stdout.take().map(BufReader::new).ok_or("no output")?;
        Ok(Process { input: child.stdin.take(), output, child })
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        match self.output.read_line(&mut line)? {
            0 => Err("a measured process has ended".into()),
            _ => Ok(line),
        }
    }

    /// CPU time of all threads so far.
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let nanos = tasks.into_iter().flatten().flatten().filter_map(|task| {
            let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split(' ').next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(nanos.sum())
    }

    /// Bytes of memory that are resident.
    fn memory(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kib.ok_or("no VmRSS")? * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // They end with their input.
        self.input = None;
        for _ in 0..100 {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server and its client.
pub(crate) struct Pair {
    // First, so that it ends first.
    client: Process,
    server: Process,
}

/// What a command did, and the CPU time that it took on both sides.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) done: Done,
    pub(crate) client_cpu: Duration,
    pub(crate) server_cpu: Duration,
}

impl Sample {
    /// Per second.
    pub(crate) fn rate(&self) -> f64 {
        self.done.count as f64 / self.done.time.as_secs_f64()
    }
}

impl Pair {
    pub(crate) fn start(system: System, setting: Setting) -> Outcome<Pair> {
        let threads = setting.threads.to_string();
        let (client_cpu, server_cpu) = setting.cpus.unzip();
        let mut server = Process::start(server_cpu, &[SERVER, system.name(), &threads])?;
        let address = server.line()?;
        let arguments = [CLIENT, system.name(), &threads, address.trim()];
        let client = Process::start(client_cpu, &arguments)?;
        Ok(Pair { client, server })
    }

    pub(crate) fn run(&mut self, command: Command) -> Outcome<Sample> {
        let (client, server) = (self.client.cpu(), self.server.cpu());
        let input = self.client.input.as_mut().ok_or("no input")?;
        writeln!(input, "{}", command.to_line())?;
        let done = Done::from_line(&self.client.line()?).ok_or("not an answer")?;
        Ok(Sample {
            done,
            client_cpu: self.client.cpu().saturating_sub(client),
            server_cpu: self.server.cpu().saturating_sub(server),
        })
    }

    pub(crate) fn server_memory(&self) -> Outcome<u64> {
        self.server.memory()
    }
}
