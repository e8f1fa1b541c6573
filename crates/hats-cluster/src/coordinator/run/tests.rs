//! What the coordinator does at a message, seen in its memory alone: nothing here is answered by a Redis.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::reading::unfetched;
use super::*;
use crate::address::RedisConfig;
use crate::coordinator::{Release, StopReason};
use crate::keys::Keys;
use crate::name::ClusterName;
use crate::records::{Definition, SourceDigest};
use crate::records::{SessionRecord, Suspect};
use crate::session::SessionThread;
use crate::store::{Answer, Granted, Handover, Store};
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
            peers: tokio::sync::watch::channel(crate::coordinator::Peers::default()).0,
            pushed: tokio::sync::watch::channel(false).0,
            stamp: Stamp::new("coordinator", None),
            poison: Arc::default(),
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
        let granted = Granted { epoch: 1, restarts: 0, claimed_ms: 1, server_ms: 1 };
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

/// A claim that somebody made and gave up again.
fn was_claimed() -> ClaimRecord {
    ClaimRecord { epoch: 5, nonce: Some(Nonce::from("n")), ..ClaimRecord::default() }
}

#[tokio::test]
async fn a_session_of_ours_that_is_gone_blocks_claims_even_if_it_owned_nothing() {
    let mut world = World::new();
    let old = world.lease();
    old.lose_for_test();
    world.it.lost_current();
    world.it.opened(Lease::trusted_for_test());
    let now = BootInstant::now();
    assert!(!world.it.can_claim(now), "how the old one has ended is not known");
    world.it.session_notice(Some(session::Notice::Ended(DeadSession::gone(old.session().clone()))));
    assert!(!world.it.can_claim(now));
    assert!(world.it.can_claim(now + Duration::from_secs(6)), "everybody knows by then");
}

#[tokio::test]
async fn a_session_that_ends_in_order_lets_claims_go_on() {
    let mut world = World::new();
    let old = world.lease();
    old.lose_for_test();
    world.it.lost_current();
    world.it.opened(Lease::trusted_for_test());
    let dead = DeadSession { end: SessionEnd::Closed, ..DeadSession::gone(old.session().clone()) };
    world.it.session_notice(Some(session::Notice::Ended(dead)));
    assert!(world.it.can_claim(BootInstant::now()));
    // One that was only tried owned nothing, and its loss says nothing.
    let tried = SessionId::random();
    world.it.session_notice(Some(session::Notice::Trying(tried.clone())));
    world.it.session_notice(Some(session::Notice::Ended(DeadSession::gone(tried))));
    assert!(world.it.can_claim(BootInstant::now()));
}

#[tokio::test]
async fn a_claim_that_was_free_and_is_gone_is_lost_data() {
    let mut world = World::new();
    let free = name("free");
    world.it.claim_seen(&free, was_claimed());
    assert!(world.it.can_claim(BootInstant::now()));
    world.it.claim_seen(&free, ClaimRecord::default());
    assert!(!world.it.can_claim(BootInstant::now()), "somebody may have claimed it meanwhile");
}

#[tokio::test]
async fn a_claim_that_was_told_to_go_is_no_lost_data() {
    let mut world = World::new();
    let gone = name("gone");
    world.it.claim_seen(&gone, was_claimed());
    world.it.definition_read(&gone, Ok(None));
    let found = Found { claims: vec![gone.clone()], ..Found::default() };
    world.it.swept(Ok(found));
    assert!(world.it.table.get(&gone).is_some_and(|thread| thread.retired));
    world.it.claim_seen(&gone, ClaimRecord::default());
    assert!(world.it.can_claim(BootInstant::now()));
    world.it.swept(Ok(Found::default()));
    assert!(world.it.table.get(&gone).is_none(), "nothing is left of it");
}

#[tokio::test]
async fn what_a_sweep_has_missed_is_read_before_it_is_forgotten() {
    let mut world = World::new();
    let new = name("new");
    // Written while the SCAN was under way, in a slot that it had passed, and pushed.
    world.it.changed(Key::Thread(new.clone()));
    world.it.claim_seen(&new, was_claimed());
    world.it.dirty_definitions.clear();
    world.it.swept(Ok(Found::default()));
    assert!(world.it.table.get(&new).is_some());
    assert!(world.it.dirty_definitions.contains(&new));
    world.it.swept(Ok(Found { claims: vec![new.clone()], ..Found::default() }));
    assert!(!world.it.table.get(&new).is_some_and(|thread| thread.retired));
}

#[tokio::test]
async fn a_refusal_is_not_met_with_the_same_question_at_once() {
    let mut world = World::new();
    let failed = name("failed");
    // Our idea of Redis' clock is 20 s ahead of what it shows by now.
    world.it.vitals.server_said(1_000_020_000);
    let nonce = world.claiming(&failed);
    let answer = Answer::BackOff { next_start_ms: 1_000_010_000, server_ms: 1_000_000_000 };
    world.it.claim_answered(&failed, &nonce, Claimed::Refused { answer, read: read("1") });
    let due = world.it.table.next_due().unwrap();
    let wait = due.saturating_duration_since(BootInstant::now());
    assert!(wait > Duration::from_secs(9) && wait <= Duration::from_secs(10), "{wait:?}");
    // And if the clocks are beyond all reason, it still does not turn into a storm.
    let nonce = world.claiming(&failed);
    let answer = Answer::BackOff { next_start_ms: 1, server_ms: 1_000_000_000 };
    world.it.claim_answered(&failed, &nonce, Claimed::Refused { answer, read: read("1") });
    let due = world.it.table.next_due().unwrap();
    assert!(due.saturating_duration_since(BootInstant::now()) > Duration::from_millis(40));
}

#[tokio::test]
async fn what_disabled_an_earlier_run_is_over_even_if_redis_was_slow_at_the_start() {
    let mut world = World::new();
    let own = world.it.config.worker_name.clone();
    let disabled = || Ok(vec![(own.clone(), WorkerRow { disabled: true, ..WorkerRow::default() })]);
    world.it.rows_read(disabled());
    assert!(world.events.try_recv().is_err(), "it is what an earlier run has left");
    assert!(world.it.row("online").contains(&("Status", "enabled".to_owned())));
    world.it.row_written(Ok(()));
    assert!(!world.it.row("online").iter().any(|(field, _)| *field == "Status"));
    world.it.rows_read(disabled());
    assert!(matches!(world.events.try_recv(), Ok(Event::WorkerDisabled)));
}

#[tokio::test]
async fn a_crash_before_the_new_source_has_begun_is_that_of_the_old_one() {
    let mut world = World::new();
    let thread = name("thread");
    let claim = world.own(&thread);
    world.it.definition_read(&thread, Ok(Some(read("2"))));
    assert!(matches!(world.events.try_recv(), Ok(Event::Changed { .. })));
    let ran = |world: &World| world.it.table.get(&thread).unwrap().owned().unwrap().ran.0.clone();
    assert_eq!(ran(&world), SourceDigest::of("1"));
    // The old one says that it has started only now.
    world.it.started(&thread, &claim, (SourceDigest::of("1"), None));
    assert_eq!(ran(&world), SourceDigest::of("1"));
    world.it.started(&thread, &claim, (SourceDigest::of("2"), None));
    assert_eq!(ran(&world), SourceDigest::of("2"));
}

#[tokio::test]
async fn what_was_asked_for_before_the_claim_has_no_source_to_run() {
    let mut world = World::new();
    let thread = name("thread");
    world.it.definition_read(&thread, Ok(Some(read("1"))));
    let known = world.it.known_definition(&thread).unwrap();
    assert_eq!(&*known.source, "", "only its digest is known");
    let claim = world.own(&thread);
    while world.events.try_recv().is_ok() {}
    let answer = || Ok(Some(DefinitionRead { definition: Ok(known.clone()), ..read("1") }));
    world.it.definition_answered(&thread, false, answer());
    assert!(world.events.try_recv().is_err(), "nothing has changed");
    let owned = world.it.table.get(&thread).unwrap().owned().unwrap();
    assert_eq!((&owned.nonce, &*owned.definition.source), (&claim, "1"));
    assert!(world.it.dirty_definitions.contains(&thread), "it is asked for again");
}

#[tokio::test]
async fn a_source_that_is_missing_is_not_known() {
    let mut world = World::new();
    let thread = name("thread");
    world.it.definition_read(&thread, Ok(Some(read("1"))));
    assert!(world.it.known_definition(&thread).is_some());
    let error = crate::records::FieldError { field: "Source", value: String::new(), expected: "a script" };
    let mut malformed = read("");
    malformed.mirror.state = Some("crashed".to_owned());
    malformed.mirror.error = Some(error.to_string());
    malformed.definition = Err(error);
    world.it.definition_read(&thread, Ok(Some(malformed)));
    assert!(world.it.known_definition(&thread).is_none());
}

#[tokio::test]
async fn what_is_said_again_late_overwrites_no_new_owner() {
    let mut world = World::new();
    let thread = name("thread");
    world.own(&thread);
    assert!(!world.it.rests(&thread, &Handover::free()), "somebody starts it at once");
    assert!(!world.it.rests(&thread, &Handover::crashed(Duration::from_secs(1), 1)));
    assert!(world.it.rests(&thread, &Handover::crashed(Duration::from_secs(8), 4)));
    world.it.definition_read(&thread, Ok(Some(DefinitionRead { enabled: false, ..read("1") })));
    assert!(world.it.rests(&thread, &Handover::free()), "disabled");
}

#[tokio::test]
async fn what_nobody_is_left_to_run_is_given_back() {
    let mut world = World::new();
    let thread = name("thread");
    let nonce = world.claiming(&thread);
    world.events.close();
    world.granted(&thread, &nonce);
    let mine = &world.it.table.get(&thread).unwrap().mine;
    assert!(matches!(mine, Some(Mine::Releasing { .. })));
}

#[tokio::test]
async fn without_an_os_thread_for_the_session_the_worker_ends() {
    let mut world = World::new();
    assert!(matches!(world.it.session_notice(None), Flow::Close));
}

#[tokio::test]
async fn what_is_known_of_rows_and_namesakes_does_not_only_grow() {
    let mut world = World::new();
    let row = WorkerRow { incarnation: Some("i".to_owned()), ..WorkerRow::default() };
    let rows = (0..100).map(|pod| (format!("pod-{pod}").parse().unwrap(), row.clone())).collect();
    world.it.rows_read(Ok(rows));
    assert!(world.it.rows_of_ours.len() >= 100);
    world.it.swept(Ok(Found { workers: vec!["pod-7".parse().unwrap()], ..Found::default() }));
    assert!(world.it.rows_of_ours.len() <= 2);
}

#[tokio::test]
async fn a_sweep_that_takes_long_is_not_repeated_soon() {
    let mut world = World::new();
    let now = BootInstant::now();
    world.it.sweep_at = now + SWEEP_EVERY;
    world.it.sweep_took = Duration::from_secs(2);
    world.it.poll(now);
    assert_eq!(world.it.sweep_at, now + Duration::from_secs(20));
    world.it.sweep_took = Duration::ZERO;
    world.it.poll(now);
    assert_eq!(world.it.sweep_at, now + POLL_OURS);
}

#[tokio::test]
async fn a_hand_written_end_of_a_session_harms_nobody() {
    let mut world = World::new();
    let dead = DeadSession { ended_ms: u64::MAX, ..DeadSession::gone(SessionId::random()) };
    world.it.died(dead);
    world.it.swept(Ok(Found::default()));
}

#[tokio::test]
async fn sessions_that_only_runs_name_are_watched_and_their_deaths_told() {
    let mut world = World::new();
    let session = SessionId::from("of a run");
    world.it.name_sessions(vec![session.clone()]);
    assert!(world.it.is_named(&session));
    assert!(world.it.named().any(|id| *id == session));
    let (tell, mut news) = crate::coordinator::feed::job_news();
    world.it.feed_jobs(tell);
    assert_eq!(news.try_recv(), Some(JobNews::Gap));
    world.it.died(DeadSession::gone(session.clone()));
    assert_eq!(news.try_recv(), Some(JobNews::Died(session.clone())));
    // Whoever finds it named again, long after, is told again.
    world.it.name_sessions(Vec::new());
    assert!(!world.it.is_named(&session));
    world.it.name_sessions(vec![session.clone()]);
    assert_eq!(news.try_recv(), Some(JobNews::Died(session)));
    // Our own current session does not die by hearsay.
    let own = world.lease().session().clone();
    world.it.died(DeadSession::gone(own));
    assert!(news.try_recv().is_none());
}

#[tokio::test]
async fn whoever_runs_jobs_is_told_what_changes() {
    let mut world = World::new();
    let (tell, mut news) = crate::coordinator::feed::job_news();
    world.it.feed_jobs(tell);
    assert_eq!(news.try_recv(), Some(JobNews::Gap));
    let job = name("job");
    let key = world.it.store.keys().definition(crate::name::TaskKind::Job, &job);
    world.it.watch_notice(watch::Notice::Changed(vec![key]));
    assert_eq!(news.try_recv(), Some(JobNews::Changed(job)));
    world.it.watch_notice(watch::Notice::Established);
    assert_eq!(news.try_recv(), Some(JobNews::Gap));
}

/// The SCAN may have passed where it was written.
#[tokio::test]
async fn an_endpoint_that_changes_during_a_sweep_is_among_what_that_has_found() {
    let mut world = World::new();
    let (tell, mut news) = mpsc::unbounded_channel();
    world.it.feed_endpoints(tell);
    let path = |path: &str| EndpointPath::new(path).unwrap();
    let changed = |world: &mut World, at: &str| {
        let key = world.it.store.keys().endpoint(&path(at));
        world.it.watch_notice(watch::Notice::Changed(vec![key]));
    };
    changed(&mut world, "/before");
    assert_eq!(news.try_recv(), Ok(EndpointNews::Changed(path("/before"))));
    world.it.sweep(BootInstant::now());
    changed(&mut world, "/during");
    assert_eq!(news.try_recv(), Ok(EndpointNews::Changed(path("/during"))));
    let found =
        |paths: &[&str]| Found { endpoints: paths.iter().copied().map(path).collect(), ..Found::default() };
    world.it.swept(Ok(found(&["/a"])));
    assert_eq!(news.try_recv(), Ok(EndpointNews::Found(vec![path("/a"), path("/during")])));
    assert_eq!(news.try_recv(), Ok(EndpointNews::Changed(path("/during"))));
    world.it.sweep(BootInstant::now());
    world.it.swept(Ok(found(&["/a"])));
    assert_eq!(news.try_recv(), Ok(EndpointNews::Found(vec![path("/a")])));
    world.it.watch_notice(watch::Notice::Established);
    assert_eq!(news.try_recv(), Ok(EndpointNews::Gap));
}

#[tokio::test]
async fn no_tick_is_taken_by_who_may_not_claim() {
    let mut world = World::new();
    let mut peers = world.it.peers.subscribe();
    let now = BootInstant::now();
    let own = world.lease().session().clone();
    world.it.publish_peers(now);
    let told = peers.borrow_and_update().clone();
    assert_eq!(told.lease.map(|lease| lease.session().clone()), Some(own.clone()));
    assert_eq!((&*told.live, told.pushed), (&[own][..], false));
    // Said once only.
    world.it.publish_peers(now);
    assert!(!peers.has_changed().unwrap());
    world.it.watch_notice(watch::Notice::Established);
    world.it.publish_peers(now);
    assert!(peers.borrow_and_update().pushed);
    // Redis has lost data: whoever runs something may not know yet.
    world.it.data_is_lost();
    world.it.publish_peers(BootInstant::now());
    let told = peers.borrow_and_update().clone();
    assert!(told.lease.is_none() && told.live.is_empty());
    world.it.publish_peers(now + Duration::from_secs(60));
    assert!(peers.borrow_and_update().lease.is_some());
    world.it.drain();
    world.it.publish_peers(now + Duration::from_secs(60));
    assert!(peers.borrow_and_update().lease.is_none());
}

/// As if these peers had been seen alive, with so many threads each, for long.
fn seen(world: &mut World, peers: &[(&str, bool, usize)]) {
    world.it.vitals.server_said(1_000_000_000);
    let mut sessions = Vec::new();
    for (id, ready, threads) in peers {
        let id = SessionId::from(*id);
        // It has beaten since whatever was seen before.
        let beat = BootInstant::now().as_nanos();
        let record = SessionRecord { ready: *ready, beat, ..crate::observe::living() };
        sessions.push((id.clone(), Some(record)));
        for number in 0..*threads {
            let claim = ClaimRecord { session: Some(id.clone()), ..was_claimed() };
            world.it.table.set_claim(&name(&format!("{id}-{number}")), claim);
        }
    }
    let index = sessions.iter().map(|(id, _)| id.clone()).collect();
    world.it.sampled(Ok(Sample { index, sessions }));
}

/// The threads that were asked to stop for the sake of others.
fn relocated(world: &mut World) -> Vec<String> {
    let mut names = Vec::new();
    while let Ok(event) = world.events.try_recv() {
        match event {
            Event::Stop { name, reason: StopReason::Relocated, .. } => names.push(name.to_string()),
            other => panic!("{other:?}"),
        }
    }
    names
}

fn critical(why: Option<&str>) -> Condition {
    Condition { critical: why.map(Arc::from), ..Condition::default() }
}

fn own_many(world: &mut World, count: usize) {
    for number in 0..count {
        world.own(&name(&format!("own-{number}")));
    }
}

#[tokio::test]
async fn who_has_more_than_its_share_gives_some_away_once() {
    let mut world = World::new();
    own_many(&mut world, 10);
    seen(&mut world, &[("peer", true, 0)]);
    let now = BootInstant::now();
    world.it.balance(now);
    assert!(relocated(&mut world).is_empty(), "it has only just come");
    let now = now + Duration::from_secs(11);
    world.it.balance(now);
    let moved = relocated(&mut world);
    assert_eq!(moved.len(), 5);
    world.it.balance(now + Duration::from_secs(1));
    assert_eq!(relocated(&mut world).len(), 0, "what is on its way counts as there");
    // What is released goes to the one that it was stopped for.
    let thread = name(&moved[0]);
    let claim = world.it.table.get(&thread).unwrap().owned().unwrap().nonce.clone();
    let how = Release::Free { cool_down: Duration::from_secs(3), prefer_other: true };
    world.it.release(&thread, &claim, how);
    assert!(!world.it.moves.contains_key(&thread));
    assert!(matches!(world.it.table.get(&thread).unwrap().mine, Some(Mine::Releasing { .. })));
}

#[tokio::test]
async fn what_was_given_away_is_taken_back_at_once_from_who_gives_it_to_us() {
    let mut world = World::new();
    own_many(&mut world, 1);
    let thread = world.it.table.names(|_| true).remove(0);
    let claim = world.it.table.get(&thread).unwrap().owned().unwrap().nonce.clone();
    let how = Release::Free { cool_down: Duration::from_secs(3), prefer_other: true };
    world.it.release(&thread, &claim, how);
    world.it.table.set_mine(&thread, None);
    let own = world.it.lease.as_ref().unwrap().session().clone();
    let now = BootInstant::now();
    for (prefer, waits) in [(None, true), (Some(own), false)] {
        world.it.table.entry(&thread).claim = Some(ClaimRecord { prefer: prefer.clone(), ..was_claimed() });
        let at = world.it.claimable_at(&thread, now).unwrap();
        assert_eq!(at > now + Duration::from_secs(2), waits, "{prefer:?}");
    }
}

#[tokio::test]
async fn what_was_stopped_by_its_script_cools_down_whoever_is_preferred() {
    let mut world = World::new();
    own_many(&mut world, 1);
    let thread = world.it.table.names(|_| true).remove(0);
    let claim = world.it.table.get(&thread).unwrap().owned().unwrap().nonce.clone();
    world.it.release(&thread, &claim, Release::StoppedByScript { cool_down: Duration::from_secs(5) });
    world.it.table.set_mine(&thread, None);
    let own = world.it.lease.as_ref().unwrap().session().clone();
    let now = BootInstant::now();
    for prefer in [None, Some(own)] {
        world.it.table.entry(&thread).claim = Some(ClaimRecord { prefer: prefer.clone(), ..was_claimed() });
        let at = world.it.claimable_at(&thread, now).unwrap();
        assert!(at > now + Duration::from_secs(4), "{prefer:?}");
    }
}

#[tokio::test]
async fn shares_are_compared_when_all_have_told_what_they_have() {
    let mut world = World::new();
    own_many(&mut world, 10);
    seen(&mut world, &[("peer", true, 0)]);
    let now = BootInstant::now();
    assert!(world.it.calm_at <= now);
    world.it.died(DeadSession::gone(SessionId::random()));
    assert!(world.it.calm_at > now, "somebody has left");
    // The peer is no newcomer any more.
    world.it.calm_at = now + Duration::from_secs(12);
    world.it.balance(now + Duration::from_secs(11));
    assert!(relocated(&mut world).is_empty());
    world.it.balance(now + Duration::from_secs(13));
    assert_eq!(relocated(&mut world).len(), 5);
}

#[tokio::test]
async fn nothing_is_given_to_who_takes_nothing_and_nothing_by_who_drains() {
    let mut world = World::new();
    own_many(&mut world, 10);
    seen(&mut world, &[("peer", false, 0)]);
    world.it.balance(BootInstant::now());
    assert!(relocated(&mut world).is_empty());
    seen(&mut world, &[("peer", true, 0)]);
    world.it.drain();
    world.it.balance(BootInstant::now() + Duration::from_secs(1));
    assert!(relocated(&mut world).is_empty());
}

#[tokio::test]
async fn a_critical_worker_sheds_the_heaviest_first_and_a_few_at_a_time() {
    let mut world = World::new();
    world.it.config.weigh = Arc::new(|| HashMap::from([(name("own-7"), 9)]));
    own_many(&mut world, 50);
    let peer = [("peer", true, 50)];
    seen(&mut world, &peer);
    world.it.condition_is(critical(Some("load")));
    seen(&mut world, &peer);
    seen(&mut world, &peer);
    let now = BootInstant::now();
    assert!(!world.it.takes(now));
    world.it.balance(now);
    assert_eq!(relocated(&mut world), ["own-7", "own-0"]);
    world.it.balance(now + Duration::from_secs(1));
    assert_eq!(relocated(&mut world).len(), 2);
    world.it.condition_is(critical(None));
    assert!(world.it.takes(now));
}

#[tokio::test]
async fn who_becomes_critical_gives_nothing_away_before_it_has_heard_how_its_peers_are_now() {
    for is_ready in [true, false] {
        let mut world = World::new();
        own_many(&mut world, 50);
        seen(&mut world, &[("peer", true, 50)]);
        world.it.condition_is(critical(Some("load")));
        world.it.balance(BootInstant::now());
        assert_eq!(relocated(&mut world).len(), 0, "what the peer has said is older");
        // That it has beaten meanwhile may have been before.
        seen(&mut world, &[("peer", true, 50)]);
        world.it.balance(BootInstant::now() + Duration::from_secs(1));
        assert_eq!(relocated(&mut world).len(), 0);
        seen(&mut world, &[("peer", is_ready, 50)]);
        world.it.balance(BootInstant::now() + Duration::from_secs(2));
        assert_eq!(relocated(&mut world).len(), if is_ready { 2 } else { 0 }, "ready: {is_ready}");
    }
}

#[tokio::test]
async fn a_critical_worker_without_a_healthy_peer_keeps_what_it_has_and_goes_on() {
    let mut world = World::new();
    own_many(&mut world, 10);
    seen(&mut world, &[("critical as well", false, 0)]);
    world.it.condition_is(critical(Some("load")));
    let now = BootInstant::now();
    world.it.balance(now);
    assert!(relocated(&mut world).is_empty());
    assert!(world.it.takes(now));
    assert!(world.it.vitals.closed.load(Ordering::Acquire), "peers give it nothing");
}

#[tokio::test]
async fn what_requires_more_than_is_offered_is_neither_claimed_nor_kept() {
    let mut world = World::new();
    let thread = name("thread");
    let picky = || {
        let definition = Definition { requires: "gpu".parse().unwrap(), ..definition("1") };
        Ok(Some(DefinitionRead { definition: Ok(definition), ..read("1") }))
    };
    world.it.claim_seen(&thread, was_claimed());
    world.it.definition_read(&thread, picky());
    assert_eq!(world.it.table.next_due(), None);
    world.it.definition_read(&thread, Ok(Some(read("1"))));
    assert!(world.it.table.next_due().is_some());
    let owned = name("owned");
    world.own(&owned);
    world.it.definition_read(&owned, picky());
    assert_eq!(relocated(&mut world), ["owned"]);
}

#[tokio::test]
async fn a_worker_takes_no_more_threads_than_it_may_but_ticks() {
    let mut world = World::new();
    world.it.config.capacity.threads_max = Some(2);
    let now = BootInstant::now();
    own_many(&mut world, 1);
    assert!(world.it.can_claim(now));
    world.own(&name("another"));
    assert!(!world.it.can_claim(now) && world.it.takes(now));
}

#[tokio::test]
async fn who_is_full_makes_room_for_what_only_it_can_run() {
    let mut world = World::new();
    world.it.config.capacity =
        crate::config::Capacity { threads_max: Some(3), labels: "gpu".parse().unwrap(), weight: 1.0 };
    own_many(&mut world, 3);
    seen(&mut world, &[("peer", true, 3)]);
    let picky = name("picky");
    let definition = Definition { requires: "gpu".parse().unwrap(), ..definition("1") };
    world.it.claim_seen(&picky, was_claimed());
    world.it.definition_read(&picky, Ok(Some(DefinitionRead { definition: Ok(definition), ..read("1") })));
    let now = BootInstant::now();
    world.it.balance(now);
    assert!(relocated(&mut world).is_empty(), "somebody else may be about to take it");
    world.it.table.get_mut(&picky).unwrap().free_since = Some(BootInstant::default());
    world.it.balance(now + Duration::from_secs(1));
    assert_eq!(relocated(&mut world).len(), 1);
    world.it.balance(now + Duration::from_secs(2));
    assert!(relocated(&mut world).is_empty(), "one for each that waits");
}

#[tokio::test]
async fn nothing_of_a_session_that_named_a_task_is_taken_over_before_that_is_counted() {
    let mut world = World::new();
    let (bad, good) = (name("bad"), name("good"));
    let session = SessionId::from("stalled");
    let claim = ClaimRecord { session: Some(session.clone()), ..was_claimed() };
    for thread in [&bad, &good] {
        world.it.table.entry(thread).read(Some(&read("1")));
        world.it.table.set_claim(thread, claim.clone());
    }
    let (tell, mut news) = crate::coordinator::feed::job_news();
    world.it.feed_jobs(tell);
    assert_eq!(news.try_recv(), Some(JobNews::Gap));
    let suspect = Suspect { task: Task::thread(&bad), reason: "r".to_owned() };
    let dead = DeadSession { suspects: vec![suspect.clone()], ..DeadSession::gone(session.clone()) };
    world.it.died(dead.clone());
    let now = BootInstant::now();
    assert_eq!(world.it.claimable_at(&good, now), None);
    assert!(news.try_recv().is_none(), "its runs are not settled either");
    let record = PoisonRecord { deaths: 3, until_ms: 1_000_010_000, reason: "r".to_owned(), source: None };
    let verdict = Verdict { outcome: Struck::SetAside, record, server_ms: 1_000_000_000 };
    world.it.struck(&dead, vec![(suspect.task.clone(), verdict)]);
    assert!(world.it.claimable_at(&good, now).unwrap() <= BootInstant::now());
    let at = world.it.claimable_at(&bad, now).unwrap();
    assert!(at > now + Duration::from_secs(9) && at < now + Duration::from_secs(11));
    assert_eq!(news.try_recv(), Some(JobNews::Died(session)));
    // Somebody has enabled it.
    world.it.poison_read(vec![(suspect.task, PoisonRecord::default())]);
    assert!(world.it.claimable_at(&bad, now).unwrap() <= BootInstant::now());
}
