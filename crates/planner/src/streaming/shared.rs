//! Join sides that need no copy of their rows: the relation they read is arranged by the join's key already, or there is
//! an arrangement of it that several views share.

use std::sync::Arc;

use millstream_operators::Node;
use millstream_operators::hash_join::{Alone, HashJoinSpec, SharedInput, Side};

use super::{Lowered, Planner};
use crate::catalog::{JoinSide, Relation, RelationId};

/// What lets the sides of a join share arrangements.
#[derive(Default)]
pub(super) struct Sharing {
    left: Option<SharedInput>,
    right: Option<SharedInput>,
}

impl Sharing {
    /// Puts the findings into a join's spec.
    pub(super) fn apply(self, spec: &mut HashJoinSpec) {
        spec.inputs.left.shared = self.left;
        spec.inputs.right.shared = self.right;
    }
}

/// Where the rows of a side are, arranged by the join's key.
struct Served {
    /// In which order the pairs of keys are those by which the rows are partitioned and arranged.
    order: Vec<usize>,
    /// An arrangement that was made for that; else it is the relation itself.
    arrangement: Option<Arc<Relation>>,
}

impl Planner<'_> {
    /// Finds the sides of a join that can be shared, and brings the pairs of keys into the order of the arrangement.
    ///
    /// A shared side has no rows that emit anything beside pairs, as those need counts of partners; it reads a relation
    /// as it is, columns left out or in another order aside. Of two shared sides one still gets its rows as of the start:
    /// they meet those of the other.
    pub(super) fn share_sides(
        &mut self,
        [left, right]: [&mut Lowered; 2],
        [left_keys, right_keys]: [&mut Vec<usize>; 2],
        alone: [Alone; 2],
    ) -> Sharing {
        if alone[0] == Alone::NullAwareAnti || left_keys.is_empty() {
            return Sharing::default();
        }
        let served = |side: Side, lowered: &Lowered, keys: &[usize]| {
            let is_alone = alone[if side == Side::Left { 0 } else { 1 }] != Alone::Nothing;
            if is_alone { None } else { self.served(lowered, keys) }
        };
        let right_served = served(Side::Right, right, right_keys);
        let left_served = served(Side::Left, left, left_keys);
        let order = right_served.as_ref().or(left_served.as_ref()).map(|s| s.order.clone());
        if let Some(order) = &order {
            for keys in [&mut *left_keys, &mut *right_keys] {
                *keys = order.iter().map(|&i| keys[i]).collect();
            }
        }
        let mut share = |served: Option<Served>, lowered: &mut Lowered, keys: &[usize], alone: Alone| {
            let Some(served) = served.filter(|s| Some(&s.order) == order.as_ref()) else {
                if alone == Alone::Nothing {
                    self.note_copy(lowered, keys);
                }
                return None;
            };
            if let Some(arrangement) = &served.arrangement {
                self.import_from(arrangement, lowered, keys);
            }
            self.shared_input(lowered, keys)
        };
        let sharing = Sharing {
            right: share(right_served, right, right_keys, alone[1]),
            left: share(left_served, left, left_keys, alone[0]),
        };
        let fed_by_changes = match (&sharing.left, &sharing.right) {
            (_, Some(_)) => Some(right.node),
            (Some(_), None) => Some(left.node),
            (None, None) => None,
        };
        if let Some(Node::Import { changes_only, .. }) = fed_by_changes.map(|node| &mut self.dataflow.nodes[node]) {
            *changes_only = true;
        }
        sharing
    }

    /// Where an input's rows are arranged by the keys, if they are.
    fn served(&self, input: &Lowered, keys: &[usize]) -> Option<Served> {
        self.relation_columns(input)?;
        if let Some(order) = key_order(input, keys) {
            return Some(Served { order, arrangement: None });
        }
        let (wanted, columns) = self.join_side(input, keys)?;
        let arrangement = self.arrangements.iter().find(|r| r.arranges().is_some_and(|a| a.serves(&wanted)))?;
        let order = arrangement.arranges()?.side.keys.iter().map(|key| keys.iter().position(|&k| columns[k] == *key));
        Some(Served { order: order.collect::<Option<_>>()?, arrangement: Some(Arc::clone(arrangement)) })
    }

    /// The relation that an input reads, and for each column of the input the relation's, if it takes the rows as they are.
    fn relation_columns(&self, input: &Lowered) -> Option<(RelationId, Vec<usize>)> {
        let Node::Import { relation, projection, .. } = &self.dataflow.nodes[input.node] else { return None };
        let mut columns = projection.clone();
        for stage in &input.stages {
            let projection = stage.projection.as_ref().filter(|_| stage.predicate.is_none())?;
            columns = projection.iter().map(|s| s.as_column().map(|c| columns[c])).collect::<Option<_>>()?;
        }
        Some((*relation, columns))
    }

    /// What an arrangement of an input would be, and for each column of the input the relation's.
    fn join_side(&self, input: &Lowered, keys: &[usize]) -> Option<(JoinSide, Vec<usize>)> {
        let (relation, columns) = self.relation_columns(input)?;
        let side = JoinSide::new(relation, keys.iter().map(|&k| columns[k]), columns.iter().copied());
        // A column that stands in the key twice says nothing twice.
        (side.keys.len() == keys.len()).then_some((side, columns))
    }

    /// Notes a side that the join keeps a copy of, and that an arrangement could serve.
    fn note_copy(&mut self, input: &Lowered, keys: &[usize]) {
        if key_order(input, keys).is_none()
            && let Some((side, _)) = self.join_side(input, keys)
        {
            self.copied.push(side);
        }
    }

    /// Lets an input read an arrangement of its relation, which is partitioned by the keys.
    fn import_from(&mut self, arrangement: &Relation, input: &mut Lowered, keys: &[usize]) {
        let Some(arranged) = arrangement.arranges() else { return };
        if let Node::Import { relation, name, projection, .. } = &mut self.dataflow.nodes[input.node] {
            *relation = arrangement.id;
            name.clone_from(&arrangement.name);
            let place = |c: &usize| arranged.side.columns.iter().position(|a| a == c);
            *projection = projection.iter().filter_map(place).collect();
            input.facts.partitioned_by = Some(keys.to_vec());
        }
    }

    /// The arrangement that has an input's rows.
    fn shared_input(&self, input: &Lowered, keys: &[usize]) -> Option<SharedInput> {
        let (relation, columns) = self.relation_columns(input)?;
        Some(SharedInput { relation, keys: keys.iter().map(|&k| columns[k]).collect(), columns })
    }
}

/// In which order the pairs of keys are those by which the input's relation is both partitioned and arranged.
fn key_order(input: &Lowered, keys: &[usize]) -> Option<Vec<usize>> {
    let arranged = input.facts.key.as_ref().filter(|key| input.facts.partitioned_by.as_ref() == Some(key))?;
    if arranged.len() != keys.len() {
        return None;
    }
    arranged.iter().map(|column| keys.iter().position(|k| k == column)).collect()
}
