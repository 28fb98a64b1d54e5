//! Sources and sinks.
//!
//! A connector is chosen by name in `WITH (connector = '...')`. [`create_source`] turns such options into a
//! [`Source`], or into an error that names the option at fault.

use std::sync::Arc;

use millstream_runtime::Source;
use millstream_types::Result;

pub mod generator;
pub mod nexmark;
pub mod options;

mod literal;
mod random;
mod sink;
mod text;

pub use options::{BoundExpr, ColumnDeclaration, ExprBinder, RowExpr, SourceOptions};
pub use sink::SinkKind;

/// The connectors that a stream can read from.
pub const SOURCE_CONNECTORS: &[&str] = &["generator", "nexmark"];
/// The connectors that a sink can write to.
pub const SINK_CONNECTORS: &[&str] = &["blackhole"];

/// Creates the source that the options describe.
///
/// # Errors
/// User errors with SQLSTATE 22023 for an unknown connector and unknown, missing or malformed options, 42703 and 42804
/// for declared columns that the connector does not have.
pub fn create_source(options: &SourceOptions) -> Result<Arc<dyn Source>> {
    match options.connector.as_str() {
        "generator" => Ok(Arc::new(generator::GeneratorSource::from_options(options)?)),
        "nexmark" => Ok(Arc::new(nexmark::NexmarkSource::from_options(options)?)),
        other => Err(unknown_connector("source", other, SOURCE_CONNECTORS)),
    }
}

/// The error that no connector for a source or a sink has this name.
pub(crate) fn unknown_connector(kind: &str, name: &str, known: &[&str]) -> millstream_types::Error {
    options::invalid(format!("unknown {kind} connector \"{name}\""))
        .with_hint(format!("{kind} connectors: {}", known.join(", ")))
}
