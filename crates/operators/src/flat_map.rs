//! Rows for the elements of arrays: `unnest`, and what is planned as arrays, such as `generate_series` and `HOP`.

use std::collections::VecDeque;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::buffer::ScalarBuffer;
use arrow::compute::take;
use arrow::datatypes::SchemaRef;
use millstream_expr::encoded::{Decoder, Encoder, FieldNumber};
use millstream_expr::scalar::batch_of;
use millstream_state::{SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Result};
use serde::{Deserialize, Serialize};

use crate::encoded::{EncodedSpec, StoredSpec};
use crate::operator::{BuildContext, OUTPUT_BATCH_ROWS, Operator, OperatorSpec, Output, Port, Progress};

/// A column of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlatColumn {
    /// A column of the input, the same for all rows that come from one.
    Kept(usize),
    /// The elements of an array column.
    Elements(usize),
}

/// Rows without elements that are kept all the same, once, with nulls as elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keeps {
    /// None.
    None,
    /// Those whose arrays are all null.
    Nulls,
    /// Those whose arrays are null or empty.
    All,
}

/// Each row once for each place of its arrays. Arrays that are shorter than the row's longest go on with nulls.
#[derive(Clone, Debug)]
pub struct FlatMapSpec {
    /// The output's columns.
    pub columns: Vec<FlatColumn>,
    /// What becomes of rows without elements.
    pub keeps: Keeps,
    /// The schema of the output.
    pub schema: SchemaRef,
}

impl OperatorSpec for FlatMapSpec {
    fn name(&self) -> &'static str {
        "FlatMap"
    }

    fn describe(&self) -> String {
        let columns = self.columns.iter().zip(self.schema.fields()).map(|(column, field)| match column {
            FlatColumn::Kept(_) => field.name().clone(),
            FlatColumn::Elements(array) => format!("elements of #{array} as {}", field.name()),
        });
        let nulls = match self.keeps {
            Keeps::None => "",
            Keeps::Nulls => " keeping nulls",
            Keeps::All => " keeping rows without elements",
        };
        format!("({}){nulls}", columns.collect::<Vec<_>>().join(", "))
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn is_stateless(&self) -> bool {
        true
    }

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(FlatMap { spec: self.clone(), waiting: VecDeque::new() }))
    }
}

/// The form of a [`FlatMapSpec`].
#[derive(Serialize, Deserialize)]
pub(crate) struct FlatMapForm {
    columns: Vec<FlatColumn>,
    keeps: Keeps,
    schema: FieldNumber,
}

impl StoredSpec for FlatMapSpec {
    const KIND: &'static str = "flat_map";
    type Form = FlatMapForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<FlatMapForm> {
        let FlatMapSpec { columns, keeps, schema } = self;
        Ok(FlatMapForm { columns: columns.clone(), keeps: *keeps, schema: encoder.schema(schema) })
    }

    fn of_form(form: FlatMapForm, _: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let FlatMapForm { columns, keeps, schema } = form;
        Ok(FlatMapSpec { columns, keeps, schema: decoder.schema(schema)? })
    }
}

struct FlatMap {
    spec: FlatMapSpec,
    /// Deltas of which some rows are still to be done.
    waiting: VecDeque<Delta>,
}

impl Operator for FlatMap {
    fn push(&mut self, _: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        self.waiting.push_back(delta);
        self.resume(out)
    }

    fn end_epoch(&mut self, _: &EpochHeader, _: &mut Output) -> Result<Progress> {
        Ok(Progress::Done)
    }

    fn resume(&mut self, out: &mut Output) -> Result<Progress> {
        while let Some(delta) = self.waiting.pop_front() {
            let lens = self.lens(&delta);
            let mut n_done = 0;
            while n_done < lens.len() {
                if out.is_full() {
                    self.waiting.push_front(delta.slice(n_done, lens.len() - n_done));
                    return Ok(Progress::More);
                }
                // At least one row; more while the output stays of a good size.
                let mut n_out = lens[n_done];
                let mut end = n_done + 1;
                while end < lens.len() && n_out + lens[end] <= OUTPUT_BATCH_ROWS {
                    n_out += lens[end];
                    end += 1;
                }
                out.emit(self.flatten(&delta.slice(n_done, end - n_done), &lens[n_done..end], n_out)?);
                n_done = end;
            }
        }
        Ok(Progress::Done)
    }

    fn save(&self, _: &[Vec<usize>], _: &mut StateChanges) -> Result<()> {
        Ok(())
    }

    fn track_changes(&mut self) {}

    fn save_changes(&mut self, _: &[Vec<usize>], _: &mut StateChanges) -> Result<Progress> {
        Ok(Progress::Done)
    }

    fn restore(&mut self, _: &mut SavedState) -> Result<()> {
        Ok(())
    }
}

impl FlatMap {
    fn arrays(&self) -> impl Iterator<Item = usize> + '_ {
        self.spec.columns.iter().filter_map(|c| match c {
            FlatColumn::Elements(array) => Some(*array),
            FlatColumn::Kept(_) => None,
        })
    }

    /// How many rows each row becomes.
    fn lens(&self, delta: &Delta) -> Vec<usize> {
        let mut lens = vec![0; delta.n_rows()];
        let mut is_null = vec![true; delta.n_rows()];
        for array in self.arrays() {
            let list = delta.columns()[array].as_list::<i32>();
            for (i, (len, is_null)) in lens.iter_mut().zip(&mut is_null).enumerate() {
                if list.is_valid(i) {
                    *len = (*len).max(list.value_length(i) as usize);
                    *is_null = false;
                }
            }
        }
        for (len, is_null) in lens.iter_mut().zip(is_null).filter(|(len, _)| **len == 0) {
            let keeps = match self.spec.keeps {
                Keeps::None => false,
                Keeps::Nulls => is_null,
                Keeps::All => true,
            };
            *len = usize::from(keeps);
        }
        lens
    }

    fn flatten(&self, delta: &Delta, lens: &[usize], n_out: usize) -> Result<Delta> {
        let rows: UInt32Array =
            lens.iter().enumerate().flat_map(|(i, &len)| std::iter::repeat_n(i as u32, len)).collect();
        let columns = self.spec.columns.iter().map(|column| -> Result<ArrayRef> {
            Ok(match column {
                FlatColumn::Kept(column) => take(&delta.columns()[*column], &rows, None)?,
                FlatColumn::Elements(array) => elements(&delta.columns()[*array], lens)?,
            })
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        let batch = batch_of(self.spec.schema.clone(), columns, n_out)?;
        let weights =
            delta.weights().map(|w| rows.values().iter().map(|&r| w[r as usize]).collect::<ScalarBuffer<_>>());
        Ok(Delta::new(batch, weights))
    }
}

/// The elements of each array, and nulls up to the wanted length.
fn elements(arrays: &ArrayRef, lens: &[usize]) -> Result<ArrayRef> {
    let list = arrays.as_list::<i32>();
    let offsets = list.value_offsets();
    let is_whole =
        list.null_count() == 0 && offsets.windows(2).zip(lens).all(|(o, &len)| (o[1] - o[0]) as usize == len);
    if is_whole {
        let (start, end) = (offsets[0] as usize, offsets[lens.len()] as usize);
        return Ok(list.values().slice(start, end - start));
    }
    let places = lens.iter().enumerate().flat_map(|(i, &len)| {
        let start = offsets[i] as usize;
        let end = if list.is_valid(i) { offsets[i + 1] as usize } else { start };
        (start..start + len).map(move |at| (at < end).then_some(at as u32))
    });
    Ok(take(list.values(), &places.collect::<UInt32Array>(), None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int64Array, ListArray, RecordBatch};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use millstream_types::delta::schema_of;
    use std::sync::Arc;

    use crate::property::{self, Input, Rows};

    fn flat(keeps: Keeps) -> Vec<(i64, Option<i64>, Option<i64>, i64)> {
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let list = |rows: Vec<Option<Vec<Option<i64>>>>| -> ArrayRef {
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(rows))
        };
        let xs = list(vec![Some(vec![Some(10), None, Some(12)]), None, Some(vec![]), Some(vec![Some(40)])]);
        let ys = list(vec![Some(vec![Some(7)]), None, None, Some(vec![Some(8), Some(9)])]);
        let field = |name: &str, array: &ArrayRef| Field::new(name, array.data_type().clone(), true);
        let input = Schema::new(vec![field("id", &ids), field("xs", &xs), field("ys", &ys)]);
        let batch = RecordBatch::try_new(Arc::new(input), vec![ids, xs, ys]).expect("columns fit");
        let delta = Delta::new(batch, Some(vec![1, 1, -1, -2].into()));
        let int = |name: &str| Field::new(name, DataType::Int64, true);
        let spec = FlatMapSpec {
            columns: vec![FlatColumn::Kept(0), FlatColumn::Elements(1), FlatColumn::Elements(2)],
            keeps,
            schema: Arc::new(Schema::new(vec![int("id"), int("x"), int("y")])),
        };
        let mut operator = spec.build(BuildContext::alone()).expect("no state");
        let mut out = Output::default();
        // The first row alone, to see that slices of lists are read at their offsets.
        for piece in [delta.slice(0, 1), delta.slice(1, 3)] {
            assert_eq!(operator.push(0, piece, &mut out).expect("lists"), Progress::Done);
        }
        let mut rows = Vec::new();
        for delta in out.take() {
            let column = |c: usize| delta.columns()[c].as_primitive::<Int64Type>().clone();
            let value = |a: &Int64Array, i: usize| a.is_valid(i).then(|| a.value(i));
            for i in 0..delta.n_rows() {
                rows.push((column(0).value(i), value(&column(1), i), value(&column(2), i), delta.weight(i)));
            }
        }
        rows
    }

    #[test]
    fn arrays_go_side_by_side() {
        let mut expected = vec![
            (1, Some(10), Some(7), 1),
            (1, None, None, 1),
            (1, Some(12), None, 1),
            (4, Some(40), Some(8), -2),
            (4, None, Some(9), -2),
        ];
        assert_eq!(flat(Keeps::None), expected);
        expected.insert(3, (2, None, None, 1));
        assert_eq!(flat(Keeps::Nulls), expected);
        expected.insert(4, (3, None, None, -1));
        assert_eq!(flat(Keeps::All), expected);
    }

    #[test]
    fn rows_for_elements_are_their_definition() {
        let list = || DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
        let input = schema_of(&[("t", DataType::Utf8View), ("xs", list()), ("ys", list())]);
        let names = [("t", DataType::Utf8View), ("x", DataType::Int64), ("y", DataType::Int64), ("ys", list())];
        let columns = vec![FlatColumn::Kept(0), FlatColumn::Elements(1), FlatColumn::Elements(2), FlatColumn::Kept(2)];
        for keeps in [Keeps::None, Keeps::Nulls, Keeps::All] {
            let spec = FlatMapSpec { columns: columns.clone(), keeps, schema: schema_of(&names) };
            let definition = |inputs: &[Rows]| {
                let mut rows = Rows::new();
                for (row, weight) in &inputs[0] {
                    let [xs, ys] = [row[1], row[2]].map(|list| list.map(|l| property::LISTS[l as usize]));
                    let n_elements = xs.map_or(0, <[_]>::len).max(ys.map_or(0, <[_]>::len));
                    let is_kept = keeps == Keeps::All || keeps == Keeps::Nulls && xs.is_none() && ys.is_none();
                    for at in 0..n_elements.max(usize::from(is_kept)) {
                        let element = |list: Option<&[Option<i64>]>| list.and_then(|l| *l.get(at)?);
                        let ys_kept = ys.map(|ys| property::list_code(ys.iter().copied()));
                        *rows.entry(vec![row[0], element(xs), element(ys), ys_kept]).or_default() += weight;
                    }
                }
                rows
            };
            let dataflow = property::exchanged(spec, &[(input.clone(), vec![0])]);
            let on_workers = |seed| property::dataflow(&dataflow, property::n_workers(seed));
            property::check(&format!("{keeps:?}"), &[Input::of(input.clone())], on_workers, definition);
        }
    }
}
