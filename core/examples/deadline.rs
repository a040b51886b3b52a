//! A time limit that crosses three services: a shop has half a second, asks a stock for what is left of it, and that
//! asks a robot. All three end when the shop gives up. All peers live in this one process, but could as well be
//! anywhere.
//!
//! ```sh
//! cargo run --example deadline
//! ```

use std::time::Duration;

use roletalk::{Destination, Peer};
use tokio::sync::mpsc;

/// A peer that looks for a role at an address.
async fn dialer(name: &str, address: &str, role: &str) -> roletalk::Result<(Peer, Destination)> {
    let peer = Peer::builder().name(name).build()?;
    peer.connect(address).await?;
    let destination = peer.destination(role)?;
    destination.ready().await?;
    Ok((peer, destination))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> roletalk::Result<()> {
    let (tell, mut told) = mpsc::unbounded_channel();

    let robot = Peer::builder().name("robot").build()?;
    robot.role("robot")?.on_request("fetch", move |ctx| {
        let tell = tell.clone();
        async move {
            println!("robot: begins, {:?} are left", ctx.remaining().unwrap_or_default());
            // It would take for ever.
            ctx.cancellation().cancelled().await;
            let _ = tell.send(ctx.cancel_reason());
            Ok(())
        }
    });
    let robots = robot.listen("127.0.0.1:0").await?;

    let (stock, fetch) = dialer("stock", robots.url(), "robot").await?;
    stock.role("stock")?.on_request("reserve", move |ctx| {
        let fetch = fetch.clone();
        async move {
            println!("stock: asks the robot for {}", ctx.parse::<String>()?);
            // It has what is left of the shop's time, and is given up with this handler: nothing to be done.
            Ok(fetch.request("fetch", ctx.into_data()).await?.into_data())
        }
    });
    let stocks = stock.listen("127.0.0.1:0").await?;

    let (shop, reserve) = dialer("shop", stocks.url(), "stock").await?;
    let answer = reserve.request("reserve", "an apple").timeout(Duration::from_millis(500)).await;
    if let Err(error) = answer {
        println!("shop: {error}");
    }
    if let Some(reason) = told.recv().await.flatten() {
        println!("robot: {}", reason.text());
    }
    for peer in [shop, stock, robot] {
        peer.close().await;
    }
    Ok(())
}
