//! `ROLLUP` and `CUBE` of several columns at a time, and within `GROUPING SETS`, as the sets that they stand for; `()` as a
//! set of no columns.

use datafusion::sql::sqlparser::ast::{Expr, GroupByExpr, Select};

use super::ordered_sets::plain_args;
use super::single_name;

/// As many as Postgres has: 4,096 sets.
const CUBED_MAX: usize = 12;

/// Replaces what DataFusion does not know.
pub(super) fn expand(select: &mut Select) {
    let GroupByExpr::Expressions(exprs, _) = &mut select.group_by else { return };
    let is_empty_set = |expr: &Expr| matches!(expr, Expr::Tuple(columns) if columns.is_empty());
    if exprs.iter().any(is_empty_set) {
        exprs.retain(|expr| !is_empty_set(expr));
        if exprs.is_empty() {
            exprs.push(Expr::GroupingSets(vec![vec![]]));
        }
    }
    for expr in exprs {
        if let Some(sets) = expanded(expr) {
            *expr = Expr::GroupingSets(sets);
        }
    }
}

fn expanded(expr: &Expr) -> Option<Vec<Vec<Expr>>> {
    let several = |lists: &[Vec<Expr>]| lists.iter().any(|list| list.len() != 1);
    match expr {
        Expr::Rollup(lists) if several(lists) => Some(rollup(lists)),
        Expr::Cube(lists) if several(lists) => cube(lists),
        Expr::GroupingSets(lists) if lists.iter().any(|list| nested(list).is_some()) => {
            Some(lists.iter().flat_map(|list| nested(list).unwrap_or_else(|| vec![list.clone()])).collect())
        }
        _ => None,
    }
}

/// `ROLLUP (...)` or `CUBE (...)` as an element of GROUPING SETS, where sqlparser reads a call.
fn nested(list: &[Expr]) -> Option<Vec<Vec<Expr>>> {
    let [element] = list else { return None };
    match element {
        Expr::Rollup(lists) => Some(rollup(lists)),
        Expr::Cube(lists) => cube(lists),
        Expr::Function(function) => {
            let lists: Vec<Vec<Expr>> = plain_args(function)?
                .into_iter()
                .map(|arg| match arg {
                    Expr::Tuple(columns) => columns,
                    Expr::Nested(column) => vec![*column],
                    column => vec![column],
                })
                .collect();
            match single_name(&function.name)?.as_str() {
                "rollup" => Some(rollup(&lists)),
                "cube" => cube(&lists),
                _ => None,
            }
        }
        _ => None,
    }
}

/// All columns, then always one list less.
fn rollup(lists: &[Vec<Expr>]) -> Vec<Vec<Expr>> {
    (0..=lists.len()).rev().map(|n| lists[..n].concat()).collect()
}

/// Every choice of lists; `None` if there are too many of them.
fn cube(lists: &[Vec<Expr>]) -> Option<Vec<Vec<Expr>>> {
    let choice = |bits: u32| {
        let chosen = lists.iter().enumerate().filter(|(i, _)| bits & (1 << i) != 0);
        chosen.flat_map(|(_, list)| list.clone()).collect()
    };
    (lists.len() <= CUBED_MAX).then(|| (0..1u32 << lists.len()).rev().map(choice).collect())
}
