//! Join sides that need no copy of their rows, as the relation they read is arranged by the join's key already.

use millstream_operators::Node;
use millstream_operators::hash_join::{Alone, HashJoinSpec, SharedInput, Side};

use super::{Lowered, Planner};

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

impl Planner {
    /// Finds the sides of a join that can be shared, and brings the pairs of keys into the order of the arrangement.
    ///
    /// A shared side has no rows that emit anything beside pairs, as those need counts of partners; it reads a relation
    /// as it is, columns left out or in another order aside. Of two shared sides one still gets its rows as of the start:
    /// they meet those of the other.
    pub(super) fn share_sides(
        &mut self,
        [left, right]: [&Lowered; 2],
        [left_keys, right_keys]: [&mut Vec<usize>; 2],
        alone: [Alone; 2],
    ) -> Sharing {
        if alone[0] == Alone::NullAwareAnti || left_keys.is_empty() {
            return Sharing::default();
        }
        let order_of = |side: Side, lowered: &Lowered, keys: &[usize]| {
            let is_alone = alone[if side == Side::Left { 0 } else { 1 }] != Alone::Nothing;
            if is_alone { None } else { key_order(lowered, keys) }
        };
        let right_order = order_of(Side::Right, right, right_keys);
        let left_order = order_of(Side::Left, left, left_keys);
        let Some(order) = right_order.clone().or(left_order.clone()) else { return Sharing::default() };
        for keys in [&mut *left_keys, &mut *right_keys] {
            *keys = order.iter().map(|&i| keys[i]).collect();
        }
        let mut sharing = Sharing::default();
        if right_order.as_ref() == Some(&order) {
            sharing.right = self.shared_input(right, right_keys);
        }
        if left_order.as_ref() == Some(&order) {
            sharing.left = self.shared_input(left, left_keys);
        }
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

    /// The arrangement that has an input's rows, if there is one and the input takes them as they are.
    fn shared_input(&self, input: &Lowered, keys: &[usize]) -> Option<SharedInput> {
        let Node::Import { relation, projection, .. } = &self.dataflow.nodes[input.node] else { return None };
        let mut columns = projection.clone();
        for stage in &input.stages {
            let projection = stage.projection.as_ref().filter(|_| stage.predicate.is_none())?;
            columns = projection.iter().map(|s| s.as_column().map(|c| columns[c])).collect::<Option<_>>()?;
        }
        Some(SharedInput { relation: *relation, keys: keys.iter().map(|&k| columns[k]).collect(), columns })
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
