//! Grouping sets, `CUBE` and `ROLLUP`: one aggregate for each set, over the same rows, and their union.
//!
//! Each set is exchanged by its own key, reduced before that where its functions allow it, and the empty set has its row
//! even without input, as any aggregate without a key.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, Expr, GroupingSet};
use datafusion::physical_expr::expressions::Literal;
use millstream_expr::{MapStage, Scalar};
use millstream_operators::union::UnionSpec;
use millstream_operators::{Edge, Exchange};
use millstream_types::{Error, Result};

use super::aggregate::{Call, InputColumns};
use super::exprs::columns_of;
use super::{Facts, Lowered, Planner, arrow_schema, restrict, shown};
use crate::errors::from_datafusion;

/// Sets that one query may have.
const MAX_SETS: usize = 4096;

impl Planner<'_> {
    /// Lowers an aggregate whose one grouping expression is a grouping set.
    pub(super) fn lower_grouping_sets(&mut self, aggregate: &Aggregate, set: &GroupingSet) -> Result<Lowered> {
        let exprs = grouping_set_to_exprlist(&aggregate.group_expr).map_err(from_datafusion)?;
        let sets = sets_of(set, &exprs)?;
        let needed = columns_of(exprs.iter().copied().chain(&aggregate.aggr_expr), aggregate.input.schema());
        let input = self.lower(&aggregate.input, Some(&needed))?;
        let shown = {
            let id = Expr::Literal(ScalarValue::Null, None);
            let exprs = exprs.iter().copied().chain([&id]).chain(&aggregate.aggr_expr);
            shown::of_exprs(aggregate.schema.as_ref().clone(), exprs, &input.schema)?
        };
        let mut columns = InputColumns::new(&input);
        let keys = exprs.iter().map(|e| columns.add(e)).collect::<Result<Vec<_>>>()?;
        let calls = aggregate.aggr_expr.iter().map(|e| columns.call(e)).collect::<Result<Vec<_>>>()?;
        let prepared = columns.into_stage(input);
        let (schema, facts) = (prepared.schema.clone(), prepared.facts.clone());
        let node = self.emit(prepared);
        let mut inputs = Vec::new();
        let out = arrow_schema(&shown);
        for (i, set) in sets.iter().enumerate() {
            let rows = Lowered { node, stages: vec![], schema: schema.clone(), facts: facts.clone() };
            let one = self.aggregate_set(&shown, rows, set, &keys, &calls)?;
            let id = grouping_id(&sets, i, keys.len());
            let stage = under_all_keys(&one.schema, set, keys.len(), id, &out)?;
            let mut one = one;
            one.stages.push(stage);
            inputs.push(Edge { from: self.emit(one), exchange: Exchange::Local });
        }
        let node = self.add(UnionSpec { schema: out }, inputs);
        // The grouping id tells equal keys of different sets apart.
        let facts = Facts { key: Some((0..=keys.len()).collect()), consolidated: true, ..Facts::default() };
        Ok(Lowered { node, stages: vec![], schema: shown, facts })
    }

    /// The aggregate of one set: the set's keys, then the calls.
    fn aggregate_set(
        &mut self,
        all_sets: &DFSchema,
        rows: Lowered,
        set: &[usize],
        keys: &[usize],
        calls: &[Call],
    ) -> Result<Lowered> {
        let n_keys = keys.len();
        let kept: Vec<usize> = set.iter().copied().chain(n_keys + 1..n_keys + 1 + calls.len()).collect();
        let schema: DFSchema = restrict(all_sets, &kept)?;
        self.aggregate(rows, set.iter().map(|&k| keys[k]).collect(), calls.to_vec(), schema)
    }
}

/// The sets as positions in the list of all grouping expressions.
fn sets_of(set: &GroupingSet, all: &[&Expr]) -> Result<Vec<Vec<usize>>> {
    let place = |e: &Expr| {
        let at = all.iter().position(|a| *a == e);
        at.ok_or_else(|| Error::internal("a grouping set has an expression that is not among all of them"))
    };
    let places = |exprs: &[Expr]| {
        let mut places = exprs.iter().map(place).collect::<Result<Vec<_>>>()?;
        places.sort_unstable();
        places.dedup();
        Ok(places)
    };
    let sets = match set {
        GroupingSet::GroupingSets(sets) => sets.iter().map(|s| places(s)).collect::<Result<Vec<_>>>()?,
        GroupingSet::Rollup(exprs) => (0..=exprs.len()).map(|n| places(&exprs[..n])).collect::<Result<_>>()?,
        GroupingSet::Cube(exprs) => {
            if exprs.len() > 12 {
                return Err(Error::not_supported("CUBE of more than 12 expressions is not supported"));
            }
            let subset = |bits: usize| {
                let chosen: Vec<Expr> =
                    exprs.iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, e)| e.clone()).collect();
                places(&chosen)
            };
            (0..1 << exprs.len()).map(subset).collect::<Result<_>>()?
        }
    };
    if sets.len() > MAX_SETS {
        return Err(Error::not_supported(format!("more than {MAX_SETS} grouping sets are not supported")));
    }
    Ok(sets)
}

/// A bit for each expression that is not in the set, the last one's lowest; above them, which of equal sets it is.
fn grouping_id(sets: &[Vec<usize>], at: usize, n_keys: usize) -> u64 {
    let mask = (0..n_keys).fold(0u64, |id, k| id << 1 | u64::from(!sets[at].contains(&k)));
    let ordinal = sets[..at].iter().filter(|s| **s == sets[at]).count() as u64;
    mask | ordinal.checked_shl(n_keys as u32).unwrap_or(0)
}

/// A set's rows with nulls for the keys that it lacks, and the grouping id.
fn under_all_keys(have: &DFSchema, set: &[usize], n_keys: usize, id: u64, out: &SchemaRef) -> Result<MapStage> {
    let literal = |value: ScalarValue| Scalar::new(Arc::new(Literal::new(value)));
    let mut projection = Vec::new();
    for (i, field) in out.fields().iter().enumerate() {
        projection.push(if i < n_keys {
            match set.iter().position(|k| *k == i) {
                Some(at) => Scalar::column(have.field(at).name(), at),
                None => literal(ScalarValue::try_from(field.data_type()).map_err(from_datafusion)?),
            }
        } else if i == n_keys {
            let id = ScalarValue::UInt64(Some(id)).cast_to(field.data_type()).map_err(from_datafusion)?;
            literal(id)
        } else {
            let at = set.len() + i - n_keys - 1;
            Scalar::column(have.field(at).name(), at)
        });
    }
    let schema = Arc::new(Schema::new(out.fields().clone()));
    Ok(MapStage { predicate: None, projection: Some(projection), schema })
}
