//! From the path of a request to what is served: a table of all paths, and the sources that were read, both kept true by
//! the cluster's news.
//!
//! ```text
//!            table says no ─────────────────────────────────────► 404, and nothing is asked
//!  request ─► table says yes ─► kept, and still true ───────────► served
//!                              └► else one reads, others wait ──► served · gone: the table forgets it · Redis is away
//! ```
//!
//! What must hold:
//! - Where changes are pushed, what is kept is true until news says otherwise. Elsewhere it is served at most
//!   [`Config::fresh_for`] after the reading of it began.
//! - A reading that began before a change is not taken for one of what came after it.
//! - One reading at a time for one path. It goes on if whoever waits for it has gone.
//! - What is kept is bounded in bytes; the least recently used goes first.
//! - While Redis is away, what is kept is served on, however old it is. What is not kept is not known, and not missing.

mod table;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use hats_cluster::name::EndpointPath;
use hats_cluster::records::Endpoint;
use hats_cluster::{EndpointFeed, EndpointNews};
use lru::LruCache;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::admission::PagePlaces;
use crate::config::Config;
use crate::content::Served;
use crate::definitions::Definitions;
use crate::message::Target;

pub(crate) use self::table::segments;
use self::table::{Match, Table};

/// After a reading that failed, nobody tries for so long: each try may take as long as Redis does not answer.
const AWAY: Duration = Duration::from_secs(1);
/// Beside its source, for what is made of it and the tables.
const ENTRY_BYTES: usize = 4096;

/// What a path is, as far as that is known. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Routes(Arc<Inner>);

struct Inner {
    definitions: Box<dyn Definitions>,
    /// What readings run on. Whoever asks may run on another.
    io: Handle,
    config: Config,
    state: Mutex<State>,
    /// Whether the table has all paths that there are.
    is_complete: watch::Sender<bool>,
}

struct State {
    table: Table,
    kept: LruCache<EndpointPath, Slot>,
    bytes: usize,
    /// Counts the changes that there were or may have been.
    changes: u64,
    /// For the scripts of each path, as long as any version of it is known or runs.
    places: HashMap<EndpointPath, Weak<PagePlaces>>,
    /// Changes are pushed.
    pushed: bool,
    /// Redis did not answer; until then nobody asks again.
    away_until: Option<Instant>,
}

/// What is known of one path.
struct Slot {
    /// [`State::changes`] at the last change that this may be about.
    version: u64,
    known: Option<Known>,
    flight: Option<Flight>,
}

#[derive(Clone)]
struct Known {
    served: Arc<Served>,
    /// None: it is malformed.
    endpoint: Option<Endpoint>,
    version: u64,
    /// When the reading of it began.
    read_at: Instant,
}

/// A reading that is under way.
struct Flight {
    version: u64,
    landed: watch::Receiver<Option<Landed>>,
}

#[derive(Clone)]
enum Landed {
    Served(Arc<Served>),
    Gone,
    Away,
}

/// What a path is.
pub(crate) enum Lookup {
    /// This, with the parameters of the path.
    Found(Arc<Served>, Vec<(String, String)>),
    /// There is no such endpoint.
    Missing,
    /// Redis has not said.
    Unknown,
}

enum Step {
    Served(Arc<Served>),
    Wait(watch::Receiver<Option<Landed>>),
    Away,
}

impl Routes {
    /// Called inside a tokio runtime, on which readings then run.
    pub(crate) fn new(definitions: impl Definitions, config: &Config) -> Self {
        Self(Arc::new(Inner {
            definitions: Box::new(definitions),
            io: Handle::current(),
            config: config.clone(),
            state: Mutex::new(State {
                table: Table::default(),
                kept: LruCache::unbounded(),
                bytes: 0,
                changes: 0,
                places: HashMap::new(),
                pushed: false,
                away_until: None,
            }),
            is_complete: watch::Sender::new(false),
        }))
    }

    /// What is served at a path.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(crate) async fn find(&self, target: &Target) -> Lookup {
        loop {
            let Some(Match { path, params }) = self.matching(target).await else {
                return if *self.0.is_complete.borrow() { Lookup::Missing } else { Lookup::Unknown };
            };
            match self.read(&path).await {
                Landed::Served(served) => return Lookup::Found(served, params),
                // The table has forgotten it; another path may have stood behind it.
                Landed::Gone => {}
                Landed::Away => return Lookup::Unknown,
            }
        }
    }

    /// The endpoint that a path means. A path that is not in the table may be in the next, which is waited for.
    async fn matching(&self, target: &Target) -> Option<Match> {
        let found = self.state().table.find(target);
        if found.is_some() || *self.0.is_complete.borrow() {
            return found;
        }
        let mut is_complete = self.0.is_complete.subscribe();
        let patience = self.0.config.queue_timeout;
        let _ = tokio::time::timeout(patience, is_complete.wait_for(|is_complete| *is_complete)).await;
        self.state().table.find(target)
    }

    async fn read(&self, path: &EndpointPath) -> Landed {
        let step = self.state().step(path, self);
        match step {
            Step::Served(served) => Landed::Served(served),
            Step::Away => Landed::Away,
            Step::Wait(mut landed) => match landed.wait_for(Option::is_some).await {
                Ok(landed) => landed.clone().unwrap_or(Landed::Away),
                // The runtime ends.
                Err(_) => Landed::Away,
            },
        }
    }

    /// Keeps the table and what is kept true, for as long as there is news.
    pub(crate) async fn follow(self, feed: EndpointFeed) {
        let EndpointFeed { mut news, mut pushed } = feed;
        self.state().pushed = *pushed.borrow_and_update();
        let mut more_pushed = true;
        loop {
            tokio::select! {
                // What happened before changes were pushed is not told again, so the order matters.
                biased;
                changed = pushed.changed(), if more_pushed => {
                    more_pushed = changed.is_ok();
                    let now = more_pushed && *pushed.borrow_and_update();
                    let mut state = self.state();
                    state.pushed = now;
                    // What was read before may have changed unseen.
                    state.doubt_all();
                }
                told = news.recv() => match told {
                    Some(EndpointNews::Found(paths)) => {
                        self.state().found(paths);
                        self.0.is_complete.send_replace(true);
                    }
                    Some(EndpointNews::Changed(path)) => self.state().changed(path),
                    Some(EndpointNews::Gap) => {
                        self.0.is_complete.send_replace(false);
                        self.state().doubt_all();
                    }
                    None => break,
                },
            }
        }
        self.state().pushed = false;
    }

    /// Starts a reading.
    fn fly(&self, path: EndpointPath, version: u64, known: Option<Known>) -> watch::Receiver<Option<Landed>> {
        let (tell, landed) = watch::channel(None);
        let routes = self.clone();
        // Ends with the reading, which the store bounds in time, whoever waits for it.
        self.0.io.spawn(async move {
            let read_at = Instant::now();
            let endpoint = known.as_ref().and_then(|known| known.endpoint.clone());
            let read = routes.0.definitions.read(path.clone(), endpoint).await;
            let outcome = match read {
                Ok(None) => routes.state().gone(&path, version),
                Ok(Some(read)) => {
                    let served = match &known {
                        // As it was: what was made of it is still good.
                        Some(known)
                            if known.endpoint.is_some() && known.endpoint.as_ref() == read.as_ref().ok() =>
                        {
                            Some(known.served.clone())
                        }
                        _ => {
                            let (path, read) = (path.clone(), read.clone());
                            let (limits, key) = (routes.0.config.limits, routes.0.definitions.key(&path));
                            let places = routes.state().places(&path, routes.0.config.concurrency);
                            let made = tokio::task::spawn_blocking(move || {
                                Served::new(path, key, places, read.as_ref(), &limits)
                            });
                            made.await.ok().map(Arc::new)
                        }
                    };
                    match served {
                        Some(served) => {
                            let known = Known { served, endpoint: read.ok(), version, read_at };
                            routes.state().landed(&path, known, routes.0.config.cache_bytes)
                        }
                        None => routes.state().away(&path, version),
                    }
                }
                Err(error) => {
                    tracing::debug!(task = %path, kind = "endpoint", %error, "an endpoint cannot be read");
                    routes.state().away(&path, version)
                }
            };
            let _ = tell.send(Some(outcome));
        });
        landed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that holds this lock can panic half-way through a change.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What to do about a request for this path now.
    fn step(&mut self, path: &EndpointPath, routes: &Routes) -> Step {
        let (now, fresh_for) = (Instant::now(), routes.0.config.fresh_for);
        let (pushed, is_away) = (self.pushed, self.away_until.is_some_and(|until| now < until));
        let version = self.changes;
        let slot = self.kept.get_or_insert_mut(path.clone(), || Slot { version, known: None, flight: None });
        if let Some(known) = &slot.known {
            let is_true = known.version == slot.version && (pushed || now - known.read_at < fresh_for);
            if is_true || is_away {
                return Step::Served(known.served.clone());
            }
        }
        if is_away {
            return Step::Away;
        }
        if let Some(flight) = &slot.flight
            && flight.version == slot.version
        {
            return Step::Wait(flight.landed.clone());
        }
        let version = slot.version;
        let landed = routes.fly(path.clone(), version, slot.known.clone());
        slot.flight = Some(Flight { version, landed: landed.clone() });
        Step::Wait(landed)
    }

    /// For the scripts of this path, be they of a version that is no longer served.
    fn places(&mut self, path: &EndpointPath, all: usize) -> Arc<PagePlaces> {
        if let Some(places) = self.places.get(path).and_then(Weak::upgrade) {
            return places;
        }
        if self.places.len() > 2 * self.kept.len() {
            self.places.retain(|_, places| places.strong_count() > 0);
        }
        let places = Arc::new(PagePlaces::of(all));
        self.places.insert(path.clone(), Arc::downgrade(&places));
        places
    }

    /// These are all the paths that there are.
    fn found(&mut self, paths: Vec<EndpointPath>) {
        self.table = Table::new(paths);
        let gone: Vec<EndpointPath> = self
            .kept
            .iter()
            .map(|(path, _)| path)
            .filter(|path| !self.table.contains(path))
            .cloned()
            .collect();
        gone.iter().for_each(|path| self.forget(path));
    }

    /// This one is new, other than it was, or gone.
    fn changed(&mut self, path: EndpointPath) {
        self.changes += 1;
        if let Some(slot) = self.kept.peek_mut(&path) {
            slot.version = self.changes;
        }
        self.table.insert(path);
    }

    fn doubt_all(&mut self) {
        self.changes += 1;
        self.kept.iter_mut().for_each(|(_, slot)| slot.version = self.changes);
    }

    /// A reading says what there is.
    fn landed(&mut self, path: &EndpointPath, known: Known, most: usize) -> Landed {
        self.away_until = None;
        let served = known.served.clone();
        // Where it was dropped meanwhile nobody says whether this is still true.
        if let Some(slot) = self.kept.peek_mut(path) {
            if slot.flight.as_ref().is_some_and(|flight| flight.version == known.version) {
                slot.flight = None;
            }
            if slot.known.as_ref().is_none_or(|before| before.version <= known.version) {
                self.bytes += known.bytes();
                self.bytes -= slot.known.replace(known).map_or(0, |before| before.bytes());
            }
        }
        while self.bytes > most && self.kept.len() > 1 {
            match self.kept.pop_lru() {
                Some((_, slot)) => self.bytes -= slot.known.map_or(0, |known| known.bytes()),
                None => break,
            }
        }
        Landed::Served(served)
    }

    /// A reading says that there is nothing.
    fn gone(&mut self, path: &EndpointPath, version: u64) -> Landed {
        self.away_until = None;
        // If there was a change meanwhile, or it was dropped and nobody knows, whoever asks reads once more.
        if self.kept.peek(path).is_some_and(|slot| slot.version == version) {
            self.table.remove(path);
            self.forget(path);
        }
        Landed::Gone
    }

    /// A reading failed.
    fn away(&mut self, path: &EndpointPath, version: u64) -> Landed {
        self.away_until = Some(Instant::now() + AWAY);
        let Some(slot) = self.kept.peek_mut(path) else { return Landed::Away };
        if slot.flight.as_ref().is_some_and(|flight| flight.version == version) {
            slot.flight = None;
        }
        match &slot.known {
            Some(known) => Landed::Served(known.served.clone()),
            None => {
                self.forget(path);
                Landed::Away
            }
        }
    }

    fn forget(&mut self, path: &EndpointPath) {
        if let Some(slot) = self.kept.pop(path) {
            self.bytes -= slot.known.map_or(0, |known| known.bytes());
        }
    }
}

impl Known {
    fn bytes(&self) -> usize {
        // The source, and what was made of it.
        self.endpoint.as_ref().map_or(0, |endpoint| 2 * endpoint.source_bytes()) + ENTRY_BYTES
    }
}

#[cfg(test)]
mod tests;
