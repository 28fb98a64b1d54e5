//! Arrangements, groups, snapshots, holds and their encoding.
