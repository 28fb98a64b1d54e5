//! Messages of clients, taken out of the bytes that have arrived.
//!
//! Frames and bodies are read with bounds checks of our own: a message that lies about its length must end its
//! connection and nothing else, and text that is not UTF-8 is an error, not a replacement character.

use bytes::{Buf, Bytes, BytesMut};
use millstream_types::{Error, Result, SqlState};

/// The longest query, in bytes, with its name.
const QUERY_BYTES_MAX: usize = 64 << 20;
/// The longest message of another kind that carries a client's data.
const DATA_BYTES_MAX: usize = 256 << 20;
/// The longest message that carries only names.
const NAME_BYTES_MAX: usize = 10_000;
/// Bytes of type and length before a body.
const HEADER_BYTES: usize = 5;

/// A message after start-up.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Query(String),
    Parse {
        name: String,
        sql: String,
        param_oids: Vec<u32>,
    },
    Bind(Bind),
    Describe(Target),
    Execute {
        portal: String,
        max_rows: u32,
    },
    Close(Target),
    Flush,
    Sync,
    CopyData(Bytes),
    CopyDone,
    CopyFail(String),
    Terminate,
    /// The frame was whole, its contents were not.
    Malformed {
        extended: bool,
        error: Error,
    },
}

impl Message {
    /// Whether an error while handling it is followed by skipping to the next Sync.
    pub(crate) fn is_extended(&self) -> bool {
        match self {
            Message::Malformed { extended, .. } => *extended,
            Message::Query(_) | Message::CopyData(_) | Message::CopyDone | Message::CopyFail(_) => false,
            _ => true,
        }
    }
}

/// What Describe and Close are about.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Statement(String),
    Portal(String),
}

/// A prepared statement meets its parameters.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bind {
    pub(crate) portal: String,
    pub(crate) statement: String,
    pub(crate) param_formats: Vec<i16>,
    pub(crate) params: Vec<Option<Bytes>>,
    pub(crate) result_formats: Vec<i16>,
}

/// Takes the first whole message out of `input`; `None` if it has not all arrived.
///
/// # Errors
/// 08P01 or 54000, after which the stream cannot be read further.
pub(crate) fn take_message(input: &mut BytesMut) -> Result<Option<Message>> {
    let Some(length) = frame_length(input)? else {
        return Ok(None);
    };
    if input.len() < length {
        return Ok(None);
    }
    let kind = input[0];
    let mut frame = input.split_to(length).freeze();
    frame.advance(HEADER_BYTES);
    let mut body = Body(frame);
    let message = read_body(kind, &mut body);
    let whole = message.and_then(|m| if body.0.is_empty() { Ok(m) } else { Err(violation("invalid message format")) });
    Ok(Some(whole.unwrap_or_else(|error| Message::Malformed { extended: kind != b'Q', error })))
}

/// How many bytes the first message has with its header; `None` if that is not known yet.
pub(crate) fn frame_length(input: &[u8]) -> Result<Option<usize>> {
    let Some(header) = input.first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let [kind, length @ ..] = *header;
    let max = match kind {
        b'Q' | b'P' => QUERY_BYTES_MAX,
        b'B' | b'd' => DATA_BYTES_MAX,
        b'D' | b'E' | b'C' | b'H' | b'S' | b'c' | b'f' | b'X' | b'p' => NAME_BYTES_MAX,
        _ => return Err(violation(&format!("invalid frontend message type {kind}"))),
    };
    let length = usize::try_from(i32::from_be_bytes(length)).ok().filter(|n| *n >= 4);
    let length = length.ok_or_else(|| violation("invalid message length"))?;
    if length > max {
        let message = format!("message of {length} bytes is longer than the limit of {max} bytes");
        return Err(Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, message));
    }
    Ok(Some(length + 1))
}

fn violation(message: &str) -> Error {
    Error::user(SqlState::PROTOCOL_VIOLATION, message)
}

fn read_body(kind: u8, body: &mut Body) -> Result<Message> {
    Ok(match kind {
        b'Q' => Message::Query(body.text()?),
        b'P' => Message::Parse { name: body.text()?, sql: body.text()?, param_oids: body.list(|b| b.u32())? },
        b'B' => Message::Bind(Bind {
            portal: body.text()?,
            statement: body.text()?,
            param_formats: body.list(|b| b.i16())?,
            params: body.list(Body::value)?,
            result_formats: body.list(|b| b.i16())?,
        }),
        b'D' => Message::Describe(body.target()?),
        b'C' => Message::Close(body.target()?),
        b'E' => Message::Execute { portal: body.text()?, max_rows: body.u32()?.min(i32::MAX as u32) },
        b'H' => Message::Flush,
        b'S' => Message::Sync,
        b'd' => Message::CopyData(std::mem::take(&mut body.0)),
        b'c' => Message::CopyDone,
        b'f' => Message::CopyFail(body.text()?),
        b'X' => Message::Terminate,
        _ => return Err(violation(&format!("unexpected message type {kind}"))),
    })
}

/// What is left of a message.
struct Body(Bytes);

impl Body {
    fn take(&mut self, n_bytes: usize) -> Result<Bytes> {
        if self.0.len() < n_bytes {
            return Err(violation("insufficient data left in message"));
        }
        Ok(self.0.split_to(n_bytes))
    }

    fn text(&mut self) -> Result<String> {
        let end = self.0.iter().position(|b| *b == 0).ok_or_else(|| violation("invalid string in message"))?;
        let text = self.take(end)?;
        self.0.advance(1);
        match std::str::from_utf8(&text) {
            Ok(text) => Ok(text.to_owned()),
            Err(e) => Err(Error::user(
                SqlState::CHARACTER_NOT_IN_REPERTOIRE,
                format!("invalid byte sequence for encoding \"UTF8\": 0x{:02x}", text[e.valid_up_to()]),
            )),
        }
    }

    fn i16(&mut self) -> Result<i16> {
        Ok(self.take(2)?.get_i16())
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.take(4)?.get_u32())
    }

    /// A count and as many items.
    fn list<T>(&mut self, item: impl Fn(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let n_items = self.i16()? as u16;
        (0..n_items).map(|_| item(self)).collect()
    }

    /// A length, -1 for null, and as many bytes.
    fn value(&mut self) -> Result<Option<Bytes>> {
        match self.u32()? as i32 {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| violation("invalid length of a parameter"))?;
                self.take(length).map(Some)
            }
        }
    }

    fn target(&mut self) -> Result<Target> {
        match self.take(1)?[0] {
            b'S' => Ok(Target::Statement(self.text()?)),
            b'P' => Ok(Target::Portal(self.text()?)),
            other => Err(violation(&format!("invalid subtype {other} of a message"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> BytesMut {
        let mut bytes = BytesMut::new();
        bytes.extend_from_slice(&[kind]);
        bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_message_is_taken_when_all_of_it_has_arrived() {
        let whole = message(b'Q', b"select 1\0");
        for n_bytes in 0..whole.len() {
            assert_eq!(take_message(&mut BytesMut::from(&whole[..n_bytes])), Ok(None));
        }
        let mut two = whole.clone();
        two.extend_from_slice(&message(b'S', b""));
        assert_eq!(take_message(&mut two), Ok(Some(Message::Query("select 1".to_owned()))));
        assert_eq!(take_message(&mut two), Ok(Some(Message::Sync)));
        assert!(two.is_empty());
    }

    #[test]
    fn bind_has_formats_parameters_and_nulls() {
        let body = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x02ab\xff\xff\xff\xff\0\0";
        let Ok(Some(Message::Bind(bind))) = take_message(&mut message(b'B', body)) else {
            panic!("a Bind message");
        };
        assert_eq!((bind.portal.as_str(), bind.statement.as_str()), ("p", "s"));
        assert_eq!(bind.params, vec![Some(Bytes::from_static(b"ab")), None]);
        assert_eq!((bind.param_formats, bind.result_formats), (vec![1], vec![]));
    }

    #[test]
    fn lies_and_excess_are_refused() {
        let malformed = [
            (message(b'Q', b"no end"), SqlState::PROTOCOL_VIOLATION),
            (message(b'Q', b"\xff\0"), SqlState::CHARACTER_NOT_IN_REPERTOIRE),
            (message(b'B', b"p\0s\0\0\x09"), SqlState::PROTOCOL_VIOLATION),
            (message(b'D', b"Xa\0"), SqlState::PROTOCOL_VIOLATION),
            (message(b'S', b"more"), SqlState::PROTOCOL_VIOLATION),
        ];
        for (mut input, state) in malformed {
            let Ok(Some(Message::Malformed { error, .. })) = take_message(&mut input) else {
                panic!("a malformed message");
            };
            assert_eq!(error.state(), state);
            assert!(input.is_empty(), "the message is skipped");
        }
        let fatal = [
            (message(b'?', b""), SqlState::PROTOCOL_VIOLATION),
            (BytesMut::from(&b"Q\0\0\0\x01"[..]), SqlState::PROTOCOL_VIOLATION),
            (BytesMut::from(&b"Q\x7f\0\0\0"[..]), SqlState::PROGRAM_LIMIT_EXCEEDED),
        ];
        for (mut input, state) in fatal {
            assert_eq!(take_message(&mut input).expect_err("refused").state(), state);
        }
    }
}
