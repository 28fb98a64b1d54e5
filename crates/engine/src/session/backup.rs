//! `BACKUP TO`: a copy of the last checkpoint, which is taken first.

use millstream_storage::location::Location;
use millstream_types::{Error, Result, SqlState};

use super::{Session, done};
use crate::api::Response;

impl Session {
    /// Copies all that was written so far to a folder or into a bucket, while everything goes on.
    ///
    /// # Errors
    /// 55000 if all data is in memory or there is something, 22023 for a relative path or what is no url, 53100 and 58030.
    pub(super) async fn back_up(&mut self, path: &str) -> Result<Response> {
        let Some(checkpoints) = self.engine.store.lock().clone() else {
            let message = "there is nothing to back up: all data is in memory";
            return Err(Error::user(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
                .with_hint("Start the server with --data-dir."));
        };
        let to: Location = path.parse()?;
        if matches!(&to, Location::Folder(folder) if !folder.is_absolute()) {
            let message = format!("a backup needs an absolute path or the url of a bucket, not \"{path}\"");
            return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
                .with_hint("It is a path of the machine that the server runs on."));
        }
        self.engine.clock.checkpoint().await?;
        let copied = tokio::task::spawn_blocking(move || checkpoints.back_up(&to)).await;
        let copied = copied.map_err(|e| Error::internal(format!("the backup ended: {e}")))??;
        self.notice_of(&format!("{} bytes of epoch {} are backed up", copied.n_bytes, copied.epoch));
        Ok(done("BACKUP"))
    }
}
