//! `rank(x) WITHIN GROUP (ORDER BY y)` and its kind as counts of the rows that would stand before `x`, which can be kept up to
//! date; percentiles of several fractions as several percentiles.

use datafusion::sql::sqlparser::ast::{
    Array, ArrayElemTypeDef, BinaryOperator, CaseWhen, DataType, DuplicateTreatment, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, OrderByExpr, Value, helpers::attached_token::AttachedToken,
};

use super::{call, cast, count_star, number, single_name};

/// Aggregates that say where a row would stand.
pub(crate) const HYPOTHETICAL: [&str; 4] = ["rank", "dense_rank", "percent_rank", "cume_dist"];

/// The call in other words, if it has some.
pub(super) fn rewritten(function: &Function) -> Option<Expr> {
    if function.within_group.is_empty() {
        return None;
    }
    let name = single_name(&function.name)?;
    let args = plain_args(function)?;
    match (name.as_str(), args.as_slice()) {
        ("percentile_cont" | "percentile_disc", [fractions]) => percentiles(function, &fractions_of(fractions)?),
        (name, args) if HYPOTHETICAL.contains(&name) && args.len() == function.within_group.len() => {
            position(name, args, function)
        }
        _ => None,
    }
}

/// The arguments of a call that are nothing but expressions.
pub(crate) fn plain_args(function: &Function) -> Option<Vec<Expr>> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let plain = |arg: &FunctionArg| match arg {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
        _ => None,
    };
    list.args.iter().map(plain).collect()
}

fn position(name: &str, args: &[Expr], function: &Function) -> Option<Expr> {
    let keys = &function.within_group;
    let filter = function.filter.as_deref();
    let before = || both(standing_before(keys, args, false), filter);
    let one = || number(1);
    let double = |e: Expr| cast(e, DataType::DoublePrecision);
    let all = || count(filter.cloned());
    Some(match name {
        "rank" => binary(count(Some(before())), BinaryOperator::Plus, one()),
        "dense_rank" => {
            let [key] = keys.as_slice() else { return None };
            // A null is one value more, which count(DISTINCT) leaves out.
            let nulls = count(Some(both(before(), Some(&Expr::IsNull(Box::new(key.expr.clone()))))));
            let any_null = call("least", vec![nulls, one()]);
            let values = binary(count_distinct(&key.expr, before()), BinaryOperator::Plus, any_null);
            binary(values, BinaryOperator::Plus, one())
        }
        "percent_rank" => {
            let share = binary(double(count(Some(before()))), BinaryOperator::Divide, double(all()));
            case(binary(all(), BinaryOperator::Eq, number(0)), double(number(0)), share)
        }
        _ => {
            let up_to = count(Some(both(standing_before(keys, args, true), filter)));
            let plus_one = |e: Expr| double(Expr::Nested(Box::new(binary(e, BinaryOperator::Plus, one()))));
            binary(plus_one(up_to), BinaryOperator::Divide, plus_one(all()))
        }
    })
}

/// Whether a row stands before the one with these values, or is its peer and `with_peers` is set.
fn standing_before(keys: &[OrderByExpr], values: &[Expr], with_peers: bool) -> Expr {
    let mut condition = boolean(with_peers);
    for (key, value) in keys.iter().zip(values).rev() {
        let same = Expr::IsNotDistinctFrom(Box::new(key.expr.clone()), Box::new(value.clone()));
        let later = binary(same, BinaryOperator::And, condition);
        condition = Expr::Nested(Box::new(binary(before(key, value), BinaryOperator::Or, later)));
    }
    condition
}

/// Whether one key stands before a value, nulls where the order has them.
fn before(key: &OrderByExpr, value: &Expr) -> Expr {
    let ascending = key.options.asc.unwrap_or(true);
    let nulls_first = key.options.nulls_first.unwrap_or(!ascending);
    let op = if ascending { BinaryOperator::Lt } else { BinaryOperator::Gt };
    let less = Expr::IsTrue(Box::new(binary(key.expr.clone(), op, value.clone())));
    let (null, known) = if nulls_first { (&key.expr, value) } else { (value, &key.expr) };
    let by_null =
        binary(Expr::IsNull(Box::new(null.clone())), BinaryOperator::And, Expr::IsNotNull(Box::new(known.clone())));
    binary(less, BinaryOperator::Or, by_null)
}

/// The constant fractions of an array, or of a text that is cast to one.
fn fractions_of(expr: &Expr) -> Option<Vec<Expr>> {
    match expr {
        Expr::Nested(inner) => fractions_of(inner),
        Expr::Array(array) => Some(array.elem.clone()),
        Expr::Cast { expr, data_type: DataType::Array(ArrayElemTypeDef::SquareBracket(..)), .. } => {
            let Expr::Value(value) = expr.as_ref() else { return fractions_of(expr) };
            let Value::SingleQuotedString(text) = &value.value else { return None };
            let inner = text.trim().strip_prefix('{')?.strip_suffix('}')?;
            let fraction = |t: &str| Expr::Value(Value::Number(t.trim().to_owned(), false).into());
            Some(inner.split(',').map(fraction).collect())
        }
        _ => None,
    }
}

/// Of no rows, null; else an array of the percentiles.
fn percentiles(function: &Function, fractions: &[Expr]) -> Option<Expr> {
    let [key] = function.within_group.as_slice() else { return None };
    let known = both(Expr::IsNotNull(Box::new(key.expr.clone())), function.filter.as_deref());
    let one = |fraction: &Expr| {
        let Expr::Function(args) = call("percentile", vec![fraction.clone()]) else { return fraction.clone() };
        Expr::Function(Function { args: args.args, ..function.clone() })
    };
    let array = Expr::Array(Array { elem: fractions.iter().map(one).collect(), named: true });
    let null = Expr::Value(Value::Null.into());
    Some(case(binary(count(Some(known)), BinaryOperator::Eq, number(0)), null, array))
}

fn count(filter: Option<Expr>) -> Expr {
    match count_star() {
        Expr::Function(count) => Expr::Function(Function { filter: filter.map(Box::new), ..count }),
        other => other,
    }
}

fn count_distinct(expr: &Expr, filter: Expr) -> Expr {
    let mut count = call("count", vec![expr.clone()]);
    if let Expr::Function(function) = &mut count {
        function.filter = Some(Box::new(filter));
        if let FunctionArguments::List(list) = &mut function.args {
            list.duplicate_treatment = Some(DuplicateTreatment::Distinct);
        }
    }
    count
}

fn both(condition: Expr, filter: Option<&Expr>) -> Expr {
    match filter {
        None => condition,
        Some(filter) => binary(condition, BinaryOperator::And, Expr::Nested(Box::new(filter.clone()))),
    }
}

fn binary(left: Expr, op: BinaryOperator, right: Expr) -> Expr {
    Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) }
}

fn boolean(value: bool) -> Expr {
    Expr::Value(Value::Boolean(value).into())
}

fn case(condition: Expr, then: Expr, otherwise: Expr) -> Expr {
    Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: None,
        conditions: vec![CaseWhen { condition, result: then }],
        else_result: Some(Box::new(otherwise)),
    }
}
