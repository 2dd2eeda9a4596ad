//! Recordings of sessions, in the language of the transcripts: a bug that a user meets is then a test that fails.
//!
//! A session notes what goes in and comes out on its [`Tape`], which copies bytes and never blocks. One thread makes text
//! of it, without literals and values, and writes a file for each session. What finds no room ends the recording.

mod writing;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{session::Side, sql};

use writing::Writing;

/// A handle to the recordings of a run. Clones are cheap.
#[derive(Clone, Debug)]
pub struct Recorder {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
}

impl Recorder {
    /// Makes the folder where it is missing, and starts the thread that writes into it.
    ///
    /// # Errors
    /// The folder cannot be made or written to, or the thread cannot be started.
    pub fn start(folder: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        tempfile::tempfile_in(folder)?;
        let (queue, messages) = sync_channel(QUEUE_LENGTH);
        let shared = Arc::new(Shared::default());
        let (folder, waiting) = (folder.to_owned(), Arc::clone(&shared));
        thread::Builder::new()
            .name("recorder".to_owned())
            .stack_size(sql::PARSER_STACK)
            .spawn(move || write(&folder, &messages, &waiting))?;
        Ok(Self { queue, shared })
    }

    /// A tape for a session that begins now; `None` where there are as many files as there may be.
    pub fn tape(&self, session: u64, now: Instant) -> Option<Tape> {
        let files = &self.shared.files;
        if files.fetch_add(1, Ordering::Relaxed) >= MAX_FILES {
            files.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Tape {
            session,
            began: now,
            recorder: self.clone(),
            notes: Vec::new(),
            bytes: 0,
            broken: false,
        })
    }
}

impl Recorder {
    /// Writes what was noted before this call, as far as that is possible within a while, for which it blocks.
    pub fn close(&self) {
        let (written, is_written) = sync_channel(1);
        // Where the queue is full, the message waits for room on a thread of its own.
        let queue = self.queue.clone();
        thread::spawn(move || drop(queue.send(Message::Close(written))));
        // Past that the recordings are as they are.
        is_written.recv_timeout(PATIENCE).ok();
    }
}

/// What the tapes and the thread both see.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes on their way to the thread.
    waiting: AtomicUsize,
    /// Files that there are, or will be.
    files: AtomicUsize,
}

/// Where a session notes what happens to it.
#[derive(Debug)]
pub struct Tape {
    session: u64,
    began: Instant,
    recorder: Recorder,
    notes: Vec<Note>,
    /// How many bytes the notes hold.
    bytes: usize,
    /// Whether notes found no room: the recording is over.
    broken: bool,
}

impl Tape {
    /// The time as the recording has it, in whole microseconds: a session that is recorded goes by it, so that its times
    /// can be played again.
    pub fn clock(&self, now: Instant) -> Instant {
        let micros = now.saturating_duration_since(self.began).as_micros();
        self.began + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// When the session began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Notes something.
    pub fn note(&mut self, now: Instant, what: What) {
        if self.broken {
            return;
        }
        if let What::Read(_, bytes) | What::Emitted(_, bytes) = &what {
            self.bytes += bytes.len();
        }
        let at = now.saturating_duration_since(self.began);
        let urgent = matches!(what, What::Incident);
        self.notes.push(Note { at, what });
        if urgent || self.notes.len() >= BATCH || self.bytes >= BATCH_BYTES {
            self.flush();
        }
    }

    /// Notes a line that tells what came of the present step.
    pub fn came(&mut self, line: String) {
        self.note(self.began, What::Came(line));
    }

    /// Notes a step that has to come before the present one.
    pub fn before(&mut self, step: &'static str) {
        self.note(self.began, What::Before(step));
    }

    /// Something was done to the session: its recording is kept.
    pub fn keep(&mut self) {
        self.note(self.began, What::Incident);
    }

    /// Sends what was noted on its way.
    pub fn flush(&mut self) {
        if self.broken || self.notes.is_empty() {
            return;
        }
        let (notes, bytes) = (
            std::mem::take(&mut self.notes),
            std::mem::take(&mut self.bytes),
        );
        let shared = &self.recorder.shared;
        let message = Message::Notes {
            session: self.session,
            notes,
            bytes,
        };
        let full = shared.waiting.fetch_add(bytes, Ordering::Relaxed) > MAX_WAITING;
        if full || self.recorder.queue.try_send(message).is_err() {
            shared.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.broken = true;
        }
    }
}

impl Drop for Tape {
    fn drop(&mut self) {
        self.flush();
        let last = Message::End {
            session: self.session,
            whole: !self.broken,
        };
        // Where the queue is full for good, the file stays open until the program ends, and is whole up to there.
        drop(self.recorder.queue.try_send(last));
    }
}

/// Something that went into a session or came out of it.
#[derive(Debug)]
pub struct Note {
    /// Counted from when the session began.
    at: Duration,
    what: What,
}

/// What was noted.
#[derive(Debug)]
pub enum What {
    /// Bytes were read of a side.
    Read(Side, Box<[u8]>),
    /// Bytes went to a side.
    Emitted(Side, Box<[u8]>),
    /// A line that is a step of a transcript.
    Step(String),
    /// A step that has to come before the present one.
    Before(&'static str),
    /// A line that tells what came of the present step.
    Came(String),
    /// Something was done to the session: its recording is kept.
    Incident,
}

#[derive(Debug)]
enum Message {
    Notes {
        session: u64,
        notes: Vec<Note>,
        bytes: usize,
    },
    /// A session is over; `whole` tells whether all of its notes found room.
    End { session: u64, whole: bool },
    /// Tell when everything before this is written.
    Close(SyncSender<()>),
}

/// Writes what tapes send, until the last of them is gone.
fn write(folder: &Path, messages: &Receiver<Message>, shared: &Shared) {
    let mut sessions = HashMap::new();
    while let Ok(message) = messages.recv() {
        match message {
            Message::Notes {
                session,
                notes,
                bytes,
            } => {
                shared.waiting.fetch_sub(bytes, Ordering::Relaxed);
                let recording = sessions
                    .entry(session)
                    .or_insert_with(|| Recording::create(folder, session));
                if let Some(recording) = recording {
                    notes
                        .into_iter()
                        .for_each(|note| recording.writing.take(note));
                }
            }
            Message::End { session, whole } => {
                let recording = sessions.remove(&session).flatten();
                if !recording.is_some_and(|recording| recording.finish(whole)) {
                    shared.files.fetch_sub(1, Ordering::Relaxed);
                }
            }
            Message::Close(written) => {
                for recording in sessions.values_mut().flatten() {
                    recording.writing.flush();
                }
                // Who asked may have waited for long enough.
                written.try_send(()).ok();
            }
        }
    }
}

/// The file of a session.
struct Recording {
    path: PathBuf,
    writing: Writing<BufWriter<File>>,
}

impl Recording {
    fn create(folder: &Path, session: u64) -> Option<Self> {
        let path = folder.join(format!("{}-{session}.txt", process::id()));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        match options.open(&path) {
            Ok(file) => Some(Self {
                path,
                writing: Writing::new(BufWriter::new(file)),
            }),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "cannot record a session");
                None
            }
        }
    }

    /// Writes the last of a recording; one in which nothing was done is removed, and false is returned.
    fn finish(self, whole: bool) -> bool {
        match self.writing.finish(whole) {
            Ok(true) => true,
            Ok(false) => fs::remove_file(&self.path).is_err(),
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "a recording is not whole");
                true
            }
        }
    }
}

/// How long the end of the program waits for the last recordings.
const PATIENCE: Duration = Duration::from_secs(2);

/// Messages that may wait for the thread.
const QUEUE_LENGTH: usize = 4096;

/// After how many notes, or bytes of them, a tape sends them on their way.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 64 << 10;

/// Bytes that may wait for the thread.
const MAX_WAITING: usize = 64 << 20;

/// How many recordings there may be at once.
pub const MAX_FILES: usize = 1000;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "any time will do")]
    fn tape(recorder: &Recorder, session: u64) -> Option<Tape> {
        recorder.tape(session, Instant::now())
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let files = fs::read_dir(folder).unwrap();
        files.map(|file| file.unwrap().path()).collect()
    }

    #[test]
    fn what_is_kept_are_the_sessions_to_which_something_was_done() {
        let folder = tempfile::tempdir().unwrap();
        let records = folder.path().join("a/b");
        let recorder = Recorder::start(&records).unwrap();
        for session in 1..=3 {
            let mut tape = tape(&recorder, session).unwrap();
            tape.note(tape.began(), What::Step("drain".to_owned()));
            if session == 2 {
                tape.keep();
            }
        }
        recorder.close();
        let [file] = <[PathBuf; 1]>::try_from(files(&records)).unwrap();
        assert!(file.to_str().unwrap().ends_with("-2.txt"), "{file:?}");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(file).unwrap().ends_with("drain\n"));
        assert_eq!(recorder.shared.files.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn there_are_so_many_files_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::start(folder.path()).unwrap();
        let session = |number: usize| tape(&recorder, number as u64);
        let tapes: Vec<_> = (0..MAX_FILES).map(session).collect();
        assert!(tapes.iter().all(Option::is_some));
        assert!(session(MAX_FILES).is_none());
        drop(tapes);
        recorder.close();
        assert!(session(MAX_FILES).is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(Recorder::start(&file.path().join("x")).is_err());
    }

    #[test]
    fn what_finds_no_room_ends_the_recording() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::start(folder.path()).unwrap();
        let mut tape = tape(&recorder, 1).unwrap();
        tape.keep();
        recorder
            .shared
            .waiting
            .fetch_add(2 * MAX_WAITING, Ordering::Relaxed);
        tape.note(tape.began(), What::Step("drain".to_owned()));
        tape.flush();
        drop(tape);
        recorder.close();
        let [file] = <[PathBuf; 1]>::try_from(files(folder.path())).unwrap();
        let text = fs::read_to_string(file).unwrap();
        assert!(
            text.ends_with("found no room.\n") && !text.contains("drain"),
            "{text}"
        );
    }

    /// A disk that hangs keeps the thread from taking messages: the end of the program does not wait for it without end.
    #[test]
    fn the_end_waits_for_a_while_and_no_longer() {
        let (queue, messages) = sync_channel(1);
        let recorder = Recorder {
            queue,
            shared: Arc::default(),
        };
        let full = Message::End {
            session: 1,
            whole: true,
        };
        recorder.queue.try_send(full).unwrap();
        let (ends, ended) = sync_channel(1);
        let closing = recorder;
        thread::spawn(move || {
            closing.close();
            ends.send(()).unwrap();
        });
        assert_eq!(ended.recv_timeout(2 * PATIENCE), Ok(()));
        drop(messages);
    }
}
