//! Functions whose arguments have names and defaults: `make_interval(days => 3)`.

use datafusion::sql::sqlparser::ast::{Expr, FunctionArg, FunctionArgExpr, ObjectName};

use super::{number, single_name};
use crate::parser::folded;

/// Functions with the names of their parameters, and whether one that is left out is zero.
const PARAMETERS: &[(&str, &[&str], bool)] = &[
    ("make_date", &["year", "month", "day"], false),
    ("make_time", &["hour", "min", "sec"], false),
    ("make_timestamp", &["year", "month", "mday", "hour", "min", "sec"], false),
    ("make_interval", &["years", "months", "weeks", "days", "hours", "mins", "secs"], true),
];

/// The arguments in the order of the parameters, if the function has names and the call makes use of them.
pub(super) fn positional(name: &ObjectName, args: &[FunctionArg]) -> Option<Vec<FunctionArg>> {
    let name = single_name(name)?;
    let (_, parameters, has_defaults) = PARAMETERS.iter().find(|(n, _, _)| *n == name)?;
    let is_plain = |arg: &FunctionArg| matches!(arg, FunctionArg::Unnamed(_));
    if args.len() > parameters.len() || (args.iter().all(is_plain) && (args.len() == parameters.len() || !has_defaults))
    {
        return None;
    }
    let mut values: Vec<Option<FunctionArgExpr>> = vec![None; parameters.len()];
    for (i, arg) in args.iter().enumerate() {
        let (at, value) = match arg {
            FunctionArg::Unnamed(value) => (i, value),
            FunctionArg::Named { name, arg, .. } | FunctionArg::ExprNamed { name: Expr::Identifier(name), arg, .. } => {
                (parameters.iter().position(|p| *p == folded(name))?, arg)
            }
            FunctionArg::ExprNamed { .. } => return None,
        };
        if values[at].replace(value.clone()).is_some() {
            return None;
        }
    }
    let or_default = |value: Option<FunctionArgExpr>| {
        let value = value.or_else(|| has_defaults.then(|| FunctionArgExpr::Expr(number(0))));
        value.map(FunctionArg::Unnamed)
    };
    values.into_iter().map(or_default).collect()
}
