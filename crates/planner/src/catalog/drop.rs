//! Dropping relations, and what depends on them.

use std::collections::BTreeSet;
use std::sync::Arc;

use millstream_types::{Error, Result, SqlState};

use super::{Catalog, Kind, Notice, Relation, RelationId, SUCCESSFUL_COMPLETION, at, wrong_kind};
use crate::ast::{Drop, DropBehavior, Name, RelationKind};

/// What came of a `DROP`.
#[derive(Clone, Debug, Default)]
pub struct Dropped {
    /// The relations that are gone, each after all that depend on it.
    pub relations: Vec<Arc<Relation>>,
    /// What the user is told.
    pub notices: Vec<Notice>,
}

impl Catalog {
    /// Drops relations and their indexes; with `CASCADE` all that depends on them.
    ///
    /// # Errors
    /// 42P01 (42704 for an index) for a name that means nothing, 42809 for one that means something else, 2BP01 with the
    /// dependents in the detail under `RESTRICT`. The catalog is unchanged then.
    pub fn drop(&mut self, drop: &Drop) -> Result<Dropped> {
        let mut dropped = Dropped::default();
        let mut targets = Vec::new();
        for name in &drop.names {
            match self.drop_target(name, drop.kind)? {
                Some(relation) => targets.push(relation),
                None if drop.if_exists => {
                    let message = format!("{} \"{}\" does not exist, skipping", drop.kind.noun(), name.name);
                    dropped.notices.push(Notice::new(SUCCESSFUL_COMPLETION, message));
                }
                None => return Err(at(self.undefined(name, drop.kind), name)),
            }
        }
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for target in &targets {
            self.visit_dependents(target, &mut seen, &mut order);
        }
        let is_target = |r: &Relation| targets.iter().any(|t| t.id == r.id);
        let cascaded: Vec<&Arc<Relation>> =
            order.iter().filter(|r| !is_target(r) && !matches!(r.kind, Kind::Index(_))).rev().collect();
        if !cascaded.is_empty() {
            if drop.behavior == DropBehavior::Restrict {
                return Err(self.dependents_error(&targets, &cascaded));
            }
            dropped.notices.push(cascade_notice(&cascaded));
        }
        let order = self.with_arrangements(order);
        if !order.is_empty() {
            let contents = self.contents_mut();
            for relation in &order {
                contents.relations.remove(&relation.id);
                contents.arrangements.remove(&relation.id);
                contents.copied.remove(&relation.id);
                contents.plans.remove(&relation.id);
                if relation.arranges().is_some() {
                    continue;
                }
                contents
                    .comments
                    .retain(|about, _| !matches!(about, super::Commented::Relation(id, _) if *id == relation.id));
                if let Some(names) = contents.names.get_mut(&relation.schema) {
                    names.remove(&relation.name);
                }
            }
        }
        dropped.relations = order;
        Ok(dropped)
    }

    fn drop_target(&self, name: &Name, kind: RelationKind) -> Result<Option<Arc<Relation>>> {
        let Some(relation) = self.find(name.schema.as_deref(), &name.name) else { return Ok(None) };
        if relation.kind.is(kind) {
            return Ok(Some(relation.clone()));
        }
        let Some(actual) = relation.kind.of_user() else {
            let message = format!("permission denied: \"{}\" is a system catalog", relation.name);
            return Err(at(Error::user(SqlState::INSUFFICIENT_PRIVILEGE, message), name));
        };
        let article = if actual == RelationKind::Index { "an" } else { "a" };
        let hint = format!("Use DROP {} to remove {article} {}.", actual.keywords(), actual.noun());
        Err(at(wrong_kind(&relation.name, kind), name).with_hint(hint))
    }

    fn undefined(&self, name: &Name, kind: RelationKind) -> Error {
        if let Some(schema) = &name.schema
            && !self.contents.schemas.contains(schema)
        {
            return Error::user(SqlState::INVALID_SCHEMA_NAME, format!("schema \"{schema}\" does not exist"));
        }
        let state = if kind == RelationKind::Index { SqlState::UNDEFINED_OBJECT } else { SqlState::UNDEFINED_TABLE };
        Error::user(state, format!("{} \"{}\" does not exist", kind.noun(), name.name))
    }

    /// Appends a relation after everything that depends on it.
    fn visit_dependents(
        &self,
        relation: &Arc<Relation>,
        seen: &mut BTreeSet<RelationId>,
        order: &mut Vec<Arc<Relation>>,
    ) {
        if !seen.insert(relation.id) {
            return;
        }
        let dependents: Vec<_> = self.dependents_of(relation.id).cloned().collect();
        for dependent in dependents.iter().rev() {
            self.visit_dependents(dependent, seen, order);
        }
        order.push(relation.clone());
    }

    /// Adds the arrangements that go with relations: those of a relation that goes, before it, and those whose last
    /// user goes.
    fn with_arrangements(&self, order: Vec<Arc<Relation>>) -> Vec<Arc<Relation>> {
        let mut all = Vec::with_capacity(order.len());
        for relation in &order {
            all.extend(self.arrangements().filter(|a| a.depends_on.contains(&relation.id)).cloned());
            all.push(Arc::clone(relation));
        }
        let goes = |id: RelationId| all.iter().any(|r| r.id == id);
        let uses = |a: &Arc<Relation>, r: &Relation| r.depends_on.contains(&a.id);
        let is_lost = |a: &&Arc<Relation>| {
            !goes(a.id) && order.iter().any(|r| uses(a, r)) && self.relations().all(|r| !uses(a, r) || goes(r.id))
        };
        let lost: Vec<Arc<Relation>> = self.arrangements().filter(is_lost).cloned().collect();
        all.extend(lost);
        all
    }

    /// `cannot drop table t because other objects depend on it`, with a line for each dependency in the detail.
    fn dependents_error(&self, targets: &[Arc<Relation>], cascaded: &[&Arc<Relation>]) -> Error {
        let dropped = |id: &RelationId| targets.iter().any(|t| t.id == *id) || cascaded.iter().any(|c| c.id == *id);
        let mut lines = Vec::new();
        for dependent in cascaded {
            for id in dependent.depends_on.iter().filter(|id| dropped(id)) {
                if let Some(on) = self.get(*id) {
                    lines.push(format!("{} depends on {}", described(dependent), described(on)));
                }
            }
        }
        let what = match targets {
            [one] => described(one),
            _ => "desired object(s)".to_string(),
        };
        Error::user(
            SqlState::DEPENDENT_OBJECTS_STILL_EXIST,
            format!("cannot drop {what} because other objects depend on it"),
        )
        .with_detail(lines.join("\n"))
        .with_hint("Use DROP ... CASCADE to drop the dependent objects too.")
    }
}

fn described(relation: &Relation) -> String {
    format!("{} {}", relation.kind.noun(), relation.name)
}

fn cascade_notice(cascaded: &[&Arc<Relation>]) -> Notice {
    let lines: Vec<String> = cascaded.iter().map(|r| format!("drop cascades to {}", described(r))).collect();
    match lines.as_slice() {
        [one] => Notice::new(SUCCESSFUL_COMPLETION, one.clone()),
        _ => Notice {
            state: SUCCESSFUL_COMPLETION,
            message: format!("drop cascades to {} other objects", lines.len()),
            detail: Some(lines.join("\n")),
        },
    }
}
