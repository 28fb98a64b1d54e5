//! How numbers, lists and checksums stand in files: little-endian, with lengths before what has one.

/// The first 64 bits of the BLAKE3 hash.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; 8] {
    array(blake3::hash(bytes).as_bytes(), 0)
}

/// So many bytes from a place on; they are known to be there.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of that length")
}

/// Adds to bytes what [`Decoder`] takes from them.
pub(crate) trait Encode {
    fn put_u8(&mut self, n: u8);
    fn put_u32(&mut self, n: u32);
    fn put_u64(&mut self, n: u64);
    fn put_u128(&mut self, n: u128);
    /// Seven bits a byte, the lowest first, and the eighth if there are more: LEB128.
    fn put_varint(&mut self, n: u64);
    /// A length and the bytes.
    fn put_bytes(&mut self, bytes: &[u8]);
    /// The number of elements of a list.
    fn put_len(&mut self, n: usize);
}

impl Encode for Vec<u8> {
    fn put_u8(&mut self, n: u8) {
        self.push(n);
    }

    fn put_u32(&mut self, n: u32) {
        self.extend(n.to_le_bytes());
    }

    fn put_u64(&mut self, n: u64) {
        self.extend(n.to_le_bytes());
    }

    fn put_u128(&mut self, n: u128) {
        self.extend(n.to_le_bytes());
    }

    fn put_varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.push(n as u8);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_len(bytes.len());
        self.extend(bytes);
    }

    fn put_len(&mut self, n: usize) {
        self.put_u32(u32::try_from(n).expect("lists and values here have fewer than 2^32 elements"));
    }
}

/// Takes values from the front of bytes; `None` where they end too early.
pub(crate) struct Decoder<'a>(pub(crate) &'a [u8]);

impl<'a> Decoder<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_le_bytes)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            n |= bits << shift;
            if byte < 0x80 {
                // The last byte may have one bit only.
                return (bits << shift >> shift == bits).then_some(n);
            }
        }
        None
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let n_bytes = self.u32()? as usize;
        let (taken, rest) = self.0.split_at_checked(n_bytes)?;
        self.0 = rest;
        Some(taken)
    }

    /// A list, of which each element takes at least a byte.
    pub(crate) fn list<T>(&mut self, mut element: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let n_elements = self.u32()? as usize;
        let mut list = Vec::with_capacity(n_elements.min(self.0.len()));
        for _ in 0..n_elements {
            list.push(element(self)?);
        }
        Some(list)
    }

    /// Whether all was taken.
    pub(crate) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints() {
        let numbers = [0, 1, 127, 128, 300, 1 << 32, u64::MAX - 1, u64::MAX];
        let mut bytes = Vec::new();
        numbers.iter().for_each(|&n| bytes.put_varint(n));
        assert_eq!(bytes[..5], [0, 1, 127, 128, 1]);
        let mut rest = Decoder(&bytes);
        assert!(numbers.iter().all(|&n| rest.varint() == Some(n)));
        assert!(rest.is_at_end() && rest.varint().is_none());
        assert_eq!(Decoder(&[0xff; 9]).varint(), None, "cut off");
        assert_eq!(Decoder(&[&[0xff; 9][..], &[2]].concat()).varint(), None, "more than 64 bits");
    }
}
