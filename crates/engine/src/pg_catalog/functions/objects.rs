//! Functions about objects of the catalog: their names, definitions and comments.

use millstream_planner::catalog::Commented;
use millstream_types::{Error, Result, SqlState};

use crate::pg_catalog::CatalogView;
use crate::pg_catalog::access::{role_name, role_names};
use crate::pg_catalog::cell::CellType::{BigInt, Integer, Oid, Text};
use crate::pg_catalog::cell::{Cell, int, text};
use crate::pg_catalog::constraints::{comment, index_definition, indexed, key_definition};
use crate::pg_catalog::function::Run::{Catalog, Pure, Types};
use crate::pg_catalog::function::{Returns, Spec};
use crate::pg_catalog::objects::{
    Class, DATABASE_OID, class_named, class_of, constraint_of, quote_ident, schema_oid, shown_name, split_name,
};
use crate::pg_catalog::procs::{self, Proc};
use crate::pg_catalog::relations::{columns_of, view_definition};
use crate::pg_catalog::types;

pub(super) const SPECS: &[Spec] = &[
    Spec::strict("to_regclass", BigInt, Catalog(to_regclass)),
    Spec { name: "regclass_name", returns: Returns::OtherForm, run: Catalog(regclass), strict: true },
    Spec::strict("regclass_oid", Oid, Catalog(regclass_oid)),
    Spec::strict("to_regtype", BigInt, Pure(to_regtype)),
    Spec { name: "regtype_name", returns: Returns::OtherForm, run: Pure(regtype), strict: true },
    Spec { name: "regnamespace_name", returns: Returns::OtherForm, run: Catalog(regnamespace), strict: true },
    Spec { name: "regrole_name", returns: Returns::OtherForm, run: Catalog(regrole), strict: true },
    Spec::strict("regproc_name", Text, Pure(regproc)),
    Spec::strict("regproc_oid", Oid, Pure(regproc_oid)),
    Spec::total("format_type", Text, Pure(format_type)),
    Spec::total("pg_typeof", Text, Types(pg_typeof)),
    Spec::strict("pg_get_userbyid", Text, Catalog(pg_get_userbyid)),
    Spec::strict("pg_get_viewdef", Text, Catalog(pg_get_viewdef)),
    Spec::strict("pg_get_indexdef", Text, Catalog(pg_get_indexdef)),
    Spec::strict("pg_get_constraintdef", Text, Catalog(pg_get_constraintdef)),
    Spec::strict("pg_get_expr", Text, Pure(pg_get_expr)),
    Spec::total("pg_get_ruledef", Text, Pure(nothing)),
    Spec::total("pg_get_triggerdef", Text, Pure(nothing)),
    Spec::total("pg_get_partkeydef", Text, Pure(nothing)),
    Spec::total("pg_get_partition_constraintdef", Text, Pure(nothing)),
    Spec::total("pg_get_statisticsobjdef", Text, Pure(nothing)),
    Spec::total("pg_get_statisticsobjdef_columns", Text, Pure(nothing)),
    Spec::strict("pg_get_functiondef", Text, Pure(function_definition)),
    Spec::total("pg_get_function_sqlbody", Text, Pure(nothing)),
    Spec::total("pg_get_serial_sequence", Text, Pure(nothing)),
    Spec::strict("pg_get_function_result", Text, Pure(function_result)),
    Spec::strict("pg_get_function_arguments", Text, Pure(function_arguments)),
    Spec::strict("pg_get_function_identity_arguments", Text, Pure(function_arguments)),
    Spec::strict("obj_description", Text, Catalog(obj_description)),
    Spec::strict("col_description", Text, Catalog(col_description)),
    Spec::strict("shobj_description", Text, Catalog(shobj_description)),
    Spec::strict("quote_ident", Text, Pure(quote_ident_function)),
    Spec::strict("quote_literal", Text, Pure(quote_literal)),
    Spec::total("quote_nullable", Text, Pure(quote_nullable)),
    Spec::strict("pg_encoding_to_char", Text, Pure(pg_encoding_to_char)),
    Spec::strict("pg_char_to_encoding", Integer, Pure(pg_char_to_encoding)),
];

fn arg(args: &[Cell], index: usize) -> &Cell {
    args.get(index).unwrap_or(&Cell::Null)
}

/// The class that an argument means: by number, or by a name as in SQL.
pub(super) fn class_arg<'a>(view: &'a CatalogView, arg: &Cell) -> Option<Class<'a>> {
    match arg {
        Cell::Int(oid) => class_of(&view.catalog, *oid),
        Cell::Text(name) if name.bytes().all(|b| b.is_ascii_digit()) => {
            class_of(&view.catalog, name.parse::<i64>().ok()?)
        }
        Cell::Text(name) => {
            let (schema, name) = split_name(name);
            class_named(&view.catalog, schema.as_deref(), &name)
        }
        _ => None,
    }
}

/// As [`class_arg`]; a name that means nothing is an error, a number is not.
pub(super) fn named_class<'a>(view: &'a CatalogView, arg: &Cell) -> Result<Option<Class<'a>>> {
    match (class_arg(view, arg), arg) {
        (None, Cell::Text(name)) => {
            Err(Error::user(SqlState::UNDEFINED_TABLE, format!("relation \"{name}\" does not exist")))
        }
        (class, _) => Ok(class),
    }
}

fn to_regclass(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    Ok(class_arg(view, arg(args, 0)).map_or(Cell::Null, |class| int(class.oid())))
}

fn regclass(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    match arg(args, 0) {
        Cell::Text(name) if name.bytes().all(|b| b.is_ascii_digit()) => Ok(int(name.parse::<i64>().unwrap_or(0))),
        name @ Cell::Text(_) => Ok(named_class(view, name)?.map_or(Cell::Null, |class| int(class.oid()))),
        Cell::Int(0) => Ok(text("-")),
        Cell::Int(oid) => {
            let class = class_of(&view.catalog, *oid);
            Ok(text(class.map_or_else(|| oid.to_string(), |class| shown_name(&view.catalog, class))))
        }
        _ => Ok(Cell::Null),
    }
}

fn regclass_oid(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    match arg(args, 0) {
        oid @ Cell::Int(_) => Ok(oid.clone()),
        _ => regclass(view, args),
    }
}

fn to_regtype(args: &[Cell]) -> Result<Cell> {
    Ok(arg(args, 0).as_text().and_then(types::by_name).map_or(Cell::Null, |t| int(t.oid)))
}

fn regtype(args: &[Cell]) -> Result<Cell> {
    match arg(args, 0) {
        Cell::Text(name) if name.bytes().all(|b| b.is_ascii_digit()) => Ok(int(name.parse::<i64>().unwrap_or(0))),
        Cell::Text(name) => match types::by_name(name) {
            Some(found) => Ok(int(found.oid)),
            None => Err(Error::user(SqlState::UNDEFINED_OBJECT, format!("type \"{name}\" does not exist"))),
        },
        Cell::Int(oid) => Ok(text(types::format_type(*oid, None))),
        _ => Ok(Cell::Null),
    }
}

fn regnamespace(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let schemas = || view.catalog.schemas();
    match arg(args, 0) {
        Cell::Text(name) => {
            let (_, name) = split_name(name);
            match schemas().find(|s| *s == name) {
                Some(schema) => Ok(int(schema_oid(&view.catalog, schema))),
                None => Err(Error::user(SqlState::INVALID_SCHEMA_NAME, format!("schema \"{name}\" does not exist"))),
            }
        }
        Cell::Int(oid) => {
            let schema = schemas().find(|s| schema_oid(&view.catalog, s) == *oid);
            Ok(text(schema.map_or_else(|| oid.to_string(), quote_ident)))
        }
        _ => Ok(Cell::Null),
    }
}

fn regrole(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    match arg(args, 0) {
        Cell::Text(name) => {
            let (_, name) = split_name(name);
            match role_names(view).into_iter().find(|(_, role)| *role == name) {
                Some((oid, _)) => Ok(int(oid)),
                None => Err(Error::user(SqlState::UNDEFINED_OBJECT, format!("role \"{name}\" does not exist"))),
            }
        }
        Cell::Int(oid) => Ok(text(role_name(view, *oid).map_or_else(|| oid.to_string(), quote_ident))),
        _ => Ok(Cell::Null),
    }
}

/// Functions are known by their names.
fn regproc(args: &[Cell]) -> Result<Cell> {
    match arg(args, 0) {
        Cell::Text(name) => Ok(text(split_name(name).1)),
        Cell::Int(oid) => Ok(text(procs::by_oid(*oid).map_or("-", |p| p.name))),
        _ => Ok(Cell::Null),
    }
}

/// The identifier of a function, which [`regproc`] knows by its name.
fn regproc_oid(args: &[Cell]) -> Result<Cell> {
    match arg(args, 0) {
        Cell::Text(name) if name.bytes().all(|b| b.is_ascii_digit()) => Ok(int(name.parse::<i64>().unwrap_or(0))),
        Cell::Text(name) => procs::oid_of(name).map(int),
        oid => Ok(oid.clone()),
    }
}

fn proc_of(args: &[Cell]) -> Option<&'static Proc> {
    arg(args, 0).as_int().and_then(procs::by_oid)
}

fn function_result(args: &[Cell]) -> Result<Cell> {
    Ok(proc_of(args).map(Proc::result).into())
}

fn function_arguments(args: &[Cell]) -> Result<Cell> {
    Ok(proc_of(args).map(Proc::arguments).into())
}

fn function_definition(args: &[Cell]) -> Result<Cell> {
    Ok(proc_of(args).map(Proc::definition).transpose()?.into())
}

fn format_type(args: &[Cell]) -> Result<Cell> {
    Ok(arg(args, 0).as_int().map(|oid| types::format_type(oid, arg(args, 1).as_int())).into())
}

fn pg_typeof(arg_types: &[arrow::datatypes::DataType]) -> Result<Cell> {
    let sql_type = arg_types.first().and_then(millstream_types::SqlType::of_arrow);
    let oid = sql_type.map(|t| i64::from(millstream_types::pg::PgType::of(&t).oid));
    Ok(text(oid.map_or_else(|| "unknown".to_owned(), |oid| types::format_type(oid, None))))
}

fn pg_get_userbyid(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let oid = arg(args, 0).as_int().unwrap_or(0);
    Ok(text(role_name(view, oid).map_or_else(|| format!("unknown (OID={oid})"), ToOwned::to_owned)))
}

fn pg_get_viewdef(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    Ok(named_class(view, arg(args, 0))?.map_or(Cell::Null, |class| view_definition(class.relation())))
}

/// With a column's number, that column alone.
fn pg_get_indexdef(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let Some(class) = class_arg(view, arg(args, 0)).filter(|class| indexed(view, *class).is_some()) else {
        return Ok(Cell::Null);
    };
    match arg(args, 1).as_int() {
        Some(number) if number > 0 => {
            let column = columns_of(class).nth(usize::try_from(number - 1).unwrap_or(usize::MAX));
            Ok(column.map(|c| quote_ident(&c.name)).into())
        }
        _ => Ok(index_definition(view, class).into()),
    }
}

fn pg_get_constraintdef(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let oid = arg(args, 0).as_int().unwrap_or(0);
    Ok(constraint_of(&view.catalog, oid).map(|relation| key_definition(relation)).into())
}

/// Expressions are kept as their texts.
fn pg_get_expr(args: &[Cell]) -> Result<Cell> {
    Ok(arg(args, 0).clone())
}

fn nothing(_: &[Cell]) -> Result<Cell> {
    Ok(Cell::Null)
}

fn obj_description(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let oid = arg(args, 0).as_int().unwrap_or(0);
    match arg(args, 1).as_text() {
        Some("pg_namespace") => {
            let schema = view.catalog.schemas().find(|s| schema_oid(&view.catalog, s) == oid);
            Ok(schema.map_or(Cell::Null, |s| comment(view, &Commented::Schema(s.to_owned()))))
        }
        Some("pg_class") | None => Ok(match class_of(&view.catalog, oid) {
            Some(Class::Relation(relation)) => comment(view, &Commented::Relation(relation.id, 0)),
            _ => Cell::Null,
        }),
        Some(_) => Ok(Cell::Null),
    }
}

fn col_description(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let number = arg(args, 1).as_int().and_then(|n| i16::try_from(n).ok()).filter(|n| *n > 0);
    match (class_arg(view, arg(args, 0)), number) {
        (Some(Class::Relation(relation)), Some(number)) => Ok(comment(view, &Commented::Relation(relation.id, number))),
        _ => Ok(Cell::Null),
    }
}

fn shobj_description(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    match (arg(args, 0).as_int(), arg(args, 1).as_text()) {
        (Some(DATABASE_OID), Some("pg_database")) => Ok(comment(view, &Commented::Database)),
        _ => Ok(Cell::Null),
    }
}

fn quote_ident_function(args: &[Cell]) -> Result<Cell> {
    Ok(arg(args, 0).as_text().map(quote_ident).into())
}

/// A text as a constant of SQL.
pub(super) fn literal(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if value.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

fn text_of(cell: &Cell) -> Option<String> {
    match cell {
        Cell::Text(value) => Some(value.clone()),
        Cell::Int(value) => Some(value.to_string()),
        Cell::Bool(value) => Some(value.to_string()),
        Cell::Float(value) => Some(value.to_string()),
        _ => None,
    }
}

fn quote_literal(args: &[Cell]) -> Result<Cell> {
    Ok(text_of(arg(args, 0)).map(|value| literal(&value)).into())
}

fn quote_nullable(args: &[Cell]) -> Result<Cell> {
    Ok(text(text_of(arg(args, 0)).map_or_else(|| "NULL".to_owned(), |value| literal(&value))))
}

fn pg_encoding_to_char(args: &[Cell]) -> Result<Cell> {
    Ok(text(match arg(args, 0).as_int() {
        Some(0) => "SQL_ASCII",
        Some(6) => "UTF8",
        _ => "",
    }))
}

fn pg_char_to_encoding(args: &[Cell]) -> Result<Cell> {
    let name = arg(args, 0).as_text().unwrap_or_default().to_uppercase().replace('-', "");
    Ok(int(match name.as_str() {
        "SQL_ASCII" => 0,
        "UTF8" | "UNICODE" => 6,
        _ => -1,
    }))
}
