//! PostgreSQL's own client programs, as Debian's packages install them.

use std::{
    env,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
};

use super::{Endpoint, in_repository, installed};

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

/// A version of libpq, in a program that connects by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Libpq {
    /// Debian's, in psql.
    Debian,
    /// That of psycopg's binary wheel: 18.
    Psycopg,
}

/// What one statement returns, asked through libpq with more environment variables, or libpq's error.
pub(crate) fn ask(libpq: Libpq, endpoint: &Endpoint, set: &[(&str, &str)], sql: &str) -> String {
    let set = set.iter().copied();
    match libpq {
        Libpq::Debian => {
            let mut command = program("psql", endpoint);
            command.envs(set);
            run_psql(command, &[sql])
        }
        Libpq::Psycopg => {
            let mut command = interpreter(endpoint, ASK);
            command.arg(sql).envs(set);
            printed(command)
        }
    }
}

/// What a script prints that finds psycopg, the modules of `tests/python`, and the database by libpq's environment
/// variables.
pub(crate) fn python(endpoint: &Endpoint, script: &str) -> String {
    printed(interpreter(endpoint, script))
}

fn interpreter(endpoint: &Endpoint, script: &str) -> Command {
    let python = installed("python").join("bin/python");
    let mut command = program(python.to_str().unwrap(), endpoint);
    command
        .args(["-c", script])
        .env("PYTHONPATH", in_repository("tests/python"))
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

fn printed(command: Command) -> String {
    let output = output(command);
    let printed = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&printed).trim_end().to_owned()
}

/// Prints the first row of the statement in its argument.
const ASK: &str = "
import sys, psycopg
try:
    with psycopg.connect('') as connection:
        print('|'.join(str(value) for value in connection.execute(sys.argv[1]).fetchone()))
except psycopg.Error as error:
    print(error)
";

fn run_psql(mut command: Command, commands: &[&str]) -> String {
    command.args(["-XAtq", "-v", "VERBOSITY=verbose"]);
    for text in commands {
        command.args(["-c", text]);
    }
    printed(command)
}

/// What a program prints, which must succeed.
pub(crate) fn run(
    name: &str,
    endpoint: &Endpoint,
    set: &[(&str, &str)],
    arguments: &[&str],
) -> String {
    let mut command = program(name, endpoint);
    command.envs(set.iter().copied()).args(arguments);
    let output = output(command);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned()
}

/// The path of a program that Debian has no link to in `PATH`, of the newest version that is installed.
pub(crate) fn path_of(name: &str) -> String {
    let path = env::var_os("PATH").unwrap_or_default();
    let of_version = |version: u32| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin"));
    let mut folders = env::split_paths(&path).chain((15..100).rev().map(of_version));
    let path = folders.find_map(|folder| Some(folder.join(name)).filter(|path| path.is_file()));
    let path = path.unwrap_or_else(|| panic!("{name} is not installed; run `make setup`"));
    path.to_str().unwrap().to_owned()
}

/// Starts psql on a statement, with more environment variables, to be interrupted.
pub(crate) fn start_psql(endpoint: &Endpoint, set: &[(&str, &str)], sql: &str) -> Child {
    let mut command = program("psql", endpoint);
    command
        .envs(set.iter().copied())
        .args(["-XAtq", "-c", sql])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn();
    child.unwrap_or_else(|error| panic!("{command:?}: {error}; run `make setup`"))
}

/// Runs pgidle to its end.
pub(crate) fn pgidle(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgidle"));
    command.args(arguments).env_clear();
    output(command)
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
