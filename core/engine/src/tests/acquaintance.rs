//! What a unit can have this peer dial.

use std::net::{IpAddr, SocketAddr};

use super::*;

const MACHINE: &str = "127.0.0.1:1";
const INNER: &str = "10.0.0.9:1";
const OUTER: &str = "93.184.216.34:1";

/// Side 0 wants the role `x`, and side 1 is at this address, or at these.
struct Told {
    pair: Pair,
    names: u32,
}

impl Told {
    fn by(tellers: &[&str], change: impl Fn(&mut Config)) -> Told {
        let mut pair = Pair::apart(change);
        for teller in tellers {
            pair.connect_to(Remote::at(teller.parse::<SocketAddr>().unwrap()));
            pair.settle();
        }
        pair.engines[0].with_peer(NOW, |peer| peer.add_destination("x")).unwrap();
        Told { pair, names: 0 }
    }

    /// The address that is dialed, or why none is.
    fn tell(&mut self, address: &str) -> Result<(AddressId, String), String> {
        self.names += 1;
        let told = Acquaint {
            id: format!("id{}", self.names),
            address: Some(address.to_owned()),
            roles: vec!["x".to_owned()],
        };
        let engine = &mut self.pair.engines[0];
        engine.with_peer(NOW, |peer| peer.hear(UnitId(0), News::Acquaint(told), NOW));
        engine.handle_timeout(NOW);
        let mut dialed = Err("nothing happened".to_owned());
        while let Some(event) = engine.poll_event() {
            match event {
                EngineEvent::Dial { address, url } => dialed = Ok((address, url.to_string())),
                EngineEvent::Peer(PeerEvent::AddressIgnored { unit, reason, .. }) => {
                    assert_eq!(unit, UnitId(0));
                    dialed = Err(reason);
                }
                _ => {}
            }
        }
        dialed
    }

    fn ignored(&self) -> u64 {
        self.pair.engines[0].peer().addresses_ignored()
    }
}

#[test]
fn a_unit_tells_of_what_is_as_near_as_itself() {
    for (tellers, address, is_dialed) in [
        (&[MACHINE][..], "ws://127.0.0.1:9000", true),
        (&[INNER], "ws://127.0.0.1:9000", false),
        (&[OUTER], "ws://10.0.0.1:9000", false),
        (&[INNER], "ws://10.0.0.1:9000", true),
        (&[OUTER], "ws://93.184.216.35:9000", true),
        (&[MACHINE], "ws://169.254.169.254", false),
        (&[MACHINE], "ws://127.0.0.1:22", false),
        // Whoever joins the connections of somebody on the machine is not on it.
        (&[MACHINE, OUTER], "ws://127.0.0.1:9000", false),
        (&[OUTER, MACHINE], "ws://127.0.0.1:9000", false),
        (&[MACHINE, INNER], "ws://10.0.0.1:9000", true),
    ] {
        let mut told = Told::by(tellers, |_| {});
        let outcome = told.tell(address);
        assert_eq!(outcome.is_ok(), is_dialed, "{address} by {tellers:?}: {outcome:?}");
        assert_eq!(told.ignored(), u64::from(!is_dialed));
    }
}

#[test]
fn what_is_set_widens_and_narrows() {
    let set = |networks: &'static str, ports: &'static str| {
        move |config: &mut Config| {
            let filter = AcquaintanceFilter::default().networks(networks).unwrap();
            config.acquaintance = filter.ports(ports).unwrap();
        }
    };
    let mut wide = Told::by(&[OUTER], set("public, private", "any"));
    assert!(wide.tell("ws://10.0.0.1:22").is_ok());
    let mut narrow = Told::by(&[MACHINE], set("10.0.0.0/8", "9000"));
    assert!(narrow.tell("ws://10.0.0.1:9000").is_ok());
    assert!(narrow.tell("ws://127.0.0.1:9000").is_err());
    assert!(narrow.tell("ws://10.0.0.1:9001").is_err());
}

#[test]
fn what_is_dialed_is_what_was_judged() {
    let mut told = Told::by(&[MACHINE], |_| {});
    for (address, dialed) in [
        ("ws://127.0.0.1:9000", "ws://127.0.0.1:9000"),
        ("ws://name:secret@127.0.0.1:9001/", "ws://127.0.0.1:9001"),
        ("ws://name@127.0.0.1:9002/p?q#f", "ws://127.0.0.1:9002/p?q"),
        // Others read another host out of it.
        ("ws://127.0.0.1:9003\\@example.org/", "ws://127.0.0.1:9003/@example.org/"),
        ("ws://2130706433:9004", "ws://127.0.0.1:9004"),
        ("WS://LOCALHOST:9005", "ws://localhost:9005"),
        (" ws://127.0.0.1:90\t06 ", "ws://127.0.0.1:9006"),
    ] {
        assert_eq!(told.tell(address).unwrap().1, dialed, "{address:?}");
    }
    // However it is written, it is dialed once.
    for again in ["ws://127.0.0.1:9000/", "ws://other@127.0.0.1:9000", "ws://127.1:9000/#x"] {
        assert_eq!(told.tell(again).unwrap_err(), "nothing happened");
    }
    assert_eq!(told.ignored(), 0);
}

#[test]
fn addresses_that_are_none_are_counted() {
    let mut told = Told::by(&[MACHINE], |_| {});
    let long = format!("ws://h/{}", "x".repeat(5_000));
    for none in ["http://127.0.0.1:9000", "not a url", "ws://", "ws://h:70000", &long] {
        assert_eq!(told.tell(none).unwrap_err(), "it is no usable address of a peer", "{none:?}");
    }
    assert_eq!(told.ignored(), 5);
    assert!(told.tell(&format!("ws://h/{}", "x".repeat(4_000))).is_ok());
    // Of no address there is nothing to say.
    assert_eq!(told.tell("").unwrap_err(), "nothing happened");
    assert_eq!(told.ignored(), 5);
}

#[test]
fn a_unit_tells_of_so_many() {
    let mut told = Told::by(&[MACHINE], |config| {
        config.limits.acquaintance_addresses_per_unit = 2;
        config.limits.acquaintance_addresses = 3;
    });
    for n in 0..2 {
        assert!(told.tell(&format!("ws://127.0.0.1:900{n}")).is_ok());
    }
    let refused = told.tell("ws://127.0.0.1:9002").unwrap_err();
    assert_eq!(refused, "its teller has told of 2 addresses that were not reached yet");
    // What the application asks for is not in its way, nor in the way of that.
    let engine = &mut told.pair.engines[0];
    let asked = engine.with_peer(NOW, |peer| peer.connect("ws://127.0.0.1:9002", true, NOW));
    asked.unwrap();
    assert_eq!(told.ignored(), 1);
}

#[test]
fn names_are_judged_by_what_they_resolve_to() {
    let ips = |texts: &[&str]| texts.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<IpAddr>>();
    let found = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "93.184.216.34", "::1", "fd00::1"];
    for (teller, admitted) in [
        (MACHINE, &["127.0.0.1", "10.0.0.1", "93.184.216.34", "::1", "fd00::1"][..]),
        (INNER, &["10.0.0.1", "93.184.216.34", "fd00::1"]),
        (OUTER, &["93.184.216.34"]),
    ] {
        let mut told = Told::by(&[teller], |_| {});
        let (address, _) = told.tell("ws://rebound.example:9000").unwrap();
        let engine = &mut told.pair.engines[0];
        let admit = |peer: &mut Peer| peer.admit_found(address, ips(&found));
        assert_eq!(engine.with_peer(NOW, admit).unwrap(), ips(admitted), "{teller}");
        let none =
            |peer: &mut Peer| peer.admit_found(address, ips(&["169.254.169.254", "ff02::1"]));
        let error = engine.with_peer(NOW, none).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectFailed);
        assert!(
            error.text().contains("`ws://rebound.example:9000` is not dialed: 169.254.169.254")
        );
        // Once for each attempt.
        assert_eq!(told.ignored(), 2);
    }
}

#[test]
fn what_the_application_connects_to_is_not_judged() {
    let mut told = Told::by(&[OUTER], |_| {});
    let engine = &mut told.pair.engines[0];
    let metadata = "ws://169.254.169.254:22/";
    let address = engine.with_peer(NOW, |peer| peer.connect(metadata, true, NOW)).unwrap();
    let ip: IpAddr = "169.254.169.254".parse().unwrap();
    let found = engine.with_peer(NOW, |peer| peer.admit_found(address, vec![ip]));
    assert_eq!(found.unwrap(), [ip]);
    assert_eq!(told.ignored(), 0);
}

#[test]
fn what_is_logged_is_a_line_without_credentials() {
    let mut told = Told::by(&[OUTER], |_| {});
    let engine = &mut told.pair.engines[0];
    for (address, shown) in [
        ("ws://name:secret@10.0.0.1:9000/", "ws://10.0.0.1:9000/".to_owned()),
        ("no\nurl", r"no\nurl".to_owned()),
        (&"x".repeat(300), format!("{}…", "x".repeat(256))),
    ] {
        let told = Acquaint {
            id: address.to_owned(),
            address: Some(address.to_owned()),
            roles: vec!["x".to_owned()],
        };
        engine.with_peer(NOW, |peer| peer.hear(UnitId(0), News::Acquaint(told), NOW));
        let ignored = std::iter::from_fn(|| engine.poll_event()).find_map(|event| match event {
            EngineEvent::Peer(PeerEvent::AddressIgnored { url, .. }) => Some(url),
            _ => None,
        });
        assert_eq!(ignored.unwrap(), shown);
    }
}
