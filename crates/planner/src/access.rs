//! Access by key: which equalities among a query's conditions an index serves.
//!
//! A scan that is told its filters ([`crate::RelationSource`]) need not read the whole relation where they demand values
//! for all columns of an index. The filters stay in the plan, so a lookup may give more rows than they want, never fewer.

mod point;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator, TableScan, Volatility};
use millstream_types::Result;

use crate::binder::RelationSource;
use crate::catalog::Relation;
use crate::errors::from_datafusion;
pub use point::PointQuery;

/// Keys that are looked up for one scan; more are found by reading the relation.
const KEYS_MAX: usize = 1 << 12;

/// The rows of a relation that have certain keys.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyLookup {
    /// The relation.
    pub relation: Arc<Relation>,
    /// The columns of the key, in the order of an index.
    pub columns: Vec<usize>,
    /// No two rows have the same key.
    pub is_unique: bool,
    /// The keys, one array a column.
    pub keys: Vec<ArrayRef>,
}

impl KeyLookup {
    /// The lookup that serves a scan of an optimized plan without parameters; `None` if the scan has to read all rows.
    ///
    /// # Errors
    /// Internal.
    pub fn of_scan(scan: &TableScan) -> Result<Option<KeyLookup>> {
        let Some(source) = RelationSource::of(&scan.source) else { return Ok(None) };
        let Some(found) = IndexedKey::find(source, &scan.filters) else { return Ok(None) };
        let mut keys = Vec::with_capacity(found.columns.len());
        for column in 0..found.columns.len() {
            let mut values = Vec::with_capacity(found.keys.len());
            for key in &found.keys {
                let Expr::Literal(value, _) = &key[column] else { return Ok(None) };
                values.push(value.clone());
            }
            keys.push(ScalarValue::iter_to_array(values).map_err(from_datafusion)?);
        }
        let IndexedKey { columns, is_unique, .. } = found;
        Ok(Some(KeyLookup { relation: Arc::clone(source.relation()), columns, is_unique, keys }))
    }
}

/// An index whose columns conditions fix, and the keys that they demand.
struct IndexedKey {
    columns: Vec<usize>,
    is_unique: bool,
    /// Each key has an expression a column, none of which depends on a row.
    keys: Vec<Vec<Expr>>,
}

impl IndexedKey {
    /// The first index, the primary key before others, all of whose columns are fixed.
    fn find(source: &RelationSource, filters: &[Expr]) -> Option<IndexedKey> {
        let conditions: Vec<&Expr> = filters.iter().flat_map(split_conjunction).collect();
        let relation = source.relation();
        source.indexes().find_map(|(columns, is_unique)| {
            let mut keys: Vec<Vec<Expr>> = vec![vec![]];
            for &column in columns {
                let column = &relation.columns[column];
                let wanted = column.sql_type.arrow_type();
                let is_typed = |values: &Vec<Expr>| values.iter().all(|v| is_key_value(v, &wanted));
                let values = conditions.iter().find_map(|c| values_of(c, &column.name).filter(is_typed))?;
                if keys.len() * values.len() > KEYS_MAX {
                    return None;
                }
                let with = |key: &Vec<Expr>, value: &Expr| key.iter().chain([value]).cloned().collect();
                keys = keys.iter().flat_map(|key| values.iter().map(move |value| with(key, value))).collect();
            }
            Some(IndexedKey { columns: columns.to_vec(), is_unique, keys })
        })
    }
}

/// Whether an expression is a constant, or a parameter, that an index over a type finds rows by.
///
/// Floats are left out: an index tells values apart that are equal, such as 0 and -0.
fn is_key_value(value: &Expr, wanted: &DataType) -> bool {
    !wanted.is_floating() && value.get_type(&DFSchema::empty()).is_ok_and(|t| t == *wanted) && is_fixed(value)
}

/// Whether an expression has the same value for all rows, at every time.
fn is_fixed(expr: &Expr) -> bool {
    let mut fixed = true;
    let visited = expr.apply(|e| {
        fixed = match e {
            Expr::Literal(..)
            | Expr::Placeholder(_)
            | Expr::Cast(_)
            | Expr::TryCast(_)
            | Expr::BinaryExpr(_)
            | Expr::Negative(_)
            | Expr::Alias(_) => true,
            Expr::ScalarFunction(f) => f.func.signature().volatility == Volatility::Immutable,
            _ => false,
        };
        Ok(if fixed { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    });
    visited.is_ok() && fixed
}

/// Whether a plan means the same at all times: it calls no function like `now()` or `random()`.
///
/// # Errors
/// Internal.
pub fn is_timeless(plan: &LogicalPlan) -> Result<bool> {
    let mut timeless = true;
    let mut visit = |e: &Expr| {
        timeless &= !matches!(e, Expr::ScalarFunction(f) if f.func.signature().volatility != Volatility::Immutable);
        Ok(if timeless { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    };
    plan.apply_with_subqueries(|node| node.apply_expressions(|expr| expr.apply(&mut visit)))
        .map_err(from_datafusion)?;
    Ok(timeless)
}

/// The values of which a condition demands that a column has one.
fn values_of(condition: &Expr, column: &str) -> Option<Vec<Expr>> {
    let is_it = |expr: &Expr| matches!(expr, Expr::Column(Column { name, .. }) if name == column);
    match condition {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq => match (&*binary.left, &*binary.right) {
            (expr, value) if is_it(expr) => Some(vec![value.clone()]),
            (value, expr) if is_it(expr) => Some(vec![value.clone()]),
            _ => None,
        },
        Expr::BinaryExpr(binary) if binary.op == Operator::Or => {
            let mut values = values_of(&binary.left, column)?;
            values.extend(values_of(&binary.right, column)?);
            Some(values)
        }
        Expr::InList(list) if !list.negated && is_it(&list.expr) => Some(list.list.clone()),
        _ => None,
    }
}
