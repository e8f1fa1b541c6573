//! The life of a thread, as straight code on its lane: load → `init()` → { `main()`, hang } again and again → `cleanup()`.
//!
//! What must hold: every step is one call that returns only when the script is out of it, so when [`run`] returns
//! nothing of the script runs any more. `cleanup()` runs at every end in good order and at no other: not after a crash
//! (the scope is in an unknown state), not after a script was killed because it did not stop, and never after a lost lease (the thread is no longer ours).
//!
//! The loop is the product's hottest: with `Hang` 0 a round costs two atomic loads beside the call itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hats_script::{Bundle, ScriptError, TaskControl, Vm, Wake};

use super::shortened;
use crate::control::Control;

/// What to run.
pub(crate) struct Thread {
    pub(crate) source: Bundle,
    pub(crate) control: Arc<Control>,
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) cleanup_timeout: Duration,
}

/// Decides between the supervisor's interrupt of the call in hand and the `cleanup()` that follows that call: an
/// interrupt that comes too late must not hit `cleanup()`, which has a time limit of its own.
#[derive(Debug, Default)]
pub(crate) struct Interrupts {
    cleaning_up: Mutex<bool>,
}

/// How it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Asked to, and done so.
    InOrder,
    /// By its own fault; the text is for people.
    Crashed(String),
    /// With its lease.
    Lost,
}

impl Interrupts {
    /// Calls `interrupt` unless `cleanup()` has begun.
    pub(crate) fn unless_cleaning_up(&self, interrupt: impl FnOnce()) {
        let cleaning_up = self.cleaning_up.lock().unwrap_or_else(PoisonError::into_inner);
        if !*cleaning_up {
            interrupt();
        }
    }

    fn begin_cleanup(&self, withdraw: impl FnOnce()) {
        let mut cleaning_up = self.cleaning_up.lock().unwrap_or_else(PoisonError::into_inner);
        *cleaning_up = true;
        withdraw();
    }
}

/// Runs a thread until it ends. `started` is called once, when `init()` is over.
pub(crate) async fn run(vm: &mut Vm, thread: &Thread, started: impl FnOnce()) -> Ended {
    match live(vm, thread, started).await {
        Ok(()) => {}
        // The stop's patience is over: still an end in good order, as the thread is still ours.
        Err(ScriptError::Interrupted) if thread.control.is_stopped() => {
            say(thread, || {
                tracing::warn!("interrupted: the call in hand did not return within the drain timeout");
            });
        }
        Err(error) => return ended_by(error),
    }
    match clean_up(vm, thread).await {
        Ok(()) => Ended::InOrder,
        Err(error @ ScriptError::Lost) => ended_by(error),
        // Its limit is no setting: the error's own text would name one.
        Err(ScriptError::Timeout(limit)) => {
            say(thread, || tracing::warn!(?limit, "cleanup() did not return in time"));
            Ended::InOrder
        }
        Err(error) => {
            say(thread, || tracing::warn!(%error, "cleanup() failed"));
            Ended::InOrder
        }
    }
}

async fn live(vm: &mut Vm, thread: &Thread, started: impl FnOnce()) -> Result<(), ScriptError> {
    let control = &*thread.control;
    call(vm, control, "load", async |vm| vm.load_bundle(&thread.source, control.name()).await).await?;
    if !control.is_stopped() && vm.has("init").await {
        call(vm, control, "init", async |vm| vm.call("init").await).await?;
    }
    started();
    if !vm.has("main").await {
        while !control.is_stopped() {
            vm.set_call_timeout(control.call_timeout());
            vm.idle(None).await?;
        }
    }
    while !control.is_stopped() {
        call(vm, control, "main", async |vm| vm.call("main").await).await?;
        if control.is_stopped() {
            break;
        }
        hang(vm, control).await?;
    }
    Ok(())
}

/// The pause between two calls. A new `Hang` applies to the pause that is under way.
async fn hang(vm: &mut Vm, control: &Control) -> Result<(), ScriptError> {
    if control.hang().is_zero() {
        return vm.idle(Some(Duration::ZERO)).await.map(drop);
    }
    let begun = Instant::now();
    loop {
        let left = control.hang().saturating_sub(begun.elapsed());
        if vm.idle(Some(left)).await? != Wake::Woken {
            return Ok(());
        }
    }
}

async fn clean_up(vm: &mut Vm, thread: &Thread) -> Result<(), ScriptError> {
    thread.interrupts.begin_cleanup(|| vm.withdraw_interrupt());
    if vm.is_dead() {
        say(thread, || {
            tracing::warn!(
                "killed: the call in progress did not end when it was interrupted; cleanup() does not run"
            );
        });
        return Ok(());
    }
    if !vm.has("cleanup").await {
        return Ok(());
    }
    vm.set_call_timeout(Some(thread.cleanup_timeout));
    logged(vm, &thread.control, "cleanup", async |vm| vm.call("cleanup").await).await
}

/// One call under the thread's own time limit, which may change from call to call.
async fn call(
    vm: &mut Vm,
    control: &Control,
    function: &str,
    body: impl AsyncFnOnce(&mut Vm) -> Result<(), ScriptError>,
) -> Result<(), ScriptError> {
    vm.set_call_timeout(control.call_timeout());
    logged(vm, control, function, body).await
}

async fn logged(
    vm: &mut Vm,
    control: &Control,
    function: &str,
    body: impl AsyncFnOnce(&mut Vm) -> Result<(), ScriptError>,
) -> Result<(), ScriptError> {
    super::audited(control, control.audit(), function, body(vm)).await
}

/// On the lane nothing but this line is in the thread's span.
fn say(thread: &Thread, line: impl FnOnce()) {
    thread.control.span().in_scope(line);
}

fn ended_by(error: ScriptError) -> Ended {
    match error {
        ScriptError::Lost => Ended::Lost,
        error => Ended::Crashed(shortened(error.to_string())),
    }
}
