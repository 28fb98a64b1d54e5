//! From SQL text to a dataflow: dialect, catalog, binder, streaming rules.
