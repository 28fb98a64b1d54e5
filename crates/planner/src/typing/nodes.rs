//! Resolving one node of a plan over inputs that are resolved.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    Distinct, Expr, ExprSchemable, GroupingSet, Join, JoinType, Limit, LogicalPlan, LogicalPlanBuilder, Projection,
    Union, Values,
};
use millstream_types::SqlState;

use super::averages;
use super::calls::condition;
use super::exprs::resolve;
use super::input_order::{order_below, with_order};
use super::lateral::unnest_left_side;
use super::multiset::{count_occurrences, is_multiset_operation, is_set_operation};
use super::types::{Class, Result, coerce, common_pair, common_type, is_unknown, type_name, type_of, user_error};
use super::with_ties::rank_rows;

pub(super) fn resolve_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    if let LogicalPlan::Limit(limit) = &plan
        && let Some(ranked) = rank_rows(limit)?
    {
        return Ok(Transformed::yes(ranked));
    }
    match plan {
        LogicalPlan::Values(values) => return Ok(Transformed::yes(resolve_values(values)?)),
        LogicalPlan::Union(union) => return Ok(Transformed::yes(resolve_union(union)?)),
        LogicalPlan::TableScan(_) | LogicalPlan::EmptyRelation(_) => return Ok(Transformed::no(plan)),
        _ => {}
    }
    let schema = merge_schema(&plan.inputs());
    let is_projection = matches!(plan, LogicalPlan::Projection(_));
    let names = NamePreserver::new(&plan);
    let order = order_below(&plan);
    let resolved = plan.map_expressions(|expr| {
        if let Expr::GroupingSet(set) = expr {
            return Ok(Transformed::yes(Expr::GroupingSet(resolve_grouping_set(set, &names, &schema)?)));
        }
        let name = names.save(&expr);
        let mut expr = resolve(with_order(expr, &order), &schema)?;
        if is_projection {
            expr = with_known_type(expr)?;
        }
        Ok(Transformed::yes(name.restore(expr)))
    })?;
    resolved.map_data(|plan| check_node(plan, &schema)?.recompute_schema())
}

/// Every grouping expression keeps the name by which the plan above refers to it.
fn resolve_grouping_set(set: GroupingSet, names: &NamePreserver, schema: &DFSchema) -> Result<GroupingSet> {
    let all = |exprs: Vec<Expr>| -> Result<Vec<Expr>> {
        exprs
            .into_iter()
            .map(|expr| {
                let name = names.save(&expr);
                Ok(name.restore(resolve(expr, schema)?))
            })
            .collect()
    };
    Ok(match set {
        GroupingSet::Rollup(exprs) => GroupingSet::Rollup(all(exprs)?),
        GroupingSet::Cube(exprs) => GroupingSet::Cube(all(exprs)?),
        GroupingSet::GroupingSets(sets) => {
            GroupingSet::GroupingSets(sets.into_iter().map(all).collect::<Result<Vec<_>>>()?)
        }
    })
}

/// A constant column that nothing else gave a type is text.
fn with_known_type(expr: Expr) -> Result<Expr> {
    match expr {
        Expr::Alias(mut alias) if is_unknown(&alias.expr) => {
            alias.expr = Box::new(with_known_type(*alias.expr)?);
            Ok(Expr::Alias(alias))
        }
        Expr::Literal(ScalarValue::Null, metadata) => Ok(Expr::Literal(ScalarValue::Utf8View(None), metadata)),
        other => Ok(other),
    }
}

fn check_node(plan: LogicalPlan, schema: &DFSchema) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::Filter(mut filter) => {
            filter.predicate = condition(filter.predicate, "WHERE", schema)?;
            LogicalPlan::Filter(filter)
        }
        LogicalPlan::Join(join) => {
            let join = if is_set_operation(&join) { with_common_types(join)? } else { join };
            let join = resolve_join(join, schema)?;
            if is_multiset_operation(&join) { count_occurrences(join)? } else { unnest_left_side(join)? }
        }
        LogicalPlan::Limit(limit) => LogicalPlan::Limit(resolve_limit(limit)?),
        other => averages::merged(other)?,
    })
}

/// `EXCEPT` and `INTERSECT` give their rows the types that both sides have in common.
fn with_common_types(mut join: Join) -> Result<Join> {
    let what = if join.join_type == JoinType::LeftAnti { "EXCEPT" } else { "INTERSECT" };
    let is_distinct = matches!(join.left.as_ref(), LogicalPlan::Distinct(_));
    let left = match Arc::unwrap_or_clone(join.left) {
        LogicalPlan::Distinct(Distinct::All(input)) => Arc::unwrap_or_clone(input),
        left => left,
    };
    let right = Arc::unwrap_or_clone(join.right);
    let n_columns = left.schema().fields().len();
    let pair = |column: usize| common_type(&[column_type(&left, column), column_type(&right, column)], what);
    let types = (0..n_columns).map(pair).collect::<Result<Vec<_>>>()?;
    let left = with_types(left, &types)?;
    join.left = Arc::new(if is_distinct { LogicalPlan::Distinct(Distinct::All(Arc::new(left))) } else { left });
    join.right = Arc::new(with_types(right, &types)?);
    Ok(join)
}

fn resolve_join(mut join: Join, schema: &DFSchema) -> Result<Join> {
    join.filter = match join.filter {
        Some(filter) => Some(condition(filter, "JOIN/ON", schema)?),
        None => None,
    };
    for (left, right) in &mut join.on {
        let (lt, rt) = (left.get_type(join.left.schema())?, right.get_type(join.right.schema())?);
        let Some(common) = common_pair(&lt, &rt) else {
            let message = format!("JOIN/USING types {} and {} cannot be matched", type_name(&lt), type_name(&rt));
            return user_error(SqlState::DATATYPE_MISMATCH, message);
        };
        *left = coerce(left.clone(), &common, join.left.schema())?;
        *right = coerce(right.clone(), &common, join.right.schema())?;
    }
    Ok(join)
}

fn resolve_limit(mut limit: Limit) -> Result<Limit> {
    let schema = DFSchema::empty();
    for (expr, what) in [(&mut limit.fetch, "LIMIT"), (&mut limit.skip, "OFFSET")] {
        let Some(inner) = expr.take() else { continue };
        let data_type = type_of(&inner, &schema)?;
        match Class::of(&data_type) {
            Class::Int | Class::Unknown | Class::Numeric => {}
            _ => {
                let message = format!("argument of {what} must be type bigint, not type {}", type_name(&data_type));
                return user_error(SqlState::DATATYPE_MISMATCH, message);
            }
        }
        if let Expr::Literal(value, _) = inner.as_ref()
            && let Ok(ScalarValue::Int64(Some(n))) = value.cast_to(&DataType::Int64)
            && n < 0
        {
            let state = if what == "LIMIT" { "2201W" } else { "2201X" };
            return user_error(SqlState(state), format!("{what} must not be negative"));
        }
        *expr = Some(Box::new(coerce(*inner, &DataType::Int64, &schema)?));
    }
    Ok(limit)
}

/// Every column of VALUES has the common type of its rows.
fn resolve_values(values: Values) -> Result<LogicalPlan> {
    let empty = DFSchema::empty();
    let rows = values
        .values
        .into_iter()
        .map(|row| row.into_iter().map(|e| resolve(untyped_null(e), &empty)).collect::<Result<Vec<_>>>())
        .collect::<Result<Vec<_>>>()?;
    let n_columns = rows.first().map_or(0, Vec::len);
    let mut types = Vec::with_capacity(n_columns);
    for column in 0..n_columns {
        let of_column = rows.iter().map(|row| type_of(&row[column], &empty)).collect::<Result<Vec<_>>>()?;
        types.push(common_type(&of_column, "VALUES")?);
    }
    let rows = rows
        .into_iter()
        .map(|row| row.into_iter().zip(&types).map(|(e, t)| coerce(e, t, &empty)).collect::<Result<Vec<_>>>())
        .collect::<Result<Vec<_>>>()?;
    if rows.iter().flatten().any(has_subquery) {
        return union_of_rows(rows);
    }
    LogicalPlanBuilder::values(rows)?.build()
}

/// DataFusion has given nulls the type that it found for their column.
fn untyped_null(expr: Expr) -> Expr {
    match expr {
        Expr::Literal(value, metadata) if value.is_null() => Expr::Literal(ScalarValue::Null, metadata),
        other => other,
    }
}

fn has_subquery(expr: &Expr) -> bool {
    let is_subquery = |e: &Expr| Ok(matches!(e, Expr::ScalarSubquery(_) | Expr::Exists(_) | Expr::InSubquery(_)));
    expr.exists(is_subquery).unwrap_or(true)
}

/// VALUES as a union of single rows: DataFusion has the values of VALUES before it runs any subquery.
fn union_of_rows(rows: Vec<Vec<Expr>>) -> Result<LogicalPlan> {
    let named = |(i, expr): (usize, Expr)| expr.alias(format!("column{}", i + 1));
    let one = |row: Vec<Expr>| {
        let row = row.into_iter().enumerate().map(named);
        LogicalPlanBuilder::empty(true).project(row)?.build().map(Arc::new)
    };
    let mut inputs = rows.into_iter().map(one).collect::<Result<Vec<_>>>()?;
    match inputs.len() {
        1 => Ok(Arc::unwrap_or_clone(inputs.remove(0))),
        _ => Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)),
    }
}

/// Every column of a union has the common type of its inputs, constants of unknown type apart.
fn resolve_union(union: Union) -> Result<LogicalPlan> {
    let n_columns = union.schema.fields().len();
    let mut types = Vec::with_capacity(n_columns);
    for column in 0..n_columns {
        let of_column: Vec<DataType> = union.inputs.iter().map(|input| column_type(input, column)).collect();
        types.push(common_type(&of_column, "UNION")?);
    }
    let inputs = union
        .inputs
        .into_iter()
        .map(|input| with_types(Arc::unwrap_or_clone(input), &types).map(Arc::new))
        .collect::<Result<Vec<_>>>()?;
    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?))
}

/// The type of an output column; `Null` if it is a constant of unknown type.
fn column_type(plan: &LogicalPlan, column: usize) -> DataType {
    match plan {
        LogicalPlan::Projection(projection) if is_unknown(&projection.expr[column]) => DataType::Null,
        other => other.schema().field(column).data_type().clone(),
    }
}

/// The plan with output columns of these types.
fn with_types(plan: LogicalPlan, types: &[DataType]) -> Result<LogicalPlan> {
    if plan.schema().fields().iter().zip(types).all(|(f, t)| f.data_type() == t) {
        return Ok(plan);
    }
    if let LogicalPlan::Projection(Projection { expr, input, .. }) = plan {
        let exprs = expr
            .into_iter()
            .zip(types)
            .map(|(e, t)| {
                let name = e.qualified_name();
                let inner = coerce(e.unalias(), t, input.schema())?;
                Ok(inner.alias_qualified(name.0, name.1))
            })
            .collect::<Result<Vec<_>>>()?;
        return Ok(LogicalPlan::Projection(Projection::try_new(exprs, input)?));
    }
    let exprs = plan
        .schema()
        .iter()
        .zip(types)
        .map(|((qualifier, field), t)| {
            let column = Expr::from((qualifier, field));
            Ok(coerce(column, t, plan.schema())?.alias_qualified(qualifier.cloned(), field.name()))
        })
        .collect::<Result<Vec<_>>>()?;
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}
