//! What a policy costs the peer that is called.

use std::{collections::HashMap, hint::black_box, sync::Arc, time::Instant};

use roletalk_engine::{Moment, Policy};

use crate::{
    Outcome,
    common::{Options, Table, Target, median, number},
    hub::{Hub, outgoing, role_names},
};

/// One rule for the caller, and many for others.
fn typical() -> String {
    let others: Vec<String> =
        (0..50).map(|n| format!(r#"{{"who": {{"key": "k{n}"}}, "call": ["r{n}/*"]}}"#)).collect();
    let own = r#"{"who": "any", "call": ["status/health", "a*", "b/c*", "role-*/e*"]}"#;
    format!(r#"{{"default": "deny", "rules": [{}, {own}]}}"#, others.join(", "))
}

/// Nanoseconds for a request and its answer, both ends, with the same names again and again, and with others each time.
pub(crate) fn run(options: &Options) -> Outcome<Vec<Target>> {
    let roles = role_names(1);
    let policies = [
        ("none", None),
        ("all allowed", Some(r#"{"default": "allow"}"#.to_owned())),
        ("51 rules, 1 for the caller", Some(typical())),
    ];
    let names = [("same names", 1), ("other names each time", 16)];
    let times = options.pick(2_000, 20_000);
    let mut costs: HashMap<(&str, &str), Vec<f64>> = HashMap::new();
    let mut hub = Hub::new(1, &roles)?;
    let unit = hub.units[0];
    for _ in 0..options.pick(5, 25) {
        for (policy, text) in &policies {
            let parsed =
                text.as_deref().map(|text| Policy::parse(text).map(Arc::new)).transpose()?;
            let remote = &mut hub.remotes[0].engine;
            remote.with_peer(Moment::EPOCH, |peer| peer.set_policy(parsed));
            for (what, many) in names {
                let events: Vec<String> = (0..many).map(|n| format!("event {n}")).collect();
                let start = Instant::now();
                let mut answered = 0;
                for _ in 0..times / 16 {
                    let now = hub.now();
                    hub.engine.with_unit(unit, now, |unit| {
                        for at in 0..16 {
                            let request = outgoing(&roles[0], &events[at % events.len()], &[0; 32]);
                            let _ = black_box(unit.request(request, None, now, ()));
                        }
                    });
                    hub.collect();
                    hub.run_remotes();
                    answered += hub.receive();
                }
                assert_eq!(answered, times / 16 * 16, "{policy}: all are allowed");
                let cost = start.elapsed().as_secs_f64() * 1e9 / answered as f64;
                costs.entry((policy, what)).or_default().push(cost);
            }
        }
    }
    let of = |policy, what| median(costs[&(policy, what)].iter().copied());
    let mut table =
        Table::new(["ns".to_owned()].into_iter().chain(names.map(|(what, _)| what.to_owned())));
    for (policy, _) in &policies {
        let cells = names.map(|(what, _)| number(of(policy, what)));
        table.row([(*policy).to_owned()].into_iter().chain(cells));
    }
    table.print("A request and its answer, both ends, by the policy of the one that is called");
    let most = policies[1..]
        .iter()
        .flat_map(|(policy, _)| names.map(|(what, _)| of(policy, what) - of("none", what)));
    Ok(vec![Target {
        what: "what a policy costs a request, ns, at most".into(),
        value: most.fold(f64::MIN, f64::max),
        bound: 100.0,
        at_least: false,
    }])
}
