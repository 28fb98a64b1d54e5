//! Text and bytes in chunks of views over shared blocks.
//!
//! A value of at most 12 bytes stands in its 16-byte view; a longer one is copied into the newest block, so that no
//! stored value keeps the batch it came in alive. Views use Arrow's layout with the block's number as the buffer index,
//! so a chunk and its blocks are an Arrow view array as they are. Each block counts its live bytes; one without any is
//! freed, its number is given to the next one, and [`Strings::rewrite`] empties the sparse ones. Readers keep the blocks
//! that they came with, so they do not notice.
#![allow(unsafe_code)]

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryViewArray, ByteView, StringViewArray};
use arrow::buffer::{Buffer, NullBuffer, ScalarBuffer};
use arrow::datatypes::DataType;

use crate::buffer::AppendBuf;
use crate::column::{CHUNK_ROWS, Rows, chunk_of, offset_of};
use crate::hash_index::NO_ROW;

const INLINE: usize = 12;
const BLOCK_BYTES_MIN: usize = 1 << 10;
const BLOCK_BYTES_MAX: usize = 4 << 20;
/// A result shares the blocks, rather than copy from them, when it has at least this many rows for each block.
const ROWS_PER_SHARED_BLOCK: usize = 8;
/// Texts are not rewritten to save less than this.
const SPARSE_BYTES_MIN: usize = 1 << 20;

/// A column of text or bytes.
pub(crate) struct Strings {
    views: Vec<AppendBuf<u128>>,
    blocks: Vec<TextBlock>,
    /// The block that values are added to.
    newest: Option<usize>,
    /// Blocks without memory.
    free_blocks: Vec<usize>,
    live_bytes: usize,
    allocated_bytes: usize,
}

struct TextBlock {
    bytes: AppendBuf<u8>,
    live_bytes: usize,
}

/// A chunk of strings as a reader holds it.
#[derive(Clone)]
pub(crate) struct StringsImage {
    views: Buffer,
    len: usize,
    blocks: Arc<[Buffer]>,
}

impl Strings {
    pub(crate) fn new() -> Self {
        Strings {
            views: Vec::new(),
            blocks: Vec::new(),
            newest: None,
            free_blocks: Vec::new(),
            live_bytes: 0,
            allocated_bytes: 0,
        }
    }

    pub(crate) fn n_bytes(&self) -> usize {
        self.views.iter().map(AppendBuf::n_bytes).sum::<usize>() + self.allocated_bytes
    }

    fn chunk(&mut self, chunk: usize) -> &mut AppendBuf<u128> {
        while self.views.len() <= chunk {
            self.views.push(AppendBuf::with_capacity(0));
        }
        &mut self.views[chunk]
    }

    pub(crate) fn append(&mut self, chunk: usize, array: &ArrayRef, rows: Rows<'_>) {
        self.chunk(chunk).reserve_within(rows.len(), CHUNK_ROWS);
        let (views, buffers) = view_parts(array);
        for i in 0..rows.len() {
            let view = self.store(views[rows.index(i)], buffers);
            self.views[chunk].push(view);
        }
    }

    pub(crate) fn overwrite(&mut self, targets: &[u32], array: &ArrayRef, rows: Rows<'_>) {
        let (views, buffers) = view_parts(array);
        for (i, &row) in targets.iter().enumerate() {
            let view = self.store(views[rows.index(i)], buffers);
            self.views[chunk_of(row)].set(offset_of(row), view);
        }
    }

    /// Copies a value and returns its view. A null's view may point anywhere within its array, as Arrow allows.
    #[inline]
    fn store(&mut self, view: u128, buffers: &[Buffer]) -> u128 {
        let len = view as u32 as usize;
        if len <= INLINE {
            return view;
        }
        let view = ByteView::from(view);
        let from = view.offset as usize;
        self.store_long(&buffers[view.buffer_index as usize][from..from + len], view.prefix)
    }

    fn store_long(&mut self, bytes: &[u8], prefix: u32) -> u128 {
        let has_room = |&b: &usize| {
            let block = &self.blocks[b].bytes;
            block.len() + bytes.len() <= block.capacity()
        };
        let block_idx = self.newest.filter(has_room).unwrap_or_else(|| self.open_block(bytes.len()));
        let buffer_index = block_idx as u32;
        let block = &mut self.blocks[block_idx];
        let offset = block.bytes.len() as u32;
        block.bytes.extend_from_slice(bytes);
        block.live_bytes += bytes.len();
        self.live_bytes += bytes.len();
        ByteView { length: bytes.len() as u32, prefix, buffer_index, offset }.as_u128()
    }

    /// Makes a block with room for a value the newest one.
    fn open_block(&mut self, n_bytes: usize) -> usize {
        let capacity = (self.allocated_bytes / 8).clamp(BLOCK_BYTES_MIN, BLOCK_BYTES_MAX).max(n_bytes);
        self.allocated_bytes += capacity;
        let block = TextBlock { bytes: AppendBuf::with_capacity(capacity), live_bytes: 0 };
        let before = self.newest.take();
        let block_idx = match self.free_blocks.pop() {
            Some(block_idx) => {
                self.blocks[block_idx] = block;
                block_idx
            }
            None => {
                self.blocks.push(block);
                self.blocks.len() - 1
            }
        };
        self.newest = Some(block_idx);
        before.into_iter().for_each(|b| self.free_if_dead(b));
        block_idx
    }

    /// Frees a block without live bytes, unless values are added to it.
    fn free_if_dead(&mut self, block_idx: usize) {
        let block = &mut self.blocks[block_idx];
        if block.live_bytes == 0 && self.newest != Some(block_idx) {
            self.allocated_bytes -= block.bytes.n_bytes();
            block.bytes = AppendBuf::with_capacity(0);
            self.free_blocks.push(block_idx);
        }
    }

    #[inline]
    fn view(&self, row: u32) -> u128 {
        self.views[chunk_of(row)].as_slice()[offset_of(row)]
    }

    #[inline]
    fn long_bytes(&self, view: u128) -> &[u8] {
        let view = ByteView::from(view);
        let from = view.offset as usize;
        &self.blocks[view.buffer_index as usize].bytes.as_slice()[from..from + view.length as usize]
    }

    pub(crate) fn forget(&mut self, row: u32) {
        let view = self.view(row);
        let len = view as u32 as usize;
        if len <= INLINE {
            return;
        }
        let block_idx = ByteView::from(view).buffer_index as usize;
        self.blocks[block_idx].live_bytes -= len;
        self.live_bytes -= len;
        self.free_if_dead(block_idx);
    }

    pub(crate) fn is_sparse(&self) -> bool {
        self.allocated_bytes > 2 * self.live_bytes + SPARSE_BYTES_MIN
    }

    /// Copies what lives in blocks that are less than half live into new ones.
    pub(crate) fn rewrite(&mut self, live: impl Iterator<Item = u32>) {
        let sparse: Vec<bool> = self.blocks.iter().map(|b| b.live_bytes * 2 < b.bytes.capacity()).collect();
        for row in live {
            let view = self.view(row);
            if view as u32 as usize <= INLINE {
                continue;
            }
            let parsed = ByteView::from(view);
            if sparse.get(parsed.buffer_index as usize).copied().unwrap_or(false) {
                let bytes = self.long_bytes(view).to_vec();
                let moved = self.store_long(&bytes, parsed.prefix);
                self.forget(row);
                self.views[chunk_of(row)].set(offset_of(row), moved);
            }
        }
    }

    pub(crate) fn drop_chunk(&mut self, chunk: usize) {
        if let Some(views) = self.views.get_mut(chunk) {
            *views = AppendBuf::with_capacity(0);
        }
    }

    fn shared_blocks(&self) -> Arc<[Buffer]> {
        self.blocks.iter().map(|block| block.bytes.share(block.bytes.len())).collect()
    }

    /// The values of rows; [`NO_ROW`] gives the empty string (`nulls` says that it is none).
    pub(crate) fn gather(&self, rows: &[u32], nulls: Option<NullBuffer>, data_type: &DataType) -> ArrayRef {
        let view = |row: u32| if row == NO_ROW { 0 } else { self.view(row) };
        if rows.len() >= self.blocks.len() * ROWS_PER_SHARED_BLOCK {
            let views: Vec<u128> = rows.iter().map(|&row| view(row)).collect();
            return view_array(views.into(), self.shared_blocks(), nulls, data_type);
        }
        let mut bytes: Vec<u8> = Vec::new();
        let mut views: Vec<u128> = Vec::with_capacity(rows.len());
        for &row in rows {
            let view = view(row);
            if view as u32 as usize <= INLINE {
                views.push(view);
            } else {
                let offset = u32::try_from(bytes.len()).expect("few rows of less than 4 GiB");
                bytes.extend_from_slice(self.long_bytes(view));
                let parsed = ByteView::from(view);
                views.push(ByteView { buffer_index: 0, offset, ..parsed }.as_u128());
            }
        }
        view_array(views.into(), [Buffer::from_vec(bytes)].into(), nulls, data_type)
    }

    /// The first rows of a chunk, with the blocks that they need: others are free to go.
    pub(crate) fn share(&self, chunk: usize, len: usize) -> StringsImage {
        let views = &self.views[chunk];
        let mut is_needed: Vec<bool> = Vec::new();
        for &view in views.as_slice()[..len].iter().filter(|v| **v as u32 as usize > INLINE) {
            let block = ByteView::from(view).buffer_index as usize;
            if is_needed.len() <= block {
                is_needed.resize(block + 1, false);
            }
            is_needed[block] = true;
        }
        let empty = Buffer::from(&[0u8; 0]);
        let share = |(block, is_needed): (&TextBlock, bool)| {
            if is_needed { block.bytes.share(block.bytes.len()) } else { empty.clone() }
        };
        let blocks = self.blocks.iter().zip(is_needed).map(share).collect();
        StringsImage { views: views.share(len), len, blocks }
    }

    pub(crate) fn compare(
        &self,
        rows: &[u32],
        array: &ArrayRef,
        probes: &[u32],
        mask: &mut [bool],
        is_null: impl Fn(usize) -> bool,
    ) {
        let (views, buffers) = view_parts(array);
        for (i, m) in mask.iter_mut().enumerate() {
            if !*m || is_null(i) {
                continue;
            }
            let (mine, theirs) = (self.view(rows[i]), views[probes[i] as usize]);
            let len = mine as u32 as usize;
            // Length and the first four bytes lie in the low half of a view.
            *m = if len <= INLINE {
                mine == theirs
            } else {
                mine as u64 == theirs as u64 && {
                    let view = ByteView::from(theirs);
                    let from = view.offset as usize;
                    self.long_bytes(mine) == &buffers[view.buffer_index as usize][from..from + len]
                }
            };
        }
    }
}

fn view_parts(array: &ArrayRef) -> (&[u128], &[Buffer]) {
    match array.data_type() {
        DataType::Utf8View => {
            let array = array.as_string_view();
            (array.views(), array.data_buffers())
        }
        _ => {
            let array = array.as_binary_view();
            (array.views(), array.data_buffers())
        }
    }
}

fn view_array(
    views: ScalarBuffer<u128>,
    blocks: Arc<[Buffer]>,
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> ArrayRef {
    match data_type {
        DataType::Utf8View => {
            // SAFETY: every view is inline or points at a value that was copied, whole, from a valid string array into
            // the block of that number; blocks only grow, and none is given up before all its values are forgotten.
            Arc::new(unsafe { StringViewArray::new_unchecked(views, blocks, nulls) })
        }
        _ => {
            // SAFETY: as above; bytes need not be UTF-8.
            Arc::new(unsafe { BinaryViewArray::new_unchecked(views, blocks, nulls) })
        }
    }
}

impl StringsImage {
    pub(crate) fn to_array(&self, nulls: Option<NullBuffer>, data_type: &DataType) -> ArrayRef {
        let views = ScalarBuffer::new(self.views.clone(), 0, self.len);
        view_array(views, Arc::clone(&self.blocks), nulls, data_type)
    }
}
