//! Every Redis key, one function each.
//!
//! Definitions are where people write them; what decides ownership lives in keys of its own (`Sessions`, `Claims`).
//! Must always hold: no other file puts a key together.

use std::sync::Arc;

use crate::id::SessionId;
use crate::name::{ClusterName, EndpointPath, Task, TaskKind, TaskName, WorkerName};

/// The keys of one cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keys {
    cluster: ClusterName,
    threads: Arc<str>,
    claims: Arc<str>,
    ticks: Arc<str>,
    sessions: Arc<str>,
    workers: Arc<str>,
}

impl Keys {
    /// The keys of this cluster.
    #[must_use]
    pub fn new(cluster: ClusterName) -> Self {
        let prefix = |part: &str| Arc::from(format!("{cluster}:{part}:"));
        let (threads, claims, ticks) = (prefix("Threads"), prefix("Claims"), prefix("Ticks"));
        let (sessions, workers) = (prefix("Sessions"), prefix("workers"));
        Self { cluster, threads, claims, ticks, sessions, workers }
    }

    /// The cluster whose keys these are.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.cluster
    }

    /// The hash that defines a task: `<cluster>:Threads:<name>` and the like.
    #[must_use]
    pub fn definition(&self, kind: TaskKind, name: &TaskName) -> String {
        format!("{}:{}:{name}", self.cluster, kind.key_part())
    }

    /// The hash that defines a thread: `<cluster>:Threads:<name>`.
    #[must_use]
    pub fn thread(&self, name: &TaskName) -> String {
        format!("{}{name}", self.threads)
    }

    /// The hash that defines an endpoint: `<cluster>:Endpoints:<path>`.
    #[must_use]
    pub fn endpoint(&self, path: &EndpointPath) -> String {
        format!("{}:{}:{path}", self.cluster, TaskKind::Endpoint.key_part())
    }

    /// Who owns a thread: `<cluster>:Claims:<name>`.
    #[must_use]
    pub fn claim(&self, thread: &TaskName) -> String {
        format!("{}{thread}", self.claims)
    }

    /// The ticks of a job, their runs and their ledger: `<cluster>:Ticks:<name>`.
    #[must_use]
    pub fn ticks(&self, job: &TaskName) -> String {
        format!("{}{job}", self.ticks)
    }

    /// A session: `<cluster>:Sessions:<id>`.
    #[must_use]
    pub fn session(&self, id: &SessionId) -> String {
        format!("{}{id}", self.sessions)
    }

    /// The set of all sessions that were opened and not yet removed: `<cluster>:Sessions`.
    #[must_use]
    pub fn sessions(&self) -> String {
        format!("{}:Sessions", self.cluster)
    }

    /// The set of the names of known tasks of a kind: `<cluster>:Index:Threads` and the like. A shortcut only: what
    /// is missing in it is found by a SCAN.
    #[must_use]
    pub fn index(&self, kind: TaskKind) -> String {
        format!("{}:Index:{}", self.cluster, kind.key_part())
    }

    /// The row of a worker, for people: `<cluster>:workers:<name>`.
    #[must_use]
    pub fn worker(&self, name: &WorkerName) -> String {
        format!("{}{name}", self.workers)
    }

    /// The hash that defines a task of any kind.
    #[must_use]
    pub fn definition_of(&self, task: &Task) -> String {
        format!("{}:{}:{}", self.cluster, task.kind().key_part(), task.name())
    }

    /// The worker crashes that a task was named for: `<cluster>:System:Poison:<kind>:<name>`.
    #[must_use]
    pub fn poison(&self, task: &Task) -> String {
        format!("{}:{POISON}{}:{}", self.cluster, task.kind(), task.name())
    }

    /// What a SCAN for the definitions of a kind matches.
    #[must_use]
    pub fn definitions_pattern(&self, kind: TaskKind) -> String {
        // A cluster name has no pattern characters.
        format!("{}:{}:*", self.cluster, kind.key_part())
    }

    /// The ticks of all jobs.
    #[must_use]
    pub fn ticks_pattern(&self) -> String {
        format!("{}*", self.ticks)
    }

    /// What a SCAN for claims matches.
    #[must_use]
    pub fn claims_pattern(&self) -> String {
        format!("{}*", self.claims)
    }

    /// What a SCAN for workers' rows matches.
    #[must_use]
    pub fn workers_pattern(&self) -> String {
        format!("{}*", self.workers)
    }

    /// The prefixes to watch: definitions, workers' rows, claims and poison records.
    #[must_use]
    pub fn watched_prefixes(&self) -> Vec<String> {
        ["Threads:", "Jobs:", "Endpoints:", "workers:", "Claims:", POISON]
            .iter()
            .map(|part| format!("{}:{part}", self.cluster))
            .collect()
    }

    /// What a key that was heard of by the watch or a SCAN is, if it is one of ours.
    #[must_use]
    pub fn parse(&self, key: &str) -> Option<Key> {
        let rest = key.strip_prefix(self.cluster.as_str())?.strip_prefix(':')?;
        let (part, name) = rest.split_once(':')?;
        match part {
            "Threads" => TaskName::new(name).ok().map(Key::Thread),
            "Jobs" => TaskName::new(name).ok().map(Key::Job),
            "Endpoints" => EndpointPath::new(name).ok().map(Key::Endpoint),
            "Claims" => TaskName::new(name).ok().map(Key::Claim),
            "Ticks" => TaskName::new(name).ok().map(Key::Ticks),
            "workers" => WorkerName::new(name).ok().map(Key::Worker),
            "Sessions" if !name.is_empty() => Some(Key::Session(SessionId::from(name))),
            _ => rest.strip_prefix(POISON).and_then(parse_task).map(Key::Poison),
        }
    }
}

/// The part of the key of every poison record behind the cluster.
const POISON: &str = "System:Poison:";

/// `<kind>:<name>`.
fn parse_task(text: &str) -> Option<Task> {
    let (kind, name) = text.split_once(':')?;
    Task::new(kind.parse().ok()?, name).ok()
}

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    /// The definition of a thread.
    Thread(TaskName),
    /// The definition of a job.
    Job(TaskName),
    /// The definition of an endpoint.
    Endpoint(EndpointPath),
    /// The claim of a thread.
    Claim(TaskName),
    /// The ticks of a job.
    Ticks(TaskName),
    /// A worker's row.
    Worker(WorkerName),
    /// A session.
    Session(SessionId),
    /// The poison record of a task.
    Poison(Task),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_together_is_taken_apart_again() {
        let keys = Keys::new(ClusterName::new("c").unwrap());
        let name = TaskName::new("a:b/c.js").unwrap();
        assert_eq!(keys.thread(&name), "c:Threads:a:b/c.js");
        assert_eq!(keys.thread(&name), keys.definition(TaskKind::Thread, &name));
        assert_eq!(keys.parse(&keys.thread(&name)), Some(Key::Thread(name.clone())));
        assert_eq!(keys.parse(&keys.claim(&name)), Some(Key::Claim(name.clone())));
        assert_eq!(keys.parse(&keys.ticks(&name)), Some(Key::Ticks(name)));
        let path = EndpointPath::new("/a:b/").unwrap();
        assert_eq!(keys.endpoint(&path), "c:Endpoints:/a:b/");
        assert_eq!(keys.parse(&keys.endpoint(&path)), Some(Key::Endpoint(path)));
        let worker = WorkerName::new("w").unwrap();
        assert_eq!(keys.parse(&keys.worker(&worker)), Some(Key::Worker(worker)));
        let id = SessionId::from("abc");
        assert_eq!(keys.parse(&keys.session(&id)), Some(Key::Session(id)));
        for task in
            [Task::thread(&TaskName::new("a:b").unwrap()), Task::new(TaskKind::Endpoint, "/a:b").unwrap()]
        {
            assert_eq!(keys.poison(&task), format!("c:System:Poison:{}:{}", task.kind(), task.name()));
            assert_eq!(keys.definition_of(&task), format!("c:{}:{}", task.kind().key_part(), task.name()));
            assert_eq!(keys.parse(&keys.poison(&task)), Some(Key::Poison(task)));
        }
        for key in ["c:System:Poison:page:/a", "c:System:Poison:endpoint:a", "c:System:Other:thread:a"] {
            assert_eq!(keys.parse(key), None, "{key}");
        }
        for key in ["c:Sessions", "d:Threads:a", "cc:Threads:a", "c:Threads:", "c:Endpoints:a", "c", ""] {
            assert_eq!(keys.parse(key), None, "{key}");
        }
    }
}
