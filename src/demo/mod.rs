//! `pgidle demo`: what a transaction that nobody ends does to a table, without pgidle and with it, on a throwaway
//! PostgreSQL. Everything that it prints is measured; what does not come out as promised is said and makes it fail.

mod cluster;
mod owned_process;
mod sidecar;
mod story;
mod timeline;

use std::io;

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    task::JoinError,
};

pub use cluster::{Cluster, ClusterError, ClusterOptions};
pub use sidecar::SidecarError;

use sidecar::Sidecar;
use story::{Act, Target, Told, Waits};
use timeline::{Mark, Timeline};

use crate::audit::schema::IncidentLine;

/// The rules that the demo runs pgidle with.
const RULES: &str = r#"[[rule]]
name = "demo"
idle = { rollback = "2s" }
"#;

/// How the demo is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// Stay up afterwards, for the user to try, until Ctrl-C.
    pub keep: bool,
}

/// Why the demo did not come to its good end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// No throwaway PostgreSQL.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// No pgidle before it.
    #[error(transparent)]
    Sidecar(#[from] SidecarError),
    /// A session of the demo met an error that is no part of the story.
    #[error("a session of the demo failed")]
    Sql(#[from] tokio_postgres::Error),
    /// A task of the demo panicked.
    #[error("a task of the demo failed")]
    Task(#[source] JoinError),
    /// Something did not happen as promised.
    #[error("{0}")]
    Unmet(&'static str),
    /// A signal came before the end.
    #[error("interrupted; everything is cleaned up")]
    Interrupted,
    /// No runtime, no signal handlers, or standard output is gone.
    #[error("input or output failed")]
    Io(#[from] io::Error),
}

/// Runs the demo, prints its timeline to standard output, and leaves nothing behind. It makes a runtime of its own, so it
/// must not be called inside one.
///
/// # Errors
/// When PostgreSQL is missing, when anything does not happen as promised, and when it is interrupted.
pub fn run(options: DemoOptions) -> Result<(), DemoError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // From here on a signal does not end the process but waits to be asked for.
    let mut interrupts = runtime.block_on(async { Interrupts::new() })?;
    let cluster = Cluster::start(&ClusterOptions::default())?;
    let sidecar = Sidecar::start(cluster.port(), RULES)?;
    let result = runtime.block_on(async {
        tokio::select! {
            () = interrupts.next() => return Err(DemoError::Interrupted),
            result = play(&cluster, &sidecar) => result?,
        }
        if options.keep {
            invite(&cluster, &sidecar)?;
            interrupts.next().await;
        }
        Ok(())
    });
    // The clients' sockets close first, so that neither pgidle nor PostgreSQL has a client to wait for.
    drop(runtime);
    drop(sidecar);
    cluster.stop();
    result
}

/// SIGINT, SIGTERM and SIGHUP: Ctrl-C, a supervisor, a terminal that is closed.
struct Interrupts([Signal; 3]);

impl Interrupts {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Both acts and what they come to.
async fn play(cluster: &Cluster, sidecar: &Sidecar) -> Result<(), DemoError> {
    let server = Target::new("127.0.0.1", cluster.port());
    let proxy = Target::new(
        &sidecar.address().ip().to_string(),
        sidecar.address().port(),
    );
    let mut timeline = Timeline::new();
    timeline.heading(
        "pgidle demo: two applications leave transactions open, a DBA wants to add a column",
    )?;
    story::prepare(&server).await?;

    timeline.act("Act 1: without pgidle")?;
    let without = Act::block_a_table(&timeline, &server, &server)
        .await?
        .give_up()
        .await?;

    timeline.act(
        "Act 2: the applications connect through pgidle; rule: idle = { rollback = \"2s\" }",
    )?;
    let act = Act::block_a_table(&timeline, &proxy, &server).await?;
    let (with, told) = act.watch_pgidle_free_it(sidecar).await?;

    summarise(&timeline, &without, &with, &told)
}

/// Sets the two acts side by side, and checks what was promised.
fn summarise(
    timeline: &Timeline,
    without: &Waits,
    with: &Waits,
    told: &Told,
) -> Result<(), DemoError> {
    timeline.heading("How long they waited")?;
    let longest = without.alter.max(with.alter);
    timeline.bar(
        "ALTER, without",
        Mark::Bad,
        without.alter,
        longest,
        ", then given up",
    )?;
    timeline.bar("ALTER, pgidle", Mark::Good, with.alter, longest, "")?;
    timeline.bar(
        "SELECTs, without",
        Mark::Bad,
        without.visitors,
        longest,
        ", until the DBA gave up",
    )?;
    timeline.bar("SELECTs, pgidle", Mark::Good, with.visitors, longest, "")?;

    timeline.heading("What became of the writer")?;
    let [before, after] = told.server_pids;
    let same = before == after;
    timeline.fact(
        same,
        format_args!("its session: server process {before} before, {after} after"),
    )?;
    let refused = told.error.as_ref().is_some_and(|(code, _)| code == "25P03");
    match &told.error {
        Some((code, message)) => {
            timeline.fact(
                refused,
                format_args!("its COMMIT was refused, with SQLSTATE {code}:\n    {message}"),
            )?;
        }
        None => timeline.fact(false, "its COMMIT succeeded")?,
    }
    let absent = told.late_rows == 0;
    timeline.fact(
        absent,
        format_args!("its late row: {} in the table", told.late_rows),
    )?;

    show(timeline, &told.incident)?;
    if same && refused && absent {
        return Ok(());
    }
    Err(DemoError::Unmet(
        "what became of the writer is not what pgidle promises",
    ))
}

/// Shows what the audit file says of an incident.
fn show(timeline: &Timeline, incident: &IncidentLine) -> io::Result<()> {
    timeline.heading("What the audit file says of it")?;
    timeline.text(format_args!(
        "  kind {}, action {}, outcome {}, rule \"{}\", limit {} ms, idle {} ms",
        incident.kind.as_deref().unwrap_or_default(),
        incident.action,
        incident.outcome,
        incident.rule.as_deref().unwrap_or_default(),
        incident.limit_ms.map_or(0, |limit| limit.0.as_millis()),
        incident.idle_ms.0.as_millis(),
    ))?;
    let who = &incident.who;
    timeline.text(format_args!(
        "  application_name {}, user {}, database {}, server_pid {}",
        who.application_name,
        who.user,
        who.database,
        who.server_pid.unwrap_or_default(),
    ))?;
    for statement in &incident.statements {
        timeline.text(format_args!(
            "  > {}",
            statement.text.as_deref().unwrap_or("(unknown)")
        ))?;
    }
    Ok(())
}

/// Says how to try it by hand.
fn invite(cluster: &Cluster, sidecar: &Sidecar) -> Result<(), DemoError> {
    let timeline = Timeline::new();
    let line = |port: u16| format!("psql -h 127.0.0.1 -p {port} -U postgres");
    timeline.heading("Try it: everything stays up until Ctrl-C")?;
    timeline.text("  One terminal, through pgidle; wait more than 2 s before the COMMIT:")?;
    timeline.text(format_args!("    {}", line(sidecar.address().port())))?;
    timeline.text("    BEGIN; INSERT INTO orders (item) VALUES ('mine');")?;
    timeline.text("    COMMIT;")?;
    timeline.text("  Another one, straight to PostgreSQL, meanwhile:")?;
    timeline.text(format_args!(
        "    {} -c 'ALTER TABLE orders ADD COLUMN more text'",
        line(cluster.port())
    ))?;
    timeline.text("  And a third one, on what pgidle does:")?;
    timeline.text(format_args!(
        "    tail -f {}",
        sidecar.audit_path().display()
    ))?;
    Ok(())
}
