//! Blocks: rows as Arrow IPC, compressed where that makes them smaller, unless they are read back often.
#![allow(unsafe_code)]

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, GenericByteViewArray, GenericListArray, OffsetSizeTrait, RecordBatch, StructArray,
};
use arrow::buffer::Buffer;
use arrow::datatypes::{ByteViewType, DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow_ipc::reader::FileDecoder;
use arrow_ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, write_message};
use arrow_ipc::{Block, CompressionType, MetadataVersion};
use millstream_types::{Error, Result};

/// Where buffers begin in a message: what has 16 bytes an element is read without copying.
const ALIGNMENT: usize = 16;

/// Rows as bytes.
pub(crate) struct EncodedBlock {
    pub(crate) bytes: Vec<u8>,
    /// How many of the bytes are the metadata.
    pub(crate) metadata_len: u32,
}

/// Encodes batches of one schema after the other; has the scratch memory for it.
pub(crate) struct BlockEncoder {
    options: IpcWriteOptions,
    context: arrow_ipc::writer::IpcWriteContext,
}

impl BlockEncoder {
    /// One that compresses.
    pub(crate) fn new() -> Result<Self> {
        let options = Self::uncompressed()?.options.try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        Ok(BlockEncoder { options, context: Default::default() })
    }

    /// One that does not: what it writes is read without copying.
    pub(crate) fn uncompressed() -> Result<Self> {
        let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
        Ok(BlockEncoder { options, context: Default::default() })
    }

    /// Rows as bytes.
    ///
    /// # Errors
    /// Internal, if a type has no encoding.
    pub(crate) fn encode(&mut self, rows: &RecordBatch) -> Result<EncodedBlock> {
        let columns = rows.columns().iter().map(compact).collect::<Result<_, _>>()?;
        let row_count = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
        let rows = RecordBatch::try_new_with_options(rows.schema(), columns, &row_count)?;
        let (dictionaries, encoded) = IpcDataGenerator::default().encode(
            &rows,
            &mut DictionaryTracker::new(false),
            &self.options,
            &mut self.context,
        )?;
        if !dictionaries.is_empty() {
            return Err(Error::internal("state has no columns with dictionaries"));
        }
        let mut bytes = Vec::with_capacity(encoded.ipc_message.len() + encoded.arrow_data.len() + 64);
        let (metadata_len, _) = write_message(&mut bytes, encoded, &self.options)?;
        Ok(EncodedBlock { bytes, metadata_len: metadata_len as u32 })
    }
}

/// Rows from the bytes of a block, which are known to be those that were written.
///
/// # Errors
/// What Arrow says if they are no block of that schema.
pub(super) fn decode(bytes: Vec<u8>, metadata_len: u32, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    decode_columns(Buffer::from_vec(bytes), metadata_len, schema, None)
}

/// The same, of some columns, in the given order.
///
/// # Errors
/// What Arrow says if they are no block of that schema.
pub(crate) fn decode_columns(
    bytes: Buffer,
    metadata_len: u32,
    schema: &SchemaRef,
    projection: Option<&[usize]>,
) -> Result<RecordBatch, ArrowError> {
    read(FileDecoder::new(Arc::clone(schema), MetadataVersion::V5), bytes, metadata_len, projection)
}

/// The same, without looking whether the columns are what Arrow's are: whether text is UTF-8, say.
///
/// # Safety
/// The bytes are those of a block of that schema that this process has written.
///
/// # Errors
/// What Arrow says if they are no block.
pub(crate) unsafe fn decode_own(
    bytes: Buffer,
    metadata_len: u32,
    schema: &SchemaRef,
    projection: Option<&[usize]>,
) -> Result<RecordBatch, ArrowError> {
    let decoder = FileDecoder::new(Arc::clone(schema), MetadataVersion::V5);
    // SAFETY: the caller knows that the columns are those of a valid batch.
    let decoder = unsafe { decoder.with_skip_validation(true) };
    read(decoder, bytes, metadata_len, projection)
}

fn read(
    mut decoder: FileDecoder,
    bytes: Buffer,
    metadata_len: u32,
    projection: Option<&[usize]>,
) -> Result<RecordBatch, ArrowError> {
    let too_short = || ArrowError::IpcError("its metadata is longer than it is".to_owned());
    let body_len = bytes.len().checked_sub(metadata_len as usize).ok_or_else(too_short)?;
    let block = Block::new(0, metadata_len as i32, body_len as i64);
    if let Some(columns) = projection {
        decoder = decoder.with_projection(columns.to_vec());
    }
    let rows = decoder.read_record_batch(&block, &bytes)?;
    rows.ok_or_else(|| ArrowError::IpcError("it has no rows".to_owned()))
}

/// A schema as bytes.
pub(super) fn encode_schema(schema: &Schema) -> Result<Vec<u8>> {
    let options = IpcWriteOptions::try_new(ALIGNMENT, false, MetadataVersion::V5)?;
    let mut dictionaries = DictionaryTracker::new(false);
    let encoded =
        IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut dictionaries, &options);
    Ok(encoded.ipc_message)
}

/// A schema from bytes, which are known to be those that were written.
pub(super) fn decode_schema(bytes: &[u8]) -> Option<SchemaRef> {
    arrow_ipc::convert::try_schema_from_flatbuffer_bytes(bytes).ok().map(Arc::new)
}

/// The same values without what else lies in the buffers of their views, which would be written with them.
fn compact(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(match column.data_type() {
        DataType::Utf8View if has_gaps(column.as_string_view()) => Arc::new(column.as_string_view().gc()),
        DataType::BinaryView if has_gaps(column.as_binary_view()) => Arc::new(column.as_binary_view().gc()),
        DataType::List(_) => Arc::new(compact_list(column.as_list::<i32>())?),
        DataType::LargeList(_) => Arc::new(compact_list(column.as_list::<i64>())?),
        DataType::Struct(_) => {
            let (fields, columns, nulls) = column.as_struct().clone().into_parts();
            let columns = columns.iter().map(compact).collect::<Result<_, _>>()?;
            Arc::new(StructArray::try_new_with_length(fields, columns, nulls, column.len())?)
        }
        _ => Arc::clone(column),
    })
}

/// Whether much in the buffers of views is not theirs, more than is worth a copy of the rest.
fn has_gaps<T: ByteViewType>(array: &GenericByteViewArray<T>) -> bool {
    let n_bytes: usize = array.data_buffers().iter().map(|buffer| buffer.len()).sum();
    n_bytes > array.total_buffer_bytes_used() / 8 * 9
}

fn compact_list<O: OffsetSizeTrait>(list: &GenericListArray<O>) -> Result<GenericListArray<O>, ArrowError> {
    let (field, offsets, values, nulls) = list.clone().into_parts();
    GenericListArray::try_new(field, offsets, compact(&values)?, nulls)
}
