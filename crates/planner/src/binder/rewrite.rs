//! Rewrites of a query's tree into forms that DataFusion's planner leads to our functions.

mod conditions;
mod from_items;
mod grouping;
mod lookups;
mod named_args;
pub(super) mod named_casts;
mod named_windows;
pub(super) mod order_by;
pub(super) mod ordered_sets;
mod recursion;
mod rows;
mod table_oids;

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, CharacterLength, DataType, DateTimeField, Expr, Fetch, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, Interval, LimitClause, NamedWindowExpr, ObjectName, Query,
    Select, SelectItem, SetExpr, Subscript, TableAlias, TableAliasColumnDef, TableFactor, UnaryOperator, Value,
    ValueWithSpan, VisitorMut, WindowFrameBound, WindowSpec, WindowType,
};

use super::full_using::merge_full_joins;
use super::names::is_current_schema;
use super::outer_names::tag_outer_relations;
use crate::functions::overloads::{UNKNOWN, VARCHAR};
use crate::functions::quantified::{self, Quantifier};
use crate::parser::{folded, parse_query};
use crate::sql_exprs::{call_args, change};
use crate::typing::planner::operator_of;
use crate::typing::with_ties::WITH_TIES;
use named_windows::Windows;

/// Whether a relation has a column of a name.
pub(super) type HasColumn<'a> = &'a dyn Fn(&ObjectName, &str) -> bool;

/// The oid of the relation of a name.
pub(super) type OidOf<'a> = &'a dyn Fn(&ObjectName) -> Option<u32>;

/// Applies the rewrites everywhere in a query.
pub(super) fn rewrite_query(query: &mut Query, has_column: HasColumn<'_>, oid_of: OidOf<'_>) {
    change(query, &mut Rewriter { has_column, oid_of, n_tagged: 0 });
}

/// Applies the rewrites everywhere in an expression.
pub(crate) fn rewrite_expr(expr: &mut Expr) {
    change(expr, &mut Rewriter { has_column: &|_, _| false, oid_of: &|_| None, n_tagged: 0 });
}

struct Rewriter<'a> {
    has_column: HasColumn<'a>,
    oid_of: OidOf<'a>,
    /// Relations that were given another name.
    n_tagged: usize,
}

impl VisitorMut for Rewriter<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        lookups::end_at_base_types(query);
        order_by::lift_order(query);
        recursion::type_constants(query);
        replace_tables(&mut query.body);
        from_items::union_of_values(query);
        wait_for_types(&mut query.body);
        replace_fetch(query);
        tag_outer_relations(query, self.has_column, &mut self.n_tagged);
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        merge_full_joins(select);
        grouping::expand(select);
        let windows = Windows::complete(select);
        windows.complete_calls(&mut select.projection);
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } = item
                && is_set_returning(expr)
            {
                *expr = call("unnest", vec![expr.clone()]);
            }
            change(item, &mut CountExists);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match factor {
            TableFactor::Table { name, alias, args: Some(args), with_ordinality, .. }
                if single_name(name).is_some_and(|n| n == "unnest" || SET_RETURNING.contains(&n.as_str())) =>
            {
                let function = single_name(name).unwrap_or_default();
                let array = match args.args.as_slice() {
                    [FunctionArg::Unnamed(FunctionArgExpr::Expr(array))] if function == "unnest" => array.clone(),
                    _ => call_args(&function, args.args.clone()),
                };
                let alias = column_alias(alias.take(), name);
                *factor = unnest(array, alias, *with_ordinality);
            }
            TableFactor::Function { name, args, with_ordinality, alias, .. }
                if single_name(name).is_some_and(|n| n == "unnest" || SET_RETURNING.contains(&n.as_str())) =>
            {
                let function = single_name(name).unwrap_or_default();
                let array = match args.as_slice() {
                    [FunctionArg::Unnamed(FunctionArgExpr::Expr(array))] if function == "unnest" => array.clone(),
                    _ => call_args(&function, args.clone()),
                };
                let alias = column_alias(alias.take(), name);
                *factor = unnest(array, alias, *with_ordinality);
            }
            TableFactor::UNNEST { alias, array_exprs, with_ordinality: true, .. } if array_exprs.len() == 1 => {
                let alias = column_alias(alias.take(), &ObjectName::from(vec![Ident::new("unnest")]));
                *factor = unnest(array_exprs.remove(0), alias, true);
            }
            TableFactor::UNNEST { alias: Some(alias), array_exprs, .. }
                if array_exprs.len() == 1 && alias.columns.is_empty() =>
            {
                alias.columns = vec![TableAliasColumnDef { name: alias.name.clone(), data_type: None }];
            }
            TableFactor::UNNEST { alias: alias @ None, array_exprs, .. } if array_exprs.len() == 1 => {
                *alias = column_alias(None, &ObjectName::from(vec![Ident::new("unnest")]));
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        table_oids::replace(select, self.has_column, self.oid_of);
        from_items::select_of_unnest(select);
        for window in &mut select.named_window {
            if let NamedWindowExpr::WindowSpec(spec) = &mut window.1 {
                restore_frame(spec);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        conditions::balance(expr);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(Function { over: Some(WindowType::WindowSpec(spec)), .. }) = expr {
            restore_frame(spec);
        }
        if let Some(rewritten) = rewritten(expr) {
            *expr = rewritten;
        }
        ControlFlow::Continue(())
    }
}

/// EXISTS in a SELECT list is a count of rows above zero: DataFusion makes joins of scalar subqueries there, and of EXISTS
/// in WHERE only.
struct CountExists;

impl VisitorMut for CountExists {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        let Expr::Exists { subquery, negated } = expr else { return ControlFlow::Continue(()) };
        let query = match subquery.body.as_ref() {
            SetExpr::Select(select)
                if is_plain(select) && subquery.limit_clause.is_none() && subquery.with.is_none() =>
            {
                let mut select = select.clone();
                select.projection = vec![SelectItem::UnnamedExpr(count_star())];
                let mut query = subquery.clone();
                query.order_by = None;
                *query.body = SetExpr::Select(select);
                query
            }
            _ => match parse_query(&format!("SELECT count(*) FROM ({subquery}) AS __exists")) {
                Ok(query) => query,
                Err(_) => return ControlFlow::Continue(()),
            },
        };
        let op = if *negated { BinaryOperator::Eq } else { BinaryOperator::Gt };
        *expr = Expr::BinaryOp { left: Box::new(Expr::Subquery(query)), op, right: Box::new(number(0)) };
        ControlFlow::Continue(())
    }
}

/// Whether counting its rows means counting what its FROM and WHERE give.
fn is_plain(select: &Select) -> bool {
    let no_groups = matches!(&select.group_by, GroupByExpr::Expressions(exprs, _) if exprs.is_empty());
    let is_aggregate = select.projection.iter().any(|item| match item {
        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => {
            !matches!(e, Expr::Value(_) | Expr::Identifier(_) | Expr::CompoundIdentifier(_))
        }
        _ => false,
    });
    no_groups && !is_aggregate && select.having.is_none() && select.distinct.is_none() && !select.from.is_empty()
}

fn count_star() -> Expr {
    call_args("count", vec![FunctionArg::Unnamed(FunctionArgExpr::Wildcard)])
}

/// `TABLE name` is `SELECT * FROM name`.
fn replace_tables(body: &mut SetExpr) {
    match body {
        SetExpr::Table(table) => {
            let quoted = |name: &Option<String>| name.as_ref().map(|n| format!("\"{}\"", folded(&Ident::new(n))));
            let parts: Vec<String> =
                [quoted(&table.schema_name), quoted(&table.table_name)].into_iter().flatten().collect();
            if let Ok(query) = parse_query(&format!("SELECT * FROM {}", parts.join("."))) {
                *body = SetExpr::Query(query);
            }
        }
        SetExpr::SetOperation { left, right, .. } => {
            replace_tables(left);
            replace_tables(right);
        }
        _ => {}
    }
}

/// A text in VALUES whose column has something else too is of the type of that.
fn wait_for_types(body: &mut SetExpr) {
    let SetExpr::Values(values) = body else { return };
    let is_text = |e: &Expr| matches!(e, Expr::Value(v) if matches!(v.value, Value::SingleQuotedString(_)));
    let is_null = |e: &Expr| matches!(e, Expr::Value(v) if v.value == Value::Null);
    let n_columns = values.rows.iter().map(|row| row.content.len()).min().unwrap_or(0);
    for column in 0..n_columns {
        let mut of_column = values.rows.iter().map(|row| &row.content[column]);
        if of_column.all(|e| is_text(e) || is_null(e)) {
            continue;
        }
        for expr in values.rows.iter_mut().map(|row| &mut row.content[column]).filter(|e| is_text(e)) {
            *expr = call(UNKNOWN, vec![expr.clone()]);
        }
    }
}

/// `FETCH FIRST n ROWS ONLY` is `LIMIT n`; `WITH TIES` says so in a function, which the analyzer looks for.
fn replace_fetch(query: &mut Query) {
    let Some(Fetch { with_ties, percent: false, quantity }) = &query.fetch else { return };
    let wanted = quantity.clone().unwrap_or_else(|| number(1));
    let wanted = if *with_ties { call(WITH_TIES, vec![wanted]) } else { wanted };
    match &mut query.limit_clause {
        None => {
            let clause = LimitClause::LimitOffset { limit: Some(wanted), offset: None, limit_by: Vec::new() };
            query.limit_clause = Some(clause);
        }
        Some(LimitClause::LimitOffset { limit: limit @ None, .. }) => *limit = Some(wanted),
        Some(_) => return,
    }
    query.fetch = None;
}

/// Intervals in window frames stay literals: DataFusion reads them itself.
fn restore_frame(spec: &mut WindowSpec) {
    let Some(frame) = &mut spec.window_frame else { return };
    for bound in std::iter::once(&mut frame.start_bound).chain(frame.end_bound.as_mut()) {
        if let WindowFrameBound::Preceding(Some(expr)) | WindowFrameBound::Following(Some(expr)) = bound
            && let Expr::Cast { expr: text, data_type: DataType::Interval { .. }, .. } = expr.as_ref()
        {
            **expr = Expr::Interval(Interval {
                value: text.clone(),
                leading_field: None,
                leading_precision: None,
                last_field: None,
                fractional_seconds_precision: None,
            });
        }
    }
}

/// sqlparser reads `a IS DISTINCT FROM b AND c` with `b AND c` as the operand; Postgres binds AND and OR more loosely.
fn distinct_operand(left: &Expr, right: &Expr, of: fn(Box<Expr>, Box<Expr>) -> Expr) -> Option<Expr> {
    let Expr::BinaryOp { left: first, op: op @ (BinaryOperator::And | BinaryOperator::Or), right: rest } = right else {
        return None;
    };
    let compared = distinct_operand(left, first, of).unwrap_or_else(|| of(Box::new(left.clone()), first.clone()));
    Some(Expr::BinaryOp { left: Box::new(compared), op: op.clone(), right: rest.clone() })
}

/// Functions that give a set of rows, and an array here.
const SET_RETURNING: [&str; 3] = ["generate_series", "generate_subscripts", "regexp_split_to_table"];

fn is_set_returning(expr: &Expr) -> bool {
    match expr {
        Expr::Function(f) => {
            f.over.is_none() && single_name(&f.name).is_some_and(|n| SET_RETURNING.contains(&n.as_str()))
        }
        _ => false,
    }
}

/// The last part of a name that is plain or of `pg_catalog`, folded.
pub(super) fn single_name(name: &ObjectName) -> Option<String> {
    let parts: Vec<String> = name.0.iter().filter_map(|p| p.as_ident()).map(folded).collect();
    match parts.as_slice() {
        [name] => Some(name.clone()),
        [schema, name] if schema == "pg_catalog" => Some(name.clone()),
        _ => None,
    }
}

/// An array's elements as rows, numbered from 1 if asked for.
fn unnest(array: Expr, alias: Option<TableAlias>, with_ordinality: bool) -> TableFactor {
    let mut alias = alias;
    let mut array_exprs = vec![array];
    if with_ordinality {
        let one = cast(number(1), DataType::BigInt(None));
        let last = cast(call("cardinality", array_exprs.clone()), DataType::BigInt(None));
        array_exprs.push(call("generate_series", vec![one, last]));
        if let Some(alias) = alias.as_mut().filter(|a| a.columns.len() == 1) {
            alias.columns.push(TableAliasColumnDef { name: Ident::new("ordinality"), data_type: None });
        }
    }
    TableFactor::UNNEST { alias, array_exprs, with_offset: false, with_offset_alias: None, with_ordinality: false }
}

/// The alias with its column, which is called as the relation unless the query says otherwise.
fn column_alias(alias: Option<TableAlias>, function: &ObjectName) -> Option<TableAlias> {
    let name = function.0.last().and_then(|p| p.as_ident()).cloned().unwrap_or_else(|| Ident::new("unnest"));
    let mut alias = alias.unwrap_or(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
    if alias.columns.is_empty() {
        alias.columns = vec![TableAliasColumnDef { name: alias.name.clone(), data_type: None }];
    }
    Some(alias)
}

pub(super) fn call(name: &str, args: Vec<Expr>) -> Expr {
    let args = args.into_iter().map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e))).collect();
    call_args(name, args)
}

fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast { kind: CastKind::DoubleColon, expr: Box::new(expr), data_type, array: false, format: None }
}

fn double(expr: &Expr) -> Expr {
    cast(expr.clone(), DataType::DoublePrecision)
}

fn text_literal(text: String) -> Expr {
    Expr::Value(Value::SingleQuotedString(text).into())
}

fn number(n: u64) -> Expr {
    Expr::Value(Value::Number(n.to_string(), false).into())
}

fn rewritten(expr: &Expr) -> Option<Expr> {
    Some(match expr {
        Expr::Interval(interval) => interval_cast(interval)?,
        Expr::AtTimeZone { timestamp, time_zone } => {
            call("timezone", vec![time_zone.as_ref().clone(), timestamp.as_ref().clone()])
        }
        Expr::Like { negated, any: false, expr, pattern, escape_char: Some(escape) } => {
            let pattern = Box::new(escaped(pattern, escape));
            Expr::Like { negated: *negated, any: false, expr: expr.clone(), pattern, escape_char: None }
        }
        Expr::ILike { negated, any: false, expr, pattern, escape_char: Some(escape) } => {
            let pattern = Box::new(escaped(pattern, escape));
            Expr::ILike { negated: *negated, any: false, expr: expr.clone(), pattern, escape_char: None }
        }
        Expr::SimilarTo { negated, expr, pattern, escape_char } => {
            let pattern = match escape_char {
                Some(escape) => escaped(pattern, escape),
                None => pattern.as_ref().clone(),
            };
            let like = call("similar_to", vec![expr.as_ref().clone(), pattern]);
            if *negated { Expr::UnaryOp { op: UnaryOperator::Not, expr: Box::new(like) } } else { like }
        }
        Expr::AnyOp { left, compare_op, right, .. } if !is_subquery(right) => {
            let name = quantified::name_of(Quantifier::Any, operator_of(compare_op)?)?;
            call(name, vec![left.as_ref().clone(), right.as_ref().clone()])
        }
        Expr::AllOp { left, compare_op, right } if !is_subquery(right) => {
            let name = quantified::name_of(Quantifier::All, operator_of(compare_op)?)?;
            call(name, vec![left.as_ref().clone(), right.as_ref().clone()])
        }
        Expr::AnyOp { left, compare_op, right, .. } => rows::any_of_subquery(left, compare_op, subquery_in(right)?),
        Expr::AllOp { left, compare_op, right } => rows::all_of_subquery(left, compare_op, subquery_in(right)?),
        Expr::InSubquery { expr, subquery, negated } => rows::in_subquery(expr, subquery, *negated)?,
        Expr::InList { expr, list, negated } => rows::in_list(expr, list, *negated)?,
        Expr::BinaryOp { left, op, right } => rows::compared(left, op, right)?,
        Expr::Between { expr, negated, low, high } => rows::between(expr, *negated, low, high)?,
        Expr::Subquery(query) => lookups::catalog_lookup(query)?,
        Expr::Function(function) => rewritten_call(function)?,
        Expr::IsDistinctFrom(left, right) => {
            distinct_operand(left, right, Expr::IsDistinctFrom).or_else(|| rows::distinct(left, right, false))?
        }
        Expr::IsNotDistinctFrom(left, right) => {
            distinct_operand(left, right, Expr::IsNotDistinctFrom).or_else(|| rows::distinct(left, right, true))?
        }
        Expr::UnaryOp { op: UnaryOperator::BitwiseNot, expr } => Expr::BinaryOp {
            left: expr.clone(),
            op: BinaryOperator::PGBitwiseXor,
            right: Box::new(Expr::UnaryOp { op: UnaryOperator::Minus, expr: Box::new(number(1)) }),
        },
        // An empty array has its type from the cast around it.
        Expr::Cast { expr, data_type, array: false, format: None, .. } if matches!(expr.as_ref(), Expr::Array(a) if a.elem.is_empty()) => {
            cast(text_literal("{}".to_string()), data_type.clone())
        }
        Expr::CompoundFieldAccess { root, access_chain } => bounded_slices(root, access_chain)?,
        Expr::UnaryOp { op: UnaryOperator::PGSquareRoot, expr } => call("sqrt", vec![double(expr)]),
        Expr::UnaryOp { op: UnaryOperator::PGCubeRoot, expr } => call("cbrt", vec![double(expr)]),
        Expr::UnaryOp { op: UnaryOperator::PGAbs, expr } => call("abs", vec![expr.as_ref().clone()]),
        expr if is_current_schema(expr) => call("current_schema", vec![]),
        // There is one collation.
        Expr::Collate { expr, .. } => expr.as_ref().clone(),
        Expr::Cast { expr, data_type, array: false, format: None, .. } => {
            limited_cast(expr, data_type).or_else(|| object_cast(expr, data_type))?
        }
        _ => return None,
    })
}

/// A slice without a bound goes to the end of the array: `a[:2]`, `a[2:]`, `a[:]`.
fn bounded_slices(root: &Expr, chain: &[AccessExpr]) -> Option<Expr> {
    let is_open = |access: &AccessExpr| match access {
        AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, .. }) => {
            lower_bound.is_none() || upper_bound.is_none()
        }
        _ => false,
    };
    if !chain.iter().any(is_open) {
        return None;
    }
    let bounded = |access: &AccessExpr| match access {
        AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
            AccessExpr::Subscript(Subscript::Slice {
                lower_bound: Some(lower_bound.clone().unwrap_or_else(|| number(1))),
                upper_bound: Some(upper_bound.clone().unwrap_or_else(|| number(i32::MAX as u64))),
                stride: stride.clone(),
            })
        }
        other => other.clone(),
    };
    Some(Expr::CompoundFieldAccess { root: Box::new(root.clone()), access_chain: chain.iter().map(bounded).collect() })
}

/// A pattern with backslashes as its escapes.
fn escaped(pattern: &Expr, escape: &ValueWithSpan) -> Expr {
    call("like_escape", vec![pattern.clone(), Expr::Value(escape.clone())])
}

fn rewritten_call(function: &Function) -> Option<Expr> {
    if let Some(counted) = ordered_sets::rewritten(function) {
        return Some(counted);
    }
    let name = &function.name;
    match &function.args {
        FunctionArguments::Subquery(query) if single_name(name).as_deref() == Some("array") => {
            lookups::array_subquery(query)
        }
        FunctionArguments::List(list) => match lookups::subscripts(name, &list.args) {
            Some(args) => Some(call("generate_series", args)),
            None => Some(call_args(&single_name(name)?, named_args::positional(name, &list.args)?)),
        },
        _ => None,
    }
}

fn is_subquery(expr: &Expr) -> bool {
    subquery_in(expr).is_some()
}

/// The subquery that an expression is, parentheses apart.
fn subquery_in(expr: &Expr) -> Option<&Query> {
    match expr {
        Expr::Subquery(query) => Some(query),
        Expr::Nested(inner) => subquery_in(inner),
        _ => None,
    }
}

/// `INTERVAL '1 day'` and `INTERVAL '5' DAY` are texts that Postgres' rules read.
fn interval_cast(interval: &Interval) -> Option<Expr> {
    if interval.leading_precision.is_some() || interval.last_field.is_some() {
        return None;
    }
    let text = match interval.value.as_ref() {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.clone(),
            Value::Number(text, _) => text.clone(),
            _ => return None,
        },
        _ => return None,
    };
    let unit = interval.leading_field.as_ref().map(DateTimeField::to_string).unwrap_or_default();
    let has_unit = text.chars().any(|c| c.is_ascii_alphabetic() || c == ':');
    let text = if has_unit || unit.is_empty() { text } else { format!("{text} {unit}") };
    Some(cast(text_literal(text), DataType::Interval { fields: None, precision: None }))
}

/// A cast to `varchar(n)` cuts, a cast to `char(n)` cuts and drops the blanks at the end.
fn limited_cast(expr: &Expr, data_type: &DataType) -> Option<Expr> {
    let length = |n: &Option<CharacterLength>| match n {
        Some(CharacterLength::IntegerLength { length, .. }) => Some(*length),
        _ => None,
    };
    let text = || cast(expr.clone(), DataType::Text);
    match data_type {
        DataType::Varchar(n) | DataType::CharacterVarying(n) | DataType::CharVarying(n) => Some(match length(n) {
            Some(n) => call(VARCHAR, vec![call("left", vec![text(), number(n)])]),
            None => call(VARCHAR, vec![text()]),
        }),
        DataType::Char(n) | DataType::Character(n) => {
            Some(call("cut_char", vec![text(), number(length(n).unwrap_or(1))]))
        }
        _ => None,
    }
}

/// `'t'::regclass` is the oid of a relation, `oid::regclass` its name; the engine has functions that do both, for
/// relations, types, schemas and roles. Functions are known by their names.
fn object_cast(expr: &Expr, data_type: &DataType) -> Option<Expr> {
    let name = match data_type {
        DataType::Regclass => "regclass".to_string(),
        DataType::Custom(name, _) => single_name(name)?,
        _ => return None,
    };
    let function = match name.as_str() {
        "regclass" => "regclass_name",
        "regtype" => "regtype_name",
        "regnamespace" => "regnamespace_name",
        "regrole" => "regrole_name",
        "regproc" | "regprocedure" | "regoper" | "regoperator" => "regproc_name",
        // `x::regclass::oid` is the oid, whatever x was.
        "oid" => return oid_of(expr),
        _ => return None,
    };
    Some(call(function, vec![expr.clone()]))
}

/// The oid of what a cast to `regclass` or to `regproc` gave.
fn oid_of(expr: &Expr) -> Option<Expr> {
    let Expr::Function(f) = expr else { return None };
    let function = match single_name(&f.name)?.as_str() {
        "regclass_name" => "regclass_oid",
        "regproc_name" => "regproc_oid",
        _ => return None,
    };
    match &f.args {
        FunctionArguments::List(list) => Some(call_args(function, list.args.clone())),
        _ => None,
    }
}
