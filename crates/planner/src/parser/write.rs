//! `INSERT`, `UPDATE` and `DELETE`: sqlparser's grammar, then only what Postgres has.

use datafusion::sql::sqlparser::ast as sql;
use datafusion::sql::sqlparser::parser::Parser;
use millstream_types::{Error, Result, SqlState};

use super::cursor::{Cursor, folded, name_of};
use super::exclusion::apply_exclusions;
use crate::ast::{ColumnName, ConflictAction, Delete, Insert, Name, OnConflict, Query, Statement, Update};

pub(super) fn parse(c: &mut Cursor<'_>, word: &str) -> Result<Option<Statement>> {
    match word {
        "INSERT" => c.check_words(&["INSERT", "INTO"])?,
        "DELETE" => c.check_words(&["DELETE", "FROM"])?,
        "UPDATE" => {}
        _ => return Ok(None),
    }
    let mut statement = c.grammar(Parser::parse_statement)?;
    apply_exclusions(&mut statement);
    of_statement(statement).map(Some)
}

fn of_statement(statement: sql::Statement) -> Result<Statement> {
    match statement {
        sql::Statement::Insert(insert) => self::insert(insert),
        sql::Statement::Update(update) => self::update(update),
        sql::Statement::Delete(delete) => self::delete(delete),
        _ => Err(Error::not_supported("this statement is not supported yet")),
    }
}

/// A query, or `WITH ... INSERT`, `UPDATE` or `DELETE`, which sqlparser takes for one.
pub(super) fn of_query(query: Box<Query>) -> Result<Statement> {
    use sql::SetExpr as S;
    if !matches!(query.body.as_ref(), S::Insert(_) | S::Update(_) | S::Delete(_) | S::Merge(_)) {
        return Ok(Statement::Query(query));
    }
    let Query { with, body, .. } = *query;
    let (S::Insert(statement) | S::Update(statement) | S::Delete(statement) | S::Merge(statement)) = *body else {
        return Err(Error::internal("a write parsed as something else"));
    };
    let mut statement = of_statement(statement)?;
    match &mut statement {
        Statement::Insert(insert) => {
            if let (Some(source), Some(mut with)) = (&mut insert.source, with) {
                with.cte_tables.extend(source.with.take().map(|own| own.cte_tables).unwrap_or_default());
                source.with = Some(with);
            }
        }
        Statement::Update(update) => update.with = with,
        Statement::Delete(delete) => delete.with = with,
        _ => {}
    }
    Ok(statement)
}

fn column_name(object: &sql::ObjectName) -> Result<ColumnName> {
    let name = name_of(object)?;
    if name.schema.is_some() {
        return Err(
            Error::not_supported(format!("column \"{object}\" cannot be qualified here")).with_position(name.position)
        );
    }
    Ok(ColumnName { name: name.name, position: name.position })
}

fn not_postgres(what: &str) -> Error {
    Error::user(SqlState::SYNTAX_ERROR, format!("syntax error: {what}"))
}

fn insert(insert: sql::Insert) -> Result<Statement> {
    let sql::TableObject::TableName(table) = &insert.table else {
        return Err(not_postgres("INSERT needs the name of a relation"));
    };
    if insert.or.is_some() || insert.ignore || insert.overwrite || insert.partitioned.is_some() || insert.replace_into {
        return Err(not_postgres("this form of INSERT belongs to another database"));
    }
    let on_conflict = match insert.on {
        None => None,
        Some(sql::OnInsert::OnConflict(conflict)) => Some(self::on_conflict(conflict)?),
        Some(_) => return Err(not_postgres("ON DUPLICATE KEY belongs to another database")),
    };
    Ok(Statement::Insert(Box::new(Insert {
        table: name_of(table)?,
        alias: insert.table_alias.as_ref().map(|a| folded(&a.alias)),
        columns: insert.columns.iter().map(column_name).collect::<Result<_>>()?,
        source: insert.source,
        on_conflict,
        returning: insert.returning,
    })))
}

fn on_conflict(conflict: sql::OnConflict) -> Result<OnConflict> {
    let target = match conflict.conflict_target {
        None => Vec::new(),
        Some(sql::ConflictTarget::Columns(columns)) => {
            columns.iter().map(|c| ColumnName { name: folded(c), position: c.span.start.column as usize }).collect()
        }
        Some(sql::ConflictTarget::OnConstraint(name)) => {
            return Err(Error::not_supported(format!("ON CONFLICT ON CONSTRAINT {name} is not supported"))
                .with_hint("name the columns of the primary key"));
        }
    };
    let action = match conflict.action {
        sql::OnConflictAction::DoNothing => ConflictAction::Nothing,
        sql::OnConflictAction::DoUpdate(update) => {
            ConflictAction::Update { assignments: update.assignments, filter: update.selection.map(Box::new) }
        }
    };
    Ok(OnConflict { target, action })
}

/// The name and alias of a table that is written.
fn target(table: &sql::TableWithJoins) -> Result<(Name, Option<String>)> {
    match &table.relation {
        sql::TableFactor::Table { name, alias, args: None, .. } if table.joins.is_empty() => {
            Ok((name_of(name)?, alias.as_ref().map(|a| folded(&a.name))))
        }
        _ => Err(not_postgres("the target must be a single relation")),
    }
}

fn update(update: sql::Update) -> Result<Statement> {
    let (table, alias) = target(&update.table)?;
    let from = match update.from {
        None => Vec::new(),
        Some(sql::UpdateTableFromKind::AfterSet(from)) => from,
        Some(sql::UpdateTableFromKind::BeforeSet(_)) => return Err(not_postgres("FROM comes after SET")),
    };
    if update.or.is_some() || update.limit.is_some() || !update.order_by.is_empty() {
        return Err(not_postgres("this form of UPDATE belongs to another database"));
    }
    Ok(Statement::Update(Box::new(Update {
        with: None,
        table,
        alias,
        assignments: update.assignments,
        from,
        filter: update.selection,
        returning: update.returning,
    })))
}

fn delete(delete: sql::Delete) -> Result<Statement> {
    let sql::FromTable::WithFromKeyword(from) = &delete.from else {
        return Err(not_postgres("DELETE needs FROM"));
    };
    let [table] = from.as_slice() else { return Err(not_postgres("DELETE takes one relation")) };
    if !delete.tables.is_empty() || delete.limit.is_some() || !delete.order_by.is_empty() {
        return Err(not_postgres("this form of DELETE belongs to another database"));
    }
    let (table, alias) = target(table)?;
    Ok(Statement::Delete(Box::new(Delete {
        with: None,
        table,
        alias,
        using: delete.using.unwrap_or_default(),
        filter: delete.selection,
        returning: delete.returning,
    })))
}
