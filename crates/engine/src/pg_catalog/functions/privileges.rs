//! What a role may do: everything, since there is no access control yet, but only with what exists.

use millstream_types::{Error, Result, SqlState};

use super::objects::named_class;
use crate::engine::DATABASE;
use crate::pg_catalog::CatalogView;
use crate::pg_catalog::cell::Cell;
use crate::pg_catalog::cell::CellType::Bool;
use crate::pg_catalog::function::Run::{Catalog, Pure};
use crate::pg_catalog::function::Spec;

pub(super) const SPECS: &[Spec] = &[
    Spec::strict("has_table_privilege", Bool, Catalog(of_relation)),
    Spec::strict("has_any_column_privilege", Bool, Catalog(of_relation)),
    Spec::strict("has_column_privilege", Bool, Catalog(of_column)),
    Spec::strict("has_sequence_privilege", Bool, Catalog(of_relation)),
    Spec::strict("has_schema_privilege", Bool, Catalog(of_schema)),
    Spec::strict("has_database_privilege", Bool, Catalog(of_database)),
    Spec::strict("has_function_privilege", Bool, Pure(always)),
    Spec::strict("has_language_privilege", Bool, Pure(always)),
    Spec::strict("has_tablespace_privilege", Bool, Pure(always)),
    Spec::strict("has_type_privilege", Bool, Pure(always)),
    Spec::strict("has_server_privilege", Bool, Pure(always)),
    Spec::strict("has_foreign_data_wrapper_privilege", Bool, Pure(always)),
    Spec::strict("has_parameter_privilege", Bool, Pure(always)),
    Spec::strict("pg_has_role", Bool, Pure(always)),
    Spec::strict("row_security_active", Bool, Pure(never)),
];

/// The object is before the last argument; a role may come before it.
fn object(args: &[Cell], n_after: usize) -> &Cell {
    args.len().checked_sub(n_after + 1).map_or(&Cell::Null, |i| &args[i])
}

fn of_relation(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    Ok(named_class(view, object(args, 1))?.map_or(Cell::Null, |_| Cell::Bool(true)))
}

fn of_column(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    Ok(named_class(view, object(args, 2))?.map_or(Cell::Null, |_| Cell::Bool(true)))
}

fn of_schema(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    match object(args, 1) {
        Cell::Text(name) if !view.catalog.schemas().any(|s| s == name) => {
            Err(Error::user(SqlState::INVALID_SCHEMA_NAME, format!("schema \"{name}\" does not exist")))
        }
        _ => Ok(Cell::Bool(true)),
    }
}

fn of_database(_: &CatalogView, args: &[Cell]) -> Result<Cell> {
    match object(args, 1) {
        Cell::Text(name) if name != DATABASE => {
            Err(Error::user(SqlState::INVALID_CATALOG_NAME, format!("database \"{name}\" does not exist")))
        }
        _ => Ok(Cell::Bool(true)),
    }
}

fn always(_: &[Cell]) -> Result<Cell> {
    Ok(Cell::Bool(true))
}

fn never(_: &[Cell]) -> Result<Cell> {
    Ok(Cell::Bool(false))
}
