//! The functions that clients call about the catalog, their session and the server.

mod objects;
mod privileges;
mod session;
mod sizes;
mod values;
mod visibility;

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;

use super::function::{CatalogFunction, Spec};

fn specs() -> impl Iterator<Item = &'static Spec> {
    objects::SPECS
        .iter()
        .chain(privileges::SPECS)
        .chain(session::SPECS)
        .chain(sizes::SPECS)
        .chain(values::SPECS)
        .chain(visibility::SPECS)
}

/// The function of a name.
pub(super) fn find(name: &str) -> Option<Arc<ScalarUDF>> {
    let spec = specs().find(|spec| spec.name == name)?;
    Some(Arc::new(ScalarUDF::new_from_impl(CatalogFunction::new(spec))))
}

/// All of them.
pub(super) fn all() -> impl Iterator<Item = Arc<ScalarUDF>> {
    specs().map(|spec| Arc::new(ScalarUDF::new_from_impl(CatalogFunction::new(spec))))
}
