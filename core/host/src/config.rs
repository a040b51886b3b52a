//! What the operating system gives every peer.

use std::time::{SystemTime, UNIX_EPOCH};

use roletalk_engine::{Config, Error, ErrorKind, Result};

/// A configuration whose randomness and wall clock are the operating system's.
///
/// # Errors
/// [`ErrorKind::Io`] when the system has no random bytes.
pub fn config() -> Result<Config> {
    // Tried once, so that it cannot come as a surprise later.
    getrandom::fill(&mut [0u8; 16])
        .map_err(|error| Error::new(ErrorKind::Io, format!("no random bytes: {error}")))?;
    let mut config = Config::new(Box::new(|bytes| {
        getrandom::fill(bytes).expect("the system gave random bytes before");
    }));
    config.wall_clock =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64);
    if let Some(descriptors) = descriptors() {
        config.limits.fit_descriptors(descriptors);
    }
    Ok(config)
}

/// The process's soft limit on open file descriptors (`RLIMIT_NOFILE`); none where there is no such limit.
pub fn descriptors() -> Option<u64> {
    #[cfg(unix)]
    {
        use nix::sys::resource::{Resource, getrlimit};
        Some(getrlimit(Resource::RLIMIT_NOFILE).ok()?.0)
    }
    #[cfg(not(unix))]
    None
}
