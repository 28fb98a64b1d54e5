//! `COPY ... FROM`

use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast as sql;
use millstream_types::{Result, SqlType};

use super::{assign_all, bind_copy_columns, default_expr, project, rows_source, target};
use crate::ast::CopyFrom;
use crate::binder::{PlanContext, check_row_condition, rewrite_expr};
use crate::catalog::{Catalog, Relation};
use crate::errors::from_datafusion;
use crate::session_context::Purpose;
use crate::typing::calls::condition;
use crate::typing::exprs::resolve;

/// A `COPY ... FROM` that means something.
#[derive(Clone, Debug)]
pub struct BoundCopy {
    /// The target.
    pub relation: Arc<Relation>,
    /// The columns that the data has, as positions in the target.
    pub positions: Vec<usize>,
    /// From the data's columns, which it scans as a [`super::RowsSource`], to all visible columns of the target, of the rows
    /// that are taken. `None` if columns that the data lacks are null, and every row is taken.
    pub completion: Option<LogicalPlan>,
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
/// 42P01, 42703, 42701; 42809 for what cannot be written; of a condition 42803, 42P20, 42804, and 0A000 for subqueries.
pub fn bind_copy(catalog: &Catalog, copy: &CopyFrom) -> Result<BoundCopy> {
    let relation = target(catalog, &copy.relation, "copy to")?;
    let positions = bind_copy_columns(&relation, &copy.columns)?;
    let has_default =
        |(i, column): (usize, &crate::catalog::Column)| column.default.is_some() && !positions.contains(&i);
    let needs_defaults = relation.visible_columns().iter().enumerate().any(has_default);
    let completion = match &copy.filter {
        None if !needs_defaults => None,
        None => Some(with_defaults(catalog, &relation, &positions)?),
        Some(filter) => Some(filtered(catalog, &relation, with_defaults(catalog, &relation, &positions)?, filter)?),
    };
    Ok(BoundCopy { relation, positions, completion })
}

/// The rows of the target that pass `WHERE`.
fn filtered(catalog: &Catalog, relation: &Relation, rows: LogicalPlan, filter: &sql::Expr) -> Result<LogicalPlan> {
    check_row_condition(filter, "COPY FROM WHERE conditions")?;
    let columns = rows.schema().iter().zip(relation.visible_columns());
    let named = columns.map(|(field, c)| Expr::from(field).alias_qualified(Some(relation.name.as_str()), &c.name));
    let rows = project(rows.clone(), named.collect())?;
    let mut filter = filter.clone();
    rewrite_expr(&mut filter);
    let context = PlanContext::new(catalog, Purpose::AdHoc);
    let planned = SqlToRel::new(&context)
        .sql_to_expr(filter, rows.schema(), &mut PlannerContext::new())
        .and_then(|planned| resolve(planned, rows.schema()))
        .and_then(|resolved| condition(resolved, "WHERE", rows.schema()))
        .map_err(from_datafusion)?;
    LogicalPlanBuilder::from(rows).filter(planned).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
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
