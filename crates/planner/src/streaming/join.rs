//! Joins: equal keys are exchanged and hashed, other conditions are checked on the pairs.

use std::collections::BTreeSet;

use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{Expr, Join};
use millstream_operators::hash_join::{Alone, HashJoinSpec, JoinColumn, JoinInput, Residual, Side, Sides};
use millstream_operators::{Edge, Exchange};
use millstream_types::{Error, Result};

use super::exprs::{columns_of, physical, with_columns};
use super::{Facts, Lowered, Planner, arrow_schema, kept_columns, restrict, shown};
use crate::errors::from_datafusion;

impl Planner<'_> {
    pub(super) fn lower_join(&mut self, join: &Join, needed: Option<&BTreeSet<usize>>) -> Result<Lowered> {
        let (emits_pairs, alone) = kind_of(join);
        let n_left = join.left.schema().fields().len();
        // The plan's output may lack a side or have a mark; columns are told by their places in both sides together.
        let both = join.left.schema().join(join.right.schema()).map_err(from_datafusion)?;
        let places = output_places(join, n_left);
        let wanted_output = |i: &usize| needed.is_none_or(|n| n.contains(i));
        let kept: Vec<usize> = (0..places.len()).filter(wanted_output).collect();
        let output: BTreeSet<usize> = kept.iter().filter_map(|&i| places[i]).collect();
        let in_filter = columns_of(join.filter.iter(), &both);
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
        let (mut left, mut left_keys) = with_columns(left, join.on.iter().map(|(l, _)| l))?;
        let (mut right, mut right_keys) = with_columns(right, join.on.iter().map(|(_, r)| r))?;
        let keys = [&mut left_keys, &mut right_keys];
        let sharing = self.share_sides([&mut left, &mut right], keys, [alone.left, alone.right]);

        // A column of the joined row, by its position in the plan's output.
        let column_of = |c: usize| -> Result<JoinColumn> {
            let (side, kept, c) =
                if c < n_left { (Side::Left, &left_kept, c) } else { (Side::Right, &right_kept, c - n_left) };
            let at = kept.iter().position(|k| *k == c);
            at.map(|at| JoinColumn::Of(side, at)).ok_or_else(|| Error::internal("a join lacks a column that it needs"))
        };
        let field_of = |c: usize| match column_of(c) {
            Ok(JoinColumn::Of(Side::Left, at)) => left.schema.fields().get(at),
            Ok(JoinColumn::Of(Side::Right, at)) => right.schema.fields().get(at),
            _ => None,
        };
        let column_at = |&i: &usize| places[i].map_or(Ok(JoinColumn::Mark), &column_of);
        let columns = kept.iter().map(column_at).collect::<Result<Vec<_>>>()?;
        let schema = restrict(&join.schema, &kept)?;
        let schema = shown::of_columns(schema, |i| places[kept[i]].and_then(field_of))?;
        let residual = join.filter.as_ref().map(|filter| -> Result<Residual> {
            let used: Vec<usize> = in_filter.iter().copied().collect();
            let filter_schema = restrict(&both, &used)?;
            let filter_schema = shown::of_columns(filter_schema, |i| field_of(used[i]))?;
            Ok(Residual {
                columns: used.iter().map(|&c| column_of(c)).collect::<Result<_>>()?,
                condition: physical(filter, &filter_schema)?,
                schema: arrow_schema(&filter_schema),
            })
        });
        let facts = joined_facts(emits_pairs, &alone, [&left, &right], [&left_keys, &right_keys], &columns);
        let one_worker = alone.left == Alone::NullAwareAnti;
        let inputs = Sides { left: self.join_input(&left, &left_keys), right: self.join_input(&right, &right_keys) };
        let edges = vec![self.join_edge(left, &left_keys, one_worker), self.join_edge(right, &right_keys, one_worker)];
        let mut spec = HashJoinSpec {
            inputs,
            emits_pairs,
            alone,
            null_equals_null: vec![join.null_equality == NullEquality::NullEqualsNull; left_keys.len()],
            residual: residual.transpose()?,
            output: columns,
            schema: arrow_schema(&schema),
        };
        sharing.apply(&mut spec);
        let node = self.add(spec, edges);
        Ok(Lowered { node, stages: vec![], schema, facts })
    }

    fn join_input(&self, input: &Lowered, keys: &[usize]) -> JoinInput {
        let schema = self.output_schema(input);
        let unique = input.facts.key.as_ref().is_some_and(|key| key.iter().all(|c| keys.contains(c)));
        JoinInput { schema, keys: keys.to_vec(), append_only: input.facts.append_only, unique, shared: None }
    }

    fn join_edge(&mut self, input: Lowered, keys: &[usize], one_worker: bool) -> Edge {
        // Without keys all pairs meet on one worker.
        let keys = if one_worker { &[] } else { keys };
        let is_there = !keys.is_empty() && input.facts.partitioned_by.as_deref() == Some(keys);
        let exchange = if is_there { Exchange::Partitioned(keys.to_vec()) } else { Exchange::Hash(keys.to_vec()) };
        Edge { from: self.emit(input), exchange }
    }
}

/// Whether pairs are emitted, and what rows of a side emit beside them.
fn kind_of(join: &Join) -> (bool, Sides<Alone>) {
    use Alone as A;
    let alone = |left, right| Sides { left, right };
    match join.join_type {
        JoinType::Inner => (true, alone(A::Nothing, A::Nothing)),
        JoinType::Left => (true, alone(A::NullExtended, A::Nothing)),
        JoinType::Right => (true, alone(A::Nothing, A::NullExtended)),
        JoinType::Full => (true, alone(A::NullExtended, A::NullExtended)),
        JoinType::LeftSemi => (false, alone(A::Semi, A::Nothing)),
        JoinType::RightSemi => (false, alone(A::Nothing, A::Semi)),
        JoinType::LeftAnti if join.null_aware => (false, alone(A::NullAwareAnti, A::Nothing)),
        JoinType::LeftAnti => (false, alone(A::Anti, A::Nothing)),
        JoinType::RightAnti => (false, alone(A::Nothing, A::Anti)),
        JoinType::LeftMark => (false, alone(A::Mark, A::Nothing)),
        JoinType::RightMark => (false, alone(A::Nothing, A::Mark)),
    }
}

/// For each column of the plan's output its place in both sides together; nothing for the mark.
fn output_places(join: &Join, n_left: usize) -> Vec<Option<usize>> {
    let n_right = join.right.schema().fields().len();
    let left = (0..n_left).map(Some);
    let right = (n_left..n_left + n_right).map(Some);
    match join.join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => left.chain(right).collect(),
        JoinType::LeftSemi | JoinType::LeftAnti => left.collect(),
        JoinType::RightSemi | JoinType::RightAnti => right.collect(),
        JoinType::LeftMark => left.chain([None]).collect(),
        JoinType::RightMark => right.chain([None]).collect(),
    }
}

fn joined_facts(
    emits_pairs: bool,
    alone: &Sides<Alone>,
    [left, right]: [&Lowered; 2],
    [left_keys, right_keys]: [&[usize]; 2],
    output: &[JoinColumn],
) -> Facts {
    let place = |side: Side, c: usize| output.iter().position(|o| *o == JoinColumn::Of(side, c));
    let places = |side: Side, columns: &[usize]| columns.iter().map(|&c| place(side, c)).collect::<Option<Vec<_>>>();
    // A row of one side meets at most one of the other if that one's key is among the join's.
    let meets_one = |input: &Lowered, keys: &[usize]| {
        input.facts.key.as_ref().is_some_and(|key| key.iter().all(|c| keys.contains(c)))
    };
    let key_of = |side: Side, input: &Lowered| input.facts.key.as_ref().and_then(|key| places(side, key));
    let of_left = || key_of(Side::Left, left);
    let of_right = || key_of(Side::Right, right);
    let key = match (emits_pairs, alone.left, alone.right) {
        (false, Alone::Nothing, _) => of_right(),
        (false, _, _) => of_left(),
        // Null-extended rows of the other side have no key of this one.
        (true, _, Alone::Nothing) if meets_one(right, right_keys) => of_left(),
        (true, Alone::Nothing, _) if meets_one(left, left_keys) => of_right(),
        (true, Alone::Nothing, Alone::Nothing) => of_left().zip(of_right()).map(|(l, r)| [l, r].concat()),
        _ => None,
    };
    // Of an outer join, a side's keys say where a row is unless nulls stand in their place.
    let left_places = || Some(left_keys).filter(|_| alone.right == Alone::Nothing).and_then(|k| places(Side::Left, k));
    let right_places =
        || Some(right_keys).filter(|_| alone.left == Alone::Nothing).and_then(|k| places(Side::Right, k));
    let one_worker = left_keys.is_empty() || alone.left == Alone::NullAwareAnti;
    let partitioned_by = if one_worker { None } else { left_places().or_else(right_places) };
    // A partner that has come stays: nothing is taken back of pairs, nor of rows that are there because of one.
    let only_adds = |alone: Alone| matches!(alone, Alone::Nothing | Alone::Semi);
    let stays = only_adds(alone.left) && only_adds(alone.right);
    Facts {
        append_only: stays && left.facts.append_only && right.facts.append_only,
        key,
        partitioned_by,
        consolidated: false,
    }
}
