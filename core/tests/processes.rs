//! Real processes that are killed and stopped. The children are this test binary, run again.

#![cfg(unix)]

mod common;

use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};

use common::{AGAIN, LIMIT, Watch, echo, peer, until, within};
use roletalk::{Destination, Error, ErrorKind, PeerEvent, Unit};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
};

/// Tells the binary that it is a child, and where to listen.
const LISTEN: &str = "ROLETALK_TEST_LISTEN";

/// What a child does: serves role `r` until its standard input ends. In the parent, nothing.
#[test]
fn child() {
    let Ok(address) = std::env::var(LISTEN) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let peer = peer("child");
        echo(&peer);
        let role = peer.role("r").unwrap();
        role.on_request("never", |_| async {
            std::future::pending::<()>().await;
            Ok::<_, Error>(())
        });
        role.on_writable("endless", |request| async move {
            let mut stream = request.accept(())?;
            loop {
                stream.write_all(&[7; 10_000]).await?;
            }
            #[expect(unreachable_code, reason = "names the error's type")]
            Ok::<_, std::io::Error>(())
        });
        role.on_readable("endless", |request| async move {
            let mut stream = request.accept(())?;
            tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
            Ok::<_, std::io::Error>(())
        });
        let listener = peer.listen(address).await.unwrap();
        println!("\nlistening {}", listener.local_addr());
        // The parent may end in any way: its end of the pipe ends with it.
        let _ = tokio::io::stdin().read(&mut [0; 1]).await;
    });
}

struct Process {
    child: Child,
    address: SocketAddr,
    _stdin: ChildStdin,
}

impl Process {
    async fn start(listen: &str) -> Process {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture"])
            .env(LISTEN, listen)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = within("the child's address", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some(address) = line.strip_prefix("listening ") {
                    return address.parse().unwrap();
                }
            }
            panic!("the child ended");
        })
        .await;
        // It goes on writing its test report.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Process { address, _stdin: child.stdin.take().unwrap(), child }
    }

    fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    async fn signal(&self, name: &str) {
        let id = self.child.id().expect("a running child").to_string();
        let status = Command::new("kill").args(["-s", name, &id]).status().await.unwrap();
        assert!(status.success());
    }
}

async fn is_served(to: &Destination, unit: &Unit) {
    for n in 0..50 {
        let answer = within("an answer", to.request("echo", n).to(unit).into_future()).await;
        assert_eq!(answer.unwrap().parse::<i32>().unwrap(), n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_killed() {
    let (mut victim, other) = tokio::join!(Process::start(AGAIN), Process::start("127.0.0.1:0"));
    let client = peer("client");
    let mut watch = Watch::new(&client);
    let lost = client.connect(victim.url()).await.unwrap().unit().clone();
    let kept = client.connect(other.url()).await.unwrap().unit().clone();
    let to = client.destination("r").unwrap();
    until("both", || to.units().len() == 2).await;

    let requests: Vec<_> = (0..20)
        .map(|_| {
            let (to, lost) = (to.clone(), lost.clone());
            tokio::spawn(async move { to.request("never", ()).to(&lost).await.map(drop) })
        })
        .collect();
    let (mut down, _) = to.readable("endless", ()).to(&lost).await.unwrap();
    let (mut up, _) = to.writable("endless", ()).to(&lost).await.unwrap();
    let (mut others, _) = to.readable("endless", ()).to(&kept).await.unwrap();
    let mut buffer = vec![0; 100_000];
    within("bytes", down.read_exact(&mut buffer)).await.unwrap();
    within("room", up.write_all(&buffer)).await.unwrap();
    until("the requests", || lost.stats().waiting == 20).await;
    victim.child.kill().await.unwrap();

    for request in requests {
        let error = within("the end", request).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    }
    let error = within("the end", async {
        loop {
            if let Err(error) = down.read_exact(&mut buffer).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let error = within("the end", async {
        loop {
            if let Err(error) = up.write_all(&buffer).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    within("the unit's end", lost.closed()).await;
    // The other one has not noticed.
    within("bytes", others.read_exact(&mut buffer)).await.unwrap();
    assert_eq!(to.units(), std::slice::from_ref(&kept));
    is_served(&to, &kept).await;

    // A new process in the same place is found.
    let again = Process::start(&victim.address.to_string()).await;
    let event =
        watch.next("the new one", |e| matches!(e, PeerEvent::ReconnectSucceeded { .. })).await;
    let PeerEvent::ReconnectSucceeded { unit, address, .. } = event else { unreachable!() };
    assert_eq!(*address, again.url());
    assert!(unit != lost && unit.id() != lost.id());
    is_served(&to, &unit).await;
    is_served(&to, &kept).await;
    within("bytes", others.read_exact(&mut buffer)).await.unwrap();
    within("closing", client.close()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_is_stopped_for_a_while() {
    let (process, other) =
        tokio::join!(Process::start("127.0.0.1:0"), Process::start("127.0.0.1:0"));
    let client = peer("client");
    let mut watch = Watch::new(&client);
    let lost = client.connect(process.url()).await.unwrap().unit().clone();
    let kept = client.connect(other.url()).await.unwrap().unit().clone();
    let to = client.destination("r").unwrap();
    until("both", || to.units().len() == 2).await;
    is_served(&to, &lost).await;

    let begun = Instant::now();
    process.signal("STOP").await;
    // The signal has been sent; its threads stop one by one.
    loop {
        let answer = to.request("echo", 1).to(&lost).timeout(Duration::from_millis(200)).await;
        match answer {
            Ok(_) => {}
            Err(error) => break assert_eq!(error.kind(), ErrorKind::Timeout),
        }
    }
    let waiting = {
        let (to, lost) = (to.clone(), lost.clone());
        tokio::spawn(async move { to.request("echo", 1).to(&lost).await.map(drop) })
    };
    let event = watch.next("its death", |e| matches!(e, PeerEvent::ConnectionClosed { .. })).await;
    let PeerEvent::ConnectionClosed { unit, reason } = event else { unreachable!() };
    assert_eq!((unit, reason.kind()), (Some(lost.clone()), ErrorKind::HeartbeatTimeout));
    assert!(begun.elapsed() < Duration::from_secs(12), "after {:?}", begun.elapsed());
    let error = within("the end", waiting).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionLost);
    is_served(&to, &kept).await;
    // The ten seconds are the test's subject.
    tokio::time::sleep_until((begun + Duration::from_secs(10)).into()).await;
    process.signal("CONT").await;
    // The same process, hence the same id, but a new unit.
    let event =
        watch.next("its return", |e| matches!(e, PeerEvent::ReconnectSucceeded { .. })).await;
    let PeerEvent::ReconnectSucceeded { unit, .. } = event else { unreachable!() };
    assert!(unit != lost && unit.id() == lost.id());
    is_served(&to, &unit).await;
    is_served(&to, &kept).await;
    assert!(kept.is_open() && begun.elapsed() < LIMIT);
    within("closing", client.close()).await;
}
