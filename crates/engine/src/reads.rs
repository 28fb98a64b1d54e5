//! What a plan reads: whole relations, or rows of tables by primary key.

use arrow::array::ArrayRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use hashbrown::{HashMap, HashSet};
use millstream_planner::access::KeyLookup;
use millstream_planner::catalog::Kind;
use millstream_planner::errors::from_datafusion;
use millstream_planner::{RelationId, RelationSource};
use millstream_types::Result;

/// Keys read of one relation beyond which the relation counts as read as a whole.
const KEYS_MAX: usize = 1 << 14;

/// What was read.
#[derive(Clone, Default)]
pub(crate) struct ReadSet {
    /// Relations of which anything may have been read.
    relations: HashSet<RelationId>,
    /// Tables of which only rows with certain keys were, whether or not there are such rows: columns of keys.
    keys: HashMap<RelationId, Vec<Vec<ArrayRef>>>,
}

impl ReadSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.relations.is_empty() && self.keys.is_empty()
    }

    /// Relations that were read as wholes.
    pub(crate) fn relations(&self) -> impl Iterator<Item = RelationId> {
        self.relations.iter().copied()
    }

    /// Tables of which only certain keys were read.
    pub(crate) fn keys(&self) -> impl Iterator<Item = (RelationId, &[Vec<ArrayRef>])> {
        self.keys.iter().map(|(id, keys)| (*id, keys.as_slice()))
    }

    pub(crate) fn add_relation(&mut self, id: RelationId) {
        self.keys.remove(&id);
        self.relations.insert(id);
    }

    pub(crate) fn add_keys(&mut self, id: RelationId, keys: Vec<ArrayRef>) {
        if self.relations.contains(&id) || keys.first().is_none_or(|k| k.is_empty()) {
            return;
        }
        let known = self.keys.entry(id).or_default();
        known.push(keys);
        let n_keys: usize = known.iter().map(|keys| keys[0].len()).sum();
        if n_keys > KEYS_MAX {
            self.add_relation(id);
        }
    }

    /// Adds what an optimized plan reads.
    pub(crate) fn add_plan(&mut self, plan: &LogicalPlan) -> Result<()> {
        plan.apply_with_subqueries(|node| {
            if let LogicalPlan::TableScan(scan) = node {
                self.add_scan(scan).map_err(|e| DataFusionError::External(Box::new(e)))?;
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(from_datafusion)?;
        Ok(())
    }

    fn add_scan(&mut self, scan: &TableScan) -> Result<()> {
        let Some(relation) = RelationSource::of(&scan.source).map(RelationSource::relation) else { return Ok(()) };
        if relation.kind != Kind::System {
            match KeyLookup::of_scan(scan)? {
                Some(lookup) => self.add_lookup(&lookup),
                None => self.add_relation(relation.id),
            }
        }
        Ok(())
    }

    /// Adds a lookup: by the primary key of a table it is only of these keys.
    pub(crate) fn add_lookup(&mut self, lookup: &KeyLookup) {
        match lookup.relation.kind {
            Kind::Table if lookup.is_unique => self.add_keys(lookup.relation.id, lookup.keys.clone()),
            _ => self.add_relation(lookup.relation.id),
        }
    }
}
