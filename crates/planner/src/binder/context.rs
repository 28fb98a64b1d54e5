//! What DataFusion's SQL planner asks us: relations, functions, options.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{DataFusionError, TableReference};
use datafusion::config::ConfigOptions;
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner, TypePlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use millstream_types::{Error, SqlState};

use super::source::{RelationSource, ViewSource};
use crate::catalog::{Catalog, Kind, Relation, RelationId};
use crate::dml::TARGET_SCHEMA;
use crate::dml::returning::OTHERS_SCHEMA;
use crate::functions::Registry;
use crate::session_context::{Purpose, options};
use crate::typing::planner::Chains;

/// How deep views may stand on views.
const MAX_VIEW_DEPTH: usize = 64;

/// The planner's view of one catalog version, for one query.
pub(crate) struct PlanContext<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) purpose: Purpose,
    pub(super) view_depth: usize,
    pub(super) chains: Cell<Chains>,
    /// Casts have names of their own.
    pub(super) names_casts: Cell<bool>,
    /// The relations named by the query itself, not by views that it names.
    pub(crate) used: RefCell<BTreeSet<RelationId>>,
    pub(super) relation_planners: Vec<Arc<dyn RelationPlanner>>,
    /// What a statement that changes rows scans under the name of its target.
    pub(super) target: Option<Arc<dyn TableSource>>,
    /// What it scans under the numbers of the relations beside its target.
    pub(super) others: Vec<Arc<dyn TableSource>>,
}

impl<'a> PlanContext<'a> {
    pub(crate) fn new(catalog: &'a Catalog, purpose: Purpose) -> Self {
        PlanContext {
            catalog,
            purpose,
            view_depth: 0,
            chains: Cell::new(Chains::AreOneCall),
            names_casts: Cell::new(false),
            used: RefCell::default(),
            relation_planners: vec![Arc::new(super::windows::WindowTables)],
            target: None,
            others: Vec::new(),
        }
    }

    /// The same with a source for the target of a statement that changes rows.
    pub(crate) fn with_rows(self, source: Arc<dyn TableSource>) -> Self {
        PlanContext { target: Some(source), ..self }
    }

    /// The same with sources for the relations beside the target.
    pub(crate) fn with_others(self, others: Vec<Arc<dyn TableSource>>) -> Self {
        PlanContext { others, ..self }
    }

    fn source_of(&self, relation: &Arc<Relation>) -> Result<Arc<dyn TableSource>, DataFusionError> {
        match &relation.kind {
            Kind::View(_) => {
                if self.view_depth >= MAX_VIEW_DEPTH {
                    let message = format!("view \"{}\" nests too deeply", relation.name);
                    return Err(external(Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, message)));
                }
                let plan = super::view_plan(self, relation).map_err(external)?;
                Ok(Arc::new(ViewSource::new(plan)))
            }
            Kind::Index(_) | Kind::Sink(_) => {
                let message = format!("cannot read from {} \"{}\"", relation.kind.noun(), relation.name);
                Err(external(Error::user(SqlState::WRONG_OBJECT_TYPE, message)))
            }
            _ => Ok(Arc::new(RelationSource::visible(self.catalog, relation, self.purpose))),
        }
    }
}

/// Our error on its way through DataFusion.
pub(crate) fn external(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

impl ContextProvider for PlanContext<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>, DataFusionError> {
        if let Some(target) = &self.target
            && name.schema() == Some(TARGET_SCHEMA)
        {
            return Ok(target.clone());
        }
        if name.schema() == Some(OTHERS_SCHEMA)
            && let Some(other) = name.table().parse::<usize>().ok().and_then(|i| self.others.get(i))
        {
            return Ok(other.clone());
        }
        let relation = self.catalog.find(name.schema(), name.table()).ok_or_else(|| {
            let shown = match name.schema() {
                Some(schema) => format!("{schema}.{}", name.table()),
                None => name.table().to_string(),
            };
            external(Error::user(SqlState::UNDEFINED_TABLE, format!("relation \"{shown}\" does not exist")))
        })?;
        self.used.borrow_mut().insert(relation.id);
        self.source_of(relation)
    }

    fn create_cte_work_table(&self, name: &str, schema: SchemaRef) -> Result<Arc<dyn TableSource>, DataFusionError> {
        Ok(provider_as_source(Arc::new(CteWorkTable::new(name, schema))))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        Registry::get().expr_planners(self.chains.get())
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        &self.relation_planners
    }

    fn get_type_planner(&self) -> Option<Arc<dyn TypePlanner>> {
        Some(Registry::get().type_planner())
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.catalog.function(name).cloned().or_else(|| Registry::get().scalar(name))
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        Registry::get().aggregate(name)
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        Registry::get().window(name)
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        options()
    }

    fn udf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}
