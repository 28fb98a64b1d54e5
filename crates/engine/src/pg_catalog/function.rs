//! A catalog function: a name, a type, and what it computes from values and from what the session sees.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use millstream_types::{Error, Result, SqlState};

use super::CatalogView;
use super::cell::{Cell, CellType};

/// A function of the catalog. All take any number of arguments of any types: there are few enough of them to look at
/// what came.
pub(super) struct Spec {
    pub(super) name: &'static str,
    pub(super) returns: Returns,
    pub(super) run: Run,
    /// A null argument makes the result null.
    pub(super) strict: bool,
}

/// The type of a function's result.
#[derive(Clone, Copy)]
pub(super) enum Returns {
    Always(CellType),
    /// The identifier of an object for its name, and its name for its identifier.
    OtherForm,
}

/// What a function computes.
#[derive(Clone, Copy)]
pub(super) enum Run {
    /// From its arguments alone.
    Pure(fn(&[Cell]) -> Result<Cell>),
    /// From what the session sees as well.
    Catalog(fn(&CatalogView, &[Cell]) -> Result<Cell>),
    /// From the types of its arguments.
    Types(fn(&[DataType]) -> Result<Cell>),
}

impl Spec {
    /// A function that is null for a null argument.
    pub(super) const fn strict(name: &'static str, returns: CellType, run: Run) -> Spec {
        Spec { name, returns: Returns::Always(returns), run, strict: true }
    }

    /// A function that sees nulls.
    pub(super) const fn total(name: &'static str, returns: CellType, run: Run) -> Spec {
        Spec { name, returns: Returns::Always(returns), run, strict: false }
    }
}

/// A catalog function as DataFusion calls it.
pub(crate) struct CatalogFunction {
    spec: &'static Spec,
    /// What the session sees; a function that is about to run has it.
    view: Option<Arc<CatalogView>>,
    signature: Signature,
}

impl CatalogFunction {
    pub(super) fn new(spec: &'static Spec) -> Self {
        CatalogFunction::with_view(spec, None)
    }

    fn with_view(spec: &'static Spec, view: Option<Arc<CatalogView>>) -> Self {
        let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        // What depends on the session is not to be computed while a plan is made, nor kept in a view.
        let volatility = if matches!(spec.run, Run::Catalog(_)) { Volatility::Volatile } else { Volatility::Immutable };
        CatalogFunction { spec, view, signature: Signature::new(TypeSignature::OneOf(any), volatility) }
    }

    /// The catalog function behind a call, if it is one that wants a view.
    pub(super) fn of(call: &ScalarFunction) -> Option<&CatalogFunction> {
        let inner: &dyn std::any::Any = call.func.inner().as_ref();
        inner.downcast_ref::<CatalogFunction>().filter(|f| matches!(f.spec.run, Run::Catalog(_)))
    }

    /// The same with what a session sees.
    pub(super) fn bound(&self, view: &Arc<CatalogView>) -> Arc<ScalarUDF> {
        Arc::new(ScalarUDF::new_from_impl(CatalogFunction::with_view(self.spec, Some(Arc::clone(view)))))
    }

    fn value(&self, args: &[Cell], types: &[DataType]) -> Result<Cell> {
        if self.spec.strict && args.contains(&Cell::Null) {
            return Ok(Cell::Null);
        }
        match self.spec.run {
            Run::Pure(run) => run(args),
            Run::Types(run) => run(types),
            Run::Catalog(run) => match &self.view {
                Some(view) => run(view, args),
                None => Err(Error::user(
                    SqlState::FEATURE_NOT_SUPPORTED,
                    format!("function {}() cannot be used here", self.spec.name),
                )),
            },
        }
    }
}

impl std::fmt::Debug for CatalogFunction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.spec.name)
    }
}

impl PartialEq for CatalogFunction {
    fn eq(&self, other: &Self) -> bool {
        let view = |f: &Self| f.view.as_ref().map(Arc::as_ptr);
        self.spec.name == other.spec.name && view(self) == view(other)
    }
}

impl Eq for CatalogFunction {}

impl Hash for CatalogFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.spec.name.hash(state);
    }
}

impl ScalarUDFImpl for CatalogFunction {
    fn name(&self) -> &str {
        self.spec.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(self.spec.returns.of(arg_types).sql_type().arrow_type())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let types: Vec<DataType> = args.args.iter().map(ColumnarValue::data_type).collect();
        let all_scalar = args.args.iter().all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let n_rows = if all_scalar { 1 } else { args.number_rows };
        let arrays = args.args.into_iter().map(|a| a.into_array(n_rows)).collect::<Result<Vec<_>, _>>()?;
        let external = |e: Error| DataFusionError::External(Box::new(e));
        let mut cells = Vec::with_capacity(n_rows);
        for row_idx in 0..n_rows {
            let args = arrays.iter().map(|a| Cell::at(a, row_idx)).collect::<Result<Vec<_>>>().map_err(external)?;
            cells.push(self.value(&args, &types).map_err(external)?);
        }
        let array = self.spec.returns.of(&types).array(cells.iter());
        if all_scalar {
            return ScalarValue::try_from_array(&array, 0).map(ColumnarValue::Scalar);
        }
        Ok(ColumnarValue::Array(array))
    }
}

impl Returns {
    fn of(self, arg_types: &[DataType]) -> CellType {
        match self {
            Returns::Always(kind) => kind,
            Returns::OtherForm => match arg_types.first() {
                Some(data_type) if data_type.is_integer() => CellType::Text,
                // A name, or a parameter that will be one.
                _ => CellType::BigInt,
            },
        }
    }
}
