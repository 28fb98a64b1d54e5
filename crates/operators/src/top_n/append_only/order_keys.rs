//! What rows are ordered by, encoded, by row id.

use arrow::datatypes::DataType;

/// Keys are allocated for so many rows at once, so growing never copies.
const KEYS_PER_PAGE: usize = 1 << 12;

/// One key of bytes for each row id.
pub(super) enum OrderKeys {
    /// All keys have `width` bytes and lie side by side.
    Fixed { width: usize, pages: Vec<Box<[u8]>> },
    /// Each has its own allocation.
    Boxed { keys: Vec<Box<[u8]>>, n_bytes: usize },
}

impl OrderKeys {
    /// For keys that are the row encoding of columns of these types.
    pub(super) fn new<'a>(types: impl Iterator<Item = &'a DataType>) -> Self {
        // A value of fixed width is encoded as its bytes behind one that tells null, whatever it is.
        let width_of = |t: &DataType| match t {
            DataType::Boolean => Some(2),
            t => t.primitive_width().map(|w| w + 1),
        };
        match types.map(width_of).sum::<Option<usize>>() {
            Some(width) => OrderKeys::Fixed { width, pages: Vec::new() },
            None => OrderKeys::Boxed { keys: Vec::new(), n_bytes: 0 },
        }
    }

    #[inline]
    pub(super) fn get(&self, row: u32) -> &[u8] {
        match self {
            OrderKeys::Fixed { width, pages } => {
                let from = row as usize % KEYS_PER_PAGE * width;
                &pages[row as usize / KEYS_PER_PAGE][from..from + width]
            }
            OrderKeys::Boxed { keys, .. } => &keys[row as usize],
        }
    }

    #[inline]
    pub(super) fn set(&mut self, row: u32, key: &[u8]) {
        match self {
            OrderKeys::Fixed { width, pages } => {
                while pages.len() <= row as usize / KEYS_PER_PAGE {
                    pages.push(vec![0; KEYS_PER_PAGE * *width].into_boxed_slice());
                }
                let from = row as usize % KEYS_PER_PAGE * *width;
                pages[row as usize / KEYS_PER_PAGE][from..from + *width].copy_from_slice(key);
            }
            OrderKeys::Boxed { keys, n_bytes } => {
                if keys.len() <= row as usize {
                    keys.resize(row as usize + 1, Box::default());
                }
                *n_bytes = *n_bytes + key.len() - keys[row as usize].len();
                keys[row as usize] = key.into();
            }
        }
    }

    /// Says that a row's key is not needed any more.
    pub(super) fn forget(&mut self, row: u32) {
        if let OrderKeys::Boxed { keys, n_bytes } = self {
            *n_bytes -= keys[row as usize].len();
            keys[row as usize] = Box::default();
        }
    }

    /// Allocated bytes.
    pub(super) fn n_bytes(&self) -> usize {
        match self {
            OrderKeys::Fixed { width, pages } => pages.len() * KEYS_PER_PAGE * width,
            OrderKeys::Boxed { keys, n_bytes } => keys.capacity() * size_of::<Box<[u8]>>() + n_bytes,
        }
    }
}
