//! Objects of streams. Where disks and buckets fail, streams are part of the other tests' model.

mod damage;
mod merging;
pub(super) mod model;
mod owners;
mod reading;
mod statistics;
