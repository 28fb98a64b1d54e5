//! Under which names the rows of `millstream.row_errors` show their columns: those that a user knows.
//!
//! A name that differs from the plan's goes along with the column, in the metadata of its field: plans name computed
//! columns by their expressions (`sum(t.b)`), rewrites invent names, and a repeated name bears a tag.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef, Fields};
use datafusion::common::{DFSchema, TableReference};
use datafusion::logical_expr::Expr;
use millstream_expr::row_errors::SHOWN_AS;
use millstream_types::Result;

use crate::errors::from_datafusion;
use crate::functions::casts::CastFunction;
use crate::functions::overloads::sql_name;

/// What Postgres calls the value of an expression without a name.
const UNNAMED: &str = "?column?";
/// The optimizer's names for subexpressions that occur several times.
const COMMON_PREFIX: &str = "__common_expr_";

/// The schema of expressions over columns, each under the name that a user knows it by.
pub(super) fn of_exprs<'a>(
    schema: DFSchema,
    exprs: impl Iterator<Item = &'a Expr>,
    input: &DFSchema,
) -> Result<DFSchema> {
    let names: Vec<String> = exprs.map(|e| name_of(e, input)).collect();
    named(schema, |i| names.get(i).cloned())
}

/// The schema with the names of other columns, by position.
pub(super) fn of_columns<'a>(schema: DFSchema, column: impl Fn(usize) -> Option<&'a FieldRef>) -> Result<DFSchema> {
    named(schema, |i| column(i).map(|f| shown(f).to_owned()))
}

/// A field like another one, of another type.
pub(super) fn like(field: &Field, data_type: arrow::datatypes::DataType) -> Field {
    Field::new(field.name(), data_type, true).with_metadata(field.metadata().clone())
}

/// A field that is shown under the name of an expression.
pub(super) fn field_of(name: &str, data_type: arrow::datatypes::DataType, expr: &Expr, input: &DFSchema) -> Field {
    with_name(&Field::new(name, data_type, true), name_of(expr, input))
}

/// The columns of a schema as Arrow's, all of them nullable; of several that are shown under one name each has that of
/// its relation in front.
pub(super) fn arrow_fields(schema: &DFSchema) -> Fields {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    schema.fields().iter().for_each(|f| *counts.entry(shown(f)).or_default() += 1);
    let field = |(qualifier, field): (Option<&TableReference>, &FieldRef)| {
        let plain = Field::new(field.name(), field.data_type().clone(), true);
        let name = shown(field);
        let relation = qualifier.map(TableReference::table).filter(|q| !is_invented(q));
        match relation.filter(|_| !name.is_empty() && counts[name] > 1) {
            Some(relation) => with_name(&plain, format!("{relation}.{name}")),
            None => with_name(&plain, name.to_owned()),
        }
    };
    schema.iter().map(field).collect()
}

fn named(schema: DFSchema, name: impl Fn(usize) -> Option<String>) -> Result<DFSchema> {
    let fields = schema.iter().enumerate().map(|(i, (qualifier, field))| {
        let field = match name(i) {
            Some(name) if name != shown(field) => Arc::new(with_name(field, name)),
            _ => Arc::clone(field),
        };
        (qualifier.cloned(), field)
    });
    DFSchema::new_with_metadata(fields.collect(), schema.metadata().clone()).map_err(from_datafusion)
}

/// The field, shown under a name.
fn with_name(field: &Field, name: String) -> Field {
    let mut metadata = field.metadata().clone();
    if *field.name() == name {
        metadata.remove(SHOWN_AS);
    } else {
        metadata.insert(SHOWN_AS.to_owned(), name);
    }
    field.clone().with_metadata(metadata)
}

/// The name under which a column is shown; empty if it is left out.
fn shown(field: &FieldRef) -> &str {
    match field.metadata().get(SHOWN_AS) {
        Some(name) => name,
        None if is_invented(field.name()) => "",
        None => crate::binder::shown(field.name()),
    }
}

/// Whether no user has given the name.
fn is_invented(name: &str) -> bool {
    name.starts_with("__")
}

/// Whether a name reads as plans write expressions, which is no name that a user gave.
fn is_expression(name: &str) -> bool {
    name.contains(|c: char| "()+*/<>=|%&#~^[]{},.:".contains(c))
}

/// The name of a value, as Postgres would have it; empty if it is nothing that a user asked for.
fn name_of(expr: &Expr, input: &DFSchema) -> String {
    match expr {
        Expr::Column(column) => match input.maybe_index_of_column(column) {
            Some(i) => shown(&input.fields()[i]).to_owned(),
            None => column.name.clone(),
        },
        Expr::Alias(alias) if alias.name.starts_with(COMMON_PREFIX) => name_of(&alias.expr, input),
        Expr::Alias(alias) if is_invented(&alias.name) => String::new(),
        Expr::Alias(alias) => match crate::binder::shown(&alias.name) {
            UNNAMED => UNNAMED.to_owned(),
            name if is_expression(name) => name_of(&alias.expr, input),
            name => name.to_owned(),
        },
        Expr::Cast(cast) => name_of(&cast.expr, input),
        Expr::TryCast(cast) => name_of(&cast.expr, input),
        Expr::Literal(..) => String::new(),
        Expr::Case(_) => "case".to_owned(),
        Expr::AggregateFunction(call) => of_function(call.func.name()),
        Expr::WindowFunction(call) => of_function(call.fun.name()),
        Expr::ScalarFunction(call) => match call.args.as_slice() {
            [value, ..] if CastFunction::target_of(call).is_some() || call.func.name() == "cut_char" => {
                name_of(value, input)
            }
            _ if call.func.name() == "equal_key" => String::new(),
            _ => sql_name(call.func.name()).unwrap_or(UNNAMED).to_owned(),
        },
        _ => UNNAMED.to_owned(),
    }
}

/// The name of an aggregate or window function.
fn of_function(name: &str) -> String {
    match name {
        "var" => "var_samp".to_owned(),
        invented if is_invented(invented) => String::new(),
        name => name.to_owned(),
    }
}
