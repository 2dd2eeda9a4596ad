//! Answers what comes by the simple and by the extended protocol.

use std::{fmt::Debug, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::Sink;
use pgwire::{
    api::{
        ClientInfo, ClientPortalStore, Type,
        portal::{Format, Portal},
        query::{ExtendedQueryHandler, SimpleQueryHandler},
        results::{FieldInfo, Response, Tag},
        stmt::QueryParser,
        store::PortalStore,
    },
    error::{PgWireError, PgWireResult},
    messages::PgWireBackendMessage,
};
use tokio::{sync::oneshot, time::timeout};

use super::{
    Desk, Request, error,
    show::{self, Topic},
    statement::{self, Known, Selected, Statement},
    table::{Kind, Table, Value, fields},
};
use crate::{
    config::{Change, Role},
    registry::{Command, Order},
};

/// How long a command waits for what has come of it: longer than every deadline of an enforcement.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many statements may come at once: each may have a long answer.
const MAX_STATEMENTS: usize = 16;

#[async_trait]
impl SimpleQueryHandler for Desk {
    async fn do_query<C>(&self, _: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statements = statement::read(query).map_err(|why| error("42601", why.0))?;
        if statements.is_empty() {
            return Ok(vec![Response::EmptyQuery]);
        }
        if statements.len() > MAX_STATEMENTS {
            let why = format!("more than {MAX_STATEMENTS} statements at once");
            return Err(error("54000", why));
        }
        let mut responses = Vec::new();
        for statement in &statements {
            match self.carry_out(statement, &Format::UnifiedText).await {
                Ok(response) => responses.push(response),
                // What came before it is answered all the same.
                Err(PgWireError::UserError(info)) => {
                    responses.push(Response::Error(info));
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(responses)
    }
}

#[async_trait]
impl ExtendedQueryHandler for Desk {
    type Statement = Statement;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        Arc::new(Parser)
    }

    async fn do_query<C>(
        &self,
        _: &mut C,
        portal: &Portal<Statement>,
        _: usize,
    ) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Statement>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statement = &portal.statement.statement;
        self.carry_out(statement, &portal.result_column_format)
            .await
    }
}

/// Reads a statement of the extended protocol, and says what its rows will be.
#[derive(Debug)]
pub(super) struct Parser;

#[async_trait]
impl QueryParser for Parser {
    type Statement = Statement;

    async fn parse_sql<C>(
        &self,
        _: &C,
        sql: &str,
        _: &[Option<Type>],
    ) -> PgWireResult<Option<Statement>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        let mut statements = statement::read(sql).map_err(|why| error("42601", why.0))?;
        if statements.len() > 1 {
            let why = "cannot insert multiple commands into a prepared statement";
            return Err(error("42601", why.to_owned()));
        }
        if let Some(Statement::Show(topic, names)) = statements.first() {
            show::picked(*topic, names).map_err(|why| error("42703", why))?;
        }
        Ok(statements.pop())
    }

    fn get_parameter_types(&self, _: &Statement) -> PgWireResult<Vec<Type>> {
        Ok(Vec::new())
    }

    fn get_result_schema(
        &self,
        statement: &Statement,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        Ok(fields(
            &columns(statement),
            format.unwrap_or(&Format::UnifiedText),
        ))
    }
}

/// The columns of what a statement answers; none where it answers no rows.
fn columns(statement: &Statement) -> Vec<(String, Kind)> {
    let text = |name: &str| (name.to_owned(), Kind::Text);
    match statement {
        Statement::Show(topic, names) => {
            let picked = show::picked(*topic, names).unwrap_or_default();
            let picked = picked.into_iter();
            picked
                .map(|(_, column)| (column.name.to_owned(), column.kind))
                .collect()
        }
        Statement::Blockers(..) => {
            let columns = show::BLOCKERS.iter();
            columns
                .map(|column| (column.name.to_owned(), column.kind))
                .collect()
        }
        Statement::Parameter(name) => vec![text(&name.replace(' ', "_"))],
        Statement::Rollback(_) | Statement::Terminate(_) => {
            vec![("session".to_owned(), Kind::Number), text("outcome")]
        }
        Statement::Reload => ["key", "was", "is"].map(text).to_vec(),
        Statement::Complete(_) => vec![text("name")],
        Statement::Select(columns) => columns.iter().map(selected).collect(),
        Statement::Drain
        | Statement::Shutdown
        | Statement::Begin
        | Statement::End(_)
        | Statement::Accepted(_) => Vec::new(),
    }
}

fn selected(column: &Selected) -> (String, Kind) {
    let kind = match column.value {
        Some(Known::Number(_)) => Kind::Number,
        Some(Known::Boolean(_)) => Kind::Boolean,
        Some(
            Known::Version
            | Known::User
            | Known::Database
            | Known::Schema
            | Known::Parameter(_)
            | Known::Text(_),
        )
        | None => Kind::Text,
    };
    (column.name.clone(), kind)
}

impl Desk {
    async fn carry_out(&self, statement: &Statement, format: &Format) -> PgWireResult<Response> {
        let rows = |tag: &str, rows| {
            let columns = columns(statement);
            Ok(Response::Query(
                Table { columns, rows }.response(tag, format),
            ))
        };
        match statement {
            Statement::Show(topic, names) => rows("SHOW", self.show(*topic, names).await?),
            Statement::Blockers(relation, mode) => {
                let blockers = show::blockers(&self.context, relation, *mode).await;
                rows("SHOW", blockers.map_err(|why| error("55000", why))?)
            }
            Statement::Parameter(name) => {
                let unknown = || {
                    error(
                        "42704",
                        format!("unrecognized parameter {name:?}; SHOW HELP lists what there is"),
                    )
                };
                let value = parameter(name).ok_or_else(unknown)?;
                rows("SHOW", vec![vec![value.into()]])
            }
            Statement::Select(columns) => rows("SELECT", self.select(columns)),
            Statement::Complete(begin) => {
                let names = Topic::names().map(str::to_lowercase);
                let names = names.filter(|name| name.starts_with(begin));
                rows("SELECT", names.map(|name| vec![name.into()]).collect())
            }
            Statement::Begin => Ok(Response::TransactionStart(Tag::new("BEGIN"))),
            Statement::End(tag) => Ok(Response::TransactionEnd(Tag::new(tag))),
            Statement::Accepted(tag) => Ok(Response::Execution(Tag::new(tag))),
            Statement::Rollback(id) => {
                self.must_be_admin("ROLLBACK")?;
                let outcome = self.order(*id, Command::Rollback).await?;
                rows("ROLLBACK", vec![vec![(*id).into(), outcome.into()]])
            }
            Statement::Terminate(id) => {
                self.must_be_admin("TERMINATE")?;
                let outcome = self.order(*id, Command::Terminate).await?;
                rows("TERMINATE", vec![vec![(*id).into(), outcome.into()]])
            }
            Statement::Reload => {
                self.must_be_admin("RELOAD")?;
                rows("RELOAD", self.reload().await?)
            }
            Statement::Drain => {
                self.must_be_admin("DRAIN")?;
                self.request(Request::Drain(self.name().into()))?;
                Ok(Response::Execution(Tag::new("DRAIN")))
            }
            Statement::Shutdown => {
                self.must_be_admin("SHUTDOWN")?;
                self.request(Request::Shutdown(self.name().into()))?;
                Ok(Response::Execution(Tag::new("SHUTDOWN")))
            }
        }
    }

    async fn show(&self, topic: Topic, names: &[String]) -> PgWireResult<Vec<Vec<Value>>> {
        let picked = show::picked(topic, names).map_err(|why| error("42703", why))?;
        let table = show::table(topic, &self.context).await;
        let table = table.map_err(|why| error("55000", why))?;
        let pick = |row: Vec<Value>| {
            let value = |&(place, _): &(usize, _)| row.get(place).cloned().unwrap_or(Value::Null);
            picked.iter().map(value).collect()
        };
        Ok(table.rows.into_iter().map(pick).collect())
    }

    /// One row where everything is known; what asks for anything else finds nothing.
    fn select(&self, columns: &[Selected]) -> Vec<Vec<Value>> {
        let value = |known: &Known| -> Value {
            match known {
                Known::Version => format!("PostgreSQL {}", super::SERVER_VERSION).into(),
                Known::User => self.name().into(),
                Known::Database => self.context.config.borrow().console.database.clone().into(),
                Known::Schema => "pgidle".into(),
                Known::Parameter(name) => parameter(name).into(),
                Known::Number(number) => (*number).into(),
                Known::Text(text) => text.as_str().into(),
                Known::Boolean(value) => (*value).into(),
            }
        };
        let row = columns
            .iter()
            .map(|column| column.value.as_ref().map(value));
        row.collect::<Option<Vec<_>>>().into_iter().collect()
    }

    fn must_be_admin(&self, command: &str) -> PgWireResult<()> {
        match self.user.get() {
            Some(user) if user.role == Role::Admin => Ok(()),
            Some(_) | None => {
                tracing::warn!(user = self.name(), client = %self.peer, command, "a command of the console was refused");
                Err(error(
                    "42501",
                    format!("permission denied: {command} needs the role admin"),
                ))
            }
        }
    }

    fn name(&self) -> &str {
        self.user.get().map_or("", |user| &user.name)
    }

    /// Has a session do something, and waits for what has come of it.
    async fn order(&self, id: u64, command: fn(Order) -> Command) -> PgWireResult<&'static str> {
        let gone = || {
            error(
                "42704",
                format!("there is no session {id}; SHOW SESSIONS lists them"),
            )
        };
        let entry = self.context.registry.get(id).ok_or_else(gone)?;
        let (reply, answer) = oneshot::channel();
        let by = self.name().into();
        entry.tell(command(Order { by, reply }));
        match timeout(PATIENCE, answer).await {
            Ok(Ok(Ok(outcome))) => Ok(outcome.name()),
            Ok(Ok(Err(refused))) => Err(error("55000", format!("nothing is done: {refused}"))),
            Ok(Err(_)) => Err(error("55000", "the session has ended meanwhile".to_owned())),
            Err(_) => Err(error(
                "57014",
                format!(
                    "nothing has come of it within {PATIENCE:?}; it goes on, and SHOW INCIDENTS will tell"
                ),
            )),
        }
    }

    fn request(&self, request: Request) -> PgWireResult<()> {
        tracing::info!(user = self.name(), client = %self.peer, command = request.name(), "asked for at the console");
        let sent = self.context.requests.send(request);
        sent.map_err(|_| error("57P01", "pgidle is ending".to_owned()))
    }

    /// What has changed, a row for each.
    async fn reload(&self) -> PgWireResult<Vec<Vec<Value>>> {
        let (reply, answer) = oneshot::channel();
        self.request(Request::Reload(self.name().into(), reply))?;
        let reloaded = answer
            .await
            .unwrap_or_else(|_| Err("pgidle is ending".to_owned()));
        let reloaded = reloaded.map_err(|why| error("F0000", why))?;
        let changed = reloaded.changed.into_iter();
        let changed =
            changed.map(|Change { key, was, is }| [key, was, is].map(Value::from).to_vec());
        let kept = reloaded.needs_restart.into_iter().map(|change| {
            vec![
                change.key.into(),
                Value::Null,
                "a restart is needed for the new value".into(),
            ]
        });
        Ok(changed.chain(kept).collect())
    }
}

/// What pgidle reports of itself as a server.
fn parameter(name: &str) -> Option<&'static str> {
    Some(match name.to_ascii_lowercase().as_str() {
        "server_version" => super::SERVER_VERSION,
        "server_version_num" => "180000",
        "server_encoding" | "client_encoding" => "UTF8",
        "standard_conforming_strings" | "integer_datetimes" => "on",
        "datestyle" => "ISO, MDY",
        "timezone" | "time zone" => "Etc/UTC",
        "search_path" => "pgidle",
        "transaction isolation level"
        | "transaction_isolation"
        | "default_transaction_isolation" => "read committed",
        "transaction_read_only"
        | "default_transaction_read_only"
        | "in_hot_standby"
        | "is_superuser" => "off",
        "max_identifier_length" => "63",
        "intervalstyle" => "postgres",
        _ => return None,
    })
}
