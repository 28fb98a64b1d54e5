//! The functions that SQL can name, and how DataFusion's planner finds them.

mod array_elements;
mod buckets;
mod builtin;
pub(crate) mod by_row;
mod bytes;
mod calendar;
pub(crate) mod casts;
pub(crate) mod equal_key;
mod exact;
pub(crate) mod excluding;
mod extract;
mod from_char;
pub(crate) mod hopping;
mod limits;
mod min_max;
pub(crate) mod moments;
pub(crate) mod named_cast;
mod not_a_number;
mod numbering;
pub(crate) mod numeric;
mod ordered_set;
pub(crate) mod overloads;
pub(crate) mod quantified;
mod regexp;
mod rounding;
pub(crate) mod row;
pub(crate) mod row_counts;
mod series;
pub(crate) mod single_value;
mod statistics;
pub(crate) mod stored;
mod sums;
mod temporal;
mod text;
mod text_forms;
mod to_char;
mod transcendental;
mod zoned;

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use arrow::datatypes::{Field, FieldRef};
use datafusion::common::DataFusionError;
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::planner::{ExprPlanner, TypePlanner};
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use datafusion::sql::sqlparser::ast::DataType as SqlDataType;

use crate::binder::external;
use crate::parser::sql_type_of;
use crate::typing::deferred::Call;
use crate::typing::planner::{Chains, PostgresPlanner};
pub(crate) use builtin::builtin;

/// Postgres' other names of aggregates.
const AGGREGATE_ALIASES: &[(&str, &str)] =
    &[("every", "bool_and"), ("variance", "var"), ("stddev_samp", "stddev"), ("var_samp", "var")];

/// All functions by name, built once.
pub(crate) struct Registry {
    scalars: HashMap<String, Arc<ScalarUDF>>,
    aggregates: HashMap<String, Arc<AggregateUDF>>,
    windows: HashMap<String, Arc<WindowUDF>>,
    expr_planners: Vec<Arc<dyn ExprPlanner>>,
    nesting_expr_planners: Vec<Arc<dyn ExprPlanner>>,
    type_planner: Arc<dyn TypePlanner>,
}

impl Registry {
    /// The one registry.
    pub(crate) fn get() -> &'static Registry {
        static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::build);
        &REGISTRY
    }

    fn build() -> Registry {
        let mut scalars = HashMap::new();
        for function in SessionStateDefaults::default_scalar_functions() {
            for alias in function.aliases() {
                scalars.insert(alias.clone(), function.clone());
            }
            scalars.insert(function.name().to_string(), function);
        }
        // Postgres' array_replace replaces all.
        if let Some(function) = scalars.get("array_replace_all").cloned() {
            scalars.insert("array_replace".to_string(), function);
        }
        scalars.insert(named_cast::NAMED_CAST.to_string(), named_cast::function());
        limits::limit(&mut scalars);
        let mut aggregates = HashMap::new();
        let ours = ordered_set::all().into_iter().chain(statistics::all()).chain(min_max::all());
        let ours = ours.chain([single_value::up_to_two(), sums::sum()]);
        for function in SessionStateDefaults::default_aggregate_functions().into_iter().chain(ours) {
            for alias in function.aliases() {
                aggregates.insert(alias.clone(), function.clone());
            }
            aggregates.insert(function.name().to_string(), function);
        }
        for (alias, name) in AGGREGATE_ALIASES {
            if let Some(function) = aggregates.get(*name).cloned() {
                aggregates.insert((*alias).to_string(), function);
            }
        }
        let mut windows = HashMap::new();
        for function in SessionStateDefaults::default_window_functions() {
            let function = match numbering::type_of(function.name()) {
                Some(data_type) => numbering::with_type(function, data_type),
                None => function,
            };
            for alias in function.aliases() {
                windows.insert(alias.clone(), function.clone());
            }
            windows.insert(function.name().to_string(), function);
        }
        Registry {
            scalars,
            aggregates,
            windows,
            expr_planners: expr_planners(Chains::AreOneCall),
            nesting_expr_planners: expr_planners(Chains::Nest),
            type_planner: Arc::new(PostgresTypeNames),
        }
    }

    /// The scalar function that a name in SQL means: deferred where Postgres has overloads. A name that means nothing is
    /// deferred too, so that the error can name the types of the arguments.
    pub(crate) fn scalar(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        let name = unqualified(name);
        if overloads::is_known(name) {
            return Some(Call::function(name).udf());
        }
        if let Some(function) = self.scalars.get(name) {
            return Some(function.clone());
        }
        let is_other = self.aggregates.contains_key(name) || self.windows.contains_key(name) || name == "unnest";
        if is_other { None } else { Some(Call::function(name).udf()) }
    }

    /// DataFusion's function of a name.
    pub(crate) fn datafusion(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.scalars.get(name).cloned()
    }

    pub(crate) fn aggregate(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.aggregates.get(unqualified(name)).cloned()
    }

    pub(crate) fn window(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.windows.get(unqualified(name)).cloned()
    }

    pub(crate) fn expr_planners(&self, chains: Chains) -> &[Arc<dyn ExprPlanner>] {
        match chains {
            Chains::AreOneCall => &self.expr_planners,
            Chains::Nest => &self.nesting_expr_planners,
        }
    }

    pub(crate) fn type_planner(&self) -> Arc<dyn TypePlanner> {
        self.type_planner.clone()
    }
}

/// Ours first: what it does not plan, DataFusion's do.
fn expr_planners(chains: Chains) -> Vec<Arc<dyn ExprPlanner>> {
    let mut planners: Vec<Arc<dyn ExprPlanner>> = vec![Arc::new(PostgresPlanner { chains })];
    planners.extend(SessionStateDefaults::default_expr_planners());
    planners
}

/// `pg_catalog.lower` is `lower`.
fn unqualified(name: &str) -> &str {
    name.strip_prefix("pg_catalog.").unwrap_or(name)
}

/// Type names in casts mean what they mean in DDL.
#[derive(Debug)]
struct PostgresTypeNames;

impl TypePlanner for PostgresTypeNames {
    fn plan_type_field(&self, sql_type: &SqlDataType) -> Result<Option<FieldRef>, DataFusionError> {
        let sql_type = sql_type_of(sql_type).map_err(external)?;
        Ok(Some(Arc::new(Field::new("", sql_type.arrow_type(), true))))
    }
}
