//! What the clauses of a query may not hold, found in its tree: the errors of Postgres for which DataFusion has another
//! one, or none.

mod windows;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Distinct, Expr, Function, GroupByExpr, JoinConstraint, JoinOperator, LimitClause, ObjectName,
    OrderByKind, Query, Select, SetExpr, Spanned, TableFactor, TableWithJoins, Visit, Visitor,
};
use millstream_types::{Error, Result, SqlState};

use super::rewrite::order_by::{is_lifted, is_selected};
use super::rewrite::ordered_sets::{HYPOTHETICAL, plain_args};
use super::rewrite::single_name;
use crate::functions::Registry;
use crate::parser::{folded, is_reserved};
use crate::sql_exprs::{visit, visit_own};

/// Checks every SELECT of a query.
///
/// # Errors
/// 42803 and 42P20 for aggregates and window functions where there can be none, 42712 for a relation's name that occurs
/// twice in FROM, 0A000 for TABLESAMPLE, 42P10 for a column in LIMIT and for an order of distinct rows that is none of their
/// columns, 42P20 and 22013 for window frames, 42601 for rows of unequal length.
pub(super) fn check_clauses(query: &Query) -> Result<()> {
    let mut clauses = Clauses(Ok(()));
    let _ = visit(query, &mut clauses);
    clauses.0
}

/// Checks a condition on a single row, outside of a query.
///
/// # Errors
/// 0A000 for subqueries, 42803 and 42P20 for aggregates and window functions.
pub(crate) fn check_row_condition(condition: &Expr, place: &str) -> Result<()> {
    let is_subquery = |e: &Expr| matches!(e, Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. });
    if let Some(position) = find_own(condition, is_subquery) {
        let error = Error::not_supported(format!("cannot use subquery in {place}"));
        return Err(if position > 0 { error.with_position(position) } else { error });
    }
    without_aggregates(condition, place)?;
    without_windows(condition, place)
}

struct Clauses(Result<()>);

impl Clauses {
    fn flow(&mut self, checked: Result<()>) -> ControlFlow<()> {
        self.0 = checked;
        if self.0.is_err() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Visitor for Clauses {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.flow(check_reads(query).and_then(|()| check_limit(query)).and_then(|()| check_distinct_order(query)))
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.flow(check_select(select))
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.flow(check_name(relation))
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        self.flow(match factor {
            TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } => {
                Err(Error::not_supported("TABLESAMPLE is not supported yet")
                    .with_hint("A condition on a hash of a key picks the same rows every time."))
            }
            _ => Ok(()),
        })
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.flow(match expr {
            Expr::Function(function) => check_call(function, expr),
            Expr::BinaryOp { left, op, right } => check_rows(left, op, right),
            _ => Ok(()),
        })
    }
}

/// The character at which an expression begins, from 1.
fn position_of(expr: &Expr) -> usize {
    expr.span().start.column as usize
}

fn error_at(state: SqlState, message: impl Into<String>, position: usize) -> Error {
    let error = Error::user(state, message);
    if position > 0 { error.with_position(position) } else { error }
}

/// sqlparser takes some reserved words for names.
fn check_name(relation: &ObjectName) -> Result<()> {
    let Some(ident) = relation.0.first().and_then(|part| part.as_ident()) else { return Ok(()) };
    if ident.quote_style.is_some() || !is_reserved(&ident.value.to_ascii_uppercase()) {
        return Ok(());
    }
    let message = format!("syntax error at or near \"{}\"", ident.value);
    Err(error_at(SqlState::SYNTAX_ERROR, message, ident.span.start.column as usize))
}

/// Calls that are computed over several rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CallKind {
    Aggregate,
    Window,
}

fn kind_of(expr: &Expr) -> Option<CallKind> {
    let Expr::Function(function) = expr else { return None };
    if function.over.is_some() {
        return Some(CallKind::Window);
    }
    let is_aggregate = single_name(&function.name).is_some_and(|name| Registry::get().aggregate(&name).is_some());
    (is_aggregate || !function.within_group.is_empty()).then_some(CallKind::Aggregate)
}

/// Where the first call of a kind stands, subqueries apart.
fn find_call(tree: &impl Visit, wanted: CallKind) -> Option<usize> {
    find_own(tree, |expr| kind_of(expr) == Some(wanted))
}

/// Where the first expression stands that is meant, subqueries apart.
fn find_own(tree: &impl Visit, is_meant: impl Fn(&Expr) -> bool) -> Option<usize> {
    let found = visit_own(tree, |expr| match is_meant(expr) {
        true => ControlFlow::Break(position_of(expr)),
        false => ControlFlow::Continue(()),
    });
    found.break_value()
}

/// Refuses aggregates in a clause.
fn without_aggregates(tree: &impl Visit, place: &str) -> Result<()> {
    match find_call(tree, CallKind::Aggregate) {
        None => Ok(()),
        Some(position) => {
            let message = format!("aggregate functions are not allowed in {place}");
            Err(error_at(SqlState::GROUPING_ERROR, message, position))
        }
    }
}

/// Refuses aggregates over nothing but columns of relations that are not in FROM: they are those of a query around.
fn without_outer_aggregates(filter: &Expr, from: &[TableWithJoins]) -> Result<()> {
    let mut names = Vec::new();
    from.iter().for_each(|table| names_of(table, &mut names));
    let is_outer = |expr: &Expr| {
        let (mut n_columns, mut n_outer) = (0, 0);
        let _ = visit_own(expr, |expr| {
            n_columns += usize::from(matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)));
            if let Expr::CompoundIdentifier(parts) = expr
                && names.iter().all(|known| known.name != folded(&parts[parts.len() - 2]))
            {
                n_outer += 1;
            }
            ControlFlow::<()>::Continue(())
        });
        n_outer > 0 && n_outer == n_columns
    };
    match find_own(filter, |expr| kind_of(expr) == Some(CallKind::Aggregate) && is_outer(expr)) {
        None => Ok(()),
        Some(position) => {
            let message = "aggregates of an outer query are not supported within its subqueries yet";
            let refused =
                Error::not_supported(message).with_hint("A subquery in FROM can compute the aggregate first.");
            Err(if position > 0 { refused.with_position(position) } else { refused })
        }
    }
}

/// Refuses window functions in a clause.
fn without_windows(tree: &impl Visit, place: &str) -> Result<()> {
    match find_call(tree, CallKind::Window) {
        None => Ok(()),
        Some(position) => {
            let message = format!("window functions are not allowed in {place}");
            Err(error_at(SqlState::WINDOWING_ERROR, message, position))
        }
    }
}

fn check_select(select: &Select) -> Result<()> {
    check_from(&select.from)?;
    if let Some(filter) = &select.selection {
        without_outer_aggregates(filter, &select.from)?;
        without_aggregates(filter, "WHERE")?;
        without_windows(filter, "WHERE")?;
    }
    if let GroupByExpr::Expressions(exprs, _) = &select.group_by {
        without_aggregates(exprs, "GROUP BY")?;
        without_windows(exprs, "GROUP BY")?;
    }
    if let Some(having) = &select.having {
        without_windows(having, "HAVING")?;
    }
    for table in &select.from {
        for join in &table.joins {
            if let Some(JoinConstraint::On(condition)) = constraint_of(&join.join_operator) {
                without_aggregates(condition, "JOIN conditions")?;
                without_windows(condition, "JOIN conditions")?;
            }
        }
    }
    windows::check_windows(select)
}

fn constraint_of(operator: &JoinOperator) -> Option<&JoinConstraint> {
    match operator {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c)
        | JoinOperator::FullOuter(c) => Some(c),
        _ => None,
    }
}

/// A relation of FROM: the name by which columns are qualified, and its full name if that is where it comes from.
struct FromName {
    name: String,
    full: Option<String>,
    position: usize,
}

/// Every name may stand for one relation only; relations of several schemas may share theirs.
fn check_from(from: &[TableWithJoins]) -> Result<()> {
    let mut names: Vec<FromName> = Vec::new();
    for table in from {
        names_of(table, &mut names);
    }
    for (i, later) in names.iter().enumerate() {
        let is_same = |earlier: &&FromName| {
            let differ = earlier.full.is_some() && later.full.is_some() && earlier.full != later.full;
            earlier.name == later.name && !differ
        };
        if names[..i].iter().find(is_same).is_some() {
            let message = format!("table name \"{}\" specified more than once", later.name);
            return Err(error_at(SqlState::DUPLICATE_ALIAS, message, later.position));
        }
    }
    Ok(())
}

fn names_of(table: &TableWithJoins, out: &mut Vec<FromName>) {
    for factor in std::iter::once(&table.relation).chain(table.joins.iter().map(|j| &j.relation)) {
        let alias = match factor {
            TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::Function { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => alias.as_ref(),
            _ => None,
        };
        match (alias, factor) {
            (Some(alias), _) => {
                let position = alias.name.span.start.column as usize;
                out.push(FromName { name: folded(&alias.name), full: None, position });
            }
            (None, TableFactor::Table { name, args: None, .. }) => {
                let parts: Vec<_> = name.0.iter().filter_map(|p| p.as_ident()).collect();
                let Some(last) = parts.last() else { continue };
                let full = parts.iter().map(|p| folded(p)).collect::<Vec<_>>().join(".");
                let position = parts[0].span.start.column as usize;
                out.push(FromName { name: folded(last), full: Some(full), position });
            }
            (None, TableFactor::NestedJoin { table_with_joins, .. }) => names_of(table_with_joins, out),
            _ => {}
        }
    }
}

/// Aggregates and window functions in the arguments of others.
fn check_call(function: &Function, expr: &Expr) -> Result<()> {
    let Some(kind) = kind_of(expr) else { return Ok(()) };
    let within = |wanted: CallKind| {
        find_call(&function.args, wanted)
            .or_else(|| function.filter.as_ref().and_then(|f| find_call(f.as_ref(), wanted)))
            .or_else(|| find_call(&function.within_group, wanted))
    };
    match kind {
        CallKind::Window => match within(CallKind::Window) {
            Some(position) => {
                Err(error_at(SqlState::WINDOWING_ERROR, "window function calls cannot be nested", position))
            }
            None => Ok(()),
        },
        CallKind::Aggregate => {
            check_hypothetical(function, expr)?;
            if let Some(position) = within(CallKind::Aggregate) {
                let message = "aggregate function calls cannot be nested";
                return Err(error_at(SqlState::GROUPING_ERROR, message, position));
            }
            if let Some(position) = within(CallKind::Window) {
                let message = "aggregate function calls cannot contain window function calls";
                return Err(error_at(SqlState::GROUPING_ERROR, message, position));
            }
            Ok(())
        }
    }
}

/// A hypothetical row has a value for each key of the order.
fn check_hypothetical(function: &Function, expr: &Expr) -> Result<()> {
    let n_keys = function.within_group.len();
    let name = single_name(&function.name).unwrap_or_default();
    let n_values = plain_args(function).map_or(0, |args| args.len());
    if n_keys == 0 || n_keys == n_values || !HYPOTHETICAL.contains(&name.as_str()) {
        return Ok(());
    }
    let message = format!("function {name} does not exist for {n_values} arguments and an order of {n_keys} columns");
    Err(error_at(SqlState::UNDEFINED_FUNCTION, message, position_of(expr)).with_hint(format!(
        "To use the hypothetical-set aggregate {name}, the number of hypothetical direct arguments (here {n_values}) must \
         match the number of ordering columns (here {n_keys})."
    )))
}

/// Rows are compared column by column.
fn check_rows(left: &Expr, op: &BinaryOperator, right: &Expr) -> Result<()> {
    let (Expr::Tuple(l), Expr::Tuple(r)) = (left, right) else { return Ok(()) };
    let is_comparison = matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    );
    if is_comparison && l.len() != r.len() {
        let message = "unequal number of entries in row expressions";
        return Err(error_at(SqlState::SYNTAX_ERROR, message, position_of(left)));
    }
    Ok(())
}

/// Statements that write are none of the parts of a query.
fn check_reads(query: &Query) -> Result<()> {
    match query.body.as_ref() {
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
            Err(Error::not_supported("INSERT, UPDATE and DELETE within WITH are not supported yet"))
        }
        _ => Ok(()),
    }
}

/// The order of distinct rows is one of their columns. Where it is not lifted, DataFusion says so.
fn check_distinct_order(query: &Query) -> Result<()> {
    let (SetExpr::Select(select), Some(OrderByKind::Expressions(order))) =
        (query.body.as_ref(), query.order_by.as_ref().map(|o| &o.kind))
    else {
        return Ok(());
    };
    if !matches!(select.distinct, Some(Distinct::Distinct)) || !is_lifted(query) {
        return Ok(());
    }
    match order.iter().find(|o| !is_selected(&o.expr, select)) {
        None => Ok(()),
        Some(other) => {
            let message = "for SELECT DISTINCT, ORDER BY expressions must appear in select list";
            Err(error_at(SqlState::INVALID_COLUMN_REFERENCE, message, position_of(&other.expr)))
        }
    }
}

/// LIMIT and OFFSET are the same for all rows.
fn check_limit(query: &Query) -> Result<()> {
    let Some(LimitClause::LimitOffset { limit, offset, .. }) = &query.limit_clause else { return Ok(()) };
    for (expr, what) in [(limit.as_ref(), "LIMIT"), (offset.as_ref().map(|o| &o.value), "OFFSET")] {
        let Some(expr) = expr else { continue };
        let is_column = |e: &Expr| matches!(e, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
        if let Some(position) = find_own(expr, is_column) {
            let message = format!("argument of {what} must not contain variables");
            return Err(error_at(SqlState::INVALID_COLUMN_REFERENCE, message, position));
        }
        without_aggregates(expr, what)?;
        without_windows(expr, what)?;
    }
    Ok(())
}
