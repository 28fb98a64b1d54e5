//! Reading the log's objects, some at the same time.

use std::collections::VecDeque;
use std::ops::Range;

use millstream_types::Result;

use super::format::{Header, decode_records};
use super::{LogObjects, path_of};
use crate::errors::damaged;
use crate::log::Record;

/// So many objects are read at once.
const N_AT_ONCE: u64 = 8;

/// The records of objects, in order.
pub(in crate::log) struct ObjectRecords<'a> {
    objects: &'a LogObjects,
    /// Objects that were not read yet.
    numbers: Range<u64>,
    /// Records of those that were.
    records: VecDeque<Record>,
    /// The first that is wanted.
    from: u64,
    /// The one after the last that was read.
    next: Option<u64>,
}

impl<'a> ObjectRecords<'a> {
    pub(super) fn new(objects: &'a LogObjects, numbers: Range<u64>, from: u64) -> Self {
        ObjectRecords { objects, numbers, records: VecDeque::new(), from, next: None }
    }

    fn next_record(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.records.pop_front() {
                return Ok(Some(record));
            }
            if self.numbers.is_empty() {
                return Ok(None);
            }
            let end = self.numbers.end.min(self.numbers.start + N_AT_ONCE);
            let numbers = self.numbers.start..end;
            self.numbers.start = end;
            let paths = numbers.clone().map(path_of).collect();
            for (number, read) in numbers.zip(self.objects.bucket.read_all(paths)?) {
                self.take_object(number, &read?)?;
            }
        }
    }

    fn take_object(&mut self, number: u64, read: &Option<bytes::Bytes>) -> Result<()> {
        let path = path_of(number);
        let bytes = read.as_ref().ok_or_else(|| damaged(&path, 0, "it is not there"))?;
        let header = Header::decode(bytes, &path, number, self.objects.id)?;
        if header.is_bar() {
            return Ok(());
        }
        if self.next.is_some_and(|next| next != header.first) {
            return Err(damaged(&path, 0, &format!("it begins with record {}", header.first)));
        }
        let records = decode_records(bytes, &path, &header)?;
        self.next = Some(header.first + u64::from(header.n_records));
        self.records.extend(records.into_iter().filter(|record| record.sequence >= self.from));
        Ok(())
    }
}

impl Iterator for ObjectRecords<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        let next = self.next_record();
        if next.is_err() {
            self.numbers = 0..0;
            self.records.clear();
        }
        next.transpose()
    }
}
