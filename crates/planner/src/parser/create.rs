//! `CREATE ...`

use millstream_types::{Error, Result, SqlState};

use super::cursor::Cursor;
use super::keywords::is_object_kind;
use super::tokens::planned_error;
use crate::ast::{
    ColumnDef, ColumnName, CreateIndex, CreateRelation, CreateSink, CreateView, OnKeyConflict, SinkInput, Statement,
};

pub(super) fn parse(c: &mut Cursor<'_>) -> Result<Statement> {
    c.expect_words(&["CREATE"])?;
    let or_replace = c.words(&["OR", "REPLACE"]);
    let position = c.position();
    if or_replace && !matches!(c.peek_word().as_deref(), Some("VIEW" | "MATERIALIZED" | "SINK" | "STREAM" | "TABLE")) {
        return Err(c.syntax_error());
    }
    if c.words(&["VIEW"]) {
        return view(c, or_replace).map(Statement::CreateView);
    }
    if or_replace {
        return Err(Error::not_supported("OR REPLACE is supported for plain views only").with_position(position));
    }
    if c.words(&["MATERIALIZED", "VIEW"]) {
        return view(c, false).map(Statement::CreateMaterializedView);
    }
    if c.words(&["STREAM"]) || c.words(&["SOURCE"]) {
        return relation(c).map(Statement::CreateStream);
    }
    if c.words(&["TABLE"]) {
        return relation(c).map(Statement::CreateTable);
    }
    if c.words(&["INDEX"]) {
        return index(c);
    }
    if c.words(&["SINK"]) {
        return sink(c);
    }
    Err(match c.peek_word() {
        Some(word) if is_object_kind(&word) => {
            Error::not_supported(format!("CREATE {word} is not supported yet")).with_position(position)
        }
        _ => c.syntax_error(),
    })
}

fn if_not_exists(c: &mut Cursor<'_>) -> bool {
    c.words(&["IF", "NOT", "EXISTS"])
}

fn with_options(c: &mut Cursor<'_>) -> Result<Vec<(String, String)>> {
    if c.words(&["WITH"]) { c.options() } else { Ok(Vec::new()) }
}

fn view(c: &mut Cursor<'_>, or_replace: bool) -> Result<CreateView> {
    let if_not_exists = if_not_exists(c);
    let name = c.name()?;
    let columns = if c.at_symbol('(') { c.column_list()? } else { Vec::new() };
    let options = with_options(c)?;
    c.expect_words(&["AS"])?;
    let (query, query_text) = c.query_with_text()?;
    if c.words(&["WITH", "NO", "DATA"]) {
        return Err(Error::not_supported("WITH NO DATA is not supported"));
    }
    c.words(&["WITH", "DATA"]);
    Ok(CreateView { name, or_replace, if_not_exists, columns, options, query, query_text })
}

fn index(c: &mut Cursor<'_>) -> Result<Statement> {
    c.words(&["CONCURRENTLY"]);
    let if_not_exists = if_not_exists(c);
    let name = if c.words(&["ON"]) {
        None
    } else {
        let name = c.name()?;
        c.expect_words(&["ON"])?;
        Some(name)
    };
    let relation = c.name()?;
    if c.words(&["USING"]) {
        let position = c.position();
        let method = c.identifier()?.name;
        if method != "btree" && method != "hash" {
            return Err(Error::user(SqlState::UNDEFINED_OBJECT, format!("access method \"{method}\" does not exist"))
                .with_position(position));
        }
    }
    c.expect_symbol('(')?;
    let columns = c.comma_separated(|c| {
        let column = c.identifier()?;
        if !c.words(&["ASC"]) {
            c.words(&["DESC"]);
        }
        Ok(column)
    })?;
    c.expect_symbol(')')?;
    Ok(Statement::CreateIndex(CreateIndex { name, if_not_exists, relation, columns }))
}

fn sink(c: &mut Cursor<'_>) -> Result<Statement> {
    let if_not_exists = if_not_exists(c);
    let name = c.name()?;
    let input = if c.words(&["FROM"]) {
        SinkInput::Relation(c.name()?)
    } else {
        c.expect_words(&["AS"])?;
        let (query, text) = c.query_with_text()?;
        SinkInput::Query(query, text)
    };
    let options = with_options(c)?;
    Ok(Statement::CreateSink(CreateSink { name, if_not_exists, input, options }))
}

fn relation(c: &mut Cursor<'_>) -> Result<CreateRelation> {
    let if_not_exists = if_not_exists(c);
    let name = c.name()?;
    if c.words(&["AS"]) {
        return Err(Error::not_supported("CREATE TABLE ... AS is not supported yet")
            .with_hint("create the table, then use INSERT INTO ... SELECT"));
    }
    let mut relation = CreateRelation {
        name,
        if_not_exists,
        columns: Vec::new(),
        primary_key: Vec::new(),
        on_conflict: OnKeyConflict::default(),
        append_only: false,
        options: Vec::new(),
    };
    if c.at_symbol('(') {
        c.expect_symbol('(')?;
        if !c.symbol(')') {
            c.comma_separated(|c| element(c, &mut relation))?;
            c.expect_symbol(')')?;
        }
    }
    loop {
        if c.words(&["APPEND", "ONLY"]) {
            relation.append_only = true;
        } else if c.words(&["ON", "CONFLICT"]) {
            relation.on_conflict = on_conflict(c)?;
        } else if c.words(&["WITH"]) {
            relation.options = c.options()?;
        } else {
            return Ok(relation);
        }
    }
}

fn on_conflict(c: &mut Cursor<'_>) -> Result<OnKeyConflict> {
    if c.words(&["OVERWRITE"]) || c.words(&["DO", "UPDATE", "FULL"]) {
        return Ok(OnKeyConflict::Overwrite);
    }
    if c.words(&["IGNORE"]) || c.words(&["DO", "NOTHING"]) {
        return Ok(OnKeyConflict::Ignore);
    }
    c.expect_words(&["DO", "UPDATE", "IF", "NOT", "NULL"])?;
    Ok(OnKeyConflict::UpdateIfNotNull)
}

/// A column or a constraint of the relation.
fn element(c: &mut Cursor<'_>, relation: &mut CreateRelation) -> Result<()> {
    let constraint = c.words(&["CONSTRAINT"]);
    if constraint {
        c.identifier()?;
    }
    let position = c.position();
    if c.words(&["PRIMARY", "KEY"]) {
        let columns = c.column_list()?;
        return set_primary_key(relation, columns, position);
    }
    for (words, what) in [
        (&["UNIQUE"] as &[&str], "UNIQUE constraints"),
        (&["FOREIGN", "KEY"], "foreign keys"),
        (&["CHECK"], "CHECK constraints"),
        (&["EXCLUDE"], "EXCLUDE constraints"),
        (&["LIKE"], "LIKE in CREATE TABLE"),
    ] {
        if c.words(words) {
            return Err(Error::not_supported(format!("{what} are not supported yet")).with_position(position));
        }
    }
    if constraint {
        return Err(c.syntax_error());
    }
    column(c, relation)
}

fn set_primary_key(relation: &mut CreateRelation, columns: Vec<ColumnName>, position: usize) -> Result<()> {
    if !relation.primary_key.is_empty() {
        return Err(Error::user(
            SqlState::INVALID_TABLE_DEFINITION,
            format!("multiple primary keys for table \"{}\" are not allowed", relation.name.name),
        )
        .with_position(position));
    }
    relation.primary_key = columns;
    Ok(())
}

fn column(c: &mut Cursor<'_>, relation: &mut CreateRelation) -> Result<()> {
    let name = c.identifier()?;
    let sql_type = c.sql_type()?;
    let mut column = ColumnDef { name, sql_type, not_null: false, default: None };
    loop {
        if c.words(&["CONSTRAINT"]) {
            c.identifier()?;
        }
        let position = c.position();
        if c.words(&["NOT", "NULL"]) {
            column.not_null = true;
        } else if c.words(&["NULL"]) {
        } else if c.words(&["DEFAULT"]) {
            let from = c.position();
            c.expr()?;
            column.default = Some(c.text_since(from));
        } else if c.words(&["PRIMARY", "KEY"]) {
            column.not_null = true;
            set_primary_key(relation, vec![column.name.clone()], position)?;
        } else if c.words(&["COLLATE"]) {
            c.name()?;
        } else if c.words(&["AS"]) || c.words(&["GENERATED"]) {
            return Err(planned_error("generated columns").with_position(position));
        } else {
            break;
        }
    }
    let position = c.position();
    for (words, what) in
        [("UNIQUE", "UNIQUE constraints"), ("CHECK", "CHECK constraints"), ("REFERENCES", "foreign keys")]
    {
        if c.words(&[words]) {
            return Err(Error::not_supported(format!("{what} are not supported yet")).with_position(position));
        }
    }
    relation.columns.push(column);
    Ok(())
}
