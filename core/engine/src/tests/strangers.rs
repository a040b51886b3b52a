//! Limits on unauthenticated connections.

use std::net::{IpAddr, SocketAddr};

use super::*;

const MANY: &str = "10.0.0.1";
const OTHER: &str = "10.0.0.2";

fn engine(limits: impl FnOnce(&mut Limits)) -> Engine<u64> {
    let mut config = Config::new(Box::new(|bytes| bytes.fill(1)));
    limits(&mut config.limits);
    Engine::new(config)
}

fn from(address: &str) -> Remote {
    let address: IpAddr = address.parse().unwrap();
    Remote { address: Some(SocketAddr::new(address, 7)), ..Remote::default() }
}

fn accept(engine: &mut Engine<u64>, remote: Remote, now: Moment) -> Result<ConnId> {
    engine.open(Opening::Accept { path: None }, remote, now)
}

fn at(millis: u64) -> Moment {
    Moment::at(Duration::from_millis(millis))
}

/// What has happened, briefly.
fn told(engine: &mut Engine<u64>) -> Vec<String> {
    let events = std::iter::from_fn(|| engine.poll_event());
    let brief = |event| match event {
        EngineEvent::Evict { place, late } => format!("evict {} {late}", place.0),
        EngineEvent::Close { conn, .. } => format!("close {}", conn.0),
        EngineEvent::Peer(PeerEvent::ConnectionClosed { conn, reason, .. }) => {
            format!("closed {} {:?}", conn.0, reason.kind())
        }
        EngineEvent::Peer(PeerEvent::AcceptFailed { error }) => {
            format!("accept failed {:?}", error.kind())
        }
        EngineEvent::Peer(PeerEvent::AuthRefused { conn, .. }) => format!("refused {}", conn.0),
        other => format!("{other:?}"),
    };
    events.map(brief).collect()
}

#[test]
fn the_oldest_connections_of_a_crowded_address_are_evicted() {
    let mut engine = engine(|limits| limits.handshakes = 3);
    let many: Vec<_> = (0..3).map(|_| accept(&mut engine, from(MANY), NOW).unwrap()).collect();
    assert!(told(&mut engine).is_empty());
    let other = accept(&mut engine, from(OTHER), NOW).unwrap();
    let gone = many[0].0;
    assert_eq!(
        told(&mut engine),
        [
            format!("closed {gone} Overloaded"),
            format!("close {gone}"),
            "accept failed Overloaded".to_owned(),
        ]
    );
    // Its socket is closed without waiting for the other side.
    assert_eq!(engine.parting(many[0]), Some(Parting::LeaveAtOnce));
    assert_eq!(engine.parting(other), Some(Parting::WaitBriefly));
    // The connection from the other address stays, however many arrive. Not every eviction is reported.
    for _ in 0..100 {
        accept(&mut engine, from(MANY), NOW).unwrap();
    }
    let told_of = told(&mut engine);
    assert!(!told_of.iter().any(|event| event.starts_with("accept failed")), "{told_of:?}");
    assert!(!told_of.contains(&format!("close {}", other.0)), "{told_of:?}");
    assert_eq!(engine.peer().handshakes(), 3);
    // Meanwhile they are accepted more slowly.
    assert_eq!(engine.peer().accept_pause(NOW), Duration::from_millis(20));
    assert_eq!(engine.peer().accept_pause(NOW + Duration::from_millis(20)), Duration::ZERO);
    accept(&mut engine, from(MANY), NOW + Duration::from_secs(1)).unwrap();
    assert!(told(&mut engine).contains(&"accept failed Overloaded".to_owned()));
}

#[test]
fn one_address_has_a_bound() {
    let mut engine = engine(|limits| limits.handshakes_per_address = 1);
    let first = accept(&mut engine, from(MANY), NOW).unwrap();
    accept(&mut engine, from(OTHER), NOW).unwrap();
    assert!(told(&mut engine).is_empty());
    accept(&mut engine, from(MANY), NOW).unwrap();
    assert!(told(&mut engine).contains(&format!("close {}", first.0)));
}

#[test]
fn the_timeout_runs_from_accept() {
    let mut engine = engine(|limits| limits.handshake_timeout = Duration::from_secs(4));
    let address = Some(MANY.parse().unwrap());
    let slow = engine.enter(address, at(1_000)).unwrap();
    let silent = engine.enter(address, at(1_500)).unwrap();
    let remote = Remote { place: Some(slow), ..from(MANY) };
    let conn = accept(&mut engine, remote, at(4_000)).unwrap();
    assert_eq!(engine.peer().handshakes(), 2);
    assert_eq!(engine.deadline(), Some(at(5_000)));
    engine.handle_timeout(at(4_999));
    assert!(told(&mut engine).is_empty());
    engine.handle_timeout(at(5_000));
    let closed = [format!("closed {} ConnectFailed", conn.0), format!("close {}", conn.0)];
    assert_eq!(told(&mut engine), closed);
    // Nothing can be sent before the upgrade.
    assert_eq!(engine.parting(conn), Some(Parting::LeaveAtOnce));
    engine.handle_timeout(at(5_500));
    assert_eq!(told(&mut engine), [format!("evict {} true", silent.0)]);
    let remote = Remote { place: Some(silent), ..from(MANY) };
    let error = accept(&mut engine, remote, at(5_500)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert_eq!((engine.peer().handshakes(), engine.deadline()), (0, None));
}

#[test]
fn a_place_can_be_vacated_before_its_connection_is_open() {
    let mut engine = engine(|_| {});
    let place = engine.enter(None, NOW).unwrap();
    engine.with_peer(NOW, |peer| peer.vacate(place));
    assert_eq!(engine.peer().handshakes(), 0);
    // Once its connection is open, it cannot.
    let place = engine.enter(None, NOW).unwrap();
    accept(&mut engine, Remote { place: Some(place), ..Remote::default() }, NOW).unwrap();
    engine.with_peer(NOW, |peer| peer.vacate(place));
    assert_eq!(engine.peer().handshakes(), 1);
}

#[test]
fn without_descriptors_some_are_evicted() {
    let mut engine = engine(|_| {});
    accept(&mut engine, from(OTHER), NOW).unwrap();
    for _ in 0..16 {
        engine.enter(Some(MANY.parse().unwrap()), NOW).unwrap();
    }
    engine.with_peer(NOW, |peer| peer.accept_failed("Too many open files", NOW));
    let told_of = told(&mut engine);
    let expected = [
        "evict 1 false",
        "accept failed Overloaded",
        "evict 2 false",
        "evict 3 false",
        "accept failed Io",
    ];
    assert_eq!(told_of, expected);
    // The next failure comes too soon for another report.
    engine.with_peer(NOW, |peer| peer.accept_failed("Too many open files", NOW));
    assert_eq!(told(&mut engine), ["evict 4 false", "evict 5 false"]);
}

#[test]
fn a_closed_peer_lets_nobody_in() {
    let mut engine = engine(|_| {});
    engine.close(NOW);
    assert_eq!(engine.enter(None, NOW).unwrap_err().kind(), ErrorKind::Closed);
}
