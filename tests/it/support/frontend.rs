//! The messages that a client sends, as bytes, built by hand so that a test can also send what no driver would.
//! <https://www.postgresql.org/docs/current/protocol-message-formats.html>

/// A tagged message: tag, length, body.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend(untagged(body));
    bytes
}

/// Length and body, as the first packet of a connection has it.
pub(crate) fn untagged(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

fn text(value: &str) -> Vec<u8> {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn count(items: usize) -> [u8; 2] {
    u16::try_from(items).unwrap().to_be_bytes()
}

/// Values in text format, each with its length.
fn values(items: &[&str]) -> Vec<u8> {
    let mut bytes = count(items.len()).to_vec();
    for item in items {
        bytes.extend(untagged(item.as_bytes()));
        // The length of a value does not count itself.
        let at = bytes.len() - item.len() - 4;
        let length = u32::try_from(item.len()).unwrap();
        bytes[at..at + 4].copy_from_slice(&length.to_be_bytes());
    }
    bytes
}

pub(crate) fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend(text(name));
        body.extend(text(value));
    }
    body.push(0);
    untagged(&body)
}

pub(crate) fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103_u32.to_be_bytes())
}

pub(crate) fn gssenc_request() -> Vec<u8> {
    untagged(&80_877_104_u32.to_be_bytes())
}

/// Asks to cancel what the session of this BackendKeyData (its body) is doing.
pub(crate) fn cancel_request(backend_key: &[u8]) -> Vec<u8> {
    untagged(&[&80_877_102_u32.to_be_bytes(), backend_key].concat())
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[text(name), text(sql), count(0).to_vec()].concat())
}

pub(crate) fn bind(portal: &str, statement: &str, parameters: &[&str]) -> Vec<u8> {
    let formats = count(0).to_vec();
    message(
        b'B',
        &[
            text(portal),
            text(statement),
            formats.clone(),
            values(parameters),
            formats,
        ]
        .concat(),
    )
}

pub(crate) fn describe_statement(name: &str) -> Vec<u8> {
    message(b'D', &[b"S".to_vec(), text(name)].concat())
}

pub(crate) fn describe_portal(name: &str) -> Vec<u8> {
    message(b'D', &[b"P".to_vec(), text(name)].concat())
}

/// Executes a portal to its end, or for so many rows.
pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[text(portal), rows.to_be_bytes().to_vec()].concat())
}

pub(crate) fn close_statement(name: &str) -> Vec<u8> {
    message(b'C', &[b"S".to_vec(), text(name)].concat())
}

pub(crate) fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub(crate) fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

pub(crate) fn copy_data(data: &str) -> Vec<u8> {
    message(b'd', data.as_bytes())
}

pub(crate) fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub(crate) fn copy_fail(reason: &str) -> Vec<u8> {
    message(b'f', &text(reason))
}

/// Calls a function by its oid, arguments and result in text format.
pub(crate) fn function_call(oid: u32, arguments: &[&str]) -> Vec<u8> {
    let formats = count(0).to_vec();
    message(
        b'F',
        &[
            oid.to_be_bytes().to_vec(),
            formats.clone(),
            values(arguments),
            formats,
        ]
        .concat(),
    )
}

/// Parse, Bind and Execute of the unnamed statement.
pub(crate) fn unnamed(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), execute("", 0)].concat()
}

/// Messages in a notation of one line, divided by ` | `, with `-` for an empty name: `Q SQL`, `P STATEMENT SQL`,
/// `B PORTAL STATEMENT`, `D S STATEMENT`, `D P PORTAL`, `E PORTAL`, `C S STATEMENT`, `C P PORTAL`, `F OID ARGUMENT …`, `H`
/// (Flush) and `S` (Sync).
pub(crate) fn messages(notation: &str) -> Vec<Vec<u8>> {
    let name = |word: &str| {
        if word == "-" {
            String::new()
        } else {
            word.to_owned()
        }
    };
    notation
        .split(" | ")
        .map(|noted| {
            let (tag, rest) = noted.split_once(' ').unwrap_or((noted, ""));
            let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
            match tag {
                "Q" => query(rest),
                "P" => parse(&name(first), second),
                "B" => bind(&name(first), &name(second), &[]),
                "E" => execute(&name(first), 0),
                "D" if first == "S" => describe_statement(&name(second)),
                "D" => describe_portal(&name(second)),
                "C" => message(b'C', &[first.as_bytes(), &text(&name(second))].concat()),
                "F" => {
                    let arguments: Vec<_> = second.split_whitespace().collect();
                    function_call(first.parse().unwrap(), &arguments)
                }
                "H" => flush(),
                "S" => sync(),
                _ => panic!("not a message: {noted}"),
            }
        })
        .collect()
}
