//! The messages that pgidle sends itself, to either side, built on pgwire's types.
//!
//! Every text that a client may see is written here or passes through here.

use bytes::{BufMut as _, Bytes, BytesMut};
use pgwire::messages::{
    Message,
    copy::CopyFail,
    data::{NoData, ParameterDescription},
    extendedquery::{Bind, BindComplete, Close, Execute, Flush, Parse, ParseComplete, Sync},
    response::{CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery},
    simplequery::Query,
    startup::Authentication,
    terminate::Terminate,
};

use super::BackendTag;

pub use pgwire::messages::response::TransactionStatus as ReadyStatus;

/// What an ErrorResponse or NoticeResponse of ours says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The SQLSTATE.
    pub sqlstate: &'static str,
    /// The primary message.
    pub message: String,
    /// The secondary message, empty for none.
    pub detail: String,
    /// What to do about it, empty for none.
    pub hint: String,
}

impl Diagnostic {
    fn fields(&self, severity: &str) -> Vec<(u8, String)> {
        let mut fields = vec![
            (b'S', severity.to_owned()),
            (b'V', severity.to_owned()),
            (b'C', self.sqlstate.to_owned()),
            (b'M', self.message.clone()),
        ];
        for (code, text) in [(b'D', &self.detail), (b'H', &self.hint)] {
            if !text.is_empty() {
                fields.push((code, text.clone()));
            }
        }
        fields
    }
}

/// An ErrorResponse of severity ERROR: the session goes on.
pub fn error_response(diagnostic: &Diagnostic, out: &mut BytesMut) {
    encode(&ErrorResponse::new(diagnostic.fields("ERROR")), out);
}

/// An ErrorResponse of severity FATAL: the connection is closed after it.
pub fn fatal_response(diagnostic: &Diagnostic, out: &mut BytesMut) {
    encode(&ErrorResponse::new(diagnostic.fields("FATAL")), out);
}

/// A NoticeResponse of severity WARNING, which may be sent at any time.
pub fn notice_response(diagnostic: &Diagnostic, out: &mut BytesMut) {
    encode(&NoticeResponse::new(diagnostic.fields("WARNING")), out);
}

/// A ReadyForQuery.
pub fn ready_for_query(status: ReadyStatus, out: &mut BytesMut) {
    encode(&ReadyForQuery::new(status), out);
}

/// A CommandComplete.
pub fn command_complete(tag: &str, out: &mut BytesMut) {
    encode(&CommandComplete::new(tag.to_owned()), out);
}

/// An EmptyQueryResponse.
pub fn empty_query_response(out: &mut BytesMut) {
    encode(&EmptyQueryResponse::new(), out);
}

/// A ParseComplete.
pub fn parse_complete(out: &mut BytesMut) {
    encode(&ParseComplete::new(), out);
}

/// A BindComplete.
pub fn bind_complete(out: &mut BytesMut) {
    encode(&BindComplete::new(), out);
}

/// The answer to Describe of what takes no parameters and returns no rows.
pub fn describes_nothing(is_statement: bool, out: &mut BytesMut) {
    if is_statement {
        encode(&ParameterDescription::new(Vec::new()), out);
    }
    encode(&NoData::new(), out);
}

/// A FunctionCallResponse with an `int4`; pgwire has no such message.
pub fn function_result(value: i32, binary: bool, out: &mut BytesMut) {
    let value = if binary {
        value.to_be_bytes().to_vec()
    } else {
        value.to_string().into_bytes()
    };
    let len = u32::try_from(value.len()).expect("eleven digits at most");
    out.put_u8(BackendTag::FunctionCallResponse.into());
    out.put_u32(8 + len);
    out.put_u32(len);
    out.put_slice(&value);
}

/// A Close of a statement (`S`) or portal (`P`). The name is ASCII.
pub fn close(kind: u8, name: &[u8], out: &mut BytesMut) {
    let name = String::from_utf8_lossy(name).into_owned();
    encode(&Close::new(kind, Some(name)), out);
}

/// An AuthenticationSASL that offers these mechanisms.
pub fn authentication_sasl(mechanisms: Vec<String>, out: &mut BytesMut) {
    encode(&Authentication::SASL(mechanisms), out);
}

/// A simple Query.
pub fn query(text: &str, out: &mut BytesMut) {
    encode(&Query::new(text.to_owned()), out);
}

/// A Parse of `text` as the statement `name`, without parameter types.
pub fn parse(name: &str, text: &str, out: &mut BytesMut) {
    encode(
        &Parse::new(Some(name.to_owned()), text.to_owned(), Vec::new()),
        out,
    );
}

/// A parameter: the oid of its type (`pg_type.oid`), and its value as text.
pub type Parameter = (u32, String);

/// Parse, Bind and Execute of a statement under a `name` of its own for the statement and the portal, after whatever had
/// that name is closed. No Sync.
pub fn run_as(name: &str, text: &str, parameters: &[Parameter], out: &mut BytesMut) {
    let own = || Some(name.to_owned());
    let types = parameters.iter().map(|&(oid, _)| oid).collect();
    let values = parameters
        .iter()
        .map(|(_, value)| Some(Bytes::copy_from_slice(value.as_bytes())))
        .collect();
    close_both(name, out);
    encode(&Parse::new(own(), text.to_owned(), types), out);
    encode(
        &Bind::new(own(), own(), Vec::new(), values, Vec::new()),
        out,
    );
    encode(&Execute::new(own(), 0), out);
}

/// A Close of the portal and one of the statement of this name; closing what is not there is no error.
pub fn close_both(name: &str, out: &mut BytesMut) {
    close(b'P', name.as_bytes(), out);
    close(b'S', name.as_bytes(), out);
}

/// A Close of the statement `name`.
pub fn close_statement(name: &str, out: &mut BytesMut) {
    encode(&Close::new(b'S', Some(name.to_owned())), out);
}

/// A Flush.
pub fn flush(out: &mut BytesMut) {
    encode(&Flush::new(), out);
}

/// A Sync.
pub fn sync(out: &mut BytesMut) {
    encode(&Sync::new(), out);
}

/// A CopyFail with its reason.
pub fn copy_fail(reason: &str, out: &mut BytesMut) {
    encode(&CopyFail::new(reason.to_owned()), out);
}

/// A Terminate.
pub fn terminate(out: &mut BytesMut) {
    encode(&Terminate::new(), out);
}

/// Fills up the body of a message whose sender has stopped in the middle.
pub fn padding(len: usize, out: &mut BytesMut) {
    out.resize(out.len() + len, b' ');
}

fn encode(message: &impl Message, out: &mut BytesMut) {
    message
        .encode(out)
        .expect("texts of ours are far below pgwire's limits");
}
