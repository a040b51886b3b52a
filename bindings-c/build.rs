//! Gives the shared library its name, so that programs that were linked with one version run with every
//! later one of the same major version (below 1.0, minor version), and lets it stay when it is closed.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if system == "linux" {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libroletalk.so.0");
        // It has threads: dlclose must not take their code away.
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
