//! What psql and drivers ask about the catalog.

use super::{Real, rows, run};

const SETUP: &str = "
    CREATE TABLE users (id bigint PRIMARY KEY, name varchar(20) NOT NULL DEFAULT 'x', tags text[], price numeric(10,2));
    CREATE STREAM clicks (user_id bigint, at timestamptz);
    CREATE VIEW names AS SELECT id, name FROM users;
    CREATE MATERIALIZED VIEW by_user AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id;
    CREATE INDEX users_name_idx ON users (name);
    CREATE SINK nowhere FROM by_user WITH (connector = 'blackhole');
    COMMENT ON TABLE users IS 'people';
    COMMENT ON COLUMN users.name IS 'as they say';";

/// What psql prints for a command; `None` if it is not installed.
async fn shown(real: &Real, command: &str) -> Option<String> {
    let output = real.psql(&["-c", command]).await?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("ERROR"), "{command}: {stderr}");
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn psql_describes_relations() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, SETUP).await;
    let Some(list) = shown(&real, "\\d").await else { return };
    for line in [
        " public | by_user | materialized view | millstream",
        " public | clicks  | table             | millstream",
        " public | names   | view              | millstream",
        " public | nowhere | foreign table     | millstream",
        " public | users   | table             | millstream",
    ] {
        assert!(list.contains(line), "{list}");
    }
    let users = shown(&real, "\\d users").await.expect("psql was there");
    let expected = "                      Table \"public.users\"
 Column |         Type          | Collation | Nullable | Default 
--------+-----------------------+-----------+----------+---------
 id     | bigint                |           | not null | 
 name   | character varying(20) |           | not null | 'x'
 tags   | text[]                |           |          | 
 price  | numeric(10,2)         |           |          | 
Indexes:
    \"users_pkey\" PRIMARY KEY, btree (id)
    \"users_name_idx\" btree (name)

";
    assert_eq!(users, expected);
    let detailed = shown(&real, "\\d+ users").await.expect("psql was there");
    assert!(detailed.contains("as they say") && detailed.contains("Access method: heap"), "{detailed}");
    let view = shown(&real, "\\d+ by_user").await.expect("psql was there");
    assert!(view.contains("View definition:\n SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id;"), "{view}");
    assert!(shown(&real, "\\d+ clicks").await.expect("psql was there").contains("Access method: stream"));
    real.stop().await;
}

#[tokio::test]
async fn all_of_psqls_commands_about_the_catalog_work() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, SETUP).await;
    let commands = "\\d+ \\dt+ \\dv+ \\dm+ \\di+ \\ds \\dE \\dtvmS \\l \\l+ \\dn+ \\df \\df+ pg_size_pretty \\dT \\dT+ \\dT+ int4 \\du+ \\dg \
                    \\db+ \\dx \\dC \\dy \\dD \\dO \\dA \\dP \\drds \\dp \\ddp \\dconfig work_mem \\conninfo \\timing \
                    \\d users_pkey \\d users_name_idx \\d names \\d by_user \\d clicks \\d nowhere \\d+ names \\d+ nowhere \\sv names \
                    \\dL \\dL+ \\dd \\sf left \\sf lower(text) \\df lower \\df nosuch \\des \\des+ \\dAo \\dC+ \\dD+ \\dc+ \\do+";
    let mut words = commands.split_whitespace().peekable();
    while let Some(word) = words.next() {
        let mut command = word.to_owned();
        while let Some(argument) = words.next_if(|w| !w.starts_with('\\')) {
            command = format!("{command} {argument}");
        }
        if shown(&real, &command).await.is_none() {
            return;
        }
    }
    assert!(shown(&real, "\\dT+ int4").await.expect("psql was there").contains("integer"));
    let left = shown(&real, "\\sf left").await.expect("psql was there");
    assert!(
        left.starts_with("CREATE OR REPLACE FUNCTION pg_catalog.\"left\"(text, integer)\n RETURNS text\n"),
        "{left}"
    );
    assert!(shown(&real, "\\df lower").await.expect("psql was there").contains("| lower | text "));
    assert!(shown(&real, "\\l").await.expect("psql was there").contains("millstream"));
    assert!(shown(&real, "\\du").await.expect("psql was there").contains("ann"));
    real.stop().await;
}

#[tokio::test]
async fn drivers_find_types_keys_and_columns() {
    let real = Real::start().await;
    let client = real.connect().await;
    run(&client, SETUP).await;
    let cases: &[(&str, &[&str])] = &[
        ("SELECT 'users'::regclass::oid = (SELECT oid FROM pg_class WHERE relname = 'users')", &["t"]),
        ("SELECT oid::regclass FROM pg_class WHERE relname = 'pg_type'", &["pg_type"]),
        (
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'users'::regclass ORDER BY attnum",
            &["bigint", "character varying(20)", "text[]", "numeric(10,2)"],
        ),
        (
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'users'::regclass",
            &["users_pkey|PRIMARY KEY (id)"],
        ),
        (
            "SELECT indexdef FROM pg_indexes WHERE tablename = 'users' ORDER BY indexname",
            &[
                "CREATE INDEX users_name_idx ON public.users USING btree (name)",
                "CREATE UNIQUE INDEX users_pkey ON public.users USING btree (id)",
            ],
        ),
        (
            "SELECT column_name, data_type, is_nullable, character_maximum_length FROM information_schema.columns \
          WHERE table_name = 'users' ORDER BY ordinal_position LIMIT 2",
            &["id|bigint|NO|NULL", "name|character varying|NO|20"],
        ),
        (
            "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1",
            &["by_user|MATERIALIZED VIEW", "clicks|BASE TABLE", "names|VIEW", "nowhere|FOREIGN", "users|BASE TABLE"],
        ),
        ("SELECT typname, typelem FROM pg_type WHERE oid = 'int4[]'::regtype", &["_int4|23"]),
        (
            "SELECT obj_description('users'::regclass, 'pg_class'), col_description('users'::regclass, 2)",
            &["people|as they say"],
        ),
        (
            "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' ORDER BY 1",
            &["information_schema", "millstream", "public"],
        ),
        ("SELECT has_table_privilege('users', 'select'), has_schema_privilege('public', 'usage')", &["t|t"]),
        ("SELECT current_schemas(true), current_schema()", &["{pg_catalog,public}|public"]),
        (
            "SELECT quote_ident('a b'), quote_literal('it''s'), pg_size_pretty(10240::bigint)",
            &["\"a b\"|'it''s'|10 kB"],
        ),
        ("SELECT substring(version() FROM 1 FOR 13)", &["PostgreSQL 15"]),
        ("SELECT setting FROM pg_settings WHERE name = 'TimeZone'", &["UTC"]),
        ("SELECT definition FROM pg_matviews", &[" SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id;"]),
        ("SELECT datname, pg_encoding_to_char(encoding) FROM pg_database", &["millstream|UTF8"]),
    ];
    for (sql, expected) in cases {
        assert_eq!(&rows(&client, sql).await, expected, "{sql}");
    }
    real.stop().await;
}
