//! What is claimed of statements, and what comes of the attempt to prove it.
//!
//! The side that claims needs no grammar of PostgreSQL's; the side that proves ([`prove`](super::prove)) knows no session.

use std::{collections::BTreeSet, sync::Arc};

/// What is to be proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A transaction that consists of these texts only reads.
    Transaction {
        /// Everything that ran in it, in order.
        texts: Vec<Arc<str>>,
        /// Whether its BEGIN is among them.
        begins: bool,
    },
    /// Each of these texts only reads.
    Each(Vec<Arc<str>>),
}

/// What has come of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Of a transaction: what it uses, or why it may do more than to read.
    Transaction(Result<Names, Unproven>),
    /// Of texts: for each whether it only reads, in the order of the claim.
    Each(Vec<bool>),
    /// Nothing: there was no time for it, or the attempt failed.
    Missing,
}

/// The names that statements use, without a schema or as PostgreSQL's own: none of them may stand for something that a
/// user has made, who may have made it in `pg_catalog`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// What is called like a function; a type of that name could be meant as well.
    pub functions: BTreeSet<String>,
    /// Operators, those included that the grammar stands for (`=` in `IN`).
    pub operators: BTreeSet<String>,
    /// Types.
    pub types: BTreeSet<String>,
    /// Last fields of column references: `x.f` may stand for `f(x)`.
    pub fields: BTreeSet<String>,
    /// Whether `pg_attribute` is read, which has a column of values of any type (`attmissingval`).
    pub missing_values: bool,
}

/// Why statements are not proven to only read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// One of them may do more, or is not known to do less: why, in a few words, or the name of the function.
    MayDoMore(String),
    /// None of them has read yet: SET TRANSACTION is allowed until a transaction's first query, and no longer after a
    /// query that asks about it.
    NothingRead,
}
