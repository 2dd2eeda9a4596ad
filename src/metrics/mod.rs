//! What is counted, for Prometheus: every series, with its help, in Prometheus' text format.
//!
//! Counting takes no lock on the path of a byte and none on that of a transaction. What only a look tells, such as where
//! sessions stand, is put together when someone asks.

mod bounded;
mod sessions;
mod traffic;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus::{
    Counter, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry,
    TextEncoder, core::Collector,
};

use self::{bounded::Bounded, sessions::Sessions};
use crate::session::{
    CloseReason, Snapshot,
    event::{Incident, Outcome, TransactionOutcome, TransactionRecord},
};

pub use traffic::Traffic;

/// The bounds of the histograms' buckets, in seconds.
const BUCKETS: [f64; 17] = [
    0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 30.0, 60.0, 90.0, 120.0,
    300.0,
];

/// How many label sets of incidents there can be, before the rules of others are `other`.
const INCIDENT_SETS: usize = 500;

/// How many reasons for a refused release are told apart.
const REFUSAL_REASONS: usize = 50;

/// Why a server gave no session, or was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// Its name stands for no address.
    Resolve,
    /// It refused the connection.
    Refused,
    /// It did not answer in time.
    Timeout,
    /// TLS failed, or its certificate did not fit.
    Tls,
    /// A connection that was open failed.
    Lost,
    /// Anything else.
    Other,
}

impl UpstreamError {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Resolve,
        Self::Refused,
        Self::Timeout,
        Self::Tls,
        Self::Lost,
        Self::Other,
    ];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Lost => "lost",
            Self::Other => "other",
        }
    }
}

/// What others count, as of now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Readings {
    /// Lines and events that the audit has dropped.
    pub audit_dropped: u64,
    /// Whether the observer's last look succeeded; `None` where there is no observer.
    pub observer_up: Option<bool>,
    /// How long others have waited for stuck sessions, as far as the observer has seen, in seconds.
    pub blocked_seconds: f64,
}

/// What was done for the sessions of a database since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Transactions that ended in any way, those of single statements included.
    pub transactions: u64,
    /// Statements, or lists of them, that were answered.
    pub queries: u64,
    /// Bytes that came from clients.
    pub bytes_from_clients: u64,
    /// Bytes that came from servers.
    pub bytes_from_servers: u64,
    /// How long those transactions were open.
    pub in_transaction: Duration,
    /// The part of it in which servers worked.
    pub busy: Duration,
}

/// How many databases have totals of their own; a client chooses the name, but the server has let it in.
const MOST_DATABASES: usize = 100;

/// A handle to everything that is counted. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Registry,
    wants_transactions: AtomicBool,
    opened: IntCounter,
    closed: IntCounterVec,
    incidents: IntCounterVec,
    refusals: IntCounterVec,
    folded: IntCounterVec,
    transactions: Vec<(TransactionOutcome, IntCounter)>,
    durations: Histogram,
    longest_waits: Histogram,
    upstream_errors: Vec<IntCounter>,
    accept_errors: IntCounter,
    scraped: Mutex<Scraped>,
}

/// What is brought up to date when someone asks.
#[derive(Debug)]
struct Scraped {
    /// Of each thread, by database.
    traffic: Vec<(Option<Arc<str>>, Arc<Traffic>)>,
    sessions: Sessions,
    incident_sets: Bounded,
    refusal_reasons: Bounded,
    bytes: IntCounterVec,
    audit_dropped: IntCounter,
    blocked_seconds: Counter,
    observer_up: IntGauge,
    /// Whether the registry has `observer_up`, which it has while there is an observer.
    observed: bool,
}

impl Metrics {
    /// All series, at zero.
    ///
    /// # Errors
    /// Two series have one name, or one has no valid name.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let transactions = counters(&registry, TRANSACTIONS)?;
        let transactions = TransactionOutcome::ALL
            .map(|outcome| (outcome, transactions.with_label_values(&[outcome.name()])));
        let errors = counters(&registry, UPSTREAM_ERRORS)?;
        let closed = counters(&registry, SESSIONS_CLOSED)?;
        for reason in CloseReason::ALL {
            closed.with_label_values(&[reason.name()]);
        }
        let info = Gauge::with_opts(
            Opts::new("pgidle_build_info", "Always 1; the version is a label.")
                .const_label("version", env!("CARGO_PKG_VERSION")),
        )?;
        info.set(1.0);
        registered(&registry, info)?;
        let shared = Shared {
            wants_transactions: AtomicBool::new(false),
            opened: counter(&registry, SESSIONS_OPENED)?,
            closed,
            incidents: counters(&registry, INCIDENTS)?,
            refusals: counters(&registry, RELEASE_REFUSED)?,
            folded: counters(&registry, LABEL_SETS_OTHER)?,
            transactions: transactions.into(),
            durations: histogram(&registry, TRANSACTION_SECONDS)?,
            longest_waits: histogram(&registry, IDLE_SECONDS)?,
            upstream_errors: UpstreamError::ALL
                .map(|error| errors.with_label_values(&[error.name()]))
                .into(),
            accept_errors: counter(&registry, ACCEPT_ERRORS)?,
            scraped: Mutex::new(Scraped {
                traffic: Vec::new(),
                sessions: Sessions::new(&registry)?,
                incident_sets: Bounded::new(INCIDENT_SETS),
                refusal_reasons: Bounded::new(REFUSAL_REASONS),
                bytes: counters(&registry, BYTES)?,
                audit_dropped: counter(&registry, AUDIT_DROPPED)?,
                blocked_seconds: registered(
                    &registry,
                    Counter::new(BLOCKED_SECONDS.0, BLOCKED_SECONDS.1)?,
                )?,
                observer_up: IntGauge::new(OBSERVER_UP.0, OBSERVER_UP.1)?,
                observed: false,
            }),
            registry,
        };
        for series in [SESSIONS, INCIDENTS, RELEASE_REFUSED] {
            shared.folded.with_label_values(&[series.0]);
        }
        Ok(Self(Arc::new(shared)))
    }

    /// Has transactions counted from now on: that costs each of them a record, which is free where the audit has it anyway.
    pub fn want_transactions(&self) {
        self.0.wants_transactions.store(true, Ordering::Relaxed);
    }

    /// Whether transactions are counted.
    pub fn wants_transactions(&self) -> bool {
        self.0.wants_transactions.load(Ordering::Relaxed)
    }

    /// What a thread counts in, for sessions that have no database yet.
    pub fn traffic(&self) -> Arc<Traffic> {
        self.scraped().new_traffic(None)
    }

    /// What a thread counts in for the sessions of a database; `None` where there are too many.
    pub fn traffic_of(&self, database: &str) -> Option<Arc<Traffic>> {
        let mut scraped = self.scraped();
        let names = scraped.traffic.iter().filter_map(|(name, _)| name.clone());
        let names: BTreeSet<_> = names.collect();
        let name = match names.get(database) {
            Some(known) => Arc::clone(known),
            None if names.len() < MOST_DATABASES => database.into(),
            None => return None,
        };
        Some(scraped.new_traffic(Some(name)))
    }

    /// A session has its server.
    pub fn opened(&self) {
        self.0.opened.inc();
    }

    /// A session is over.
    pub fn closed(&self, reason: CloseReason) {
        self.0.closed.with_label_values(&[reason.name()]).inc();
        if matches!(reason, CloseReason::ServerIo | CloseReason::ServerLeft) {
            self.upstream_failed(UpstreamError::Lost);
        }
    }

    /// A server gave no session, or was lost.
    pub fn upstream_failed(&self, error: UpstreamError) {
        let index = UpstreamError::ALL.iter().position(|&one| one == error);
        if let Some(counter) = index.and_then(|index| self.0.upstream_errors.get(index)) {
            counter.inc();
        }
    }

    /// A connection could not be accepted.
    pub fn accept_failed(&self) {
        self.0.accept_errors.inc();
    }

    /// A transaction block is over.
    pub fn transaction(&self, record: &TransactionRecord) {
        let counters = &mut self.0.transactions.iter();
        if let Some((_, counter)) = counters.find(|(outcome, _)| *outcome == record.outcome) {
            counter.inc();
        }
        self.0.durations.observe(record.duration.as_secs_f64());
        self.0
            .longest_waits
            .observe(record.longest_idle.as_secs_f64());
    }

    /// Something was done about a session, or was to be.
    pub fn incident(&self, incident: &Incident) {
        let kind = incident.kind().map_or("", |kind| kind.name());
        let (action, outcome) = (incident.action.name(), incident.outcome.name());
        let rule = incident.rule().map_or("", |rule| &**rule);
        let fits = self
            .scraped()
            .incident_sets
            .admits(&[kind, action, outcome, rule]);
        let rule = self.or_other(INCIDENTS.0, fits, rule);
        let labels = [kind, action, outcome, rule];
        self.0.incidents.with_label_values(&labels).inc();
        if matches!(incident.outcome, Outcome::NotReleasable) {
            let why = incident.why.as_deref().unwrap_or_default();
            let fits = self.scraped().refusal_reasons.admits(&[why]);
            let why = self.or_other(RELEASE_REFUSED.0, fits, why);
            self.0.refusals.with_label_values(&[why]).inc();
        }
    }

    /// The label, or what stands for it where there are too many.
    fn or_other<'a>(&self, series: &str, fits: bounded::Fits, label: &'a str) -> &'a str {
        match fits {
            bounded::Fits::Yes => return label,
            bounded::Fits::Newly => self.0.folded.with_label_values(&[series]).inc(),
            bounded::Fits::No => {}
        }
        OTHER
    }

    /// Totals since the start, by database; without a name are logins, and databases beyond the most that are told apart.
    pub fn totals(&self) -> BTreeMap<Option<Arc<str>>, Totals> {
        let mut totals = BTreeMap::new();
        for (database, traffic) in &self.scraped().traffic {
            traffic.add_to(totals.entry(database.clone()).or_default());
        }
        totals
    }

    /// Everything, in Prometheus' text format 0.0.4.
    ///
    /// # Errors
    /// A series has no valid name.
    pub fn render(
        &self,
        sessions: &[Snapshot],
        readings: &Readings,
    ) -> Result<String, prometheus::Error> {
        let mut scraped = self.scraped();
        let newly_folded = scraped.sessions.set(sessions);
        self.0
            .folded
            .with_label_values(&[SESSIONS.0])
            .inc_by(newly_folded);
        scraped.read(readings);
        if readings.observer_up.is_some() != scraped.observed {
            let gauge = Box::new(scraped.observer_up.clone());
            if scraped.observed {
                self.0.registry.unregister(gauge)?;
            } else {
                self.0.registry.register(gauge)?;
            }
            scraped.observed = !scraped.observed;
        }
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }

    fn scraped(&self) -> MutexGuard<'_, Scraped> {
        self.0
            .scraped
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scraped {
    fn new_traffic(&mut self, database: Option<Arc<str>>) -> Arc<Traffic> {
        let traffic = Arc::new(Traffic::default());
        self.traffic.push((database, Arc::clone(&traffic)));
        traffic
    }

    fn read(&self, readings: &Readings) {
        let mut totals = Totals::default();
        for (_, traffic) in &self.traffic {
            traffic.add_to(&mut totals);
        }
        for (direction, bytes) in [
            ("to_server", totals.bytes_from_clients),
            ("to_client", totals.bytes_from_servers),
        ] {
            raise(&self.bytes.with_label_values(&[direction]), bytes);
        }
        raise(&self.audit_dropped, readings.audit_dropped);
        let blocked = readings.blocked_seconds - self.blocked_seconds.get();
        self.blocked_seconds.inc_by(blocked.max(0.0));
        self.observer_up
            .set(i64::from(readings.observer_up == Some(true)));
    }
}

/// Brings a counter to what another one shows.
fn raise(counter: &IntCounter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

/// What a label is when there are too many of its kind.
const OTHER: &str = "other";

/// A series: its name, its help, its labels.
type Series = (&'static str, &'static str, &'static [&'static str]);

const SESSIONS: Series = (
    "pgidle_sessions",
    "Sessions, by where in the protocol they stand.",
    &["database", "user", "application_name", "state"],
);
const SESSIONS_OPENED: Series = (
    "pgidle_sessions_opened_total",
    "Sessions that got a server connection.",
    &[],
);
const SESSIONS_CLOSED: Series = (
    "pgidle_sessions_closed_total",
    "Sessions that are over, by why.",
    &["reason"],
);
const INCIDENTS: Series = (
    "pgidle_incidents_total",
    "Limits that were reached and commands from the console, by what was to be done and what came of it.",
    &["kind", "action", "outcome", "rule"],
);
const RELEASE_REFUSED: Series = (
    "pgidle_release_refused_total",
    "Transactions that could not be released, by why.",
    &["reason"],
);
const LABEL_SETS_OTHER: Series = (
    "pgidle_label_sets_other_total",
    "Label sets of a series that were taken together as `other`, because there were too many.",
    &["series"],
);
const TRANSACTIONS: Series = (
    "pgidle_transactions_total",
    "Transaction blocks that ended, by how.",
    &["outcome"],
);
const TRANSACTION_SECONDS: Series = (
    "pgidle_transaction_seconds",
    "How long transaction blocks took, from the request that opened them to their end.",
    &[],
);
const IDLE_SECONDS: Series = (
    "pgidle_idle_in_transaction_seconds",
    "The longest single wait for its client in each transaction block.",
    &[],
);
const UPSTREAM_ERRORS: Series = (
    "pgidle_upstream_errors_total",
    "Attempts to connect to a server that failed, and connections to servers that were lost, by why.",
    &["reason"],
);
const ACCEPT_ERRORS: Series = (
    "pgidle_accept_errors_total",
    "Attempts to accept a connection that failed, for want of descriptors or memory; each is tried again after 100 ms.",
    &[],
);
const BYTES: Series = (
    "pgidle_bytes_total",
    "Bytes that were read to be passed on, without those of TLS.",
    &["direction"],
);
const AUDIT_DROPPED: Series = (
    "pgidle_audit_dropped_total",
    "Incidents and transactions that the audit lost, because there was no room for them.",
    &[],
);
const BLOCKED_SECONDS: Series = (
    "pgidle_blocked_seconds_total",
    "Time that others have waited because of stuck sessions, as far as the observer has seen.",
    &[],
);
const OBSERVER_UP: Series = (
    "pgidle_observer_up",
    "Whether the observer's last look at the server succeeded.",
    &[],
);

fn registered<T: Collector + Clone + 'static>(
    registry: &Registry,
    collector: T,
) -> Result<T, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

fn counter(registry: &Registry, series: Series) -> Result<IntCounter, prometheus::Error> {
    registered(registry, IntCounter::new(series.0, series.1)?)
}

fn counters(registry: &Registry, series: Series) -> Result<IntCounterVec, prometheus::Error> {
    let (name, help, labels) = series;
    registered(registry, IntCounterVec::new(Opts::new(name, help), labels)?)
}

fn histogram(registry: &Registry, series: Series) -> Result<Histogram, prometheus::Error> {
    let opts = HistogramOpts::new(series.0, series.1).buckets(BUCKETS.into());
    registered(registry, Histogram::with_opts(opts)?)
}

#[cfg(test)]
mod tests;
