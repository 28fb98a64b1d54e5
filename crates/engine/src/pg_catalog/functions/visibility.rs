//! Whether an object is found without its schema.

use millstream_types::Result;

use crate::pg_catalog::CatalogView;
use crate::pg_catalog::cell::Cell;
use crate::pg_catalog::cell::CellType::Bool;
use crate::pg_catalog::function::Run::{Catalog, Pure};
use crate::pg_catalog::function::Spec;
use crate::pg_catalog::objects::{class_of, is_visible};
use crate::pg_catalog::types;

pub(super) const SPECS: &[Spec] = &[
    Spec::strict("pg_table_is_visible", Bool, Catalog(table)),
    Spec::strict("pg_type_is_visible", Bool, Pure(type_)),
    Spec::strict("pg_function_is_visible", Bool, Pure(always)),
    Spec::strict("pg_operator_is_visible", Bool, Pure(always)),
    Spec::strict("pg_opclass_is_visible", Bool, Pure(always)),
    Spec::strict("pg_opfamily_is_visible", Bool, Pure(always)),
    Spec::strict("pg_collation_is_visible", Bool, Pure(always)),
    Spec::strict("pg_conversion_is_visible", Bool, Pure(always)),
    Spec::strict("pg_statistics_obj_is_visible", Bool, Pure(always)),
    Spec::strict("pg_ts_config_is_visible", Bool, Pure(always)),
    Spec::strict("pg_ts_dict_is_visible", Bool, Pure(always)),
    Spec::strict("pg_ts_parser_is_visible", Bool, Pure(always)),
    Spec::strict("pg_ts_template_is_visible", Bool, Pure(always)),
    Spec::strict("pg_relation_is_publishable", Bool, Pure(never)),
    Spec::strict("pg_is_other_temp_schema", Bool, Pure(never)),
];

fn table(view: &CatalogView, args: &[Cell]) -> Result<Cell> {
    let class = args.first().and_then(Cell::as_int).and_then(|oid| class_of(&view.catalog, oid));
    Ok(class.map_or(Cell::Null, |class| Cell::Bool(is_visible(&view.catalog, class))))
}

fn type_(args: &[Cell]) -> Result<Cell> {
    let found = args.first().and_then(Cell::as_int).and_then(types::by_oid);
    Ok(found.map_or(Cell::Null, |_| Cell::Bool(true)))
}

fn always(_: &[Cell]) -> Result<Cell> {
    Ok(Cell::Bool(true))
}

fn never(_: &[Cell]) -> Result<Cell> {
    Ok(Cell::Bool(false))
}
