//! Serves the role `echo`: whatever is asked comes back.
//!
//! ```sh
//! cargo run --example echo_server                     # on 127.0.0.1:9000
//! cargo run --example echo_client -- "hello there"    # in another terminal
//! ```
//!
//! Start several servers on other ports, give the client all their addresses, and its requests are
//! spread over them.

use roletalk::Peer;

#[tokio::main(flavor = "current_thread")]
async fn main() -> roletalk::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9000".to_owned());

    let peer = Peer::builder().name("echo server").build()?;
    peer.role("echo")?.on_request("say", |ctx| async move {
        println!("{} says {:?}", ctx.unit().name(), ctx.data());
        Ok(ctx.into_data())
    });
    let listener = peer.listen(address).await?;
    println!("serving `echo` on {}", listener.url());

    // Until Ctrl-C or SIGTERM; what runs then may finish.
    peer.serve().await?;
    Ok(())
}
