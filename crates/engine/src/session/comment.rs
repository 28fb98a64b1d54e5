//! `COMMENT ON`

use millstream_planner::ast::{Comment, CommentTarget};
use millstream_planner::catalog::Commented;
use millstream_types::{Error, Result, SqlState};

use super::{Session, done};
use crate::api::Response;

impl Session {
    pub(super) async fn comment(&mut self, comment: &Comment) -> Result<Response> {
        let lock = self.lock_catalog().await;
        let mut catalog = self.catalog();
        let about = match &comment.target {
            CommentTarget::Relation(kind, name) => Commented::Relation(catalog.resolve_kind(name, *kind)?.id, 0),
            CommentTarget::Column(name, column) => {
                let relation = catalog.resolve(name)?;
                let position = relation.column_index(&column.name).ok_or_else(|| {
                    let message =
                        format!("column \"{}\" of relation \"{}\" does not exist", column.name, relation.name);
                    Error::user(SqlState::UNDEFINED_COLUMN, message).with_position(column.position.max(1))
                })?;
                Commented::Relation(relation.id, position as i16 + 1)
            }
            CommentTarget::Schema(schema) => {
                if !catalog.schemas().any(|s| s == schema.name) {
                    let message = format!("schema \"{}\" does not exist", schema.name);
                    return Err(Error::user(SqlState::INVALID_SCHEMA_NAME, message).with_position(schema.position));
                }
                Commented::Schema(schema.name.clone())
            }
            CommentTarget::Database(database) => {
                if database.name != crate::engine::DATABASE {
                    let message = format!("database \"{}\" does not exist", database.name);
                    return Err(Error::user(SqlState::INVALID_CATALOG_NAME, message).with_position(database.position));
                }
                Commented::Database
            }
        };
        catalog.set_comment(about, comment.text.clone());
        self.publish(catalog, vec![], lock.as_ref()).await?;
        Ok(done("COMMENT"))
    }
}
