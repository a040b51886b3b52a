//! Ids that nobody else can claim: a key whose hash is part of the id, and a signature over the connection.

use std::{collections::BTreeMap, fmt};

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::{Binding, identity::hex};

/// What ids of peers with a key begin with.
const PREFIX: &str = "key-";
/// What is signed begins with this, and what is hashed, so that neither is good for anything else.
const PURPOSE: &[u8] = b"roletalk-id-1\0";
/// Bytes of the hash that are in the id.
const HASH: usize = 20;

/// A peer's own key, by which others know it again after a restart: see [`Config::peer_key`](crate::Config::peer_key).
/// Neither `Debug` nor anything else shows it.
#[derive(Clone)]
pub struct PeerKey {
    key: SigningKey,
    name: String,
}

impl PeerKey {
    /// The key with this secret: 32 random bytes (an Ed25519 seed, RFC 8032), to be kept as other private keys are.
    pub fn from_secret(secret: &[u8; 32]) -> PeerKey {
        let key = SigningKey::from_bytes(secret);
        let name = name_of(&key.verifying_key());
        PeerKey { key, name }
    }

    /// The name of the key, which is no secret: `key-` and 40 hexadecimal digits. Policies know it as `peer`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An id that only the holder of this key can prove.
    pub(crate) fn id(&self, random: &[u8; 16]) -> String {
        format!("{}-{}", self.name, hex(&random[..8]))
    }

    /// The members `k` and `s` of a confirm.
    pub(crate) fn prove(
        &self,
        id: &str,
        dials: bool,
        binding: &Binding,
    ) -> (String, BTreeMap<String, String>) {
        let signatures = binding.values().map(|(kind, value)| {
            let signature = self.key.sign(&signed(id, dials, kind, &value));
            (kind.to_owned(), hex(&signature.to_bytes()))
        });
        (hex(self.key.verifying_key().as_bytes()), signatures.collect())
    }
}

impl fmt::Debug for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerKey({})", self.name)
    }
}

fn name_of(key: &VerifyingKey) -> String {
    let hash = Sha256::new().chain_update(PURPOSE).chain_update(key.as_bytes()).finalize();
    format!("{PREFIX}{}", hex(&hash[..HASH]))
}

/// What is signed: who says it, on which end of which connection.
fn signed(id: &str, dials: bool, kind: &str, value: &[u8; 32]) -> Vec<u8> {
    let end: &[u8] = if dials { b"dialer\0" } else { b"listener\0" };
    [PURPOSE, end, kind.as_bytes(), b"\0", value, id.as_bytes()].concat()
}

/// Whether ids of this kind can be proved.
pub(crate) fn is_provable(id: &str) -> bool {
    id.starts_with(PREFIX)
}

/// The name of the key that the other side has proved with its confirm; none if it has proved nothing, as without TLS.
///
/// # Errors
/// The id belongs to another key, or the signature is invalid, as when it was copied from another connection.
pub(crate) fn proved(
    id: &str,
    (key, signatures): (Option<&str>, &BTreeMap<String, String>),
    dials: bool,
    binding: &Binding,
) -> Result<Option<String>, &'static str> {
    let Some(key) = key.filter(|_| is_provable(id)) else { return Ok(None) };
    let key = bytes(key).and_then(|key| VerifyingKey::from_bytes(&key).ok());
    let key = key.ok_or("The key of the id is no Ed25519 key")?;
    let name = name_of(&key);
    if id.strip_prefix(name.as_str()).is_none_or(|rest| !rest.starts_with('-')) {
        return Err("The id is not that of its key");
    }
    for (kind, value) in binding.values() {
        let Some(signature) = signatures.get(kind) else { continue };
        let signature = bytes(signature).map(|signature| Signature::from_bytes(&signature));
        let message = signed(id, dials, kind, &value);
        return match signature.map(|signature| key.verify_strict(&message, &signature)) {
            Some(Ok(())) => Ok(Some(name)),
            _ => Err("The id is proved for another connection"),
        };
    }
    Ok(None)
}

fn bytes<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? << 4 | digit(1)?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(exporter: Option<u8>, end_point: Option<u8>) -> Binding {
        Binding {
            tls: true,
            exporter: exporter.map(|byte| [byte; 32]),
            end_point: end_point.map(|byte| [byte; 32]),
        }
    }

    #[test]
    fn only_its_holder_proves_an_id_and_on_this_connection_only() {
        let (key, other) = (PeerKey::from_secret(&[1; 32]), PeerKey::from_secret(&[2; 32]));
        let id = key.id(&[7; 16]);
        assert_eq!(id, format!("{}-0707070707070707", key.name()));
        let both = binding(Some(1), Some(2));
        let (public, signatures) = key.prove(&id, true, &both);
        let known = Some(public.as_str());
        let check = |id: &str, dials, binding| proved(id, (known, &signatures), dials, &binding);
        let name = Ok(Some(key.name().to_owned()));
        assert_eq!(check(&id, true, both), name);
        assert_eq!(check(&id, true, binding(None, Some(2))), name);
        assert_eq!(check(&id, true, binding(None, None)), Ok(None));
        assert!(check(&id, false, both).is_err(), "its own words come back");
        assert!(check(&id, true, binding(Some(3), Some(2))).is_err());
        assert!(check(&format!("{id}0"), true, both).is_err());
        assert!(check(&other.id(&[7; 16]), true, both).is_err());
        assert!(check(&format!("{}0-", key.name()), true, both).is_err());
        assert_eq!(check("an id of the original", true, both), Ok(None));
        assert_eq!(proved(&id, (None, &signatures), true, &both), Ok(None));
        assert_eq!(proved(&id, (known, &BTreeMap::new()), true, &both), Ok(None));
        let (other, _) = other.prove(&id, true, &both);
        for bad in [other.as_str(), "", "zz", &"0".repeat(63), &"é".repeat(32)] {
            assert!(proved(&id, (Some(bad), &signatures), true, &both).is_err(), "{bad}");
        }
        let bad = BTreeMap::from([("exp".to_owned(), "00".repeat(64))]);
        assert!(proved(&id, (known, &bad), true, &both).is_err());
    }

    /// As docs/PROTOCOL.md has it, which was computed with OpenSSL.
    #[test]
    fn the_example_of_the_protocol() {
        let key = PeerKey::from_secret(&[7; 32]);
        assert_eq!(key.name(), "key-e50a7f8568aaf6101bdc247ab2137e3d52f6158e");
        let (public, signatures) = key.prove(&key.id(&[7; 16]), true, &binding(Some(5), None));
        assert_eq!(public, "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c");
        let signature = "ba0888c3c8751f4afce0920d94b21f83c4b7197704802b308c6bec3e22e66790\
                         6cfbd27a5b684130052ca65e101619451b8422b092926a9d83f6d5d5e9398206";
        assert_eq!(signatures["exp"], signature);
        assert!(!format!("{key:?}").contains("0707"));
    }
}
