//! Asks the role `echo`, wherever it is served. See `echo_server.rs`.
//!
//! ```sh
//! cargo run --example echo_client -- TEXT [ADDRESS...]    # default ws://127.0.0.1:9000
//! ```

use std::time::Duration;

use roletalk::Peer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> roletalk::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let text = arguments.next().unwrap_or_else(|| "hello".to_owned());
    let mut addresses: Vec<String> = arguments.collect();
    if addresses.is_empty() {
        addresses.push("ws://127.0.0.1:9000".to_owned());
    }

    let peer = Peer::builder().name("echo client").build()?;
    let echo = peer.destination("echo")?;
    for address in &addresses {
        peer.connect(address).await?;
    }
    for _ in &addresses {
        let answer = echo.request("say", text.as_str()).timeout(Duration::from_secs(5)).await?;
        println!("{} answers {}", answer.unit().name(), answer.parse::<String>()?);
    }
    peer.close().await;
    Ok(())
}
