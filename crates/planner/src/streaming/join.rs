//! Joins: equal keys are exchanged and hashed, other conditions are checked on the pairs.

use std::collections::BTreeSet;

use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{Expr, Join};
use millstream_operators::hash_join::{HashJoinSpec, JoinColumn, JoinInput, Residual, Side, Sides};
use millstream_operators::{Edge, Exchange};
use millstream_types::{Error, Result};

use super::exprs::{columns_of, physical, with_columns};
use super::{Facts, Lowered, Planner, arrow_schema, kept_columns, restrict};

impl Planner {
    pub(super) fn lower_join(&mut self, join: &Join, needed: Option<&BTreeSet<usize>>) -> Result<Lowered> {
        if join.join_type != JoinType::Inner {
            return Err(Error::not_supported(format!("a {} join cannot be kept up to date yet", join.join_type))
                .with_hint("Support for it in materialized views is planned; an ad-hoc SELECT can run it."));
        }
        let n_left = join.left.schema().fields().len();
        let n_all = n_left + join.right.schema().fields().len();
        let output: BTreeSet<usize> = needed.cloned().unwrap_or_else(|| (0..n_all).collect());
        let in_filter = columns_of(join.filter.iter(), &join.schema);
        let wanted = |side: Side, on: Vec<&Expr>| {
            let plan = if side == Side::Left { &join.left } else { &join.right };
            let of_side = |c: &usize| match side {
                Side::Left => (*c < n_left).then_some(*c),
                Side::Right => c.checked_sub(n_left),
            };
            let mut wanted: BTreeSet<usize> = output.iter().chain(&in_filter).filter_map(of_side).collect();
            wanted.extend(columns_of(on, plan.schema()));
            wanted
        };
        let left_wanted = wanted(Side::Left, join.on.iter().map(|(l, _)| l).collect());
        let right_wanted = wanted(Side::Right, join.on.iter().map(|(_, r)| r).collect());
        let left = self.lower(&join.left, Some(&left_wanted))?;
        let right = self.lower(&join.right, Some(&right_wanted))?;
        let left_kept = kept_columns(join.left.schema(), &left.schema)?;
        let right_kept = kept_columns(join.right.schema(), &right.schema)?;
        let (left, left_keys) = with_columns(left, join.on.iter().map(|(l, _)| l))?;
        let (right, right_keys) = with_columns(right, join.on.iter().map(|(_, r)| r))?;

        // A column of the joined row, by its position in the plan's output.
        let column_of = |c: usize| -> Result<JoinColumn> {
            let (side, kept, c) =
                if c < n_left { (Side::Left, &left_kept, c) } else { (Side::Right, &right_kept, c - n_left) };
            let at = kept.iter().position(|k| *k == c);
            at.map(|at| (side, at)).ok_or_else(|| Error::internal("a join lacks a column that it needs"))
        };
        let kept: Vec<usize> = output.iter().copied().collect();
        let columns = kept.iter().map(|&c| column_of(c)).collect::<Result<Vec<_>>>()?;
        let schema = restrict(&join.schema, &kept)?;
        let residual = join.filter.as_ref().map(|filter| -> Result<Residual> {
            let used: Vec<usize> = in_filter.iter().copied().collect();
            let filter_schema = restrict(&join.schema, &used)?;
            Ok(Residual {
                columns: used.iter().map(|&c| column_of(c)).collect::<Result<_>>()?,
                condition: physical(filter, &filter_schema)?,
                schema: arrow_schema(&filter_schema),
            })
        });
        let facts = joined_facts(&left, &right, &left_keys, &right_keys, &columns);
        let inputs = Sides { left: self.join_input(&left, &left_keys), right: self.join_input(&right, &right_keys) };
        let edges = vec![self.join_edge(left, &left_keys), self.join_edge(right, &right_keys)];
        let spec = HashJoinSpec {
            inputs,
            null_equals_null: vec![join.null_equality == NullEquality::NullEqualsNull; left_keys.len()],
            residual: residual.transpose()?,
            output: columns,
            schema: arrow_schema(&schema),
        };
        let node = self.add(spec, edges);
        Ok(Lowered { node, stages: vec![], schema, facts })
    }

    fn join_input(&self, input: &Lowered, keys: &[usize]) -> JoinInput {
        let schema = input.stages.last().map_or_else(|| self.dataflow.schema(input.node), |s| s.schema.clone());
        let unique = input.facts.key.as_ref().is_some_and(|key| key.iter().all(|c| keys.contains(c)));
        JoinInput { schema, keys: keys.to_vec(), append_only: input.facts.append_only, unique }
    }

    fn join_edge(&mut self, input: Lowered, keys: &[usize]) -> Edge {
        // Without keys all pairs meet on one worker.
        let is_there = !keys.is_empty() && input.facts.partitioned_by.as_deref() == Some(keys);
        let exchange = if is_there { Exchange::Local } else { Exchange::Hash(keys.to_vec()) };
        Edge { from: self.emit(input), exchange }
    }
}

fn joined_facts(
    left: &Lowered,
    right: &Lowered,
    left_keys: &[usize],
    right_keys: &[usize],
    output: &[JoinColumn],
) -> Facts {
    let place = |side: Side, c: usize| output.iter().position(|o| *o == (side, c));
    let places = |side: Side, columns: &[usize]| columns.iter().map(|&c| place(side, c)).collect::<Option<Vec<_>>>();
    // A row of one side meets at most one of the other if that one's key is among the join's.
    let meets_one = |input: &Lowered, keys: &[usize]| {
        input.facts.key.as_ref().is_some_and(|key| key.iter().all(|c| keys.contains(c)))
    };
    let key_of = |side: Side, input: &Lowered| input.facts.key.as_ref().and_then(|key| places(side, key));
    let key = if meets_one(right, right_keys) { key_of(Side::Left, left) } else { None };
    let key = key.or_else(|| if meets_one(left, left_keys) { key_of(Side::Right, right) } else { None });
    let key = key.or_else(|| {
        let mut both = key_of(Side::Left, left)?;
        both.extend(key_of(Side::Right, right)?);
        Some(both)
    });
    let partitioned_by = Some(left_keys)
        .filter(|keys| !keys.is_empty())
        .and_then(|keys| places(Side::Left, keys).or_else(|| places(Side::Right, right_keys)));
    Facts { append_only: left.facts.append_only && right.facts.append_only, key, partitioned_by, consolidated: false }
}
