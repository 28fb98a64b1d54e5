//! `'now'`, `'today'`, `'tomorrow'`, `'yesterday'` as dates and times.
//!
//! A plan may be kept, so such a constant stays a call over the present time, which each execution of the statement puts
//! in; what the session's settings say about reading it is part of the call.

use arrow::array::{ArrayRef, AsArray, StringViewArray};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, cast};
use millstream_types::pg::{DateOrder, FormatSettings, TimeZone, format_column, parse_column};
use millstream_types::{Error, Result, SqlType};

use super::builtin;
use super::builtin::Spec;
use super::overloads::datafusion_function;
use crate::typing::types::{Class, TIME, TIMESTAMP, timestamptz};

/// The functions of this file, over a text, the name of a time zone, an order of dates, and the present.
pub(super) static SPECS: &[Spec] = &[
    Spec { name: DATE, returns: |_| DataType::Date32, run: |a, n| read(a, n, &SqlType::Date), strict: true },
    Spec { name: CLOCK, returns: |_| TIME, run: |a, n| read(a, n, &SqlType::Time), strict: true },
    Spec { name: LOCAL, returns: |_| TIMESTAMP, run: |a, n| read(a, n, &SqlType::Timestamp), strict: true },
    Spec { name: INSTANT, returns: |_| timestamptz(), run: |a, n| read(a, n, &SqlType::Timestamptz), strict: true },
];

const DATE: &str = "date_of_clock";
const CLOCK: &str = "time_of_clock";
const LOCAL: &str = "timestamp_of_clock";
const INSTANT: &str = "timestamptz_of_clock";

/// The call that reads a constant text as a date or a time when the statement runs; `None` if the present has nothing to
/// do with it.
pub(crate) fn of_clock(text: &str, to: &DataType) -> datafusion::common::Result<Option<Expr>> {
    let name = match Class::of(to) {
        Class::Date => DATE,
        Class::Time => CLOCK,
        Class::Timestamp => LOCAL,
        Class::Timestamptz => INSTANT,
        _ => return Ok(None),
    };
    let settings = crate::reading::settings();
    if at(text, &type_of(name), &FormatSettings { now_us: Some(0), ..settings.clone() }).is_err() {
        return Ok(None);
    }
    let constant = |text: String| Expr::Literal(ScalarValue::Utf8View(Some(text)), None);
    let order = match settings.date_order {
        DateOrder::Mdy => "MDY",
        DateOrder::Dmy => "DMY",
        DateOrder::Ymd => "YMD",
    };
    let now = cast(datafusion_function("now")?.call(vec![]), timestamptz());
    let [text, zone] = [text.to_owned(), settings.time_zone.to_string()].map(constant);
    Ok(Some(builtin(name).call(vec![text, zone, constant(order.to_owned()), now])))
}

/// The constant behind a call that [`of_clock`] made.
pub(crate) fn text_of(function: &ScalarFunction) -> Option<&str> {
    if ![DATE, CLOCK, LOCAL, INSTANT].contains(&function.name()) {
        return None;
    }
    let Some(Expr::Literal(value, _)) = function.args.first() else { return None };
    value.try_as_str().flatten()
}

/// What a constant of the clock is at the moment that the settings know, as a text.
///
/// # Errors
/// As reading the text.
pub(crate) fn settled(text: &str, sql_type: &SqlType, settings: &FormatSettings) -> Result<String> {
    let printed = format_column(&at(text, sql_type, settings)?, sql_type, settings)?;
    Ok(printed.as_string_view().value(0).to_owned())
}

fn type_of(name: &str) -> SqlType {
    match name {
        DATE => SqlType::Date,
        CLOCK => SqlType::Time,
        LOCAL => SqlType::Timestamp,
        _ => SqlType::Timestamptz,
    }
}

fn at(text: &str, sql_type: &SqlType, settings: &FormatSettings) -> Result<ArrayRef> {
    parse_column(&StringViewArray::from(vec![text]), sql_type, settings)
}

/// All arguments are constants, the present too.
fn read(args: &[ArrayRef], n_rows: usize, sql_type: &SqlType) -> Result<ArrayRef> {
    if n_rows == 0 {
        return Ok(arrow::array::new_empty_array(&sql_type.arrow_type()));
    }
    let [text, zone, order] = [0, 1, 2].map(|i| args[i].as_string_view().value(0));
    let date_order = match order {
        "DMY" => DateOrder::Dmy,
        "YMD" => DateOrder::Ymd,
        _ => DateOrder::Mdy,
    };
    let now_us = Some(args[3].as_primitive::<TimestampMicrosecondType>().value(0));
    let value = at(text, sql_type, &FormatSettings { time_zone: TimeZone::parse(zone)?, date_order, now_us })?;
    let value = ScalarValue::try_from_array(&value, 0).and_then(|v| v.to_array_of_size(n_rows));
    value.map_err(|e| Error::internal(e.to_string()))
}
