//! Plans of views and sinks, as they are stored: what runs is always what was decoded.

use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use millstream_expr::encoded::Functions;
use millstream_operators::encoded;
use millstream_planner::stored_functions;
use millstream_planner::streaming::StreamingPlan;
use millstream_types::Result;
use millstream_types::hash::hash_bytes;
use serde_json::{Value, json};

use crate::pg_catalog;

/// A plan, and its bytes.
pub(crate) struct StoredPlan {
    /// The plan that was decoded.
    pub(crate) plan: StreamingPlan,
    /// The plan as it is stored.
    pub(crate) bytes: Arc<[u8]>,
}

impl StoredPlan {
    /// The plan that was stored.
    ///
    /// # Errors
    /// 0A000 if this release cannot run it; internal, if the bytes are no plan.
    pub(crate) fn read(bytes: &Arc<[u8]>) -> Result<Self> {
        let (dataflow, result) = encoded::decode(bytes, &AllFunctions)?;
        let plan = StreamingPlan { dataflow, result, relations: vec![], copied: vec![] };
        Ok(StoredPlan { plan, bytes: Arc::clone(bytes) })
    }

    /// Tells plans apart: state is of use to a dataflow of the same plan only.
    pub(crate) fn hash(&self) -> u64 {
        hash_bytes(&self.bytes)
    }

    /// Brings a plan into its stored form and back, so that a view that is made is one that can be recovered.
    ///
    /// # Errors
    /// Internal, if some part of it has no form.
    pub(crate) fn new(plan: StreamingPlan) -> Result<Self> {
        let bytes = encoded::encode(&plan.dataflow, &plan.result, &AllFunctions)?;
        let (dataflow, result) = encoded::decode(&bytes, &AllFunctions)?;
        Ok(StoredPlan { plan: StreamingPlan { dataflow, result, ..plan }, bytes: bytes.into() })
    }
}

/// The planner's functions, and those of the catalog that a view may call.
struct AllFunctions;

/// The one field of the name of a catalog function.
const CATALOG: &str = "catalog";

impl Functions for AllFunctions {
    fn name_of_scalar(&self, function: &ScalarUDF) -> Result<Value> {
        match pg_catalog::find_function(function.name()) {
            Some(ours) if *ours == *function => Ok(json!({ CATALOG: function.name() })),
            _ => stored_functions().name_of_scalar(function),
        }
    }

    fn scalar(&self, name: &Value) -> Result<Arc<ScalarUDF>> {
        match name.get(CATALOG).and_then(Value::as_str).and_then(pg_catalog::find_function) {
            Some(function) => Ok(function),
            None => stored_functions().scalar(name),
        }
    }

    fn name_of_aggregate(&self, function: &AggregateUDF) -> Result<Value> {
        stored_functions().name_of_aggregate(function)
    }

    fn aggregate(&self, name: &Value) -> Result<Arc<AggregateUDF>> {
        stored_functions().aggregate(name)
    }

    fn name_of_window(&self, function: &WindowUDF) -> Result<Value> {
        stored_functions().name_of_window(function)
    }

    fn window(&self, name: &Value) -> Result<Arc<WindowUDF>> {
        stored_functions().window(name)
    }

    fn options(&self) -> &Arc<ConfigOptions> {
        stored_functions().options()
    }
}
