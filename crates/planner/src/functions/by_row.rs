//! `lag`, `lead`, `ntile` and `nth_value` whose distance, default or number is not a constant; DataFusion has them for
//! constants only.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, Int32Array};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::{PartitionEvaluator, Signature, Volatility, WindowUDF, WindowUDFImpl};
use millstream_types::SqlState;

use crate::typing::types::{Result, user_error};

/// One of the functions. Its numbers are of type bigint, and a default of the type of the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Lag,
    Lead,
    Ntile,
    NthValue,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct ByRow {
    kind: Kind,
    signature: Signature,
}

impl ByRow {
    /// The function of a name in SQL, if it is one of these.
    pub(crate) fn of_name(name: &str) -> Option<Arc<WindowUDF>> {
        static ALL: LazyLock<[Arc<WindowUDF>; 4]> = LazyLock::new(|| {
            [Kind::Lag, Kind::Lead, Kind::Ntile, Kind::NthValue].map(|kind| {
                let signature = Signature::variadic_any(Volatility::Immutable);
                Arc::new(WindowUDF::new_from_impl(ByRow { kind, signature }))
            })
        });
        ALL.iter().find(|f| f.name() == name).cloned()
    }

    /// Whether a function is one of these.
    pub(crate) fn is(function: &WindowUDF) -> bool {
        let inner: &dyn std::any::Any = function.inner().as_ref();
        inner.is::<ByRow>()
    }
}

impl WindowUDFImpl for ByRow {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Lag => "lag",
            Kind::Lead => "lead",
            Kind::Ntile => "ntile",
            Kind::NthValue => "nth_value",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn partition_evaluator(&self, _: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(match self.kind {
            Kind::Lag => Box::new(Shifted { sign: -1 }),
            Kind::Lead => Box::new(Shifted { sign: 1 }),
            Kind::Ntile => Box::new(Buckets),
            Kind::NthValue => Box::new(Nth { row_idx: 0 }),
        })
    }

    fn field(&self, args: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        let data_type = match self.kind {
            Kind::Ntile => DataType::Int32,
            _ => args.input_fields()[0].data_type().clone(),
        };
        Ok(Arc::new(Field::new(args.name(), data_type, true)))
    }
}

/// The value of the row at a distance, or else the default, both of which are those of the current row.
#[derive(Debug)]
struct Shifted {
    sign: i64,
}

impl PartitionEvaluator for Shifted {
    fn evaluate_all(&mut self, values: &[ArrayRef], num_rows: usize) -> Result<ArrayRef> {
        let distances = values.get(1).map(|d| d.as_primitive::<Int64Type>());
        let null = ScalarValue::try_from(values[0].data_type())?.to_array()?;
        let default = values.get(2).unwrap_or(&null);
        let place = |row: usize| {
            let distance = match distances {
                Some(distances) if distances.is_null(row) => return (2, 0),
                Some(distances) => distances.value(row),
                None => 1,
            };
            let at = distance.checked_mul(self.sign).and_then(|d| d.checked_add(row as i64));
            match at.and_then(|at| usize::try_from(at).ok()).filter(|at| *at < num_rows) {
                Some(at) => (0, at),
                None if values.len() > 2 => (1, row),
                None => (2, 0),
            }
        };
        let places: Vec<(usize, usize)> = (0..num_rows).map(place).collect();
        Ok(interleave(&[&values[0], default, &null], &places)?)
    }
}

/// Buckets, the number of which the first row says that has one.
#[derive(Debug)]
struct Buckets;

impl PartitionEvaluator for Buckets {
    fn evaluate_all(&mut self, values: &[ArrayRef], num_rows: usize) -> Result<ArrayRef> {
        let numbers = values[0].as_primitive::<Int64Type>();
        let first = (0..num_rows).find(|&row| numbers.is_valid(row)).unwrap_or(num_rows);
        if first == num_rows {
            return Ok(Arc::new(Int32Array::new_null(num_rows)));
        }
        let n_buckets = match numbers.value(first) {
            ..=0 => return user_error(SqlState("22014"), "argument of ntile must be greater than zero"),
            n => n as usize,
        };
        // Earlier buckets have one row more; rows before the first number have none.
        let (n_each, n_larger) = (num_rows / n_buckets, num_rows % n_buckets);
        let in_larger = n_larger * (n_each + 1);
        let bucket = |row: usize| {
            if row < in_larger { row / (n_each + 1) } else { n_larger + (row - in_larger) / n_each }
        };
        let bucket = |row: usize| row.checked_sub(first).map(|row| bucket(row) as i32 + 1);
        Ok(Arc::new((0..num_rows).map(bucket).collect::<Int32Array>()))
    }
}

/// A value of the frame by its place, which is that of the current row. Rows are asked for in their order.
#[derive(Debug)]
struct Nth {
    row_idx: usize,
}

impl PartitionEvaluator for Nth {
    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        let numbers = values[1].as_primitive::<Int64Type>();
        let row = self.row_idx;
        self.row_idx += 1;
        let null = || ScalarValue::try_from(values[0].data_type());
        if numbers.is_null(row) {
            return null();
        }
        let nth = match numbers.value(row) {
            ..=0 => return user_error(SqlState("22016"), "argument of nth_value must be greater than zero"),
            n => n as usize,
        };
        match range.start.checked_add(nth - 1).filter(|at| *at < range.end) {
            Some(at) => ScalarValue::try_from_array(&values[0], at),
            None => null(),
        }
    }

    fn uses_window_frame(&self) -> bool {
        true
    }
}
