//! Joining the outer values into a subquery: from the top down to where nothing depends on them.

use std::sync::Arc;

use datafusion::common::alias::AliasGenerator;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, JoinType, NullEquality, ScalarValue, TableReference, not_impl_err};
use datafusion::logical_expr::expr::{Sort as SortExpr, WindowFunction};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    Aggregate, Case, Distinct, Expr, FetchType, GroupingSet, Join, Limit, LogicalPlan, LogicalPlanBuilder, Projection,
    SkipType, Sort, Union, Window, WindowFrame, WindowFunctionDefinition, lit,
};
use millstream_types::Error;

use super::{is_count, joined, mentions_outer};
use crate::binder::external;
use crate::functions::Registry;
use crate::typing::types::Result;

/// Makes a plan that gives a subquery's rows for all values of the outer columns at once.
pub(super) struct Pusher<'a> {
    left: &'a LogicalPlan,
    aliases: &'a AliasGenerator,
    /// The outer columns that the subquery mentions.
    pub(super) columns: Vec<Column>,
}

impl<'a> Pusher<'a> {
    pub(super) fn new(left: &'a LogicalPlan, subquery: &LogicalPlan, aliases: &'a AliasGenerator) -> Result<Self> {
        let mut columns: Vec<Column> = Vec::new();
        subquery.apply_with_subqueries(|node| {
            node.apply_expressions(|expr| {
                expr.apply(|e| {
                    if let Expr::OuterReferenceColumn(_, column) = e
                        && left.schema().has_column(column)
                        && !columns.contains(column)
                    {
                        columns.push(column.clone());
                    }
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(Pusher { left, aliases, columns })
    }

    /// The distinct values of the outer columns, under names of their own.
    fn domain(&self) -> Result<(LogicalPlan, Vec<Column>)> {
        let alias = TableReference::bare(self.aliases.next("__outer"));
        let name = |i: usize| column_name(&alias, i);
        let exprs = self.columns.iter().enumerate();
        let exprs = exprs.map(|(i, c)| Expr::Column(c.clone()).alias_qualified(Some(alias.clone()), name(i)));
        let exprs: Vec<Expr> = exprs.collect();
        let plan = LogicalPlanBuilder::from(self.left.clone()).project(exprs)?.distinct()?.build()?;
        let columns = (0..self.columns.len()).map(|i| Column::new(Some(alias.clone()), name(i))).collect();
        Ok((plan, columns))
    }

    fn depends(&self, plan: &LogicalPlan) -> Result<bool> {
        mentions_outer(plan, &|c| self.columns.contains(c))
    }

    /// The expression with columns in place of the outer ones; its name stays.
    fn bound(&self, expr: &Expr, outer: &[Column]) -> Result<Expr> {
        let bound = expr.clone().transform_up(|e| {
            Ok(match &e {
                Expr::OuterReferenceColumn(_, c) => match self.columns.iter().position(|o| o == c) {
                    Some(at) => Transformed::yes(Expr::Column(outer[at].clone())),
                    None => Transformed::no(e),
                },
                _ => Transformed::no(e),
            })
        });
        let bound = bound?;
        if !bound.transformed {
            return Ok(bound.data);
        }
        let (qualifier, name) = expr.qualified_name();
        Ok(bound.data.unalias().alias_qualified(qualifier, name))
    }

    /// As [`Pusher::bound`], for expressions whose names nobody sees.
    fn condition(&self, expr: &Expr, outer: &[Column]) -> Result<Expr> {
        Ok(if mentions(expr)? { self.bound(expr, outer)?.unalias() } else { expr.clone() })
    }

    fn order(&self, order: &[SortExpr], outer: &[Column]) -> Result<Vec<SortExpr>> {
        let sort = |s: &SortExpr| Ok(SortExpr::new(self.condition(&s.expr, outer)?, s.asc, s.nulls_first));
        order.iter().map(sort).collect()
    }

    /// The plan's rows for all values of the outer columns, and where these stand in them.
    pub(super) fn push(&self, plan: &LogicalPlan) -> Result<(LogicalPlan, Vec<Column>)> {
        if !self.depends(plan)? {
            let (domain, outer) = self.domain()?;
            return Ok((LogicalPlanBuilder::from(domain).cross_join(plan.clone())?.build()?, outer));
        }
        match plan {
            LogicalPlan::Filter(filter) => {
                let (input, outer) = self.push(&filter.input)?;
                let predicate = self.condition(&filter.predicate, &outer)?;
                Ok((LogicalPlanBuilder::from(input).filter(predicate)?.build()?, outer))
            }
            LogicalPlan::Projection(projection) => {
                let (input, outer) = self.push(&projection.input)?;
                let exprs = projection.expr.iter().map(|e| self.bound(e, &outer)).collect::<Result<Vec<_>>>()?;
                self.project(input, exprs, outer)
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let (input, outer) = self.push(&alias.input)?;
                let columns = alias.input.schema().iter().map(|(qualifier, field)| {
                    Expr::from((qualifier, field)).alias_qualified(Some(alias.alias.clone()), field.name())
                });
                self.project(input, columns.collect(), outer)
            }
            LogicalPlan::Aggregate(aggregate) => self.push_aggregate(aggregate),
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let (input, outer) = self.push(input)?;
                Ok((LogicalPlanBuilder::from(input).distinct()?.build()?, outer))
            }
            // The order of a subquery's rows means nothing without a limit.
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => self.push(&sort.input),
            LogicalPlan::Limit(limit) => self.push_limit(limit),
            LogicalPlan::Window(window) => {
                let (input, outer) = self.push(&window.input)?;
                let exprs =
                    window.window_expr.iter().map(|e| self.partitioned(e, &outer)).collect::<Result<Vec<_>>>()?;
                Ok((LogicalPlan::Window(Window::try_new(exprs, Arc::new(input))?), outer))
            }
            LogicalPlan::Join(join) => self.push_join(join),
            LogicalPlan::Union(union) => self.push_union(union),
            LogicalPlan::Unnest(unnest) => {
                let (input, outer) = self.push(&unnest.input)?;
                let builder = LogicalPlanBuilder::from(input);
                let plan = builder.unnest_columns_with_options(unnest.exec_columns.clone(), unnest.options.clone())?;
                Ok((plan.build()?, outer))
            }
            LogicalPlan::TableScan(scan) => {
                // A condition that was pushed down to where it may spare reading.
                let mut scan = scan.clone();
                let (mut conditions, mut own) = (Vec::new(), Vec::new());
                for filter in std::mem::take(&mut scan.filters) {
                    if mentions(&filter)? { conditions.push(filter) } else { own.push(filter) }
                }
                scan.filters = own;
                let (input, outer) = self.push(&LogicalPlan::TableScan(scan))?;
                let condition = conjunction(conditions).unwrap_or_else(|| lit(true));
                let predicate = self.condition(&condition, &outer)?;
                Ok((LogicalPlanBuilder::from(input).filter(predicate)?.build()?, outer))
            }
            _ => not_impl_err!("this form of a correlated subquery"),
        }
    }

    fn project(
        &self,
        input: LogicalPlan,
        mut exprs: Vec<Expr>,
        outer: Vec<Column>,
    ) -> Result<(LogicalPlan, Vec<Column>)> {
        exprs.extend(outer.iter().cloned().map(Expr::Column));
        Ok((LogicalPlanBuilder::from(input).project(exprs)?.build()?, outer))
    }

    fn push_aggregate(&self, aggregate: &Aggregate) -> Result<(LogicalPlan, Vec<Column>)> {
        let (input, outer) = self.push(&aggregate.input)?;
        let mut keys = aggregate.group_expr.iter().map(|e| self.bound(e, &outer)).collect::<Result<Vec<_>>>()?;
        let outer_exprs = || outer.iter().cloned().map(Expr::Column);
        match keys.as_mut_slice() {
            [Expr::GroupingSet(GroupingSet::GroupingSets(sets))] => {
                sets.iter_mut().for_each(|s| s.extend(outer_exprs()))
            }
            [Expr::GroupingSet(_)] => return not_impl_err!("CUBE and ROLLUP in a correlated subquery"),
            _ => keys.extend(outer_exprs()),
        }
        let calls = aggregate.aggr_expr.iter().map(|e| self.bound(e, &outer)).collect::<Result<Vec<_>>>()?;
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(input), keys, calls)?);
        if !aggregate.group_expr.is_empty() {
            return Ok((plan, outer));
        }
        // Without a key there is a row for no rows, too.
        let (domain, all) = self.domain()?;
        let on = all.iter().cloned().map(Expr::Column).zip(outer.into_iter().map(Expr::Column)).collect();
        let plan = joined(domain, plan, on, None, JoinType::Left)?;
        let columns = aggregate.schema.iter().zip(&aggregate.aggr_expr).map(|((qualifier, field), call)| {
            let column = Expr::from((qualifier, field));
            if !is_count(call) {
                return Ok(column);
            }
            let zero = ScalarValue::Int64(Some(0)).cast_to(field.data_type())?;
            let when_then_expr = vec![(Box::new(column.clone().is_null()), Box::new(lit(zero)))];
            let case = Case { expr: None, when_then_expr, else_expr: Some(Box::new(column)) };
            Ok(Expr::Case(case).alias_qualified(qualifier.cloned(), field.name()))
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        self.project(plan, columns, all)
    }

    /// The first rows for each of the outer values.
    fn push_limit(&self, limit: &Limit) -> Result<(LogicalPlan, Vec<Column>)> {
        // A projection works row by row, so the limit may as well stand below it.
        if let LogicalPlan::Projection(projection) = limit.input.as_ref() {
            let below = Limit { input: Arc::clone(&projection.input), ..limit.clone() };
            let below = Arc::new(LogicalPlan::Limit(below));
            return self.push(&LogicalPlan::Projection(Projection::try_new(projection.expr.clone(), below)?));
        }
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return not_impl_err!("LIMIT that is no constant in a correlated subquery");
        };
        let (input, order): (&LogicalPlan, &[SortExpr]) = match limit.input.as_ref() {
            LogicalPlan::Sort(Sort { expr, input, .. }) => (input, expr),
            other => (other, &[]),
        };
        let (plan, outer) = self.push(input)?;
        let row_number = Registry::get().window("row_number");
        let row_number = row_number.ok_or_else(|| external(Error::internal("no function row_number")))?;
        let mut call = WindowFunction::new(WindowFunctionDefinition::WindowUDF(row_number), Vec::new());
        call.params.partition_by = outer.iter().cloned().map(Expr::Column).collect();
        call.params.order_by = self.order(order, &outer)?;
        call.params.window_frame = WindowFrame::new((!order.is_empty()).then_some(false));
        let name = self.aliases.next("__place");
        let place = Expr::Column(Column::new_unqualified(&name));
        let number = Expr::WindowFunction(Box::new(call)).alias(&name);
        let numbered = LogicalPlanBuilder::from(plan).window(vec![number])?;
        let bound = |n: usize| lit(i64::try_from(n).unwrap_or(i64::MAX));
        let after = (skip > 0).then(|| place.clone().gt(bound(skip)));
        let upto = fetch.map(|n| place.lt_eq(bound(skip.saturating_add(n))));
        let plan = match after.into_iter().chain(upto).reduce(Expr::and) {
            Some(wanted) => numbered.filter(wanted)?,
            None => numbered,
        };
        let columns = input.schema().iter().map(Expr::from).collect();
        self.project(plan.build()?, columns, outer)
    }

    /// A window function within the rows of each of the outer values.
    fn partitioned(&self, expr: &Expr, outer: &[Column]) -> Result<Expr> {
        let (qualifier, name) = expr.qualified_name();
        let Expr::WindowFunction(mut function) = self.bound(expr, outer)?.unalias() else {
            return not_impl_err!("{expr} as a window function");
        };
        function.params.partition_by.extend(outer.iter().cloned().map(Expr::Column));
        Ok(Expr::WindowFunction(function).alias_qualified(qualifier, name))
    }

    fn push_join(&self, join: &Join) -> Result<(LogicalPlan, Vec<Column>)> {
        let (in_left, in_right) = (self.depends(&join.left)?, self.depends(&join.right)?);
        let keeps_right = matches!(join.join_type, JoinType::Inner | JoinType::Right);
        let keeps_left = matches!(
            join.join_type,
            JoinType::Inner | JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
        );
        let on = join.on.clone();
        let rebuilt = |left, right, on, filter| {
            let (left, right) = (Arc::new(left), Arc::new(right));
            let (join_type, constraint) = (join.join_type, join.join_constraint);
            Join::try_new(left, right, on, filter, join_type, constraint, join.null_equality, join.null_aware)
        };
        if keeps_right && in_right && !in_left {
            let (right, outer) = self.push(&join.right)?;
            let filter = join.filter.as_ref().map(|f| self.condition(f, &outer)).transpose()?;
            return Ok((LogicalPlan::Join(rebuilt(join.left.as_ref().clone(), right, on, filter)?), outer));
        }
        if !keeps_left {
            return not_impl_err!("a {} join in a correlated subquery", join.join_type);
        }
        let (left, outer) = self.push(&join.left)?;
        let mut filter = join.filter.as_ref().map(|f| self.condition(f, &outer)).transpose()?;
        let right = if in_right {
            let (right, of_right) = self.push(&join.right)?;
            let same = outer.iter().zip(of_right).map(|(l, r)| {
                let (l, r) = (Expr::Column(l.clone()), Expr::Column(r));
                crate::typing::calls::binary(l, datafusion::logical_expr::Operator::IsNotDistinctFrom, r)
            });
            filter = filter.into_iter().chain(same).reduce(Expr::and);
            right
        } else {
            join.right.as_ref().clone()
        };
        debug_assert!(join.null_equality == NullEquality::NullEqualsNothing || filter.is_some() || !on.is_empty());
        let plan = LogicalPlan::Join(rebuilt(left, right, on, filter)?);
        if in_right && !matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark) {
            let columns = join.schema.iter().map(Expr::from).collect();
            return self.project(plan, columns, outer);
        }
        Ok((plan, outer))
    }

    fn push_union(&self, union: &Union) -> Result<(LogicalPlan, Vec<Column>)> {
        let alias = TableReference::bare(self.aliases.next("__outer"));
        let name = |i: usize| column_name(&alias, i);
        let inputs = union.inputs.iter().map(|input| {
            let (plan, outer) = self.push(input)?;
            let columns =
                input.schema().iter().zip(union.schema.iter()).map(|(have, (qualifier, field))| {
                    Expr::from(have).alias_qualified(qualifier.cloned(), field.name())
                });
            let outer = outer.into_iter().enumerate();
            let outer = outer.map(|(i, c)| Expr::Column(c).alias_qualified(Some(alias.clone()), name(i)));
            let exprs: Vec<Expr> = columns.chain(outer).collect();
            Ok(Arc::new(LogicalPlanBuilder::from(plan).project(exprs)?.build()?))
        });
        let inputs = inputs.collect::<Result<Vec<_>>>()?;
        let all = Union::try_new(inputs)?;
        // A union has no qualifiers of its own.
        let columns: Vec<Expr> = all
            .schema
            .iter()
            .zip(
                union
                    .schema
                    .iter()
                    .map(|(q, f)| (q.cloned(), f.name().clone()))
                    .chain((0..self.columns.len()).map(|i| (Some(alias.clone()), name(i)))),
            )
            .map(|(have, (qualifier, name))| Expr::from(have).alias_qualified(qualifier, name))
            .collect();
        let plan = LogicalPlanBuilder::from(LogicalPlan::Union(all)).project(columns)?.build()?;
        let outer = (0..self.columns.len()).map(|i| Column::new(Some(alias.clone()), name(i))).collect();
        Ok((plan, outer))
    }
}

/// The name of a column of a relation that is made here: no other column has it, whatever its relation is, so that it hides
/// none that is not qualified.
pub(super) fn column_name(relation: &TableReference, number: usize) -> String {
    format!("{}.{number}", relation.table())
}

/// Whether an expression mentions any outer column.
fn mentions(expr: &Expr) -> Result<bool> {
    expr.exists(|e| Ok(matches!(e, Expr::OuterReferenceColumn(..))))
}
