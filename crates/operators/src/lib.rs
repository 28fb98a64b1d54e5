//! Streaming operators, their specs, and the graph of specs.
