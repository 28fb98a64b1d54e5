//! The functions that clients call about the catalog, their session and the server.

mod objects;
mod privileges;
mod session;
mod sizes;
mod values;
mod visibility;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use millstream_types::pg::PgType;

use super::function::{CatalogFunction, Returns, Spec};

fn specs() -> impl Iterator<Item = &'static Spec> {
    objects::SPECS
        .iter()
        .chain(privileges::SPECS)
        .chain(session::SPECS)
        .chain(sizes::SPECS)
        .chain(values::SPECS)
        .chain(visibility::SPECS)
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = Arc<ScalarUDF>> {
    specs().map(|spec| Arc::new(ScalarUDF::new_from_impl(CatalogFunction::new(spec))))
}

/// Their names with the identifiers of their results' types.
pub(super) fn signatures() -> Vec<(&'static str, i64)> {
    let mut all: Vec<_> = specs()
        .filter_map(|spec| match spec.returns {
            Returns::Always(kind) => Some((spec.name, i64::from(PgType::of(&kind.sql_type()).oid))),
            Returns::OtherForm => None,
        })
        .collect();
    all.sort_unstable();
    all
}
