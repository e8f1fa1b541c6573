//! What the coordinator does at a message, seen in its memory alone: nothing here is answered by a Redis.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::address::RedisConfig;
use crate::keys::Keys;
use crate::name::ClusterName;
use crate::session::SessionThread;
use crate::store::Store;
use crate::watchdog::Stamp;

/// A coordinator with a session, whose requests go nowhere.
struct World {
    it: Coordinator,
    events: mpsc::UnboundedReceiver<Event>,
}

impl World {
    fn new() -> Self {
        let redis = RedisConfig::new("127.0.0.1:1".parse().unwrap());
        let client = redis.builder(Duration::from_secs(1)).unwrap().build().unwrap();
        let cluster = ClusterName::try_from("test").unwrap();
        let mut config = Config::new(cluster.clone(), "w".parse().unwrap(), redis);
        config.settle = Duration::ZERO;
        let (events, told) = mpsc::unbounded_channel();
        let it = Coordinator::new(Parts {
            config,
            store: Store::new(client, Keys::new(cluster)),
            session: SessionThread::absent(),
            vitals: Arc::default(),
            connections: Arc::default(),
            events,
            stamp: Stamp::new("coordinator", None),
            tried: HashSet::new(),
        });
        let mut world = Self { it, events: told };
        world.it.opened(Lease::trusted_for_test());
        world.it.dirty_claims.clear();
        world.it.dirty_definitions.clear();
        world
    }

    fn lease(&self) -> Lease {
        self.it.lease.clone().unwrap()
    }

    /// As if a claim of it were under way.
    fn claiming(&mut self, name: &TaskName) -> Nonce {
        let nonce = Nonce::random();
        let mine = Mine::Claiming { nonce: nonce.clone(), lease: self.lease() };
        self.it.table.set_mine(name, Some(mine));
        nonce
    }

    fn granted(&mut self, name: &TaskName, nonce: &Nonce) {
        let granted = Granted { epoch: 1, restarts: 0, deaths: 0, claimed_ms: 1, server_ms: 1 };
        let claimed = Claimed::Granted { granted, read: Some(read("1")) };
        self.it.claim_answered(name, nonce, claimed);
    }

    /// Owned by this worker.
    fn own(&mut self, name: &TaskName) -> Nonce {
        let nonce = self.claiming(name);
        self.granted(name, &nonce);
        assert!(matches!(self.events.try_recv(), Ok(Event::Claimed(_))));
        nonce
    }
}

fn name(text: &str) -> TaskName {
    text.parse().unwrap()
}

fn definition(source: &str) -> Definition {
    Definition { source: source.into(), ..unfetched(SourceDigest::of(source)) }
}

fn read(source: &str) -> DefinitionRead {
    DefinitionRead {
        digest: SourceDigest::of(source),
        enabled: true,
        restart_at: None,
        mirror: crate::records::Mirror::default(),
        definition: Ok(definition(source)),
    }
}

#[tokio::test]
async fn after_a_gap_the_claims_of_what_is_ours_are_read_too() {
    let mut world = World::new();
    let (owned, claiming) = (name("owned"), name("claiming"));
    world.own(&owned);
    let nonce = world.claiming(&claiming);
    world.it.watch_notice(watch::Notice::Established);
    assert!(world.it.dirty_claims.contains(&owned));
    world.granted(&claiming, &nonce);
    assert!(world.it.dirty_claims.contains(&claiming), "its grant may be older than the gap");
}

#[tokio::test]
async fn a_push_about_what_was_just_granted_is_looked_into() {
    let mut world = World::new();
    let owned = name("owned");
    world.own(&owned);
    world.it.changed(Key::Claim(owned.clone()));
    assert!(world.it.dirty_claims.contains(&owned));
}
