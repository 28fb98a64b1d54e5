//! Constants by which a statement looks rows up, as parameters: so one plan serves all statements that differ in them only.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, SetExpr, Value};

use crate::ast::{Query, Statement};

/// A constant that was taken out of a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constant {
    /// A number without a sign, a point or an exponent.
    Integer(i64),
    /// A text in quotes.
    Text(String),
}

/// The statement's text with `$1`, `$2` ... for the constants to which its WHERE says that columns are equal and those that an
/// UPDATE sets columns to, and these constants; `None` if there are none, or the statement is not over one relation.
pub fn without_constants(statement: &Statement, text: &str) -> Option<(String, Vec<Constant>)> {
    // Positions are those of characters, and no parameter is to be taken for one of the statement's own.
    if !text.is_ascii() || text.contains('$') {
        return None;
    }
    let mut found = Vec::new();
    match statement {
        Statement::Query(query) => in_condition(condition_of(query)?, &mut found),
        Statement::Update(update) if update.from.is_empty() && update.with.is_none() => {
            update.assignments.iter().for_each(|assignment| found.extend(constant(&assignment.value)));
            in_condition(update.filter.as_ref()?, &mut found);
        }
        Statement::Delete(delete) if delete.using.is_empty() && delete.with.is_none() => {
            in_condition(delete.filter.as_ref()?, &mut found);
        }
        _ => return None,
    }
    if found.is_empty() {
        return None;
    }
    let (mut template, mut constants, mut end) = (String::with_capacity(text.len()), Vec::new(), 0);
    for Found { from, to, constant } in found {
        template.push_str(text.get(end..from)?);
        constants.push(constant);
        template.push_str(&format!("${}", constants.len()));
        end = to;
    }
    template.push_str(text.get(end..)?);
    Some((template, constants))
}

/// The WHERE of a query over one relation.
fn condition_of(query: &Query) -> Option<&Expr> {
    match query.body.as_ref() {
        SetExpr::Select(select) => match select.from.as_slice() {
            [from] if from.joins.is_empty() => select.selection.as_ref(),
            _ => None,
        },
        _ => None,
    }
}

/// A constant, and where it stands in the text, in bytes from 0.
struct Found {
    from: usize,
    to: usize,
    constant: Constant,
}

fn in_condition(condition: &Expr, found: &mut Vec<Found>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            in_condition(left, found);
            in_condition(right, found);
        }
        Expr::Nested(inner) => in_condition(inner, found),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } if is_column(left) => found.extend(constant(right)),
        _ => {}
    }
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn constant(expr: &Expr) -> Option<Found> {
    let Expr::Value(value) = expr else { return None };
    let constant = match &value.value {
        Value::Number(digits, false) => Constant::Integer(digits.parse().ok()?),
        Value::SingleQuotedString(text) => Constant::Text(text.clone()),
        _ => return None,
    };
    let at = |column: u64| usize::try_from(column).ok()?.checked_sub(1);
    Some(Found { from: at(value.span.start.column)?, to: at(value.span.end.column)?, constant })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::parse;

    fn check(sql: &str, wanted: Option<(&str, &[Constant])>) {
        let parsed = parse(sql).expect("a statement").remove(0);
        let found = without_constants(&parsed.statement, &parsed.text);
        assert_eq!(found, wanted.map(|(sql, constants)| (sql.to_owned(), constants.to_vec())));
    }

    #[test]
    fn constants_beside_columns_are_taken() {
        let text = |text: &str| Constant::Text(text.to_owned());
        check(
            " SELECT a, 3 FROM t\nWHERE a = 5 AND (t.s='it''s' AND b = -1) AND c = E'\\n' AND d > 4 LIMIT 2",
            Some((
                "SELECT a, 3 FROM t\nWHERE a = $1 AND (t.s=$2 AND b = -1) AND c = $3 AND d > 4 LIMIT 2",
                &[Constant::Integer(5), text("it's"), text("\n")],
            )),
        );
        check(
            "UPDATE t SET a = 7, b = b + 1, s = 'x' WHERE k = 12 RETURNING 5",
            Some((
                "UPDATE t SET a = $1, b = b + 1, s = $2 WHERE k = $3 RETURNING 5",
                &[Constant::Integer(7), text("x"), Constant::Integer(12)],
            )),
        );
        check("DELETE FROM t WHERE k = 12", Some(("DELETE FROM t WHERE k = $1", &[Constant::Integer(12)])));
    }

    #[test]
    fn others_stay() {
        check("SELECT a = 5 FROM t", None);
        check("SELECT a FROM t WHERE a = 5 OR a = 6", None);
        check("SELECT a FROM t WHERE a = 5.0", None);
        check("SELECT a FROM t WHERE abs(a) = 5", None);
        check("SELECT a FROM t WHERE a = NULL", None);
        check("SELECT a FROM t WHERE a = 5 AND s = '$1'", None);
        check("SELECT a FROM t WHERE a = 5 AND s = 'ü'", None);
        check("SELECT 1 FROM t, u WHERE t.a = 5", None);
        check("SELECT a FROM t WHERE a = 5 UNION SELECT 1", None);
        check("UPDATE t SET a = 5", None);
        check("DELETE FROM t USING u WHERE t.a = 5", None);
    }
}
