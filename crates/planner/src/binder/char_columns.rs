//! What plans do not know of `char(n)`: which output columns are of that type, and how its values are compared.
//!
//! Inside, a `char(n)` is a text without the blanks at its end: so it compares, concatenates and has its length as in
//! Postgres, and is padded where it is written out. Plans know it as a text; its own type is found where the column comes
//! from. What it is compared with loses the blanks at its end too, unless it is a `text`; patterns see the padded value.

use datafusion::common::ScalarValue;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Between, BinaryExpr, Case, Distinct, Expr, Like, LogicalPlan, Operator, Union, lit};
use millstream_types::SqlType;

use super::RelationSource;
use crate::functions::overloads::VARCHAR;
use crate::functions::quantified::{self, is_pattern};
use crate::typing::deferred::{Call, Deferred};
use crate::typing::types::Result;

/// The type of an output column that is a `char(n)`.
pub(super) fn char_type(plan: &LogicalPlan, column: usize) -> Option<SqlType> {
    declared(plan, column).filter(|t| matches!(t, SqlType::Char(_)))
}

/// The type, with its length, of an output column that comes from a relation's column.
fn declared(plan: &LogicalPlan, column: usize) -> Option<SqlType> {
    match plan {
        LogicalPlan::Projection(projection) => declared_of(&projection.expr[column], &[&projection.input]),
        LogicalPlan::Filter(filter) => declared(&filter.input, column),
        LogicalPlan::Sort(sort) => declared(&sort.input, column),
        LogicalPlan::Limit(limit) => declared(&limit.input, column),
        LogicalPlan::SubqueryAlias(alias) => declared(&alias.input, column),
        LogicalPlan::Distinct(Distinct::All(input)) => declared(input, column),
        LogicalPlan::Aggregate(aggregate) => {
            let n_groups = aggregate.group_expr.len();
            let expr = aggregate.group_expr.get(column).or_else(|| aggregate.aggr_expr.get(column - n_groups))?;
            declared_of(expr, &[&aggregate.input])
        }
        LogicalPlan::Join(join) => {
            let n_left = join.left.schema().fields().len();
            if column < n_left { declared(&join.left, column) } else { declared(&join.right, column - n_left) }
        }
        LogicalPlan::Union(Union { inputs, .. }) => {
            let (first, rest) = inputs.split_first()?;
            let sql_type = declared(first, column)?;
            rest.iter().all(|input| declared(input, column).as_ref() == Some(&sql_type)).then_some(sql_type)
        }
        LogicalPlan::TableScan(scan) => {
            let source = RelationSource::of(&scan.source)?;
            let at = scan.projection.as_ref().map_or(Some(column), |p| p.get(column).copied())?;
            source.relation().columns.get(at).map(|c| c.sql_type.clone())
        }
        _ => None,
    }
}

/// The same of an expression over the columns of some plans.
fn declared_of(expr: &Expr, inputs: &[&LogicalPlan]) -> Option<SqlType> {
    match expr {
        Expr::Column(column) => inputs.iter().find_map(|input| {
            let at = input.schema().maybe_index_of_column(column)?;
            declared(input, at)
        }),
        Expr::Alias(alias) => declared_of(&alias.expr, inputs),
        Expr::ScalarFunction(function) if function.name() == "cut_char" => {
            length(function.args.get(1)?).map(SqlType::Char)
        }
        Expr::ScalarFunction(function) => match Deferred::of(function).map(|d| &d.call) {
            Some(Call::Function(name)) if name == VARCHAR => Some(SqlType::Varchar(None)),
            _ => None,
        },
        Expr::AggregateFunction(f) if matches!(f.func.name(), "min" | "max") => match f.params.args.as_slice() {
            [arg] => declared_of(arg, inputs),
            _ => None,
        },
        _ => None,
    }
}

/// A constant length.
fn length(expr: &Expr) -> Option<u32> {
    match expr {
        Expr::Literal(ScalarValue::Int64(Some(n)), _) => u32::try_from(*n).ok(),
        Expr::Literal(ScalarValue::Int32(Some(n)), _) => u32::try_from(*n).ok(),
        Expr::Cast(cast) => length(&cast.expr),
        _ => None,
    }
}

/// The plan, whose types are not resolved yet, with every comparison of a `char(n)` as Postgres does it.
pub(super) fn with_char_comparisons(plan: LogicalPlan) -> Result<LogicalPlan> {
    if !mentions_char(&plan)? {
        return Ok(plan);
    }
    plan.transform_up_with_subqueries(|node| {
        let node_inputs = node.inputs();
        let inputs: Vec<LogicalPlan> = node_inputs.into_iter().cloned().collect();
        let inputs: Vec<&LogicalPlan> = inputs.iter().collect();
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            let compared = expr.transform_up(|e| Ok(compared(e, &inputs)))?;
            Ok(compared.update_data(|e| name.restore(e)))
        })
    })
    .data()
}

/// Whether a relation with such a column, or a cast to `char(n)`, is in a plan.
fn mentions_char(plan: &LogicalPlan) -> Result<bool> {
    let mut any = false;
    plan.apply_with_subqueries(|node| {
        any |= match node {
            LogicalPlan::TableScan(scan) => RelationSource::of(&scan.source)
                .is_some_and(|s| s.relation().columns.iter().any(|c| matches!(c.sql_type, SqlType::Char(_)))),
            _ => false,
        };
        node.apply_expressions(|expr| {
            any |= expr.exists(|e| Ok(matches!(e, Expr::ScalarFunction(f) if f.name() == "cut_char")))?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(if any { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(any)
}

fn compared(expr: Expr, inputs: &[&LogicalPlan]) -> Transformed<Expr> {
    let is_char = |e: &Expr| matches!(declared_of(e, inputs), Some(SqlType::Char(_)));
    match expr {
        Expr::ScalarFunction(function) => match Deferred::of(&function).map(|d| d.call.clone()) {
            Some(call) => call_over_char(&call, function, inputs),
            None => Transformed::no(Expr::ScalarFunction(function)),
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right })
            if is_comparison(op) && (is_char(&left) || is_char(&right)) =>
        {
            let [left, right] = [*left, *right].map(|e| Box::new(without_blanks(e, inputs)));
            Transformed::yes(Expr::BinaryExpr(BinaryExpr { left, op, right }))
        }
        Expr::InList(InList { expr, list, negated }) if is_char(&expr) => {
            let list = list.into_iter().map(|e| without_blanks(e, inputs)).collect();
            Transformed::yes(Expr::InList(InList { expr, list, negated }))
        }
        Expr::Between(Between { expr, negated, low, high }) if is_char(&expr) => {
            let [low, high] = [*low, *high].map(|e| Box::new(without_blanks(e, inputs)));
            Transformed::yes(Expr::Between(Between { expr, negated, low, high }))
        }
        Expr::Case(Case { expr: Some(subject), when_then_expr, else_expr }) if is_char(&subject) => {
            let branch = |(when, then): (Box<Expr>, Box<Expr>)| (Box::new(without_blanks(*when, inputs)), then);
            let when_then_expr = when_then_expr.into_iter().map(branch).collect();
            Transformed::yes(Expr::Case(Case { expr: Some(subject), when_then_expr, else_expr }))
        }
        Expr::Like(like) => match padded(&like.expr, inputs) {
            Some(padded) => Transformed::yes(Expr::Like(Like { expr: Box::new(padded), ..like })),
            None => Transformed::no(Expr::Like(like)),
        },
        other => Transformed::no(other),
    }
}

fn call_over_char(call: &Call, mut function: ScalarFunction, inputs: &[&LogicalPlan]) -> Transformed<Expr> {
    let is_char = |e: &Expr| matches!(declared_of(e, inputs), Some(SqlType::Char(_)));
    let any_char = function.args.iter().any(is_char);
    match call {
        Call::Operator(op) if is_comparison(*op) && any_char => {
            function.args = function.args.into_iter().map(|e| without_blanks(e, inputs)).collect();
        }
        Call::Operator(op) if is_pattern(*op) && any_char => {
            if let Some(padded) = padded(&function.args[0], inputs) {
                function.args[0] = padded;
            }
        }
        Call::Function(name) if any_char => match name.as_str() {
            "nullif" => {
                function.args = function.args.into_iter().map(|e| without_blanks(e, inputs)).collect();
            }
            // These take the value as it is written out.
            "octet_length" | "concat" | "concat_ws" | "format" => {
                let as_written = |e: Expr| padded(&e, inputs).unwrap_or(e);
                function.args = function.args.into_iter().map(as_written).collect();
            }
            name if quantified::of_name(name).is_some_and(|(_, op)| is_pattern(op)) => {
                if let Some(padded) = padded(&function.args[0], inputs) {
                    function.args[0] = padded;
                }
            }
            _ => return Transformed::no(Expr::ScalarFunction(function)),
        },
        _ => return Transformed::no(Expr::ScalarFunction(function)),
    }
    Transformed::yes(Expr::ScalarFunction(function))
}

fn is_comparison(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Eq | O::NotEq | O::Lt | O::LtEq | O::Gt | O::GtEq | O::IsDistinctFrom | O::IsNotDistinctFrom)
}

/// A `char(n)` as long as it is declared.
fn padded(expr: &Expr, inputs: &[&LogicalPlan]) -> Option<Expr> {
    match declared_of(expr, inputs) {
        Some(SqlType::Char(n)) => Some(Call::function("rpad").defer(vec![expr.clone(), lit(i64::from(n))])),
        _ => None,
    }
}

/// The other side of a comparison with a `char(n)`: a constant or parameter of no type becomes one, as does a
/// `varchar`. The other side is a `text` else, and its blanks count.
fn without_blanks(expr: Expr, inputs: &[&LogicalPlan]) -> Expr {
    match expr {
        Expr::Literal(value, metadata) => match value.try_as_str().flatten() {
            Some(text) => Expr::Literal(ScalarValue::Utf8(Some(text.trim_end_matches(' ').to_owned())), metadata),
            None => Expr::Literal(value, metadata),
        },
        expr if matches!(expr, Expr::Placeholder(_)) || is_varchar(&expr, inputs) => {
            Call::function("rtrim").defer(vec![expr, lit(" ")])
        }
        expr => expr,
    }
}

/// Whether it is a `varchar`, of any length.
fn is_varchar(expr: &Expr, inputs: &[&LogicalPlan]) -> bool {
    matches!(declared_of(expr, inputs), Some(SqlType::Varchar(_)))
}
