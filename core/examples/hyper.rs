//! A peer behind a web server: hyper serves HTTP, and hands what asks for a WebSocket at `/roletalk`
//! to the peer.
//!
//! Run it with `cargo run -p roletalk --example hyper`. It starts the server, connects to it as
//! another peer would, makes a request, and ends.

use std::convert::Infallible;

use http_body_util::Full;
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use roletalk::Peer;
use tokio::net::TcpListener;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let peer = Peer::builder().name("behind-hyper").build()?;
    peer.role("greeter")?.on_request("greet", |ctx| async move {
        let name: String = ctx.parse()?;
        Ok(format!("hello {name}"))
    });

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("http://{address}/ is a page, ws://{address}/roletalk a peer");
    tokio::spawn(serve(listener, peer.clone()));

    let client = Peer::builder().name("client").build()?;
    client.connect(format!("ws://{address}/roletalk")).await?;
    let greeter = client.destination("greeter")?;
    greeter.ready().await?;
    println!("{}", greeter.request("greet", "hyper").await?.parse::<String>()?);
    client.close().await;
    peer.close().await;
    Ok(())
}

async fn serve(listener: TcpListener, peer: Peer) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return eprintln!("accept: {error}"),
        };
        let peer = peer.clone();
        let service = service_fn(move |request| respond(request, peer.clone()));
        tokio::spawn(async move {
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.with_upgrades().await {
                eprintln!("{error}");
            }
        });
    }
}

async fn respond(
    request: Request<Incoming>,
    peer: Peer,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/roletalk" {
        return Ok(Response::new(Full::from("Dial /roletalk with a peer.\n")));
    }
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
    let accept = key
        .and_then(|key| key.to_str().ok())
        .and_then(|key| HeaderValue::try_from(roletalk::accept_key(key)).ok());
    let mut response = Response::new(Full::default());
    let Some(accept) = accept else {
        *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
        return Ok(response);
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    // The upgrade happens once the response has been written.
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => {
                // Returns when the connection has ended.
                if let Err(error) = peer.accept_upgraded(TokioIo::new(upgraded)).await {
                    eprintln!("{error}");
                }
            }
            Err(error) => eprintln!("upgrade: {error}"),
        }
    });
    Ok(response)
}
