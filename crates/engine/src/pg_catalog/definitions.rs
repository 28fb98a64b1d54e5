//! The statement that makes a relation, put together from the catalog.

use millstream_planner::Catalog;
use millstream_planner::ast::OnKeyConflict;
use millstream_planner::catalog::{Kind, Relation};

use super::constraints::key_definition;
use super::objects::quote_ident;

/// `CREATE ...` of a relation; `None` for the engine's own.
pub(crate) fn definition(catalog: &Catalog, relation: &Relation) -> Option<String> {
    let kind = relation.kind.of_user()?.keywords();
    let name = qualified(relation);
    let options = options(relation);
    Some(match &relation.kind {
        Kind::View(view) => format!("CREATE VIEW {name} AS {}", view.text),
        Kind::MaterializedView(view) => format!("CREATE MATERIALIZED VIEW {name}{options} AS {}", view.text),
        Kind::Index(index) => {
            let over = catalog.get(index.relation)?;
            let columns: Vec<String> = relation.columns.iter().map(|c| quote_ident(&c.name)).collect();
            format!("CREATE INDEX {} ON {} ({})", quote_ident(&relation.name), qualified(over), columns.join(", "))
        }
        Kind::Sink(Some(view)) => format!("CREATE SINK {name} AS {}{options}", view.text),
        Kind::Sink(None) => {
            let from = relation.depends_on.first().and_then(|id| catalog.get(*id));
            format!("CREATE SINK {name} FROM {}{options}", from.map(|r| qualified(r)).unwrap_or_default())
        }
        _ => format!("CREATE {kind} {name} ({}){}{options}", columns(relation), behavior(relation)),
    })
}

fn qualified(relation: &Relation) -> String {
    format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name))
}

fn columns(relation: &Relation) -> String {
    let mut items: Vec<String> = Vec::new();
    for column in relation.visible_columns() {
        let not_null = if column.not_null { " NOT NULL" } else { "" };
        let default = column.default.as_ref().map(|d| format!(" DEFAULT {d}")).unwrap_or_default();
        items.push(format!("{} {}{not_null}{default}", quote_ident(&column.name), column.sql_type));
    }
    if relation.kind == Kind::Table && relation.declared_key().is_some() {
        items.push(key_definition(relation));
    }
    items.join(", ")
}

fn behavior(relation: &Relation) -> &'static str {
    match relation.on_conflict {
        OnKeyConflict::Overwrite => " ON CONFLICT OVERWRITE",
        OnKeyConflict::Ignore => " ON CONFLICT IGNORE",
        OnKeyConflict::UpdateIfNotNull => " ON CONFLICT DO UPDATE IF NOT NULL",
        OnKeyConflict::Error if relation.kind == Kind::Table && relation.append_only => " APPEND ONLY",
        OnKeyConflict::Error => "",
    }
}

fn options(relation: &Relation) -> String {
    if relation.options.is_empty() {
        return String::new();
    }
    let option = |(name, value): &(String, String)| format!("{} = '{}'", quote_ident(name), value.replace('\'', "''"));
    let options: Vec<String> = relation.options.iter().map(option).collect();
    format!(" WITH ({})", options.join(", "))
}
