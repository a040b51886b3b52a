use super::*;
use crate::identity::{Certificate, parse_claims};

fn policy(text: &str) -> Arc<Policy> {
    Arc::new(Policy::parse(text).unwrap())
}

fn key(id: &str) -> Identity {
    Identity { key: Some(id.to_owned()), ..Identity::default() }
}

fn at(address: &str) -> Identity {
    Identity { address: Some(address.parse().unwrap()), ..Identity::default() }
}

fn claims(json: &str) -> Identity {
    Identity { claims: parse_claims(json).unwrap(), ..Identity::default() }
}

fn certified(names: &[&str]) -> Identity {
    let certificate = Certificate {
        subject: "CN=pay,O=Example".to_owned(),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        fingerprint: "ab".repeat(32),
        expires: 0,
    };
    Identity { certificate: Some(certificate.into()), ..Identity::default() }
}

#[test]
fn whom_a_rule_is_about() {
    let fingerprint = format!(r#"{{"fingerprint": "{}"}}"#, "AB:".repeat(32).trim_end_matches(':'));
    let pay = || certified(&["dns:pay.example", "uri:spiffe://prod/pay"]);
    for (who, identity, expected) in [
        (r#""any""#, Identity::default(), true),
        (r#"{"key": "a"}"#, key("a"), true),
        (r#"{"key": "a"}"#, key("a#2"), true),
        (r#"{"key": "a#1"}"#, key("a#2"), false),
        (r#"{"key": "a"}"#, key("b"), false),
        (r#"{"key": "a"}"#, Identity::default(), false),
        (r#"{"key": ["b", "a*"]}"#, key("abc"), true),
        (r#"{"peer": "key-1"}"#, Identity { peer: Some("key-1".to_owned()), ..key("a") }, true),
        (r#"{"peer": "key-1"}"#, key("key-1"), false),
        (r#"{"certificate": "uri:spiffe://prod/*"}"#, pay(), true),
        (r#"{"certificate": "uri:spiffe://test/*"}"#, pay(), false),
        (r#"{"certificate": "dns:pay.example"}"#, certified(&["email:pay.example"]), false),
        (r#"{"certificate": "dns:*"}"#, Identity::default(), false),
        (r#"{"certificate": "dns:Pay.Example"}"#, pay(), true),
        (r#"{"certificate": "ip:2001:DB8:0::1"}"#, certified(&["ip:2001:db8::1"]), true),
        (r#"{"subject": "CN=pay,*"}"#, pay(), true),
        (r#"{"subject": "CN=pay"}"#, pay(), false),
        (fingerprint.as_str(), pay(), true),
        (r#"{"claim": {"team": "ops"}}"#, claims(r#"{"team": "ops"}"#), true),
        (r#"{"claim": {"team": "ops"}}"#, claims(r#"{"team": ["dev", "ops"]}"#), true),
        (r#"{"claim": {"team": ["qa", "o*"]}}"#, claims(r#"{"team": "ops"}"#), true),
        (
            r#"{"claim": {"level": 3, "admin": true}}"#,
            claims(r#"{"level": 3, "admin": true}"#),
            true,
        ),
        (r#"{"claim": {"level": 3, "admin": true}}"#, claims(r#"{"level": 3}"#), false),
        (r#"{"claim": {"team": "*"}}"#, claims(r#"{"team": {"name": "ops"}}"#), false),
        (r#"{"claim": {"team": "*"}}"#, Identity::default(), false),
        (r#"{"address": "10.1.0.0/16"}"#, at("10.1.2.3:4"), true),
        (r#"{"address": "10.1.0.0/16"}"#, at("10.2.2.3:4"), false),
        (r#"{"address": "10.1.0.0/16"}"#, at("[::ffff:10.1.2.3]:4"), true),
        (r#"{"address": ["::1", "fd00::/8"]}"#, at("[fd12::1]:4"), true),
        (r#"{"address": "0.0.0.0/0"}"#, at("[fd12::1]:4"), false),
        (r#"{"address": "0.0.0.0/0"}"#, at("1.2.3.4:5"), true),
        (r#"{"address": "0.0.0.0/0"}"#, Identity::default(), false),
        // All that is named.
        (r#"{"key": "a", "address": "10.0.0.0/8"}"#, key("a"), false),
    ] {
        let text = format!(r#"{{"rules": [{{"who": {who}, "call": ["r"]}}]}}"#);
        let rights = policy(&text).rights(std::iter::once(&identity));
        assert_eq!(rights.may_call(Kind::Request, "r", "e"), expected, "{who} {identity:?}");
    }
}

#[test]
fn what_is_allowed() {
    let text = r#"{
        "rules": [
            {"who": {"key": "a"}, "call": ["pay/*", "status", {"role": "a/b", "event": "c", "kinds": ["message", "readable"]}]},
            {"who": "any", "call": ["*/health", "x*y*z/e"], "serve": ["metrics*"]},
            {"who": {"key": "a"}, "deny": {"call": ["pay/refund"], "serve": ["metrics.secret"]}}
        ]
    }"#;
    let rights = policy(text).rights(std::iter::once(&key("a")));
    for (kind, role, event, expected) in [
        (Kind::Request, "pay", "charge", true),
        (Kind::Message, "pay", "", true),
        (Kind::Writable, "pay", "refund", false),
        (Kind::Request, "payments", "charge", false),
        (Kind::Request, "status", "anything", true),
        (Kind::Request, "b", "health", true),
        (Kind::Request, "b", "healthy", false),
        (Kind::Message, "a/b", "c", true),
        (Kind::Readable, "a/b", "c", true),
        (Kind::Request, "a/b", "c", false),
        (Kind::Writable, "a/b", "c", false),
        (Kind::Request, "xyz", "e", true),
        (Kind::Request, "x1y2z", "e", true),
        (Kind::Request, "xz", "e", false),
        (Kind::Request, "xyyz", "e", true),
    ] {
        assert_eq!(rights.may_call(kind, role, event), expected, "{kind:?} {role} {event}");
    }
    for (role, expected) in [("metrics", true), ("metrics.secret", false), ("pay", false)] {
        assert_eq!(rights.may_serve(role), expected, "{role}");
    }
    let stranger = policy(text).rights(std::iter::once(&key("b")));
    assert!(!stranger.may_call(Kind::Request, "pay", "charge"));
    assert!(stranger.may_call(Kind::Request, "pay", "health"));
}

#[test]
fn what_no_rule_names_is_as_the_default_says() {
    for (default, call, serve) in [
        ("{}", false, false),
        (r#"{"default": "deny"}"#, false, false),
        (r#"{"default": "allow"}"#, true, true),
        (r#"{"default": {"call": "allow"}}"#, true, false),
        (r#"{"default": {"serve": "allow"}, "comment": "for a while"}"#, false, true),
    ] {
        let rights = policy(default).rights(std::iter::once(&Identity::default()));
        assert_eq!(rights.may_call(Kind::Message, "r", "e"), call, "{default}");
        assert_eq!(rights.may_serve("r"), serve, "{default}");
    }
}

#[test]
fn a_policy_with_a_fault_is_none_and_says_where() {
    let rule = |rule: &str| format!(r#"{{"rules": [{{"who": "any", "call": ["a"]}}, {rule}]}}"#);
    for (text, expected) in [
        ("", "cannot be read: EOF"),
        ("[]", "cannot be read: invalid type"),
        (r#"{"defaults": "deny"}"#, "unknown field `defaults`"),
        (r#"{"default": "maybe"}"#, "\"allow\", \"deny\", or"),
        (&rule(r#"{"call": ["a"]}"#), "missing field `who`"),
        (&rule(r#"{"who": "all", "call": ["a"]}"#), "\"any\", or an object of"),
        (&rule(r#"{"who": {}, "call": ["a"]}"#), "rule 2: `who` names nobody"),
        (&rule(r#"{"who": {"key": []}, "call": ["a"]}"#), "rule 2: `who` has an empty list"),
        (&rule(r#"{"who": {"key": [], "peer": "a"}, "call": ["a"]}"#), "`who` has an empty list"),
        (&rule(r#"{"who": {"key": null, "peer": "a"}, "call": ["a"]}"#), "an object of `key`"),
        (&rule(r#"{"who": {"claim": {}, "key": "a"}, "call": ["a"]}"#), "`claim` names no claim"),
        (&rule(r#"{"who": {"claim": {"a": []}}, "call": ["a"]}"#), "`a` has an empty list"),
        (
            &rule(r#"{"who": "any", "deny": {"call": [{"role": "a", "kinds": []}]}}"#),
            "`kinds` is empty",
        ),
        (&rule(r#"{"who": {"kye": "a"}, "call": ["a"]}"#), "an object of `key`"),
        (&rule(r#"{"who": ["a"], "call": ["a"]}"#), "an object of `key`"),
        (&rule(r#"["any", ["a"]]"#), "expected an object"),
        (&rule(r#"{"who": "any", "call": [["a", "b"]]}"#), "an object of `role`"),
        (&rule(r#"{"who": "any"}"#), "rule 2: it says nothing"),
        (&rule(r#"{"who": "any", "call": ["a/b/c"]}"#), "more than one `/`"),
        (
            &rule(r#"{"who": "any", "call": [{"role": "a", "kinds": ["survey"]}]}"#),
            "no kind `survey`",
        ),
        (&rule(r#"{"who": {"certificate": "pay.example"}, "call": ["a"]}"#), "needs its type"),
        (&rule(r#"{"who": {"fingerprint": "abc"}, "call": ["a"]}"#), "not SHA-256"),
        (&rule(r#"{"who": {"address": "10.0.0.0/33"}, "call": ["a"]}"#), "10.0.0.0/33"),
        (&rule(r#"{"who": {"claim": {"a": null}}, "call": ["a"]}"#), "the claim `a` should be"),
    ] {
        let error = Policy::parse(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.text().starts_with("The policy "), "{error}");
        assert!(error.text().contains(expected), "{text}: {error}");
        assert!(error.hint().unwrap().contains("stays in force"));
    }
    let long = format!(r#"{{"comment": "{}"}}"#, "x".repeat(LARGEST));
    assert!(Policy::parse(&long).unwrap_err().text().contains("at most"));
}

#[test]
fn a_file_is_told_of_once_for_each_change() {
    let mut file = PolicyFile::default();
    let good = || Ok(r#"{"default": "allow"}"#.to_owned());
    let mut read =
        |read| file.read("p.json", read).map(|policy| policy.map(drop).map_err(|e| e.to_string()));
    assert_eq!(read(good()), Some(Ok(())));
    assert_eq!(read(good()), None);
    let torn = read(Ok(r#"{"defau"#.to_owned())).unwrap().unwrap_err();
    assert!(torn.starts_with("The policy p.json cannot be read: EOF"), "{torn}");
    assert_eq!(read(Ok(r#"{"defau"#.to_owned())), None);
    let gone = read(Err("No such file".to_owned())).unwrap().unwrap_err();
    assert_eq!(gone, "The policy p.json cannot be read: No such file");
    assert_eq!(read(good()), Some(Ok(())));
}

#[test]
fn what_one_connection_has_shown_denies_and_what_all_have_allows() {
    let text = r#"{"rules": [
        {"who": {"address": "10.0.0.0/8"}, "call": ["inner"]},
        {"who": "any", "call": ["*"]},
        {"who": {"address": "192.0.2.0/24"}, "deny": {"call": ["outer"]}}
    ]}"#;
    let shown = [at("10.0.0.1:1"), at("192.0.2.1:1")];
    let rights = policy(text).rights(shown.iter());
    assert!(rights.may_call(Kind::Request, "other", "e"));
    assert!(!rights.may_call(Kind::Request, "outer", "e"));
    let text = r#"{"rules": [{"who": {"address": "10.0.0.0/8"}, "call": ["inner"]}]}"#;
    assert!(!policy(text).rights(shown.iter()).may_call(Kind::Request, "inner", "e"));
    assert!(policy(text).rights(shown[..1].iter()).may_call(Kind::Request, "inner", "e"));
}
