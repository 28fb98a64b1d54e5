//! Errors: who is at fault, the SQLSTATE, and what a user is told.

use std::fmt;
use std::io;

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The statement or the data is wrong; carries the SQLSTATE that Postgres would give.
    User,
    /// Valid SQL that this version cannot do.
    NotSupported,
    /// A broken invariant: our bug.
    Internal,
    /// A limit of memory, connections or time was hit.
    Resource,
    /// Something outside failed: network, disk, a connector's peer.
    External,
}

/// A five-character SQLSTATE, as in appendix A of the PostgreSQL manual.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub &'static str);

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

macro_rules! states {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl SqlState { $($(#[$doc])* pub const $name: SqlState = SqlState($code);)* }
    };
}

states! {
    /// 0A000
    FEATURE_NOT_SUPPORTED = "0A000";
    /// 08P01
    PROTOCOL_VIOLATION = "08P01";
    /// 21000: a scalar subquery gave more than one row, or ON CONFLICT met a row twice
    CARDINALITY_VIOLATION = "21000";
    /// 22000
    DATA_EXCEPTION = "22000";
    /// 22001: value too long for type
    STRING_DATA_RIGHT_TRUNCATION = "22001";
    /// 22003
    NUMERIC_VALUE_OUT_OF_RANGE = "22003";
    /// 22007
    INVALID_DATETIME_FORMAT = "22007";
    /// 22008
    DATETIME_FIELD_OVERFLOW = "22008";
    /// 22009
    INVALID_TIME_ZONE_DISPLACEMENT = "22009";
    /// 22011
    SUBSTRING_ERROR = "22011";
    /// 22012
    DIVISION_BY_ZERO = "22012";
    /// 22015
    INTERVAL_FIELD_OVERFLOW = "22015";
    /// 2201B
    INVALID_REGULAR_EXPRESSION = "2201B";
    /// 22021: bytes that are not UTF-8
    CHARACTER_NOT_IN_REPERTOIRE = "22021";
    /// 22023
    INVALID_PARAMETER_VALUE = "22023";
    /// 22P02
    INVALID_TEXT_REPRESENTATION = "22P02";
    /// 22P03
    INVALID_BINARY_REPRESENTATION = "22P03";
    /// 22P04
    BAD_COPY_FILE_FORMAT = "22P04";
    /// 23502
    NOT_NULL_VIOLATION = "23502";
    /// 23505
    UNIQUE_VIOLATION = "23505";
    /// 24000
    INVALID_CURSOR_STATE = "24000";
    /// 25001
    ACTIVE_SQL_TRANSACTION = "25001";
    /// 25006
    READ_ONLY_SQL_TRANSACTION = "25006";
    /// 25P01
    NO_ACTIVE_SQL_TRANSACTION = "25P01";
    /// 25P02
    IN_FAILED_SQL_TRANSACTION = "25P02";
    /// 26000
    INVALID_SQL_STATEMENT_NAME = "26000";
    /// 28000
    INVALID_AUTHORIZATION = "28000";
    /// 2BP01
    DEPENDENT_OBJECTS_STILL_EXIST = "2BP01";
    /// 34000
    INVALID_CURSOR_NAME = "34000";
    /// 3B001
    INVALID_SAVEPOINT_SPECIFICATION = "3B001";
    /// 3D000
    INVALID_CATALOG_NAME = "3D000";
    /// 3F000
    INVALID_SCHEMA_NAME = "3F000";
    /// 40001
    SERIALIZATION_FAILURE = "40001";
    /// 42501
    INSUFFICIENT_PRIVILEGE = "42501";
    /// 42601
    SYNTAX_ERROR = "42601";
    /// 42602
    INVALID_NAME = "42602";
    /// 42611
    INVALID_COLUMN_DEFINITION = "42611";
    /// 42701
    DUPLICATE_COLUMN = "42701";
    /// 42702
    AMBIGUOUS_COLUMN = "42702";
    /// 42703
    UNDEFINED_COLUMN = "42703";
    /// 42704
    UNDEFINED_OBJECT = "42704";
    /// 42712: one name for two relations in FROM
    DUPLICATE_ALIAS = "42712";
    /// 42710
    DUPLICATE_OBJECT = "42710";
    /// 42803
    GROUPING_ERROR = "42803";
    /// 42804
    DATATYPE_MISMATCH = "42804";
    /// 42809
    WRONG_OBJECT_TYPE = "42809";
    /// 42846
    CANNOT_COERCE = "42846";
    /// 42883
    UNDEFINED_FUNCTION = "42883";
    /// 42P01
    UNDEFINED_TABLE = "42P01";
    /// 42P02
    UNDEFINED_PARAMETER = "42P02";
    /// 42P03
    DUPLICATE_CURSOR = "42P03";
    /// 42P05
    DUPLICATE_PREPARED_STATEMENT = "42P05";
    /// 42P07
    DUPLICATE_TABLE = "42P07";
    /// 42P10
    INVALID_COLUMN_REFERENCE = "42P10";
    /// 42P20: a window function where there can be none, or a frame that makes no sense
    WINDOWING_ERROR = "42P20";
    /// 42P16
    INVALID_TABLE_DEFINITION = "42P16";
    /// 42P18
    INDETERMINATE_DATATYPE = "42P18";
    /// 53100
    DISK_FULL = "53100";
    /// 53200
    OUT_OF_MEMORY = "53200";
    /// 53300
    TOO_MANY_CONNECTIONS = "53300";
    /// 53400
    CONFIGURATION_LIMIT_EXCEEDED = "53400";
    /// 54000
    PROGRAM_LIMIT_EXCEEDED = "54000";
    /// 54001
    STATEMENT_TOO_COMPLEX = "54001";
    /// 55000
    OBJECT_NOT_IN_PREREQUISITE_STATE = "55000";
    /// 57014
    QUERY_CANCELED = "57014";
    /// 57P01
    ADMIN_SHUTDOWN = "57P01";
    /// 55P02
    CANT_CHANGE_RUNTIME_PARAM = "55P02";
    /// 58030
    IO_ERROR = "58030";
    /// XX000
    INTERNAL_ERROR = "XX000";
    /// XX001
    DATA_CORRUPTED = "XX001";
}

/// An error as it reaches a user.
///
/// `message` is lower case without a full stop and names the object and its kind; `detail` and `hint` are kept apart,
/// as Postgres does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Box<ErrorFields>);

/// The parts of an [`Error`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorFields {
    /// Who is at fault.
    pub kind: ErrorKind,
    /// The SQLSTATE.
    pub state: SqlState,
    /// The primary message.
    pub message: String,
    /// Details, if any.
    pub detail: Option<String>,
    /// What the user may do about it, if known.
    pub hint: Option<String>,
    /// Position in the statement's text, in characters from 1.
    pub position: Option<usize>,
    /// Where in the data the error arose: `COPY t, line 3, column a: "x"`.
    pub context: Option<String>,
}

/// A result with Millstream's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind and state.
    pub fn new(kind: ErrorKind, state: SqlState, message: impl Into<String>) -> Self {
        let message = message.into();
        Error(Box::new(ErrorFields { kind, state, message, detail: None, hint: None, position: None, context: None }))
    }

    /// The statement or the data is wrong.
    pub fn user(state: SqlState, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::User, state, message)
    }

    /// Valid SQL that this version cannot do (0A000).
    pub fn not_supported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotSupported, SqlState::FEATURE_NOT_SUPPORTED, message)
    }

    /// A broken invariant (XX000).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, SqlState::INTERNAL_ERROR, message)
    }

    /// A memory limit was hit (53200).
    pub fn out_of_memory(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Resource, SqlState::OUT_OF_MEMORY, message)
    }

    /// The statement was cancelled by its user (57014).
    pub fn cancelled() -> Self {
        Self::user(SqlState::QUERY_CANCELED, "canceling statement due to user request")
    }

    /// The error for what kernels of Arrow and DataFusion say of bad data, where Postgres has a state of its own for it.
    pub fn of_kernel(message: &str) -> Option<Error> {
        let after = |prefix: &str| message.split_once(prefix).map(|(_, rest)| rest);
        if let Some(what) = after("Regular expression did not compile").or_else(|| after("regex parse error")) {
            let what = what.split_once("error: ").map_or(what, |(_, reason)| reason);
            let reason = what.lines().next().unwrap_or_default().trim_start_matches([':', ' ']);
            return Some(Error::user(
                SqlState::INVALID_REGULAR_EXPRESSION,
                format!("invalid regular expression: {reason}"),
            ));
        }
        if message.contains("negative substring length") || message.contains("negative count not allowed") {
            return Some(Error::user(SqlState::SUBSTRING_ERROR, "negative substring length not allowed"));
        }
        if message.contains("field position must not be zero") {
            return Some(Error::user(SqlState::INVALID_PARAMETER_VALUE, "field position must not be zero"));
        }
        None
    }

    /// The same error with a detail.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// The same error with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// The same error, pointing at a character of the statement, counted from 1.
    #[must_use]
    pub fn with_position(mut self, position: usize) -> Self {
        self.0.position = Some(position);
        self
    }

    /// The same error, with the place in the data where it arose.
    #[must_use]
    pub fn with_context(mut self, context: impl Into<String>) -> Self {
        self.0.context = Some(context.into());
        self
    }

    /// The parts.
    pub fn fields(&self) -> &ErrorFields {
        &self.0
    }

    /// Who is at fault.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The SQLSTATE.
    pub fn state(&self) -> SqlState {
        self.0.state
    }

    /// The primary message.
    pub fn message(&self) -> &str {
        &self.0.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0.message, self.0.state.0)?;
        if let Some(detail) = &self.0.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "; hint: {hint}")?;
        }
        if let Some(context) = &self.0.context {
            write!(f, "; context: {context}")?;
        }
        Ok(())
    }
}

impl Error {
    /// Of a file that is there for a while: 53100 if the disk is full, else 58030.
    pub fn of_io(error: &io::Error) -> Error {
        // What wraps an error of the system has it as a source, and no kind of its own.
        let mut root = error;
        let mut source = std::error::Error::source(error);
        while let Some(inner) = source {
            root = inner.downcast_ref().unwrap_or(root);
            source = inner.source();
        }
        let message = format!("a temporary file could not be read or written: {root}");
        if is_disk_full(root) {
            let full = Error::new(ErrorKind::Resource, SqlState::DISK_FULL, message);
            return full.with_hint("Make room on the disk; nothing else is needed.");
        }
        Error::new(ErrorKind::External, SqlState::IO_ERROR, message)
    }
}

impl std::error::Error for Error {}

/// Whether there is no room for what was to be written. A limit of the size of files is a disk with that much room.
pub fn is_disk_full(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge)
}

/// Errors of Arrow kernels, told apart by what they say: Arrow has no SQLSTATE.
impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        use arrow::error::ArrowError as A;
        match &error {
            A::DivideByZero => Error::user(SqlState::DIVISION_BY_ZERO, "division by zero"),
            A::ArithmeticOverflow(_) => Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range"),
            A::CastError(m) | A::ParseError(m) => Error::user(SqlState::INVALID_TEXT_REPRESENTATION, lower_first(m)),
            A::ComputeError(m) | A::InvalidArgumentError(m) => {
                Error::of_kernel(m).unwrap_or_else(|| Error::user(SqlState::DATA_EXCEPTION, lower_first(m)))
            }
            A::NotYetImplemented(m) => Error::not_supported(lower_first(m)),
            A::MemoryError(m) => Error::out_of_memory(m.clone()),
            A::IoError(_, io) => Error::of_io(io),
            _ => Error::internal(error.to_string()),
        }
    }
}

fn lower_first(message: &str) -> String {
    let mut chars = message.trim_end_matches('.').chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_others_however_it_is_wrapped() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let wrapped = io::Error::other(arrow::error::ArrowError::from(full()));
        for error in [full(), wrapped] {
            let error = Error::from(arrow::error::ArrowError::from(error));
            assert_eq!((error.kind(), error.state()), (ErrorKind::Resource, SqlState::DISK_FULL), "{error}");
        }
        let other = Error::of_io(&io::Error::from(io::ErrorKind::NotFound));
        assert_eq!((other.kind(), other.state()), (ErrorKind::External, SqlState::IO_ERROR), "{other}");
    }
}
