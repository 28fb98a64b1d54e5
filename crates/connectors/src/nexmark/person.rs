//! The table `person`.

use arrow::array::ArrayRef;
use millstream_types::SqlType;

use super::Column;
use super::events::{FIRST_ID, Rows};
use super::model::{Model, bigints, extra_len, texts};
use crate::random::{Key, below, letters};

const FIRST_NAMES: &[&str] =
    &["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: &[&str] = &["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: &[&str] =
    &["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const STATES: &[&str] = &["AZ", "CA", "ID", "OR", "WA", "WY"];

const MEAN_SIZE: usize = 200;
/// What counts as the size of a person beside name, city and padding: id, e-mail address, credit card, state.
const FIXED_SIZE: usize = 8 + EMAIL_LEN + CREDIT_CARD_LEN + 2;
const EMAIL_LEN: usize = 17;
const CREDIT_CARD_LEN: usize = 19;

pub(super) const COLUMNS: &[Column] = &[
    Column { name: "id", sql_type: SqlType::BigInt, generate: id },
    Column { name: "name", sql_type: SqlType::Text, generate: name },
    Column { name: "email_address", sql_type: SqlType::Text, generate: email_address },
    Column { name: "credit_card", sql_type: SqlType::Text, generate: credit_card },
    Column { name: "city", sql_type: SqlType::Text, generate: city },
    Column { name: "state", sql_type: SqlType::Text, generate: state },
    Column { name: "date_time", sql_type: SqlType::Timestamp, generate: Model::date_time },
    Column { name: "extra", sql_type: SqlType::Text, generate: extra },
];

fn id(_: &Model, rows: &Rows) -> ArrayRef {
    bigints(rows, |group, _, _| FIRST_ID + group)
}

/// One of a few words, by a word of the key.
fn pick(key: Key, event: u64, from: &'static [&'static str]) -> &'static str {
    from[below(key.word(event), from.len() as u64) as usize]
}

fn name(model: &Model, rows: &Rows) -> ArrayRef {
    let (first, last) = (model.key("person.first_name"), model.key("person.last_name"));
    let mut name = Vec::new();
    texts(rows, 14, |builder, event| {
        name.clear();
        name.extend_from_slice(pick(first, event, FIRST_NAMES).as_bytes());
        name.push(b' ');
        name.extend_from_slice(pick(last, event, LAST_NAMES).as_bytes());
        builder.push(&name);
    })
}

fn email_address(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("person.email_address");
    let mut address = *b"user_id@place.com";
    texts(rows, EMAIL_LEN, |builder, event| {
        let key = key.at(event);
        address[..7].copy_from_slice(&letters(key.word(0))[..7]);
        address[8..13].copy_from_slice(&letters(key.word(1))[..5]);
        builder.push(&address);
    })
}

fn credit_card(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("person.credit_card");
    let mut number = *b"0000 0000 0000 0000";
    texts(rows, CREDIT_CARD_LEN, |builder, event| {
        let mut digits = below(key.word(event), 10u64.pow(16));
        for digit in number.iter_mut().rev().filter(|digit| **digit != b' ') {
            *digit = b'0' + (digits % 10) as u8;
            digits /= 10;
        }
        builder.push(&number);
    })
}

fn city(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("person.city");
    texts(rows, 13, |builder, event| builder.push(pick(key, event, CITIES).as_bytes()))
}

fn state(model: &Model, rows: &Rows) -> ArrayRef {
    let key = model.key("person.state");
    texts(rows, 0, |builder, event| builder.push(pick(key, event, STATES).as_bytes()))
}

fn extra(model: &Model, rows: &Rows) -> ArrayRef {
    let (first, last) = (model.key("person.first_name"), model.key("person.last_name"));
    let (city, key) = (model.key("person.city"), model.key("person.extra"));
    texts(rows, MEAN_SIZE - FIXED_SIZE, |builder, event| {
        let name_len = pick(first, event, FIRST_NAMES).len() + 1 + pick(last, event, LAST_NAMES).len();
        let current_size = FIXED_SIZE + name_len + pick(city, event, CITIES).len();
        let key = key.at(event);
        // The letters take the words from 0 on.
        builder.push_letters(key, extra_len(key.word(u64::MAX), current_size, MEAN_SIZE));
    })
}
