//! Serving until a signal: each case in a process of its own.
#![cfg(unix)]

mod common;

use std::{
    io::{BufRead, BufReader, Lines},
    os::unix::process::ExitStatusExt,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use common::{LIMIT, peer, until, within};
use roletalk::{Deferred, Kind, Peer};

/// What a process does that the tests start.
const CASES: &[(&str, fn())] = &[
    ("finishes", || run(|| async { serve_one("finishes").await })),
    ("gives up", || run(|| async { serve_one("gives up").await })),
    ("blocks", || run(|| async { serve_one("blocks").await })),
    ("is closed", || run(|| async { serve_one("is closed").await })),
    ("two peers", || run(two_peers)),
    ("one after another", || run(one_after_another)),
    ("goes on", || run(goes_on)),
];

fn run<F: Future<Output = ()>>(case: fn() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(case());
}

/// The role `r`: "block" blocks the runtime, "wait" is answered when `release` is asked, "close" closes.
fn offer(peer: &Peer) {
    let role = peer.role("r").unwrap();
    let waiting = std::sync::Arc::new(std::sync::Mutex::new(Vec::<Deferred>::new()));
    let held = waiting.clone();
    role.on_deferred(Kind::Request, "wait", move |_, deferred| {
        held.lock().unwrap().push(deferred);
        println!("waiting");
    });
    role.on_request("block", |_| async {
        println!("waiting");
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
        #[allow(unreachable_code)]
        Ok(())
    });
    let own = peer.clone();
    role.on_request("close", move |_| {
        let own = own.clone();
        async move {
            println!("waiting");
            tokio::spawn(async move { own.close().await });
            Ok(())
        }
    });
    // A request that comes before the roles are withdrawn, and is answered behind that.
    let events = peer.clone();
    tokio::spawn(async move {
        until("the draining", || events.roles().iter().all(|role| !role.is_active())).await;
        println!("draining");
        if std::env::var("ROLETALK_TEST_CASE").unwrap() == "finishes" {
            Deferred::respond_all(waiting.lock().unwrap().drain(..).map(|d| (d, Ok(7.into()))));
        }
    });
}

async fn serve_one(case: &str) {
    let peer = peer("server");
    offer(&peer);
    let listener = peer.listen("127.0.0.1:0").await.unwrap();
    let serving = async {
        match case {
            "gives up" => peer.serve_with(Duration::from_millis(50)).await,
            "blocks" => peer.serve_with(LIMIT * 10).await,
            _ => peer.serve().await,
        }
    };
    let mut serving = std::pin::pin!(serving);
    // A signal before that is not for it.
    assert!(futures_util::poll!(&mut serving).is_pending());
    println!("{}", listener.url());
    println!("finished {}", serving.await.unwrap());
}

async fn two_peers() {
    let (one, two) = (peer("one"), peer("two"));
    let both = async { tokio::join!(one.serve(), two.serve()) };
    let both = async {
        let mut both = std::pin::pin!(both);
        assert!(futures_util::poll!(&mut both).is_pending());
        println!("ws://");
        both.await
    };
    let (first, second) = both.await;
    println!("finished {}", first.unwrap() && second.unwrap());
}

/// The second serves as if the first had not been there.
async fn one_after_another() {
    let first = peer("first");
    let (served, ()) = tokio::join!(first.serve(), first.close());
    assert!(served.unwrap());
    serve_one("").await;
}

/// When it has served, a signal ends the process.
async fn goes_on() {
    let peer = peer("server");
    let (served, ()) = tokio::join!(peer.serve(), peer.close());
    println!("finished {}", served.unwrap());
    println!("ws://");
    std::future::pending().await
}

/// A process that serves.
struct Server {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Server {
    fn start(case: &str) -> Server {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_process_of_a_case", "--nocapture", "--test-threads=1"])
            .env("ROLETALK_TEST_CASE", case)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Server { child, lines }
    }

    /// The next line that begins so.
    fn line(&mut self, begin: &str) -> String {
        let line = self.lines.by_ref().map(Result::unwrap).find(|line| line.contains(begin));
        let line = line.unwrap_or_else(|| panic!("the process ended before it said {begin:?}"));
        line[line.find(begin).unwrap()..].to_owned()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_process_of_a_case() {
    let Ok(name) = std::env::var("ROLETALK_TEST_CASE") else { return };
    let (_, case) = CASES.iter().find(|(known, _)| *known == name).unwrap();
    case();
}

/// A client that asks for `event`, and the answer if there is to be one.
async fn ask(server: &mut Server, event: &'static str) -> (Peer, tokio::task::JoinHandle<bool>) {
    let url = server.line("ws://");
    let client = peer("client");
    client.connect(&url).await.unwrap();
    let to = client.destination("r").unwrap();
    to.ready().await.unwrap();
    let asking = tokio::spawn(async move { to.request(event, ()).await.is_ok() });
    // The server's lines are read by blocking; the request has to leave.
    tokio::task::yield_now().await;
    (client, asking)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_lets_what_runs_finish() {
    for signal in ["INT", "TERM"] {
        let mut server = Server::start("finishes");
        let (client, asking) = ask(&mut server, "wait").await;
        server.line("waiting");
        server.signal(signal);
        assert!(within("the answer", asking).await.unwrap(), "{signal}");
        assert_eq!(server.line("finished"), "finished true");
        assert!(server.wait().success());
        client.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_cuts_off_what_does_not() {
    let mut server = Server::start("gives up");
    let (client, asking) = ask(&mut server, "wait").await;
    server.line("waiting");
    server.signal("TERM");
    assert!(!within("the answer", asking).await.unwrap());
    assert_eq!(server.line("finished"), "finished false");
    client.close().await;
}

/// Also when the runtime's only thread does something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_signal_ends_the_process() {
    for (first, second, number) in [("INT", "INT", 2), ("TERM", "INT", 2), ("INT", "TERM", 15)] {
        for event in ["wait", "block"] {
            let mut server = Server::start("blocks");
            let (client, asking) = ask(&mut server, event).await;
            server.line("waiting");
            server.signal(first);
            if event == "wait" {
                server.line("draining");
            } else {
                // It has arrived when it is not pending any more.
                let status = format!("/proc/{}/status", server.child.id());
                until("the signal", || {
                    let status = std::fs::read_to_string(&status).unwrap();
                    let pending = status.lines().find(|line| line.starts_with("ShdPnd:")).unwrap();
                    pending.trim_end().ends_with("0000000000000000")
                })
                .await;
            }
            server.signal(second);
            assert_eq!(server.wait().signal(), Some(number), "{first}, {second}, {event}");
            assert!(!within("the answer", asking).await.unwrap());
            client.close().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_when_the_peer_is_closed() {
    let mut server = Server::start("is closed");
    let (client, asking) = ask(&mut server, "close").await;
    assert_eq!(server.line("finished").len(), "finished true".len());
    assert!(server.wait().success());
    let _ = within("the answer", asking).await;
    client.close().await;
}

#[test]
fn one_signal_is_for_all_peers() {
    let mut server = Server::start("two peers");
    server.line("ws://");
    server.signal("TERM");
    assert_eq!(server.line("finished"), "finished true");
    assert!(server.wait().success());
}

#[test]
fn peers_may_serve_one_after_another() {
    let mut server = Server::start("one after another");
    server.line("ws://");
    server.signal("TERM");
    assert_eq!(server.line("finished"), "finished true");
    assert!(server.wait().success());
}

#[test]
fn a_signal_behind_that_has_its_default_action() {
    let mut server = Server::start("goes on");
    assert_eq!(server.line("finished"), "finished true");
    server.line("ws://");
    server.signal("TERM");
    assert_eq!(server.wait().signal(), Some(15));
}
