//! Who may do what: policies, identities, and the application's judgement of upgrades.

use std::net::SocketAddr;

use super::*;
use crate::{
    Binding, ChannelBinding, Claims, Denial, Identity, PeerKey, Policy,
    ws::{Denied, Upgraded},
};

const DIALER: usize = 0;
const LISTENER: usize = 1;

/// Two engines that share connections over which upgrades go, too.
struct Meeting {
    engines: [Engine<u64>; 2],
    events: [Vec<EngineEvent<u64>>; 2],
    conns: [ConnId; 2],
}

fn engine(seed: u8, change: impl FnOnce(&mut Config)) -> Engine<u64> {
    let mut config = Config::new(Box::new(move |bytes| bytes.fill(seed)));
    change(&mut config);
    Engine::new(config)
}

fn at(address: &str) -> Remote {
    Remote::at(address.parse::<SocketAddr>().unwrap())
}

fn claims(sub: &str) -> Claims {
    Claims::from_iter([("sub".to_owned(), sub.into())])
}

impl Meeting {
    fn new(engines: [Engine<u64>; 2]) -> Meeting {
        Meeting { engines, events: Default::default(), conns: [ConnId(0); 2] }
    }

    /// Connects, with what each side knows of the other.
    fn connect(&mut self, headers: &[(&str, &str)], remotes: [Remote; 2]) {
        let [dialer, listener] = &mut self.engines;
        let address =
            dialer.with_peer(NOW, |peer| peer.connect("ws://a.example/", false, NOW)).unwrap();
        dialer.with_peer(NOW, |peer| peer.handle_timeout(NOW));
        let headers = headers.iter().map(|(name, value)| {
            (
                http::HeaderName::try_from(*name).unwrap(),
                http::HeaderValue::try_from(*value).unwrap(),
            )
        });
        let opening = Opening::dial(address, "ws://a.example/", headers.collect()).unwrap();
        let [of_listener, of_dialer] = remotes;
        let dialed = dialer.open(opening, of_listener, NOW).unwrap();
        let accepted = listener.open(Opening::Accept { path: None }, of_dialer, NOW).unwrap();
        self.conns = [dialed, accepted];
        self.settle();
    }

    fn connect_plainly(&mut self) {
        self.connect(&[], [Remote::default(), Remote::default()]);
    }

    fn settle(&mut self) {
        let mut said = true;
        while said {
            said = false;
            for from in [DIALER, LISTENER] {
                let mut bytes = Vec::new();
                self.engines[from].take_output(self.conns[from], &mut bytes);
                self.engines[from].written(self.conns[from], NOW);
                self.engines[1 - from].receive(self.conns[1 - from], &bytes, NOW);
                for (engine, events) in self.engines.iter_mut().zip(&mut self.events) {
                    events.extend(std::iter::from_fn(|| engine.poll_event()));
                }
                said |= !bytes.is_empty();
            }
        }
    }

    fn identity(&self, side: usize) -> Option<Arc<Identity>> {
        let peer = self.engines[side].peer();
        let unit = peer.units().last()?;
        peer.unit(unit).map(|(info, _)| info.identity.clone())
    }

    fn connections(&self, side: usize) -> usize {
        let peer = self.engines[side].peer();
        peer.units()
            .filter_map(|unit| self.engines[side].unit(unit))
            .map(|unit| unit.connections().count())
            .sum()
    }

    /// What the peer of one side has told, since it was last asked.
    fn told(&mut self, side: usize) -> Vec<PeerEvent> {
        let events = std::mem::take(&mut self.events[side]);
        let told = events.into_iter().filter_map(|event| match event {
            EngineEvent::Peer(event) => Some(event),
            _ => None,
        });
        told.collect()
    }

    fn denials(&mut self, side: usize) -> Vec<Denial> {
        let denials = self.told(side).into_iter().filter_map(|event| match event {
            PeerEvent::Denied { denial, .. } => Some(denial),
            _ => None,
        });
        denials.collect()
    }

    /// Why the last connection was not let in.
    fn refusal(&mut self, side: usize) -> String {
        let refusals = self.told(side).into_iter().filter_map(|event| match event {
            PeerEvent::ConnectionClosed { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        refusals.last().expect("a connection has closed")
    }

    fn upgrade_request(&mut self) -> Upgraded {
        let events = &mut self.events[LISTENER];
        let at =
            events.iter().position(|event| matches!(event, EngineEvent::UpgradeRequest { .. }));
        match events.remove(at.expect("the application is asked")) {
            EngineEvent::UpgradeRequest { conn, request } if conn == self.conns[LISTENER] => {
                request
            }
            event => panic!("{event:?}"),
        }
    }

    fn judge(&mut self, verdict: Result<Claims, Denied>) {
        self.engines[LISTENER].judge(self.conns[LISTENER], verdict, NOW);
        self.settle();
    }
}

fn keyed(seed: u8, keys: &[(&str, &str)]) -> Engine<u64> {
    engine(seed, |config| {
        for (id, key) in keys {
            config.keys.add(*id, *key).unwrap();
        }
    })
}

#[test]
fn the_proved_key_is_part_of_the_identity_on_both_sides() {
    let mut meeting =
        Meeting::new([keyed(1, &[("b", "2"), ("a", "1")]), keyed(2, &[("a", "1"), ("b", "2")])]);
    meeting.connect(&[], [at("192.0.2.1:1"), at("192.0.2.2:2")]);
    let [dialer, listener] = [DIALER, LISTENER].map(|side| meeting.identity(side).unwrap());
    // Each asks for its first one.
    assert_eq!(dialer.key.as_deref(), Some("b"));
    assert_eq!(listener.key.as_deref(), Some("a"));
    assert_eq!(listener.address, Some("192.0.2.2:2".parse().unwrap()));
    assert!(dialer.dialed && !listener.dialed);
}

#[test]
fn nobody_joins_a_unit_of_another_identity() {
    let listener = keyed(2, &[("a", "1"), ("b", "2")]);
    let mut meeting = Meeting::new([keyed(1, &[("a", "1")]), listener]);
    meeting.connect_plainly();
    meeting.connect_plainly();
    assert_eq!(meeting.connections(LISTENER), 2);
    // Another one, which claims the same id: they come from the same bytes.
    meeting.engines[DIALER] = keyed(1, &[("b", "2")]);
    meeting.connect_plainly();
    assert_eq!(meeting.connections(LISTENER), 2);
    assert!(meeting.refusal(LISTENER).contains("A unit with this id has shown another identity"));
}

#[test]
fn what_shows_less_does_not_stand_for_what_has_shown_more() {
    let listener = engine(2, |config| config.authenticates = true);
    let mut meeting = Meeting::new([engine(1, |_| {}), listener]);
    let mut join = |sub: &str| {
        meeting.connect_plainly();
        meeting.judge(Ok(claims(sub)));
        meeting.connections(LISTENER)
    };
    assert_eq!(join("a"), 1);
    // A connection that this side has dialed shows no claims. Then another one with the same id comes.
    let unit = UnitId(0);
    let engine = &mut meeting.engines[LISTENER];
    let dialed = Opening::Upgraded { side: Side::Client, address: None };
    let dialed = engine.open(dialed, Remote::default(), NOW).unwrap();
    let accepted = Opening::Upgraded { side: Side::Server, address: None };
    let accepted = meeting.engines[DIALER].open(accepted, Remote::default(), NOW).unwrap();
    let before = std::mem::replace(&mut meeting.conns, [accepted, dialed]);
    meeting.settle();
    assert_eq!(meeting.connections(LISTENER), 2);
    assert!(meeting.engines[LISTENER].peer().unit(unit).unwrap().0.identity.claims.is_empty());
    meeting.conns = before;
    meeting.connect_plainly();
    meeting.judge(Ok(claims("b")));
    assert_eq!(meeting.connections(LISTENER), 2);
    assert!(meeting.refusal(LISTENER).contains("has shown another identity"));
}

#[test]
fn an_upgrade_waits_for_the_verdict_of_the_application() {
    let listener = engine(2, |config| {
        config.authenticates = true;
        config.identity_headers = vec!["x-team".to_owned()];
    });
    let mut meeting = Meeting::new([engine(1, |_| {}), listener]);
    let headers = [("authorization", "Bearer t"), ("x-team", "red")];
    meeting.connect(&headers, [Remote::default(), Remote::default()]);
    let request = meeting.upgrade_request();
    assert_eq!(request.headers["authorization"], "Bearer t");
    let conn = meeting.conns[LISTENER];
    assert!(!meeting.engines[LISTENER].may_read(conn), "nothing is read until then");
    assert_eq!(meeting.connections(LISTENER), 0);
    meeting.judge(Ok(claims("red-1")));
    assert!(meeting.engines[LISTENER].may_read(conn));
    let identity = meeting.identity(LISTENER).unwrap();
    assert_eq!(identity.claims, claims("red-1"));
    assert_eq!(identity.headers, [("x-team".to_owned(), "red".to_owned())]);
    // Once more is nothing.
    meeting.judge(Err(Denied::new("too late")));
    assert_eq!(meeting.connections(LISTENER), 1);
}

#[test]
fn headers_of_upgrades_are_kept_on_the_side_that_accepts() {
    let keeping = |seed| engine(seed, |config| config.identity_headers = vec!["x-team".to_owned()]);
    let mut meeting = Meeting::new([keeping(1), keeping(2)]);
    meeting.connect(&[("x-team", "red")], [Remote::default(), Remote::default()]);
    let [dialer, listener] = [DIALER, LISTENER].map(|side| meeting.identity(side).unwrap());
    assert_eq!(listener.headers, [("x-team".to_owned(), "red".to_owned())]);
    assert_eq!(dialer.headers, []);
}

#[test]
fn an_upgrade_that_the_application_refuses_is_answered_so() {
    for (status, seen) in [(401, 401), (503, 503), (200, 403), (0, 403)] {
        let listener = engine(2, |config| config.authenticates = true);
        let mut meeting = Meeting::new([engine(1, |_| {}), listener]);
        meeting.connect_plainly();
        meeting.judge(Err(Denied { status, reason: "no \x1b[2Jtoken".to_owned() }));
        let told = meeting.refusal(LISTENER);
        assert!(told.contains("refused the upgrade: no \\u{1b}[2Jtoken"), "{told}");
        let told = meeting.refusal(DIALER);
        assert_eq!(told, format!("Unexpected server response: {seen}"));
    }
    let listener = engine(2, |config| config.authenticates = true);
    let mut meeting = Meeting::new([engine(1, |_| {}), listener]);
    meeting.connect_plainly();
    meeting.judge(Ok(claims(&"x".repeat(10_000))));
    assert!(meeting.refusal(LISTENER).contains("8192 are allowed"));
}

#[test]
fn a_verdict_that_is_late_is_for_nobody() {
    let listener = engine(2, |config| config.authenticates = true);
    let mut meeting = Meeting::new([engine(1, |_| {}), listener]);
    meeting.connect_plainly();
    let late = NOW + Limits::default().handshake_timeout;
    meeting.engines[LISTENER].handle_timeout(late);
    meeting.settle();
    assert!(meeting.refusal(LISTENER).contains("took too long"));
    meeting.judge(Ok(claims("a")));
    assert_eq!(meeting.connections(LISTENER), 0);
}

#[test]
fn pages_of_foreign_origins_are_refused() {
    for (origin, allowed, expected) in [
        (None, None, 1),
        (Some("https://evil.example"), None, 0),
        // The same as the host: by a name of its own, any page can have it so.
        (Some("http://a.example"), None, 0),
        (Some("https://app.example"), Some("https://app.example"), 1),
        (Some("https://evil.example"), Some("https://app.example"), 0),
    ] {
        let listener = engine(2, |config| {
            let origins = Arc::make_mut(&mut config.origins);
            allowed.into_iter().for_each(|origin| origins.allow(origin).unwrap());
        });
        let mut meeting = Meeting::new([engine(1, |_| {}), listener]);
        let headers: Vec<_> = origin.into_iter().map(|origin| ("origin", origin)).collect();
        meeting.connect(&headers, [Remote::default(), Remote::default()]);
        assert_eq!(meeting.connections(LISTENER), expected, "{origin:?} {allowed:?}");
        if expected == 0 {
            assert_eq!(meeting.refusal(DIALER), "Unexpected server response: 403");
            assert!(meeting.refusal(LISTENER).contains("is foreign"));
        }
    }
}

/// What only one TLS connection has.
fn bound(byte: u8) -> Remote {
    let binding = Binding { tls: true, exporter: Some([byte; 32]), end_point: None };
    Remote { binding, ..Remote::default() }
}

#[test]
fn keys_are_not_proved_to_a_relay() {
    let key = [("a", "1")];
    let with = |mode| {
        let peer = |seed| {
            engine(seed, |config| {
                config.keys.add("a", "1").unwrap();
                config.channel_binding = mode;
            })
        };
        [peer(1), peer(2)]
    };
    for mode in ChannelBinding::ALL {
        let mut meeting = Meeting::new(with(mode));
        meeting.connect(&[], [bound(5), bound(5)]);
        assert_eq!(meeting.connections(LISTENER), 1, "{mode:?}");
        // Somebody in between has a TLS connection with each.
        let mut meeting = Meeting::new(with(mode));
        meeting.connect(&[], [bound(5), bound(6)]);
        let expected = usize::from(mode == ChannelBinding::Disable);
        assert_eq!(meeting.connections(LISTENER), expected, "{mode:?}");
        // Without TLS there is nothing to name.
        let mut meeting = Meeting::new(with(mode));
        meeting.connect_plainly();
        let expected = usize::from(mode != ChannelBinding::Require);
        assert_eq!(meeting.connections(LISTENER), expected, "{mode:?}");
    }
    let mut meeting = Meeting::new([keyed(1, &key), keyed(2, &key)]);
    meeting.connect(&[], [bound(5), bound(6)]);
    let told = [DIALER, LISTENER].map(|side| meeting.refusal(side));
    assert!(told.iter().any(|told| told.contains("another TLS connection")), "{told:?}");
}

#[test]
fn an_id_belongs_to_the_key_of_its_peer() {
    let with_key = |seed: u8, secret: u8| {
        engine(seed, |config| config.peer_key = Some(PeerKey::from_secret(&[secret; 32])))
    };
    let name = PeerKey::from_secret(&[7; 32]).name().to_owned();
    let mut meeting = Meeting::new([with_key(1, 7), engine(2, |_| {})]);
    meeting.connect(&[], [bound(5), bound(5)]);
    let identity = meeting.identity(LISTENER).unwrap();
    assert_eq!(identity.peer.as_deref(), Some(name.as_str()));
    assert_eq!(meeting.identity(DIALER).unwrap().peer, None);
    let id = meeting.engines[DIALER].peer().id().clone();
    assert!(id.starts_with(&format!("{name}-")));
    // A further one joins; one that proves nothing becomes a unit of its own; one that has heard it elsewhere is out.
    meeting.connect(&[], [bound(6), bound(6)]);
    assert_eq!(meeting.connections(LISTENER), 2);
    assert_eq!(meeting.engines[LISTENER].peer().units().count(), 1);
    meeting.connect_plainly();
    assert_eq!(meeting.connections(LISTENER), 3);
    assert_eq!(meeting.engines[LISTENER].peer().units().count(), 2);
    assert_eq!(meeting.identity(LISTENER).unwrap().peer, None);
    meeting.connect(&[], [bound(5), bound(6)]);
    assert_eq!(meeting.connections(LISTENER), 3);
    assert!(meeting.refusal(LISTENER).contains("The id is proved for another connection"));
    // Each unit goes by itself.
    meeting.engines[LISTENER].close_unit(UnitId(1), NOW);
    meeting.connect(&[], [bound(5), bound(5)]);
    assert_eq!(meeting.engines[LISTENER].peer().units().collect::<Vec<_>>(), [UnitId(0)]);
}

/// The listener has a policy, and the dialer shows this key.
fn governed(policy: &str, key: &str) -> Meeting {
    let policy = Arc::new(Policy::parse(policy).unwrap());
    let listener = engine(2, |config| {
        config.keys.add("a", "1").unwrap();
        config.keys.add("b", "2").unwrap();
        config.policy = Some(policy);
    });
    let secret = if key == "a" { "1" } else { "2" };
    let mut meeting = Meeting::new([keyed(1, &[(key, secret)]), listener]);
    meeting.connect_plainly();
    assert_eq!(meeting.connections(LISTENER), 1);
    meeting.told(LISTENER);
    meeting
}

fn call<'a>(role: &'a str, event: &'a str) -> Outgoing<'a> {
    Outgoing { event, ..to(role) }
}

impl Meeting {
    /// One of each kind, twice, as the names of the one before are not decoded again.
    fn call(&mut self, role: &str, event: &str) {
        for _ in 0..2 {
            let unit = self.engines[DIALER].peer().units().last().unwrap();
            self.engines[DIALER]
                .with_unit(unit, NOW, |unit| {
                    unit.send(call(role, event)).unwrap();
                    unit.request(call(role, event), None, NOW, 1).unwrap();
                    for direction in [Direction::RequesterReads, Direction::RequesterWrites] {
                        unit.open_stream(direction, call(role, event), None, NOW, 2).unwrap();
                    }
                })
                .unwrap();
            self.settle();
        }
    }

    /// How many of these came to a handler, and how many were rejected.
    fn outcome(&mut self) -> (usize, usize) {
        let of = |events: &mut Vec<EngineEvent<u64>>| {
            let (units, others) = std::mem::take(events)
                .into_iter()
                .partition(|event| matches!(event, EngineEvent::Unit { .. }));
            *events = others;
            units
        };
        let asked: Vec<EngineEvent<u64>> = of(&mut self.events[LISTENER]);
        let handled = asked
            .iter()
            .filter(|event| matches!(event, EngineEvent::Unit { event: Event::Incoming(..), .. }));
        let told: Vec<EngineEvent<u64>> = of(&mut self.events[DIALER]);
        let rejected = told.iter().filter(|event| match event {
            EngineEvent::Unit { event: Event::Answer { outcome: Err(error), .. }, .. } => {
                assert_eq!(error.kind(), ErrorKind::Rejected);
                assert!(
                    error.text().starts_with("Not allowed by the policy of the peer"),
                    "{error}"
                );
                assert_eq!(error.code(), Some("NOT_ALLOWED"));
                assert!(error.is_unhandled());
                true
            }
            _ => false,
        });
        (handled.count(), rejected.count())
    }
}

#[test]
fn calls_are_allowed_and_denied_whatever_their_kind() {
    let policy = r#"{"rules": [
        {"who": {"key": "a"}, "call": ["r/e", {"role": "s", "event": "e", "kinds": ["message", "readable"]}]}
    ]}"#;
    let mut meeting = governed(policy, "a");
    meeting.call("r", "e");
    assert_eq!(meeting.outcome(), (8, 0));
    assert_eq!(meeting.denials(LISTENER), []);
    meeting.call("r", "f");
    assert_eq!(meeting.outcome(), (0, 6));
    // The rest is told with the next, a second later.
    let denials = meeting.denials(LISTENER);
    assert_eq!(denials.len(), 1);
    assert_eq!(denials[0].to_string(), r#"may not call "r" / "f" (message)"#);
    meeting.call("s", "e");
    // A readable is what this side reads: the requester writes.
    assert_eq!(meeting.outcome(), (4, 4));
    let stats = meeting.engines[LISTENER].unit(UnitId(0)).unwrap().stats();
    assert_eq!(stats.denied, 12);
    assert_eq!(stats.running, 12);
    let mut other = governed(policy, "b");
    other.call("r", "e");
    assert_eq!(other.outcome(), (0, 6));
}

#[test]
fn a_role_that_is_announced_without_permission_does_not_exist() {
    let policy = r#"{"default": {"call": "allow"}, "rules": [{"who": {"key": "a"}, "serve": ["payments"]}]}"#;
    for (key, serves) in [("a", true), ("b", false)] {
        let mut meeting = governed(policy, key);
        let listener = &mut meeting.engines[LISTENER];
        listener.with_peer(NOW, |peer| peer.add_destination("payments")).unwrap();
        let dialer = &mut meeting.engines[DIALER];
        dialer.with_peer(NOW, |peer| {
            peer.add_role("payments", true, NOW).unwrap();
            peer.add_role("other", true, NOW).unwrap();
            peer.handle_timeout(NOW);
        });
        meeting.settle();
        let peer = meeting.engines[LISTENER].peer();
        let units = peer.destination("payments").len();
        assert_eq!(units, usize::from(serves));
        let roles = peer.unit(UnitId(0)).unwrap().1.to_vec();
        assert_eq!(roles.iter().any(|role| role == "payments"), serves);
        let denials = meeting.denials(LISTENER);
        assert_eq!(denials.len(), 1, "{denials:?}");
        assert_eq!((denials[0].what(), denials[0].count), ("serve", if serves { 1 } else { 2 }));
        // The same announcement again is not told again.
        meeting.engines[DIALER].with_peer(NOW, |peer| {
            peer.set_role_active("payments", true, NOW);
            peer.handle_timeout(NOW);
        });
        meeting.settle();
        assert_eq!(meeting.denials(LISTENER), []);
    }
}

#[test]
fn a_new_policy_is_in_force_for_those_who_are_connected() {
    let mut meeting = governed(r#"{"rules": []}"#, "a");
    meeting.engines[LISTENER].with_peer(NOW, |peer| peer.add_destination("payments")).unwrap();
    meeting.engines[DIALER].with_peer(NOW, |peer| {
        peer.add_role("payments", true, NOW).unwrap();
        peer.handle_timeout(NOW);
    });
    meeting.settle();
    for (policy, allowed) in [
        (Some(r#"{"default": "allow"}"#), true),
        (Some(r#"{"default": "deny"}"#), false),
        (None, true),
        (Some(r#"{"rules": [{"who": {"key": "b"}, "call": ["*"], "serve": ["*"]}]}"#), false),
        (Some(r#"{"rules": [{"who": {"key": "a"}, "call": ["*"], "serve": ["*"]}]}"#), true),
    ] {
        let parsed = policy.map(|policy| Arc::new(Policy::parse(policy).unwrap()));
        meeting.engines[LISTENER].with_peer(NOW, |peer| peer.set_policy(parsed));
        meeting.call("r", "e");
        assert_eq!(meeting.outcome().0, if allowed { 8 } else { 0 }, "{policy:?}");
        let units = meeting.engines[LISTENER].peer().destination("payments").len();
        assert_eq!(units, usize::from(allowed), "{policy:?}");
    }
}

#[test]
fn rights_are_part_of_what_connections_of_a_unit_share() {
    let policy =
        r#"{"default": "allow", "rules": [{"who": {"address": "192.0.2.0/24"}, "call": ["r"]}]}"#;
    let policy = Arc::new(Policy::parse(policy).unwrap());
    let listener = engine(2, |config| config.policy = Some(policy));
    let mut meeting = Meeting::new([engine(1, |_| {}), listener]);
    for (from, expected) in [("192.0.2.1:1", 1), ("192.0.2.2:2", 2), ("198.51.100.1:1", 2)] {
        meeting.connect(&[], [Remote::default(), at(from)]);
        assert_eq!(meeting.connections(LISTENER), expected, "{from}");
    }
}
