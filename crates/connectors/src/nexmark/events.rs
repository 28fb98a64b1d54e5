//! Which events there are: the numbering of events, ids and event times.

use std::fmt;
use std::ops::Range;

/// Events are numbered in groups of this size, each with the same mix of kinds.
pub(super) const GROUP: u64 = 50;
/// Auctions in a group.
pub(super) const AUCTIONS_PER_GROUP: u64 = 3;
/// The first person's and the first auction's id.
pub(super) const FIRST_ID: u64 = 1000;

/// The kinds of events, each of which is a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// Somebody who sells and bids.
    Person,
    /// An item for sale, until it expires.
    Auction,
    /// A bid for an item.
    Bid,
}

impl Table {
    pub(super) fn of_name(name: &str) -> Option<Table> {
        match name {
            "person" => Some(Table::Person),
            "auction" => Some(Table::Auction),
            "bid" => Some(Table::Bid),
            _ => None,
        }
    }

    /// The places of this kind within a group.
    const fn slots(self) -> Range<u64> {
        match self {
            Table::Person => 0..1,
            Table::Auction => 1..1 + AUCTIONS_PER_GROUP,
            Table::Bid => 1 + AUCTIONS_PER_GROUP..GROUP,
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Table::Person => "person",
            Table::Auction => "auction",
            Table::Bid => "bid",
        })
    }
}

/// The events of one kind in a range of event numbers.
pub(super) struct Rows {
    slots: Range<u64>,
    events: Range<u64>,
    len: usize,
}

impl Rows {
    pub(super) fn new(table: Table, events: Range<u64>) -> Self {
        let slots = table.slots();
        let before = |event: u64| {
            let in_group = (event % GROUP).clamp(slots.start, slots.end) - slots.start;
            event / GROUP * (slots.end - slots.start) + in_group
        };
        let len = before(events.end) - before(events.start);
        Rows { len: usize::try_from(len).expect("a batch fits in memory"), slots, events }
    }

    /// The number of events of the kind.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Calls `visit` with (group, place in the group, event number) of each event of the kind, in order.
    #[inline]
    pub(super) fn for_each(&self, mut visit: impl FnMut(u64, u64, u64)) {
        let mut group = self.events.start / GROUP;
        while group * GROUP < self.events.end {
            let first = group * GROUP;
            let start = (first + self.slots.start).max(self.events.start);
            let end = (first + self.slots.end).min(self.events.end);
            for event in start..end {
                visit(group, event - first, event);
            }
            group += 1;
        }
    }
}

/// The last person (counted from 0) that exists when an event of `group` happens.
#[inline]
pub(super) fn last_person(group: u64) -> u64 {
    group
}

/// The last auction (counted from 0) that exists when a bid of `group` happens.
#[inline]
pub(super) fn last_auction(group: u64) -> u64 {
    group * AUCTIONS_PER_GROUP + AUCTIONS_PER_GROUP - 1
}

/// Event times: `base + event * interval`, rounded down to microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    base_us: i64,
    interval_us: u64,
    /// The part of the interval below a microsecond.
    interval_rest_ns: u64,
}

impl Clock {
    pub(super) fn new(base_us: i64, interval_ms: f64) -> Self {
        let interval_ns = (interval_ms * 1e6).round() as u64;
        Clock { base_us, interval_us: interval_ns / 1000, interval_rest_ns: interval_ns % 1000 }
    }

    /// Whether all event times up to that of `event`, and twice the longest auction beyond it, are timestamps.
    pub(super) fn can_tell(&self, event: u64) -> bool {
        let events = i128::from(event) + 4 * i128::from(EVENTS_IN_FLIGHT);
        let last = i128::from(self.base_us) + events * (i128::from(self.interval_us) + 1);
        last < i128::from(i64::MAX)
    }

    /// The event's time in microseconds.
    #[inline]
    pub(super) fn at(&self, event: u64) -> i64 {
        self.base_us + (event * self.interval_us + event * self.interval_rest_ns / 1000) as i64
    }
}

/// Events until a hundred more auctions have come: the mean life of an auction.
pub(super) const EVENTS_IN_FLIGHT: u64 = 100 * GROUP / AUCTIONS_PER_GROUP;
