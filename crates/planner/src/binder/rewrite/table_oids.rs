//! `tableoid`, a column that every table of Postgres has, in queries that name a relation: its oid as a constant.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{DataType, Expr, Ident, ObjectName, Select, SelectItem, TableFactor, VisitorMut};

use super::{HasColumn, OidOf, cast, number};
use crate::parser::folded;
use crate::sql_exprs::change;

const TABLEOID: &str = "tableoid";

/// Replaces the column in a query whose subqueries have been looked at.
pub(super) fn replace(select: &mut Select, has_column: HasColumn<'_>, oid_of: OidOf<'_>) {
    let factors =
        || select.from.iter().flat_map(|f| std::iter::once(&f.relation).chain(f.joins.iter().map(|j| &j.relation)));
    let named = |factor: &TableFactor| {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return None };
        if has_column(name, TABLEOID) {
            return None;
        }
        let known_as = alias.as_ref().map(|a| &a.name).or_else(|| name.0.last()?.as_ident())?;
        Some((folded(known_as), oid_of(name)?))
    };
    let oids: Vec<(String, u32)> = factors().filter_map(named).collect();
    if oids.is_empty() {
        return;
    }
    let is_single = factors().count() == 1;
    for item in &mut select.projection {
        if let SelectItem::UnnamedExpr(expr) = item
            && column_of(expr).is_some()
        {
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: Ident::new(TABLEOID) };
        }
    }
    change(select, &mut Oids { oids, is_single });
}

struct Oids {
    /// Names under which relations are known, with their oids.
    oids: Vec<(String, u32)>,
    /// There is one relation, so that the column needs no qualifier.
    is_single: bool,
}

impl VisitorMut for Oids {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let oid = match column_of(expr) {
            Some(Some(relation)) => self.oids.iter().find(|(name, _)| *name == relation).map(|(_, oid)| *oid),
            Some(None) if self.is_single => self.oids.first().map(|(_, oid)| *oid),
            _ => None,
        };
        if let Some(oid) = oid {
            *expr = cast(number(u64::from(oid)), DataType::Custom(ObjectName::from(vec![Ident::new("oid")]), vec![]));
        }
        ControlFlow::Continue(())
    }
}

/// Whether an expression is `tableoid`, and of which relation if it says so.
fn column_of(expr: &Expr) -> Option<Option<String>> {
    match expr {
        Expr::Identifier(column) => (folded(column) == TABLEOID).then_some(None),
        Expr::CompoundIdentifier(parts) => match parts.as_slice() {
            [.., relation, column] => (folded(column) == TABLEOID).then(|| Some(folded(relation))),
            _ => None,
        },
        _ => None,
    }
}
