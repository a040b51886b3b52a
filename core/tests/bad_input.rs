//! Every recorded bad input against a live peer: at most its own connection ends, and an event says
//! what it was.

mod common;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use common::{LIMIT, Watch, echo, peer, until};
use futures_util::FutureExt;
use roletalk::{ConnectOptions, Destination, Error, ErrorKind, Peer, PeerEvent};
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

const CASES: &str = include_str!("../../tests/data/bad-inputs.json");

#[derive(Deserialize)]
struct Case {
    case: String,
    side: String,
    phase: String,
    keyed: bool,
    setup: Option<Setup>,
    steps: Vec<Step>,
    expect: String,
}

#[derive(Clone, Deserialize)]
struct Setup {
    victim: String,
    role: String,
    #[serde(default)]
    event: String,
    payload: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Step {
    Send {
        send: String,
        #[serde(default)]
        hex: String,
        #[serde(default)]
        code: u16,
        #[serde(default)]
        reason: String,
    },
    Do {
        r#do: String,
        #[serde(rename = "type", default)]
        kind: u8,
    },
}

/// The attacker's end: WebSocket frames by hand, so that they may be wrong.
struct Attacker {
    stream: TcpStream,
    masks: bool,
    /// What has come and was not taken yet.
    input: Vec<u8>,
    /// The parts of the frame that was waited for.
    parts: Vec<(&'static str, String)>,
}

/// What the victim's connection brought.
#[derive(Debug)]
enum Got {
    Binary(Vec<u8>),
    Close(u16),
    /// FIN or RST.
    End,
}

impl Attacker {
    fn new(stream: TcpStream, masks: bool) -> Attacker {
        stream.set_nodelay(true).unwrap();
        Attacker { stream, masks, input: Vec::new(), parts: Vec::new() }
    }

    async fn dial(to: SocketAddr) -> Attacker {
        let mut attacker = Attacker::new(TcpStream::connect(to).await.unwrap(), true);
        let request = format!(
            "GET / HTTP/1.1\r\nHost: {to}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: 2YcDFpxJ6QEPmjY6JSZCEw==\r\n\r\n"
        );
        attacker.raw(request.as_bytes()).await;
        let head = attacker.head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        attacker
    }

    async fn accept(listener: &TcpListener) -> Attacker {
        let (stream, _) = listener.accept().await.unwrap();
        let mut attacker = Attacker::new(stream, false);
        let head = attacker.head().await;
        let key = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
        let accept = roletalk::accept_key(key.expect("a key").1);
        let response = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        attacker.raw(response.as_bytes()).await;
        attacker
    }

    async fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.input.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.input.drain(..at + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.more().await, "the end instead of an HTTP head");
        }
    }

    async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.input).await, Ok(read) if read > 0)
    }

    /// The victim may have closed already: what cannot be written does not matter.
    async fn raw(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    async fn frame(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = vec![0x80 | opcode];
        let mask = if self.masks { 0x80 } else { 0 };
        match payload.len() {
            len @ ..126 => frame.push(mask | len as u8),
            len => {
                frame.push(mask | 126);
                frame.extend_from_slice(&u16::try_from(len).unwrap().to_be_bytes());
            }
        }
        if self.masks {
            // A mask that changes something.
            const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
            frame.extend_from_slice(&MASK);
            frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            frame.extend_from_slice(payload);
        }
        self.raw(&frame).await;
    }

    async fn binary(&mut self, payload: &[u8]) {
        self.frame(2, payload).await;
    }

    /// The next message or the end. Answers pings, as anybody would.
    async fn next(&mut self) -> Got {
        loop {
            while self.input.len() < 2 {
                if !self.more().await {
                    return Got::End;
                }
            }
            let (opcode, masked) = (self.input[0] & 0x0f, self.input[1] & 0x80 != 0);
            assert_eq!(self.input[0] & 0xf0, 0x80, "the victim fragments or uses reserved bits");
            assert_eq!(masked, !self.masks, "the victim masks wrongly");
            let (mut at, mut len) = (2, usize::from(self.input[1] & 0x7f));
            let extended = match len {
                126 => 2,
                127 => 8,
                _ => 0,
            };
            let needed = 2 + extended + if masked { 4 } else { 0 };
            while self.input.len() < needed {
                if !self.more().await {
                    return Got::End;
                }
            }
            if extended > 0 {
                let bytes = &self.input[2..2 + extended];
                len = bytes.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
                at += extended;
            }
            let mask: Option<[u8; 4]> = masked.then(|| self.input[at..at + 4].try_into().unwrap());
            at = needed;
            while self.input.len() < at + len {
                if !self.more().await {
                    return Got::End;
                }
            }
            let mut payload: Vec<u8> = self.input.drain(..at + len).skip(at).collect();
            if let Some(mask) = mask {
                payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
            }
            match opcode {
                2 => return Got::Binary(payload),
                8 if payload.len() >= 2 => {
                    return Got::Close(u16::from_be_bytes([payload[0], payload[1]]));
                }
                8 => return Got::Close(1005),
                9 => self.frame(10, &payload).await,
                10 => {}
                other => panic!("opcode {other} from the victim"),
            }
        }
    }

    async fn wait_frame(&mut self, kind: u8) -> Result<Vec<u8>, String> {
        loop {
            match self.next().await {
                Got::Binary(bytes) if bytes.first() == Some(&kind) => return Ok(bytes),
                Got::Binary(_) => {}
                other => return Err(format!("{other:?} instead of a frame {kind}")),
            }
        }
    }

    /// Waits for a frame and remembers its numbers.
    async fn remember(&mut self, kind: u8) -> Result<(), String> {
        let frame = self.wait_frame(kind).await?;
        let be = |at: usize| usize::from(frame[at]) << 8 | usize::from(frame[at + 1]);
        let len = |at: usize| usize::from(frame[at]);
        let (corr, chan) = match kind {
            3 => {
                let json: serde_json::Value = serde_json::from_slice(&frame[1..]).unwrap();
                self.parts = vec![("$ID", hex(json["id"].as_str().unwrap().as_bytes()))];
                return Ok(());
            }
            101 => {
                let at = 6 + be(1) + be(3);
                (&frame[at..at + len(5)], None)
            }
            103 | 104 => {
                let at = 7 + be(1) + be(3);
                let chan = at + len(5);
                (&frame[at..chan], Some(&frame[chan..chan + len(6)]))
            }
            107 => {
                let chan = 3 + len(1);
                (&frame[3..chan], Some(&frame[chan..chan + len(2)]))
            }
            other => return Err(format!("do not know the parts of {other}")),
        };
        self.parts = vec![("$CORRLEN", hex(&[corr.len() as u8]))];
        if let Some(chan) = chan {
            self.parts.push(("$CHANLEN", hex(&[chan.len() as u8])));
            self.parts.push(("$CHAN", hex(chan)));
        }
        self.parts.push(("$CORR", hex(corr)));
        Ok(())
    }

    fn bytes(&self, hex: &str) -> Vec<u8> {
        let filled =
            self.parts.iter().fold(hex.to_owned(), |hex, (name, value)| hex.replace(name, value));
        assert!(filled.len() % 2 == 0 && !filled.contains('$'), "{filled}");
        (0..filled.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&filled[at..at + 2], 16).unwrap())
            .collect()
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Send { send, hex, code, reason } => {
                let bytes = self.bytes(hex);
                match send.as_str() {
                    "binary" => self.frame(2, &bytes).await,
                    "text" => self.frame(1, &bytes).await,
                    "raw" => self.raw(&bytes).await,
                    "close" => {
                        let payload = [&code.to_be_bytes(), reason.as_bytes()].concat();
                        self.frame(8, &payload).await;
                    }
                    other => return Err(format!("do not know how to send {other}")),
                }
            }
            Step::Do { r#do, kind } => match r#do.as_str() {
                "wait-frame" => self.remember(*kind).await?,
                "tcp-fin" => self.stream.shutdown().await.map_err(|error| error.to_string())?,
                "tcp-reset" => self.stream.set_zero_linger().map_err(|error| error.to_string())?,
                other => return Err(format!("do not know how to {other}")),
            },
        }
        Ok(())
    }

    /// Whether a request is answered on this connection.
    async fn is_served(&mut self) -> Result<(), String> {
        // Role `r`, event `ev`, correlation 0x7abc, the number 7.
        self.binary(&[&[101, 0, 1, 0, 2, 2], &b"rev"[..], &[0x7a, 0xbc, 4, b'7']].concat()).await;
        loop {
            let answer = self.wait_frame(102).await?;
            if answer == [102, 2, 0x7a, 0xbc, 4, b'7'] {
                return Ok(());
            }
        }
    }

    /// Reads until the connection ends.
    async fn is_closed(&mut self) -> Option<u16> {
        loop {
            match self.next().await {
                Got::Binary(_) => {}
                Got::Close(code) => return Some(code),
                Got::End => return None,
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const CONFIRM: &str = r#"{"id":"rawraw","roles":["r"],"friendly":true,"name":"raw","meta":{"os":"linux","runtime":"nodejs v20.20.2","time":1,"uptime":1,"protocol":"2.0.0"},"tags":{}}"#;

/// The peer under attack, and what its handlers and its own requests came to.
struct Victim {
    peer: Peer,
    /// Streams that its handlers accepted and that ended with an error.
    broken: Arc<AtomicUsize>,
}

fn victim(case: &Case) -> Victim {
    // On a busy machine the attackers are slow, and that is not what they are here for.
    let mut builder =
        Peer::builder().name("victim").limits(|limits| limits.handshake_timeout = LIMIT);
    if case.keyed {
        builder = builder.preshared_key("k", "secret");
    }
    let peer = builder.build().unwrap();
    echo(&peer);
    let role = peer.role("r").unwrap();
    role.on_message("ev", |_| async { Ok::<_, Error>(()) });
    role.on_request("ev", |ctx| async move { Ok::<_, Error>(ctx.into_data()) });
    let broken = Arc::new(AtomicUsize::new(0));
    if let Some(setup) = &case.setup {
        let role = peer.role(&setup.role).unwrap();
        let broken = broken.clone();
        match setup.victim.as_str() {
            "handles-stream-w" => {
                role.on_readable(&setup.event, move |request| {
                    let broken = broken.clone();
                    async move {
                        let mut stream = request.accept(())?;
                        let mut bytes = Vec::new();
                        if stream.read_to_end(&mut bytes).await.is_err() {
                            broken.fetch_add(1, Ordering::Relaxed);
                        }
                        // Keeps it open.
                        std::future::pending::<()>().await;
                        drop(stream);
                        Ok::<_, Error>(())
                    }
                });
            }
            "handles-stream-r" => {
                role.on_writable(&setup.event, move |request| {
                    let broken = broken.clone();
                    async move {
                        let mut stream = request.accept(())?;
                        // It goes on until there is an end.
                        while stream.write_all(b"x").await.is_ok() {
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                        broken.fetch_add(1, Ordering::Relaxed);
                        Ok::<_, Error>(())
                    }
                });
            }
            "handler-throws" => {
                role.on_message(&setup.event, |ctx| async move {
                    assert!(ctx.event().is_empty(), "handler threw");
                    Ok::<_, Error>(())
                });
                role.on_request(&setup.event, |ctx| async move {
                    assert!(ctx.event().is_empty(), "handler threw");
                    Ok::<_, Error>(())
                });
            }
            "destination" => drop(peer.destination(&setup.role).unwrap()),
            _ => {}
        }
    }
    Victim { peer, broken }
}

/// What the victim itself asks of the attacker. Gives the outcome, a stream's opening included.
async fn own_operation(to: Destination, setup: Setup) -> Result<(), Error> {
    let payload: i64 = setup.payload.as_deref().unwrap_or("1").parse().unwrap();
    let units = to.units();
    let raw = units.iter().find(|unit| &*unit.id() == "rawraw").expect("the attacker's unit");
    match setup.victim.as_str() {
        "requests" => to.request(&setup.event, payload).to(raw).await.map(drop),
        "opens-readable" => to.readable(&setup.event, payload).to(raw).await.map(drop),
        "opens-writable" => to.writable(&setup.event, payload).to(raw).await.map(drop),
        other => panic!("no operation {other}"),
    }
}

/// `stage` is what it is at, for when it does not come to an end.
async fn run(case: &Case, stage: &Mutex<String>) -> Result<(), String> {
    let at = |what: &str| *stage.lock().unwrap() = what.to_owned();
    let Victim { peer: victim, broken } = victim(case);
    let mut watch = Watch::new(&victim);
    let listener = victim.listen("127.0.0.1:0").await.unwrap();
    // Somebody well-behaved, who must not notice anything.
    let friend = match case.keyed {
        true => Peer::builder().name("friend").preshared_key("k", "secret").build().unwrap(),
        false => peer("friend"),
    };
    friend.connect_with(listener.url(), ConnectOptions::new().once()).await.unwrap();
    let to_victim = friend.destination("r").unwrap();
    to_victim.ready().await.unwrap();

    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    at("the upgrade");
    let mut attacker = match case.side.as_str() {
        "listener" => Attacker::dial(listener.local_addr()).await,
        "dialer" => {
            let url = format!("ws://{}", other.local_addr().unwrap());
            let dialer = victim.clone();
            // Once: here it counts how this connection ends, not whether there is another.
            tokio::spawn(async move {
                let _ = dialer.connect_with(url, ConnectOptions::new().once()).await;
            });
            Attacker::accept(&other).await
        }
        side => return Err(format!("no side {side}")),
    };
    let shaken = case.phase == "after-handshake";
    let mut operation = None;
    if shaken {
        at("the handshake");
        attacker.binary(&[&[3], CONFIRM.as_bytes()].concat()).await;
        attacker.wait_frame(3).await?;
        watch
            .next(
                "the attacker's unit",
                |event| matches!(event, PeerEvent::UnitOpened(unit) if &*unit.id() == "rawraw"),
            )
            .await;
        if let Some(setup) = &case.setup
            && ["requests", "opens-readable", "opens-writable"].contains(&setup.victim.as_str())
        {
            let to = victim.destination(&setup.role).unwrap();
            operation = Some(tokio::spawn(own_operation(to, setup.clone())));
        }
    }
    for (n, step) in case.steps.iter().enumerate() {
        at(&format!("step {n}"));
        attacker.step(step).await?;
    }
    at("what is expected");
    check(case, &victim, attacker, &mut watch).await?;
    at("the victim's own operation");
    if let Some(operation) = operation {
        let outcome = operation.await.map_err(|error| error.to_string())?;
        let as_expected = match case.expect.as_str() {
            "ignored" => outcome.is_ok(),
            "fails-operation" => outcome.as_ref().is_err_and(|error| {
                matches!(error.kind(), ErrorKind::Rejected | ErrorKind::Protocol)
            }),
            _ => outcome.as_ref().is_err_and(|e| e.kind() == ErrorKind::ConnectionLost),
        };
        if !as_expected {
            return Err(format!("the victim's own operation: {outcome:?}"));
        }
    }
    let handles_stream =
        case.setup.as_ref().is_some_and(|setup| setup.victim.starts_with("handles-stream"));
    if handles_stream && case.expect != "ignored" {
        until("the stream's end", || broken.load(Ordering::Relaxed) == 1).await;
    }

    at("the well-behaved connection");
    let answer = to_victim.request("echo", "still there?").await;
    if answer.is_err() {
        return Err(format!("the well-behaved connection suffered: {answer:?}"));
    }
    if friend.stats().units[0].1.connections.len() != 1 {
        return Err("the well-behaved connection was replaced".to_owned());
    }
    at("closing the friend");
    friend.close().await;
    at("closing the victim");
    victim.close().await;
    Ok(())
}

/// The events that concern the attacker: everything but the friend's.
fn is_attackers(event: &PeerEvent) -> bool {
    match event {
        PeerEvent::BadInput { unit, .. } | PeerEvent::ConnectionClosed { unit, .. } => {
            unit.as_ref().is_none_or(|unit| unit.name() != "friend")
        }
        PeerEvent::AuthRefused { .. } => true,
        _ => false,
    }
}

/// What the case expects of the attacker's connection.
async fn check(
    case: &Case,
    victim: &Peer,
    mut attacker: Attacker,
    watch: &mut Watch,
) -> Result<(), String> {
    match case.expect.as_str() {
        "closes" | "auth-refused" => {
            // What it was is told, and not with an empty text.
            let refused = case.expect == "auth-refused";
            // Answered with 1002 as part of closing: it is the reason of the end.
            let in_closing = case.case == "ws-close-invalid-code-1005";
            watch
                .next("the report", |event| match event {
                    PeerEvent::AuthRefused { reason } => refused && !reason.is_empty(),
                    PeerEvent::BadInput { error, .. } => {
                        !refused && is_attackers(event) && !error.text().is_empty()
                    }
                    PeerEvent::ConnectionClosed { reason, .. } if in_closing => {
                        is_attackers(event) && reason.text().contains("1002")
                    }
                    _ => false,
                })
                .await;
            let code = attacker.is_closed().await;
            let expected: &[u16] = match refused {
                // A remote error frame needs no answer but the end.
                true => &[4002],
                false => &[4006, 1002, 1007, 1009, 4002],
            };
            if !code.is_none_or(|code| expected.contains(&code)) {
                return Err(format!("closed with {code:?}"));
            }
            if !in_closing {
                watch
                    .next("the end", |event| {
                        matches!(event, PeerEvent::ConnectionClosed { .. }) && is_attackers(event)
                    })
                    .await;
            }
        }
        "ignored" | "fails-operation" => {
            if case.case == "ws-100MiB-header-exact" {
                // Its promised bytes are still to come: it lives, but nothing can be asked on it.
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            } else {
                attacker.is_served().await?;
            }
            let id = if case.case == "pre-confirm-same-id-as-victim" {
                victim.id().to_string()
            } else {
                String::new()
            };
            let units = victim.units();
            if units.len() != 2 || !id.is_empty() && !units.iter().any(|unit| *unit.id() == *id) {
                return Err(format!("units: {units:?}"));
            }
            if let Some(event) = watch.so_far().iter().find(|event| is_attackers(event)) {
                return Err(format!("reported {event:?}"));
            }
        }
        "remote-closed" => {
            let reset = matches!(&case.steps[0], Step::Do { r#do, .. } if r#do == "tcp-reset");
            if !reset {
                attacker.is_closed().await;
            }
            drop(attacker);
            let closed = watch
                .next("the end", |event| {
                    matches!(event, PeerEvent::ConnectionClosed { .. }) && is_attackers(event)
                })
                .await;
            let PeerEvent::ConnectionClosed { reason, .. } = closed else { unreachable!() };
            if reason.kind() != ErrorKind::ConnectionLost {
                return Err(format!("closed because of {reason:?}"));
            }
        }
        other => return Err(format!("no expectation {other}")),
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_recorded_cases() {
    let cases: Vec<Case> = serde_json::from_str(CASES).unwrap();
    assert_eq!(cases.len(), 149);
    let places = Arc::new(Semaphore::new(20));
    let runs = cases.into_iter().map(|case| {
        let places = places.clone();
        tokio::spawn(async move {
            let _place = places.acquire_owned().await;
            let name = format!("{} ({}, {})", case.case, case.side, case.expect);
            let stage = Mutex::new(String::new());
            let run = std::panic::AssertUnwindSafe(run(&case, &stage)).catch_unwind();
            let problem = match tokio::time::timeout(LIMIT, run).await {
                Ok(Ok(Ok(()))) => return None,
                Ok(Ok(Err(problem))) => problem,
                Ok(Err(panic)) => match panic.downcast::<String>() {
                    Ok(text) => *text,
                    Err(_) => "panicked".to_owned(),
                },
                Err(_) => format!("not done within {LIMIT:?}, at {}", stage.lock().unwrap()),
            };
            Some(format!("{name}: {problem}"))
        })
    });
    let outcomes = futures_util::future::join_all(runs).await;
    let failures: Vec<String> = outcomes.into_iter().filter_map(Result::unwrap).collect();
    assert!(failures.is_empty(), "{} cases failed:\n{}", failures.len(), failures.join("\n"));
}
