//! Relations in FROM that refer to other relations: VALUES and unnest() as the queries that they stand for, which can be
//! correlated.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, TableFactor, TableWithJoins, Visit,
};

use super::call;
use crate::parser::parse_query;
use crate::sql_exprs::visit_own;

/// `(VALUES (t.a), (t.b))` as a union of SELECTs.
pub(super) fn union_of_values(query: &mut Query) {
    let SetExpr::Values(values) = query.body.as_ref() else { return };
    if !values.rows.iter().any(|row| has_columns(&row.content)) {
        return;
    }
    let named = |(i, expr): (usize, &Expr)| SelectItem::ExprWithAlias {
        expr: expr.clone(),
        alias: Ident::new(format!("column{}", i + 1)),
    };
    let selects = values.rows.iter().map(|row| {
        let mut select = plain_select()?;
        select.projection = row.content.iter().enumerate().map(named).collect();
        Some(SetExpr::Select(Box::new(select)))
    });
    let Some(selects) = selects.collect::<Option<Vec<_>>>() else { return };
    let union = selects.into_iter().reduce(|left, right| SetExpr::SetOperation {
        op: SetOperator::Union,
        set_quantifier: SetQuantifier::All,
        left: Box::new(left),
        right: Box::new(right),
    });
    if let Some(union) = union {
        *query.body = union;
    }
}

/// `SELECT ... FROM unnest(t.tags) AS tag` as one from `(SELECT unnest(t.tags) AS tag) AS tag`.
pub(super) fn select_of_unnest(select: &mut Select) {
    let [TableWithJoins { relation, joins }] = select.from.as_mut_slice() else { return };
    let TableFactor::UNNEST { alias: Some(alias), array_exprs, with_offset: false, with_ordinality: false, .. } =
        relation
    else {
        return;
    };
    let ([array], [column], true) = (array_exprs.as_slice(), alias.columns.as_slice(), joins.is_empty()) else {
        return;
    };
    if !has_columns(array) {
        return;
    }
    let Some(mut query) = one_row() else { return };
    if let SetExpr::Select(inner) = query.body.as_mut() {
        let expr = call("unnest", vec![array.clone()]);
        inner.projection = vec![SelectItem::ExprWithAlias { expr, alias: column.name.clone() }];
    }
    let alias = Some(alias.clone());
    *relation = TableFactor::Derived { lateral: false, subquery: query, alias, sample: None };
}

fn has_columns(tree: &impl Visit) -> bool {
    let found = visit_own(tree, |expr| match expr {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

fn one_row() -> Option<Box<Query>> {
    parse_query("SELECT 1").ok()
}

fn plain_select() -> Option<Select> {
    match *one_row()?.body {
        SetExpr::Select(select) => Some(*select),
        _ => None,
    }
}
