//! Functions by their own names.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use millstream_types::{Error, Result};
use serde_json::Value;

use super::Functions;

/// Functions that are given, each by its own name: for tests, and for those who run operators without the planner.
#[derive(Default)]
pub struct FunctionsByName {
    scalars: BTreeMap<String, Arc<ScalarUDF>>,
    aggregates: BTreeMap<String, Arc<AggregateUDF>>,
    windows: BTreeMap<String, Arc<WindowUDF>>,
    options: Arc<ConfigOptions>,
}

impl FunctionsByName {
    /// With a scalar function.
    #[must_use]
    pub fn with_scalar(mut self, function: Arc<ScalarUDF>) -> Self {
        self.scalars.insert(function.name().to_owned(), function);
        self
    }

    /// With an aggregate.
    #[must_use]
    pub fn with_aggregate(mut self, function: Arc<AggregateUDF>) -> Self {
        self.aggregates.insert(function.name().to_owned(), function);
        self
    }

    /// With a window function.
    #[must_use]
    pub fn with_window(mut self, function: Arc<WindowUDF>) -> Self {
        self.windows.insert(function.name().to_owned(), function);
        self
    }
}

fn name_of<T: PartialEq>(functions: &BTreeMap<String, Arc<T>>, function: &T, name: &str) -> Result<Value> {
    match functions.get(name) {
        Some(found) if **found == *function => Ok(name.into()),
        _ => Err(Error::internal(format!("function {name}() has no name"))),
    }
}

fn find<T>(functions: &BTreeMap<String, Arc<T>>, name: &Value) -> Result<Arc<T>> {
    let found = name.as_str().and_then(|name| functions.get(name)).cloned();
    found.ok_or_else(|| Error::not_supported(format!("function {name} is not known")))
}

impl Functions for FunctionsByName {
    fn name_of_scalar(&self, function: &ScalarUDF) -> Result<Value> {
        name_of(&self.scalars, function, function.name())
    }

    fn scalar(&self, name: &Value) -> Result<Arc<ScalarUDF>> {
        find(&self.scalars, name)
    }

    fn name_of_aggregate(&self, function: &AggregateUDF) -> Result<Value> {
        name_of(&self.aggregates, function, function.name())
    }

    fn aggregate(&self, name: &Value) -> Result<Arc<AggregateUDF>> {
        find(&self.aggregates, name)
    }

    fn name_of_window(&self, function: &WindowUDF) -> Result<Value> {
        name_of(&self.windows, function, function.name())
    }

    fn window(&self, name: &Value) -> Result<Arc<WindowUDF>> {
        find(&self.windows, name)
    }

    fn options(&self) -> &Arc<ConfigOptions> {
        &self.options
    }
}
