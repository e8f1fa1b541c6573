//! What counts against a task, and until when it is set aside.

use super::*;
use crate::records::{PoisonRecord, Suspect};

conformance![
    the_third_crash_in_a_row_sets_a_task_aside_and_each_further_one_for_twice_as_long,
    the_end_of_a_session_counts_once_whoever_reports_it,
    a_crash_that_names_several_counts_only_when_one_is_named_again_with_others,
    kinds_are_kept_apart,
    nothing_that_a_task_writes_clears_it,
    another_source_clears_a_task_that_is_set_aside,
    disabled_and_enabled_by_hand_clears_a_task_that_is_set_aside,
    an_operator_clears_a_task_and_late_reports_change_nothing,
    a_row_ends_after_two_hours_of_health,
    a_clock_that_was_set_back_sets_nobody_aside_for_long,
    poison_records_are_found_and_go_by_themselves,
    people_see_why_a_task_is_set_aside,
];

pub(super) fn suspect(task: &Task) -> Suspect {
    Suspect { task: task.clone(), reason: "lane 0 did not get out of its code for 10s".to_owned() }
}

/// Each script, with Redis out of memory.
pub(super) async fn all_of_it(bench: &Bench) {
    for _ in 0..3 {
        bench.strikes(&task()).await;
    }
    assert_eq!(bench.poison(&task()).await.deaths, 3);
    bench.store.review_poison(&task()).await.unwrap();
    bench.store.absolve(&task()).await.unwrap();
    assert_eq!(bench.poison(&task()).await.deaths, 0);
}

fn task() -> Task {
    Task::thread(&thread())
}

fn other(name: &str) -> Task {
    Task::new(TaskKind::Thread, name).unwrap()
}

impl Bench {
    async fn now(&self) -> u64 {
        self.store.server_time().await.unwrap()
    }

    async fn poison(&self, task: &Task) -> PoisonRecord {
        self.store.read_poison(std::slice::from_ref(task)).await.unwrap().pop().unwrap()
    }

    /// A session that has just ended and had named these.
    async fn died_of(&self, tasks: &[Task]) -> DeadSession {
        let id = SessionId::random();
        let suspects = tasks.iter().map(suspect).collect();
        DeadSession { id, end: SessionEnd::Buried, ended_ms: self.now().await, suspects }
    }

    /// One more session has ended because of the task. Gives what that did, and for how long the task is set aside.
    async fn strikes(&self, task: &Task) -> (Struck, u64) {
        let dead = self.died_of(std::slice::from_ref(task)).await;
        let verdict = self.store.strike(&suspect(task), &dead).await.unwrap();
        let left = verdict.record.left(verdict.server_ms).unwrap_or_default();
        (verdict.outcome, u64::try_from(left.as_millis()).unwrap())
    }

    /// Defined and set aside.
    async fn aside(&self, task: &Task) {
        self.hset(self.store.keys.definition_of(task), "Source", "bad").await;
        for _ in 0..3 {
            self.strikes(task).await;
        }
        assert!(self.is_aside(task).await);
    }

    async fn is_aside(&self, task: &Task) -> bool {
        self.poison(task).await.left(self.now().await).is_some()
    }

    async fn review(&self, task: &Task) -> bool {
        self.store.review_poison(task).await.unwrap().outcome
    }
}

async fn the_third_crash_in_a_row_sets_a_task_aside_and_each_further_one_for_twice_as_long(bench: Bench) {
    assert_eq!(bench.strikes(&task()).await, (Struck::Counted, 0));
    assert_eq!(bench.strikes(&task()).await, (Struck::Counted, 0));
    for seconds in [10, 20, 40, 80, 160, 320, 600, 600] {
        assert_eq!(bench.strikes(&task()).await, (Struck::SetAside, seconds * 1000));
    }
    let record = bench.poison(&task()).await;
    assert_eq!(record.deaths, 10);
    assert!(record.error().starts_with("poison: lane 0 did not get out of its code for 10s; 10 workers"));
}

async fn the_end_of_a_session_counts_once_whoever_reports_it(bench: Bench) {
    for _ in 0..2 {
        bench.strikes(&task()).await;
    }
    let dead = bench.died_of(&[task()]).await;
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        let verdict = bench.store.strike(&suspect(&task()), &dead).await.unwrap();
        outcomes.push(verdict.outcome);
        assert_eq!(verdict.record.deaths, 3, "all see the same record");
    }
    assert_eq!(outcomes, [Struck::SetAside, Struck::Kept, Struck::Kept]);
    // A worker that joins hears of what ended long ago.
    let old = DeadSession { ended_ms: bench.now().await - 7_201_000, ..bench.died_of(&[task()]).await };
    assert_eq!(bench.store.strike(&suspect(&task()), &old).await.unwrap().outcome, Struck::Kept);
}

async fn a_crash_that_names_several_counts_only_when_one_is_named_again_with_others(bench: Bench) {
    let (bad, a, b) = (task(), other("a"), other("b"));
    let strike = async |named: &[Task]| {
        let dead = bench.died_of(named).await;
        for task in named {
            bench.store.strike(&suspect(task), &dead).await.unwrap();
        }
    };
    strike(&[bad.clone(), a.clone()]).await;
    strike(&[a.clone(), bad.clone()]).await;
    assert_eq!((bench.poison(&bad).await.deaths, bench.poison(&a).await.deaths), (0, 0), "either may be it");
    strike(&[bad.clone(), b.clone()]).await;
    assert_eq!((bench.poison(&bad).await.deaths, bench.poison(&b).await.deaths), (1, 0));
    strike(&[bad.clone(), a.clone()]).await;
    assert_eq!(bench.poison(&bad).await.deaths, 2);
    bench.strikes(&bad).await;
    assert!(bench.is_aside(&bad).await);
    assert!(!bench.is_aside(&a).await && !bench.is_aside(&b).await);
}

async fn kinds_are_kept_apart(bench: Bench) {
    let job = Task::job(&thread());
    bench.aside(&job).await;
    assert_eq!(bench.poison(&task()).await, PoisonRecord::default());
}

async fn nothing_that_a_task_writes_clears_it(bench: Bench) {
    let key = bench.store.keys.thread(&thread());
    let claim = bench.store.keys.claim(&thread());
    for (field, value) in [
        ("RestartAt", "now"),
        ("Status", "disabled"),
        ("Status", "enabled"),
        ("Source", "x"),
        ("Source", "y"),
        ("Deaths", "0"),
    ] {
        // As it runs, before each crash, under its own hands.
        bench.hset(key.clone(), field, value).await;
        bench.hset(claim.clone(), "Deaths", 0).await;
        bench.strikes(&task()).await;
    }
    assert!(bench.is_aside(&task()).await);
    let record = bench.poison(&task()).await;
    assert!(record.deaths >= 3, "{record:?}");
    assert!(!bench.review(&task()).await, "nothing has changed since");
}

async fn another_source_clears_a_task_that_is_set_aside(bench: Bench) {
    for task in [task(), Task::job(&thread()), Task::new(TaskKind::Endpoint, "/bad").unwrap()] {
        bench.aside(&task).await;
        assert!(!bench.review(&task).await);
        let key = bench.store.keys.definition_of(&task);
        bench.hset(key.clone(), "RestartAt", "now").await;
        assert!(!bench.review(&task).await);
        bench.hset(key, "Source", "good").await;
        assert!(bench.review(&task).await);
        assert!(!bench.is_aside(&task).await);
        assert_eq!(bench.strikes(&task).await, (Struck::Counted, 0), "a new row");
    }
}

async fn disabled_and_enabled_by_hand_clears_a_task_that_is_set_aside(bench: Bench) {
    let key = bench.store.keys.thread(&thread());
    bench.hset(key.clone(), "Status", "enabled").await;
    bench.aside(&task()).await;
    bench.hset(key.clone(), "Status", "enabled").await;
    assert!(!bench.review(&task()).await, "it was not off");
    bench.hset(key.clone(), "Status", "disabled").await;
    assert!(!bench.review(&task()).await);
    bench.hset(key, "Status", "enabled").await;
    assert!(bench.review(&task()).await);
    assert_eq!(bench.poison(&task()).await.deaths, 0);
}

async fn an_operator_clears_a_task_and_late_reports_change_nothing(bench: Bench) {
    let job = Task::job(&thread());
    let path = crate::name::EndpointPath::new("/bad").unwrap();
    for task in [task(), job.clone(), Task::endpoint(&path)] {
        bench.aside(&task).await;
    }
    let mut late = bench.died_of(&[task()]).await;
    late.ended_ms -= 1;
    let store = &bench.store;
    assert!(admin::set_enabled(store, &thread(), true).await.unwrap());
    assert!(admin::set_job_enabled(store, &thread(), true).await.unwrap());
    assert!(admin::set_endpoint_enabled(store, &path, true).await.unwrap());
    for task in [task(), job, Task::endpoint(&path)] {
        assert_eq!(bench.poison(&task).await.deaths, 0, "{task}");
    }
    assert_eq!(store.strike(&suspect(&task()), &late).await.unwrap().outcome, Struck::Kept);
    // Where nothing is counted nothing is made.
    store.absolve(&other("none")).await.unwrap();
    let there: bool = store.client.exists(store.keys.poison(&other("none"))).await.unwrap();
    assert!(!there);
}

async fn a_row_ends_after_two_hours_of_health(bench: Bench) {
    let key = bench.store.keys.poison(&task());
    for _ in 0..2 {
        bench.strikes(&task()).await;
    }
    bench.hset(key.clone(), "Last", bench.now().await - 7_100_000).await;
    assert_eq!(bench.strikes(&task()).await.0, Struck::SetAside, "an hourly job has its row as well");
    // It counts from the end of the set-aside.
    bench.hset(key.clone(), "Last", bench.now().await - 8_000_000).await;
    bench.hset(key.clone(), "Until", bench.now().await - 7_100_000).await;
    assert_eq!(bench.strikes(&task()).await, (Struck::SetAside, 20_000));
    for field in ["Last", "Until"] {
        bench.hset(key.clone(), field, bench.now().await - 7_201_000).await;
    }
    assert_eq!(bench.strikes(&task()).await, (Struck::Counted, 0));
    assert_eq!(bench.poison(&task()).await.deaths, 1);
}

async fn a_clock_that_was_set_back_sets_nobody_aside_for_long(bench: Bench) {
    let key = bench.store.keys.poison(&task());
    bench.aside(&task()).await;
    for field in ["Last", "Until", "Cleared"] {
        bench.hset(key.clone(), field, bench.now().await + 3_600_000).await;
    }
    assert!(!bench.is_aside(&task()).await);
    assert_eq!(bench.strikes(&task()).await.0, Struck::Counted);
}

async fn poison_records_are_found_and_go_by_themselves(bench: Bench) {
    let tasks = [task(), Task::job(&thread()), Task::new(TaskKind::Endpoint, "/bad").unwrap()];
    for task in &tasks {
        bench.strikes(task).await;
        let left: i64 = bench.store.client.pttl(bench.store.keys.poison(task)).await.unwrap();
        assert!((86_000_000..=86_400_000).contains(&left), "{left}");
    }
    assert_eq!(bench.store.scan().await.unwrap().poison, super::super::distinct(tasks.to_vec()));
}

async fn people_see_why_a_task_is_set_aside(bench: Bench) {
    let path = crate::name::EndpointPath::new("/bad").unwrap();
    for task in [task(), Task::job(&thread()), Task::endpoint(&path)] {
        bench.aside(&task).await;
        let record = bench.poison(&task).await;
        bench.store.mirror_poison(&task, &record).await.unwrap();
        let error = bench.hget(bench.store.keys.definition_of(&task), "Error").await.unwrap();
        assert_eq!(error, record.error());
    }
    let thread = admin::show_thread(&bench.store, &thread()).await.unwrap().unwrap();
    assert_eq!(thread.state, "crashed");
    assert!(thread.waits_ms.unwrap() > 5000);
    let shown = thread.poison.unwrap();
    assert_eq!(shown.deaths, 3);
    assert!(shown.to_string().contains("set aside for"), "{shown}");
    let endpoint = admin::show_endpoint(&bench.store, &path).await.unwrap().unwrap();
    assert!(endpoint.poison.unwrap().set_aside_ms.is_some());
    let jobs = admin::list_jobs(&bench.store).await.unwrap();
    assert_eq!(jobs[0].poison.as_ref().unwrap().deaths, 3);
}
