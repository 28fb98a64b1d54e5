//! Deltas as bytes: Arrow IPC streams, for checkpoints and for other processes.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use millstream_types::{Delta, Error, Result};

/// The name of the column that carries weights; columns of relations never start with a NUL.
const WEIGHT: &str = "\0weight";

/// A delta as one self-describing Arrow IPC stream; the weights, if any, are its last column.
///
/// # Errors
/// Internal, if a type has no IPC encoding.
pub fn encode(delta: &Delta) -> Result<Vec<u8>> {
    let batch = match delta.weights() {
        None => delta.batch().clone(),
        Some(weights) => {
            let mut fields = delta.schema().fields().to_vec();
            fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
            let mut columns = delta.columns().to_vec();
            columns.push(Arc::new(Int64Array::new(weights.clone(), None)));
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?
        }
    };
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema())?;
    writer.write(&batch)?;
    Ok(writer.into_inner()?)
}

/// The delta that was encoded.
///
/// # Errors
/// Internal, if the bytes are not such a stream.
pub fn decode(bytes: &[u8]) -> Result<Delta> {
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let batch = reader.next().ok_or_else(|| Error::internal("an encoded delta without a batch"))??;
    let n_columns = batch.num_columns();
    let schema = batch.schema();
    if schema.fields().last().is_none_or(|f| f.name() != WEIGHT) {
        return Ok(Delta::inserts(batch));
    }
    let weights = batch.column(n_columns - 1).as_primitive::<Int64Type>().values().clone();
    let kept: Vec<usize> = (0..n_columns - 1).collect();
    Ok(Delta::new(batch.project(&kept)?, Some(weights)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::StringViewArray;
    use millstream_types::delta::schema_of;

    #[test]
    fn what_is_decoded_is_what_was_encoded() {
        let schema = schema_of(&[("t", DataType::Utf8View)]);
        let text = StringViewArray::from(vec![Some("a"), None, Some("a text that is not inline")]);
        let batch = RecordBatch::try_new(schema, vec![Arc::new(text)]).expect("one column");
        for weights in [None, Some(vec![1, -2, 3].into())] {
            let delta = Delta::new(batch.clone(), weights);
            let decoded = decode(&encode(&delta).expect("encodes")).expect("decodes");
            assert_eq!(decoded.batch(), delta.batch());
            assert_eq!(decoded.weights(), delta.weights());
        }
    }
}
