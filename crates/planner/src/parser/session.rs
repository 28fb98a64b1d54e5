//! Statements about the session: transactions, parameters, cursors, prepared statements, `SHOW`.

use millstream_types::pg::parse_interval;
use millstream_types::{Error, Result, SqlState};

use super::cursor::Cursor;
use super::relation_kind;
use crate::ast::{Discard, Execute, Fetch, Prepare, RelationKind, Set, Show, Statement, TransactionModes};

pub(super) fn parse(c: &mut Cursor<'_>, word: &str) -> Result<Option<Statement>> {
    let statement = match word {
        "BEGIN" => {
            c.words(&["BEGIN"]);
            transaction_word(c);
            Statement::Begin(transaction_modes(c)?)
        }
        "START" => {
            c.expect_words(&["START", "TRANSACTION"])?;
            Statement::Begin(transaction_modes(c)?)
        }
        "COMMIT" | "END" => {
            c.words(&[word]);
            transaction_word(c);
            refuse_two_phase(c)?;
            if chain(c) { Statement::CommitAndChain } else { Statement::Commit }
        }
        "SAVEPOINT" => {
            c.words(&["SAVEPOINT"]);
            Statement::SavePoint(c.identifier()?.name)
        }
        "RELEASE" => {
            c.words(&["RELEASE"]);
            c.words(&["SAVEPOINT"]);
            Statement::Release(c.identifier()?.name)
        }
        "ROLLBACK" | "ABORT" => rollback(c, word)?,
        "SET" => set(c)?,
        "RESET" => {
            c.words(&["RESET"]);
            if c.words(&["ALL"]) { Statement::Reset(None) } else { Statement::Reset(Some(parameter(c)?)) }
        }
        "SHOW" => Statement::Show(show(c)?),
        "DESCRIBE" | "DESC" => {
            c.words(&[word]);
            c.words(&["TABLE"]);
            Statement::Describe(c.name()?)
        }
        "FETCH" | "MOVE" => fetch(c, word == "MOVE")?,
        "CLOSE" => {
            c.words(&["CLOSE"]);
            if c.words(&["ALL"]) { Statement::Close(None) } else { Statement::Close(Some(c.identifier()?.name)) }
        }
        "EXECUTE" => execute(c)?,
        "DEALLOCATE" => {
            c.words(&["DEALLOCATE"]);
            c.words(&["PREPARE"]);
            if c.words(&["ALL"]) {
                Statement::Deallocate(None)
            } else {
                Statement::Deallocate(Some(c.identifier()?.name))
            }
        }
        "DISCARD" => discard(c)?,
        "UNLISTEN" => {
            c.words(&["UNLISTEN"]);
            if c.at_symbol('*') {
                c.expect_symbol('*')?
            } else {
                c.name().map(|_| ())?
            }
            Statement::Unlisten
        }
        "FLUSH" => {
            c.words(&["FLUSH"]);
            Statement::Flush
        }
        "CHECKPOINT" => {
            c.words(&["CHECKPOINT"]);
            Statement::Checkpoint
        }
        "BACKUP" => {
            c.words(&["BACKUP"]);
            if !c.words(&["TO"]) {
                return Err(c.syntax_error());
            }
            Statement::Backup(c.string()?)
        }
        _ => return Ok(None),
    };
    Ok(Some(statement))
}

fn transaction_word(c: &mut Cursor<'_>) {
    if !c.words(&["WORK"]) {
        c.words(&["TRANSACTION"]);
    }
}

fn chain(c: &mut Cursor<'_>) -> bool {
    let chain = c.words(&["AND", "CHAIN"]);
    if !chain {
        c.words(&["AND", "NO", "CHAIN"]);
    }
    chain
}

fn refuse_two_phase(c: &mut Cursor<'_>) -> Result<()> {
    let position = c.position();
    if c.words(&["PREPARED"]) {
        return Err(Error::not_supported("two-phase commit is not supported").with_position(position));
    }
    Ok(())
}

fn rollback(c: &mut Cursor<'_>, word: &str) -> Result<Statement> {
    c.words(&[word]);
    transaction_word(c);
    refuse_two_phase(c)?;
    if word == "ROLLBACK" && c.words(&["TO"]) {
        c.words(&["SAVEPOINT"]);
        return Ok(Statement::RollbackTo(c.identifier()?.name));
    }
    Ok(if chain(c) { Statement::RollbackAndChain } else { Statement::Rollback })
}

/// Isolation levels are all met by strict serializability and so only read over.
fn transaction_modes(c: &mut Cursor<'_>) -> Result<TransactionModes> {
    let mut modes = TransactionModes::default();
    loop {
        if c.words(&["ISOLATION", "LEVEL"]) {
            isolation_level(c)?;
        } else if c.words(&["READ", "ONLY"]) {
            modes.read_only = Some(true);
        } else if c.words(&["READ", "WRITE"]) {
            modes.read_only = Some(false);
        } else if !(c.words(&["DEFERRABLE"]) || c.words(&["NOT", "DEFERRABLE"])) {
            return Ok(modes);
        }
        c.symbol(',');
    }
}

fn isolation_level(c: &mut Cursor<'_>) -> Result<String> {
    for level in
        [&["SERIALIZABLE"] as &[&str], &["REPEATABLE", "READ"], &["READ", "COMMITTED"], &["READ", "UNCOMMITTED"]]
    {
        if c.words(level) {
            return Ok(level.join(" ").to_ascii_lowercase());
        }
    }
    Err(c.syntax_error())
}

/// A parameter's name in lower case, possibly with dots.
fn parameter(c: &mut Cursor<'_>) -> Result<String> {
    if c.words(&["TIME", "ZONE"]) {
        return Ok("timezone".to_string());
    }
    if c.words(&["TRANSACTION", "ISOLATION", "LEVEL"]) {
        return Ok("transaction_isolation".to_string());
    }
    let mut name = c.label()?.name;
    while c.symbol('.') {
        name = format!("{name}.{}", c.label()?.name);
    }
    Ok(name.to_lowercase())
}

fn set(c: &mut Cursor<'_>) -> Result<Statement> {
    c.words(&["SET"]);
    if c.words(&["SESSION", "CHARACTERISTICS", "AS", "TRANSACTION"]) {
        return transaction_setting(c, "default_transaction_isolation", "default_transaction_read_only");
    }
    let local = c.words(&["LOCAL"]);
    if !local {
        c.words(&["SESSION"]);
    }
    if c.words(&["TRANSACTION"]) {
        return transaction_setting(c, "transaction_isolation", "transaction_read_only");
    }
    if c.words(&["NAMES"]) {
        let value = Some(vec![c.option_value()?]);
        return Ok(Statement::Set(Set { name: "client_encoding".to_string(), local, value }));
    }
    let zone = c.words(&["TIME", "ZONE"]);
    let name = if zone { "timezone".to_string() } else { parameter(c)? };
    if !zone && !c.symbol('=') {
        c.expect_words(&["TO"])?;
    }
    let value = if c.words(&["DEFAULT"]) || (zone && c.words(&["LOCAL"])) {
        None
    } else {
        Some(c.comma_separated(Cursor::option_value)?)
    };
    Ok(Statement::Set(Set { name, local, value }))
}

fn transaction_setting(c: &mut Cursor<'_>, isolation: &str, read_only: &str) -> Result<Statement> {
    let (name, value) = if c.words(&["ISOLATION", "LEVEL"]) {
        (isolation, isolation_level(c)?)
    } else if c.words(&["READ", "ONLY"]) {
        (read_only, "on".to_string())
    } else {
        c.expect_words(&["READ", "WRITE"])?;
        (read_only, "off".to_string())
    };
    Ok(Statement::Set(Set { name: name.to_string(), local: false, value: Some(vec![value]) }))
}

fn show(c: &mut Cursor<'_>) -> Result<Show> {
    c.words(&["SHOW"]);
    if c.words(&["COLUMNS"]) {
        if !c.words(&["FROM"]) {
            c.expect_words(&["IN"])?;
        }
        return Ok(Show::Columns(c.name()?));
    }
    if c.words(&["CREATE"]) {
        let Some(kind) = relation_kind(c) else { return Err(c.syntax_error()) };
        return Ok(Show::Create(kind, c.name()?));
    }
    let lists: [(&[&str], Show); 11] = [
        (&["STREAMS"], Show::Relations(RelationKind::Stream)),
        (&["SOURCES"], Show::Relations(RelationKind::Stream)),
        (&["TABLES"], Show::Relations(RelationKind::Table)),
        (&["VIEWS"], Show::Relations(RelationKind::View)),
        (&["MATERIALIZED", "VIEWS"], Show::Relations(RelationKind::MaterializedView)),
        (&["SINKS"], Show::Relations(RelationKind::Sink)),
        (&["INDEXES"], Show::Relations(RelationKind::Index)),
        (&["JOBS"], Show::Jobs),
        (&["DATABASES"], Show::Databases),
        (&["SCHEMAS"], Show::Schemas),
        (&["ALL"], Show::All),
    ];
    for (words, show) in lists {
        if c.words(words) {
            return Ok(show);
        }
    }
    parameter(c).map(Show::Parameter)
}

fn fetch(c: &mut Cursor<'_>, skip: bool) -> Result<Statement> {
    c.words(&[if skip { "MOVE" } else { "FETCH" }]);
    let position = c.position();
    for backward in ["PRIOR", "FIRST", "LAST", "ABSOLUTE", "RELATIVE", "BACKWARD"] {
        if c.words(&[backward]) {
            return Err(Error::not_supported("cursors move forward only").with_position(position));
        }
    }
    let forward = c.words(&["FORWARD"]);
    let count = if c.words(&["ALL"]) {
        None
    } else if !forward && c.words(&["NEXT"]) {
        Some(1)
    } else if c.at_number() {
        Some(c.unsigned()?)
    } else {
        Some(1)
    };
    if !c.words(&["FROM"]) {
        c.words(&["IN"]);
    }
    let name = c.identifier()?.name;
    let timeout_us = if c.words(&["WITH"]) { fetch_timeout(c)? } else { None };
    Ok(Statement::Fetch(Fetch { name, count, skip, timeout_us }))
}

/// `(timeout = '1s')`
fn fetch_timeout(c: &mut Cursor<'_>) -> Result<Option<u64>> {
    let mut timeout_us = None;
    for (name, value) in c.options()? {
        if name != "timeout" {
            let message = format!("unrecognized FETCH option \"{name}\"");
            return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message).with_hint("The option is TIMEOUT."));
        }
        let interval = parse_interval(&value)?;
        let months_and_days = (i64::from(interval.months) * 30 + i64::from(interval.days)) * 86_400_000_000;
        let us = months_and_days.saturating_add(interval.nanoseconds / 1000);
        let us = u64::try_from(us).map_err(|_| {
            Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("FETCH timeout \"{value}\" is negative"))
        })?;
        timeout_us = Some(us);
    }
    Ok(timeout_us)
}

/// `PREPARE name [(types)] AS statement`
pub(super) fn prepare(
    c: &mut Cursor<'_>,
    statement: impl FnOnce(&mut Cursor<'_>) -> Result<Statement>,
) -> Result<Statement> {
    c.expect_words(&["PREPARE"])?;
    let name = c.identifier()?.name;
    let mut param_types = Vec::new();
    if c.symbol('(') {
        param_types = c.comma_separated(Cursor::sql_type)?;
        c.expect_symbol(')')?;
    }
    c.expect_words(&["AS"])?;
    let from = c.position();
    let statement = Box::new(statement(c)?);
    Ok(Statement::Prepare(Prepare { name, param_types, statement, text: c.text_since(from) }))
}

fn execute(c: &mut Cursor<'_>) -> Result<Statement> {
    c.words(&["EXECUTE"]);
    let name = c.identifier()?.name;
    let mut params = Vec::new();
    if c.symbol('(') && !c.symbol(')') {
        params = c.comma_separated(Cursor::expr)?;
        c.expect_symbol(')')?;
    }
    Ok(Statement::Execute(Execute { name, params }))
}

fn discard(c: &mut Cursor<'_>) -> Result<Statement> {
    c.words(&["DISCARD"]);
    for (word, what) in [
        ("ALL", Discard::All),
        ("PLANS", Discard::Plans),
        ("SEQUENCES", Discard::Sequences),
        ("TEMP", Discard::Temp),
        ("TEMPORARY", Discard::Temp),
    ] {
        if c.words(&[word]) {
            return Ok(Statement::Discard(what));
        }
    }
    Err(c.syntax_error())
}
