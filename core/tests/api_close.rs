//! What waits settles when the peer closes, and what the peer has started is gone then.

mod common;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::{LIMIT, Pair, never, pattern, until, within};
use roletalk::{Error, Peer, PeerEvent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    runtime::Runtime,
};

type Waiting = Pin<Box<dyn Future<Output = String> + Send>>;

/// How a peer ends while others wait.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Close,
    /// Something runs that never ends.
    Drain,
    /// Nobody waits for the closing.
    LastHandle,
    Runtime,
}

/// What somebody waits for, and what it settles with: one of these words.
type Case = (&'static str, fn(Pair, Arc<Silent>, Begun) -> Waiting, &'static [&'static str]);

/// Whether somebody waits already.
#[derive(Clone, Default)]
struct Begun(Arc<AtomicBool>);

impl Begun {
    async fn waits<F: IntoFuture>(&self, future: F) -> F::Output {
        let mut future = std::pin::pin!(future.into_future());
        std::future::poll_fn(|cx| {
            let poll = future.as_mut().poll(cx);
            if poll.is_pending() {
                self.0.store(true, Ordering::SeqCst);
            }
            poll
        })
        .await
    }
}

/// A listener that says nothing.
struct Silent {
    _listener: TcpListener,
    address: String,
}

impl Silent {
    async fn new() -> Arc<Silent> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("ws://{}", listener.local_addr().unwrap());
        Arc::new(Silent { _listener: listener, address })
    }
}

fn kind<T>(outcome: Result<T, Error>) -> String {
    match outcome {
        Ok(_) => "ok".to_owned(),
        Err(error) => format!("{:?}", error.kind()),
    }
}

fn io_kind<T>(outcome: std::io::Result<T>) -> String {
    match outcome {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
            inner.map_or("io".to_owned(), |inner| format!("{:?}", inner.kind()))
        }
    }
}

/// All that the client can wait for.
const CASES: &[Case] = &[
    (
        "connect",
        |pair, silent, begun| {
            let client = pair.client.clone();
            Box::pin(async move { kind(begun.waits(client.connect(&silent.address)).await) })
        },
        &["Closed"],
    ),
    (
        "ready",
        |pair, _, begun| {
            let to = pair.client.destination("nobody").unwrap();
            Box::pin(async move { kind(begun.waits(to.ready()).await) })
        },
        &["Closed"],
    ),
    (
        "ready with more",
        |pair, _, begun| Box::pin(async move { kind(begun.waits(pair.to.ready_with(2)).await) }),
        &["Closed"],
    ),
    (
        "request",
        |pair, _, begun| {
            Box::pin(async move { kind(begun.waits(pair.to.request("never", ())).await) })
        },
        &["ConnectionLost"],
    ),
    (
        "request with a limit",
        |pair, _, begun| {
            Box::pin(async move {
                kind(begun.waits(pair.to.request("never", ()).timeout(LIMIT * 10)).await)
            })
        },
        &["ConnectionLost"],
    ),
    (
        "survey",
        |pair, _, begun| {
            Box::pin(async move {
                let mut answers = begun.waits(pair.to.survey("never", ()).all()).await;
                kind(answers.pop().unwrap().1)
            })
        },
        &["ConnectionLost"],
    ),
    (
        "opening a stream to read",
        |pair, _, begun| {
            Box::pin(async move { kind(begun.waits(pair.to.readable("undecided", ())).await) })
        },
        &["ConnectionLost"],
    ),
    (
        "opening a stream to write",
        |pair, _, begun| {
            Box::pin(async move { kind(begun.waits(pair.to.writable("undecided", ())).await) })
        },
        &["ConnectionLost"],
    ),
    (
        "reading",
        |pair, _, begun| {
            Box::pin(async move {
                let (mut stream, _) = pair.to.readable("silent", ()).await.unwrap();
                io_kind(begun.waits(stream.read_u8()).await)
            })
        },
        &["ConnectionLost"],
    ),
    (
        "writing",
        |pair, _, begun| {
            Box::pin(async move {
                let (mut stream, _) = pair.to.writable("unread", ()).await.unwrap();
                io_kind(begun.waits(stream.write_all(&pattern(16 << 20))).await)
            })
        },
        &["ConnectionLost"],
    ),
    (
        "finishing",
        |pair, _, begun| {
            Box::pin(async move {
                let (mut stream, _) = pair.to.writable("unread", ()).await.unwrap();
                stream.write_all(b"unread").await.unwrap();
                io_kind(begun.waits(stream.shutdown()).await)
            })
        },
        &["ConnectionLost"],
    ),
    (
        "events",
        |pair, _, begun| {
            let mut events = pair.client.events();
            Box::pin(async move {
                let mut last = "nothing";
                while let Some(event) = begun.waits(events.next()).await {
                    if let PeerEvent::UnitClosed(_) = event {
                        last = "the unit was closed";
                    }
                }
                last.to_owned()
            })
        },
        &["the unit was closed"],
    ),
    (
        "the end of a unit",
        |pair, _, begun| {
            let unit = pair.unit();
            Box::pin(async move {
                begun.waits(unit.closed()).await;
                "ok".to_owned()
            })
        },
        &["ok"],
    ),
    (
        "an accepted stream",
        |pair, _, begun| {
            let client = pair.client.clone();
            Box::pin(async move {
                let (_ours, theirs) = tokio::io::duplex(1024);
                kind(begun.waits(client.accept(theirs)).await)
            })
        },
        &["ok"],
    ),
    (
        "an upgraded stream",
        |pair, _, begun| {
            let client = pair.client.clone();
            Box::pin(async move {
                let (_ours, theirs) = tokio::io::duplex(1024);
                kind(begun.waits(client.accept_upgraded(theirs)).await)
            })
        },
        &["ok"],
    ),
    (
        "draining",
        |pair, _, begun| {
            let client = pair.client.clone();
            // What runs keeps it from being done.
            let to = pair.to.clone();
            Box::pin(async move {
                let (finished, asked) = tokio::join!(
                    async {
                        until("a request", || client.units()[0].stats().running > 0).await;
                        begun.waits(client.drain(LIMIT * 10)).await
                    },
                    to.request("ask back", ()).into_future()
                );
                assert!(asked.is_err());
                finished.to_string()
            })
        },
        &["false"],
    ),
];

async fn set_up() -> Pair {
    let pair = Pair::new(|server| {
        never(server);
        let role = server.role("r").unwrap();
        for_ever(role);
        let back = server.destination("back").unwrap();
        role_asks_back(server, back);
    })
    .await;
    pair.client.role("back").unwrap().on_request("never", |_| async {
        std::future::pending::<()>().await;
        Ok(())
    });
    let back = pair.server.destination("back").unwrap();
    within("the way back", back.ready()).await.unwrap();
    pair
}

fn for_ever(role: roletalk::Role) {
    role.on_readable("undecided", |_| async {
        std::future::pending::<()>().await;
        Ok(())
    });
    role.on_writable("undecided", |_| async {
        std::future::pending::<()>().await;
        Ok(())
    });
    role.on_writable("silent", |request| async move {
        let _stream = request.accept(())?;
        std::future::pending::<()>().await;
        Ok(())
    });
    role.on_readable("unread", |request| async move {
        let _stream = request.accept(())?;
        std::future::pending::<()>().await;
        Ok(())
    });
}

fn role_asks_back(server: &Peer, back: roletalk::Destination) {
    server.role("r").unwrap().on_request("ask back", move |_| {
        let back = back.clone();
        async move { Ok(back.request("never", ()).await?.into_data()) }
    });
}

fn walk(end: End, cases: &[Case]) {
    for &(what, wait, outcomes) in cases {
        let what = format!("{what}, {end:?}");
        let own = Runtime::new().unwrap();
        let other = Runtime::new().unwrap();
        let begun = Begun::default();
        let (pair, _silent, waiting) = own.block_on(async {
            let (pair, silent) = (set_up().await, Silent::new().await);
            let shared = Pair {
                server: pair.server.clone(),
                client: pair.client.clone(),
                listener: pair.listener.clone(),
                to: pair.to.clone(),
            };
            // On another runtime than the peers', which may go.
            let waiting = wait(shared, silent.clone(), begun.clone());
            (pair, silent, other.spawn(waiting))
        });
        own.block_on(until(&what, || begun.0.load(Ordering::SeqCst)));
        let Pair { server, client, listener, to } = pair;
        match end {
            End::Close => own.block_on(within(&what, client.close())),
            End::Drain => {
                own.block_on(within(&what, client.drain(Duration::from_millis(20))));
            }
            End::LastHandle => {
                drop((client, to));
            }
            End::Runtime => drop(own),
        }
        let outcome = other.block_on(within(&what, waiting)).unwrap();
        // A runtime drops its tasks in any order, on which the outcome depends, but there is one.
        let any = matches!(end, End::Runtime);
        assert!(any || outcomes.contains(&outcome.as_str()), "{what}: {outcome}");
        drop((server, listener));
    }
}

#[test]
fn what_waits_settles_at_close() {
    walk(End::Close, CASES);
}

#[test]
fn what_waits_settles_at_drain() {
    walk(End::Drain, CASES);
}

#[test]
fn what_waits_settles_when_the_runtime_goes() {
    walk(End::Runtime, CASES);
}

/// Those that hold no handle of the peer themselves.
#[test]
fn what_waits_settles_with_the_last_handle() {
    let holders = ["connect", "an accepted", "an upgraded", "draining"];
    let cases: Vec<Case> = CASES
        .iter()
        .filter(|(what, ..)| !holders.iter().any(|holder| what.starts_with(holder)))
        .copied()
        .collect();
    assert!(cases.len() > 8);
    walk(End::LastHandle, &cases);
}

/// A connection that is served by a future which nobody polls any more.
#[tokio::test]
async fn closing_does_not_hang_on_who_has_stopped_polling() {
    let server = common::peer("server");
    let (ours, theirs) = tokio::io::duplex(1024);
    let mut serving = Box::pin(server.accept(theirs));
    assert!(futures_util::poll!(&mut serving).is_pending());
    within("closing", server.close()).await;
    within("the end", serving).await.unwrap();
    drop(ours);
    // And dropping it ends the connection.
    let server = common::peer("server");
    let (mut ours, theirs) = tokio::io::duplex(1024);
    let mut serving = Box::pin(server.accept(theirs));
    assert!(futures_util::poll!(&mut serving).is_pending());
    drop(serving);
    assert_eq!(within("the end", ours.read(&mut [0; 16])).await.unwrap(), 0);
    within("closing", server.close()).await;
}

/// One that finished before, and one that was cut off.
#[tokio::test]
async fn draining_tells_what_the_closing_has_cut_off() {
    for cut_off in [false, true] {
        let pair = Pair::new(never).await;
        let asking = pair.to.request("never", ()).into_future();
        let mut asking = Box::pin(asking);
        if cut_off {
            assert!(futures_util::poll!(&mut asking).is_pending());
            until("the request", || pair.server.units()[0].stats().running == 1).await;
        }
        pair.server.close().await;
        assert_eq!(pair.server.drain(LIMIT).await, !cut_off);
        pair.client.close().await;
    }
}

/// A handler that closes its peer is the last that the peer runs, and nothing waits for itself.
#[tokio::test]
async fn a_handler_may_close_its_peer() {
    let pair = Pair::new(|server| {
        let own = server.clone();
        server.role("r").unwrap().on_message("close", move |_| {
            let own = own.clone();
            async move {
                own.close().await;
                Ok(())
            }
        });
    })
    .await;
    let mut events = common::Watch::new(&pair.client);
    pair.to.send("close", ()).await.unwrap();
    events.next("the end", |event| matches!(event, PeerEvent::UnitClosed(_))).await;
    pair.close().await;
}

/// What runs, with what it holds.
#[cfg(target_os = "linux")]
mod left {
    use std::sync::Arc;

    use super::{Pair, never, until, within};

    fn entries(directory: &str) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    fn threads() -> usize {
        entries("/proc/self/task")
    }

    fn descriptors() -> usize {
        entries("/proc/self/fd")
    }

    /// In a process of its own: other tests have threads and sockets, too.
    #[test]
    fn nothing_is_left_of_a_hundred_pairs() {
        const SELF: &str = "left::nothing_is_left_of_a_hundred_pairs";
        if std::env::var_os("ROLETALK_TEST_ALONE").is_none() {
            let test = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", SELF, "--nocapture", "--test-threads=1"])
                .env("ROLETALK_TEST_ALONE", "1")
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&test.stdout).into_owned();
            assert!(test.status.success(), "{printed}{}", String::from_utf8_lossy(&test.stderr));
            assert!(printed.contains("1 passed"), "{printed}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            // Name lookups have a thread of tokio's, which stays for a while.
            pairs(1).await;
            let metrics = tokio::runtime::Handle::current().metrics();
            let counts = || (metrics.num_alive_tasks(), threads(), descriptors());
            let before = counts();
            pairs(100).await;
            assert_eq!(counts(), before, "tasks, threads, descriptors");
        });
    }

    async fn pairs(count: usize) {
        let held = Arc::new(());
        for n in 0..count {
            let captured = held.clone();
            let pair = Pair::new(|server| {
                never(server);
                server.role("r").unwrap().on_request("holds", move |_| {
                    let captured = captured.clone();
                    async move {
                        std::future::pending::<()>().await;
                        drop(captured);
                        Ok(())
                    }
                });
            })
            .await;
            // What nobody serves is dialed again and again.
            pair.client.dial("ws://127.0.0.1:1").unwrap();
            let asked = pair.to.clone();
            let asking = tokio::spawn(async move { asked.request("holds", n as i64).await });
            until("a handler", || pair.server.units()[0].stats().running == 1).await;
            let (server, client) = (pair.server.clone(), pair.client.clone());
            if n % 2 == 0 {
                within("closing", server.close()).await;
                within("closing", client.close()).await;
            } else {
                within("closing", async { tokio::join!(client.close(), server.close()) }).await;
            }
            assert!(within("the request", asking).await.unwrap().is_err());
            // Although handles of the peers are still there.
            assert_eq!(Arc::strong_count(&held), 1, "a handler of pair {n} is left");
            drop(pair);
        }
    }
}
