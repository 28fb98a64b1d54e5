//! Decimal digits of integers, appended to a byte buffer two at a time.

const PAIRS: &[u8; 200] = b"0001020304050607080910111213141516171819\
2021222324252627282930313233343536373839\
4041424344454647484950515253545556575859\
6061626364656667686970717273747576777879\
8081828384858687888990919293949596979899";

#[inline]
fn pair(n: usize) -> [u8; 2] {
    [PAIRS[n * 2], PAIRS[n * 2 + 1]]
}

/// Appends `n` without leading zeros.
#[inline]
pub(crate) fn write_u64(mut n: u64, out: &mut Vec<u8>) {
    let mut buffer = [0u8; 20];
    let mut at = buffer.len();
    while n >= 100 {
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&pair((n % 100) as usize));
        n /= 100;
    }
    if n >= 10 {
        at -= 2;
        buffer[at..at + 2].copy_from_slice(&pair(n as usize));
    } else {
        at -= 1;
        buffer[at] = b'0' + n as u8;
    }
    out.extend_from_slice(&buffer[at..]);
}

/// Appends `n` with its sign, if negative.
#[inline]
pub(crate) fn write_i64(n: i64, out: &mut Vec<u8>) {
    if n < 0 {
        out.push(b'-');
    }
    write_u64(n.unsigned_abs(), out);
}

/// Appends `n` with leading zeros up to `width` digits.
pub(crate) fn write_padded(n: u64, width: usize, out: &mut Vec<u8>) {
    let mut bound = 10u64;
    for _ in 1..width {
        if n < bound {
            out.push(b'0');
        }
        bound = bound.saturating_mul(10);
    }
    write_u64(n, out);
}

/// Appends the two digits of `n`, which is below 100.
#[inline]
pub(crate) fn write_2(n: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&pair(n as usize));
}

/// Appends the four digits of `n`, which is below 10,000.
#[inline]
pub(crate) fn write_4(n: u32, out: &mut Vec<u8>) {
    let (high, low) = (pair((n / 100) as usize), pair((n % 100) as usize));
    out.extend_from_slice(&[high[0], high[1], low[0], low[1]]);
}

/// Appends `.` and up to six digits of a fraction of a second, without trailing zeros; nothing for zero.
#[inline]
pub(crate) fn write_micros(micros: u32, out: &mut Vec<u8>) {
    if micros == 0 {
        return;
    }
    let (a, b, c) =
        (pair((micros / 10_000) as usize), pair((micros / 100 % 100) as usize), pair((micros % 100) as usize));
    let digits = [b'.', a[0], a[1], b[0], b[1], c[0], c[1]];
    let mut len = digits.len();
    while digits[len - 1] == b'0' {
        len -= 1;
    }
    out.extend_from_slice(&digits[..len]);
}

/// Appends a 128-bit magnitude without leading zeros.
pub(crate) fn write_u128(n: u128, out: &mut Vec<u8>) {
    const CHUNK: u128 = 10_000_000_000_000_000_000;
    if n < CHUNK {
        return write_u64(n as u64, out);
    }
    write_u128(n / CHUNK, out);
    write_padded((n % CHUNK) as u64, 19, out);
}
