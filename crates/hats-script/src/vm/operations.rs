//! Operations of the host that go on while the script does: each is a tokio task on the I/O runtime, and a promise in
//! the interpreter.
//!
//! ```text
//!  script ──start──► table: number → resolve, reject, task      the I/O runtime: task ──┐
//!    ▲                                                                                  │ how to make the value
//!    └── resolve(value) ◄── the loop that idles, or waits for a promise ◄── channel ────┘
//! ```
//!
//! What must hold: whatever is in the table when the script ends is aborted; what is no longer in it is not heard; and a
//! task that ends in any way, a panic included, is heard of.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::task::{Context, Poll};

use hats_arena::{Kept, entry};
use rquickjs::{Ctx, Exception, Function, Value};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::Host;
use super::failure::Failure;

/// Operations that one script may have under way.
const OPERATIONS_MAX: usize = 1000;

/// What an operation came to: how to make the value that its promise is resolved with. An exception rejects it.
pub(crate) type Finish = Box<dyn for<'js> FnOnce(&Host, &Ctx<'js>) -> rquickjs::Result<Value<'js>> + Send>;

/// An operation that is over.
pub(super) struct Done {
    number: u32,
    finish: Finish,
}

#[derive(Default)]
pub(crate) struct Operations {
    running: RefCell<HashMap<u32, Running>>,
    last: Cell<u32>,
    // Made with the first operation: most scripts never have one.
    ended: RefCell<Option<Ended>>,
}

struct Running {
    resolve: Kept<Function<'static>>,
    reject: Kept<Function<'static>>,
    #[expect(dead_code, reason = "aborts the task when dropped")]
    task: AbortOnDropHandle<()>,
}

struct Ended {
    tell: mpsc::UnboundedSender<Done>,
    inbox: mpsc::UnboundedReceiver<Done>,
    // Taken out of the inbox by whoever waited, for whoever runs it.
    next: Option<Done>,
}

impl Operations {
    /// Begins an operation, whose promise these two functions settle. Returns its number; None if there are too many.
    pub(crate) fn start<'js>(
        &self,
        ctx: &Ctx<'js>,
        io: &Handle,
        (resolve, reject): (Function<'js>, Function<'js>),
        operation: impl Future<Output = Finish> + Send + 'static,
    ) -> rquickjs::Result<Option<u32>> {
        let mut running = self.running.borrow_mut();
        if running.len() >= OPERATIONS_MAX {
            return Ok(None);
        }
        let mut number = self.last.get();
        loop {
            number = number.wrapping_add(1);
            if !running.contains_key(&number) {
                break;
            }
        }
        self.last.set(number);
        let mut answer = Answer { tell: self.tell(), number, finish: None };
        let (resolve, reject) = (Kept::new(ctx, resolve)?, Kept::new(ctx, reject)?);
        let task = io.spawn(async move { answer.set(operation.await) });
        running.insert(number, Running { resolve, reject, task: AbortOnDropHandle::new(task) });
        Ok(Some(number))
    }

    /// Aborts an operation; its promise stays as it is.
    pub(crate) fn abort(&self, number: u32) {
        let aborted = self.running.borrow_mut().remove(&number);
        drop(aborted);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.running.borrow().is_empty()
    }

    /// How many are under way, or over and not yet heard of.
    pub(super) fn count(&self) -> usize {
        self.running.borrow().len()
    }

    /// Waits until an operation is over; for ever if there is none. Nothing is lost by ceasing to wait.
    pub(super) async fn ended(&self) {
        poll_fn(|context| self.poll_ended(context)).await;
    }

    fn poll_ended(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut ended = self.ended.borrow_mut();
        let Some(ended) = ended.as_mut() else { return Poll::Pending };
        if ended.next.is_none() {
            match ended.inbox.poll_recv(context) {
                Poll::Ready(done) => ended.next = done,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// One that is over.
    pub(super) fn take(&self) -> Option<Done> {
        let mut ended = self.ended.borrow_mut();
        let ended = ended.as_mut()?;
        ended.next.take().or_else(|| ended.inbox.try_recv().ok())
    }

    /// Aborts all, and lets go of every value of the interpreter.
    pub(super) fn clear(&self) {
        let all = (self.running.take(), self.ended.take());
        self.last.set(0);
        drop(all);
    }

    fn tell(&self) -> mpsc::UnboundedSender<Done> {
        let mut ended = self.ended.borrow_mut();
        let ended = ended.get_or_insert_with(|| {
            let (tell, inbox) = mpsc::unbounded_channel();
            Ended { tell, inbox, next: None }
        });
        ended.tell.clone()
    }
}

impl Host {
    /// Settles the promise of an operation that is over.
    pub(super) fn finish_operation<'js>(&self, ctx: &Ctx<'js>, done: Done) -> Result<(), Failure> {
        let found = self.operations.running.borrow_mut().remove(&done.number);
        let Some(running) = found else { return Ok(()) };
        // Nothing of ours is here any more when the script's code runs: a getter named `then` may be the script's.
        let (resolve, reject) = (running.resolve.get(ctx)?, running.reject.get(ctx)?);
        drop(running);
        let settled = match (done.finish)(self, ctx) {
            Ok(value) => entry::call(ctx, &resolve, &[value])?,
            Err(rquickjs::Error::Exception) => {
                let reason = ctx.catch();
                entry::call(ctx, &reject, &[reason])?
            }
            Err(error) => return Err(error.into()),
        };
        entry::release(settled);
        Ok(())
    }
}

/// Says that a task is over, however it comes to its end.
struct Answer {
    tell: mpsc::UnboundedSender<Done>,
    number: u32,
    finish: Option<Finish>,
}

impl Answer {
    fn set(&mut self, finish: Finish) {
        self.finish = Some(finish);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let finish = self.finish.take().unwrap_or_else(|| {
            Box::new(|_, ctx| Err(Exception::throw_internal(ctx, "the operation could not be carried out")))
        });
        // The script may have ended.
        let _ = self.tell.send(Done { number: self.number, finish });
    }
}
