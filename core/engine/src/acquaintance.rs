//! Which of the addresses that units tell are dialed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use url::{Host, Url};

use crate::error::{Error, ErrorKind, Result};

/// Which of the addresses that units tell may be dialed.
///
/// Any unit can announce addresses. Without a filter it could make this peer dial targets that only this peer can
/// reach: its own machine, the inner network, the metadata service of a cloud. By default an address is dialed if it is
///
/// - public, or as near as the unit that announced it: loopback addresses only if that unit is connected over
///   loopback, private ones only if its own address is private or loopback; link-local addresses and those of
///   metadata services never; and
/// - at port 80 or 443, where proxies are, or from 1024 on. Below that are mail, name servers and the like, where
///   no peer listens.
///
/// The unit's own address is that of its connection, whichever side dialed it. Of several connections the farthest
/// counts. An unknown address, as for a stream that the application opened, counts as far away. Behind a proxy on the
/// same machine every unit appears to be local: narrow the networks there.
///
/// A name is judged by the addresses that it resolves to, at each attempt. Addresses without a host, such as multicast
/// and reserved ones, are never dialed, whatever is set. Addresses that the application connects to are not filtered.
///
/// ```
/// # fn main() -> roletalk_engine::Result<()> {
/// use roletalk_engine::AcquaintanceFilter;
///
/// let inner = AcquaintanceFilter::default().networks("10.1.0.0/16, fd12::/32")?.ports("9000-9100")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcquaintanceFilter {
    networks: Vec<Network>,
    ports: Vec<RangeInclusive<u16>>,
}

impl Default for AcquaintanceFilter {
    fn default() -> AcquaintanceFilter {
        AcquaintanceFilter {
            networks: vec![Network::Realm(Realm::Public), Network::Near],
            ports: vec![80..=80, 443..=443, 1024..=u16::MAX],
        }
    }
}

impl AcquaintanceFilter {
    /// Dials in these networks only, separated by commas or spaces: `public`; `private` (RFC 1918, 100.64.0.0/10 and
    /// IPv6's fc00::/7); `loopback`; `link_local`, with the addresses of clouds' metadata; `near`, which stands for
    /// loopback and private addresses as far as the teller has one itself; or blocks such as `10.0.0.0/8` or
    /// `fd12::/32`. Default `public, near`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for anything else.
    pub fn networks(mut self, networks: &str) -> Result<AcquaintanceFilter> {
        self.networks = parse(networks, "network", Network::parse)?;
        Ok(self)
    }

    /// Dials these ports only, separated by commas or spaces: numbers, ranges such as `9000-9100`, or `any`. Default
    /// `80, 443, 1024-65535`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for anything else.
    pub fn ports(mut self, ports: &str) -> Result<AcquaintanceFilter> {
        self.ports = parse(ports, "port", parse_ports)?;
        Ok(self)
    }

    /// Whether an address may be dialed, as far as that can be said before its name is looked up.
    pub(crate) fn check(&self, url: &Url, teller: Nearness) -> Result<(), Refused> {
        let port = url.port_or_known_default().unwrap_or(80);
        if !self.ports.iter().any(|range| range.contains(&port)) {
            return Err(Refused::Port(port));
        }
        match url.host() {
            Some(Host::Ipv4(ip)) => self.check_ip(ip.into(), teller),
            Some(Host::Ipv6(ip)) => self.check_ip(ip.into(), teller),
            _ => Ok(()),
        }
    }

    /// Whether an address may be connected to that a name has resolved to.
    pub(crate) fn check_ip(&self, ip: IpAddr, teller: Nearness) -> Result<(), Refused> {
        let plain = embedded(ip).map_or(ip, IpAddr::V4);
        let realm = Realm::of(plain);
        let fits = |network: &Network| match network {
            Network::Realm(allowed) => *allowed == realm,
            Network::Near => match realm {
                Realm::Loopback => teller == Nearness::Machine,
                Realm::Private => teller != Nearness::Elsewhere,
                _ => false,
            },
            Network::Block(block) => block.contains(ip) || block.contains(plain),
        };
        match realm != Realm::Nowhere && self.networks.iter().any(fits) {
            true => Ok(()),
            false => Err(Refused::Network(ip, realm)),
        }
    }
}

/// The parts of a list. An empty list has none: nothing is dialed.
fn parse<T>(text: &str, what: &str, part: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>> {
    let parts = text.split([',', ' ', '\t', '\n']).filter(|part| !part.is_empty());
    let parse = |given: &str| {
        part(given).map_err(|why| {
            let text = format!("`{given}` is no {what} of acquaintance: {why}");
            Error::new(ErrorKind::InvalidArgument, text)
        })
    };
    parts.map(parse).collect()
}

fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    if text == "any" {
        return Ok(1..=u16::MAX);
    }
    let number = |text: &str| match text.trim().parse() {
        Ok(0) | Err(_) => {
            Err("give a number from 1 to 65535, a range such as 9000-9100, or `any`".to_owned())
        }
        Ok(port) => Ok(port),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    match first <= last {
        true => Ok(first..=last),
        false => Err("the range ends before it begins".to_owned()),
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Network {
    Realm(Realm),
    /// Loopback and private addresses, as far as the teller has one.
    Near,
    Block(Block),
}

impl Network {
    fn parse(text: &str) -> Result<Network, String> {
        Ok(match text {
            "near" => Network::Near,
            "public" => Network::Realm(Realm::Public),
            "private" => Network::Realm(Realm::Private),
            "loopback" => Network::Realm(Realm::Loopback),
            "link_local" => Network::Realm(Realm::LinkLocal),
            _ => Network::Block(Block::parse(text).ok_or(
                "give `near`, `public`, `private`, `loopback`, `link_local`, or a block such as 10.0.0.0/8",
            )?),
        })
    }
}

/// What kind of address it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Realm {
    Public,
    Private,
    Loopback,
    /// Also where clouds serve their metadata.
    LinkLocal,
    /// Multicast, broadcast, reserved, unspecified: no host is there.
    Nowhere,
}

impl Realm {
    fn of(ip: IpAddr) -> Realm {
        match ip {
            IpAddr::V4(ip) => Realm::of_v4(ip),
            IpAddr::V6(ip) => Realm::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Realm {
        match ip.octets() {
            // Linux connects 0.0.0.0 to the machine itself.
            [0, ..] | [224..=255, ..] => Realm::Nowhere,
            [127, ..] => Realm::Loopback,
            // The metadata of Alibaba's cloud, and the host of Azure's.
            [169, 254, ..] | [100, 100, 100, 200] | [168, 63, 129, 16] | [192, 0, 0, 192] => {
                Realm::LinkLocal
            }
            [100, 64..=127, ..] | [198, 18..=19, ..] => Realm::Private,
            _ if ip.is_private() => Realm::Private,
            _ => Realm::Public,
        }
    }

    fn of_v6(ip: Ipv6Addr) -> Realm {
        match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 1] => Realm::Loopback,
            // With the addresses that once stood for those of IPv4.
            [0, 0, 0, 0, 0, 0, ..] | [0xff00..=0xffff, ..] => Realm::Nowhere,
            // A network's own translators lead to addresses of IPv4 that nobody has judged.
            [0x64, 0xff9b, 1, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Realm::Nowhere,
            // The metadata of Amazon's and Google's clouds.
            [0xfd00, 0x0ec2, ..] | [0xfd20, 0x00ce, ..] | [0xfe80..=0xfebf, ..] => Realm::LinkLocal,
            [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Realm::Private,
            _ => Realm::Public,
        }
    }
}

/// The address of IPv4 that one of IPv6 leads to: mapped, or by a translator or tunnel.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(ip) = ip else { return None };
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match ip.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] => Some(v4(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Block {
    base: IpAddr,
    /// How many bits of the base count.
    bits: u32,
}

impl Block {
    fn parse(text: &str) -> Option<Block> {
        let (base, bits) = match text.split_once('/') {
            Some((base, bits)) => (base, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().ok()?;
        let most = if base.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Block { base, bits })
    }

    fn contains(&self, ip: IpAddr) -> bool {
        match (self.base, ip) {
            (IpAddr::V4(base), IpAddr::V4(ip)) => {
                let differ = u32::from(base) ^ u32::from(ip);
                differ.leading_zeros() >= self.bits
            }
            (IpAddr::V6(base), IpAddr::V6(ip)) => {
                let differ = u128::from(base) ^ u128::from(ip);
                differ.leading_zeros() >= self.bits
            }
            _ => false,
        }
    }
}

/// Where a teller is, as far as its connection says. The later ones are farther away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nearness {
    /// On this machine.
    Machine,
    /// In a private network of this machine's.
    Network,
    /// Anywhere.
    Elsewhere,
}

impl Nearness {
    pub(crate) fn of(remote: Option<IpAddr>) -> Nearness {
        let Some(ip) = remote else { return Nearness::Elsewhere };
        // A translator's address says nothing of where somebody is, a mapped one does.
        match Realm::of(ip.to_canonical()) {
            Realm::Loopback => Nearness::Machine,
            Realm::Private | Realm::LinkLocal => Nearness::Network,
            Realm::Public | Realm::Nowhere => Nearness::Elsewhere,
        }
    }
}

/// Why an address that was told is not dialed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No `ws` or `wss` URL, or one that is too long.
    Address,
    Port(u16),
    Network(IpAddr, Realm),
    /// The unit has told of too many already.
    Unit(usize),
    /// All units have.
    Full(usize),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Address => f.write_str("it is no usable address of a peer"),
            Refused::Port(port) => write!(f, "port {port} is not among the ports of acquaintance"),
            Refused::Network(ip, realm) => {
                let realm = match realm {
                    Realm::Public => "a public address",
                    Realm::Private => "an address of a private network",
                    Realm::Loopback => "a loopback address",
                    Realm::LinkLocal => "a link-local address or one of a cloud's metadata",
                    Realm::Nowhere => return write!(f, "no host has the address {ip}"),
                };
                write!(
                    f,
                    "{ip} is {realm}, which the networks of acquaintance do not allow for its teller"
                )
            }
            Refused::Unit(most) => {
                write!(f, "its teller has told of {most} addresses that were not reached yet")
            }
            Refused::Full(most) => write!(f, "{most} addresses that were told are known already"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    const LOOPBACK: &str = "127.0.0.1";
    const PRIVATE: &str = "192.168.1.7";
    const PUBLIC: &str = "93.184.216.34";

    #[test]
    fn what_is_dialed_depends_on_the_teller() {
        let filter = AcquaintanceFilter::default();
        // The address that is told, and whether it is dialed when the teller is on the machine, in the private
        // network, anywhere.
        let table = [
            ("127.0.0.1", [true, false, false]),
            ("127.9.9.9", [true, false, false]),
            ("[::1]", [true, false, false]),
            ("[::ffff:127.0.0.1]", [true, false, false]),
            ("[2002:7f00:1::]", [true, false, false]),
            ("10.0.0.1", [true, true, false]),
            ("172.16.0.1", [true, true, false]),
            ("172.32.0.1", [true, true, true]),
            ("192.168.200.1", [true, true, false]),
            ("100.64.0.1", [true, true, false]),
            ("[fd12:3456::1]", [true, true, false]),
            ("[::ffff:10.0.0.1]", [true, true, false]),
            ("[64:ff9b::a00:1]", [true, true, false]),
            ("93.184.216.34", [true, true, true]),
            ("[2001:db8::1]", [true, true, true]),
            ("[64:ff9b::5db8:d822]", [true, true, true]),
            ("169.254.169.254", [false; 3]),
            ("[::ffff:169.254.169.254]", [false; 3]),
            ("[64:ff9b::a9fe:a9fe]", [false; 3]),
            ("[fe80::1]", [false; 3]),
            ("[fd00:ec2::254]", [false; 3]),
            ("100.100.100.200", [false; 3]),
            ("0.0.0.0", [false; 3]),
            ("0.1.2.3", [false; 3]),
            ("[::]", [false; 3]),
            ("[::7f00:1]", [false; 3]),
            ("224.0.0.1", [false; 3]),
            ("255.255.255.255", [false; 3]),
            ("[ff02::1]", [false; 3]),
            // Other ways to write 127.0.0.1.
            ("2130706433", [true, false, false]),
            ("0x7f.1", [true, false, false]),
            ("127.1", [true, false, false]),
            // Names are judged when they are looked up.
            ("internal.example", [true; 3]),
            ("localhost", [true; 3]),
        ];
        for (host, dialed) in table {
            for (teller, dialed) in [LOOPBACK, PRIVATE, PUBLIC].into_iter().zip(dialed) {
                let near = Nearness::of(Some(ip(teller)));
                let checked = filter.check(&url(&format!("ws://{host}:9000/")), near);
                assert_eq!(checked.is_ok(), dialed, "{host} told by {teller}: {checked:?}");
            }
        }
    }

    #[test]
    fn where_a_teller_is() {
        for (remote, near) in [
            (Some("127.0.0.1"), Nearness::Machine),
            (Some("::1"), Nearness::Machine),
            (Some("::ffff:127.0.0.1"), Nearness::Machine),
            (Some("10.9.8.7"), Nearness::Network),
            (Some("::ffff:10.9.8.7"), Nearness::Network),
            (Some("fe80::1"), Nearness::Network),
            (Some("93.184.216.34"), Nearness::Elsewhere),
            // Whoever has such an address has chosen it.
            (Some("2002:7f00:1::"), Nearness::Elsewhere),
            (Some("64:ff9b::a00:1"), Nearness::Elsewhere),
            (None, Nearness::Elsewhere),
        ] {
            assert_eq!(Nearness::of(remote.map(ip)), near, "{remote:?}");
        }
    }

    #[test]
    fn networks_that_are_set_are_the_only_ones() {
        // What is set, what is told by somebody far away, and whether it is dialed.
        for (networks, host, dialed) in [
            ("public", "93.184.216.34", true),
            ("public", "10.0.0.1", false),
            ("public, private", "10.0.0.1", true),
            ("private loopback", "127.0.0.1", true),
            ("private", "93.184.216.34", false),
            ("link_local", "169.254.169.254", true),
            ("10.1.0.0/16", "10.1.255.255", true),
            ("10.1.0.0/16", "10.2.0.0", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.4", false),
            ("10.1.0.0/16", "[::ffff:10.1.0.1]", true),
            ("fd12::/16", "[fd12:ffff::1]", true),
            ("fd12::/16", "[fd13::1]", false),
            ("0.0.0.0/0", "169.254.169.254", true),
            ("0.0.0.0/0", "[2001:db8::1]", false),
            ("0.0.0.0/0 ::/0", "224.0.0.1", false),
            ("0.0.0.0/0 ::/0", "[::]", false),
            ("", "93.184.216.34", false),
        ] {
            let filter = AcquaintanceFilter::default().networks(networks).unwrap();
            let checked = filter.check(&url(&format!("ws://{host}:9000")), Nearness::Elsewhere);
            assert_eq!(checked.is_ok(), dialed, "{host} with `{networks}`: {checked:?}");
        }
    }

    #[test]
    fn ports() {
        for (ports, address, dialed) in [
            (None, "ws://h", true),
            (None, "wss://h", true),
            (None, "wss://h:80", true),
            (None, "ws://h:1024", true),
            (None, "ws://h:65535", true),
            (None, "ws://h:1023", false),
            (None, "ws://h:25", false),
            (None, "ws://h:22", false),
            (Some("9000-9100, 9443"), "ws://h:9000", true),
            (Some("9000-9100, 9443"), "ws://h:9443", true),
            (Some("9000-9100, 9443"), "ws://h:9101", false),
            (Some("9000-9100, 9443"), "ws://h", false),
            (Some("any"), "ws://h:22", true),
            (Some(""), "ws://h:9000", false),
        ] {
            let mut filter = AcquaintanceFilter::default();
            if let Some(ports) = ports {
                filter = filter.ports(ports).unwrap();
            }
            let checked = filter.check(&url(address), Nearness::Elsewhere);
            assert_eq!(checked.is_ok(), dialed, "{address} with {ports:?}: {checked:?}");
        }
    }

    #[test]
    fn what_is_no_network_and_no_port_is_said() {
        for networks in ["intranet", "10.0.0.0/33", "fd12::/129", "10.0.0/8", "10.0.0.0/", "/8"] {
            let error = AcquaintanceFilter::default().networks(networks).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidArgument);
            assert!(error.text().contains("`link_local`, or a block"), "{error}");
        }
        for (ports, says) in [
            ("0", "from 1 to 65535"),
            ("65536", "from 1 to 65535"),
            ("http", "from 1 to 65535"),
            ("1-", "from 1 to 65535"),
            ("9100-9000", "ends before it begins"),
        ] {
            let error = AcquaintanceFilter::default().ports(ports).unwrap_err();
            assert!(error.text().contains(says), "{error}");
        }
    }

    #[test]
    fn refusals_say_what_was_wrong() {
        let filter = AcquaintanceFilter::default();
        let refused = |address: &str| {
            filter.check(&url(address), Nearness::Elsewhere).unwrap_err().to_string()
        };
        assert!(
            refused("ws://10.0.0.1:9000")
                .starts_with("10.0.0.1 is an address of a private network")
        );
        assert!(refused("ws://169.254.169.254").contains("metadata"));
        assert_eq!(refused("ws://h:25"), "port 25 is not among the ports of acquaintance");
        assert_eq!(refused("ws://224.0.0.1:9000"), "no host has the address 224.0.0.1");
    }
}
