//! A service and a client that show each other certificates: see docs/TLS.md for how to make them.
//!
//! ```sh
//! cargo run --example tls     # in the directory with ca.pem, service.pem, client.pem and their keys
//! ```

use std::fs::read;

use roletalk::{ConnectOptions, ListenOptions, Peer, TlsClient, TlsServer};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Only clients with a certificate of this authority get in; without that: `from_pem`.
    let tls =
        TlsServer::with_client_ca(&read("service.pem")?, &read("service.key")?, &read("ca.pem")?)?;
    let service = Peer::builder().name("service").build()?;
    service.role("echo")?.on_request("say", |ctx| async move { Ok(ctx.into_data()) });
    let listener = service.listen_with("localhost:0", ListenOptions::new().tls(tls)).await?;

    let tls =
        TlsClient::new().ca(read("ca.pem")?).identity(read("client.pem")?, read("client.key")?);
    let client = Peer::builder().name("client").build()?;
    // A name that is in the service's certificate.
    let address = format!("wss://localhost:{}", listener.local_addr().port());
    client.connect_with(address, ConnectOptions::new().tls(tls)).await?;
    let echo = client.destination("echo")?;
    echo.ready().await?;
    println!("{}", echo.request("say", "safe").await?.parse::<String>()?);

    client.close().await;
    service.close().await;
    Ok(())
}
