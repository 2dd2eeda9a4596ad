//! Builds the parts, owns the threads and tasks, and takes the program down in order.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};

use crate::{
    audit::Audit,
    config::{Address, Config, ConfigError, Source},
    observer::Observer,
    prover::Prover,
    proxy::{self, Bound, Kinds, Shared},
    registry::{Command, Registry},
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

/// Runs the proxy until it is told to stop.
///
/// # Errors
/// An address cannot be listened on, the audit file cannot be opened, or a thread cannot be started.
pub fn serve(config: Config, source: &Source) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // Before the log says that it listens: a signal that comes earlier kills the process.
    let mut signals = runtime.block_on(async { Signals::new() })?;
    warn(&config);
    let audit = Audit::start(config.audit.clone()).context("could not open the audit file")?;
    let prover = Prover::start().context("could not start a thread")?;
    let mut bound = Vec::new();
    for address in &config.listen.addresses {
        bound.extend(proxy::bind(address, config.listen.reuse_port)?);
    }
    let addresses: Vec<_> = bound.iter().map(|b| b.address().clone()).collect();
    let workers = config.listen.workers;
    let (settings, config) = watch::channel(Arc::new(config));
    let shared = Arc::new(Shared {
        registry: Registry::default(),
        audit: audit.clone(),
        observer: Observer::default(),
        prover,
        kinds: Kinds::default(),
        config,
    });
    let capacity = proxy::capacity(workers).context("could not raise the limit of open files")?;
    shared.registry.set_capacity(capacity);
    let (stop, stopped) = watch::channel(false);
    let (end, ended) = watch::channel(false);
    let bound: Arc<[Bound]> = bound.into();
    let mut threads = Vec::new();
    for number in 0..workers.get() {
        let (shared, bound, stopped, ended) = (
            Arc::clone(&shared),
            Arc::clone(&bound),
            stopped.clone(),
            ended.clone(),
        );
        let thread = thread::Builder::new()
            .name(format!("worker {number}"))
            .spawn(move || proxy::run(shared, bound, stopped, ended))
            .context("could not start a thread")?;
        threads.push(thread);
    }
    for address in &addresses {
        tracing::info!(%address, "listening");
    }
    tracing::info!(
        sessions = capacity,
        "as many sessions as the limit of open files allows"
    );
    // The threads stop listening when the last of them drops its share.
    drop(bound);
    runtime.block_on(async {
        let reload = || reload(&settings, source, &shared, &addresses);
        tokio::spawn(shared.observer.clone().run(shared.config.clone()));
        signals.serve(reload).await;
        stop.send_replace(true);
        drain(&shared, &mut signals).await;
    });
    end.send_replace(true);
    for thread in threads {
        match thread.join() {
            Ok(result) => result.context("a worker failed")?,
            Err(_) => anyhow::bail!("a worker panicked"),
        }
    }
    audit.close();
    tracing::info!("stopped");
    Ok(())
}

/// Lets transactions finish, ends idle sessions at once, and the others when the time is up or a signal insists.
async fn drain(shared: &Shared, signals: &mut Signals) {
    let config = Arc::clone(&shared.config.borrow());
    let sessions = shared.registry.len();
    tracing::info!(sessions, timeout = ?config.drain_timeout, "draining");
    shared.registry.broadcast(&Command::Drain);
    let deadline = config.drain_timeout.map(|limit| Instant::now() + limit);
    let insisted = async {
        tokio::select! {
            () = signals.stop() => {}
            () = at(deadline) => {}
        }
    };
    tokio::select! {
        () = emptied(&shared.registry) => return,
        () = insisted => {}
    }
    let sessions = shared.registry.len();
    tracing::warn!(
        sessions,
        "ending sessions whose transactions are still open"
    );
    shared.registry.broadcast(&Command::Shutdown);
    // Those who do not take their farewell are cut off.
    drop(timeout_at(Instant::now() + FAREWELL, emptied(&shared.registry)).await);
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

struct Signals {
    reload: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            reload: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Reloads as often as asked; returns when asked to stop.
    async fn serve(&mut self, reload: impl Fn()) {
        loop {
            tokio::select! {
                _ = self.reload.recv() => reload(),
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Reads the settings again; when they are wrong, the running ones stay.
fn reload(
    settings: &watch::Sender<Arc<Config>>,
    source: &Source,
    shared: &Shared,
    listening: &[Address],
) {
    let running = Arc::clone(&settings.borrow());
    let loaded = source.load().and_then(|mut config| {
        let kept = keep_what_needs_a_restart(&mut config, &running);
        refuse_own_address(listening, &config, source)?;
        Ok((config, kept))
    });
    match loaded {
        Ok((config, kept)) => {
            warn(&config);
            shared.audit.reopen(config.audit.clone());
            settings.send_replace(Arc::new(config));
            shared.registry.broadcast(&Command::Reload);
            if kept.is_empty() {
                tracing::info!("reloaded");
            } else {
                let kept = kept.join(", ");
                tracing::warn!("reloaded, but a restart is needed for the new {kept}");
            }
        }
        Err(error) => tracing::error!(%error, "not reloaded; the running settings stay"),
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
            "log.format",
            keep(&mut config.log.format, &running.log.format),
        ),
    ];
    let changed = settings.into_iter().filter(|(_, changed)| *changed);
    changed.map(|(name, _)| name).collect()
}
