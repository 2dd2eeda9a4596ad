//! A process with a folder of its own, neither of which outlives us.
//!
//! Stopping is orderly while we live. When we die without a word (kill -9), a shell that waits for the end of a pipe, of
//! which we held the other end, stops the process and removes the folder.

use std::{
    env,
    fs::{self, File},
    io::{self, Write},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, User},
};
use tempfile::TempDir;

/// Leaves a watcher behind and goes on with what is appended. A line on standard input means that all is done, its end
/// that the owner is gone. `$0` is the folder; `$$` stays the process id when the shell becomes the process.
const WATCHER: &str = r#"
exec 3<&0 </dev/null
(
    {
        read -r _ || {
            kill -INT -$$
            turn=0
            while kill -0 $$ && [ $turn -lt 100 ]; do sleep 0.1; turn=$((turn + 1)); done
            kill -KILL $$
            rm -rf "$0"
        }
    } <&3 &
)
exec 3<&-
"#;

/// How long to wait between two looks at a process.
pub(super) const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often a process that was asked to stop is looked at before it is killed: ten seconds.
const STOP_POLLS: u32 = 500;
/// The longest temporary folder under which a socket's path still fits `sun_path` (104 bytes on the BSDs).
const MAX_TEMP_DIR: usize = 64;
/// How many lines of its log tell why a process ended.
const LOG_LINES: usize = 8;

/// A running process and its folder.
#[derive(Debug)]
pub(super) struct OwnedProcess {
    process: Child,
    folder: TempDir,
}

/// An empty folder, owned by the user that the process will run as.
#[derive(Debug)]
pub(super) struct PrivateFolder<'a> {
    folder: TempDir,
    user: Option<&'a User>,
}

impl<'a> PrivateFolder<'a> {
    /// Makes the folder. `user` is given when it is not the present one.
    pub(super) fn new(user: Option<&'a User>) -> io::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("pgidle-")
            .tempdir_in(temp_dir(user.is_some()))?;
        let private = Self { folder, user };
        private.hand_over(private.path())?;
        Ok(private)
    }

    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Runs a shell script, which is to end in `exec`. In it `$0` is the folder, and what it prints goes to a log.
    pub(super) fn spawn<I>(self, script: &str, arguments: I) -> io::Result<OwnedProcess>
    where
        I: IntoIterator<Item: AsRef<std::ffi::OsStr>>,
    {
        let log = File::create(log_path(self.path()))?;
        self.hand_over(&log_path(self.path()))?;
        let mut command = Command::new("/bin/sh");
        command
            .arg("-c")
            .arg(format!("{WATCHER}{script}"))
            .arg(self.path())
            .args(arguments)
            .env("LC_ALL", "C")
            .current_dir(self.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C in the terminal is for us, who then stop the process in order.
            .process_group(0);
        // Settings that the user has for a pgidle or a PostgreSQL of their own.
        for (name, _) in env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"PG") {
                command.env_remove(name);
            }
        }
        if let Some(user) = self.user {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
        Ok(OwnedProcess {
            process: command.spawn()?,
            folder: self.folder,
        })
    }

    fn hand_over(&self, path: &Path) -> io::Result<()> {
        self.user.map_or(Ok(()), |user| {
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
        })
    }
}

impl OwnedProcess {
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(super) fn has_exited(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// All that the process has printed so far.
    pub(super) fn log(&self) -> String {
        let log = fs::read(log_path(self.folder())).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The last lines that the process has printed.
    pub(super) fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Asks the process to stop and reports whether it did.
    fn stop(&mut self, signal: Signal) -> bool {
        // A process that is not reaped keeps its id, so the signal meets no stranger.
        if self.has_exited() {
            return true;
        }
        let Ok(pid) = i32::try_from(self.pid()) else {
            return false;
        };
        kill(Pid::from_raw(pid), signal).is_ok()
            && (0..STOP_POLLS).any(|_| {
                thread::sleep(POLL_INTERVAL);
                self.has_exited()
            })
    }
}

impl Drop for OwnedProcess {
    fn drop(&mut self) {
        // SIGINT is PostgreSQL's fast shutdown and SIGQUIT its immediate one.
        let stopped = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGKILL]
            .into_iter()
            .any(|signal| self.stop(signal));
        if let Some(mut watcher) = self.process.stdin.take()
            && stopped
        {
            // The watcher is told last, so that it ends what we might be killed in the middle of. Dropping the folder
            // removes what could not be removed here, and a watcher that is gone already needs no telling.
            drop(fs::remove_dir_all(self.folder()));
            drop(watcher.write_all(b"stopped\n"));
        }
    }
}

/// The folder for temporary folders. Root's own may be closed to the process's user, a long one breaks socket paths.
fn temp_dir(other_user: bool) -> PathBuf {
    let dir = env::temp_dir();
    if other_user || dir.as_os_str().len() > MAX_TEMP_DIR {
        return PathBuf::from("/tmp");
    }
    dir
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("log")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: [&str; 0] = [];

    /// Longer than the watcher waits before it kills: where SIGINT is ignored (a job in the background of a script) only
    /// that ends the process of the test.
    fn soon(mut holds: impl FnMut() -> bool) -> bool {
        (0..3 * STOP_POLLS).any(|_| {
            thread::sleep(POLL_INTERVAL);
            holds()
        })
    }

    #[test]
    fn the_end_of_the_pipe_stops_the_process_and_removes_the_folder() {
        let folder = PrivateFolder::new(None).unwrap();
        let path = folder.path().to_owned();
        let mut process = folder.spawn("exec sleep 60", NOTHING).unwrap();
        assert!(!process.has_exited());
        drop(process.process.stdin.take());
        assert!(soon(|| process.has_exited()));
        assert!(soon(|| !path.exists()));
    }
}
