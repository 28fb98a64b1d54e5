//! The table `auction`.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray};
use millstream_types::SqlType;

use super::Column;
use super::events::{AUCTIONS_PER_GROUP, EVENTS_IN_FLIGHT, FIRST_ID, Rows, last_person};
use super::model::{HOT_EVERY, Model, active_person, bigints, extra_len, texts};
use crate::random::below;

const FIRST_CATEGORY: u64 = 10;
const N_CATEGORIES: u64 = 5;
const ITEM_NAME_LEN: usize = 20;
const DESCRIPTION_LEN: usize = 100;
const MEAN_SIZE: usize = 500;
/// What counts as the size of an auction without its padding: two texts, and six numbers and times.
const FIXED_SIZE: usize = ITEM_NAME_LEN + DESCRIPTION_LEN + 48;

pub(super) const COLUMNS: &[Column] = &[
    Column { name: "id", sql_type: SqlType::BigInt, generate: id },
    Column { name: "item_name", sql_type: SqlType::Text, generate: item_name },
    Column { name: "description", sql_type: SqlType::Text, generate: description },
    Column { name: "initial_bid", sql_type: SqlType::BigInt, generate: initial_bid },
    Column { name: "reserve", sql_type: SqlType::BigInt, generate: reserve },
    Column { name: "date_time", sql_type: SqlType::Timestamp, generate: Model::date_time },
    Column { name: "expires", sql_type: SqlType::Timestamp, generate: expires },
    Column { name: "seller", sql_type: SqlType::BigInt, generate: seller },
    Column { name: "category", sql_type: SqlType::BigInt, generate: category },
    Column { name: "extra", sql_type: SqlType::Text, generate: extra },
];

fn id(_: &Model, rows: &Rows) -> ArrayRef {
    bigints(rows, |group, slot, _| FIRST_ID + group * AUCTIONS_PER_GROUP + slot - 1)
}

fn item_name(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("auction.item_name");
    texts(rows, ITEM_NAME_LEN, |builder, event| builder.push_letters(key.at(event), ITEM_NAME_LEN))
}

fn description(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("auction.description");
    texts(rows, DESCRIPTION_LEN, |builder, event| builder.push_letters(key.at(event), DESCRIPTION_LEN))
}

fn initial_bid(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("auction.initial_bid");
    bigints(rows, |_, _, event| model.prices.price(key.word(event)))
}

/// The initial bid and as much again, in the mean.
fn reserve(model: &Model, rows: &Rows) -> ArrayRef {
    let (initial, more) = (model.key("auction.initial_bid"), model.key("auction.reserve"));
    bigints(rows, |_, _, event| model.prices.price(initial.word(event)) + model.prices.price(more.word(event)))
}

/// Auctions live for the time in which a hundred others come, in the mean.
fn expires(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("auction.expires");
    let mut times = Vec::with_capacity(rows.len());
    rows.for_each(|_, _, event| {
        let now = model.clock.at(event);
        let life = (model.clock.at(event + EVENTS_IN_FLIGHT) - now).unsigned_abs();
        times.push(now + 1 + below(key.word(event), (2 * life).max(1)) as i64);
    });
    Arc::new(TimestampMicrosecondArray::from(times))
}

/// Three of four auctions are by the first person of the last hundred.
fn seller(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("auction.seller");
    bigints(rows, |group, _, event| {
        let word = key.word(event);
        let last = last_person(group);
        let hot = last / HOT_EVERY * HOT_EVERY;
        if word & 3 != 0 { FIRST_ID + hot } else { active_person(last, word) }
    })
}

fn category(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("auction.category");
    bigints(rows, |_, _, event| FIRST_CATEGORY + below(key.word(event), N_CATEGORIES))
}

fn extra(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("auction.extra");
    texts(rows, MEAN_SIZE - FIXED_SIZE, |builder, event| {
        let key = key.at(event);
        // The letters take the words from 0 on.
        builder.push_letters(key, extra_len(key.word(u64::MAX), FIXED_SIZE, MEAN_SIZE));
    })
}
