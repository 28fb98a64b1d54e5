//! Group keys that other group keys determine: `GROUP BY window_start, window_end` needs only one of the two.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Aggregate, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use millstream_types::Result;

use super::inline::{below_projections, column};
use super::{Lowered, Planner};
use crate::errors::from_datafusion;

impl Planner<'_> {
    /// Lowers an aggregate without the keys that others determine, and computes those from the others afterwards; nothing
    /// if there are none. Fewer keys are less to hash and to compare, and less state.
    pub(super) fn lower_without_determined_keys(&mut self, aggregate: &Aggregate) -> Result<Option<Lowered>> {
        if aggregate.group_expr.len() < 2 || matches!(aggregate.group_expr[0], Expr::GroupingSet(_)) {
            return Ok(None);
        }
        let n_keys = aggregate.group_expr.len();
        let exprs = aggregate.group_expr.iter().chain(&aggregate.aggr_expr).map(|e| e.clone().unalias()).collect();
        let (exprs, input) = below_projections(exprs, &aggregate.input)?;
        let (keys, calls) = exprs.split_at(n_keys);
        let is_determined = |key: &&Expr| {
            let others: Vec<&Expr> = keys.iter().filter(|k| k != key).collect();
            matches!(key, Expr::BinaryExpr(_) | Expr::ScalarFunction(_)) && is_function_of(&others, key, input.schema())
        };
        let kept: Vec<Expr> = keys.iter().filter(|k| !is_determined(k)).cloned().collect();
        if kept.len() == n_keys {
            return Ok(None);
        }
        // What is computed keeps the name that it has above.
        let name = |e: &Expr| keys.iter().position(|k| k == e).map(|i| aggregate.schema.field(i).name().clone());
        let named = |e: &Expr| match (e, name(e)) {
            (Expr::Column(_), _) | (_, None) => e.clone(),
            (_, Some(name)) => e.clone().alias(name),
        };
        let narrow = Aggregate::try_new(Arc::new(input.clone()), kept.iter().map(named).collect(), calls.to_vec());
        let narrow = LogicalPlan::Aggregate(narrow.map_err(from_datafusion)?);
        let schema = narrow.schema();
        let over_kept = |e: Expr| match kept.iter().position(|k| *k == e) {
            Some(i) => Ok(Transformed::new(column(schema, i), true, TreeNodeRecursion::Jump)),
            None => Ok(Transformed::no(e)),
        };
        let keys = keys.iter().map(|e| e.clone().transform_down(over_kept).data().map_err(from_datafusion));
        let mut out = keys.collect::<Result<Vec<_>>>()?;
        out.extend((0..calls.len()).map(|i| column(schema, kept.len() + i)));
        let lowered = self.lower(&narrow, None)?;
        Ok(Some(self.project(lowered, &out, aggregate.schema.as_ref().clone())?))
    }
}

/// Whether an expression has a value, the same each time, for whatever the given keys are. What may fail stays below the
/// aggregate, where a failing row is left out alone.
fn is_function_of(keys: &[&Expr], expr: &Expr, schema: &DFSchema) -> bool {
    if keys.contains(&expr) {
        return true;
    }
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            let is_time = matches!(left.get_type(schema), Ok(DataType::Timestamp(_, _)));
            let is_constant = matches!(right.as_ref(), Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(_)), _));
            is_time && is_constant && is_function_of(keys, left, schema)
        }
        Expr::ScalarFunction(function) if function.name() == "date_trunc" => {
            let is_known = |a: &Expr| matches!(a, Expr::Literal(_, _)) || is_function_of(keys, a, schema);
            function.args.iter().all(is_known) && function.args.iter().any(|a| !matches!(a, Expr::Literal(_, _)))
        }
        _ => false,
    }
}
