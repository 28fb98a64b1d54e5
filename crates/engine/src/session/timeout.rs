//! `statement_timeout`: a statement and its result have so long, and no longer.

use futures::StreamExt;
use millstream_types::{Error, Result, SqlState};
use tokio::time::Instant;

use crate::api::{Response, Rows};

/// Waits until a deadline; for ever without one.
pub(super) async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

pub(super) fn error() -> Error {
    Error::user(SqlState::QUERY_CANCELED, "canceling statement due to statement timeout")
}

/// The response, whose rows end in an error at the deadline.
pub(super) fn limited(response: Response, deadline: Option<Instant>) -> Response {
    let Some(deadline) = deadline else { return response };
    match response {
        Response::Rows(rows) => Response::Rows(limited_rows(rows, deadline)),
        Response::CopyOut { options, rows } => Response::CopyOut { options, rows: limited_rows(rows, deadline) },
        other => other,
    }
}

fn limited_rows(rows: Rows, deadline: Instant) -> Rows {
    let batches = futures::stream::unfold(Some(rows.batches), move |batches| async move {
        let mut batches = batches?;
        match tokio::time::timeout_at(deadline, batches.next()).await {
            Ok(batch) => batch.map(|batch| (batch, Some(batches))),
            Err(_) => Some((Result::Err(error()), None)),
        }
    });
    Rows { batches: batches.boxed(), ..rows }
}
