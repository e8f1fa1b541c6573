//! Reading jobs: singly, each by a command of its own, or all of them by the slice.
//!
//! What must hold:
//! * What is in flight is bounded by [`Shared::questions`], and the permit travels with the answer: nothing further is read
//!   for the loop while it has not taken what was read before.
//! * A job is never judged by more than was read of it: an outline has no source, so it replaces no definition that was
//!   found malformed because of its source.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hats_cluster::Error;
use hats_cluster::name::{TaskKind, TaskName};
use hats_cluster::records::{JobDefinition, JobRead, TicksRecord};
use hats_cluster::store::{Outlines, Store};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::{Answer, Done, Shared};

/// Maximum jobs per pipelined read.
const LOOK_TOGETHER: usize = 32;
/// Fewer jobs than this are read singly.
const PASS_LEAST: usize = LOOK_TOGETHER;
/// Reading all jobs by the slice pays if at least one in so many is to be read.
const PASS_SHARE: usize = 16;
/// How often a slice is asked for that is not answered; the pause before each try, at first and at most.
const SLICE_TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// What a read has shown of one job.
pub(super) struct Looked {
    pub(super) name: TaskName,
    /// When it was sent, in milliseconds since 1970.
    pub(super) asked_ms: i64,
    /// From right before it was sent.
    pub(super) asked_at: Instant,
    /// None: it was not asked for.
    pub(super) definition: Option<Result<Option<JobRead>, Error>>,
    /// The definition was read without its source.
    pub(super) outline: bool,
    pub(super) ticks: Result<TicksRecord, Error>,
}

/// A job to be read singly; with what is known of its definition, if that is to be read as well.
pub(super) type Unread = (TaskName, Option<Option<JobDefinition>>);

/// How the jobs that are to be read are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// All jobs of the cluster, by the slice.
    Pass,
    /// Each of them by itself.
    Singly,
    /// Once the read of this kind that is in flight has ended.
    Later,
}

/// How to read `dirty` of `all` jobs.
pub(super) fn way(dirty: usize, all: usize, passing: bool, looking: bool, passes: bool) -> Way {
    let pays = passes && dirty >= PASS_LEAST && dirty.saturating_mul(PASS_SHARE) >= all;
    match (pays, passing, looking) {
        (true, false, _) => Way::Pass,
        (false, _, false) => Way::Singly,
        _ => Way::Later,
    }
}

/// Reads jobs singly, in pipelines.
pub(super) fn singly(shared: &Arc<Shared>, jobs: Vec<Unread>) {
    let not_looked = jobs.iter().map(|(name, known)| (name.clone(), known.is_some())).collect();
    let answer = Answer::or(&shared.done, Done::NotLooked(not_looked));
    let shared = shared.clone();
    tokio::spawn(async move {
        for together in jobs.chunks(LOOK_TOGETHER) {
            let many = u32::try_from(together.len()).unwrap_or(1);
            // Nobody closes it.
            let Ok(permit) = shared.questions.clone().acquire_many_owned(many).await else { break };
            let looked = look_at(&shared, together).await;
            let _ = shared.done.send(Done::Looked { looked, permit });
        }
        answer.is(Done::LookEnded);
    });
}

/// Reads definitions, where asked for, and ticks.
async fn look_at(shared: &Shared, together: &[Unread]) -> Vec<Looked> {
    let (asked_ms, store) = (shared.now_ms(), &shared.store);
    let names: Vec<TaskName> = together.iter().map(|(name, _)| name.clone()).collect();
    let unread: Vec<(TaskName, Option<JobDefinition>)> = together
        .iter()
        .filter_map(|(name, known)| known.clone().map(|known| (name.clone(), known)))
        .collect();
    let asked_at = Instant::now();
    let definitions = store.read_jobs(&unread).await;
    let mut definitions: HashMap<TaskName, _> =
        unread.into_iter().map(|(name, _)| name).zip(definitions).collect();
    let ticks = store.read_ticks(&names).await;
    let looked = names.into_iter().zip(ticks);
    looked
        .map(|(name, ticks)| {
            let definition = definitions.remove(&name);
            Looked { definition, asked_ms, asked_at, outline: false, name, ticks }
        })
        .collect()
}

/// Reads all jobs by the slice. `new`: jobs that the index may not have yet.
pub(super) fn pass(shared: &Arc<Shared>, wanted: HashMap<TaskName, bool>, new: Vec<TaskName>) {
    let left = wanted.iter().map(|(name, definition)| (name.clone(), *definition)).collect();
    let answer = Answer::or(&shared.done, Done::PassEnded { left, refused: false });
    let shared = shared.clone();
    tokio::spawn(async move {
        let mut left = wanted;
        let refused = match slices(&shared, &mut left, &new).await {
            Ok(()) => false,
            Err(error) => {
                tracing::debug!(%error, "jobs cannot be read by the slice, they are read singly");
                true
            }
        };
        answer.is(Done::PassEnded { left: left.into_iter().collect(), refused });
    });
}

/// Takes out of `left` what was read.
async fn slices(shared: &Shared, left: &mut HashMap<TaskName, bool>, new: &[TaskName]) -> Result<(), Error> {
    if shared.store.reads_outlines() && !new.is_empty() {
        shared.store.index_add(TaskKind::Job, new).await?;
    }
    let mut from = Some(0);
    while let Some(first) = from {
        let (outlines, asked, permit) = slice(shared, first).await?;
        from = outlines.next;
        for outline in &outlines.jobs {
            left.remove(&outline.name);
        }
        let looked = outlines.jobs.into_iter().map(|outline| Looked {
            name: outline.name,
            asked_ms: asked.0,
            asked_at: asked.1,
            definition: Some(Ok(Some(outline.read))),
            outline: true,
            ticks: Ok(outline.ticks),
        });
        let _ = shared.done.send(Done::Looked { looked: looked.collect(), permit });
    }
    let unlisted: Vec<&str> =
        new.iter().filter(|name| left.contains_key(*name)).map(TaskName::as_str).collect();
    if !unlisted.is_empty() {
        // They were defined when they were heard of and are not any more; the next sweep puts right what is wrong here.
        shared.store.index_remove(TaskKind::Job, &unlisted).await?;
    }
    Ok(())
}

/// One slice, asked for until it is answered; with when that was sent.
async fn slice(
    shared: &Shared,
    first: usize,
) -> Result<(Outlines, (i64, Instant), OwnedSemaphorePermit), Error> {
    let mut pause = PAUSE;
    for nth in 1.. {
        let Ok(permit) = shared.questions.clone().acquire_owned().await else { break };
        let asked = (shared.now_ms(), Instant::now());
        match shared.store.read_outlines(first).await {
            Ok(outlines) => return Ok((outlines, asked, permit)),
            Err(error @ (Error::Timeout | Error::Unreachable(_))) if nth < SLICE_TRIES => {
                tracing::debug!(%error, "a slice of the jobs was not answered, asked for again");
            }
            Err(error) => return Err(error),
        }
        drop(permit);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
    Err(Error::Timeout)
}

/// Finds all jobs and records of ticks, and puts the index of jobs right.
pub(super) async fn sweep(store: &Store) -> Result<hats_cluster::store::Jobs, Error> {
    let found = store.scan_jobs().await?;
    if let Err(error) = store.mend_index(TaskKind::Job, &found.defined).await {
        tracing::debug!(%error, "the index of jobs is mended by the next sweep");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_jobs_are_read_by_the_slice_and_few_singly() {
        assert_eq!(way(10_000, 10_000, false, false, true), Way::Pass);
        assert_eq!(way(625, 10_000, false, true, true), Way::Pass, "beside a single read");
        assert_eq!(way(624, 10_000, false, false, true), Way::Singly, "a pass would read far more");
        assert_eq!(way(PASS_LEAST - 1, PASS_LEAST - 1, false, false, true), Way::Singly);
        assert_eq!(way(10_000, 10_000, false, false, false), Way::Singly, "the server refuses");
    }

    #[test]
    fn one_read_of_a_kind_is_in_flight() {
        assert_eq!(way(10_000, 10_000, true, false, true), Way::Later);
        assert_eq!(way(1, 10_000, true, false, true), Way::Singly, "a change is read beside a pass");
        assert_eq!(way(1, 10_000, true, true, true), Way::Later);
    }
}
