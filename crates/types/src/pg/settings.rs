//! The session settings on which text forms depend.

use super::TimeZone;

/// In which order a date such as `01/02/2003` is read; the second half of `DateStyle`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DateOrder {
    /// Month, day, year.
    #[default]
    Mdy,
    /// Day, month, year.
    Dmy,
    /// Year, month, day.
    Ymd,
}

/// What a session has set that changes how values are printed and read.
///
/// Dates are always printed in ISO style and intervals in `postgres` style.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FormatSettings {
    /// `TimeZone`: how `timestamptz` is printed, and read where a text names no zone.
    pub time_zone: TimeZone,
    /// The order of ambiguous dates.
    pub date_order: DateOrder,
    /// What `'now'`, `'today'` and their like mean, in microseconds since 1970 UTC. `None` refuses them: a view's
    /// contents may not depend on when a text was read.
    pub now_us: Option<i64>,
}
