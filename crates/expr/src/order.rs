//! Orders of rows: by columns, each in its direction, with nulls at one end.

use std::cmp::Ordering;
use std::fmt;

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, Rows, SortField};
use millstream_types::Result;
use serde::{Deserialize, Serialize};

use crate::encoded::column_of;

/// A column to order by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OrderBy {
    /// The column.
    pub column: usize,
    /// Largest first.
    pub descending: bool,
    /// Nulls before all values.
    pub nulls_first: bool,
}

impl OrderBy {
    /// Smallest first, nulls last: the order in which columns complete an order that SQL leaves open.
    pub fn ascending(column: usize) -> Self {
        OrderBy { column, descending: false, nulls_first: false }
    }

    /// The order as Arrow has it.
    pub fn options(&self) -> SortOptions {
        SortOptions { descending: self.descending, nulls_first: self.nulls_first }
    }

    fn describe(&self, schema: &SchemaRef) -> String {
        format!("{}{}", schema.field(self.column).name(), if self.descending { " desc" } else { "" })
    }
}

/// An order that was kept, if a schema has its columns.
///
/// # Errors
/// Internal, if it has not.
pub fn columns_of(order_by: &[OrderBy], schema: &SchemaRef) -> Result<Vec<OrderBy>> {
    order_by.iter().try_for_each(|o| column_of(o.column, schema).map(|_| ()))?;
    Ok(order_by.to_vec())
}

/// The columns that neither partition nor order rows, ascending: they complete an order, so that a row's place never
/// depends on when it came.
pub fn remaining_columns(schema: &SchemaRef, partition_by: &[usize], order_by: &[OrderBy]) -> Vec<OrderBy> {
    let is_rest = |c: &usize| !partition_by.contains(c) && order_by.iter().all(|o| o.column != *c);
    (0..schema.fields().len()).filter(is_rest).map(OrderBy::ascending).collect()
}

/// A partitioning and an order as EXPLAIN shows them; what there is none of is left out.
pub fn describe(schema: &SchemaRef, partition_by: &[usize], order_by: &[OrderBy]) -> Vec<String> {
    let partition: Vec<&str> = partition_by.iter().map(|&c| schema.field(c).name().as_str()).collect();
    let order: Vec<String> = order_by.iter().map(|o| o.describe(schema)).collect();
    let partition = (!partition.is_empty()).then(|| format!("partition by ({})", partition.join(", ")));
    let order = (!order.is_empty()).then(|| format!("order by ({})", order.join(", ")));
    partition.into_iter().chain(order).collect()
}

/// Encodes the columns of an order as bytes that compare as the order says.
pub struct RowOrder {
    columns: Vec<usize>,
    /// Nothing if there are no columns: then all rows are equal.
    converter: Option<RowConverter>,
}

impl fmt::Debug for RowOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RowOrder({:?})", self.columns)
    }
}

/// Rows of a batch, ready to be compared.
pub struct OrderedRows(Option<Rows>);

impl RowOrder {
    /// An order of rows of a schema.
    ///
    /// # Errors
    /// Not supported, if a column's type has no order.
    pub fn new(schema: &SchemaRef, order_by: &[OrderBy]) -> Result<Self> {
        let field = |o: &OrderBy| SortField::new_with_options(schema.field(o.column).data_type().clone(), o.options());
        let converter = match order_by {
            [] => None,
            _ => Some(RowConverter::new(order_by.iter().map(field).collect())?),
        };
        Ok(RowOrder { columns: order_by.iter().map(|o| o.column).collect(), converter })
    }

    /// Whether all rows are equal, since there are no columns.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// Encodes rows.
    ///
    /// # Errors
    /// Internal, if the columns are not of the order's schema.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<OrderedRows> {
        let encode = |converter: &RowConverter| -> Result<Rows> {
            let columns: Vec<ArrayRef> = self.columns.iter().map(|&c| columns[c].clone()).collect();
            Ok(converter.convert_columns(&columns)?)
        };
        Ok(OrderedRows(self.converter.as_ref().map(encode).transpose()?))
    }
}

impl OrderedRows {
    /// How two rows compare.
    #[inline]
    pub fn compare(&self, a: usize, b: usize) -> Ordering {
        self.key(a).cmp(self.key(b))
    }

    /// A row as bytes, which compare as rows do, those of other batches included.
    #[inline]
    pub fn key(&self, row_idx: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row_idx).data())
    }

    /// Sorts row indices; equal rows stay in the order in which they stand. Costs little where they are sorted already.
    pub fn sort(&self, rows: &mut [u32]) {
        if let Some(encoded) = &self.0 {
            rows.sort_by(|&a, &b| encoded.row(a as usize).cmp(&encoded.row(b as usize)));
        }
    }
}
