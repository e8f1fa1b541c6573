//! Standard error, written by an OS thread of its own: whoever logs puts a line into a queue and goes on.
//!
//! ```text
//!  lanes, coordinator, signals … ─ write ─► queue (at most QUEUE_BYTES_MAX) ─► "log" (OS thread) ─► standard error
//!                                  full: dropped and counted
//! ```
//!
//! What must hold: nothing that logs ever waits for a reader of standard error, the end of the process included, which
//! waits [`FLUSH_TIMEOUT`] at most. Lines are written whole and in order. How many were dropped is a metric, and stands in
//! the log as soon as it can be written again.
//!
//! Not tracing-appender: its queue is bounded in lines and not in bytes, and it does not say in the log what was dropped.
//!
//! On failure: an error of standard error itself (closed, disk full) drops the line that it met, and is counted like any
//! other.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hats_core::Error;
use tracing_subscriber::fmt::MakeWriter;

/// Bytes of lines that wait to be written. Enough for some seconds of a busy worker's log.
const QUEUE_BYTES_MAX: usize = 4 << 20;
/// How long the end of the process waits for the last lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The queue to standard error. Cheap to clone.
#[derive(Clone)]
pub(super) struct LogWriter {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    filled: Condvar,
    /// Everything was written.
    emptied: Condvar,
    bytes_max: usize,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    /// Bytes of `lines`.
    bytes: usize,
    /// A line was taken out and is not written yet.
    is_writing: bool,
    /// Lines dropped since the start.
    dropped: u64,
    /// How many of them the log has told of.
    reported: u64,
}

thread_local! {
    /// This OS thread is the one that writes.
    static IS_WRITER: Cell<bool> = const { Cell::new(false) };
}

/// The writer of this process, once there is one.
static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// Starts the writer to standard error, unless it runs already.
pub(super) fn start() -> Result<LogWriter, Error> {
    if let Some(writer) = WRITER.get() {
        return Ok(writer.clone());
    }
    let refuse = |error: io::Error| Error::System(format!("cannot start the logs: {error}"));
    // A handle of our own: the lock of `io::stderr()` would be held for as long as nobody reads.
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned().map_err(refuse)?);
    let writer = LogWriter::start(stderr, QUEUE_BYTES_MAX).map_err(refuse)?;
    Ok(WRITER.get_or_init(|| writer).clone())
}

/// Lines that were dropped since the start.
pub(super) fn dropped() -> u64 {
    WRITER.get().map_or(0, |writer| writer.shared.state().dropped)
}

/// Waits until every line was written, for a bounded time.
pub(crate) fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush(FLUSH_TIMEOUT);
    }
}

/// Writes a line that is no log line, after all that was logged before it. It is lost where nobody reads.
pub(crate) fn say(line: &str) {
    match WRITER.get() {
        Some(writer) => {
            writer.put(format!("{line}\n").as_bytes());
            writer.flush(FLUSH_TIMEOUT);
        }
        None => drop(writeln!(io::stderr().lock(), "{line}")),
    }
}

impl LogWriter {
    fn start(out: impl Write + Send + 'static, bytes_max: usize) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            bytes_max,
        });
        let writing = shared.clone();
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writing.run(out))?;
        Ok(Self { shared })
    }

    /// Queues a line, or drops it if the queue is full.
    fn put(&self, line: &[u8]) {
        let mut state = self.shared.state();
        // What the writer itself says of dropped lines always has its place, and is one line at a time.
        if state.bytes.saturating_add(line.len()) > self.shared.bytes_max && !IS_WRITER.get() {
            state.dropped += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.to_vec());
        drop(state);
        self.shared.filled.notify_one();
    }

    fn flush(&self, limit: Duration) {
        let state = self.shared.state();
        let is_busy = |state: &mut State| state.is_writing || !state.lines.is_empty();
        // Whether it was in time makes no difference: the process ends.
        let _ = self.shared.emptied.wait_timeout_while(state, limit, is_busy);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The OS thread that writes. Lives as long as the process.
    fn run(&self, mut out: impl Write) {
        IS_WRITER.set(true);
        loop {
            let line = self.next();
            let failed = out.write_all(&line).is_err();
            let mut state = self.state();
            state.is_writing = false;
            if failed {
                state.dropped += 1;
                if state.lines.is_empty() {
                    self.emptied.notify_all();
                }
                continue;
            }
            let lost = state.dropped - state.reported;
            state.reported = state.dropped;
            drop(state);
            if lost > 0 {
                tracing::warn!("{lost} log lines were dropped: standard error was not read in time");
            }
            let state = self.state();
            if state.lines.is_empty() {
                self.emptied.notify_all();
            }
        }
    }

    /// Waits for the next line.
    fn next(&self) -> Vec<u8> {
        let mut state = self.state();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One event is one call of `write`.
impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Takes what is written when it is asked to, like a pipe with a slow reader.
    struct Slow {
        permits: mpsc::Receiver<()>,
        written: mpsc::Sender<String>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(io::Error::other)?;
            let _ = self.written.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow(bytes_max: usize) -> (LogWriter, mpsc::Sender<()>, mpsc::Receiver<String>) {
        let (permit, permits) = mpsc::channel();
        let (written, lines) = mpsc::channel();
        (LogWriter::start(Slow { permits, written }, bytes_max).unwrap(), permit, lines)
    }

    #[test]
    fn lines_are_dropped_and_counted_while_nobody_reads_and_the_rest_is_in_order() {
        let (writer, permit, lines) = slow(100);
        // None of these waits.
        for number in 0..1_000 {
            writer.put(format!("line {number:04}\n").as_bytes());
        }
        // One may be in the writer's hand beside the ten that fit.
        let dropped = writer.shared.state().dropped;
        assert!((989..=990).contains(&dropped), "{dropped}");
        writer.flush(Duration::from_millis(1));
        for _ in 0..1_000 - dropped {
            permit.send(()).unwrap();
        }
        let written: Vec<_> = (0..1_000 - dropped).map(|_| lines.recv().unwrap()).collect();
        assert!(written.is_sorted(), "{written:?}");
        assert_eq!(written[0], "line 0000\n");
        drop(permit);
    }

    #[test]
    fn a_flush_waits_until_everything_is_written() {
        let (writer, permit, lines) = slow(1_000);
        for _ in 0..10 {
            writer.put(b"a\n");
            permit.send(()).unwrap();
        }
        writer.flush(Duration::from_secs(60));
        assert_eq!(lines.try_iter().count(), 10);
    }

    #[test]
    fn a_reader_that_is_gone_costs_lines_and_nothing_else() {
        let (writer, permit, _) = slow(1_000);
        drop(permit);
        for _ in 0..10 {
            writer.put(b"a\n");
        }
        writer.flush(Duration::from_secs(60));
        assert_eq!(writer.shared.state().dropped, 10);
    }
}
