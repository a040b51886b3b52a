//! One peer publishes, others subscribe: whoever serves the role `news` hears every broadcast.
//! All peers live in this one process, but could as well be anywhere.
//!
//! ```sh
//! cargo run --example pubsub
//! ```

use roletalk::{Peer, PeerEvent};
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> roletalk::Result<()> {
    let publisher = Peer::builder().name("publisher").build()?;
    let news = publisher.destination("news")?;
    let mut events = publisher.events();
    let address = publisher.listen("127.0.0.1:0").await?.local_addr();

    let (heard, mut hearing) = mpsc::unbounded_channel();
    let mut subscribers = Vec::new();
    for name in ["ann", "ben", "cleo"] {
        let subscriber = Peer::builder().name(name).build()?;
        let heard = heard.clone();
        subscriber.role("news")?.on_message("headline", move |ctx| {
            // A handler may run many times at once: each run gets a sender of its own.
            let heard = heard.clone();
            async move {
                let headline: String = ctx.parse()?;
                let _ = heard.send(format!("{name} reads: {headline}"));
                Ok(())
            }
        });
        subscriber.connect(format!("ws://{address}")).await?;
        subscribers.push(subscriber);
    }

    // A broadcast goes to the units that serve the role now, so wait for all of them.
    let mut subscribed = 0;
    while let Some(event) = events.next().await {
        if let PeerEvent::DestinationGained { unit, .. } = event {
            println!("{} subscribes", unit.name());
            subscribed += 1;
        }
        if subscribed == subscribers.len() {
            break;
        }
    }
    let count = news.broadcast("headline", "Brokers are not needed").await?;
    println!("published to {count}");
    for _ in 0..count {
        println!("{}", hearing.recv().await.unwrap_or_default());
    }

    for peer in subscribers.iter().chain([&publisher]) {
        peer.close().await;
    }
    Ok(())
}
