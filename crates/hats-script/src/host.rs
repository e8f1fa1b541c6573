//! What a script's surroundings must supply: the traits through which this crate asks for what lives above it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A boxed future that may cross OS threads.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a script is the body of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A thread, which the scope knows as `thread`.
    Thread,
    /// One run of a job, which the scope knows as `job` and, as the older documentation has it, as `thread`.
    Job(JobInfo),
    /// An endpoint, whose scope has `request` and `response`, and neither `thread` nor `job`.
    Endpoint,
}

/// What one run of a job is told about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobInfo {
    /// The instant that the run was scheduled for (`job.Tick`), in milliseconds since 1970.
    pub tick_ms: i64,
    /// 1 at the first try, 2 at the first retry, and so on (`job.Attempt`).
    pub attempt: u32,
}

/// The task that a script is the body of, as the script sees it. One per running script.
///
/// Every method may be called often and from inside the interpreter: none of them may block.
pub trait TaskControl: Send + Sync + 'static {
    /// The task's name, as used in logs and as the file name in stack traces.
    fn name(&self) -> &str;

    /// What the task is, and with it which names its scope has. Asked once, when the scope is made.
    fn kind(&self) -> Kind {
        Kind::Thread
    }

    /// The full Redis key of the task's definition (`thread.Key`, `job.Key`).
    fn key(&self) -> &str;

    /// The fence: a number that rises with every new owner (`thread.Epoch`, `job.Epoch`). 0 for what has no owner:
    /// endpoints.
    fn epoch(&self) -> u64;

    /// Time between two calls of `main()` (`thread.Hang`). Threads only.
    fn hang(&self) -> Duration {
        Duration::ZERO
    }

    /// How much longer this task may have effects; zero when its lease is lost. This is the lease gate, which
    /// is asked before every effect, so it must compare with a clock and not with a flag alone.
    fn trusted_for(&self) -> Duration;

    /// True once the task has been asked to stop (`thread.Stopped`, `job.Stopped`).
    fn stopped(&self) -> bool;

    /// Gives the task up on this worker, soon (`thread.Stop()`). Threads only.
    fn stop(&self) {}

    /// Disables the task in the whole cluster (`thread.Disable()`, `job.Disable()`).
    fn disable(&self) -> BoxFuture<Result<(), String>>;

    /// The `State` in the task's definition (`thread.State()`, `job.State()`).
    fn state(&self) -> BoxFuture<Result<String, String>>;

    /// The `Status` in the task's definition (`thread.Status()`, `job.Status()`).
    fn status(&self) -> BoxFuture<Result<String, String>>;

    /// An effect (a host call that reaches outside the worker) has just passed the gate. For audits.
    fn effect(&self) {}

    /// What the script logs is logged in this span. Asked at each line, and left before anything else is done.
    fn span(&self) -> tracing::Span {
        tracing::error_span!(target: crate::span::TARGET, "task", task = self.name())
    }
}

/// The worker that scripts run on, as they see it (`worker.…`).
pub trait WorkerInfo: Send + Sync + 'static {
    /// `worker.Name`.
    fn name(&self) -> &str;
    /// `worker.Cluster`.
    fn cluster(&self) -> &str;
    /// `worker.ShuttingDown`, asked at each use.
    fn shutting_down(&self) -> bool;
    /// `worker.Healthy`, asked at each use.
    fn healthy(&self) -> bool;
}

/// Stands for a task where libraries are tried out: nobody's, with nothing to tell.
pub(crate) struct NoTask;

impl TaskControl for NoTask {
    fn name(&self) -> &str {
        "preload"
    }

    fn key(&self) -> &str {
        ""
    }

    fn epoch(&self) -> u64 {
        0
    }

    fn hang(&self) -> Duration {
        Duration::ZERO
    }

    fn trusted_for(&self) -> Duration {
        Duration::MAX
    }

    fn stopped(&self) -> bool {
        false
    }

    fn stop(&self) {}

    fn disable(&self) -> BoxFuture<Result<(), String>> {
        Box::pin(async { Err("there is no task yet".to_owned()) })
    }

    fn state(&self) -> BoxFuture<Result<String, String>> {
        Box::pin(async { Err("there is no task yet".to_owned()) })
    }

    fn status(&self) -> BoxFuture<Result<String, String>> {
        self.state()
    }
}
