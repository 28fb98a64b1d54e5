//! The error of a function that there is none of, where DataFusion finds another one first: it asks whether arguments are
//! grouped before it asks whether there is such a function.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Query, SelectItem, SetExpr};
use millstream_types::{Error, SqlState, SqlType};

use super::rewrite::single_name;
use super::{PlanContext, checks, typed_plan};
use crate::functions::{Registry, overloads};
use crate::sql_exprs::visit_own;

/// The error of the first unknown function that the query's SELECT computes, found by planning it without a GROUP BY.
pub(super) fn unknown_function(
    context: &PlanContext<'_>,
    query: &Query,
    param_types: &[Option<SqlType>],
) -> Option<Error> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let is_unknown = |expr: &Expr| match expr {
        Expr::Function(f) => single_name(&f.name).is_some_and(|name| {
            let functions = Registry::get();
            let is_aggregate = functions.aggregate(&name).is_some() || functions.window(&name).is_some();
            !is_aggregate && !overloads::is_known(&name) && functions.datafusion(&name).is_none()
        }),
        _ => false,
    };
    let found = visit_own(&select.projection, |expr| match is_unknown(expr) {
        true => ControlFlow::Break(expr.clone()),
        false => ControlFlow::Continue(()),
    });
    let mut select = select.as_ref().clone();
    select.projection = vec![SelectItem::UnnamedExpr(found.break_value()?)];
    select.group_by = GroupByExpr::Expressions(vec![], vec![]);
    (select.having, select.distinct) = (None, None);
    let mut alone = query.clone();
    *alone.body = SetExpr::Select(Box::new(select));
    (alone.order_by, alone.limit_clause) = (None, None);
    let error = typed_plan(context, &alone, param_types).err()?;
    (error.state() == SqlState::UNDEFINED_FUNCTION).then(|| checks::located(error, &alone))
}
