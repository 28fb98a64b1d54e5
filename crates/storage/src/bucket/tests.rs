//! Objects of a bucket whose requests fail, and two processes that have the same checkpoints.

use std::sync::Arc;

use bytes::Bytes;
use millstream_types::SqlState;

use super::sim::{Fault, PASSING, SimBucket};
use super::*;
use crate::data_directory::DataDirectory;
use crate::object_store::ObjectStore;

fn objects(sim: &SimBucket) -> BucketObjects {
    BucketObjects::new(sim.bucket())
}

#[test]
fn objects_are_what_was_written() {
    let sim = SimBucket::default();
    let store = objects(&sim);
    // The larger ones go in parts.
    for n_bytes in [0, 10, 3 << 20, (20 << 20) + 7] {
        let bytes: Vec<u8> = (0..n_bytes).map(|i: u32| (i * 7 + i / 251) as u8).collect();
        let name = format!("state/{n_bytes}");
        let mut sink = store.put(&name).expect("it begins");
        for piece in bytes.chunks(1 << 20) {
            sink.write(piece).expect("it is written");
        }
        assert!(
            !store.list("state").expect("it is listed").contains(&n_bytes.to_string()),
            "not before it is finished"
        );
        sink.finish().expect("it is there");
        assert_eq!(store.len(&name).expect("it is there"), u64::from(n_bytes));
        assert!(store.read_range(&name, 0..u64::from(n_bytes)).expect("it is there") == bytes);
        let end = u64::from(n_bytes) + 1;
        assert_eq!(store.read_range(&name, 0..end).expect_err("it is shorter").state(), SqlState::DATA_CORRUPTED);
    }
    drop(store.put("state/never").expect("it begins"));
    let mut cut_off = store.put("state/cut off").expect("it begins");
    cut_off.write(&vec![0; 9 << 20]).expect("it is written");
    drop(cut_off);
    assert_eq!(store.list("state").expect("it is listed").len(), 4);
    store.delete(&["state/10".to_owned(), "state/none".to_owned()]).expect("what is not there is no error");
    assert_eq!(store.list("state").expect("it is listed").len(), 3);
    assert_eq!(store.len("state/10").expect_err("it is gone").state(), SqlState::DATA_CORRUPTED);
    assert_eq!(store.read_range("state/10", 0..1).expect_err("it is gone").state(), SqlState::DATA_CORRUPTED);
}

#[test]
fn a_name_is_given_once_however_requests_fail() {
    for fault in PASSING {
        let sim = SimBucket::default();
        let (store, other) = (objects(&sim), objects(&sim.of_another()));
        assert!(matches!(store.put_if_absent("manifests/1", b"one"), Put::Done));
        assert!(matches!(other.put_if_absent("manifests/1", b"another"), Put::Taken));
        sim.fail_at(sim.n_requests(), fault);
        let put = store.put_if_absent("manifests/2", b"two");
        assert!(matches!((fault, &put), (Fault::AnswerLost, Put::Done) | (_, Put::Unknown(_))), "{fault:?}: {put:?}");
        // Whether it was there or not, it is now: no number is left out.
        assert!(matches!(store.put_if_absent("manifests/3", b"three"), Put::Done));
        let two = store.read_range("manifests/2", 0..3).expect("it is there");
        assert_eq!(two, b"two", "{fault:?}");
    }
}

#[test]
fn what_was_not_known_may_have_been_taken() {
    let sim = SimBucket::default();
    let (store, other) = (objects(&sim), objects(&sim.of_another()));
    sim.fail_at(0, Fault::Fails);
    assert!(matches!(store.put_if_absent("manifests/1", b"one"), Put::Unknown(_)));
    assert!(matches!(other.put_if_absent("manifests/1", b"another"), Put::Done));
    assert!(matches!(store.put_if_absent("manifests/2", b"two"), Put::Taken));
    assert!(other.list("manifests").expect("it is listed") == ["1"]);
}

#[test]
fn a_bucket_without_conditions_is_refused() {
    let sim = SimBucket::default();
    sim.be_careless();
    let error = DataDirectory::open_bucket(sim.bucket()).expect_err("it is refused");
    assert!(error.message().contains("If-None-Match") && error.message().contains("s3://test/data"), "{error}");
}

#[test]
fn a_prefix_is_made_a_data_directory_once() {
    let sim = SimBucket::default();
    let id = DataDirectory::open_bucket(sim.bucket()).expect("it is made").id();
    assert_eq!(DataDirectory::open_bucket(sim.of_another().bucket()).expect("it is there").id(), id);
    let others = SimBucket::default();
    assert!(matches!(others.bucket().create("letter.txt", &Bytes::from("Dear")), Put::Done));
    let error = DataDirectory::open_bucket(others.bucket()).expect_err("somebody else's");
    assert!(error.message().contains("letter.txt"), "{error}");
    let unreachable = SimBucket::default();
    unreachable.fail_at(0, Fault::Off);
    let error = DataDirectory::open_bucket(unreachable.bucket()).expect_err("it is unreachable");
    assert_eq!(error.state(), SqlState::IO_ERROR);
    assert!(error.message().contains("s3://test/data/data.id"), "{error}");
}

#[test]
fn threads_of_other_runtimes_may_call_and_drop() {
    let runtime = runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let sim = SimBucket::default();
        let bucket: Arc<Bucket> = sim.bucket();
        assert!(bucket.read("none").expect("it can be read").is_none());
    });
}
