//! Messages to a client, encoded into one buffer until it is flushed.

use bytes::BytesMut;
use millstream_engine::{Notice, ResultColumn, Severity, TransactionStatus};
use millstream_types::copy::CopyFormat;
use millstream_types::pg::PgType;
use millstream_types::{Error, SqlType};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::copy::{CopyInResponse, CopyOutResponse};
use pgwire::messages::data::{FieldDescription, ParameterDescription, RowDescription};
use pgwire::messages::response::{CommandComplete, ErrorResponse, NoticeResponse};
use pgwire::messages::startup::{Authentication, BackendKeyData, NegotiateProtocolVersion, ParameterStatus, SecretKey};

/// No field of an error or notice is longer.
const FIELD_BYTES_MAX: usize = 4096;
/// Capacity that a buffer keeps while its client is idle.
const IDLE_CAPACITY: usize = 8 << 10;

/// Bytes on their way to a client.
#[derive(Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    /// Rows are among the bytes.
    has_rows: bool,
    scratch: BytesMut,
}

impl Output {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// For rows, which are encoded in place.
    pub(crate) fn rows_mut(&mut self) -> &mut Vec<u8> {
        self.has_rows = true;
        &mut self.bytes
    }

    /// Whether rows are waiting to be sent.
    pub(crate) fn has_rows(&self) -> bool {
        self.has_rows
    }

    /// All bytes have been sent.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.has_rows = false;
    }

    /// Gives memory back while nothing is to be sent.
    pub(crate) fn shrink(&mut self) {
        self.bytes.shrink_to(IDLE_CAPACITY);
    }

    fn put(&mut self, message: &PgWireBackendMessage) {
        self.scratch.clear();
        // Lengths are the only thing that can be wrong with a message, and they are limited before.
        message.encode(&mut self.scratch).expect("messages are within their limits");
        self.bytes.extend_from_slice(&self.scratch);
    }

    /// A message of one type byte and no body.
    fn put_empty(&mut self, kind: u8) {
        self.bytes.extend_from_slice(&[kind, 0, 0, 0, 4]);
    }

    /// The one-byte answer to a request for encryption.
    pub(crate) fn refuse_encryption(&mut self) {
        self.bytes.push(b'N');
    }

    pub(crate) fn negotiate_version(&mut self, unsupported_options: Vec<String>) {
        const NEWEST: i32 = 3 << 16;
        let message = NegotiateProtocolVersion::new(NEWEST, unsupported_options);
        self.put(&PgWireBackendMessage::NegotiateProtocolVersion(message));
    }

    pub(crate) fn authentication_ok(&mut self) {
        self.put(&PgWireBackendMessage::Authentication(Authentication::Ok));
    }

    pub(crate) fn parameter_status(&mut self, name: String, value: &str) {
        let value = limited(value).to_owned();
        self.put(&PgWireBackendMessage::ParameterStatus(ParameterStatus::new(name, value)));
    }

    pub(crate) fn backend_key(&mut self, pid: i32, secret: i32) {
        let message = BackendKeyData::new(pid, SecretKey::I32(secret));
        self.put(&PgWireBackendMessage::BackendKeyData(message));
    }

    pub(crate) fn ready_for_query(&mut self, status: TransactionStatus) {
        let status = match status {
            TransactionStatus::Idle => b'I',
            TransactionStatus::InTransaction => b'T',
            TransactionStatus::Failed => b'E',
        };
        self.bytes.extend_from_slice(&[b'Z', 0, 0, 0, 5, status]);
    }

    pub(crate) fn parse_complete(&mut self) {
        self.put_empty(b'1');
    }

    pub(crate) fn bind_complete(&mut self) {
        self.put_empty(b'2');
    }

    pub(crate) fn close_complete(&mut self) {
        self.put_empty(b'3');
    }

    pub(crate) fn no_data(&mut self) {
        self.put_empty(b'n');
    }

    pub(crate) fn portal_suspended(&mut self) {
        self.put_empty(b's');
    }

    pub(crate) fn empty_query(&mut self) {
        self.put_empty(b'I');
    }

    /// A piece of a copy, of less than 2 GiB.
    pub(crate) fn copy_data(&mut self, data: &[u8]) {
        self.bytes.push(b'd');
        self.bytes.extend_from_slice(&(data.len() as i32 + 4).to_be_bytes());
        self.bytes.extend_from_slice(data);
    }

    pub(crate) fn copy_done(&mut self) {
        self.put_empty(b'c');
    }

    pub(crate) fn command_complete(&mut self, tag: &str) {
        self.put(&PgWireBackendMessage::CommandComplete(CommandComplete::new(limited(tag).to_owned())));
    }

    pub(crate) fn parameter_description(&mut self, types: &[SqlType]) {
        let oids = types.iter().map(|t| PgType::of(t).oid).collect();
        self.put(&PgWireBackendMessage::ParameterDescription(ParameterDescription::new(oids)));
    }

    /// The columns of a result; `format` gives the code of a column by its index.
    pub(crate) fn row_description(&mut self, columns: &[ResultColumn], format: impl Fn(usize) -> i16) {
        let describe = |(i, column): (usize, &ResultColumn)| {
            let pg = PgType::of(&column.sql_type);
            let (relation, attribute) = column.origin.unwrap_or((0, 0));
            FieldDescription::new(
                limited(&column.name).to_owned(),
                relation as i32,
                attribute,
                pg.oid,
                pg.size,
                pg.modifier,
                format(i),
            )
        };
        let fields = columns.iter().enumerate().map(describe).collect();
        self.put(&PgWireBackendMessage::RowDescription(RowDescription::new(fields)));
    }

    pub(crate) fn copy_in_response(&mut self, n_columns: usize, format: CopyFormat) {
        let code = copy_code(format);
        let message = CopyInResponse::new(code as i8, n_columns as i16, vec![code; n_columns]);
        self.put(&PgWireBackendMessage::CopyInResponse(message));
    }

    pub(crate) fn copy_out_response(&mut self, n_columns: usize, format: CopyFormat) {
        let code = copy_code(format);
        let message = CopyOutResponse::new(code as i8, n_columns as i16, vec![code; n_columns]);
        self.put(&PgWireBackendMessage::CopyOutResponse(message));
    }

    pub(crate) fn error(&mut self, severity: &str, error: &Error) {
        let parts = error.fields();
        let mut fields = fields(severity, parts.state.0, &parts.message, &parts.detail, &parts.hint);
        fields.extend(parts.context.iter().map(|text| (b'W', limited(text).to_owned())));
        if let Some(position) = parts.position {
            fields.push((b'P', position.to_string()));
        }
        self.put(&PgWireBackendMessage::ErrorResponse(ErrorResponse::new(fields)));
    }

    pub(crate) fn notice(&mut self, notice: &Notice) {
        let severity = match notice.severity {
            Severity::Info => "INFO",
            Severity::Notice => "NOTICE",
            Severity::Warning => "WARNING",
        };
        let fields = fields(severity, notice.state.0, &notice.message, &notice.detail, &notice.hint);
        self.put(&PgWireBackendMessage::NoticeResponse(NoticeResponse::new(fields)));
    }
}

/// The format code of a copy's values.
fn copy_code(format: CopyFormat) -> i16 {
    i16::from(format == CopyFormat::Binary)
}

fn fields(
    severity: &str,
    state: &str,
    message: &str,
    detail: &Option<String>,
    hint: &Option<String>,
) -> Vec<(u8, String)> {
    let mut fields = vec![
        (b'S', severity.to_owned()),
        (b'V', severity.to_owned()),
        (b'C', state.to_owned()),
        (b'M', limited(message).to_owned()),
    ];
    fields.extend(detail.iter().map(|text| (b'D', limited(text).to_owned())));
    fields.extend(hint.iter().map(|text| (b'H', limited(text).to_owned())));
    fields
}

/// Text for a string of the protocol: not too long, and nothing from a zero byte on.
fn limited(text: &str) -> &str {
    let text = text.split('\0').next().unwrap_or(text);
    &text[..text.floor_char_boundary(FIELD_BYTES_MAX)]
}
