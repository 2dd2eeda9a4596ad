//! The proof that statements only read: every node of PostgreSQL's syntax tree is allowed by its kind, every function,
//! operator and type by its name, and everything else is refused with a reason.
//!
//! It speaks of texts alone. What a name stands for on a server, what a view or a policy does, and which locks are held
//! has to be asked there; [`Names`] is what to ask about. What a claim may cost is bounded: by the bounds of
//! `grammar` for each text, by [`MAX_CLAIMED`], and by the depth to which `prost` decodes trees (100 levels). Whatever is
//! larger is refused.

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, sync::Arc};

use pg_query::{
    NodeEnum,
    protobuf::{
        AExpr, AExprKind, ColumnRef, DefElem, FuncCall, Node, SelectStmt, SqlValueFunctionOp,
        SubLinkType, TransactionStmt, TransactionStmtKind, TypeName, WindowDef, a_const,
    },
};

use super::{
    claim::{Claim, Names, Proof, Unproven},
    grammar,
    harmless::is_harmless,
};

/// Bytes that are read for one claim; whoever comes next waits for that, for a quarter of a second at most.
const MAX_CLAIMED: usize = 256 << 10;

/// Tries to prove a claim.
pub fn prove(claim: &Claim) -> Proof {
    match claim {
        Claim::Transaction { texts, begins } => {
            Proof::Transaction(read_only(texts.iter().map(|text| &**text), *begins))
        }
        Claim::Each(texts) => {
            let mut bytes = 0;
            let reads = |text: &Arc<str>| {
                bytes += text.len();
                bytes <= MAX_CLAIMED && read_only([&**text], false).is_ok()
            };
            Proof::Each(texts.iter().map(reads).collect())
        }
    }
}

/// Proves that the statements of a transaction only read; `begins` tells that they include its BEGIN.
///
/// # Errors
/// Why they are not proven to.
fn read_only<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    begins: bool,
) -> Result<Names, Unproven> {
    let mut reading = Reading {
        names: Names::default(),
        begins,
        reads: !begins,
    };
    let mut seen = BTreeSet::new();
    for text in texts {
        if seen.insert(text) || reading.begins {
            reading.text(text).map_err(Unproven::MayDoMore)?;
        }
    }
    if reading.begins {
        return refuse("its BEGIN was not seen").map_err(Unproven::MayDoMore);
    }
    if !reading.reads {
        return Err(Unproven::NothingRead);
    }
    Ok(reading.names)
}

type Checked = Result<(), String>;

fn refuse<T>(why: &str) -> Result<T, String> {
    Err(why.to_owned())
}

struct Reading {
    names: Names,
    /// Whether BEGIN is still to come.
    begins: bool,
    /// Whether there was a query.
    reads: bool,
}

impl Reading {
    fn text(&mut self, text: &str) -> Checked {
        // What a backslash means depends on standard_conforming_strings at the moment when the server read the text.
        if text.contains('\\') {
            return refuse("a backslash");
        }
        let Some(tree) = grammar::parse(text) else {
            return refuse(
                "a statement that the grammar does not take, or that is too large or nested too deep",
            );
        };
        for statement in &tree.protobuf.stmts {
            match statement
                .stmt
                .as_deref()
                .and_then(|node| node.node.as_ref())
            {
                Some(NodeEnum::TransactionStmt(begin)) if self.begins => {
                    transaction_begins(begin)?;
                    self.begins = false;
                }
                Some(_) if self.begins => return refuse("its BEGIN was not seen"),
                Some(NodeEnum::SelectStmt(select)) => {
                    self.select(select)?;
                    self.reads = true;
                }
                Some(NodeEnum::VariableShowStmt(_)) => {}
                _ => return refuse("a statement other than SELECT, VALUES, TABLE and SHOW"),
            }
        }
        Ok(())
    }

    fn select(&mut self, select: &SelectStmt) -> Checked {
        if select.into_clause.is_some() {
            return refuse("SELECT INTO");
        }
        if !select.locking_clause.is_empty() {
            return refuse("a locking clause");
        }
        if let Some(with) = &select.with_clause {
            for cte in &with.ctes {
                self.common_table(cte)?;
            }
        }
        // DISTINCT without ON is a list of one null pointer.
        let distinct = select
            .distinct_clause
            .iter()
            .filter(|node| node.node.is_some());
        let lists = [
            &select.target_list,
            &select.from_clause,
            &select.group_clause,
            &select.window_clause,
            &select.values_lists,
            &select.sort_clause,
        ];
        for node in distinct.chain(lists.into_iter().flatten()) {
            self.node(node)?;
        }
        let parts = [
            &select.where_clause,
            &select.having_clause,
            &select.limit_offset,
            &select.limit_count,
        ];
        for part in parts {
            self.optional(part.as_deref())?;
        }
        for side in [&select.larg, &select.rarg].into_iter().flatten() {
            self.select(side)?;
        }
        Ok(())
    }

    fn common_table(&mut self, node: &Node) -> Checked {
        let Some(NodeEnum::CommonTableExpr(cte)) = &node.node else {
            return refuse(UNKNOWN);
        };
        if cte.search_clause.is_some() || cte.cycle_clause.is_some() {
            return refuse("SEARCH or CYCLE");
        }
        let query = cte.ctequery.as_deref().and_then(|node| node.node.as_ref());
        let Some(NodeEnum::SelectStmt(select)) = query else {
            return refuse("a statement in WITH that is not SELECT");
        };
        self.select(select)
    }

    fn optional(&mut self, node: Option<&Node>) -> Checked {
        node.map_or(Ok(()), |node| self.node(node))
    }

    fn nodes(&mut self, nodes: &[Node]) -> Checked {
        nodes.iter().try_for_each(|node| self.node(node))
    }

    /// Everything that may stand inside of a SELECT.
    fn node(&mut self, node: &Node) -> Checked {
        match &node.node {
            Some(NodeEnum::AConst(_) | NodeEnum::ParamRef(_) | NodeEnum::AStar(_)) => Ok(()),
            Some(NodeEnum::RangeVar(relation)) => {
                self.names.missing_values |= relation.relname == "pg_attribute";
                Ok(())
            }
            Some(NodeEnum::SelectStmt(select)) => self.select(select),
            Some(NodeEnum::ResTarget(target)) if target.indirection.is_empty() => {
                self.optional(target.val.as_deref())
            }
            Some(NodeEnum::List(list)) => self.nodes(&list.items),
            Some(NodeEnum::ColumnRef(column)) => self.column(column),
            Some(NodeEnum::AExpr(expression)) => self.operation(expression),
            Some(NodeEnum::FuncCall(call)) => self.call(call),
            Some(NodeEnum::TypeCast(cast)) => {
                self.optional(cast.arg.as_deref())?;
                cast.type_name
                    .as_ref()
                    .map_or_else(|| refuse(UNKNOWN), |name| self.type_name(name))
            }
            Some(NodeEnum::BoolExpr(expression)) => self.nodes(&expression.args),
            Some(NodeEnum::CoalesceExpr(expression)) => self.nodes(&expression.args),
            Some(NodeEnum::MinMaxExpr(expression)) => self.nodes(&expression.args),
            Some(NodeEnum::RowExpr(row)) => self.nodes(&row.args),
            Some(NodeEnum::AArrayExpr(array)) => self.nodes(&array.elements),
            Some(NodeEnum::GroupingSet(set)) => self.nodes(&set.content),
            Some(NodeEnum::GroupingFunc(call)) => self.nodes(&call.args),
            Some(NodeEnum::NullTest(test)) => self.optional(test.arg.as_deref()),
            Some(NodeEnum::BooleanTest(test)) => self.optional(test.arg.as_deref()),
            Some(NodeEnum::NamedArgExpr(argument)) => self.optional(argument.arg.as_deref()),
            Some(NodeEnum::CollateClause(collate)) => self.optional(collate.arg.as_deref()),
            Some(NodeEnum::AIndices(indices)) => {
                self.optional(indices.lidx.as_deref())?;
                self.optional(indices.uidx.as_deref())
            }
            Some(NodeEnum::WindowDef(window)) => self.window(window),
            _ => self.compound(node),
        }
    }

    /// The rest of [`node`](Self::node): what stands for more than its parts.
    fn compound(&mut self, node: &Node) -> Checked {
        match &node.node {
            Some(NodeEnum::AIndirection(indirection)) => {
                self.optional(indirection.arg.as_deref())?;
                let subscripts = &indirection.indirection;
                if subscripts
                    .iter()
                    .any(|node| !matches!(node.node, Some(NodeEnum::AIndices(_))))
                {
                    // `(x).f` may stand for `f(x)`, with anything for `x`.
                    return refuse("a field of an expression");
                }
                self.nodes(subscripts)
            }
            Some(NodeEnum::CaseExpr(case)) => {
                if case.arg.is_some() {
                    self.implied(&["="])?;
                }
                self.optional(case.arg.as_deref())?;
                self.nodes(&case.args)?;
                self.optional(case.defresult.as_deref())
            }
            Some(NodeEnum::CaseWhen(when)) => {
                self.optional(when.expr.as_deref())?;
                self.optional(when.result.as_deref())
            }
            Some(NodeEnum::SortBy(sort)) => {
                if !sort.use_op.is_empty() {
                    self.operator(&sort.use_op)?;
                }
                self.optional(sort.node.as_deref())
            }
            Some(NodeEnum::SubLink(link)) => {
                if !link.oper_name.is_empty() {
                    self.operator(&link.oper_name)?;
                } else if link.sub_link_type() == SubLinkType::AnySublink {
                    self.implied(&["="])?;
                }
                self.optional(link.testexpr.as_deref())?;
                self.optional(link.subselect.as_deref())
            }
            Some(NodeEnum::JoinExpr(join)) => {
                if join.is_natural || !join.using_clause.is_empty() {
                    self.implied(&["="])?;
                }
                self.optional(join.larg.as_deref())?;
                self.optional(join.rarg.as_deref())?;
                self.optional(join.quals.as_deref())
            }
            Some(NodeEnum::RangeSubselect(range)) => self.optional(range.subquery.as_deref()),
            Some(NodeEnum::RangeFunction(range)) => {
                self.functions(&range.functions, &range.coldeflist)
            }
            Some(NodeEnum::SqlvalueFunction(value)) => value_function(value.op()),
            _ => refuse(UNKNOWN),
        }
    }

    /// Functions in FROM: pairs of a call and the columns that it is said to have.
    fn functions(&mut self, functions: &[Node], columns: &[Node]) -> Checked {
        if !columns.is_empty() {
            return refuse("a function with a list of column types");
        }
        for pair in functions {
            let Some(NodeEnum::List(pair)) = &pair.node else {
                return refuse(UNKNOWN);
            };
            match pair.items.as_slice() {
                [call] => self.node(call)?,
                [call, Node { node: None }] => self.node(call)?,
                _ => return refuse("a function with a list of column types"),
            }
        }
        Ok(())
    }

    fn operation(&mut self, expression: &AExpr) -> Checked {
        match expression.kind() {
            AExprKind::AexprBetween
            | AExprKind::AexprNotBetween
            | AExprKind::AexprBetweenSym
            | AExprKind::AexprNotBetweenSym => self.implied(&["<", "<=", ">", ">="])?,
            AExprKind::AexprOp
            | AExprKind::AexprOpAny
            | AExprKind::AexprOpAll
            | AExprKind::AexprDistinct
            | AExprKind::AexprNotDistinct
            | AExprKind::AexprNullif
            | AExprKind::AexprIn
            | AExprKind::AexprLike
            | AExprKind::AexprIlike
            | AExprKind::AexprSimilar => self.operator(&expression.name)?,
            AExprKind::Undefined => return refuse(UNKNOWN),
        }
        self.optional(expression.lexpr.as_deref())?;
        self.optional(expression.rexpr.as_deref())
    }

    fn call(&mut self, call: &FuncCall) -> Checked {
        let name = system_name(&call.funcname)?;
        harmless("function", name)?;
        self.names.functions.insert(name.to_owned());
        self.nodes(&call.args)?;
        self.nodes(&call.agg_order)?;
        self.optional(call.agg_filter.as_deref())?;
        call.over
            .as_deref()
            .map_or(Ok(()), |window| self.window(window))
    }

    fn window(&mut self, window: &WindowDef) -> Checked {
        self.nodes(&window.partition_clause)?;
        self.nodes(&window.order_clause)?;
        self.optional(window.start_offset.as_deref())?;
        self.optional(window.end_offset.as_deref())
    }

    fn operator(&mut self, name: &[Node]) -> Checked {
        let name = system_name(name)?;
        harmless("operator", name)?;
        self.names.operators.insert(name.to_owned());
        Ok(())
    }

    /// Operators that the grammar stands for, looked up like others.
    fn implied(&mut self, operators: &[&str]) -> Checked {
        for name in operators {
            harmless("operator", name)?;
            self.names.operators.insert((*name).to_owned());
        }
        Ok(())
    }

    fn type_name(&mut self, name: &TypeName) -> Checked {
        if name.setof || name.pct_type {
            return refuse(UNKNOWN);
        }
        let type_name = system_name(&name.names)?;
        harmless("type", type_name)?;
        self.names.types.insert(type_name.to_owned());
        self.nodes(&name.typmods)
    }

    fn column(&mut self, column: &ColumnRef) -> Checked {
        let Some(last) = column.fields.last() else {
            return refuse(UNKNOWN);
        };
        match &last.node {
            Some(NodeEnum::AStar(_)) => Ok(()),
            Some(NodeEnum::String(field)) if PLACES_AND_VERSIONS.contains(&field.sval.as_str()) => {
                refuse(&field.sval)
            }
            Some(_) if column.fields.len() == 1 => Ok(()),
            Some(NodeEnum::String(field)) if is_plain(&field.sval) => {
                self.names.fields.insert(field.sval.clone());
                Ok(())
            }
            _ => refuse("a column whose name has unusual characters"),
        }
    }
}

/// CURRENT_DATE and its like.
fn value_function(function: SqlValueFunctionOp) -> Checked {
    match function {
        // It makes the schema for temporary tables when search_path begins with pg_temp.
        SqlValueFunctionOp::SvfopCurrentSchema => refuse("current_schema"),
        SqlValueFunctionOp::SqlvalueFunctionOpUndefined => refuse(UNKNOWN),
        SqlValueFunctionOp::SvfopCurrentDate
        | SqlValueFunctionOp::SvfopCurrentTime
        | SqlValueFunctionOp::SvfopCurrentTimeN
        | SqlValueFunctionOp::SvfopCurrentTimestamp
        | SqlValueFunctionOp::SvfopCurrentTimestampN
        | SqlValueFunctionOp::SvfopLocaltime
        | SqlValueFunctionOp::SvfopLocaltimeN
        | SqlValueFunctionOp::SvfopLocaltimestamp
        | SqlValueFunctionOp::SvfopLocaltimestampN
        | SqlValueFunctionOp::SvfopCurrentRole
        | SqlValueFunctionOp::SvfopCurrentUser
        | SqlValueFunctionOp::SvfopUser
        | SqlValueFunctionOp::SvfopSessionUser
        | SqlValueFunctionOp::SvfopCurrentCatalog => Ok(()),
    }
}

/// BEGIN, with no isolation level but READ COMMITTED.
fn transaction_begins(statement: &TransactionStmt) -> Checked {
    let (TransactionStmtKind::TransStmtBegin | TransactionStmtKind::TransStmtStart) =
        statement.kind()
    else {
        return refuse("its BEGIN was not seen");
    };
    for option in &statement.options {
        let Some(NodeEnum::DefElem(option)) = &option.node else {
            return refuse(UNKNOWN);
        };
        let known = match option.defname.as_str() {
            "transaction_isolation" => isolation(option) == Some("read committed"),
            "transaction_read_only" | "transaction_deferrable" => true,
            _ => false,
        };
        if !known {
            return refuse("an isolation level other than READ COMMITTED");
        }
    }
    Ok(())
}

fn isolation(option: &DefElem) -> Option<&str> {
    let Some(NodeEnum::AConst(value)) = &option.arg.as_deref()?.node else {
        return None;
    };
    match &value.val {
        Some(a_const::Val::Sval(level)) => Some(&level.sval),
        _ => None,
    }
}

/// A name that is in no schema or in `pg_catalog`.
fn system_name(name: &[Node]) -> Result<&str, String> {
    let parts: Option<Vec<&str>> = name
        .iter()
        .map(|part| match &part.node {
            Some(NodeEnum::String(part)) => Some(part.sval.as_str()),
            _ => None,
        })
        .collect();
    match parts.as_deref() {
        Some(&[name] | &["pg_catalog", name]) => Ok(name),
        Some(parts) => Err(parts.join(".")),
        None => refuse(UNKNOWN),
    }
}

fn harmless(kind: &str, name: &str) -> Checked {
    // Sleeping is volatile, and changes nothing.
    if (kind, name) == ("function", "pg_sleep") || is_harmless(kind, name) {
        Ok(())
    } else {
        refuse(name)
    }
}

/// Whether a name can be sent on without quotes of any kind.
fn is_plain(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// The columns that every table has and that name a place in its file or a version of a row: a table that is rewritten
/// between two transactions has other rows there (<https://www.postgresql.org/docs/current/ddl-system-columns.html>).
/// The last one there, `tableoid`, names a table and stays.
const PLACES_AND_VERSIONS: [&str; 5] = ["ctid", "xmin", "xmax", "cmin", "cmax"];

/// The reason where there is no better one.
const UNKNOWN: &str = "an expression that is not known to be harmless";
