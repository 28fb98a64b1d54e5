//! `pg_type` and the names of types.

use std::sync::LazyLock;

use super::CatalogView;
use super::cell::{Cell, int, text};
use super::objects::{OWNER_OID, PG_CATALOG_OID};
use super::tables::{Fill, Rows};

pub(super) const FILLS: &[(&str, Fill)] = &[("pg_catalog.pg_type", pg_type)];

/// A row of Postgres' `pg_type`.
pub(super) struct PgTypeRow {
    pub(super) oid: i64,
    pub(super) name: &'static str,
    length: i64,
    by_value: bool,
    kind: &'static str,
    category: &'static str,
    preferred: bool,
    element: i64,
    array: i64,
    alignment: &'static str,
    storage: &'static str,
    collation: i64,
    functions: [&'static str; 4],
    /// As `format_type` prints it.
    pub(super) shown: String,
}

/// A line is a type: the columns of [`PgTypeRow`] apart by blanks, a blank within the last as `~`.
const TYPES: &str = include_str!("types.txt");

static ROWS: LazyLock<Vec<PgTypeRow>> = LazyLock::new(|| TYPES.lines().filter_map(PgTypeRow::read).collect());

impl PgTypeRow {
    fn read(line: &'static str) -> Option<PgTypeRow> {
        let fields: Vec<&'static str> = line.split(' ').collect();
        let number = |i: usize| fields.get(i)?.parse::<i64>().ok();
        Some(PgTypeRow {
            oid: number(0)?,
            name: fields[1],
            length: number(2)?,
            by_value: fields[3] == "t",
            kind: fields[4],
            category: fields[5],
            preferred: fields[6] == "t",
            element: number(7)?,
            array: number(8)?,
            alignment: fields[9],
            storage: fields[10],
            collation: number(11)?,
            functions: [fields[12], fields[13], fields[14], fields[15]],
            shown: fields[16].replace('~', " "),
        })
    }
}

/// The type of an identifier.
pub(super) fn by_oid(oid: i64) -> Option<&'static PgTypeRow> {
    ROWS.binary_search_by(|t| t.oid.cmp(&oid)).ok().map(|i| &ROWS[i])
}

/// The type of a name, its own or the one that SQL has for it; `[]` and `(n)` are understood.
pub(super) fn by_name(name: &str) -> Option<&'static PgTypeRow> {
    let name = name.trim().trim_start_matches("pg_catalog.");
    if let Some(element) = name.strip_suffix("[]") {
        return by_oid(by_name(element)?.array);
    }
    let plain = name.split_once('(').map_or(name, |(base, _)| base).trim();
    let synonym = match plain {
        "int" => "integer",
        "decimal" => "numeric",
        "float" => "double precision",
        "string" => "text",
        "\"char\"" => "char",
        "char" => "character",
        other => other,
    };
    ROWS.iter().find(|t| t.shown == synonym || t.name == synonym)
}

pub(super) fn is_by_value(oid: u32) -> bool {
    by_oid(i64::from(oid)).is_some_and(|t| t.by_value)
}

pub(super) fn alignment(oid: u32) -> &'static str {
    by_oid(i64::from(oid)).map_or("i", |t| t.alignment)
}

/// `format_type(oid, modifier)`
pub(super) fn format_type(oid: i64, modifier: Option<i64>) -> String {
    if oid == 0 {
        return "-".to_owned();
    }
    let modifier = modifier.and_then(|m| i32::try_from(m).ok()).filter(|m| *m >= 0);
    if let Some(modifier) = modifier
        && let Some(sql_type) =
            u32::try_from(oid).ok().and_then(|o| millstream_types::pg::PgType::sql_type(o, modifier))
    {
        return sql_type.to_string();
    }
    by_oid(oid).map_or_else(|| "???".to_owned(), |t| t.shown.clone())
}

fn pg_type(_: &CatalogView, rows: &mut Rows<'_>) {
    for t in ROWS.iter() {
        let [input, output, receive, send] = t.functions;
        let subscript = match (t.element, t.length) {
            (0, _) => "-",
            (_, -1) => "array_subscript_handler",
            _ => "raw_array_subscript_handler",
        };
        rows.push([
            ("oid", int(t.oid)),
            ("typname", text(t.name)),
            ("typnamespace", int(PG_CATALOG_OID)),
            ("typowner", int(OWNER_OID)),
            ("typlen", int(t.length)),
            ("typbyval", Cell::Bool(t.by_value)),
            ("typtype", text(t.kind)),
            ("typcategory", text(t.category)),
            ("typispreferred", Cell::Bool(t.preferred)),
            ("typisdefined", Cell::Bool(true)),
            ("typdelim", text(",")),
            ("typsubscript", text(subscript)),
            ("typelem", int(t.element)),
            ("typarray", int(t.array)),
            ("typinput", text(input)),
            ("typoutput", text(output)),
            ("typreceive", text(receive)),
            ("typsend", text(send)),
            ("typmodin", text("-")),
            ("typmodout", text("-")),
            ("typanalyze", text("-")),
            ("typalign", text(t.alignment)),
            ("typstorage", text(t.storage)),
            ("typtypmod", int(-1)),
            ("typcollation", int(t.collation)),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_found_by_all_their_names() {
        let oid = |name: &str| by_name(name).map(|t| t.oid);
        assert_eq!((oid("int4"), oid("integer"), oid("int")), (Some(23), Some(23), Some(23)));
        assert_eq!((oid("text[]"), oid("_text"), oid("character varying(10)")), (Some(1009), Some(1009), Some(1043)));
        assert_eq!((oid("char"), oid("\"char\""), oid("nothing")), (Some(1042), Some(18), None));
        assert_eq!(format_type(1043, Some(14)), "character varying(10)");
        assert_eq!(format_type(1231, Some(655_366)), "numeric(10,2)[]");
        assert_eq!(format_type(23, Some(-1)), "integer");
        assert!(ROWS.windows(2).all(|pair| pair[0].oid < pair[1].oid));
    }
}
