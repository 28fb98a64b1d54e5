//! Functions over values that clients put into their catalog queries.

use millstream_types::Result;

use crate::pg_catalog::cell::CellType::{Text, Texts};
use crate::pg_catalog::cell::{Cell, text};
use crate::pg_catalog::function::Run::Pure;
use crate::pg_catalog::function::Spec;
use crate::pg_catalog::objects::quote_ident;

pub(super) const SPECS: &[Spec] = &[
    Spec::total("array_prefixed", Texts, Pure(array_prefixed)),
    Spec::total("options_as_sql", Texts, Pure(options_as_sql)),
    Spec::total("json_build_object", Text, Pure(json_build_object)),
    Spec::total("getdatabaseencoding", Text, Pure(encoding)),
];

fn encoding(_: &[Cell]) -> Result<Cell> {
    Ok(text("UTF8"))
}

fn elements(array: Option<&Cell>) -> &[String] {
    if let Some(Cell::Texts(elements)) = array { elements } else { &[] }
}

/// Each element behind a text; what `ARRAY(SELECT 'text' || x FROM unnest(array) x)` means.
fn array_prefixed(args: &[Cell]) -> Result<Cell> {
    let prefix = args.first().and_then(Cell::as_text).unwrap_or_default();
    Ok(Cell::Texts(elements(args.get(1)).iter().map(|e| format!("{prefix}{e}")).collect()))
}

/// Options `name=value` as `name 'value'`.
fn options_as_sql(args: &[Cell]) -> Result<Cell> {
    let option = |option: &String| {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        format!("{} {}", quote_ident(name), super::objects::literal(value))
    };
    Ok(Cell::Texts(elements(args.first()).iter().map(option).collect()))
}

/// Names and values by turns.
fn json_build_object(args: &[Cell]) -> Result<Cell> {
    let member = |pair: &[Cell]| {
        let name = pair[0].as_text().unwrap_or_default();
        format!("{} : {}", json_text(name), pair.get(1).map_or_else(|| "null".to_owned(), json_value))
    };
    let members: Vec<String> = args.chunks(2).map(member).collect();
    Ok(text(format!("{{{}}}", members.join(", "))))
}

fn json_value(cell: &Cell) -> String {
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::Bool(value) => value.to_string(),
        Cell::Int(value) | Cell::Time(value) => value.to_string(),
        Cell::Float(value) => value.to_string(),
        Cell::Text(value) => json_text(value),
        Cell::Ints(values) => format!("{values:?}"),
        Cell::Texts(values) => format!("[{}]", values.iter().map(|v| json_text(v)).collect::<Vec<_>>().join(", ")),
    }
}

fn json_text(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
