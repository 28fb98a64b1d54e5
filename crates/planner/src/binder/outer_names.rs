//! Relations that a subquery mentions from outside, under names that none of its columns has.
//!
//! In `(SELECT ... FROM u WHERE u.t = t.id)` with a column `t` in `u`, Postgres takes `t.id` for the outer relation's column, DataFusion
//! for a field of the inner column. So such relations get a tag, which [`super::names::shown`] takes off again.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, TableAlias,
    TableFactor, Visitor, VisitorMut,
};

use super::names::TAG;
use super::rewrite::HasColumn;
use crate::parser::folded;
use crate::sql_exprs::{change, visit};

/// Tags the relations of a query's FROM that its subqueries mention.
pub(super) fn tag_outer_relations(query: &mut Query, has_column: HasColumn<'_>, n_tagged: &mut usize) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    for name in relations_of(select) {
        let mut mentions =
            Mentions { name: &name, has_column, shadowed: 0, depth: 0, is_mentioned: false, is_column: false };
        let _ = visit(query, &mut mentions);
        if mentions.is_mentioned && mentions.is_column {
            *n_tagged += 1;
            let tagged = Ident::with_quote('"', format!("{name}{TAG}{n_tagged}"));
            let SetExpr::Select(select) = query.body.as_mut() else { return };
            give_alias(select, &name, &tagged);
            change(query, &mut Renamer { name: &name, tagged: &tagged, depth: 0, shadowed: 0 });
        }
    }
}

/// The names of a SELECT's relations.
fn relations_of(select: &Select) -> Vec<String> {
    let factors =
        select.from.iter().flat_map(|t| std::iter::once(&t.relation).chain(t.joins.iter().map(|j| &j.relation)));
    factors.filter_map(name_of).collect()
}

fn name_of(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table { alias: Some(alias), .. }
        | TableFactor::Derived { alias: Some(alias), .. }
        | TableFactor::UNNEST { alias: Some(alias), .. }
        | TableFactor::Function { alias: Some(alias), .. } => Some(folded(&alias.name)),
        TableFactor::Table { name, args: None, .. } => name.0.last()?.as_ident().map(folded),
        _ => None,
    }
}

fn give_alias(select: &mut Select, wanted: &str, tagged: &Ident) {
    for table in &mut select.from {
        let joined = table.joins.iter_mut().map(|j| &mut j.relation);
        for factor in std::iter::once(&mut table.relation).chain(joined) {
            if name_of(factor).as_deref() != Some(wanted) {
                continue;
            }
            if let TableFactor::Table { alias, .. }
            | TableFactor::Derived { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::Function { alias, .. } = factor
            {
                match alias {
                    Some(alias) => alias.name = tagged.clone(),
                    None => {
                        let name = tagged.clone();
                        *alias = Some(TableAlias { explicit: true, name, columns: Vec::new(), at: None });
                    }
                }
            }
        }
    }
}

/// Looks for `name.column` in subqueries that have no relation of that name themselves, and for relations with a column
/// of that name there.
struct Mentions<'a> {
    name: &'a str,
    has_column: HasColumn<'a>,
    /// How many SELECTs around have such a relation.
    shadowed: usize,
    depth: usize,
    is_mentioned: bool,
    is_column: bool,
}

impl Visitor for Mentions<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if self.depth > 1 {
            self.shadowed += usize::from(relations_of(select).iter().any(|n| n == self.name));
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        if self.depth > 1 {
            self.shadowed -= usize::from(relations_of(select).iter().any(|n| n == self.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, args: None, .. } = factor {
            self.is_column |= self.depth > 1 && (self.has_column)(name, self.name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        self.is_mentioned |= self.depth > 1 && self.shadowed == 0 && is_of(expr, self.name);
        ControlFlow::Continue(())
    }
}

fn is_of(expr: &Expr, name: &str) -> bool {
    matches!(expr, Expr::CompoundIdentifier(parts) if parts.len() == 2 && folded(&parts[0]) == name)
}

/// Puts the tagged name in place of the other.
struct Renamer<'a> {
    name: &'a str,
    tagged: &'a Ident,
    depth: usize,
    shadowed: usize,
}

impl VisitorMut for Renamer<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if self.depth > 1 {
            self.shadowed += usize::from(relations_of(select).iter().any(|n| n == self.name));
        }
        if self.shadowed == 0 {
            for item in &mut select.projection {
                if let SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(object), _) = item
                    && let [part] = object.0.as_slice()
                    && part.as_ident().map(folded).as_deref() == Some(self.name)
                {
                    *object = ObjectName::from(vec![self.tagged.clone()]);
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if self.depth > 1 {
            self.shadowed -= usize::from(relations_of(select).iter().any(|n| n == self.name));
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.shadowed == 0
            && is_of(expr, self.name)
            && let Expr::CompoundIdentifier(parts) = expr
        {
            // The position in the text stays that of what was written.
            let span = parts[0].span;
            parts[0] = Ident { span, ..self.tagged.clone() };
        }
        ControlFlow::Continue(())
    }
}
