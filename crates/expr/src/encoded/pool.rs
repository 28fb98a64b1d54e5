//! Types, schemas and constants, as one Arrow IPC stream.
//!
//! The stream has one batch of one row. Each column is a list whose elements have one of the pool's fields: name, type,
//! nullability and metadata, all the way down. The elements are the constants of that field; none if only the field is
//! wanted. A schema is a field of a struct type, with the schema's metadata.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, ListArray, RecordBatch, new_empty_array};
use arrow::buffer::OffsetBuffer;
use arrow::compute::concat;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::ipc::MetadataVersion;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use datafusion::common::ScalarValue;
use millstream_types::Result;
use serde::{Deserialize, Serialize};

use super::damaged;
use crate::scalar::{batch_of, error_of};

/// The number of a field in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FieldNumber(usize);

/// Where a constant is: the number of its field, and its place among the constants of that field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place(usize, usize);

/// Rows, as constants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowsForm {
    schema: FieldNumber,
    n_rows: usize,
    /// Where each column begins.
    columns: Vec<Place>,
}

/// A pool that is being filled.
#[derive(Default)]
pub struct Pool {
    numbers: HashMap<FieldRef, usize>,
    entries: Vec<Entry>,
}

struct Entry {
    field: FieldRef,
    values: Vec<ArrayRef>,
    n_values: usize,
}

impl Pool {
    /// The number of a field.
    pub fn field(&mut self, field: &FieldRef) -> FieldNumber {
        if let Some(number) = self.numbers.get(field) {
            return FieldNumber(*number);
        }
        self.numbers.insert(Arc::clone(field), self.entries.len());
        self.entries.push(Entry { field: Arc::clone(field), values: Vec::new(), n_values: 0 });
        FieldNumber(self.entries.len() - 1)
    }

    /// The number of a schema.
    pub fn schema(&mut self, schema: &SchemaRef) -> FieldNumber {
        let field = Field::new("", DataType::Struct(schema.fields().clone()), false);
        self.field(&Arc::new(field.with_metadata(schema.metadata().clone())))
    }

    /// The place of a constant.
    ///
    /// # Errors
    /// Internal, if it cannot be an element of an array.
    pub fn value(&mut self, value: &ScalarValue) -> Result<Place> {
        Ok(self.values(value.to_array().map_err(error_of)?))
    }

    /// The form of rows.
    pub fn rows(&mut self, rows: &RecordBatch) -> RowsForm {
        let columns = rows.columns().iter().map(|column| self.values(column.clone())).collect();
        RowsForm { schema: self.schema(&rows.schema()), n_rows: rows.num_rows(), columns }
    }

    fn values(&mut self, values: ArrayRef) -> Place {
        let FieldNumber(number) = self.field(&Arc::new(Field::new("", values.data_type().clone(), true)));
        let entry = &mut self.entries[number];
        let place = Place(number, entry.n_values);
        entry.n_values += values.len();
        entry.values.push(values);
        place
    }

    /// The pool as bytes.
    ///
    /// # Errors
    /// Internal, if Arrow cannot write it.
    pub fn finish(self) -> Result<Vec<u8>> {
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for (number, entry) in self.entries.into_iter().enumerate() {
            let column = Arc::new(entry.into_column()?);
            fields.push(Field::new(number.to_string(), column.data_type().clone(), false));
            columns.push(column as ArrayRef);
        }
        let batch = batch_of(Arc::new(Schema::new(fields)), columns, 1)?;
        // Most buffers have a few bytes, so they are not put 64 apart.
        let options = IpcWriteOptions::try_new(8, false, MetadataVersion::V5)?;
        let mut bytes = Vec::new();
        let mut writer = StreamWriter::try_new_with_options(&mut bytes, &batch.schema(), options)?;
        writer.write(&batch)?;
        writer.finish()?;
        drop(writer);
        Ok(bytes)
    }
}

impl Entry {
    fn into_column(self) -> Result<ListArray> {
        let values = match self.values.as_slice() {
            [] => new_empty_array(self.field.data_type()),
            values => concat(&values.iter().map(AsRef::as_ref).collect::<Vec<_>>())?,
        };
        Ok(ListArray::try_new(self.field, OffsetBuffer::from_lengths([values.len()]), values, None)?)
    }
}

/// A pool that was read.
pub struct PoolReader {
    entries: Vec<(FieldRef, ArrayRef)>,
}

impl PoolReader {
    /// Reads a pool.
    ///
    /// # Errors
    /// Internal, if the bytes are not one.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let batch = StreamReader::try_new(bytes, None).and_then(|mut reader| reader.next().transpose());
        let batch = batch.map_err(damaged)?.ok_or_else(|| damaged("a pool without a batch"))?;
        if batch.num_rows() != 1 {
            return Err(damaged("a pool of more rows than one"));
        }
        let entry = |column: &ArrayRef| match (column.data_type(), column.as_list_opt::<i32>()) {
            (DataType::List(field), Some(list)) if list.is_valid(0) => Ok((Arc::clone(field), list.value(0))),
            _ => Err(damaged("a pool with a column that is no list")),
        };
        Ok(PoolReader { entries: batch.columns().iter().map(entry).collect::<Result<_>>()? })
    }

    fn entry(&self, number: usize) -> Result<&(FieldRef, ArrayRef)> {
        self.entries.get(number).ok_or_else(|| damaged(format!("field {number} of {}", self.entries.len())))
    }

    /// The field of a number.
    ///
    /// # Errors
    /// Internal, if there is none.
    pub fn field(&self, number: FieldNumber) -> Result<&FieldRef> {
        Ok(&self.entry(number.0)?.0)
    }

    /// The schema of a number.
    ///
    /// # Errors
    /// Internal, if there is none.
    pub fn schema(&self, number: FieldNumber) -> Result<SchemaRef> {
        let field = self.field(number)?;
        match field.data_type() {
            DataType::Struct(fields) => {
                Ok(Arc::new(Schema::new_with_metadata(fields.clone(), field.metadata().clone())))
            }
            other => Err(damaged(format!("{other} as a schema"))),
        }
    }

    /// The constant at a place.
    ///
    /// # Errors
    /// Internal, if there is none.
    pub fn value(&self, place: Place) -> Result<ScalarValue> {
        ScalarValue::try_from_array(&self.values(place, 1)?, 0).map_err(error_of)
    }

    /// The rows of a form.
    ///
    /// # Errors
    /// Internal, if they are not there.
    pub fn rows(&self, form: &RowsForm) -> Result<RecordBatch> {
        let columns = form.columns.iter().map(|place| self.values(*place, form.n_rows));
        batch_of(self.schema(form.schema)?, columns.collect::<Result<_>>()?, form.n_rows).map_err(damaged)
    }

    fn values(&self, Place(number, at): Place, n_values: usize) -> Result<ArrayRef> {
        let (_, values) = self.entry(number)?;
        if at.checked_add(n_values).is_none_or(|end| end > values.len()) {
            return Err(damaged(format!("constants {at} to {at} + {n_values} of {}", values.len())));
        }
        Ok(values.slice(at, n_values))
    }
}
