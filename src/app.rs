//! Builds the parts, owns the threads and tasks, and takes the program down in order.

use std::{
    io,
    num::NonZeroUsize,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    sync::{Mutex, mpsc, watch},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    audit::Audit,
    config::{Address, Config, ConfigError, Source},
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

/// How long sessions that were told to end at once may take to end what runs in them, and to say so to their clients.
const FAREWELL: Duration = Duration::from_secs(6);

/// Reads the settings, and looks whether they make sense on this machine: pgidle must not be its own server.
///
/// # Errors
/// Something in the file or the flags does not make sense.
pub fn load(source: &Source) -> Result<Config, ConfigError> {
    let config = source.load()?;
    refuse_own_address(&config.listen.addresses, &config, source)?;
    Ok(config)
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
    /// Tells the threads to accept no more.
    stop: watch::Sender<bool>,
    /// Tells the threads that the last session has ended.
    end: watch::Sender<bool>,
    /// What users of the console ask of the program.
    requests: Mutex<mpsc::UnboundedReceiver<Request>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

impl App {
    /// Listens, and serves on threads of its own; a reload reads `source` again.
    ///
    /// # Errors
    /// An address cannot be listened on, the audit file cannot be opened, or a thread cannot be started.
    pub fn start(config: Config, source: Source) -> anyhow::Result<Self> {
        warn(&config);
        let audit = Audit::start(config.audit.clone()).context("could not open the audit file")?;
        let prover = Prover::start().context("could not start a thread")?;
        let recorder = source.flags.record.as_deref().map(Recorder::start);
        let recorder = recorder.transpose().context("cannot record sessions")?;
        let mut bound = Vec::new();
        for address in &config.listen.addresses {
            bound.extend(proxy::bind(address, config.listen.reuse_port)?);
        }
        let web = match &config.http.address {
            Some(address) => proxy::bind(address, config.listen.reuse_port)?,
            None => Vec::new(),
        };
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
            prover,
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
            addresses: bound.iter().map(|bound| bound.address().clone()).collect(),
            stop: watch::channel(false).0,
            end: watch::channel(false).0,
            requests: Mutex::new(asked),
            threads: Vec::new(),
        };
        app.serve(bound.into(), workers)
            .and_then(|()| app.open_console(doorway, requests))
            .and_then(|()| app.answer_http(&web))
            .context("could not start a thread")?;
        for bound in &web {
            tracing::info!(address = %bound.address(), "listening for HTTP");
        }
        for address in &app.addresses {
            tracing::info!(%address, "listening");
        }
        tracing::info!(
            sessions = capacity,
            "as many sessions as the limit of open files allows"
        );
        Ok(app)
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

    /// The live sessions.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Reads the settings again, and returns those whose new values need a restart. The log says what has come of it.
    ///
    /// # Errors
    /// The settings are wrong: the running ones stay.
    pub fn reload(&self) -> Result<Vec<&'static str>, ConfigError> {
        let running = Arc::clone(&self.settings.borrow());
        let loaded = self.source.load().and_then(|mut config| {
            let kept = keep_what_needs_a_restart(&mut config, &running);
            refuse_own_address(&self.addresses, &config, &self.source)?;
            Ok((config, kept))
        });
        let (config, kept) = loaded.inspect_err(|error| {
            tracing::error!(%error, "not reloaded; the running settings stay");
        })?;
        warn(&config);
        self.audit.reopen(config.audit.clone());
        self.settings.send_replace(Arc::new(config));
        self.shared.registry.broadcast(|| Command::Reload);
        if kept.is_empty() {
            tracing::info!("reloaded");
        } else {
            let kept = kept.join(", ");
            tracing::warn!("reloaded, but a restart is needed for the new {kept}");
        }
        Ok(kept)
    }

    /// Carries out what users of the console ask for; returns when the program is to end, with whether at once.
    pub async fn operate(&self) -> bool {
        let mut requests = self.requests.lock().await;
        loop {
            match requests.recv().await {
                Some(Request::Reload(reply)) => {
                    // Who asked may not wait any more.
                    drop(reply.send(self.reload().map_err(|error| error.to_string())));
                }
                Some(Request::Drain) => return false,
                Some(Request::Shutdown) => return true,
                None => std::future::pending().await,
            }
        }
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
        let timeout = self.settings.borrow().drain_timeout;
        let limit = timeout.map(format_duration);
        tracing::info!(sessions = registry.len(), limit, "draining");
        registry.drain();
        let deadline = timeout.map(|limit| Instant::now() + limit);
        let insisted = async {
            tokio::select! {
                () = insisted => {}
                () = at(deadline) => {}
            }
        };
        tokio::select! {
            () = emptied(registry) => return,
            () = insisted => {}
        }
        tracing::warn!(
            sessions = registry.len(),
            "ending sessions whose transactions are still open"
        );
        registry.broadcast(|| Command::Shutdown);
        // Those who do not take their farewell are cut off.
        drop(timeout_at(Instant::now() + FAREWELL, emptied(registry)).await);
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

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn emptied(registry: &Registry) {
    while !registry.is_empty() {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

/// Puts back the settings that are read at the start alone, and names those that had changed.
fn keep_what_needs_a_restart(config: &mut Config, running: &Config) -> Vec<&'static str> {
    fn keep<T: Clone + PartialEq>(setting: &mut T, running: &T) -> bool {
        let changed = setting != running;
        setting.clone_from(running);
        changed
    }
    let (listen, was) = (&mut config.listen, &running.listen);
    let settings = [
        (
            "listen.addresses",
            keep(&mut listen.addresses, &was.addresses),
        ),
        (
            "listen.reuse_port",
            keep(&mut listen.reuse_port, &was.reuse_port),
        ),
        ("listen.workers", keep(&mut listen.workers, &was.workers)),
        (
            "http.address",
            keep(&mut config.http.address, &running.http.address),
        ),
        (
            "log.format",
            keep(&mut config.log.format, &running.log.format),
        ),
    ];
    let changed = settings.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(name, _)| name).collect()
}
