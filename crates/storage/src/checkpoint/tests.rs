//! Checkpoints against a model of what was committed, on disks that fail, lose their power, and go bad.

mod amplification;
mod damage;
mod faults;
mod hooked;
mod merging;
mod model;
mod reading;
mod reading_ahead;
mod store;
mod streams;
mod taking_over;
