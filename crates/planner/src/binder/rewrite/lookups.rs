//! Subqueries of the kind that clients ask the catalogs with: `ARRAY(SELECT ...)`, and the one row of a catalog that a
//! key names.

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, FunctionArg, FunctionArgExpr, GroupByExpr, ObjectName, OrderByKind, Query, Select,
    SelectItem, SetExpr, SetOperator, TableFactor, Value, Visitor, VisitorMut,
};
use std::ops::ControlFlow;

use super::{call, single_name, text_literal};
use crate::functions::Registry;
use crate::parser::{folded, parse_expr, parse_query};
use crate::sql_exprs::{change, visit, visit_own};

/// `ARRAY(SELECT ...)`: the rows of a query as an array, empty if there are none.
pub(super) fn array_subquery(query: &Query) -> Option<Expr> {
    if let Some(select) = plain_select(query) {
        if let Some(array) = over_array(select) {
            return Some(array);
        }
        if let Some(query) = aggregated(query, select) {
            return Some(or_empty(Expr::Subquery(query)));
        }
    }
    let text = format!("SELECT array_agg(q.x) FROM ({query}) AS q(x)");
    Some(or_empty(Expr::Subquery(parse_query(&text).ok()?)))
}

fn or_empty(array: Expr) -> Expr {
    call("coalesce", vec![array, text_literal("{}".to_string())])
}

/// A query that is one SELECT of one expression: no groups, no limit, nothing that changes how many rows there are.
fn plain_select(query: &Query) -> Option<&Select> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let no_groups = matches!(&select.group_by, GroupByExpr::Expressions(exprs, _) if exprs.is_empty());
    let plain = query.with.is_none() && query.limit_clause.is_none() && query.fetch.is_none();
    let plain = plain && no_groups && select.having.is_none() && select.distinct.is_none();
    (plain && !is_aggregate(projected(select)?)).then_some(select)
}

fn projected(select: &Select) -> Option<&Expr> {
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] => Some(expr),
        _ => None,
    }
}

/// Whether an aggregate is called, subqueries left aside.
fn is_aggregate(expr: &Expr) -> bool {
    let is_name = |n: String| Registry::get().aggregate(&n).is_some();
    let found = visit_own(expr, |expr| match expr {
        Expr::Function(f) if single_name(&f.name).is_some_and(is_name) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

/// The query with its expression in `array_agg`, which lets it refer to what is around it.
fn aggregated(query: &Query, select: &Select) -> Option<Box<Query>> {
    let expr = projected(select)?;
    let order = match &query.order_by {
        None => String::new(),
        Some(order) => match &order.kind {
            OrderByKind::Expressions(exprs) => {
                let by = |e: &datafusion::sql::sqlparser::ast::OrderByExpr| match &e.expr {
                    // The number of a column: there is only one.
                    Expr::Value(_) => format!("{expr}{}", e.options),
                    _ => e.to_string(),
                };
                format!(" ORDER BY {}", exprs.iter().map(by).collect::<Vec<_>>().join(", "))
            }
            OrderByKind::All(_) => return None,
        },
    };
    let mut select = select.clone();
    select.projection = vec![SelectItem::UnnamedExpr(parse_expr(&format!("array_agg({expr}{order})")).ok()?)];
    let mut query = Box::new(query.clone());
    query.order_by = None;
    *query.body = SetExpr::Select(Box::new(select));
    Some(query)
}

/// A query over the elements of an array that gives each as it is, or behind a constant text.
fn over_array(select: &Select) -> Option<Expr> {
    let [from] = select.from.as_slice() else { return None };
    if !from.joins.is_empty() || select.selection.is_some() {
        return None;
    }
    match &from.relation {
        TableFactor::UNNEST { alias: Some(alias), array_exprs, with_offset: false, .. } => {
            let [array] = array_exprs.as_slice() else { return None };
            let column = folded(&alias.columns.first()?.name);
            let is_element = |e: &Expr| matches!(e, Expr::Identifier(ident) if folded(ident) == column);
            match projected(select)? {
                element if is_element(element) => Some(or_empty(array.clone())),
                Expr::BinaryOp { left, op: BinaryOperator::StringConcat, right } if is_element(right) => {
                    let constant =
                        matches!(left.as_ref(), Expr::Value(v) if matches!(v.value, Value::SingleQuotedString(_)));
                    constant.then(|| call("array_prefixed", vec![left.as_ref().clone(), array.clone()]))
                }
                _ => None,
            }
        }
        // Options as `name 'value'`, the one form in which they are asked for.
        TableFactor::Table { name, args: Some(args), .. } => {
            let [FunctionArg::Unnamed(FunctionArgExpr::Expr(options))] = args.args.as_slice() else { return None };
            let shown = projected(select)?.to_string();
            let is_shown = shown.contains("quote_ident(option_name)") && shown.contains("quote_literal(option_value)");
            let is_options = single_name(name).as_deref() == Some("pg_options_to_table");
            (is_options && is_shown).then(|| call("options_as_sql", vec![options.clone()]))
        }
        _ => None,
    }
}

/// Who asks for the type that a domain is made of, at any distance, asks by a recursion that goes on for as long as there
/// is another base type. No type here has one, so it ends where it starts, and needs none.
pub(super) fn end_at_base_types(query: &mut Query) {
    let Some(with) = query.with.as_mut().filter(|with| with.recursive) else { return };
    for cte in &mut with.cte_tables {
        if let SetExpr::SetOperation { op: SetOperator::Union, left, right, .. } = cte.query.body.as_ref()
            && wants_base_type(right)
        {
            cte.query.body = left.clone();
        }
    }
}

/// Whether a query gives nothing for want of a type with a base type.
fn wants_base_type(body: &SetExpr) -> bool {
    let SetExpr::Select(select) = body else { return false };
    let is_types = |factor: &TableFactor| match factor {
        TableFactor::Table { name, .. } => single_name(name).as_deref() == Some("pg_type"),
        _ => false,
    };
    let mut conditions = Vec::new();
    if let Some(selection) = &select.selection {
        split(selection, &mut conditions);
    }
    let is_wanted = |condition: &Expr| match condition {
        Expr::BinaryOp { left, op: BinaryOperator::NotEq, right } => {
            let is_base = match left.as_ref() {
                Expr::Identifier(column) => folded(column) == "typbasetype",
                Expr::CompoundIdentifier(parts) => parts.last().is_some_and(|column| folded(column) == "typbasetype"),
                _ => false,
            };
            is_base && right.to_string() == "0"
        }
        _ => false,
    };
    select.from.iter().any(|from| is_types(&from.relation)) && conditions.iter().any(is_wanted)
}

/// A subquery that looks one row of a catalog up by its key. DataFusion makes joins of subqueries that aggregate and whose
/// conditions compare with what is around them for equality, so it becomes one: the first value of the one row there is,
/// with conditions that only the outside decides taken out, and outer columns that equal inner ones replaced by these.
pub(super) fn catalog_lookup(query: &Query) -> Option<Expr> {
    let select = plain_select(query)?;
    let tables = catalog_tables(select)?;
    let selection = select.selection.as_ref()?;
    let mut conditions = Vec::new();
    split(selection, &mut conditions);
    let (outer, inner): (Vec<Expr>, Vec<Expr>) = conditions.into_iter().partition(|c| is_outer(c, &tables));
    let equal: Vec<(Expr, Expr)> = inner.iter().filter_map(|c| equality(c, &tables)).collect();
    let inner = inner.into_iter().map(|c| if equality(&c, &tables).is_some() { c } else { replaced(c, &equal) });
    let mut select = select.clone();
    select.selection = inner.reduce(and);
    let first = call("first_value", vec![projected(&select)?.clone()]);
    select.projection = vec![SelectItem::UnnamedExpr(first)];
    let mut query = Box::new(query.clone());
    query.order_by = None;
    *query.body = SetExpr::Select(Box::new(select));
    let value = Expr::Subquery(query);
    Some(match outer.into_iter().reduce(and) {
        None => value,
        Some(condition) => Expr::Case {
            case_token: datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken::empty(),
            end_token: datafusion::sql::sqlparser::ast::helpers::attached_token::AttachedToken::empty(),
            operand: None,
            conditions: vec![CaseWhen { condition, result: value }],
            else_result: None,
        },
    })
}

/// The names under which a SELECT knows its relations, if all are catalogs.
fn catalog_tables(select: &Select) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for from in &select.from {
        for factor in std::iter::once(&from.relation).chain(from.joins.iter().map(|j| &j.relation)) {
            let TableFactor::Table { name, alias, args: None, .. } = factor else { return None };
            let table = single_name(name).filter(|n| n.starts_with("pg_"))?;
            names.push(alias.as_ref().map_or(table, |a| folded(&a.name)));
        }
    }
    (!names.is_empty()).then_some(names)
}

fn and(left: Expr, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op: BinaryOperator::And, right: Box::new(right) }
}

fn split(expr: &Expr, conditions: &mut Vec<Expr>) {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            split(left, conditions);
            split(right, conditions);
        }
        Expr::Nested(inner) => split(inner, conditions),
        other => conditions.push(other.clone()),
    }
}

/// The relation that a qualified column is of: `t.c`, `s.t.c`.
fn relation_of(expr: &Expr) -> Option<String> {
    let Expr::CompoundIdentifier(parts) = expr else { return None };
    parts.len().checked_sub(2).map(|i| folded(&parts[i]))
}

/// Whether all columns are qualified, and none is of these relations.
fn is_outer(expr: &Expr, tables: &[String]) -> bool {
    struct Columns<'a>(&'a [String], usize);
    impl Visitor for Columns<'_> {
        type Break = ();
        fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
            match expr {
                Expr::Identifier(_) | Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => {
                    ControlFlow::Break(())
                }
                expr => match relation_of(expr) {
                    Some(relation) if self.0.contains(&relation) => ControlFlow::Break(()),
                    Some(_) => {
                        self.1 += 1;
                        ControlFlow::Continue(())
                    }
                    None => ControlFlow::Continue(()),
                },
            }
        }
    }
    let mut columns = Columns(tables, 0);
    visit(expr, &mut columns).is_continue() && columns.1 > 0
}

/// An outer column and the inner one that a condition says is equal to it.
fn equality(condition: &Expr, tables: &[String]) -> Option<(Expr, Expr)> {
    let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = condition else { return None };
    let is_inner = |e: &Expr| relation_of(e).map(|r| tables.contains(&r));
    match (is_inner(left), is_inner(right)) {
        (Some(true), Some(false)) => Some((right.as_ref().clone(), left.as_ref().clone())),
        (Some(false), Some(true)) => Some((left.as_ref().clone(), right.as_ref().clone())),
        _ => None,
    }
}

fn replaced(mut expr: Expr, equal: &[(Expr, Expr)]) -> Expr {
    struct Replace<'a>(&'a [(Expr, Expr)]);
    impl VisitorMut for Replace<'_> {
        type Break = ();
        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
            if let Some((_, inner)) = self.0.iter().find(|(outer, _)| outer == expr) {
                *expr = inner.clone();
            }
            ControlFlow::Continue(())
        }
    }
    change(&mut expr, &mut Replace(equal));
    expr
}

/// `generate_subscripts(array, 1)` is the series of its subscripts.
pub(super) fn subscripts(name: &ObjectName, args: &[FunctionArg]) -> Option<Vec<Expr>> {
    match args {
        [
            FunctionArg::Unnamed(FunctionArgExpr::Expr(array)),
            FunctionArg::Unnamed(FunctionArgExpr::Expr(dimension)),
        ] if single_name(name).as_deref() == Some("generate_subscripts") => {
            let length = call("array_length", vec![array.clone(), dimension.clone()]);
            Some(vec![super::number(1), length])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(sql: &str) -> Box<Query> {
        parse_query(sql).expect(sql)
    }

    #[test]
    fn a_lookup_in_a_catalog_aggregates_its_one_row() {
        let looked_up = |sql: &str| catalog_lookup(&query(sql)).map(|e| e.to_string());
        assert_eq!(
            looked_up(
                "SELECT c.collname FROM pg_collation c, pg_type t \
                 WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND a.attcollation <> t.typcollation"
            )
            .as_deref(),
            Some(
                "(SELECT first_value(c.collname) FROM pg_collation c, pg_type t \
                 WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND c.oid <> t.typcollation)"
            )
        );
        assert_eq!(
            looked_up("SELECT d.adbin FROM pg_attrdef d WHERE a.atthasdef AND d.adrelid = a.attrelid").as_deref(),
            Some(
                "CASE WHEN a.atthasdef THEN \
                 (SELECT first_value(d.adbin) FROM pg_attrdef d WHERE d.adrelid = a.attrelid) END"
            )
        );
        assert_eq!(looked_up("SELECT t.a FROM t WHERE t.b = u.b"), None);
        assert_eq!(looked_up("SELECT max(t.oid) FROM pg_type t WHERE t.oid = u.b"), None);
    }

    #[test]
    fn arrays_of_subqueries_are_aggregates() {
        let array = |sql: &str| array_subquery(&query(sql)).map(|e| e.to_string());
        assert_eq!(
            array("SELECT b.name FROM m WHERE m.x = r.x ORDER BY 1").as_deref(),
            Some("coalesce((SELECT array_agg(b.name ORDER BY b.name) FROM m WHERE m.x = r.x), '{}')")
        );
    }
}
