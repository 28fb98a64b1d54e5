//! A relation as DataFusion's plans scan it.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::{Constraint, Constraints};
use datafusion::logical_expr::{Expr, LogicalPlan, TableProviderFilterPushDown, TableSource, TableType};

use crate::catalog::{Catalog, Relation, RelationId};
use crate::session_context::Purpose;

/// What a `TableScan` of a relation carries: who it is, the columns scanned, its key and its indexes.
///
/// The engine replaces it with rows at an epoch; the streaming rules with an input of the dataflow.
#[derive(Debug)]
pub struct RelationSource {
    relation: Arc<Relation>,
    schema: SchemaRef,
    constraints: Constraints,
    /// The columns of its secondary indexes.
    indexes: Vec<Vec<usize>>,
    purpose: Purpose,
}

impl RelationSource {
    /// The columns that a user sees.
    pub fn visible(catalog: &Catalog, relation: &Arc<Relation>, purpose: Purpose) -> Self {
        let schema = relation.visible_schema();
        let constraints = match relation.declared_key() {
            Some(key) => Constraints::new_unverified(vec![Constraint::PrimaryKey(key.to_vec())]),
            None => Constraints::default(),
        };
        let indexes = catalog.indexed_columns(relation.id).collect();
        RelationSource { relation: relation.clone(), schema, constraints, indexes, purpose }
    }

    /// All columns, a hidden row id included, for statements that change rows.
    pub fn full(catalog: &Catalog, relation: &Arc<Relation>) -> Self {
        let constraints = match relation.primary_key.as_slice() {
            [] => Constraints::default(),
            key => Constraints::new_unverified(vec![Constraint::PrimaryKey(key.to_vec())]),
        };
        RelationSource {
            relation: relation.clone(),
            schema: relation.full_schema(),
            constraints,
            indexes: catalog.indexed_columns(relation.id).collect(),
            purpose: Purpose::AdHoc,
        }
    }

    /// The relation as the catalog had it when the plan was made.
    pub fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// Its id.
    pub fn id(&self) -> RelationId {
        self.relation.id
    }

    /// The columns by which rows are found, and whether no two rows share their values; the key comes first.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = (&[usize], bool)> {
        let key = self.relation.declared_key().map(|key| (key, true));
        key.into_iter().chain(self.indexes.iter().map(|columns| (columns.as_slice(), false)))
    }

    /// The source behind a scan, if it is one of ours.
    pub fn of(source: &Arc<dyn TableSource>) -> Option<&RelationSource> {
        source.as_ref().downcast_ref::<RelationSource>()
    }
}

impl TableSource for RelationSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn constraints(&self) -> Option<&Constraints> {
        Some(&self.constraints)
    }

    /// An ad-hoc scan is told its filters, so that it may look up a key, and applies them no more than it likes to.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::common::Result<Vec<TableProviderFilterPushDown>> {
        let support = match self.purpose {
            Purpose::AdHoc => TableProviderFilterPushDown::Inexact,
            Purpose::View => TableProviderFilterPushDown::Unsupported,
        };
        Ok(vec![support; filters.len()])
    }
}

/// A view that is not materialized: its plan takes the place of the scan.
pub(super) struct ViewSource {
    plan: LogicalPlan,
    schema: SchemaRef,
}

impl ViewSource {
    pub(super) fn new(plan: LogicalPlan) -> Self {
        let schema = Arc::new(plan.schema().as_arrow().clone());
        ViewSource { plan, schema }
    }
}

impl TableSource for ViewSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn get_logical_plan(&self) -> Option<Cow<'_, LogicalPlan>> {
        Some(Cow::Borrowed(&self.plan))
    }
}
