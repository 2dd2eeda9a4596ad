//! Builds the parts, owns the threads and tasks, and takes the program down in order.

use std::{
    fs, io,
    num::NonZeroUsize,
    path::Path,
    process,
    sync::{Arc, OnceLock},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    audit::{
        Audit,
        schema::{Policy, Record, ReloadedLine, StartedLine, StoppedLine},
    },
    config::{self, Address, Change, Config, ConfigError, Reloaded, Source, list},
    console::{self, Console, Context, Doorway, Request},
    events::Events,
    http,
    metrics::Metrics,
    observer::Observer,
    policy::format_duration,
    prover::Prover,
    proxy::{self, ListeningSocket, RefusalLog, RoleCache, Shared},
    recorder::Recorder,
    registry::{Command, Registry},
    sql,
};

/// How often a drain looks whether the last session has gone.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long a drain waits for connections that may become sessions.
const ARRIVALS: Duration = Duration::from_secs(2);

/// How long sessions that were told to end at once may take to end what runs in them, and to say so to their clients.
const FAREWELL: Duration = Duration::from_secs(6);

/// The version that runs.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Reads the settings, and looks whether they make sense on this machine: pgidle must not be its own server, and the folder
/// of the audit file must be there.
///
/// # Errors
/// Something in the file or the flags does not make sense.
pub fn load(source: &Source) -> Result<Config, ConfigError> {
    let config = source.load()?;
    refuse_own_address(&config.listen.addresses, &config, source)?;
    if let Some(file) = &config.audit.file {
        require_folder(file).map_err(|problem| source.wrong_audit(problem))?;
    }
    Ok(config)
}

/// Says why a file cannot be made.
fn require_folder(file: &Path) -> Result<(), String> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        Some(_) | None => Path::new("."),
    };
    let expected = "expected the folder of the file to be there";
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{} is no folder; {expected}", folder.display())),
        Err(error) => Err(format!("{}: {error}; {expected}", folder.display())),
    }
}

fn refuse_own_address(
    listen: &[Address],
    config: &Config,
    source: &Source,
) -> Result<(), ConfigError> {
    proxy::refuse_own_address(listen, &config.upstream.addresses)
        .map_err(|error| source.wrong_upstream(error.to_string()))
}

fn warn(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

/// A running pgidle. It knows nothing of signals, so that another program can start one inside its own process.
#[derive(Debug)]
pub struct App {
    source: Source,
    settings: watch::Sender<Arc<Config>>,
    shared: Arc<Shared>,
    audit: Audit,
    addresses: Vec<Address>,
    http: Vec<Address>,
    /// How many sessions there can be.
    capacity: NonZeroUsize,
    /// Tells the threads to accept no more.
    stop: watch::Sender<bool>,
    /// Tells the threads that the last session has ended.
    end: watch::Sender<bool>,
    /// What users of the console ask of the program.
    requests: Mutex<mpsc::UnboundedReceiver<Request>>,
    /// The user of the console who has it end, unless a signal does.
    stopped_by: OnceLock<Arc<str>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// The sockets that are listened on.
struct Bound {
    sessions: Vec<ListeningSocket>,
    http: Vec<ListeningSocket>,
}

impl Bound {
    fn new(config: &Config) -> anyhow::Result<Self> {
        let mut sessions = Vec::new();
        for address in &config.listen.addresses {
            sessions.extend(proxy::bind(address, config.listen.reuse_port)?);
        }
        let http = match &config.http.address {
            Some(address) => proxy::bind(address, config.listen.reuse_port)?,
            None => Vec::new(),
        };
        Ok(Self { sessions, http })
    }

    /// Where they are, with the ports that were taken.
    fn addresses(bound: &[ListeningSocket]) -> Vec<Address> {
        bound.iter().map(|bound| bound.address().clone()).collect()
    }
}

impl App {
    /// Listens, and serves on threads of its own; a reload reads `source` again.
    ///
    /// # Errors
    /// An address cannot be listened on, the audit file cannot be opened, or a thread cannot be started.
    pub fn start(config: Config, source: Source) -> anyhow::Result<Self> {
        warn(&config);
        let audit = Audit::start(config.audit.clone()).context("could not open the audit file")?;
        let recorder = source.flags.record.as_deref().map(Recorder::start);
        let recorder = recorder.transpose().context("cannot record sessions")?;
        let bound = Bound::new(&config)?;
        let workers = config.listen.workers;
        let (settings, config) = watch::channel(Arc::new(config));
        let (console, doorway) = Console::new();
        let (requests, asked) = mpsc::unbounded_channel();
        let metrics = Metrics::new().context("could not make the metrics")?;
        let shared = Arc::new(Shared {
            registry: Arc::default(),
            console,
            events: Events::new(audit.clone(), metrics.clone()),
            metrics,
            observer: Observer::default(),
            prover: Prover::start().context("could not start a thread")?,
            recorder,
            roles: RoleCache::default(),
            refusals: RefusalLog::default(),
            config,
        });
        let capacity =
            proxy::capacity(workers).context("could not raise the limit of open files")?;
        shared.registry.set_capacity(capacity);
        let mut app = Self {
            source,
            settings,
            shared,
            audit,
            addresses: Bound::addresses(&bound.sessions),
            http: Bound::addresses(&bound.http),
            capacity,
            stop: watch::channel(false).0,
            end: watch::channel(false).0,
            requests: Mutex::new(asked),
            stopped_by: OnceLock::new(),
            threads: Vec::new(),
        };
        app.write_down_start();
        app.serve(bound.sessions.into(), workers)
            .and_then(|()| app.open_console(doorway, requests))
            .and_then(|()| app.answer_http(&bound.http))
            .context("could not start a thread")?;
        Ok(app)
    }

    fn write_down_start(&self) {
        let config = self.settings.borrow();
        let policy = Policy::new(&config.rules);
        let strings = |addresses: &[Address]| addresses.iter().map(ToString::to_string).collect();
        let started = Record::Started(Box::new(StartedLine {
            version: VERSION.to_owned(),
            pid: process::id(),
            listen: strings(&self.addresses),
            upstream: strings(&config.upstream.addresses),
            policy_hash: policy.hash(),
            policy,
        }));
        self.audit.record(started.into());
    }

    /// Says in one line of the log what runs here: where it listens, which server it leads to and whether that answers, by
    /// which rules, and who else looks. It takes as long as the server takes to answer, up to two seconds for each address.
    pub async fn announce(&self) {
        let config = Arc::clone(&self.settings.borrow());
        let upstream = list(&config.upstream.addresses);
        let audit = config.audit.file.as_ref();
        let audit = audit.map_or_else(nothing, |file| file.display().to_string());
        let observer = config.observer.dsn.as_ref();
        let observer = observer.map_or_else(nothing, ToString::to_string);
        let http = match &*self.http {
            [] => nothing(),
            addresses => list(addresses),
        };
        let (address, rules, capacity) = (list(&self.addresses), &config.rules, self.capacity);
        match http::reach(&config.upstream).await {
            Ok(()) => tracing::info!(
                %address, version = VERSION, upstream = format!("{upstream} (answers)"), rules = rules.to_string(), audit, observer, http,
                max_sessions = capacity, "listening"
            ),
            Err(error) => tracing::warn!(
                %address, version = VERSION, upstream = format!("{upstream} (does not answer)"), error, rules = rules.to_string(), audit,
                observer, http, max_sessions = capacity, "listening, but the server does not answer"
            ),
        }
    }

    /// Starts the threads. They stop listening when the last of them drops its share of `bound`.
    fn serve(&mut self, bound: Arc<[ListeningSocket]>, workers: NonZeroUsize) -> io::Result<()> {
        for number in 0..workers.get() {
            let (shared, bound) = (Arc::clone(&self.shared), Arc::clone(&bound));
            let (stopped, ended) = (self.stop.subscribe(), self.end.subscribe());
            self.spawn(format!("worker {number}"), move || {
                proxy::run(shared, bound, stopped, ended)
            })?;
        }
        let (shared, ended) = (Arc::clone(&self.shared), self.end.subscribe());
        self.spawn("observer".to_owned(), move || {
            until(ended, shared.observer.clone().run(shared.config.clone()))
        })
    }

    fn open_console(
        &mut self,
        doorway: Doorway,
        requests: mpsc::UnboundedSender<Request>,
    ) -> io::Result<()> {
        let (shared, ended) = (&self.shared, self.end.subscribe());
        let registry = Arc::clone(&shared.registry);
        let context = Context::new(
            registry,
            self.audit.clone(),
            shared.metrics.clone(),
            shared.config.clone(),
            requests,
        );
        self.spawn("console".to_owned(), move || {
            until(ended, console::run(doorway, Arc::new(context)))
        })
    }

    fn answer_http(&mut self, bound: &[ListeningSocket]) -> io::Result<()> {
        if bound.is_empty() {
            return Ok(());
        }
        let listeners = bound.iter().map(ListeningSocket::try_clone);
        let listeners = listeners.collect::<io::Result<Vec<_>>>()?;
        let (shared, ended) = (&self.shared, self.end.subscribe());
        shared.metrics.want_transactions();
        let context = http::Context::new(
            Arc::clone(&shared.registry),
            shared.metrics.clone(),
            self.audit.clone(),
            shared.observer.clone(),
            shared.config.clone(),
        );
        self.spawn("http".to_owned(), move || {
            until(ended, http::run(listeners, Arc::new(context)))
        })
    }

    fn spawn(
        &mut self,
        name: String,
        run: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<()> {
        // The console reads statements by PostgreSQL's grammar. A stack takes memory where it is used.
        let thread = thread::Builder::new()
            .name(name)
            .stack_size(sql::PARSER_STACK)
            .spawn(run)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Where it listens, with the ports that were taken.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// What runs, in a few words.
    pub fn status(&self) -> String {
        let upstream = list(&self.settings.borrow().upstream.addresses);
        format!("listens at {}, leads to {upstream}", list(&self.addresses))
    }

    /// How long a drain waits for transactions; `None` is for ever.
    pub fn drain_timeout(&self) -> Option<Duration> {
        self.settings.borrow().drain_timeout
    }

    /// The live sessions.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Reads the settings again, for this user of the console or because of a signal, and returns what has changed. The log
    /// says what has come of it, and so does the audit.
    ///
    /// # Errors
    /// The settings are wrong: the running ones stay.
    pub fn reload(&self, by: Option<Arc<str>>) -> Result<Reloaded, ConfigError> {
        let running = Arc::clone(&self.settings.borrow());
        let loaded = self.source.load().and_then(|mut config| {
            let reloaded = config::reconcile(&running, &mut config);
            refuse_own_address(&self.addresses, &config, &self.source)?;
            Ok((config, reloaded))
        });
        let (config, reloaded) = loaded.inspect_err(|error| {
            tracing::error!(%error, "not reloaded; the running settings stay");
        })?;
        warn(&config);
        let line = ReloadedLine::new(by, &reloaded, &config.rules);
        self.audit.reopen(config.audit.clone());
        self.audit.record(Record::Reloaded(Box::new(line)).into());
        self.settings.send_replace(Arc::new(config));
        self.shared.registry.broadcast(|| Command::Reload);
        log_reload(&reloaded);
        Ok(reloaded)
    }

    /// Carries out what users of the console ask for; returns when the program is to end, with whether at once.
    pub async fn operate(&self) -> bool {
        let mut requests = self.requests.lock().await;
        let (by, at_once) = loop {
            match requests.recv().await {
                Some(Request::Reload(by, reply)) => {
                    // Who asked may not wait any more.
                    let reloaded = self.reload(Some(by));
                    drop(reply.send(reloaded.map_err(|error| error.to_string())));
                }
                Some(Request::Drain(by)) => break (by, false),
                Some(Request::Shutdown(by)) => break (by, true),
                None => std::future::pending().await,
            }
        };
        self.stopped_by.get_or_init(|| by);
        at_once
    }

    /// Waits until a user of the console wants the end at once.
    pub async fn insisted(&self) {
        while !self.operate().await {}
    }

    /// Accepts no more, lets transactions finish, ends idle sessions at once, and the others when `drain_timeout` is over
    /// or `insisted` is ready. Then [`join`](Self::join) is all that is left.
    pub async fn drain(&self, insisted: impl Future<Output = ()>) {
        self.stop.send_replace(true);
        let registry = &self.shared.registry;
        let timeout = self.drain_timeout();
        let limit = timeout.map_or_else(nothing, format_duration);
        tracing::info!(sessions = registry.len(), limit, "draining");
        registry.drain();
        let emptied = || emptied(registry, Instant::now() + ARRIVALS);
        let deadline = timeout.map(|limit| Instant::now() + limit);
        let insisted = async {
            tokio::select! {
                () = insisted => {}
                () = at(deadline) => {}
            }
        };
        tokio::select! {
            () = emptied() => return,
            () = insisted => {}
        }
        tracing::warn!(
            sessions = registry.len(),
            "ending sessions whose transactions are still open"
        );
        registry.broadcast(|| Command::Shutdown);
        // Those who do not take their farewell are cut off.
        drop(timeout_at(Instant::now() + FAREWELL, emptied()).await);
    }

    /// Ends the threads, cuts off the sessions that are left, and returns when the audit is written. It blocks.
    ///
    /// # Errors
    /// A thread has failed.
    pub fn join(self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        self.end.send_replace(true);
        for thread in self.threads {
            match thread.join() {
                Ok(result) => result.context("a worker failed")?,
                Err(_) => anyhow::bail!("a worker panicked"),
            }
        }
        let cut_off = u64::try_from(self.shared.registry.len()).unwrap_or(u64::MAX);
        let by = self.stopped_by.get().cloned();
        let stopped = Record::Stopped(Box::new(StoppedLine { by, cut_off }));
        self.audit.record(stopped.into());
        self.audit.close();
        if let Some(recorder) = &self.shared.recorder {
            recorder.close();
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// Runs something on the calling thread until the end.
fn until(mut ended: watch::Receiver<bool>, what: impl Future<Output = ()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            () = what => {}
            _ = ended.wait_for(|&ended| ended) => {}
        }
    });
    Ok(())
}

fn log_reload(reloaded: &Reloaded) {
    let said = |changes: &[Change]| match changes {
        [] => nothing(),
        changes => list(changes),
    };
    let changed = said(&reloaded.changed);
    if reloaded.needs_restart.is_empty() {
        tracing::info!(changed, "reloaded");
    } else {
        let keys = reloaded.needs_restart.iter();
        let keys: Vec<_> = keys.map(|change| &*change.key).collect();
        let kept = said(&reloaded.needs_restart);
        tracing::warn!(
            changed,
            kept,
            "reloaded, but a restart is needed for the new {}",
            keys.join(", ")
        );
    }
}

fn nothing() -> String {
    "none".to_owned()
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Waits until no session is alive, and until then for those that are on their way.
async fn emptied(registry: &Registry, until: Instant) {
    let awaited = || registry.arrivals.any() && Instant::now() < until;
    // What has arrived is a session before it is no arrival any more.
    while awaited() || !registry.is_empty() {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}
