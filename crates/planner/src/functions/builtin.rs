//! The frame of the functions that are ours: a name, a type, a loop over columns.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use millstream_types::Error;

use crate::binder::external;
use crate::typing::types::Result;

/// What a function of ours is.
#[derive(Debug)]
pub(crate) struct Spec {
    /// Its name, unique among ours.
    pub(crate) name: &'static str,
    /// The type of its result.
    pub(crate) returns: fn(&[DataType]) -> DataType,
    /// Computes a column from argument columns, all of the given length.
    pub(crate) run: fn(&[ArrayRef], usize) -> Result<ArrayRef, Error>,
    /// Whether a null argument makes the result null.
    pub(crate) strict: bool,
}

/// A function of ours. Its arguments have been coerced before.
#[derive(Debug)]
struct Builtin {
    spec: &'static Spec,
    signature: Signature,
}

impl PartialEq for Builtin {
    fn eq(&self, other: &Self) -> bool {
        self.spec.name == other.spec.name
    }
}

impl Eq for Builtin {}

impl std::hash::Hash for Builtin {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.spec.name.hash(state);
    }
}

impl ScalarUDFImpl for Builtin {
    fn name(&self) -> &str {
        self.spec.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok((self.spec.returns)(arg_types))
    }

    fn is_strict(&self) -> bool {
        self.spec.strict
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let all_scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let n_rows = if all_scalar { 1 } else { args.number_rows };
        let arrays = args.args.into_iter().map(|a| a.into_array(n_rows)).collect::<Result<Vec<_>>>()?;
        let result = (self.spec.run)(&arrays, n_rows).map_err(external)?;
        if all_scalar {
            return ScalarValue::try_from_array(&result, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(result))
    }
}

/// The function of ours with this name.
///
/// # Panics
/// If there is none: names are constants of this crate.
pub(crate) fn builtin(name: &str) -> Arc<ScalarUDF> {
    find(name).expect("a name from the tables of built-in functions")
}

/// Whether a function is of ours.
pub(crate) fn is_ours(function: &dyn std::any::Any) -> bool {
    function.is::<Builtin>()
}

/// The function of ours with this name, if there is one.
pub(crate) fn find(name: &str) -> Option<Arc<ScalarUDF>> {
    by_name().get(name).cloned()
}

/// All functions of ours.
#[cfg(test)]
pub(super) fn all() -> Vec<Arc<ScalarUDF>> {
    by_name().values().cloned().collect()
}

fn by_name() -> &'static HashMap<&'static str, Arc<ScalarUDF>> {
    static ALL: LazyLock<HashMap<&'static str, Arc<ScalarUDF>>> = LazyLock::new(|| {
        let specs = super::temporal::SPECS.iter().chain(super::text::SPECS).chain(super::extract::SPECS);
        let specs = specs.chain(super::rounding::SPECS).chain(super::to_char::SPECS).chain(super::series::SPECS);
        let specs = specs.chain(super::regexp::SPECS).chain(super::hopping::SPECS).chain(super::calendar::SPECS);
        let specs = specs.chain(super::transcendental::SPECS).chain(super::buckets::SPECS);
        let specs = specs.chain(super::moments::SPECS).chain(super::equal_key::SPECS).chain(super::bytes::SPECS);
        let specs = specs.chain(super::text_forms::SPECS).chain(super::array_elements::SPECS);
        let specs = specs.chain(super::exact::SPECS).chain(super::not_a_number::SPECS);
        let specs = specs.chain(super::from_char::SPECS).chain(super::single_value::SPECS).chain(super::zoned::SPECS);
        let specs = specs.chain(super::row::SPECS).chain(super::row_counts::SPECS);
        specs.map(|spec| (spec.name, Arc::new(ScalarUDF::new_from_impl(Builtin::new(spec))))).collect()
    });
    &ALL
}

impl Builtin {
    fn new(spec: &'static Spec) -> Self {
        let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        Builtin { spec, signature: Signature::new(TypeSignature::OneOf(any), Volatility::Immutable) }
    }
}
