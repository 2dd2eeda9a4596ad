//! Turns a frame that goes to the server into the request that the server will answer.

use std::{sync::Arc, time::Instant};

use super::{
    pending::{Request, RequestKind},
    state::State,
    text::{MAX_TEXT, Text},
};
use crate::{
    sql::{self, Outline},
    wire::{self, Frame, FrontendTag},
};

/// The first oid that PostgreSQL gives to what users make (`FirstNormalObjectId` in `src/include/access/transam.h`).
const FIRST_NORMAL_OID: u32 = 16_384;

impl State {
    /// The request that a frame makes; `None` for one that gets no answer of its own.
    pub(super) fn request(&self, frame: Frame<'_>, now: Instant) -> Option<Request> {
        let request = Request {
            kind: RequestKind::Sync,
            at: now,
            text: Text::UNKNOWN,
            name: Box::default(),
            statements: Some(1),
            in_batch: false,
            refused: false,
        };
        match FrontendTag::from(frame.tag) {
            FrontendTag::Query => Some(self.query(frame, request)),
            FrontendTag::Parse => Some(self.parse(frame, request)),
            FrontendTag::Bind => Some(self.bind(frame, request)),
            FrontendTag::Describe => Some(self.describe(frame, request)),
            FrontendTag::Execute => {
                let portal = wire::execute_portal(frame.body);
                Some(Request {
                    kind: RequestKind::Execute,
                    text: portal.map_or(Text::UNKNOWN, |name| self.portal(name)),
                    ..request
                })
            }
            FrontendTag::Close => Some(Request {
                kind: RequestKind::Close,
                name: frame.body.strip_suffix(b"\0").unwrap_or(b"").into(),
                ..request
            }),
            FrontendTag::FunctionCall => Some(Request {
                kind: RequestKind::FunctionCall,
                ..request
            }),
            FrontendTag::Sync => Some(request),
            FrontendTag::CopyDone | FrontendTag::CopyFail => Some(Request {
                kind: RequestKind::CopyEnd,
                ..request
            }),
            FrontendTag::CopyData
            | FrontendTag::Flush
            | FrontendTag::Password
            | FrontendTag::Terminate
            | FrontendTag::Unknown(_) => None,
        }
    }

    fn query(&self, frame: Frame<'_>, request: Request) -> Request {
        let sql = wire::cstr(frame.body).map_or(frame.body, |(sql, _)| sql);
        let text = self.text(frame, sql);
        let one = || frame.whole && !sql::may_have_several(sql);
        Request {
            kind: RequestKind::Query,
            statements: text.outline.count().or_else(|| one().then_some(1)),
            text,
            ..request
        }
    }

    fn parse(&self, frame: Frame<'_>, request: Request) -> Request {
        let parse = wire::Parse::read(frame.body).map(|parse| {
            let mut text = self.text(frame, parse.text);
            text.certain &= parse.parameter_types().all(|oid| oid < FIRST_NORMAL_OID);
            (parse.statement, text)
        });
        let (name, text) = parse.unwrap_or((b"", Text::UNKNOWN));
        Request {
            kind: RequestKind::Parse,
            name: name.into(),
            text,
            ..request
        }
    }

    fn bind(&self, frame: Frame<'_>, request: Request) -> Request {
        let bind = wire::Bind::read(frame.body);
        let (name, text) = bind.map_or((&b""[..], Text::UNKNOWN), |bind| {
            (bind.portal, self.statement(bind.statement))
        });
        Request {
            kind: RequestKind::Bind,
            name: name.into(),
            text,
            ..request
        }
    }

    fn describe(&self, frame: Frame<'_>, request: Request) -> Request {
        let text = match wire::describe_target(frame.body) {
            Some((b'S', name)) => self.statement(name),
            Some((_, name)) => self.portal(name),
            None => Text::UNKNOWN,
        };
        Request {
            kind: RequestKind::Describe,
            text,
            ..request
        }
    }

    pub(super) fn text(&self, frame: Frame<'_>, sql: &[u8]) -> Text {
        let kept = sql.get(..MAX_TEXT).unwrap_or(sql);
        let text = str::from_utf8(kept);
        let whole = frame.whole && kept.len() == sql.len() && text.is_ok();
        let lossy = |_| String::from_utf8_lossy(kept).into();
        Text {
            sql: Some(text.map_or_else(lossy, Arc::from)),
            outline: self.outline(frame, sql),
            certain: whole && self.lexing.is_server_safe(),
        }
    }

    /// The newest statement known by this name, confirmed or still on its way.
    pub(super) fn statement(&self, name: &[u8]) -> Text {
        let sent = self.pending.statement(name);
        sent.or_else(|| self.prepared.statement(name))
            .cloned()
            .unwrap_or(Text::UNKNOWN)
    }

    /// The statement that the portal of this name runs, confirmed or still on its way.
    pub(super) fn portal(&self, name: &[u8]) -> Text {
        let sent = self.pending.portal(name);
        sent.or_else(|| self.prepared.portal(name))
            .cloned()
            .unwrap_or(Text::UNKNOWN)
    }

    /// What the statements of a text do to the transaction.
    pub(super) fn outline(&self, frame: Frame<'_>, text: &[u8]) -> Outline {
        sql::outline(text, frame.whole, self.lexing)
    }
}
