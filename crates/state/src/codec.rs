//! Deltas as bytes: Arrow IPC, as a stream that says its schema, for other processes, or as one message, for who knows it.

use std::collections::HashMap;
use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericByteViewArray, Int64Array, RecordBatch};
use arrow::buffer::Buffer;
use arrow::datatypes::{ByteViewType, DataType, Field, Int64Type, Schema, SchemaRef};
use arrow::ipc::reader::{StreamReader, read_record_batch};
use arrow::ipc::root_as_message;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions, StreamWriter};
use millstream_types::{Delta, Error, Result};

/// The name of the column that carries weights; columns of relations never start with a NUL.
const WEIGHT: &str = "\0weight";

/// A delta as one self-describing Arrow IPC stream; the weights, if any, are its last column.
///
/// # Errors
/// Internal, if a type has no IPC encoding.
pub fn encode(delta: &Delta) -> Result<Vec<u8>> {
    let batch = with_weights(delta)?;
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
    without_weights(batch)
}

/// A delta as one Arrow IPC message, without its schema: the length of the message's head, the head, the columns. Appended
/// to `bytes`.
///
/// # Errors
/// Internal, if a type has no IPC encoding.
pub fn encode_rows(delta: &Delta, bytes: &mut Vec<u8>) -> Result<()> {
    let batch = with_weights(delta)?;
    let compact = batch.columns().iter().map(compacted).collect();
    let batch = RecordBatch::try_new(batch.schema(), compact)?;
    let options = IpcWriteOptions::default();
    let mut dictionaries = DictionaryTracker::new(false);
    let (_, encoded) =
        IpcDataGenerator::default().encode(&batch, &mut dictionaries, &options, &mut IpcWriteContext::default())?;
    bytes.extend((encoded.ipc_message.len() as u32).to_le_bytes());
    bytes.extend(u32::from(delta.weights().is_some()).to_le_bytes());
    bytes.extend(encoded.ipc_message);
    bytes.extend(encoded.arrow_data);
    Ok(())
}

/// The delta of a schema that [`encode_rows`] gave these bytes.
///
/// # Errors
/// Internal, if the bytes are not such a delta.
pub fn decode_rows(bytes: &[u8], schema: &SchemaRef) -> Result<Delta> {
    let cut_off = || Error::internal("an encoded delta that is cut off");
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4).ok_or_else(cut_off)?;
        Ok::<u32, Error>(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
    };
    let (head_len, has_weights) = (number(0)? as usize, number(4)? > 0);
    let (head, columns) = bytes[8..].split_at_checked(head_len).ok_or_else(cut_off)?;
    let message = root_as_message(head).map_err(|e| Error::internal(format!("no encoded delta: {e}")))?;
    if (columns.len() as i64) < message.bodyLength() {
        return Err(cut_off());
    }
    let rows = message.header_as_record_batch().ok_or_else(|| Error::internal("an encoded delta without rows"))?;
    let weighted;
    let schema = if has_weights {
        weighted = weighted_schema(schema);
        &weighted
    } else {
        schema
    };
    let columns = Buffer::from(columns);
    let batch = read_record_batch(&columns, rows, schema.clone(), &HashMap::new(), None, &message.version())?;
    if has_weights { without_weights(batch) } else { Ok(Delta::inserts(batch)) }
}

fn weighted_schema(schema: &SchemaRef) -> SchemaRef {
    let mut fields = schema.fields().to_vec();
    fields.push(Arc::new(Field::new(WEIGHT, DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}

fn with_weights(delta: &Delta) -> Result<RecordBatch> {
    let Some(weights) = delta.weights() else { return Ok(delta.batch().clone()) };
    let mut columns = delta.columns().to_vec();
    columns.push(Arc::new(Int64Array::new(weights.clone(), None)));
    Ok(RecordBatch::try_new(weighted_schema(&delta.schema()), columns)?)
}

fn without_weights(batch: RecordBatch) -> Result<Delta> {
    let n_columns = batch.num_columns();
    let schema = batch.schema();
    if schema.fields().last().is_none_or(|f| f.name() != WEIGHT) {
        return Ok(Delta::inserts(batch));
    }
    let weights = batch.column(n_columns - 1).as_primitive::<Int64Type>().values().clone();
    let kept: Vec<usize> = (0..n_columns - 1).collect();
    Ok(Delta::new(batch.project(&kept)?, Some(weights)))
}

/// A column without the bytes of rows that are not in it, if they are many.
pub(crate) fn compacted(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Utf8View => compacted_views(column.as_string_view()),
        DataType::BinaryView => compacted_views(column.as_binary_view()),
        _ => Arc::clone(column),
    }
}

fn compacted_views<T: ByteViewType>(views: &GenericByteViewArray<T>) -> ArrayRef {
    let has: usize = views.data_buffers().iter().map(Buffer::len).sum();
    if has > 2 * views.total_buffer_bytes_used() { Arc::new(views.gc()) } else { Arc::new(views.clone()) }
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
            let mut bytes = b"before".to_vec();
            encode_rows(&delta, &mut bytes).expect("encodes");
            let decoded = decode_rows(&bytes[6..], &delta.schema()).expect("decodes");
            assert_eq!(decoded.batch(), delta.batch());
            assert_eq!(decoded.weights(), delta.weights());
            assert!((0..bytes.len() - 6).step_by(9).all(|n| decode_rows(&bytes[6..6 + n], &delta.schema()).is_err()));
        }
    }

    #[test]
    fn rows_that_are_not_there_take_no_bytes() {
        let schema = schema_of(&[("t", DataType::Utf8View)]);
        let text = (0..1000).map(|i| Some(format!("a text that is not inline, {i}"))).collect::<StringViewArray>();
        let batch = RecordBatch::try_new(schema, vec![Arc::new(text)]).expect("one column");
        let mut bytes = Vec::new();
        encode_rows(&Delta::inserts(batch.slice(500, 1)), &mut bytes).expect("encodes");
        assert!(bytes.len() < 1000, "{} bytes", bytes.len());
    }
}
