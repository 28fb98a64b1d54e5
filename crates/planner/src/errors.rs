//! DataFusion's and Arrow's errors as ours: kind, SQLSTATE, Postgres' words, position.

use datafusion::common::{Column, DataFusionError, SchemaError, Span};
use millstream_types::{Error, SqlState};

use crate::binder::shown;
use crate::typing::types::type_name;

/// The error that a user sees for one of DataFusion's, from planning or from execution.
pub fn from_datafusion(error: DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<Error>() {
            Ok(ours) => *ours,
            Err(other) => foreign(&other.to_string()),
        },
        DataFusionError::ArrowError(inner, _) => from_arrow(*inner),
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let error = from_datafusion(*inner);
            match (error.fields().position, position_of(diagnostic.span)) {
                (None, Some(position)) => error.with_position(position),
                _ => error,
            }
        }
        DataFusionError::Context(_, inner) => from_datafusion(*inner),
        DataFusionError::Shared(inner) => from_shared(&inner),
        DataFusionError::Collection(mut errors) if !errors.is_empty() => from_datafusion(errors.swap_remove(0)),
        DataFusionError::SchemaError(inner, _) => schema_error(&inner),
        DataFusionError::Plan(message) => plan_error(&message),
        DataFusionError::NotImplemented(message) if message.starts_with("nth_value not supported for n") => {
            Error::not_supported("the number of nth_value must be a constant beside EXCLUDE")
        }
        DataFusionError::NotImplemented(message) => Error::not_supported(sentence(&message)),
        DataFusionError::Execution(message) => execution_error(&message),
        DataFusionError::ResourcesExhausted(message) => Error::out_of_memory("out of memory").with_detail(message),
        DataFusionError::IoError(inner) => Error::of_io(&inner),
        other => Error::internal(sentence(&other.strip_backtrace())),
    }
}

/// The error of planning how a query, which has been found right, is executed: what is wrong with the plan is our fault.
pub fn from_physical_planning(error: DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) => from_physical_planning(*inner),
        DataFusionError::Plan(message) => Error::internal(sentence(&message)),
        other => from_datafusion(other),
    }
}

fn from_arrow(error: arrow::error::ArrowError) -> Error {
    match error {
        arrow::error::ArrowError::ExternalError(inner) => match inner.downcast::<DataFusionError>() {
            Ok(inner) => from_datafusion(*inner),
            Err(inner) => match inner.downcast::<Error>() {
                Ok(ours) => *ours,
                Err(other) => foreign(&other.to_string()),
            },
        },
        other => Error::from(other),
    }
}

/// An error of a library that DataFusion uses: of data if Postgres knows it, else a bug.
fn foreign(message: &str) -> Error {
    Error::of_kernel(message).unwrap_or_else(|| Error::internal(message))
}

/// An error that several consumers share cannot be taken apart; its words and kind can be read.
fn from_shared(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::External(inner) => match inner.downcast_ref::<Error>() {
            Some(ours) => ours.clone(),
            None => foreign(&inner.to_string()),
        },
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => from_shared(inner),
        DataFusionError::Shared(inner) => from_shared(inner),
        DataFusionError::ArrowError(inner, _) => match inner.as_ref() {
            arrow::error::ArrowError::DivideByZero => Error::user(SqlState::DIVISION_BY_ZERO, "division by zero"),
            arrow::error::ArrowError::ArithmeticOverflow(_) => {
                Error::user(SqlState::NUMERIC_VALUE_OUT_OF_RANGE, "value out of range")
            }
            arrow::error::ArrowError::IoError(_, inner) => Error::of_io(inner),
            other => Error::of_kernel(&other.to_string())
                .unwrap_or_else(|| Error::user(SqlState::DATA_EXCEPTION, sentence(&other.to_string()))),
        },
        DataFusionError::Execution(message) => execution_error(message),
        DataFusionError::ResourcesExhausted(message) => {
            Error::out_of_memory("out of memory").with_detail(message.clone())
        }
        DataFusionError::IoError(inner) => Error::of_io(inner),
        other => Error::internal(sentence(&other.strip_backtrace())),
    }
}

/// Spans are on one line: the column is the position.
fn position_of(span: Option<Span>) -> Option<usize> {
    span.map(|s| s.start.column as usize).filter(|&column| column > 0)
}

fn schema_error(error: &SchemaError) -> Error {
    let at = |error: Error, column: &Column| match position_of(column.spans().first()) {
        Some(position) => error.with_position(position),
        None => error,
    };
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => at(undefined_column(field, valid_fields), field),
        SchemaError::AmbiguousReference { field } => {
            let message = format!("column reference \"{}\" is ambiguous", field.name);
            at(Error::user(SqlState::AMBIGUOUS_COLUMN, message), field)
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            Error::user(SqlState::DUPLICATE_COLUMN, format!("column name \"{name}\" is not unique"))
        }
    }
}

fn undefined_column(field: &Column, valid_fields: &[Column]) -> Error {
    let Some(relation) = &field.relation else {
        return Error::user(SqlState::UNDEFINED_COLUMN, format!("column \"{}\" does not exist", field.name));
    };
    let table = shown(relation.table());
    let known = valid_fields.iter().any(|f| f.relation.as_ref().is_some_and(|r| r.table() == relation.table()));
    if known {
        return Error::user(SqlState::UNDEFINED_COLUMN, format!("column {table}.{} does not exist", field.name));
    }
    let message = format!("missing FROM-clause entry for table \"{table}\"");
    Error::user(SqlState::UNDEFINED_TABLE, message)
}

/// What DataFusion's planner says of a clause, and Postgres' SQLSTATE and words for it.
const CLAUSE_ERRORS: &[(&str, SqlState, &str)] = &[
    (
        "For SELECT DISTINCT, ORDER BY expressions",
        SqlState::INVALID_COLUMN_REFERENCE,
        "for SELECT DISTINCT, ORDER BY expressions must appear in select list",
    ),
    (
        "SELECT DISTINCT ON expressions must match",
        SqlState::INVALID_COLUMN_REFERENCE,
        "SELECT DISTINCT ON expressions must match initial ORDER BY expressions",
    ),
    ("Too many columns! The subquery", SqlState::SYNTAX_ERROR, "subquery must return only one column"),
];

/// What DataFusion says of subqueries that its rules are not made for, where none of ours has made a join of them.
const PLACES_OF_SUBQUERIES: &[&str] = &[
    "Correlated scalar subquery can only be used in",
    "Correlated scalar subquery in the GROUP BY clause",
    "A GROUP BY clause in a scalar correlated subquery",
    "In/Exist/SetComparison subquery can only be used in",
    "Accessing outer reference columns is not allowed",
    "Window expressions should not contain a mixed of outer references",
];

/// Errors about positions in the SELECT list, and widths of set operations.
fn clause_error(message: &str) -> Option<Error> {
    if let Some((_, state, words)) = CLAUSE_ERRORS.iter().find(|(start, _, _)| message.starts_with(start)) {
        return Some(Error::user(*state, *words));
    }
    let position = |prefix: &str, clause: &str| {
        let number = message.strip_prefix(prefix)?;
        let number: String = number.chars().take_while(|c| c.is_ascii_digit() || *c == '-').collect();
        let message = format!("{clause} position {number} is not in select list");
        Some(Error::user(SqlState::INVALID_COLUMN_REFERENCE, message))
    };
    if message.starts_with("Order by index starts at 1") {
        return Some(Error::user(SqlState::INVALID_COLUMN_REFERENCE, "ORDER BY position 0 is not in select list"));
    }
    if let Some((operation, _)) = message.split_once(" queries have different number of columns") {
        let message = format!("each {operation} query must have the same number of columns");
        return Some(Error::user(SqlState::SYNTAX_ERROR, message));
    }
    position("Order by column out of bounds, specified: ", "ORDER BY")
        .or_else(|| position("Cannot find column with position ", "GROUP BY"))
}

/// Errors that DataFusion's planner words itself.
fn plan_error(message: &str) -> Error {
    if let Some(error) = clause_error(message) {
        return error;
    }
    if PLACES_OF_SUBQUERIES.iter().any(|start| message.starts_with(start)) {
        return Error::not_supported("this subquery cannot be turned into a join yet")
            .with_detail("it stands, or refers to the outer query, where that is not supported")
            .with_hint("write it as a join, or as a column of a subquery in FROM");
    }
    if let Some(rest) = message.strip_prefix("Column in ")
        && rest.contains("must be in GROUP BY or an aggregate function")
    {
        let column = quoted_after(message, "column \"").unwrap_or_default();
        let message =
            format!("column \"{column}\" must appear in the GROUP BY clause or be used in an aggregate function");
        return Error::user(SqlState::GROUPING_ERROR, message);
    }
    if let Some(found) = message
        .strip_prefix("Cannot create filter with non-boolean predicate")
        .and_then(|m| m.rsplit_once("returning "))
    {
        let name = found.1.parse().map_or_else(|_| found.1.to_lowercase(), |t| type_name(&t));
        let message = format!("argument of WHERE must be type boolean, not type {name}");
        return Error::user(SqlState::DATATYPE_MISMATCH, message);
    }
    if message.contains("must appear in the GROUP BY clause") {
        return Error::user(SqlState::GROUPING_ERROR, sentence(message));
    }
    if message.contains("Invalid function") {
        let name = quoted_after(message, "Invalid function '").unwrap_or_default();
        return Error::user(SqlState::UNDEFINED_FUNCTION, format!("function {name} does not exist"));
    }
    if let Some(name) =
        quoted_after(message, "Function '").filter(|_| message.contains("failed to match any signature"))
    {
        let argument = message.split_once("DataType: ").and_then(|(_, rest)| rest.split_once(')'));
        let argument = argument.and_then(|(t, _)| t.parse().ok()).map(|t| type_name(&t)).unwrap_or_default();
        return Error::user(SqlState::UNDEFINED_FUNCTION, format!("function {name}({argument}) does not exist"))
            .with_hint(
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            );
    }
    if message.starts_with("Correlated scalar subquery must be aggregated") {
        return Error::not_supported("a correlated scalar subquery that is not an aggregate is not supported yet")
            .with_hint("wrap its column in max() or min(), or write a left join");
    }
    if message.contains("coerce") || message.contains("No function matches") || message.contains("Signature") {
        return Error::user(SqlState::UNDEFINED_FUNCTION, sentence(message));
    }
    if message.contains("boolean") {
        return Error::user(SqlState::DATATYPE_MISMATCH, sentence(message));
    }
    Error::user(SqlState::SYNTAX_ERROR, sentence(message))
}

fn execution_error(message: &str) -> Error {
    let lower = message.to_lowercase();
    let state = if lower.contains("divide by zero") || lower.contains("division by zero") {
        return Error::user(SqlState::DIVISION_BY_ZERO, "division by zero");
    } else if let Some(error) = Error::of_kernel(message) {
        return error;
    } else if lower.contains("overflow") || lower.contains("out of range") {
        SqlState::NUMERIC_VALUE_OUT_OF_RANGE
    } else if let Some(parameter) =
        quoted_after(message, "Placeholder '").filter(|_| message.contains("was not provided a value"))
    {
        return Error::user(SqlState::UNDEFINED_PARAMETER, format!("there is no parameter {parameter}"));
    } else if lower.starts_with("step can't be 0") {
        return Error::user(SqlState::INVALID_PARAMETER_VALUE, "step size cannot equal zero");
    } else if lower.contains("more than one row") || lower.contains("returned more than") {
        let message = "more than one row returned by a subquery used as an expression";
        return Error::user(SqlState::CARDINALITY_VIOLATION, message);
    } else if lower.contains("parse") || lower.contains("cast") {
        SqlState::INVALID_TEXT_REPRESENTATION
    } else {
        SqlState::DATA_EXCEPTION
    };
    Error::user(state, sentence(message))
}

/// The text between a prefix and the next quote of the prefix' kind.
fn quoted_after<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    let quote = prefix.chars().last()?;
    let rest = message.split_once(prefix)?.1;
    rest.split_once(quote).map(|(inner, _)| inner)
}

/// The first line of a message, in lower case at its beginning and without a full stop.
fn sentence(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim().trim_end_matches('.');
    let mut chars = line.chars();
    let is_word = line.chars().nth(1).is_some_and(char::is_lowercase);
    match chars.next() {
        Some(first) if !is_word => std::iter::once(first).chain(chars).collect(),
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}
