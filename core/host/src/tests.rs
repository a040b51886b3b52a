//! Hosts on two ends of a TCP connection.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    iter,
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsFd,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use roletalk_engine::{
    CLOSE_TIMEOUT, ConnId, Engine, EngineEvent, Event, Limits, Moment, Moves, Opening, Order,
    Outgoing, Question, Remote, UnitId, wire::Payload, ws::Side,
};

use crate::{Action, Guard, Host, config, lock};

/// For what must come, however slow the machine is.
const LIMIT: Duration = Duration::from_secs(60);
/// More than the system takes of what nobody reads.
const LARGE: usize = 24 << 20;

/// One end: a host and what its loop knows.
struct End {
    host: Arc<Mutex<Host>>,
    conn: ConnId,
    /// The same socket, as the loop watches it.
    watched: TcpStream,
    epoch: Instant,
    unit: Option<UnitId>,
    /// Questions with the length of what came with them.
    incoming: Vec<(usize, Question)>,
    closed: Option<(u16, String)>,
    pings: usize,
    pongs: usize,
    writing: bool,
    paused: bool,
    log: Vec<&'static str>,
    gone: Option<Option<io::ErrorKind>>,
}

impl End {
    fn new(stream: TcpStream, side: Side, limits: impl FnOnce(&mut Limits)) -> End {
        let mut config = config().unwrap();
        limits(&mut config.limits);
        let epoch = Instant::now();
        let mut host = Host::new(Engine::new(config), epoch, 64 << 10);
        host.tell_progress();
        stream.set_nonblocking(true).unwrap();
        let watched = stream.try_clone().unwrap();
        let opening = Opening::Upgraded { side, address: None };
        let conn = host.open(opening, Some(stream), Remote::default(), Moment::EPOCH).unwrap();
        End {
            host: Arc::new(Mutex::new(host)),
            conn,
            watched,
            epoch,
            unit: None,
            incoming: Vec::new(),
            closed: None,
            pings: 0,
            pongs: 0,
            writing: false,
            paused: false,
            log: Vec::new(),
            gone: None,
        }
    }

    fn now(&self) -> Moment {
        Moment::at(self.epoch.elapsed())
    }

    /// Does something with the host, as the loop does.
    fn with<T>(&mut self, change: impl FnOnce(&mut Host, ConnId, Moment) -> T) -> T {
        let (now, host) = (self.now(), self.host.clone());
        let mut host = lock(&host);
        let result = change(&mut host, self.conn, now);
        while let Some(event) = host.poll_event() {
            self.hear(event);
        }
        host.write(now);
        while let Some(action) = host.poll_action() {
            self.act(action);
        }
        result
    }

    fn hear(&mut self, event: EngineEvent<u32>) {
        match event {
            EngineEvent::Attached { unit, .. } => self.unit = Some(unit),
            EngineEvent::Unit { event: Event::Incoming(incoming, question), .. } => {
                self.incoming.push((incoming.payload().len(), question));
            }
            EngineEvent::Close { code, reason, .. } => self.closed = Some((code, reason)),
            EngineEvent::Ping { .. } => self.pings += 1,
            EngineEvent::Pong { .. } => self.pongs += 1,
            _ => {}
        }
    }

    fn act(&mut self, action: Action) {
        self.log.push(match action {
            Action::Write(..) => panic!("there is a socket"),
            Action::AwaitWritable(_) => {
                self.writing = true;
                "await writable"
            }
            Action::StopWriting(_) => {
                self.writing = false;
                "stop writing"
            }
            Action::Pause(_) => {
                self.paused = true;
                "pause"
            }
            Action::Resume(_) => {
                self.paused = false;
                "resume"
            }
            Action::Taken(_) => "taken",
            Action::Written(_) => "written",
            Action::Part(..) => {
                self.paused = false;
                "part"
            }
            Action::Leave(_) => "leave",
            Action::Gone(_, error) => {
                self.gone = Some(error.map(|error| error.kind()));
                "gone"
            }
        });
    }

    /// Sends a message of so many bytes.
    fn send(&mut self, len: usize) {
        let (unit, bytes) = (self.unit.unwrap(), vec![7; len]);
        self.with(|host, _, now| {
            host.engine.with_unit(unit, now, |unit| unit.send(message(&bytes))).unwrap().unwrap();
        });
    }

    /// What its loop waits for.
    fn flags(&self) -> PollFlags {
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, !self.paused);
        flags.set(PollFlags::POLLOUT, self.writing);
        flags
    }

    /// The loop has been told this.
    fn found(&mut self, found: PollFlags) {
        let broken = PollFlags::POLLERR | PollFlags::POLLHUP;
        if self.writing && found.intersects(PollFlags::POLLOUT | broken) {
            self.with(|host, conn, now| host.writable(conn, now));
        }
        if !self.paused && self.gone.is_none() && found.intersects(PollFlags::POLLIN | broken) {
            self.with(|host, conn, now| host.readable(conn, now));
        }
    }
}

/// Runs loops until something is so.
fn run<const N: usize>(mut ends: [&mut End; N], until: impl Fn([&End; N]) -> bool) {
    let over = Instant::now() + LIMIT;
    while !until(ends.each_ref().map(|end| &**end)) {
        assert!(Instant::now() < over, "it does not come");
        let found = {
            let mut entries =
                ends.each_ref().map(|end| PollFd::new(end.watched.as_fd(), end.flags()));
            poll(&mut entries, PollTimeout::from(1000u16)).unwrap();
            entries.iter().map(|entry| entry.revents().unwrap()).collect::<Vec<_>>()
        };
        for (end, found) in ends.iter_mut().zip(found) {
            end.found(found);
        }
    }
}

fn message(bytes: &[u8]) -> Outgoing<'_> {
    Outgoing {
        role: "r",
        event: "e",
        payload: Payload { bytes, ..Payload::NULL },
        order: Order::Kept,
        fields: None,
        bulkhead: None,
        moves: Moves::WithinUnit,
    }
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let dialed = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (dialed, listener.accept().unwrap().0)
}

/// Two ends that know each other.
fn pair(limits: impl Fn(&mut Limits)) -> (End, End) {
    let (dialed, accepted) = sockets();
    let mut a = End::new(dialed, Side::Client, &limits);
    let mut b = End::new(accepted, Side::Server, &limits);
    a.with(|_, _, _| ());
    b.with(|_, _, _| ());
    run([&mut a, &mut b], |[a, b]| a.unit.is_some() && b.unit.is_some());
    a.log.clear();
    b.log.clear();
    (a, b)
}

/// An end that the other side has reset: that closes with bytes that it has not read.
fn reset() -> End {
    let (dialed, accepted) = sockets();
    let mut end = End::new(dialed, Side::Server, |_| {});
    (&end.watched).write_all(b"unread").unwrap();
    accepted.peek(&mut [0]).unwrap();
    drop(accepted);
    await_input(&end);
    end.log.clear();
    end
}

/// Until something can be read, without reading it.
fn await_input(end: &End) {
    let mut entries = [PollFd::new(end.watched.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut entries, PollTimeout::from(60_000u16)), Ok(1));
}

#[test]
fn the_loop_reads_of_a_reset() {
    let mut end = reset();
    end.with(|host, conn, now| host.readable(conn, now));
    assert_eq!(end.gone, Some(Some(io::ErrorKind::ConnectionReset)));
    assert_eq!(end.closed, Some((1006, String::new())));
}

#[test]
fn the_loop_hears_of_a_reset_that_the_guard_has_met() {
    let mut end = reset();
    let turns = lock(&end.host).turns();
    let any = lock(&end.host).read_for_loop(end.conn, turns);
    assert!(!any, "there is nothing to fetch");
    end.with(|host, conn, now| host.readable(conn, now));
    assert_eq!(end.gone, Some(Some(io::ErrorKind::ConnectionReset)));
}

#[test]
fn the_loop_hears_of_a_reset_that_a_write_has_met() {
    for readable in [false, true] {
        let mut end = reset();
        // The handshake.
        end.with(|_, _, _| ());
        assert_eq!((end.log.as_slice(), end.gone), (["taken", "await writable"].as_slice(), None));
        end.with(|host, conn, now| match readable {
            true => host.readable(conn, now),
            false => host.writable(conn, now),
        });
        assert_eq!(end.gone, Some(Some(io::ErrorKind::ConnectionReset)));
    }
}

#[test]
fn what_was_said_before_a_reset_is_read_although_a_write_has_met_it() {
    let (mut a, mut b) = pair(|_| {});
    // `b` closes with something unread, so that its close frame comes with a reset behind it.
    a.send(100);
    await_input(&b);
    let unit = b.unit.unwrap();
    b.with(|host, _, now| host.engine.close_unit(unit, now));
    assert_eq!(b.log, ["taken", "written", "part"]);
    b.with(|host, conn, now| host.release(conn, now));
    b.watched =
        TcpListener::bind("127.0.0.1:0").and_then(|l| TcpStream::connect(l.local_addr()?)).unwrap();
    let mut entries = [PollFd::new(a.watched.as_fd(), PollFlags::empty())];
    assert_eq!(poll(&mut entries, PollTimeout::from(60_000u16)), Ok(1), "a reset");
    a.send(100);
    assert!(a.log.ends_with(&["taken", "await writable"]), "{:?}", a.log);
    run([&mut a], |[a]| a.gone.is_some());
    assert_eq!(a.closed.as_ref().map(|(code, _)| *code), Some(4000));
}

#[test]
fn what_is_half_out_is_told_of_in_order_and_all_comes() {
    let (mut a, mut b) = pair(|limits| {
        limits.message_size = 2 * LARGE;
        limits.queue_per_connection = 2 * LARGE;
    });
    a.send(LARGE);
    assert_eq!(a.log, ["taken", "await writable"]);
    assert!(lock(&a.host).pending(a.conn) > 0);
    a.send(10);
    a.log.clear();
    run([&mut a, &mut b], |[a, b]| b.incoming.len() == 2 && !a.writing);
    assert_eq!(a.log, ["written", "taken", "written", "stop writing"]);
    assert_eq!(b.incoming.iter().map(|(len, _)| *len).collect::<Vec<_>>(), [LARGE, 10]);
    assert_eq!(lock(&a.host).pending(a.conn), 0);
}

#[test]
fn a_connection_that_is_drained_with_nothing_to_say_is_left_at_once() {
    let (mut a, mut b) = pair(|_| {});
    b.with(|host, _, now| host.engine.drain(now));
    run([&mut a, &mut b], |[_, b]| lock(&b.host).busy() == 0);
    b.with(|host, _, now| host.close(now));
    assert_eq!(b.log.last(), Some(&"leave"));
    b.with(|host, conn, now| host.release(conn, now));
    run([&mut a], |[a]| a.gone.is_some());
    assert_eq!((a.closed.take().unwrap().0, a.gone), (4010, Some(None)));
}

#[test]
fn a_connection_that_ends_while_a_message_is_half_out_sends_all_of_it() {
    let (mut a, mut b) = pair(|limits| limits.message_size = 2 * LARGE);
    a.send(LARGE);
    let unit = a.unit.unwrap();
    a.with(|host, _, now| host.engine.close_unit(unit, now));
    assert!(!a.log.contains(&"part"));
    run([&mut a, &mut b], |[a, b]| a.gone.is_some() && b.closed.is_some());
    assert_eq!(a.log[a.log.len() - 2..], ["part", "gone"]);
    assert_eq!((b.incoming[0].0, b.closed.unwrap().0), (LARGE, 4000));
}

#[test]
fn a_connection_that_ends_is_given_up_when_nothing_is_read_for_long() {
    let (mut a, _b) = pair(|_| {});
    a.send(LARGE);
    let unit = a.unit.unwrap();
    a.with(|host, _, now| host.engine.close_unit(unit, now));
    let until = lock(&a.host).deadline().expect("it is not waited for for ever");
    assert!(until <= a.now() + Duration::from_secs(30));
    a.with(|host, _, _| host.handle_timeout(until));
    assert_eq!((a.gone, lock(&a.host).deadline()), (Some(None), None));
}

#[test]
fn a_connection_that_is_lost_leaves_no_deadline() {
    let (mut a, b) = pair(|_| {});
    drop(b);
    run([&mut a], |[a]| a.gone.is_some());
    a.with(|host, conn, now| host.release(conn, now));
    assert_eq!(lock(&a.host).deadline(), None);
}

#[test]
fn a_stranger_that_is_refused_has_little_time_to_read_why() {
    let (stream, _far) = sockets();
    let mut a = End::new(stream, Side::Server, |_| {});
    // As when its socket takes no more.
    a.with(|host, conn, _| host.links.get_mut(&conn).unwrap().waiting = true);
    a.with(|host, conn, now| {
        host.engine.receive(conn, b"\x81\x80 no frame of an authentication", now);
    });
    assert!(a.closed.is_some() && a.gone.is_none());
    let until = lock(&a.host).deadline().expect("it is not waited for for ever");
    assert!(until <= a.now() + CLOSE_TIMEOUT);
    a.with(|host, _, _| host.handle_timeout(until));
    assert_eq!(a.gone, Some(None));
}

/// What two hosts on transports have to do for each other, by the number of the connection.
struct Transports {
    hosts: Vec<Host>,
    /// The connections of host 0 lead to host 1 and so on.
    ends: HashMap<(usize, ConnId), (usize, ConnId)>,
}

impl Transports {
    /// A host with transports to others.
    fn new(others: usize) -> Transports {
        let host = || Host::new(Engine::new(config().unwrap()), Instant::now(), 64 << 10);
        let mut hosts: Vec<Host> = (0..=others).map(|_| host()).collect();
        let mut ends = HashMap::new();
        for other in 1..=others {
            let mut open = |at: usize, side| {
                let opening = Opening::Upgraded { side, address: None };
                hosts[at].open(opening, None, Remote::default(), Moment::EPOCH).unwrap()
            };
            let near = (0, open(0, Side::Server));
            let far = (other, open(other, Side::Client));
            ends.insert(near, far);
            ends.insert(far, near);
        }
        Transports { hosts, ends }
    }

    /// A turn of a loop. Returns what was to be done, and the messages that came.
    fn turn(&mut self, at: usize) -> (Vec<Action>, Vec<u8>) {
        let host = &mut self.hosts[at];
        let mut came = Vec::new();
        while let Some(event) = host.poll_event() {
            if let EngineEvent::Unit { event: Event::Incoming(incoming, _), .. } = event {
                came.extend_from_slice(incoming.payload());
            }
        }
        host.write(Moment::EPOCH);
        (iter::from_fn(|| host.poll_action()).collect(), came)
    }

    /// Takes what was written to where it goes.
    fn carry(&mut self, at: usize, actions: &[Action]) {
        for action in actions {
            if let Action::Write(conn, bytes) = action {
                let (to, far) = self.ends[&(at, *conn)];
                self.hosts[to].feed(far, bytes, Moment::EPOCH);
                self.hosts[at].written(*conn, Moment::EPOCH);
            }
        }
    }

    fn settle(&mut self) {
        while (0..self.hosts.len()).fold(false, |busy, at| {
            let (actions, _) = self.turn(at);
            self.carry(at, &actions);
            busy || !actions.is_empty()
        }) {}
    }
}

#[test]
fn what_a_transport_brings_is_handled_in_portions() {
    let mut all = Transports::new(2);
    all.settle();
    let count = 5_000u32;
    let host = &mut all.hosts[1];
    let unit = host.engine.peer().units().next().expect("the handshake is done");
    for number in 0..count {
        let bytes = number.to_be_bytes();
        host.engine
            .with_unit(unit, Moment::EPOCH, |unit| unit.send(message(&bytes)))
            .unwrap()
            .unwrap();
    }
    let (written, _) = all.turn(1);
    all.carry(1, &written);
    let (mut came, mut turns, mut told) = (Vec::new(), 0, Vec::new());
    loop {
        let (actions, some) = all.turn(0);
        assert!(some.len() / 4 <= 2_000, "one turn had {} messages", some.len() / 4);
        came.extend(some);
        told.extend(actions.iter().filter_map(|action| match action {
            Action::Pause(_) => Some("pause"),
            Action::Resume(_) => Some("resume"),
            _ => None,
        }));
        if all.hosts[0].deadline() != Some(Moment::EPOCH) {
            break;
        }
        turns += 1;
        all.hosts[0].handle_timeout(Moment::EPOCH);
    }
    let sent: Vec<u8> = (0..count).flat_map(u32::to_be_bytes).collect();
    assert!(came == sent, "{} of {} bytes came", came.len(), sent.len());
    assert!(turns > 20, "all came in {turns} turns");
    assert_eq!(told, ["pause", "resume"]);
}

#[test]
fn what_a_transport_has_brought_before_its_loss_is_handled() {
    let mut all = Transports::new(2);
    all.settle();
    let host = &mut all.hosts[1];
    let unit = host.engine.peer().units().next().unwrap();
    let bytes = vec![7; 100_000];
    host.engine.with_unit(unit, Moment::EPOCH, |unit| unit.send(message(&bytes))).unwrap().unwrap();
    let (written, _) = all.turn(1);
    all.carry(1, &written);
    assert!(all.turn(0).1.is_empty(), "it is handled in portions");
    let conn = *all.hosts[0].links.iter().find(|(_, link)| link.held).unwrap().0;
    all.hosts[0].lost(conn, None, Moment::EPOCH);
    assert!(all.turn(0).1 == bytes);
}

#[test]
fn a_stranger_that_reads_nothing_is_closed_at_once() {
    let (stream, _far) = sockets();
    let mut a = End::new(stream, Side::Server, |limits| limits.handshakes = 1);
    // As when its socket takes no more.
    a.with(|host, conn, _| host.links.get_mut(&conn).unwrap().waiting = true);
    // Another connection evicts it.
    a.with(|host, _, now| host.engine.enter(None, now)).unwrap();
    assert_eq!(a.log.last(), Some(&"leave"));
}

#[test]
fn the_end_of_the_other_side_does_not_keep_this_one_from_ending() {
    let (mut a, b) = pair(|_| {});
    a.send(LARGE);
    let unit = a.unit.unwrap();
    a.with(|host, _, now| host.engine.close_unit(unit, now));
    b.watched.shutdown(Shutdown::Write).unwrap();
    run([&mut a], |[a]| a.paused);
    assert_eq!(a.gone, None);
    b.watched.set_nonblocking(false).unwrap();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        (&b.watched).read_to_end(&mut all).map(|_| all.len())
    });
    run([&mut a], |[a]| a.gone.is_some());
    assert!(reader.join().unwrap().unwrap() > LARGE);
    assert_eq!(a.gone, Some(None));
}

#[test]
fn a_connection_that_brings_more_than_handlers_take_is_paused_until_they_have_ended() {
    let (mut a, mut b) = pair(|limits| limits.running_handlers = 1);
    for _ in 0..100 {
        a.send(16 << 10);
    }
    run([&mut a, &mut b], |[_, b]| b.paused);
    assert_eq!(b.log, ["pause"]);
    while b.paused {
        let (unit, (_, question)) = (b.unit.unwrap(), b.incoming.pop().unwrap());
        b.with(|host, _, now| host.answer(unit, question, Ok(Payload::NULL), None, now));
    }
    assert_eq!(b.log, ["pause", "resume"]);
}

#[test]
fn the_guard_answers_pings_while_a_loop_is_blocked() {
    let (mut a, mut b) = pair(|limits| limits.message_size = 2 * LARGE);
    let (tell, told) = mpsc::channel();
    let guard = Guard::new(move || tell.send(()).unwrap());
    guard.watch(&b.host).unwrap();
    a.send(1000);
    a.with(|host, conn, now| host.engine.ping(conn, b"first", now));
    a.send(1000);
    // `b` is blocked from here on.
    run([&mut a], |[a]| a.pongs == 1);
    told.recv_timeout(LIMIT).unwrap();
    assert!(lock(&b.host).has_stood_in(b.conn));
    assert!(b.incoming.is_empty() && b.pings == 0 && b.log.is_empty());
    // All else has waited.
    b.with(|host, conn, now| host.readable(conn, now));
    assert!(!lock(&b.host).has_stood_in(b.conn));
    assert_eq!((b.incoming.len(), b.pings), (2, 1));
    // It goes on writing, too: the answer comes when what is half out is.
    b.send(LARGE);
    assert_eq!(b.log.last(), Some(&"await writable"));
    a.with(|host, conn, now| host.engine.ping(conn, b"second", now));
    run([&mut a], |[a]| a.pongs == 2);
    assert_eq!(a.incoming.len(), 1);
    guard.end();
}

#[test]
fn the_guard_leaves_a_loop_alone_that_has_come_by() {
    let (mut a, mut b) = pair(|_| {});
    let turns = lock(&b.host).turns();
    a.send(10);
    await_input(&b);
    b.with(|_, _, _| ());
    assert!(!lock(&b.host).read_for_loop(b.conn, turns));
    b.with(|host, conn, now| host.readable(conn, now));
    assert_eq!(b.incoming.len(), 1);
}

#[test]
fn a_guard_lets_go_of_sockets_that_are_released_while_it_sleeps() {
    let (a, mut b) = pair(|_| {});
    let guard = Guard::new(|| {});
    guard.watch(&b.host).unwrap();
    b.with(|host, conn, now| host.release(conn, now));
    let End { watched, host, .. } = b;
    drop((watched, host));
    // The end comes when nobody has the socket any more.
    let mut rest = Vec::new();
    a.watched.set_nonblocking(false).unwrap();
    a.watched.set_read_timeout(Some(LIMIT)).unwrap();
    (&a.watched).read_to_end(&mut rest).unwrap();
}

#[test]
fn a_socket_lingers_from_its_release_until_the_guard_lets_go_of_it() {
    let (mut a, mut b) = pair(|_| {});
    let mut watched = Vec::new();
    lock(&b.host).watched(&mut watched);
    for end in [&mut a, &mut b] {
        end.with(|host, conn, now| host.release(conn, now));
    }
    assert!(!lock(&a.host).has_lingering(), "nobody else has it");
    assert!(lock(&b.host).has_lingering());
    drop(watched);
    assert!(!lock(&b.host).has_lingering());
}

#[test]
fn a_guard_that_has_ended_holds_nothing_and_can_begin_again() {
    let (a, b) = pair(|_| {});
    let (tell, told) = mpsc::channel();
    let guard = Guard::new(move || tell.send(()).unwrap());
    guard.watch(&a.host).unwrap();
    guard.watch(&b.host).unwrap();
    assert!(guard.forget(&a.host));
    assert!(!guard.forget(&b.host));
    guard.end();
    for host in [&a.host, &b.host] {
        assert_eq!(Arc::strong_count(host), 1);
    }
    let (mut a, b) = (a, b);
    guard.watch(&b.host).unwrap();
    a.send(10);
    a.with(|host, conn, now| host.engine.ping(conn, b"again", now));
    run([&mut a], |[a]| a.pongs == 1);
    told.recv_timeout(LIMIT).unwrap();
    guard.end();
}

#[test]
fn the_other_side_hears_that_a_host_was_abandoned() {
    let (mut a, b) = pair(|_| {});
    let now = b.now();
    lock(&b.host).abandon(now);
    run([&mut a], |[a]| a.closed.is_some());
    assert_eq!(a.closed.as_ref().map(|(code, _)| *code), Some(4000));
    // Its socket is closed, although the host is still there.
    let mut rest = Vec::new();
    a.watched.set_nonblocking(false).unwrap();
    a.watched.set_read_timeout(Some(LIMIT)).unwrap();
    (&a.watched).read_to_end(&mut rest).unwrap();
}
