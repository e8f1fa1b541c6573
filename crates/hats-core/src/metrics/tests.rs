//! As many series with ten thousand tasks as with one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hats_script::{
    BoxFuture, EnvOverlay, JobInfo, Kind, Lanes, LanesConfig, Limits, ScriptTask, TaskControl, WorkerInfo,
    http, sql,
};

use super::*;

/// As many as the largest machines have cores.
const LANES: usize = 128;
const TASKS: usize = 10_000;
const SERIES_MAX: usize = 2_000;

struct Task {
    name: String,
    kind: Kind,
}

impl TaskControl for Task {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn key(&self) -> &str {
        &self.name
    }

    fn epoch(&self) -> u64 {
        1
    }

    fn trusted_for(&self) -> Duration {
        Duration::MAX
    }

    fn stopped(&self) -> bool {
        false
    }

    fn disable(&self) -> BoxFuture<Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn state(&self) -> BoxFuture<Result<String, String>> {
        Box::pin(async { Ok(String::new()) })
    }

    fn status(&self) -> BoxFuture<Result<String, String>> {
        self.state()
    }
}

struct Nobody;

impl WorkerInfo for Nobody {
    fn name(&self) -> &str {
        "w"
    }

    fn cluster(&self) -> &str {
        "c"
    }

    fn shutting_down(&self) -> bool {
        false
    }

    fn healthy(&self) -> bool {
        true
    }
}

fn lanes(count: usize) -> Lanes {
    let settings = http::Settings::default();
    Lanes::start(&LanesConfig {
        count,
        worker: Arc::new(Nobody),
        env: EnvOverlay::default(),
        http: Some(http::Client::new(&settings).unwrap()),
        redis: None,
        preload: Arc::default(),
        sql: Some(sql::Databases::new(sql::Config::default()).unwrap()),
        warm_bytes: LanesConfig::WARM_BYTES,
        preemption: Default::default(),
        on_turn: Arc::new(|_| {}),
    })
    .unwrap()
}

fn text_of(lanes: &Lanes, recorder: &Metrics) -> String {
    let mut text = Text::default();
    of_scripts(&mut text, &lanes.metrics().read());
    of_endpoints(&mut text, &hats_endpoint::metrics::Metrics::default().read());
    text.into_string() + &recorder.render()
}

fn series_of(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_tasks_have_as_many_series_as_none() {
    let recorder = install().unwrap();
    let lanes = lanes(LANES);
    let before = series_of(&text_of(&lanes, &recorder)).len();
    let source = "globalThis.list = new Array(100).fill(thread.Key); const db = sql.New(':memory:', 'sqlite'); \
        if (thread.Key.endsWith('77')) db.Ping(); if (thread.Key.endsWith('99')) throw new Error(thread.Key)";
    let runs: Vec<_> = (0..TASKS)
        .map(|number| {
            let kind = Kind::Job(JobInfo { tick_ms: 0, attempt: 1 });
            let control = Arc::new(Task { name: format!("task-{number}"), kind });
            let task = ScriptTask { control, limits: Limits::default() };
            let run = async move |vm: &mut hats_script::Vm| {
                vm.run_once(&source.into(), "task.js", None).await.result.is_ok()
            };
            lanes.spawn_run(task, run).1
        })
        .collect();
    let mut went_well = 0;
    for run in runs {
        went_well += usize::from(run.await.unwrap());
    }
    assert_eq!(went_well, TASKS * 99 / 100);
    recorder.upkeep();
    let text = text_of(&lanes, &recorder);
    let series = series_of(&text);
    assert_eq!(series.len(), before, "{text}");
    assert!(series.len() <= SERIES_MAX, "{} series", series.len());
    assert!(!text.contains("task-"), "{text}");
    assert!(text.contains("hats_sql_statement_seconds_count{database=\"sqlite\"} 100\n"), "{text}");
    // Each metric is announced once, and each series is there once.
    let announced: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
    assert_eq!(announced.iter().collect::<HashSet<_>>().len(), announced.len());
    let names: HashSet<_> =
        series.iter().filter_map(|line| line.rsplit_once(' ')).map(|(name, _)| name).collect();
    assert_eq!(names.len(), series.len());
}
