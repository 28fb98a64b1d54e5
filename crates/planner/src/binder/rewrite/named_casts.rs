//! Gives casts names of their own in a query where what is cast stands beside (`functions/named_cast.rs`).

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{Expr, Query, VisitorMut};
use millstream_types::{Error, Result};

use super::{call, text_literal};
use crate::errors::from_datafusion;
use crate::functions::named_cast::NAMED_CAST;
use crate::sql_exprs::change;

/// Whether a query could not be planned because two expressions have one name.
pub(in crate::binder) fn is_name_clash(error: &Error) -> bool {
    let message = error.message();
    message.ends_with(" is not unique") || message.contains("require unique expression names")
}

/// Whether two keys of an aggregate have one name, which is found out when they are projected.
pub(in crate::binder) fn has_name_clash(plan: &LogicalPlan) -> Result<bool> {
    let mut clashes = false;
    let looked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::Aggregate(aggregate) = node {
            let names: Vec<String> = aggregate.schema.iter().map(|(q, f)| flat_name(q, f.name())).collect();
            clashes |= names.iter().collect::<HashSet<_>>().len() < names.len();
        }
        Ok(if clashes { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    });
    looked.map_err(from_datafusion)?;
    Ok(clashes)
}

fn flat_name(qualifier: Option<&TableReference>, name: &str) -> String {
    qualifier.map_or_else(|| name.to_owned(), |qualifier| format!("{qualifier}.{name}"))
}

/// Names the casts of all but constants.
pub(in crate::binder) fn name_casts(query: &mut Query) {
    change(query, &mut Namer);
}

struct Namer;

impl VisitorMut for Namer {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Cast { expr: value, data_type, .. } = &*expr
            && !matches!(value.as_ref(), Expr::Value(_))
        {
            let name = text_literal(data_type.to_string());
            *expr = call(NAMED_CAST, vec![expr.clone(), name]);
        }
        ControlFlow::Continue(())
    }
}
