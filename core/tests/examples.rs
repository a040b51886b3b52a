//! The examples do what they say.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

/// The program of an example. `cargo test --test examples` alone would not have built it.
fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        // target/PROFILE/deps/examples-HASH
        let test = std::env::current_exe().unwrap();
        let output = test.parent().unwrap().parent().unwrap();
        let profile = match output.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let cargo = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "roletalk", "--examples"])
            .args(["--profile", profile])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(cargo.unwrap().success(), "the examples do not build");
        output.join("examples")
    });
    directory.join(name).with_extension(std::env::consts::EXE_EXTENSION)
}

/// Runs an example to its end and gives what it printed.
fn run(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(program(name)).args(arguments).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{printed}{errors}", output.status);
    printed
}

#[test]
fn pubsub() {
    let printed = run("pubsub", &[]);
    assert_eq!(printed.matches("reads: Brokers are not needed").count(), 3, "{printed}");
}

#[test]
fn deadline() {
    let printed = run("deadline", &[]);
    let lines: Vec<_> = printed.lines().collect();
    assert_eq!(lines[0], "stock: asks the robot for an apple", "{printed}");
    assert!(
        lines[1].starts_with("robot: begins, ") && lines[1].ends_with("ms are left"),
        "{printed}"
    );
    // Either may be first to say so.
    assert!(printed.contains("shop: Request timeout exceeded (500 ms)"), "{printed}");
    assert_eq!(printed.matches("robot: ").count(), 2, "{printed}");
}

#[test]
fn file_transfer() {
    let printed = run("file_transfer", &[MANIFEST]);
    let size = std::fs::metadata(MANIFEST).unwrap().len();
    assert!(printed.contains(&format!("received {size} of {size} bytes")), "{printed}");
}

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

/// With certificates that are made as docs/TLS.md says.
#[test]
fn tls() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("left out: openssl is not installed");
        return;
    }
    let guide = include_str!("../../docs/TLS.md");
    let recipe = guide.split("```").find_map(|block| block.strip_prefix("sh\n")).unwrap();
    let directory = std::env::temp_dir().join(format!("roletalk-example-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let made = Command::new("sh").args(["-e", "-c", recipe]).current_dir(&directory).output();
    assert!(made.unwrap().status.success());
    let output = Command::new(program("tls")).current_dir(&directory).output().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "safe\n", "{errors}");
}

#[test]
fn echo() {
    struct Server(Child);
    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let mut server = Command::new(program("echo_server"));
    let server = server.arg("127.0.0.1:0").stdout(Stdio::piped()).spawn();
    let mut server = Server(server.unwrap());
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.rsplit(' ').next().unwrap();
    let printed = run("echo_client", &["hello there", address]);
    assert_eq!(printed.trim_end(), "echo server answers hello there");
    #[cfg(unix)]
    {
        let pid = server.0.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap().success());
        assert!(server.0.wait().unwrap().success());
    }
}
