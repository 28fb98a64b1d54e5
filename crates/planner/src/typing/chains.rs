//! Long chains of operators, `a + b - c + ...` and `a || b || ...`, as one call each while a plan is made.
//!
//! Nested, a chain is as deep as it is long, and whatever derives the type or the name of one level goes through all levels
//! below it. DataFusion's rules do so for each level, and once more for each name within a name. So while the rules run a
//! chain is one call of many arguments, and it is nested again before anything is evaluated: operand by operand, with the
//! same partial results and the same errors as a short one.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, exec_datafusion_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, Volatility, col,
};

use super::calls::binary;
use super::deferred::{Call, Deferred};
use super::types::{Result, TEXT, data_type_of};
use crate::functions::numeric::Arithmetic;
use crate::streaming::physical;

/// Operators from which on a chain is one call.
const LONG: usize = 8;

/// The operators of a chain, from left to right.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Chain {
    kind: Kind,
    ops: Vec<Operator>,
    signature: Signature,
}

/// What its operators are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// `+ - * / %`
    Numbers,
    /// `||` over texts
    Texts,
}

impl Kind {
    fn of(op: Operator) -> Kind {
        if op == Operator::StringConcat { Kind::Texts } else { Kind::Numbers }
    }

    /// The operator and the operands of an expression that is one operator of this kind.
    fn split(self, expr: Expr) -> Result<(Expr, Operator, Expr), Expr> {
        match expr {
            Expr::ScalarFunction(mut function) if self == Kind::Numbers => {
                match (Arithmetic::operator(&function), function.args.pop(), function.args.pop()) {
                    (Some(op), Some(right), Some(left)) => Ok((left, op, right)),
                    (_, right, left) => {
                        function.args.extend(left);
                        function.args.extend(right);
                        Err(Expr::ScalarFunction(function))
                    }
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) if self == Kind::Texts => {
                Ok((*left, Operator::StringConcat, *right))
            }
            other => Err(other),
        }
    }

    /// Whether at least so many operators of this kind follow one another.
    fn is_long(self, mut expr: &Expr) -> bool {
        for _ in 0..LONG {
            expr = match expr {
                Expr::ScalarFunction(f) if self == Kind::Numbers && Arithmetic::operator(f).is_some() => &f.args[0],
                Expr::BinaryExpr(b) if self == Kind::Texts && b.op == Operator::StringConcat => &b.left,
                _ => return false,
            };
        }
        true
    }
}

/// `left op right` over operands whose types fit.
pub(crate) fn applied(left: Expr, op: Operator, right: Expr) -> Expr {
    let kind = Kind::of(op);
    match left {
        Expr::ScalarFunction(function) if Chain::of(&function).is_some_and(|chain| chain.kind == kind) => {
            let mut ops = Chain::of(&function).map_or_else(Vec::new, |chain| chain.ops.clone());
            let mut args = function.args;
            ops.push(op);
            args.push(right);
            call(kind, ops, args)
        }
        left if kind.is_long(&left) => {
            let (mut ops, mut args) = (vec![op], vec![right]);
            let mut rest = left;
            let first = loop {
                match kind.split(rest) {
                    Ok((left, op, right)) => {
                        ops.push(op);
                        args.push(right);
                        rest = left;
                    }
                    Err(first) => break first,
                }
            };
            args.push(first);
            ops.reverse();
            args.reverse();
            call(kind, ops, args)
        }
        left => one(left, op, right),
    }
}

/// `left op right` while types are not final. A chain is one call here too, of operators that may mean anything yet.
pub(crate) fn deferred(left: Expr, op: Operator, right: Expr) -> Expr {
    if !is_chained(op) {
        return Call::Operator(op).defer(vec![left, right]);
    }
    match left {
        Expr::ScalarFunction(function) if deferred_chain(&function).is_some() => {
            let mut ops = deferred_chain(&function).map_or_else(Vec::new, <[Operator]>::to_vec);
            let mut args = function.args;
            ops.push(op);
            args.push(right);
            Call::Operators(ops).defer(args)
        }
        left if is_long_deferred(&left) => {
            let (mut ops, mut args) = (vec![op], vec![right]);
            let mut rest = left;
            while let Expr::ScalarFunction(function) = &mut rest
                && let Some(op) = deferred_operator(function)
                && let (Some(right), Some(left)) = (function.args.pop(), function.args.pop())
            {
                ops.push(op);
                args.push(right);
                rest = left;
            }
            args.push(rest);
            ops.reverse();
            args.reverse();
            Call::Operators(ops).defer(args)
        }
        left => Call::Operator(op).defer(vec![left, right]),
    }
}

/// Operators that long chains are made of.
fn is_chained(op: Operator) -> bool {
    use Operator as O;
    matches!(op, O::Plus | O::Minus | O::Multiply | O::Divide | O::Modulo | O::StringConcat)
}

fn deferred_chain(function: &ScalarFunction) -> Option<&[Operator]> {
    match &Deferred::of(function)?.call {
        Call::Operators(ops) => Some(ops),
        _ => None,
    }
}

fn deferred_operator(function: &ScalarFunction) -> Option<Operator> {
    match &Deferred::of(function)?.call {
        Call::Operator(op) if is_chained(*op) && function.args.len() == 2 => Some(*op),
        _ => None,
    }
}

fn is_long_deferred(mut expr: &Expr) -> bool {
    for _ in 0..LONG {
        expr = match expr {
            Expr::ScalarFunction(function) if deferred_operator(function).is_some() => &function.args[0],
            _ => return false,
        };
    }
    true
}

/// One operator.
fn one(left: Expr, op: Operator, right: Expr) -> Expr {
    match Kind::of(op) {
        Kind::Numbers => Arithmetic::of(op).call(vec![left, right]),
        Kind::Texts => binary(left, op, right),
    }
}

fn call(kind: Kind, ops: Vec<Operator>, args: Vec<Expr>) -> Expr {
    let signature = Signature::any(args.len(), Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(Chain { kind, ops, signature })).call(args)
}

/// The plan with every chain nested.
pub(crate) fn unrolled_plan(plan: LogicalPlan) -> Result<LogicalPlan> {
    let unroll = |node: LogicalPlan| {
        // The filters of a scan are hints.
        if matches!(node, LogicalPlan::TableScan(_)) {
            return Ok(Transformed::no(node));
        }
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            if !has_chain(&expr) {
                return Ok(Transformed::no(expr));
            }
            let name = names.save(&expr);
            Ok(Transformed::yes(name.restore(unrolled(expr)?)))
        })
    };
    plan.transform_up_with_subqueries(unroll).data()
}

/// The expression with every chain nested.
pub(crate) fn unrolled(expr: Expr) -> Result<Expr> {
    expr.transform_up(|expr| match expr {
        Expr::ScalarFunction(function) => match Chain::of(&function) {
            Some(chain) => Ok(Transformed::yes(chain.over(function.args.clone())?)),
            None => Ok(Transformed::no(Expr::ScalarFunction(function))),
        },
        other => Ok(Transformed::no(other)),
    })
    .data()
}

fn has_chain(expr: &Expr) -> bool {
    expr.exists(|e| Ok(matches!(e, Expr::ScalarFunction(f) if Chain::of(f).is_some()))).unwrap_or(true)
}

impl Chain {
    /// The chain behind a function, if it is one.
    pub(crate) fn of(function: &ScalarFunction) -> Option<&Chain> {
        let inner: &dyn std::any::Any = function.func.inner().as_ref();
        inner.downcast_ref::<Chain>()
    }

    /// The nested operators.
    fn over(&self, args: Vec<Expr>) -> Result<Expr> {
        let mut args = args.into_iter();
        let Some(first) = args.next() else { return internal_err!("a chain without operands") };
        Ok(self.ops.iter().zip(args).fold(first, |left, (op, right)| one(left, *op, right)))
    }

    /// The type of the chain over operands; short, since most steps keep the type.
    pub(crate) fn type_over(&self, args: &[Expr], schema: &DFSchema) -> Result<DataType> {
        match (self.kind, args.last()) {
            (Kind::Texts, _) => Ok(TEXT),
            (Kind::Numbers, Some(last)) => {
                let last = data_type_of(last, schema)?;
                if !matches!(last, DataType::Decimal128(..)) {
                    return Ok(last);
                }
                self.return_type(&args.iter().map(|a| data_type_of(a, schema)).collect::<Result<Vec<_>>>()?)
            }
            (Kind::Numbers, None) => internal_err!("a chain without operands"),
        }
    }
}

impl ScalarUDFImpl for Chain {
    fn name(&self) -> &str {
        "operators"
    }

    /// As of the nested operators.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let mut name = match self.kind {
            Kind::Numbers => "(".repeat(self.ops.len()),
            Kind::Texts => String::new(),
        };
        let written = args.iter().enumerate().try_for_each(|(i, arg)| match (i, self.kind) {
            (0, _) => write!(name, "{}", arg.schema_name()),
            (i, Kind::Numbers) => write!(name, " {} {})", self.ops[i - 1], arg.schema_name()),
            (i, Kind::Texts) => write!(name, " {} {}", self.ops[i - 1], arg.schema_name()),
        });
        written.map_err(|error| exec_datafusion_err!("an operand without a name: {error}"))?;
        Ok(name)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let Some((first, rest)) = arg_types.split_first() else { return internal_err!("a chain without operands") };
        match self.kind {
            Kind::Texts => Ok(TEXT),
            Kind::Numbers => self
                .ops
                .iter()
                .zip(rest)
                .try_fold(first.clone(), |left, (op, right)| Arithmetic::type_of(*op, &left, right)),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let types: Vec<DataType> = args.arg_fields.iter().map(|f| f.data_type().clone()).collect();
        let nullable = self.kind == Kind::Numbers || args.arg_fields.iter().any(|f| f.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    /// Only constants are evaluated before the chain is nested.
    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let name = |i: usize| format!("c{i}");
        let field = |(i, f): (usize, &FieldRef)| Field::new(name(i), f.data_type().clone(), true);
        let schema = Arc::new(Schema::new(args.arg_fields.iter().enumerate().map(field).collect::<Vec<_>>()));
        let nested = self.over((0..args.args.len()).map(|i| col(name(i))).collect())?;
        let names = DFSchema::try_from(Arc::clone(&schema))?;
        let scalar = physical(&nested, &names).map_err(crate::binder::external)?;
        let arrays = args.args.into_iter().map(|value| value.into_array(args.number_rows));
        let batch = RecordBatch::try_new(schema, arrays.collect::<Result<_>>()?)?;
        scalar.evaluate(&batch).map(ColumnarValue::Array).map_err(crate::binder::external)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::ExprSchemable;
    use datafusion::logical_expr::lit;

    fn sum(n_operators: usize) -> Expr {
        let minus_every_third = |i: usize| if i.is_multiple_of(3) { Operator::Minus } else { Operator::Plus };
        (1..=n_operators).fold(col("a"), |left, i| applied(left, minus_every_third(i), col("a")))
    }

    fn nested(n_operators: usize) -> Expr {
        unrolled(sum(n_operators)).expect("operators")
    }

    fn schema(data_type: DataType) -> DFSchema {
        DFSchema::try_from(Schema::new(vec![Field::new("a", data_type, true)])).expect("a schema")
    }

    #[test]
    fn a_long_chain_is_one_call() {
        let Expr::ScalarFunction(function) = sum(40) else { panic!("a function") };
        assert_eq!(function.args.len(), 41);
        let Expr::ScalarFunction(function) = sum(LONG - 1) else { panic!("a function") };
        assert_eq!(function.args.len(), 2);
    }

    #[test]
    fn names_and_types_are_those_of_nested_operators() {
        let (long, nested) = (sum(40), nested(40));
        assert_ne!(long, nested);
        assert_eq!(long.schema_name().to_string(), nested.schema_name().to_string());
        for data_type in [DataType::Int32, DataType::Float64, DataType::Decimal128(10, 2)] {
            let schema = schema(data_type);
            let wanted = nested.get_type(&schema).expect("a type");
            assert_eq!(long.get_type(&schema).expect("a type"), wanted);
            assert_eq!(data_type_of(&long, &schema).expect("a type"), wanted);
        }
        let texts = (0..40).fold(col("a"), |left, _| applied(left, Operator::StringConcat, col("a")));
        let nested = unrolled(texts.clone()).expect("operators");
        assert_eq!(texts.schema_name().to_string(), nested.schema_name().to_string());
    }

    #[test]
    fn constants_are_evaluated_step_by_step() {
        let max = || lit(i32::MAX);
        let chain = |operands: &[Expr]| {
            operands.iter().skip(1).cloned().fold(operands[0].clone(), |l, r| applied(l, Operator::Plus, r))
        };
        let evaluate = |expr: &Expr| {
            let schema = DFSchema::empty();
            let scalar = physical(expr, &schema).expect("a scalar");
            let batch = millstream_expr::scalar::batch_of(Arc::new(Schema::empty()), vec![], 1).expect("one row");
            scalar.evaluate(&batch).map(|array| ScalarValue::try_from_array(&array, 0).expect("a value"))
        };
        let ones = vec![lit(1i32); 20];
        assert_eq!(evaluate(&chain(&ones)).expect("a sum"), ScalarValue::Int32(Some(20)));
        // The partial sum overflows, although the whole sum does not.
        let operands: Vec<Expr> = [max(), lit(1i32), lit(-1i32)].into_iter().chain(ones).collect();
        assert!(evaluate(&chain(&operands)).is_err());
    }
}
