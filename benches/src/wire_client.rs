//! A client of the Postgres protocol that costs next to nothing: it blocks, sends messages that were made beforehand,
//! and looks at nothing but the frames of what it gets. So what is measured is the server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

/// No answer takes longer.
const READ_TIMEOUT: Duration = Duration::from_secs(300);
/// What is asked of the socket at once.
const INPUT_BYTES: usize = 256 << 10;
/// No message is longer; the server sends none that comes near.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
/// Version 3.0 of the protocol.
const VERSION: i32 = 196_608;
/// The type of a parameter that is a bigint.
const BIGINT_OID: i32 = 20;

/// A session.
pub struct WireClient {
    stream: TcpStream,
    input: Vec<u8>,
    /// What has been read and not been looked at.
    unread: Range<usize>,
}

/// How a statement was answered.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Rows of results and lines of copies.
    pub n_rows: u64,
    /// The tag of the last command.
    pub tag: String,
}

/// The format of a result's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As people read them.
    Text,
    /// As machines do.
    Binary,
}

impl WireClient {
    /// Opens a session.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn open(address: SocketAddr) -> io::Result<WireClient> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        let mut client = WireClient { stream, input: vec![0; INPUT_BYTES], unread: 0..0 };
        let params = b"user\0bench\0database\0millstream\0\0";
        let length = params.len() as i32 + 8;
        client.send(&[&length.to_be_bytes(), &VERSION.to_be_bytes(), &params[..]].concat())?;
        client.answer()?;
        Ok(client)
    }

    /// Sends messages.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send(&mut self, messages: &[u8]) -> io::Result<()> {
        self.stream.write_all(messages)
    }

    /// Runs SQL by the simple protocol.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn run(&mut self, sql: &str) -> io::Result<Answer> {
        self.send(&query(sql))?;
        self.answer().map_err(|error| io::Error::other(format!("{sql}: {error}")))
    }

    /// The first value of the first row of a query's result, as text.
    ///
    /// # Errors
    /// What the server or the socket says, and if there is none.
    pub fn value(&mut self, sql: &str) -> io::Result<String> {
        self.send(&query(sql))?;
        let (mut value, mut error) = (None, None);
        loop {
            let (kind, body) = self.read_message()?;
            match kind {
                b'D' if value.is_none() => value = text_value(body, 0).map(ToOwned::to_owned),
                b'E' => error = Some(error_text(body)),
                b'Z' => break,
                _ => {}
            }
        }
        let error = error.map_or_else(|| format!("{sql}: no value"), |error| format!("{sql}: {error}"));
        value.ok_or_else(|| io::Error::other(error))
    }

    /// Copies data, as it lies in memory, by a `COPY ... FROM STDIN`.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn copy_in(&mut self, sql: &str, data: &[u8]) -> io::Result<Answer> {
        const PIECE_BYTES: usize = 64 << 10;
        self.send(&query(sql))?;
        for piece in data.chunks(PIECE_BYTES) {
            self.send(&message(b'd', piece))?;
        }
        self.send(&message(b'c', &[]))?;
        self.answer()
    }

    /// Reads up to where the server is ready for the next statement.
    ///
    /// # Errors
    /// What the server or the socket says.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let mut answer = Answer::default();
        let mut error = None;
        loop {
            let (kind, body) = self.read_message()?;
            match kind {
                b'D' | b'd' => answer.n_rows += 1,
                b'C' => answer.tag = String::from_utf8_lossy(body.strip_suffix(b"\0").unwrap_or(body)).into_owned(),
                b'E' => error = Some(error_text(body)),
                b'Z' => return error.map_or(Ok(answer), |error| Err(io::Error::other(error))),
                _ => {}
            }
        }
    }

    /// The next message: its type and its body.
    ///
    /// # Errors
    /// What the socket says, and if the server closes it.
    pub fn read_message(&mut self) -> io::Result<(u8, &[u8])> {
        const HEAD_BYTES: usize = 5;
        self.fill(HEAD_BYTES)?;
        let head = &self.input[self.unread.start..][..HEAD_BYTES];
        let (kind, length) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
        if !(4..=MESSAGE_BYTES_MAX).contains(&length) {
            return Err(io::Error::other(format!("a message of {length} bytes")));
        }
        self.fill(1 + length)?;
        let body = self.unread.start + HEAD_BYTES..self.unread.start + 1 + length;
        self.unread.start = body.end;
        Ok((kind, &self.input[body]))
    }

    /// Reads until so many bytes have not been looked at.
    fn fill(&mut self, n_bytes: usize) -> io::Result<()> {
        if self.unread.start + n_bytes > self.input.len() {
            self.input.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            self.input.resize(self.input.len().max(n_bytes), 0);
        }
        while self.unread.len() < n_bytes {
            match self.stream.read(&mut self.input[self.unread.end..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n_read => self.unread.end += n_read,
            }
        }
        Ok(())
    }
}

/// A message.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind][..], &(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// SQL to be run by the simple protocol.
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

/// A statement to be prepared, without a name, whose parameters are bigints.
pub fn prepare(sql: &str, n_params: u16) -> Vec<u8> {
    let types = BIGINT_OID.to_be_bytes().repeat(n_params.into());
    let body = [b"\0", sql.as_bytes(), b"\0", &n_params.to_be_bytes(), &types].concat();
    [message(b'P', &body), message(b'S', &[])].concat()
}

/// Runs the prepared statement, with its parameters in binary.
pub fn execute<const N: usize>(params: [i64; N], format: Format) -> Vec<u8> {
    const BINARY: [u8; 2] = 1u16.to_be_bytes();
    let mut bind = vec![0, 0];
    bind.extend_from_slice(&[0, 1]);
    bind.extend_from_slice(&BINARY);
    bind.extend_from_slice(&(N as u16).to_be_bytes());
    for param in params {
        bind.extend_from_slice(&8u32.to_be_bytes());
        bind.extend_from_slice(&param.to_be_bytes());
    }
    bind.extend_from_slice(&[0, 1, 0, u8::from(format == Format::Binary)]);
    [message(b'B', &bind), message(b'E', &[0; 5]), message(b'S', &[])].concat()
}

/// A value of a row in text; `None` if there is no such column, or for null.
pub fn text_value(row: &[u8], column_idx: usize) -> Option<&str> {
    let mut rest = row.get(2..)?;
    for column in 0.. {
        let (length, after) = rest.split_first_chunk()?;
        // Null is -1 long.
        let length = usize::try_from(i32::from_be_bytes(*length)).ok();
        let (value, after) = after.split_at_checked(length.unwrap_or(0))?;
        if column == column_idx {
            return length.and_then(|_| std::str::from_utf8(value).ok());
        }
        rest = after;
    }
    None
}

/// SQLSTATE and message of an ErrorResponse.
pub fn error_text(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0);
    let field = |code: u8| fields.clone().find_map(|field| field.strip_prefix(&[code]));
    let text = |code: u8| String::from_utf8_lossy(field(code).unwrap_or_default());
    format!("{}: {}", text(b'C'), text(b'M'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed() {
        assert_eq!(query("x"), b"Q\0\0\0\x06x\0");
        assert_eq!(prepare("x", 1), b"P\0\0\0\x0d\0x\0\0\x01\0\0\0\x14S\0\0\0\x04");
        let run = execute([7], Format::Binary);
        let bind = b"B\0\0\0\x1c\0\0\0\x01\0\x01\0\x01\0\0\0\x08\0\0\0\0\0\0\0\x07\0\x01\0\x01";
        assert!(run.starts_with(bind), "{run:?}");
        assert!(run.ends_with(b"E\0\0\0\x09\0\0\0\0\0S\0\0\0\x04"), "{run:?}");
        let row = b"\0\x03\0\0\0\x01a\xff\xff\xff\xff\0\0\0\x02bc";
        let values: Vec<_> = (0..4).map(|column_idx| text_value(row, column_idx)).collect();
        assert_eq!(values, [Some("a"), None, Some("bc"), None]);
        assert_eq!(error_text(b"SERROR\0C42P01\0Mno such\0\0"), "42P01: no such");
    }
}
