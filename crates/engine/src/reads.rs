//! What a plan reads: whole relations, or rows of tables by primary key.

use arrow::array::ArrayRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, Operator, TableScan};
use hashbrown::{HashMap, HashSet};
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
            match node {
                LogicalPlan::Filter(filter) => {
                    if let LogicalPlan::TableScan(scan) = unaliased(&filter.input)
                        && self.add_scan(scan, &split_conjunction(&filter.predicate))
                    {
                        // Subqueries in the condition count as well, but no rule leaves any there.
                        return Ok(TreeNodeRecursion::Jump);
                    }
                }
                LogicalPlan::TableScan(scan) => {
                    self.add_scan(scan, &[]);
                }
                _ => {}
            }
            Ok(TreeNodeRecursion::Continue)
        })
        .map_err(from_datafusion)?;
        Ok(())
    }

    /// Adds a scan under conditions; whether it was one by key.
    fn add_scan(&mut self, scan: &TableScan, conditions: &[&Expr]) -> bool {
        let Some(source) = RelationSource::of(&scan.source) else { return false };
        let relation = source.relation();
        if relation.kind == Kind::System {
            return false;
        }
        let conditions = || conditions.iter().copied().chain(&scan.filters);
        let keys = match (&relation.kind, relation.declared_key()) {
            (Kind::Table, Some([one])) => {
                let column = &relation.columns[*one];
                let values = conditions().find_map(|c| values_of(c, &column.name));
                let wanted = column.sql_type.arrow_type();
                let typed = values.filter(|v| v.iter().all(|v| v.data_type() == wanted));
                typed.and_then(|v| ScalarValue::iter_to_array(v).ok()).map(|array| vec![array])
            }
            (Kind::Table, Some(key)) => {
                let columns = key.iter().map(|&c| &relation.columns[c]).map(|column| {
                    let value = conditions().find_map(|c| values_of(c, &column.name).filter(|v| v.len() == 1))?;
                    let value = value.into_iter().next().filter(|v| v.data_type() == column.sql_type.arrow_type())?;
                    value.to_array().ok()
                });
                columns.collect::<Option<Vec<_>>>()
            }
            _ => None,
        };
        match keys {
            Some(keys) => {
                self.add_keys(relation.id, keys);
                true
            }
            None => {
                self.add_relation(relation.id);
                false
            }
        }
    }
}

fn unaliased(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => unaliased(&alias.input),
        other => other,
    }
}

/// The values of which a condition demands that a column has one.
fn values_of(condition: &Expr, column: &str) -> Option<Vec<ScalarValue>> {
    let is_it = |expr: &Expr| matches!(expr, Expr::Column(Column { name, .. }) if name == column);
    match condition {
        Expr::BinaryExpr(binary) if binary.op == Operator::Eq => match (binary.left.as_ref(), binary.right.as_ref()) {
            (expr, Expr::Literal(value, _)) | (Expr::Literal(value, _), expr) if is_it(expr) => {
                Some(vec![value.clone()])
            }
            _ => None,
        },
        Expr::BinaryExpr(binary) if binary.op == Operator::Or => {
            let mut values = values_of(&binary.left, column)?;
            values.extend(values_of(&binary.right, column)?);
            Some(values)
        }
        Expr::InList(list) if !list.negated && is_it(&list.expr) => {
            let value = |e: &Expr| if let Expr::Literal(value, _) = e { Some(value.clone()) } else { None };
            list.list.iter().map(value).collect()
        }
        _ => None,
    }
}
