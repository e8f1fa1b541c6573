//! Interpreters of one lane that serve one request of a page, or run of a job, after another.
//!
//! ```text
//!  work ──► an idle interpreter of its scope? ── yes ──► its fiber ──► run ──► told ──► reset ──► idle
//!                                     └── no ──► a new fiber: make, warm up, seal ──► run …     │
//!                                                 gone: unfit for a reset, too many bytes ◄─────┘
//! ```
//!
//! An interpreter lives on one fiber from its making to its end. Between two pieces of work it is as it was when it was sealed:
//! with the host modules, the libraries and, for a page, the page compiled. Each piece of work has a handle and a place of
//! its own, so nobody who asks something of one reaches the next.
//!
//! What must hold:
//! - What was interrupted, ran into a limit, lost its lease or panicked does not come back.
//! - The idle interpreters of a lane take no more bytes than they may; the scope that has been used least recently gives way.
//! - An interpreter of a page that nobody knows any more goes at the next turn of the lane.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::mem::{Discriminant, discriminant};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Duration;

use hats_fiber::{Fiber, Handle, adopt, trim_stack, wait};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use super::{LaneContext, OnLane, Place, stack_bytes};
use crate::error::Error;
use crate::host::{Kind, TaskControl};
use crate::lane::ScriptTask;
use crate::limits::Limits;
use crate::page::Page;
use crate::vm::Vm;

/// Stack that an idle interpreter keeps touched, about.
const STACK_BYTES: usize = 32 << 10;
/// An interpreter that has been idle for so long needs no more than that.
const TRIM_AFTER: Duration = Duration::from_secs(1);

/// What an interpreter is warmed up for.
#[derive(Clone)]
pub(super) enum Scope {
    /// Runs of all tasks of one kind with these limits.
    Run(Discriminant<Kind>, Limits),
    /// Requests of one page. Weak: an interpreter is no reason to keep one.
    Page(Weak<Page>, Limits),
}

/// Scopes whose interpreters are alike have the same one.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Run(Discriminant<Kind>, Limits),
    // Its address, which nobody else gets while there is a `Weak` to it.
    Page(usize),
}

/// One piece of work.
pub(super) struct Work {
    pub(super) fiber: Handle,
    pub(super) control: Arc<dyn TaskControl>,
    pub(super) place: Place,
    pub(super) run: Run,
}

/// Does the work. Returns whether the interpreter may be used again as far as this goes, and what tells whoever waits.
type Run = Box<dyn FnOnce(Result<&mut Vm, Error>) -> (bool, Box<dyn FnOnce()>)>;

/// The idle interpreters of a lane.
pub(super) struct Warm {
    bytes_max: usize,
    bytes: Cell<usize>,
    shelves: RefCell<HashMap<Key, Shelf>>,
    /// Rises with each use.
    uses: Cell<u64>,
}

struct Shelf {
    scope: Scope,
    last_use: u64,
    // The one that was used last is taken first.
    idle: Vec<Idle>,
}

/// Dropped, it ends the interpreter.
struct Idle {
    bytes: usize,
    next: oneshot::Sender<Work>,
}

impl Scope {
    pub(super) fn run(task: &ScriptTask) -> Self {
        Self::Run(discriminant(&task.control.kind()), task.limits)
    }

    pub(super) fn page(page: &Arc<Page>) -> Self {
        Self::Page(Arc::downgrade(page), *page.limits())
    }

    fn key(&self) -> Key {
        match self {
            Self::Run(kind, limits) => Key::Run(*kind, *limits),
            Self::Page(page, _) => Key::Page(page.as_ptr().addr()),
        }
    }

    fn limits(&self) -> &Limits {
        match self {
            Self::Run(_, limits) | Self::Page(_, limits) => limits,
        }
    }

    fn is_dead(&self) -> bool {
        matches!(self, Self::Page(page, _) if page.strong_count() == 0)
    }

    /// Does what all work of this scope has in common. What goes wrong is kept in the interpreter, for the work in hand to
    /// find: it may be that work's own end. So it is for no other.
    fn warm_up(&self, vm: &mut Vm) -> bool {
        match self {
            Self::Run(..) => vm.preload().is_ok(),
            Self::Page(page, _) => page.upgrade().is_some_and(|page| vm.open(&page).is_ok()),
        }
    }
}

impl Warm {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, bytes: Cell::new(0), shelves: RefCell::default(), uses: Cell::new(0) }
    }

    /// Hands work to an idle interpreter of its scope, or to a new one.
    pub(super) fn serve(lane: &Rc<LaneContext>, local: &LocalSet, scope: Scope, work: Work) {
        let mut work = work;
        while let Some(idle) = lane.warm.take(scope.key()) {
            match idle.next.send(work) {
                Ok(()) => return,
                // That one has come to its end.
                Err(back) => work = back,
            }
        }
        let (status, place) = (work.place.status.clone(), Rc::new(RefCell::new(None)));
        let stack_bytes = match stack_bytes(scope.limits()) {
            Ok(bytes) => bytes,
            Err(error) => return refuse(work, error),
        };
        let (context, shown) = (lane.clone(), place.clone());
        // Taken out by the fiber, or by whoever finds that there is none.
        let first = Rc::new(Cell::new(Some(work)));
        let inner = first.clone();
        let own = Handle::new();
        let fiber = Fiber::new(own.clone(), stack_bytes, move || {
            if let Some(work) = inner.take() {
                live(&context, &scope, &own, &shown, work);
            }
        });
        match fiber {
            Ok(fiber) => {
                local.spawn_local(async move {
                    if let Err(panicked) = (OnLane { fiber, place, status }).await {
                        tracing::error!(%panicked, "an interpreter has failed between two pieces of work");
                    }
                });
            }
            Err(error) => {
                if let Some(work) = first.take() {
                    refuse(work, Error::Vm(error.to_string()));
                }
            }
        }
    }

    fn take(&self, key: Key) -> Option<Idle> {
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.get_mut(&key)?;
        let idle = shelf.idle.pop();
        if shelf.idle.is_empty() {
            shelves.remove(&key);
        }
        let idle = idle?;
        self.bytes.update(|bytes| bytes - idle.bytes);
        Some(idle)
    }

    fn put(&self, scope: &Scope, idle: Idle) {
        if scope.is_dead() {
            return;
        }
        let last_use = self.uses.get() + 1;
        self.uses.set(last_use);
        self.bytes.update(|bytes| bytes + idle.bytes);
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.entry(scope.key()).or_insert_with(|| Shelf {
            scope: scope.clone(),
            last_use,
            idle: Vec::new(),
        });
        shelf.last_use = last_use;
        shelf.idle.push(idle);
        while self.bytes.get() > self.bytes_max {
            let oldest = shelves.iter().min_by_key(|(_, shelf)| shelf.last_use).map(|(key, _)| *key);
            let Some(key) = oldest else { return };
            let Some(shelf) = shelves.get_mut(&key) else { return };
            if !shelf.idle.is_empty() {
                let gone = shelf.idle.remove(0);
                self.bytes.update(|bytes| bytes - gone.bytes);
            }
            if shelf.idle.is_empty() {
                shelves.remove(&key);
            }
        }
    }

    /// Ends the interpreters of pages that nobody knows any more.
    pub(super) fn forget_dead(&self) {
        let mut bytes = 0;
        self.shelves.borrow_mut().retain(|_, shelf| {
            let is_dead = shelf.scope.is_dead();
            if is_dead {
                bytes += shelf.idle.iter().map(|idle| idle.bytes).sum::<usize>();
            }
            !is_dead
        });
        self.bytes.update(|before| before - bytes);
    }

    /// Ends all.
    pub(super) fn clear(&self) {
        drop(self.shelves.take());
        self.bytes.set(0);
    }

    /// How many there are, and how many bytes they take.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> (usize, usize) {
        (self.shelves.borrow().values().map(|shelf| shelf.idle.len()).sum(), self.bytes.get())
    }
}

fn refuse(work: Work, error: Error) {
    let (_, tell) = (work.run)(Err(error));
    drop(work.place);
    tell();
}

/// The life of an interpreter, on its fiber.
fn live(
    lane: &Rc<LaneContext>,
    scope: &Scope,
    own: &Handle,
    shown: &Rc<RefCell<Option<Place>>>,
    first: Work,
) {
    let mut work = first;
    let is_kept = lane.warm.bytes_max > 0;
    let mut alive: Option<(Vm, bool)> = None;
    loop {
        let Work { fiber, control, place, run } = work;
        adopt(fiber.clone());
        place.show();
        *shown.borrow_mut() = Some(place);
        let made = match &mut alive {
            Some((vm, _)) => {
                vm.begin_work(control, fiber);
                Ok(vm)
            }
            None => make(lane, scope, is_kept, control, fiber).map(|made| &mut alive.insert(made).0),
        };
        let (is_fit, tell) = run(made);
        if let Some(place) = shown.borrow_mut().take() {
            place.hide();
        }
        // From here on nobody is asked for.
        adopt(own.clone());
        tell();
        let Some((vm, true)) = &mut alive else { return };
        if !is_fit || !vm.end_work() {
            return;
        }
        let (next, called) = oneshot::channel();
        lane.warm.put(scope, Idle { bytes: vm.resident() + STACK_BYTES, next });
        match wait_for_work(called) {
            Some(next) => work = next,
            // It gives way to others, or the lane is closing.
            None => return,
        }
    }
}

/// The next work, if there is to be any. Who waits for long gives back the stack that work has used before.
fn wait_for_work(mut called: oneshot::Receiver<Work>) -> Option<Work> {
    match wait(tokio::time::timeout(TRIM_AFTER, &mut called)) {
        Ok(Ok(work)) => work.ok(),
        Ok(Err(_)) => {
            trim_stack();
            wait(called).ok()?.ok()
        }
        Err(_) => None,
    }
}

/// An interpreter for its first work, and whether it can be reset after that.
fn make(
    lane: &Rc<LaneContext>,
    scope: &Scope,
    is_kept: bool,
    control: Arc<dyn TaskControl>,
    fiber: Handle,
) -> Result<(Vm, bool), Error> {
    let task = ScriptTask { control: control.clone(), limits: *scope.limits() };
    if !is_kept {
        return Ok((Vm::new(task, lane.clone(), fiber)?, false));
    }
    let mut vm = Vm::resettable(task, lane.clone(), fiber.clone())?;
    let is_sealed = scope.warm_up(&mut vm) && vm.seal();
    vm.begin_work(control, fiber);
    Ok((vm, is_sealed))
}
