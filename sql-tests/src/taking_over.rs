//! Servers that have their data in a bucket: one takes over from another, backups go in and out, and a bucket that is not
//! reached is named.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};
use std::time::Duration;

use futures::future::join_all;
use millstream_testkit::slt::{Connection, Output};

use crate::bucket::BucketServer;
use crate::durable::{Durable, Place, Restart, restore};
use crate::wire::WireConnection;

/// With this code a process ends whose data another one has taken over.
const TAKEN_OVER: i32 = 75;
/// Clients that write all the time.
const N_CLIENTS: i64 = 4;
/// How often a server is taken over from.
const N_ROUNDS: usize = 4;
/// A statement that takes longer hangs.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(60);

/// A server takes over from another one that is written to: what that one has acknowledged is there, and it ends. So does
/// one that nobody writes to.
///
/// # Errors
/// What is not so.
pub async fn taken_over(buckets: &BucketServer) -> Result<(), String> {
    let place = Place::bucket(buckets);
    let mut server = Durable::start_at(Restart::Kill, place.clone()).await?;
    run(&server, "CREATE TABLE t (client bigint, seq bigint, PRIMARY KEY (client, seq))").await?;
    run(&server, "CREATE MATERIALIZED VIEW n AS SELECT client, count(*) AS n, max(seq) AS last FROM t GROUP BY client")
        .await?;
    let acknowledged: Vec<AtomicI64> = (0..N_CLIENTS).map(|_| AtomicI64::new(0)).collect();
    for round in 0..N_ROUNDS {
        let is_idle = round == N_ROUNDS - 1;
        let has_started = AtomicBool::new(false);
        let write = async |client: i64| {
            let Ok(mut connection) = server.connect().await else { return Ok(()) };
            let last = &acknowledged[client as usize];
            while !is_idle || !has_started.load(SeqCst) {
                let next = last.load(SeqCst) + 1;
                let insert = format!("INSERT INTO t VALUES ({client}, {next})");
                match tokio::time::timeout(STATEMENT_TIMEOUT, connection.run(&insert)).await {
                    Err(_) => return Err("a write hangs".to_owned()),
                    Ok(Ok(_)) => last.store(next, SeqCst),
                    // The process has ended.
                    Ok(Err(error)) if error.state.is_none() => return Ok(()),
                    // What was not acknowledged the last time may be there.
                    Ok(Err(error)) if error.state.as_deref() == Some("23505") => last.store(next, SeqCst),
                    Ok(Err(error)) => return Err(error.to_string()),
                }
            }
            Ok(())
        };
        let take_over = async {
            if !is_idle {
                // It has something to lose by then.
                until(|| acknowledged.iter().all(|last| last.load(SeqCst) > 5 * round as i64)).await;
            }
            has_started.store(true, SeqCst);
            Durable::start_at(Restart::Kill, place.clone()).await
        };
        let (written, next) = tokio::join!(join_all((0..N_CLIENTS).map(write)), take_over);
        written.into_iter().collect::<Result<(), String>>()?;
        let next = next?;
        let code = server.exit_code().await?;
        if code != Some(TAKEN_OVER) {
            return Err(format!("round {round}: the server that was taken over from ends with {code:?}"));
        }
        server = next;
        for (client, acknowledged) in (0..).zip(&acknowledged) {
            let found = number(&server, &format!("SELECT count(*) FROM t WHERE client = {client}")).await?;
            let in_view =
                number(&server, &format!("SELECT coalesce(max(n), 0) FROM n WHERE client = {client}")).await?;
            let acknowledged = acknowledged.load(SeqCst);
            if found != in_view || !(acknowledged..=acknowledged + 1).contains(&found) {
                return Err(format!(
                    "round {round}: {acknowledged} rows of client {client} were acknowledged; {found} are there, {in_view} in the view"
                ));
            }
        }
    }
    Ok(())
}

/// Backups from a bucket to a folder, and from a folder into a bucket.
///
/// # Errors
/// What is not as it was.
pub async fn backups(buckets: &BucketServer) -> Result<(), String> {
    let server = Durable::start_at(Restart::Kill, Place::bucket(buckets)).await?;
    run(&server, "CREATE TABLE t (k int PRIMARY KEY, v text)").await?;
    run(&server, "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) i").await?;
    // So much in one object that it is sent in parts.
    run(&server, "CREATE TABLE large (k int PRIMARY KEY, v text)").await?;
    run(
        &server,
        "INSERT INTO large SELECT i / 2000, string_agg(md5(i::text), '') FROM generate_series(0, 599999) i GROUP BY i / 2000",
    )
    .await?;
    run(&server, "CHECKPOINT").await?;
    run(&server, "DELETE FROM t WHERE k % 2 = 0").await?;
    let (to_folder, to_bucket, not_a_backup) = (Place::folder()?, Place::bucket(buckets), Place::bucket(buckets));
    for place in [&to_folder, &to_bucket] {
        run(&server, &format!("BACKUP TO '{}'", place.at)).await?;
    }
    for refused in [to_bucket.at.to_string(), "s3://".to_owned(), "http://millstream/a".to_owned()] {
        if run(&server, &format!("BACKUP TO '{refused}'")).await.is_ok() {
            return Err(format!("a backup is made in {refused}"));
        }
    }
    // Of what is copied without a backup the log has something, too.
    run(&server, "INSERT INTO t SELECT -i, 'later' FROM generate_series(1, 5) i").await?;
    server.kill().await;
    let (into_bucket, into_folder) = (Place::bucket(buckets), Place::folder()?);
    restore(&to_folder, &into_bucket).await?;
    restore(&into_bucket, &into_folder).await?;
    let error = restore(&not_a_backup, &Place::folder()?).await.err().unwrap_or_default();
    if !error.contains("is no backup") {
        return Err(format!("of nothing something is restored: {error}"));
    }
    for place in [to_folder, to_bucket, into_bucket, into_folder] {
        let at = place.at.clone();
        let server = Durable::start_at(Restart::Kill, place).await?;
        let n_bytes = number(&server, "SELECT sum(length(v))::bigint FROM large").await?;
        if n_bytes != 600_000 * 32 {
            return Err(format!("{at}: {n_bytes} bytes in the large rows"));
        }
        for n_rows in [10_000, 10_001] {
            let found = number(&server, "SELECT count(*) FROM t").await?;
            if found != n_rows {
                return Err(format!("{at}: {found} rows instead of {n_rows}"));
            }
            run(&server, &format!("INSERT INTO t VALUES ({}, 'new')", 100_000 + n_rows)).await?;
            server.restart().await?;
        }
        server.kill().await;
    }
    Ok(())
}

/// Who cannot reach the bucket says so, with its name and what to look at, and does not start. So does who is not let in,
/// without what it was not let in with.
///
/// # Errors
/// What is not so.
pub async fn unreachable(buckets: &BucketServer) -> Result<(), String> {
    let (endpoint, _) = buckets.cloud().endpoint(0);
    let mut cases = vec![(Place::nowhere(buckets), endpoint, None), (Place::no_bucket(buckets), "Make the ", None)];
    cases.extend(
        Place::forbidden(buckets)
            .map(|(place, secret)| (place, "Check the credentials in the environment", Some(secret))),
    );
    for (place, hint, secret) in cases {
        let error = restore(&place, &Place::folder()?).await.err().unwrap_or_default();
        let says = |part: &str| error.contains(part);
        let is_named = says(&format!("could not read \\\"{}/data.id\\\"", place.at));
        if !says("58030") || !is_named || !says(hint) || secret.is_some_and(says) {
            return Err(format!("it says: {error}"));
        }
    }
    Ok(())
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn run(server: &Durable, sql: &str) -> Result<Output, String> {
    let mut connection: WireConnection = server.connect().await.map_err(|e| e.to_string())?;
    let outcome = connection.run(sql).await.map_err(|e| format!("{sql}: {e}"));
    connection.close().await;
    outcome
}

async fn number(server: &Durable, sql: &str) -> Result<i64, String> {
    match run(server, sql).await? {
        Output::Rows { rows, .. } => {
            let first = rows.first().and_then(|row| row.first()?.as_deref()?.parse().ok());
            first.ok_or_else(|| format!("{sql}: no number"))
        }
        Output::Complete(_) => Err(format!("{sql}: no rows")),
    }
}
