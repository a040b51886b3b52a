//! The program's judgement of whoever asks for an upgrade.

use std::{
    os::raw::c_void,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwapOption;
use engine::{Claims, Denied, UpgradeRequest};
use tokio::sync::oneshot;

use crate::{
    border::{failure::Failure, handles::roletalk_upgrade, table},
    callbacks::{
        closure::{Closure, roletalk_drop},
        item::{Callbacks, Item},
    },
};

/// Called for each upgrade that this peer is asked for, before it is answered, where the peer's callbacks run.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct roletalk_authenticate_handler {
    /// The function. It judges `upgrade` once, at once or later from any thread: with roletalk_upgrade_allow,
    /// roletalk_upgrade_deny or roletalk_upgrade_free. The handle also ends when the time for the handshake
    /// (roletalk_limits.handshake_timeout_ms) is over: then the upgrade is refused with 503.
    pub call: Option<unsafe extern "C" fn(user_data: *mut c_void, upgrade: roletalk_upgrade)>,
    /// Given to both functions.
    pub user_data: *mut c_void,
    /// Ends the life of `user_data`; NULL if nothing has to be done.
    pub drop: roletalk_drop,
}

type JudgeCall = unsafe extern "C" fn(*mut c_void, roletalk_upgrade);
type Verdict = Result<Claims, Denied>;

impl roletalk_authenticate_handler {
    /// Takes it over: from here on `drop` is called, whatever happens. None when all is zero.
    ///
    /// # Errors
    /// `Status::InvalidArgument` when the function is missing, and something else is there.
    pub(crate) fn take(self) -> Result<Option<Judge>, Failure> {
        if self.call.is_none() && self.user_data.is_null() && self.drop.is_none() {
            return Ok(None);
        }
        let closure = Closure::new(self.call, self.user_data, self.drop);
        match self.call {
            Some(_) => Ok(Some(Judge(closure))),
            None => Err(Failure::null("authenticate.call")),
        }
    }
}

/// The program's function, which no peer has yet.
pub(crate) struct Judge(Closure<JudgeCall>);

impl Judge {
    /// For the peer with this queue.
    pub(crate) fn hold(self, queue: &Arc<Callbacks>) -> Arc<Hook> {
        let closure = ArcSwapOption::new(Some(Arc::new(self.0)));
        Arc::new(Hook { closure, queue: queue.clone() })
    }
}

/// The function as a peer uses it. Its `drop` is called where the peer's callbacks run, as soon as the peer has
/// [let go](Hook::end) of it and no call is waiting.
pub(crate) struct Hook {
    /// Not bound to the queue: nobody runs that if the peer cannot be made.
    closure: ArcSwapOption<Closure<JudgeCall>>,
    queue: Arc<Callbacks>,
}

impl Hook {
    /// Asks the program. The verdict comes when it has judged; the handle ends with the future.
    pub(crate) fn ask(
        self: &Arc<Hook>,
        request: UpgradeRequest,
    ) -> impl Future<Output = Verdict> + Send + use<> {
        let (sender, verdict) = oneshot::channel();
        let upgrade = Upgrade { request, verdict: Mutex::new(Some(sender)) };
        let known = Known(roletalk_upgrade { id: table::insert(Arc::new(upgrade)) });
        let (hook, handle) = (self.clone(), known.0);
        self.queue.push(Item::Call(Box::new(move || hook.call(handle))));
        async move {
            let _known = known;
            verdict.await.unwrap_or_else(|_| Err(Denied::new("the program has not judged it")))
        }
    }

    fn call(&self, upgrade: roletalk_upgrade) {
        let Some(closure) = self.closure.load_full() else {
            // The peer has ended.
            let _ = table::remove::<Upgrade>(upgrade.id);
            return;
        };
        // Nobody waits any more when its time has run out in the queue.
        if let (Some((call, user_data)), Ok(_)) =
            (closure.parts(), table::get::<Upgrade>(upgrade.id))
        {
            // SAFETY: function and argument were given together, and no lock is held.
            unsafe { call(user_data, upgrade) };
        }
        self.let_go(Some(closure));
    }

    /// Uses it no longer.
    pub(crate) fn end(&self) {
        self.let_go(self.closure.swap(None));
    }

    /// As [`end`](Hook::end), when there is no peer: `drop` is called here and now.
    pub(crate) fn refuse(&self) {
        drop(self.closure.swap(None));
    }

    fn let_go(&self, closure: Option<Arc<Closure<JudgeCall>>>) {
        if let Some(last) = closure.and_then(Arc::into_inner) {
            drop(last.bind(&self.queue));
        }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the handle of an upgrade stands for.
pub(crate) struct Upgrade {
    pub(crate) request: UpgradeRequest,
    verdict: Mutex<Option<oneshot::Sender<Verdict>>>,
}

impl Upgrade {
    /// Judges it, and ends the handle: of several that try, one succeeds. None: refuses as if nobody had.
    ///
    /// # Errors
    /// `Status::InvalidHandle`.
    pub(crate) fn judge(
        upgrade: roletalk_upgrade,
        verdict: Option<Verdict>,
    ) -> Result<(), Failure> {
        let upgrade = table::remove::<Upgrade>(upgrade.id)?;
        let sender = upgrade.verdict.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(sender), Some(verdict)) = (sender, verdict) {
            // Its time may be over by now.
            let _ = sender.send(verdict);
        }
        Ok(())
    }
}

/// A handle that ends with this at the latest.
struct Known(roletalk_upgrade);

impl Drop for Known {
    fn drop(&mut self) {
        let _ = table::remove::<Upgrade>(self.0.id);
    }
}
