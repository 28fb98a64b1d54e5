//! `pg_proc`: the functions that SQL can call here, with the signatures that they have in Postgres 15.

use std::sync::LazyLock;

use millstream_types::{Error, Result, SqlState};

use super::CatalogView;
use super::cell::{Cell, int, text};
use super::objects::{OWNER_OID, PG_CATALOG_OID, quote_ident, split_name};
use super::tables::{Fill, Rows};
use super::types;

pub(super) const FILLS: &[(&str, Fill)] = &[("pg_catalog.pg_proc", pg_proc)];

/// Language `internal`.
const INTERNAL_OID: i64 = 12;

/// A row of Postgres' `pg_proc`.
pub(super) struct Proc {
    oid: i64,
    pub(super) name: &'static str,
    /// `f` for a function, `a` for an aggregate, `w` for a window function.
    kind: &'static str,
    volatility: &'static str,
    is_strict: bool,
    returns_set: bool,
    variadic: i64,
    result: i64,
    args: Vec<i64>,
    /// `s`, `r` or `u`: safe, restricted, unsafe to run in parallel.
    parallel: &'static str,
    source: &'static str,
}

/// A line is a function: the fields of [`Proc`] apart by blanks, the types of its arguments by commas, or `-`.
const PROCS: &str = include_str!("functions.txt");

static ROWS: LazyLock<Vec<Proc>> = LazyLock::new(|| PROCS.lines().filter_map(Proc::read).collect());

impl Proc {
    fn read(line: &'static str) -> Option<Proc> {
        let fields: Vec<&'static str> = line.split(' ').collect();
        let number = |i: usize| fields.get(i)?.parse::<i64>().ok();
        Some(Proc {
            oid: number(0)?,
            name: fields[1],
            kind: fields[2],
            volatility: fields[3],
            is_strict: fields[4] == "t",
            returns_set: fields[5] == "t",
            variadic: number(6)?,
            result: number(7)?,
            args: fields.get(8)?.split(',').filter_map(|oid| oid.parse().ok()).collect(),
            parallel: fields[9],
            source: fields[10],
        })
    }

    /// The types of its arguments, as a declaration has them.
    pub(super) fn arguments(&self) -> String {
        let shown = |(i, oid): (usize, &i64)| {
            let is_variadic = self.variadic != 0 && i + 1 == self.args.len();
            format!("{}{}", if is_variadic { "VARIADIC " } else { "" }, types::format_type(*oid, None))
        };
        self.args.iter().enumerate().map(shown).collect::<Vec<_>>().join(", ")
    }

    /// The type of its result, as a declaration has it.
    pub(super) fn result(&self) -> String {
        format!("{}{}", if self.returns_set { "SETOF " } else { "" }, types::format_type(self.result, None))
    }

    /// The statement that would make it.
    ///
    /// # Errors
    /// 42809 for an aggregate.
    pub(super) fn definition(&self) -> Result<String> {
        if self.kind == "a" {
            let message = format!("\"{}\" is an aggregate function", self.name);
            return Err(Error::user(SqlState::WRONG_OBJECT_TYPE, message));
        }
        let volatility = match self.volatility {
            "i" => " IMMUTABLE",
            "s" => " STABLE",
            _ => "",
        };
        let parallel = match self.parallel {
            "s" => " PARALLEL SAFE",
            "r" => " PARALLEL RESTRICTED",
            _ => "",
        };
        let window = if self.kind == "w" { " WINDOW" } else { "" };
        let strict = if self.is_strict { " STRICT" } else { "" };
        let (arguments, result) = (self.arguments(), self.result());
        let properties = format!("{window}{volatility}{parallel}{strict}");
        let properties = if properties.is_empty() { properties } else { properties + "\n" };
        Ok(format!(
            "CREATE OR REPLACE FUNCTION pg_catalog.{}({arguments})\n RETURNS {result}\n LANGUAGE internal\n\
             {properties}AS $function${}$function$\n",
            quote_ident(self.name),
            self.source,
        ))
    }
}

/// The function of an identifier.
pub(super) fn by_oid(oid: i64) -> Option<&'static Proc> {
    ROWS.binary_search_by(|p| p.oid.cmp(&oid)).ok().map(|i| &ROWS[i])
}

/// The identifier of the function that a name means: `lower`, or with the types of its arguments `lower(text)`.
///
/// # Errors
/// 42883 if there is none, 42725 if several have the name.
pub(super) fn oid_of(written: &str) -> Result<i64> {
    let (name, args) = match written.trim().strip_suffix(')').and_then(|w| w.split_once('(')) {
        Some((name, args)) => (name, Some(args.split(',').map(str::trim).filter(|a| !a.is_empty()))),
        None => (written, None),
    };
    let (_, name) = split_name(name.trim());
    let args: Option<Vec<Option<i64>>> = args.map(|args| args.map(|a| types::by_name(a).map(|t| t.oid)).collect());
    let has_args = |p: &&Proc| match &args {
        Some(args) => p.args.len() == args.len() && p.args.iter().zip(args).all(|(have, want)| Some(*have) == *want),
        None => true,
    };
    let mut found = ROWS.iter().filter(|p| p.name == name).filter(has_args);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one.oid),
        (None, _) => Err(Error::user(SqlState::UNDEFINED_FUNCTION, format!("function \"{written}\" does not exist"))),
        _ => Err(Error::user(SqlState("42725"), format!("more than one function named \"{written}\""))),
    }
}

fn pg_proc(_: &CatalogView, rows: &mut Rows<'_>) {
    for p in ROWS.iter() {
        rows.push([
            ("oid", int(p.oid)),
            ("proname", text(p.name)),
            ("pronamespace", int(PG_CATALOG_OID)),
            ("proowner", int(OWNER_OID)),
            ("prolang", int(INTERNAL_OID)),
            ("procost", Cell::Float(1.0)),
            ("prorows", Cell::Float(if p.returns_set { 1000.0 } else { 0.0 })),
            ("provariadic", int(p.variadic)),
            ("prokind", text(p.kind)),
            ("proisstrict", Cell::Bool(p.is_strict)),
            ("proretset", Cell::Bool(p.returns_set)),
            ("provolatile", text(p.volatility)),
            ("proparallel", text(p.parallel)),
            ("pronargs", int(p.args.len() as i64)),
            ("prorettype", int(p.result)),
            ("proargtypes", Cell::Ints(p.args.clone())),
            ("prosrc", text(p.source)),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_in_the_order_of_their_oids() {
        assert!(ROWS.is_sorted_by(|a, b| a.oid < b.oid), "by_oid() searches them");
        assert_eq!(ROWS.len(), PROCS.lines().count(), "every line is read");
    }

    #[test]
    fn a_name_means_one_function() {
        let lower = oid_of("pg_catalog.lower(text)").expect("there is one");
        assert_eq!(by_oid(lower).expect("it has a row").arguments(), "text");
        assert_eq!(oid_of("abs").expect_err("several").state(), SqlState("42725"));
        assert_eq!(oid_of("nosuch").expect_err("none").state(), SqlState::UNDEFINED_FUNCTION);
    }
}
