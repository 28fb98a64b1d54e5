//! Expressions of plans as scalars over columns.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_expr::expressions::CastExpr;
use millstream_expr::{MapStage, Scalar};
use millstream_types::{Error, Result};

use super::{Lowered, arrow_schema, shown};
use crate::errors::from_datafusion;
use crate::typing::chains::unrolled;

/// Binds an expression to the columns of a schema.
pub(crate) fn physical(expr: &Expr, schema: &DFSchema) -> Result<Scalar> {
    let mut props = ExecutionProps::new();
    props.config_options = Some(crate::session_context::options().clone());
    let context = PhysicalPlanningContext::default();
    let expr = unrolled(expr.clone()).map_err(from_datafusion)?;
    let expr = with_durations(expr, schema)?;
    create_physical_expr(&expr, schema, &props, &context).map(Scalar::new).map_err(from_datafusion)
}

/// Constant intervals without months that are added to timestamps become numbers of microseconds: Arrow adds those as
/// integers, and goes through the calendar with intervals.
fn with_durations(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let replace = |e: Expr| {
        let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) = &e else {
            return Ok(Transformed::no(e));
        };
        let Some(us) = constant_microseconds(right) else { return Ok(Transformed::no(e)) };
        // A day has 24 hours where there is no other zone than UTC.
        let is_plain = match left.get_type(schema)? {
            DataType::Timestamp(TimeUnit::Microsecond, zone) => zone.is_none_or(|z| z.as_ref() == "UTC"),
            _ => false,
        };
        if !is_plain {
            return Ok(Transformed::no(e));
        }
        let duration = Expr::Literal(ScalarValue::DurationMicrosecond(Some(us)), None);
        Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(left.clone(), *op, Box::new(duration)))))
    };
    expr.transform_up(replace).data().map_err(from_datafusion)
}

fn constant_microseconds(expr: &Expr) -> Option<i64> {
    let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) = expr else { return None };
    let of_days = i64::from(interval.days) * 86_400_000_000;
    let is_exact = interval.months == 0 && interval.nanoseconds % 1000 == 0;
    is_exact.then(|| of_days.checked_add(interval.nanoseconds / 1000)).flatten()
}

/// The expression with its columns named without their relation.
pub(crate) fn unqualified(expr: Expr) -> Result<Expr> {
    let plain = |e: Expr| match e {
        Expr::Column(column) => Ok(Transformed::yes(Expr::Column(Column::new_unqualified(column.name)))),
        other => Ok(Transformed::no(other)),
    };
    expr.transform(plain).data().map_err(from_datafusion)
}

/// A cast as Arrow does it.
pub(super) fn cast(scalar: &Scalar, schema: &SchemaRef, to: &DataType) -> Result<Scalar> {
    debug_assert!(scalar.data_type(schema).is_ok());
    Ok(Scalar::new(Arc::new(CastExpr::new(Arc::clone(scalar.inner()), to.clone(), None))))
}

/// The positions, in a schema, of all columns that expressions mention.
pub(crate) fn columns_of<'a>(exprs: impl IntoIterator<Item = &'a Expr>, schema: &DFSchema) -> BTreeSet<usize> {
    let columns = exprs.into_iter().flat_map(|e| e.column_refs().into_iter().cloned().collect::<Vec<_>>());
    columns.filter_map(|c| schema.maybe_index_of_column(&c)).collect()
}

/// The position of a column.
pub(super) fn column_index(schema: &DFSchema, qualifier: Option<&TableReference>, name: &str) -> Result<usize> {
    schema
        .index_of_column_by_name(qualifier, name)
        .ok_or_else(|| Error::internal(format!("column {name} is not in its own schema")))
}

/// The input with some expressions as columns, and their positions: those that are none are computed behind the others.
pub(super) fn with_columns<'a>(input: Lowered, exprs: impl Iterator<Item = &'a Expr>) -> Result<(Lowered, Vec<usize>)> {
    let present = arrow_schema(&input.schema);
    let mut scalars: Vec<Scalar> =
        present.fields().iter().enumerate().map(|(i, f)| Scalar::column(f.name(), i)).collect();
    let mut schema = input.schema.clone();
    let mut fields = present.fields().to_vec();
    let mut positions = Vec::new();
    let mut added: Vec<(&Expr, usize)> = Vec::new();
    for expr in exprs {
        if let Some((_, at)) = added.iter().find(|(e, _)| *e == expr) {
            positions.push(*at);
            continue;
        }
        let scalar = physical(expr, &input.schema)?;
        let at = match scalar.as_column() {
            Some(column) => column,
            None => {
                let data_type = scalar.data_type(&present)?;
                let name = expr.schema_name().to_string();
                let field = shown::field_of(&name, data_type, expr, &input.schema);
                schema = with_field(&schema, &field)?;
                fields.push(Arc::new(field));
                scalars.push(scalar);
                scalars.len() - 1
            }
        };
        added.push((expr, at));
        positions.push(at);
    }
    if scalars.len() == present.fields().len() {
        return Ok((input, positions));
    }
    let mut input = input;
    let stage = Arc::new(Schema::new(fields));
    input.stages.push(MapStage { predicate: None, projection: Some(scalars), schema: stage });
    input.schema = schema;
    Ok((input, positions))
}

/// A schema with one more column, under a name that no other column has.
pub(super) fn with_field(schema: &DFSchema, field: &Field) -> Result<DFSchema> {
    let is_taken = |name: &str| schema.fields().iter().any(|f| f.name() == name);
    let mut name = field.name().clone();
    while is_taken(&name) {
        name.push('\'');
    }
    let mut fields: Vec<_> = schema.iter().map(|(q, f)| (q.cloned(), Arc::clone(f))).collect();
    fields.push((None, Arc::new(field.clone().with_name(name))));
    DFSchema::new_with_metadata(fields, schema.metadata().clone()).map_err(from_datafusion)
}
