//! What is said of files that do not read right.

use millstream_types::{Error, ErrorKind, SqlState};

/// 55006: object in use.
pub(crate) const IN_USE: SqlState = SqlState("55006");

/// XX001: what was durable does not read right.
pub(crate) fn damaged(path: &str, offset: usize, why: &str) -> Error {
    let message = format!("file \"{path}\" is damaged at byte {offset}: {why}");
    Error::new(ErrorKind::External, SqlState::DATA_CORRUPTED, message)
        .with_hint("Nothing was changed. Put the file back from a copy, or restore a backup.")
}

/// 55000: a file of a version that this release does not know.
pub(crate) fn unknown_version(path: &str, version: u32, of: &str) -> Error {
    let message = format!("file \"{path}\" has version {version} of {of}, which this release does not know");
    Error::new(ErrorKind::External, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .with_hint("Start the release that wrote it, or a newer one.")
}

/// Whether this is damage of what was durable.
pub(crate) fn is_damage(error: &Error) -> bool {
    error.state() == SqlState::DATA_CORRUPTED
}
