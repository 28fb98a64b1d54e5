//! Constants of a query by which it looks rows up, as parameters: so one plan serves all queries that differ in them only.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Query, SetExpr, UnaryOperator, Value};

/// A constant that was taken out of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constant {
    /// A number without a point or an exponent.
    Integer(i64),
    /// A text in quotes.
    Text(String),
}

/// The query with `$1`, `$2` ... for the constants to which its WHERE says that columns are equal, and these constants; `None`
/// if there are none. A query that has parameters itself is not for this.
pub fn without_constants(query: &Query) -> Option<(Box<Query>, Vec<Constant>)> {
    let SetExpr::Select(select) = query.body.as_ref() else { return None };
    let [from] = select.from.as_slice() else { return None };
    if !from.joins.is_empty() || !select.selection.as_ref().is_some_and(has_constant) {
        return None;
    }
    let mut query = Box::new(query.clone());
    let mut constants = Vec::new();
    if let SetExpr::Select(select) = query.body.as_mut()
        && let Some(condition) = &mut select.selection
    {
        take_constants(condition, &mut constants);
    }
    Some((query, constants))
}

fn has_constant(condition: &Expr) -> bool {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => has_constant(left) || has_constant(right),
        Expr::Nested(inner) => has_constant(inner),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => is_column(left) && constant(right).is_some(),
        _ => false,
    }
}

fn take_constants(condition: &mut Expr, constants: &mut Vec<Constant>) {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            take_constants(left, constants);
            take_constants(right, constants);
        }
        Expr::Nested(inner) => take_constants(inner, constants),
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } if is_column(left) => {
            if let Some(taken) = constant(right) {
                constants.push(taken);
                **right = Expr::value(Value::Placeholder(format!("${}", constants.len())));
            }
        }
        _ => {}
    }
}

fn is_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
}

fn constant(expr: &Expr) -> Option<Constant> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::Number(digits, false) => digits.parse().ok().map(Constant::Integer),
            Value::SingleQuotedString(text) => Some(Constant::Text(text.clone())),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match constant(expr)? {
            Constant::Integer(n) => Some(Constant::Integer(-n)),
            Constant::Text(_) => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parser::parse_query;

    fn check(sql: &str, wanted: Option<(&str, &[Constant])>) {
        let query = parse_query(sql).expect("a query");
        let found = without_constants(&query).map(|(query, constants)| (query.to_string(), constants));
        assert_eq!(found, wanted.map(|(sql, constants)| (sql.to_owned(), constants.to_vec())));
    }

    #[test]
    fn constants_beside_columns_are_taken() {
        let constants = [Constant::Integer(5), Constant::Text("x".to_owned()), Constant::Integer(-1)];
        check(
            "SELECT a, 3 FROM t WHERE a = 5 AND (t.s = 'x' AND b = -1) AND c > 4 LIMIT 2",
            Some(("SELECT a, 3 FROM t WHERE a = $1 AND (t.s = $2 AND b = $3) AND c > 4 LIMIT 2", &constants)),
        );
    }

    #[test]
    fn others_stay() {
        check("SELECT a = 5 FROM t", None);
        check("SELECT a FROM t WHERE a = 5 OR a = 6", None);
        check("SELECT a FROM t WHERE a = 5.0", None);
        check("SELECT a FROM t WHERE abs(a) = 5", None);
        check("SELECT a FROM t WHERE a = NULL", None);
        check("SELECT 1 FROM t, u WHERE t.a = 5", None);
        check("SELECT a FROM t WHERE a = 5 UNION SELECT 1", None);
    }
}
