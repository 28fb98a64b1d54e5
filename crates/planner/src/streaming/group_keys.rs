//! Group keys that other group keys determine: `GROUP BY window_start, window_end` needs only one of the two.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Aggregate, BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator};
use millstream_types::Result;

use super::inline::{below_projections, column, substitute};
use super::{Lowered, Planner};
use crate::errors::from_datafusion;

impl Planner {
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
        let is_column = |e: &Expr| matches!(e, Expr::Column(_));
        let is_determined = |e: &&Expr| {
            !is_column(e) && is_total(e, input.schema()) && {
                let columns = e.column_refs();
                !columns.is_empty() && columns.iter().all(|c| keys.contains(&Expr::Column((*c).clone())))
            }
        };
        let kept: Vec<Expr> = keys.iter().filter(|k| !is_determined(k)).cloned().collect();
        if kept.len() == n_keys {
            return Ok(None);
        }
        let narrow = Aggregate::try_new(Arc::new(input.clone()), kept.clone(), calls.to_vec());
        let narrow = LogicalPlan::Aggregate(narrow.map_err(from_datafusion)?);
        let schema = narrow.schema();
        let key = |e: &Expr| kept.iter().position(|k| k == e).map(|i| column(schema, i));
        let mut out = Vec::new();
        for expr in keys {
            out.push(match key(expr) {
                Some(column) => column,
                None => {
                    let of_column = |i| key(&column(input.schema(), i)).expect("its columns are among the keys");
                    substitute(vec![expr.clone()], input.schema(), of_column)?.swap_remove(0)
                }
            });
        }
        out.extend((0..calls.len()).map(|i| column(schema, kept.len() + i)));
        let lowered = self.lower(&narrow, None)?;
        Ok(Some(self.project(lowered, &out, aggregate.schema.as_ref().clone())?))
    }
}

/// Whether an expression has a value, the same each time, for whatever its columns hold. What may fail stays below the
/// aggregate, where a failing row is left out alone.
fn is_total(expr: &Expr, schema: &DFSchema) -> bool {
    match expr {
        Expr::Column(_) | Expr::Literal(_, _) => true,
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            let is_time = matches!(left.get_type(schema), Ok(DataType::Timestamp(_, _)));
            let is_constant = matches!(right.as_ref(), Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(_)), _));
            is_time && is_constant && is_total(left, schema)
        }
        Expr::ScalarFunction(function) => {
            matches!(function.name(), "date_trunc") && function.args.iter().all(|a| is_total(a, schema))
        }
        _ => false,
    }
}
