//! What a client of the model can do, and the statements that it can send.

/// What a client does next; whatever the protocol does not allow at that moment is not done.
#[derive(Clone, Debug)]
pub(in crate::session::tests) enum Act {
    /// A simple Query of these statements.
    Query(Vec<Statement>),
    /// A simple Query too large to be held back.
    LargeQuery,
    /// Parse, Bind, Describe perhaps, Execute.
    Batch(Statement, bool, End),
    /// Parse, Bind and Execute in two batches: the Bind in the second, or in the first.
    Dialect(Statement, bool),
    /// Prepares one of the named statements.
    Prepare(usize),
    /// Runs one of the named statements.
    Run(usize, End),
    Sync,
    Flush,
    Call,
    /// COPY FROM STDIN: by Execute or not, and how the data goes.
    Copy(bool, Eager),
    Data(usize),
    CopyDone,
    CopyFail,
}

/// What follows a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session::tests) enum End {
    Nothing,
    Flush,
    Sync,
}

/// What is sent before the server has asked for COPY data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::session::tests) enum Eager {
    Nothing,
    Sync,
    Everything,
}

/// A statement without its token.
pub(in crate::session::tests) type Statement = &'static str;

/// The named statements.
pub(in crate::session::tests) const NAMED: [Statement; 5] =
    ["COMMIT", "ROLLBACK", "BEGIN", "SELECT 1", "SAVEPOINT a"];
