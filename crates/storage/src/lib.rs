//! The log, checkpoint objects and manifests.
