//! PostgreSQL's own client programs, as Debian's packages install them.

use std::process::{Child, Command, Output, Stdio};

use super::Endpoint;

fn program(name: &str, endpoint: &Endpoint) -> Command {
    let mut command = Command::new(name);
    command.envs(endpoint.environment()).stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> Output {
    let result = command.output();
    result.unwrap_or_else(|error| panic!("{command:?}: {error}; run `make setup`"))
}

/// What psql prints in one session that gets each command in turn, errors included, without alignment and headers.
pub(crate) fn psql(endpoint: &Endpoint, commands: &[&str]) -> String {
    run_psql(program("psql", endpoint), commands)
}

/// What psql prints for one statement, asked as a user with the password `secret`.
pub(crate) fn psql_as(user: &str, endpoint: &Endpoint, sql: &str) -> String {
    let mut command = program("psql", endpoint);
    command.args(["-w", "-U", user]).env("PGPASSWORD", "secret");
    run_psql(command, &[sql])
}

fn run_psql(mut command: Command, commands: &[&str]) -> String {
    command.args(["-XAtq", "-v", "VERBOSITY=verbose"]);
    for text in commands {
        command.args(["-c", text]);
    }
    let output = output(command);
    let printed = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&printed).trim_end().to_owned()
}

/// Starts psql on a statement, to be interrupted.
pub(crate) fn start_psql(endpoint: &Endpoint, sql: &str) -> Child {
    let mut command = program("psql", endpoint);
    command
        .args(["-XAtq", "-c", sql])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn();
    child.unwrap_or_else(|error| panic!("{command:?}: {error}; run `make setup`"))
}

/// Runs pgbench, which must succeed, and returns its report.
pub(crate) fn pgbench(endpoint: &Endpoint, arguments: &[&str]) -> String {
    let mut command = program("pgbench", endpoint);
    command.args(arguments);
    let output = output(command);
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "pgbench {arguments:?}:\n{report}{errors}"
    );
    report
}
