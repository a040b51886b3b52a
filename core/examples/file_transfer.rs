//! Streams a file from one peer to another, with back-pressure: neither side ever holds more than a
//! window of it in memory. Both peers live in this one process, but could as well be anywhere.
//!
//! ```sh
//! cargo run --example file_transfer [FILE]    # default: this program itself
//! ```

use std::path::PathBuf;

use roletalk::{Data, Peer};
use tokio::{fs::File, io::AsyncWriteExt};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let path = match std::env::args_os().nth(1) {
        Some(path) => PathBuf::from(path),
        None => std::env::current_exe()?,
    };

    // The side that stores: whoever wants to write a stream to it is asked for the file's size.
    let store = Peer::builder().name("store").build()?;
    store.role("files")?.on_readable("upload", |request| async move {
        let expected: u64 = request.context().parse()?;
        let mut stream = request.accept(())?;
        // A real store would write to a file of a name that it has chosen itself.
        let received = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        println!("received {received} of {expected} bytes from {}", stream.unit().name());
        Result::Ok(())
    });
    let listener = store.listen("127.0.0.1:0").await?;

    // The side that sends.
    let sender = Peer::builder().name("sender").build()?;
    sender.connect(listener.url()).await?;
    let files = sender.destination("files")?;
    files.ready().await?;

    let mut file = File::open(&path).await?;
    let size = file.metadata().await?.len();
    let (mut stream, _) = files.writable("upload", Data::integer(size)).await?;
    let sent = tokio::io::copy(&mut file, &mut stream).await?;
    // Returns when the other side has read everything.
    stream.shutdown().await?;
    println!("sent {sent} bytes of {}", path.display());

    sender.close().await;
    store.close().await;
    Ok(())
}
