//! The words of the transcripts: each message of the protocol as its type and what counts of it, and back.
//!
//! Tests are written in this language, and recordings of real sessions too, so that a recording can be played as a test
//! (docs/maintaining.md). Values are no part of it: parameters, rows and the texts of errors are left out.

#[cfg(feature = "proxy")]
pub mod player;

use std::time::Duration;

use super::{
    damage::{Damage, FreedBy, Waiter},
    event::Event,
};
use crate::{
    policy::{Limits, RELEASE_TIMEOUT, StuckKind, format_duration},
    wire::{Bind, ErrorFields, Parse, cstr, describe_target, execute_portal, parameter_status},
};

/// From how many equal messages on a run of them is written as one, with their number.
const RUN: usize = 8;

/// What stands between the number of a run and its message.
const TIMES: &str = " × ";

/// A message of a type with a body, as it lies on the wire.
///
/// # Panics
/// The body is longer than a message can be.
pub fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).expect("a message has a length of 32 bits");
    let mut frame = vec![tag];
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(body);
    frame
}

/// Type and words of a message, and how often it comes.
fn words(message: &str) -> (usize, &str, &str) {
    let message = message.trim();
    let run = message.split_once(TIMES);
    let run = run.and_then(|(times, message)| Some((times.parse().ok()?, message)));
    let (times, message) = run.unwrap_or((1, message));
    let (kind, rest) = message.split_once(' ').unwrap_or((message, ""));
    (times, kind, rest)
}

/// A message of the client from its words, as often as they say.
///
/// # Panics
/// It is none.
pub fn frontend(message: &str) -> Vec<u8> {
    let (times, kind, rest) = words(message);
    let (name, text) = rest.split_once(' ').unwrap_or((rest, ""));
    let name = name.trim_matches('-');
    let bytes = match kind {
        "Q" => frame(b'Q', format!("{rest}\0").as_bytes()),
        "P" => frame(b'P', format!("{name}\0{text}\0\0\0").as_bytes()),
        "B" => frame(
            b'B',
            format!("{name}\0{}\0\0\0\0\0\0\0", text.trim_matches('-')).as_bytes(),
        ),
        "E" => frame(b'E', format!("{name}\0\0\0\0\0").as_bytes()),
        "DS" => frame(b'D', format!("S{name}\0").as_bytes()),
        "DP" => frame(b'D', format!("P{name}\0").as_bytes()),
        "CS" => frame(b'C', format!("S{name}\0").as_bytes()),
        "CP" => frame(b'C', format!("P{name}\0").as_bytes()),
        "S" => frame(b'S', b""),
        "H" => frame(b'H', b""),
        "c" => frame(b'c', b""),
        "X" => frame(b'X', b""),
        // lo_close, with the result as an int4.
        "F" if rest == "953" => frame(b'F', &[0, 0, 3, 0xb9, 0, 0, 0, 0, 0, 1]),
        "F" => frame(b'F', &[0; 10]),
        "d" => match rest.strip_suffix(" bytes").map(str::parse) {
            Some(Ok(len)) => frame(b'd', &vec![b'x'; len]),
            Some(Err(_)) | None => frame(b'd', rest.as_bytes()),
        },
        "f" => frame(b'f', format!("{rest}\0").as_bytes()),
        other => panic!("not a message of the client: {other}"),
    };
    bytes.repeat(times)
}

/// A message of the server from its words, as often as they say.
///
/// # Panics
/// It is none.
pub fn backend(message: &str) -> Vec<u8> {
    let (times, kind, rest) = words(message);
    let error = |severity: &str| {
        let fields = format!("S{severity}\0V{severity}\0C{rest}\0Mtext\0\0");
        frame(b'E', fields.as_bytes())
    };
    let bytes = match (kind, kind.as_bytes()) {
        ("1" | "2" | "3" | "n" | "I" | "s" | "T" | "t" | "D" | "V" | "c", &[tag]) => {
            frame(tag, rest.as_bytes())
        }
        ("G" | "H" | "W", &[tag]) => frame(tag, &[0, 0, 0]),
        ("d", _) => frame(b'd', b"row"),
        // What answers a statement of a release, and the end of a batch of them.
        ("own", _) => [
            backend("closed"),
            frame(b'1', b""),
            frame(b'2', b""),
            frame(b'C', format!("{rest}\0").as_bytes()),
        ]
        .concat(),
        ("closed", _) => frame(b'3', b"").repeat(2),
        // What answers the question of a release, with so many rows.
        ("answer", _) => ["own SAVEPOINT", "own SET", "own SET", "own SELECT 1"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("own SELECT {rest}")])
            .flat_map(|message| backend(&message))
            .collect(),
        ("C", _) => frame(b'C', format!("{rest}\0").as_bytes()),
        ("Z", _) => frame(b'Z', rest.as_bytes()),
        ("E", _) => error("ERROR"),
        ("FATAL", _) => error("FATAL"),
        // The wait for a standby was ended.
        ("SYNCREP", _) => frame(
            b'N',
            b"SWARNING\0VWARNING\0C01000\0Mtext\0RSyncRepWaitForLSN\0\0",
        ),
        ("N", _) => frame(
            b'N',
            format!("SWARNING\0VWARNING\0C{rest}\0Mtext\0\0").as_bytes(),
        ),
        ("NOTICE", _) => frame(
            b'N',
            format!("S{rest}\0V{rest}\0C00000\0Mtext\0\0").as_bytes(),
        ),
        ("A", _) => frame(b'A', b"\0\0\0\x07channel\0payload\0"),
        ("PS", _) => frame(b'S', format!("{}\0", rest.replace('=', "\0")).as_bytes()),
        ("K", _) => frame(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]),
        ("R", _) => frame(b'R', &[0; 4]),
        (other, _) => panic!("not a message of the server: {other}"),
    };
    bytes.repeat(times)
}

/// The words of a message of the client's, from which [`frontend`] makes it; `None` where there are none. What a
/// statement is written as is said by `sql`.
pub fn of_client(tag: u8, body: &[u8], sql: impl FnOnce(&[u8]) -> String) -> Option<String> {
    let words = match tag {
        b'Q' => format!("Q {}", sql(cstr(body).map_or(body, |(text, _)| text))),
        b'P' => {
            let parse = Parse::read(body)?;
            format!("P {}- {}", name(parse.statement), sql(parse.text))
        }
        b'B' => {
            let bind = Bind::read(body)?;
            format!("B {}- {}-", name(bind.portal), name(bind.statement))
        }
        b'E' => format!("E {}-", name(execute_portal(body)?)),
        b'D' | b'C' => {
            let (target, of) = describe_target(body)?;
            format!("{}{} {}-", char::from(tag), char::from(target), name(of))
        }
        b'F' if body.starts_with(&[0, 0, 3, 0xb9]) => "F 953".to_owned(),
        b'd' => format!("d {} bytes", body.len()),
        b'f' => "f text".to_owned(),
        b'F' | b'S' | b'H' | b'c' | b'X' => char::from(tag).to_string(),
        _ => return None,
    };
    Some(words)
}

/// The words of a message of the server's, from which [`backend`] makes it; `None` where there are none.
pub fn of_server(tag: u8, body: &[u8]) -> Option<String> {
    let words = match tag {
        b'C' | b'Z' => return Some(show_backend(tag, body, false)),
        b'E' => {
            let fields = ErrorFields::read(body);
            let kind = if fields.is_fatal() { "FATAL" } else { "E" };
            format!("{kind} {}", String::from_utf8_lossy(fields.sqlstate))
        }
        b'N' => {
            let fields = ErrorFields::read(body);
            let (severity, code) = (fields.severity, String::from_utf8_lossy(fields.sqlstate));
            match severity {
                b"WARNING" if fields.routine == b"SyncRepWaitForLSN" => "SYNCREP".to_owned(),
                b"WARNING" => format!("N {code}"),
                severity => format!("NOTICE {}", String::from_utf8_lossy(severity)),
            }
        }
        b'S' => {
            let (name, value) = parameter_status(body)?;
            let counts = FOLLOWED.iter().any(|known| known.as_bytes() == name);
            let value = if counts { value } else { b"" };
            let [name, value] = [name, value].map(String::from_utf8_lossy);
            format!("PS {name}={value}")
        }
        b'A' | b'K' | b'R' | b'1' | b'2' | b'3' | b'n' | b'I' | b's' | b'T' | b't' | b'D'
        | b'V' | b'c' | b'd' | b'G' | b'H' | b'W' => char::from(tag).to_string(),
        _ => return None,
    };
    Some(words)
}

/// Parameters whose values count.
const FOLLOWED: &[&str] = &[
    "application_name",
    "client_encoding",
    "default_transaction_read_only",
    "in_hot_standby",
    "standard_conforming_strings",
];

/// A name as one word.
fn name(bytes: &[u8]) -> String {
    let name = String::from_utf8_lossy(bytes);
    name.replace(|c: char| c.is_whitespace() || c == '|', "_")
}

/// What a message to the server is shown as.
pub fn show_frontend(tag: u8, body: &[u8], sql: impl FnOnce(&[u8]) -> String) -> String {
    let letter = char::from(tag);
    match tag {
        b'Q' => format!(
            "Q {}",
            sql(cstr(body).map_or(body, |(text, _)| text)).trim_end()
        ),
        b'f' => format!("f {}", text(body).trim_end()),
        b'P' => {
            let Some((statement, rest)) = cstr(body) else {
                return letter.to_string();
            };
            let sql = sql(cstr(rest).map_or(rest, |(text, _)| text));
            // The question of a release is a page long.
            let sql = sql.split_once('\n').map_or(&*sql, |(first, _)| first);
            format!("P {}- {sql}", name(statement))
        }
        b'd' => format!("d {}", body.len()),
        _ => letter.to_string(),
    }
}

/// What a message to the client is shown as; `ours` tells whether pgidle has made it.
pub fn show_backend(tag: u8, body: &[u8], ours: bool) -> String {
    let letter = char::from(tag);
    match tag {
        b'C' => format!("C {}", text(body)),
        b'Z' => format!("Z {}", text(body)),
        b'E' | b'N' => {
            let fields = ErrorFields::read(body);
            let own = if ours { " (ours)" } else { "" };
            let severity = if fields.is_fatal() { " FATAL" } else { "" };
            let code = String::from_utf8_lossy(fields.sqlstate);
            format!("{letter}{severity} {code}{own}")
        }
        _ => letter.to_string(),
    }
}

/// Messages in a line; those of pgidle's that belong together as one.
pub fn line(messages: &[String]) -> String {
    let mut line = Vec::new();
    for run in messages.chunk_by(|one, other| one == other) {
        match run {
            [one, ..] if run.len() >= RUN => line.push(format!("{}{TIMES}{one}", run.len())),
            run => line.extend_from_slice(run),
        }
    }
    line.join(" | ")
        .replace("C | C | P pgidle_release_0- ", "own ")
        .replace(" | B | E | own", " | own")
        .replace(" | B | E | C | C | S", " | closed | S")
}

fn text(body: &[u8]) -> String {
    String::from_utf8_lossy(cstr(body).map_or(body, |(text, _)| text)).into_owned()
}

/// Limits in one line: `idle: log 1s, rollback 2s; age: rollback 10s`.
pub fn limits(limits: &Limits) -> String {
    let mut parts = Vec::new();
    for kind in StuckKind::ALL {
        let rungs = limits.ladder(kind).rungs().iter();
        let rungs: Vec<_> = rungs
            .map(|&(at, action)| format!("{action} {}", format_duration(at)))
            .collect();
        if !rungs.is_empty() {
            parts.push(format!("{kind}: {}", rungs.join(", ")));
        }
    }
    if limits.age_implicit {
        parts.push("implicit:".to_owned());
    }
    if let Some(mode) = limits.blocking_mode {
        parts.push(format!("blocking_mode: {}", mode.name()));
    }
    if limits.release_timeout != RELEASE_TIMEOUT {
        let timeout = format_duration(limits.release_timeout);
        parts.push(format!("release_timeout: {timeout}"));
    }
    parts.join("; ")
}

/// What a driver sees of an event; `None` for one that its outputs show.
pub fn event(event: &Event) -> Option<String> {
    Some(match event {
        Event::Incident(incident) => format!(
            "{} {} {} at {:?} in {:?} after {:?}",
            incident.kind().map_or("command", StuckKind::name),
            incident.action,
            incident.outcome.name(),
            incident.limit().unwrap_or_default(),
            incident.position.name(),
            incident.idle
        ),
        Event::Transaction(record) => format!(
            "transaction {} of {} statement(s)",
            record.outcome.name(),
            record.statement_count
        ),
        Event::Opened | Event::Closed(_) | Event::Step(_) => return None,
    })
}

/// What an observer has seen: who waits for how long to lock what in which mode, and what frees them.
pub fn seen(damage: &Damage) -> String {
    let waiters: Vec<_> = damage.blocked.iter().flatten().map(waiter).collect();
    match (damage.awaits_standby, waiters.as_slice()) {
        (Some(true), _) => "a commit that awaits a standby".to_owned(),
        (None, []) => "nothing".to_owned(),
        (Some(false), []) => "nobody".to_owned(),
        (Some(false) | None, waiters) => waiters.join("; "),
    }
}

fn waiter(waiter: &Waiter) -> String {
    let time = waiter
        .waiting
        .map_or_else(|| "?".to_owned(), format_duration);
    let mode = waiter.mode.as_deref().unwrap_or(&waiter.waits_for);
    let freed_by = match waiter.freed_by {
        FreedBy::Rollback => "",
        FreedBy::Terminate => ", freed by terminate",
        FreedBy::Nothing => ", freed by nothing",
    };
    format!("{time} for {mode}{freed_by}")
}

/// That there is an observer who can look so often, or none.
pub fn observer(interval: Option<Duration>) -> String {
    match interval {
        None => "no observer".to_owned(),
        Some(interval) if interval == SECOND => "an observer".to_owned(),
        Some(interval) => format!("an observer every {}", format_duration(interval)),
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(sql: &[u8]) -> String {
        String::from_utf8_lossy(sql).into_owned()
    }

    #[test]
    fn what_is_written_of_a_message_makes_it_again() {
        for words in [
            "Q SELECT 1",
            "P - SELECT 1",
            "P name- SELECT 1",
            "B - -",
            "B portal- name-",
            "E -",
            "DS name-",
            "DP -",
            "CS -",
            "CP portal-",
            "S",
            "H",
            "c",
            "X",
            "F",
            "F 953",
            "d 5 bytes",
            "f text",
        ] {
            let bytes = frontend(words);
            let again = of_client(bytes[0], &bytes[5..], plain).unwrap();
            assert_eq!(frontend(&again), bytes, "{words}");
        }
        for words in [
            "1",
            "2",
            "3",
            "n",
            "I",
            "s",
            "T",
            "t",
            "D",
            "V",
            "c",
            "d",
            "G",
            "H",
            "W",
            "C INSERT 0 1",
            "Z T",
            "E 22012",
            "FATAL 57P01",
            "SYNCREP",
            "N 01000",
            "NOTICE INFO",
            "A",
            "PS client_encoding=UTF8",
            "PS TimeZone=",
            "K",
            "R",
        ] {
            let bytes = backend(words);
            assert_eq!(of_server(bytes[0], &bytes[5..]).unwrap(), words);
        }
    }

    #[test]
    fn a_run_of_equal_messages_is_one_word() {
        let rows = vec!["D".to_owned(); RUN];
        assert_eq!(line(&rows), "8 × D");
        assert_eq!(line(&rows[1..]), ["D"; RUN - 1].join(" | "));
        assert_eq!(backend("8 × D"), backend("D").repeat(8));
    }

    #[test]
    fn nothing_is_told_of_values() {
        let body = b"\0name\0\0\0\0\x01\0\0\0\x06secret\0\0";
        assert_eq!(of_client(b'B', body, plain).unwrap(), "B - name-");
        // A Parse that the server will refuse: nothing in it is a name.
        assert_eq!(of_client(b'P', b"secret", plain), None);
        assert_eq!(show_frontend(b'P', b"secret", |_| "?".to_owned()), "P");
        let error = b"SERROR\0VERROR\0C23505\0Msecret\0Dsecret\0\0";
        assert_eq!(of_server(b'E', error).unwrap(), "E 23505");
        assert_eq!(
            of_server(b'S', b"session_authorization\0secret\0").unwrap(),
            "PS session_authorization="
        );
    }
}
