//! The messages of a client, before pgwire reads them: it takes their form for granted, and the length that they announce.
//!
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

use std::{
    collections::HashMap,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::wire::{Bind, Parse, cstr, describe_target};

/// Bytes of one message: far more than a command takes, and little enough for strangers to send.
const MAX_MESSAGE: usize = 64 << 10;

/// The types of the messages that may come after the first packet: there are no functions to be called here.
const TYPES: &[u8] = b"QPBDCESHXpdcf";

/// Bytes that are read at once.
const PIECE: usize = 4096;

/// How many statements, and how many portals, may have a name: a portal may have a whole table.
const MAX_NAMED: [(u8, usize); 2] = [(b'S', 256), (b'P', 16)];

/// Bytes of the messages that have named them.
const MAX_NAMED_BYTES: usize = 1 << 20;

/// A stream of which one message after the other is read, each of the form that its type has, after the first packet.
#[derive(Debug)]
pub(super) struct Messages {
    stream: DuplexStream,
    read: Vec<u8>,
    /// How much of it has been given.
    given: usize,
    /// Up to where it may be given.
    checked: usize,
    /// Whether the first packet has come.
    started: bool,
    named: Named,
}

impl Messages {
    pub(super) fn new(stream: DuplexStream) -> Self {
        Self {
            stream,
            read: Vec::new(),
            given: 0,
            checked: 0,
            started: false,
            named: Named::default(),
        }
    }

    /// Looks for a whole message among what was read, and at its form.
    fn check(&mut self) -> Result<(), &'static str> {
        if self.started && self.read.first().is_some_and(|tag| !TYPES.contains(tag)) {
            return Err("invalid frontend message type");
        }
        let header = usize::from(self.started);
        let Some(&length) = self.read.get(header..).and_then(<[u8]>::first_chunk) else {
            return Ok(());
        };
        let length = u32::from_be_bytes(length) as usize;
        if length < 4 {
            return Err("invalid message length");
        }
        if length > MAX_MESSAGE {
            return Err("a message of more than 64 KiB");
        }
        let Some(message) = self.read.get(..header + length) else {
            return Ok(());
        };
        if let Some((&tag, after)) = message.split_first().filter(|_| self.started) {
            let body = &after[4..];
            if !has_form(tag, body) {
                return Err("invalid message format");
            }
            self.named.note(tag, body)?;
        }
        self.started = true;
        self.checked = message.len();
        Ok(())
    }
}

impl AsyncRead for Messages {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.given < self.checked {
                let end = self.checked.min(self.given + buf.remaining());
                buf.put_slice(&self.read[self.given..end]);
                self.given = end;
                return Poll::Ready(Ok(()));
            }
            let given = std::mem::take(&mut self.given);
            self.read.drain(..given);
            self.checked = 0;
            self.check()
                .map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))?;
            if self.checked > 0 {
                continue;
            }
            let mut piece = [0; PIECE];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut piece))?;
            if piece.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.read.extend_from_slice(piece.filled());
        }
    }
}

impl AsyncWrite for Messages {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What has a name, and with it a place in memory, until it is closed.
#[derive(Debug, Default)]
struct Named {
    /// The kind (`S` or `P`) and the name, and the bytes of the message.
    sizes: HashMap<(u8, Vec<u8>), usize>,
    bytes: usize,
}

impl Named {
    fn note(&mut self, tag: u8, body: &[u8]) -> Result<(), &'static str> {
        let parsed = || Parse::read(body).map(|parse| (b'S', parse.statement));
        let bound = || Bind::read(body).map(|bind| (b'P', bind.portal));
        let named = match tag {
            b'P' => parsed(),
            b'B' => bound(),
            b'C' => describe_target(body),
            _ => None,
        };
        let Some((kind, name)) = named.filter(|(_, name)| !name.is_empty()) else {
            return Ok(());
        };
        let key = (kind, name.to_owned());
        self.bytes -= self.sizes.remove(&key).unwrap_or_default();
        if tag == b'C' {
            return Ok(());
        }
        self.bytes += body.len();
        self.sizes.insert(key, body.len());
        let count = self.sizes.keys().filter(|(of, _)| *of == kind).count();
        let most = MAX_NAMED.iter().find(|(of, _)| *of == kind);
        if self.bytes > MAX_NAMED_BYTES || most.is_some_and(|&(_, most)| count > most) {
            return Err("too many prepared statements or portals");
        }
        Ok(())
    }
}

/// Whether a message of one of these types has the form that is documented.
fn has_form(tag: u8, body: &[u8]) -> bool {
    let ends = |rest: &[u8]| rest.is_empty().then_some(());
    let form = match tag {
        b'Q' | b'f' => cstr(body).and_then(|(_, rest)| ends(rest)),
        b'P' => {
            let form = || {
                let (_, rest) = cstr(cstr(body)?.1)?;
                let (count, rest) = count(rest)?;
                ends(rest.get(4 * count..)?)
            };
            form()
        }
        b'B' => bind_ends(body).and_then(ends),
        b'D' | b'C' => match body.split_first() {
            Some((b'S' | b'P', name)) => cstr(name).and_then(|(_, rest)| ends(rest)),
            Some(_) | None => None,
        },
        b'E' => cstr(body).and_then(|(_, rest)| (rest.len() == 4).then_some(())),
        b'S' | b'H' | b'X' | b'c' => ends(body),
        b'p' | b'd' => Some(()),
        _ => None,
    };
    form.is_some()
}

/// What stands after a Bind.
fn bind_ends(body: &[u8]) -> Option<&[u8]> {
    let (_, rest) = cstr(cstr(body)?.1)?;
    let (formats, rest) = count(rest)?;
    let (values, mut rest) = count(rest.get(2 * formats..)?)?;
    for _ in 0..values {
        let (length, after) = rest.split_first_chunk()?;
        rest = match i32::from_be_bytes(*length) {
            -1 => after,
            length => after.get(usize::try_from(length).ok()?..)?,
        };
    }
    let (results, rest) = count(rest)?;
    rest.get(2 * results..)
}

fn count(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (count, rest) = bytes.split_first_chunk()?;
    Some((usize::from(u16::from_be_bytes(*count)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_their_form_or_none() {
        let right: [(u8, &[u8]); 16] = [
            (b'Q', b"SHOW HELP\0"),
            (b'P', b"s\0SELECT 1\0\0\x01\0\0\0\x17"),
            (b'P', b"\0\0\0\0"),
            (b'B', b"\0\0\0\0\0\0\0\0"),
            (
                b'B',
                b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x01x\xff\xff\xff\xff\0\x01\0\x01",
            ),
            (b'D', b"Ss\0"),
            (b'C', b"P\0"),
            (b'E', b"\0\0\0\0\0"),
            (b'S', b""),
            (b'H', b""),
            (b'X', b""),
            (b'c', b""),
            (b'd', b""),
            (b'f', b"no\0"),
            (b'p', b""),
            (b'p', b"secret\0"),
        ];
        for (tag, body) in right {
            assert!(has_form(tag, body), "{} {body:?}", tag as char);
            assert!(TYPES.contains(&tag));
            if matches!(tag, b'p' | b'd') {
                continue;
            }
            let longer = [body, b"\0"].concat();
            assert!(!has_form(tag, &longer), "{} {longer:?}", tag as char);
            for cut in 0..body.len() {
                let cut = &body[..cut];
                assert!(!has_form(tag, cut), "{} {cut:?}", tag as char);
            }
        }
        assert!(!has_form(b'D', b"Xs\0"));
        assert!(!has_form(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"));
    }

    #[test]
    fn what_has_a_name_is_bounded() {
        let parse = |name: usize, text: usize| {
            [
                name.to_string().as_bytes(),
                b"\0",
                &vec![b'x'; text],
                b"\0\0\0",
            ]
            .concat()
        };
        let mut named = Named::default();
        for round in 0..3 {
            for name in 0..256 {
                assert_eq!(named.note(b'P', &parse(name, 1)), Ok(()), "{round}");
            }
        }
        assert!(named.note(b'P', &parse(256, 1)).is_err());
        let mut named = Named::default();
        for name in 0..10_000 {
            assert_eq!(named.note(b'P', &parse(name, 50_000)), Ok(()));
            let close = [b"S", name.to_string().as_bytes(), b"\0"].concat();
            assert_eq!(named.note(b'C', &close), Ok(()));
        }
        assert!((0..30).any(|name| named.note(b'P', &parse(name, 50_000)).is_err()));
        assert_eq!(named.note(b'B', b"\0\0\0\0\0\0\0\0"), Ok(()));
        assert!((0..17).any(|name: usize| {
            let bind = [name.to_string().as_bytes(), b"\0\0\0\0\0\0\0\0"].concat();
            named.note(b'B', &bind).is_err()
        }));
    }
}
