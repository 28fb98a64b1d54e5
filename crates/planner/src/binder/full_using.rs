//! `FULL JOIN ... USING (k)`: the column `k` is the one of the side that has a row, which DataFusion takes from the left.
//!
//! Names of such columns without a relation become `COALESCE` of both sides'; of several such joins in a row, of all sides.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, GroupByExpr, Ident, JoinConstraint, JoinOperator, Query, ReplaceSelectElement,
    ReplaceSelectItem, Select, SelectItem, TableFactor, TableWithJoins, VisitorMut,
};

use super::rewrite::call;
use crate::parser::folded;
use crate::sql_exprs::change;

/// A column that a join has merged: its name, and what it is on each side that may lack a row.
struct Merged {
    name: String,
    sides: Vec<Expr>,
}

impl Merged {
    fn value(&self) -> Expr {
        match self.sides.as_slice() {
            [one] => one.clone(),
            sides => call("coalesce", sides.to_vec()),
        }
    }
}

/// Puts merged columns in place of their names in a SELECT.
pub(super) fn merge_full_joins(select: &mut Select) {
    let has_wildcard =
        select.projection.iter().any(|i| matches!(i, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)));
    let mut merged = Vec::new();
    for table in &mut select.from {
        if !table.joins.iter().any(|j| matches!(&j.join_operator, JoinOperator::FullOuter(JoinConstraint::Using(_)))) {
            continue;
        }
        // One join may keep its USING, by which a wildcard shows the column once.
        let keeps_using = table.joins.len() == 1;
        if has_wildcard && !keeps_using {
            continue;
        }
        merged.extend(merge(table, keeps_using).unwrap_or_default());
    }
    merged.retain(|m: &Merged| m.sides.len() > 1);
    if merged.is_empty() {
        return;
    }
    for item in &mut select.projection {
        replace_in_item(item, &merged);
    }
    let mut replacer = Replacer { merged: &merged, depth: 0 };
    change(&mut select.selection, &mut replacer);
    change(&mut select.having, &mut replacer);
    if let GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
        change(exprs, &mut replacer);
    }
}

fn replace_in_item(item: &mut SelectItem, merged: &[Merged]) {
    let mut replacer = Replacer { merged, depth: 0 };
    match item {
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => {
            if let Some(column) = merged.iter().find(|m| m.name == folded(ident)) {
                *item = SelectItem::ExprWithAlias { expr: column.value(), alias: ident.clone() };
            }
        }
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            change(expr, &mut replacer);
        }
        SelectItem::Wildcard(options) if options.opt_replace.is_none() => {
            let element = |m: &Merged| {
                let column_name = Ident::with_quote('"', &m.name);
                Box::new(ReplaceSelectElement { expr: m.value(), column_name, as_keyword: true })
            };
            options.opt_replace = Some(ReplaceSelectItem { items: merged.iter().map(element).collect() });
        }
        _ => {}
    }
}

/// The merged columns of a chain of joins, whose USING become ON unless they are kept; nothing if a side has no name.
fn merge(table: &mut TableWithJoins, keeps_using: bool) -> Option<Vec<Merged>> {
    let mut merged: Vec<Merged> = Vec::new();
    let mut constraints = Vec::new();
    let first = name_of(&table.relation)?;
    for (i, join) in table.joins.iter().enumerate() {
        let right = name_of(&join.relation)?;
        let (JoinOperator::Join(JoinConstraint::Using(columns))
        | JoinOperator::Inner(JoinConstraint::Using(columns))
        | JoinOperator::Left(JoinConstraint::Using(columns))
        | JoinOperator::LeftOuter(JoinConstraint::Using(columns))
        | JoinOperator::Right(JoinConstraint::Using(columns))
        | JoinOperator::RightOuter(JoinConstraint::Using(columns))
        | JoinOperator::FullOuter(JoinConstraint::Using(columns))) = &join.join_operator
        else {
            constraints.push(None);
            continue;
        };
        let mut condition: Option<Expr> = None;
        for column in columns {
            let ident = column.0.last()?.as_ident()?;
            let name = folded(ident);
            let at = match merged.iter().position(|m| m.name == name) {
                Some(at) => at,
                // Before the second join there is one relation on the left that may have the column.
                None if i == 0 => {
                    merged.push(Merged { name, sides: vec![qualified(&first, ident)] });
                    merged.len() - 1
                }
                None => return None,
            };
            let of_right = qualified(&right, ident);
            let left = Box::new(merged[at].value());
            let equal = Expr::BinaryOp { left, op: BinaryOperator::Eq, right: Box::new(of_right.clone()) };
            condition = Some(match condition {
                None => equal,
                Some(all) => Expr::BinaryOp { left: Box::new(all), op: BinaryOperator::And, right: Box::new(equal) },
            });
            match &join.join_operator {
                JoinOperator::FullOuter(_) => merged[at].sides.push(of_right),
                JoinOperator::Right(_) | JoinOperator::RightOuter(_) => merged[at].sides = vec![of_right],
                _ => {}
            }
        }
        constraints.push(condition);
    }
    if !keeps_using {
        for (join, condition) in table.joins.iter_mut().zip(constraints) {
            if let (Some(condition), Some(constraint)) = (condition, constraint_of(&mut join.join_operator)) {
                *constraint = JoinConstraint::On(condition);
            }
        }
    }
    Some(merged)
}

fn constraint_of(operator: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match operator {
        JoinOperator::Join(c)
        | JoinOperator::Inner(c)
        | JoinOperator::Left(c)
        | JoinOperator::LeftOuter(c)
        | JoinOperator::Right(c)
        | JoinOperator::RightOuter(c)
        | JoinOperator::FullOuter(c) => Some(c),
        _ => None,
    }
}

/// The name by which a relation's columns are called.
fn name_of(factor: &TableFactor) -> Option<Ident> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. } => Some(alias.name.clone()),
        TableFactor::Table { name, .. } => name.0.last()?.as_ident().cloned(),
        _ => None,
    }
}

fn qualified(relation: &Ident, column: &Ident) -> Expr {
    Expr::CompoundIdentifier(vec![relation.clone(), column.clone()])
}

/// Puts merged columns in place of their names, but not in subqueries, which may have columns of these names themselves.
struct Replacer<'a> {
    merged: &'a [Merged],
    depth: usize,
}

impl VisitorMut for Replacer<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.depth == 0
            && let Expr::Identifier(ident) = expr
            && let Some(column) = self.merged.iter().find(|m| m.name == folded(ident))
        {
            *expr = column.value();
        }
        ControlFlow::Continue(())
    }
}
