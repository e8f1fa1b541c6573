//! Many jobs at once: their definitions without the sources, and what Redis keeps of their ticks, by one command for
//! many of them.
//!
//! `SORT <index> BY nosort GET <definition>->Field GET <ticks>->Field …` reads fields of many hashes and sorts nothing. It
//! changes nothing and decides nothing: a server that refuses it (a Redis Cluster, the embedded server, a user without the
//! right to read all keys) costs more commands, and that is all.

use fred::interfaces::ClientLike;
use fred::types::{ClusterHash, CustomCommand, Value};

use super::definitions::{JOB_FIELDS, MIRROR_FIELDS, job_outline};
use super::ticks::{WATCHED, parse_record};
use super::{Store, failed, lua};
use crate::error::Error;
use crate::keys::Keys;
use crate::name::{TaskKind, TaskName};
use crate::records::{JobRead, TicksRecord};

/// Jobs per command: few enough that Redis is busy with it for some milliseconds only.
const SLICE: usize = 128;

/// What one step has shown of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobOutline {
    /// Its name.
    pub name: TaskName,
    /// Its definition. The source is empty there, without modules and without a digest.
    pub read: JobRead,
    /// What Redis keeps of its ticks.
    pub ticks: TicksRecord,
}

/// A slice of the jobs in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlines {
    /// Those that have a definition.
    pub jobs: Vec<JobOutline>,
    /// Where the next slice begins; none: this was the last one.
    pub next: Option<usize>,
}

impl Store {
    /// Whether [`Store::read_outlines`] can work at all.
    #[must_use]
    pub fn reads_outlines(&self) -> bool {
        !self.client().is_clustered()
    }

    /// Reads a slice of the jobs that the index knows, from this place in it on. A job that enters or leaves the index
    /// between two slices may be left out.
    ///
    /// # Errors
    /// When Redis does not answer, or refuses to read so many hashes by one command.
    pub async fn read_outlines(&self, from: usize) -> Result<Outlines, Error> {
        if !self.reads_outlines() {
            return Err(Error::Server("a cluster reads one key at a time".to_owned()));
        }
        let key = self.keys().index(TaskKind::Job);
        let sort = CustomCommand::new_static("SORT", ClusterHash::from(key.as_str()), false);
        let mut args = vec![key, "BY".into(), "nosort".into(), "LIMIT".into(), from.to_string()];
        args.extend([SLICE.to_string(), "GET".to_owned(), "#".to_owned()]);
        args.extend(patterns(self.keys()));
        let reply: Value = self.client().custom(sort, args).await.map_err(failed)?;
        let values = reply.into_array();
        let width = 1 + JOB_FIELDS.len() + MIRROR_FIELDS.len() + WATCHED.len();
        let rows = values.chunks_exact(width);
        let next = (rows.len() == SLICE).then(|| from.saturating_add(SLICE));
        Ok(Outlines { jobs: rows.filter_map(outline).collect(), next })
    }
}

/// What is read of each job behind its name.
fn patterns(keys: &Keys) -> impl Iterator<Item = String> {
    // A cluster name has no pattern characters.
    let (definition, ticks) = (keys.definitions_pattern(TaskKind::Job), keys.ticks_pattern());
    let fields = JOB_FIELDS.iter().chain(&MIRROR_FIELDS).map(move |field| format!("{definition}->{field}"));
    let fields = fields.chain(WATCHED.iter().map(move |field| format!("{ticks}->{field}")));
    fields.flat_map(|pattern| ["GET".to_owned(), pattern])
}

fn outline(row: &[Value]) -> Option<JobOutline> {
    let (name, values) = row.split_first()?;
    let name = TaskName::new(name.as_string()?).ok()?;
    let (definition, ticks) = values.split_at_checked(JOB_FIELDS.len() + MIRROR_FIELDS.len())?;
    let ticks = std::array::from_fn(|nth| ticks.get(nth).and_then(lua::lossy));
    Some(JobOutline { name, read: job_outline(definition)?, ticks: parse_record(&ticks) })
}
