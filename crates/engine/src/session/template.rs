//! Queries that differ only in the constants by which they look rows up: one plan serves them all.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringViewArray};
use millstream_planner::ast::Statement;
use millstream_planner::constants::{Constant, without_constants};
use millstream_planner::parser::Parsed;
use millstream_types::SqlType;

use super::planned::{ParsedStatement, PlannedQuery, Seen};
use crate::statement_cache::StatementCache;

/// A query with parameters for its constants.
pub(super) struct Template {
    statement: ParsedStatement,
    constants: Vec<Constant>,
}

impl Template {
    /// That of a statement; `None` if it has none. Equal queries share one statement, which is kept among the known ones.
    pub(super) fn of(parsed: &Parsed, known: &StatementCache) -> Option<Template> {
        let Statement::Query(query) = &parsed.statement else { return None };
        if parsed.text.contains('$') {
            return None;
        }
        let (query, constants) = without_constants(query)?;
        let text = query.to_string();
        let statement = known.get(&text).unwrap_or_else(|| {
            let statement =
                ParsedStatement::new(Parsed { statement: Statement::Query(query), text: text.clone(), offset: 0 });
            known.put(&text, statement.clone());
            statement
        });
        Some(Template { statement, constants })
    }

    /// The plan, and the constants as values of its parameters; `None` if it looks no rows up, or a constant means something
    /// else there than a parameter.
    pub(super) fn planned(&self, seen: Seen<'_>) -> Option<(Arc<PlannedQuery>, Vec<ArrayRef>)> {
        let Statement::Query(query) = &self.statement.parsed().statement else { return None };
        // What is wrong with the query is found once more without parameters.
        let planned = self.statement.query(query, seen, true).ok()?;
        let types = planned.param_types();
        let values = self.constants.iter().zip(types).map(|(constant, sql_type)| value(constant, sql_type));
        let values = values.collect::<Option<Vec<ArrayRef>>>()?;
        planned.point(&values)?;
        Some((planned, values))
    }
}

/// A constant as an array of length 1, if it is of the type by itself.
fn value(constant: &Constant, sql_type: &SqlType) -> Option<ArrayRef> {
    Some(match (constant, sql_type) {
        (Constant::Integer(n), SqlType::Integer) => Arc::new(Int32Array::from(vec![i32::try_from(*n).ok()?])),
        (Constant::Integer(n), SqlType::BigInt) => Arc::new(Int64Array::from(vec![*n])),
        (Constant::Text(text), SqlType::Text) => Arc::new(StringViewArray::from(vec![text.as_str()])),
        _ => return None,
    })
}
