//! What one version of the catalog has that another has not: what is stored of it.
//!
//! The engine's own relations and functions are those of the release that runs, and are not part of a change.

use std::sync::Arc;

use millstream_types::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Catalog, Commented, Contents, JoinSide, Kind, Relation, RelationId};

/// A step from one version of a catalog to another. As bytes it is JSON, so that a later release may add to it, and plans.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogChange {
    next_id: u64,
    next_oid: u32,
    /// Relations that are new, or not as they were; arrangements among them.
    relations: Vec<Relation>,
    gone: Vec<RelationId>,
    /// The join sides that views keep copies of, of the views for which that is new.
    copied: Vec<(RelationId, Vec<JoinSide>)>,
    /// Comments that are new, or no more.
    comments: Vec<(Commented, Option<String>)>,
    /// The views whose plans are new, or no more; the plans stand behind the JSON, in this order.
    planned: Vec<(RelationId, bool)>,
    #[serde(skip)]
    plans: Vec<Arc<[u8]>>,
}

impl CatalogChange {
    /// The change as bytes.
    ///
    /// # Errors
    /// Internal.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(self);
        let json = json.map_err(|e| Error::internal(format!("a change of the catalog has no encoding: {e}")))?;
        let mut bytes = Vec::new();
        for part in std::iter::once(json.as_slice()).chain(self.plans.iter().map(|plan| &plan[..])) {
            bytes.extend((part.len() as u64).to_le_bytes());
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// The change that was encoded.
    ///
    /// # Errors
    /// Internal, if the bytes are no such change.
    pub fn decode(bytes: &[u8]) -> Result<CatalogChange> {
        let mut rest = bytes;
        let json = take_part(&mut rest)?;
        let change = serde_json::from_slice(json);
        let mut change: CatalogChange =
            change.map_err(|e| Error::internal(format!("no change of the catalog: {e}")))?;
        for _ in change.planned.iter().filter(|(_, is_there)| *is_there) {
            change.plans.push(take_part(&mut rest)?.into());
        }
        Ok(change)
    }

    /// The relations that are new, or not as they were.
    pub fn relations(&self) -> &[Relation] {
        &self.relations
    }

    /// The relations that are gone.
    pub fn gone(&self) -> &[RelationId] {
        &self.gone
    }

    /// The views whose plans are not as they were.
    pub fn planned(&self) -> impl Iterator<Item = RelationId> {
        self.planned.iter().map(|(id, _)| *id)
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.relations.is_empty()
            && self.gone.is_empty()
            && self.copied.is_empty()
            && self.comments.is_empty()
            && self.planned.is_empty()
    }
}

impl Catalog {
    /// What this version has that an earlier one has not.
    pub fn change_since(&self, earlier: &Catalog) -> CatalogChange {
        let (now, then) = (&self.contents, &earlier.contents);
        let mut relations = Vec::new();
        let mut gone = Vec::new();
        for (now, then) in [(&now.relations, &then.relations), (&now.arrangements, &then.arrangements)] {
            let is_new = |r: &&Arc<Relation>| r.kind != Kind::System && then.get(&r.id) != Some(r);
            relations.extend(now.values().filter(is_new).map(|r| Relation::clone(r)));
            gone.extend(then.keys().filter(|id| !now.contains_key(id)));
        }
        relations.sort_by_key(|r| r.id);
        let copied = now.copied.iter().filter(|(id, sides)| then.copied.get(id) != Some(sides));
        let mut comments = Vec::new();
        for (about, text) in &now.comments {
            if then.comments.get(about) != Some(text) {
                comments.push((about.clone(), Some(text.clone())));
            }
        }
        comments.extend(then.comments.keys().filter(|a| !now.comments.contains_key(a)).map(|a| (a.clone(), None)));
        let mut planned = Vec::new();
        let mut plans = Vec::new();
        for (id, plan) in &now.plans {
            if then.plans.get(id) != Some(plan) {
                planned.push((*id, true));
                plans.push(Arc::clone(plan));
            }
        }
        planned.extend(then.plans.keys().filter(|id| !now.plans.contains_key(id)).map(|id| (*id, false)));
        CatalogChange {
            next_id: now.next_user_id,
            next_oid: now.next_user_oid,
            relations,
            gone,
            copied: copied.map(|(id, sides)| (*id, sides.clone())).collect(),
            comments,
            planned,
            plans,
        }
    }

    /// Makes a change that another catalog has made.
    pub fn apply(&mut self, change: CatalogChange) {
        let contents = self.contents_mut();
        contents.next_user_id = contents.next_user_id.max(change.next_id);
        contents.next_user_oid = contents.next_user_oid.max(change.next_oid);
        for id in change.gone {
            contents.forget(id);
        }
        for relation in change.relations {
            contents.put(Arc::new(relation));
        }
        contents.copied.extend(change.copied);
        let mut plans = change.plans.into_iter();
        for (id, is_there) in change.planned {
            match is_there.then(|| plans.next()).flatten() {
                Some(plan) => drop(contents.plans.insert(id, plan)),
                None => drop(contents.plans.remove(&id)),
            }
        }
        for (about, text) in change.comments {
            match text {
                Some(text) => drop(contents.comments.insert(about, text)),
                None => drop(contents.comments.remove(&about)),
            }
        }
    }
}

impl Contents {
    /// Puts a relation in the place of the one with its id, if there is one.
    fn put(&mut self, relation: Arc<Relation>) {
        if let Kind::Arrangement(_) = relation.kind {
            self.arrangements.insert(relation.id, relation);
            return;
        }
        self.take(relation.id);
        self.names.entry(relation.schema.clone()).or_default().insert(relation.name.clone(), relation.id);
        self.relations.insert(relation.id, relation);
    }

    fn take(&mut self, id: RelationId) {
        if let Some(relation) = self.relations.remove(&id)
            && let Some(names) = self.names.get_mut(&relation.schema)
        {
            names.remove(&relation.name);
        }
    }

    /// Takes a relation out, with what is known of it alone.
    fn forget(&mut self, id: RelationId) {
        self.take(id);
        self.arrangements.remove(&id);
        self.copied.remove(&id);
        self.plans.remove(&id);
    }
}

/// Takes a part with its length in front.
fn take_part<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8]> {
    let cut_off = || Error::internal("a change of the catalog that is cut off");
    let (len, left) = rest.split_first_chunk::<8>().ok_or_else(cut_off)?;
    let (part, left) = left.split_at_checked(u64::from_le_bytes(*len) as usize).ok_or_else(cut_off)?;
    *rest = left;
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ast::{self, Statement};
    use crate::parser::parse;

    fn run(catalog: &mut Catalog, sql: &str) {
        for statement in parse(sql).expect("SQL") {
            match statement.statement {
                Statement::CreateTable(create) => drop(catalog.create_table(&create).expect("a table")),
                Statement::CreateStream(create) => drop(catalog.create_stream(&create, None).expect("a stream")),
                Statement::CreateIndex(create) => drop(catalog.create_index(&create).expect("an index")),
                Statement::Drop(drop_it) => drop(catalog.drop(&drop_it).expect("it is there")),
                other => panic!("not a statement for this: {other:?}"),
            }
        }
    }

    #[test]
    fn changes_lead_from_one_version_to_another() {
        let steps = [
            "CREATE TABLE t (k int PRIMARY KEY, \"N\" numeric(10, 2) DEFAULT 1.5, a text[]); CREATE STREAM s (x bigint NOT NULL)",
            "CREATE INDEX i ON t (a); CREATE TABLE u (c varchar(3), d char(2)) WITH (o = 'v')",
            "DROP TABLE t; CREATE TABLE t (k int)",
            "DROP STREAM s",
        ];
        let (mut catalog, mut copy) = (Catalog::new(), Catalog::new());
        for (step, sql) in steps.into_iter().enumerate() {
            let before = catalog.clone();
            run(&mut catalog, sql);
            catalog.set_comment(Commented::Database, Some(sql.to_owned()));
            // Whose plan it is plays no part here.
            catalog.store_plan(RelationId(1), sql.as_bytes().into());
            catalog.forget_plan(RelationId(2));
            if step == 1 {
                catalog.store_plan(RelationId(2), [7; 1000].into());
            }
            let change = catalog.change_since(&before);
            assert!(!change.is_empty());
            copy.apply(CatalogChange::decode(&change.encode().expect("encodes")).expect("decodes"));
            let all = |c: &Catalog| c.relations().cloned().collect::<Vec<_>>();
            assert_eq!(all(&copy), all(&catalog));
            assert!(catalog.relations().all(|r| copy.find(Some(&r.schema), &r.name) == Some(r)));
            for id in [1, 2] {
                assert_eq!(copy.stored_plan(RelationId(id)), catalog.stored_plan(RelationId(id)));
            }
            assert_eq!(copy.comments().collect::<Vec<_>>(), catalog.comments().collect::<Vec<_>>());
            assert!(catalog.change_since(&copy).is_empty());
        }
        assert!(copy.find(None, "s").is_none() && copy.find(None, "i").is_none());
        let name = ast::Name { schema: None, name: "next".to_owned(), position: 0 };
        let made = |c: &mut Catalog| {
            let new = super::super::NewRelation::new(Kind::Table, vec![]);
            c.create(&name, false, new).expect("a table");
            c.resolve(&name).expect("just made").id
        };
        assert_eq!(made(&mut copy), made(&mut catalog), "no id is given twice");
    }
}
