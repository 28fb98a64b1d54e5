//! A client that sends and sees single messages.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Running;

pub(crate) struct Raw {
    stream: TcpStream,
    pub pid: i32,
    pub secret: i32,
}

/// A message of the server: its type and body.
pub(crate) type Answer = (char, Vec<u8>);

pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(&(body.len() as i32 + 4).to_be_bytes());
    bytes.extend_from_slice(body);
    bytes
}

pub(crate) fn start_up(version: i32, params: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in params {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    let mut bytes = (body.len() as i32 + 4).to_be_bytes().to_vec();
    bytes.extend_from_slice(&body);
    bytes
}

pub(crate) fn query(sql: &str) -> Vec<u8> {
    message(b'Q', format!("{sql}\0").as_bytes())
}

pub(crate) fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes())
}

/// Binds without parameters, results in text.
pub(crate) fn bind(portal: &str, statement: &str) -> Vec<u8> {
    message(b'B', format!("{portal}\0{statement}\0\0\0\0\0\0\0").as_bytes())
}

pub(crate) fn execute(portal: &str, max_rows: i32) -> Vec<u8> {
    let mut body = format!("{portal}\0").into_bytes();
    body.extend_from_slice(&max_rows.to_be_bytes());
    message(b'E', &body)
}

pub(crate) fn sync() -> Vec<u8> {
    message(b'S', b"")
}

impl Raw {
    pub(crate) async fn open(running: &Running) -> Raw {
        Raw::open_at(running.server.address).await
    }

    async fn open_at(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).await.expect("a connection");
        Raw { stream, pid: 0, secret: 0 }
    }

    /// Connects and reads up to ReadyForQuery.
    pub(crate) async fn connect(running: &Running) -> Raw {
        Raw::connect_to(running.server.address).await
    }

    /// As [`Raw::connect`], to any server.
    pub(crate) async fn connect_to(address: SocketAddr) -> Raw {
        let mut raw = Raw::open_at(address).await;
        raw.send(&start_up(196_608, &[("user", "u"), ("database", "millstream")])).await;
        for (kind, body) in raw.until_ready().await {
            if kind == 'K' {
                let number = |at: usize| i32::from_be_bytes(body[at..at + 4].try_into().expect("four bytes"));
                (raw.pid, raw.secret) = (number(0), number(4));
            }
        }
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    /// One byte that is no message.
    pub(crate) async fn byte(&mut self) -> u8 {
        self.stream.read_u8().await.expect("a byte")
    }

    /// The next message; `None` if the server has closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Answer> {
        let read = async {
            let kind = self.stream.read_u8().await.ok()?;
            let length = self.stream.read_i32().await.ok()?;
            let mut body = vec![0; length as usize - 4];
            self.stream.read_exact(&mut body).await.ok()?;
            Some((char::from(kind), body))
        };
        tokio::time::timeout(std::time::Duration::from_secs(15), read).await.expect("an answer in time")
    }

    pub(crate) async fn until_ready(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        loop {
            let answer = self.next().await.expect("no end before ReadyForQuery");
            let kind = answer.0;
            answers.push(answer);
            if kind == 'Z' {
                return answers;
            }
        }
    }

    /// The types of the messages up to ReadyForQuery, repetitions as one, and its transaction status.
    pub(crate) async fn kinds_until_ready(&mut self) -> String {
        let answers = self.until_ready().await;
        let mut kinds: Vec<char> = answers.iter().map(|(kind, _)| *kind).collect();
        kinds.dedup();
        let status = char::from(answers.last().expect("ReadyForQuery").1[0]);
        kinds.into_iter().chain([status]).collect()
    }
}

/// A field of an ErrorResponse or NoticeResponse.
pub(crate) fn field(answer: &Answer, code: char) -> Option<String> {
    let fields = answer.1.split(|b| *b == 0).filter(|f| !f.is_empty());
    fields.map(|f| String::from_utf8_lossy(f)).find(|f| f.starts_with(code)).map(|f| f[1..].to_owned())
}
