//! Sets of row numbers.

const PAGE_NUMBERS: usize = 1 << 12;
const PAGE_WORDS: usize = PAGE_NUMBERS / 64;

/// A set of numbers that are about as large as there are things to number: a bit each, in pages.
///
/// Adding, removing and looking up are two loads. Memory is 512 bytes for each 4096 numbers of which any was ever in the
/// set. Numbers come out in their order, from anywhere, without those before being looked at.
#[derive(Clone, Debug, Default)]
pub struct NumberSet {
    pages: Vec<Option<Box<[u64; PAGE_WORDS]>>>,
    n_pages_allocated: usize,
}

impl NumberSet {
    /// Whether a number is in it.
    #[inline]
    pub fn contains(&self, number: u32) -> bool {
        let (page, word, bit) = place(number);
        self.pages.get(page).and_then(Option::as_deref).is_some_and(|words| words[word] & bit != 0)
    }

    /// Adds a number; returns whether it is new.
    #[inline]
    pub fn insert(&mut self, number: u32) -> bool {
        let (page, word, bit) = place(number);
        if self.pages.get(page).is_none_or(Option::is_none) {
            self.allocate(page);
        }
        let words = self.pages[page].as_mut().expect("allocated above");
        let is_new = words[word] & bit == 0;
        words[word] |= bit;
        is_new
    }

    /// Takes a number out; returns whether it was in the set.
    #[inline]
    pub fn remove(&mut self, number: u32) -> bool {
        let (page, word, bit) = place(number);
        let Some(Some(words)) = self.pages.get_mut(page) else { return false };
        let was_there = words[word] & bit != 0;
        words[word] &= !bit;
        was_there
    }

    /// The first numbers that are not below `from`, ascending, at most so many; `from` becomes the number after the last
    /// of them.
    pub fn next(&self, from: &mut u32, n_max: usize) -> Vec<u32> {
        let end = (self.pages.len() * PAGE_NUMBERS) as u32;
        next_of(from, end, n_max, |first| match &self.pages[first as usize / PAGE_NUMBERS] {
            Some(words) => words[first as usize % PAGE_NUMBERS / 64],
            None => 0,
        })
    }

    /// The same of the numbers below `end` that are not in the set.
    pub fn next_absent(&self, from: &mut u32, end: u32, n_max: usize) -> Vec<u32> {
        next_of(from, end, n_max, |first| match self.pages.get(first as usize / PAGE_NUMBERS) {
            Some(Some(words)) => !words[first as usize % PAGE_NUMBERS / 64],
            _ => u64::MAX,
        })
    }

    /// Allocated bytes.
    pub fn n_bytes(&self) -> usize {
        self.n_pages_allocated * PAGE_NUMBERS / 8 + self.pages.capacity() * size_of::<usize>()
    }

    #[cold]
    fn allocate(&mut self, page: usize) {
        if self.pages.len() <= page {
            self.pages.resize_with(page + 1, || None);
        }
        self.pages[page] = Some(Box::new([0; PAGE_WORDS]));
        self.n_pages_allocated += 1;
    }
}

impl Extend<u32> for NumberSet {
    fn extend<T: IntoIterator<Item = u32>>(&mut self, numbers: T) {
        numbers.into_iter().for_each(|number| _ = self.insert(number));
    }
}

#[inline]
fn place(number: u32) -> (usize, usize, u64) {
    let number = number as usize;
    (number / PAGE_NUMBERS, number % PAGE_NUMBERS / 64, 1 << (number % 64))
}

/// Numbers from `from` to `end` whose bits are set; `word` gives the bits of 64 numbers, by the first of them.
fn next_of(from: &mut u32, end: u32, n_max: usize, word: impl Fn(u32) -> u64) -> Vec<u32> {
    let mut numbers = Vec::new();
    while *from < end && numbers.len() < n_max {
        let first = *from / 64 * 64;
        let mut bits = word(first) & u64::MAX << (*from - first);
        *from = first.saturating_add(64);
        while bits != 0 {
            let number = first + bits.trailing_zeros();
            if number >= end {
                break;
            }
            if numbers.len() == n_max {
                *from = number;
                break;
            }
            numbers.push(number);
            bits &= bits - 1;
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millstream_types::hash::mix;

    use super::*;

    #[test]
    fn numbers_come_out_in_order_from_anywhere() {
        for seed in 0..20 {
            let (mut set, mut model) = (NumberSet::default(), BTreeSet::new());
            let bound = 1 + mix(seed) % 20_000;
            for i in 0..mix(seed ^ 77) % 5_000 {
                let r = mix(seed * 1_000_003 + i);
                let number = (r % bound) as u32;
                if (r >> 40).is_multiple_of(3) {
                    assert_eq!(set.remove(number), model.remove(&number));
                } else {
                    assert_eq!(set.insert(number), model.insert(number));
                }
                assert_eq!(set.contains(number), model.contains(&number));
            }
            let end = (mix(seed ^ 5) % (bound + 9_000)) as u32;
            for n_max in [1, 7, 64, 5_000] {
                let (mut from, mut all) = (0, Vec::new());
                loop {
                    let some = set.next(&mut from, n_max);
                    assert!(some.len() <= n_max);
                    if some.is_empty() {
                        break;
                    }
                    all.extend(some);
                }
                assert!(all.iter().eq(&model), "seed {seed}");
                let (mut from, mut absent) = (0, Vec::new());
                loop {
                    let some = set.next_absent(&mut from, end, n_max);
                    if some.is_empty() {
                        break;
                    }
                    absent.extend(some);
                }
                let expected: Vec<u32> = (0..end).filter(|number| !model.contains(number)).collect();
                assert_eq!(absent, expected, "seed {seed}");
            }
        }
    }
}
