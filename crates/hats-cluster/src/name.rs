//! Checked names: of a cluster, of a worker, of a task.
//!
//! A name becomes part of a Redis key, so what is checked here is what keeps two names from meaning one key and one
//! name from meaning a pattern. Must always hold: a value of these types was checked once, when it was made; nothing
//! later has to check it again.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// No name is longer than this, in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// No path of an endpoint is longer than this, in bytes.
pub const PATH_BYTES_MAX: usize = 1024;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("a {what} must not be empty")]
    Empty {
        /// What the text was meant to name.
        what: &'static str,
    },
    /// The text is longer than such a name may be.
    #[error("a {what} must not be longer than {most} bytes, this one has {bytes}")]
    TooLong {
        /// What the text was meant to name.
        what: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        most: usize,
    },
    /// The text is no path.
    #[error("a path of an endpoint must begin with '/': {name:?}")]
    NoPath {
        /// The whole text.
        name: String,
    },
    /// The text holds a character that has another meaning in keys or patterns.
    #[error("a {what} must not contain {found:?}: {name:?}")]
    Character {
        /// What the text was meant to name.
        what: &'static str,
        /// The first such character.
        found: char,
        /// The whole text.
        name: String,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks a text and makes it a name.
            ///
            /// # Errors
            /// Says what is wrong with the text.
            pub fn new(name: impl AsRef<str>) -> Result<Self, NameError> {
                let name = name.as_ref();
                ($check)(name)?;
                Ok(Self(Arc::from(name)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;

            fn try_from(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(name: String) -> Result<Self, NameError> {
                Self::new(name)
            }
        }
    };
}

name!(
    /// The name of a cluster: the first part of every key. No `:`, no `{` or `}` (they would move all keys of a Redis
    /// Cluster into one slot), no pattern characters.
    ClusterName,
    |name| check(name, "cluster name", NAME_BYTES_MAX, |c| {
        matches!(c, ':' | '{' | '}' | '*' | '?' | '[' | ']' | '^' | '\\')
    })
);

name!(
    /// The name of a worker: for people. Two workers may have the same one.
    WorkerName,
    |name| check(name, "worker name", NAME_BYTES_MAX, |_| false)
);

name!(
    /// The name of a thread or job. Anything printable: a thread that was registered from a file has the path of that
    /// file as its name.
    TaskName,
    |name| check(name, "task name", NAME_BYTES_MAX, |_| false)
);

name!(
    /// The path of an endpoint, percent-decoded: `/a/b`. Exact, so that a slash at the end counts. It may have parameters
    /// in it, `/users/:id`, which mean something only to whoever answers requests.
    EndpointPath,
    |name| {
        check(name, "path of an endpoint", PATH_BYTES_MAX, |_| false)?;
        match name.starts_with('/') {
            true => Ok(()),
            false => Err(NameError::NoPath { name: name.to_owned() }),
        }
    }
);

fn check(name: &str, what: &'static str, most: usize, forbidden: fn(char) -> bool) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty { what });
    }
    if name.len() > most {
        return Err(NameError::TooLong { what, bytes: name.len(), most });
    }
    match name.chars().find(|&c| c.is_control() || forbidden(c)) {
        Some(found) => Err(NameError::Character { what, found, name: name.to_owned() }),
        None => Ok(()),
    }
}

/// The kinds of task a cluster knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskKind {
    /// Runs continuously, on exactly one worker.
    Thread,
    /// Runs on a schedule, once per tick in the cluster.
    Job,
    /// Answers requests.
    Endpoint,
}

impl TaskKind {
    /// The part of the key that stands for this kind.
    #[must_use]
    pub const fn key_part(self) -> &'static str {
        match self {
            Self::Thread => "Threads",
            Self::Job => "Jobs",
            Self::Endpoint => "Endpoints",
        }
    }

    /// The word for this kind: `thread`, `job` or `endpoint`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Thread => "thread",
            Self::Job => "job",
            Self::Endpoint => "endpoint",
        }
    }
}

impl FromStr for TaskKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        [Self::Thread, Self::Job, Self::Endpoint].into_iter().find(|kind| kind.as_str() == word).ok_or(())
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A task of any kind: two tasks of different kinds may have the same name. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Task {
    kind: TaskKind,
    name: Arc<str>,
}

impl Task {
    /// Checks a name as a name of this kind; of an endpoint it is the path.
    ///
    /// # Errors
    /// Says what is wrong with the name.
    pub fn new(kind: TaskKind, name: impl AsRef<str>) -> Result<Self, NameError> {
        Ok(match kind {
            TaskKind::Thread | TaskKind::Job => Self { kind, name: TaskName::new(name)?.0 },
            TaskKind::Endpoint => Self { kind, name: EndpointPath::new(name)?.0 },
        })
    }

    /// A thread.
    #[must_use]
    pub fn thread(name: &TaskName) -> Self {
        Self { kind: TaskKind::Thread, name: name.0.clone() }
    }

    /// A job.
    #[must_use]
    pub fn job(name: &TaskName) -> Self {
        Self { kind: TaskKind::Job, name: name.0.clone() }
    }

    /// An endpoint.
    #[must_use]
    pub fn endpoint(path: &EndpointPath) -> Self {
        Self { kind: TaskKind::Endpoint, name: path.0.clone() }
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> TaskKind {
        self.kind
    }

    /// Its name; of an endpoint the path.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of a thread.
    pub(crate) fn as_thread(&self) -> Option<TaskName> {
        (self.kind == TaskKind::Thread).then(|| TaskName(self.name.clone()))
    }

    /// The name of a job.
    pub(crate) fn as_job(&self) -> Option<TaskName> {
        (self.kind == TaskKind::Job).then(|| TaskName(self.name.clone()))
    }

    /// The path of an endpoint.
    pub(crate) fn as_endpoint(&self) -> Option<EndpointPath> {
        (self.kind == TaskKind::Endpoint).then(|| EndpointPath(self.name.clone()))
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_task_name() {
        for name in ["examples/hello.js", "a b", "ä:ö{*}", "/a/b/"] {
            assert_eq!(TaskName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_cluster_name_has_no_key_or_pattern_characters() {
        assert!(ClusterName::new("default").is_ok());
        for name in ["a:b", "a{b}", "a*", "a?", "[a]", "a\\", ""] {
            assert!(ClusterName::new(name).is_err(), "{name}");
        }
        assert_eq!(
            ClusterName::new("a:b").unwrap_err().to_string(),
            "a cluster name must not contain ':': \"a:b\""
        );
    }

    #[test]
    fn an_endpoint_path_begins_with_a_slash() {
        for path in ["/", "/a/b", "/a/b/", "//", "/users/:id", "/50% ä?#{*}", "/.."] {
            assert_eq!(EndpointPath::new(path).unwrap().as_str(), path);
        }
        assert_eq!(
            EndpointPath::new("a/b").unwrap_err().to_string(),
            "a path of an endpoint must begin with '/': \"a/b\""
        );
        assert!(EndpointPath::new("").is_err());
        assert!(EndpointPath::new("/a\r\nb").is_err());
        assert!(EndpointPath::new(format!("/{}", "x".repeat(PATH_BYTES_MAX - 1))).is_ok());
        let error = EndpointPath::new(format!("/{}", "x".repeat(PATH_BYTES_MAX))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a path of an endpoint must not be longer than 1024 bytes, this one has 1025"
        );
    }

    #[test]
    fn a_task_is_its_kind_and_its_name() {
        let thread = Task::new(TaskKind::Thread, "a").unwrap();
        assert_ne!(thread, Task::new(TaskKind::Job, "a").unwrap());
        assert_eq!(thread.to_string(), "thread a");
        assert!(Task::new(TaskKind::Endpoint, "a").is_err(), "no path");
        assert_eq!("endpoint".parse(), Ok(TaskKind::Endpoint));
        assert_eq!("Thread".parse::<TaskKind>(), Err(()));
    }

    #[test]
    fn no_name_is_empty_or_endless_or_has_control_characters() {
        assert!(TaskName::new("").is_err());
        assert!(TaskName::new("a\nb").is_err());
        assert!(WorkerName::new("a\u{7f}").is_err());
        assert!(TaskName::new("x".repeat(NAME_BYTES_MAX)).is_ok());
        assert!(TaskName::new("x".repeat(NAME_BYTES_MAX + 1)).is_err());
    }
}
