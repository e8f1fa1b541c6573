//! Workers' rows: our own, for people and for the operator, and those of workers of 2020.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{debug, error, warn};

use super::{Coordinator, Done, ROW_EVERY};
use crate::clock::{BootInstant, unix_nanos};
use crate::coordinator::{Admission, Event};
use crate::error::Error;
use crate::lease::Timing;
use crate::name::WorkerName;
use crate::records::WorkerRow;
use crate::store::ROW_TTL;

/// Until it was written for the first time it is tried this often.
const ROW_RETRY: Duration = Duration::from_secs(1);

impl Coordinator {
    pub(super) fn row(&self, state: &str) -> Vec<(&'static str, String)> {
        let session = self.lease.as_ref().map(|lease| lease.session().to_string());
        let claims = match &self.admission {
            Admission::Open => "open".to_owned(),
            Admission::Refused(why) => format!("refused: {why}"),
        };
        let mut row = vec![
            ("State", state.to_owned()),
            ("Heartbeat", unix_nanos().to_string()),
            ("Incarnation", self.incarnation.to_string()),
            ("Session", session.unwrap_or_default()),
            ("Version", self.config.version.clone()),
            ("Host", self.host.clone()),
            ("Pid", std::process::id().to_string()),
            ("Claims", claims),
            ("Threads", self.vitals.threads.load(Ordering::Relaxed).to_string()),
        ];
        row.push(("Critical", self.condition.critical.as_deref().unwrap_or_default().to_owned()));
        row.extend(self.condition.figures.iter().cloned());
        if !self.enabled_written {
            // Whatever disabled an earlier run of this worker is over.
            row.push(("Status", "enabled".to_owned()));
        }
        row
    }

    /// What peers and people are told that we are.
    fn state(&self) -> &'static str {
        if self.draining {
            "draining"
        } else if self.condition.critical.is_some() {
            "critical"
        } else {
            "online"
        }
    }

    pub(super) async fn first_row(&mut self) {
        let row = self.row(self.state());
        match self.store.write_row(&self.config.worker_name, &row, Some(ROW_TTL)).await {
            Ok(()) => self.enabled_written = true,
            Err(error) => warn!(%error, "the worker's row could not be written, written later"),
        }
        self.row_at = BootInstant::now() + ROW_EVERY;
        self.rows_of_ours.insert(self.config.worker_name.clone());
    }

    pub(super) fn write_row(&self) {
        let row = self.row(self.state());
        let (store, done, worker) = (self.store.clone(), self.done.clone(), self.config.worker_name.clone());
        tokio::spawn(async move {
            let _ = done.send(Done::Row(store.write_row(&worker, &row, Some(ROW_TTL)).await));
        });
    }

    pub(super) fn row_written(&mut self, written: Result<(), Error>) {
        match written {
            Ok(()) => self.enabled_written = true,
            Err(error) => {
                debug!(%error, "the worker's row could not be written");
                if !self.enabled_written {
                    self.row_at = self.row_at.min(BootInstant::now() + ROW_RETRY);
                }
            }
        }
    }

    pub(super) fn rows_read(&mut self, rows: Result<Vec<(WorkerName, WorkerRow)>, Error>) {
        self.reading_rows = false;
        let Ok(rows) = rows else { return };
        let now = BootInstant::now();
        for (name, row) in rows {
            if name == self.config.worker_name {
                if row.disabled && self.enabled_written && !self.disabled_told {
                    self.disabled_told = true;
                    warn!(worker = %name, "this worker is disabled: it drains and stops");
                    self.tell(Event::WorkerDisabled);
                }
                continue;
            }
            if row.is_ours() {
                self.rows_of_ours.insert(name);
            } else {
                self.row_of_2020(now, name, &row);
            }
        }
    }

    /// Workers of 2020 take threads by other rules: while one of them is alive nothing is claimed.
    fn row_of_2020(&mut self, now: BootInstant, name: WorkerName, row: &WorkerRow) {
        let watch_for = Timing::observe(self.timing.lease()).max(Duration::from_secs(5));
        match self.rows_of_2020.insert(name.clone(), row.heartbeat.clone()) {
            // Not known yet whether it is alive: it is watched for a while first.
            None if row.state.as_deref() == Some("online") => {
                self.blocked_until = self.blocked_until.max(now + watch_for);
            }
            Some(before) if before != row.heartbeat => {
                if now >= self.seen_2020_until {
                    error!(
                        worker = %name,
                        "a worker of 2020 is alive in this cluster: nothing is claimed until it is stopped"
                    );
                }
                self.seen_2020_until = now + watch_for * 2;
                self.blocked_until = self.blocked_until.max(self.seen_2020_until);
            }
            _ => {}
        }
    }
}
