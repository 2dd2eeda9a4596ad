//! The rows of an answer, and what they say. A value that cannot be read is not known; it costs no other.

use std::{
    collections::{HashMap, HashSet},
    error::Error as StdError,
    sync::Arc,
    time::Duration,
};

use tokio_postgres::{
    Error, Row,
    types::{FromSql, Type},
};

use super::text::{decode, decode_beginning};
use crate::{
    policy::LockMode,
    session::damage::{FreedBy, Lock, Waiter},
};

/// What the server said.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The sessions asked about that there are.
    pub(super) sessions: Vec<Seen>,
    /// Their locks, by server process.
    pub(super) locks: Vec<(i32, Lock)>,
    /// Everyone on the server who waits for another; how that concerns a session is not known yet.
    pub(super) waiters: Vec<Waiter>,
    /// Those whom somebody may wait for, because PostgreSQL does not tell for whom it waits.
    pub(super) suspects: HashSet<i32>,
    /// Whether all who wait were seen.
    pub(super) sees_all: bool,
}

/// A session as the server shows it. Names whose bytes are not UTF-8 have them replaced, as those of a startup packet.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) server_pid: i32,
    pub(super) database: String,
    pub(super) user: String,
    pub(super) xmin_age: Option<i32>,
    pub(super) awaits_standby: Option<bool>,
}

/// Takes an answer from its rows, and each text but once.
pub(super) struct Reader<'a> {
    /// The encoding of the observer's database.
    encoding: &'a str,
    answer: Answer,
    /// Where in `waiters` a process stands.
    places: HashMap<i32, usize>,
    texts: HashSet<Arc<str>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(encoding: &'a str, sees_others: bool) -> Self {
        Self {
            encoding,
            answer: Answer {
                sees_all: sees_others,
                ..Answer::default()
            },
            places: HashMap::new(),
            texts: HashSet::new(),
        }
    }

    pub(super) fn read(&mut self, row: &Row) -> Result<(), Error> {
        let Bytes(what) = row.try_get("what")?;
        match what {
            b"session" => self.session(row),
            b"lock" => self.lock(row),
            _ => self.waiter(row),
        }
    }

    pub(super) fn finish(self) -> Answer {
        self.answer
    }

    fn session(&mut self, row: &Row) -> Result<(), Error> {
        let name = |column| {
            let bytes: Option<Bytes<'_>> = row.try_get(column)?;
            let bytes = bytes.map_or(&b""[..], |bytes| bytes.0);
            Ok::<_, Error>(String::from_utf8_lossy(bytes).into_owned())
        };
        let seen = Seen {
            server_pid: row.try_get("pid")?,
            database: name("database")?,
            user: name("role")?,
            xmin_age: row.try_get("xmin_age")?,
            awaits_standby: row.try_get("awaits_standby")?,
        };
        self.answer.sessions.push(seen);
        Ok(())
    }

    fn lock(&mut self, row: &Row) -> Result<(), Error> {
        let lock = Lock {
            locktype: self.text(row, "waits_for")?.unwrap_or_default(),
            relation: self.text(row, "relation")?,
            mode: self.text(row, "mode")?.unwrap_or_default(),
            granted: true,
            fastpath: row.try_get("fastpath")?,
        };
        self.answer.locks.push((row.try_get("pid")?, lock));
        Ok(())
    }

    /// A process that waits, which may be one of a parallel group: the group is one waiter.
    fn waiter(&mut self, row: &Row) -> Result<(), Error> {
        let waits_for = self.text(row, "waits_for")?.unwrap_or_default();
        let pids = |column| {
            let pids: Option<Vec<i32>> = row.try_get(column)?;
            Ok::<_, Error>(pids.unwrap_or_default())
        };
        let (mut blocked_by, suspects) = (pids("blocked_by")?, pids("suspects")?);
        // Who alone can be in the way is; a barrier can be missed by processes of the server's own too.
        if blocked_by.is_empty() && suspects.len() == 1 && *waits_for != *"ProcSignalBarrier" {
            blocked_by.clone_from(&suspects);
        }
        self.answer.suspects.extend(suspects);
        let mode = self.text(row, "mode")?;
        let mut prepared = self.prepared(row, mode.as_deref())?;
        if blocked_by.contains(&0) && prepared.is_empty() {
            prepared.push(None);
        }
        let waiting: Option<i64> = row.try_get("waiting_us")?;
        let waiter = Waiter {
            server_pid: row.try_get("pid")?,
            backend_type: self.text(row, "backend_type")?,
            user: self.name(row, "role")?,
            application_name: self.text(row, "application_name")?,
            statement: self.statement(row)?,
            waits_for,
            relation: self.text(row, "relation")?,
            mode,
            waiting: waiting.map(|us| Duration::from_micros(us.try_into().unwrap_or(0))),
            blocked_by: each_once(blocked_by.into_iter().filter(|&pid| pid != 0)),
            prepared: prepared.into(),
            depth: 0,
            freed_by: FreedBy::Rollback,
        };
        match self.places.get(&waiter.server_pid) {
            Some(&place) => {
                if let Some(known) = self.answer.waiters.get_mut(place) {
                    join(known, waiter);
                }
            }
            None => {
                self.places
                    .insert(waiter.server_pid, self.answer.waiters.len());
                self.answer.waiters.push(waiter);
            }
        }
        Ok(())
    }

    /// The names of the prepared transactions that hold what is waited for in a mode that conflicts.
    fn prepared(
        &mut self,
        row: &Row,
        wanted: Option<&str>,
    ) -> Result<Vec<Option<Arc<str>>>, Error> {
        let holders: Option<Vec<Bytes<'_>>> = row.try_get("prepared")?;
        let wanted: Option<LockMode> = wanted.and_then(|mode| mode.parse().ok());
        let mut names = Vec::new();
        for Bytes(holder) in holders.unwrap_or_default() {
            let space = holder.iter().position(|&byte| byte == b' ');
            let (mode, name) = holder.split_at(space.unwrap_or_default());
            let mode: Option<LockMode> = str::from_utf8(mode).ok().and_then(|m| m.parse().ok());
            let in_the_way = match (mode, wanted) {
                (Some(held), Some(wanted)) => held.conflicts_with(wanted),
                _ => true,
            };
            let name = name.get(1..).and_then(|name| decode(name, "UTF8"));
            let name = name.map(|name| self.shared(&name));
            if in_the_way && !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// A name of the catalogs that all databases share, in an unknown encoding.
    fn name(&mut self, row: &Row, column: &str) -> Result<Option<Arc<str>>, Error> {
        let bytes: Option<Bytes<'_>> = row.try_get(column)?;
        let name = bytes.and_then(|Bytes(bytes)| decode(bytes, "UTF8"));
        Ok(name.map(|name| self.shared(&name)))
    }

    /// A text of the observer's own database.
    fn text(&mut self, row: &Row, column: &str) -> Result<Option<Arc<str>>, Error> {
        let bytes: Option<Bytes<'_>> = row.try_get(column)?;
        let text = bytes.and_then(|Bytes(bytes)| decode(bytes, self.encoding));
        Ok(text.map(|text| self.shared(&text)))
    }

    /// A statement, in the encoding of the database where it runs.
    fn statement(&mut self, row: &Row) -> Result<Option<Arc<str>>, Error> {
        let bytes: Option<Bytes<'_>> = row.try_get("statement")?;
        let encoding: Option<Bytes<'_>> = row.try_get("encoding")?;
        let encoding = encoding.and_then(|Bytes(name)| str::from_utf8(name).ok());
        let text = bytes
            .filter(|Bytes(bytes)| {
                !["", "<insufficient privilege>"]
                    .map(str::as_bytes)
                    .contains(bytes)
            })
            .and_then(|Bytes(bytes)| decode_beginning(bytes, encoding.unwrap_or("SQL_ASCII")));
        Ok(text.map(|text| self.shared(&text)))
    }

    fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        self.texts.insert(Arc::clone(&text));
        text
    }
}

/// Adds what another process of a group waits for; what the first one waits for is shown.
fn join(known: &mut Waiter, other: Waiter) {
    let blocked_by = known.blocked_by.iter().chain(&*other.blocked_by).copied();
    known.blocked_by = each_once(blocked_by);
    known.waiting = known.waiting.max(other.waiting);
    if known.prepared.is_empty() {
        known.prepared = other.prepared;
    }
}

/// `pg_blocking_pids` names a process as often as it is in the way.
fn each_once(pids: impl Iterator<Item = i32>) -> Arc<[i32]> {
    let mut seen = HashSet::new();
    pids.filter(|&pid| seen.insert(pid)).collect()
}

/// The bytes of a value of any type, as the server sent them.
#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Bytes<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn StdError + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
