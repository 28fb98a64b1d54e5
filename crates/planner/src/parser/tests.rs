//! What is parsed, what is refused, and where errors point.

use millstream_types::copy::CopyHeader;
use millstream_types::{Error, SqlState, SqlType};

use super::*;
use crate::ast::*;

fn one(sql: &str) -> Statement {
    let mut parsed = parse(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    assert_eq!(parsed.len(), 1, "{sql}");
    parsed.remove(0).statement
}

fn error(sql: &str) -> (SqlState, String, Option<usize>) {
    let e = parse(sql).expect_err(sql);
    (e.state(), e.message().to_string(), e.fields().position)
}

#[test]
fn statements_are_split_and_know_their_offset() {
    let parsed = parse(" select 1 ;; -- nothing\n select 'a;b' ; ").unwrap();
    assert_eq!(parsed.len(), 2);
    assert_eq!((parsed[0].text.as_str(), parsed[0].offset), ("select 1", 1));
    assert_eq!((parsed[1].text.as_str(), parsed[1].offset), ("select 'a;b'", 25));
    assert!(parse("  -- only a comment").unwrap().is_empty());
}

#[test]
fn syntax_errors_point_at_the_token() {
    let near = |sql: &str, token: &str, position| {
        let message = format!("syntax error at or near \"{token}\"");
        assert_eq!(error(sql), (SqlState::SYNTAX_ERROR, message, Some(position)), "{sql}");
    };
    near("selec 1", "selec", 1);
    near("select 1;\nselect a b c from t", "c", 22);
    near("select ä b c from t", "c", 12);
    near("create table t (a int,)", ")", 23);
    near("drop table t x", "x", 14);
    near("update t set a 1", "1", 16);
    assert_eq!(error("select 1 +"), (SqlState::SYNTAX_ERROR, "syntax error at end of input".into(), Some(11)));
    let unterminated = error("select 'abc");
    assert_eq!(
        unterminated,
        (SqlState::SYNTAX_ERROR, "unterminated quoted string at or near \"'abc\"".into(), Some(8))
    );
}

#[test]
fn tables_and_streams() {
    let Statement::CreateTable(table) = one(
        "create table if not exists s.\"T\" (ID bigint primary key, n varchar(5) not null default 'x' || 'y', p numeric(10,2)) \
         on conflict do update if not null with (connector = 'blackhole', retention='7 days')",
    ) else {
        panic!()
    };
    assert_eq!((table.name.schema.as_deref(), table.name.name.as_str()), (Some("s"), "T"));
    assert!(table.if_not_exists);
    assert_eq!(table.primary_key[0].name, "id");
    assert_eq!(table.columns[1].sql_type, SqlType::Varchar(Some(5)));
    assert_eq!(table.columns[1].default.as_deref(), Some("'x' || 'y'"));
    assert_eq!(table.columns[2].sql_type, SqlType::Numeric(Some((10, 2))));
    assert_eq!(table.on_conflict, OnKeyConflict::UpdateIfNotNull);
    assert_eq!(table.options[1], ("retention".to_string(), "7 days".to_string()));

    let Statement::CreateStream(stream) = one("create source bids with (connector=nexmark, table = bid, events = 100)")
    else {
        panic!()
    };
    assert!(stream.columns.is_empty());
    assert_eq!(stream.options[2], ("events".to_string(), "100".to_string()));
    assert_eq!(error("create table t (a int primary key, primary key (a))").0, SqlState::INVALID_TABLE_DEFINITION);
}

#[test]
fn type_names() {
    for (text, sql_type) in [
        ("int", SqlType::Integer),
        ("int8", SqlType::BigInt),
        ("double precision", SqlType::Double),
        ("double", SqlType::Double),
        ("float4", SqlType::Real),
        ("float", SqlType::Double),
        ("float(20)", SqlType::Real),
        ("string", SqlType::Text),
        ("character varying(3)", SqlType::Varchar(Some(3))),
        ("char", SqlType::Char(1)),
        ("bpchar(4)", SqlType::Char(4)),
        ("decimal(5)", SqlType::Numeric(Some((5, 0)))),
        ("timestamp with time zone", SqlType::Timestamptz),
        ("timestamptz", SqlType::Timestamptz),
        ("timestamp(3)", SqlType::Timestamp),
        ("time", SqlType::Time),
        ("interval", SqlType::Interval),
        ("bytea", SqlType::Bytea),
        ("text[]", SqlType::Array(Box::new(SqlType::Text))),
        ("_int4", SqlType::Array(Box::new(SqlType::Integer))),
        ("pg_catalog.int4", SqlType::Integer),
    ] {
        assert_eq!(sql_type_from_text(text).unwrap_or_else(|e| panic!("{text}: {e}")), sql_type, "{text}");
    }
    assert_eq!(sql_type_from_text("foo").unwrap_err().state(), SqlState::UNDEFINED_OBJECT);
    assert_eq!(sql_type_from_text("jsonb").unwrap_err().state(), SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn views_keep_their_query_text() {
    let Statement::CreateMaterializedView(view) =
        one("create materialized view v (a, b) as select 1, 'ü'  from t where x > 2 ")
    else {
        panic!()
    };
    assert_eq!(view.query_text, "select 1, 'ü'  from t where x > 2");
    assert_eq!(view.columns.len(), 2);
    assert!(matches!(one("create or replace view v as values (1)"), Statement::CreateView(v) if v.or_replace));
    assert_eq!(error("create or replace materialized view v as select 1").0, SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn planned_features_are_named() {
    for (sql, position) in [
        ("create stream s (t timestamptz, watermark for t as t)", 33),
        ("create materialized view v as select 1 emit on window close", 40),
        ("select * from a asof join b on a.x = b.x", 17),
        ("select * from a join b for system_time as of proctime() on true", 24),
        ("create table t (a int generated always as identity)", 23),
    ] {
        let (state, _, at) = error(sql);
        assert_eq!((state, at), (SqlState::FEATURE_NOT_SUPPORTED, Some(position)), "{sql}");
    }
}

#[test]
fn transactions_have_savepoints_and_chains() {
    assert_eq!(one("savepoint a"), Statement::SavePoint("a".to_owned()));
    assert_eq!(one("release savepoint A"), Statement::Release("a".to_owned()));
    assert_eq!(one("rollback work to savepoint a"), Statement::RollbackTo("a".to_owned()));
    assert_eq!(one("rollback to \"A\""), Statement::RollbackTo("A".to_owned()));
    assert_eq!(one("commit and chain"), Statement::CommitAndChain);
    assert_eq!(one("abort and no chain"), Statement::Rollback);
    assert_eq!(error("prepare transaction 'x'").0, SqlState::SYNTAX_ERROR);
}

#[test]
fn table_functions_in_the_long_form() {
    let short = one("select * from tumble(r, c, interval '1 second') x");
    let long = one("select * from table(tumble(table r, descriptor(c), interval '1 second')) x");
    let text = |s: &Statement| match s {
        Statement::Query(q) => q.to_string(),
        _ => panic!(),
    };
    assert_eq!(text(&short), text(&long));
}

#[test]
fn subscriptions_and_cursors() {
    let Statement::Subscribe(s) = one("subscribe to v with (snapshot = false, progress) as of 17") else { panic!() };
    assert_eq!((s.snapshot, s.progress, s.as_of), (Some(false), true, Some(17)));
    let Statement::Subscribe(s) = one("subscribe (select 1)") else { panic!() };
    assert!(matches!(s.target, SubscribeTarget::Query(_, text) if text == "select 1"));
    assert!(matches!(one("declare c cursor for subscribe v"), Statement::DeclareCursor(d) if d.name == "c"));
    assert_eq!(
        one("fetch 10 c"),
        Statement::Fetch(Fetch { name: "c".into(), count: Some(10), skip: false, timeout_us: None })
    );
    assert_eq!(
        one("fetch all from c"),
        Statement::Fetch(Fetch { name: "c".into(), count: None, skip: false, timeout_us: None })
    );
    assert_eq!(
        one("fetch forward 5 in c"),
        Statement::Fetch(Fetch { name: "c".into(), count: Some(5), skip: false, timeout_us: None })
    );
    assert_eq!(
        one("fetch c"),
        Statement::Fetch(Fetch { name: "c".into(), count: Some(1), skip: false, timeout_us: None })
    );
    assert_eq!(
        one("fetch 3 from \"C\" with (timeout = '1.5 s')"),
        Statement::Fetch(Fetch { name: "C".into(), count: Some(3), skip: false, timeout_us: Some(1_500_000) })
    );
    assert_eq!(
        one("comment on column s.t.a is 'x'"),
        Statement::Comment(Comment {
            target: CommentTarget::Column(
                Name { schema: Some("s".into()), name: "t".into(), position: 19 },
                ColumnName { name: "a".into(), position: 23 },
            ),
            text: Some("x".into()),
        })
    );
    assert!(matches!(one("copy (subscribe v) to stdout"), Statement::CopyTo(_)));
}

#[test]
fn copy_options() {
    let Statement::CopyFrom(copy) = one("copy t (a, b) from stdin with (format csv, header, delimiter ';', null '')")
    else {
        panic!()
    };
    assert_eq!(
        (copy.format.format, copy.format.delimiter, copy.format.header),
        (CopyFormat::Csv, Some(';'), CopyHeader::Yes)
    );
    let Statement::CopyTo(copy) = one("copy t to stdout csv header") else { panic!() };
    assert_eq!((copy.format.format, copy.format.header), (CopyFormat::Csv, CopyHeader::Yes));
    assert_eq!(error("copy t from '/etc/passwd'").0, SqlState::FEATURE_NOT_SUPPORTED);
}

#[test]
fn writes() {
    let Statement::Insert(insert) =
        one("insert into t as x (a, b) values (1, default) on conflict (a) do update set b = excluded.b returning *")
    else {
        panic!()
    };
    assert_eq!(insert.alias.as_deref(), Some("x"));
    assert_eq!(insert.columns.len(), 2);
    assert!(matches!(insert.on_conflict.unwrap().action, ConflictAction::Update { .. }));
    assert!(matches!(one("insert into t default values"), Statement::Insert(i) if i.source.is_none()));
    assert!(matches!(one("update t as x set a = 1 from u where t.a = u.a"), Statement::Update(u) if u.from.len() == 1));
    assert!(matches!(one("delete from t using u where t.a = u.a"), Statement::Delete(d) if d.using.len() == 1));
}

#[test]
fn session_statements() {
    let set = |name: &str, local, value: Option<Vec<&str>>| {
        Statement::Set(Set {
            name: name.into(),
            local,
            value: value.map(|v| v.into_iter().map(String::from).collect()),
        })
    };
    assert_eq!(one("set search_path to a, \"B\""), set("search_path", false, Some(vec!["a", "B"])));
    assert_eq!(one("set local TimeZone = 'UTC'"), set("timezone", true, Some(vec!["UTC"])));
    assert_eq!(one("set time zone local"), set("timezone", false, None));
    assert_eq!(one("set synchronous_commit to off"), set("synchronous_commit", false, Some(vec!["off"])));
    assert_eq!(
        one("show transaction isolation level"),
        Statement::Show(Show::Parameter("transaction_isolation".into()))
    );
    assert_eq!(one("show materialized views"), Statement::Show(Show::Relations(RelationKind::MaterializedView)));
    assert!(matches!(one("show columns from v"), Statement::Show(Show::Columns(_))));
    assert!(
        matches!(one("start transaction isolation level serializable, read only"), Statement::Begin(m) if m.read_only == Some(true))
    );
    assert_eq!(one("rollback work"), Statement::Rollback);
    assert!(matches!(one("explain analyze select 1"), Statement::Explain(e) if e.analyze));
    assert!(matches!(one("explain materialized view v"), Statement::Explain(_)));
    assert!(matches!(one("explain (analyze, costs off) (select 1)"), Statement::Explain(e) if e.analyze));
    let Statement::Prepare(p) = one("prepare p (int, text) as select $1, $2") else { panic!() };
    assert_eq!((p.param_types.len(), p.text.as_str()), (2, "select $1, $2"));
    assert_eq!(one("discard all"), Statement::Discard(Discard::All));
}

#[test]
fn what_is_wrong_deep_within_brackets_is_found_at_once() {
    for (open, close) in [("CAST(", " AS int)"), ("CASE WHEN a THEN ", " END"), ("ARRAY[", "]"), ("NOT (", ")")] {
        let sql = format!("SELECT {}a b c{}", open.repeat(60), close.repeat(60));
        let error = parse(&sql).expect_err("three words in a row");
        assert_eq!(error.state(), SqlState::SYNTAX_ERROR, "{sql}");
        assert_eq!(error.fields().position, Some(sql.find("b c").unwrap_or(0) + 1), "{sql}");
    }
}

#[test]
fn a_statement_that_is_to_stop_is_not_parsed_to_its_end() {
    let stop: crate::interrupt::Stop = std::sync::Arc::new(|| Err(Error::cancelled()));
    let sql = "SELECT a, b FROM t WHERE a IN (SELECT 1 + 2)";
    let cancelled =
        crate::interrupt::under(&stop, || [parse(sql).err(), parse_query(sql).err(), parse_expr("1").err()]);
    for error in cancelled {
        assert_eq!(error.map(|e| e.state()), Some(SqlState::QUERY_CANCELED));
    }
    assert!(parse(sql).is_ok() && parse_query(sql).is_ok());
}
