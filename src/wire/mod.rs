//! PostgreSQL's bytes: message types, frame headers, the few bodies that are looked into, and the messages that pgidle
//! sends itself. No I/O, no clock; bodies that were not asked for are never decoded.
//!
//! Source: the PostgreSQL documentation, chapter "Frontend/Backend Protocol".
#![warn(clippy::indexing_slicing)]

mod body;
mod frame;
pub mod originate;
mod proxy_header;
pub mod sasl;
mod startup;
mod tag;

pub use body::{
    Bind, CommandTag, ErrorFields, Parse, cstr, describe_target, execute_portal, parameter_status,
};
pub use frame::{Frame, FrameScanner, HEADER_LEN, InvalidLength, Scanned};
pub use proxy_header::{ProxyHeader, ProxyHeaderError, read_proxy_header};
pub use startup::{
    CancelKey, MAX_NAME, MAX_STARTUP_PACKET, Startup, StartupError, StartupPacket, parse_startup,
    ssl_request,
};
pub use tag::{BackendTag, FrontendTag};
