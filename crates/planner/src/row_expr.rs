//! Scalar expressions over the columns of one row that stand outside of any query, such as in a connector's options.

use arrow::datatypes::SchemaRef;
use datafusion::common::DFSchema;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use millstream_expr::Scalar;
use millstream_types::{Error, Result, SqlType};

use crate::binder::{PlanContext, rewrite_expr};
use crate::catalog::Catalog;
use crate::errors::from_datafusion;
use crate::parser::parse_expr;
use crate::reading;
use crate::session_context::Purpose;
use crate::streaming::{columns_of, physical};
use crate::typing::cast::explicit_cast;
use crate::typing::exprs::resolve;

/// An expression bound to the columns that it reads.
#[derive(Clone, Debug)]
pub struct RowExpr {
    /// The columns, ascending, as positions in the schema that it was bound to.
    pub inputs: Vec<usize>,
    /// Over batches of exactly these columns.
    pub scalar: Scalar,
}

/// Binds SQL text to the columns of a schema, as an expression that is cast to a type.
///
/// # Errors
/// As Postgres for what is wrong with it: 42601, 42703, 42883, 42846; 0A000 for subqueries, and for functions that give
/// something else at another time.
pub fn bind_row_expr(catalog: &Catalog, text: &str, schema: &SchemaRef, sql_type: &SqlType) -> Result<RowExpr> {
    reading::under(catalog.settings(), || bind(catalog, text, schema, sql_type))
}

fn bind(catalog: &Catalog, text: &str, schema: &SchemaRef, sql_type: &SqlType) -> Result<RowExpr> {
    let mut expr = parse_expr(text)?;
    rewrite_expr(&mut expr);
    let context = PlanContext::new(catalog, Purpose::AdHoc);
    let columns = DFSchema::try_from(schema.as_ref().clone()).map_err(from_datafusion)?;
    let planned = SqlToRel::new(&context).sql_to_expr(expr, &columns, &mut PlannerContext::new());
    let resolved = resolve(planned.map_err(from_datafusion)?, &columns).map_err(from_datafusion)?;
    let expr = explicit_cast(resolved, &sql_type.arrow_type(), &columns).map_err(from_datafusion)?;
    check_pure(&expr)?;
    let inputs: Vec<usize> = columns_of([&expr], &columns).into_iter().collect();
    let read = DFSchema::try_from(schema.project(&inputs)?).map_err(from_datafusion)?;
    Ok(RowExpr { scalar: physical(&expr, &read)?, inputs })
}

fn check_pure(expr: &Expr) -> Result<()> {
    let mut impure = None;
    expr.apply(|e| {
        if let Expr::ScalarFunction(f) = e
            && f.func.signature().volatility != Volatility::Immutable
        {
            impure = Some(f.name().to_owned());
        }
        Ok(if impure.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(from_datafusion)?;
    match impure {
        None => Ok(()),
        Some(name) => Err(Error::not_supported(format!("{name}() is not allowed here"))
            .with_detail("Rows that are read again must be the same.")),
    }
}
