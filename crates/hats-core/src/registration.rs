//! Registers the scripts that a worker was given, and registers them again when Redis has lost everything.
//!
//! What must hold: registering replaces a source only at the worker's start. Later a script comes back only where
//! nothing at all is left of it, neither definition nor claim: what an operator has changed or removed meanwhile is
//! theirs to decide, and a claim outlives its definition for long enough to tell.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use hats_cluster::name::TaskName;
use hats_cluster::records::Modules;
use hats_cluster::store::{Put, Store};
use hats_cluster::{Handle, admin};
use tokio::sync::Notify;

use crate::config::{Bundle, Script};

/// Between two rounds of tries, at first and at most.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Sees to it that the scripts are there.
pub(crate) struct Registrar {
    cluster: Handle,
    store: Store,
    scripts: Vec<Script>,
    run_now: bool,
    /// Told at each loss of a session: the loss of all data is one of its causes.
    session_lost: Arc<Notify>,
}

impl Registrar {
    pub(crate) fn new(
        cluster: Handle,
        scripts: Vec<Script>,
        run_now: bool,
        session_lost: Arc<Notify>,
    ) -> Self {
        let store = cluster.store();
        Registrar { cluster, store, scripts, run_now, session_lost }
    }

    /// Registers, and watches for the loss of everything for as long as it is polled.
    pub(crate) async fn run(&self) -> Infallible {
        self.until_done(When::Start).await;
        if self.run_now && !self.scripts.is_empty() {
            self.cluster.claim_now(self.names());
        }
        loop {
            self.session_lost.notified().await;
            self.until_done(When::Later).await;
        }
    }

    /// Tries until each script has its answer. One that fails does not keep the others waiting.
    async fn until_done(&self, when: When) {
        let mut left: Vec<&Script> = self.scripts.iter().collect();
        let mut pause = PAUSE;
        loop {
            let mut failed = Vec::new();
            for script in left {
                if let Err(error) = self.register(script, when).await {
                    tracing::warn!(task = %script.name, %error, "cannot register the script yet");
                    failed.push(script);
                }
            }
            if failed.is_empty() {
                return;
            }
            left = failed;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn register(&self, script: &Script, when: When) -> Result<(), hats_cluster::Error> {
        let name = &script.name;
        if when == When::Later && self.is_known(name).await? {
            return Ok(());
        }
        let fields = modules(&script.source).fields();
        let fields: Vec<_> = fields.iter().map(|(field, text)| (field.as_str(), text.clone())).collect();
        let outcome = admin::put_thread_with(&self.store, name, &script.source.main, &fields).await?;
        self.cluster.look(vec![name.clone()]);
        let what = match outcome.put {
            Put::Created => "registered",
            Put::Updated => "registered with a new source",
            Put::Unchanged => "registered already",
        };
        if outcome.disabled {
            tracing::warn!(task = %name, "{what}, but its status is disabled: it does not run until it is enabled");
        } else {
            tracing::info!(task = %name, "{what}");
        }
        Ok(())
    }

    /// Whether anything is left of a thread.
    async fn is_known(&self, name: &TaskName) -> Result<bool, hats_cluster::Error> {
        if self.store.read_definition(name, None).await?.is_some() {
            return Ok(true);
        }
        let claims = self.store.check(std::slice::from_ref(name)).await?;
        Ok(claims.iter().any(|claim| claim.epoch > 0))
    }

    fn names(&self) -> Vec<TaskName> {
        self.scripts.iter().map(|script| script.name.clone()).collect()
    }
}

/// What a source imports, as it stands in Redis.
pub(crate) fn modules(source: &Bundle) -> Modules {
    Modules { main: source.file.clone(), files: source.modules.clone() }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Start,
    Later,
}
