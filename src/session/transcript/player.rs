//! What plays transcripts: a session that has just begun, and the driver around it. A line that is no step fails whoever
//! plays it.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "whoever plays a transcript wants to know what is wrong with it"
)]

use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{SECOND, backend, frontend};
use crate::{
    policy::{
        Action as PolicyAction, Ladder, Limits, Match, Pattern, Rule, Rules, StuckKind,
        parse_duration,
    },
    session::{
        Action, Eof, Refused, Session, SessionParams, Side, Wants,
        damage::{Damage, FreedBy, Waiter},
        event::Who,
        transfer::Taken,
    },
    sql::{self, Claim},
    wire::ErrorFields,
};

/// Limits in one line: `idle: log 1s, rollback 2s; age: rollback 10s`.
pub(in crate::session) fn limits(text: &str) -> Arc<Limits> {
    let mut limits = Limits {
        rule: "test".into(),
        ..Limits::default()
    };
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        let (kind, rungs) = part.split_once(':').unwrap();
        if kind.trim() == "implicit" {
            limits.age_implicit = true;
            continue;
        }
        if kind.trim() == "release_timeout" {
            limits.release_timeout = parse_duration(rungs).unwrap();
            continue;
        }
        if kind.trim() == "blocking_mode" {
            limits.blocking_mode = Some(rungs.trim().parse().unwrap());
            continue;
        }
        let kind = StuckKind::ALL
            .into_iter()
            .find(|known| known.name() == kind.trim())
            .unwrap();
        let rungs = rungs.split(',').map(|rung| {
            let (action, at) = rung.trim().split_once(' ').unwrap();
            let action = PolicyAction::ALL
                .into_iter()
                .find(|known| known.name() == action);
            (action.unwrap(), parse_duration(at).unwrap())
        });
        limits.ladders[kind] = Ladder::new(rungs).unwrap();
    }
    Arc::new(limits)
}

/// Rules that hold for every session.
pub(in crate::session) fn everyone(limits: Arc<Limits>) -> Rules {
    Rules::new(vec![Rule {
        name: Arc::clone(&limits.rule),
        matching: Match::default(),
        limits,
    }])
}

/// Rules such as `lax = idle: rollback 9s | * = idle: rollback 3s`: patterns of application_name, with their limits.
fn rules(text: &str) -> Rules {
    let rule = |text: &str| {
        let (pattern, text) = text.split_once(" = ").unwrap();
        let mut limits = Arc::unwrap_or_clone(limits(text));
        limits.rule = pattern.into();
        Rule {
            name: pattern.into(),
            matching: Match {
                application_name: Some(Pattern::new(pattern)),
                ..Match::default()
            },
            limits: Arc::new(limits),
        }
    };
    Rules::new(text.split(" | ").map(rule).collect())
}

/// A session whose startup packet was sent `now`.
pub(in crate::session) fn started(text: &str, now: Instant) -> (Session, Instant) {
    let opening = SessionParams {
        who: Who {
            session: 1,
            ..Who::default()
        },
        records: true,
        ..SessionParams::default()
    };
    (Session::new(opening, limits(text), now), now)
}

/// A session, and the driver around it.
pub(in crate::session) struct Player {
    pub(in crate::session) session: Session,
    pub(in crate::session) now: Instant,
    /// What the client has sent and the session not read.
    sent: Vec<u8>,
    /// How many bytes of the message that comes next it has sent.
    half: usize,
    /// Whether the client has closed its end.
    left: bool,
    /// Whether the client takes nothing; how much of what is due to it was shown.
    blocks: bool,
    shown: usize,
    /// Whether cancel connections of the client's are open: the gate cannot be closed.
    cancels_open: bool,
    /// Claims that are not answered, and whether they are at once.
    claims: Vec<(u64, Claim)>,
    proves_at_once: bool,
    /// What the operator has written, where it is more than limits for everyone.
    rules: Option<Rules>,
    /// What is missing of the last message that was shown, to the server and to the client.
    rests: [usize; 2],
    pub(in crate::session) transcript: String,
}

impl Player {
    pub(in crate::session) fn of((session, now): (Session, Instant)) -> Self {
        Self {
            session,
            now,
            sent: Vec::new(),
            half: 0,
            left: false,
            blocks: false,
            shown: 0,
            cancels_open: false,
            claims: Vec::new(),
            proves_at_once: true,
            rules: None,
            rests: [0; 2],
            transcript: String::new(),
        }
    }

    /// Plays a script.
    pub(in crate::session) fn play(&mut self, script: &str) -> &mut Self {
        let lines = script.lines().map(str::trim);
        let mut lines = lines.filter(|line| !line.is_empty());
        while let Some(line) = lines.next() {
            writeln!(self.transcript, "{line}").unwrap();
            if line == "C half" {
                let next = lines.clone().find_map(|line| line.strip_prefix("C: "));
                self.half(next.unwrap_or("S"));
            } else if !line.starts_with('#') {
                self.step(line);
            }
            self.settle();
        }
        self
    }

    fn step(&mut self, line: &str) {
        let now = self.now;
        if let Some((kind @ ("C" | "S" | "seen" | "limits" | "rules"), rest)) =
            line.split_once(": ")
        {
            self.step_with(kind, rest);
        } else if let Some(time) = line.strip_prefix('+') {
            self.pass(parse_duration(time).unwrap());
        } else if let Some(time) = line.strip_prefix("waits ") {
            self.now += parse_duration(time).unwrap();
        } else if let Some(number) = line.strip_prefix("proven ") {
            let number = number.parse().unwrap();
            let index = self.claims.iter().position(|claim| claim.0 == number);
            let (_, claim) = self.claims.remove(index.unwrap());
            self.session.handle_proof(number, sql::prove(&claim), now);
        } else if let Some(every) = line.strip_prefix("an observer every ") {
            let interval = parse_duration(every).unwrap();
            self.session.handle_observer(Some(interval), now);
        } else {
            self.plain_step(line);
        }
    }

    fn step_with(&mut self, kind: &str, rest: &str) {
        let now = self.now;
        match kind {
            "C" => self.client(rest),
            "S" => self.server(rest),
            "seen" => self.session.handle_observation(seen(rest, now), now),
            "limits" => self.session.handle_rules(&everyone(limits(rest)), now),
            _ => {
                self.rules = Some(rules(rest));
                self.session.handle_rules(&rules(rest), now);
            }
        }
    }

    fn plain_step(&mut self, line: &str) {
        let now = self.now;
        match line {
            "rings" => self.session.handle_timeout(now),
            "cancel opens" => self.cancels_open = true,
            "cancel closes" => {
                self.cancels_open = false;
                self.session.handle_gate_closed(now);
            }
            "the prover is slow" => self.proves_at_once = false,
            "proven" => self.prove(),
            "cancelled" => self.session.handle_cancel_closed(now),
            "client blocks" => {
                self.blocks = true;
                self.session.note_taken(Side::Client, Taken::Nothing, now);
            }
            "client takes some" => self.client_takes_some(),
            "client reads" => self.client_takes_all(),
            "client leaves" => self.left = true,
            "server leaves" => self.leaves(Side::Server),
            "an observer" => self.session.handle_observer(Some(SECOND), now),
            "no observer" => self.session.handle_observer(None, now),
            "console: rollback" => {
                let begun = self.session.handle_rollback("ops".into(), now);
                self.refused(begun);
            }
            "console: terminate" => {
                let begun = self.session.handle_terminate("ops".into(), now);
                self.refused(begun);
            }
            "shutdown" => self.session.handle_shutdown(now),
            "drain" => self.session.handle_drain(now),
            "the end" => self.session.handle_closed(now),
            line => panic!("not a step: {line}"),
        }
    }

    /// The client sends all of a message but its last byte.
    fn half(&mut self, messages: &str) {
        let message = messages.split(" | ").next().map(frontend);
        let message = message.unwrap_or_default();
        self.half = message.len().saturating_sub(1);
        self.sent.extend_from_slice(&message[..self.half]);
    }

    fn leaves(&mut self, side: Side) {
        if let Eof::Close(reason) = self.session.handle_eof(side, self.now) {
            writeln!(self.transcript, "  ! close: {}", reason.name()).unwrap();
        }
    }

    /// Lets time pass, ringing every timer at its time.
    pub(in crate::session) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.session.poll_timeout().filter(|&at| at <= end) {
            self.now = at.max(self.now);
            self.session.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    /// Shows why a command from the console is not carried out.
    fn refused(&mut self, begun: Result<(), Refused>) {
        if let Err(refused) = begun {
            writeln!(self.transcript, "  ! {refused}").unwrap();
        }
    }

    /// The prover answers everything that it was asked.
    fn prove(&mut self) {
        for (number, claim) in std::mem::take(&mut self.claims) {
            self.session
                .handle_proof(number, sql::prove(&claim), self.now);
        }
    }

    fn client(&mut self, messages: &str) {
        for message in messages.split(" | ") {
            let known = std::mem::take(&mut self.half);
            self.sent.extend(&frontend(message)[known..]);
        }
    }

    /// Gives bytes as they are.
    #[cfg(test)]
    pub(in crate::session) fn client_raw(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        self.settle();
    }

    fn server(&mut self, messages: &str) {
        let bytes: Vec<u8> = messages.split(" | ").flat_map(backend).collect();
        self.server_raw(&bytes);
    }

    /// Gives bytes as they are.
    pub(in crate::session) fn server_raw(&mut self, bytes: &[u8]) {
        self.feed(Side::Server, bytes);
        assert_eq!(self.session.kept(Side::Server), 0, "a part of a message");
        self.settle();
    }

    fn feed(&mut self, from: Side, bytes: &[u8]) {
        let passed = self.session.handle_read(from, bytes, self.now).unwrap();
        self.write(from.other(), passed);
    }

    /// Reads of the client what may be read of it; false when that is nothing.
    fn read_client(&mut self) -> bool {
        let wants = self.session.wants_read(Side::Client);
        let most = match wants {
            Wants::Nothing => return false,
            Wants::Kept | Wants::End => 0,
            Wants::Bytes(most) => most.min(self.sent.len()),
        };
        let ends = self.sent.is_empty() && self.left;
        if wants == Wants::Kept || most > 0 {
            let mut bytes = self.session.take_kept(Side::Client);
            bytes.extend(self.sent.drain(..most));
            self.feed(Side::Client, &bytes);
        } else if wants == Wants::End || ends {
            self.leaves(Side::Client);
        } else {
            return false;
        }
        true
    }

    /// The client takes one byte and no more.
    fn client_takes_some(&mut self) {
        if self.session.unsent(Side::Client).len() > 1 {
            self.session.handle_written(Side::Client, 1, self.now);
            self.shown -= 1;
        } else {
            self.session.note_taken(Side::Client, Taken::Part, self.now);
        }
    }

    /// The client takes everything.
    fn client_takes_all(&mut self) {
        self.blocks = false;
        self.shown = 0;
        let unsent = self.session.unsent(Side::Client).len();
        if unsent > 0 {
            self.session.handle_written(Side::Client, unsent, self.now);
        } else {
            self.session.note_taken(Side::Client, Taken::All, self.now);
        }
    }

    /// Does what the relay does after each turn.
    fn settle(&mut self) {
        loop {
            self.write(Side::Server, b"");
            self.write(Side::Client, b"");
            if self.read_client() {
                continue;
            }
            let mut quiet = true;
            while let Some(action) = self.session.poll_action() {
                quiet = false;
                match action {
                    Action::CloseGate if !self.cancels_open => {
                        self.session.handle_gate_closed(self.now);
                    }
                    Action::ProveReadOnly { number, claim } => {
                        if !self.proves_at_once {
                            writeln!(self.transcript, "  ! prove {number}").unwrap();
                        }
                        self.claims.push((number, claim));
                    }
                    Action::CloseGate
                    | Action::OpenGate
                    | Action::Authenticated
                    | Action::SetCancelKey(_) => {}
                    Action::Cancel | Action::MatchRules => {
                        writeln!(self.transcript, "  ! {action:?}").unwrap();
                        if let (Action::MatchRules, Some(rules)) = (action, &self.rules) {
                            self.session.handle_rules(rules, self.now);
                        }
                    }
                    Action::Close(reason) => {
                        writeln!(self.transcript, "  ! close: {}", reason.name()).unwrap()
                    }
                }
            }
            while let Some(event) = self.session.poll_event() {
                let Some(shown) = super::event(&event) else {
                    continue;
                };
                writeln!(self.transcript, "  * {shown}").unwrap();
            }
            if self.proves_at_once && !self.claims.is_empty() {
                self.prove();
                continue;
            }
            if quiet {
                return;
            }
        }
    }

    /// Writes what has passed and what is due to a side. What a client does not take is shown all the same.
    fn write(&mut self, to: Side, passed: &[u8]) {
        let bytes = if to == Side::Client && self.blocks {
            self.session.handle_unwritten(to, passed, self.now);
            let unsent = self.session.unsent(to);
            let bytes = unsent[self.shown..].to_vec();
            self.shown = unsent.len();
            if self.session.wants_write(to) {
                self.session.handle_written(to, 0, self.now);
            }
            bytes
        } else {
            let bytes = [passed, self.session.unsent(to)].concat();
            let unsent = bytes.len() - passed.len();
            if unsent > 0 {
                self.session.handle_written(to, unsent, self.now);
            }
            bytes
        };
        self.show(to, &bytes);
    }

    fn show(&mut self, to: Side, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let (mark, names): (_, fn(u8, &[u8]) -> String) = match to {
            Side::Server => ('>', show_frontend),
            Side::Client => ('<', show_backend),
        };
        let rest = &mut self.rests[usize::from(to == Side::Client)];
        let shown = list(bytes, rest, names);
        writeln!(self.transcript, "  {mark} {shown}").unwrap();
    }
}

/// What an observer sees: `a commit that awaits a standby`, `nothing` of that, or who waits, as `1s for AccessExclusiveLock, 0ms for ShareLock` or `nobody`; the time may be `?`.
pub(in crate::session) fn seen(waiting: &str, at: Instant) -> Arc<Damage> {
    let waiters = waiting.split("; ").filter_map(|waiter| {
        let (time, mode) = waiter.split_once(" for ")?;
        let (mode, freed_by) = match mode.split_once(", freed by ") {
            None => (mode, FreedBy::Rollback),
            Some((mode, "terminate")) => (mode, FreedBy::Terminate),
            Some((mode, _)) => (mode, FreedBy::Nothing),
        };
        Some(Waiter {
            mode: Some(mode.into()),
            waiting: (time != "?").then(|| parse_duration(time).unwrap()),
            freed_by,
            ..Waiter::new(8, &[7])
        })
    });
    Arc::new(Damage {
        at,
        locks: Vec::new(),
        blocked: Some(waiters.collect()),
        xmin_age: None,
        awaits_standby: match waiting {
            "a commit that awaits a standby" => Some(true),
            "nothing" => None,
            _ => Some(false),
        },
    })
}

/// The lines of a transcript that are not what came of others: those that are indented least.
pub(in crate::session) fn steps(transcript: &str) -> String {
    let lines = transcript.lines().filter(|line| !line.trim().is_empty());
    let indent = |line: &str| line.len() - line.trim_start().len();
    let least = lines.clone().map(indent).min();
    assert!(least.is_some(), "a transcript without a step");
    let steps = lines.filter(|line| Some(indent(line)) == least);
    steps.map(|line| format!("{line}\n")).collect()
}

/// Plays the steps of a recording, from the startup packet on; what comes of them is what it says, or it is a bug.
pub fn replay(recording: &str, now: Instant) -> String {
    let mut player = Player::of(started("", now));
    player.play(&steps(recording));
    player.transcript
}

pub(in crate::session) fn list(
    mut bytes: &[u8],
    rest: &mut usize,
    name: impl Fn(u8, &[u8]) -> String,
) -> String {
    let mut shown = Vec::new();
    while !bytes.is_empty() {
        if *rest > 0 {
            let len = bytes.len().min(*rest);
            shown.push(format!("… {len} bytes"));
            *rest -= len;
            bytes = &bytes[len..];
            continue;
        }
        let len = 1 + usize::try_from(u32::from_be_bytes(bytes[1..5].try_into().unwrap())).unwrap();
        let here = len.min(bytes.len());
        shown.push(name(bytes[0], &bytes[5..here]));
        *rest = len - here;
        bytes = &bytes[here..];
    }
    super::line(&shown)
}

pub(in crate::session) fn show_frontend(tag: u8, body: &[u8]) -> String {
    super::show_frontend(tag, body, |sql| String::from_utf8_lossy(sql).into_owned())
}

pub(in crate::session) fn show_backend(tag: u8, body: &[u8]) -> String {
    super::show_backend(tag, body, ErrorFields::read(body).message != b"text")
}
