use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use hats_cluster::Error;
use hats_cluster::records::SourceDigest;
use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::content::Content;
use crate::definitions::Read;

/// Definitions that are read when the test says so.
#[derive(Clone, Default)]
struct Fake(Arc<FakeInner>);

#[derive(Default)]
struct FakeInner {
    /// None: Redis is away.
    sources: Mutex<Option<HashMap<String, String>>>,
    reads: AtomicUsize,
    /// Readings that wait after they have read, if they do.
    gate: Mutex<Option<Arc<Semaphore>>>,
}

impl Fake {
    fn set(&self, sources: &[(&str, &str)]) {
        let sources = sources.iter().map(|(path, source)| ((*path).to_owned(), (*source).to_owned()));
        *self.0.sources.lock().unwrap() = Some(sources.collect());
    }

    fn reads(&self) -> usize {
        self.0.reads.load(Ordering::Relaxed)
    }
}

impl Definitions for Fake {
    fn key(&self, path: &EndpointPath) -> String {
        path.to_string()
    }

    fn read(&self, path: EndpointPath, _: Option<Endpoint>) -> Pin<Box<dyn Future<Output = Read> + Send>> {
        let fake = self.clone();
        Box::pin(async move {
            fake.0.reads.fetch_add(1, Ordering::Relaxed);
            let sources = fake.0.sources.lock().unwrap().clone();
            let gate = fake.0.gate.lock().unwrap().clone();
            if let Some(gate) = gate {
                gate.acquire().await.unwrap().forget();
            }
            let Some(sources) = sources else { return Err(Error::Timeout) };
            let Some(source) = sources.get(path.as_str()) else { return Ok(None) };
            let get = |field: &str| (field == "Kind").then_some("static");
            let digest = SourceDigest::of(source);
            Ok(Some(Endpoint::parse(Bytes::from(source.clone()), digest, get)))
        })
    }
}

struct World {
    fake: Fake,
    routes: Routes,
    news: mpsc::UnboundedSender<EndpointNews>,
    pushed: watch::Sender<bool>,
}

impl World {
    fn new(pushed: bool, set: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        set(&mut config);
        let fake = Fake::default();
        let routes = Routes::new(fake.clone(), &config);
        let (news, told) = mpsc::unbounded_channel();
        let (pushed, is_pushed) = watch::channel(pushed);
        tokio::spawn(routes.clone().follow(EndpointFeed { news: told, pushed: is_pushed }));
        Self { fake, routes, news, pushed }
    }

    async fn tell(&self, news: EndpointNews) {
        self.news.send(news).unwrap();
        settle().await;
    }

    async fn found(&self, paths: &[&str]) {
        self.tell(EndpointNews::Found(paths.iter().map(|text| path(text)).collect())).await;
    }

    async fn get(&self, request: &str) -> String {
        match self.routes.find(&Target::parse(request).unwrap()).await {
            Lookup::Found(served, _) => match &served.content {
                Content::File(file) => String::from_utf8(file.bytes.to_vec()).unwrap(),
                other => format!("{other:?}"),
            },
            Lookup::Missing => "missing".to_owned(),
            Lookup::Unknown => "unknown".to_owned(),
        }
    }
}

fn path(text: &str) -> EndpointPath {
    EndpointPath::new(text).unwrap()
}

/// Lets everything that can go on do so.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn every_version_of_an_endpoint_has_the_same_places() {
    let world = World::new(true, |config| config.cache_bytes = 1);
    world.fake.set(&[("/a", "1"), ("/b", "1")]);
    world.found(&["/a", "/b"]).await;
    let served = async |request: &str| match world.routes.find(&Target::parse(request).unwrap()).await {
        Lookup::Found(served, _) => served,
        _ => panic!("{request} is not there"),
    };
    let running = served("/a").await;
    world.fake.set(&[("/a", "2"), ("/b", "1")]);
    world.tell(EndpointNews::Changed(path("/a"))).await;
    let newer = served("/a").await;
    assert!(!Arc::ptr_eq(&running, &newer) && Arc::ptr_eq(&running.places, &newer.places));
    drop(newer);
    // It is driven out, and is read again.
    let other = served("/b").await;
    assert!(!Arc::ptr_eq(&running.places, &other.places));
    assert!(Arc::ptr_eq(&running.places, &served("/a").await.places));
}

#[tokio::test(start_paused = true)]
async fn what_is_pushed_is_read_once_until_it_changes() {
    let world = World::new(true, |_| {});
    world.fake.set(&[("/a", "1")]);
    world.found(&["/a"]).await;
    for _ in 0..3 {
        assert_eq!(world.get("/a").await, "1");
        tokio::time::sleep(Duration::from_secs(100)).await;
    }
    assert_eq!((world.get("/b").await.as_str(), world.fake.reads()), ("missing", 1));
    world.fake.set(&[("/a", "2"), ("/b", "new")]);
    assert_eq!(world.get("/a").await, "1", "nobody has said so yet");
    for changed in ["/a", "/b"] {
        world.tell(EndpointNews::Changed(path(changed))).await;
    }
    assert_eq!((world.get("/a").await, world.get("/b").await), ("2".to_owned(), "new".to_owned()));
    assert_eq!(world.fake.reads(), 3);
    world.tell(EndpointNews::Gap).await;
    world.found(&["/a", "/b"]).await;
    assert_eq!(world.get("/a").await, "2");
    assert_eq!(world.fake.reads(), 4, "it may have changed in the gap");
    world.pushed.send_replace(false);
    settle().await;
    world.pushed.send_replace(true);
    settle().await;
    assert_eq!((world.get("/a").await.as_str(), world.fake.reads()), ("2", 5));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_pushed_is_at_most_so_old() {
    let world = World::new(false, |config| config.fresh_for = Duration::from_secs(1));
    world.fake.set(&[("/a", "1")]);
    world.found(&["/a"]).await;
    assert_eq!(world.get("/a").await, "1");
    world.fake.set(&[("/a", "2")]);
    tokio::time::sleep(Duration::from_millis(999)).await;
    assert_eq!((world.get("/a").await.as_str(), world.fake.reads()), ("1", 1));
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert_eq!((world.get("/a").await.as_str(), world.fake.reads()), ("2", 2));
}

#[tokio::test(start_paused = true)]
async fn a_reading_that_began_before_a_change_is_not_taken_for_what_came_after() {
    let world = World::new(true, |_| {});
    world.fake.set(&[("/a", "1")]);
    world.found(&["/a"]).await;
    let gate = Arc::new(Semaphore::new(0));
    *world.fake.0.gate.lock().unwrap() = Some(gate.clone());
    let asked = [&world; 5].map(|world| {
        let routes = world.routes.clone();
        tokio::spawn(async move { routes.find(&Target::parse("/a").unwrap()).await })
    });
    settle().await;
    assert_eq!(world.fake.reads(), 1, "one reads for all");
    world.fake.set(&[("/a", "2")]);
    world.tell(EndpointNews::Changed(path("/a"))).await;
    let routes = world.routes.clone();
    let later = tokio::spawn(async move { routes.find(&Target::parse("/a").unwrap()).await });
    settle().await;
    assert_eq!(world.fake.reads(), 2);
    gate.add_permits(2);
    let body = |lookup: Lookup| match lookup {
        Lookup::Found(served, _) => format!("{:?}", served.content),
        _ => String::new(),
    };
    assert!(body(later.await.unwrap()).contains("b\"2\""));
    for asked in asked {
        assert!(body(asked.await.unwrap()).contains("b\"1\""), "it was asked for before the change");
    }
    assert_eq!((world.get("/a").await.as_str(), world.fake.reads()), ("2", 2));
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_served_while_redis_is_away() {
    let world = World::new(false, |_| {});
    world.fake.set(&[("/a", "1"), ("/b", "1")]);
    world.found(&["/a", "/b"]).await;
    assert_eq!(world.get("/a").await, "1");
    *world.fake.0.sources.lock().unwrap() = None;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let before = world.fake.reads();
    for _ in 0..100 {
        assert_eq!((world.get("/a").await, world.get("/b").await), ("1".to_owned(), "unknown".to_owned()));
    }
    assert_eq!(world.fake.reads(), before + 1, "it does not answer, so nobody asks again at once");
    world.fake.set(&[("/a", "2"), ("/b", "2")]);
    tokio::time::sleep(AWAY).await;
    assert_eq!((world.get("/a").await, world.get("/b").await), ("2".to_owned(), "2".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn before_the_first_sweep_nothing_is_known_to_be_missing() {
    let world = World::new(true, |_| {});
    world.fake.set(&[("/a", "1")]);
    assert_eq!(world.get("/a").await, "unknown");
    let routes = world.routes.clone();
    let waits = tokio::spawn(async move { routes.find(&Target::parse("/a").unwrap()).await });
    settle().await;
    world.found(&["/a"]).await;
    assert!(matches!(waits.await.unwrap(), Lookup::Found(..)));
    assert_eq!(world.get("/b").await, "missing");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_lets_another_answer() {
    let world = World::new(true, |_| {});
    world.fake.set(&[("/users/me", "me"), ("/users/:id", "any")]);
    world.found(&["/users/me", "/users/:id"]).await;
    assert_eq!(world.get("/users/me").await, "me");
    world.fake.set(&[("/users/:id", "any")]);
    world.tell(EndpointNews::Changed(path("/users/me"))).await;
    assert_eq!(world.get("/users/me").await, "any");
    let reads = world.fake.reads();
    assert_eq!((world.get("/users/me").await.as_str(), world.fake.reads()), ("any", reads));
}

#[tokio::test(start_paused = true)]
async fn what_is_kept_is_bounded_and_the_least_recently_used_goes() {
    let large = "x".repeat(100_000);
    let world = World::new(true, |config| config.cache_bytes = 500_000);
    let sources: Vec<(String, &str)> = (0..10).map(|number| (format!("/{number}"), large.as_str())).collect();
    let sources: Vec<(&str, &str)> = sources.iter().map(|(path, source)| (path.as_str(), *source)).collect();
    world.fake.set(&sources);
    world.found(&sources.iter().map(|(path, _)| *path).collect::<Vec<_>>()).await;
    for (path, _) in &sources {
        assert_eq!(world.get(path).await.len(), 100_000);
        assert!(world.routes.state().bytes <= 500_000);
    }
    let reads = world.fake.reads();
    assert_eq!((world.get("/9").await.len(), world.fake.reads()), (100_000, reads));
    assert_eq!((world.get("/0").await.len(), world.fake.reads()), (100_000, reads + 1));
    world.found(&[]).await;
    let state = world.routes.state();
    assert_eq!((state.bytes, state.kept.len()), (0, 0));
}
