//! The two sockets of a session: what is read from one passes the session machine and is written to the other.
//!
//! Reads land in the thread's scratch buffer and are written at once; what a socket does not take waits in the session.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant as StdInstant},
};

use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, AsyncWriteExt as _, ReadBuf},
    time::Instant,
};

use super::{
    recorded::Recorded,
    stream::{LINGER, Stream},
};
use crate::{
    metrics::Traffic,
    session::{CloseReason, Eof, ProtocolError, Side, Wants},
};

/// Whole buffers of this many bytes are what a server sends of a long answer (`PQ_SEND_BUFFER_SIZE` in
/// `src/backend/libpq/pqcomm.c`) and libpq of a long request (`pqPutMsgEnd` in `src/interfaces/libpq/fe-misc.c`).
const SENT_AT_ONCE: usize = 8192;

/// How long a session may keep its thread from the others, once it has moved what one read gave.
pub(super) const TURN: Duration = Duration::from_micros(500);

/// How long the server of a closed session may take for its last message: next to no time, where it takes any.
const FAREWELL: Duration = Duration::from_millis(500);

/// Why a session ended, with the error if one was seen. It is two words wide, and travels in registers.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) reason: CloseReason,
    pub(super) error: Option<io::Error>,
}

impl From<CloseReason> for Closed {
    fn from(reason: CloseReason) -> Self {
        Self {
            reason,
            error: None,
        }
    }
}

impl From<ProtocolError> for Closed {
    fn from(error: ProtocolError) -> Self {
        Self {
            reason: CloseReason::Protocol,
            error: Some(io::Error::other(error)),
        }
    }
}

/// The sockets of both sides.
pub(super) struct Sockets {
    client: Stream,
    server: Stream,
    /// Whether the server has yet to be told that nothing more comes.
    leaving: bool,
}

impl Sockets {
    pub(super) fn new(client: Stream, server: Stream) -> Self {
        Self {
            client,
            server,
            leaving: false,
        }
    }

    /// Moves bytes from one side to the other until the one has none or the other takes none; true when the time of the
    /// turn that began at `now` was over before.
    ///
    /// A side that gives or takes nothing more wakes the task when that changes: this goes on until it does.
    pub(super) fn pump(
        &mut self,
        session: &mut Recorded,
        from: Side,
        cx: &mut Context<'_>,
        (scratch, traffic): (&mut [u8], &Traffic),
        now: StdInstant,
    ) -> Result<bool, Closed> {
        let to = from.other();
        if self.owes(session, to) {
            self.flush(session, to, cx, now)?;
        }
        for read in 0.. {
            if read > 1 && Instant::now().into_std().saturating_duration_since(now) >= TURN {
                return Ok(true);
            }
            match session.wants_read(from) {
                Wants::Nothing => return Ok(false),
                Wants::Kept => {
                    let kept = session.take_kept(from);
                    self.pass(session, from, &kept, cx, now)?;
                }
                Wants::End => return self.ended(session, from, cx, now).map(|()| false),
                // More cannot be kept of a client that is held.
                Wants::Bytes(0) => {
                    if self.stream(from).is_read_closed() {
                        session.handle_hangup(from, now);
                    }
                    return Ok(false);
                }
                Wants::Bytes(most) => {
                    let room = scratch.len().min(session.kept(from).saturating_add(most));
                    let scratch = scratch.get_mut(..room).unwrap_or_default();
                    if self
                        .read(session, from, cx, (scratch, traffic), now)?
                        .is_pending()
                    {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(false)
    }

    fn read(
        &mut self,
        session: &mut Recorded,
        from: Side,
        cx: &mut Context<'_>,
        (scratch, traffic): (&mut [u8], &Traffic),
        now: StdInstant,
    ) -> Result<Poll<()>, Closed> {
        let kept = session.kept(from);
        let (front, back) = scratch.split_at_mut(kept);
        let mut buf = ReadBuf::new(back);
        match Pin::new(self.stream(from)).poll_read(cx, &mut buf) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(Ok(())) => {}
            // That a client fails which is held is acted on when it is not.
            Poll::Ready(Err(_)) if from == Side::Client && session.holds_client() => {
                return self.ended(session, from, cx, now).map(Poll::Ready);
            }
            Poll::Ready(Err(error)) => return Err(failed(from, error)),
        }
        let len = buf.filled().len();
        traffic.add(from, len);
        if len == 0 {
            return self.ended(session, from, cx, now).map(Poll::Ready);
        }
        front.copy_from_slice(&session.take_kept(from));
        let bytes = scratch.get(..kept + len).unwrap_or_default();
        self.pass(session, from, bytes, cx, now)?;
        if len.is_multiple_of(SENT_AT_ONCE) {
            // More is on its way: where the processors are busy, the sender gets the time to send it all.
            std::thread::yield_now();
        }
        Ok(Poll::Ready(()))
    }

    /// Passes bytes through the session machine and writes what may go on.
    fn pass(
        &mut self,
        session: &mut Recorded,
        from: Side,
        bytes: &[u8],
        cx: &mut Context<'_>,
        now: StdInstant,
    ) -> Result<(), Closed> {
        let to = from.other();
        let passed = session.handle_read(from, bytes, now)?;
        let sent = self.write(to, passed, cx)?;
        session.handle_unwritten(to, passed.get(sent..).unwrap_or_default(), now);
        if self.owes(session, to) {
            self.flush(session, to, cx, now)?;
        }
        Ok(())
    }

    /// Writes what waits for a side.
    fn flush(
        &mut self,
        session: &mut Recorded,
        to: Side,
        cx: &mut Context<'_>,
        now: StdInstant,
    ) -> Result<(), Closed> {
        let unsent = session.unsent(to);
        let sent = self.write(to, unsent, cx)?;
        self.settle(to, sent == unsent.len(), cx)?;
        if !unsent.is_empty() {
            session.handle_written(to, sent, now);
        }
        Ok(())
    }

    /// Writes as many of the bytes as the socket takes.
    fn write(&mut self, to: Side, bytes: &[u8], cx: &mut Context<'_>) -> Result<usize, Closed> {
        let mut stream = Pin::new(self.stream(to));
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            match stream.as_mut().poll_write(cx, rest) {
                Poll::Pending => break,
                Poll::Ready(result) => sent += result.map_err(|error| failed(to, error))?,
            }
        }
        Ok(sent)
    }

    /// Whether there may be something to [`flush`](Self::flush), which is rare.
    fn owes(&self, session: &Recorded, to: Side) -> bool {
        let socket = match to {
            Side::Client => self.client.is_tls(),
            Side::Server => self.leaving || self.server.is_tls(),
        };
        socket || !session.unsent(to).is_empty()
    }

    /// Sends what TLS has taken and, when everything was taken, the end.
    fn settle(&mut self, to: Side, all: bool, cx: &mut Context<'_>) -> Result<(), Closed> {
        let leaving = self.leaving && to == Side::Server;
        let stream = self.stream(to);
        let mut settled = stream.send_taken(cx);
        if settled.is_ok()
            && leaving
            && all
            // What does not go now goes when the socket takes it.
            && let Poll::Ready(told) = Pin::new(stream).poll_shutdown(cx)
        {
            self.leaving = false;
            settled = told;
        }
        settled.map_err(|error| failed(to, error))
    }

    /// A side sends nothing more.
    fn ended(
        &mut self,
        session: &mut Recorded,
        from: Side,
        cx: &mut Context<'_>,
        now: StdInstant,
    ) -> Result<(), Closed> {
        match session.handle_eof(from, now) {
            Eof::Later => Ok(()),
            // TLS has a farewell of its own.
            Eof::Close(reason) if from == Side::Server || !self.server.is_tls() => {
                Err(reason.into())
            }
            Eof::Close(_) | Eof::PassOn => {
                self.leaving = true;
                let all = session.unsent(Side::Server).is_empty();
                self.settle(Side::Server, all, cx)
            }
        }
    }

    fn stream(&mut self, side: Side) -> &mut Stream {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Writes what is due to both sides, as far as they take it within a while; returns a client that took it all.
    pub(super) async fn close(self, session: Recorded) -> Option<Stream> {
        let Self {
            mut client,
            mut server,
            ..
        } = self;
        let to_client = session.unsent(Side::Client);
        let to_server = session.unsent(Side::Server);
        if session.has_ended(Side::Client) && to_client.is_empty() && to_server.is_empty() {
            return None;
        }
        let farewell = async {
            // A server that is gone takes nothing, and that is known already.
            drop(server.write_all(to_server).await);
            drop(server.shutdown().await);
        };
        // What a server did not take before is not for it any more, and would keep the client from its last message.
        if to_server.is_empty() || session.wants_write(Side::Server) {
            drop(tokio::time::timeout(FAREWELL, farewell).await);
        }
        drop(server);
        let last = client.write_all(to_client);
        let taken = tokio::time::timeout(LINGER, last).await;
        matches!(taken, Ok(Ok(()))).then_some(client)
    }
}

fn failed(side: Side, error: io::Error) -> Closed {
    Closed {
        reason: match side {
            Side::Client => CloseReason::ClientIo,
            Side::Server => CloseReason::ServerIo,
        },
        error: Some(error),
    }
}
