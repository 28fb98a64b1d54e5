//! From a query's tree to a typed logical plan, and on to an optimized one.

mod char_columns;
mod checks;
mod clauses;
mod context;
mod full_using;
mod names;
mod outer_names;
mod params;
mod positions;
mod rewrite;
mod source;
mod unknown_functions;
mod windows;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::common::{DataFusionError, SchemaError};
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast::{ObjectName, Statement};
use millstream_types::{Error, Result, SqlState, SqlType};

use crate::ast::Query;
use crate::catalog::{Catalog, Relation, RelationId};
use crate::errors::from_datafusion;
use crate::parser::{folded, parse_query};
use crate::session_context::{Purpose, RuleContext, analyzer_rules, optimizer_rules, options};
use crate::short_circuit::make_lazy;
use crate::sliding_frames::recompute_frames;
use crate::typing::chains::unrolled_plan;
use crate::typing::planner::Chains;
use crate::typing::zoned::in_session_zone;
use crate::{reading, rules};
pub(crate) use checks::located;
pub(crate) use clauses::check_row_condition;
pub(crate) use context::{PlanContext, external};
pub(crate) use names::shown;
pub use params::with_params;
use rewrite::named_casts::{has_name_clash, is_name_clash, name_casts};
pub(crate) use rewrite::rewrite_expr;
pub use source::RelationSource;

/// How often a query is planned anew because a wildcard brought a name that its list has too.
const MAX_NAME_CONFLICTS: usize = 64;

/// A query that means something.
#[derive(Clone, Debug)]
pub struct BoundQuery {
    /// Typed, not yet optimized. The types of its output are exactly those of `columns`.
    pub plan: LogicalPlan,
    /// The names and types of its output; names may repeat.
    pub columns: Vec<(String, SqlType)>,
    /// The types of `$1`, `$2` ...
    pub param_types: Vec<SqlType>,
    /// The relations that it names; those behind views that it names are not among them.
    pub relations: Vec<RelationId>,
}

/// Resolves names and types of a query. `param_types` are those that the client fixed.
///
/// # Errors
/// As Postgres: 42P01, 42703, 42702, 42883, 42803, 42804 ..., with positions in the statement's text where known. With
/// [`Purpose::View`] 0A000 for what a view cannot hold.
pub fn bind_query(
    catalog: &Catalog,
    query: &Query,
    param_types: &[Option<SqlType>],
    purpose: Purpose,
) -> Result<BoundQuery> {
    reading::under(catalog.settings(), || bind(&PlanContext::new(catalog, purpose), query, param_types))
}

pub(crate) fn bind(context: &PlanContext<'_>, query: &Query, param_types: &[Option<SqlType>]) -> Result<BoundQuery> {
    clauses::check_clauses(query)?;
    let mut planned = typed_plan(context, query, param_types);
    let clashes = match &planned {
        Ok((plan, _)) => has_name_clash(plan)?,
        Err(error) => is_name_clash(error),
    };
    if clashes && !context.names_casts.replace(true) {
        planned = typed_plan(context, query, param_types);
    }
    let (plan, param_types) = planned.map_err(|error| match error.state() {
        SqlState::GROUPING_ERROR => unknown_functions::unknown_function(context, query, param_types).unwrap_or(error),
        _ => checks::located(error, query),
    })?;
    if context.purpose == Purpose::View {
        checks::check_view(&plan)?;
    }
    let (plan, columns) = with_output_types(plan)?;
    let relations = context.used.borrow().iter().copied().collect();
    Ok(BoundQuery { plan, columns, param_types, relations })
}

/// The analyzed plan and the types of its parameters. A query with parameters whose types are open is planned twice:
/// first to find them, then with them, so that everything above a parameter has its final type.
fn typed_plan(
    context: &PlanContext<'_>,
    query: &Query,
    param_types: &[Option<SqlType>],
) -> Result<(LogicalPlan, Vec<SqlType>)> {
    let plan = analyze(plan_query(context, query, param_types)?)?;
    let params = params::params_of(&plan)?;
    let types = params::all_types(&params, param_types);
    let is_open = |(i, _): (usize, &SqlType)| param_types.get(i).is_none_or(Option::is_none);
    if !types.iter().enumerate().any(is_open) {
        return Ok((plan, types));
    }
    let known: Vec<_> = types.iter().cloned().map(Some).collect();
    let plan = analyze(plan_query(context, query, &known)?)?;
    Ok((plan, types))
}

/// DataFusion's plan of a query, before types are resolved.
fn plan_query(context: &PlanContext<'_>, query: &Query, param_types: &[Option<SqlType>]) -> Result<LogicalPlan> {
    let mut conflicts = BTreeSet::new();
    loop {
        let mut named = query.clone();
        names::name_columns(&mut named, &conflicts);
        let catalog = context.catalog;
        let has_column = |relation: &ObjectName, column: &str| has_column(catalog, relation, column);
        rewrite::rewrite_query(&mut named, &has_column, &|relation| found(catalog, relation).map(|r| r.oid));
        if context.names_casts.get() {
            name_casts(&mut named);
        }
        let mut planner_context = PlannerContext::new().with_prepare_param_data_types(param_fields(param_types));
        let statement = Statement::Query(Box::new(named));
        let planner = SqlToRel::new(context);
        let error = match planner.sql_statement_to_plan_with_context(statement, &mut planner_context) {
            Ok(plan) => return char_columns::with_char_comparisons(plan).map_err(from_datafusion),
            Err(error) => error,
        };
        match conflicting_name(&error) {
            Some(name) if conflicts.len() < MAX_NAME_CONFLICTS && conflicts.insert(name.clone()) => {}
            _ => {
                let error = from_datafusion(error);
                // What is grouped by may be the beginning of a longer expression.
                if error.state() != SqlState::GROUPING_ERROR || context.chains.replace(Chains::Nest) == Chains::Nest {
                    return Err(error);
                }
            }
        }
    }
}

fn has_column(catalog: &Catalog, relation: &ObjectName, column: &str) -> bool {
    found(catalog, relation).is_some_and(|r| r.columns.iter().any(|c| c.name == column))
}

fn found<'a>(catalog: &'a Catalog, relation: &ObjectName) -> Option<&'a Arc<Relation>> {
    let parts: Vec<String> = relation.0.iter().filter_map(|p| p.as_ident()).map(folded).collect();
    match parts.as_slice() {
        [name] => catalog.find(None, name),
        [schema, name] => catalog.find(Some(schema), name),
        _ => None,
    }
}

fn param_fields(param_types: &[Option<SqlType>]) -> Vec<Option<FieldRef>> {
    let field = |t: &SqlType| Arc::new(Field::new("", t.arrow_type(), true));
    param_types.iter().map(|t| t.as_ref().map(field)).collect()
}

/// The name that DataFusion found twice in one SELECT list.
fn conflicting_name(error: &DataFusionError) -> Option<String> {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => conflicting_name(inner),
        DataFusionError::Collection(errors) => errors.iter().find_map(conflicting_name),
        DataFusionError::SchemaError(inner, _) => match inner.as_ref() {
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
                Some(name.clone())
            }
            SchemaError::AmbiguousReference { field } if field.relation.is_some() => Some(field.name.clone()),
            _ => None,
        },
        DataFusionError::Plan(message) if message.starts_with("Projections require unique expression names") => {
            let quoted = message.split_once("expression \"")?.1;
            let name = quoted.split_once("\" at position")?.0;
            let name = name.rsplit_once(" AS ").map_or(name, |(_, alias)| alias);
            Some(name.rsplit_once('.').map_or(name, |(_, column)| column).to_string())
        }
        _ => None,
    }
}

fn analyze(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = rules::analyze(plan, &analyzer_rules(), options()).map_err(from_datafusion)?;
    in_session_zone(plan).map_err(from_datafusion)
}

/// The plan with a last projection where its output is not yet of the types that clients see.
fn with_output_types(plan: LogicalPlan) -> Result<(LogicalPlan, Vec<(String, SqlType)>)> {
    let mut columns = Vec::new();
    let mut exprs = Vec::new();
    let mut any_cast = false;
    for (i, (qualifier, field)) in plan.schema().iter().enumerate() {
        let name = names::shown(field.name()).to_string();
        let sql_type = SqlType::of_arrow(field.data_type()).ok_or_else(|| {
            Error::not_supported(format!(
                "column \"{name}\" has type {}, which is not supported yet",
                field.data_type()
            ))
        })?;
        let wanted = sql_type.arrow_type();
        let column = Expr::from((qualifier, field));
        if wanted == *field.data_type() {
            exprs.push(column);
        } else {
            any_cast = true;
            exprs.push(cast(column, wanted).alias_qualified(qualifier.cloned(), field.name()));
        }
        columns.push((name, char_columns::char_type(&plan, i).unwrap_or(sql_type)));
    }
    if !any_cast {
        return Ok((plan, columns));
    }
    let plan =
        LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)?;
    Ok((plan, columns))
}

/// The plan of a view that is not materialized, with the columns that the catalog gives it; not analyzed, because the
/// query that names the view will be, and resolving twice would widen sums twice.
fn view_plan(outer: &PlanContext<'_>, view: &Arc<Relation>) -> Result<LogicalPlan> {
    let text = view.query_text().ok_or_else(|| Error::internal("a view without a query"))?;
    let context = PlanContext {
        view_depth: outer.view_depth + 1,
        names_casts: outer.names_casts.clone(),
        ..PlanContext::new(outer.catalog, outer.purpose)
    };
    let query = parse_query(text)?;
    let plan = plan_query(&context, &query, &[]).map_err(|e| without_position(e, view))?;
    let columns = plan.schema().iter().zip(&view.columns);
    let exprs: Vec<Expr> = columns
        .map(|((qualifier, field), column)| {
            let (value, wanted) = (Expr::from((qualifier, field)), column.sql_type.arrow_type());
            let value = if *field.data_type() == wanted { value } else { cast(value, wanted) };
            value.alias(&column.name)
        })
        .collect();
    LogicalPlanBuilder::from(plan).project(exprs).and_then(LogicalPlanBuilder::build).map_err(from_datafusion)
}

/// An error inside a view points nowhere in the text of the query that names the view.
fn without_position(error: Error, view: &Relation) -> Error {
    let fields = error.fields();
    let mut plain = Error::new(fields.kind, fields.state, fields.message.clone());
    plain = plain.with_detail(match &fields.detail {
        Some(detail) => format!("{detail}; in view \"{}\"", view.name),
        None => format!("in view \"{}\"", view.name),
    });
    match &fields.hint {
        Some(hint) => plain.with_hint(hint.clone()),
        None => plain,
    }
}

/// Applies the optimizer's rules. `now_us` is the value of `now()`, in microseconds since 1970 UTC; without it `now()`
/// stays as it is.
///
/// # Errors
/// What a rule finds wrong with the plan, such as a subquery that cannot be decorrelated (0A000).
pub fn optimize(plan: LogicalPlan, purpose: Purpose, now_us: Option<i64>) -> Result<LogicalPlan> {
    let context = RuleContext::new(purpose, now_us);
    let rules = optimizer_rules(purpose);
    let plan = reading::folding(|| rules::optimize(plan, &rules, &context)).map_err(from_datafusion)?;
    checks::check_decorrelated(&plan)?;
    match purpose {
        Purpose::AdHoc => make_lazy(plan).and_then(unrolled_plan).and_then(recompute_frames).map_err(from_datafusion),
        Purpose::View => Ok(plan),
    }
}
