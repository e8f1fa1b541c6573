//! What the Lua scripts promise, checked on the embedded server and on a real one by the same tests.
//!
//! Nothing waits: where a rule speaks of time, the test writes the stored instant as if it had been set long ago.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fred::interfaces::{ClientLike, HashesInterface, KeysInterface, SetsInterface};
use fred::types::Value;
use tempfile::TempDir;

use super::*;
use crate::address::{RedisAddress, RedisConfig};
use crate::admin;
use crate::id::Nonce;
use crate::name::ClusterName;
use crate::records::{ClaimRecord, DeadSession, Definition, Modules, SessionEnd, SourceDigest, State};

/// A server and a store on it.
struct Bench {
    store: Store,
    _server: Server,
}

enum Server {
    Embedded(#[expect(dead_code, reason = "the server lives as long as this")] hats_embedded_redis::Server),
    Real(Child, #[expect(dead_code, reason = "the folder lives as long as this")] TempDir),
    Cluster(Vec<Child>, #[expect(dead_code, reason = "the folder lives as long as this")] TempDir),
}

impl Drop for Server {
    fn drop(&mut self) {
        let children = match self {
            Self::Embedded(_) => &mut [],
            Self::Real(child, _) => std::slice::from_mut(child),
            Self::Cluster(children, _) => children.as_mut_slice(),
        };
        for child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Bench {
    async fn embedded() -> Self {
        let server = hats_embedded_redis::Server::start().unwrap();
        let address = server.url().parse().unwrap();
        Self { store: connect(address).await, _server: Server::Embedded(server) }
    }

    async fn real() -> Self {
        let folder = TempDir::new().unwrap();
        let socket = folder.path().join("redis.sock");
        let server = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"])
            .arg(&socket)
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let server = Server::Real(server, folder);
        let address = format!("unix:{}", path(&socket)).parse().unwrap();
        Self { store: connect(address).await, _server: server }
    }

    /// Two nodes of a Redis Cluster, each with half of the slots.
    async fn cluster() -> Self {
        let folder = TempDir::new().unwrap();
        let mut ports = Vec::new();
        let mut nodes = Vec::new();
        for n in 0..2 {
            let [port, bus] = free_ports();
            let dir = folder.path().join(n.to_string());
            std::fs::create_dir(&dir).unwrap();
            let node = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--cluster-enabled", "yes"])
                .args(["--port", &port.to_string(), "--cluster-port", &bus.to_string()])
                .current_dir(dir)
                .stdout(Stdio::null())
                .spawn()
                .expect("redis-server is installed");
            nodes.push(node);
            ports.push((port, bus));
        }
        let server = Server::Cluster(nodes, folder);
        let slots = [["0", "8191"], ["8192", "16383"]];
        for ((port, _), [first, last]) in ports.iter().zip(slots) {
            let node = connect(format!("127.0.0.1:{port}").parse().unwrap()).await.client;
            let send = async |args: Vec<String>| -> Value {
                let command = CustomCommand::new_static("CLUSTER", ClusterHash::Random, false);
                node.custom(command, args).await.unwrap()
            };
            let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
            send(words(&["ADDSLOTSRANGE", first, last])).await;
            if let Some((other, bus)) = ports.first().filter(|(other, _)| other != port) {
                send(words(&["MEET", "127.0.0.1", &other.to_string(), &bus.to_string()])).await;
            }
        }
        for (port, _) in &ports {
            let node = connect(format!("127.0.0.1:{port}").parse().unwrap()).await.client;
            loop {
                let command = CustomCommand::new_static("CLUSTER", ClusterHash::Random, false);
                let info: String = node.custom(command, vec!["INFO"]).await.unwrap();
                if info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:2") {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        let address = format!("redis-cluster://127.0.0.1:{},127.0.0.1:{}", ports[0].0, ports[1].0);
        Self { store: connect(address.parse().unwrap()).await, _server: server }
    }

    async fn hset(&self, key: String, field: &str, value: impl ToString) {
        let () = self.store.client.hset(key, (field, value.to_string())).await.unwrap();
    }

    async fn hget(&self, key: String, field: &str) -> Option<String> {
        self.store.client.hget(key, field).await.unwrap()
    }

    /// The id of a session that was just opened.
    async fn session(&self) -> SessionId {
        let id = SessionId::random();
        assert!(matches!(self.store.open(&id, &info()).await.unwrap(), Opened::Opened { .. }));
        self.store.enter_index(std::slice::from_ref(&id)).await.unwrap();
        id
    }

    async fn record(&self, name: &TaskName) -> ClaimRecord {
        self.store.check(std::slice::from_ref(name)).await.unwrap().pop().unwrap()
    }

    async fn claim(&self, request: &ClaimRequest) -> Answer {
        self.store.claim(&thread(), request).await.unwrap()
    }

    async fn granted(&self, request: &ClaimRequest) -> Granted {
        match self.claim(request).await {
            Answer::Granted(granted) => granted,
            answer => panic!("{answer:?}"),
        }
    }

    async fn release(&self, nonce: &Nonce, how: &Handover) -> Released {
        self.store.release(&thread(), nonce, how).await.unwrap()
    }
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Two ports that nobody has at the moment.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

async fn connect(address: RedisAddress) -> Store {
    let config = RedisConfig::new(address);
    let cluster = ClusterName::new("c").unwrap();
    admin::connect(&config, cluster, Duration::from_secs(10)).await.unwrap()
}

fn thread() -> TaskName {
    TaskName::new("examples/a b.js").unwrap()
}

fn info() -> SessionInfo {
    SessionInfo {
        name: WorkerName::new("w").unwrap(),
        version: "0.1.0".to_owned(),
        lease: Duration::from_secs(5),
        capacity: crate::config::Capacity::default(),
        ready: true,
    }
}

fn request() -> ClaimRequest {
    ClaimRequest {
        session: SessionId::random(),
        nonce: Nonce::random(),
        dead: None,
        digest: SourceDigest::of("a"),
        restart_at: None,
    }
}

fn dead(id: &SessionId, end: SessionEnd, ended_ms: u64) -> Option<DeadSession> {
    Some(DeadSession { id: id.clone(), end, ended_ms, suspects: Vec::new() })
}

/// Each fact is a test on both servers.
macro_rules! conformance {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test] async fn $name() { super::$name(super::Bench::embedded().await).await; })*
        }
        mod real {
            $(#[tokio::test] async fn $name() { super::$name(super::Bench::real().await).await; })*
        }
    };
}

mod endpoints;
mod poison;
mod ticks;

conformance![
    a_session_is_opened_once_per_id,
    only_a_living_session_is_renewed,
    a_close_is_final,
    a_burial_needs_what_was_seen_and_the_expiry,
    a_session_whose_clock_was_moved_back_can_be_buried,
    a_sample_shows_the_index_and_what_is_asked_for,
    a_session_is_forgotten_an_hour_after_its_death,
    a_free_thread_is_granted_once,
    the_same_nonce_gets_the_same_grant_while_it_holds,
    a_nonce_that_was_given_up_is_never_granted,
    epochs_only_rise,
    a_dead_owner_is_replaced_and_no_other,
    a_session_that_is_gone_is_replaced,
    a_release_is_by_nonce,
    a_back_off_is_kept_and_never_beyond_its_most,
    another_source_or_a_restart_ends_a_back_off,
    an_operator_ends_a_back_off,
    a_preferred_session_goes_first_for_a_while,
    who_registers_a_thread_may_be_preferred_before_it_is_there,
    an_owner_that_lived_long_has_not_failed,
    a_claim_outlives_its_definition_by_a_day,
    many_claims_go_in_pipelines,
    a_definition_is_read_and_its_source_only_if_it_differs,
    a_malformed_definition_harms_nobody_else,
    a_source_beyond_all_measure_is_not_looked_at,
    a_mirror_writes_only_into_what_exists,
    registering_is_an_upsert_that_leaves_disabled_alone,
    modules_are_a_part_of_the_source,
    operators_see_and_steer_threads,
    a_scan_finds_everything,
    rows_of_workers_come_and_go,
    scripts_survive_a_script_flush,
    a_key_of_another_type_is_an_error_of_its_own,
    a_key_of_another_type_is_in_nobody_elses_way,
    other_fields_of_a_claim_are_left_alone,
];

async fn a_session_is_opened_once_per_id(bench: Bench) {
    let id = bench.session().await;
    assert_eq!(bench.store.open(&id, &info()).await.unwrap(), Opened::Exists);
    let now = bench.store.server_time().await.unwrap();
    let sample = bench.store.sample(std::slice::from_ref(&id)).await.unwrap();
    let record = sample.sessions[0].1.clone().unwrap();
    assert!(record.alive && record.ready && record.end.is_none());
    assert_eq!((record.beat, record.name.as_str(), record.lease), (1, "w", Duration::from_secs(5)));
    assert!(now.abs_diff(record.opened_ms) < 5_000, "{now} {record:?}");
    assert_eq!(record.expiry_ms, record.opened_ms + 5_000);
    let id = SessionId::random();
    let closed = SessionInfo { ready: false, ..info() };
    assert!(matches!(bench.store.open(&id, &closed).await.unwrap(), Opened::Opened { .. }));
    let record = bench.store.sample(&[id]).await.unwrap().sessions[0].1.clone().unwrap();
    assert!(record.alive && !record.ready);
}

async fn only_a_living_session_is_renewed(bench: Bench) {
    let id = bench.session().await;
    let load = Load { threads: 7, ready: false };
    let Renewal::Renewed { beat, expiry_ms, server_ms } = bench.store.renew(&id, load).await.unwrap() else {
        panic!("it is alive");
    };
    assert_eq!((beat, expiry_ms), (2, server_ms + 5_000));
    let record = bench.store.sample(std::slice::from_ref(&id)).await.unwrap().sessions[0].1.clone().unwrap();
    assert_eq!((record.threads, record.ready), (7, false));
    bench.store.close(&id).await.unwrap();
    assert_eq!(bench.store.renew(&id, load).await.unwrap(), Renewal::Lost);
    assert_eq!(bench.store.renew(&SessionId::random(), load).await.unwrap(), Renewal::Lost);
}

async fn a_close_is_final(bench: Bench) {
    let id = bench.session().await;
    bench.store.close(&id).await.unwrap();
    bench.store.close(&id).await.unwrap();
    let record = bench.store.sample(std::slice::from_ref(&id)).await.unwrap().sessions[0].1.clone().unwrap();
    assert_eq!(record.dead(&id).unwrap().end, SessionEnd::Closed);
    match bench.store.bury(&id, 1, record.expiry_ms).await.unwrap() {
        Burial::AlreadyDead(dead) => assert_eq!(dead.end, SessionEnd::Closed),
        answer => panic!("{answer:?}"),
    }
    // One that never was is fine too, and is not made by it.
    let none = SessionId::random();
    bench.store.close(&none).await.unwrap();
    assert_eq!(bench.store.bury(&none, 1, 1).await.unwrap(), Burial::Gone);
}

async fn a_burial_needs_what_was_seen_and_the_expiry(bench: Bench) {
    let id = bench.session().await;
    let key = bench.store.keys.session(&id);
    let seen = bench.store.sample(std::slice::from_ref(&id)).await.unwrap().sessions[0].1.clone().unwrap();
    assert!(matches!(
        bench.store.bury(&id, seen.beat, seen.expiry_ms).await.unwrap(),
        Burial::NotYet { expiry_ms, .. } if expiry_ms == seen.expiry_ms
    ));
    bench.hset(key, "Expiry", 1_000).await;
    assert_eq!(
        bench.store.bury(&id, seen.beat, seen.expiry_ms).await.unwrap(),
        Burial::Moved { beat: 1, expiry_ms: 1_000 }
    );
    assert_eq!(bench.store.bury(&id, 2, 1_000).await.unwrap(), Burial::Moved { beat: 1, expiry_ms: 1_000 });
    let suspect = poison::suspect(&Task::job(&thread()));
    bench.store.suspect(&id, &[poison::suspect(&Task::thread(&thread()))]).await.unwrap();
    bench.store.suspect(&id, &[]).await.unwrap();
    assert_eq!(
        bench.store.sample(std::slice::from_ref(&id)).await.unwrap().sessions[0].1.clone().unwrap().suspects,
        []
    );
    bench.store.suspect(&id, std::slice::from_ref(&suspect)).await.unwrap();
    let Burial::Buried(dead) = bench.store.bury(&id, 1, 1_000).await.unwrap() else { panic!("it is due") };
    assert_eq!((dead.end, dead.suspects.as_slice()), (SessionEnd::Buried, &[suspect][..]));
    assert!(dead.ended_ms > 0);
    // For ever, and whoever asks again hears the same.
    assert_eq!(bench.store.bury(&id, 1, 1_000).await.unwrap(), Burial::AlreadyDead(dead.clone()));
    let record = bench.store.sample(std::slice::from_ref(&id)).await.unwrap().sessions[0].1.clone().unwrap();
    assert_eq!(record.dead(&id), Some(dead));
    assert_eq!(bench.store.renew(&id, Load { threads: 0, ready: true }).await.unwrap(), Renewal::Lost);
}

async fn a_session_whose_clock_was_moved_back_can_be_buried(bench: Bench) {
    let id = bench.session().await;
    let hour_ahead = bench.store.server_time().await.unwrap() + 3_600_000;
    bench.hset(bench.store.keys.session(&id), "Expiry", hour_ahead).await;
    assert!(matches!(bench.store.bury(&id, 1, hour_ahead).await.unwrap(), Burial::Buried(_)));
}

async fn a_sample_shows_the_index_and_what_is_asked_for(bench: Bench) {
    assert_eq!(bench.store.sample(&[]).await.unwrap(), Sample { index: vec![], sessions: vec![] });
    let (a, b, none) = (bench.session().await, bench.session().await, SessionId::random());
    let sample = bench.store.sample(&[b.clone(), none.clone()]).await.unwrap();
    let mut expect = vec![a, b.clone()];
    expect.sort();
    let mut index = sample.index;
    index.sort();
    assert_eq!(index, expect);
    assert_eq!(sample.sessions.len(), 2);
    assert!(sample.sessions[0].0 == b && sample.sessions[0].1.is_some());
    assert!(sample.sessions[1].0 == none && sample.sessions[1].1.is_none());
    // More than one pipeline.
    let many: Vec<_> = (0..PIPELINE_MAX + 5).map(|_| SessionId::random()).chain([b]).collect();
    let sample = bench.store.sample(&many).await.unwrap();
    assert_eq!(sample.sessions.len(), many.len());
    assert!(sample.sessions.last().unwrap().1.is_some());
}

async fn a_session_is_forgotten_an_hour_after_its_death(bench: Bench) {
    let id = bench.session().await;
    let key = bench.store.keys.session(&id);
    assert!(!bench.store.forget(&id).await.unwrap());
    bench.store.close(&id).await.unwrap();
    assert!(!bench.store.forget(&id).await.unwrap());
    let ended: u64 = bench.hget(key.clone(), "Ended").await.unwrap().parse().unwrap();
    bench.hset(key.clone(), "Ended", ended - 3_600_001).await;
    assert!(bench.store.forget(&id).await.unwrap());
    let there: bool = bench.store.client.exists(key).await.unwrap();
    assert!(!there);
    assert!(bench.store.sample(&[]).await.unwrap().index.is_empty());
}

async fn a_free_thread_is_granted_once(bench: Bench) {
    assert_eq!(bench.record(&thread()).await, ClaimRecord::default());
    let first = request();
    let granted = bench.granted(&first).await;
    assert_eq!(granted.restarts, 0);
    assert_eq!(granted.epoch, granted.claimed_ms);
    let answer = bench.claim(&request()).await;
    let held = Answer::Held { session: Some(first.session.clone()), nonce: Some(first.nonce.clone()) };
    assert_eq!(answer, held);
    // The same session with another nonce is somebody else: a ghost, to be released by the nonce it holds.
    assert_eq!(bench.claim(&ClaimRequest { nonce: Nonce::random(), ..first.clone() }).await, held);
    let record = bench.record(&thread()).await;
    assert_eq!((record.session, record.nonce), (Some(first.session), Some(first.nonce)));
    assert_eq!((record.epoch, record.claimed_ms), (granted.epoch, granted.claimed_ms));
    assert_eq!(record.source, Some(SourceDigest::of("a")));
}

async fn the_same_nonce_gets_the_same_grant_while_it_holds(bench: Bench) {
    let request = request();
    let first = bench.granted(&request).await;
    let again = bench.granted(&request).await;
    assert_eq!(Granted { server_ms: 0, ..first }, Granted { server_ms: 0, ..again });
    assert_eq!(bench.release(&request.nonce, &Handover::free()).await, Released::Released);
    assert_eq!(
        bench.claim(&request).await,
        Answer::Held { session: None, nonce: Some(request.nonce.clone()) }
    );
    // The session itself may have it again, under a new nonce.
    let second = ClaimRequest { nonce: Nonce::random(), ..request.clone() };
    assert!(bench.granted(&second).await.epoch > first.epoch);
    assert_eq!(
        bench.claim(&request).await,
        Answer::Held { session: Some(request.session), nonce: Some(second.nonce) }
    );
}

async fn a_nonce_that_was_given_up_is_never_granted(bench: Bench) {
    // The claim is late, its release overtakes it.
    let late = request();
    assert_eq!(bench.release(&late.nonce, &Handover::free()).await, Released::NotHeld);
    assert_eq!(bench.claim(&late).await, Answer::Held { session: None, nonce: Some(late.nonce.clone()) });
    let ttl: i64 = bench.store.client.pttl(bench.store.keys.claim(&thread())).await.unwrap();
    assert!(ttl > 86_000_000, "{ttl}");
    // Nobody else is kept from it, and a given-up nonce takes nothing from its owner.
    let owner = request();
    bench.granted(&owner).await;
    assert_eq!(bench.release(&late.nonce, &Handover::free()).await, Released::NotHeld);
    assert_eq!(bench.record(&thread()).await.nonce, Some(owner.nonce));
}

async fn epochs_only_rise(bench: Bench) {
    let mut last = 0;
    for _ in 0..3 {
        let request = request();
        let epoch = bench.granted(&request).await.epoch;
        assert!(epoch > last);
        last = epoch;
        bench.release(&request.nonce, &Handover::free()).await;
    }
    // The server's clock was an hour ahead once.
    let ahead = last + 3_600_000;
    bench.hset(bench.store.keys.claim(&thread()), "Epoch", ahead).await;
    let granted = bench.granted(&request()).await;
    assert_eq!(granted.epoch, ahead + 1);
    assert!(granted.claimed_ms < ahead);
    assert_eq!(bench.record(&thread()).await.epoch, ahead + 1);
}

async fn a_dead_owner_is_replaced_and_no_other(bench: Bench) {
    let owner = request();
    let first = bench.granted(&owner).await;
    let wrong = ClaimRequest { dead: dead(&SessionId::random(), SessionEnd::Buried, 1), ..request() };
    assert!(matches!(bench.claim(&wrong).await, Answer::Held { .. }));
    let right = ClaimRequest { dead: dead(&owner.session, SessionEnd::Buried, first.server_ms), ..request() };
    let second = bench.granted(&right).await;
    assert!(second.epoch > first.epoch);
    // What the dead one still sends changes nothing.
    assert!(matches!(bench.claim(&owner).await, Answer::Held { .. }));
    assert_eq!(bench.release(&owner.nonce, &Handover::free()).await, Released::NotHeld);
    assert_eq!(bench.granted(&right).await.epoch, second.epoch);
}

async fn a_session_that_is_gone_is_replaced(bench: Bench) {
    let owner = request();
    bench.granted(&owner).await;
    let claim = ClaimRequest { dead: Some(DeadSession::gone(owner.session)), ..request() };
    bench.granted(&claim).await;
}

async fn a_release_is_by_nonce(bench: Bench) {
    let owner = request();
    bench.granted(&owner).await;
    assert_eq!(bench.release(&Nonce::random(), &Handover::free()).await, Released::NotHeld);
    assert_eq!(bench.record(&thread()).await.session, Some(owner.session));
    assert_eq!(bench.release(&owner.nonce, &Handover::free()).await, Released::Released);
    let record = bench.record(&thread()).await;
    assert_eq!((record.session, record.nonce.as_ref()), (None, Some(&owner.nonce)));
    // The answer was lost: the same again.
    assert_eq!(bench.release(&owner.nonce, &Handover::free()).await, Released::NotHeld);
    bench.granted(&request()).await;
}

async fn a_back_off_is_kept_and_never_beyond_its_most(bench: Bench) {
    let owner = request();
    bench.granted(&owner).await;
    bench.release(&owner.nonce, &Handover::crashed(Duration::from_secs(3600), 4)).await;
    let Answer::BackOff { next_start_ms, server_ms } = bench.claim(&request()).await else {
        panic!("it must wait");
    };
    let most = u64::try_from(BACK_OFF_MAX.as_millis()).unwrap();
    assert!(next_start_ms - server_ms <= most && next_start_ms - server_ms > most - 5_000);
    assert_eq!(bench.record(&thread()).await.restarts, 4);
    let key = bench.store.keys.claim(&thread());
    for passed in [server_ms - 1, server_ms + 3_600_000] {
        bench.hset(key.clone(), "NextStart", passed).await;
        let next = request();
        assert_eq!(bench.granted(&next).await.restarts, 4);
        assert_eq!(bench.record(&thread()).await.next_start_ms, 0);
        bench.release(&next.nonce, &Handover::free()).await;
    }
    // A run that was healthy for long ends the row.
    let healthy = request();
    bench.granted(&healthy).await;
    bench.hset(key, "Claimed", server_ms - 61_000).await;
    bench.release(&healthy.nonce, &Handover::free()).await;
    assert_eq!(bench.granted(&request()).await.restarts, 0);
}

async fn another_source_or_a_restart_ends_a_back_off(bench: Bench) {
    let source = ClaimRequest { digest: SourceDigest::of("b"), ..request() };
    let asked = ClaimRequest { digest: SourceDigest::of("b"), restart_at: Some("now".into()), ..request() };
    bench.granted(&ClaimRequest { nonce: Nonce::from("first"), ..request() }).await;
    bench.release(&Nonce::from("first"), &Handover::crashed(Duration::from_secs(30), 3)).await;
    for claim in [source, asked] {
        assert!(matches!(
            bench.claim(&ClaimRequest { nonce: Nonce::random(), ..unchanged(&bench).await }).await,
            Answer::BackOff { .. }
        ));
        assert_eq!(bench.granted(&claim).await.restarts, 0);
        bench.release(&claim.nonce, &Handover::crashed(Duration::from_secs(30), 1)).await;
    }
    // The source was changed under the claim: what ran last is what counts.
    bench.store.pardon(&thread()).await.unwrap();
    let owner = unchanged(&bench).await;
    bench.granted(&owner).await;
    let ran = Some((SourceDigest::of("d"), Some(Arc::from("then"))));
    bench.release(&owner.nonce, &Handover { ran, ..Handover::crashed(Duration::from_secs(30), 1) }).await;
    let same = ClaimRequest { digest: SourceDigest::of("d"), restart_at: Some("then".into()), ..request() };
    assert!(matches!(bench.claim(&same).await, Answer::BackOff { .. }));
    assert_eq!(bench.granted(&owner_of(&owner)).await.restarts, 0);
}

/// A new claim for what ran last.
async fn unchanged(bench: &Bench) -> ClaimRequest {
    let record = bench.record(&thread()).await;
    ClaimRequest { digest: record.source.unwrap(), restart_at: record.restart_at, ..request() }
}

/// The same claim as this one, as new.
fn owner_of(claim: &ClaimRequest) -> ClaimRequest {
    ClaimRequest { nonce: Nonce::random(), ..claim.clone() }
}

async fn an_operator_ends_a_back_off(bench: Bench) {
    let owner = request();
    bench.granted(&owner).await;
    assert!(!bench.store.pardon(&thread()).await.unwrap(), "it is owned");
    bench.release(&owner.nonce, &Handover::crashed(Duration::from_secs(30), 1)).await;
    assert!(bench.store.pardon(&thread()).await.unwrap());
    assert_eq!(bench.granted(&request()).await.restarts, 0);
    // Where there is nothing, nothing is made.
    let none = TaskName::new("none").unwrap();
    assert!(bench.store.pardon(&none).await.unwrap());
    let there: bool = bench.store.client.exists(bench.store.keys.claim(&none)).await.unwrap();
    assert!(!there);
}

async fn who_registers_a_thread_may_be_preferred_before_it_is_there(bench: Bench) {
    let owner = request();
    assert!(bench.store.prefer(&thread(), &owner.session, Duration::from_secs(60)).await.unwrap());
    let left: i64 = bench.store.client.pttl(bench.store.keys.claim(&thread())).await.unwrap();
    assert!(left > 0, "it goes by itself");
    let Answer::Prefer { session, until_ms, server_ms } = bench.claim(&request()).await else {
        panic!("another is preferred");
    };
    assert_eq!(session, owner.session);
    assert!(until_ms > server_ms && until_ms - server_ms <= 10_000);
    bench.granted(&owner).await;
    let left: i64 = bench.store.client.pttl(bench.store.keys.claim(&thread())).await.unwrap();
    assert_eq!(left, -1);
    assert!(!bench.store.prefer(&thread(), &request().session, Duration::from_secs(60)).await.unwrap());
    assert_eq!(bench.record(&thread()).await.prefer, None, "it is owned");
}

async fn a_preferred_session_goes_first_for_a_while(bench: Bench) {
    let (owner, heir) = (request(), request());
    bench.granted(&owner).await;
    let prefer = Some((heir.session.clone(), Duration::from_secs(60)));
    let how = Handover { prefer, ..Handover::free() };
    bench.release(&owner.nonce, &how).await;
    let Answer::Prefer { session, until_ms, server_ms } = bench.claim(&request()).await else {
        panic!("another is preferred");
    };
    assert_eq!(session, heir.session);
    assert!(until_ms > server_ms && until_ms - server_ms <= 10_000);
    bench.granted(&heir).await;
    let record = bench.record(&thread()).await;
    assert_eq!((record.prefer, record.prefer_until_ms), (None, 0));
    bench.release(&heir.nonce, &how).await;
    for passed in [server_ms - 1, server_ms + 3_600_000] {
        bench.hset(bench.store.keys.claim(&thread()), "PreferUntil", passed).await;
        let other = request();
        bench.granted(&other).await;
        bench.release(&other.nonce, &how).await;
    }
}

async fn an_owner_that_lived_long_has_not_failed(bench: Bench) {
    let owner = request();
    bench.granted(&owner).await;
    bench.release(&owner.nonce, &Handover::crashed(Duration::ZERO, 4)).await;
    let (mut owner, mut restarts) = (request(), 4);
    let mut now = bench.granted(&owner).await.server_ms;
    for (ended_after, left) in [(60_000, 4), (60_001, 0)] {
        let next =
            ClaimRequest { dead: dead(&owner.session, SessionEnd::Buried, now + ended_after), ..request() };
        let granted = bench.granted(&next).await;
        restarts = granted.restarts;
        assert_eq!(restarts, left);
        (owner, now) = (next, granted.server_ms);
    }
    assert_eq!(restarts, 0);
}

async fn a_claim_outlives_its_definition_by_a_day(bench: Bench) {
    let key = bench.store.keys.claim(&thread());
    let ttl = async || -> i64 { bench.store.client.pttl(key.clone()).await.unwrap() };
    let owner = request();
    bench.granted(&owner).await;
    assert_eq!(ttl().await, -1);
    assert!(!bench.store.retire(&thread(), None).await.unwrap(), "somebody owns it");
    assert_eq!(ttl().await, -1);
    assert!(bench.store.retire(&thread(), Some(&owner.session)).await.unwrap());
    assert!(ttl().await > 86_000_000);
    bench.release(&owner.nonce, &Handover { retire: true, ..Handover::free() }).await;
    assert!(ttl().await > 86_000_000);
    let again = request();
    bench.granted(&again).await;
    assert_eq!(ttl().await, -1);
    bench.release(&again.nonce, &Handover::free()).await;
    assert_eq!(ttl().await, -1);
    assert!(bench.store.retire(&thread(), None).await.unwrap());
    assert!(ttl().await > 86_000_000);
}

async fn many_claims_go_in_pipelines(bench: Bench) {
    let session = SessionId::random();
    let names: Vec<TaskName> = (0..500).map(|n| TaskName::new(format!("t{n}")).unwrap()).collect();
    let claims: Vec<_> = names
        .iter()
        .map(|name| (name.clone(), ClaimRequest { session: session.clone(), ..request() }))
        .collect();
    // The scripts were never loaded: each is sent again as a whole.
    let answers = bench.store.claim_many(&claims).await;
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Answer::Granted(_)))));
    let records = bench.store.check(&names).await.unwrap();
    for ((_, request), record) in claims.iter().zip(&records) {
        assert_eq!(record.nonce.as_ref(), Some(&request.nonce));
    }
    let releases: Vec<_> = claims
        .iter()
        .map(|(name, request)| (name.clone(), request.nonce.clone(), Handover::free()))
        .collect();
    let released = bench.store.release_many(&releases).await;
    assert!(released.len() == 500 && released.iter().all(|answer| matches!(answer, Ok(Released::Released))));
}

async fn a_definition_is_read_and_its_source_only_if_it_differs(bench: Bench) {
    assert_eq!(bench.store.read_definition(&thread(), None).await.unwrap(), None);
    let key = bench.store.keys.thread(&thread());
    bench.hset(key.clone(), "Source", "main = 'ä'").await;
    bench.hset(key.clone(), "Hang", "20").await;
    bench.hset(key.clone(), "State", "running").await;
    let read = bench.store.read_definition(&thread(), None).await.unwrap().unwrap();
    let definition = read.definition.clone().unwrap();
    assert_eq!((&*definition.source, definition.hang), ("main = 'ä'", Duration::from_millis(20)));
    assert_eq!(definition.digest, SourceDigest::of("main = 'ä'"));
    assert_eq!((read.enabled, read.mirror.state.as_deref()), (true, Some("running")));
    // Nothing has changed: the source that is known is kept, not sent.
    let known: Definition = definition.clone();
    let again = bench.store.read_definition(&thread(), Some(&known)).await.unwrap().unwrap();
    assert!(Arc::ptr_eq(&again.definition.unwrap().source, &known.source));
    bench.hset(key.clone(), "Source", "other").await;
    bench.hset(key, "Status", "disabled").await;
    let read = bench.store.read_definition(&thread(), Some(&known)).await.unwrap().unwrap();
    assert_eq!(&*read.definition.unwrap().source, "other");
    assert!(!read.enabled);
}

async fn a_source_beyond_all_measure_is_not_looked_at(bench: Bench) {
    let key = bench.store.keys.thread(&thread());
    bench.hset(key.clone(), "Source", "x".repeat((16 << 20) + 1)).await;
    bench.hset(key.clone(), "State", "running").await;
    let read = bench.store.read_definition(&thread(), None).await.unwrap().unwrap();
    assert_eq!(read.digest.as_str(), "", "not even its digest is taken");
    assert_eq!(read.definition.unwrap_err().field, "Source");
    assert_eq!(read.mirror.state.as_deref(), Some("running"));
    let seen = Definition::parse("".into(), read.digest, &crate::records::Fields::default()).unwrap();
    let again = bench.store.read_definition(&thread(), Some(&seen)).await.unwrap().unwrap();
    assert_eq!(again.definition.unwrap_err().field, "Source");
    bench.hset(key, "Source", "x".repeat(16 << 20)).await;
    let read = bench.store.read_definition(&thread(), None).await.unwrap().unwrap();
    assert_eq!(read.definition.unwrap().source.len(), 16 << 20);
}

async fn a_malformed_definition_harms_nobody_else(bench: Bench) {
    let names: Vec<TaskName> =
        ["good", "bad", "none", "text", "bytes", "bare"].map(|name| TaskName::new(name).unwrap()).to_vec();
    let key = |nth: usize| bench.store.keys.thread(&names[nth]);
    bench.hset(key(0), "Source", "a").await;
    bench.hset(key(1), "Source", "a").await;
    bench.hset(key(1), "Hang", "soon").await;
    let () = bench.store.client.set(key(3), "x", None, None, false).await.unwrap();
    let bytes = Value::Bytes(vec![0xff, 0xfe].into());
    let () = bench.store.client.hset(key(4), ("Source", bytes)).await.unwrap();
    bench.hset(key(5), "Hang", "1").await;
    let asked: Vec<_> = names.iter().map(|name| (name.clone(), None)).collect();
    let reads: Vec<_> = bench.store.read_definitions(&asked).await.into_iter().map(Result::unwrap).collect();
    assert!(reads[0].as_ref().unwrap().definition.is_ok());
    let bad = reads[1].as_ref().unwrap();
    assert_eq!(bad.definition.as_ref().unwrap_err().field, "Hang");
    assert_eq!(bad.digest, SourceDigest::of("a"));
    assert_eq!((&reads[2], &reads[3]), (&None, &None));
    for nth in [4, 5] {
        assert_eq!(reads[nth].as_ref().unwrap().definition.as_ref().unwrap_err().field, "Source");
    }
}

async fn a_mirror_writes_only_into_what_exists(bench: Bench) {
    let key = bench.store.keys.thread(&thread());
    let crashed = MirrorUpdate {
        state: Some(State::Crashed),
        owner: Some("w".to_owned()),
        error: MirrorError::Set("Error: no".to_owned()),
        disable: false,
    };
    assert!(!bench.store.mirror(&thread(), &crashed).await.unwrap());
    let there: bool = bench.store.client.exists(key.clone()).await.unwrap();
    assert!(!there);
    bench.hset(key.clone(), "Source", "a").await;
    assert!(bench.store.mirror(&thread(), &crashed).await.unwrap());
    let read = bench.store.read_definition(&thread(), None).await.unwrap().unwrap();
    assert_eq!(read.mirror.state.as_deref(), Some("crashed"));
    assert_eq!(read.mirror.owner.as_deref(), Some("w"));
    assert_eq!(read.mirror.error.as_deref(), Some("Error: no"));
    assert!(read.mirror.error_time.unwrap().ends_with('Z'));
    assert!(read.mirror.heartbeat.unwrap().parse::<u64>().unwrap() > 1_000_000_000_000_000_000);
    let stopped = MirrorUpdate {
        state: Some(State::Stopped),
        owner: Some(String::new()),
        error: MirrorError::Clear,
        disable: true,
    };
    let none = TaskName::new("none").unwrap();
    let answers = bench.store.mirror_many(&[(none, stopped.clone()), (thread(), stopped)]).await;
    assert!(matches!(answers.as_slice(), [Ok(false), Ok(true)]));
    let read = bench.store.read_definition(&thread(), None).await.unwrap().unwrap();
    assert_eq!((read.mirror.owner, read.mirror.error, read.mirror.error_time), (None, None, None));
    assert!(!read.enabled);
}

async fn registering_is_an_upsert_that_leaves_disabled_alone(bench: Bench) {
    let put = async |source: &str| admin::put_thread(&bench.store, &thread(), source).await.unwrap();
    let outcome = |put, disabled| admin::PutOutcome { put, disabled };
    assert_eq!(put("a").await, outcome(Put::Created, false));
    assert_eq!(put("a").await, outcome(Put::Unchanged, false));
    assert_eq!(put("b").await, outcome(Put::Updated, false));
    let owner = request();
    bench.granted(&owner).await;
    assert!(bench.store.disable(&thread()).await.unwrap());
    assert_eq!(put("c").await, outcome(Put::Updated, true));
    assert_eq!(bench.hget(bench.store.keys.thread(&thread()), "Status").await.as_deref(), Some("disabled"));
    assert_eq!(bench.record(&thread()).await.nonce, Some(owner.nonce));
    assert_eq!(bench.store.index(TaskKind::Thread).await.unwrap(), [thread()]);

    // Further fields go with it, even a status of its own from the first moment.
    let other = TaskName::new("other").unwrap();
    let with = async |hang: &str| {
        let fields = [("Hang", hang.to_owned()), ("Status", "disabled".to_owned())];
        admin::put_thread_with(&bench.store, &other, "a", &fields).await.unwrap()
    };
    assert_eq!(with("5").await, outcome(Put::Created, true));
    assert_eq!(with("5").await, outcome(Put::Unchanged, true));
    assert_eq!(with("6").await, outcome(Put::Updated, true));
    let read = bench.store.read_definition(&other, None).await.unwrap().unwrap();
    assert_eq!(read.definition.unwrap().hang, Duration::from_millis(6));
    // An empty one goes: its default counts again.
    assert_eq!(with("").await, outcome(Put::Updated, true));
    assert_eq!(with("").await, outcome(Put::Unchanged, true));
    assert_eq!(bench.hget(bench.store.keys.thread(&other), "Hang").await, None);
}

async fn modules_are_a_part_of_the_source(bench: Bench) {
    let store = &bench.store;
    let modules = |files: &[(&str, &str)]| Modules {
        main: Some("jobs/a.js".into()),
        files: Arc::new(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).into())).collect()),
    };
    let put = async |source: &str, modules: &Modules| {
        let fields = modules.fields();
        let fields: Vec<_> = fields.iter().map(|(field, value)| (field.as_str(), value.clone())).collect();
        admin::put_thread_with(store, &thread(), source, &fields).await.unwrap().put
    };
    let read = async |known: Option<&Definition>| {
        store.read_definition(&thread(), known).await.unwrap().unwrap().definition.unwrap()
    };

    let source = "import './x.js'";
    let two = modules(&[("jobs/x.js", "x"), ("y.js", "\u{e4}\n")]);
    assert_eq!(put(source, &two).await, Put::Created);
    assert_eq!(put(source, &two).await, Put::Unchanged);
    let first = read(None).await;
    assert_eq!((&first.modules, &*first.source), (&two, source));
    assert_eq!(first.source_bytes(), source.len() + 1 + 3);
    assert_ne!(first.digest, SourceDigest::of(source));
    // Whoever knows the digest is not sent the texts.
    assert_eq!(
        read(Some(&Definition { source: "kept".into(), ..first.clone() })).await.source.as_ref(),
        "kept"
    );

    // A change of any part is another digest: of a text, a path, or the script's own place.
    let mut digests = vec![first.digest.clone()];
    for changed in [
        modules(&[("jobs/x.js", "x"), ("y.js", "y")]),
        modules(&[("jobs/x.js", "x"), ("z.js", "y")]),
        modules(&[("jobs/x.js", "x")]),
        Modules { main: Some("b.js".into()), ..modules(&[("jobs/x.js", "x")]) },
        Modules::default(),
    ] {
        assert_eq!(put(source, &changed).await, Put::Updated);
        let read = read(Some(&first)).await;
        assert_eq!(read.modules, changed);
        assert!(!digests.contains(&read.digest), "{changed:?}");
        digests.push(read.digest);
    }
    assert_eq!(digests.last(), Some(&SourceDigest::of(source)));
    let fields: Vec<String> = store.client.hkeys(store.keys.thread(&thread())).await.unwrap();
    assert!(!fields.iter().any(|field| field.contains("Module") || field == "SourceFile"), "{fields:?}");

    // Written by hand, one by one.
    let key = store.keys.thread(&thread());
    bench.hset(key.clone(), "Module:x.js", "by hand").await;
    let by_hand = read(None).await;
    assert_eq!(by_hand.modules.files.get("x.js").map(|text| &**text), Some("by hand"));
    assert_eq!(by_hand.modules.main, None);
    let shown = admin::show_thread(store, &thread()).await.unwrap().unwrap();
    assert_eq!(shown.modules.get("x.js").map(String::as_str), Some("by hand"));
    // They mean nothing to a source that imports nothing.
    bench.hset(key.clone(), "Source", "function main() {}").await;
    assert_eq!(read(None).await.digest, SourceDigest::of("function main() {}"));

    // What is no text, and what is too long, is said of this definition alone.
    bench.hset(key.clone(), "Source", source).await;
    let bytes = Value::Bytes(b"\xff\xfe".as_slice().into());
    let _: i64 = store.client.hset(key.clone(), ("Module:x.js", bytes)).await.unwrap();
    let error = store.read_definition(&thread(), None).await.unwrap().unwrap().definition.unwrap_err();
    assert!(error.to_string().contains("Module:x.js"), "{error}");
    bench.hset(key, "Module:x.js", &"x".repeat(16 << 20)).await;
    let error = store.read_definition(&thread(), None).await.unwrap().unwrap().definition.unwrap_err();
    assert!(error.to_string().contains("16 MiB"), "{error}");
}

async fn operators_see_and_steer_threads(bench: Bench) {
    let store = &bench.store;
    let name = thread();
    assert!(!admin::restart(store, &name).await.unwrap());
    assert!(!admin::set_enabled(store, &name, true).await.unwrap());
    assert!(!admin::remove(store, &name).await.unwrap());
    assert!(admin::list_threads(store).await.unwrap().is_empty());
    admin::put_thread(store, &name, "a").await.unwrap();
    let other = TaskName::new("zz").unwrap();
    admin::put_thread(store, &other, "b").await.unwrap();
    bench.hset(store.keys.thread(&other), "CallTimeout", "never").await;

    let owner = ClaimRequest { session: bench.session().await, ..request() };
    let epoch = bench.granted(&owner).await.epoch;
    store
        .mirror(&name, &MirrorUpdate { state: Some(State::Running), ..MirrorUpdate::default() })
        .await
        .unwrap();
    let rows = admin::list_threads(store).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.name.as_str()).collect::<Vec<_>>(), [name.as_str(), "zz"]);
    assert_eq!((rows[0].state, rows[0].status, rows[0].epoch), ("running", "enabled", epoch));
    assert_eq!((rows[0].owner.as_deref(), rows[0].source.as_deref()), (Some("w"), None));
    assert!(rows[1].error.as_deref().unwrap().starts_with("field CallTimeout: \"never\""));
    // Its owner has died, whatever stands in the definition.
    store.close(&owner.session).await.unwrap();
    let row = admin::show_thread(store, &name).await.unwrap().unwrap();
    assert_eq!((row.state, row.owner.as_deref(), row.source.as_deref()), ("stopped", None, Some("a")));

    bench.release(&owner.nonce, &Handover::crashed(Duration::from_secs(30), 2)).await;
    let row = admin::show_thread(store, &name).await.unwrap().unwrap();
    assert!(row.waits_ms.unwrap() > 20_000 && row.restarts == 2);
    assert!(admin::restart(store, &name).await.unwrap());
    let first = store.read_definition(&name, None).await.unwrap().unwrap().restart_at.unwrap();
    assert!(admin::restart(store, &name).await.unwrap());
    let second = store.read_definition(&name, None).await.unwrap().unwrap().restart_at.unwrap();
    assert_ne!(first, second);
    assert_eq!(admin::show_thread(store, &name).await.unwrap().unwrap().waits_ms, None);

    assert!(admin::set_enabled(store, &name, false).await.unwrap());
    assert_eq!(admin::show_thread(store, &name).await.unwrap().unwrap().status, "disabled");
    assert!(admin::set_enabled(store, &name, true).await.unwrap());
    assert_eq!(admin::show_thread(store, &name).await.unwrap().unwrap().status, "enabled");
    assert!(admin::remove(store, &name).await.unwrap());
    assert_eq!(admin::show_thread(store, &name).await.unwrap(), None);
    assert_eq!(store.index(TaskKind::Thread).await.unwrap(), [other]);
    let ttl: i64 = store.client.pttl(store.keys.claim(&name)).await.unwrap();
    assert!(ttl > 86_000_000, "{ttl}");
}

async fn a_scan_finds_everything(bench: Bench) {
    let store = &bench.store;
    // Another cluster, and keys of the user's own.
    for key in ["cc:Threads:x", "c2:Threads:x", "c:other", "d"] {
        bench.hset(key.to_owned(), "Source", "x").await;
    }
    let names: Vec<TaskName> = (0..1_200).map(|n| TaskName::new(format!("t{n:04}")).unwrap()).collect();
    for name in &names {
        bench.hset(store.keys.thread(name), "Source", "x").await;
    }
    let session = bench.session().await;
    bench.granted(&request()).await;
    store.write_row(&WorkerName::new("w").unwrap(), &[("State", "online".to_owned())], None).await.unwrap();
    bench.hset(store.keys.definition(TaskKind::Job, &thread()), "Source", "x").await;
    let found = store.scan().await.unwrap();
    assert_eq!(found.threads, names);
    assert_eq!(store.scan_definitions(TaskKind::Thread).await.unwrap(), names);
    assert_eq!((found.jobs.as_slice(), found.claims.as_slice()), (&[thread()][..], &[thread()][..]));
    assert_eq!((found.sessions.as_slice(), found.endpoints.len()), (&[session][..], 0));
    assert_eq!(found.workers, [WorkerName::new("w").unwrap()]);
    store.index_add(TaskKind::Thread, &names).await.unwrap();
    assert_eq!(distinct(store.index(TaskKind::Thread).await.unwrap()), names);
    store.index_remove(TaskKind::Thread, &names).await.unwrap();
    assert!(store.index(TaskKind::Thread).await.unwrap().is_empty());
}

async fn rows_of_workers_come_and_go(bench: Bench) {
    let store = &bench.store;
    let (ours, old) = (WorkerName::new("ours").unwrap(), WorkerName::new("old").unwrap());
    assert_eq!(store.read_row(&ours).await.unwrap(), None);
    let fields =
        [("Status", "enabled".to_owned()), ("Incarnation", "i".to_owned()), ("State", "online".to_owned())];
    store.write_row(&ours, &fields, None).await.unwrap();
    bench.hset(store.keys.worker(&old), "Heartbeat", 1).await;
    bench.hset(store.keys.worker(&old), "Status", "disabled").await;
    let rows = store.scan_rows().await.unwrap();
    assert_eq!(rows.len(), 2);
    let (old_row, our_row) = (&rows[0].1, &rows[1].1);
    assert!(our_row.is_ours() && !our_row.disabled && our_row.state.as_deref() == Some("online"));
    assert!(!old_row.is_ours() && old_row.disabled);
    let ttl = async || -> i64 { store.client.pttl(store.keys.worker(&ours)).await.unwrap() };
    assert_eq!(ttl().await, -1);
    let day = Duration::from_secs(86_400);
    store.write_row(&ours, &[("State", "offline".to_owned())], Some(day)).await.unwrap();
    assert!(ttl().await > 86_000_000);
    store.write_row(&ours, &fields, None).await.unwrap();
    assert_eq!(ttl().await, -1);
}

async fn scripts_survive_a_script_flush(bench: Bench) {
    let flush = async || {
        let command = CustomCommand::new_static("SCRIPT", ClusterHash::Random, false);
        let () = bench.store.client.custom(command, vec!["FLUSH"]).await.unwrap();
    };
    flush().await;
    let id = bench.session().await;
    bench.store.load_scripts().await.unwrap();
    flush().await;
    assert!(matches!(
        bench.store.renew(&id, Load { threads: 0, ready: true }).await.unwrap(),
        Renewal::Renewed { .. }
    ));
    flush().await;
    let answers = bench.store.claim_many(&[(thread(), request()), (thread(), request())]).await;
    assert!(matches!(answers.as_slice(), [Ok(Answer::Granted(_)), Ok(Answer::Held { .. })]), "{answers:?}");
}

async fn a_key_of_another_type_is_an_error_of_its_own(bench: Bench) {
    let bad = TaskName::new("bad").unwrap();
    let () = bench.store.client.sadd(bench.store.keys.claim(&bad), "x").await.unwrap();
    let answers = bench.store.claim_many(&[(thread(), request()), (bad, request())]).await;
    assert!(matches!(answers.as_slice(), [Ok(Answer::Granted(_)), Err(Error::Server(_))]), "{answers:?}");
}

async fn a_key_of_another_type_is_in_nobody_elses_way(bench: Bench) {
    let bad = TaskName::new("bad").unwrap();
    let owner = request();
    bench.granted(&owner).await;
    let () = bench.store.client.sadd(bench.store.keys.claim(&bad), "x").await.unwrap();
    let claims = bench.store.check(&[bad, thread()]).await.unwrap();
    assert_eq!((&claims[0], &claims[1].session), (&ClaimRecord::default(), &Some(owner.session)));

    let id = bench.session().await;
    let stray = SessionId::from("stray");
    let () = bench.store.client.sadd(bench.store.keys.session(&stray), "x").await.unwrap();
    let sample = bench.store.sample(&[stray, id.clone()]).await.unwrap();
    assert!(sample.sessions[0].1.is_none() && sample.sessions[1].1.is_some(), "{sample:?}");
    assert_eq!(sample.index, std::slice::from_ref(&id));

    // Who is named by a claim is watched even if the index is lost.
    let () = bench.store.client.set(bench.store.keys.sessions(), "x", None, None, false).await.unwrap();
    let sample = bench.store.sample(&[id]).await.unwrap();
    assert!(sample.index.is_empty() && sample.sessions[0].1.is_some(), "{sample:?}");
}

async fn other_fields_of_a_claim_are_left_alone(bench: Bench) {
    let key = bench.store.keys.claim(&thread());
    bench.hset(key.clone(), "Srv", "stamp").await;
    let owner = request();
    bench.granted(&owner).await;
    bench.release(&owner.nonce, &Handover::crashed(Duration::ZERO, 1)).await;
    bench.store.pardon(&thread()).await.unwrap();
    assert_eq!(bench.hget(key, "Srv").await.as_deref(), Some("stamp"));
}

/// Out of memory, Redis refuses what would take more of it; ownership must go on all the same.
#[tokio::test]
async fn scripts_work_when_redis_is_out_of_memory() {
    let bench = Bench::real().await;
    let store = &bench.store;
    let (running, leaving) = (bench.session().await, bench.session().await);
    let owner = ClaimRequest { session: leaving.clone(), ..request() };
    let buried = bench.session().await;
    bench.hset(store.keys.session(&buried), "Expiry", 1).await;
    bench.hset(store.keys.thread(&thread()), "Source", "a").await;
    ticks::before_all(&bench).await;
    store.load_scripts().await.unwrap();
    let config = CustomCommand::new_static("CONFIG", ClusterHash::Random, false);
    for (name, value) in [("maxmemory-policy", "noeviction"), ("maxmemory", "1")] {
        let () = store.client.custom(config.clone(), vec!["SET", name, value]).await.unwrap();
    }
    let refused: Result<(), _> = store.client.hset("plain", ("a", "b")).await;
    assert!(refused.unwrap_err().details().starts_with("OOM"));

    let id = bench.session().await;
    let load = Load { threads: 1, ready: true };
    assert!(matches!(store.renew(&running, load).await.unwrap(), Renewal::Renewed { .. }));
    let suspect = poison::suspect(&Task::thread(&thread()));
    store.suspect(&running, std::slice::from_ref(&suspect)).await.unwrap();
    poison::all_of_it(&bench).await;
    bench.granted(&owner).await;
    assert!(matches!(store.bury(&buried, 1, 1).await.unwrap(), Burial::Buried(_)));
    store.close(&id).await.unwrap();
    store.read_definition(&thread(), None).await.unwrap().unwrap();
    let update =
        MirrorUpdate { state: Some(State::Running), owner: Some("w".to_owned()), ..Default::default() };
    assert!(store.mirror(&thread(), &update).await.unwrap());
    store.check(&[thread()]).await.unwrap();
    let prefer = Some((running, Duration::from_secs(1)));
    let how = Handover { prefer, retire: true, ..Handover::crashed(Duration::from_secs(1), 1) };
    assert_eq!(bench.release(&owner.nonce, &how).await, Released::Released);
    assert_eq!(bench.release(&Nonce::random(), &how).await, Released::NotHeld);
    store.pardon(&thread()).await.unwrap();
    store.retire(&thread(), None).await.unwrap();
    store.forget(&leaving).await.unwrap();
    let worker = WorkerName::new("w").unwrap();
    store.write_row(&worker, &[("State", "online".to_owned())], Some(Duration::from_secs(1))).await.unwrap();
    store.index_add(TaskKind::Thread, &[thread()]).await.unwrap();
    store.put(&thread(), "b").await.unwrap();
    store.edit(TaskKind::Thread, &thread(), &[("Status", "enabled".to_owned())]).await.unwrap();
    ticks::all_of_it(&bench).await;
}

/// On a Redis Cluster every script goes to the node that has its one key, and a SCAN to all nodes.
#[tokio::test]
async fn a_redis_cluster_serves_as_well() {
    let bench = Bench::cluster().await;
    let store = &bench.store;
    store.load_scripts().await.unwrap();
    assert_eq!(store.masters().len(), 2);
    let names: Vec<TaskName> = (100..400).map(|n| TaskName::new(format!("t{n}")).unwrap()).collect();
    for name in &names {
        admin::put_thread(store, name, "a").await.unwrap();
    }
    assert_eq!(store.scan_definitions(TaskKind::Thread).await.unwrap(), names);
    let session = bench.session().await;
    assert_eq!(store.sample(std::slice::from_ref(&session)).await.unwrap().sessions.len(), 1);
    for master in store.masters().into_iter().flatten() {
        let flush = CustomCommand::new_static("SCRIPT", ClusterHash::Random, false);
        let () = store.client.with_cluster_node(master).custom(flush, vec!["FLUSH"]).await.unwrap();
    }
    let claims: Vec<_> = names
        .iter()
        .map(|name| (name.clone(), ClaimRequest { session: session.clone(), ..request() }))
        .collect();
    let answers = store.claim_many(&claims).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(Answer::Granted(_)))), "{answers:?}");
    let asked: Vec<_> = names.iter().map(|name| (name.clone(), None)).collect();
    assert!(store.read_definitions(&asked).await.iter().all(|read| matches!(read, Ok(Some(_)))));
    let rows = admin::list_threads(store).await.unwrap();
    assert!(rows.len() == names.len() && rows.iter().all(|row| row.owner.as_deref() == Some("w")));
    store.server_time().await.unwrap();
    assert_eq!(store.scan().await.unwrap().claims, names);
    for name in &names {
        assert!(store.adopt(name, None, "d", None).await.unwrap().0);
    }
    assert_eq!(store.scan_jobs().await.unwrap().counted, names);
    assert!(store.read_ticks(&names).await.into_iter().all(|ticks| ticks.unwrap().def.is_some()));
    ticks::before_all(&bench).await;
    ticks::all_of_it(&bench).await;
}

/// A refusal writes nothing, and deleting a field that is not there wakes nobody.
#[tokio::test]
async fn refusals_wake_no_watcher() {
    let bench = Bench::real().await;
    let owner = request();
    bench.granted(&owner).await;
    let changes = async || -> u64 {
        let info = CustomCommand::new_static("INFO", ClusterHash::Random, false);
        let text: String = bench.store.client.custom(info, vec!["persistence"]).await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:")).unwrap();
        line.parse().unwrap()
    };
    ticks::before_all(&bench).await;
    let before = changes().await;
    ticks::refusals(&bench).await;
    assert!(matches!(bench.claim(&request()).await, Answer::Held { .. }));
    bench.granted(&owner).await;
    assert_eq!(bench.release(&Nonce::random(), &Handover::free()).await, Released::NotHeld);
    bench.store.pardon(&thread()).await.unwrap();
    bench.store.retire(&thread(), None).await.unwrap();
    bench.store.renew(&SessionId::random(), Load { threads: 0, ready: true }).await.unwrap();
    bench.store.close(&SessionId::random()).await.unwrap();
    assert_eq!(changes().await, before);
}
