//! A long `generate_series` of constants in FROM as a scan, whose rows are made as they are read.
//!
//! Elsewhere it is an array that is unnested, which is there as a whole. A short one has been folded into a constant by
//! then, and stays one.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::functions_table::generate_series::{GenSeriesArgs, GenerateSeriesTable};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Unnest, cast};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

const NAME: &str = "generate_series";
const VALUE: &str = "value";

/// Comes after constants have been folded.
#[derive(Debug)]
pub(crate) struct ScanSeries;

impl OptimizerRule for ScanSeries {
    fn name(&self) -> &str {
        "scan_series"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(&self, plan: LogicalPlan, _: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Unnest(unnest) = &plan else { return Ok(Transformed::no(plan)) };
        match Series::of(unnest) {
            Some(series) => series.scan(unnest).map(Transformed::yes),
            None => Ok(Transformed::no(plan)),
        }
    }
}

/// The integers from the first to the last, by steps.
struct Series {
    start: i64,
    end: i64,
    step: i64,
}

impl Series {
    /// The series, if it is all that is unnested, and of one row.
    fn of(unnest: &Unnest) -> Option<Series> {
        let LogicalPlan::Projection(projection) = unnest.input.as_ref() else { return None };
        let is_one_row = matches!(projection.input.as_ref(), LogicalPlan::EmptyRelation(e) if e.produce_one_row);
        let is_one_list = unnest.list_type_columns.len() == 1 && unnest.struct_type_columns.is_empty();
        let ([array], true, true) = (projection.expr.as_slice(), is_one_row, is_one_list) else { return None };
        if unnest.list_type_columns[0].1.depth != 1 {
            return None;
        }
        let Expr::ScalarFunction(call) = without_casts(array) else { return None };
        if call.func.name() != NAME {
            return None;
        }
        let numbers: Option<Vec<i64>> = call.args.iter().map(integer).collect();
        match *numbers?.as_slice() {
            [start, end] => Some(Series { start, end, step: 1 }),
            // A step of zero is an error where the function is called.
            [start, end, step] if step != 0 => Some(Series { start, end, step }),
            _ => None,
        }
    }

    /// A scan under the name and the type of what is unnested.
    fn scan(&self, unnest: &Unnest) -> Result<LogicalPlan> {
        let schema = Arc::new(Schema::new(vec![Field::new(VALUE, DataType::Int64, true)]));
        let Series { start, end, step } = *self;
        let args = GenSeriesArgs::Int64Args { start, end, step, include_end: true, name: NAME };
        let table = provider_as_source(Arc::new(GenerateSeriesTable::new(schema, args)));
        let (qualifier, field) = unnest.schema.qualified_field(0);
        let value = cast(Expr::Column(Column::new(Some(NAME), VALUE)), field.data_type().clone());
        let value = value.alias_qualified(qualifier.cloned(), field.name());
        LogicalPlanBuilder::scan(NAME, table, None)?.project(vec![value])?.build()
    }
}

fn without_casts(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => without_casts(&alias.expr),
        Expr::Cast(cast) => without_casts(&cast.expr),
        other => other,
    }
}

fn integer(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(ScalarValue::Int64(number), _) => *number,
        _ => None,
    }
}
