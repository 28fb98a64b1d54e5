//! Arrangements of a relation's rows for joins: made when a second view wants the same, shared by all that do.
//!
//! They have no name that a statement could use, and go with their last user.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use millstream_expr::Stages;
use millstream_operators::map::MapSpec;
use millstream_operators::materialize::MaterializeSpec;
use millstream_operators::{Dataflow, Edge, Exchange, Node};
use serde::{Deserialize, Serialize};

use super::{Catalog, Kind, NewRelation, Relation, RelationId};
use crate::streaming::StreamingPlan;

/// The rows of a relation as a side of a join wants them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinSide {
    /// The relation.
    pub relation: RelationId,
    /// The relation's columns of the key, ascending.
    pub keys: Vec<usize>,
    /// The relation's columns that are wanted, those of the key included, ascending.
    pub columns: Vec<usize>,
}

impl JoinSide {
    /// A side with these columns, in any order.
    pub fn new(
        relation: RelationId,
        keys: impl IntoIterator<Item = usize>,
        columns: impl IntoIterator<Item = usize>,
    ) -> Self {
        let keys: BTreeSet<usize> = keys.into_iter().collect();
        let columns: BTreeSet<usize> = columns.into_iter().chain(keys.iter().copied()).collect();
        JoinSide { relation, keys: keys.into_iter().collect(), columns: columns.into_iter().collect() }
    }

    /// Whether one arrangement could serve both, if it had the columns of both.
    fn is_like(&self, other: &JoinSide) -> bool {
        self.relation == other.relation && self.keys == other.keys
    }
}

/// What an arrangement has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arranged {
    /// Its columns are the side's; its rows are partitioned and indexed by the key.
    pub side: JoinSide,
}

impl Arranged {
    /// Whether a side finds all it wants.
    pub fn serves(&self, side: &JoinSide) -> bool {
        self.side.is_like(side) && side.columns.iter().all(|c| self.side.columns.contains(c))
    }
}

impl Relation {
    /// What it arranges, if it is an arrangement.
    pub fn arranges(&self) -> Option<&Arranged> {
        match &self.kind {
            Kind::Arrangement(arranged) => Some(arranged),
            _ => None,
        }
    }
}

impl Catalog {
    /// All arrangements, in the order in which they were made.
    pub fn arrangements(&self) -> impl Iterator<Item = &Arc<Relation>> {
        self.contents.arrangements.values()
    }

    /// Of the sides that a new view would keep copies of, what is worth an arrangement: another view keeps a copy of
    /// the same, or the relation has an index over the key. One that exists is given as it is.
    pub fn worth_arranging(&self, copied: &[JoinSide]) -> Vec<JoinSide> {
        let mut worth: Vec<JoinSide> = Vec::new();
        for side in copied {
            let others: Vec<&JoinSide> = self.contents.copied.values().flatten().filter(|o| o.is_like(side)).collect();
            let is_key = |columns: Vec<usize>| {
                columns.iter().copied().collect::<BTreeSet<_>>().into_iter().eq(side.keys.iter().copied())
            };
            let is_indexed = self.indexed_columns(side.relation).any(is_key);
            if others.is_empty() && !is_indexed || worth.iter().any(|w| w.is_like(side)) {
                continue;
            }
            let of_index = self.get(side.relation).filter(|_| is_indexed).map_or(0, |r| r.visible_columns().len());
            let like = copied.iter().filter(|o| o.is_like(side)).chain(others).flat_map(|o| o.columns.iter().copied());
            worth.push(JoinSide::new(side.relation, side.keys.iter().copied(), like.chain(0..of_index)));
        }
        worth
    }

    /// Makes an arrangement. Nothing uses it yet.
    pub fn create_arrangement(&mut self, side: JoinSide) -> Option<Arc<Relation>> {
        let base = Arc::clone(self.get(side.relation)?);
        let columns: Vec<_> = side.columns.iter().map(|&c| base.columns[c].clone()).collect();
        let place = |c: &usize| side.columns.iter().position(|s| s == c);
        let keys: Vec<usize> = side.keys.iter().filter_map(place).collect();
        let names: Vec<&str> = keys.iter().map(|&k| columns[k].name.as_str()).collect();
        let name = format!("{} by {}", base.name, names.join(", "));
        let primary_key = base.declared_key().and_then(|key| key.iter().map(place).collect::<Option<_>>());
        let new = NewRelation {
            primary_key: primary_key.unwrap_or_default(),
            append_only: base.append_only || base.kind == Kind::Stream,
            depends_on: vec![base.id],
            ..NewRelation::new(Kind::Arrangement(Arranged { side }), columns)
        };
        let contents = self.contents_mut();
        let relation = Relation { partitioned_by: Some(keys), ..contents.new_relation(&base.schema, &name, new) };
        let relation = Arc::new(relation);
        contents.arrangements.insert(relation.id, Arc::clone(&relation));
        Some(relation)
    }

    /// Notes what a view's plan uses and keeps: facts of its rows, arrangements, copies. Returns the arrangements that
    /// have lost their last user by that; they are in the catalog no more.
    pub fn set_plan(&mut self, id: RelationId, plan: &StreamingPlan) -> Vec<Arc<Relation>> {
        self.set_facts(id, &plan.result);
        let contents = self.contents_mut();
        let Some(relation) = contents.relations.get_mut(&id) else { return vec![] };
        let relation = Arc::make_mut(relation);
        let is_arrangement = |id: &RelationId| contents.arrangements.contains_key(id);
        let (before, others): (Vec<_>, Vec<_>) = relation.depends_on.iter().copied().partition(is_arrangement);
        let used = plan.relations.iter().copied().filter(is_arrangement);
        relation.depends_on = others.into_iter().chain(used).collect();
        contents.copied.insert(id, plan.copied.clone());
        self.forget_unused(&before)
    }

    /// Notes what planning has found out about a materialized view's rows.
    pub fn set_facts(&mut self, id: RelationId, result: &MaterializeSpec) {
        if let Some(relation) = self.contents_mut().relations.get_mut(&id)
            && matches!(relation.kind, Kind::MaterializedView(_))
        {
            let relation = Arc::make_mut(relation);
            relation.append_only = result.append_only;
            relation.primary_key = result.key.clone().unwrap_or_default();
            relation.partitioned_by = result.partitioned_by.clone();
        }
    }

    /// Takes those of some arrangements that nothing uses out of the catalog.
    pub fn forget_unused(&mut self, ids: &[RelationId]) -> Vec<Arc<Relation>> {
        let is_unused =
            |id: &&RelationId| self.contents.arrangements.contains_key(id) && self.dependents_of(**id).next().is_none();
        let unused: Vec<RelationId> = ids.iter().filter(is_unused).copied().collect();
        if unused.is_empty() {
            return vec![];
        }
        let contents = self.contents_mut();
        unused.iter().for_each(|id| drop(contents.plans.remove(id)));
        unused.iter().filter_map(|id| contents.arrangements.remove(id)).collect()
    }
}

/// The dataflow that keeps an arrangement.
///
/// # Panics
/// If the relation is no arrangement.
pub fn plan_of(arrangement: &Relation, base: &Relation) -> StreamingPlan {
    let side = &arrangement.arranges().expect("an arrangement").side;
    let keys = arrangement.partitioned_by.clone().unwrap_or_default();
    let fields = arrangement.columns.iter().map(|c| c.arrow_field().with_nullable(true));
    let schema: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut dataflow = Dataflow::default();
    let import = dataflow.add(Node::Import {
        relation: base.id,
        name: base.name.clone(),
        projection: side.columns.clone(),
        schema: Arc::clone(&schema),
        changes_only: false,
    });
    let spec = Arc::new(MapSpec { stages: Stages(vec![]), schema: Arc::clone(&schema) });
    dataflow.add(Node::Operator { spec, inputs: vec![Edge { from: import, exchange: Exchange::Hash(keys.clone()) }] });
    let key = Some(arrangement.primary_key.clone()).filter(|key| !key.is_empty());
    let result = MaterializeSpec {
        schema,
        key,
        partitioned_by: Some(keys.clone()),
        append_only: arrangement.append_only,
        consolidated: false,
        indexes: vec![keys],
    };
    StreamingPlan { dataflow, result, relations: vec![base.id], copied: vec![] }
}
