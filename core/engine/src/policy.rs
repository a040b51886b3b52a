//! Who may call what, and who may serve which role.

use std::{
    fmt,
    marker::PhantomData,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value};

use crate::{
    Identity, Kind,
    error::{Error, ErrorKind, Result},
    printable, wire,
};

/// The largest policy, in bytes of JSON.
const LARGEST: usize = 1 << 20;
/// How much of a name is repeated in texts, in bytes.
const QUOTED: usize = 128;

/// Who may call which events of this peer's roles, and who may serve which roles for it.
///
/// ```json
/// {
///   "default": "deny",
///   "rules": [
///     { "who": { "key": "billing" }, "call": ["payments/*"] },
///     { "who": { "certificate": "uri:spiffe://prod/pay" }, "serve": ["payments"] },
///     { "who": { "claim": { "team": "ops" } }, "call": [{ "role": "*", "event": "restart", "kinds": ["request"] }] },
///     { "who": "any", "call": ["status/health"] },
///     { "who": { "address": "10.66.0.0/16" }, "deny": { "call": ["*"], "serve": ["*"] } }
///   ]
/// }
/// ```
///
/// docs/POLICY.md in the repository has the full description. A denial overrides every permission; `default` applies to
/// everything that no rule names. The receiving peer checks messages, requests and both kinds of streams, and therefore
/// broadcasts and surveys. It ignores a role that a unit announces without permission.
pub struct Policy {
    rules: Vec<Rule>,
    call: Verdict,
    serve: Verdict,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Allow,
    #[default]
    Deny,
}

struct Rule {
    who: Who,
    call: Vec<Call>,
    serve: Vec<Pattern>,
    never_call: Vec<Call>,
    never_serve: Vec<Pattern>,
}

#[derive(Default)]
struct Who {
    key: Vec<Pattern>,
    peer: Vec<Pattern>,
    certificate: Vec<Pattern>,
    subject: Vec<Pattern>,
    fingerprint: Vec<String>,
    claim: Vec<(String, Vec<Pattern>)>,
    address: Vec<Network>,
}

struct Call {
    role: Pattern,
    event: Pattern,
    /// By `kind as usize`.
    kinds: [bool; Kind::ALL.len()],
}

/// A text in which `*` stands for anything.
#[derive(Debug)]
enum Pattern {
    Any,
    Exact(String),
    /// The text before the first `*`, those between two, and that behind the last.
    Parts(String, Vec<String>, String),
}

struct Network {
    address: IpAddr,
    bits: u8,
}

// As it is written.

/// What is written as an object, and not as a list of its members, as serde would take as well: `"who": ["a"]` must not
/// mean anything.
#[derive(Default)]
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(members)).map(Object)
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPolicy {
    #[serde(default)]
    default: WrittenDefault,
    #[serde(default)]
    rules: Vec<Object<WrittenRule>>,
    /// For people.
    #[serde(default)]
    #[serde(rename = "comment")]
    _comment: Value,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "\"allow\", \"deny\", or {\"call\": ..., \"serve\": ...} with these")]
enum WrittenDefault {
    Both(Verdict),
    Each(Object<WrittenEach>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEach {
    #[serde(default)]
    call: Verdict,
    #[serde(default)]
    serve: Verdict,
}

impl Default for WrittenDefault {
    fn default() -> WrittenDefault {
        WrittenDefault::Both(Verdict::Deny)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRule {
    who: WrittenWho,
    #[serde(default)]
    call: Vec<WrittenCall>,
    #[serde(default)]
    serve: Vec<String>,
    #[serde(default)]
    deny: Object<WrittenDenied>,
    #[serde(default)]
    #[serde(rename = "comment")]
    _comment: Value,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenDenied {
    #[serde(default)]
    call: Vec<WrittenCall>,
    #[serde(default)]
    serve: Vec<String>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "\"any\", or an object of `key`, `peer`, `certificate`, `subject`, `fingerprint`, `claim` and `address`"
)]
enum WrittenWho {
    Any(Anyone),
    Some(Box<Object<WrittenShown>>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Anyone {
    Any,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenShown {
    #[serde(default)]
    key: OneOrMore,
    #[serde(default)]
    peer: OneOrMore,
    #[serde(default)]
    certificate: OneOrMore,
    #[serde(default)]
    subject: OneOrMore,
    #[serde(default)]
    fingerprint: OneOrMore,
    #[serde(default)]
    claim: Option<Map<String, Value>>,
    #[serde(default)]
    address: OneOrMore,
}

#[derive(Default, Deserialize)]
#[serde(untagged, expecting = "a text or a list of texts")]
enum OneOrMore {
    #[default]
    #[serde(skip)]
    None,
    One(String),
    More(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "\"role/event\", or an object of `role`, `event` and `kinds`")]
enum WrittenCall {
    Short(String),
    Long(Object<WrittenLongCall>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLongCall {
    role: String,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    kinds: Option<Vec<String>>,
}

impl OneOrMore {
    /// # Errors
    /// An empty list, as a template may leave it: it fits nobody, and must not mean everybody.
    fn list(self) -> Result<Vec<String>, String> {
        match self {
            OneOrMore::None => Ok(Vec::new()),
            OneOrMore::One(one) => Ok(vec![one]),
            OneOrMore::More(more) if more.is_empty() => {
                Err("`who` has an empty list, which fits nobody".to_owned())
            }
            OneOrMore::More(more) => Ok(more),
        }
    }
}

impl Policy {
    /// Reads a policy from its JSON.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for invalid JSON, unknown members, a `who` that names nobody, or more than 1 MiB.
    /// The text says what is wrong and where.
    pub fn parse(text: &str) -> Result<Policy> {
        if text.len() > LARGEST {
            return Err(invalid(format!("has {} bytes, at most {LARGEST} are read", text.len())));
        }
        let Object(written): Object<WrittenPolicy> = serde_json::from_str(text)
            .map_err(|error| invalid(format!("cannot be read: {error}")))?;
        let (call, serve) = match written.default {
            WrittenDefault::Both(verdict) => (verdict, verdict),
            WrittenDefault::Each(Object(WrittenEach { call, serve })) => (call, serve),
        };
        let rules = written.rules.into_iter().enumerate();
        let rules: Result<_> = rules
            .map(|(at, Object(rule))| {
                Rule::read(rule)
                    .map_err(|why| invalid(format!("has a fault in rule {}: {why}", at + 1)))
            })
            .collect();
        Ok(Policy { rules: rules?, call, serve })
    }

    /// What the policy gives to a unit that has shown this on its connections: what fits all of them allows, what
    /// fits any of them denies.
    pub(crate) fn rights<'a>(
        self: &Arc<Policy>,
        shown: impl Iterator<Item = &'a Identity> + Clone,
    ) -> Rights {
        let those = |fits: &dyn Fn(&Rule) -> bool| {
            let rules = self.rules.iter().enumerate();
            rules.filter(|(_, rule)| fits(rule)).map(|(at, _)| at).collect()
        };
        Rights {
            policy: self.clone(),
            allow: those(&|rule| shown.clone().all(|identity| rule.who.is(identity))),
            deny: those(&|rule| shown.clone().any(|identity| rule.who.is(identity))),
        }
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Policy({} rules)", self.rules.len())
    }
}

fn invalid(why: String) -> Error {
    Error::new(ErrorKind::InvalidArgument, format!("The policy {why}"))
        .with_hint("Nothing has changed: the policy before, if there is one, stays in force.")
}

impl Rule {
    fn read(rule: WrittenRule) -> Result<Rule, String> {
        let WrittenRule { who, call, serve, deny: Object(deny), .. } = rule;
        let calls = |calls: Vec<WrittenCall>| {
            calls.into_iter().map(Call::read).collect::<Result<Vec<_>, String>>()
        };
        let roles =
            |roles: Vec<String>| roles.into_iter().map(|role| Pattern::new(&role)).collect();
        let rule = Rule {
            who: match who {
                WrittenWho::Any(Anyone::Any) => Who::default(),
                WrittenWho::Some(shown) => Who::read(shown.0)?,
            },
            call: calls(call).map_err(|why| format!("in `call`, {why}"))?,
            serve: roles(serve),
            never_call: calls(deny.call).map_err(|why| format!("in `deny`, {why}"))?,
            never_serve: roles(deny.serve),
        };
        let lists =
            [rule.call.len(), rule.serve.len(), rule.never_call.len(), rule.never_serve.len()];
        match lists {
            [0, 0, 0, 0] => {
                Err("it says nothing: it has neither `call`, `serve` nor `deny`".to_owned())
            }
            _ => Ok(rule),
        }
    }
}

impl Call {
    fn read(written: WrittenCall) -> Result<Call, String> {
        let WrittenLongCall { role, event, kinds } = match written {
            WrittenCall::Long(Object(long)) => long,
            WrittenCall::Short(short) => {
                let (role, event) = match short.split_once('/') {
                    Some((role, event)) => (role, Some(event.to_owned())),
                    None => (short.as_str(), None),
                };
                if event.as_deref().is_some_and(|event| event.contains('/')) {
                    let text = "has more than one `/`: write it as {\"role\": ..., \"event\": ...}";
                    return Err(format!("`{short}` {text}"));
                }
                WrittenLongCall { role: role.to_owned(), event, kinds: None }
            }
        };
        let mut of_kinds = [kinds.is_none(); Kind::ALL.len()];
        if kinds.as_ref().is_some_and(Vec::is_empty) {
            return Err("`kinds` is empty: without it, all are meant".to_owned());
        }
        for name in kinds.into_iter().flatten() {
            let kind = Kind::parse(&name).ok_or_else(|| {
                let all = Kind::ALL.map(Kind::name).join(", ");
                format!("there is no kind `{name}`, only {all}")
            })?;
            of_kinds[kind as usize] = true;
        }
        let event = event.as_deref().map_or(Pattern::Any, Pattern::new);
        Ok(Call { role: Pattern::new(&role), event, kinds: of_kinds })
    }

    fn is(&self, kind: Kind, role: &str, event: &str) -> bool {
        self.kinds[kind as usize] && self.role.fits(role) && self.event.fits(event)
    }
}

impl Who {
    fn read(written: WrittenShown) -> Result<Who, String> {
        let patterns = |texts: OneOrMore| -> Result<Vec<Pattern>, String> {
            Ok(texts.list()?.iter().map(|text| Pattern::new(text)).collect())
        };
        const TYPES: [&str; 4] = ["dns:", "uri:", "ip:", "email:"];
        let names = written.certificate.list()?;
        // Without the type, a name of one type could pass for one of another.
        if let Some(name) =
            names.iter().find(|name| !TYPES.iter().any(|kind| name.starts_with(kind)))
        {
            return Err(format!(
                "the certificate's name `{name}` needs its type before it: dns:, uri:, ip: or email:"
            ));
        }
        if written.claim.as_ref().is_some_and(Map::is_empty) {
            return Err("`claim` names no claim".to_owned());
        }
        let claim = written.claim.unwrap_or_default().into_iter().map(|(name, value)| {
            let texts = match value {
                Value::Array(values) if values.is_empty() => {
                    return Err(format!("the claim `{name}` has an empty list, which fits nobody"));
                }
                Value::Array(values) => values,
                value => vec![value],
            };
            let texts: Option<Vec<_>> = texts.iter().map(scalar).collect();
            let texts = texts.ok_or_else(|| {
                format!("the claim `{name}` should be a text, number, boolean, or a list of these")
            })?;
            Ok((name, texts.iter().map(|text| Pattern::new(text)).collect()))
        });
        let digits = |text: String| {
            let hex: String = text.chars().filter(|c| *c != ':').collect::<String>().to_lowercase();
            let usable = hex.len() == 64 && hex.chars().all(|digit| digit.is_ascii_hexdigit());
            usable
                .then_some(hex)
                .ok_or_else(|| format!("the fingerprint `{text}` is not SHA-256 in hexadecimal"))
        };
        let who = Who {
            key: patterns(written.key)?,
            peer: patterns(written.peer)?,
            certificate: names.iter().map(|name| Pattern::new(&as_shown(name))).collect(),
            subject: patterns(written.subject)?,
            fingerprint: written
                .fingerprint
                .list()?
                .into_iter()
                .map(digits)
                .collect::<Result<_, _>>()?,
            claim: claim.collect::<Result<_, String>>()?,
            address: written
                .address
                .list()?
                .iter()
                .map(|text| Network::read(text))
                .collect::<Result<_, _>>()?,
        };
        let lists = [
            who.key.len(),
            who.peer.len(),
            who.certificate.len(),
            who.subject.len(),
            who.fingerprint.len(),
            who.claim.len(),
            who.address.len(),
        ];
        match lists.iter().sum() {
            // An empty list, as a template may leave it, must not mean everybody.
            0 => Err("`who` names nobody; \"any\" is everybody".to_owned()),
            1.. => Ok(who),
        }
    }

    /// All that it names has been shown.
    fn is(&self, identity: &Identity) -> bool {
        let Who { key, peer, certificate, subject, fingerprint, claim, address } = self;
        let shown = identity.certificate.as_deref();
        let one =
            |patterns: &[Pattern], text: &str| patterns.iter().any(|pattern| pattern.fits(text));
        let keys = [identity.key.as_deref(), identity.key_name()];
        (key.is_empty() || keys.into_iter().flatten().any(|id| one(key, id)))
            && (peer.is_empty() || identity.peer.as_deref().is_some_and(|name| one(peer, name)))
            && (certificate.is_empty()
                || shown.is_some_and(|shown| shown.names.iter().any(|name| one(certificate, name))))
            && (subject.is_empty() || shown.is_some_and(|shown| one(subject, &shown.subject)))
            && (fingerprint.is_empty()
                || shown.is_some_and(|shown| fingerprint.contains(&shown.fingerprint)))
            && claim.iter().all(|(name, patterns)| {
                let values = match identity.claims.get(name) {
                    None => return false,
                    Some(Value::Array(values)) => values.as_slice(),
                    Some(value) => std::slice::from_ref(value),
                };
                values.iter().filter_map(scalar).any(|text| one(patterns, &text))
            })
            && (address.is_empty()
                || identity
                    .address
                    .is_some_and(|at| address.iter().any(|known| known.has(at.ip()))))
    }
}

/// A certificate's name as [`Certificate::names`](crate::Certificate::names) has it.
fn as_shown(name: &str) -> String {
    let ip = name.strip_prefix("ip:").and_then(|ip| ip.parse::<IpAddr>().ok());
    match ip {
        Some(ip) => format!("ip:{ip}"),
        None if name.starts_with("dns:") => name.to_lowercase(),
        None => name.to_owned(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

impl Pattern {
    fn new(text: &str) -> Pattern {
        let mut parts = text.split('*').map(str::to_owned);
        let first = parts.next().unwrap_or_default();
        let mut parts: Vec<String> = parts.collect();
        match parts.pop() {
            None => Pattern::Exact(first),
            Some(last)
                if first.is_empty() && last.is_empty() && parts.iter().all(String::is_empty) =>
            {
                Pattern::Any
            }
            Some(last) => Pattern::Parts(first, parts, last),
        }
    }

    fn fits(&self, text: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Exact(exact) => exact == text,
            Pattern::Parts(first, between, last) => {
                let rest = text.strip_prefix(first.as_str());
                let Some(mut rest) = rest.and_then(|rest| rest.strip_suffix(last.as_str())) else {
                    return false;
                };
                // Each as early as possible leaves the most for those that follow.
                between.iter().all(|part| match rest.find(part.as_str()) {
                    Some(at) => {
                        rest = &rest[at + part.len()..];
                        true
                    }
                    None => false,
                })
            }
        }
    }
}

impl Network {
    fn read(text: &str) -> Result<Network, String> {
        let wrong =
            || format!("`{text}` is neither an IP address nor a network such as 10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| wrong())?.to_canonical();
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        if bits > most { Err(wrong()) } else { Ok(Network { address, bits }) }
    }

    fn has(&self, address: IpAddr) -> bool {
        let number = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => u128::from(address),
        };
        let address = address.to_canonical();
        let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or_default();
        address.is_ipv4() == self.address.is_ipv4()
            && (number(address) ^ number(self.address)) & mask == 0
    }
}

/// What a policy gives to a unit.
#[derive(Clone)]
pub(crate) struct Rights {
    policy: Arc<Policy>,
    /// The rules that allow it something, and those that deny it something.
    allow: Vec<usize>,
    deny: Vec<usize>,
}

impl Rights {
    fn rules<'a>(&'a self, which: &'a [usize]) -> impl Iterator<Item = &'a Rule> {
        which.iter().filter_map(|at| self.policy.rules.get(*at))
    }

    pub(crate) fn may_call(&self, kind: Kind, role: &str, event: &str) -> bool {
        let is = |calls: &[Call]| calls.iter().any(|call| call.is(kind, role, event));
        match self.rules(&self.deny).any(|rule| is(&rule.never_call)) {
            true => false,
            false => {
                self.policy.call == Verdict::Allow
                    || self.rules(&self.allow).any(|rule| is(&rule.call))
            }
        }
    }

    pub(crate) fn may_serve(&self, role: &str) -> bool {
        let is = |roles: &[Pattern]| roles.iter().any(|pattern| pattern.fits(role));
        match self.rules(&self.deny).any(|rule| is(&rule.never_serve)) {
            true => false,
            false => {
                self.policy.serve == Verdict::Allow
                    || self.rules(&self.allow).any(|rule| is(&rule.serve))
            }
        }
    }
}

/// Of the same policy, by the same rules.
impl PartialEq for Rights {
    fn eq(&self, other: &Rights) -> bool {
        let rules = (&self.allow, &self.deny) == (&other.allow, &other.deny);
        Arc::ptr_eq(&self.policy, &other.policy) && rules
    }
}

impl fmt::Debug for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rights").field(&self.allow).field(&self.deny).finish()
    }
}

/// The rights of a unit, which change while it is connected. Set by its peer, looked at by the unit.
#[derive(Debug, Default)]
pub(crate) struct Access {
    /// Counts how often they have changed.
    changes: AtomicU64,
    rights: Mutex<Option<Arc<Rights>>>,
}

impl Access {
    pub(crate) fn set(&self, rights: Option<Arc<Rights>>) {
        *self.rights.lock().unwrap_or_else(PoisonError::into_inner) = rights;
        self.changes.fetch_add(1, Relaxed);
    }

    #[inline]
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }

    /// None: it may do everything.
    pub(crate) fn rights(&self) -> Option<Arc<Rights>> {
        self.rights.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Something that a unit was not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Denial {
    /// What it has called; none when it has announced the role.
    pub kind: Option<Kind>,
    /// The role, as far as it fits into 128 bytes.
    pub role: String,
    /// The event, likewise; empty for an announcement.
    pub event: String,
    /// The number of denials for this unit since the last report. The other fields describe the last of them.
    pub count: u64,
}

impl Denial {
    pub(crate) fn call(kind: Kind, role: &str, event: &str) -> Denial {
        let short = |text| wire::cut(text, QUOTED).to_owned();
        Denial { kind: Some(kind), role: short(role), event: short(event), count: 1 }
    }

    pub(crate) fn serve(role: &str) -> Denial {
        let role = wire::cut(role, QUOTED).to_owned();
        Denial { kind: None, role, event: String::new(), count: 1 }
    }

    /// What was denied: the name of the kind, or `serve`.
    pub fn what(&self) -> &'static str {
        self.kind.map_or("serve", Kind::name)
    }
}

/// For those who read logs.
impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, event) = (printable(&self.role), printable(&self.event));
        match self.kind {
            None => write!(f, "may not serve the role \"{role}\""),
            Some(kind) => write!(f, "may not call \"{role}\" / \"{event}\" ({})", kind.name()),
        }
    }
}

/// What a requester is told. No more of the policy than that is for him.
pub(crate) const NOT_ALLOWED: &str = "Not allowed by the policy of the peer";
/// The name of that failure for programs.
pub(crate) const NOT_ALLOWED_CODE: &str = "NOT_ALLOWED";

/// A policy in a file that is looked at from time to time. The host reads the file; this says what to do with it.
#[derive(Debug, Default)]
pub struct PolicyFile {
    /// What was read last, or why nothing was.
    last: Option<Result<String, String>>,
}

impl PolicyFile {
    /// Takes the text that the host has read, or that of its error. Returns none if nothing has changed.
    ///
    /// # Errors
    /// Why there is no new policy, once for each change of the file. The previous policy stays in force.
    pub fn read(
        &mut self,
        path: &str,
        read: Result<String, String>,
    ) -> Option<Result<Arc<Policy>>> {
        if self.last.as_ref() == Some(&read) {
            return None;
        }
        let policy = match &read {
            Ok(text) => Policy::parse(text).map(Arc::new),
            Err(error) => Err(invalid(format!("cannot be read: {error}"))),
        };
        self.last = Some(read);
        let of_file = |error: Error| {
            let text = error.text().replacen("The policy", &format!("The policy {path}"), 1);
            let hint = error.hint().unwrap_or_default().to_owned();
            Error::new(error.kind(), text).with_hint(hint)
        };
        Some(policy.map_err(of_file))
    }
}

#[cfg(test)]
mod tests;
