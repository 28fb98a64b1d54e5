//! `x op ANY (array)` and `x op ALL (array)`, of comparisons and of patterns, with all three values: null where a comparison is that decides.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Datum, RecordBatch, UInt32Array};
use arrow::compute::kernels::cmp;
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{InList, ScalarFunction};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};

use super::equal_key::key;
use crate::binder::external;
use crate::typing::types::Result;

/// How many of an array's elements have to compare so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Quantifier {
    Any,
    All,
}

/// The names that stand for quantified comparisons until types are known.
const NAMES: &[(&str, Quantifier, Operator)] = &[
    ("any_equal", Quantifier::Any, Operator::Eq),
    ("any_unequal", Quantifier::Any, Operator::NotEq),
    ("any_less", Quantifier::Any, Operator::Lt),
    ("any_at_most", Quantifier::Any, Operator::LtEq),
    ("any_greater", Quantifier::Any, Operator::Gt),
    ("any_at_least", Quantifier::Any, Operator::GtEq),
    ("all_equal", Quantifier::All, Operator::Eq),
    ("all_unequal", Quantifier::All, Operator::NotEq),
    ("all_less", Quantifier::All, Operator::Lt),
    ("all_at_most", Quantifier::All, Operator::LtEq),
    ("all_greater", Quantifier::All, Operator::Gt),
    ("all_at_least", Quantifier::All, Operator::GtEq),
    ("any_like", Quantifier::Any, Operator::LikeMatch),
    ("any_ilike", Quantifier::Any, Operator::ILikeMatch),
    ("any_not_like", Quantifier::Any, Operator::NotLikeMatch),
    ("any_not_ilike", Quantifier::Any, Operator::NotILikeMatch),
    ("all_like", Quantifier::All, Operator::LikeMatch),
    ("all_ilike", Quantifier::All, Operator::ILikeMatch),
    ("all_not_like", Quantifier::All, Operator::NotLikeMatch),
    ("all_not_ilike", Quantifier::All, Operator::NotILikeMatch),
    ("any_regex", Quantifier::Any, Operator::RegexMatch),
    ("any_iregex", Quantifier::Any, Operator::RegexIMatch),
    ("any_not_regex", Quantifier::Any, Operator::RegexNotMatch),
    ("any_not_iregex", Quantifier::Any, Operator::RegexNotIMatch),
    ("all_regex", Quantifier::All, Operator::RegexMatch),
    ("all_iregex", Quantifier::All, Operator::RegexIMatch),
    ("all_not_regex", Quantifier::All, Operator::RegexNotMatch),
    ("all_not_iregex", Quantifier::All, Operator::RegexNotIMatch),
];

/// Whether an operator compares a text with a pattern.
pub(crate) fn is_pattern(op: Operator) -> bool {
    use Operator as O;
    let regex = matches!(op, O::RegexMatch | O::RegexIMatch | O::RegexNotMatch | O::RegexNotIMatch);
    regex || matches!(op, O::LikeMatch | O::ILikeMatch | O::NotLikeMatch | O::NotILikeMatch)
}

/// What a name stands for.
pub(crate) fn of_name(name: &str) -> Option<(Quantifier, Operator)> {
    NAMES.iter().find(|(n, ..)| *n == name).map(|(_, quantifier, op)| (*quantifier, *op))
}

/// The name that stands for a comparison.
pub(crate) fn name_of(quantifier: Quantifier, op: Operator) -> Option<&'static str> {
    NAMES.iter().find(|(_, q, o)| *q == quantifier && *o == op).map(|(name, ..)| *name)
}

/// `value op quantifier (array)`, both of one type.
pub(crate) fn quantified(quantifier: Quantifier, op: Operator, value: Expr, array: Expr) -> Expr {
    Quantified::udf(quantifier, op).call(vec![value, array])
}

/// A quantified comparison.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Quantified {
    quantifier: Quantifier,
    op: Operator,
    signature: Signature,
}

impl Quantified {
    fn udf(quantifier: Quantifier, op: Operator) -> ScalarUDF {
        ScalarUDF::new_from_impl(Quantified { quantifier, op, signature: Signature::any(2, Volatility::Immutable) })
    }

    /// The comparison that a name stands for.
    pub(crate) fn of_name(name: &str) -> Option<Arc<ScalarUDF>> {
        of_name(name).map(|(quantifier, op)| Arc::new(Quantified::udf(quantifier, op)))
    }
}

impl ScalarUDFImpl for Quantified {
    fn name(&self) -> &str {
        name_of(self.quantifier, self.op).unwrap_or("quantified")
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    /// Membership in known values is `IN`, by which rows are looked up.
    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let negated = match (self.quantifier, self.op) {
            (Quantifier::Any, Operator::Eq) => false,
            (Quantifier::All, Operator::NotEq) => true,
            _ => return Ok(ExprSimplifyResult::Original(args)),
        };
        let list = match &args[1] {
            Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == "make_array" => args.clone(),
            Expr::Literal(ScalarValue::List(list), _) if list.is_valid(0) => {
                let values = list.value(0);
                let value = |i| Ok(Expr::Literal(ScalarValue::try_from_array(&values, i)?, None));
                (0..values.len()).map(value).collect::<Result<Vec<_>>>()?
            }
            _ => return Ok(ExprSimplifyResult::Original(args)),
        };
        // Whatever the value is, nothing is in an empty list.
        if list.is_empty() {
            return Ok(ExprSimplifyResult::Simplified(Expr::Literal(ScalarValue::Boolean(Some(negated)), None)));
        }
        let expr = Box::new(args.into_iter().next().expect("there are two"));
        Ok(ExprSimplifyResult::Simplified(Expr::InList(InList { expr, list, negated })))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let n_rows = args.number_rows;
        let columns = args.args.into_iter().map(|a| a.into_array(n_rows)).collect::<Result<Vec<_>>>()?;
        Ok(ColumnarValue::Array(Arc::new(self.evaluate(&columns[0], &columns[1])?)))
    }
}

impl Quantified {
    fn evaluate(&self, values: &ArrayRef, arrays: &ArrayRef) -> Result<BooleanArray> {
        let lists = arrays.as_list::<i32>();
        let offsets = lists.value_offsets();
        let elements = lists.values().slice(offsets[0] as usize, (offsets[lists.len()] - offsets[0]) as usize);
        let n_elements = |row: usize| lists.value_length(row) as usize;
        let rows: UInt32Array =
            (0..lists.len()).flat_map(|row| std::iter::repeat_n(row as u32, n_elements(row))).collect();
        let values = take(values, &rows, None)?;
        let compared = if is_pattern(self.op) {
            matched(values, self.op, elements)?
        } else {
            self.compare(&key(&values).map_err(external)?, &key(&elements).map_err(external)?)?
        };
        let mut at = 0;
        let decided = (0..lists.len()).map(|row| {
            let of_row = at..at + n_elements(row);
            at = of_row.end;
            lists.is_valid(row).then(|| self.decide(of_row.map(|i| compared.is_valid(i).then(|| compared.value(i)))))?
        });
        Ok(decided.collect())
    }

    fn compare(&self, left: &dyn Datum, right: &dyn Datum) -> Result<BooleanArray, ArrowError> {
        match self.op {
            Operator::Eq => cmp::eq(left, right),
            Operator::NotEq => cmp::neq(left, right),
            Operator::Lt => cmp::lt(left, right),
            Operator::LtEq => cmp::lt_eq(left, right),
            Operator::Gt => cmp::gt(left, right),
            _ => cmp::gt_eq(left, right),
        }
    }

    /// One comparison that decides does so, whatever the others are; else one that is unknown.
    fn decide(&self, compared: impl Iterator<Item = Option<bool>>) -> Option<bool> {
        let decisive = self.quantifier == Quantifier::Any;
        let mut result = Some(!decisive);
        for one in compared {
            match one {
                Some(holds) if holds == decisive => return Some(decisive),
                Some(_) => {}
                None => result = None,
            }
        }
        result
    }
}

/// Texts and patterns, compared as the operator does between columns.
fn matched(texts: ArrayRef, op: Operator, patterns: ArrayRef) -> Result<BooleanArray> {
    let field = |name: &str, column: &ArrayRef| Field::new(name, column.data_type().clone(), true);
    let schema = Arc::new(Schema::new(vec![field("text", &texts), field("pattern", &patterns)]));
    let (text, pattern) = (Arc::new(Column::new("text", 0)), Arc::new(Column::new("pattern", 1)));
    let n_rows = texts.len();
    let batch = RecordBatch::try_new(schema, vec![texts, patterns])?;
    let result = BinaryExpr::new(text, op, pattern).evaluate(&batch)?.into_array(n_rows)?;
    Ok(result.as_boolean().clone())
}
