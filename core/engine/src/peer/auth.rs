//! Proofs of preshared keys, and the exchange that opens a connection.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::wire::{self, Challenge, Confirm, Proof};
use crate::{
    Binding, ChannelBinding, Moment, config::Keys, hint::HandshakeFault, identity::hex, printable,
};

/// What the originals say to a peer that asks for proof of keys that they do not hold.
const NO_SUCH_PROOFS: &str = "The peer has not such proofs";

/// The proof for a challenge: lowercase hex of HMAC-SHA256 over the challenge's text as received.
fn prove(key: &str, challenge: &str) -> String {
    use std::fmt::Write;
    let tag = mac(key, challenge).finalize().into_bytes();
    tag.iter().fold(String::with_capacity(64), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Whether `proof` is right, in a time that does not depend on where it is wrong.
fn verify(key: &str, challenge: &str, proof: &str) -> bool {
    let mut tag = [0u8; 32];
    let digits = proof.as_bytes();
    if digits.len() != 64 {
        return false;
    }
    for (byte, pair) in tag.iter_mut().zip(digits.chunks_exact(2)) {
        match (digit(pair[0]), digit(pair[1])) {
            (Some(high), Some(low)) => *byte = high << 4 | low,
            _ => return false,
        }
    }
    mac(key, challenge).verify_slice(&tag).is_ok()
}

fn digit(hex: u8) -> Option<u8> {
    match hex {
        b'0'..=b'9' => Some(hex - b'0'),
        b'a'..=b'f' => Some(hex - b'a' + 10),
        _ => None,
    }
}

fn mac(key: &str, challenge: &str) -> Hmac<Sha256> {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(challenge.as_bytes());
    mac
}

/// The version of challenges that name their connection: `<nonce>.1.<type>.<value>`, and further pairs.
const BOUND: &str = "1";

/// A challenge for a connection: the nonce, and what only this connection has, if anything.
pub(super) fn challenge(nonce: &[u8; 32], mode: ChannelBinding, binding: &Binding) -> String {
    let mut challenge = hex(nonce);
    if mode != ChannelBinding::Disable {
        for (at, (name, value)) in binding.values().enumerate() {
            if at == 0 {
                challenge.push_str(&format!(".{BOUND}"));
            }
            challenge.push_str(&format!(".{name}.{}", hex(&value)));
        }
    }
    challenge
}

/// Whether a challenge is about this connection, as far as it says so.
fn check_binding(challenge: &str, mode: ChannelBinding, binding: &Binding) -> Result<(), Refusal> {
    if mode == ChannelBinding::Disable {
        return Ok(());
    }
    let relayed = |text: &str| Err(Refusal::Ours(text.to_owned(), HandshakeFault::Relayed));
    let mut parts = challenge.split('.').skip(1);
    let mut named = Vec::new();
    if parts.next() == Some(BOUND) {
        while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
            named.push((name, value));
        }
    }
    let mut matched = false;
    for (known, value) in binding.values() {
        for (_, sent) in named.iter().filter(|(name, _)| *name == known) {
            if *sent != hex(&value) {
                return relayed("The challenge is for another TLS connection");
            }
            matched = true;
        }
    }
    match mode {
        _ if matched => Ok(()),
        // Whoever asks sees TLS, and this side does not.
        _ if !binding.tls && !named.is_empty() => {
            relayed("The challenge is for a TLS connection, and this one is none")
        }
        ChannelBinding::Require => {
            let text = "The challenge does not name the TLS connection".to_owned();
            Err(Refusal::Ours(text, HandshakeFault::Unbound))
        }
        _ => Ok(()),
    }
}

/// How the remote side is to be talked to, learned from its confirmation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// A peer that announced a window: quotas add up, and the end of a stream is acknowledged.
    Credit {
        /// Bytes that a writer may send before the first quota.
        window: u64,
    },
    /// The JavaScript original, or anything else: a quota replaces what was left.
    Original {
        /// Whether a reader tells when its application has come to the end of a stream. The
        /// original's does on Node 14 and later, whose streams destroy themselves then.
        acknowledges: bool,
    },
    /// The Go original, which addresses both ends of a stream by its own number.
    Go,
}

impl Dialect {
    pub(super) fn of(confirm: &Confirm) -> Dialect {
        match confirm.window {
            Some(window) if window > 0 => Dialect::Credit { window },
            _ if confirm.meta.runtime == "GO" => Dialect::Go,
            _ => Dialect::Original { acknowledges: has_auto_destroy(&confirm.meta.runtime) },
        }
    }
}

/// Whether this is a Node whose streams destroy themselves at their end: `nodejs v14.0.0` or later.
fn has_auto_destroy(runtime: &str) -> bool {
    let major = runtime.strip_prefix("nodejs v").and_then(|version| version.split('.').next());
    major.and_then(|major| major.parse().ok()).is_some_and(|major: u32| major >= 14)
}

/// Why a handshake ended without a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// We refuse: the reason is sent to the other side.
    Ours(String, HandshakeFault),
    /// The other side refuses.
    Theirs(String),
}

impl Refusal {
    /// The other side does not keep to the protocol.
    pub(super) fn broken(reason: impl Into<String>) -> Refusal {
        Refusal::Ours(printable(&reason.into()), HandshakeFault::Broken)
    }

    pub(super) fn hint(&self) -> &'static str {
        match self {
            Refusal::Ours(_, fault) => fault.hint(),
            Refusal::Theirs(reason) if reason.starts_with(NO_SUCH_PROOFS) => {
                HandshakeFault::Stranger.hint()
            }
            Refusal::Theirs(_) => HandshakeFault::Refused.hint(),
        }
    }
}

/// What a received handshake frame leads to.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Wait for more.
    Wait,
    /// Send this, then wait for more.
    Send(wire::Handshake),
    /// The other side proved what it had to: send our confirmation.
    Confirm,
}

/// One connection's handshake. Done when our confirmation was sent and theirs received.
#[derive(Debug)]
pub(super) struct Handshake {
    /// The text that the other side must prove on; none when we hold no keys.
    pub(super) challenge: Option<String>,
    pub(super) binding: Binding,
    /// The id of the key that the other side has proved.
    pub(super) proved: Option<String>,
    challenged: bool,
    confirmed: bool,
    pub(super) remote: Option<Box<Confirm>>,
    pub(super) deadline: Moment,
}

impl Handshake {
    pub(super) fn new(challenge: Option<String>, binding: Binding, deadline: Moment) -> Handshake {
        Handshake {
            challenge,
            binding,
            proved: None,
            challenged: false,
            confirmed: false,
            remote: None,
            deadline,
        }
    }

    /// What goes out first.
    pub(super) fn start(&self, keys: &Keys) -> Step {
        match &self.challenge {
            Some(challenge) => Step::Send(wire::Handshake::Challenge(Challenge {
                challenge: challenge.clone(),
                ids: keys.ids().map(str::to_owned).collect(),
            })),
            None => Step::Confirm,
        }
    }

    /// Takes a frame. `is_ours` tells whether a challenge is one of this peer's own outstanding
    /// ones, which a stranger could have reflected.
    pub(super) fn receive(
        &mut self,
        frame: wire::Handshake,
        keys: &Keys,
        mode: ChannelBinding,
        is_ours: impl Fn(&str) -> bool,
    ) -> Result<Step, Refusal> {
        match frame {
            wire::Handshake::Error(reason) => Err(Refusal::Theirs(printable(&reason))),
            wire::Handshake::Challenge(Challenge { challenge, ids }) => {
                if is_ours(&challenge) {
                    return Err(Refusal::broken("The challenge was reflected"));
                }
                if self.challenged {
                    return Err(Refusal::broken("A second challenge was sent"));
                }
                self.challenged = true;
                check_binding(&challenge, mode, &self.binding)?;
                match ids.iter().find_map(|id| keys.get(id).map(|key| (id, key))) {
                    Some((id, key)) => Ok(Step::Send(wire::Handshake::Proof(Proof {
                        proof: prove(key, &challenge),
                        id: id.clone(),
                    }))),
                    None => {
                        let ids = printable(&ids.join(","));
                        let fault = match keys.is_empty() {
                            true => HandshakeFault::NoKey,
                            false => HandshakeFault::NoCommonId,
                        };
                        Err(Refusal::Ours(format!("{NO_SUCH_PROOFS}: {ids}"), fault))
                    }
                }
            }
            wire::Handshake::Proof(Proof { proof, id }) => {
                let (Some(challenge), Some(key)) = (self.challenge.as_deref(), keys.get(&id))
                else {
                    let id = printable(&id);
                    let reason = format!("Verification ID is not registered: {id}");
                    return Err(Refusal::Ours(reason, HandshakeFault::NoCommonId));
                };
                if !verify(key, challenge, &proof) {
                    let reason = format!("Preshared key mismatch. Chosen id: {id}");
                    return Err(Refusal::Ours(reason, HandshakeFault::OtherSecret));
                }
                self.proved = Some(id);
                if self.confirmed { Ok(Step::Wait) } else { Ok(Step::Confirm) }
            }
            wire::Handshake::Confirm(confirm) => {
                self.remote = Some(confirm);
                Ok(Step::Wait)
            }
        }
    }

    pub(super) fn confirmed(&mut self) {
        self.confirmed = true;
    }

    pub(super) fn is_done(&self) -> bool {
        self.confirmed && self.remote.is_some()
    }

    /// The original's text for a handshake that takes too long.
    pub(super) fn elapsed(&self) -> String {
        format!(
            "Authentication time elapsed. proved: {}, confirmed: {}, challenge received: {}",
            self.remote.is_some(),
            self.confirmed,
            self.challenged
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_newer_nodes_acknowledge() {
        for runtime in ["nodejs v14.0.0", "nodejs v20.20.2", "nodejs v100.0.0-nightly"] {
            assert!(has_auto_destroy(runtime), "{runtime}");
        }
        let others =
            ["nodejs v12.22.12", "nodejs v", "nodejs", "v20.20.2", "GO", "", "nodejs v-20.0"];
        for runtime in others {
            assert!(!has_auto_destroy(runtime), "{runtime}");
        }
    }

    fn keys(pairs: &[(&str, &str)]) -> Keys {
        let mut keys = Keys::default();
        for (id, key) in pairs {
            keys.add(*id, *key).unwrap();
        }
        keys
    }

    #[test]
    fn proofs_are_verified_strictly() {
        let proof = prove("secret", "challenge");
        assert!(verify("secret", "challenge", &proof));
        assert!(!verify("secret", "challenge", &proof.to_uppercase()));
        assert!(!verify("secret", "challenge", &proof[1..]));
        assert!(!verify("secret", "challenge", &"é".repeat(32)));
        assert!(!verify("other", "challenge", &proof));
        assert!(!verify("secret", "challengE", &proof));
    }

    #[test]
    fn the_first_listed_id_that_is_known_is_proved() {
        let mine = keys(&[("b", "1"), ("a", "2")]);
        let mut handshake = Handshake::new(None, Binding::default(), Moment::EPOCH);
        let step = handshake.receive(
            wire::Handshake::Challenge(Challenge {
                challenge: "x".into(),
                ids: vec!["z".into(), "a".into(), "b".into()],
            }),
            &mine,
            ChannelBinding::Prefer,
            |_| false,
        );
        let expected = Proof { proof: prove("2", "x"), id: "a".into() };
        assert_eq!(step, Ok(Step::Send(wire::Handshake::Proof(expected))));
    }

    #[test]
    fn a_reflected_challenge_is_refused() {
        let mine = keys(&[("a", "2")]);
        let mut handshake = Handshake::new(None, Binding::default(), Moment::EPOCH);
        let frame =
            wire::Handshake::Challenge(Challenge { challenge: "x".into(), ids: vec!["a".into()] });
        let step =
            handshake.receive(frame, &mine, ChannelBinding::Prefer, |challenge| challenge == "x");
        assert!(matches!(step, Err(Refusal::Ours(_, HandshakeFault::Broken))));
    }

    #[test]
    fn the_example_of_the_protocol() {
        let challenge = format!(
            "00112233445566778899aabbccddeeff.1.exp.{}.end.{}",
            "05".repeat(32),
            "06".repeat(32)
        );
        let proof = "1a993a14598c47983e7dbb3077444c834b5363132ee3aa3eb421a48ecb37fe4e";
        assert_eq!(prove("secret", &challenge), proof);
    }

    #[test]
    fn keys_are_proved_to_those_who_mean_this_connection() {
        use ChannelBinding::{Disable, Prefer, Require};
        let bound = |exporter: Option<u8>, end_point: Option<u8>| Binding {
            tls: exporter.or(end_point).is_some(),
            exporter: exporter.map(|byte| [byte; 32]),
            end_point: end_point.map(|byte| [byte; 32]),
        };
        let none = bound(None, None);
        let made = |binding| challenge(&[7; 32], Prefer, &binding);
        assert_eq!(made(none), "07".repeat(32));
        assert_eq!(challenge(&[7; 32], Disable, &bound(Some(1), None)), "07".repeat(32));
        let text = made(bound(Some(1), Some(2)));
        assert_eq!(
            text,
            format!("{}.1.exp.{}.end.{}", "07".repeat(32), "01".repeat(32), "02".repeat(32))
        );
        let (exporter, both) = (bound(Some(1), None), bound(Some(1), Some(2)));
        let foreign = "any text of an original".to_owned();
        // The challenge, this side's connection, and what becomes of it without and with `require`.
        let (proves, relayed, unbound) =
            (None, Some(HandshakeFault::Relayed), Some(HandshakeFault::Unbound));
        for (challenge, binding, prefer, require) in [
            (made(exporter), exporter, proves, proves),
            (made(both), both, proves, proves),
            (made(both), bound(None, Some(2)), proves, proves),
            (made(both), bound(Some(1), Some(9)), relayed, relayed),
            (made(both), bound(Some(9), Some(2)), relayed, relayed),
            (made(both), bound(None, Some(9)), relayed, relayed),
            (made(both), none, relayed, relayed),
            // Nothing in common to compare.
            (made(both), Binding { tls: true, ..none }, proves, unbound),
            (made(exporter), bound(None, Some(2)), proves, unbound),
            (made(none), both, proves, unbound),
            (foreign.clone(), both, proves, unbound),
            (foreign.clone(), none, proves, unbound),
            (made(none), none, proves, unbound),
            ("x.1.exp".to_owned(), both, proves, unbound),
            ("x.1.exp.".to_owned(), both, relayed, relayed),
            ("x.2.exp.00".to_owned(), both, proves, unbound),
            (format!("{}.exp.{}", made(exporter), "09".repeat(32)), exporter, relayed, relayed),
        ] {
            let fault = |mode| match check_binding(&challenge, mode, &binding) {
                Ok(()) => None,
                Err(Refusal::Ours(_, fault)) => Some(fault),
                Err(refusal) => panic!("{refusal:?}"),
            };
            assert_eq!(fault(Prefer), prefer, "{challenge} {binding:?}");
            assert_eq!(fault(Require), require, "{challenge} {binding:?}");
            assert_eq!(fault(Disable), None);
        }
    }

    #[test]
    fn little_is_repeated_of_what_a_stranger_says() {
        let mine = keys(&[("a", "2")]);
        let long = "é".repeat(100_000);
        let challenge = Challenge { challenge: "x".into(), ids: vec![long.clone()] };
        for frame in [
            wire::Handshake::Error(long.clone()),
            wire::Handshake::Challenge(challenge),
            wire::Handshake::Proof(Proof { proof: String::new(), id: long }),
        ] {
            let mut handshake = Handshake::new(Some("c".into()), Binding::default(), Moment::EPOCH);
            match handshake.receive(frame, &mine, ChannelBinding::Prefer, |_| false) {
                Err(Refusal::Ours(reason, _) | Refusal::Theirs(reason)) => {
                    assert!((500..600).contains(&reason.len()), "{}", reason.len());
                }
                step => panic!("{step:?}"),
            }
        }
    }

    #[test]
    fn a_proof_without_a_challenge_is_refused() {
        let mut handshake = Handshake::new(None, Binding::default(), Moment::EPOCH);
        let frame = wire::Handshake::Proof(Proof { proof: String::new(), id: "k".into() });
        let step = handshake.receive(frame, &Keys::default(), ChannelBinding::Prefer, |_| false);
        let text = "Verification ID is not registered: k".to_owned();
        assert_eq!(step, Err(Refusal::Ours(text, HandshakeFault::NoCommonId)));
    }
}
