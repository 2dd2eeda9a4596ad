//! File descriptors: as many as the system gives, and how many sessions that allows.

use std::{fs, io, num::NonZeroUsize};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Descriptors of a session: one for each side.
const EACH: usize = 2;

/// Descriptors kept for those who are not sessions: clients that are refused, CancelRequests, the observer, a reload.
const SPARE: usize = 16;

/// Descriptors of a thread: its poll, the pipe that wakes it, its share of the listening sockets.
const THREAD: usize = 6;

/// Raises the soft limit to the hard one, and tells how many sessions there can be beside what is open now and what
/// so many threads need.
///
/// # Errors
/// The limit cannot be read or raised.
pub fn capacity(threads: NonZeroUsize) -> io::Result<NonZeroUsize> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    let open = fs::read_dir("/proc/self/fd")
        .or_else(|_| fs::read_dir("/dev/fd"))?
        .count();
    let free = usize::try_from(hard)
        .unwrap_or(usize::MAX)
        .saturating_sub(open + SPARE + THREAD * threads.get());
    Ok(NonZeroUsize::new(free / EACH).unwrap_or(NonZeroUsize::MIN))
}
