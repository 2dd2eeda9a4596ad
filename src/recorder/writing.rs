//! From what a session has noted to the lines of a transcript.
//!
//! A line that is a step goes in; the lines under it tell what came of it. They are put together here until the next step
//! begins. Statements are without literals, as in the audit, but for those that pgidle itself has made.

use std::{
    collections::{HashSet, hash_map::DefaultHasher},
    hash::{Hash as _, Hasher as _},
    io::{self, Write},
    mem,
    time::Duration,
};

use super::{Note, What};
use crate::{
    policy::format_duration,
    session::{Side, transcript},
    sql::{self, Identifiers},
};

/// The recording of one session.
pub(super) struct Writing<W> {
    file: W,
    written: usize,
    error: Option<io::Error>,
    /// The present step, and what came of it.
    step: String,
    came: String,
    /// What has been read and sent on of each side that is no whole message yet.
    read: [Messages; 2],
    emitted: [Messages; 2],
    /// Hashes of what has come from each side: what goes to the other and is not among them, pgidle has made.
    foreign: [HashSet<u64>; 2],
    last: Duration,
    /// Whether the client was let in.
    ready: bool,
    /// Whether something was done to the session.
    kept: bool,
    full: bool,
}

impl<W: Write> Writing<W> {
    pub(super) fn new(file: W) -> Self {
        Self {
            file,
            written: 0,
            error: None,
            step: HEADER.to_owned(),
            came: String::new(),
            read: Default::default(),
            emitted: Default::default(),
            foreign: Default::default(),
            last: Duration::ZERO,
            ready: false,
            kept: false,
            full: false,
        }
    }

    pub(super) fn take(&mut self, Note { at, what }: Note) {
        if self.full && !matches!(what, What::Incident) {
            return;
        }
        match what {
            What::Read(from, bytes) => self.read(from, &bytes, at),
            What::Emitted(to, bytes) => self.emitted(to, &bytes),
            What::Step(step) => self.begin(&step, at),
            What::Before(step) => self.step.insert_str(0, &format!("{step}\n")),
            What::Came(line) => self.came(&line),
            What::Incident => self.kept = true,
        }
    }

    /// Writes the last step; returns whether the recording is to be kept.
    pub(super) fn finish(mut self, whole: bool) -> io::Result<bool> {
        self.flush();
        if !whole {
            self.end("# The recording ends here: what was noted then found no room.");
        }
        self.file.flush()?;
        self.error.map_or(Ok(self.kept), Err)
    }

    /// Writes the step that is under way, of which nothing more will come.
    pub(super) fn flush(&mut self) {
        self.write_step();
        if let Err(error) = self.file.flush() {
            self.error = Some(error);
        }
    }

    /// A step begins, so long after the one before it.
    fn begin(&mut self, step: &str, at: Duration) {
        self.write_step();
        let waited = at.saturating_sub(self.last);
        if waited >= Duration::from_micros(1) {
            self.last = at;
            self.step = format!("waits {}\n", format_duration(waited));
        }
        self.step.push_str(step);
        self.step.push('\n');
    }

    fn came(&mut self, line: &str) {
        self.came.push_str("  ");
        self.came.push_str(line);
        self.came.push('\n');
    }

    fn write_step(&mut self) {
        let text = mem::take(&mut self.step) + &mem::take(&mut self.came);
        if self.full {
            return;
        }
        self.write(&text);
        if self.written > MAX_LENGTH {
            self.end("# The recording ends here: it is as long as one may be.");
        }
    }

    fn end(&mut self, line: &str) {
        if !self.full {
            self.write(&format!("{line}\n"));
            self.full = true;
        }
    }

    fn write(&mut self, text: &str) {
        self.written += text.len();
        if let Err(error) = self.file.write_all(text.as_bytes()) {
            self.error = Some(error);
            self.full = true;
        }
    }

    fn read(&mut self, from: Side, bytes: &[u8], at: Duration) {
        let mut said = Vec::new();
        let mut messages = mem::take(&mut self.read[from as usize]);
        let was_half = messages.is_half();
        messages.split(bytes, |tag, body| {
            let words = match from {
                Side::Client => transcript::of_client(tag, body, masked),
                Side::Server if is_login(tag, body) => None,
                // That is no news: the client has said so at the start.
                Side::Server if !self.ready && body.starts_with(b"application_name\0") => {
                    Some("PS application_name=".to_owned())
                }
                Side::Server => transcript::of_server(tag, body),
            };
            self.ready |= tag == b'Z';
            if may_be_shown(from, tag) {
                self.foreign[from as usize].insert(hash(tag, body));
            }
            said.extend(words);
        });
        let (mark, half) = match from {
            Side::Client => ("C", messages.is_half() && (!was_half || !said.is_empty())),
            Side::Server => ("S", false),
        };
        self.read[from as usize] = messages;
        if !said.is_empty() {
            self.begin(&format!("{mark}: {}", transcript::line(&said)), at);
        }
        if half {
            self.begin("C half", at);
        }
    }

    fn emitted(&mut self, to: Side, bytes: &[u8]) {
        let mut shown = Vec::new();
        let mut messages = mem::take(&mut self.emitted[to as usize]);
        messages.split(bytes, |tag, body| {
            let from = to.other();
            let ours = !(may_be_shown(from, tag)
                && self.foreign[from as usize].contains(&hash(tag, body)));
            match to {
                Side::Server if tag == b'p' => {}
                Side::Client if is_login(tag, body) => {}
                Side::Server if ours => {
                    shown.push(own(&transcript::show_frontend(tag, body, plain)))
                }
                Side::Server if tag == b'f' => shown.push("f text".to_owned()),
                Side::Server => shown.push(transcript::show_frontend(tag, body, masked)),
                Side::Client => shown.push(transcript::show_backend(tag, body, ours)),
            }
        });
        self.emitted[to as usize] = messages;
        if !shown.is_empty() {
            let mark = match to {
                Side::Client => '<',
                Side::Server => '>',
            };
            self.came(&format!("{mark} {}", transcript::line(&shown)));
        }
    }
}

/// Whole messages out of bytes that come in pieces.
#[derive(Default)]
struct Messages {
    front: Vec<u8>,
    /// Bytes of a message whose front was large enough to be told.
    skip: usize,
}

impl Messages {
    /// Gives type and body of each message that is whole, and of those that are large the front of the body.
    fn split(&mut self, bytes: &[u8], mut message: impl FnMut(u8, &[u8])) {
        self.front.extend_from_slice(bytes);
        let mut rest = &*self.front;
        loop {
            let skipped = self.skip.min(rest.len());
            self.skip -= skipped;
            rest = &rest[skipped..];
            let [tag, length @ ..] = rest.first_chunk::<5>().copied().unwrap_or_default();
            let body = (u32::from_be_bytes(length) as usize).saturating_sub(4);
            let here = rest.len().saturating_sub(5);
            if rest.len() < 5 || here < body.min(MAX_BODY) {
                break;
            }
            let told = body.min(MAX_BODY);
            message(tag, &rest[5..5 + told]);
            self.skip = body - told;
            rest = &rest[5 + told..];
        }
        self.front = rest.to_vec();
    }

    fn is_half(&self) -> bool {
        !self.front.is_empty()
    }
}

/// Whether a message is told by more than its type, so that it counts whose it is.
fn may_be_shown(from: Side, tag: u8) -> bool {
    match from {
        Side::Client => matches!(tag, b'Q' | b'P' | b'f'),
        Side::Server => matches!(tag, b'E' | b'N'),
    }
}

/// A request for a password, or a part of the answer to one.
fn is_login(tag: u8, body: &[u8]) -> bool {
    tag == b'R' && body != [0; 4]
}

fn hash(tag: u8, body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (tag, body).hash(&mut hasher);
    hasher.finish()
}

/// A statement without its literals, in one line. The server may yet refuse it: of a query no columns are left, and of what
/// does not parse, or is cut, only keywords.
fn masked(sql: &[u8]) -> String {
    let whole = String::from_utf8_lossy(sql);
    let text = &whole[..whole.floor_char_boundary(sql::MAX_PARSED)];
    let is_cut = text.len() < whole.len();
    let identifiers = match sql::fingerprint(text) {
        Some(_) => Identifiers::Unresolved,
        None => Identifiers::Hidden,
    };
    let shown = sql::normalise(text, identifiers).unwrap_or_else(|| "?".to_owned());
    // A bar between two spaces divides messages.
    let mut line = shown.replace(['\n', '\r'], " ").replace(" | ", " |\t");
    let end = line.char_indices().nth(MAX_TEXT).map(|(end, _)| end);
    line.truncate(end.unwrap_or(line.len()));
    if is_cut || end.is_some() {
        line.push('…');
    }
    line
}

/// A statement of pgidle's: it holds nothing of the client's.
fn plain(sql: &[u8]) -> String {
    String::from_utf8_lossy(sql).into_owned()
}

/// The number in the names of a release is another one in each session.
fn own(shown: &str) -> String {
    const NAME: &str = "pgidle_release_";
    let Some((before, rest)) = shown.split_once(NAME) else {
        return shown.to_owned();
    };
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_hexdigit());
    format!("{before}{NAME}0{rest}")
}

/// How long the recording of one session may be, in bytes.
const MAX_LENGTH: usize = 1 << 20;

/// How much of a message's body is looked at, in bytes: more than of any that is held until it is whole.
const MAX_BODY: usize = 64 << 10;

/// How much of a statement is written, in characters.
const MAX_TEXT: usize = 8192;

/// What a recording begins with.
const HEADER: &str = concat!(
    "# pgidle ",
    env!("CARGO_PKG_VERSION"),
    ": a session as a transcript (docs/maintaining.md). It has no literals and no values, and it has names.\n"
);

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::session::transcript::{backend, frontend};

    fn recording(notes: impl IntoIterator<Item = (u64, What)>) -> (String, bool) {
        let mut file = Vec::new();
        let mut writing = Writing::new(&mut file);
        for (millis, what) in notes {
            let at = Duration::from_millis(millis);
            writing.take(Note { at, what });
        }
        let kept = writing.finish(true).unwrap();
        (String::from_utf8(file).unwrap(), kept)
    }

    fn of(side: Side, messages: &[&str]) -> Box<[u8]> {
        let bytes = match side {
            Side::Client => frontend,
            Side::Server => backend,
        };
        messages.iter().flat_map(|message| bytes(message)).collect()
    }

    #[test]
    fn of_a_long_statement_the_front_is_written_without_names() {
        let long = format!("SELECT a, 'secret', {}", "1 ".repeat(20_000));
        let masked = masked(long.as_bytes());
        assert!(masked.starts_with("SELECT $1, $2, $3 $4 "), "{masked}");
        assert!(masked.ends_with('…') && masked.chars().count() <= MAX_TEXT + 1);
        let short = super::masked(b"SELECT a, 'secret'");
        assert_eq!(short, "SELECT $1, $2");
    }

    #[test]
    fn a_session_is_written_as_a_transcript_without_its_literals() {
        let insert = "Q INSERT INTO t VALUES (1, 'secret') -- secret";
        let error = of(Side::Server, &["E 25P03", "Z E"]);
        let notes = [
            (0, What::Step("limits: idle: rollback 1s".to_owned())),
            (1, What::Read(Side::Client, of(Side::Client, &[insert]))),
            (1, What::Emitted(Side::Server, of(Side::Client, &[insert]))),
            (1001, What::Step("rings".to_owned())),
            (1001, What::Before("cancel opens")),
            (1001, What::Came("! Cancel".to_owned())),
            (
                1001,
                What::Emitted(Side::Server, of(Side::Client, &["Q SELECT 'ours'"])),
            ),
            (1001, What::Emitted(Side::Client, error)),
            (1001, What::Incident),
        ];
        let (text, kept) = recording(notes);
        let (header, text) = text.split_once('\n').unwrap();
        assert!(header.starts_with("# pgidle "), "{header}");
        expect![[r#"
            limits: idle: rollback 1s
            waits 1ms
            C: Q INSERT INTO t VALUES ($1, $2)
              > Q INSERT INTO t VALUES ($1, $2)
            cancel opens
            waits 1s
            rings
              ! Cancel
              > Q SELECT 'ours'
              < E 25P03 (ours) | Z E
        "#]]
        .assert_eq(text);
        assert!(kept);
    }

    #[test]
    fn what_a_client_sends_twice_at_once_is_masked_twice() {
        let sent = ["Q SELECT 'secret'", "Q SELECT 'secret'", "f secret"];
        let twice = of(Side::Client, &sent);
        let notes = [
            (0, What::Read(Side::Client, twice.clone())),
            (0, What::Emitted(Side::Server, twice)),
        ];
        let (text, _) = recording(notes);
        assert!(!text.contains("secret"), "{text}");
        assert!(text.ends_with("  > Q SELECT $1 | Q SELECT $1 | f text\n"));
    }

    #[test]
    fn passwords_are_no_part_of_it_and_what_does_not_parse_is_hidden() {
        let password = transcript::frame(b'p', b"secret\0");
        let request = transcript::frame(b'R', &[0, 0, 0, 3]);
        let notes = [
            (0, What::Read(Side::Server, request.clone().into())),
            (0, What::Emitted(Side::Client, request.into())),
            (0, What::Read(Side::Client, password.clone().into())),
            (0, What::Emitted(Side::Server, password.into())),
            (0, What::Read(Side::Client, of(Side::Client, &["Q secret"]))),
        ];
        let (text, kept) = recording(notes);
        assert!(!text.contains("secret") && !kept, "{text}");
        assert_eq!(text.lines().count(), 2, "{text}");
    }

    #[test]
    fn a_message_that_comes_in_pieces_is_one() {
        let bytes = of(Side::Client, &["Q BEGIN", "d 200000 bytes", "c"]);
        let pieces = bytes
            .chunks(7)
            .map(|piece| (0, What::Read(Side::Client, piece.into())));
        let (text, _) = recording(pieces);
        let steps: Vec<_> = text
            .lines()
            .skip(1)
            .filter(|line| *line != "C half")
            .collect();
        assert_eq!(steps, ["C: Q BEGIN", "C: d 65536 bytes", "C: c"]);
    }

    #[test]
    fn it_has_an_end() {
        let query = of(Side::Client, &["Q SELECT a FROM t"]);
        let notes = (0..100_000).map(|_| (0, What::Read(Side::Client, query.clone())));
        let (text, _) = recording(notes);
        assert!(text.len() < MAX_LENGTH + 1000, "{}", text.len());
        assert!(text.ends_with("as long as one may be.\n"));
    }
}
