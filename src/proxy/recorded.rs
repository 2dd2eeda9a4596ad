//! A session that may be recorded: every input and output of the machine passes here, and is noted where there is a tape.
//! Without one that is a branch for each input; outputs, actions and events are not looked at.

use std::{
    ops::{Deref, DerefMut},
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    policy::Rules,
    recorder::{Tape, What},
    session::{
        Action, Eof, ProtocolError, Refused, Session, Side, damage::Damage, event::Event,
        transcript,
    },
    sql::Proof,
};

/// A session, and its tape where it is recorded.
pub(super) struct Recorded {
    session: Session,
    taping: Option<Box<Taping>>,
}

/// What is known of what was noted.
struct Taping {
    tape: Tape,
    /// When the present step began.
    began: Instant,
    /// How many of the next bytes from each side were read, and noted, before.
    kept: [usize; 2],
    /// Which sides have said that they send nothing more.
    ended: [bool; 2],
    /// Whether the session has just asked for the gate, and whether that is waited for.
    gate_asked: bool,
    gate_waits: bool,
    /// What goes out because it was closed: transcripts show that after the other actions and events of the step.
    late: Vec<Due>,
    proves: bool,
    limits: String,
    observer: Option<Duration>,
}

impl Recorded {
    pub(super) fn new(session: Session, tape: Option<Tape>) -> Self {
        let taping = tape.map(|tape| {
            let mut taping = Taping {
                began: tape.began(),
                tape,
                kept: [0; 2],
                ended: [false; 2],
                gate_asked: false,
                gate_waits: false,
                late: Vec::new(),
                proves: false,
                limits: String::new(),
                observer: None,
            };
            taping.note_limits(&session, taping.tape.began());
            Box::new(taping)
        });
        Self { session, taping }
    }

    /// Gives the session an input that is a step of a transcript.
    fn step<R>(
        &mut self,
        step: &str,
        now: Instant,
        input: impl FnOnce(&mut Session, Instant) -> R,
    ) -> R {
        let Some(taping) = &mut self.taping else {
            return input(&mut self.session, now);
        };
        let now = taping.begin(now);
        taping.tape.note(now, What::Step(step.to_owned()));
        taping.outputs(&mut self.session, now, input)
    }

    pub(super) fn take_kept(&mut self, from: Side) -> Vec<u8> {
        let kept = self.session.take_kept(from);
        if let Some(taping) = &mut self.taping {
            taping.kept[from as usize] += kept.len();
        }
        kept
    }

    pub(super) fn handle_early(&mut self, from: Side, bytes: Vec<u8>, now: Instant) {
        if let Some(taping) = &mut self.taping {
            let read = What::Read(from, bytes.as_slice().into());
            taping.tape.note(taping.tape.began(), read);
        }
        self.session.handle_early(from, bytes, now);
    }

    pub(super) fn handle_read<'a>(
        &mut self,
        from: Side,
        bytes: &'a [u8],
        now: Instant,
    ) -> Result<&'a [u8], ProtocolError> {
        match &mut self.taping {
            None => self.session.handle_read(from, bytes, now),
            Some(taping) => taping.read(&mut self.session, from, bytes, now),
        }
    }

    pub(super) fn handle_eof(&mut self, from: Side, now: Instant) -> Eof {
        let step = match from {
            Side::Client => "client leaves",
            Side::Server => "server leaves",
        };
        let first = self
            .taping
            .as_mut()
            .is_some_and(|taping| !std::mem::replace(&mut taping.ended[from as usize], true));
        let eof = if first {
            self.step(step, now, |session, now| session.handle_eof(from, now))
        } else {
            self.session.handle_eof(from, now)
        };
        if let (Some(taping), Eof::Close(reason)) = (&mut self.taping, eof) {
            let line = format!("! close: {}", reason.name());
            taping.tape.note(now, What::Came(line));
        }
        eof
    }

    pub(super) fn handle_written(&mut self, to: Side, written: usize, now: Instant) {
        self.flow(to, written > 0, now, |session, now| {
            session.handle_written(to, written, now)
        });
    }

    pub(super) fn handle_unwritten(&mut self, to: Side, rest: &[u8], now: Instant) {
        if rest.is_empty() {
            return;
        }
        self.flow(to, false, now, |session, now| {
            session.handle_unwritten(to, rest, now)
        });
    }

    /// What becomes of what is due to a side; that a client blocks, or reads, is noted.
    fn flow(
        &mut self,
        to: Side,
        progress: bool,
        now: Instant,
        input: impl FnOnce(&mut Session, Instant),
    ) {
        let Some(taping) = &mut self.taping else {
            return input(&mut self.session, now);
        };
        let now = taping.tape.clock(now);
        let session = &mut self.session;
        let blocked =
            |session: &Session| !session.unsent(to).is_empty() && !session.wants_write(to);
        let before = blocked(session);
        input(session, now);
        let step = match (before, blocked(session)) {
            (false, true) => "client blocks",
            (true, true) if progress => "client takes some",
            (true, false) => "client reads",
            (true, true) | (false, false) => return,
        };
        if to == Side::Client {
            let now = taping.begin(now);
            taping.tape.note(now, What::Step(step.to_owned()));
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.step("rings", now, Session::handle_timeout);
    }

    pub(super) fn handle_drain(&mut self, now: Instant) {
        self.step("drain", now, Session::handle_drain);
    }

    pub(super) fn handle_shutdown(&mut self, now: Instant) {
        self.step("shutdown", now, Session::handle_shutdown);
    }

    pub(super) fn handle_rollback(&mut self, by: Arc<str>, now: Instant) -> Result<(), Refused> {
        let begun = self.step("console: rollback", now, |session, now| {
            session.handle_rollback(by, now)
        });
        self.refused(begun)
    }

    pub(super) fn handle_terminate(&mut self, by: Arc<str>, now: Instant) -> Result<(), Refused> {
        let begun = self.step("console: terminate", now, |session, now| {
            session.handle_terminate(by, now)
        });
        self.refused(begun)
    }

    fn refused(&mut self, begun: Result<(), Refused>) -> Result<(), Refused> {
        if let (Some(taping), Err(refused)) = (&mut self.taping, &begun) {
            taping.tape.came(format!("! {refused}"));
        }
        begun
    }

    pub(super) fn handle_closed(&mut self, now: Instant) {
        self.step("the end", now, Session::handle_closed);
    }

    pub(super) fn handle_cancel_closed(&mut self, now: Instant) {
        self.step("cancelled", now, Session::handle_cancel_closed);
    }

    pub(super) fn handle_gate_closed(&mut self, now: Instant) {
        let session = &mut self.session;
        match &mut self.taping {
            Some(taping) if taping.gate_asked => {
                // In a transcript that is done at the same moment.
                taping.gate_asked = false;
                let began = taping.began;
                let ((), grown) = grown(session, |session| session.handle_gate_closed(began));
                taping.late.extend(grown);
            }
            Some(_) | None => self.step("cancel closes", now, Session::handle_gate_closed),
        }
    }

    /// The gate cannot be closed at once.
    pub(super) fn note_gate_waits(&mut self) {
        if let Some(taping) = &mut self.taping {
            taping.gate_waits();
        }
    }

    pub(super) fn handle_observation(&mut self, damage: Arc<Damage>, now: Instant) {
        let step = match &self.taping {
            Some(_) => format!("seen: {}", transcript::seen(&damage)),
            None => String::new(),
        };
        self.step(&step, now, |session, now| {
            session.handle_observation(damage, now)
        });
    }

    pub(super) fn handle_proof(&mut self, number: u64, proof: Proof, now: Instant) {
        let step = match &self.taping {
            Some(_) => format!("proven {number}"),
            None => String::new(),
        };
        self.step(&step, now, |session, now| {
            session.handle_proof(number, proof, now)
        });
    }

    pub(super) fn handle_rules(&mut self, rules: &Rules, now: Instant) {
        self.session.handle_rules(rules, now);
        if let Some(taping) = &mut self.taping {
            taping.note_limits(&self.session, now);
        }
    }

    pub(super) fn handle_observer(&mut self, interval: Option<Duration>, now: Instant) {
        self.session.handle_observer(interval, now);
        if let Some(taping) = &mut self.taping
            && taping.observer != interval
        {
            taping.observer = interval;
            let step = transcript::observer(interval);
            let now = taping.begin(now);
            taping.tape.note(now, What::Step(step));
        }
    }

    pub(super) fn poll_action(&mut self) -> Option<Action> {
        let action = self.session.poll_action();
        if let Some(action) = &action
            && let Some(taping) = &mut self.taping
        {
            taping.action(action);
        }
        action
    }

    pub(super) fn poll_event(&mut self) -> Option<Event> {
        let event = self.session.poll_event();
        if let Some(event) = &event
            && let Some(taping) = &mut self.taping
        {
            taping.event(event);
        }
        event
    }
}

impl Taping {
    /// Something new is about to happen: where the gate was asked for, it is not closed yet.
    fn begin(&mut self, now: Instant) -> Instant {
        self.note_late();
        self.gate_waits();
        self.began = self.tape.clock(now);
        self.began
    }

    /// Where the gate was asked for, it is not closed yet.
    fn gate_waits(&mut self) {
        if std::mem::take(&mut self.gate_asked) && !std::mem::replace(&mut self.gate_waits, true) {
            self.tape.before("cancel opens");
        }
    }

    fn read<'a>(
        &mut self,
        session: &mut Session,
        from: Side,
        bytes: &'a [u8],
        now: Instant,
    ) -> Result<&'a [u8], ProtocolError> {
        let known = std::mem::take(&mut self.kept[from as usize]);
        let new = bytes.get(known..).unwrap_or_default();
        let now = if new.is_empty() {
            self.note_late();
            self.tape.clock(now)
        } else {
            let now = self.begin(now);
            self.tape.note(now, What::Read(from, new.into()));
            now
        };
        let to = from.other();
        let [before, own] = [to, from].map(|side| session.unsent(side).len());
        let passed = session.handle_read(from, bytes, now)?;
        let grown = session.unsent(to).get(before..).unwrap_or_default();
        self.emitted(to, &[passed, grown].concat(), now);
        self.emitted(
            from,
            session.unsent(from).get(own..).unwrap_or_default(),
            now,
        );
        Ok(passed)
    }

    /// Gives an input, and notes what goes to both sides because of it.
    fn outputs<R>(
        &mut self,
        session: &mut Session,
        now: Instant,
        input: impl FnOnce(&mut Session, Instant) -> R,
    ) -> R {
        let (result, grown) = grown(session, |session| input(session, now));
        for (side, bytes) in grown {
            self.emitted(side, &bytes, now);
        }
        result
    }

    fn note_late(&mut self) {
        for (side, bytes) in std::mem::take(&mut self.late) {
            self.emitted(side, &bytes, self.began);
        }
    }

    fn emitted(&mut self, to: Side, bytes: &[u8], now: Instant) {
        if !bytes.is_empty() {
            self.tape.note(now, What::Emitted(to, bytes.into()));
        }
    }

    fn note_limits(&mut self, session: &Session, now: Instant) {
        let limits = transcript::limits(session.limits());
        if limits != self.limits {
            let now = self.begin(now);
            self.tape.note(now, What::Step(format!("limits: {limits}")));
            self.limits = limits;
        }
    }

    fn action(&mut self, action: &Action) {
        match action {
            Action::CloseGate => self.gate_asked = true,
            Action::OpenGate => self.gate_waits = false,
            Action::ProveReadOnly { number, .. } => {
                if !std::mem::replace(&mut self.proves, true) {
                    self.tape.before("the prover is slow");
                }
                self.tape.came(format!("! prove {number}"));
            }
            Action::Cancel | Action::MatchRules => self.tape.came(format!("! {action:?}")),
            Action::Close(reason) => self.tape.came(format!("! close: {}", reason.name())),
            Action::Authenticated | Action::SetCancelKey(_) => {}
        }
    }

    fn event(&mut self, event: &Event) {
        if let Some(shown) = transcript::event(event) {
            self.tape.came(format!("* {shown}"));
        }
        if matches!(event, Event::Incident(_)) {
            self.tape.keep();
        }
    }
}

/// Bytes that are due to a side.
type Due = (Side, Box<[u8]>);

/// Gives an input, and returns what has become due to each side because of it.
fn grown<R>(session: &mut Session, input: impl FnOnce(&mut Session) -> R) -> (R, [Due; 2]) {
    let before = [Side::Server, Side::Client].map(|side| (side, session.unsent(side).len()));
    let result = input(session);
    let grown = before.map(|(side, before)| {
        let bytes = session.unsent(side).get(before..).unwrap_or_default();
        (side, bytes.into())
    });
    (result, grown)
}

impl Deref for Recorded {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl DerefMut for Recorded {
    fn deref_mut(&mut self) -> &mut Session {
        &mut self.session
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        policy::{Action as Does, Ladder, Limits, StuckKind},
        recorder::Recorder,
        session::SessionParams,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let len = u32::try_from(body.len() + 4).unwrap();
        [&[tag], &len.to_be_bytes()[..], body].concat()
    }

    /// How long a transaction was idle, by its incident, whose gate was closed a second after its limit.
    fn idle(tape: Option<Tape>, began: Instant) -> Duration {
        let mut limits = Limits::default();
        limits.ladders[StuckKind::Idle] = Ladder::new([(Does::Rollback, SECOND)]).unwrap();
        let session = Session::new(SessionParams::default(), Arc::new(limits), began);
        let mut session = Recorded::new(session, tape);
        let says = |session: &mut Recorded, side, bytes: &[u8], now| {
            session.handle_read(side, bytes, now).unwrap();
            for side in [Side::Client, Side::Server] {
                let unsent = session.unsent(side).len();
                if unsent > 0 {
                    session.handle_written(side, unsent, now);
                }
            }
        };
        says(&mut session, Side::Server, &frame(b'Z', b"I"), began);
        while session.poll_action().is_some() {}
        says(&mut session, Side::Client, &frame(b'Q', b"BEGIN\0"), began);
        let answer = [frame(b'C', b"BEGIN\0"), frame(b'Z', b"T")].concat();
        says(&mut session, Side::Server, &answer, began);
        session.handle_timeout(began + SECOND);
        assert_eq!(session.poll_action(), Some(Action::CloseGate));
        assert_eq!(session.poll_action(), None);
        // A CancelRequest of the client's was on its way, and has passed.
        session.note_gate_waits();
        session.handle_gate_closed(began + 2 * SECOND);
        let answer = [
            frame(b'C', b"ROLLBACK\0"),
            frame(b'C', b"BEGIN\0"),
            frame(b'E', b"SERROR\0VERROR\0C22P02\0Mtext\0\0"),
            frame(b'Z', b"E"),
        ];
        says(
            &mut session,
            Side::Server,
            &answer.concat(),
            began + 2 * SECOND,
        );
        while let Some(event) = session.poll_event() {
            if let Event::Incident(incident) = event {
                return incident.idle;
            }
        }
        panic!("no incident");
    }

    #[test]
    fn a_gate_that_is_closed_late_is_closed_late_in_a_recorded_session_too() {
        let folder = tempfile::tempdir().unwrap();
        let recorder = Recorder::start(folder.path()).unwrap();
        let began = tokio::time::Instant::now().into_std();
        assert_eq!(idle(None, began), 2 * SECOND);
        assert_eq!(idle(recorder.tape(1, began), began), 2 * SECOND);
    }
}
