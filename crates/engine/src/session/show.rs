//! `SHOW` and `DESCRIBE`.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringViewArray};
use millstream_planner::ast::{RelationKind, Show};
use millstream_planner::catalog::Relation;
use millstream_types::{Error, Result, SqlType};

use super::settings::shown_name;
use super::{Session, rows_of};
use crate::api::{Response, ResultColumn, RowsTag};
use crate::pg_catalog::definition;

impl Session {
    /// The columns that a `SHOW` gives.
    pub(super) fn show_columns(&self, show: &Show) -> Result<Vec<ResultColumn>> {
        let text = |names: &[&str]| names.iter().map(|n| ResultColumn::computed(*n, SqlType::Text)).collect();
        Ok(match show {
            Show::Parameter(name) => text(&[shown_name(name)]),
            Show::All => text(&["name", "setting", "description"]),
            Show::Columns(_) => text(&["name", "type", "nullable", "default"]),
            Show::Relations(_) => text(&["name", "schema"]),
            Show::Databases | Show::Schemas => text(&["name"]),
            Show::Create(..) => text(&["name", "definition"]),
            Show::Jobs => text(&["name", "kind", "state", "progress"]),
        })
    }

    pub(super) fn show(&mut self, show: &Show) -> Result<Response> {
        let columns = self.show_columns(show)?;
        let rows: Vec<Vec<Option<String>>> = match show {
            Show::Parameter(name) => vec![vec![Some(self.settings.get(name)?)]],
            Show::All => self
                .settings
                .all()
                .iter()
                .map(|(name, value)| vec![Some(shown_name(name).to_owned()), Some(value.clone()), Some(String::new())])
                .collect(),
            Show::Columns(name) => described(self.catalog().resolve(name)?),
            Show::Relations(kind) => self.shown_relations(*kind),
            Show::Databases => vec![vec![Some(crate::engine::DATABASE.to_owned())]],
            Show::Schemas => self.catalog().schemas().map(|s| vec![Some(s.to_owned())]).collect(),
            Show::Create(kind, name) => {
                let catalog = self.catalog();
                let relation = catalog.resolve_kind(name, *kind)?;
                let definition = definition(&catalog, relation).ok_or_else(|| Error::internal("it has no kind"))?;
                vec![vec![Some(relation.name.clone()), Some(definition)]]
            }
            Show::Jobs => self.shown_jobs(),
        };
        let column =
            |i: usize| -> ArrayRef { Arc::new(rows.iter().map(|row| row[i].as_deref()).collect::<StringViewArray>()) };
        let arrays = (0..columns.len()).map(column).collect();
        rows_of(RowsTag::Show, columns, arrays)
    }

    fn shown_relations(&self, kind: RelationKind) -> Vec<Vec<Option<String>>> {
        let catalog = self.catalog();
        let of_kind = catalog.relations().filter(|r| r.kind.is(kind));
        let mut rows: Vec<_> = of_kind.map(|r| vec![Some(r.name.clone()), Some(r.schema.clone())]).collect();
        rows.sort();
        rows
    }

    fn shown_jobs(&self) -> Vec<Vec<Option<String>>> {
        let relations = self.engine.clock.relations.read();
        let jobs = relations.values().filter(|r| matches!(r.body, crate::live::Body::Dataflow { .. }));
        let row = |r: &std::sync::Arc<crate::live::LiveRelation>| {
            let (state, progress) = crate::system::job_state(r);
            let kind = r.relation.kind.noun().to_owned();
            vec![Some(r.relation.name.clone()), Some(kind), Some(state.to_owned()), progress]
        };
        let mut rows: Vec<_> = jobs.map(row).collect();
        rows.sort();
        rows
    }
}

fn described(relation: &Relation) -> Vec<Vec<Option<String>>> {
    let column = |c: &millstream_planner::catalog::Column| {
        let nullable = if c.not_null { "NO" } else { "YES" };
        vec![Some(c.name.clone()), Some(c.sql_type.to_string()), Some(nullable.to_owned()), c.default.clone()]
    };
    relation.visible_columns().iter().map(column).collect()
}
