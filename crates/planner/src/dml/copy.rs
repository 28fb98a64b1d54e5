//! `COPY ... FROM`

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use millstream_types::{Result, SqlType};

use super::{assign_all, bind_copy_columns, default_expr, rows_source, target};
use crate::ast::CopyFrom;
use crate::catalog::{Catalog, Relation};
use crate::errors::from_datafusion;

/// A `COPY ... FROM` that means something.
#[derive(Clone, Debug)]
pub struct BoundCopy {
    /// The target.
    pub relation: Arc<Relation>,
    /// The columns that the data has, as positions in the target.
    pub positions: Vec<usize>,
    /// From the data's columns, which it scans as a [`super::RowsSource`], to all visible columns of the target. `None` if
    /// columns that the data lacks are null.
    pub defaults: Option<LogicalPlan>,
}

impl BoundCopy {
    /// Names and types of the data's columns.
    pub fn columns(&self) -> Vec<(String, SqlType)> {
        let column = |&p: &usize| (self.relation.columns[p].name.clone(), self.relation.columns[p].sql_type.clone());
        self.positions.iter().map(column).collect()
    }
}

/// Resolves a `COPY ... FROM`.
///
/// # Errors
/// 42P01, 42703, 42701; 42809 for what cannot be written.
pub fn bind_copy(catalog: &Catalog, copy: &CopyFrom) -> Result<BoundCopy> {
    let relation = target(catalog, &copy.relation, "copy to")?;
    let positions = bind_copy_columns(&relation, &copy.columns)?;
    let has_default =
        |(i, column): (usize, &crate::catalog::Column)| column.default.is_some() && !positions.contains(&i);
    let needs_defaults = relation.visible_columns().iter().enumerate().any(has_default);
    let defaults = if needs_defaults { Some(with_defaults(catalog, &relation, &positions)?) } else { None };
    Ok(BoundCopy { relation, positions, defaults })
}

fn with_defaults(catalog: &Catalog, relation: &Relation, positions: &[usize]) -> Result<LogicalPlan> {
    let fields: Vec<_> = positions.iter().map(|&p| relation.columns[p].arrow_field().with_nullable(true)).collect();
    let rows = rows_source(Arc::new(Schema::new(fields)));
    let scan =
        LogicalPlanBuilder::scan("__copy", rows, None).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)?;
    let mut exprs = Vec::new();
    for (i, column) in relation.visible_columns().iter().enumerate() {
        let expr = match positions.iter().position(|&p| p == i) {
            Some(source) => Expr::from(scan.schema().qualified_field(source)),
            None => default_expr(catalog, column)?,
        };
        exprs.push((expr, column));
    }
    assign_all(scan, exprs)
}
