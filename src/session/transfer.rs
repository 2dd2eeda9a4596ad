//! Bytes on their way from one side to the other: what was read and is not dealt with, and what is due to a side and not
//! yet written. A driver moves the bytes; which, and when, is said here. The contract is at [`Session`].
//!
//! Bytes that pass are written from where they were read. What a socket does not take waits in the output of its side,
//! together with what pgidle itself has to say, so that the order is given by the buffer. What cannot be dealt with yet
//! (a part of a message, or a client that has to wait) is kept in the input of its side. All are empty, and hold no
//! memory, in a session that is idle.

use std::time::Instant;

use bytes::{Buf as _, BytesMut};

use super::{CloseReason, ProtocolError, Session, Side, silence::Silence};
use crate::wire::{BackendTag, FrameScanner, FrontendTag, InvalidLength, Scanned};

/// Bytes that a driver's buffer holds at least: a client that is held is read so far, and nothing larger is kept.
pub const BUFFER: usize = 64 << 10;

/// How much of an answer is read ahead of a client that does not take it, while its statement is being cancelled.
const READ_AHEAD: usize = 64 << 20;

/// How much of an answer is read to learn whether the server has said everything: more than lies in the sockets' buffers
/// (`tcp(7)`: `tcp_wmem` and `tcp_rmem`) of a server that has.
const UNREAD: usize = 16 << 20;

/// What may be done next about the bytes of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Nothing: it sends nothing more, or the other side has to take first what is due to it.
    Nothing,
    /// So many bytes at most may be read of it; of 0, it may only be asked whether it has closed its end.
    Bytes(usize),
    /// What was kept can be dealt with: it goes to [`Session::handle_read`] as it is.
    Kept,
    /// That it has ended can be acted on: [`Session::handle_eof`] once more.
    End,
}

/// What becomes of a side that sends nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eof {
    /// The session is over.
    Close(CloseReason),
    /// The other side is told, when it has taken what is due to it: it answers what it has been sent, and leaves too.
    PassOn,
    /// Nothing yet: see [`Wants::End`].
    Later,
}

/// What became of a run of bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Bytes that are dealt with; the others must be given again, with more after them.
    consumed: usize,
    /// Of those, the bytes at the front that go on as they are, before the output of the other side.
    verbatim: usize,
}

/// What a side has taken of that which was due to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    All,
    Part,
    Nothing,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Drop,
    /// It waits, and everything after it.
    Hold,
}

/// One side: the stream that comes from it, and what is due to it.
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    scanner: FrameScanner,
    /// Whether the rest of a frame that was not whole is dropped.
    drop_rest: bool,
    /// Bytes from it that are not dealt with.
    input: Vec<u8>,
    /// Whether those wait for the session, not for more bytes.
    held: bool,
    /// Whether the front of a message has come that is held until it is whole.
    half_sent: bool,
    /// Whether it has said that it sends nothing more.
    ended: bool,
    /// Whether that was read while it was held, and is still to be acted on.
    end_held: bool,
    /// Whether it has closed its end, although bytes of its are still to be read.
    hung_up: bool,
    /// What is due to it.
    output: BytesMut,
    /// Since when it has not taken a byte of that.
    blocked_since: Option<Instant>,
    /// Whether the other side is read on all the same, to learn whether it has said everything.
    reading_ahead: bool,
}

impl Peer {
    /// Bytes that are missing of the message of which the front has passed; 0 between messages.
    pub(super) fn missing(&self) -> usize {
        self.scanner.rest()
    }

    /// The rest of that message is dropped: something else was sent in its place.
    pub(super) fn drop_rest(&mut self) {
        self.drop_rest = self.missing() > 0;
    }

    /// Whether the rest of a message is dropped.
    pub(super) fn drops_rest(&self) -> bool {
        self.drop_rest
    }

    /// Whether the front of a message has come that is held until it is whole.
    pub(super) fn is_half_sent(&self) -> bool {
        self.half_sent
    }

    /// Where pgidle puts what it says to this side by itself.
    pub(super) fn output(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Whether everything that is due to it was taken.
    pub(super) fn has_taken_all(&self) -> bool {
        self.output.is_empty()
    }

    /// Since when it has not taken a byte of what is due to it.
    pub(super) fn blocked_since(&self) -> Option<Instant> {
        self.blocked_since
    }

    /// Whether it does not take what is due to it.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.is_some()
    }

    /// Whether more is read of the other side than this one takes, to learn whether that has said everything.
    pub(super) fn is_read_ahead(&self) -> bool {
        self.reading_ahead
    }

    /// Has the other side read on, although this one does not take what is due to it.
    pub(super) fn read_ahead(&mut self) {
        self.reading_ahead = true;
    }

    /// Whether a Terminate is among the bytes that wait.
    fn terminates(&self) -> bool {
        let mut scanner = self.scanner.clone();
        let mut bytes = &*self.input;
        while let Ok(scanned) = scanner.scan(bytes, |_| true) {
            let len = match scanned {
                Scanned::Frame { frame, .. }
                    if FrontendTag::from(frame.tag) == FrontendTag::Terminate =>
                {
                    return true;
                }
                Scanned::Frame { len, .. } | Scanned::Rest { len } => len,
                Scanned::Incomplete => break,
            };
            bytes = bytes.get(len..).unwrap_or_default();
        }
        false
    }

    /// Puts bytes into the output, before what the session has said since it was so long.
    fn pass(&mut self, bytes: &[u8], queued: usize) {
        if queued < self.output.len() {
            let own = self.output.split_off(queued);
            self.output.extend_from_slice(bytes);
            self.output.unsplit(own);
        } else {
            self.output.extend_from_slice(bytes);
        }
    }
}

/// The two sides: reading.
impl Session {
    /// What may be done about the bytes of a side. Until it says [`Wants::Nothing`] there may be more to do.
    pub fn wants_read(&self, from: Side) -> Wants {
        let peer = self.peer(from);
        let unsent = self.peer(from.other()).output.len();
        if unsent > READ_AHEAD {
            return Wants::Nothing;
        }
        if from == Side::Client && self.holds_client() {
            // It is read on within bounds, so that its end is noticed.
            return if peer.ended {
                Wants::Nothing
            } else {
                Wants::Bytes(BUFFER.saturating_sub(peer.input.len()))
            };
        }
        let allowed = || match from {
            Side::Server => self.reads_ahead(),
            Side::Client => Some(0),
        };
        if unsent > 0 && allowed().is_some_and(|allowed| unsent >= allowed) {
            Wants::Nothing
        } else if peer.held {
            Wants::Kept
        } else if peer.end_held {
            Wants::End
        } else if peer.ended {
            Wants::Nothing
        } else {
            Wants::Bytes(usize::MAX)
        }
    }

    /// How many bytes of a side are kept, which come before those that are read next.
    pub fn kept(&self, from: Side) -> usize {
        self.peer(from).input.len()
    }

    /// The bytes of a side that are kept. They have to come back in front of those that were read next.
    pub fn take_kept(&mut self, from: Side) -> Vec<u8> {
        std::mem::take(&mut self.peer_mut(from).input)
    }

    /// Takes what was read of a side before there was a session.
    pub fn handle_early(&mut self, from: Side, bytes: Vec<u8>, _now: Instant) {
        let peer = self.peer_mut(from);
        peer.held = !bytes.is_empty();
        peer.input = bytes;
    }

    /// Looks at bytes of a side: those that were [kept](Self::take_kept) and those that were read now. Returns the ones at
    /// the front that go to the other side as they are, before what is [`unsent`](Self::unsent); what of them it does not
    /// take goes to [`handle_unwritten`](Self::handle_unwritten).
    ///
    /// # Errors
    /// A length that no message can have: the session cannot go on.
    pub fn handle_read<'a>(
        &mut self,
        from: Side,
        bytes: &'a [u8],
        now: Instant,
    ) -> Result<&'a [u8], ProtocolError> {
        debug_assert!(self.kept(from) == 0, "what was kept comes first");
        let step = match from {
            Side::Client if self.holds_client() => Progress::default(),
            Side::Client => self.client_bytes(bytes, now)?,
            Side::Server => self.server_bytes(bytes, now)?,
        };
        let rest = bytes.get(step.consumed..).unwrap_or_default();
        let held = from == Side::Client && !rest.is_empty() && self.holds_client();
        let peer = self.peer_mut(from);
        if !rest.is_empty() {
            peer.input = rest.to_vec();
        }
        peer.held = held;
        self.bound_read_ahead(now);
        Ok(bytes.get(..step.verbatim).unwrap_or_default())
    }

    /// A side sends nothing more.
    pub fn handle_eof(&mut self, from: Side, _now: Instant) -> Eof {
        let later = from == Side::Client && self.holds_client();
        let peer = self.peer_mut(from);
        peer.ended = true;
        peer.end_held = later;
        match from {
            Side::Client if later => Eof::Later,
            Side::Client if self.is_answered() => Eof::Close(CloseReason::ClientLeft),
            Side::Client => Eof::PassOn,
            Side::Server if self.client.ended => Eof::Close(CloseReason::ClientLeft),
            Side::Server => Eof::Close(CloseReason::ServerLeft),
        }
    }

    /// A side of which no more is read for the time being has closed its end.
    pub fn handle_hangup(&mut self, from: Side, _now: Instant) {
        self.peer_mut(from).hung_up = true;
    }

    /// Whether a side has said that it sends nothing more.
    pub fn has_ended(&self, from: Side) -> bool {
        self.peer(from).ended
    }

    /// Whether a client that is held has said that it sends nothing more.
    pub(super) fn client_left(&self) -> bool {
        let client = &self.client;
        self.holds_client() && (client.ended || client.hung_up || client.terminates())
    }

    /// How many bytes may lie unsent for the client while the server is read on all the same; `None` for as many as there
    /// are.
    pub(super) fn reads_ahead(&self) -> Option<usize> {
        if self.enforcement_holds_client() {
            None
        } else if self.client.reading_ahead {
            Some(UNREAD)
        } else {
            Some(0)
        }
    }

    fn client_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<Progress, ProtocolError> {
        self.silence = Silence::begins(now);
        if !self.client.is_blocked() {
            self.restart_stalled();
        }
        let step = self.follow(Side::Client, bytes, now);
        let step = step.map_err(ProtocolError::Client)?;
        self.client.half_sent = step.consumed < bytes.len();
        Ok(step)
    }

    fn server_bytes(&mut self, bytes: &[u8], now: Instant) -> Result<Progress, ProtocolError> {
        let step = self.follow(Side::Server, bytes, now);
        self.insist(now);
        step.map_err(ProtocolError::Server)
    }

    /// Follows a stream frame by frame.
    fn follow(
        &mut self,
        from: Side,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Progress, InvalidLength> {
        let to = from.other();
        let mut step = Progress::default();
        let mut rewriting = !self.peer(to).output.is_empty();
        while let Some(rest) = bytes.get(step.consumed..).filter(|rest| !rest.is_empty()) {
            if self.state.phase.is_closing() {
                step.consumed = bytes.len();
                break;
            }
            if from == Side::Server && !rewriting {
                let rows = self.rows_at(rest);
                if rows > 0 {
                    step.consumed += rows;
                    step.verbatim = step.consumed;
                    continue;
                }
            }
            let queued = self.peer(to).output.len();
            let Some((verdict, len)) = self.judge_front(from, rest, now)? else {
                break;
            };
            if verdict == Verdict::Hold {
                self.peer_mut(from).scanner.rewind();
                break;
            }
            step.consumed += len;
            match verdict {
                Verdict::Pass if !rewriting => step.verbatim = step.consumed,
                Verdict::Pass => {
                    let passed = rest.get(..len).unwrap_or(rest);
                    self.peer_mut(to).pass(passed, queued);
                }
                Verdict::Drop | Verdict::Hold => rewriting = true,
            }
            rewriting |= !self.peer(to).output.is_empty();
        }
        Ok(step)
    }

    /// What becomes of so many bytes at the front; `None` where more have to come.
    fn judge_front(
        &mut self,
        from: Side,
        bytes: &[u8],
        now: Instant,
    ) -> Result<Option<(Verdict, usize)>, InvalidLength> {
        let peer = self.peer_mut(from);
        Ok(match peer.scanner.scan(bytes, |tag| from.holds(tag))? {
            Scanned::Incomplete => None,
            Scanned::Rest { len } => {
                let (whole, dropped) = (peer.missing() == 0, peer.drop_rest);
                if from == Side::Client {
                    let more = bytes.get(..len).unwrap_or(bytes);
                    self.state.sent_more(more, whole);
                }
                let verdict = if dropped {
                    Verdict::Drop
                } else {
                    Verdict::Pass
                };
                Some((verdict, len))
            }
            Scanned::Frame { frame, len } => {
                let verdict = match from {
                    Side::Client => self.client_frame(frame, now),
                    Side::Server => self.server_frame(frame, now),
                };
                self.peer_mut(from).drop_rest = verdict == Verdict::Drop;
                Some((verdict, len))
            }
        })
    }

    /// How many bytes at the front of the server's are rows and COPY data that go on as they are and tell nothing.
    fn rows_at(&self, bytes: &[u8]) -> usize {
        let tag = bytes.first().copied().unwrap_or_default();
        let flows =
            !Side::Server.holds(tag) && self.enforcement.is_none() && self.deferred_error.is_none();
        if flows {
            self.server.scanner.run_of(tag, bytes)
        } else {
            0
        }
    }

    fn peer(&self, side: Side) -> &Peer {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    fn peer_mut(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

/// The two sides: writing.
impl Session {
    /// What is due to a side, after what was passed on verbatim.
    pub fn unsent(&self, to: Side) -> &[u8] {
        &self.peer(to).output
    }

    /// Whether something is due to a side that did not wait for its socket before.
    pub fn wants_write(&self, to: Side) -> bool {
        let peer = self.peer(to);
        !peer.output.is_empty() && !peer.is_blocked()
    }

    /// A side has taken so many bytes of what was [`unsent`](Self::unsent), and takes no more where some are left.
    pub fn handle_written(&mut self, to: Side, written: usize, now: Instant) {
        let output = &mut self.peer_mut(to).output;
        output.advance(written.min(output.len()));
        if output.is_empty() {
            *output = BytesMut::new();
        }
        let taken = match (output.is_empty(), written) {
            (true, _) => Taken::All,
            (false, 0) => Taken::Nothing,
            (false, _) => Taken::Part,
        };
        self.note_taken(to, taken, now);
        self.bound_read_ahead(now);
    }

    /// Gives up what has to be read ahead of the client without end.
    fn bound_read_ahead(&mut self, now: Instant) {
        if self.client.output.len() > READ_AHEAD {
            self.read_ahead_exceeded(now);
        }
    }

    /// A side has not taken these bytes of what [`handle_read`](Self::handle_read) has returned, and takes no more.
    pub fn handle_unwritten(&mut self, to: Side, rest: &[u8], now: Instant) {
        if rest.is_empty() {
            return;
        }
        let output = &mut self.peer_mut(to).output;
        let own = std::mem::replace(output, BytesMut::from(rest));
        output.unsplit(own);
        self.note_taken(to, Taken::Nothing, now);
    }

    /// Notes what a side has taken: one that has taken something is not blocked any more, or begins to be anew.
    pub(super) fn note_taken(&mut self, to: Side, taken: Taken, now: Instant) {
        let peer = self.peer_mut(to);
        let was_blocked = peer.is_blocked();
        if taken == Taken::Nothing && was_blocked {
            return;
        }
        peer.reading_ahead = false;
        peer.blocked_since = (taken != Taken::All).then_some(now);
        match (to, taken) {
            (Side::Client, Taken::All) if was_blocked => self.state.client_took_all(now),
            (Side::Client, Taken::Part | Taken::Nothing) => self.restart_stalled(),
            (Side::Client, Taken::All) | (Side::Server, _) => {}
        }
    }
}

impl Side {
    /// The side that bytes from this one go to.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Whether a frame from this side is held until it is whole.
    ///
    /// Every request is, so that a half-sent one does not reach the server. Of the answers, rows and COPY data flow.
    fn holds(self, tag: u8) -> bool {
        match self {
            Self::Client => true,
            Self::Server => !matches!(
                BackendTag::from(tag),
                BackendTag::DataRow | BackendTag::CopyData
            ),
        }
    }
}
