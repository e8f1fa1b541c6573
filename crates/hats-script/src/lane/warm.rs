//! Interpreters of one lane that serve one request of a page, or run of a job, after another.
//!
//! ```text
//!  work ──► queue of its scope ──► whose turn is it? ──► run ──► told ──► reset ──► the next of the queue, or idle
//!                                   ▲ an idle one          │                              │
//!                                   │ or a new one:        └─ has to wait: the turn goes   └─ gone: unfit for a reset,
//!                                   │ make, warm up, seal     to another interpreter           too many bytes
//! ```
//!
//! An interpreter has one future from its making to its end. Between two pieces of work it is as it was when it was sealed:
//! with the host modules, the libraries and, for a page, the page compiled. Each piece of work has a handle and a place of
//! its own, so nobody who asks something of one reaches the next.
//!
//! One interpreter of a scope at a time has the turn. Work that need not wait for anything is done by it piece after
//! piece, while its memory is near: a reset looks at all of it, which costs several times as much where it has grown cold.
//!
//! What must hold:
//! - Whoever has the turn runs, or is about to: while it waits, nothing in the queue waits with it.
//! - What was interrupted, ran into a limit, lost its lease or panicked does not come back.
//! - The idle interpreters of a lane take no more bytes than they may; the scope that has been used least recently gives way.
//! - An interpreter of a page that nobody knows any more goes at the next turn of the lane.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::mem::{Discriminant, discriminant};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use hats_fiber::Handle;
use tokio::sync::oneshot;
use tokio::task::spawn_local;

use super::{LaneContext, OnLane, Place, catching};
use crate::error::Error;
use crate::host::{Kind, TaskControl};
use crate::lane::ScriptTask;
use crate::limits::Limits;
use crate::metrics::LaneMetrics;
use crate::page::Page;
use crate::vm::{TIME_SLICE, Vm};

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
pub(super) type Run = Box<dyn for<'a> FnOnce(Result<&'a mut Vm, Error>) -> Running<'a>>;
type Running<'a> = Pin<Box<dyn Future<Output = (bool, Box<dyn FnOnce()>)> + 'a>>;

/// The interpreters of a lane that are used again and again, and what there is for them to do.
pub(super) struct Warm {
    bytes_max: usize,
    bytes: Cell<usize>,
    count: Cell<usize>,
    /// Is told of both.
    metrics: Arc<LaneMetrics>,
    shelves: RefCell<HashMap<Key, Shelf>>,
    /// Rises with each use.
    uses: Cell<u64>,
    is_closed: Cell<bool>,
}

struct Shelf {
    scope: Scope,
    last_use: u64,
    // The one that was used last is taken first.
    idle: Vec<Idle>,
    queue: VecDeque<Work>,
    /// Somebody has the turn.
    has_turn: bool,
}

/// Dropped, it ends the interpreter.
struct Idle {
    bytes: usize,
    call: oneshot::Sender<()>,
}

/// The turn to do what is in the queue, as one interpreter has it or not.
struct Turn {
    lane: Rc<LaneContext>,
    key: Key,
    is_ours: Cell<bool>,
}

/// An interpreter's life. When it has to wait in the middle of its work, others go on with the queue.
struct Serving<F> {
    life: OnLane<F>,
    turn: Rc<Turn>,
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
    async fn warm_up(&self, vm: &mut Vm) -> bool {
        match self {
            Self::Run(..) => vm.preload().await.is_ok(),
            Self::Page(page, _) => match page.upgrade() {
                Some(page) => vm.open(&page).await.is_ok(),
                None => false,
            },
        }
    }
}

impl Turn {
    /// Gives it up: whoever is next takes it, if there is anything to do.
    fn end(&self) {
        if self.is_ours.replace(false) {
            self.lane.warm.end_turn(self.key);
            Warm::give_turn(&self.lane, self.key);
        }
    }
}

impl Drop for Turn {
    /// However an interpreter ends, or if none could be made, others go on.
    fn drop(&mut self) {
        self.end();
    }
}

impl<F: Future> Future for Serving<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let poll = Pin::new(&mut self.life).poll(context);
        let is_in_work = self.life.place.borrow().is_some();
        if poll.is_pending() && is_in_work {
            self.turn.end();
        }
        poll
    }
}

impl Warm {
    pub(super) fn new(bytes_max: usize, metrics: Arc<LaneMetrics>) -> Self {
        Self {
            bytes_max,
            bytes: Cell::new(0),
            count: Cell::new(0),
            metrics,
            shelves: RefCell::default(),
            uses: Cell::new(0),
            is_closed: Cell::new(false),
        }
    }

    /// Has work done by an interpreter of its scope. Called on the lane, inside its set of tasks.
    pub(super) fn serve(lane: &Rc<LaneContext>, scope: Scope, work: Work) {
        let key = scope.key();
        lane.warm.shelves.borrow_mut().entry(key).or_insert_with(|| Shelf::new(scope)).queue.push_back(work);
        Self::give_turn(lane, key);
    }

    /// Gives the turn to an idle interpreter or to a new one, if nobody has it and there is anything to do.
    fn give_turn(lane: &Rc<LaneContext>, key: Key) {
        let warm = &lane.warm;
        if warm.is_closed.get() {
            return;
        }
        loop {
            let (idle, scope) = {
                let mut shelves = warm.shelves.borrow_mut();
                let Some(shelf) = shelves.get_mut(&key) else { return };
                if shelf.has_turn || shelf.queue.is_empty() {
                    if shelf.is_empty() {
                        shelves.remove(&key);
                    }
                    return;
                }
                shelf.has_turn = true;
                (shelf.idle.pop(), shelf.scope.clone())
            };
            let Some(idle) = idle else { return Self::begin(lane, scope) };
            warm.less(1, idle.bytes);
            if idle.call.send(()).is_ok() {
                return;
            }
            // That one has come to its end.
            warm.end_turn(key);
        }
    }

    fn end_turn(&self, key: Key) {
        if let Some(shelf) = self.shelves.borrow_mut().get_mut(&key) {
            shelf.has_turn = false;
        }
    }

    /// Makes one more interpreter, which has the turn.
    fn begin(lane: &Rc<LaneContext>, scope: Scope) {
        let key = scope.key();
        let shown = Rc::new(RefCell::new(None));
        let turn = Rc::new(Turn { lane: lane.clone(), key, is_ours: Cell::new(true) });
        let life = {
            let (shown, turn) = (shown.clone(), turn.clone());
            Box::pin(async move { catching(live(&scope, &shown, &turn)).await })
        };
        let life = OnLane { script: life, place: shown, status: lane.status.clone() };
        spawn_local(async move {
            if let Err(error) = (Serving { life, turn }).await {
                tracing::error!(%error, "an interpreter failed between two pieces of work");
            }
        });
    }

    fn next(&self, key: Key) -> Option<Work> {
        self.shelves.borrow_mut().get_mut(&key)?.queue.pop_front()
    }

    fn put(&self, scope: &Scope, idle: Idle) {
        if scope.is_dead() || self.is_closed.get() {
            return;
        }
        let last_use = self.uses.get() + 1;
        self.uses.set(last_use);
        self.now(self.count.get() + 1, self.bytes.get() + idle.bytes);
        let mut shelves = self.shelves.borrow_mut();
        let shelf = shelves.entry(scope.key()).or_insert_with(|| Shelf::new(scope.clone()));
        shelf.last_use = last_use;
        shelf.idle.push(idle);
        while self.bytes.get() > self.bytes_max {
            let used = shelves.iter_mut().filter(|(_, shelf)| !shelf.idle.is_empty());
            let Some((&oldest, shelf)) = used.min_by_key(|(_, shelf)| shelf.last_use) else { return };
            let gone = shelf.idle.remove(0);
            self.less(1, gone.bytes);
            if shelf.is_empty() {
                shelves.remove(&oldest);
            }
        }
    }

    /// Ends the interpreters of pages that nobody knows any more.
    pub(super) fn forget_dead(&self) {
        let (mut count, mut bytes) = (0, 0);
        self.shelves.borrow_mut().retain(|_, shelf| {
            let is_dead = shelf.scope.is_dead();
            if is_dead {
                count += shelf.idle.len();
                bytes += shelf.idle.iter().map(|idle| idle.bytes).sum::<usize>();
            }
            !is_dead
        });
        self.less(count, bytes);
    }

    /// Ends all, for good.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        drop(self.shelves.take());
        self.now(0, 0);
    }

    fn less(&self, count: usize, bytes: usize) {
        self.now(self.count.get() - count, self.bytes.get() - bytes);
    }

    /// So many there are now, and they take so many bytes.
    fn now(&self, count: usize, bytes: usize) {
        self.count.set(count);
        self.bytes.set(bytes);
        self.metrics.warm_is(count, bytes);
    }

    /// How many there are, and how many bytes they take.
    #[cfg(test)]
    pub(crate) fn idle(&self) -> (usize, usize) {
        let count = self.shelves.borrow().values().map(|shelf| shelf.idle.len()).sum();
        assert_eq!(count, self.count.get());
        (count, self.bytes.get())
    }
}

impl Shelf {
    fn new(scope: Scope) -> Self {
        Self { scope, last_use: 0, idle: Vec::new(), queue: VecDeque::new(), has_turn: false }
    }

    fn is_empty(&self) -> bool {
        self.idle.is_empty() && self.queue.is_empty() && !self.has_turn
    }
}

/// The life of an interpreter. It begins with the turn.
async fn live(scope: &Scope, shown: &Rc<RefCell<Option<Place>>>, turn: &Turn) {
    let warm = &turn.lane.warm;
    let is_kept = warm.bytes_max > 0;
    let mut alive: Option<(Vm, bool)> = None;
    loop {
        while turn.is_ours.get() {
            let Some(Work { fiber, control, place, run }) = warm.next(turn.key) else { break };
            place.show();
            *shown.borrow_mut() = Some(place);
            let made = match &mut alive {
                Some((vm, _)) => {
                    vm.begin_work(control, fiber);
                    Ok(vm)
                }
                None => match make(&turn.lane, scope, is_kept, control, fiber).await {
                    Ok(made) => Ok(&mut alive.insert(made).0),
                    Err(error) => Err(error),
                },
            };
            let (is_fit, tell) = run(made).await;
            if let Some(place) = shown.borrow_mut().take() {
                place.hide();
            }
            // From here on nobody is asked for.
            tell();
            let Some((vm, true)) = &mut alive else { return };
            if !is_fit || !vm.end_work() {
                return;
            }
            // The turn stays here meanwhile: this interpreter is in the middle of nothing.
            if turn.is_ours.get() && super::polled_at().elapsed() >= TIME_SLICE {
                hats_fiber::turn().await;
            }
        }
        turn.end();
        let Some((vm, true)) = &alive else { return };
        let (call, called) = oneshot::channel();
        warm.put(scope, Idle { bytes: vm.resident() + STACK_BYTES, call });
        // Or else it gives way to others, or the lane is closing.
        if !wait_for_call(vm, called).await {
            return;
        }
        turn.is_ours.set(true);
    }
}

/// Whether there is more to do. An interpreter that waits for long gives back the stack that work has used before.
async fn wait_for_call(vm: &Vm, mut called: oneshot::Receiver<()>) -> bool {
    match tokio::time::timeout(TRIM_AFTER, &mut called).await {
        Ok(call) => call.is_ok(),
        Err(_) => {
            vm.trim_stack();
            called.await.is_ok()
        }
    }
}

/// An interpreter for its first work, and whether it can be reset after that.
async fn make(
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
    let is_sealed = scope.warm_up(&mut vm).await && vm.seal();
    vm.begin_work(control, fiber);
    Ok((vm, is_sealed))
}
