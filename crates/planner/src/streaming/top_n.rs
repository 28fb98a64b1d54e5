//! `ORDER BY ... LIMIT`, `DISTINCT ON` and `row_number()`, the last with the bound that a filter above puts on it.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::{Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{
    DistinctOn, Expr, FetchType, Filter, Limit, LogicalPlan, Operator, SkipType, Window, WindowFunctionDefinition,
};
use millstream_operators::Edge;
use millstream_operators::top_n::{OrderBy, TopNSpec};
use millstream_types::{Error, Result};

use super::exprs::{columns_of, with_columns};
use super::{Facts, Lowered, Planner, arrow_schema, restrict};
use crate::errors::from_datafusion;

impl Planner<'_> {
    pub(super) fn lower_limit(&mut self, limit: &Limit) -> Result<Lowered> {
        let constant = || Error::not_supported("LIMIT and OFFSET of a materialized view must be constants");
        let offset = match limit.get_skip_type().map_err(from_datafusion)? {
            SkipType::Literal(n) => n,
            SkipType::UnsupportedExpr => return Err(constant()),
        };
        let fetch = match limit.get_fetch_type().map_err(from_datafusion)? {
            FetchType::Literal(n) => n,
            FetchType::UnsupportedExpr => return Err(constant()),
        };
        self.limited(&limit.input, offset, fetch)
    }

    /// The first rows of a plan, in its order if it has one.
    fn limited(&mut self, input: &LogicalPlan, offset: usize, fetch: Option<usize>) -> Result<Lowered> {
        match input {
            LogicalPlan::Sort(sort) => self.top_n_of(&sort.input, &[], &sort.expr, offset, fetch),
            // Columns that are only ordered by are dropped above the sort.
            LogicalPlan::Projection(projection) if is_sorted(&projection.input) => {
                let below = self.limited(&projection.input, offset, fetch)?;
                self.project(below, &projection.expr, projection.schema.as_ref().clone())
            }
            other => self.top_n_of(other, &[], &[], offset, fetch),
        }
    }

    pub(super) fn lower_sorted(&mut self, input: &LogicalPlan, order: &[SortExpr], fetch: usize) -> Result<Lowered> {
        self.top_n_of(input, &[], order, 0, Some(fetch))
    }

    pub(super) fn lower_distinct_on(&mut self, distinct: &DistinctOn) -> Result<Lowered> {
        let order = distinct.sort_expr.clone().unwrap_or_default();
        let first = self.top_n_of(&distinct.input, &distinct.on_expr, &order, 0, Some(1))?;
        self.project(first, &distinct.select_expr, distinct.schema.as_ref().clone())
    }

    /// The first rows of partitions, with the input's columns.
    fn top_n_of(
        &mut self,
        input: &LogicalPlan,
        partition_by: &[Expr],
        order: &[SortExpr],
        offset: usize,
        limit: Option<usize>,
    ) -> Result<Lowered> {
        let lowered = self.lower(input, None)?;
        let schema = lowered.schema.clone();
        let n_columns = schema.fields().len();
        let (lowered, partition, order) = ordered_input(lowered, partition_by, order)?;
        let top = self.top_n(lowered, partition, order, offset, limit, None)?;
        self.first_columns(top, n_columns, schema)
    }

    /// Drops helper columns at the end.
    fn first_columns(&mut self, input: Lowered, n_columns: usize, schema: DFSchema) -> Result<Lowered> {
        if input.schema.fields().len() == n_columns {
            return Ok(Lowered { schema, ..input });
        }
        let exprs: Vec<Expr> = input.schema.iter().take(n_columns).map(Expr::from).collect();
        self.project(input, &exprs, schema)
    }

    fn top_n(
        &mut self,
        input: Lowered,
        partition_by: Vec<usize>,
        order_by: Vec<OrderBy>,
        offset: usize,
        limit: Option<usize>,
        row_number: Option<&Field>,
    ) -> Result<Lowered> {
        let facts = input.facts.clone();
        let schema = input.schema.clone();
        let input_schema = input.stages.last().map_or_else(|| self.dataflow.schema(input.node), |s| s.schema.clone());
        let is_local = !partition_by.is_empty()
            && facts.partitioned_by.as_ref().is_some_and(|p| p.iter().all(|c| partition_by.contains(c)));
        let exchange = facts.exchange(is_local, &partition_by);
        let mut fields = input_schema.fields().to_vec();
        if let Some(field) = row_number {
            fields.push(Arc::new(Field::new(field.name(), DataType::Int64, true)));
        }
        let out = Arc::new(Schema::new(fields));
        let from = self.emit(input);
        let spec = TopNSpec {
            input: input_schema,
            partition_by: partition_by.clone(),
            order_by,
            offset,
            limit,
            with_row_number: row_number.is_some(),
            append_only: facts.append_only,
            schema: out.clone(),
        };
        let node = self.add(spec, vec![Edge { from, exchange }]);
        let key = match limit {
            Some(1) => Some(partition_by.clone()),
            _ if row_number.is_some() => Some(partition_by.iter().copied().chain([out.fields().len() - 1]).collect()),
            _ => facts.key,
        };
        let partitioned_by = if is_local { facts.partitioned_by } else { Some(partition_by) };
        let facts = Facts { append_only: false, key, partitioned_by, consolidated: false };
        let schema = match row_number {
            Some(field) => super::exprs::with_field(&schema, &Field::new(field.name(), DataType::Int64, true))?,
            None => schema,
        };
        Ok(Lowered { node, stages: vec![], schema, facts })
    }

    /// `row_number()` of which only the first rows of each partition are wanted.
    pub(super) fn lower_row_number(&mut self, window: &Window) -> Result<Option<Lowered>> {
        let [expr] = window.window_expr.as_slice() else { return Ok(None) };
        let limit = self.row_limits.get(&std::ptr::from_ref(window)).copied();
        let (Some(function), Some(limit)) = (row_number(expr), limit) else { return Ok(None) };
        let lowered = self.lower(&window.input, None)?;
        let n_columns = lowered.schema.fields().len();
        let schema = super::window::of_window(window, &lowered.schema)?;
        let params = &function.params;
        let (lowered, partition, order) = ordered_input(lowered, &params.partition_by, &params.order_by)?;
        let n_helpers = lowered.schema.fields().len() - n_columns;
        let field = window.schema.field(window.schema.fields().len() - 1);
        let numbered = self.top_n(lowered, partition, order, 0, Some(limit), Some(field))?;
        let planned = arrow_schema(&schema);
        if n_helpers == 0 {
            let casted = self.under_schema(numbered, &planned)?;
            return Ok(Some(Lowered { schema, ..casted }));
        }
        let kept: Vec<usize> = (0..n_columns).chain([n_columns + n_helpers]).collect();
        let exprs: Vec<Expr> = kept.iter().map(|&i| Expr::from(numbered.schema.qualified_field(i))).collect();
        let have = restrict(&numbered.schema, &kept)?;
        let dropped = self.project(numbered, &exprs, have)?;
        let casted = self.under_schema(dropped, &planned)?;
        Ok(Some(Lowered { schema, ..casted }))
    }

    /// Notes the bounds that a filter puts on row numbers computed below it.
    pub(super) fn note_row_limits(&mut self, filter: &Filter) {
        for conjunct in split_conjunction(&filter.predicate) {
            let Some((column, limit)) = upper_bound(conjunct, filter.input.schema()) else { continue };
            if let Some(window) = window_behind(&filter.input, column) {
                let known = self.row_limits.entry(window).or_insert(limit);
                *known = limit.min(*known);
            }
        }
    }
}

fn is_sorted(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(_) => true,
        LogicalPlan::Projection(projection) => is_sorted(&projection.input),
        _ => false,
    }
}

/// The function, if it is `row_number()` over a whole partition.
fn row_number(expr: &Expr) -> Option<&WindowFunction> {
    match expr {
        Expr::Alias(alias) => row_number(&alias.expr),
        Expr::WindowFunction(function) => {
            let is_row_number =
                matches!(&function.fun, WindowFunctionDefinition::WindowUDF(f) if f.name() == "row_number");
            (is_row_number && function.params.filter.is_none()).then_some(function)
        }
        _ => None,
    }
}

/// `column <= n` and its like: the column and the largest number that passes.
fn upper_bound(expr: &Expr, schema: &DFSchema) -> Option<(usize, usize)> {
    let Expr::BinaryExpr(binary) = expr else { return None };
    let column = |e: &Expr| match e {
        Expr::Column(_) => columns_of([e], schema).first().copied(),
        Expr::Cast(cast) => columns_of([cast.expr.as_ref()], schema).first().copied(),
        _ => None,
    };
    let number = |e: &Expr| match e {
        Expr::Literal(value, _) => literal(value),
        Expr::Cast(cast) => {
            if let Expr::Literal(value, _) = cast.expr.as_ref() {
                literal(value)
            } else {
                None
            }
        }
        _ => None,
    };
    let (column, n, op) = match (column(&binary.left), number(&binary.right)) {
        (Some(c), Some(n)) => (c, n, binary.op),
        _ => (column(&binary.right)?, number(&binary.left)?, binary.op.swap()?),
    };
    match op {
        Operator::LtEq | Operator::Eq => Some((column, n)),
        Operator::Lt => Some((column, n.saturating_sub(1))),
        _ => None,
    }
}

fn literal(value: &ScalarValue) -> Option<usize> {
    match value {
        ScalarValue::Int64(Some(n)) => usize::try_from(*n).ok(),
        ScalarValue::Int32(Some(n)) => usize::try_from(*n).ok(),
        ScalarValue::UInt64(Some(n)) => usize::try_from(*n).ok(),
        _ => None,
    }
}

/// The window plan whose row number a column is, through aliases, projections and filters.
fn window_behind(plan: &LogicalPlan, column: usize) -> Option<*const Window> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => window_behind(&alias.input, column),
        LogicalPlan::Filter(filter) => window_behind(&filter.input, column),
        LogicalPlan::Projection(projection) => {
            let mut expr = &projection.expr[column];
            while let Expr::Alias(alias) = expr {
                expr = &alias.expr;
            }
            let inner = match expr {
                Expr::Cast(cast) => cast.expr.as_ref(),
                other => other,
            };
            let Expr::Column(_) = inner else { return None };
            let below = columns_of([inner], projection.input.schema()).first().copied()?;
            window_behind(&projection.input, below)
        }
        LogicalPlan::Window(window) => {
            let is_number = column == window.input.schema().fields().len() && window.window_expr.len() == 1;
            (is_number && row_number(&window.window_expr[0]).is_some()).then_some(std::ptr::from_ref(window))
        }
        _ => None,
    }
}

/// The input with what it is partitioned and ordered by as columns.
fn ordered_input(
    input: Lowered,
    partition_by: &[Expr],
    order: &[SortExpr],
) -> Result<(Lowered, Vec<usize>, Vec<OrderBy>)> {
    let exprs = partition_by.iter().chain(order.iter().map(|s| &s.expr));
    let (lowered, positions) = with_columns(input, exprs)?;
    let (partition, ordered) = positions.split_at(partition_by.len());
    let order_by = ordered.iter().zip(order).map(|(&column, sort)| OrderBy {
        column,
        descending: !sort.asc,
        nulls_first: sort.nulls_first,
    });
    let mut order_by: Vec<OrderBy> = order_by.collect();
    // A column that was ordered by before tells nothing more.
    let mut seen = Vec::new();
    order_by.retain(|o| {
        !partition.contains(&o.column) && !seen.contains(&o.column) && {
            seen.push(o.column);
            true
        }
    });
    let mut partition = partition.to_vec();
    partition.sort_unstable();
    partition.dedup();
    Ok((lowered, partition, order_by))
}
