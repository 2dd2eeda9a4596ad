//! Lines for a file, written by a thread of their own: who has something to say never waits for a disk, a pipe, or the
//! program that reads it.
//!
//! What cannot be written stays in memory, up to a bound, and is tried again until it can. What comes when the bound is
//! reached is dropped and counted, and a later line says how many are missing. (The `tracing-appender` crate
//! drops what meets a write error without counting it, and cannot say in the file that something is missing.)

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

/// A handle to the thread that writes a file. Clones are cheap and feed the same thread.
#[derive(Clone, Debug)]
pub struct LineWriter(Arc<Shared>);

impl LineWriter {
    /// Starts the thread. `name` is the file's in log lines, `bound` how many bytes may wait, and `missing` makes the
    /// line that stands for so many missing ones.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn start(
        name: &'static str,
        target: Target,
        bound: usize,
        missing: impl Missing,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            name,
            bound,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let writer = Self(Arc::clone(&shared));
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || shared.run(target, missing))?;
        Ok(writer)
    }

    /// Takes lines to be written, each with its line feed. Never waits for the file.
    pub fn write(&self, lines: &[u8]) {
        let mut state = self.0.lock();
        if !state.has_room(lines.len(), self.0.bound) {
            state.drop_lines(count(lines));
            return;
        }
        state.waiting.extend_from_slice(lines);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Counts lines that were lost before they came here, to be said like all others.
    pub fn lost(&self, lines: u64) {
        self.0.lock().missing += lines;
        self.0.changed.notify_all();
    }

    /// How many lines found no room since the start.
    pub fn dropped(&self) -> u64 {
        self.0.lock().dropped
    }

    /// Writes to another file from here on, also what could not yet be written.
    pub fn replace(&self, target: Target) {
        self.0.lock().replacement = Some(target);
        self.0.changed.notify_all();
    }

    /// Ends the thread when all is written, or cannot be; waits for that at most for this time, and returns how many
    /// lines were not.
    pub fn close(&self, patience: Duration) -> u64 {
        let mut state = self.0.lock();
        state.closing = true;
        self.0.changed.notify_all();
        let changed = &self.0.changed;
        let waited = changed.wait_timeout_while(state, patience, |state| !state.finished);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.in_hand.lines + count(&state.waiting) + state.missing
    }
}

/// Makes the line that stands for missing ones.
pub trait Missing: Send + 'static {
    /// The line that stands for so many. It is asked for again, with a number that has grown, until it is written.
    fn line(&mut self, count: u64) -> Vec<u8>;

    /// The line that was made last is written; the next one stands for others.
    fn said(&mut self) {}
}

impl<F: FnMut(u64) -> Vec<u8> + Send + 'static> Missing for F {
    fn line(&mut self, count: u64) -> Vec<u8> {
        self(count)
    }
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    bound: usize,
    state: Mutex<State>,
    /// Tells the thread of something to do, and who closes that it has ended.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// What the thread is writing, and the lines that wait until it has.
    in_hand: Size,
    waiting: Vec<u8>,
    /// How many lines are missing among those that wait, and how many were dropped in all.
    missing: u64,
    dropped: u64,
    replacement: Option<Target>,
    closing: bool,
    finished: bool,
}

impl State {
    /// Whether so many bytes may wait too; one line may always, however long it is.
    fn has_room(&self, len: usize, bound: usize) -> bool {
        let kept = self.in_hand.bytes + self.waiting.len();
        kept == 0 || kept + len <= bound
    }

    fn drop_lines(&mut self, lines: u64) {
        self.missing += lines;
        self.dropped += lines;
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Size {
    bytes: usize,
    lines: u64,
}

/// What is to be done next.
struct Work {
    lines: Vec<u8>,
    /// How many lines are missing among these.
    missing: u64,
    replacement: Option<Target>,
}

impl Shared {
    /// What is behind the lock is whole at every moment, so that a panic elsewhere does not matter.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, mut target: Target, mut missing: impl Missing) {
        let mut failing = false;
        let mut attempts_left = LAST_ATTEMPTS;
        while let Some(mut work) = self.next() {
            if let Some(replacement) = work.replacement.take() {
                let left = std::mem::replace(&mut target, replacement);
                if left.kind == Kind::Stream && left.torn {
                    // The front of this line is in the file that was left.
                    work.lines.drain(..line_len(&work.lines));
                    work.missing += 1;
                    self.lock().dropped += 1;
                }
            }
            let Err(error) = self.carry_out(work, &mut target, &mut missing) else {
                if std::mem::take(&mut failing) {
                    tracing::warn!("the {} can be written again", self.name);
                }
                continue;
            };
            let is_full = error.kind() == io::ErrorKind::WouldBlock;
            if !is_full && !std::mem::replace(&mut failing, true) {
                tracing::error!(
                    %error,
                    "the {} cannot be written; it is tried again every second, and what finds no room in memory meanwhile is dropped and counted",
                    self.name
                );
            }
            let state = self.lock();
            // Another file may still take it.
            let last = state.closing && state.replacement.is_none();
            drop(state);
            if last {
                attempts_left -= 1;
                if !is_full || attempts_left == 0 {
                    break;
                }
            }
            self.pause(if is_full { READER_PAUSE } else { ERROR_PAUSE });
        }
        self.lock().finished = true;
        self.changed.notify_all();
    }

    /// Waits for something to do; `None` when all is written and no more comes.
    fn next(&self) -> Option<Work> {
        let idle = |state: &mut State| {
            let nothing = state.waiting.is_empty() && state.missing == 0;
            nothing && state.replacement.is_none() && !state.closing
        };
        let state = self.changed.wait_while(self.lock(), idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        let work = Work {
            lines: std::mem::take(&mut state.waiting),
            missing: std::mem::take(&mut state.missing),
            replacement: state.replacement.take(),
        };
        state.in_hand = Size {
            bytes: work.lines.len(),
            lines: count(&work.lines) + work.missing,
        };
        let ended = work.lines.is_empty() && work.missing == 0 && work.replacement.is_none();
        (!ended).then_some(work)
    }

    /// Writes; what cannot be written is put in front of what came since.
    fn carry_out(
        &self,
        mut work: Work,
        target: &mut Target,
        missing: &mut impl Missing,
    ) -> io::Result<()> {
        let said_at = work.lines.len();
        if work.missing > 0 {
            work.lines.extend_from_slice(&missing.line(work.missing));
        }
        let result = target.write(&work.lines);
        let written = result.as_ref().err().map(|interrupted| interrupted.written);
        if work.missing > 0 && written.is_none_or(|written| written > said_at) {
            missing.said();
        }
        let mut state = self.lock();
        state.in_hand = Size::default();
        let Err(Interrupted { written, error }) = result else {
            return Ok(());
        };
        if written <= said_at {
            // More may be missing by the next attempt.
            work.lines.truncate(said_at);
            state.missing += work.missing;
        }
        state.waiting.splice(..0, work.lines.drain(written..));
        Err(error)
    }

    /// Waits before the next attempt, unless there is another file or no more time.
    fn pause(&self, time: Duration) {
        let state = self.lock();
        let closing = state.closing;
        let unchanged = |state: &mut State| state.replacement.is_none() && state.closing == closing;
        let waited = self.changed.wait_timeout_while(state, time, unchanged);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Where lines go.
#[derive(Debug)]
pub struct Target {
    file: File,
    kind: Kind,
    /// Whether the last write stopped in the middle of a line.
    torn: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A regular file of ours, and perhaps of other processes that append lines to it as we do.
    Appended,
    /// A pipe, a terminal, or a file that another process has opened.
    Stream,
}

/// A write that stopped: these bytes of it are in the file.
struct Interrupted {
    written: usize,
    error: io::Error,
}

impl Target {
    /// Opens a file to append lines. A named pipe without a reader is no obstacle: what does not fit into it waits.
    ///
    /// # Errors
    /// The file can be neither opened nor made.
    pub fn append(path: &Path) -> io::Result<Self> {
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o640);
        // Without this a pipe without a reader would hold the thread at `open`, and a full one at `write`.
        options.custom_flags(nix::libc::O_NONBLOCK);
        // Who may read a pipe too opens it without a reader, and loses nothing while one is replaced (fifo(7)).
        let is_pipe = path.metadata().is_ok_and(|file| file.file_type().is_fifo());
        let file = options.read(is_pipe).open(path).map_err(named)?;
        let kind = match file.metadata().is_ok_and(|file| file.is_file()) {
            true => Kind::Appended,
            false => Kind::Stream,
        };
        // A process that was killed, or a machine, may have left half a line.
        let torn = kind == Kind::Appended && !ends_with_line(path);
        Ok(Self { file, kind, torn })
    }

    /// Takes a file that is open already, such as a descriptor of stderr.
    pub fn stream(file: File) -> Self {
        Self {
            file,
            kind: Kind::Stream,
            torn: false,
        }
    }

    fn write(&mut self, lines: &[u8]) -> Result<(), Interrupted> {
        match self.kind {
            Kind::Appended => self.append_lines(lines),
            Kind::Stream => self.stream_lines(lines),
        }
    }

    /// Appends lines while no other process does; of a line that has no room, nothing stays.
    fn append_lines(&mut self, lines: &[u8]) -> Result<(), Interrupted> {
        // A file system without locks is no reason to write nothing: lines stay whole as long as there is room.
        let locked = self.file.lock().is_ok();
        let result = self.append_locked(lines, locked);
        if locked {
            // The lock ends with the file at the latest.
            drop(self.file.unlock());
        }
        result
    }

    fn append_locked(&mut self, lines: &[u8], locked: bool) -> Result<(), Interrupted> {
        if self.torn {
            self.write_all(b"\n").map_err(|interrupted| Interrupted {
                written: 0,
                ..interrupted
            })?;
            self.torn = false;
        }
        let end = self.file.metadata().map(|file| file.len());
        self.write_all(lines).map_err(|interrupted| {
            let whole = whole_lines(lines, interrupted.written);
            let cut = |end| self.file.set_len(end + whole as u64);
            self.torn = whole < interrupted.written && !(locked && end.and_then(cut).is_ok());
            Interrupted {
                written: whole,
                ..interrupted
            }
        })
    }

    /// Writes a few lines at a time: up to so many bytes go into a pipe without those of another process between them.
    fn stream_lines(&mut self, lines: &[u8]) -> Result<(), Interrupted> {
        let mut written = 0;
        while let Some(rest) = lines.get(written..).filter(|rest| !rest.is_empty()) {
            let len = whole_lines(rest, PIPE_BUF.min(rest.len())).max(line_len(rest));
            let part = rest.get(..len).unwrap_or(rest);
            if let Err(interrupted) = self.write_all(part) {
                if interrupted.written > 0 {
                    self.torn = whole_lines(part, interrupted.written) < interrupted.written;
                }
                return Err(Interrupted {
                    written: written + interrupted.written,
                    ..interrupted
                });
            }
            self.torn = false;
            written += len;
        }
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Interrupted> {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => {
                    let error = io::ErrorKind::WriteZero.into();
                    return Err(Interrupted { written, error });
                }
                Ok(len) => written += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Interrupted { written, error }),
            }
        }
        Ok(())
    }
}

/// Whether a file is empty or ends as a line does; where that cannot be read, it is taken to.
fn ends_with_line(path: &Path) -> bool {
    let last = || {
        let mut file = File::open(path)?;
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        io::Result::Ok(last[0])
    };
    last().map_or(true, |last| last == b'\n')
}

/// The length of the whole lines among so many bytes at the front.
fn whole_lines(lines: &[u8], written: usize) -> usize {
    let front = lines.get(..written).unwrap_or(lines);
    memchr::memrchr(b'\n', front).map_or(0, |at| at + 1)
}

/// The length of the first line.
fn line_len(lines: &[u8]) -> usize {
    memchr::memchr(b'\n', lines).map_or(lines.len(), |at| at + 1)
}

fn count(lines: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', lines).count() as u64
}

/// The time between two attempts: where the file cannot be written, and where its reader is slow.
const ERROR_PAUSE: Duration = Duration::from_secs(1);
const READER_PAUSE: Duration = Duration::from_millis(20);

/// How often a slow reader is waited for when the writer is closed.
const LAST_ATTEMPTS: u32 = 100;

/// What a pipe takes undivided (pipe(7)).
const PIPE_BUF: usize = 4096;

#[cfg(test)]
mod tests {
    use std::{fs, io::Write, os::unix::net::UnixStream};

    use super::*;

    fn missing(count: u64) -> Vec<u8> {
        format!("missing {count}\n").into()
    }

    fn writer(target: Target, bound: usize) -> LineWriter {
        LineWriter::start("test", target, bound, missing).unwrap()
    }

    /// A stream whose buffer is full, so that nothing more can be written until its reader reads.
    fn full_stream() -> (Target, UnixStream, usize) {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut filled = 0;
        while ours.write(b"x").is_ok() {
            filled += 1;
        }
        let file = File::from(std::os::fd::OwnedFd::from(ours));
        (Target::stream(file), theirs, filled)
    }

    #[test]
    fn lines_go_to_the_file_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let writer = writer(Target::append(&path).unwrap(), 100);
        for number in 0..3 {
            writer.write(format!("{number}\n").as_bytes());
        }
        assert_eq!(writer.close(Duration::from_secs(5)), 0);
        assert_eq!(fs::read_to_string(path).unwrap(), "0\n1\n2\n");
    }

    #[test]
    fn what_finds_no_room_is_counted_and_said_when_there_is_room_again() {
        let (target, mut reader, filled) = full_stream();
        let writer = writer(target, 10);
        for line in ["1234\n", "5678\n", "lost\n", "lost\n"] {
            writer.write(line.as_bytes());
        }
        assert_eq!(writer.dropped(), 2);
        let mut read = vec![0; filled + "1234\n5678\nmissing 2\n".len()];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(&read[filled..], b"1234\n5678\nmissing 2\n");
        while writer.0.lock().in_hand.bytes > 0 {
            thread::yield_now();
        }
        writer.write(b"more\n");
        assert_eq!(writer.close(Duration::from_secs(5)), 0);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "more\n");
    }

    #[test]
    fn who_closes_waits_no_longer_than_it_wants() {
        let (target, _reader, _) = full_stream();
        let writer = writer(target, 10);
        writer.write(b"1\n");
        writer.write(b"2\n");
        writer.write(b"more than there is room for\n");
        assert_eq!(writer.close(Duration::from_millis(10)), 3);
    }

    /// Also when the attempt on the file that is left fails after all has been said, which is seen under load.
    #[test]
    fn another_file_takes_what_could_not_be_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let writer = writer(Target::append(Path::new("/dev/full")).unwrap(), 4);
        for line in ["1\n", "2\n", "3\n"] {
            writer.write(line.as_bytes());
        }
        writer.replace(Target::append(&path).unwrap());
        assert_eq!(writer.close(Duration::from_secs(5)), 0);
        assert_eq!(fs::read_to_string(path).unwrap(), "1\n2\nmissing 1\n");
    }

    #[test]
    fn a_line_that_was_torn_is_finished_in_its_stream_and_left_out_in_another_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let (ours, mut reader) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut target = Target::stream(File::from(std::os::fd::OwnedFd::from(ours)));
        let long = [vec![b'x'; 1 << 20], b"\n2\n".to_vec()].concat();
        let Interrupted { written, error } = target.write(&long).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        assert!(target.torn && written < 1 << 20);
        drop(thread::spawn(move || {
            io::copy(&mut reader, &mut io::sink())
        }));
        let writer = writer(target, 2 << 20);
        let mut state = writer.0.lock();
        state.waiting = long[written..].to_vec();
        state.replacement = Some(Target::append(&path).unwrap());
        drop(state);
        assert_eq!(writer.close(Duration::from_secs(5)), 0);
        assert_eq!(fs::read_to_string(path).unwrap(), "2\nmissing 1\n");
        assert_eq!(writer.dropped(), 1);
    }

    #[test]
    fn half_a_line_that_a_killed_process_left_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        fs::write(&path, "1\nhal").unwrap();
        let mut target = Target::append(&path).unwrap();
        assert!(target.write(b"2\n").is_ok() && target.write(b"3\n").is_ok());
        assert_eq!(fs::read_to_string(&path).unwrap(), "1\nhal\n2\n3\n");
        assert!(!Target::append(&path).unwrap().torn);
    }

    #[test]
    fn processes_that_append_to_one_file_wait_for_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lines");
        let targets = [(); 4].map(|()| Target::append(&path).unwrap());
        thread::scope(|scope| {
            for mut target in targets {
                scope.spawn(move || {
                    for _ in 0..50 {
                        assert!(
                            target
                                .write(&b"a line of some length\n".repeat(100))
                                .is_ok()
                        );
                    }
                });
            }
        });
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 4 * 50 * 100);
        assert!(text.lines().all(|line| line == "a line of some length"));
    }

    #[test]
    fn a_pipe_that_nobody_reads_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status();
        assert!(made.unwrap().success());
        let mut target = Target::append(&path).unwrap();
        let long = b"a line of some length\n".repeat(10_000);
        let Interrupted { written, error } = target.write(&long).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let mut reader = File::open(&path).unwrap();
        let mut read = vec![0; written];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(read, long[..written]);
    }
}
