//! Finds the ends of lines in data that comes in pieces: a line break may be escaped, or stand inside quotes.

use memchr::{memchr, memchr2};

use super::{CopyFormat, CopyOptions};
use crate::{Error, Result, SqlState};

/// The longest line. A line is held in memory as a whole, so there must be a bound.
const LINE_BYTES_MAX: usize = 64 << 20;

/// Cuts pieces into lines.
pub(super) struct LineSplitter {
    format: CopyFormat,
    quote: u8,
    /// The escape character of csv, if it is not the quote itself.
    escape: Option<u8>,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// The partial line is inside quotes.
    quoted: bool,
    /// The partial line ends in an escape character.
    escaped: bool,
}

impl LineSplitter {
    pub(super) fn new(options: &CopyOptions) -> Self {
        LineSplitter {
            format: options.format,
            quote: options.quote,
            escape: Some(options.escape).filter(|escape| *escape != options.quote),
            partial: Vec::new(),
            quoted: false,
            escaped: false,
        }
    }

    /// Takes a line, without its `\n`, out of `data` and gives it to `take`. `None` if its end has not come: what there
    /// is of it is kept.
    pub(super) fn next<T>(&mut self, data: &mut &[u8], take: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let end = match self.format {
            CopyFormat::Text => self.text_end(data),
            // Binary data has no lines.
            CopyFormat::Csv | CopyFormat::Binary => self.csv_end(data),
        };
        let Some(end) = end else {
            if self.partial.len() + data.len() > LINE_BYTES_MAX {
                return Err(Error::user(
                    SqlState::PROGRAM_LIMIT_EXCEEDED,
                    format!("a line of COPY data is longer than {LINE_BYTES_MAX} bytes"),
                ));
            }
            self.partial.extend_from_slice(data);
            *data = &[];
            return Ok(None);
        };
        let (line, rest) = (&data[..end], &data[end + 1..]);
        *data = rest;
        (self.quoted, self.escaped) = (false, false);
        if self.partial.is_empty() {
            return Ok(Some(take(line)));
        }
        self.partial.extend_from_slice(line);
        let taken = take(&self.partial);
        self.partial.clear();
        Ok(Some(taken))
    }

    /// The last line, if it had no line break.
    pub(super) fn finish(&mut self) -> Option<Vec<u8>> {
        (!self.partial.is_empty()).then(|| std::mem::take(&mut self.partial))
    }

    /// Whether the line that has not ended is inside quotes.
    pub(super) fn in_quotes(&self) -> bool {
        self.quoted
    }

    /// A line break after an odd number of backslashes is data.
    fn text_end(&mut self, data: &[u8]) -> Option<usize> {
        let mut from = 0;
        while let Some(at) = memchr(b'\n', &data[from..]).map(|at| from + at) {
            let n_backslashes = data[..at].iter().rev().take_while(|b| **b == b'\\').count();
            let carried = n_backslashes == at && self.escaped;
            if (n_backslashes + usize::from(carried)).is_multiple_of(2) {
                return Some(at);
            }
            from = at + 1;
        }
        let n_backslashes = data.iter().rev().take_while(|b| **b == b'\\').count();
        let carried = n_backslashes == data.len() && self.escaped;
        self.escaped = (n_backslashes + usize::from(carried)) % 2 == 1;
        None
    }

    /// A line break between quotes is data.
    fn csv_end(&mut self, data: &[u8]) -> Option<usize> {
        let Some(escape) = self.escape else {
            // A doubled quote ends the quotes and begins them again.
            let mut from = 0;
            loop {
                let found = if self.quoted {
                    memchr(self.quote, &data[from..])
                } else {
                    memchr2(self.quote, b'\n', &data[from..])
                };
                let at = from + found?;
                if data[at] == b'\n' && !self.quoted {
                    return Some(at);
                }
                self.quoted = !self.quoted;
                from = at + 1;
            }
        };
        for (at, &byte) in data.iter().enumerate() {
            if std::mem::take(&mut self.escaped) {
                continue;
            }
            if self.quoted && byte == escape {
                self.escaped = true;
            } else if byte == self.quote {
                self.quoted = !self.quoted;
            } else if byte == b'\n' && !self.quoted {
                return Some(at);
            }
        }
        None
    }
}
