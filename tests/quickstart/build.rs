//! Takes the programs out of the README. Their port comes from the environment, so that several can run.

use std::{env, fs, path::Path};

fn main() {
    let readme = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("../../README.md");
    println!("cargo::rerun-if-changed={}", readme.display());
    let text = fs::read_to_string(readme).unwrap();
    let programs = text.split("```rust\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let programs: Vec<&str> = programs.filter(|program| program.contains("fn main")).collect();
    let [service, client] = programs[..] else { panic!("{} programs in Rust", programs.len()) };
    for (name, program) in [("service", service), ("client", client)] {
        let address = r#"127.0.0.1:9000""#;
        assert!(program.contains(address), "the {name} has another address");
        let program = program
            .replace(&format!(r#""ws://{address}"#), r#"&format!("ws://127.0.0.1:{}", port())"#)
            .replace(&format!(r#""{address}"#), r#"&*format!("127.0.0.1:{}", port())"#);
        let port = "fn port() -> String {\n    std::env::var(\"QUICKSTART_PORT\").unwrap()\n}\n";
        let out = Path::new(&env::var("OUT_DIR").unwrap()).join(format!("{name}.rs"));
        fs::write(out, format!("{program}\n{port}")).unwrap();
    }
}
