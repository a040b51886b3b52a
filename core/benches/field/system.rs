//! What is compared, and what each of it must be able to do.

use std::{error::Error, future::Future, net::SocketAddr, time::Duration};

pub(crate) type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Bytes of one piece of a stream.
pub(crate) const PIECE: usize = 64 << 10;

/// The first byte of a payload tells the bare servers what to do with it.
pub(crate) const ECHO: u8 = 0;
pub(crate) const COUNT: u8 = 1;
/// Answered with how much was counted.
pub(crate) const END: u8 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum System {
    /// Length-prefixed frames on TCP.
    Tcp,
    /// tokio-tungstenite.
    Ws,
    /// This crate, each request in flight awaited by a task of its own.
    Ours,
    /// This crate, all requests in flight awaited by one task.
    OursJoined,
    /// tokio-tungstenite, each request in flight awaited by a task of its own.
    WsCalls,
}

impl System {
    pub(crate) const ALL: [System; 5] =
        [System::Tcp, System::Ws, System::Ours, System::OursJoined, System::WsCalls];
    /// Without a second way to await.
    pub(crate) const BASIC: [System; 3] = [System::Tcp, System::Ws, System::Ours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            System::Tcp => "tcp",
            System::Ws => "tungstenite",
            System::Ours => "roletalk",
            System::OursJoined => "roletalk, one task",
            System::WsCalls => "tungstenite, awaited",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<System> {
        System::ALL.into_iter().find(|system| system.name() == name)
    }
}

/// What was done, and in what time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// Requests, messages or bytes.
    pub(crate) count: u64,
    pub(crate) time: Duration,
    /// Only with one request in flight.
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// One connection to a server.
pub(crate) trait Client: Sized + Send {
    fn connect(address: SocketAddr) -> impl Future<Output = Outcome<Self>> + Send;

    /// Echoes of `size` bytes for so long, `window` in flight.
    fn requests(
        &mut self,
        size: usize,
        window: usize,
        time: Duration,
    ) -> impl Future<Output = Outcome<Done>> + Send;

    /// One-way messages of `size` bytes for so long; done when the last one has arrived.
    fn messages(
        &mut self,
        size: usize,
        time: Duration,
    ) -> impl Future<Output = Outcome<Done>> + Send;

    /// So many bytes one way; done when the last one has arrived.
    fn stream(&mut self, bytes: u64) -> impl Future<Output = Outcome<Done>> + Send;
}

/// Times of single requests.
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new() -> Latencies {
        Latencies(Vec::with_capacity(1 << 16))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn done(mut self, time: Duration) -> Done {
        self.0.sort_unstable();
        let at = |share: f64| {
            let at = (self.0.len() as f64 * share) as usize;
            self.0.get(at.min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Done { count: self.0.len() as u64, time, p50: at(0.5), p99: at(0.99) }
    }
}

/// What a server has counted must be what was sent.
pub(crate) fn check_count(sent: u64, counted: u64) -> Outcome<()> {
    match sent == counted {
        true => Ok(()),
        false => Err(format!("{sent} were sent, {counted} arrived").into()),
    }
}
