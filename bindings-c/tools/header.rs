//! Prints include/roletalk.h, as cbindgen makes it of the sources.

fn main() {
    let crate_dir = env!("CARGO_MANIFEST_DIR");
    match cbindgen::generate(crate_dir) {
        Ok(header) => header.write(std::io::stdout()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
