//! Looks at what stuck sessions hold and who waits for them, over a connection of its own.
//!
//! Sessions never wait for it: a session that is stuck leaves a [`Subscription`] and goes on; what was seen comes into the
//! watch and wakes the session's task. One task asks one question for all who are watched, never more often than the
//! interval, and only while an [`ObservationRequest`] is due. When the server cannot be asked, nothing is seen, and nothing
//! is known.

mod answer;
mod inspection;
mod notices;
mod queue;
mod server;
mod text;
mod tls;
mod waits;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    task::Waker,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant as Clock, sleep, sleep_until, timeout},
};

pub use self::{
    inspection::{Holder, InspectionError, PreparedTransaction, holders, prepared},
    notices::attend,
    server::ServerError,
};
use self::{
    server::{QUESTION_TIMEOUT, Server},
    waits::Waits,
};
use crate::{
    config::{Config, Dsn, ObserverSettings, Pooler},
    policy::format_duration,
    session::{ObservationRequest, damage::Damage, event::Who},
};

/// A handle to the observer. Clones are cheap and share what is watched.
#[derive(Clone, Debug, Default)]
pub struct Observer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// In microseconds; 0 while there is no observer.
    interval: AtomicU64,
    /// What became of the last look: 0 before the first one, 1 when it failed, 2 when it succeeded.
    sight: AtomicU8,
    waits: Mutex<Waits>,
    watches: Mutex<Watches>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Watches {
    last: u64,
    entries: HashMap<u64, Entry>,
}

/// A session that is asked about. A process id counts only with the database and role that the server gave the client: so
/// no stranger is taken for a session, be it that the id was given anew or that this is another server.
#[derive(Clone, Debug)]
struct Asked {
    server_pid: i32,
    database: Arc<str>,
    user: Arc<str>,
}

/// Whether a look showed that the observer sees.
enum News {
    Seen,
    Nothing,
}

/// A watched session.
#[derive(Debug)]
struct Entry {
    asked: Asked,
    /// Until when it has to be looked at; `None` when it has been.
    due: Option<Instant>,
    continuous: bool,
    seen: Option<Arc<Damage>>,
    waker: Waker,
}

/// A session's wish to be looked at, until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    observer: Observer,
    id: u64,
    look: ObservationRequest,
}

impl Subscription {
    /// What it was made for.
    pub fn look(&self) -> ObservationRequest {
        self.look
    }

    /// What was seen since the last call.
    pub fn take(&self) -> Option<Arc<Damage>> {
        self.observer
            .watches()
            .entries
            .get_mut(&self.id)?
            .seen
            .take()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.observer.watches().entries.remove(&self.id);
    }
}

impl Observer {
    /// How much time lies between two looks; `None` while there is no observer.
    pub fn interval(&self) -> Option<Duration> {
        match self.0.interval.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// Whether the last look succeeded; `None` while there is no observer.
    pub fn is_up(&self) -> Option<bool> {
        self.interval()?;
        Some(self.0.sight.load(Ordering::Relaxed) == SEES)
    }

    /// For how long others have waited for stuck sessions, as far as looks have shown.
    pub fn blocked(&self) -> Duration {
        self.waits().total()
    }

    /// Has a session looked at; `waker` is woken when it was. `None` for one whose process the server has not named.
    pub fn watch(
        &self,
        who: &Who,
        look: ObservationRequest,
        waker: &Waker,
    ) -> Option<Subscription> {
        let entry = Entry {
            asked: Asked {
                server_pid: who.server_pid?,
                database: Arc::clone(&who.database),
                user: Arc::clone(&who.user),
            },
            due: Some(look.by),
            continuous: look.continuous,
            seen: None,
            waker: waker.clone(),
        };
        let mut watches = self.watches();
        watches.last += 1;
        let id = watches.last;
        watches.entries.insert(id, entry);
        drop(watches);
        self.0.changed.notify_one();
        Some(Subscription {
            observer: self.clone(),
            id,
            look,
        })
    }

    /// Looks while there is a subscription, for as long as there are settings.
    pub async fn run(self, mut config: watch::Receiver<Arc<Config>>) {
        loop {
            let settings = settings(&config.borrow_and_update());
            let interval = settings.dsn.as_ref().map_or(0, |_| {
                u64::try_from(settings.interval.as_micros()).unwrap_or(u64::MAX)
            });
            self.0.interval.store(interval, Ordering::Relaxed);
            tokio::select! {
                changed = config.changed() => if changed.is_err() {
                    return;
                },
                never = self.look_on(&settings) => match never {},
            }
        }
    }

    async fn look_on(&self, settings: &ObserverSettings) -> Infallible {
        let Some(dsn) = &settings.dsn else {
            return std::future::pending().await;
        };
        let mut server = None;
        let mut failing = None;
        let mut last = None;
        loop {
            let look = self.look(&mut server, dsn, &mut last, failing.is_none());
            let result = timeout(ANSWER_TIMEOUT, look).await;
            let result = result.unwrap_or(Err(LookError::TooLate));
            let sight = if result.is_ok() { SEES } else { BLIND };
            self.0.sight.store(sight, Ordering::Relaxed);
            match result {
                Ok(News::Seen) => {
                    if failing.take().is_some() {
                        tracing::info!("the observer sees locks again");
                    }
                }
                Ok(News::Nothing) => {}
                Err(error) => {
                    // Who refuses one question may answer the next.
                    server = server.filter(|_| matches!(error, LookError::Server(_)));
                    let pause = failing.map_or(FIRST_PAUSE, |pause: Duration| pause * 2);
                    let pause = pause.min(LONGEST_PAUSE);
                    if failing.replace(pause).is_none() {
                        tracing::warn!(%error, "the observer sees no locks until this is mended");
                    }
                    sleep(pause).await;
                }
            }
            self.due(last.map(|last| last + settings.interval)).await;
        }
    }

    /// Connects if need be, and asks about everyone who is watched.
    async fn look(
        &self,
        server: &mut Option<Server>,
        dsn: &Dsn,
        last: &mut Option<Clock>,
        tell: bool,
    ) -> Result<News, LookError> {
        let mut news = News::Nothing;
        let server = match server {
            Some(server) if !server.is_closed() => server,
            _ => {
                *server = None;
                let connected = Server::connect(dsn).await?;
                let sees_statements = connected.sees_others;
                if tell {
                    tracing::info!(sees_statements, "the observer is connected");
                }
                news = News::Seen;
                server.insert(connected)
            }
        };
        let asked = self.asked();
        if asked.is_empty() {
            return Ok(news);
        }
        let now = Clock::now();
        *last = Some(now);
        let pids: Vec<_> = asked.iter().map(|one| one.server_pid).collect();
        let damage = server.ask(&pids).await?.damage(now.into_std(), &asked);
        if damage.is_empty() && self.misses(&pids) {
            return Err(LookError::Elsewhere(pids.len()));
        }
        self.deliver(damage);
        Ok(News::Seen)
    }

    /// Those who still have to be looked at, or always.
    fn asked(&self) -> Vec<Asked> {
        let watches = self.watches();
        let due = watches.entries.values().filter(|entry| entry.due.is_some());
        due.map(|entry| entry.asked.clone()).collect()
    }

    /// Whether a session that was asked about is still there.
    fn misses(&self, pids: &[i32]) -> bool {
        let watches = self.watches();
        let mut left = watches.entries.values();
        left.any(|entry| pids.contains(&entry.asked.server_pid))
    }

    fn deliver(&self, damage: HashMap<i32, Damage>) {
        let damage: HashMap<_, _> = damage
            .into_iter()
            .map(|(pid, damage)| (pid, Arc::new(damage)))
            .collect();
        let seen = damage.values().map(|damage| &**damage);
        self.waits().add(seen, Clock::now().into_std());
        for entry in self.watches().entries.values_mut() {
            let Some(damage) = damage.get(&entry.asked.server_pid) else {
                continue;
            };
            if entry.due.is_some_and(|due| due <= damage.at) && !entry.continuous {
                entry.due = None;
            }
            entry.seen = Some(Arc::clone(damage));
            entry.waker.wake_by_ref();
        }
    }

    /// Waits until an observation is due, and not before `earliest`.
    async fn due(&self, earliest: Option<Clock>) {
        if let Some(earliest) = earliest {
            sleep_until(earliest).await;
        }
        loop {
            let due = self
                .watches()
                .entries
                .values()
                .filter_map(|entry| entry.due)
                .min();
            let is_due = async {
                match due {
                    Some(due) => sleep_until(due.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = is_due => return,
                () = self.0.changed.notified() => {}
            }
        }
    }

    fn waits(&self) -> MutexGuard<'_, Waits> {
        self.0.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.0
            .watches
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The settings in force: a pooler hides the process ids by which sessions are known to the server.
fn settings(config: &Config) -> ObserverSettings {
    let mut settings = config.observer.clone();
    if config.upstream.pooler != Pooler::None && settings.dsn.take().is_some() {
        tracing::warn!(
            "there is no observer behind a pooler, which hides the server's process ids"
        );
    }
    settings
}

/// Why nothing was seen.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Server(#[from] ServerError),
    #[error("no answer within {}", format_duration(ANSWER_TIMEOUT))]
    TooLate,
    #[error(
        "none of the {0} sessions asked about is there: does `observer.dsn` lead to the server behind `upstream.address`?"
    )]
    Elsewhere(usize),
}

/// What became of the last look.
const BLIND: u8 = 1;
const SEES: u8 = 2;

/// How long connecting and asking may take together.
const ANSWER_TIMEOUT: Duration = QUESTION_TIMEOUT.saturating_add(Duration::from_secs(2));

/// The pauses between attempts while the server cannot be asked: each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
