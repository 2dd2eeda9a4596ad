//! The session machine as a driver sees it: bytes of both sides in any pieces, short writes, timers, cancels, proofs,
//! reloads, commands.
//!
//! The input is a program. Its first bytes say which limits are in force, every other one what happens next, with the
//! bytes after it as arguments. Client and server need not keep to the protocol, or to each other: what is promised here
//! holds whatever they say. `src/session/tests/property` has a client and a server that do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use pgidle::{
    policy::{Action as PolicyAction, Ladder, Limits, Match, Rule, Rules, StuckKind},
    session::{Action, BUFFER, Eof, Session, SessionParams, Side, Wants, event::Event},
    sql::{Claim, Proof},
    wire::FrameScanner,
};

/// What a client says; a `#` is the number of the message.
const REQUESTS: &[(u8, &[u8])] = &[
    (b'Q', b"BEGIN\0"),
    (b'Q', b"COMMIT\0"),
    (b'Q', b"ROLLBACK\0"),
    (b'Q', b"SELECT #\0"),
    (b'Q', b"INSERT INTO t VALUES (#)\0"),
    (b'Q', b"BEGIN; SELECT #; COMMIT\0"),
    (b'Q', b"SAVEPOINT a\0"),
    (b'Q', b"ROLLBACK TO a\0"),
    (b'Q', b"COPY t FROM STDIN\0"),
    (b'Q', b"SELECT '\\'; COMMIT; --'\0"),
    (b'Q', b"\0"),
    (b'Q', b"PREPARE TRANSACTION 'x'\0"),
    (b'Q', b"VACUUM\0"),
    (b'P', b"\0SELECT #\0\0\0"),
    (b'P', b"s\0COMMIT\0\0\0"),
    (b'P', b"s\0SELECT #\0\0\x01\0\0\0\x17"),
    (b'B', b"\0\0\0\0\0\0\0\0"),
    (b'B', b"p\0s\0\0\0\0\0\0\0"),
    (b'D', b"S\0"),
    (b'D', b"Pp\0"),
    (b'E', b"\0\0\0\0\0"),
    (b'E', b"p\0\0\0\0\x01"),
    (b'C', b"Ss\0"),
    (b'C', b"Pp\0"),
    (b'S', b""),
    (b'H', b""),
    (b'F', b"\0\0\0\x01\0\0\0\0\0\0"),
    (b'd', b"#\n"),
    (b'c', b""),
    (b'f', b"no #\0"),
    (b'X', b""),
    (b'p', b"secret\0"),
];

/// What a server says.
const ANSWERS: &[(u8, &[u8])] = &[
    (b'Z', b"I"),
    (b'Z', b"T"),
    (b'Z', b"E"),
    (b'C', b"BEGIN\0"),
    (b'C', b"COMMIT\0"),
    (b'C', b"ROLLBACK\0"),
    (b'C', b"SELECT 1\0"),
    (b'C', b"INSERT 0 1\0"),
    (b'C', b"SAVEPOINT\0"),
    (b'C', b"RELEASE\0"),
    (b'C', b"PREPARE TRANSACTION\0"),
    (b'C', b"DISCARD ALL\0"),
    (b'I', b""),
    (b'1', b""),
    (b'2', b""),
    (b'3', b""),
    (b'n', b""),
    (b's', b""),
    (b't', b"\0\0"),
    (b'T', b"\0\0"),
    (b'D', b"#"),
    (b'G', b"\0\0\0"),
    (b'H', b"\0\0\0"),
    (b'W', b"\0\0\0"),
    (b'd', b"#"),
    (b'c', b""),
    (b'V', b"\xff\xff\xff\xff"),
    (b'E', b"SERROR\0VERROR\0C57014\0Mno\0\0"),
    (b'E', b"SERROR\0VERROR\0C42601\0Mno\0\0"),
    (b'E', b"SERROR\0VERROR\0C25P02\0Mno\0\0"),
    (b'E', b"SFATAL\0VFATAL\0C57P01\0Mno\0\0"),
    (b'N', b"SNOTICE\0VNOTICE\0C00000\0Mno\0\0"),
    (b'S', b"standard_conforming_strings\0off\0"),
    (b'S', b"client_encoding\0SJIS\0"),
    (b'S', b"application_name\0other\0"),
    (b'A', b"\0\0\0\x01c\0\0"),
    (b'K', b"\0\0\0\x07abcd"),
    (b'R', b"\0\0\0\0"),
    (b'R', b"\0\0\0\x03"),
    (b'v', b"\0\0\0\0\0\0\0\0"),
];

/// No more happens in one input.
const MAX_STEPS: usize = 2000;

/// Bytes of a side are read in pieces of this size at most.
const MAX_PIECE: usize = 255 * 300;

/// Arguments from the input; zeros after its end.
struct Program<'a>(&'a [u8]);

impl<'a> Program<'a> {
    fn byte(&mut self) -> usize {
        let Some((&byte, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(byte)
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// One side of the session, as its socket is.
#[derive(Default)]
struct Socket {
    /// What it has sent, and how much of that was read.
    sent: Vec<u8>,
    read_to: usize,
    /// What it was given, and how much of that was compared with what the other side has sent.
    given: Vec<u8>,
    compared: usize,
    /// How many bytes it takes before it takes no more.
    room: usize,
    ended: bool,
}

struct World {
    session: Session,
    now: Instant,
    client: Socket,
    server: Socket,
    messages: usize,
    /// Whether anything was in force, or was said, by which pgidle may put in or leave out bytes.
    touched: bool,
    gate_asked: bool,
    cancels: usize,
    claims: Vec<(u64, Claim)>,
    over: bool,
}

/// No call panics, timers come to rest, what is kept is bounded; and of an untouched session every byte passes.
pub fn session(data: &[u8]) {
    let mut program = Program(data);
    let mut world = World::new(&mut program);
    for _ in 0..MAX_STEPS {
        if program.0.is_empty() || world.over {
            break;
        }
        world.step(&mut program);
        world.check();
    }
    let now = world.now;
    world.session.handle_closed(now);
    while world.session.poll_event().is_some() {}
}

fn limits(program: &mut Program<'_>) -> Arc<Limits> {
    let mut limits = Limits {
        rule: "r".into(),
        age_implicit: program.byte() & 1 == 1,
        ..Limits::default()
    };
    for kind in StuckKind::ALL {
        let (chosen, mut at) = (program.byte(), Duration::ZERO);
        let mut rungs = Vec::new();
        for (bit, action) in PolicyAction::ALL.into_iter().enumerate() {
            let fits = action != PolicyAction::Release
                || matches!(kind, StuckKind::Idle | StuckKind::Blocking);
            if chosen >> bit & 1 == 1 && fits {
                at += Duration::from_secs(1);
                rungs.push((action, at));
            }
        }
        limits.ladders[kind] = Ladder::new(rungs).expect("in order");
    }
    Arc::new(limits)
}

impl World {
    fn new(program: &mut Program<'_>) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any time will do to begin at")]
        let now = Instant::now();
        let flags = program.byte();
        let limits = limits(program);
        let params = SessionParams {
            replication: flags & 1 == 1,
            records: flags & 2 == 2,
            keeps_server: flags & 4 == 4,
            authenticate_by: (flags & 8 == 8).then_some(now + Duration::from_secs(60)),
            ..SessionParams::default()
        };
        let touched = !limits.is_exempt() || flags & 8 == 8;
        let mut world = Self {
            session: Session::new(params, limits, now),
            now,
            client: Socket::default(),
            server: Socket::default(),
            messages: 0,
            touched,
            gate_asked: false,
            cancels: 0,
            claims: Vec::new(),
            over: false,
        };
        (world.client.room, world.server.room) = (usize::MAX, usize::MAX);
        if flags & 16 == 0 {
            world.say(Side::Server, b'R', b"\0\0\0\0");
            world.say(Side::Server, b'Z', b"I");
            world.pump(Side::Server, usize::MAX);
        }
        world
    }

    fn socket(&mut self, side: Side) -> &mut Socket {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    fn say(&mut self, side: Side, tag: u8, body: &[u8]) {
        self.messages += 1;
        let number = self.messages.to_string();
        let said: Vec<_> = body.split(|&byte| byte == b'#').collect();
        self.say_as_it_is(side, tag, &said.join(number.as_bytes()));
    }

    /// Copies at once what is long: the fuzzer looks at each comparison, and a loop over bytes has many.
    fn say_as_it_is(&mut self, side: Side, tag: u8, body: &[u8]) {
        let len = u32::try_from(body.len() + 4).expect("a short body");
        let sent = &mut self.socket(side).sent;
        sent.push(tag);
        sent.extend_from_slice(&len.to_be_bytes());
        sent.extend_from_slice(body);
    }

    fn step(&mut self, program: &mut Program<'_>) {
        let op = program.byte();
        let side = if op & 1 == 0 {
            Side::Client
        } else {
            Side::Server
        };
        match op >> 1 & 31 {
            what @ 0..12 => self.speak(side, what, op & 128 == 0, program),
            12..15 => {
                let piece = program.byte();
                self.pump(side, piece.max(1));
            }
            15 => self.pump(side, MAX_PIECE),
            16 => self.socket(side).room = program.byte() * 64,
            17 => self.socket(side).room = usize::MAX,
            18..22 => self.pass(Duration::from_millis(100 * (program.byte() as u64 + 1))),
            22 => self.answer_gate(),
            23 => self.answer_cancels(),
            24 => self.answer_claims(program.byte()),
            25 => self.socket(side).ended = true,
            26 => self.session.handle_hangup(side, self.now),
            27 => {
                self.touched = true;
                let interval = (op & 1 == 1).then_some(Duration::from_secs(1));
                self.session.handle_observer(interval, self.now);
                self.session.observation_due();
            }
            28 => {
                self.touched = true;
                let rules = rules(limits(program));
                self.session.handle_rules(&rules, self.now);
            }
            29 => self.command(program.byte()),
            30 => drop(self.session.snapshot(self.now)),
            _ => {
                self.pump(side.other(), MAX_PIECE);
                self.pump(side, MAX_PIECE);
            }
        }
        self.carry_out();
    }

    /// A side says a message of its menu, one of any type, some bytes, or something long.
    fn speak(&mut self, side: Side, what: usize, at_once: bool, program: &mut Program<'_>) {
        let (menu, long) = match side {
            Side::Client => (REQUESTS, b'Q'),
            Side::Server => (ANSWERS, b'D'),
        };
        match what {
            0..8 => {
                let (tag, body) = menu[program.byte() % menu.len()];
                self.say(side, tag, body);
                if at_once {
                    self.pump(side, usize::MAX);
                }
            }
            8 | 9 => {
                let (tag, len) = (program.byte(), program.byte());
                let body = program.bytes(len);
                self.say(side, u8::try_from(tag).unwrap_or_default(), body);
            }
            10 => {
                let len = program.byte();
                let bytes = program.bytes(len);
                self.socket(side).sent.extend_from_slice(bytes);
            }
            _ => self.say_as_it_is(side, long, &vec![b'x'; program.byte() * 300]),
        }
    }

    fn command(&mut self, which: usize) {
        self.touched = true;
        match which % 5 {
            0 => drop(self.session.handle_rollback("dba".into(), self.now)),
            1 => drop(self.session.handle_terminate("dba".into(), self.now)),
            2 => self.session.handle_drain(self.now),
            3 => self.session.handle_shutdown(self.now),
            _ => self.session.handle_give_way(self.now),
        }
    }

    /// Time passes, and every timer rings that is due. A timer that always rings again would keep a driver busy for ever.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        for _ in 0..100 {
            let timeout = self.session.poll_timeout();
            if self.over || timeout.is_none_or(|due| due > self.now) {
                return;
            }
            self.session.handle_timeout(self.now);
            self.carry_out();
            for side in [Side::Client, Side::Server] {
                if self.session.wants_write(side) {
                    self.write(side);
                }
            }
        }
        panic!("a timer that is due for ever: {:#?}", self.session);
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.session.poll_action() {
            match action {
                Action::CloseGate => self.gate_asked = true,
                Action::OpenGate => self.gate_asked = false,
                Action::ProveReadOnly { number, claim } => self.claims.push((number, claim)),
                Action::Cancel => self.cancels += 1,
                Action::MatchRules | Action::Authenticated | Action::SetCancelKey(_) => {}
                Action::Close(_) => self.over = true,
            }
        }
        while let Some(event) = self.session.poll_event() {
            if let Event::Incident(incident) = event {
                assert!(self.touched, "{incident:?} without a limit");
            }
        }
    }

    fn answer_gate(&mut self) {
        if std::mem::take(&mut self.gate_asked) {
            self.session.handle_gate_closed(self.now);
        }
    }

    fn answer_cancels(&mut self) {
        for _ in 0..std::mem::take(&mut self.cancels) {
            self.session.handle_cancel_closed(self.now);
        }
    }

    fn answer_claims(&mut self, how: usize) {
        let proven = how % 3;
        for (number, claim) in std::mem::take(&mut self.claims) {
            let proof = match claim {
                Claim::Each(texts) if proven > 0 => Proof::Each(vec![proven == 1; texts.len()]),
                Claim::Transaction { .. } if proven > 0 => {
                    Proof::Transaction(Ok(Default::default()))
                }
                Claim::Each(_) | Claim::Transaction { .. } => Proof::Missing,
            };
            self.session.handle_proof(number, proof, self.now);
        }
    }

    /// Moves bytes as the contract at `Session` says, in one piece of this size at most.
    fn pump(&mut self, from: Side, piece: usize) {
        let (to, mut piece) = (from.other(), piece.min(MAX_PIECE));
        // Each turn reads something, or deals with something that was kept.
        for _ in 0..100_000 {
            self.write(to);
            let bytes = match self.session.wants_read(from) {
                Wants::Nothing | Wants::Bytes(0) => return,
                Wants::Kept => self.session.take_kept(from),
                Wants::End => return self.end(from),
                Wants::Bytes(most) => {
                    let kept = self.session.kept(from);
                    let room = BUFFER.saturating_sub(kept).min(most).min(piece);
                    let socket = self.socket(from);
                    let unread = &socket.sent[socket.read_to..];
                    if unread.is_empty() && socket.ended {
                        return self.end(from);
                    }
                    let read = unread[..room.min(unread.len())].to_vec();
                    if read.is_empty() {
                        return;
                    }
                    piece -= read.len();
                    socket.read_to += read.len();
                    [self.session.take_kept(from), read].concat()
                }
            };
            let Ok(passed) = self.session.handle_read(from, &bytes, self.now) else {
                self.over = true;
                return;
            };
            let taken = passed.len().min(self.socket(to).room);
            let socket = self.socket(to);
            socket.given.extend_from_slice(&passed[..taken]);
            socket.room -= if socket.room == usize::MAX { 0 } else { taken };
            self.session
                .handle_unwritten(to, &passed[taken..], self.now);
            self.carry_out();
            if self.over {
                return;
            }
        }
        panic!("bytes that are never dealt with");
    }

    fn write(&mut self, to: Side) {
        if self.session.unsent(to).is_empty() {
            return;
        }
        let socket = match to {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        };
        let unsent = self.session.unsent(to);
        let taken = unsent.len().min(socket.room);
        socket.given.extend_from_slice(&unsent[..taken]);
        socket.room -= if socket.room == usize::MAX { 0 } else { taken };
        self.session.handle_written(to, taken, self.now);
    }

    fn end(&mut self, from: Side) {
        match self.session.handle_eof(from, self.now) {
            Eof::Close(_) => self.over = true,
            Eof::PassOn | Eof::Later => {}
        }
    }

    fn check(&mut self) {
        for from in [Side::Client, Side::Server] {
            let (kept, unsent) = (
                self.session.kept(from),
                self.session.unsent(from.other()).len(),
            );
            assert!(kept <= BUFFER + FrameScanner::HOLD, "{kept} bytes are kept");
            assert!(unsent <= 66 << 20, "{unsent} bytes are unsent");
            if self.touched || self.over {
                continue;
            }
            let (one, other) = match from {
                Side::Client => (&self.client, &mut self.server),
                Side::Server => (&self.server, &mut self.client),
            };
            let (read, given) = (&one.sent[..one.read_to], &other.given);
            let unsent = self.session.unsent(from.other());
            assert_eq!(
                read.len(),
                given.len() + unsent.len() + kept,
                "bytes were lost"
            );
            let compared = other.compared..given.len();
            assert!(
                read[compared.clone()] == given[compared],
                "bytes were changed"
            );
            assert!(
                read[given.len()..].starts_with(unsent),
                "bytes were changed"
            );
            other.compared = given.len();
        }
    }
}

fn rules(limits: Arc<Limits>) -> Rules {
    Rules::new(vec![Rule {
        name: Arc::clone(&limits.rule),
        matching: Match::default(),
        limits,
    }])
}
