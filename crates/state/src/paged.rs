//! Vectors in pages: they grow without moving, and pages that were never written take no memory.

const PAGE_BITS: u32 = 12;
/// Values in a page.
pub const PAGE_LEN: usize = 1 << PAGE_BITS;

/// A growable vector of copyable values, allocated page by page; a value never written reads as the default.
///
/// Growing costs one page, never a copy of what is there, so the pause is bounded whatever the size. Reads cost two
/// dependent loads.
#[derive(Debug, Clone)]
pub struct PagedVec<T: Copy> {
    pages: Vec<Option<Box<[T]>>>,
    default: T,
    n_pages_allocated: usize,
}

impl<T: Copy> PagedVec<T> {
    /// An empty vector in which absent values read as `default`.
    pub fn new(default: T) -> Self {
        PagedVec { pages: Vec::new(), default, n_pages_allocated: 0 }
    }

    /// The value at an index.
    #[inline]
    pub fn get(&self, index: u32) -> T {
        match self.pages.get((index >> PAGE_BITS) as usize) {
            Some(Some(page)) => page[index as usize & (PAGE_LEN - 1)],
            _ => self.default,
        }
    }

    /// The value at an index, for writing; allocates its page if need be.
    #[inline]
    pub fn get_mut(&mut self, index: u32) -> &mut T {
        let page_idx = (index >> PAGE_BITS) as usize;
        if self.pages.get(page_idx).is_none_or(Option::is_none) {
            self.allocate(page_idx);
        }
        let page = self.pages[page_idx].as_mut().expect("allocated above");
        &mut page[index as usize & (PAGE_LEN - 1)]
    }

    /// Replaces the value at an index; allocates its page if need be.
    #[inline]
    pub fn set(&mut self, index: u32, value: T) {
        *self.get_mut(index) = value;
    }

    #[cold]
    fn allocate(&mut self, page_idx: usize) {
        if self.pages.len() <= page_idx {
            self.pages.resize_with(page_idx + 1, || None);
        }
        self.pages[page_idx] = Some(vec![self.default; PAGE_LEN].into_boxed_slice());
        self.n_pages_allocated += 1;
    }

    /// Forgets all values.
    pub fn clear(&mut self) {
        self.pages.clear();
        self.n_pages_allocated = 0;
    }

    /// Allocated bytes.
    pub fn n_bytes(&self) -> usize {
        self.n_pages_allocated * PAGE_LEN * size_of::<T>() + self.pages.capacity() * size_of::<Option<Box<[T]>>>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_values_read_as_the_default() {
        let mut v = PagedVec::new(-1i64);
        assert_eq!(v.get(5), -1);
        v.set(3 * PAGE_LEN as u32 + 1, 9);
        assert_eq!((v.get(3 * PAGE_LEN as u32 + 1), v.get(3 * PAGE_LEN as u32), v.get(0)), (9, -1, -1));
        assert_eq!(v.n_pages_allocated, 1);
        *v.get_mut(0) += 1;
        assert_eq!(v.get(0), 0);
    }
}
