//! Types of `$1`, `$2` ..., as their surroundings decide them.

use std::collections::BTreeMap;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan};
use millstream_types::{Error, Result, SqlState, SqlType};

use crate::errors::from_datafusion;

/// As many parameters as the wire protocol can number.
const MAX_PARAMS: usize = 65_535;

/// The parameters of a plan by number from 1, with the types they have got.
pub(super) fn params_of(plan: &LogicalPlan) -> Result<BTreeMap<usize, Option<SqlType>>> {
    let mut params = BTreeMap::new();
    let mut bad = None;
    let mut visit_expr = |expr: &Expr| -> Result<TreeNodeRecursion, DataFusionError> {
        if let Expr::Placeholder(p) = expr {
            match p.id.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).filter(|n| (1..=MAX_PARAMS).contains(n))
            {
                Some(number) => {
                    let sql_type = p.field.as_ref().and_then(|f| SqlType::of_arrow(f.data_type()));
                    let known = params.entry(number).or_insert(None);
                    if known.is_none() {
                        *known = sql_type;
                    }
                }
                None => bad = Some(p.id.clone()),
            }
        }
        Ok(TreeNodeRecursion::Continue)
    };
    plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(&mut visit_expr)))
        .map_err(from_datafusion)?;
    match bad {
        Some(id) => Err(Error::user(SqlState::UNDEFINED_PARAMETER, format!("there is no parameter {id}"))),
        None => Ok(params),
    }
}

/// The types of `$1` to the last one; those that nothing decided are texts.
pub(super) fn all_types(params: &BTreeMap<usize, Option<SqlType>>, given: &[Option<SqlType>]) -> Vec<SqlType> {
    let n = params.keys().next_back().copied().unwrap_or(0).max(given.len());
    (1..=n)
        .map(|i| {
            let given = given.get(i - 1).cloned().flatten();
            given.or_else(|| params.get(&i).cloned().flatten()).unwrap_or(SqlType::Text)
        })
        .collect()
}

/// The plan with values in the place of its parameters.
///
/// # Errors
/// If a parameter has no value.
pub fn with_params(plan: LogicalPlan, values: &[ScalarValue]) -> Result<LogicalPlan> {
    plan.with_param_values(values.to_vec()).map_err(from_datafusion)
}
