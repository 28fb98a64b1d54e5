//! Bound scalar expressions and retractable aggregates over columns.
