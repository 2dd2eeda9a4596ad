//! Finds the frames in a stream of bytes by their headers; bodies are not copied and not looked into.
//!
//! A frame that the caller wants whole is reported once it lies in one piece (up to [`FrameScanner::HOLD`] bytes); every
//! other frame is reported at its header with as much of the body as has come, and its rest flows past.

/// Bytes of a frame's header: the type and the length.
pub const HEADER_LEN: usize = 5;

/// One frame as it lies on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type byte.
    pub tag: u8,
    /// The body, or the first part of it when the frame is not [`whole`](Self::whole).
    pub body: &'a [u8],
    /// Whether all of the body is here.
    pub whole: bool,
}

/// What the scanner found at the front of the bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned<'a> {
    /// The next `len` bytes belong to a frame that was reported before.
    Rest {
        /// How many bytes, at least 1.
        len: usize,
    },
    /// A frame begins here, and the next `len` bytes are what has come of it.
    Frame {
        /// The frame.
        frame: Frame<'a>,
        /// How many bytes of it are here, header included.
        len: usize,
    },
    /// Nothing more can be said before more bytes come; what is left must be given again, with more after it.
    Incomplete,
}

/// A length field that no PostgreSQL message can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message of type {:?} announces a length of {length}", char::from(*tag))]
pub struct InvalidLength {
    /// The type byte in front of it.
    pub tag: u8,
    /// The length field, which counts itself.
    pub length: i32,
}

/// Where in a stream of frames one direction of a session stands.
#[derive(Clone, Debug, Default)]
pub struct FrameScanner {
    /// Bytes of the frame reported last that are still to come.
    rest: usize,
}

impl FrameScanner {
    /// The largest frame, header included, that is ever held back to be reported whole.
    pub const HOLD: usize = 32 * 1024;

    /// Looks at the front of `bytes` and advances over what it reports.
    ///
    /// `wanted` says whether frames of a type shall be held back until they are whole.
    ///
    /// # Errors
    /// A length field below 4: the stream cannot be followed any further.
    pub fn scan<'a>(
        &mut self,
        bytes: &'a [u8],
        wanted: impl FnOnce(u8) -> bool,
    ) -> Result<Scanned<'a>, InvalidLength> {
        if self.rest > 0 && !bytes.is_empty() {
            let len = self.rest.min(bytes.len());
            self.rest -= len;
            return Ok(Scanned::Rest { len });
        }
        let Some((&[tag, a, b, c, d], body)) = bytes.split_first_chunk() else {
            return Ok(Scanned::Incomplete);
        };
        let length = i32::from_be_bytes([a, b, c, d]);
        let Some(body_len) = usize::try_from(length)
            .ok()
            .and_then(|len| len.checked_sub(4))
        else {
            return Err(InvalidLength { tag, length });
        };
        if let Some(body) = body.get(..body_len) {
            let frame = Frame {
                tag,
                body,
                whole: true,
            };
            return Ok(Scanned::Frame {
                frame,
                len: HEADER_LEN + body_len,
            });
        }
        if HEADER_LEN + body_len <= Self::HOLD && wanted(tag) {
            return Ok(Scanned::Incomplete);
        }
        self.rest = body_len - body.len();
        let frame = Frame {
            tag,
            body,
            whole: false,
        };
        Ok(Scanned::Frame {
            frame,
            len: bytes.len(),
        })
    }

    /// How many bytes at the front of `bytes` are whole frames of one type, for a caller that has nothing to learn from them.
    pub fn run_of(&self, tag: u8, bytes: &[u8]) -> usize {
        let mut len = 0;
        while self.rest == 0
            && let Some((&[next, a, b, c, d], body)) =
                bytes.get(len..).and_then(<[u8]>::split_first_chunk)
            && next == tag
            && let Ok(length @ 4..) = usize::try_from(i32::from_be_bytes([a, b, c, d]))
            && length - 4 <= body.len()
        {
            len += 1 + length;
        }
        len
    }

    /// Takes back the frame reported last: it will be given again.
    pub fn rewind(&mut self) {
        self.rest = 0;
    }

    /// Bytes that are missing of the frame reported last; 0 between frames.
    pub fn rest(&self) -> usize {
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        prelude::*,
        sample::{Index, select},
    };

    use super::*;

    /// Scans a stream given in chunks of the sizes in `cuts`; the frames with all bytes of their bodies.
    fn frames(stream: &[u8], cuts: &[usize], wanted: fn(u8) -> bool) -> Vec<(u8, Vec<u8>)> {
        let (mut scanner, mut found) = (FrameScanner::default(), Vec::<(u8, Vec<u8>)>::new());
        let (mut held, mut rest, mut cuts) = (Vec::new(), stream, cuts.iter().cycle());
        while !rest.is_empty() {
            let cut = (*cuts.next().unwrap()).clamp(1, rest.len());
            held.extend_from_slice(&rest[..cut]);
            rest = &rest[cut..];
            loop {
                let used = match scanner.scan(&held, wanted).unwrap() {
                    Scanned::Incomplete => break,
                    Scanned::Rest { len } => {
                        let (_, body) = found.last_mut().unwrap();
                        body.extend_from_slice(&held[..len]);
                        len
                    }
                    Scanned::Frame { frame, len } => {
                        assert!(frame.whole || !wanted(frame.tag) || len > 5);
                        found.push((frame.tag, frame.body.to_vec()));
                        len
                    }
                };
                held.drain(..used);
            }
        }
        assert!(held.is_empty() && scanner.rest() == 0);
        found
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_frames(
            bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            cuts in prop::collection::vec(1usize..400, 1..20),
        ) {
            let mut stream = Vec::new();
            for (tag, body) in &bodies {
                stream.push(*tag);
                stream.extend_from_slice(&(u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
                stream.extend_from_slice(body);
            }
            prop_assert_eq!(&frames(&stream, &cuts, |_| true), &bodies);
            prop_assert_eq!(&frames(&stream, &cuts, |_| false), &bodies);
            prop_assert_eq!(&frames(&stream, &cuts, |tag| tag % 2 == 0), &bodies);
        }

        #[test]
        fn a_run_is_what_scanning_one_by_one_finds(
            lens in prop::collection::vec((select(b"DdC"), 0_u32..40), 0..12),
            cut in any::<Index>(),
        ) {
            let mut stream = Vec::new();
            for (tag, len) in lens {
                stream.push(tag);
                stream.extend_from_slice(&(len + 4).to_be_bytes());
                stream.resize(stream.len() + usize::try_from(len).unwrap(), b'D');
            }
            let stream = &stream[..cut.index(stream.len() + 1)];
            let mut scanner = FrameScanner::default();
            let mut run = 0;
            while let Ok(Scanned::Frame { frame, len }) = scanner.scan(&stream[run..], |_| true)
                && frame.tag == b'D'
            {
                run += len;
            }
            prop_assert_eq!(FrameScanner::default().run_of(b'D', stream), run);
        }

        #[test]
        fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut scanner, mut bytes) = (FrameScanner::default(), bytes.as_slice());
            prop_assert!(scanner.run_of(b'D', bytes) <= bytes.len());
            while let Ok(Scanned::Rest { len } | Scanned::Frame { len, .. }) = scanner.scan(bytes, |_| false) {
                bytes = &bytes[len..];
            }
        }
    }

    #[test]
    fn a_length_below_four_is_refused() {
        let mut scanner = FrameScanner::default();
        let error = scanner.scan(b"Q\0\0\0\x03", |_| true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "message of type 'Q' announces a length of 3"
        );
    }
}
