//! A server under load is killed at random moments and started again, and a checker knows what it has acknowledged:
//! nothing of that is lost, nothing is there twice, views are what their queries give, epochs never go back.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{LocalBoxFuture, join_all};
use millstream_testkit::slt::{Connection, Output, SqlError};

use crate::durable::{Durable, Place, Restart};
use crate::random::Random;
use crate::wire::WireConnection;

/// Accounts between which money is moved.
const N_ACCOUNTS: i64 = 20;
/// What each has at first.
const BALANCE: i64 = 1000;
/// Clients of each sort.
const N_CLIENTS: i64 = 3;
/// A statement that takes longer hangs.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

const SCHEMA: &[&str] = &[
    "CREATE TABLE accounts (id bigint PRIMARY KEY, owner text, balance bigint NOT NULL)",
    "CREATE TABLE kv (client bigint, k bigint, version bigint NOT NULL, t text, PRIMARY KEY (client, k))",
    "CREATE TABLE loose (client bigint, seq bigint)",
    "CREATE STREAM events (client bigint, seq bigint, amount numeric(10, 2))",
    "CREATE STREAM quick (client bigint, seq bigint)",
    "CREATE STREAM recent (seq bigint) WITH (retention = '200 milliseconds')",
    "CREATE STREAM bids WITH (connector = 'nexmark', \"table\" = 'bid', rate = '2000')",
    "CREATE INDEX by_owner ON accounts (owner)",
];

/// Views with operators of all kinds, by name.
const VIEWS: &[(&str, &str)] = &[
    ("total", "SELECT count(*) AS n, sum(balance) AS balance FROM accounts"),
    (
        "owners",
        "SELECT owner, sum(balance) AS balance, min(balance) AS low, max(id) AS id FROM accounts GROUP BY owner",
    ),
    ("last", "SELECT client, count(*) AS n, max(seq) AS seq, sum(amount) AS amount FROM events GROUP BY client"),
    ("twice", "SELECT client, seq FROM events GROUP BY client, seq HAVING count(*) > 1"),
    (
        "joined",
        "SELECT e.client, e.seq, k.version FROM events e LEFT JOIN kv k ON k.client = e.client AND k.k = e.seq % 5",
    ),
    (
        "without",
        "SELECT client, k FROM kv WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.client = kv.client AND e.seq = kv.version)",
    ),
    ("best", "SELECT id, balance FROM accounts ORDER BY balance DESC, id LIMIT 5"),
    (
        "ranked",
        "SELECT client, k, version, row_number() OVER (PARTITION BY client ORDER BY version DESC, k) AS n FROM kv",
    ),
    ("texts", "SELECT DISTINCT t FROM kv"),
    ("apart", "SELECT client, seq FROM events EXCEPT SELECT client, seq FROM loose"),
    ("all_of_them", "SELECT client FROM events UNION ALL SELECT client FROM loose UNION ALL SELECT k FROM kv"),
    ("strings", "SELECT client, string_agg(t, ',' ORDER BY k) AS t FROM kv GROUP BY client"),
    ("auctions", "SELECT auction % 7 AS a, count(*) AS n, count(DISTINCT bidder) AS bidders FROM bids GROUP BY 1"),
    ("quickest", "SELECT max(seq) AS seq FROM quick"),
    ("of_view", "SELECT o.owner, o.balance, t.n FROM owners o CROSS JOIN total t"),
];

/// A view over a stream that forgets its rows, which is not its query therefore.
const OF_RECENT: &str = "CREATE MATERIALIZED VIEW of_recent AS SELECT count(*) AS n, max(seq) AS seq FROM recent";

/// What clients know to have happened.
struct Known {
    /// For each client, the last of its events that was acknowledged, and the last that was tried.
    events: Vec<Counter>,
    loose: Vec<Counter>,
    /// The rows of a stream that forgets them, and the last that was seen to be forgotten.
    recent: Counter,
    forgotten: AtomicI64,
    /// The last version of each client's keys.
    versions: Vec<Counter>,
    /// Of the views that a client makes and drops, how many were made.
    ddl: Counter,
    /// The last epoch that a subscriber was sent.
    epoch: AtomicI64,
    stop: AtomicBool,
}

#[derive(Default)]
struct Counter {
    acknowledged: AtomicI64,
    tried: AtomicI64,
}

impl Counter {
    /// Goes on from what was found.
    fn settle(&self, found: i64) {
        self.acknowledged.store(found, SeqCst);
        self.tried.store(found, SeqCst);
    }

    fn check(&self, what: &str, found: i64) -> Result<(), String> {
        let (acknowledged, tried) = (self.acknowledged.load(SeqCst), self.tried.load(SeqCst));
        if (acknowledged..=tried).contains(&found) {
            return Ok(());
        }
        Err(format!("{what}: {acknowledged} acknowledged and {tried} tried, and there are {found}"))
    }
}

/// Runs rounds of load, kill and check, with the server's data at a place.
///
/// # Errors
/// What is not as it was acknowledged.
pub async fn run(place: Place, seed: u64, n_rounds: usize) -> Result<(), String> {
    let mut random = Random::new(seed);
    let server = Durable::start_at(Restart::Kill, place).await?;
    let counters = || (0..N_CLIENTS).map(|_| Counter::default()).collect::<Vec<_>>();
    let known = Known {
        events: counters(),
        loose: counters(),
        recent: Counter::default(),
        forgotten: AtomicI64::new(0),
        versions: counters(),
        ddl: Counter::default(),
        epoch: AtomicI64::new(0),
        stop: AtomicBool::new(false),
    };
    let mut connection = server.connect().await.map_err(|e| e.to_string())?;
    for statement in SCHEMA {
        execute(&mut connection, statement).await?;
    }
    for id in 0..N_ACCOUNTS {
        let insert = format!("INSERT INTO accounts VALUES ({id}, 'o{}', {BALANCE})", id % 4);
        execute(&mut connection, &insert).await?;
    }
    for (name, query) in VIEWS {
        execute(&mut connection, &format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await?;
    }
    execute(&mut connection, OF_RECENT).await?;
    connection.close().await;
    for round in 0..n_rounds {
        let after = Duration::from_micros(random.below(400_000));
        let outcome = run_round(&server, &known, &mut random, after).await;
        outcome.map_err(|e| format!("seed {seed}, round {round}, killed after {after:?}: {e}"))?;
    }
    Ok(())
}

async fn run_round(server: &Durable, known: &Known, random: &mut Random, after: Duration) -> Result<(), String> {
    known.stop.store(false, SeqCst);
    let mut clients: Vec<LocalBoxFuture<'_, Result<(), String>>> = Vec::new();
    for client in 0..N_CLIENTS {
        clients.push(write_events(server, known, client).boxed_local());
        clients.push(write_loose(server, known, client).boxed_local());
        clients.push(write_versions(server, known, client, Random::new(random.next())).boxed_local());
        clients.push(move_money(server, known, Random::new(random.next())).boxed_local());
    }
    clients.push(write_quickly(server, known).boxed_local());
    clients.push(write_recent(server, known).boxed_local());
    clients.push(change_catalog(server, known).boxed_local());
    clients.push(subscribe(server, known).boxed_local());
    let kill = async {
        tokio::time::sleep(after).await;
        server.kill().await;
        known.stop.store(true, SeqCst);
    };
    let (ended, ()) = tokio::join!(join_all(clients), kill);
    ended.into_iter().collect::<Result<(), String>>()?;
    server.restart().await?;
    let mut connection = server.connect().await.map_err(|e| e.to_string())?;
    let checked = check(&mut connection, known).await;
    connection.close().await;
    checked
}

async fn check(connection: &mut WireConnection, known: &Known) -> Result<(), String> {
    let epoch = number(connection, "SELECT epoch FROM millstream.jobs WHERE name = 'quickest'").await?;
    let seen = known.epoch.load(SeqCst);
    if epoch < seen {
        return Err(format!("epoch {seen} was seen, and the last one is {epoch}"));
    }
    for (table, counters) in [("events", &known.events), ("loose", &known.loose)] {
        for (client, counter) in counters.iter().enumerate() {
            let of = format!("FROM {table} WHERE client = {client}");
            let n_rows = number(connection, &format!("SELECT count(*) {of}")).await?;
            let last = number(connection, &format!("SELECT coalesce(max(seq), 0) {of}")).await?;
            let distinct = number(connection, &format!("SELECT count(DISTINCT seq) {of}")).await?;
            counter.check(&format!("{table} of client {client}"), last)?;
            if (n_rows, distinct) != (last, last) {
                return Err(format!(
                    "{table} of client {client}: {n_rows} rows, {distinct} of them distinct, up to {last}"
                ));
            }
            counter.settle(last);
        }
    }
    for (client, counter) in known.versions.iter().enumerate() {
        let of = format!("FROM kv WHERE client = {client}");
        let last = number(connection, &format!("SELECT coalesce(max(version), 0) {of}")).await?;
        counter.check(&format!("versions of client {client}"), last)?;
        counter.settle(last);
    }
    let money = number(connection, "SELECT sum(balance) FROM accounts").await?;
    if money != N_ACCOUNTS * BALANCE {
        return Err(format!("{money} is in the accounts"));
    }
    // What was acknowledged before it was durable may be missing at the end, and nowhere else.
    let gaps = "SELECT coalesce(max(seq), 0) - count(DISTINCT seq) + count(*) - count(DISTINCT seq) FROM quick";
    let n_gaps = number(connection, gaps).await?;
    if n_gaps != 0 {
        return Err(format!("{n_gaps} quick rows are missing before others, or there twice"));
    }
    check_recent(connection, known).await?;
    let n_made = number(connection, "SELECT count(*) FROM pg_class WHERE relname LIKE 'made\\_%'").await?;
    known.ddl.check("views made", n_made)?;
    known.ddl.settle(n_made);
    for (name, query) in VIEWS {
        let differences = format!(
            "SELECT count(*) FROM ((SELECT * FROM {name} EXCEPT ALL ({query})) UNION ALL (({query}) EXCEPT ALL SELECT * FROM {name})) q"
        );
        let n_differences = number(connection, &differences).await?;
        if n_differences > 0 {
            return Err(format!("view {name} differs from its query in {n_differences} rows"));
        }
    }
    Ok(())
}

/// What a stream has forgotten does not come back, and what it has not is there; a view has counted all of it.
async fn check_recent(connection: &mut WireConnection, known: &Known) -> Result<(), String> {
    let last = number(connection, "SELECT coalesce(max(seq), 0) FROM of_recent").await?;
    known.recent.check("recent rows", last)?;
    known.recent.settle(last);
    let n_counted = number(connection, "SELECT coalesce(sum(n), 0)::bigint FROM of_recent").await?;
    if n_counted != last {
        return Err(format!("{n_counted} recent rows were counted, and {last} were written"));
    }
    let forgotten = known.forgotten.load(SeqCst);
    let wrong = format!(
        "SELECT count(*) FROM (SELECT count(*) AS n, min(seq) AS first, max(seq) AS last FROM recent) q
         WHERE n > 0 AND (last <> {last} OR n <> last - first + 1 OR first <= {forgotten})"
    );
    match number(connection, &wrong).await? {
        0 => Ok(()),
        _ => Err(format!("recent rows up to {forgotten} were forgotten, the last is {last}, and others are there")),
    }
}

/// Runs statements until the server is gone; `next` gives the next one, and is told what came of it.
async fn until_killed(
    server: &Durable,
    known: &Known,
    mut next: impl AsyncFnMut(&mut WireConnection) -> Result<(), SqlError>,
) -> Result<(), String> {
    let Ok(mut connection) = server.connect().await else { return Ok(()) };
    loop {
        match tokio::time::timeout(STATEMENT_TIMEOUT, next(&mut connection)).await {
            Err(_) => return Err("a statement hangs".to_owned()),
            Ok(Ok(())) if known.stop.load(SeqCst) => break,
            Ok(Ok(())) => {}
            // The connection is gone.
            Ok(Err(error)) if error.state.is_none() => break,
            Ok(Err(error)) if error.state.as_deref() == Some("40001") => {}
            Ok(Err(error)) => return Err(error.to_string()),
        }
    }
    connection.close().await;
    Ok(())
}

async fn write_events(server: &Durable, known: &Known, client: i64) -> Result<(), String> {
    let counter = &known.events[client as usize];
    until_killed(server, known, async |connection| {
        let seq = counter.tried.fetch_add(1, SeqCst) + 1;
        connection.run(&format!("INSERT INTO events VALUES ({client}, {seq}, {seq}.25)")).await?;
        counter.acknowledged.store(seq, SeqCst);
        Ok(())
    })
    .await
}

/// Several rows at a time, in a table without a key, some of them in a transaction with a read.
async fn write_loose(server: &Durable, known: &Known, client: i64) -> Result<(), String> {
    let counter = &known.loose[client as usize];
    until_killed(server, known, async |connection| {
        let from = counter.acknowledged.load(SeqCst);
        counter.tried.store(from + 2, SeqCst);
        let insert = |seq: i64| format!("INSERT INTO loose VALUES ({client}, {seq})");
        let sql = format!("BEGIN; {}; SELECT count(*) FROM texts; {}; COMMIT", insert(from + 1), insert(from + 2));
        run_transaction(connection, &sql).await?;
        counter.acknowledged.store(from + 2, SeqCst);
        Ok(())
    })
    .await
}

async fn write_versions(server: &Durable, known: &Known, client: i64, mut random: Random) -> Result<(), String> {
    let counter = &known.versions[client as usize];
    until_killed(server, known, async |connection| {
        let version = counter.tried.fetch_add(1, SeqCst) + 1;
        let k = random.below(5);
        let sql = format!(
            "INSERT INTO kv VALUES ({client}, {k}, {version}, 't{}') ON CONFLICT (client, k) DO UPDATE \
             SET version = excluded.version, t = excluded.t",
            version % 9
        );
        connection.run(&sql).await?;
        counter.acknowledged.store(version, SeqCst);
        Ok(())
    })
    .await
}

async fn move_money(server: &Durable, known: &Known, mut random: Random) -> Result<(), String> {
    until_killed(server, known, async |connection| {
        let (from, to) = (random.below(N_ACCOUNTS as u64), random.below(N_ACCOUNTS as u64));
        let amount = random.below(50);
        let sql = format!(
            "BEGIN; UPDATE accounts SET balance = balance - {amount} WHERE id = {from}; \
             UPDATE accounts SET balance = balance + {amount} WHERE id = {to}; COMMIT"
        );
        run_transaction(connection, &sql).await
    })
    .await
}

async fn write_quickly(server: &Durable, known: &Known) -> Result<(), String> {
    let mut seq = None;
    until_killed(server, known, async |connection| {
        let next = match seq {
            Some(seq) => seq + 1,
            None => {
                connection.run("SET synchronous_commit = off").await?;
                1 + last_quick(connection).await?
            }
        };
        connection.run(&format!("INSERT INTO quick VALUES (0, {next})")).await?;
        seq = Some(next);
        if last_quick(connection).await? != next {
            let message = format!("quick row {next} is not seen by who wrote it");
            return Err(seen(message));
        }
        Ok(())
    })
    .await
}

/// Writes to a stream that forgets its rows, and looks which are gone.
async fn write_recent(server: &Durable, known: &Known) -> Result<(), String> {
    until_killed(server, known, async |connection| {
        let seq = known.recent.tried.fetch_add(1, SeqCst) + 1;
        connection.run(&format!("INSERT INTO recent VALUES ({seq})")).await?;
        known.recent.acknowledged.store(seq, SeqCst);
        if let Output::Rows { rows, .. } = connection.run("SELECT min(seq) FROM recent").await?
            && let Some(first) = number_in(&rows)
        {
            known.forgotten.fetch_max(first - 1, SeqCst);
        }
        Ok(())
    })
    .await
}

async fn last_quick(connection: &mut WireConnection) -> Result<i64, SqlError> {
    match connection.run("SELECT coalesce(max(seq), 0) FROM quick").await? {
        Output::Rows { rows, .. } => Ok(number_in(&rows).unwrap_or(-1)),
        Output::Complete(_) => Ok(-1),
    }
}

/// Makes views, and a table together with its rows.
async fn change_catalog(server: &Durable, known: &Known) -> Result<(), String> {
    until_killed(server, known, async |connection| {
        let n = known.ddl.tried.fetch_add(1, SeqCst) + 1;
        let sql = if n % 2 == 0 {
            format!("CREATE MATERIALIZED VIEW made_{n} AS SELECT count(*) AS n FROM events WHERE client = {}", n % 3)
        } else {
            format!("BEGIN; CREATE TABLE made_{n} (a int); INSERT INTO made_{n} VALUES ({n}); COMMIT")
        };
        connection.run(&sql).await?;
        known.ddl.acknowledged.store(n, SeqCst);
        Ok(())
    })
    .await
}

/// Follows a view, and knows the last epoch that it was told of.
async fn subscribe(server: &Durable, known: &Known) -> Result<(), String> {
    let mut declared = false;
    until_killed(server, known, async |connection| {
        if !declared {
            connection.run("BEGIN").await?;
            connection.run("DECLARE c CURSOR FOR SUBSCRIBE TO quickest").await?;
            declared = true;
        }
        let Output::Rows { rows, .. } = connection.run("FETCH 10 c").await? else { return Ok(()) };
        for row in &rows {
            let epoch = row.first().and_then(|e| e.as_deref()).and_then(|e| e.parse().ok()).unwrap_or(-1);
            if known.epoch.fetch_max(epoch, SeqCst) > epoch {
                let message = format!("epoch {epoch} comes after a later one");
                return Err(seen(message));
            }
        }
        Ok(())
    })
    .await
}

/// What a client has seen that must not be, as an error that ends the run: `raise_exception`, which no statement here gives.
fn seen(message: String) -> SqlError {
    SqlError { state: Some("P0001".to_owned()), message }
}

/// Runs a transaction, and takes it back if it fails.
async fn run_transaction(connection: &mut WireConnection, sql: &str) -> Result<(), SqlError> {
    let outcome = connection.run(sql).await;
    if outcome.is_err() {
        connection.run("ROLLBACK").await?;
    }
    outcome.map(|_| ())
}

/// A disk without room refuses writes, and nothing else; when there is room again, they go on.
///
/// # Errors
/// What is not so.
pub async fn full_disk() -> Result<(), String> {
    const LIMIT: u64 = 10_000_000;
    let server = Durable::start(Restart::Kill).await?;
    let mut connection = server.connect().await.map_err(|e| e.to_string())?;
    execute(&mut connection, "CREATE TABLE t (k int PRIMARY KEY, v text)").await?;
    execute(&mut connection, "CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n, sum(length(v)) AS len FROM t")
        .await?;
    server.limit_files(Some(LIMIT)).await?;
    let insert = |k: i64| {
        format!("INSERT INTO t SELECT {k}, string_agg(md5((i * {k})::text), '') FROM generate_series(1, 10000) i")
    };
    let mut n_rows = 0;
    let refused = loop {
        match connection.run(&insert(n_rows + 1)).await {
            Ok(_) if n_rows < 100 => n_rows += 1,
            Ok(_) => return Err("a log of 32 MB fits into a file of 10".to_owned()),
            Err(error) => break error,
        }
    };
    if refused.state.as_deref() != Some("53100") {
        return Err(format!("the write that does not fit fails with {refused}"));
    }
    let check = "SELECT count(*) FROM t JOIN n ON n.n = (SELECT count(*) FROM t)";
    if number(&mut connection, check).await? != n_rows {
        return Err("what was refused is there, or what was not is missing".to_owned());
    }
    // Statements that change the catalog are refused as well, and leave nothing.
    let _ = connection.run("CREATE TABLE other (a int)").await;
    server.limit_files(None).await?;
    execute(&mut connection, &insert(n_rows + 1)).await?;
    n_rows += 1;
    execute(&mut connection, "CREATE TABLE IF NOT EXISTS other (a int)").await?;
    execute(&mut connection, "INSERT INTO other VALUES (1)").await?;
    connection.close().await;
    server.restart().await?;
    let mut connection = server.connect().await.map_err(|e| e.to_string())?;
    if number(&mut connection, check).await? != n_rows || number(&mut connection, "SELECT a FROM other").await? != 1 {
        return Err("after a kill not all is there".to_owned());
    }
    connection.close().await;
    Ok(())
}

async fn execute(connection: &mut WireConnection, sql: &str) -> Result<(), String> {
    connection.run(sql).await.map(|_| ()).map_err(|e| format!("{sql}: {e}"))
}

async fn number(connection: &mut WireConnection, sql: &str) -> Result<i64, String> {
    match connection.run(sql).await.map_err(|e| format!("{sql}: {e}"))? {
        Output::Rows { rows, .. } => number_in(&rows).ok_or_else(|| format!("{sql}: no number")),
        Output::Complete(_) => Err(format!("{sql}: no rows")),
    }
}

fn number_in(rows: &[Vec<Option<String>>]) -> Option<i64> {
    rows.first()?.first()?.as_deref()?.parse().ok()
}
