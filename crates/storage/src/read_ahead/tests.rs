//! Ranges of objects in a bucket: how many are on their way, in what order they come, and what becomes of errors.

use std::time::{Duration, Instant};

use millstream_types::SqlState;

use super::*;
use crate::bucket::BucketObjects;
use crate::bucket::sim::{Fault, SimBucket};
use crate::disk::sim::SimDisk;
use crate::object_store::DiskStore;

/// What does not come about after so long does not.
const TIMEOUT: Duration = Duration::from_secs(60);

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + TIMEOUT;
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// Bytes of which each says where it is.
fn bytes_of(object: u8, range: Range<u64>) -> Vec<u8> {
    range.map(|at| (at * 31 + at / 256 * 7) as u8 ^ object).collect()
}

/// Objects `state/0` to `state/3`, of 4 MiB each.
fn store(sim: &SimBucket) -> Arc<dyn ObjectStore> {
    let store = BucketObjects::new(sim.bucket());
    for object in 0..4 {
        let mut sink = store.put(&format!("state/{object}")).expect("it begins");
        sink.write(&bytes_of(object, 0..4 << 20)).expect("it is written");
        sink.finish().expect("it is there");
    }
    Arc::new(store)
}

fn ranges(object: u8, ranges: impl IntoIterator<Item = Range<u64>>) -> Vec<ObjectRange> {
    let name: Arc<str> = format!("state/{object}").into();
    ranges.into_iter().map(|range| ObjectRange { name: Arc::clone(&name), range }).collect()
}

/// Ranges of which none lies next to another.
fn apart(object: u8) -> Vec<ObjectRange> {
    ranges(object, (0..40).map(|i| i * 100_000..i * 100_000 + 20_000))
}

#[test]
fn several_are_on_their_way_and_come_in_order() {
    let sim = SimBucket::default();
    let store = store(&sim);
    let wanted = [apart(2), apart(0), apart(1)].concat();
    let mut reader = RangeReader::new(store, wanted.clone());
    let reading = sim.hold_reads();
    let first = std::thread::scope(|scope| {
        let first = scope.spawn(|| reader.read_next());
        until("requests do not go out together", || sim.n_reading() == REQUESTS_MAX);
        drop(reading);
        first.join().expect("it does not panic")
    });
    let mut first = Some(first);
    for ObjectRange { name, range } in wanted {
        let read = first.take().unwrap_or_else(|| reader.read_next());
        let object = name.as_bytes()[6] - b'0';
        assert!(read.expect("it is there") == bytes_of(object, range.clone()), "{name} {range:?}");
        assert!(sim.n_reading() <= REQUESTS_MAX);
    }
    assert!(reader.read_next().is_err(), "there is no more");
}

#[test]
fn neighbours_become_one_request() {
    let sim = SimBucket::default();
    let store = store(&sim);
    let before = sim.n_requests();
    let wanted = ranges(3, (0..64).map(|i| i * 50_000..(i + 1) * 50_000));
    let mut reader = RangeReader::new(store, wanted.clone());
    for ObjectRange { range, .. } in wanted {
        assert!(reader.read_next().expect("it is there") == bytes_of(3, range));
    }
    // Of 1 MiB at most.
    assert_eq!(sim.n_requests() - before, 4);
}

#[test]
fn an_error_in_the_middle_names_the_object_and_what_is_behind_it_comes() {
    let sim = SimBucket::default();
    let store = store(&sim);
    // One object is shorter than it should be, and one is not there.
    sim.change("state/1", |bytes| Some(bytes[..250_000].to_vec()));
    sim.change("state/2", |_| None);
    let together = ranges(1, (0..6).map(|i| i * 100_000..(i + 1) * 100_000));
    let wanted = [apart(0), together, apart(2), apart(3)].concat();
    let mut reader = RangeReader::new(store, wanted.clone());
    for ObjectRange { name, range } in wanted {
        let read = reader.read_next();
        let is_there = matches!(&*name, "state/0" | "state/3") || (&*name == "state/1" && range.end <= 250_000);
        assert_eq!(read.is_ok(), is_there, "{name} {range:?}");
        match read {
            Ok(bytes) => assert!(bytes == bytes_of(name.as_bytes()[6] - b'0', range)),
            Err(error) => {
                assert_eq!(error.state(), SqlState::DATA_CORRUPTED);
                assert!(error.message().contains(&*name), "{error}");
            }
        }
    }
}

#[test]
fn a_request_that_fails_is_one_error() {
    let sim = SimBucket::default();
    let mut reader = RangeReader::new(store(&sim), apart(0));
    sim.fail_at(sim.n_requests() + 4, Fault::Fails);
    let read: Vec<_> = (0..40).map(|_| reader.read_next()).collect();
    let errors: Vec<&Error> = read.iter().filter_map(|read| read.as_ref().err()).collect();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].state(), SqlState::IO_ERROR);
    assert!(errors[0].message().contains("s3://test/data/state/0"), "{}", errors[0]);
}

#[test]
fn who_gives_up_cancels() {
    let sim = SimBucket::default();
    let store = store(&sim);
    let _reading = sim.hold_reads();
    let begun = store.begin_read("state/1", 0..10).expect("there is room");
    until("it is on its way", || sim.n_reading() == 1);
    drop(begun);
    until("it is cancelled", || sim.n_reading() == 0);
    let mut reader = RangeReader::new(store, apart(0));
    reader.begin_requests();
    until("they are on their way", || sim.n_reading() == REQUESTS_MAX);
    drop(reader);
    until("they are cancelled", || sim.n_reading() == 0);
}

#[test]
fn all_readers_together_are_bounded_and_all_come_to_their_end() {
    let sim = SimBucket::default();
    let store = store(&sim);
    let whole = |object| ranges(object, (0..4).map(|i| i << 20..(i + 1) << 20));
    let mut readers: Vec<RangeReader> = (0..40).map(|i| RangeReader::new(Arc::clone(&store), whole(i % 4))).collect();
    let reading = sim.hold_reads();
    for reader in &mut readers {
        reader.begin_requests();
    }
    let n_begun: usize = readers.iter().map(|reader| reader.requests.len()).sum();
    assert_eq!(n_begun, 16, "of 1 MiB each");
    drop(reading);
    for at in 0..4 {
        for (i, reader) in readers.iter_mut().enumerate() {
            let bytes = reader.read_next().expect("it is there");
            assert!(bytes == bytes_of(i as u8 % 4, at << 20..(at + 1) << 20));
        }
    }
}

#[test]
fn files_are_read_one_range_at_a_time() {
    let disk: Arc<dyn crate::disk::Disk> = Arc::new(SimDisk::default());
    let store: Arc<dyn ObjectStore> = Arc::new(DiskStore::new(disk, &["state"]).expect("a folder"));
    let mut sink = store.put("state/0").expect("it begins");
    sink.write(&bytes_of(0, 0..4 << 20)).expect("it is written");
    sink.finish().expect("it is there");
    let mut reader = RangeReader::new(store, apart(0));
    for ObjectRange { range, .. } in apart(0) {
        assert!(reader.read_next().expect("it is there") == bytes_of(0, range));
        assert!(reader.requests.is_empty());
    }
}
