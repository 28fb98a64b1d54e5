//! Portals of a connection.

use arrow::array::ArrayRef;
use millstream_engine::RowsTag;

use super::rows::OpenRows;

/// What Bind leaves behind: a statement with its parameters, and its result once it runs.
pub(crate) struct Portal<P> {
    pub(crate) prepared: Option<P>,
    pub(crate) params: Vec<ArrayRef>,
    pub(crate) result_formats: Vec<i16>,
    pub(crate) state: PortalState,
}

/// How far a portal has run.
pub(crate) enum PortalState {
    New,
    /// Rows have been sent, and more may be left.
    Suspended(Box<OpenRows>),
    /// All rows have been sent; asking again gives none.
    Exhausted(RowsTag),
    /// The command is done and cannot be run again.
    Done,
}
