//! Append-only buffers that one writer fills while readers hold, without a copy, what was there when they came.
//!
//! A buffer is a block of memory of fixed capacity behind an `Arc`. The writer alone knows its length and writes only
//! beyond it; a reader gets an Arrow [`Buffer`] over a prefix and keeps the block alive. The two never touch the same
//! bytes, so they need no lock: the prefix is handed over through one (the arrangement's, a channel's), which orders the
//! writes before the reads. When the capacity is used up the writer moves to a larger block and leaves the old one to
//! its readers.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow::buffer::Buffer;

/// Every block starts at a cache line, which satisfies the alignment of all Arrow types.
const ALIGNMENT: usize = 64;

/// Plain values of a fixed width: any bit pattern is a value and there is nothing to drop.
///
/// # Safety
/// Implementors are integers: `Copy`, without padding or invalid bit patterns.
pub unsafe trait Plain: Copy + Send + Sync + 'static + Eq {}
// SAFETY: unsigned integers have no padding and no invalid bit patterns.
unsafe impl Plain for u8 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}
// SAFETY: as above.
unsafe impl Plain for u32 {}
// SAFETY: as above.
unsafe impl Plain for u64 {}
// SAFETY: as above.
unsafe impl Plain for u128 {}

/// An allocated block; freed with its last owner, writer or reader.
struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the block is plain memory; who may touch which bytes is the writer's and the readers' agreement above.
unsafe impl Send for Block {}
// SAFETY: as above; no method of `Block` itself reads or writes the memory.
unsafe impl Sync for Block {}

impl Block {
    fn new(n_bytes: usize) -> Self {
        let layout = Layout::from_size_align(n_bytes.max(1), ALIGNMENT).expect("capacities stay below isize::MAX");
        // SAFETY: the layout has a non-zero size.
        let ptr = unsafe { alloc(layout) };
        let Some(ptr) = NonNull::new(ptr) else { handle_alloc_error(layout) };
        Block { ptr, layout }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed once.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

/// The writer's end of an append-only buffer of plain values.
pub struct AppendBuf<T: Plain> {
    block: Arc<Block>,
    /// The start of `block`, kept here to save the hot loops one load.
    ptr: NonNull<T>,
    len: usize,
    capacity: usize,
    values: PhantomData<T>,
}

// SAFETY: the writer's end owns the right to write beyond `len`; moving it to another thread moves that right.
unsafe impl<T: Plain> Send for AppendBuf<T> {}

impl<T: Plain> AppendBuf<T> {
    /// An empty buffer with room for `capacity` values.
    pub fn with_capacity(capacity: usize) -> Self {
        let block = Arc::new(Block::new(capacity * size_of::<T>()));
        AppendBuf { ptr: block.ptr.cast(), block, len: 0, capacity, values: PhantomData }
    }

    /// The number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many values fit without moving.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Allocated bytes.
    pub fn n_bytes(&self) -> usize {
        self.capacity * size_of::<T>()
    }

    /// All values.
    #[inline]
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: the first `len` values are initialized, and nobody writes them while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// Makes room for `additional` values beyond the present ones.
    pub fn reserve(&mut self, additional: usize) {
        let needed = self.len + additional;
        if needed > self.capacity {
            self.move_to(needed.max(self.capacity * 2));
        }
    }

    /// As [`AppendBuf::reserve`], for a buffer that will never hold more than `len_max` values.
    pub fn reserve_within(&mut self, additional: usize, len_max: usize) {
        let needed = self.len + additional;
        debug_assert!(needed <= len_max);
        if needed > self.capacity {
            self.move_to(needed.max(len_max.min(self.capacity * 2)));
        }
    }

    fn move_to(&mut self, capacity: usize) {
        let block = Arc::new(Block::new(capacity * size_of::<T>()));
        let ptr: NonNull<T> = block.ptr.cast();
        // SAFETY: both blocks hold at least `len` values and are distinct allocations.
        unsafe { std::ptr::copy_nonoverlapping(self.ptr.as_ptr(), ptr.as_ptr(), self.len) };
        self.block = block;
        self.ptr = ptr;
        self.capacity = capacity;
    }

    /// Appends a value.
    #[inline]
    pub fn push(&mut self, value: T) {
        if self.len == self.capacity {
            self.reserve(1.max(16 / size_of::<T>()));
        }
        // SAFETY: `len < capacity`, and readers hold only values below `len`.
        unsafe { self.ptr.as_ptr().add(self.len).write(value) };
        self.len += 1;
    }

    /// Appends values.
    pub fn extend_from_slice(&mut self, values: &[T]) {
        self.reserve(values.len());
        // SAFETY: room was made; the source is a borrow and cannot overlap memory beyond `len`.
        unsafe {
            std::ptr::copy_nonoverlapping(values.as_ptr(), self.ptr.as_ptr().add(self.len), values.len());
        }
        self.len += values.len();
    }

    /// Appends `values[i]` for each index.
    ///
    /// # Panics
    /// If an index is out of bounds.
    pub fn extend_selected(&mut self, values: &[T], selection: &[u32]) {
        self.reserve(selection.len());
        for (i, &row) in selection.iter().enumerate() {
            let value = values[row as usize];
            // SAFETY: room was made for `selection.len()` values beyond `len`.
            unsafe { self.ptr.as_ptr().add(self.len + i).write(value) };
        }
        self.len += selection.len();
    }

    /// Replaces a value. If readers hold the block, the writer moves to a copy first.
    ///
    /// # Panics
    /// If the index is out of bounds.
    #[inline]
    pub fn set(&mut self, index: usize, value: T) {
        assert!(index < self.len, "only present values are replaced");
        if Arc::get_mut(&mut self.block).is_none() {
            self.move_to(self.capacity);
        }
        // SAFETY: the index is in bounds and no reader holds the block: readers are made only through `&self`, so
        // none can appear while `self` is borrowed mutably.
        unsafe { self.ptr.as_ptr().add(index).write(value) };
    }

    /// The first `len` values as an Arrow buffer that shares the block.
    ///
    /// # Panics
    /// If there are fewer values.
    pub fn share(&self, len: usize) -> Buffer {
        assert!(len <= self.len, "only present values are shared");
        let owner: Arc<dyn arrow::alloc::Allocation> = Arc::clone(&self.block) as _;
        // SAFETY: the first `len` values are initialized, stay where they are as long as `owner` lives, and are not
        // written again: `push` and `extend` write beyond them, `set` moves away from shared blocks.
        unsafe { Buffer::from_custom_allocation(self.ptr.cast(), len * size_of::<T>(), owner) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_keep_what_they_were_given() {
        let mut buf = AppendBuf::<u64>::with_capacity(2);
        let mut held = Vec::new();
        for i in 0..1000u64 {
            buf.push(i);
            if i % 100 == 0 {
                held.push((i, buf.share(buf.len())));
            }
        }
        buf.set(0, 77);
        assert_eq!(buf.as_slice()[0], 77);
        for (i, buffer) in held {
            assert_eq!(buffer.typed_data::<u64>(), (0..=i).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_reader_on_another_thread_sees_its_prefix_while_the_writer_goes_on() {
        let mut buf = AppendBuf::<u32>::with_capacity(1 << 12);
        let (send, receive) = std::sync::mpsc::channel::<Buffer>();
        let reader = std::thread::spawn(move || {
            let mut n = 0;
            while let Ok(buffer) = receive.recv() {
                let values = buffer.typed_data::<u32>();
                assert!(values.iter().enumerate().all(|(i, &v)| i == v as usize));
                n += 1;
            }
            n
        });
        for i in 0..(1 << 14) {
            buf.push(i);
            if i % 64 == 0 {
                send.send(buf.share(buf.len())).expect("the reader waits for all");
            }
        }
        drop(send);
        assert_eq!(reader.join().expect("no assertion failed"), 256);
    }

    #[test]
    fn selected_values_equal_a_plain_loop() {
        let values: Vec<u16> = (0..100).collect();
        let selection: Vec<u32> = (0..300).map(|i| (i * 37) % 100).collect();
        let mut buf = AppendBuf::with_capacity(0);
        buf.extend_selected(&values, &selection);
        buf.extend_from_slice(&values);
        let expected: Vec<u16> = selection.iter().map(|&i| values[i as usize]).chain(values.iter().copied()).collect();
        assert_eq!(buf.as_slice(), expected);
    }
}
