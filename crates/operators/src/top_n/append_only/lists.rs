//! Short ordered lists, one for each partition.

use millstream_state::NO_ROW;

/// Lists up to this bound have a fixed place each.
const FIXED_LEN_MAX: usize = 16;
/// Fixed places are allocated for so many lists at once, so growing never copies.
const LISTS_PER_PAGE: usize = 1 << 12;

/// A list of at most `len_max` rows for each partition number.
pub(super) struct Lists {
    len_max: usize,
    storage: Storage,
}

enum Storage {
    /// `len_max` places a list; [`NO_ROW`] stands in those behind its end.
    Fixed(Vec<Box<[u32]>>),
    Growing {
        lists: Vec<Vec<u32>>,
        /// Rows in all of them.
        n_rows: usize,
    },
}

impl Lists {
    /// No lists; `len_max` is at least 1 where any is asked for.
    pub(super) fn new(len_max: usize) -> Self {
        let storage = if len_max <= FIXED_LEN_MAX {
            Storage::Fixed(Vec::new())
        } else {
            Storage::Growing { lists: Vec::new(), n_rows: 0 }
        };
        Lists { len_max, storage }
    }

    /// Makes empty lists for all partitions below a bound that have none.
    pub(super) fn resize(&mut self, bound: u32) {
        match &mut self.storage {
            Storage::Fixed(pages) => {
                while pages.len() * LISTS_PER_PAGE < bound as usize {
                    pages.push(vec![NO_ROW; LISTS_PER_PAGE * self.len_max].into_boxed_slice());
                }
            }
            Storage::Growing { lists, .. } => lists.resize_with(lists.len().max(bound as usize), Vec::new),
        }
    }

    /// The rows of a partition.
    #[inline]
    pub(super) fn get(&self, partition: u32) -> &[u32] {
        match &self.storage {
            Storage::Fixed(pages) => {
                let places = &pages[partition as usize / LISTS_PER_PAGE];
                let from = partition as usize % LISTS_PER_PAGE * self.len_max;
                let places = &places[from..from + self.len_max];
                let len = places.iter().position(|&row| row == NO_ROW).unwrap_or(self.len_max);
                &places[..len]
            }
            Storage::Growing { lists, .. } => &lists[partition as usize],
        }
    }

    /// Puts a row at a place and moves later ones on; returns the one that has no place any more.
    pub(super) fn insert(&mut self, partition: u32, at: usize, row: u32) -> Option<u32> {
        match &mut self.storage {
            Storage::Fixed(pages) => {
                let places = &mut pages[partition as usize / LISTS_PER_PAGE];
                let from = partition as usize % LISTS_PER_PAGE * self.len_max;
                let places = &mut places[from + at..from + self.len_max];
                places.rotate_right(1);
                let last = std::mem::replace(&mut places[0], row);
                (last != NO_ROW).then_some(last)
            }
            Storage::Growing { lists, n_rows } => {
                let list = &mut lists[partition as usize];
                list.insert(at, row);
                let last = if list.len() > self.len_max { list.pop() } else { None };
                *n_rows += usize::from(last.is_none());
                last
            }
        }
    }

    /// Puts a row in another's place.
    pub(super) fn replace(&mut self, partition: u32, row: u32, new_row: u32) {
        let list = match &mut self.storage {
            Storage::Fixed(pages) => {
                let from = partition as usize % LISTS_PER_PAGE * self.len_max;
                &mut pages[partition as usize / LISTS_PER_PAGE][from..from + self.len_max]
            }
            Storage::Growing { lists, .. } => &mut lists[partition as usize],
        };
        let place = list.iter_mut().find(|r| **r == row).expect("the row is in the list");
        *place = new_row;
    }

    /// Allocated bytes, nearly.
    pub(super) fn n_bytes(&self) -> usize {
        match &self.storage {
            Storage::Fixed(pages) => pages.len() * LISTS_PER_PAGE * self.len_max * size_of::<u32>(),
            Storage::Growing { lists, n_rows } => {
                lists.capacity() * size_of::<Vec<u32>>() + n_rows * 3 / 2 * size_of::<u32>()
            }
        }
    }
}
