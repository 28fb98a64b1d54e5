//! AND and OR that evaluate their right side on no more rows than the left one leaves open.
//!
//! DataFusion evaluates both sides over a whole batch unless the left one decides nearly all of it, which is the faster
//! way as long as nothing fails. `b <> 0 AND a / b > 4` fails so, on rows that fail in no other way; those batches are
//! evaluated once more with these.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{and_kleene, or_kleene};
use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, Operator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::BinaryExpr;

/// The expression with every AND and OR short-circuiting row by row; `None` if there are none.
///
/// It gives the values that the expression gives for each row by itself, and fails on no other rows.
pub(crate) fn short_circuiting(expr: &Arc<dyn PhysicalExpr>) -> Option<Arc<dyn PhysicalExpr>> {
    let replaced = Arc::clone(expr).transform_up(|expr| {
        let Some(binary) = expr.downcast_ref::<BinaryExpr>() else { return Ok(Transformed::no(expr)) };
        let connective = match binary.op() {
            Operator::And => Connective::And,
            Operator::Or => Connective::Or,
            _ => return Ok(Transformed::no(expr)),
        };
        let (left, right) = (Arc::clone(binary.left()), Arc::clone(binary.right()));
        Ok(Transformed::yes(Arc::new(ShortCircuit { left, connective, right }) as Arc<dyn PhysicalExpr>))
    });
    let replaced = replaced.ok()?;
    replaced.transformed.then_some(replaced.data)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Connective {
    And,
    Or,
}

#[derive(Debug, Eq)]
struct ShortCircuit {
    left: Arc<dyn PhysicalExpr>,
    connective: Connective,
    right: Arc<dyn PhysicalExpr>,
}

impl ShortCircuit {
    /// The rows whose answer the left side leaves open: with NULL on the left the right side still counts.
    fn open(&self, left: &BooleanArray) -> BooleanArray {
        let values = left.values();
        let open = match (self.connective, left.nulls()) {
            (Connective::And, None) => values.clone(),
            (Connective::And, Some(valid)) => values | &!valid.inner(),
            (Connective::Or, None) => !values,
            (Connective::Or, Some(valid)) => !&(values & valid.inner()),
        };
        BooleanArray::from(open)
    }
}

impl PhysicalExpr for ShortCircuit {
    fn data_type(&self, _: &Schema) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn nullable(&self, schema: &Schema) -> Result<bool> {
        Ok(self.left.nullable(schema)? || self.right.nullable(schema)?)
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        let n_rows = batch.num_rows();
        let left = self.left.evaluate(batch)?.into_array(n_rows)?;
        let left = left.as_boolean();
        let right = self.right.evaluate_selection(batch, &self.open(left))?.into_array(n_rows)?;
        let both = match self.connective {
            Connective::And => and_kleene(left, right.as_boolean())?,
            Connective::Or => or_kleene(left, right.as_boolean())?,
        };
        Ok(ColumnarValue::Array(Arc::new(both) as ArrayRef))
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.left, &self.right]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        let [left, right] = <[_; 2]>::try_from(children).expect("two sides");
        Ok(Arc::new(ShortCircuit { left, connective: self.connective, right }))
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ShortCircuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connective = match self.connective {
            Connective::And => "AND",
            Connective::Or => "OR",
        };
        write!(f, "({} {connective} {})", self.left, self.right)
    }
}

impl PartialEq for ShortCircuit {
    fn eq(&self, other: &Self) -> bool {
        self.connective == other.connective && self.left.eq(&other.left) && self.right.eq(&other.right)
    }
}

impl Hash for ShortCircuit {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.connective.hash(state);
        self.left.hash(state);
        self.right.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, RecordBatch};
    use arrow::datatypes::Field;
    use datafusion::physical_expr::expressions::{binary, col, lit};

    use super::*;

    /// Three truths on the left, and a quotient on the right that fails where `b` is 0.
    fn batch() -> RecordBatch {
        let fields = [("x", DataType::Boolean), ("a", DataType::Int32), ("b", DataType::Int32)];
        let schema = Schema::new(fields.map(|(name, t)| Field::new(name, t, true)).to_vec());
        let x = BooleanArray::from(vec![Some(true), Some(false), None, Some(true), Some(false), None]);
        let a = Int32Array::from(vec![Some(9), Some(9), Some(9), None, Some(1), Some(1)]);
        let b = Int32Array::from(vec![1, 0, 1, 1, 0, 1]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(x), Arc::new(a), Arc::new(b)]).expect("columns fit")
    }

    fn guarded(op: Operator) -> Arc<dyn PhysicalExpr> {
        let schema = batch().schema();
        let column = |name| col(name, &schema).expect("a column");
        let quotient = binary(column("a"), Operator::Divide, column("b"), &schema).expect("a quotient");
        let right = binary(quotient, Operator::Gt, lit(4), &schema).expect("a comparison");
        binary(column("x"), op, right, &schema).expect("a condition")
    }

    #[test]
    fn the_right_side_sees_only_open_rows() {
        let lazy = short_circuiting(&guarded(Operator::And)).expect("there is an AND");
        let values = lazy.evaluate(&batch()).expect("no open row fails").into_array(6).expect("a column");
        let wanted = BooleanArray::from(vec![Some(true), Some(false), None, None, Some(false), Some(false)]);
        assert_eq!(values.as_boolean(), &wanted);
        assert!(guarded(Operator::And).evaluate(&batch()).is_err(), "what this is for");
    }

    #[test]
    fn the_left_side_may_have_no_nulls() {
        let schema = batch().schema();
        let column = |name| col(name, &schema).expect("a column");
        let is_not_zero = binary(column("b"), Operator::NotEq, lit(0), &schema).expect("a comparison");
        let quotient = binary(column("a"), Operator::Divide, column("b"), &schema).expect("a quotient");
        let right = binary(quotient, Operator::Gt, lit(4), &schema).expect("a comparison");
        let guarded = binary(is_not_zero, Operator::And, right, &schema).expect("a condition");
        let lazy = short_circuiting(&guarded).expect("there is an AND");
        let values = lazy.evaluate(&batch()).expect("the guard holds").into_array(6).expect("a column");
        let wanted = [Some(true), Some(false), Some(true), None, Some(false), Some(false)];
        assert_eq!(values.as_boolean(), &BooleanArray::from(wanted.to_vec()));
    }

    #[test]
    fn open_rows_that_fail_still_fail() {
        let lazy = short_circuiting(&guarded(Operator::Or)).expect("there is an OR");
        assert!(lazy.evaluate(&batch()).is_err(), "x is false where b is 0");
        let values = lazy.evaluate(&batch().slice(2, 2)).expect("b is 1").into_array(2).expect("a column");
        assert_eq!(values.as_boolean(), &BooleanArray::from(vec![Some(true), Some(true)]));
    }

    #[test]
    fn without_a_connective_there_is_no_other_form() {
        let schema = batch().schema();
        let quotient = binary(lit(1), Operator::Divide, col("b", &schema).expect("b"), &schema).expect("a quotient");
        assert!(short_circuiting(&quotient).is_none());
    }
}
