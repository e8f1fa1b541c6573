//! What the scripts about ticks promise.

use super::*;
use crate::records::{
    JobDefinition, Misfire, Overlap, RunRecord, TickCounts, TickOutcome, TicksBook, TicksRecord,
};

mod walk;

use self::walk::a_random_walk_is_what_the_model_says;

conformance![
    a_definition_of_a_job_is_read,
    a_job_is_adopted_once_and_counts_from_then,
    a_grid_begins_at_first_sight_and_a_new_interval_begins_a_new_one,
    a_clock_that_was_wrong_stops_no_job_for_ever,
    a_tick_is_granted_once,
    the_same_question_has_the_same_answer_while_the_run_lasts,
    ticks_that_are_leapt_over_are_counted,
    a_tick_in_the_future_is_early,
    overlap_decides_what_a_tick_does_beside_a_run,
    the_next_tick_replaces_a_run,
    what_waits_follows_in_the_same_step,
    a_failed_run_is_due_again_as_often_as_it_may,
    under_allow_nothing_waits_for_the_others,
    what_the_dead_have_left_is_settled,
    who_settles_the_dead_takes_what_they_kept_waiting,
    nothing_is_taken_by_who_may_not,
    a_changed_definition_drops_what_waits,
    a_run_by_hand_moves_nothing,
    the_ledger_keeps_a_thousand_lines_and_the_history_a_hundred_runs,
    lines_that_are_none_of_ours_are_in_nobodys_way,
    jobs_and_their_ticks_are_found,
    ticks_outlive_their_definition_by_a_day,
    operators_see_and_steer_jobs,
    a_key_of_another_type_is_a_matter_of_that_job,
    a_random_walk_is_what_the_model_says,
];

fn job() -> TaskName {
    TaskName::new("jobs/a b.js").unwrap()
}

fn asked() -> Asked {
    Asked { session: SessionId::random(), nonce: Nonce::random(), worker: "w 1".to_owned() }
}

fn run_ended(outcome: TickOutcome) -> Ended {
    Ended {
        outcome,
        again: None,
        late: Duration::from_millis(3),
        took: Duration::from_millis(40),
        why: "because\nof".to_owned(),
        said: Some(Said { result: Some("7".to_owned()), log: vec!["a".to_owned(), "b\n\t".to_owned()] }),
    }
}

fn waiting(next: &Asked, record: &TicksRecord) -> Waiting {
    Waiting {
        asked: Some(next.clone()),
        def: "d".to_owned(),
        epoch: record.epoch,
        overlap: Overlap::Forbid,
        retries: 0,
        again: Duration::from_secs(9),
    }
}

impl Bench {
    /// As if the job had been adopted ten minutes ago, with the last tick then.
    async fn adopted(&self) -> TicksRecord {
        let (adopted, _) = self.store.adopt(&job(), None, "d", None).await.unwrap();
        assert!(adopted);
        let last = self.ticks().await.last_ms.unwrap() - 600_000;
        self.hset(self.store.keys.ticks(&job()), "LastTick", last).await;
        self.ticks().await
    }

    async fn ticks(&self) -> TicksRecord {
        self.store.read_ticks(&[job()]).await.pop().unwrap().unwrap()
    }

    /// Asks for the tick a minute after the last one.
    async fn tick(&self, asked: &Asked, overlap: Overlap) -> TickAnswer {
        let last = self.ticks().await.last_ms.unwrap();
        let (answer, record) = self.store.tick(&job(), asked, &request(last, overlap)).await.unwrap();
        assert_eq!(record, self.ticks().await);
        self.balanced().await;
        answer
    }

    async fn tick_granted(&self, asked: &Asked) -> Run {
        match self.tick(asked, Overlap::Allow).await {
            TickAnswer::Granted(run) => run,
            answer => panic!("{answer:?}"),
        }
    }

    async fn finish(&self, asked: &Asked, ended: &Ended, next: Option<&Asked>) -> Option<Run> {
        let (run, _) = self.store.finish(&job(), &asked.nonce, ended, next).await.unwrap();
        self.balanced().await;
        run
    }

    async fn book(&self) -> TicksBook {
        self.store.read_book(&job()).await.unwrap().unwrap()
    }

    /// Counts, record and ledger say the same.
    async fn balanced(&self) -> TickCounts {
        let book = self.book().await;
        let counts = book.counts;
        assert!(counts.is_balanced(), "{counts:?}");
        assert_eq!(book.record, self.ticks().await);
        assert_eq!(self.store.read_counts(&[job()]).await.pop().unwrap().unwrap(), counts);
        let decided: u64 = book.ledger.iter().map(|entry| entry.ticks).sum();
        let expected = counts.elapsed - counts.pending - counts.running;
        assert!(book.ledger.len() > 900 || decided == expected, "{counts:?} {:?}", book.ledger);
        counts
    }

    async fn settle(&self, dead: &[SessionId], waiting: &Waiting) -> (Option<Run>, TicksRecord) {
        let settled = self.store.settle(&job(), dead, waiting).await.unwrap();
        self.balanced().await;
        settled
    }
}

fn request(last_ms: i64, overlap: Overlap) -> TickRequest {
    TickRequest {
        tick_ms: last_ms + 60_000,
        last_ms,
        def: "d".to_owned(),
        missed: (0, 0, ""),
        overlap,
        patient: false,
    }
}

async fn a_definition_of_a_job_is_read(bench: Bench) {
    let key = bench.store.keys.definition(TaskKind::Job, &job());
    let read = async |known: Option<JobDefinition>| {
        bench.store.read_jobs(&[(job(), known)]).await.pop().unwrap().unwrap()
    };
    assert_eq!(read(None).await, None);
    for (field, value) in
        [("Source", "main"), ("Cron", "@hourly"), ("TZ", "UTC"), ("Misfire", "skip"), ("State", "x")]
    {
        bench.hset(key.clone(), field, value).await;
    }
    let first = read(None).await.unwrap();
    let definition = first.definition.unwrap();
    assert_eq!((&*definition.source, &*definition.cron), ("main", "@hourly"));
    assert_eq!((definition.tz.as_deref(), definition.misfire), (Some("UTC"), Misfire::Skip));
    assert_eq!(first.mirror.state.as_deref(), Some("x"));
    bench.hset(key.clone(), "Retries", "many").await;
    let again = read(Some(definition)).await.unwrap();
    assert_eq!(again.definition.unwrap_err().field, "Retries");
}

async fn a_job_is_adopted_once_and_counts_from_then(bench: Bench) {
    assert_eq!(bench.ticks().await, TicksRecord::default());
    let before = i64::try_from(bench.store.server_time().await.unwrap()).unwrap();
    let (adopted, record) = bench.store.adopt(&job(), None, "a", None).await.unwrap();
    assert!(adopted && record.def.as_deref() == Some("a") && record.last_ms.unwrap() >= before);
    assert_eq!(record, bench.ticks().await);
    // The other workers come later.
    let (adopted, later) = bench.store.adopt(&job(), None, "a", None).await.unwrap();
    assert!(adopted && later == record);
    // One that knows the definition before the last is told so.
    let (adopted, _) = bench.store.adopt(&job(), Some("a"), "b", None).await.unwrap();
    assert!(adopted);
    let (adopted, record) = bench.store.adopt(&job(), Some("a"), "c", None).await.unwrap();
    assert!(!adopted && record.def.as_deref() == Some("b"));
    assert_eq!(bench.balanced().await, TickCounts::default());
}

async fn a_grid_begins_at_first_sight_and_a_new_interval_begins_a_new_one(bench: Bench) {
    let (_, first) = bench.store.adopt(&job(), None, "e3", Some("3s")).await.unwrap();
    let anchor = first.anchor_ms.unwrap();
    assert_eq!(Some(anchor), first.last_ms);
    let old = anchor - 100_000;
    bench.hset(bench.store.keys.ticks(&job()), "Anchor", old).await;
    // Disabled and enabled again: the same grid.
    let _ = bench.store.adopt(&job(), Some("e3"), "disabled", None).await.unwrap();
    let (_, again) = bench.store.adopt(&job(), Some("disabled"), "e3", Some("3s")).await.unwrap();
    assert_eq!(again.anchor_ms, Some(old));
    let (_, other) = bench.store.adopt(&job(), Some("e3"), "e5", Some("5s")).await.unwrap();
    assert_eq!(other.anchor_ms, other.last_ms);
}

async fn a_clock_that_was_wrong_stops_no_job_for_ever(bench: Bench) {
    let key = bench.store.keys.ticks(&job());
    bench.adopted().await;
    let now = i64::try_from(bench.store.server_time().await.unwrap()).unwrap();
    // An hour ahead: those ticks were granted, nobody gets them again.
    bench.hset(key.clone(), "LastTick", now + 3_600_000).await;
    let (_, record) = bench.store.adopt(&job(), Some("d"), "e", None).await.unwrap();
    assert_eq!(record.last_ms, Some(now + 3_600_000));
    bench.hset(key, "LastTick", now + 90_000_000).await;
    let (_, record) = bench.store.adopt(&job(), Some("e"), "d", None).await.unwrap();
    assert!((now..now + 60_000).contains(&record.last_ms.unwrap()), "{record:?}");
}

async fn a_tick_is_granted_once(bench: Bench) {
    let last = bench.adopted().await.last_ms.unwrap();
    let first = asked();
    let (answer, record) = bench.store.tick(&job(), &first, &request(last, Overlap::Allow)).await.unwrap();
    let TickAnswer::Granted(run) = answer else { panic!("{answer:?}") };
    assert_eq!((run.tick_ms, run.attempt), (last + 60_000, 1));
    assert!(run.epoch > 0 && run.started_ms > last);
    let expected = RunRecord {
        tick_ms: run.tick_ms,
        nonce: first.nonce.clone(),
        session: first.session.clone(),
        epoch: run.epoch,
        attempt: 1,
        started_ms: run.started_ms,
        manual: false,
        cancelled: false,
        beside: true,
        worker: "w 1".to_owned(),
    };
    assert_eq!((record.runs.as_slice(), record.epoch), (&[expected][..], run.epoch));
    // A peer that counted from the same tick, and one that comes when all is over.
    let (answer, _) = bench.store.tick(&job(), &asked(), &request(last, Overlap::Allow)).await.unwrap();
    assert_eq!(answer, TickAnswer::Done);
    assert_eq!(bench.finish(&first, &run_ended(TickOutcome::Ran), None).await, None);
    let (answer, _) = bench.store.tick(&job(), &first, &request(last, Overlap::Allow)).await.unwrap();
    assert_eq!(answer, TickAnswer::Done, "its own nonce, late");
    let other = TickRequest { def: "other".to_owned(), ..request(last + 60_000, Overlap::Allow) };
    assert_eq!(bench.store.tick(&job(), &asked(), &other).await.unwrap().0, TickAnswer::Stale);
    let book = bench.book().await;
    assert_eq!((book.counts.elapsed, book.counts.ran), (1, 1));
    let entry = &book.ledger[0];
    assert_eq!((entry.tick_ms, entry.ticks, entry.outcome), (run.tick_ms, 1, TickOutcome::Ran));
    assert_eq!((entry.late_ms, entry.took_ms, &*entry.worker, &*entry.why), (3, 40, "w 1", "because"));
    let entry = &book.history[0];
    assert_eq!((entry.tick_ms, entry.manual, entry.attempt, entry.epoch), (run.tick_ms, false, 1, run.epoch));
    assert_eq!((entry.started_ms, entry.outcome, entry.again_ms), (run.started_ms, TickOutcome::Ran, None));
    assert_eq!((entry.late_ms, entry.took_ms, &*entry.worker, &*entry.why), (3, 40, "w 1", "because"));
    assert_eq!(
        (entry.result.as_deref(), entry.log.as_slice()),
        (Some("7"), &["a".to_owned(), "b\n\t".to_owned()][..])
    );
    assert!(entry.ended_ms >= entry.started_ms);
    let second = bench.tick_granted(&asked()).await;
    assert!(second.epoch > run.epoch);
}

async fn the_same_question_has_the_same_answer_while_the_run_lasts(bench: Bench) {
    let last = bench.adopted().await.last_ms.unwrap();
    let (first, next) = (asked(), asked());
    let again = async || bench.store.tick(&job(), &first, &request(last, Overlap::Buffer)).await.unwrap().0;
    let answer = again().await;
    assert!(matches!(answer, TickAnswer::Granted(_)));
    assert_eq!(again().await, answer);
    assert_eq!(bench.tick(&asked(), Overlap::Buffer).await, TickAnswer::Buffered);
    let ran = run_ended(TickOutcome::Ran);
    let follows = bench.finish(&first, &ran, Some(&next)).await;
    assert!(follows.is_some());
    assert_eq!(bench.finish(&first, &ran, Some(&next)).await, follows, "the answer was lost");
    assert_eq!(bench.finish(&next, &ran, Some(&asked())).await, None);
    assert_eq!(bench.finish(&next, &ran, Some(&asked())).await, None);
    assert_eq!(bench.balanced().await.ran, 2);
}

async fn ticks_that_are_leapt_over_are_counted(bench: Bench) {
    let last = bench.adopted().await.last_ms.unwrap();
    let leaps = TickRequest { missed: (9, last + 6_000, "late"), ..request(last, Overlap::Forbid) };
    let (answer, _) = bench.store.tick(&job(), &asked(), &leaps).await.unwrap();
    assert!(matches!(answer, TickAnswer::Granted(_)));
    let counts = bench.balanced().await;
    assert_eq!((counts.elapsed, counts.missed, counts.running), (10, 9, 1));
    let ledger = bench.book().await.ledger;
    assert_eq!((ledger[0].tick_ms, ledger[0].ticks, &*ledger[0].why), (last + 6_000, 9, "late"));
}

async fn a_tick_in_the_future_is_early(bench: Bench) {
    let (_, record) = bench.store.adopt(&job(), None, "d", None).await.unwrap();
    let request = request(record.last_ms.unwrap(), Overlap::Forbid);
    let (answer, after) = bench.store.tick(&job(), &asked(), &request).await.unwrap();
    assert_eq!((answer, after), (TickAnswer::Early, record));
}

async fn overlap_decides_what_a_tick_does_beside_a_run(bench: Bench) {
    let last = bench.adopted().await.last_ms.unwrap();
    let first = asked();
    bench.tick_granted(&first).await;
    let patient = TickRequest { patient: true, ..request(last + 60_000, Overlap::Forbid) };
    assert_eq!(bench.store.tick(&job(), &asked(), &patient).await.unwrap().0, TickAnswer::Busy);
    assert_eq!(bench.tick(&asked(), Overlap::Forbid).await, TickAnswer::Skipped);
    assert_eq!(bench.tick(&asked(), Overlap::Buffer).await, TickAnswer::Buffered);
    assert_eq!(bench.tick(&asked(), Overlap::Buffer).await, TickAnswer::Skipped);
    assert!(matches!(bench.tick(&asked(), Overlap::Allow).await, TickAnswer::Granted(_)));
    let counts = bench.balanced().await;
    assert_eq!((counts.elapsed, counts.skipped, counts.pending, counts.running), (5, 2, 1, 2));
}

async fn the_next_tick_replaces_a_run(bench: Bench) {
    bench.adopted().await;
    let (first, next) = (asked(), asked());
    bench.tick_granted(&first).await;
    assert_eq!(bench.tick(&asked(), Overlap::Replace).await, TickAnswer::Buffered);
    assert!(bench.ticks().await.runs[0].cancelled);
    assert_eq!(bench.tick(&asked(), Overlap::Replace).await, TickAnswer::Buffered);
    let newest = bench.ticks().await.pending_ms.unwrap();
    // It was to end, so it is not tried again.
    let failed = Ended { again: Some(Duration::from_secs(1)), ..run_ended(TickOutcome::Failed) };
    let follows = bench.finish(&first, &failed, Some(&next)).await.unwrap();
    assert_eq!(follows.tick_ms, newest);
    let counts = bench.balanced().await;
    assert_eq!((counts.failed, counts.skipped, counts.running, counts.pending), (1, 1, 1, 0));
    // One that is only due again ends at once.
    let failed = Ended { again: Some(Duration::from_secs(60)), ..run_ended(TickOutcome::Failed) };
    assert_eq!(bench.finish(&next, &failed, None).await, None);
    assert!(matches!(bench.tick(&asked(), Overlap::Replace).await, TickAnswer::Granted(_)));
    assert_eq!(bench.balanced().await.failed, 2);
}

async fn what_waits_follows_in_the_same_step(bench: Bench) {
    bench.adopted().await;
    let (first, next) = (asked(), asked());
    bench.tick_granted(&first).await;
    assert_eq!(bench.tick(&asked(), Overlap::Buffer).await, TickAnswer::Buffered);
    let waits = bench.ticks().await.pending_ms;
    // Who takes nothing new leaves it to the others.
    assert_eq!(bench.finish(&first, &run_ended(TickOutcome::Ran), None).await, None);
    let stranded = bench.ticks().await;
    assert!(stranded.is_stranded());
    let waiting = waiting(&next, &stranded);
    let (run, record) = bench.settle(&[], &waiting).await;
    assert_eq!(run.map(|run| run.tick_ms), waits);
    assert_eq!(record.runs[0].nonce, next.nonce);
    assert_eq!(bench.settle(&[], &waiting).await.0, run, "its answer was lost");
    // The same once more, long after: there is something that waits again, but this question was about another time.
    assert_eq!(bench.tick(&asked(), Overlap::Buffer).await, TickAnswer::Buffered);
    bench.finish(&next, &run_ended(TickOutcome::Ran), None).await;
    assert_eq!(bench.settle(&[], &waiting).await.0, None);
    assert!(bench.ticks().await.is_stranded());
}

async fn a_failed_run_is_due_again_as_often_as_it_may(bench: Bench) {
    bench.adopted().await;
    let first = asked();
    let run = bench.tick_granted(&first).await;
    let failed = Ended { again: Some(Duration::from_secs(60)), ..run_ended(TickOutcome::Failed) };
    assert_eq!(bench.finish(&first, &failed, Some(&asked())).await, None);
    let record = bench.ticks().await;
    assert_eq!((record.retries[0].tick_ms, record.retries[0].attempt), (run.tick_ms, 2));
    assert_eq!(bench.settle(&[], &waiting(&asked(), &record)).await.0, None, "early");
    let due = format!("{}\t2\t{}\t0", run.tick_ms, record.retries[0].at_ms - 60_001);
    bench.hset(bench.store.keys.ticks(&job()), "Retries", due).await;
    assert!(bench.ticks().await.retry_at_ms().is_some());
    // While it waits the job is busy: the next tick does not overtake it.
    assert_eq!(bench.tick(&asked(), Overlap::Forbid).await, TickAnswer::Skipped);
    let second = asked();
    let again = bench.settle(&[], &waiting(&second, &record)).await.0.unwrap();
    assert_eq!((again.tick_ms, again.attempt), (run.tick_ms, 2));
    assert!(again.epoch > run.epoch);
    assert_eq!(bench.finish(&second, &run_ended(TickOutcome::Failed), None).await, None);
    let counts = bench.balanced().await;
    assert_eq!((counts.elapsed, counts.failed, counts.skipped, counts.pending), (2, 1, 1, 0));
    let history = bench.book().await.history;
    let attempts: Vec<_> = history.iter().map(|entry| (entry.attempt, entry.again_ms)).collect();
    assert_eq!(attempts, [(2, None), (1, Some(60_000))]);
    // An instant further ahead than it could have been set counts as passed.
    let third = asked();
    bench.tick_granted(&third).await;
    bench.finish(&third, &failed, None).await;
    let far = bench.ticks().await.retries[0].at_ms + 7_200_000;
    bench.hset(bench.store.keys.ticks(&job()), "Retries", format!("{}\t2\t{far}\t0", run.tick_ms)).await;
    let record = bench.ticks().await;
    assert!(bench.settle(&[], &waiting(&asked(), &record)).await.0.is_some());
}

async fn under_allow_nothing_waits_for_the_others(bench: Bench) {
    bench.adopted().await;
    let (first, second) = (asked(), asked());
    let run = bench.tick_granted(&first).await;
    bench.tick_granted(&second).await;
    let failed = Ended { again: Some(Duration::ZERO), ..run_ended(TickOutcome::Failed) };
    bench.finish(&first, &failed, Some(&asked())).await;
    let record = bench.ticks().await;
    assert_eq!(record.retry_at_ms(), Some(record.retries[0].at_ms));
    // The definition has become one that forbids: it waits now.
    assert_eq!(bench.settle(&[], &waiting(&asked(), &record)).await.0, None);
    let allow = Waiting { overlap: Overlap::Allow, ..waiting(&asked(), &record) };
    let again = bench.settle(&[], &allow).await.0.unwrap();
    assert_eq!((again.tick_ms, again.attempt), (run.tick_ms, 2));
    assert_eq!(bench.balanced().await.running, 2);
}

async fn what_the_dead_have_left_is_settled(bench: Bench) {
    bench.adopted().await;
    let (dead, alive) = (asked(), asked());
    let of_the_dead = bench.tick_granted(&dead).await;
    bench.tick_granted(&alive).await;
    let with = async |retries| Waiting { retries, ..waiting(&asked(), &bench.ticks().await) };
    let left = [dead.session.clone()];
    let (run, record) = bench.settle(&left, &with(0).await).await;
    assert_eq!((run, record.runs.len(), &record.runs[0].nonce), (None, 1, &alive.nonce));
    let book = bench.book().await;
    assert_eq!((book.ledger[0].outcome, &*book.ledger[0].why), (TickOutcome::Failed, "its worker died"));
    let late = u64::try_from(of_the_dead.started_ms - of_the_dead.tick_ms).unwrap();
    assert_eq!((book.ledger[0].late_ms, book.history[0].late_ms, book.history.len()), (late, late, 1));
    // What it sends after its death finds nothing.
    assert_eq!(bench.finish(&dead, &run_ended(TickOutcome::Ran), None).await, None);
    let (run, record) = bench.settle(&[dead.session, alive.session], &with(1).await).await;
    assert_eq!((run, record.retries[0].attempt), (None, 2));
    assert_eq!(bench.balanced().await.failed, 1);
}

async fn who_settles_the_dead_takes_what_they_kept_waiting(bench: Bench) {
    bench.adopted().await;
    let dead = asked();
    bench.tick_granted(&dead).await;
    bench.tick(&asked(), Overlap::Buffer).await;
    let record = bench.ticks().await;
    let next = asked();
    let taken = waiting(&next, &record);
    let run = bench.settle(std::slice::from_ref(&dead.session), &taken).await.0.unwrap();
    assert_eq!(Some(run.tick_ms), record.pending_ms);
    assert_eq!(bench.settle(std::slice::from_ref(&dead.session), &taken).await.0, Some(run));
    let counts = bench.balanced().await;
    assert_eq!((counts.elapsed, counts.failed, counts.running), (2, 1, 1));
    // The ghost of a grant of ours: nobody runs it, so it is ended.
    let record = bench.ticks().await;
    let known = [Nonce::random()];
    let ghosts: Vec<_> = record.ghosts(&next.session, |nonce| known.contains(nonce)).collect();
    assert_eq!(ghosts, [&record.runs[0]]);
    assert_eq!(record.ghosts(&next.session, |nonce| *nonce == next.nonce).count(), 0);
    assert_eq!(record.ghosts(&dead.session, |_| false).count(), 0);
    bench.finish(&next, &Ended::ghost(), None).await;
    assert_eq!(bench.balanced().await.failed, 2);
}

async fn nothing_is_taken_by_who_may_not(bench: Bench) {
    bench.adopted().await;
    let first = asked();
    bench.tick_granted(&first).await;
    bench.tick(&asked(), Overlap::Buffer).await;
    bench.finish(&first, &run_ended(TickOutcome::Ran), None).await;
    let may = waiting(&asked(), &bench.ticks().await);
    let nobody = Waiting { asked: None, ..may.clone() };
    let other = Waiting { def: "other".to_owned(), ..may.clone() };
    let late = Waiting { epoch: may.epoch - 1, ..may.clone() };
    for waiting in [nobody, other, late] {
        assert_eq!(bench.settle(&[], &waiting).await.0, None);
    }
    assert!(bench.settle(&[], &may).await.0.is_some());
}

async fn a_changed_definition_drops_what_waits(bench: Bench) {
    bench.adopted().await;
    let (first, second) = (asked(), asked());
    let failed = Ended { again: Some(Duration::from_secs(60)), ..run_ended(TickOutcome::Failed) };
    bench.tick_granted(&first).await;
    bench.finish(&first, &failed, None).await;
    bench.tick_granted(&second).await;
    bench.tick(&asked(), Overlap::Buffer).await;
    let (_, record) = bench.store.adopt(&job(), Some("d"), "e", None).await.unwrap();
    assert_eq!((record.pending_ms, record.retries.len(), record.runs.len()), (None, 0, 1));
    let counts = bench.balanced().await;
    assert_eq!((counts.skipped, counts.failed), (1, 1));
    // A run that began under the old definition is not tried again under the new one.
    bench.finish(&second, &failed, None).await;
    assert!(bench.ticks().await.retries.is_empty());
    assert_eq!(bench.balanced().await.failed, 2);
}

async fn a_run_by_hand_moves_nothing(bench: Bench) {
    let before = bench.adopted().await;
    let by_hand = async |asked: &Asked, at: &str| {
        let epoch = bench.ticks().await.epoch;
        bench.store.run_by_hand(&job(), asked, at, epoch, Overlap::Forbid).await.unwrap()
    };
    let first = asked();
    let (answer, record) = by_hand(&first, "now 1").await;
    assert!(matches!(answer, TickAnswer::Granted(_)));
    assert_eq!((record.last_ms, record.runs[0].manual), (before.last_ms, true));
    assert_eq!(by_hand(&first, "now 1").await.0, answer);
    assert_eq!(by_hand(&asked(), "now 1").await.0, TickAnswer::Done);
    assert_eq!(by_hand(&asked(), "now 2").await.0, TickAnswer::Busy);
    assert_eq!(bench.tick(&asked(), Overlap::Forbid).await, TickAnswer::Skipped);
    bench.finish(&first, &run_ended(TickOutcome::Failed), None).await;
    let book = bench.book().await;
    assert_eq!((book.counts.elapsed, book.counts.failed, book.counts.skipped), (1, 0, 1));
    assert_eq!((book.history.len(), book.history[0].manual), (1, true));
    // It never waits, not even if somebody says that it is due again; and beside others it runs where they may.
    let second = asked();
    by_hand(&second, "now 2").await;
    let failed = Ended { again: Some(Duration::ZERO), ..run_ended(TickOutcome::Failed) };
    let (answer, record) = bench
        .store
        .run_by_hand(&job(), &asked(), "now 3", bench.ticks().await.epoch, Overlap::Allow)
        .await
        .unwrap();
    assert!(matches!(answer, TickAnswer::Granted(_)) && record.runs.len() == 2);
    bench.finish(&second, &failed, None).await;
    assert!(bench.ticks().await.retries.is_empty());
    assert_eq!(bench.balanced().await, book.counts);
    // The first question once more, after the operator has asked for others.
    let late = bench.store.run_by_hand(&job(), &first, "now 1", before.epoch, Overlap::Allow).await.unwrap();
    assert_eq!(late.0, TickAnswer::Stale);
}

async fn the_ledger_keeps_a_thousand_lines_and_the_history_a_hundred_runs(bench: Bench) {
    let record = bench.adopted().await;
    let key = bench.store.keys.ticks(&job());
    let mut last = record.last_ms.unwrap() - 2_000_000;
    bench.hset(key.clone(), "LastTick", last).await;
    let mut ran = 0;
    let mut run_one = async |said: Said| {
        let by = asked();
        let one = TickRequest { tick_ms: last + 1000, ..request(last, Overlap::Forbid) };
        let (answer, _) = bench.store.tick(&job(), &by, &one).await.unwrap();
        assert!(matches!(answer, TickAnswer::Granted(_)));
        let ended = Ended { said: Some(said), ..run_ended(TickOutcome::Ran) };
        bench.store.finish(&job(), &by.nonce, &ended, None).await.unwrap();
        last += 1000;
        ran += 1;
        (last, ran)
    };
    let says = |n: u64| Said { result: Some(n.to_string()), log: Vec::new() };
    for n in 0..1024 {
        let (last, ran) = run_one(says(n)).await;
        if [1, 24, 25, 26, 999, 1000, 1001, 1024].contains(&ran) {
            let book = bench.book().await;
            let lines = u64::try_from(book.ledger.len()).unwrap();
            assert!(lines <= ran.min(1000) && lines + 25 > ran.min(1000), "{lines} of {ran}");
            let ticks: Vec<i64> = book.ledger.iter().map(|entry| entry.tick_ms).collect();
            let expected: Vec<i64> =
                (0..i64::try_from(lines).unwrap()).map(|nth| last - 1000 * nth).collect();
            assert_eq!(ticks, expected);
            let results: Vec<_> = book.history.iter().filter_map(|run| run.result.clone()).collect();
            let expected: Vec<_> = (0..ran.min(100)).map(|nth| (n - nth).to_string()).collect();
            assert_eq!(results, expected);
            assert_eq!(book.counts.ran, ran);
        }
    }

    // Who says much is remembered for less long.
    let much = || Said { result: None, log: vec!["x".repeat(7_000)] };
    for _ in 0..60 {
        run_one(much()).await;
    }
    let history = bench.book().await.history;
    assert!((30..40).contains(&history.len()), "{}", history.len());
    let fields: Vec<String> = bench.store.client.hkeys(key.clone()).await.unwrap();
    assert_eq!(fields.iter().filter(|field| field.starts_with("H:")).count(), history.len());
    for n in 0..200 {
        run_one(says(n)).await;
    }
    assert_eq!(bench.book().await.history.len(), 100);

    // Old lines go, a chunk or two with each that comes.
    let before = bench.book().await.ledger.len();
    let tail: u64 = bench.hget(key.clone(), "LedgerTail").await.unwrap().parse().unwrap();
    let old = ["1\t1\tran\t1\t0\t0\t1\tw\t"; 25].join("\n");
    for nth in tail..tail + 3 {
        bench.hset(key.clone(), &format!("L:{}", nth % 40), &old).await;
    }
    run_one(says(0)).await;
    run_one(says(0)).await;
    let after = bench.book().await;
    assert!(after.ledger.len() <= before + 2 - 75, "{}", after.ledger.len());
    assert!(after.ledger.iter().all(|entry| entry.tick_ms > 1));
    // However much of it is thrown away, nothing fails.
    for (field, value) in [("LedgerHead", "x"), ("HistoryHead", "9007199254740000"), ("HistoryBytes", "-3")] {
        bench.hset(key.clone(), field, value).await;
        run_one(says(0)).await;
    }
    assert!(!bench.book().await.ledger.is_empty());
}

async fn lines_that_are_none_of_ours_are_in_nobodys_way(bench: Bench) {
    bench.adopted().await;
    let key = bench.store.keys.ticks(&job());
    bench.hset(key.clone(), "Runs", "nonsense\n1\t2").await;
    bench.hset(key.clone(), "Retries", "7").await;
    let first = asked();
    assert!(matches!(bench.tick(&first, Overlap::Forbid).await, TickAnswer::Granted(_)));
    bench.finish(&first, &run_ended(TickOutcome::Ran), None).await;
    assert_eq!(bench.hget(key, "Runs").await, None);
}

async fn jobs_and_their_ticks_are_found(bench: Bench) {
    bench.adopted().await;
    let other = TaskName::new("other").unwrap();
    bench.hset(bench.store.keys.definition(TaskKind::Job, &other), "Cron", "@hourly").await;
    let found = bench.store.scan_jobs().await.unwrap();
    assert_eq!((found.defined, found.counted), (vec![other], vec![job()]));
}

async fn ticks_outlive_their_definition_by_a_day(bench: Bench) {
    let store = &bench.store;
    let key = store.keys.ticks(&job());
    let ttl = async || -> i64 { store.client.pttl(key.clone()).await.unwrap() };
    assert!(store.retire_ticks(&job()).await.unwrap());
    let there: bool = store.client.exists(key.clone()).await.unwrap();
    assert!(!there, "there was nothing to keep");
    bench.adopted().await;
    let (first, second) = (asked(), asked());
    let run = bench.tick_granted(&first).await;
    let failed = Ended { again: Some(Duration::from_secs(60)), ..run_ended(TickOutcome::Failed) };
    bench.finish(&first, &failed, None).await;
    bench.tick_granted(&second).await;
    bench.tick(&asked(), Overlap::Buffer).await;
    assert!(!store.retire_ticks(&job()).await.unwrap(), "something runs");
    assert_eq!(ttl().await, -1);
    let counts = bench.balanced().await;
    assert_eq!((counts.pending, counts.failed, counts.skipped, counts.running), (0, 1, 1, 1));
    bench.finish(&second, &failed, None).await;
    assert_eq!(bench.balanced().await.pending, 0, "there is no definition to try it again by");
    assert!(store.retire_ticks(&job()).await.unwrap());
    let left = ttl().await;
    assert!(left > 86_000_000, "{left}");
    bench.hset(key.clone(), "LastTick", 5).await;
    // Made again, even if it is the same: nothing is counted for the time between, and no fence falls.
    let last = TickRequest { last_ms: 5, tick_ms: 6, ..request(0, Overlap::Forbid) };
    assert_eq!(store.tick(&job(), &asked(), &last).await.unwrap().0, TickAnswer::Stale);
    let before = i64::try_from(store.server_time().await.unwrap()).unwrap();
    let (adopted, record) = store.adopt(&job(), None, "d", None).await.unwrap();
    assert!(adopted && record.last_ms.unwrap() >= before);
    assert_eq!(ttl().await, -1);
    bench.hset(key, "LastTick", before - 600_000).await;
    assert!(bench.tick_granted(&asked()).await.epoch > run.epoch);
}

async fn operators_see_and_steer_jobs(bench: Bench) {
    let store = &bench.store;
    let name = job();
    for gone in [
        admin::set_job_enabled(store, &name, true).await.unwrap(),
        admin::run_job(store, &name).await.unwrap(),
        admin::remove_job(store, &name).await.unwrap(),
        admin::job_book(store, &name).await.unwrap().is_some(),
        admin::show_job(store, &name).await.unwrap().is_some(),
    ] {
        assert!(!gone);
    }
    let fields =
        [("Cron", "@hourly".to_owned()), ("TZ", "Europe/Berlin".to_owned()), ("Retries", "2".to_owned())];
    let put = async |source: &str| admin::put_job(store, &name, source, &fields).await.unwrap().put;
    assert_eq!(
        (put("a").await, put("a").await, put("b").await),
        (Put::Created, Put::Unchanged, Put::Updated)
    );
    assert_eq!(store.index(TaskKind::Job).await.unwrap(), std::slice::from_ref(&name));
    let other = TaskName::new("zz").unwrap();
    admin::put_job(
        store,
        &other,
        "import 'x'",
        &[("Cron", "@daily".to_owned()), ("Jitter", "a bit".to_owned())],
    )
    .await
    .unwrap();
    assert_eq!(
        admin::job_book(store, &name).await.unwrap(),
        Some(TicksBook::default()),
        "never seen by a worker"
    );

    let last = bench.adopted().await.last_ms.unwrap();
    let by = Asked { session: bench.session().await, ..asked() };
    let run = bench.tick_granted(&by).await;
    bench.tick(&asked(), Overlap::Buffer).await;
    let rows = admin::list_jobs(store).await.unwrap();
    assert_eq!(rows.iter().map(|row| &*row.name).collect::<Vec<_>>(), [name.as_str(), "zz"]);
    let row = &rows[0];
    assert_eq!(
        (row.state, row.status, row.cron.as_deref(), row.retries),
        ("running", "enabled", Some("@hourly"), Some(2))
    );
    assert_eq!(
        (row.tz.as_deref(), row.overlap, row.misfire),
        (Some("Europe/Berlin"), Some("forbid"), Some("once"))
    );
    assert_eq!((row.last_tick_ms, row.pending_ms), (Some(last + 120_000), Some(last + 120_000)));
    assert_eq!((row.source_bytes, &row.source, row.counts.elapsed), (Some(1), &None, 2));
    let shown = &row.runs[0];
    assert_eq!(
        (shown.tick_ms, &*shown.worker, shown.alive, shown.epoch),
        (run.tick_ms, "w 1", true, run.epoch)
    );
    let malformed = &rows[1];
    assert_eq!((malformed.state, &malformed.cron), ("crashed", &None));
    assert!(malformed.error.as_deref().unwrap().starts_with("field Jitter: \"a bit\""), "{malformed:?}");

    // Its worker has died; nobody has noticed yet.
    store.close(&by.session).await.unwrap();
    let failed = MirrorUpdate {
        state: Some(State::Crashed),
        error: MirrorError::Set("Error: no".to_owned()),
        ..MirrorUpdate::default()
    };
    assert!(store.mirror_job(&name, &failed).await.unwrap());
    let row = admin::show_job(store, &name).await.unwrap().unwrap();
    assert_eq!((row.state, row.runs[0].alive, row.source.as_deref()), ("crashed", false, Some("b")));
    assert_eq!(row.error.as_deref(), Some("Error: no"));
    assert_eq!(serde_json::to_value(&row).unwrap()["counts"]["elapsed"], 2);

    assert!(admin::set_job_enabled(store, &name, false).await.unwrap());
    assert_eq!(admin::show_job(store, &name).await.unwrap().unwrap().status, "disabled");
    assert_eq!(put("c").await, Put::Updated);
    assert_eq!(
        store.status_and_state(TaskKind::Job, &name).await.unwrap(),
        ("disabled", "crashed".to_owned())
    );
    assert!(admin::set_job_enabled(store, &name, true).await.unwrap());
    let run_at = async || {
        let read = store.read_jobs(&[(name.clone(), None)]).await.pop().unwrap().unwrap().unwrap();
        read.definition.unwrap().run_at
    };
    assert_eq!(run_at().await, None);
    assert!(admin::run_job(store, &name).await.unwrap());
    let first = run_at().await.unwrap();
    assert!(admin::run_job(store, &name).await.unwrap());
    assert_ne!(run_at().await.unwrap(), first);

    assert!(admin::remove_job(store, &name).await.unwrap());
    assert_eq!(store.index(TaskKind::Job).await.unwrap(), [other]);
    assert_eq!(admin::show_job(store, &name).await.unwrap(), None);
    let book = admin::job_book(store, &name).await.unwrap().unwrap();
    assert_eq!((book.counts.skipped, book.counts.running, book.record.def), (1, 1, None));
}

async fn a_key_of_another_type_is_a_matter_of_that_job(bench: Bench) {
    let store = &bench.store;
    let bad = TaskName::new("bad").unwrap();
    let () = store.client.sadd(store.keys.ticks(&bad), "x").await.unwrap();
    bench.adopted().await;
    let read = store.read_ticks(&[bad.clone(), job()]).await;
    assert_eq!(read[0].as_ref().unwrap(), &TicksRecord::default());
    assert_eq!(read[1].as_ref().unwrap().def.as_deref(), Some("d"));
    let error = store.adopt(&bad, None, "d", None).await.unwrap_err();
    assert!(error.is_of_another_type() && error.may_pass(), "{error}");
}

/// Questions that change nothing.
pub(super) async fn refusals(bench: &Bench) {
    let store = &bench.store;
    let record = bench.ticks().await;
    let last = record.last_ms.unwrap();
    for request in [
        request(last - 1, Overlap::Allow),
        TickRequest { def: "other".to_owned(), ..request(last, Overlap::Allow) },
        TickRequest { tick_ms: last + 86_400_000, ..request(last, Overlap::Allow) },
    ] {
        store.tick(&job(), &asked(), &request).await.unwrap();
    }
    assert!(store.adopt(&job(), None, "d", None).await.unwrap().0);
    assert!(!store.adopt(&job(), Some("x"), "y", None).await.unwrap().0);
    assert_eq!(bench.finish(&asked(), &Ended::ghost(), Some(&asked())).await, None);
    assert_eq!(bench.settle(&[SessionId::random()], &waiting(&asked(), &record)).await.0, None);
    assert_eq!(bench.ticks().await, record);
}

/// Gets ready for [`all_of_it`].
pub(super) async fn before_all(bench: &Bench) {
    bench.adopted().await;
}

/// Every script once, in whatever state Redis is.
pub(super) async fn all_of_it(bench: &Bench) {
    let store = &bench.store;
    let (first, next) = (asked(), asked());
    bench.tick_granted(&first).await;
    assert_eq!(bench.tick(&asked(), Overlap::Buffer).await, TickAnswer::Buffered);
    assert_eq!(bench.tick(&asked(), Overlap::Forbid).await, TickAnswer::Skipped);
    assert!(bench.finish(&first, &run_ended(TickOutcome::Ran), Some(&next)).await.is_some());
    assert_eq!(bench.tick(&asked(), Overlap::Buffer).await, TickAnswer::Buffered);
    let third = waiting(&asked(), &bench.ticks().await);
    assert!(bench.settle(&[next.session], &third).await.0.is_some());
    bench.finish(&third.asked.unwrap(), &Ended::ghost(), None).await;
    let by_hand = asked();
    let epoch = bench.ticks().await.epoch;
    store.run_by_hand(&job(), &by_hand, "now", epoch, Overlap::Forbid).await.unwrap();
    bench.finish(&by_hand, &run_ended(TickOutcome::Ran), None).await;
    assert!(store.retire_ticks(&job()).await.unwrap());
    assert_eq!(bench.balanced().await.elapsed, 4);
    assert!(store.adopt(&job(), None, "e", Some("3s")).await.unwrap().0);
}
