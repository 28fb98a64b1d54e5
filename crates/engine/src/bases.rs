//! Tables and streams as the engine runs them, made when they are created and when they are recovered.

use std::sync::Arc;

use arrow::array::RecordBatch;
use millstream_connectors::{BoundExpr, ColumnDeclaration, ExprBinder, SourceOptions, create_source};
use millstream_planner::Catalog;
use millstream_planner::catalog::{Kind, Relation};
use millstream_planner::row_expr::bind_row_expr;
use millstream_runtime::{RelationShared, RelationSpec, Source};
use millstream_state::ArrangementSpec;
use millstream_types::Result;

use crate::engine::EngineState;
use crate::live::{Body, LiveRelation};
use crate::session::without_position;

impl EngineState {
    /// A relation whose rows are kept.
    pub(crate) fn stored(&self, relation: Arc<Relation>) -> (Arc<LiveRelation>, RelationSpec) {
        let shared = self.shared_base();
        let identity = (relation.kind == Kind::Table).then(|| relation.primary_key.clone());
        let arrangement = ArrangementSpec { schema: relation.full_schema(), identity, indexes: vec![] };
        let spec = RelationSpec::Stored { arrangement, shared: Arc::clone(&shared) };
        (Arc::new(LiveRelation::new(relation, shared, Body::Stored, self.config.workers)), spec)
    }

    /// A stream that reads from a source.
    pub(crate) fn sourced(
        &self,
        relation: Arc<Relation>,
        source: Arc<dyn Source>,
    ) -> (Arc<LiveRelation>, RelationSpec) {
        let shared = self.shared_base();
        shared.mark_unstored();
        let spec = RelationSpec::Source { source: Arc::clone(&source), shared: Arc::clone(&shared) };
        let body = Body::Source { source, positions: parking_lot::RwLock::default() };
        (Arc::new(LiveRelation::new(relation, shared, body, self.config.workers)), spec)
    }

    /// A table or stream of the catalog.
    ///
    /// # Errors
    /// If its connector does not take its options.
    pub(crate) fn base(&self, catalog: &Catalog, relation: Arc<Relation>) -> Result<(Arc<LiveRelation>, RelationSpec)> {
        if !relation.has_connector() {
            return Ok(self.stored(relation));
        }
        let declared = relation.visible_columns().iter();
        let declared = declared.map(|c| ColumnDeclaration { name: c.name.clone(), sql_type: c.sql_type.clone() });
        let source = source_of(catalog, relation.options.clone(), declared.collect())?;
        Ok(self.sourced(relation, source))
    }

    fn shared_base(&self) -> Arc<RelationShared> {
        Arc::new(RelationShared::new(self.config.workers, self.memory.part(None), self.clock.holds()))
    }
}

/// The source that options describe.
///
/// # Errors
/// If the connector does not take them.
pub(crate) fn source_of(
    catalog: &Catalog,
    options: Vec<(String, String)>,
    declared: Vec<ColumnDeclaration>,
) -> Result<Arc<dyn Source>> {
    let options = SourceOptions::new(options)?.with_columns(declared);
    create_source(&options.with_binder(binder(catalog)))
}

/// Binds the expressions in a connector's options.
fn binder(catalog: &Catalog) -> ExprBinder {
    let catalog = catalog.clone();
    Arc::new(move |text, schema, sql_type| {
        // Positions would point into the option's text.
        let bound = bind_row_expr(&catalog, text, schema, sql_type).map_err(|e| without_position(&e))?;
        let (inputs, scalar) = (bound.inputs, bound.scalar);
        Ok(BoundExpr { inputs, evaluate: Arc::new(move |batch: &RecordBatch| scalar.evaluate(batch)) })
    })
}
