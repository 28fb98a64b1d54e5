//! What a server with its data in a bucket reads is on its way before it is needed: seen from the bucket.

use millstream_testkit::slt::{Connection, Output};

use crate::bucket::BucketServer;
use crate::durable::{Durable, Place, Restart};

/// Reads that come together at least. Two workers, or a query over what two have, come to two when each waits for its own.
const AT_ONCE_MIN: usize = 5;

/// A start, a view that is made of a stream, and a query over it.
///
/// # Errors
/// What is read piece by piece, or is not as it was.
pub async fn read_ahead(buckets: &BucketServer) -> Result<(), String> {
    let place = Place::bucket(buckets);
    let prefix = place.at.to_string().rsplit('/').next().unwrap_or_default().to_owned();
    let (state, streams) = (format!("{prefix}/state"), format!("{prefix}/streams"));
    let server = Durable::start_at(Restart::Kill, place).await?;
    run(&server, "CREATE TABLE t (k bigint PRIMARY KEY, v text)").await?;
    run(&server, "CREATE STREAM s (k bigint, v text, w bigint)").await?;
    for first in (0..240_000).step_by(20_000) {
        let numbers = format!("generate_series({first}, {}) i", first + 19_999);
        run(&server, &format!("INSERT INTO s SELECT i, md5(i::text), -i FROM {numbers}")).await?;
        run(&server, &format!("INSERT INTO t SELECT i, md5(i::text) FROM {numbers}")).await?;
    }
    run(&server, "CHECKPOINT").await?;

    buckets.reads_at_once(&state)?;
    server.restart().await?;
    check_at_once(buckets, &state, "a start")?;
    check_rows(
        &server,
        "SELECT count(*), sum(k), min(v) FROM t",
        "240000|28799880000|00003e3b9e5336685200ae85d21b4f5e",
    )
    .await?;

    buckets.reads_at_once(&streams)?;
    run(&server, "CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n, sum(k) AS k, sum(w) AS w FROM s").await?;
    check_rows(&server, "SELECT * FROM n", "240000|28799880000|-28799880000").await?;
    check_at_once(buckets, &streams, "a new view")?;

    check_rows(&server, "SELECT count(*), sum(k), sum(w) FROM s", "240000|28799880000|-28799880000").await?;
    check_at_once(buckets, &streams, "a query")?;
    server.kill().await;
    Ok(())
}

fn check_at_once(buckets: &BucketServer, folder: &str, what: &str) -> Result<(), String> {
    let at_once = buckets.reads_at_once(folder)?;
    if at_once >= AT_ONCE_MIN { Ok(()) } else { Err(format!("{what}: {at_once} reads of {folder}/ at once")) }
}

async fn check_rows(server: &Durable, sql: &str, expected: &str) -> Result<(), String> {
    let Output::Rows { rows, .. } = run(server, sql).await? else { return Err(format!("{sql}: no rows")) };
    let shown = |row: &Vec<Option<String>>| {
        row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join("|")
    };
    let found = rows.iter().map(shown).collect::<Vec<_>>().join("\n");
    if found == expected { Ok(()) } else { Err(format!("{sql}: {found} instead of {expected}")) }
}

async fn run(server: &Durable, sql: &str) -> Result<Output, String> {
    let mut connection = server.connect().await.map_err(|e| e.to_string())?;
    let outcome = connection.run(sql).await.map_err(|e| format!("{sql}: {e}"));
    connection.close().await;
    outcome
}
