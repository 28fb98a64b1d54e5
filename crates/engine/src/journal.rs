//! The journal: the log's records as the engine reads and writes them, one for each epoch.
//!
//! Nobody sees an epoch before its record is durable. The coordinator appends the record when it closes an epoch, workers
//! start on it at once, and when the log says how far it is, epochs are made known and their writers answered, in order.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use millstream_planner::RelationId;
use millstream_planner::catalog::CatalogChange;
use millstream_state::codec::encode_rows;
use millstream_storage::data_directory::DataDirectory;
use millstream_storage::log::{Log, LogEvents, LogObserver, LogSize, Reservation};
use millstream_types::{Delta, Epoch, EpochHeader, Error, Result, SqlState};
use parking_lot::Mutex;

use crate::coordinator::{Answer, Clock};
use crate::epoch_history::EpochEntry;

/// The kind of the records that epochs have in the log.
pub(crate) const EPOCH: u8 = 1;
/// The code with which the process ends when nobody knows what is on its disk.
const LOST_EXIT_CODE: i32 = 74;
/// The code with which it ends when another process has taken over its data.
const TAKEN_OVER_EXIT_CODE: i32 = 75;
/// Epochs that may wait for the disk before sources wait.
const BACKLOG_MAX: usize = 64;
/// Records that may not be durable when the next one is acknowledged without waiting for that.
const AHEAD_MAX: u64 = 1 << 15;
/// After a start so many numbers of epochs are left out: more than there can have been that were seen and are lost.
pub(crate) const EPOCHS_LEFT_OUT: u64 = 1 << 16;

/// What went into an epoch.
#[derive(Debug)]
pub(crate) struct EpochRecord<'a> {
    pub(crate) header: EpochHeader,
    /// What became of the catalog, before all else.
    pub(crate) catalog: Vec<CatalogChange>,
    pub(crate) changes: Vec<(RelationId, Change<'a>)>,
    /// Streams, and the last epoch whose rows each forgets.
    pub(crate) floors: Vec<(RelationId, Epoch)>,
}

/// What an epoch brought to a relation.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// Rows of a stored relation.
    Deltas(Vec<EncodedDelta<'a>>),
    /// Offsets of a source.
    Offsets(Range<u64>),
}

/// A delta as [`millstream_state::codec::decode_rows`] reads it.
pub(crate) type EncodedDelta<'a> = &'a [u8];

/// Bytes of a record's payload that say which epoch it is, and when it was made.
const HEADER_BYTES: usize = 16;

/// The bytes of a record. `docs/storage.md` has the format.
pub(crate) fn encode_epoch(
    header: &EpochHeader,
    catalog: &[CatalogChange],
    deltas: &HashMap<RelationId, Vec<Delta>>,
    offsets: &[(RelationId, Range<u64>)],
    floors: &[(RelationId, Epoch)],
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    bytes.extend(header.epoch.0.to_le_bytes());
    bytes.extend(header.now_us.to_le_bytes());
    put_len(&mut bytes, catalog.len())?;
    for change in catalog {
        let change = change.encode()?;
        put_len(&mut bytes, change.len())?;
        bytes.extend(change);
    }
    put_len(&mut bytes, deltas.len())?;
    for (id, deltas) in deltas {
        bytes.extend(id.0.to_le_bytes());
        put_len(&mut bytes, deltas.len())?;
        for delta in deltas {
            let at = bytes.len();
            put_len(&mut bytes, 0)?;
            encode_rows(delta, &mut bytes)?;
            let len = (bytes.len() - at - 4) as u64;
            let len = u32::try_from(len).map_err(|_| too_large())?;
            bytes[at..at + 4].copy_from_slice(&len.to_le_bytes());
        }
    }
    put_len(&mut bytes, offsets.len())?;
    for (id, range) in offsets {
        bytes.extend(id.0.to_le_bytes());
        bytes.extend(range.start.to_le_bytes());
        bytes.extend(range.end.to_le_bytes());
    }
    // Most have none, and what earlier releases have written says nothing of it.
    if !floors.is_empty() {
        put_len(&mut bytes, floors.len())?;
    }
    for (id, floor) in floors {
        bytes.extend(id.0.to_le_bytes());
        bytes.extend(floor.0.to_le_bytes());
    }
    if u32::try_from(bytes.len()).is_err() {
        return Err(too_large());
    }
    Ok(bytes)
}

/// The record that these bytes are.
///
/// # Errors
/// Internal, if they are none.
pub(crate) fn decode_epoch(bytes: &[u8]) -> Result<EpochRecord<'_>> {
    let mut rest = bytes;
    let header = take_header(&mut rest)?;
    let mut catalog = Vec::new();
    for _ in 0..take_len(&mut rest)? {
        let len = take_len(&mut rest)?;
        catalog.push(CatalogChange::decode(take(&mut rest, len)?)?);
    }
    let mut changes = Vec::new();
    for _ in 0..take_len(&mut rest)? {
        let id = RelationId(take_u64(&mut rest)?);
        let mut deltas = Vec::new();
        for _ in 0..take_len(&mut rest)? {
            let len = take_len(&mut rest)?;
            deltas.push(take(&mut rest, len)?);
        }
        changes.push((id, Change::Deltas(deltas)));
    }
    for _ in 0..take_len(&mut rest)? {
        let id = RelationId(take_u64(&mut rest)?);
        let (start, end) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
        changes.push((id, Change::Offsets(start..end)));
    }
    let mut floors = Vec::new();
    let n_floors = if rest.is_empty() { 0 } else { take_len(&mut rest)? };
    for _ in 0..n_floors {
        floors.push((RelationId(take_u64(&mut rest)?), Epoch(take_u64(&mut rest)?)));
    }
    Ok(EpochRecord { header, catalog, changes, floors })
}

fn take_header(rest: &mut &[u8]) -> Result<EpochHeader> {
    let epoch = Epoch(take_u64(rest)?);
    Ok(EpochHeader { epoch, now_us: take_u64(rest)? as i64 })
}

fn put_len(bytes: &mut Vec<u8>, len: usize) -> Result<()> {
    bytes.extend(u32::try_from(len).map_err(|_| too_large())?.to_le_bytes());
    Ok(())
}

fn too_large() -> Error {
    Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, "a transaction writes more than 4 GB")
        .with_hint("Write it in several transactions.")
}

fn take<'a>(rest: &mut &'a [u8], n_bytes: usize) -> Result<&'a [u8]> {
    let taken = rest.split_at_checked(n_bytes).ok_or_else(|| Error::internal("a record of an epoch that is cut off"));
    let (taken, left) = taken?;
    *rest = left;
    Ok(taken)
}

fn take_len(rest: &mut &[u8]) -> Result<usize> {
    Ok(u32::from_le_bytes(take(rest, 4)?.try_into().expect("four bytes")) as usize)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64> {
    Ok(u64::from_le_bytes(take(rest, 8)?.try_into().expect("eight bytes")))
}

/// The log, as the coordinator writes it.
pub(crate) struct Journal {
    log: Arc<Log>,
    waiting: Arc<Waiting>,
    /// It is this process's until the log has ended.
    _directory: DataDirectory,
}

/// Epochs whose records are not durable yet. The log's events go here.
pub(crate) struct Waiting {
    clock: Arc<Clock>,
    state: Mutex<WaitingState>,
}

#[derive(Default)]
struct WaitingState {
    /// In order.
    epochs: VecDeque<WaitingEpoch>,
    /// Epochs that are remembered and not durable, whether anybody waits for that or not, in order.
    remembered: VecDeque<(u64, Arc<EpochEntry>)>,
    /// The last record that is durable.
    durable: u64,
    /// The last record that was appended.
    appended: u64,
}

struct WaitingEpoch {
    sequence: u64,
    epoch: EnteredEpoch,
    /// What happens first when it is closed.
    then: Vec<WhenClosed>,
}

/// An epoch that is made, and is closed when its record is durable.
pub(crate) struct EnteredEpoch {
    pub(crate) epoch: Epoch,
    /// Nobody waits for its record.
    pub(crate) is_asynchronous: bool,
    pub(crate) answers: Vec<Answer>,
    /// If it is remembered.
    pub(crate) entry: Option<Arc<EpochEntry>>,
}

impl EnteredEpoch {
    /// Notes that it is closed, before anybody knows.
    pub(crate) fn note_closed(&self) {
        self.entry.as_ref().inspect(|entry| entry.note_closed());
    }
}

/// Something that happens when an epoch is closed.
pub(crate) type WhenClosed = Box<dyn FnOnce() + Send>;

impl Waiting {
    /// Takes the events of a log.
    pub(crate) fn new(clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Waiting { clock, state: Mutex::default() })
    }

    /// All records up to this one were there when the log was opened.
    pub(crate) fn note_found(&self, sequence: u64) {
        let mut state = self.state.lock();
        (state.durable, state.appended) = (sequence, sequence);
    }

    /// The last record that is durable.
    pub(crate) fn durable(&self) -> u64 {
        self.state.lock().durable
    }

    /// Closes all before the first epoch whose writers wait for its record.
    fn close(&self, state: &mut WaitingState) {
        let (mut answers, mut then) = (Vec::new(), Vec::new());
        let mut known = None;
        while state.epochs.front().is_some_and(|e| e.epoch.is_asynchronous || e.sequence <= state.durable) {
            let Some(waiting) = state.epochs.pop_front() else { break };
            waiting.epoch.note_closed();
            known = Some(waiting.epoch.epoch);
            answers.extend(waiting.epoch.answers);
            then.extend(waiting.then);
        }
        if let Some(epoch) = known {
            self.clock.close(epoch);
        }
        then.into_iter().for_each(|then| then());
        answers.into_iter().for_each(Answer::send);
    }
}

impl LogEvents for Waiting {
    fn durable(&self, sequence: u64) {
        let mut state = self.state.lock();
        state.durable = sequence;
        while state.remembered.front().is_some_and(|(of, _)| *of <= sequence) {
            state.remembered.pop_front().inspect(|(_, entry)| entry.note_durable());
        }
        self.close(&mut state);
    }

    fn lost(&self, error: Error) {
        tracing::error!(%error, "nobody knows what is on the disk: the process ends, and recovers when it is started again");
        eprintln!("millstream: {error}");
        std::process::exit(LOST_EXIT_CODE);
    }

    fn taken_over(&self, error: Error) {
        end_taken_over(&error)
    }
}

/// Ends the process, whose data another one has now: nothing may be acknowledged, or read, here any more.
pub(crate) fn end_taken_over(error: &Error) -> ! {
    tracing::error!(%error, "the process ends; it has acknowledged nothing since");
    eprintln!("millstream: {error}");
    std::process::exit(TAKEN_OVER_EXIT_CODE);
}

impl Journal {
    /// Writes to a log whose events `waiting` gets.
    pub(crate) fn new(log: Arc<Log>, directory: DataDirectory, waiting: Arc<Waiting>) -> Self {
        Journal { log, waiting, _directory: directory }
    }

    /// The last record that was there when the log was opened.
    pub(crate) fn last_found(&self) -> u64 {
        self.log.last_found()
    }

    /// Segments that were there when the log was opened.
    pub(crate) fn n_segments_found(&self) -> usize {
        self.log.n_segments_found()
    }

    /// Makes room for a record.
    ///
    /// # Errors
    /// 53100 if the disk is full.
    pub(crate) fn reserve(&self, record: &[u8]) -> Result<Reservation> {
        self.log.reserve(record.len())
    }

    /// Appends an epoch's record and returns its number. Writers are answered when it is durable, or at once if they do not
    /// wait for that and the disk is not too far behind.
    pub(crate) fn append(&self, room: Reservation, record: Vec<u8>, mut epoch: EnteredEpoch) -> u64 {
        // The log's thread may be done with the record before it is noted here.
        let mut state = self.waiting.state.lock();
        epoch.is_asynchronous &= state.appended - state.durable < AHEAD_MAX;
        let n_waiting = if epoch.is_asynchronous { 0 } else { epoch.answers.len() };
        match self.log.append(room, EPOCH, record, n_waiting) {
            Ok(sequence) => {
                state.appended = sequence;
                if epoch.is_asynchronous {
                    self.waiting.clock.acknowledge(epoch.epoch);
                    epoch.answers.drain(..).for_each(Answer::send);
                }
                state.remembered.extend(epoch.entry.iter().map(|entry| (sequence, Arc::clone(entry))));
                state.epochs.push_back(WaitingEpoch { sequence, epoch, then: vec![] });
                self.waiting.close(&mut state);
                sequence
            }
            // The process is about to end.
            Err(error) => {
                epoch.answers.into_iter().for_each(|answer| answer.fail(&error));
                u64::MAX
            }
        }
    }

    /// Answers writers that have changed nothing when all that they may have seen is closed.
    pub(crate) fn answer_in_turn(&self, answers: Vec<Answer>) {
        let mut state = self.waiting.state.lock();
        match state.epochs.back_mut() {
            Some(last) => last.epoch.answers.extend(answers),
            None => answers.into_iter().for_each(Answer::send),
        }
    }

    /// Does something when all epochs that there are now are closed.
    pub(crate) fn when_closed(&self, then: WhenClosed) {
        let mut state = self.waiting.state.lock();
        match state.epochs.back_mut() {
            Some(last) => last.then.push(then),
            None => then(),
        }
    }

    /// Whether so many epochs wait for the disk that nothing should be added that can wait.
    pub(crate) fn is_behind(&self) -> bool {
        self.waiting.state.lock().epochs.len() >= BACKLOG_MAX
    }
}

/// Looks at the log from outside.
pub(crate) struct JournalObserver {
    log: LogObserver,
    waiting: Arc<Waiting>,
}

/// The log, as it is at a moment.
pub(crate) struct JournalState {
    pub(crate) size: LogSize,
    /// The last record that is durable.
    pub(crate) durable: u64,
    /// The number of the oldest record that is kept, if there is one, and its epoch.
    pub(crate) oldest: Option<(u64, EpochHeader)>,
}

impl JournalObserver {
    pub(crate) fn new(log: &Log, waiting: Arc<Waiting>) -> Self {
        JournalObserver { log: log.observer(), waiting }
    }

    /// # Errors
    /// 58030 if the disk fails.
    pub(crate) fn look(&self) -> Result<JournalState> {
        let durable = self.waiting.durable();
        let oldest = match self.log.oldest(HEADER_BYTES, durable)? {
            Some(oldest) => Some((oldest.sequence, take_header(&mut &oldest.payload_start[..])?)),
            None => None,
        };
        Ok(JournalState { size: self.log.size()?, durable, oldest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use arrow::datatypes::DataType;
    use millstream_state::codec::decode_rows;
    use millstream_types::delta::schema_of;

    #[test]
    fn a_record_is_what_it_was() {
        let schema = schema_of(&[("k", DataType::Int64)]);
        let column: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let batch = RecordBatch::try_new(schema.clone(), vec![column]).expect("one column");
        let delta = Delta::new(batch, Some(vec![1, -1, 2].into()));
        let header = EpochHeader { epoch: Epoch(7), now_us: -3 };
        let deltas = HashMap::from([(RelationId(1 << 40), vec![delta.clone(), delta.clone()])]);
        let offsets = [(RelationId(5), 3..9), (RelationId(6), 0..u64::MAX)];
        let catalog = [millstream_planner::Catalog::new().change_since(&millstream_planner::Catalog::new())];
        let without_floors = encode_epoch(&header, &catalog, &deltas, &offsets, &[]).expect("encodes");
        let floors = [(RelationId(8), Epoch(6)), (RelationId(9), Epoch(1))];
        let bytes = encode_epoch(&header, &catalog, &deltas, &offsets, &floors).expect("encodes");
        assert!(decode_epoch(&without_floors).expect("decodes").floors.is_empty());
        let record = decode_epoch(&bytes).expect("decodes");
        assert_eq!(record.floors, floors);
        assert_eq!((record.header.epoch, record.header.now_us), (Epoch(7), -3));
        assert_eq!(record.catalog, catalog);
        let [(first, Change::Deltas(found)), (_, Change::Offsets(o1)), (last, Change::Offsets(o2))] =
            &record.changes[..]
        else {
            panic!("not what it was: {:?}", record.changes);
        };
        assert_eq!((*first, *last, o1, o2), (RelationId(1 << 40), RelationId(6), &(3..9), &(0..u64::MAX)));
        for bytes in found {
            assert_eq!(decode_rows(bytes, &schema).expect("decodes").batch(), delta.batch());
        }
        let is_whole = |n: usize| n == without_floors.len() || n == bytes.len();
        assert!((0..=bytes.len()).all(|n| decode_epoch(&bytes[..n]).is_ok() == is_whole(n)));
    }
}
