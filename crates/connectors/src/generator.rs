//! The general generator: a stream of any schema, each column with a distribution of its own.
//!
//! Row n (from 0) is at offset n, and every value is a function of (seed, offset, column), so that any range and any
//! projection can be generated alone and again.
//!
//! Options:
//!
//! | option | meaning | default |
//! |---|---|---|
//! | `rate` | rows that become available each second | `unlimited` |
//! | `rows` | the stream ends after so many rows | never |
//! | `seed` | another seed gives other values | 0 |
//! | `col.<name>` | the column's distribution | by type, see below |
//!
//! | distribution | types | values |
//! |---|---|---|
//! | `sequence(start [, step])` | numbers | start, start + step, ...; the step is 1 |
//! | `timestamp(start, step)` | date, time, timestamps | start, start + step, ...; the step is an interval |
//! | `uniform(least, greatest)` | numbers, date, time, timestamps, interval | each as likely, bounds included (floats: without the greatest) |
//! | `normal(mean, sd)` | numbers | normally distributed, rounded to the type |
//! | `zipf(n, exponent)` | numbers | k of 1 to n with probability proportional to 1 / k^exponent |
//! | `bernoulli(p)` | boolean | true with probability p |
//! | `text(least, greatest)` | text | lower-case letters, lengths within the bounds |
//! | `bytes(least, greatest)` | bytea | bytes, lengths within the bounds |
//! | `array(least, greatest, d)` | arrays | lengths within the bounds, elements of the distribution d |
//! | `choice(a, b, ...)` | all | one of the values; in quotes, as in SQL, where a value has commas, parentheses or outer blanks |
//! | `null(p, d)` | all | null with probability p, else of the distribution d |
//! | `expr(e)` | all | an SQL expression over `n`, the row's number, and the columns before this one |
//!
//! Without an option: booleans are even; integers are 0 to 1,000 (smallint) or 1,000,000; floats 0 to 1; numerics 0 to
//! 1,000, if so many fit; texts have 8 to 16 letters, or the type's length; bytea 8 to 16 bytes; dates lie in 2020 to
//! 2029; times within the day; intervals within 24 hours; arrays have up to 4 elements; timestamps start with 2020 and
//! go on by 1 / `rate`, or a second without a rate.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use millstream_runtime::Source;
use millstream_types::{Error, Result, SqlState};

use crate::options::{BoundExpr, ColumnDeclaration, OptionReader, SourceOptions};
use crate::random::Key;
use distribution::Distribution;
use other::Nulls;
use spec::Spec;

mod distribution;
mod line;
mod math;
mod number;
mod other;
mod spec;
#[cfg(test)]
mod tests;

const OPTIONS: &[&str] = &["rate", "rows", "seed", "col.<name>"];
/// Prefix of the options that give a column's distribution.
const COLUMN_PREFIX: &str = "col.";
/// The name by which expressions read the row's number.
const ROW_NUMBER: &str = "n";
/// Row numbers are a bigint in expressions.
const ROWS_MAX: u64 = i64::MAX as u64;

/// What an expression can read.
#[derive(Clone, Copy, Debug)]
enum Input {
    RowNumber,
    Column(usize),
}

/// How a column's values are made.
enum Values {
    Distribution(Box<dyn Distribution>),
    Expression(ExpressionColumn),
}

struct ExpressionColumn {
    expr: BoundExpr,
    /// What `expr.inputs` stand for, and their schema.
    inputs: Vec<Input>,
    schema: SchemaRef,
    data_type: DataType,
    nulls: Option<Nulls>,
}

/// A generated stream.
pub struct GeneratorSource {
    schema: SchemaRef,
    columns: Vec<Values>,
    rows: Option<u64>,
    rate: Option<f64>,
}

impl GeneratorSource {
    /// Reads the options and compiles the distributions of the declared columns.
    ///
    /// # Errors
    /// 22023 for options, 42P16 without declared columns, and whatever the binder says about expressions.
    pub fn from_options(options: &SourceOptions) -> Result<Self> {
        let is_column = |option: &str| {
            option.strip_prefix(COLUMN_PREFIX).is_some_and(|name| options.columns.iter().any(|c| c.name == name))
        };
        let reader = OptionReader::new(options, OPTIONS, is_column)?;
        if options.columns.is_empty() {
            let message = "a stream with connector \"generator\" needs columns";
            return Err(Error::user(SqlState::INVALID_TABLE_DEFINITION, message)
                .with_hint("declare them: CREATE STREAM name (column type, ...) WITH (...)"));
        }
        let rate = reader.rate()?;
        let rows = reader.count("rows")?;
        if rows.is_some_and(|rows| rows > ROWS_MAX) {
            return Err(reader.malformed("rows", &format!("at most {ROWS_MAX}")));
        }
        let seed = reader.count("seed")?.unwrap_or(0);
        let step_us = rate.map_or(1_000_000, |rate| (1e6 / rate).round().max(1.0) as u64);
        let compiler = ColumnCompiler { options, reader: &reader, seed, step_us };
        let columns = (0..options.columns.len()).map(|i| compiler.compile(i)).collect::<Result<Vec<_>>>()?;
        Ok(GeneratorSource { schema: Arc::new(Schema::new(fields(&options.columns))), columns, rows, rate })
    }

    /// Makes a column, unless it was made before, and the columns that it is computed from.
    fn make(&self, column: usize, batch: &mut Making) -> Result<ArrayRef> {
        if let Some(array) = &batch.columns[column] {
            return Ok(array.clone());
        }
        let array = match &self.columns[column] {
            Values::Distribution(distribution) => distribution.generate(&batch.positions),
            Values::Expression(expression) => self.evaluate(expression, batch),
        };
        let name = self.schema.field(column).name();
        let array = array.map_err(|error| error.with_detail(format!("in generated column \"{name}\"")))?;
        batch.columns[column] = Some(array.clone());
        Ok(array)
    }

    /// Inputs of an expression stand before it, so this ends.
    fn evaluate(&self, expression: &ExpressionColumn, batch: &mut Making) -> Result<ArrayRef> {
        let inputs = expression.inputs.iter().map(|input| match input {
            Input::Column(column) => self.make(*column, batch),
            Input::RowNumber => {
                Ok(Arc::new(Int64Array::from_iter_values(batch.positions.iter().map(|p| *p as i64))) as ArrayRef)
            }
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let n_rows = batch.positions.len();
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        let inputs = RecordBatch::try_new_with_options(expression.schema.clone(), inputs, &options)?;
        let values = (expression.expr.evaluate)(&inputs)?;
        if values.len() != n_rows || *values.data_type() != expression.data_type {
            let message = format!("expression gave {} values of type {}", values.len(), values.data_type());
            return Err(Error::internal(message));
        }
        match &expression.nulls {
            None => Ok(values),
            Some(nulls) => nulls.apply(&values, &batch.positions),
        }
    }
}

/// A batch on its way: the columns made so far.
struct Making {
    positions: Vec<u64>,
    columns: Vec<Option<ArrayRef>>,
}

impl Source for GeneratorSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn end(&self) -> Option<u64> {
        self.rows
    }

    fn rate(&self) -> Option<f64> {
        self.rate
    }

    fn read(&self, offsets: Range<u64>, projection: &[usize]) -> Result<RecordBatch> {
        let end = offsets.end.min(self.rows.unwrap_or(u64::MAX));
        if end > ROWS_MAX {
            let message = format!("row {end} of a generated stream is beyond the range of bigint");
            return Err(Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, message));
        }
        let positions = offsets.start.min(end)..end;
        let n_rows = usize::try_from(positions.end - positions.start).expect("a batch fits in memory");
        let positions = if projection.is_empty() { Vec::new() } else { positions.collect() };
        let mut batch = Making { positions, columns: vec![None; self.columns.len()] };
        let columns = projection.iter().map(|&i| self.make(i, &mut batch)).collect::<Result<Vec<_>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(n_rows));
        Ok(RecordBatch::try_new_with_options(Arc::new(self.schema.project(projection)?), columns, &options)?)
    }
}

fn fields(columns: &[ColumnDeclaration]) -> Vec<Field> {
    columns.iter().map(|c| Field::new(&c.name, c.sql_type.arrow_type(), true)).collect()
}

/// Turns declarations and options into values.
struct ColumnCompiler<'a> {
    options: &'a SourceOptions,
    reader: &'a OptionReader<'a>,
    seed: u64,
    step_us: u64,
}

impl ColumnCompiler<'_> {
    fn compile(&self, column: usize) -> Result<Values> {
        let ColumnDeclaration { name, sql_type } = &self.options.columns[column];
        let option = format!("{COLUMN_PREFIX}{name}");
        let key = Key::new(self.seed, &option);
        let malformed = |detail: String| self.reader.malformed(&option, "a distribution").with_detail(detail);
        let Some(text) = self.reader.text(&option) else {
            let text = distribution::default_text(sql_type, self.step_us);
            let compiled = distribution::compile(&text, sql_type, key);
            return compiled.map(Values::Distribution).map_err(|detail| Error::internal(format!("{text}: {detail}")));
        };
        let spec = Spec::parse(text).map_err(malformed)?;
        if spec.name == "expr" {
            return self.expression(column, spec.body, None);
        }
        if spec.name == "null" {
            let (nulls, values) = distribution::split_null(&spec, key).map_err(malformed)?;
            let inner = Spec::parse(values).map_err(malformed)?;
            if inner.name == "expr" {
                return self.expression(column, inner.body, Some(nulls));
            }
        }
        distribution::compile(text, sql_type, key).map(Values::Distribution).map_err(malformed)
    }

    /// An expression over the row's number and the columns before; a column `n` hides the row's number.
    fn expression(&self, column: usize, text: &str, nulls: Option<Nulls>) -> Result<Values> {
        let Some(binder) = &self.options.binder else {
            return Err(Error::not_supported(
                "expressions in options of connector \"generator\" are not available here",
            ));
        };
        let before = &self.options.columns[..column];
        let mut inputs: Vec<_> = (0..column).map(Input::Column).collect();
        let mut fields = fields(before);
        if before.iter().all(|c| c.name != ROW_NUMBER) {
            inputs.push(Input::RowNumber);
            fields.push(Field::new(ROW_NUMBER, DataType::Int64, true));
        }
        let sql_type = &self.options.columns[column].sql_type;
        let schema = Arc::new(Schema::new(fields));
        let expr = binder(text, &schema, sql_type)?;
        let pick =
            |i: &usize| inputs.get(*i).copied().ok_or_else(|| Error::internal("expression reads no such column"));
        let inputs = expr.inputs.iter().map(pick).collect::<Result<Vec<_>>>()?;
        let schema = Arc::new(schema.project(&expr.inputs)?);
        Ok(Values::Expression(ExpressionColumn { expr, inputs, schema, data_type: sql_type.arrow_type(), nulls }))
    }
}
