//! Statements that differ only in the constants by which they look rows up: one plan serves them all.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, Int64Array, StringViewArray};
use millstream_planner::ast::Statement;
use millstream_planner::constants::{Constant, without_constants};
use millstream_planner::parser::{Parsed, parse};
use millstream_types::SqlType;

use super::planned::{ParsedStatement, PlannedQuery, PlannedWrite, Seen};
use crate::statement_cache::StatementCache;

/// A statement with parameters for its constants.
pub(super) struct Template {
    statement: ParsedStatement,
    constants: Vec<Constant>,
}

impl Template {
    /// That of a statement; `None` if it has none. Those that are the same share one, which is kept among the known ones.
    pub(super) fn of(parsed: &Parsed, known: &StatementCache) -> Option<Template> {
        let (text, constants) = without_constants(&parsed.statement, &parsed.text)?;
        if let Some(statement) = known.get(&text) {
            return Some(Template { statement, constants });
        }
        let mut parsed = parse(&text).ok()?.into_iter();
        let statement = ParsedStatement::new(parsed.next()?);
        known.put(&text, statement.clone());
        Some(Template { statement, constants })
    }

    /// The plan of a query, and the constants as values of its parameters; `None` if it looks no rows up, or a constant means
    /// something else there than a parameter.
    pub(super) fn query(&self, seen: Seen<'_>) -> Option<(Arc<PlannedQuery>, Vec<ArrayRef>)> {
        let Statement::Query(query) = &self.statement.parsed().statement else { return None };
        // What is wrong with the statement is found once more without parameters.
        let planned = self.statement.query(query, seen, true).ok()?;
        let values = self.values(planned.param_types())?;
        planned.point(&values)?;
        Some((planned, values))
    }

    /// As [`Template::query`], of an `UPDATE` or `DELETE`.
    pub(super) fn write(&self, seen: Seen<'_>) -> Option<(Arc<PlannedWrite>, Vec<ArrayRef>)> {
        let planned = match &self.statement.parsed().statement {
            Statement::Update(update) => self.statement.update(update, seen, true),
            Statement::Delete(delete) => self.statement.delete(delete, seen, true),
            _ => return None,
        };
        let planned = planned.ok()?;
        let values = self.values(planned.param_types())?;
        planned.point(&values)?;
        Some((planned, values))
    }

    fn values(&self, types: &[SqlType]) -> Option<Vec<ArrayRef>> {
        self.constants.iter().zip(types).map(|(constant, sql_type)| value(constant, sql_type)).collect()
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
