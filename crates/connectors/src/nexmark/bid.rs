//! The table `bid`.

use arrow::array::ArrayRef;
use millstream_types::SqlType;

use super::Column;
use super::events::{FIRST_ID, Rows, last_auction, last_person};
use super::model::{HOT_EVERY, Model, active_person, bigints, extra_len, texts};
use crate::random::below;

/// Bids that are not for the hot auction are for one of so many latest ones, and the latest itself.
const AUCTIONS_IN_FLIGHT: u64 = 100;
const MEAN_SIZE: usize = 100;
/// What counts as the size of a bid without its padding: three ids and a time.
const FIXED_SIZE: usize = 32;

pub(super) const COLUMNS: &[Column] = &[
    Column { name: "auction", sql_type: SqlType::BigInt, generate: auction },
    Column { name: "bidder", sql_type: SqlType::BigInt, generate: bidder },
    Column { name: "price", sql_type: SqlType::BigInt, generate: price },
    Column { name: "channel", sql_type: SqlType::Text, generate: channel },
    Column { name: "url", sql_type: SqlType::Text, generate: url },
    Column { name: "date_time", sql_type: SqlType::Timestamp, generate: Model::date_time },
    Column { name: "extra", sql_type: SqlType::Text, generate: extra },
];

/// Half of all bids are for the first auction of the last hundred.
fn auction(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("bid.auction");
    bigints(rows, |group, _, event| {
        let word = key.word(event);
        let last = last_auction(group);
        let first = last.saturating_sub(AUCTIONS_IN_FLIGHT);
        let hot = last / HOT_EVERY * HOT_EVERY;
        let cold = first + below(word, last - first + 1);
        // A branch would be mispredicted every other time.
        let all_if_hot = (word & 1).wrapping_neg();
        FIRST_ID + (hot & all_if_hot | cold & !all_if_hot)
    })
}

/// Three of four bids are by the second person of the last hundred, so that hot bidders are not hot sellers.
fn bidder(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("bid.bidder");
    bigints(rows, |group, _, event| {
        let word = key.word(event);
        let last = last_person(group);
        let hot = (last / HOT_EVERY * HOT_EVERY + 1).min(last);
        if word & 3 != 0 { FIRST_ID + hot } else { active_person(last, word) }
    })
}

fn price(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("bid.price");
    bigints(rows, |_, _, event| model.prices.price(key.word(event)))
}

fn channel(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("bid.channel");
    texts(rows, 0, |builder, event| builder.push_made(model.channels.name(model.channels.pick(key.word(event)))))
}

fn url(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("bid.channel");
    texts(rows, 67, |builder, event| builder.push_made(model.channels.url(model.channels.pick(key.word(event)))))
}

fn extra(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("bid.extra");
    texts(rows, MEAN_SIZE - FIXED_SIZE, |builder, event| {
        let key = key.at(event);
        // The letters take the words from 0 on.
        builder.push_letters(key, extra_len(key.word(u64::MAX), FIXED_SIZE, MEAN_SIZE));
    })
}
