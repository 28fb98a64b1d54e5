//! Checkpoints against a model of what was committed, on disks that fail, lose their power, and go bad.

mod amplification;
mod damage;
mod faults;
mod merging;
mod model;
mod reading;
mod store;
mod taking_over;
