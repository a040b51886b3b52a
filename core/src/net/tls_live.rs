//! TLS settings that change while they are in use.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{
    Error, ErrorKind, Result,
    engine::Validity,
    peer::{PeerEvent, Shared, lock},
};

/// How soon files that cannot be used are looked at again: they may only be half written.
const SETTLING: Duration = Duration::from_secs(1);
/// The shortest time between two looks.
const LEAST: Duration = Duration::from_millis(1);

/// Where a PEM comes from.
#[derive(Clone)]
pub(super) enum Pem {
    Given(Vec<u8>),
    File(PathBuf),
}

impl Pem {
    fn read(&self) -> Result<Vec<u8>> {
        match self {
            Pem::Given(pem) => Ok(pem.clone()),
            Pem::File(path) => std::fs::read(path).map_err(|error| {
                let text = format!("`{}` cannot be read: {error}", path.display());
                Error::new(ErrorKind::Tls, text).with_source(error)
            }),
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Pem::Given(_) => None,
            Pem::File(path) => Some(path),
        }
    }
}

/// Certificate chain and key, and authorities.
#[derive(Clone, Default)]
pub(super) struct Sources {
    pub(super) identity: Option<(Pem, Pem)>,
    pub(super) ca: Option<Pem>,
}

impl Sources {
    fn read(&self) -> Result<Material> {
        let identity = match &self.identity {
            Some((chain, key)) => Some((chain.read()?, key.read()?)),
            None => None,
        };
        Ok(Material { identity, ca: self.ca.as_ref().map(Pem::read).transpose()? })
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|(chain, key)| [chain, key]);
        identity.chain(&self.ca).filter_map(Pem::path)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.identity.is_none() && self.ca.is_none()
    }
}

/// What [`Sources`] have said. No `Debug`: there is a key in it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) struct Material {
    pub(super) identity: Option<(Vec<u8>, Vec<u8>)>,
    pub(super) ca: Option<Vec<u8>>,
}

impl Material {
    /// When it is of no use any more: when the first certificate of the chain has expired, or the last authority.
    fn expires(&self) -> Option<SystemTime> {
        let chain =
            self.identity.as_ref().and_then(|(chain, _)| validities(chain).min_by_key(not_after));
        let ca = self.ca.as_ref().and_then(|ca| validities(ca).max_by_key(not_after));
        let first = chain.iter().chain(&ca).map(not_after).min()?;
        UNIX_EPOCH.checked_add(first)
    }

    /// Checks that the chain is valid now, and one of the authorities.
    fn check_time(&self) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some((chain, _)) = &self.identity {
            validities(chain).try_for_each(|validity| validity.check(now))?;
        }
        let checks =
            self.ca.iter().flat_map(|ca| validities(ca)).map(|validity| validity.check(now));
        // Bundles often have some that have expired.
        match checks.reduce(Result::or) {
            Some(Err(error)) => {
                let text = format!("None of the authorities is valid: {}", error.text());
                Err(Error::new(ErrorKind::Tls, text))
            }
            _ => Ok(()),
        }
    }
}

/// Of those certificates that can be read: whether the others are of use is for rustls to say.
fn validities(pem: &[u8]) -> impl Iterator<Item = Validity> {
    let certificates = CertificateDer::pem_slice_iter(pem).filter_map(std::result::Result::ok);
    certificates.filter_map(|certificate| Validity::of(&certificate).ok())
}

fn not_after(validity: &Validity) -> Duration {
    validity.not_after
}

/// Makes the configuration of one side.
pub(super) type Build<C> = Box<dyn Fn(&Material) -> Result<Arc<C>> + Send + Sync>;

/// The settings of one side, for all clones of a `TlsServer` or `TlsClient`.
pub(super) struct Live<C> {
    current: ArcSwapOption<Loaded<C>>,
    sources: Sources,
    build: Build<C>,
    making: Mutex<Making>,
    status: watch::Sender<Status>,
}

struct Loaded<C> {
    config: Arc<C>,
    expires: Option<SystemTime>,
}

#[derive(Default)]
struct Making {
    /// In force.
    used: Material,
    /// Read last from the sources, and taken.
    read: Option<Material>,
    /// Read last by watching, and not taken.
    refused: Option<Refused>,
    /// How often the files are looked at.
    every: Option<Duration>,
}

struct Refused {
    read: Option<Material>,
    text: String,
    told: bool,
}

/// What those who watch are told.
#[derive(Clone, Debug, Default)]
pub(crate) struct Status {
    /// Counts what there was to tell.
    version: u64,
    /// What it was last.
    last: Option<Result<Option<SystemTime>>>,
}

impl<C> Live<C> {
    /// Nothing is read before it is needed.
    pub(super) fn new(sources: Sources, build: Build<C>) -> Live<C> {
        Live {
            current: ArcSwapOption::empty(),
            sources,
            build,
            making: Mutex::default(),
            status: watch::Sender::new(Status::default()),
        }
    }

    /// A configuration that somebody else has made.
    pub(super) fn made(config: Arc<C>) -> Live<C> {
        let live = Live::new(Sources::default(), Box::new(|_| Err(foreign())));
        live.current.store(Some(Arc::new(Loaded { config, expires: None })));
        live
    }

    /// How often the files are looked at.
    pub(super) fn every(&self) -> Option<Duration> {
        lock(&self.making).every
    }

    /// The configuration for the next handshake.
    pub(super) fn config(&self) -> Result<Arc<C>> {
        if let Some(loaded) = &*self.current.load() {
            return Ok(loaded.config.clone());
        }
        let mut making = lock(&self.making);
        // Somebody else may have been first.
        if let Some(loaded) = &*self.current.load() {
            return Ok(loaded.config.clone());
        }
        let read = self.sources.read()?;
        // Whoever gives PEM has it refused by the other side; files are checked whenever they are read.
        let loaded = self.load(&read, self.sources.paths().next().is_some())?;
        let config = loaded.config.clone();
        self.current.store(Some(loaded));
        (making.used, making.read) = (read.clone(), Some(read));
        Ok(config)
    }

    fn load(&self, material: &Material, check: bool) -> Result<Arc<Loaded<C>>> {
        let config = (self.build)(material)?;
        if check {
            material.check_time()?;
        }
        Ok(Arc::new(Loaded { config, expires: material.expires() }))
    }

    /// Puts something else in force, and tells of it.
    fn switch(&self, making: &mut Making, loaded: Arc<Loaded<C>>, used: Material) {
        let expires = loaded.expires;
        self.current.store(Some(loaded));
        (making.used, making.refused) = (used, None);
        self.tell(Ok(expires));
    }

    fn tell(&self, what: Result<Option<SystemTime>>) {
        self.status.send_modify(|status| {
            status.version += 1;
            status.last = Some(what);
        });
    }

    /// Takes other PEM; what is not given stays.
    pub(super) fn replace(
        &self,
        identity: Option<(&[u8], &[u8])>,
        ca: Option<&[u8]>,
    ) -> Result<()> {
        if self.sources.is_empty()
            && self.current.load().is_some()
            && lock(&self.making).read.is_none()
        {
            return Err(foreign());
        }
        // What is not given has to be known.
        self.config()?;
        let mut making = lock(&self.making);
        let mut used = making.used.clone();
        if let Some((chain, key)) = identity {
            used.identity = Some((chain.to_vec(), key.to_vec()));
        }
        if let Some(ca) = ca {
            used.ca = Some(ca.to_vec());
        }
        let loaded = self.load(&used, true).map_err(|error| stays("The PEM is", &error))?;
        self.switch(&mut making, loaded, used);
        Ok(())
    }

    fn files(&self) -> String {
        let names: Vec<_> =
            self.sources.paths().map(|path| format!("`{}`", path.display())).collect();
        names.join(", ")
    }

    fn read_files(&self, making: &mut Making) -> Result<()> {
        let refused = |error: Error| stays(&format!("{} are", self.files()), &error);
        let read = self.sources.read().map_err(refused)?;
        let loaded = self.load(&read, true).map_err(refused)?;
        making.read = Some(read.clone());
        self.switch(making, loaded, read);
        Ok(())
    }
}

/// The error of settings that rustls was given by somebody else.
fn foreign() -> Error {
    let text = "The TLS settings were made from a configuration of rustls, which has to change by itself: \
                with a resolver of certificates, for example";
    Error::new(ErrorKind::InvalidArgument, text)
}

fn stays(what: &str, error: &Error) -> Error {
    let text = format!("{what} not taken, and what was in force stays: {}", error.text());
    Error::new(ErrorKind::Tls, text).with_source(error.clone())
}

/// Both sides' settings, for who watches them.
pub(crate) trait Watched: Send + Sync {
    /// See [`TlsServer::reload`](super::TlsServer::reload).
    fn reload(&self) -> Result<()>;

    /// See [`TlsServer::expires`](super::TlsServer::expires).
    fn expires(&self) -> Option<SystemTime>;

    /// See [`TlsServer::watch`](super::TlsServer::watch).
    fn watch(&self, every: Duration);

    /// Looks whether the files have changed.
    fn look(&self);

    /// When to look next.
    fn next_look(&self) -> Option<Duration>;

    /// Whether there are files.
    fn has_files(&self) -> bool;

    /// Whether there is anything of one's own.
    fn is_own(&self) -> bool;

    fn status(&self) -> watch::Receiver<Status>;
}

impl<C: Send + Sync> Watched for Live<C> {
    fn reload(&self) -> Result<()> {
        if !self.has_files() {
            return Err(match self.is_own() {
                true => Error::new(
                    ErrorKind::InvalidArgument,
                    "The TLS settings were not made from files: give other PEM with `replace`",
                ),
                false => foreign(),
            });
        }
        self.read_files(&mut lock(&self.making))
    }

    fn expires(&self) -> Option<SystemTime> {
        // Files that nobody has needed yet are read; that they cannot be is said where they are used.
        let _ = self.is_own().then(|| self.config());
        self.current.load().as_ref().and_then(|loaded| loaded.expires)
    }

    fn watch(&self, every: Duration) {
        lock(&self.making).every = Some(every.max(LEAST));
        // Who waits already learns how long to wait.
        self.status.send_modify(|_| {});
    }

    fn look(&self) {
        let mut making = lock(&self.making);
        let read = self.sources.read();
        if let Ok(read) = &read
            && making.read.as_ref() == Some(read)
        {
            making.refused = None;
            return;
        }
        let Err(error) = self.read_files(&mut making) else { return };
        let (read, text) = (read.ok(), error.text().to_owned());
        match &mut making.refused {
            // It was not just half written.
            Some(refused) if refused.read == read && refused.text == text => {
                if !std::mem::replace(&mut refused.told, true) {
                    self.tell(Err(error));
                }
            }
            refused => *refused = Some(Refused { read, text, told: false }),
        }
    }

    fn next_look(&self) -> Option<Duration> {
        let making = lock(&self.making);
        let every = making.every.filter(|_| self.has_files())?;
        let settling = making.refused.as_ref().is_some_and(|refused| !refused.told);
        Some(if settling { every.min(SETTLING) } else { every })
    }

    fn has_files(&self) -> bool {
        self.sources.paths().next().is_some()
    }

    fn is_own(&self) -> bool {
        !self.sources.is_empty()
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }
}

/// The settings that a peer uses, each watched by one task.
#[derive(Default)]
pub(crate) struct AllTls(Mutex<Vec<Weak<dyn Watched>>>);

impl fmt::Debug for AllTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AllTls")
    }
}

impl AllTls {
    fn used(&self) -> Vec<Arc<dyn Watched>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }

    /// See [`Peer::reload_tls`](crate::Peer::reload_tls).
    pub(crate) fn reload(&self) -> Result<()> {
        let all = self.used().into_iter().filter(|live| live.has_files());
        // All are tried, whatever becomes of one.
        let outcomes: Vec<_> = all.map(|live| live.reload()).collect();
        outcomes.into_iter().collect()
    }

    /// See [`Peer::tls_expires`](crate::Peer::tls_expires).
    pub(crate) fn expires(&self) -> Option<SystemTime> {
        self.used().iter().filter_map(|live| live.expires()).min()
    }

    /// Whether they are new here.
    fn add(&self, live: &Arc<dyn Watched>) -> bool {
        let mut all = lock(&self.0);
        all.retain(|known| known.strong_count() > 0);
        let live = Arc::downgrade(live);
        let new = !all.iter().any(|known| Weak::ptr_eq(known, &live));
        if new {
            all.push(live);
        }
        new
    }
}

impl Shared {
    /// A listener or an address uses these settings: they are watched until nobody uses them any more, or the peer
    /// is closed.
    pub(crate) fn use_tls(self: &Arc<Shared>, live: &Arc<dyn Watched>) {
        if live.is_own() && self.tls_used.add(live) {
            let status = live.status();
            self.spawn(watch_task(self.clone(), Arc::downgrade(live), status));
        }
    }
}

async fn watch_task(
    shared: Arc<Shared>,
    live: Weak<dyn Watched>,
    mut status: watch::Receiver<Status>,
) {
    let mut closed = shared.closed.subscribe();
    let mut told = status.borrow_and_update().version;
    loop {
        let Some(wait) = live.upgrade().map(|live| live.next_look()) else { return };
        let looking = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
            if let Some(live) = live.upgrade() {
                // Files may be on a disk that is slow, or far away.
                let _ = shared.runtime.spawn_blocking(move || live.look()).await;
            }
        };
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => return,
            // The sender is gone with the settings.
            changed = status.changed() => if changed.is_err() { return },
            () = looking => {}
        }
        let Status { version, last } = status.borrow_and_update().clone();
        if let Some(last) = last.filter(|_| version != told) {
            told = version;
            shared.emit(match last {
                Ok(expires) => {
                    info!(peer = %shared.id, "TLS settings changed");
                    PeerEvent::TlsReloaded { expires }
                }
                Err(error) => {
                    warn!(peer = %shared.id, %error, "TLS settings not changed");
                    PeerEvent::TlsReloadFailed { error }
                }
            });
        }
    }
}
