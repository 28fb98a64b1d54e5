//! What each row of some columns takes.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;

use crate::column::Rows;

/// Bytes of a view that has its value in itself.
const INLINE: u32 = 12;

/// Bytes of rows: exact where that is known without looking at nested values, an average where not.
pub(crate) struct RowSizes<'a> {
    /// Bytes that every row takes.
    fixed: usize,
    /// The views of columns of text and bytes.
    views: Vec<&'a [u128]>,
}

impl<'a> RowSizes<'a> {
    pub(crate) fn of(columns: &'a [ArrayRef]) -> Self {
        let mut sizes = RowSizes { fixed: 0, views: Vec::new() };
        for column in columns {
            match column.data_type() {
                DataType::Utf8View => sizes.add_views(column.as_string_view().views()),
                DataType::BinaryView => sizes.add_views(column.as_binary_view().views()),
                DataType::Boolean => sizes.fixed += 1,
                t => sizes.fixed += t.primitive_width().unwrap_or_else(|| average(column)),
            }
        }
        sizes
    }

    fn add_views(&mut self, views: &'a [u128]) {
        self.fixed += size_of::<u128>();
        self.views.push(views);
    }

    /// The number of the first rows that take so many bytes, or of all if they take less; and what those take. At least one
    /// row, if there is any.
    pub(crate) fn first_of(&self, rows: Rows<'_>, n_bytes: usize) -> (usize, usize) {
        if self.views.is_empty() {
            let n = n_bytes.div_ceil(self.fixed.max(1)).clamp(1, rows.len().max(1)).min(rows.len());
            return (n, n * self.fixed);
        }
        let mut sum = 0;
        for i in 0..rows.len() {
            let row = rows.index(i);
            // The length stands in the lowest bits of a view.
            let long = self.views.iter().map(|views| views[row] as u32).filter(|&len| len > INLINE);
            sum += self.fixed + long.map(|len| len as usize).sum::<usize>();
            if sum >= n_bytes {
                return (i + 1, sum);
            }
        }
        (rows.len(), sum)
    }
}

/// Bytes of a value of a column of lists and the like.
fn average(column: &ArrayRef) -> usize {
    let n_bytes = column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size());
    n_bytes / column.len().max(1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, ListArray, StringViewArray};
    use arrow::datatypes::Int32Type;

    use super::*;

    #[test]
    fn rows_are_counted_until_they_take_enough() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1; 100]));
        let all = Rows::Range { offset: 0, len: 100 };
        let narrow = [Arc::clone(&numbers)];
        let narrow = RowSizes::of(&narrow);
        assert_eq!(narrow.first_of(all, 1 << 20), (100, 800));
        assert_eq!(narrow.first_of(all, 17), (3, 24));
        assert_eq!(narrow.first_of(all, 0), (1, 8));
        assert_eq!(narrow.first_of(Rows::Selected(&[]), 8), (0, 0));

        let texts: StringViewArray = (0..100).map(|i| Some("x".repeat(i * 10))).collect();
        let wide: [ArrayRef; 2] = [numbers, Arc::new(texts)];
        let wide = RowSizes::of(&wide);
        assert_eq!(wide.first_of(all, 24 * 4 + 20 + 30), (4, 24 * 4 + 20 + 30), "a short text takes nothing more");
        assert_eq!(wide.first_of(Rows::Selected(&[99, 0, 98]), 1000), (1, 24 + 990));
        assert_eq!(wide.first_of(Rows::Selected(&[99, 0]), 1 << 20), (2, 24 * 2 + 990));

        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>((0..8).map(|_| Some(vec![Some(1); 256])));
        let lists: [ArrayRef; 1] = [Arc::new(lists)];
        let (n, n_bytes) = RowSizes::of(&lists).first_of(Rows::Range { offset: 0, len: 8 }, 2000);
        assert!(n == 2 && n_bytes >= 2048, "{n} rows of {n_bytes} bytes");
    }
}
