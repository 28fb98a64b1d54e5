//! Expressions in ORDER BY and DISTINCT ON that become columns of the SELECT list of a query in FROM: those with subqueries,
//! and those with a name that is also that of another column of the SELECT list:
//!
//!     SELECT a FROM t ORDER BY (SELECT x FROM u WHERE u.k = t.k) LIMIT 3
//!     SELECT a FROM (SELECT a, (SELECT x FROM u WHERE u.k = t.k) AS o FROM t) ORDER BY o LIMIT 3
//!
//!     SELECT -a AS a FROM t ORDER BY a + 1
//!     SELECT a FROM (SELECT -a AS a, a + 1 AS o FROM t) ORDER BY o
//!
//! So they see the columns that FROM has, as in Postgres, and none of those of the SELECT list.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Distinct, ExcludeSelectItem, Expr, FunctionArguments, Ident, ObjectName, OrderBy, OrderByExpr, OrderByKind, Query,
    Select, SelectItem, SetExpr, TableFactor, Value, WildcardAdditionalOptions,
};

use super::super::names::TAG;
use crate::parser::{folded, parse_query};
use crate::sql_exprs::visit_own;

/// Whether a query is ordered, or made distinct, by an expression that has to be a column of its SELECT list.
pub(in super::super) fn is_lifted(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let is_lifted = |expr: &Expr| has_subquery(expr) || has_hidden_name(expr, select);
    order_of(query).iter().any(|o| is_lifted(&o.expr)) || on_of(select).iter().any(is_lifted)
}

/// Whether ORDER BY names a column, or repeats an expression, of the SELECT list.
pub(in super::super) fn is_selected(expr: &Expr, select: &Select) -> bool {
    let is_wildcard = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let may_be_of_wildcard =
        matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) && select.projection.iter().any(is_wildcard);
    selected(expr, select).is_some() || may_be_of_wildcard
}

/// Moves the SELECT into FROM, and what it is ordered by into its list.
pub(super) fn lift_order(query: &mut Query) {
    if !order_of(query).is_empty() {
        without_parentheses(query);
    }
    if !is_lifted(query) {
        return;
    }
    let SetExpr::Select(inner) = query.body.as_mut() else { return };
    let (Some(columns), Ok(outer)) = (columns_of(inner), parse_query("SELECT 1 FROM (SELECT 1)")) else { return };
    let SetExpr::Select(mut select) = *outer.body else { return };
    let mut hidden = Vec::new();
    if let Some(OrderBy { kind: OrderByKind::Expressions(exprs), .. }) = &mut query.order_by {
        exprs.iter_mut().for_each(|o| o.expr = ordered_by(&o.expr, inner, &mut hidden));
    }
    if let Some(Distinct::On(exprs)) = &inner.distinct {
        let exprs = exprs.iter().map(|e| ordered_by(e, inner, &mut hidden)).collect();
        select.distinct = Some(Distinct::On(exprs));
        inner.distinct = None;
    }
    select.projection = without_hidden(columns, &hidden);
    inner.projection.extend(hidden.into_iter().map(|(expr, alias)| SelectItem::ExprWithAlias { expr, alias }));
    if let Some(TableFactor::Derived { subquery, .. }) = select.from.first_mut().map(|t| &mut t.relation) {
        std::mem::swap(&mut subquery.body, &mut query.body);
        *query.body = SetExpr::Select(select);
    }
}

/// `(SELECT ...) ORDER BY x` is `SELECT ... ORDER BY x`.
fn without_parentheses(query: &mut Query) {
    while let SetExpr::Query(inner) = query.body.as_mut()
        && inner.with.is_none()
        && inner.order_by.is_none()
        && inner.limit_clause.is_none()
        && inner.fetch.is_none()
    {
        query.body = inner.body.clone();
    }
}

fn order_of(query: &Query) -> &[OrderByExpr] {
    match query.order_by.as_ref().map(|o| &o.kind) {
        Some(OrderByKind::Expressions(exprs)) => exprs,
        _ => &[],
    }
}

fn on_of(select: &Select) -> &[Expr] {
    match &select.distinct {
        Some(Distinct::On(exprs)) => exprs,
        _ => &[],
    }
}

fn has_subquery(expr: &Expr) -> bool {
    visit_own(expr, |e| {
        let is_subquery = match e {
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => true,
            Expr::Function(function) => matches!(function.args, FunctionArguments::Subquery(_)),
            _ => false,
        };
        if is_subquery { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .is_break()
}

/// Whether an expression has the name of a column of the SELECT list that is another one than FROM has by that name. A name
/// by itself is that of the SELECT list.
fn has_hidden_name(expr: &Expr, select: &Select) -> bool {
    let hides = |column: &Expr, name: &Ident, item: &SelectItem| match item {
        SelectItem::ExprWithAlias { expr, alias } => folded(alias) == folded(name) && !is_same(expr, column),
        _ => false,
    };
    let is_hidden = |e: &Expr| match e {
        Expr::Identifier(name) => select.projection.iter().any(|item| hides(e, name, item)),
        _ => false,
    };
    !matches!(expr, Expr::Identifier(_))
        && visit_own(expr, |e| if is_hidden(e) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }).is_break()
}

/// The columns of a SELECT list as a query around it names them; nothing if some has no name yet.
fn columns_of(select: &Select) -> Option<Vec<SelectItem>> {
    let column = |item: &SelectItem| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(SelectItem::UnnamedExpr(Expr::Identifier(alias.clone()))),
        SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_))
        | SelectItem::Wildcard(_)
        | SelectItem::QualifiedWildcard(..) => Some(item.clone()),
        _ => None,
    };
    select.projection.iter().map(column).collect()
}

/// A wildcard gives all columns of the SELECT list but the hidden ones.
fn without_hidden(columns: Vec<SelectItem>, hidden: &[(Expr, Ident)]) -> Vec<SelectItem> {
    if !columns.iter().any(|item| matches!(item, SelectItem::Wildcard(_))) {
        return columns;
    }
    let names = hidden.iter().map(|(_, alias)| ObjectName::from(vec![alias.clone()])).collect::<Vec<_>>();
    let opt_exclude = (!names.is_empty()).then_some(ExcludeSelectItem::Multiple(names));
    vec![SelectItem::Wildcard(WildcardAdditionalOptions { opt_exclude, ..Default::default() })]
}

/// What the query around orders by: a column of the SELECT list, hidden if there is none yet.
fn ordered_by(expr: &Expr, select: &Select, hidden: &mut Vec<(Expr, Ident)>) -> Expr {
    if let Some(column) = selected(expr, select) {
        return column;
    }
    if let Some((_, alias)) = hidden.iter().find(|(e, _)| e == expr) {
        return Expr::Identifier(alias.clone());
    }
    let alias = Ident::with_quote('"', format!("order{TAG}{}", hidden.len() + 1));
    hidden.push((expr.clone(), alias.clone()));
    Expr::Identifier(alias)
}

/// The column of the SELECT list that is meant by a position, by its name or by its expression.
fn selected(expr: &Expr, select: &Select) -> Option<Expr> {
    if matches!(expr, Expr::Value(v) if matches!(v.value, Value::Number(..))) {
        return Some(expr.clone());
    }
    let is_name = |alias: &Ident| matches!(expr, Expr::Identifier(name) if folded(name) == folded(alias));
    select.projection.iter().find_map(|item| match item {
        SelectItem::ExprWithAlias { expr: of_list, alias } => {
            (is_name(alias) || is_same(of_list, expr)).then(|| Expr::Identifier(alias.clone()))
        }
        SelectItem::UnnamedExpr(column) => is_same(column, expr).then(|| column.clone()),
        _ => None,
    })
}

/// Whether two expressions are the same; a column may be qualified in one of them only.
fn is_same(left: &Expr, right: &Expr) -> bool {
    let parts = |e: &Expr| match e {
        Expr::Identifier(name) => Some(vec![folded(name)]),
        Expr::CompoundIdentifier(parts) => Some(parts.iter().map(folded).collect()),
        _ => None,
    };
    match (parts(left), parts(right)) {
        (Some(left), Some(right)) => left.ends_with(&right) || right.ends_with(&left),
        _ => left == right,
    }
}
