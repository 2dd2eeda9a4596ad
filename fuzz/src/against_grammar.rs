//! Our lexer beside PostgreSQL's own grammar: what a text does to the transaction.

use pg_query::{NodeEnum, protobuf::TransactionStmtKind as Kind};
use pgidle::sql::{self, Claim, Control, Identifier, Identifiers, Lexing, Outline, outline};

/// The lexer agrees with the grammar, wherever that takes the text.
pub fn statement(data: &[u8]) {
    let text = data.split(|&byte| byte == 0).next().unwrap_or_default();
    for standard_conforming_strings in [true, false] {
        for client_only_encoding in [true, false] {
            let lexing = Lexing {
                standard_conforming_strings,
                client_only_encoding,
            };
            outline(text, true, lexing).control();
            outline(text, false, lexing).control();
        }
    }
    sql::commits(&String::from_utf8_lossy(text));
    sql::sends_as_it_runs(&String::from_utf8_lossy(text));
    if let Ok(text) = str::from_utf8(text)
        && let Err(complaint) = agrees(text)
    {
        panic!("{complaint}");
    }
}

/// What calls the grammar neither panics nor takes an unbounded stack, and shows a text without literals twice alike.
pub fn grammar(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    sql::normalise(&text, Identifiers::Hidden);
    sql::normalise(&text, Identifiers::Shown);
    sql::fingerprint(&text);
    sql::prove(&Claim::Transaction {
        texts: vec![text.as_ref().into()],
        begins: false,
    });
}

/// What one statement does, and the savepoint that it names.
type Statement = (Control, Option<Vec<u8>>);

/// What PostgreSQL's own grammar says; `None` when it refuses the text.
pub(crate) fn by_grammar(text: &str) -> Option<Vec<Statement>> {
    let tree = pg_query::parse(text, 0).ok()?.protobuf;
    let nodes = tree
        .stmts
        .into_iter()
        .map(|raw| raw.stmt.and_then(|s| s.node));
    Some(nodes.map(|node| by_node(node.as_ref())).collect())
}

fn by_node(node: Option<&NodeEnum>) -> Statement {
    let Some(NodeEnum::TransactionStmt(statement)) = node else {
        return (Control::Other, None);
    };
    let control = match (statement.kind(), statement.chain) {
        (Kind::TransStmtBegin | Kind::TransStmtStart, _) => Control::Begin,
        (Kind::TransStmtCommit, false) => Control::Commit,
        (Kind::TransStmtCommit, true) => Control::CommitAndChain,
        (Kind::TransStmtRollback, false) => Control::Rollback,
        (Kind::TransStmtRollback, true) => Control::RollbackAndChain,
        (Kind::TransStmtSavepoint, _) => Control::Savepoint,
        (Kind::TransStmtRelease, _) => Control::Release,
        (Kind::TransStmtRollbackTo, _) => Control::RollbackTo,
        (Kind::TransStmtPrepare, _) => Control::PrepareTransaction,
        (Kind::TransStmtCommitPrepared | Kind::TransStmtRollbackPrepared | Kind::Undefined, _) => {
            Control::Other
        }
    };
    let name = statement.savepoint_name.as_bytes();
    (control, (!name.is_empty()).then(|| name.to_owned()))
}

/// Whether a failed transaction lets a statement through that the grammar has named.
fn ends_a_block((control, _): &Statement) -> bool {
    control.ends_block() || *control == Control::RollbackTo
}

/// Agrees with the grammar wherever that takes the text.
pub(crate) fn agrees(text: &str) -> Result<(), String> {
    let ours = outline(text.as_bytes(), true, Lexing::default());
    let theirs = by_grammar(text);
    let complaint = || Err(format!("{text:?}: {ours:?}, by the grammar {theirs:?}"));
    let control = ours.control();
    let Some(theirs) = &theirs else {
        return match control {
            Control::Other
            | Control::Doubtful
            | Control::RollbackThen
            | Control::BeginThen
            | Control::Savepoint
            | Control::Release
            | Control::RollbackTo => Ok(()),
            Control::Begin
            | Control::Commit
            | Control::CommitAndChain
            | Control::PrepareTransaction
            | Control::Rollback
            | Control::RollbackAndChain => complaint(),
        };
    };
    if control == Control::Other && theirs.first().is_some_and(ends_a_block) {
        return complaint();
    }
    let count = ours.count();
    if count.is_some_and(|count| count != theirs.len()) {
        return complaint();
    }
    for (index, expected) in theirs.iter().enumerate() {
        if !same(text, &ours, index, expected) {
            return complaint();
        }
    }
    Ok(())
}

fn same(text: &str, ours: &Outline, index: usize, (control, savepoint): &Statement) -> bool {
    let (our_control, name) = ours.statement(index);
    if our_control == Control::Other && ours.count().is_none() {
        // Not all of a long list is followed.
        return true;
    }
    let our_control = if our_control == Control::Doubtful {
        Control::Other
    } else {
        our_control
    };
    let name = name.map(Identifier::as_bytes);
    // A name with Unicode escapes, or beyond ASCII, is not known to us; nor is one in a list of one.
    let may_be_unknown = text.contains('&') || !text.is_ascii();
    our_control == *control && (name == savepoint.as_deref() || name.is_none() && may_be_unknown)
}
