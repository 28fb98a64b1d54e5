//! `avg` is a sum over a count, and where the same is added up beside it, of the same sum.
//!
//! Before types are known a sum that an average is of differs from one that a query asks for: over reals the former is one
//! of doubles. Over anything else the two come to the same, and are computed once, under the name of the latter.

use std::sync::Arc;

use datafusion::common::{Column, DFSchemaRef};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, LogicalPlanBuilder, Window};

use super::types::Result;
use crate::functions::overloads::AVERAGED;

/// A node whose functions are resolved, with what averages are of merged with what is computed anyway. A projection gives
/// it the names that are used above.
pub(super) fn merged(plan: LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Aggregate(aggregate) if aggregate.aggr_expr.iter().any(is_averaged) => {
            let merged = Merged::of(&aggregate.aggr_expr);
            let Aggregate { input, group_expr, schema, .. } = aggregate;
            let node = Aggregate::try_new(input, group_expr, merged.exprs.clone())?;
            merged.under_names(LogicalPlan::Aggregate(node), &schema)
        }
        LogicalPlan::Window(window) if window.window_expr.iter().any(is_averaged) => {
            let merged = Merged::of(&window.window_expr);
            let Window { input, schema, .. } = window;
            let node = Window::try_new(merged.exprs.clone(), input)?;
            merged.under_names(LogicalPlan::Window(node), &schema)
        }
        other => Ok(other),
    }
}

fn is_averaged(expr: &Expr) -> bool {
    matches!(expr, Expr::Alias(alias) if alias.name.contains(AVERAGED))
}

struct Merged {
    /// Each once.
    exprs: Vec<Expr>,
    /// For each of the original ones, which that is.
    places: Vec<usize>,
}

impl Merged {
    fn of(all: &[Expr]) -> Self {
        let mut merged = Merged { exprs: all.iter().filter(|e| !is_averaged(e)).cloned().collect(), places: vec![] };
        for expr in all {
            let value = expr.clone().unalias();
            let known = |e: &Expr| if is_averaged(expr) { e.clone().unalias() == value } else { e == expr };
            let place = match merged.exprs.iter().position(known) {
                Some(place) => place,
                None => {
                    let name = without_mark(&expr.schema_name().to_string());
                    let is_taken = merged.exprs.iter().any(|e| e.schema_name().to_string() == name);
                    merged.exprs.push(match is_taken {
                        true => expr.clone(),
                        false if value.schema_name().to_string() == name => value,
                        false => value.alias(name),
                    });
                    merged.exprs.len() - 1
                }
            };
            merged.places.push(place);
        }
        merged
    }

    fn under_names(&self, node: LogicalPlan, names: &DFSchemaRef) -> Result<LogicalPlan> {
        let n_before = node.schema().fields().len() - self.exprs.len();
        let before = (0..n_before).map(|i| Expr::from(node.schema().qualified_field(i)));
        let values = self.places.iter().enumerate().map(|(i, place)| {
            let column = Column::from(node.schema().qualified_field(n_before + place));
            Expr::Column(column).alias(names.field(n_before + i).name())
        });
        let exprs: Vec<Expr> = before.chain(values).collect();
        LogicalPlanBuilder::new_from_arc(Arc::new(node)).project(exprs)?.build()
    }
}

/// `sum(__averaged(t.x))` is called `sum(t.x)`.
fn without_mark(name: &str) -> String {
    let mark = format!("{AVERAGED}(");
    let Some((before, rest)) = name.split_once(&mark) else { return name.to_owned() };
    let mut depth = 1;
    for (at, c) in rest.char_indices() {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        if depth == 0 {
            return without_mark(&format!("{before}{}{}", &rest[..at], &rest[at + 1..]));
        }
    }
    name.to_owned()
}
