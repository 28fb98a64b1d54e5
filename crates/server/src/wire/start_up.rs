//! The first messages of a connection: encryption is refused, a session is opened, or another one is cancelled.

use bytes::{Buf, BytesMut};
use millstream_types::{Error, SqlState};
use pgwire::messages::cancel::CancelRequest;
use pgwire::messages::startup::{GssEncRequest, SslRequest, Startup};
use pgwire::messages::{DecodeContext, Message as _};

use super::connection::{Connection, Fault};

/// The longest start-up message, as in Postgres.
const START_UP_BYTES_MAX: usize = 10_000;
/// Requests before the start-up message itself: one for TLS, one for GSS, and a repetition.
const N_REQUESTS_MAX: usize = 4;

/// What a connection turned out to be for.
pub(crate) enum Opening {
    Session { user: String, database: String, params: Vec<(String, String)> },
    Cancel { pid: i32, secret: i32 },
}

/// Reads until it is clear what the client wants.
pub(crate) async fn read_opening(connection: &mut Connection) -> Result<Opening, Fault> {
    for _ in 0..N_REQUESTS_MAX {
        let mut frame = read_frame(connection).await?;
        if SslRequest::is_ssl_request_packet(&frame) || GssEncRequest::is_gss_enc_request_packet(&frame) {
            connection.output.refuse_encryption();
            continue;
        }
        if CancelRequest::is_cancel_request_packet(&frame) {
            // Length, code, number, secret.
            if frame.len() != 16 {
                return Err(Fault::Gone);
            }
            frame.advance(8);
            return Ok(Opening::Cancel { pid: frame.get_i32(), secret: frame.get_i32() });
        }
        return start_up(connection, frame);
    }
    Err(Fault::Fatal(Error::user(SqlState::PROTOCOL_VIOLATION, "too many requests before the start-up message")))
}

async fn read_frame(connection: &mut Connection) -> Result<BytesMut, Fault> {
    let mut frame = connection.read_raw(4).await?;
    let length = (&frame[..]).get_u32() as usize;
    if !(8..=START_UP_BYTES_MAX).contains(&length) {
        return Err(Fault::Fatal(Error::user(SqlState::PROTOCOL_VIOLATION, "invalid length of startup packet")));
    }
    frame.unsplit(connection.read_raw(length - 4).await?);
    Ok(frame)
}

fn start_up(connection: &mut Connection, mut frame: BytesMut) -> Result<Opening, Fault> {
    let version = (&frame[4..8]).get_u32();
    let (major, minor) = (version >> 16, version & 0xffff);
    if major != 3 {
        let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.0");
        return Err(Fault::Fatal(Error::user(SqlState::FEATURE_NOT_SUPPORTED, message)));
    }
    let decoded = Startup::decode(&mut frame, &DecodeContext::default());
    let startup = decoded
        .ok()
        .flatten()
        .ok_or_else(|| Fault::Fatal(Error::user(SqlState::PROTOCOL_VIOLATION, "invalid startup packet layout")))?;
    let mut params: Vec<(String, String)> = startup.parameters.into_iter().collect();
    let unsupported: Vec<String> =
        params.extract_if(.., |(name, _)| name.starts_with("_pq_.")).map(|(name, _)| name).collect();
    if minor > 0 || !unsupported.is_empty() {
        connection.output.negotiate_version(unsupported);
    }
    let mut take = |wanted: &str| {
        let at = params.iter().position(|(name, _)| name == wanted)?;
        Some(params.swap_remove(at).1).filter(|value| !value.is_empty())
    };
    let user = take("user").ok_or_else(|| {
        Fault::Fatal(Error::user(
            SqlState::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        ))
    })?;
    let database = take("database").unwrap_or_else(|| user.clone());
    Ok(Opening::Session { user, database, params })
}
