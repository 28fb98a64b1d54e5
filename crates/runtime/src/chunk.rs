//! What travels on timely's edges: at most one delta.

use std::io::Write;

use millstream_operators::dataflow::split_by_hash;
use millstream_state::codec;
use millstream_types::Delta;
use timely::Accountable;
use timely::bytes::arc::Bytes;
use timely::communication::Push;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::progress::Stamp;

use crate::pressure::Load;

/// A message on an edge. Its record count is its delta's number of rows, which an exchange preserves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) delta: Option<Delta>,
    /// What its rows were said to take when they were sent; an exchange preserves the sum.
    pub(crate) load: Load,
}

impl From<Delta> for Chunk {
    fn from(delta: Delta) -> Self {
        Chunk { load: Load::of(&delta), delta: Some(delta) }
    }
}

impl Accountable for Chunk {
    fn record_count(&self) -> i64 {
        self.delta.as_ref().map_or(0, |d| d.n_rows() as i64)
    }
}

/// Deltas cross processes as Arrow IPC, preceded by their length and padded to eight bytes.
impl ContainerBytes for Chunk {
    fn from_bytes(bytes: Bytes) -> Self {
        let (len, rest) = bytes.split_at(8);
        let len = u64::from_le_bytes(len.try_into().expect("eight bytes")) as usize;
        if len == 0 {
            return Chunk::default();
        }
        codec::decode(&rest[..len]).expect("a peer of the same version encoded it").into()
    }

    fn length_in_bytes(&self) -> usize {
        8 + self.encoded().len().next_multiple_of(8)
    }

    fn into_bytes<W: Write>(&self, writer: &mut W) {
        let encoded = self.encoded();
        let padding = encoded.len().next_multiple_of(8) - encoded.len();
        let parts: [&[u8]; 3] = [&(encoded.len() as u64).to_le_bytes(), &encoded, &[0; 8][..padding]];
        parts.iter().try_for_each(|p| writer.write_all(p)).expect("timely hands out a buffer that is large enough");
    }
}

impl Chunk {
    fn encoded(&self) -> Vec<u8> {
        self.delta.as_ref().map_or(Vec::new(), |d| codec::encode(d).expect("columns of relations have an IPC encoding"))
    }
}

/// Sends each row to the worker that owns the hash of its key.
pub(crate) struct HashSplit {
    pub(crate) columns: Vec<usize>,
}

impl Distributor<Chunk> for HashSplit {
    fn partition<T: Clone, P: Push<Message<T, Chunk>>>(
        &mut self,
        chunk: &mut Chunk,
        stamp: &Stamp<T>,
        pushers: &mut [P],
    ) {
        let Chunk { delta: Some(delta), mut load } = std::mem::take(chunk) else { return };
        let pieces = split_by_hash(&delta, &self.columns, pushers.len()).expect("columns of relations can be taken");
        for (piece, pusher) in pieces.into_iter().zip(pushers).filter(|(p, _)| !p.is_empty()) {
            let load = load.take_part(piece.n_rows());
            Message::push_at(&mut Chunk { delta: Some(piece), load }, stamp.clone(), pusher);
        }
    }

    fn flush<T: Clone, P: Push<Message<T, Chunk>>>(&mut self, _: &Stamp<T>, _: &mut [P]) {}
}
