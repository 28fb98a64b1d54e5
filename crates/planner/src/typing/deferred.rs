//! Operators and functions whose meaning waits until all types are known.
//!
//! While DataFusion plans, types are not final: `'1'` may yet be a number, a derived table's column may yet widen. So our
//! planner hooks put a [`Deferred`] call where Postgres would resolve an overload, and the analyzer resolves it once the
//! types below are final. In between it only guesses its type, by resolving a copy over typed dummies; a guess that fails
//! is `Null`, and the real error comes from the analyzer.

use std::fmt::Write;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{DFSchema, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ExprSchemable, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, TypeSignature, Volatility,
};

use super::types::Result;
use crate::functions::overloads::UNKNOWN;

/// What is to be called.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    /// An operator that DataFusion has too.
    Operator(Operator),
    /// A chain of them, evaluated from left to right: one operand more than operators.
    Operators(Vec<Operator>),
    /// A function, or what stands for one in the grammar, by Postgres' name.
    Function(String),
}

impl Call {
    pub(crate) fn function(name: &str) -> Call {
        Call::Function(name.to_string())
    }

    /// The call over arguments, as an expression that the analyzer resolves.
    pub(crate) fn defer(self, args: Vec<Expr>) -> Expr {
        Expr::ScalarFunction(ScalarFunction::new_udf(self.udf(), args))
    }

    /// The call as a function that the planner can hold.
    pub(crate) fn udf(self) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(Deferred::new(self)))
    }
}

/// A call that the analyzer resolves.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Deferred {
    pub(crate) call: Call,
    name: String,
    signature: Signature,
}

impl Deferred {
    fn new(call: Call) -> Self {
        let name = match &call {
            Call::Operator(op) => op.to_string(),
            Call::Operators(_) => "operators".to_string(),
            Call::Function(name) => name.clone(),
        };
        let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        let signature = Signature::new(TypeSignature::OneOf(any), Volatility::Immutable);
        Deferred { call, name, signature }
    }

    /// The call behind a function, if it is a deferred one.
    pub(crate) fn of(function: &ScalarFunction) -> Option<&Deferred> {
        let inner: &dyn std::any::Any = function.func.inner().as_ref();
        inner.downcast_ref::<Deferred>()
    }
}

impl ScalarUDFImpl for Deferred {
    fn name(&self) -> &str {
        &self.name
    }

    /// As of nested calls. The first argument may be such a call again, and so on: a name within a name is not made by itself.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let (mut name, mut rests) = (String::new(), Vec::new());
        let (mut call, mut args) = (self, args);
        loop {
            match (&call.call, args.split_first()) {
                (Call::Operators(ops), Some((_, rest))) => {
                    ops.iter().rev().for_each(|op| name.extend([&op.to_string(), "("]));
                    rests.extend(rest.chunks(1).rev());
                }
                (_, rest) => {
                    name.extend([&call.name, "("]);
                    rests.push(rest.map_or(&[] as &[Expr], |(_, rest)| rest));
                }
            }
            match args.first() {
                Some(Expr::ScalarFunction(function)) if let Some(inner) = Deferred::of(function) => {
                    (call, args) = (inner, &function.args);
                }
                Some(first) => {
                    write!(name, "{}", first.schema_name()).map_err(|e| exec_datafusion_err!("{e}"))?;
                    break;
                }
                None => break,
            }
        }
        for rest in rests.into_iter().rev() {
            for arg in rest {
                write!(name, ",{}", arg.schema_name()).map_err(|e| exec_datafusion_err!("{e}"))?;
            }
            name.push(')');
        }
        Ok(name)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type of {} depends on its constants", self.name)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        crate::interrupt::check()?;
        if self.name == UNKNOWN {
            return Ok(Arc::new(Field::new(self.name(), DataType::Null, true)));
        }
        let dummies = args.arg_fields.iter().zip(args.scalar_arguments).map(|(field, value)| dummy(field, *value));
        let guess = match &self.call {
            Call::Operators(ops) => guessed_type_of_chain(ops, dummies.collect()),
            call => guessed_type(call, dummies.collect()),
        };
        Ok(Arc::new(Field::new(self.name(), guess, true)))
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        internal_err!("{} was not resolved", self.name)
    }
}

fn guessed_type(call: &Call, dummies: Vec<Expr>) -> DataType {
    let schema = DFSchema::empty();
    let resolved = super::calls::resolve_call(call, dummies, &schema);
    resolved.and_then(|expr| expr.get_type(&schema)).unwrap_or(DataType::Null)
}

fn guessed_type_of_chain(ops: &[Operator], dummies: Vec<Expr>) -> DataType {
    let mut dummies = dummies.into_iter();
    let (Some(mut left), mut guess) = (dummies.next(), DataType::Null) else { return DataType::Null };
    for (op, right) in ops.iter().zip(dummies) {
        guess = guessed_type(&Call::Operator(*op), vec![left, right]);
        left = null_of(&guess);
    }
    guess
}

/// An expression of an argument's type: itself if it is a constant, else a null of the type.
fn dummy(field: &FieldRef, value: Option<&ScalarValue>) -> Expr {
    match value {
        // As the analyzer will have it.
        Some(ScalarValue::Int64(Some(n))) if i32::try_from(*n).is_ok() => {
            Expr::Literal(ScalarValue::Int32(i32::try_from(*n).ok()), None)
        }
        Some(value) => Expr::Literal(value.clone(), None),
        None => null_of(field.data_type()),
    }
}

fn null_of(data_type: &DataType) -> Expr {
    if data_type.is_null() {
        return Expr::Literal(ScalarValue::Null, None);
    }
    let null = Expr::Literal(ScalarValue::Boolean(None), None);
    Expr::Cast(Cast::new(Box::new(null), data_type.clone()))
}
