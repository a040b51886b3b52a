//! What to do about an error, in words: once, for every language.

use std::{fmt, io};

use crate::{text::printable_up_to, wire::MAX_KNOWN};

/// How much of a text that a stranger chose is shown, in characters.
const SHOWN: usize = 64;
/// How many units, or roles of one, are shown.
const LISTED: usize = 8;

/// A text that may come from a stranger, fit for logs and terminals: cut, without control characters.
pub(crate) fn shown(text: &str) -> String {
    printable_up_to(text, SHOWN)
}

/// Some of them, and how many more there are.
fn listed(mut items: impl Iterator<Item = String>) -> String {
    let mut list = items.by_ref().take(LISTED).collect::<Vec<_>>().join(", ");
    match items.count() {
        0 => {}
        more => list.push_str(&format!(" and {more} more")),
    }
    list
}

/// Why an address could not be dialed, as far as a host can tell. It says what to try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialFault {
    /// Nothing listens at the port.
    Refused,
    /// The host's name is not known.
    NameUnknown,
    /// There is no way to the host.
    Unreachable,
    /// Nothing answered in time.
    Silent,
    /// The other side ended the connection before it was upgraded.
    HungUp,
    /// TLS was begun with a port that does not speak it.
    NoTls,
    /// A port that speaks TLS was dialed without it.
    Tls,
    /// Nobody who is trusted has signed the certificate.
    Untrusted,
    /// The certificate is not valid any more, or not yet.
    Expired,
    /// The certificate is for other names.
    WrongName,
    /// The listener wants a certificate of the dialer's, or another one.
    ClientCertificate,
    /// The listener answered the upgrade with this HTTP status.
    Status(u16),
    /// What answered is no WebSocket.
    NoWebSocket,
}

impl DialFault {
    /// What the kind of an error of the operating system means for a dialer.
    pub fn of_io(kind: io::ErrorKind) -> Option<DialFault> {
        match kind {
            io::ErrorKind::ConnectionRefused => Some(DialFault::Refused),
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
                Some(DialFault::Unreachable)
            }
            io::ErrorKind::TimedOut => Some(DialFault::Silent),
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::UnexpectedEof => Some(DialFault::HungUp),
            _ => None,
        }
    }

    /// What to try when dialing `url` has failed so.
    pub fn hint(self, url: &str) -> String {
        let url = &shown(url);
        match self {
            DialFault::Refused => format!(
                "Nothing listens at {url}. Start the peer that is to listen there, or correct host and port."
            ),
            DialFault::NameUnknown => format!(
                "The host name in {url} cannot be resolved. Correct it, or the name service of this machine."
            ),
            DialFault::Unreachable => {
                format!("There is no route to {url}. Check the network, a VPN, and firewalls.")
            }
            DialFault::Silent => format!(
                "Nothing answered at {url}. Something else may listen there, or a firewall drops packets."
            ),
            DialFault::HungUp if url.starts_with("wss") => format!(
                "The other side of {url} hung up instead of answering. It may let in only dialers with a \
                 certificate that it trusts, not speak TLS, or be no roletalk peer."
            ),
            DialFault::HungUp => format!(
                "The other side of {url} hung up instead of answering. It may speak TLS (dial it with wss://), \
                 or be no roletalk peer."
            ),
            DialFault::NoTls => format!(
                "The port of {url} does not speak TLS. Dial it with ws://, or give the listener a certificate."
            ),
            DialFault::Tls => {
                format!("The port of {url} speaks TLS. Dial it with wss://.")
            }
            DialFault::Untrusted => format!(
                "Nobody who is trusted has signed the certificate of {url}. Give the certificate of its \
                 authority to the dialer as a CA."
            ),
            DialFault::Expired => format!(
                "The certificate of {url} is not valid now. Renew it, or correct the clock of this machine."
            ),
            DialFault::WrongName => format!(
                "The certificate of {url} is for another name. Dial a name that it lists, tell the dialer which \
                 name to expect, or make a certificate for this one (subjectAltName)."
            ),
            DialFault::ClientCertificate => format!(
                "The listener at {url} accepts only dialers with a certificate that it trusts. Give this side \
                 a certificate and key that its CA has signed."
            ),
            DialFault::Status(status @ (400 | 404)) => format!(
                "The listener at {url} answered with status {status}. Is the path of the address the one that \
                 it serves?"
            ),
            DialFault::Status(status @ (401 | 403 | 407)) => format!(
                "The listener at {url}, or a proxy before it, did not let this side in (status {status})."
            ),
            DialFault::Status(status) => {
                format!(
                    "What listens at {url} answered with status {status}: is it a roletalk peer?"
                )
            }
            DialFault::NoWebSocket => {
                format!("What listens at {url} does not speak WebSocket. Correct host and port.")
            }
        }
    }
}

/// What can be sent as an object.
pub const JSON: &str =
    "Objects are sent as JSON: numbers must be finite, keys texts. Bytes can be sent as they are.";

/// How addresses are written.
pub const ADDRESS: &str = "An address is written as ws://host:port, or wss://host:port with TLS; ports are from 1 to 65535.";

/// What to try when `address` cannot be listened on.
pub fn listen(address: impl fmt::Display, kind: io::ErrorKind) -> Option<String> {
    let address = shown(&address.to_string());
    match kind {
        io::ErrorKind::AddrInUse => Some(format!(
            "Something listens at {address} already. Stop it, or listen at another port; port 0 takes one that is free."
        )),
        io::ErrorKind::AddrNotAvailable => Some(format!(
            "{address} is no address of this machine. Listen at one of its own, or at 0.0.0.0 for all."
        )),
        io::ErrorKind::PermissionDenied => {
            Some(format!("{address} is reserved. Listen at a port from 1024 on."))
        }
        _ => None,
    }
}

/// What to try when no unit serves a role: the names of those that are connected, and their roles.
pub(crate) fn no_unit<'a, R: Iterator<Item = &'a str>>(
    role: &str,
    units: impl Iterator<Item = (&'a str, R)>,
) -> String {
    let mut serves = false;
    let units = listed(units.map(|(name, roles)| {
        let roles = listed(roles.inspect(|name| serves |= *name == role).map(shown));
        match roles.is_empty() {
            true => format!("{} (no roles)", shown(name)),
            false => format!("{} ({roles})", shown(name)),
        }
    }));
    let role = shown(role);
    if units.is_empty() {
        return format!(
            "No unit is connected. Connect to a peer that serves \"{role}\", or wait until the destination is ready."
        );
    }
    let none = match serves {
        false => format!("None serves \"{role}\"."),
        true => format!(
            "Those that serve \"{role}\" are just closing, or the function that chooses wants none of them."
        ),
    };
    format!("These units are connected, with these roles: {units}. {none}")
}

/// What was asked of whom, for requests that fail.
pub(crate) fn asked(names: Option<(&str, &str)>, unit: &str) -> String {
    let unit = shown(unit);
    match names {
        Some((role, event)) => format!(
            "The request was for the event \"{}\" of the role \"{}\" at the unit {unit}.",
            shown(event),
            shown(role)
        ),
        None => format!("The request was for the unit {unit}."),
    }
}

/// What to try when the other side has no handler. `known` is what the unit has said of its events, which are
/// strange texts.
pub(crate) fn not_handled(event: Option<&str>, known: &[String]) -> String {
    if known.is_empty() {
        return " Compare the names with the handlers that the unit has, and their kind: message, request or stream."
            .to_owned();
    }
    let mut hint = String::new();
    if let Some(meant) = event.and_then(|event| similar(event, known)) {
        hint.push_str(&format!(" Did you mean \"{}\"?", shown(meant)));
    }
    let names: Vec<_> = known.iter().map(|name| format!("\"{}\"", shown(name))).collect();
    let more = if known.len() < MAX_KNOWN { "" } else { " and perhaps more" };
    hint.push_str(&format!(" Events of this kind: {}{more}.", names.join(", ")));
    hint
}

/// The name that was probably meant.
fn similar<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let differing = known.iter().map(|known| (difference(known, name), known));
    let (difference, best) = differing.min()?;
    let longest = name.chars().count().max(best.chars().count());
    (difference <= 3 && 2 * difference <= longest).then_some(best)
}

/// How many letters there are from the first in which two names differ to the last; case does not matter. Not the
/// number of edits, since strangers choose names, and this costs no more than reading them.
pub(crate) fn difference(a: &str, b: &str) -> usize {
    let same = |(a, b): &(char, char)| a.eq_ignore_ascii_case(b);
    let start = a.chars().zip(b.chars()).take_while(same).count();
    let (a_left, b_left) = (a.chars().count() - start, b.chars().count() - start);
    let ends = a.chars().rev().zip(b.chars().rev()).take(a_left.min(b_left));
    a_left.max(b_left) - ends.take_while(same).count()
}

/// What to do about a page that may connect, and was refused.
pub const FOREIGN_ORIGIN: &str = "A page in a browser has tried to connect. If it is yours, allow its origin: \
    `allow_origin` in Rust, the option `origins` elsewhere.";

/// Why a handshake was not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeFault {
    /// This side holds no key, the other asks for one.
    NoKey,
    /// Both hold keys, but none with the same id.
    NoCommonId,
    /// Both hold a key of this id, with another secret.
    OtherSecret,
    /// This side takes no more units, or connections to one.
    Full,
    /// This side asks for a key, and the other holds none that fits.
    Stranger,
    /// The other side refused.
    Refused,
    /// The proof was asked for on another TLS connection, or one without TLS.
    Relayed,
    /// The proof was asked for without naming the TLS connection.
    Unbound,
    /// The unit has shown another identity.
    OtherIdentity,
    /// It took too long.
    Silent,
    /// The other side does not keep to the protocol.
    Broken,
}

impl HandshakeFault {
    pub(crate) fn hint(self) -> &'static str {
        match self {
            HandshakeFault::NoKey => {
                "The other side lets only peers in that share a preshared key with it. Add one to this peer."
            }
            HandshakeFault::NoCommonId => {
                "The two peers hold preshared keys, but none with the same id. Give both one under the same id."
            }
            HandshakeFault::OtherSecret => {
                "Both peers hold a preshared key with this id, but the secrets differ. Correct one of them."
            }
            HandshakeFault::Full => {
                "This peer has as many units, or connections to that unit, as its limits allow. Raise them, or \
                 close some."
            }
            HandshakeFault::Stranger => {
                "This peer lets only peers in that share a preshared key with it, and the other one holds none of \
                 them. Give it one, under the same id, or remove the keys of this peer."
            }
            HandshakeFault::Refused => {
                "The other side ended the handshake, for the reason that it gave. If that is about proofs or keys, \
                 compare the preshared keys of both peers, id and secret."
            }
            HandshakeFault::Relayed => {
                "Somebody may pass on what the two peers say to each other. If that is a proxy of your own, which ends \
                 TLS between them, set the channel binding of the side that it is nearer to to \"disable\"."
            }
            HandshakeFault::Unbound => {
                "This peer requires channel binding. The other side is on no TLS connection, ends TLS somewhere else, or \
                 is of a version without it: set the channel binding to \"prefer\" to prove the key all the same."
            }
            HandshakeFault::OtherIdentity => {
                "A unit with this id is connected and has shown another key, certificate or claim, or has other rights. \
                 All connections of one peer should show the same. If it has got a new key or certificate, it gets in \
                 when its connections with the old one are closed."
            }
            HandshakeFault::Silent => {
                "The other side did not finish the handshake in time. It may be overloaded, or be no roletalk peer."
            }
            HandshakeFault::Broken => {
                "The other side does not keep to the handshake of roletalk. Is it a roletalk peer?"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_strangers_chose_is_cut_and_escaped() {
        assert_eq!(shown("math"), "math");
        assert_eq!(shown("a\x1b[2J\n\"é"), "a\\u{1b}[2J\\n\"é");
        assert_eq!(shown(&"x".repeat(65)), "x".repeat(64) + "…");
    }

    #[test]
    fn a_role_that_nobody_serves() {
        let none: [(&str, std::array::IntoIter<&str, 0>); 0] = [];
        assert!(no_unit("math", none.into_iter()).starts_with("No unit is connected."));
        let units = [("worker", vec!["log", "meth"]), ("other", vec![])];
        let hint =
            no_unit("math", units.into_iter().map(|(name, roles)| (name, roles.into_iter())));
        let expected = "These units are connected, with these roles: worker (log, meth), other (no roles). \
            None serves \"math\".";
        assert_eq!(hint, expected);
        let units = [("worker", ["log", "math"])];
        let hint =
            no_unit("math", units.into_iter().map(|(name, roles)| (name, roles.into_iter())));
        assert!(hint.contains("Those that serve \"math\" are just closing"), "{hint}");
    }

    #[test]
    fn names_that_differ_in_few_letters_are_similar() {
        let cases = [
            ("add", "add", 0),
            ("ADD", "add", 0),
            ("ad", "add", 1),
            ("adt", "add", 1),
            ("dadd", "add", 1),
            ("ab12", "ab21", 2),
            ("aaa", "aa", 1),
            ("", "add", 3),
            ("größe", "grösse", 2),
            ("mul", "add", 3),
        ];
        for (a, b, expected) in cases {
            assert_eq!((difference(a, b), difference(b, a)), (expected, expected), "{a} {b}");
        }
        let known = ["add", "get", "send"].map(str::to_owned);
        for (name, meant) in
            [("ad", Some("add")), ("Send", Some("send")), ("put", None), ("", None)]
        {
            assert_eq!(similar(name, &known), meant, "{name}");
        }
    }

    #[test]
    fn an_event_that_is_not_handled() {
        assert!(not_handled(Some("ad"), &[]).starts_with(" Compare the names"));
        let known = ["add", "m\x1bl"].map(str::to_owned);
        let listed = r#" Events of this kind: "add", "m\u{1b}l"."#;
        assert_eq!(not_handled(Some("ad"), &known), format!(" Did you mean \"add\"?{listed}"));
        assert_eq!(not_handled(Some("log"), &known), listed);
        assert_eq!(not_handled(None, &known), listed);
        let many: Vec<String> = (0..MAX_KNOWN).map(|n| n.to_string()).collect();
        assert!(not_handled(None, &many).ends_with(", \"15\" and perhaps more."));
    }

    #[test]
    fn lists_are_short() {
        let names: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let hint = no_unit("x", names.iter().map(|name| (name.as_str(), [].into_iter())));
        assert!(hint.contains("7 (no roles) and 12 more"), "{hint}");
    }
}
