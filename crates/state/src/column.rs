//! One column of a row store: typed chunks, addressed by row id.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, NullArray, UInt32Array, make_array};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow::datatypes::{ArrowNativeType, DataType, IntervalUnit};
use arrow::row::{RowConverter, SortField};
use millstream_types::{Error, Result};

use crate::buffer::{AppendBuf, Plain};
use crate::hash_index::NO_ROW;
use crate::strings::{Strings, StringsImage};

/// log2 of the rows in a full chunk.
pub const CHUNK_BITS: u32 = 13;
/// Rows in a full chunk; DataFusion's batch size, so that a scan hands chunks on as they are.
pub const CHUNK_ROWS: usize = 1 << CHUNK_BITS;

/// The chunk of a row.
#[inline]
pub fn chunk_of(row: u32) -> usize {
    (row >> CHUNK_BITS) as usize
}

/// A row's place in its chunk.
#[inline]
pub fn offset_of(row: u32) -> usize {
    row as usize & (CHUNK_ROWS - 1)
}

/// The id of a row.
#[inline]
pub fn row_id(chunk: usize, offset: usize) -> u32 {
    ((chunk << CHUNK_BITS) | offset) as u32
}

/// When two values are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Equality {
    /// As keys: -0.0 equals 0.0, every NaN every other, and a month 30 days.
    Sql,
    /// As what a row is: only what looks alike is the same. A row that is taken back is told from others so, and a result
    /// that has changed.
    Identity,
}

/// Which rows of an array are meant.
#[derive(Clone, Copy, Debug)]
pub enum Rows<'a> {
    /// `len` rows from `offset` on.
    Range {
        /// The first row.
        offset: usize,
        /// The number of rows.
        len: usize,
    },
    /// The rows with these indices, in this order.
    Selected(&'a [u32]),
}

impl<'a> Rows<'a> {
    /// The number of rows.
    pub fn len(&self) -> usize {
        match self {
            Rows::Range { len, .. } => *len,
            Rows::Selected(rows) => rows.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` of them, from the `offset`th on.
    #[must_use]
    pub fn slice(&self, offset: usize, len: usize) -> Rows<'a> {
        match self {
            Rows::Range { offset: o, len: l } => {
                assert!(offset + len <= *l, "a slice of these rows");
                Rows::Range { offset: o + offset, len }
            }
            Rows::Selected(rows) => Rows::Selected(&rows[offset..offset + len]),
        }
    }

    /// The index of the `i`th of them.
    #[inline]
    pub fn index(&self, i: usize) -> usize {
        match self {
            Rows::Range { offset, .. } => offset + i,
            Rows::Selected(rows) => rows[i] as usize,
        }
    }
}

/// Chunks of plain values.
pub(crate) struct Chunks<T: Plain>(Vec<AppendBuf<T>>);

impl<T: Plain + Default> Chunks<T> {
    fn new() -> Self {
        Chunks(Vec::new())
    }

    fn chunk(&mut self, chunk: usize) -> &mut AppendBuf<T> {
        while self.0.len() <= chunk {
            self.0.push(AppendBuf::with_capacity(0));
        }
        &mut self.0[chunk]
    }

    fn append(&mut self, chunk: usize, values: &[T], rows: Rows<'_>) {
        let chunk = self.chunk(chunk);
        chunk.reserve_within(rows.len(), CHUNK_ROWS);
        match rows {
            Rows::Range { offset, len } => chunk.extend_from_slice(&values[offset..offset + len]),
            Rows::Selected(selection) => chunk.extend_selected(values, selection),
        }
    }

    #[inline]
    pub(crate) fn get(&self, row: u32) -> T {
        self.0[chunk_of(row)].as_slice()[offset_of(row)]
    }

    #[inline]
    pub(crate) fn set(&mut self, row: u32, value: T) {
        self.0[chunk_of(row)].set(offset_of(row), value);
    }

    pub(crate) fn push(&mut self, chunk: usize, value: T) {
        self.chunk(chunk).push(value);
    }

    fn gather(&self, rows: &[u32]) -> Vec<T> {
        rows.iter().map(|&row| self.get(row)).collect()
    }

    fn gather_or_default(&self, rows: &[u32]) -> Vec<T> {
        rows.iter().map(|&row| if row == NO_ROW { T::default() } else { self.get(row) }).collect()
    }

    fn n_bytes(&self) -> usize {
        self.0.iter().map(AppendBuf::n_bytes).sum()
    }

    fn drop_chunk(&mut self, chunk: usize) {
        if let Some(buf) = self.0.get_mut(chunk) {
            *buf = AppendBuf::with_capacity(0);
        }
    }

    pub(crate) fn share(&self, chunk: usize, len: usize) -> Buffer {
        self.0[chunk].share(len)
    }
}

/// The values of a column, by physical width.
enum Values {
    /// All values are null.
    Null,
    /// Booleans as one byte, and other types of one byte.
    W1(Chunks<u8>),
    W2(Chunks<u16>),
    W4(Chunks<u32>),
    W8(Chunks<u64>),
    W16(Chunks<u128>),
    /// Text and bytes.
    Strings(Strings),
    /// Anything else, each value as its row encoding.
    Encoded(Strings, RowConverter),
}

/// One column of a row store.
///
/// Values of fixed width lie in chunks of [`CHUNK_ROWS`]; text and bytes as views into blocks of their own. Validity is
/// a byte a row, and exists only once a null was stored. Appending copies; gathering copies fixed-width values and, for
/// text, copies or shares as is cheaper.
pub struct Column {
    data_type: DataType,
    values: Values,
    /// 1 for a value, 0 for null; `None` while there was no null.
    validity: Option<Chunks<u8>>,
    /// Rows in each chunk, to fill `validity` up when the first null comes.
    chunk_lens: Vec<usize>,
}

/// A chunk's column as a reader holds it: shared buffers, turned into an array when it is read.
#[derive(Clone)]
pub struct ColumnImage {
    data_type: DataType,
    len: usize,
    values: ImageValues,
    validity: Option<Buffer>,
}

#[derive(Clone)]
enum ImageValues {
    Null,
    Fixed(Buffer),
    Strings(StringsImage),
    Encoded(StringsImage),
}

macro_rules! each_width {
    ($values:expr, $chunks:ident : $t:ident => $body:expr, strings $s:ident => $strings:expr, null => $null:expr) => {
        match $values {
            Values::Null => $null,
            Values::W1($chunks) => {
                type $t = u8;
                $body
            }
            Values::W2($chunks) => {
                type $t = u16;
                $body
            }
            Values::W4($chunks) => {
                type $t = u32;
                $body
            }
            Values::W8($chunks) => {
                type $t = u64;
                $body
            }
            Values::W16($chunks) => {
                type $t = u128;
                $body
            }
            Values::Strings($s) | Values::Encoded($s, _) => $strings,
        }
    };
}

impl Column {
    /// An empty column.
    ///
    /// # Errors
    /// Not supported, if values of the type have no row encoding (maps).
    pub fn new(data_type: &DataType) -> Result<Self> {
        let values = match data_type {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::W1(Chunks::new()),
            DataType::Utf8View | DataType::BinaryView => Values::Strings(Strings::new()),
            t => match t.primitive_width() {
                Some(1) => Values::W1(Chunks::new()),
                Some(2) => Values::W2(Chunks::new()),
                Some(4) => Values::W4(Chunks::new()),
                Some(8) => Values::W8(Chunks::new()),
                Some(16) => Values::W16(Chunks::new()),
                _ => {
                    let converter = RowConverter::new(vec![SortField::new(t.clone())])
                        .map_err(|_| Error::not_supported(format!("values of type {t} cannot be kept in state")))?;
                    Values::Encoded(Strings::new(), converter)
                }
            },
        };
        Ok(Column { data_type: data_type.clone(), values, validity: None, chunk_lens: Vec::new() })
    }

    /// The type of the values.
    pub fn data_type(&self) -> &DataType {
        &self.data_type
    }

    /// Allocated bytes.
    pub fn n_bytes(&self) -> usize {
        let values = each_width!(&self.values, c: _T => c.n_bytes(), strings s => s.n_bytes(), null => 0);
        values + self.validity.as_ref().map_or(0, Chunks::n_bytes)
    }

    /// Appends rows of an array of the column's type to a chunk.
    pub fn append(&mut self, chunk: usize, array: &ArrayRef, rows: Rows<'_>) {
        debug_assert_eq!(array.data_type(), &self.data_type);
        self.append_validity(chunk, array, rows);
        match &mut self.values {
            Values::Null => {}
            Values::W1(c) => match array.as_boolean_opt() {
                Some(bools) => {
                    for i in 0..rows.len() {
                        c.push(chunk, u8::from(bools.value(rows.index(i))));
                    }
                }
                None => c.append(chunk, &raw(array), rows),
            },
            Values::W2(c) => c.append(chunk, &raw(array), rows),
            Values::W4(c) => c.append(chunk, &raw(array), rows),
            Values::W8(c) => c.append(chunk, &raw(array), rows),
            Values::W16(c) => c.append(chunk, &raw(array), rows),
            Values::Strings(s) => s.append(chunk, array, rows),
            Values::Encoded(s, converter) => s.append(chunk, &encode(converter, array), rows),
        }
    }

    fn append_validity(&mut self, chunk: usize, array: &ArrayRef, rows: Rows<'_>) {
        if self.chunk_lens.len() <= chunk {
            self.chunk_lens.resize(chunk + 1, 0);
        }
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        if self.validity.is_none() && nulls.is_some() {
            let mut validity = Chunks::new();
            for (c, &len) in self.chunk_lens.iter().enumerate() {
                validity.chunk(c).extend_from_slice(&vec![1; len]);
            }
            self.validity = Some(validity);
        }
        if let Some(validity) = &mut self.validity {
            let chunk = validity.chunk(chunk);
            match nulls {
                None => chunk.extend_from_slice(&vec![1; rows.len()]),
                Some(nulls) => (0..rows.len()).for_each(|i| chunk.push(u8::from(nulls.is_valid(rows.index(i))))),
            }
        }
        self.chunk_lens[chunk] += rows.len();
    }

    /// Replaces the values of present rows, one for each row of the array that is meant.
    pub fn overwrite(&mut self, targets: &[u32], array: &ArrayRef, rows: Rows<'_>) {
        debug_assert_eq!(targets.len(), rows.len());
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        if self.validity.is_none() && nulls.is_some() {
            // Adds the validity of what is there, and no row.
            self.append_validity(0, array, Rows::Range { offset: 0, len: 0 });
        }
        if let Some(validity) = &mut self.validity {
            for (i, &row) in targets.iter().enumerate() {
                validity.set(row, nulls.map_or(1, |n| u8::from(n.is_valid(rows.index(i)))));
            }
        }
        fn put<T: Plain + Default>(chunks: &mut Chunks<T>, targets: &[u32], values: &[T], rows: Rows<'_>) {
            for (i, &row) in targets.iter().enumerate() {
                chunks.set(row, values[rows.index(i)]);
            }
        }
        match &mut self.values {
            Values::Null => {}
            Values::W1(c) => match array.as_boolean_opt() {
                Some(bools) => {
                    for (i, &row) in targets.iter().enumerate() {
                        c.set(row, u8::from(bools.value(rows.index(i))));
                    }
                }
                None => put(c, targets, &raw(array), rows),
            },
            Values::W2(c) => put(c, targets, &raw(array), rows),
            Values::W4(c) => put(c, targets, &raw(array), rows),
            Values::W8(c) => put(c, targets, &raw(array), rows),
            Values::W16(c) => put(c, targets, &raw(array), rows),
            Values::Strings(s) => s.overwrite(targets, array, rows),
            Values::Encoded(s, converter) => s.overwrite(targets, &encode(converter, array), rows),
        }
    }

    /// Says that a row's value is not needed any more, so that its text's memory can be freed.
    pub fn forget(&mut self, row: u32) {
        if let Values::Strings(s) | Values::Encoded(s, _) = &mut self.values {
            s.forget(row);
        }
    }

    /// Whether rewriting the texts would free much memory.
    pub fn is_sparse(&self) -> bool {
        matches!(&self.values, Values::Strings(s) | Values::Encoded(s, _) if s.is_sparse())
    }

    /// Moves the texts of the given rows, which must be all that are not forgotten, out of sparse blocks.
    pub fn rewrite_texts(&mut self, live: impl Iterator<Item = u32>) {
        if let Values::Strings(s) | Values::Encoded(s, _) = &mut self.values {
            s.rewrite(live);
        }
    }

    /// Frees a chunk; its rows must have been forgotten.
    pub fn drop_chunk(&mut self, chunk: usize) {
        each_width!(&mut self.values, c: _T => c.drop_chunk(chunk), strings s => s.drop_chunk(chunk), null => ());
        if let Some(validity) = &mut self.validity {
            validity.drop_chunk(chunk);
        }
        if let Some(len) = self.chunk_lens.get_mut(chunk) {
            *len = 0;
        }
    }

    /// The values of rows, in that order.
    pub fn gather(&self, rows: &[u32]) -> ArrayRef {
        let nulls = self.validity.as_ref().and_then(|validity| {
            let bits = BooleanBuffer::collect_bool(rows.len(), |i| validity.get(rows[i]) != 0);
            Some(NullBuffer::new(bits)).filter(|n| n.null_count() > 0)
        });
        let buffer = match &self.values {
            Values::Null => return Arc::new(NullArray::new(rows.len())),
            Values::W1(c) => Buffer::from_vec(c.gather(rows)),
            Values::W2(c) => Buffer::from_vec(c.gather(rows)),
            Values::W4(c) => Buffer::from_vec(c.gather(rows)),
            Values::W8(c) => Buffer::from_vec(c.gather(rows)),
            Values::W16(c) => Buffer::from_vec(c.gather(rows)),
            Values::Strings(s) => return s.gather(rows, nulls, &self.data_type),
            Values::Encoded(s, converter) => return decode(converter, &s.gather(rows, nulls, &DataType::BinaryView)),
        };
        fixed_array(&self.data_type, rows.len(), buffer, nulls)
    }

    /// The values of rows, null for [`NO_ROW`].
    pub fn gather_or_null(&self, rows: &[u32]) -> ArrayRef {
        if !rows.contains(&NO_ROW) {
            return self.gather(rows);
        }
        let is_valid = |row: u32| row != NO_ROW && self.validity.as_ref().is_none_or(|v| v.get(row) != 0);
        let nulls = Some(NullBuffer::new(BooleanBuffer::collect_bool(rows.len(), |i| is_valid(rows[i]))));
        let buffer = match &self.values {
            Values::Null => return Arc::new(NullArray::new(rows.len())),
            Values::W1(c) => Buffer::from_vec(c.gather_or_default(rows)),
            Values::W2(c) => Buffer::from_vec(c.gather_or_default(rows)),
            Values::W4(c) => Buffer::from_vec(c.gather_or_default(rows)),
            Values::W8(c) => Buffer::from_vec(c.gather_or_default(rows)),
            Values::W16(c) => Buffer::from_vec(c.gather_or_default(rows)),
            Values::Strings(s) => return s.gather(rows, nulls, &self.data_type),
            Values::Encoded(s, converter) => return decode(converter, &s.gather(rows, nulls, &DataType::BinaryView)),
        };
        fixed_array(&self.data_type, rows.len(), buffer, nulls)
    }

    /// The first `len` rows of a chunk for readers.
    pub fn share(&self, chunk: usize, len: usize) -> ColumnImage {
        let values = match &self.values {
            Values::Null => ImageValues::Null,
            Values::W1(c) => ImageValues::Fixed(c.share(chunk, len)),
            Values::W2(c) => ImageValues::Fixed(c.share(chunk, len)),
            Values::W4(c) => ImageValues::Fixed(c.share(chunk, len)),
            Values::W8(c) => ImageValues::Fixed(c.share(chunk, len)),
            Values::W16(c) => ImageValues::Fixed(c.share(chunk, len)),
            Values::Strings(s) => ImageValues::Strings(s.share(chunk, len)),
            Values::Encoded(s, _) => ImageValues::Encoded(s.share(chunk, len)),
        };
        let validity = self.validity.as_ref().map(|v| v.share(chunk, len));
        ColumnImage { data_type: self.data_type.clone(), len, values, validity }
    }

    /// Clears `mask[i]` where the value of `rows[i]` differs from `array[probes[i]]`. Two nulls are equal.
    pub fn compare(&self, equality: Equality, rows: &[u32], array: &ArrayRef, probes: &[u32], mask: &mut [bool]) {
        debug_assert_eq!(array.data_type(), &self.data_type);
        let nulls = array.nulls().filter(|n| n.null_count() > 0);
        if self.validity.is_some() || nulls.is_some() {
            for (i, m) in mask.iter_mut().enumerate() {
                let mine = self.validity.as_ref().is_none_or(|v| v.get(rows[i]) != 0);
                let theirs = nulls.is_none_or(|n| n.is_valid(probes[i] as usize));
                *m &= mine == theirs;
            }
        }
        let is_null = |i: usize| nulls.is_some_and(|n| n.is_null(probes[i] as usize));
        macro_rules! by {
            ($chunks:expr, $t:ty, $eq:expr) => {{
                let values = raw::<$t>(array);
                let eq = $eq;
                for (i, m) in mask.iter_mut().enumerate() {
                    *m = *m && (eq($chunks.get(rows[i]), values[probes[i] as usize]) || is_null(i));
                }
            }};
        }
        let by_sql = equality == Equality::Sql;
        match (&self.values, &self.data_type) {
            (Values::Null, _) => {}
            (Values::W1(c), DataType::Boolean) => {
                let bools = array.as_boolean();
                for (i, m) in mask.iter_mut().enumerate() {
                    *m = *m && ((c.get(rows[i]) != 0) == bools.value(probes[i] as usize) || is_null(i));
                }
            }
            (Values::W1(c), _) => by!(c, u8, |a, b| a == b),
            (Values::W2(c), _) => by!(c, u16, |a, b| a == b),
            (Values::W4(c), DataType::Float32) if by_sql => {
                by!(c, u32, |a, b| sql_eq_f64(f32::from_bits(a).into(), f32::from_bits(b).into()))
            }
            (Values::W4(c), _) => by!(c, u32, |a, b| a == b),
            (Values::W8(c), DataType::Float64) if by_sql => {
                by!(c, u64, |a, b| sql_eq_f64(f64::from_bits(a), f64::from_bits(b)))
            }
            (Values::W8(c), _) => by!(c, u64, |a, b| a == b),
            (Values::W16(c), DataType::Interval(IntervalUnit::MonthDayNano)) if by_sql => {
                by!(c, u128, |a, b| interval_span(a) == interval_span(b))
            }
            (Values::W16(c), _) => by!(c, u128, |a, b| a == b),
            (Values::Strings(s), _) => s.compare(rows, array, probes, mask, is_null),
            (Values::Encoded(s, converter), _) => s.compare(rows, &encode(converter, array), probes, mask, is_null),
        }
    }

    /// Whether a null was ever stored.
    pub fn has_nulls(&self) -> bool {
        self.validity.is_some()
    }

    /// Whether a row's value is null.
    pub fn is_null(&self, row: u32) -> bool {
        matches!(self.values, Values::Null) || self.validity.as_ref().is_some_and(|v| v.get(row) == 0)
    }
}

fn sql_eq_f64(a: f64, b: f64) -> bool {
    a == b || a.is_nan() && b.is_nan()
}

/// Postgres compares intervals with months of 30 days and days of 24 hours.
fn interval_span(bits: u128) -> i128 {
    // Arrow's layout, little end first: months and days of 32 bits, nanoseconds of 64.
    let (months, days, nanos) = (bits as u32 as i32, (bits >> 32) as u32 as i32, (bits >> 64) as u64 as i64);
    (i128::from(months) * 30 + i128::from(days)) * 86_400_000_000_000 + i128::from(nanos)
}

/// The values of a fixed-width array as unsigned integers of that width.
fn raw<T: ArrowNativeType>(array: &ArrayRef) -> RawValues<T> {
    let data = array.to_data();
    let buffer = &data.buffers()[0];
    // Intervals have 16 bytes, and may lie at any 8 of them, as what was read from a disk does.
    let is_aligned = buffer.as_ptr().align_offset(align_of::<T>()) == 0;
    RawValues {
        buffer: if is_aligned { buffer.clone() } else { Buffer::from_slice_ref(buffer.as_slice()) },
        offset: data.offset(),
        len: data.len(),
        values: std::marker::PhantomData,
    }
}

struct RawValues<T> {
    buffer: Buffer,
    offset: usize,
    len: usize,
    values: std::marker::PhantomData<T>,
}

impl<T: ArrowNativeType> std::ops::Deref for RawValues<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.buffer.typed_data::<T>()[self.offset..self.offset + self.len]
    }
}

fn encode(converter: &RowConverter, array: &ArrayRef) -> ArrayRef {
    let rows = converter.convert_columns(std::slice::from_ref(array)).expect("the column's type");
    let mut builder = arrow::array::BinaryViewBuilder::with_capacity(rows.num_rows());
    rows.iter().for_each(|row| builder.append_value(row.as_ref()));
    Arc::new(builder.finish())
}

fn decode(converter: &RowConverter, encoded: &ArrayRef) -> ArrayRef {
    let encoded = encoded.as_binary_view();
    let parser = converter.parser();
    let nulls = encoded.nulls().cloned();
    let valid: Vec<u32> = (0..encoded.len() as u32).filter(|&i| encoded.is_valid(i as usize)).collect();
    let rows = valid.iter().map(|&i| parser.parse(encoded.value(i as usize)));
    let values = converter.convert_rows(rows).expect("rows of this converter").remove(0);
    match nulls.filter(|n| n.null_count() > 0) {
        None => values,
        Some(nulls) => {
            let mut next = 0;
            let places: UInt32Array = nulls
                .iter()
                .map(|valid| {
                    valid.then(|| {
                        next += 1;
                        next - 1
                    })
                })
                .collect();
            arrow::compute::take(values.as_ref(), &places, None).expect("every type can be taken")
        }
    }
}

fn fixed_array(data_type: &DataType, len: usize, values: Buffer, nulls: Option<NullBuffer>) -> ArrayRef {
    if *data_type == DataType::Boolean {
        let bytes = values.as_slice();
        return Arc::new(BooleanArray::new(BooleanBuffer::collect_bool(len, |i| bytes[i] != 0), nulls));
    }
    let data = arrow::array::ArrayData::builder(data_type.clone()).len(len).add_buffer(values).nulls(nulls);
    make_array(data.build().expect("a buffer of `len` values of the type's width"))
}

impl ColumnImage {
    /// The number of rows.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The array.
    pub fn to_array(&self) -> ArrayRef {
        let nulls = self.validity.as_ref().and_then(|v| {
            let bytes = v.as_slice();
            let nulls = NullBuffer::new(BooleanBuffer::collect_bool(self.len, |i| bytes[i] != 0));
            Some(nulls).filter(|n| n.null_count() > 0)
        });
        match &self.values {
            ImageValues::Null => Arc::new(NullArray::new(self.len)),
            ImageValues::Fixed(buffer) => fixed_array(&self.data_type, self.len, buffer.clone(), nulls),
            ImageValues::Strings(s) => s.to_array(nulls, &self.data_type),
            ImageValues::Encoded(s) => {
                let converter = RowConverter::new(vec![SortField::new(self.data_type.clone())]);
                decode(&converter.expect("made before"), &s.to_array(nulls, &DataType::BinaryView))
            }
        }
    }
}
