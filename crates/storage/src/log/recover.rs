//! Reading segments: where the log ends, and what is damage.

use std::ops::Range;

use millstream_types::Result;

use super::format::{Encoded, HEADER_BYTES, Header, NoHeader, decode_record};
use super::{FOLDER, Record};
use crate::disk::{Disk, io_error};
use crate::errors::{damaged, unknown_version};

/// Numbers that a record may have behind one that does not read right: more are never in doubt.
const DOUBTFUL_MAX: u64 = 1 << 32;

/// The log as it was found.
pub(super) struct Found {
    /// The first record of each segment, in order.
    pub(super) segments: Vec<u64>,
    /// The last record; 0 if there is none.
    pub(super) last: u64,
    /// The highest term of a writer.
    pub(super) term: u64,
}

/// Finds the end of the log and cuts off what stands behind it.
pub(super) fn recover(disk: &dyn Disk, id: u128) -> Result<Found> {
    let mut segments = segments(disk)?;
    let Some(&first) = segments.last() else { return Ok(Found { segments, last: 0, term: 0 }) };
    let path = path_of(first);
    let bytes = read(disk, &path)?;
    let header = match header(&bytes, &path, first, id) {
        Ok(header) => header,
        // It was never made durable, so nothing in it was.
        Err(_) if is_torn_header(&bytes, first) => {
            disk.remove(&path).and_then(|()| disk.sync_folder(FOLDER)).map_err(|e| io_error("remove", &path, &e))?;
            segments.pop();
            return match segments.last() {
                Some(_) => recover(disk, id),
                None => Ok(Found { segments, last: first - 1, term: 0 }),
            };
        }
        Err(error) => return Err(error),
    };
    let mut end = HEADER_BYTES;
    let mut last = first - 1;
    while let Some(record) = decode_record(&bytes, end, &(last + 1..last + 2)) {
        end = record.end();
        last = record.sequence;
    }
    if let Some(record) = settled_behind(&bytes, end, last) {
        return Err(damaged(&path, end, &format!("record {} behind it says that it was durable", record.sequence)));
    }
    if bytes.len() > end {
        let cut = disk.open(&path).and_then(|file| file.set_len(end as u64).and_then(|()| file.sync()));
        cut.map_err(|e| io_error("cut", &path, &e))?;
    }
    Ok(Found { segments, last, term: header.term })
}

/// Whether what stands in a file without a header can be what is left of making it.
fn is_torn_header(bytes: &[u8], first: u64) -> bool {
    let behind = HEADER_BYTES.min(bytes.len());
    (behind..bytes.len()).all(|at| decode_record(bytes, at, &(first..first + DOUBTFUL_MAX)).is_none())
}

/// A record behind the end that says that more was durable.
fn settled_behind(bytes: &[u8], end: usize, last: u64) -> Option<Encoded> {
    (end..bytes.len()).find_map(|at| {
        let record = decode_record(bytes, at, &(last + 2..last + DOUBTFUL_MAX))?;
        (record.settled > last).then_some(record)
    })
}

/// The first records of the segments, in order.
fn segments(disk: &dyn Disk) -> Result<Vec<u64>> {
    let names = disk.list(FOLDER).map_err(|e| io_error("list", FOLDER, &e))?;
    let mut firsts: Vec<u64> = names.iter().filter_map(|name| name.strip_suffix(".log")?.parse().ok()).collect();
    firsts.sort_unstable();
    Ok(firsts)
}

pub(super) fn path_of(first: u64) -> String {
    format!("{FOLDER}/{first:020}.log")
}

fn read(disk: &dyn Disk, path: &str) -> Result<Vec<u8>> {
    let read = || {
        let file = disk.open(path)?;
        let mut bytes = vec![0; file.len()? as usize];
        let n_read = file.read_at(&mut bytes, 0)?;
        bytes.truncate(n_read);
        Ok(bytes)
    };
    read().map_err(|e| io_error("read", path, &e))
}

fn header(bytes: &[u8], path: &str, first: u64, id: u128) -> Result<Header> {
    let header = Header::decode(bytes).map_err(|no| match no {
        NoHeader::Damaged => damaged(path, 0, "it does not begin with the header of a segment"),
        NoHeader::Version(version) => unknown_version(path, version, "the log's format"),
    })?;
    if header.id != id {
        return Err(damaged(path, 0, "it belongs to another data directory"));
    }
    if header.first != first {
        return Err(damaged(path, 0, &format!("it begins with record {}", header.first)));
    }
    Ok(header)
}

/// The records of the log, one segment in memory at a time.
pub(super) struct Records<'a> {
    disk: &'a dyn Disk,
    id: u128,
    /// Segments that were not read yet, with the number of the record behind them.
    segments: std::vec::IntoIter<Range<u64>>,
    /// The segment that is being read: its path, its bytes, and where its next record begins.
    current: Option<(String, Vec<u8>, usize)>,
    /// The numbers that are still to come of it.
    numbers: Range<u64>,
    /// The first that is wanted.
    from: u64,
}

impl<'a> Records<'a> {
    /// From a record on; `segments` are the first records of all segments, `last` is the last of all.
    pub(super) fn new(disk: &'a dyn Disk, id: u128, segments: &[u64], last: u64, from: u64) -> Self {
        let ends = segments.iter().skip(1).copied().chain([last + 1]);
        let ranges: Vec<Range<u64>> = segments.iter().zip(ends).map(|(&first, end)| first..end).collect();
        let wanted: Vec<Range<u64>> = ranges.into_iter().filter(|range| range.end > from).collect();
        Records { disk, id, segments: wanted.into_iter(), current: None, numbers: 0..0, from }
    }

    fn next_record(&mut self) -> Result<Option<Record>> {
        loop {
            if self.numbers.is_empty() {
                let Some(numbers) = self.segments.next() else { return Ok(None) };
                let path = path_of(numbers.start);
                let bytes = read(self.disk, &path)?;
                header(&bytes, &path, numbers.start, self.id)?;
                self.current = Some((path, bytes, HEADER_BYTES));
                self.numbers = numbers;
                continue;
            }
            let (path, bytes, at) = self.current.as_mut().expect("it has numbers to come");
            let next = self.numbers.start..self.numbers.start + 1;
            let record = decode_record(bytes, *at, &next)
                .ok_or_else(|| damaged(path, *at, &format!("record {} does not read right", next.start)))?;
            *at = record.end();
            self.numbers.start += 1;
            if record.sequence >= self.from {
                let payload = bytes[record.payload].to_vec();
                return Ok(Some(Record { sequence: record.sequence, kind: record.kind, payload }));
            }
        }
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        let next = self.next_record();
        if next.is_err() {
            (self.numbers, self.segments) = (0..0, vec![].into_iter());
        }
        next.transpose()
    }
}
