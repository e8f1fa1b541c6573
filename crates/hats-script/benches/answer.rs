//! Requests and runs in interpreters that are reset, beside new ones: what each costs, and how many there are in a second.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "this prints figures, and stops if there are none"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use hats_script::{
    BoxFuture, EnvOverlay, JobInfo, Kind, Lanes, LanesConfig, Limits, Page, PageRequest, ScriptTask,
    TaskControl, WorkerInfo,
};
use tokio::task::JoinSet;

const HELLO: &str = "($ => () => { $(0, 7) })";
const ROWS: &str = "($ => () => { for (let n = 0; n < 100; n++) { $(0, 4); $.e = n; $(4, 9) } })";
const TIME: Duration = Duration::from_secs(2);

struct Nobody(Kind);

impl TaskControl for Nobody {
    fn name(&self) -> &str {
        "/bench"
    }
    fn kind(&self) -> Kind {
        self.0
    }
    fn key(&self) -> &str {
        ""
    }
    fn epoch(&self) -> u64 {
        0
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

impl WorkerInfo for Nobody {
    fn name(&self) -> &str {
        "bench"
    }
    fn cluster(&self) -> &str {
        "bench"
    }
    fn shutting_down(&self) -> bool {
        false
    }
    fn healthy(&self) -> bool {
        true
    }
}

fn lanes(warm_bytes: usize) -> Lanes {
    Lanes::start(&LanesConfig {
        count: std::thread::available_parallelism().map_or(1, usize::from),
        worker: Arc::new(Nobody(Kind::Endpoint)),
        env: EnvOverlay::default(),
        #[cfg(feature = "http")]
        http: None,
        #[cfg(feature = "redis")]
        redis: None,
        preload: Arc::default(),
        #[cfg(feature = "sql")]
        sql: None,
        warm_bytes,
        preemption: Default::default(),
        on_turn: Arc::new(|_| {}),
    })
    .unwrap()
}

/// How many there are in a second, from so many clients.
async fn rate<F: Future<Output = ()> + Send + 'static>(
    clients: usize,
    one: impl Fn() -> F + Clone + Send + 'static,
) -> f64 {
    one().await;
    let begun = Instant::now();
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let one = one.clone();
        running.spawn(async move {
            let mut count = 0_u32;
            while begun.elapsed() < TIME {
                one().await;
                count += 1;
            }
            count
        });
    }
    let counts = running.join_all().await;
    f64::from(counts.into_iter().sum::<u32>()) / begun.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    println!("{:>16} {:>10} {:>10}", "a second", "1 client", "32");
    for (name, warm_bytes) in [("new", 0), ("reset", LanesConfig::WARM_BYTES)] {
        let lanes = lanes(warm_bytes);
        for (page_name, source) in [("hello", HELLO), ("100 rows", ROWS)] {
            let page = Page::script("/bench", source.into(), Limits::default()).text("<li>\n</li>\n");
            let (page, lanes) = (Arc::new(page), lanes.clone());
            let control: Arc<dyn TaskControl> = Arc::new(Nobody(Kind::Endpoint));
            let one = move || {
                let (_, answered) = lanes.answer(&page, control.clone(), PageRequest::default());
                async move { drop(answered.await.unwrap().unwrap()) }
            };
            let (alone, many) = (rate(1, one.clone()).await, rate(32, one).await);
            println!("{:>16} {alone:>10.0} {many:>10.0}", format!("{name} {page_name}"));
        }
        let one = move || {
            let control = Arc::new(Nobody(Kind::Job(JobInfo { tick_ms: 0, attempt: 1 })));
            let task = ScriptTask { control, limits: Limits::default() };
            let source = "function main() { return 1 }".into();
            let (_, ran) = lanes.spawn_run(task, async move |vm: &mut hats_script::Vm| {
                vm.run_once(&source, "bench", None).await
            });
            async move { drop(ran.await.unwrap().result.unwrap()) }
        };
        let (alone, many) = (rate(1, one.clone()).await, rate(32, one).await);
        println!("{:>16} {alone:>10.0} {many:>10.0}", format!("{name} run"));
    }
}
