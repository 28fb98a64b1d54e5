//! `unnest`: rows for the elements of arrays.

use arrow::datatypes::DataType;
use datafusion::common::NullHandling;
use datafusion::logical_expr::{Expr, Unnest};
use millstream_operators::flat_map::{FlatColumn, FlatMapSpec, Keeps};
use millstream_operators::{Edge, Exchange};
use millstream_types::{Error, Result};

use super::{Facts, Lowered, Planner, arrow_schema, shown};

impl Planner<'_> {
    pub(super) fn lower_unnest(&mut self, unnest: &Unnest) -> Result<Lowered> {
        let is_deep = unnest.list_type_columns.iter().any(|(_, list)| list.depth != 1);
        if is_deep || !unnest.struct_type_columns.is_empty() {
            return Err(Error::not_supported(
                "unnest of nested arrays and of composite values cannot be kept up to date",
            ));
        }
        let input = self.lower(&unnest.input, None)?;
        let facts = input.facts.clone();
        let arrays: Vec<usize> = unnest.list_type_columns.iter().map(|(column, _)| *column).collect();
        for &array in &arrays {
            let data_type = input.schema.field(array).data_type();
            if !matches!(data_type, DataType::List(_)) {
                return Err(Error::not_supported(format!("unnest of values of type {data_type}")));
            }
        }
        let column = |c: &usize| if arrays.contains(c) { FlatColumn::Elements(*c) } else { FlatColumn::Kept(*c) };
        let columns: Vec<FlatColumn> = unnest.dependency_indices.iter().map(column).collect();
        let place = |c: &usize| columns.iter().position(|column| *column == FlatColumn::Kept(*c));
        let facts = Facts {
            append_only: facts.append_only,
            partitioned_by: facts.partitioned_by.and_then(|p| p.iter().map(place).collect()),
            ..Facts::default()
        };
        let keeps = keeps_of(unnest);
        let kept = |column: &FlatColumn| match column {
            FlatColumn::Kept(c) => Expr::from(input.schema.qualified_field(*c)),
            FlatColumn::Elements(c) => Expr::from(input.schema.qualified_field(*c)).alias("unnest"),
        };
        let exprs: Vec<Expr> = columns.iter().map(kept).collect();
        let planned = shown::of_exprs(unnest.schema.as_ref().clone(), exprs.iter(), &input.schema)?;
        let schema = arrow_schema(&planned);
        let spec = FlatMapSpec { columns, keeps, schema };
        let from = self.emit(input);
        let node = self.add(spec, vec![Edge { from, exchange: Exchange::Local }]);
        Ok(Lowered { node, stages: vec![], schema: planned, facts })
    }
}

/// What becomes of rows without elements.
pub(super) fn keeps_of(unnest: &Unnest) -> Keeps {
    match unnest.options.null_handling {
        NullHandling::Drop => Keeps::None,
        NullHandling::Preserve => Keeps::Nulls,
        NullHandling::PreserveAndExpandEmpty => Keeps::All,
    }
}
