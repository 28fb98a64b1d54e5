//! What a view may not hold, and where in the text an error belongs.

use std::ops::ControlFlow;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::sql::sqlparser::ast::{Expr as SqlExpr, ObjectName, Query, TableFactor, Visitor};
use millstream_types::{Error, Result, SqlState};

use super::context::external;
use super::positions;
use crate::errors::from_datafusion;
use crate::functions::moments;
use crate::parser::{folded, planned_error};
use crate::sql_exprs::visit;

/// Refuses a view's plan whose contents would change without a change of its inputs.
///
/// # Errors
/// 0A000 with a hint.
pub(super) fn check_view(plan: &LogicalPlan) -> Result<()> {
    plan.apply_with_subqueries(|node| {
        if matches!(node, LogicalPlan::RecursiveQuery(_)) {
            return Err(external(planned_error("WITH RECURSIVE in a view")));
        }
        node.apply_expressions(|expr| {
            expr.apply(|expr| {
                check_expr(expr).map_err(external)?;
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })
    .map_err(from_datafusion)?;
    Ok(())
}

const PRESENT_HINT: &str = "now() in views is planned; until then, store the time in a column, or filter when reading";

fn of_present() -> Error {
    Error::not_supported("the current time cannot be used in a view yet")
}

fn check_expr(expr: &Expr) -> Result<()> {
    let Expr::ScalarFunction(function) = expr else { return Ok(()) };
    let name = function.func.name();
    if let Some(text) = moments::text_of(function) {
        return Err(of_present().with_detail(format!("the view has the constant '{text}'")).with_hint(PRESENT_HINT));
    }
    if matches!(name, "now" | "current_date" | "current_time") {
        return Err(of_present().with_detail(format!("the view calls {name}()")).with_hint(PRESENT_HINT));
    }
    if function.func.signature().volatility == Volatility::Volatile {
        return Err(Error::not_supported(format!("volatile function {name}() cannot be used in a view"))
            .with_detail("its value would change while the view's inputs do not")
            .with_hint("compute the value when the row is inserted, and store it in a column"));
    }
    Ok(())
}

/// Refuses an optimized plan with a subquery that no rule could turn into a join.
///
/// # Errors
/// 0A000 with a hint.
pub(super) fn check_decorrelated(plan: &LogicalPlan) -> Result<()> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            found |= expr.exists(|e| {
                Ok(matches!(
                    e,
                    Expr::OuterReferenceColumn(..) | Expr::Exists(_) | Expr::InSubquery(_) | Expr::SetComparison(_)
                ))
            })?;
            Ok(TreeNodeRecursion::Continue)
        })
    })
    .map_err(from_datafusion)?;
    if !found {
        return Ok(());
    }
    Err(Error::not_supported("this subquery cannot be turned into a join yet")
        .with_detail("it stands, or refers to the outer query, where that is not supported")
        .with_hint("write it as a join, or as a column of a subquery in FROM"))
}

/// The error, pointing at the relation or function that it names, if it points nowhere yet.
pub(crate) fn located(error: Error, query: &Query) -> Error {
    let error = of_whole_row(error, query);
    if error.fields().position.is_some() {
        return error;
    }
    if let Some(position) = positions::position_in(&error, query) {
        return error.with_position(position);
    }
    let wanted = match error.state() {
        SqlState::UNDEFINED_TABLE => {
            error.message().strip_prefix("relation \"").and_then(|m| m.split_once('"')).map(|(name, _)| name)
        }
        SqlState::UNDEFINED_FUNCTION => {
            error.message().strip_prefix("function ").and_then(|m| m.split_once('(')).map(|(name, _)| name)
        }
        _ => None,
    };
    let Some(wanted) = wanted else { return error };
    let is_relation = error.state() == SqlState::UNDEFINED_TABLE;
    let mut finder = Finder { wanted: wanted.to_string(), is_relation, found: None };
    let _ = visit(query, &mut finder);
    match finder.found {
        Some(position) => error.with_position(position),
        None => error,
    }
}

/// A name that is no column may be a relation's: in Postgres that is the whole row.
fn of_whole_row(error: Error, query: &Query) -> Error {
    let name = match error.state() {
        SqlState::UNDEFINED_COLUMN => error.message().strip_prefix("column \"").and_then(|m| m.split_once('"')),
        _ => None,
    };
    let Some((name, " does not exist")) = name else { return error };
    let mut relations = RelationNames { wanted: name.to_owned() };
    if visit(query, &mut relations).is_continue() {
        return error;
    }
    let whole = Error::not_supported(format!("whole rows as values, such as \"{name}\", are not supported yet"));
    match error.fields().position {
        Some(position) => whole.with_position(position),
        None => whole,
    }
}

/// Looks for a relation of FROM by the name that columns are qualified with.
struct RelationNames {
    wanted: String,
}

impl Visitor for RelationNames {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        let ident = match factor {
            TableFactor::Table { alias: Some(alias), .. } | TableFactor::Derived { alias: Some(alias), .. } => {
                Some(&alias.name)
            }
            TableFactor::Table { name, alias: None, .. } => name.0.last().and_then(|p| p.as_ident()),
            _ => None,
        };
        match ident.is_some_and(|i| folded(i) == self.wanted) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

struct Finder {
    wanted: String,
    is_relation: bool,
    found: Option<usize>,
}

impl Finder {
    fn check(&mut self, name: &ObjectName) -> ControlFlow<()> {
        let idents = || name.0.iter().filter_map(|p| p.as_ident());
        let shown = idents().map(folded).collect::<Vec<_>>().join(".");
        let position = idents().next().map_or(0, |i| i.span.start.column as usize);
        self.found = (shown == self.wanted && position > 0).then_some(position);
        if self.found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Visitor for Finder {
    type Break = ();

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if self.is_relation { self.check(relation) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<()> {
        match expr {
            SqlExpr::Function(function) if !self.is_relation => self.check(&function.name),
            _ => ControlFlow::Continue(()),
        }
    }
}
