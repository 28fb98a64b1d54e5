//! Rows that an expression failed on: an operator's second output.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millstream_types::Error;

/// The key, in a field's metadata, of the name under which a failed row shows the column, if it is not the field's own; the
/// column is left out if that name is empty.
pub const SHOWN_AS: &str = "millstream.shown_as";

/// One failed row, with the weight it came with: taking the row back takes the error back.
#[derive(Clone, Debug, PartialEq)]
pub struct RowError {
    /// What failed.
    pub error: Error,
    /// The row as text, `column=value` pairs.
    pub row: String,
    /// How often the row came, negative if it was taken back.
    pub weight: i64,
}

/// Collects the failed rows of an epoch.
#[derive(Debug, Default)]
pub struct RowErrors(Vec<RowError>);

impl RowErrors {
    /// Notes that row `row_idx` of a batch failed.
    pub fn add(&mut self, error: Error, batch: &RecordBatch, row_idx: usize, weight: i64) {
        if weight != 0 {
            self.0.push(RowError { error, row: row_text(batch, row_idx), weight });
        }
    }

    /// Takes back an error that was reported before.
    pub fn retract(&mut self, error: RowError) {
        self.0.push(RowError { weight: -error.weight, ..error });
    }

    /// Whether no row failed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what was collected.
    pub fn take(&mut self) -> Vec<RowError> {
        std::mem::take(&mut self.0)
    }
}

/// A row as `column=value` pairs, for people.
pub fn row_text(batch: &RecordBatch, row_idx: usize) -> String {
    let schema = batch.schema();
    let names = schema.fields().iter().map(|f| f.metadata().get(SHOWN_AS).unwrap_or(f.name()));
    let pairs = names.zip(values_text(batch, row_idx)).filter(|(name, _)| !name.is_empty());
    let pairs = pairs.map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join(" ")
}

/// The values of a row as text.
pub fn values_text(batch: &RecordBatch, row_idx: usize) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let text = |column: &ArrayRef| match ArrayFormatter::try_new(column.as_ref(), &options) {
        Ok(formatter) => formatter.value(row_idx).to_string(),
        Err(_) => "?".to_owned(),
    };
    batch.columns().iter().map(text).collect()
}
