//! A builder of text columns that writes values straight into the column's buffers.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryViewArray, StringViewArray};
use arrow::buffer::{Buffer, ScalarBuffer};

use crate::random::{Key, letters};

/// Values up to this length stand in the view itself.
const INLINE: usize = 12;
/// A buffer that has grown to this size is closed: views address 32 bits.
const BUFFER_SIZE_MAX: usize = 1 << 30;

/// Collects values one after another, without an allocation for each.
///
/// The finished column owns exactly the bytes of its values, so whoever counts or encodes it sees nothing else.
pub(crate) struct TextBuilder {
    views: Vec<u128>,
    full: Vec<Buffer>,
    data: Vec<u8>,
}

impl TextBuilder {
    /// Room for `n_rows` values of `n_bytes` in the mean.
    pub(crate) fn with_capacity(n_rows: usize, n_bytes: usize) -> Self {
        // A little more than expected costs less than growing.
        let n_data = n_rows * n_bytes + n_rows * n_bytes / 32 + 64;
        let n_data = if n_bytes > INLINE { n_data.min(BUFFER_SIZE_MAX) } else { 0 };
        TextBuilder { views: Vec::with_capacity(n_rows), full: Vec::new(), data: Vec::with_capacity(n_data) }
    }

    /// Appends a value.
    #[inline]
    pub(crate) fn push(&mut self, value: &[u8]) {
        if value.len() <= INLINE {
            self.views.push(inline_view(value));
        } else {
            self.reserve(value.len());
            let offset = self.data.len();
            self.data.extend_from_slice(value);
            self.push_view(offset);
        }
    }

    /// Appends a value that was made before.
    #[inline]
    pub(crate) fn push_made<const N: usize>(&mut self, value: &MadeText<N>) {
        if value.len <= INLINE {
            self.views.push(value.inline);
        } else {
            self.reserve(N);
            let offset = self.data.len();
            // A copy of known size is a few moves.
            self.data.extend_from_slice(&value.bytes);
            self.data.truncate(offset + value.len);
            self.push_view(offset);
        }
    }

    /// Appends `len` random lower-case letters: those of `key`.
    #[inline]
    pub(crate) fn push_letters(&mut self, key: Key, len: usize) {
        self.push_words(key, len, letters);
    }

    /// Appends `len` random bytes: those of `key`.
    pub(crate) fn push_bytes(&mut self, key: Key, len: usize) {
        self.push_words(key, len, u64::to_le_bytes);
    }

    #[inline]
    fn push_words(&mut self, key: Key, len: usize, to_bytes: impl Fn(u64) -> [u8; 8]) {
        if len <= INLINE {
            let mut value = [0; 16];
            value[..8].copy_from_slice(&to_bytes(key.word(0)));
            value[8..].copy_from_slice(&to_bytes(key.word(1)));
            self.views.push(inline_view(&value[..len]));
            return;
        }
        self.reserve(len + 32);
        let offset = self.data.len();
        let mut block = [0; 32];
        // Whole blocks are cheaper to append than what is left of the last one.
        for first_word in (0..len as u64).step_by(32).map(|byte| byte / 8) {
            for (word, bytes) in (first_word..).zip(block.chunks_exact_mut(8)) {
                bytes.copy_from_slice(&to_bytes(key.word(word)));
            }
            self.data.extend_from_slice(&block);
        }
        self.data.truncate(offset + len);
        self.push_view(offset);
    }

    #[inline]
    fn reserve(&mut self, len: usize) {
        if self.data.len() + len > BUFFER_SIZE_MAX && !self.data.is_empty() {
            self.full.push(Buffer::from_vec(std::mem::take(&mut self.data)));
        }
    }

    /// The view of the bytes from `offset` to the end of the current buffer.
    #[inline]
    fn push_view(&mut self, offset: usize) {
        let value = &self.data[offset..];
        let prefix = u32::from_le_bytes(value[..4].try_into().expect("values in buffers are longer than 12 bytes"));
        let low = value.len() as u64 | u64::from(prefix) << 32;
        let high = self.full.len() as u64 | (offset as u64) << 32;
        self.views.push(u128::from(low) | u128::from(high) << 64);
    }

    /// The column of what was appended, which must be UTF-8.
    pub(crate) fn finish_text(self) -> ArrayRef {
        let (views, buffers) = self.into_parts();
        Arc::new(StringViewArray::try_new(views, buffers, None).expect("only UTF-8 was appended"))
    }

    /// The column of what was appended.
    pub(crate) fn finish_binary(self) -> ArrayRef {
        let (views, buffers) = self.into_parts();
        Arc::new(BinaryViewArray::try_new(views, buffers, None).expect("views point into their buffers"))
    }

    fn into_parts(mut self) -> (ScalarBuffer<u128>, Vec<Buffer>) {
        if !self.data.is_empty() {
            if self.data.capacity() - self.data.len() > self.data.len() / 8 {
                self.data.shrink_to_fit();
            }
            self.full.push(Buffer::from_vec(self.data));
        }
        (ScalarBuffer::from(self.views), self.full)
    }
}

/// A text of at most `N` bytes, made once and appended often.
pub(crate) struct MadeText<const N: usize> {
    bytes: [u8; N],
    len: usize,
    /// The view, if the text is short enough to stand in it.
    inline: u128,
}

impl<const N: usize> MadeText<N> {
    /// # Panics
    /// If the text is longer than `N`.
    pub(crate) fn new(text: &str) -> Self {
        let mut bytes = [0; N];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        let inline = if text.len() <= INLINE { inline_view(text.as_bytes()) } else { 0 };
        MadeText { bytes, len: text.len(), inline }
    }

    /// The text.
    #[cfg(test)]
    pub(crate) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("it was made of a str")
    }
}

#[inline]
fn inline_view(value: &[u8]) -> u128 {
    let mut view = [0; 16];
    view[0] = value.len() as u8;
    view[4..4 + value.len()].copy_from_slice(value);
    u128::from_le_bytes(view)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Array, AsArray};

    #[test]
    fn values_of_every_length_come_back() {
        let values: Vec<String> = (0..40).map(|n| "abcdefghij".repeat(4)[..n].to_owned()).collect();
        let mut builder = TextBuilder::with_capacity(40, 20);
        values.iter().for_each(|v| builder.push(v.as_bytes()));
        let column = builder.finish_text();
        let column = column.as_string_view();
        assert_eq!(column.len(), 40);
        assert!(values.iter().zip(column.iter()).all(|(a, b)| Some(a.as_str()) == b));
    }

    #[test]
    fn letters_have_the_length_asked_for_and_a_common_start() {
        let key = Key::new(1, "x");
        let mut builder = TextBuilder::with_capacity(40, 20);
        (0..40).for_each(|len| builder.push_letters(key, len));
        let column = builder.finish_text();
        let column = column.as_string_view();
        for len in 0..40 {
            assert_eq!(column.value(len).len(), len);
            assert!(column.value(39).starts_with(column.value(len)));
            assert!(column.value(len).bytes().all(|b| b.is_ascii_lowercase()));
        }
    }
}
