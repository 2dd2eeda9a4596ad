//! The first bytes of a connection, frames, message bodies, and the comments of sqlcommenter.

use pgidle::{
    sql,
    wire::{
        Bind, CancelKey, CommandTag, ErrorFields, FrameScanner, MAX_NAME, MAX_STARTUP_PACKET,
        Parse, Scanned, Startup, describe_target, execute_portal, parameter_status, parse_startup,
        read_proxy_header, sasl,
    },
};

/// A start-up packet is the same however much follows it, and nothing is known before it is whole.
pub fn startup(data: &[u8]) {
    match parse_startup(data) {
        Ok(Some((startup, len))) => {
            assert!(len <= data.len() && len <= MAX_STARTUP_PACKET);
            let packet = &data[..len];
            // Direct TLS is told by its first byte, and nothing of it belongs to a packet.
            if startup != Startup::DirectTls {
                assert_eq!(parse_startup(packet), Ok(Some((startup.clone(), len))));
                assert_eq!(parse_startup(&packet[..len - 1]), Ok(None));
            }
            match startup {
                Startup::Session(packet) => {
                    packet.replication();
                    // A byte that is no UTF-8 is replaced by three.
                    assert!(packet.user.len().max(packet.database.len()) <= 3 * MAX_NAME);
                }
                Startup::Cancel(key) => assert_eq!(key.request(), packet),
                Startup::SslRequest | Startup::GssEncRequest | Startup::DirectTls => {}
            }
        }
        Ok(None) => assert!(data.len() < MAX_STARTUP_PACKET),
        Err(error) => drop(error.to_string()),
    }
}

/// The bytes of one direction, as they come in pieces: in the first byte is how large these are.
pub fn frames(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    let holds = |tag: u8| tag & 1 == 0;
    let pieces = |size: usize| -> (Vec<(u8, usize)>, usize, bool) {
        let (mut frames, mut scanner) = (Vec::new(), FrameScanner::default());
        let (mut start, mut end) = (0, 0);
        loop {
            match scanner.scan(&stream[start..end], holds) {
                Ok(Scanned::Rest { len }) => {
                    assert!((1..=end - start).contains(&len));
                    start += len;
                }
                Ok(Scanned::Frame { frame, len }) => {
                    assert!((5..=end - start).contains(&len) && frame.body.len() + 5 == len);
                    let announced = stream[start + 1..start + 5].try_into().expect("four bytes");
                    let body = u32::from_be_bytes(announced) as usize - 4;
                    assert_eq!(frame.whole, frame.body.len() == body);
                    assert!(frame.whole || !holds(frame.tag) || body + 5 > FrameScanner::HOLD);
                    assert_eq!(scanner.rest(), body - frame.body.len());
                    frames.push((frame.tag, body));
                    start += len;
                }
                Ok(Scanned::Incomplete) if end < stream.len() => {
                    // No more waits than a held frame may have.
                    assert!(end - start < FrameScanner::HOLD);
                    end = stream.len().min(end + size);
                }
                Ok(Scanned::Incomplete) => return (frames, start, true),
                Err(invalid) => {
                    assert!(invalid.length < 4);
                    return (frames, start, false);
                }
            }
        }
    };
    let whole = pieces(stream.len().max(1));
    assert_eq!(pieces(usize::from(size) + 1), whole);
    let run = FrameScanner::default().run_of(b'D', stream);
    assert!(run <= stream.len());
}

/// Message bodies of both sides: whatever is in them, it is read or left.
pub fn messages(data: &[u8]) {
    if let Some(parse) = Parse::read(data) {
        assert!(parse.parameter_types().count() * 4 <= data.len());
    }
    Bind::read(data);
    execute_portal(data);
    describe_target(data);
    parameter_status(data);
    CommandTag::read(data);
    let fields = ErrorFields::read(data);
    fields.is_fatal();
    sql::found_names(data);
    assert_eq!(CancelKey::read(data).is_some(), data.len() >= 4);
    sasl::misses_binding(data);
    let names = sasl::mechanisms_without_binding(data).unwrap_or_default();
    assert!(names.iter().all(|name| !name.ends_with("-PLUS")));
}

/// A PROXY header is the same however much follows it, and nothing is known before it is whole.
pub fn proxy_header(data: &[u8]) {
    if let Ok(Some(header)) = read_proxy_header(data) {
        let whole = &data[..header.len];
        assert_eq!(read_proxy_header(whole), Ok(Some(header)));
        for cut in 0..header.len.min(200) {
            assert_eq!(read_proxy_header(&whole[..cut]), Ok(None));
        }
    }
}

/// Tags are found only in comments, and none is longer than the statement.
pub fn tags(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for (name, value) in sql::tags(&text).unwrap_or_default() {
        assert!(text.contains("/*") && text.contains("*/"));
        assert!(!name.is_empty() && name.len() + value.len() <= text.len());
    }
}
