//! Output columns under Postgres' names, before DataFusion plans a query.
//!
//! DataFusion wants the columns of a SELECT list to differ in name; Postgres does not. A repeated name gets a tag that
//! [`shown`] takes off again.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, Expr, Function, Ident, Query, Select, SelectItem, SelectItemQualifiedWildcardKind,
    SetExpr, Subscript, TrimWhereField, VisitorMut,
};

use crate::parser::{folded, sql_type_of};
use crate::sql_exprs::change;

/// What stands between a repeated name and its number.
pub(super) const TAG: char = '␟';

/// The name as a user sees it.
pub(crate) fn shown(name: &str) -> &str {
    name.split_once(TAG).map_or(name, |(name, _)| name)
}

/// Names every output column of every SELECT list. A name in `conflicts` is tagged wherever a wildcard stands in the same
/// list: DataFusion has found that the wildcard brings it too.
pub(super) fn name_columns(query: &mut Query, conflicts: &BTreeSet<String>) {
    change(query, &mut Namer { conflicts });
}

struct Namer<'a> {
    conflicts: &'a BTreeSet<String>,
}

impl VisitorMut for Namer<'_> {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let is_wildcard =
            |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
        let wildcard = select.projection.iter().any(is_wildcard);
        let mut names = HashSet::new();
        for (i, item) in select.projection.iter_mut().enumerate() {
            let (name, is_column) = match item {
                SelectItem::UnnamedExpr(expr) => (column_name(expr), is_column(expr)),
                SelectItem::ExprWithAlias { alias, .. } => (folded(alias), false),
                _ => continue,
            };
            let repeated = !names.insert(name.clone()) || (wildcard && self.conflicts.contains(&name));
            if is_column && !repeated {
                continue;
            }
            let name = if repeated { format!("{name}{TAG}{}", i + 1) } else { name };
            let alias = Ident::with_quote('"', name);
            match std::mem::replace(item, SelectItem::UnnamedExpr(Expr::Identifier(alias.clone()))) {
                SelectItem::UnnamedExpr(expr) => *item = SelectItem::ExprWithAlias { expr, alias },
                SelectItem::ExprWithAlias { expr, alias: old } => {
                    let alias = if repeated { alias } else { old };
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
                other => *item = other,
            }
        }
        ControlFlow::Continue(())
    }
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_)) && !is_current_schema(expr)
}

/// Whether it is `current_schema`, a word that cannot be a column.
pub(super) fn is_current_schema(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(i) if i.quote_style.is_none() && i.value.eq_ignore_ascii_case("current_schema"))
}

/// The name that Postgres gives a column which has none of its own.
pub(crate) fn column_name(expr: &Expr) -> String {
    figure(expr).map_or_else(|| "?column?".to_string(), |(name, _)| name)
}

/// A name, and whether a cast around the expression keeps it.
fn figure(expr: &Expr) -> Option<(String, bool)> {
    let strong = |name: &str| Some((name.to_string(), true));
    match expr {
        Expr::Identifier(ident) => Some((folded(ident), true)),
        Expr::CompoundIdentifier(parts) => parts.last().map(|p| (folded(p), true)),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|a| match a {
                AccessExpr::Dot(Expr::Identifier(ident)) => Some(folded(ident)),
                AccessExpr::Subscript(Subscript::Index { .. } | Subscript::Slice { .. }) | AccessExpr::Dot(_) => None,
            });
            field.map(|f| (f, true)).or_else(|| figure(root))
        }
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => figure(inner),
        Expr::Function(function) => function_name(function).map(|n| (n, true)),
        Expr::Cast { expr, data_type, .. } => match figure(expr) {
            Some((name, true)) => Some((name, true)),
            _ => Some((type_name(data_type), false)),
        },
        Expr::TypedString(typed) => Some((type_name(&typed.data_type), false)),
        Expr::Interval(_) => Some(("interval".to_string(), false)),
        Expr::Case { else_result, .. } => match else_result.as_deref().and_then(figure) {
            Some((name, true)) => Some((name, true)),
            _ => Some(("case".to_string(), false)),
        },
        Expr::BinaryOp { op: BinaryOperator::Overlaps, .. } => strong("overlaps"),
        Expr::Exists { negated: false, .. } => strong("exists"),
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) => strong("row"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Substring { shorthand, .. } => strong(if *shorthand { "substr" } else { "substring" }),
        Expr::Position { .. } => strong("position"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            _ => "btrim",
        }),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::Subquery(query) => subquery_name(query),
        Expr::Value(value) => match &value.value {
            datafusion::sql::sqlparser::ast::Value::Boolean(_) => Some(("bool".to_string(), false)),
            _ => None,
        },
        _ => None,
    }
}

fn function_name(function: &Function) -> Option<String> {
    function.name.0.last().and_then(|p| p.as_ident()).map(folded)
}

/// A scalar subquery is called as its column is.
fn subquery_name(query: &Query) -> Option<(String, bool)> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    match select.projection.first()? {
        SelectItem::UnnamedExpr(expr) => figure(expr),
        SelectItem::ExprWithAlias { alias, .. } => Some((folded(alias), true)),
        SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), _) => None,
        _ => None,
    }
}

/// A type's name inside Postgres.
fn type_name(data_type: &datafusion::sql::sqlparser::ast::DataType) -> String {
    use millstream_types::SqlType;
    let Ok(sql_type) = sql_type_of(data_type) else { return data_type.to_string().to_lowercase() };
    let element = match &sql_type {
        SqlType::Array(element) => element.as_ref(),
        other => other,
    };
    match element {
        SqlType::Boolean => "bool",
        SqlType::SmallInt => "int2",
        SqlType::Integer => "int4",
        SqlType::BigInt => "int8",
        SqlType::Oid => "oid",
        SqlType::Real => "float4",
        SqlType::Double => "float8",
        SqlType::Numeric(_) => "numeric",
        SqlType::Text => "text",
        SqlType::Varchar(_) => "varchar",
        SqlType::Char(_) => "bpchar",
        SqlType::Bytea => "bytea",
        SqlType::Date => "date",
        SqlType::Time => "time",
        SqlType::Timestamp => "timestamp",
        SqlType::Timestamptz => "timestamptz",
        SqlType::Interval => "interval",
        SqlType::Array(_) => "array",
    }
    .to_string()
}
