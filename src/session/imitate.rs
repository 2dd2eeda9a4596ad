//! Answers in the server's place what libraries send by themselves in a transaction that pgidle has ended, as long as
//! the client has not been told; and what takes a client that was told back to a savepoint before the error.
//!
//! A destructor that closes a cursor or deallocates a statement, a savepoint that a wrapper leaves, a ping without a
//! statement: the error would go into an answer that no program reads. Each of these is undone with the transaction, or
//! takes effect here by a Close, which a failed transaction lets through; so the answer is what it would have been, and
//! the error falls on the next real statement or on COMMIT.

use std::time::Instant;

use super::{Session, Verdict, savepoints::Savepoints, state::TransactionStatus, text::Text};
use crate::{
    sql::{self, Identifier, Inert},
    wire::{
        self, Frame, FrontendTag,
        originate::{self, ReadyStatus},
    },
};

/// `pg_proc.oid` of `lo_close`, in `src/include/catalog/pg_proc.dat`.
const LO_CLOSE: [u8; 4] = 953_u32.to_be_bytes();

impl Session {
    /// Answers a frame in the server's place, if it can be done; `None` if not.
    pub(super) fn imitate(&mut self, frame: Frame<'_>, now: Instant) -> Option<Verdict> {
        let in_block = self.state.status == TransactionStatus::Failed;
        let deferred_error = self
            .deferred_error
            .as_deref()
            .filter(|deferred_error| deferred_error.waits_for_request())?;
        if !in_block || !frame.whole {
            return None;
        }
        let client_notified = deferred_error.client_notified();
        match FrontendTag::from(frame.tag) {
            FrontendTag::Query => {
                let (text, _) = wire::cstr(frame.body)?;
                let (list, all) = sql::inert(text, self.state.lexing);
                if client_notified && !goes_back(&list) || !all && !savepoints_alone(&list) {
                    return None;
                }
                let savepoints = after(&list, deferred_error.savepoints())?;
                // As exec_simple_query does.
                self.state.prepared.replaced();
                self.state.prepared.statement_closed(b"");
                self.run(&list, savepoints, now);
                if !all {
                    return Some(self.refuse(frame, now));
                }
                originate::ready_for_query(ReadyStatus::Transaction, self.client.output());
            }
            FrontendTag::Execute => {
                let portal = wire::execute_portal(frame.body)?;
                let list = self.inert(&self.state.portal(portal))?;
                if client_notified && !goes_back(&list) {
                    return None;
                }
                let savepoints = after(&list, deferred_error.savepoints())?;
                self.run(&list, savepoints, now);
            }
            // The server takes what prepares a ROLLBACK TO.
            _ if client_notified => return None,
            FrontendTag::Parse => self.imitate_parse(frame)?,
            FrontendTag::Bind => self.imitate_bind(frame)?,
            FrontendTag::Describe => self.imitate_describe(frame)?,
            FrontendTag::FunctionCall if frame.body.starts_with(&LO_CLOSE) => {
                // What it would have closed was closed with the transaction; 0 is success.
                let binary = frame.body.ends_with(&[0, 1]);
                originate::function_result(0, binary, self.client.output());
                originate::ready_for_query(ReadyStatus::Transaction, self.client.output());
            }
            FrontendTag::FunctionCall
            | FrontendTag::Close
            | FrontendTag::Sync
            | FrontendTag::Flush
            | FrontendTag::CopyData
            | FrontendTag::CopyDone
            | FrontendTag::CopyFail
            | FrontendTag::Password
            | FrontendTag::Terminate
            | FrontendTag::Unknown(_) => return None,
        }
        Some(Verdict::Drop)
    }

    /// A named statement is left to the server: it would be missed later.
    fn imitate_parse(&mut self, frame: Frame<'_>) -> Option<()> {
        let parse = wire::Parse::read(frame.body)?;
        let text = self.state.text(frame, parse.text);
        self.inert(&text)?;
        if !parse.statement.is_empty() {
            return None;
        }
        self.state.prepared.parsed(parse.statement.into(), text);
        originate::parse_complete(self.client.output());
        Some(())
    }

    fn imitate_bind(&mut self, frame: Frame<'_>) -> Option<()> {
        let bind = wire::Bind::read(frame.body)?;
        let text = self.state.statement(bind.statement);
        self.inert(&text)?;
        if !bind.portal.is_empty() {
            return None;
        }
        self.state.prepared.bound(bind.portal.into(), text);
        originate::bind_complete(self.client.output());
        Some(())
    }

    fn imitate_describe(&mut self, frame: Frame<'_>) -> Option<()> {
        let (kind, name) = wire::describe_target(frame.body)?;
        let of_statement = kind == b'S';
        let text = if of_statement {
            self.state.statement(name)
        } else {
            self.state.portal(name)
        };
        self.inert(&text)?;
        originate::describes_nothing(of_statement, self.client.output());
        Some(())
    }

    /// The statements of a prepared text, of which a batch has one at most.
    fn inert(&self, text: &Text) -> Option<Vec<Inert>> {
        let sql = text.sql.as_deref().filter(|_| text.certain)?;
        let (list, all) = sql::inert(sql.as_bytes(), self.state.lexing);
        (all && list.len() <= 1).then_some(list)
    }

    fn run(&mut self, list: &[Inert], savepoints: Savepoints, now: Instant) {
        let mut closes = Vec::new();
        for statement in list {
            let tag = match statement {
                Inert::Savepoint(_) => "SAVEPOINT",
                Inert::Release(_) => "RELEASE",
                Inert::RollbackTo(_) => "ROLLBACK",
                Inert::Unlisten => "UNLISTEN",
                Inert::Deallocate(name) => {
                    closes.push((b'S', name));
                    "DEALLOCATE"
                }
                Inert::CloseCursor(name) => {
                    closes.push((b'P', name));
                    "CLOSE CURSOR"
                }
            };
            originate::command_complete(tag, self.client.output());
        }
        if list.is_empty() {
            originate::empty_query_response(self.client.output());
        }
        if let Some(deferred_error) = &mut self.deferred_error {
            deferred_error.carried_out(savepoints);
        }
        if !closes.is_empty() {
            self.close_names(&closes, now);
        }
    }

    /// Closes statements and portals in the server. A Close needs no transaction (`PostgresMain` in
    /// `src/backend/tcop/postgres.c`), and is no error where the name is unknown.
    fn close_names(&mut self, names: &[(u8, &Identifier)], now: Instant) {
        for &(kind, name) in names {
            originate::close(kind, name.as_bytes(), self.server.output());
            let body = [&[kind], name.as_bytes(), &[0]].concat();
            self.note_own(FrontendTag::Close, &body, now);
        }
        originate::sync(self.server.output());
        self.note_own(FrontendTag::Sync, &[], now);
        if let Some(deferred_error) = &mut self.deferred_error {
            deferred_error.await_own(names.len() + 1);
        }
    }

    fn note_own(&mut self, tag: FrontendTag, body: &[u8], now: Instant) {
        let frame = Frame {
            tag: tag.into(),
            body,
            whole: true,
        };
        self.state.sent(frame, now);
    }
}

/// Whether a failed block would let this through and be whole again.
fn goes_back(list: &[Inert]) -> bool {
    matches!(list, [Inert::RollbackTo(_), ..])
}

/// Whether these come before another statement as a driver's own savepoint does. What takes effect at once may not be
/// carried out there: of a list that does not parse the server carries out nothing.
fn savepoints_alone(list: &[Inert]) -> bool {
    let of_savepoint = |statement: &Inert| {
        matches!(
            statement,
            Inert::Savepoint(_) | Inert::Release(_) | Inert::RollbackTo(_)
        )
    };
    !list.is_empty() && list.iter().all(of_savepoint)
}

/// The savepoints after these statements, if every name is known to be open.
fn after(list: &[Inert], open: &Savepoints) -> Option<Savepoints> {
    let mut savepoints = open.clone();
    for statement in list {
        match statement {
            Inert::Savepoint(name) => savepoints.opened(Some(name)),
            Inert::Release(name) if savepoints.is_open(name) => savepoints.released(Some(name)),
            Inert::RollbackTo(name) if savepoints.is_open(name) => {
                savepoints.rolled_back_to(Some(name));
            }
            Inert::Release(_) | Inert::RollbackTo(_) => return None,
            Inert::Deallocate(_) | Inert::CloseCursor(_) | Inert::Unlisten => {}
        }
    }
    Some(savepoints)
}
