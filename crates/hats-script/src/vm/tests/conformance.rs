//! What scripts can call, line by line: each call with what it returns and with its errors, in a thread, in a job's run and
//! in an endpoint, with real servers behind it.
//!
//! Whoever adds a name adds a line: [`every_name_has_a_line`] says which is missing.

mod http;
mod leaves;
mod own_errors;
mod redis;
mod server;
mod sql;
mod tasks;
mod web;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};

use encore_miniredis::Miniredis;
use rquickjs::{Context, Runtime};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use self::server::RedisServer;
use super::http::server::Server;
use super::*;
use crate::egress::Egress;
use crate::modules::response::Exchange;
use crate::sql::Databases;

/// One or more names that belong together, and cases of them in the order in which they run.
struct Line {
    names: &'static [&'static str],
    within: Within,
    /// Runs before each case.
    source: &'static str,
    /// What is evaluated, and how `console.log` would show it; an error is its first line. `§` is the URL of the HTTP server.
    cases: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Within {
    Threads,
    Jobs,
    /// Threads and jobs.
    Tasks,
    Endpoints,
    All,
}

fn lines() -> impl Iterator<Item = &'static Line> {
    tasks::LINES.iter().chain(redis::LINES).chain(http::LINES).chain(sql::LINES).chain(web::LINES)
}

impl Line {
    fn is_of(&self, kind: Kind) -> bool {
        match self.within {
            Within::All => true,
            Within::Threads => kind == Kind::Thread,
            Within::Jobs => matches!(kind, Kind::Job(_)),
            Within::Tasks => kind != Kind::Endpoint,
            Within::Endpoints => kind == Kind::Endpoint,
        }
    }
}

/// A worker with servers.
struct World {
    lanes: Lanes,
    http: Server,
}

impl World {
    async fn new(redis_url: &str) -> Self {
        let lanes = Lanes::start(&LanesConfig {
            preload: Arc::default(),
            count: 1,
            worker: Fake::new(),
            env: EnvOverlay::default(),
            http: Some(super::http::client(Egress::default())),
            redis: Some(super::redis::connections(redis_url, 2).await),
            sql: Some(Databases::new(crate::sql::Config::default()).unwrap()),
            warm_bytes: LanesConfig::WARM_BYTES,
            preemption: Default::default(),
            on_turn: Arc::new(|_| {}),
        })
        .unwrap();
        Self { lanes, http: Server::start().await }
    }

    /// Tells of all cases that are not as they should be.
    async fn check<'a>(&self, kind: Kind, lines: impl Iterator<Item = &'a Line>) {
        let mut wrong = String::new();
        for line in lines.filter(|line| line.is_of(kind)) {
            assert_eq!(self.shown(kind, "", "redis.Call('FLUSHALL')").await, "OK");
            for (expression, expected) in line.cases {
                let expression = expression.replace('§', &self.http.url(""));
                let shown = self.shown(kind, line.source, &expression).await;
                if shown != *expected {
                    wrong += &format!("\n{expression}\n  expected {expected:?}\n  got      {shown:?}");
                }
            }
        }
        assert!(wrong.is_empty(), "{kind:?}:{wrong}");
    }

    async fn shown(&self, kind: Kind, source: &'static str, expression: &str) -> String {
        let source = Bundle::from(format!(
            "{source}\nfunction main() {{ return globalThis.result = (\n{expression}\n) }}"
        ));
        let run = spawn(&self.lanes, &Fake::of(kind), Limits::default(), move |vm| match kind {
            Kind::Thread | Kind::Endpoint => {
                if kind == Kind::Endpoint {
                    let exchange = Exchange::new(super::page::request(), None, 1000);
                    *vm.host.exchange.borrow_mut() = Some(exchange);
                }
                vm.load_bundle(&source, "test.js")?;
                vm.call("main")?;
                vm.eval("result")
            }
            Kind::Job(_) => {
                let result = vm.run_once(&source, "test.js", Some(Duration::from_secs(600))).result?;
                Ok(result.unwrap_or_else(|| "undefined".to_owned()))
            }
        });
        match run.1.await {
            Ok(text) => text,
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        }
    }
}

fn kinds() -> [Kind; 3] {
    [Fake::new().kind, Fake::job().kind, Kind::Endpoint]
}

/// Those that have an owner.
fn tasks() -> [Kind; 2] {
    [Fake::new().kind, Fake::job().kind]
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_is_as_documented() {
    let redis = RedisServer::start().await;
    for kind in kinds() {
        World::new(&redis.url()).await.check(kind, lines()).await;
    }
    // What a script has unset is unset for scripts.
    assert!(std::env::var_os("PATH").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_server_answers_as_a_real_one_does() {
    let redis = Miniredis::run().await.unwrap();
    for kind in kinds() {
        World::new(&redis.redis_url()).await.check(kind, redis::LINES.iter()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_has_a_line() {
    let redis = Miniredis::run().await.unwrap();
    let world = World::new(&redis.redis_url()).await;
    let mut bare: Vec<String> = Context::full(&Runtime::new().unwrap())
        .unwrap()
        .with(|ctx| ctx.eval("Object.getOwnPropertyNames(globalThis)"))
        .unwrap();
    // The engine has some of these too, and ours in their place.
    bare.retain(|name| {
        !lines().any(|line| line.names.iter().any(|known| known.split('.').next() == Some(name)))
    });
    let present = format!(
        "(members => members(globalThis).filter(name => name !== 'main' && !{bare:?}.includes(name)) \
         .flatMap(name => typeof globalThis[name] !== 'object' ? [name] \
             : [globalThis[name], Object.getPrototypeOf(globalThis[name])].filter(object => object !== Object.prototype) \
                 .flatMap(members).map(member => `${{name}}.${{member}}`)).join(' ') \
         )(object => Object.getOwnPropertyNames(object).filter(name => name !== 'constructor'))"
    );
    for kind in kinds() {
        let present = world.shown(kind, "", &present).await;
        let present: BTreeSet<&str> = present.split(' ').collect();
        let with_line: BTreeSet<&str> =
            lines().filter(|line| line.is_of(kind)).flat_map(|line| line.names).copied().collect();
        assert_eq!(present, with_line, "{kind:?}");
    }
}

/// A loop that looks at a live property ends when that turns.
#[tokio::test]
async fn live_properties_are_asked_at_each_use() {
    type Turn = fn(&Fake, &Fake);
    let turn_task: Turn = |task, _| task.stopped.store(true, Ordering::Relaxed);
    for kind in tasks() {
        for (condition, turn) in [
            ("!thread.Stopped", turn_task),
            ("!thread.Stopped && sleep(1e6)", turn_task),
            ("!worker.ShuttingDown", |_, worker| worker.stopped.store(true, Ordering::Relaxed)),
            ("worker.Healthy", |_, worker| worker.unhealthy.store(true, Ordering::Relaxed)),
        ] {
            let (worker, task) = (Fake::new(), Fake::of(kind));
            let lanes = Lanes::start(&LanesConfig {
                preload: Arc::default(),
                count: 1,
                worker: worker.clone(),
                env: EnvOverlay::default(),
                http: None,
                redis: None,
                sql: None,
                warm_bytes: LanesConfig::WARM_BYTES,
                preemption: Default::default(),
                on_turn: Arc::new(|_| {}),
            })
            .unwrap();
            let (begun, beginning) = tokio::sync::oneshot::channel();
            let (handle, ended) = spawn(&lanes, &task, Limits::default(), move |vm| {
                begun.send(()).unwrap();
                let source = format!("while ({condition}); globalThis.ended = true");
                vm.load(&source, "test.js")?;
                vm.eval("ended")
            });
            beginning.await.unwrap();
            turn(&task, &worker);
            handle.interrupt_waits();
            assert_eq!(ended.await.as_deref(), Ok("true"), "{condition}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_asked_of_redis_is_thrown() {
    let lanes = one_lane();
    for (kind, name) in tasks().into_iter().zip(["thread", "job"]) {
        let fake = Fake::of(kind);
        fake.unreachable.store(true, Ordering::Relaxed);
        let run = spawn(&lanes, &fake, Limits::default(), |vm| {
            vm.eval("['State', 'Status', 'Disable'].map(call => { try { thread[call]() } catch (e) { return `${e}` } }).join()")
        });
        let expected =
            ["State", "Status", "Disable"].map(|call| format!("Error: {name}.{call}: no connection"));
        assert_eq!(run.1.await, Ok(expected.join(",")));
    }
}

/// Each line of the log has its level, the task's name and the arguments as one would write them.
#[tokio::test]
async fn console_writes_lines_to_the_log() {
    const SOURCE: &str = "console.log('logged:', 'text', 1.5, {a: [null, 'b']}, undefined, 10n, '\\ud800'); \
        console.info('logged:', Symbol('s'), new Map([[1, {b: 2}]])); console.debug('logged:'); console.warn('logged:', -0); \
        console.error('logged:', 'x'.repeat(20000)); console.log('logged:', 'two\\nlines')";
    let long = format!(
        "logged: {}… (10008 more characters, LogLineLimit is 10000)",
        "x".repeat(10_000 - "logged: ".len())
    );
    let expected = [
        (Level::INFO, "logged: text 1.5 { a: [null, \"b\"] } undefined 10n \u{fffd}"),
        (Level::INFO, "logged: Symbol(s) Map(1) { 1 => { b: 2 } }"),
        (Level::DEBUG, "logged:"),
        (Level::WARN, "logged: 0"),
        (Level::ERROR, &long),
        (Level::INFO, "logged: two\nlines"),
    ];
    let log = Log::of_the_process();
    let lanes = one_lane();
    for kind in kinds() {
        let run = spawn(&lanes, &Fake::of(kind), Limits::default(), move |vm| match kind {
            Kind::Thread | Kind::Endpoint => vm.load(SOURCE, "test.js").map(|()| None),
            Kind::Job(_) => {
                Some(vm.run_once(&SOURCE.into(), "test.js", None)).map(|run| Ok(Some(run.log))).unwrap()
            }
        });
        let kept = run.1.await.unwrap();
        let lines: Vec<_> = std::mem::take(&mut *log.lines.lock().unwrap());
        let lines: Vec<_> = lines.iter().filter(|line| line.text.starts_with("logged:")).collect();
        for (line, (level, text)) in lines.iter().zip(expected) {
            assert_eq!((line.level, line.task.as_str(), line.text.as_str()), (level, "test.js", text));
        }
        assert_eq!(lines.len(), expected.len());
        if let Some(kept) = kept {
            assert_eq!(kept.len(), expected.len());
            assert_eq!((&kept[1], &kept[2]), (&lines[1].text, &"debug: logged:".to_owned()));
        }
    }
}

/// The lines that all scripts of this process have logged.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<Logged>>,
    /// The task of each span that was made.
    spans: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Logged {
    level: Level,
    task: String,
    text: String,
}

impl Log {
    fn of_the_process() -> Arc<Self> {
        static LOG: OnceLock<Arc<Log>> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Arc::<Self>::default();
            tracing::subscriber::set_global_default(Collector(log.clone())).unwrap();
            log
        })
        .clone()
    }
}

struct Collector(Arc<Log>);

thread_local! {
    /// The tasks of the spans that this OS thread is inside of.
    static INSIDE: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

impl Subscriber for Collector {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "script" || metadata.target() == crate::span::TARGET
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut said = Logged { level: *span.metadata().level(), task: String::new(), text: String::new() };
        span.record(&mut said);
        let mut spans = self.0.spans.lock().unwrap();
        spans.push(said.task);
        Id::from_u64(spans.len() as u64)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let task = INSIDE.with_borrow(|inside| inside.last().cloned().unwrap_or_default());
        let mut line = Logged { level: *event.metadata().level(), task, text: String::new() };
        event.record(&mut line);
        self.0.lines.lock().unwrap().push(line);
    }
    fn enter(&self, span: &Id) {
        let task = self.0.spans.lock().unwrap()[span.into_u64() as usize - 1].clone();
        INSIDE.with_borrow_mut(|inside| inside.push(task));
    }
    fn exit(&self, _: &Id) {
        INSIDE.with_borrow_mut(|inside| drop(inside.pop()));
    }
}

impl Visit for Logged {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "task" {
            value.clone_into(&mut self.task);
        }
    }
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.text = format!("{value:?}");
        }
    }
}
