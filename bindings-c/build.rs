//! Gives the shared library its name: programs that were linked with one version run with every later
//! one of the same major version (below 1.0, minor version).

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let system = std::env::var("CARGO_CFG_TARGET_OS").unwrap_or_default();
    if system == "linux" {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libroletalk.so.0");
    }
}
