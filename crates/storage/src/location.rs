//! Where a data directory or a backup lies: in a folder, or under a prefix of a bucket.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use millstream_types::{Error, Result, SqlState};

/// A folder of this machine, or a prefix of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A folder.
    Folder(PathBuf),
    /// A prefix of a bucket.
    Bucket(BucketUrl),
}

/// A prefix of a bucket, as in `s3://bucket/some/prefix`. It has no credentials: those come from the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketUrl {
    pub(crate) cloud: Cloud,
    pub(crate) bucket: String,
    /// Without `/` at either end; may be empty.
    pub(crate) prefix: String,
}

/// Who has buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cloud {
    /// Amazon S3, and all that speak its protocol.
    S3,
    /// Google Cloud Storage.
    Google,
    /// Azure Blob Storage, where a bucket is a container.
    Azure,
}

/// The clouds, by the scheme of their urls.
const SCHEMES: [(&str, Cloud); 3] = [("s3", Cloud::S3), ("gs", Cloud::Google), ("az", Cloud::Azure)];

impl FromStr for Location {
    type Err = Error;

    /// A url is told from a path by its `://`.
    ///
    /// # Errors
    /// 22023 if it is a url, and not that of a bucket.
    fn from_str(text: &str) -> Result<Location> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(Location::Folder(text.into())) };
        let Some((_, cloud)) = SCHEMES.into_iter().find(|(name, _)| *name == scheme) else {
            return Err(invalid(format!("\"{scheme}://\" is not the url of a bucket")));
        };
        // What may be a password is not repeated.
        if rest.contains(['@', '?', '#']) {
            return Err(invalid(format!("a url of \"{scheme}://\" has only a bucket and a prefix")));
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_matches('/').to_owned();
        if bucket.is_empty() {
            return Err(invalid(format!("\"{text}\" does not name a bucket")));
        }
        if object_store::path::Path::parse(&prefix).is_err() {
            return Err(invalid(format!("\"{prefix}\" is no prefix of names in a bucket")));
        }
        Ok(Location::Bucket(BucketUrl { cloud, bucket: bucket.to_owned(), prefix }))
    }
}

fn invalid(message: String) -> Error {
    Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
        .with_hint("Buckets are s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX; credentials come from the environment.")
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Location {
        Location::Folder(path)
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Folder(path) => write!(f, "{}", path.display()),
            Location::Bucket(url) => write!(f, "{url}"),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = SCHEMES.iter().find(|(_, cloud)| *cloud == self.cloud).map_or("", |(scheme, _)| scheme);
        write!(f, "{scheme}://{}", self.bucket)?;
        if self.prefix.is_empty() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_told_from_paths() {
        let shown = |text: &str| text.parse::<Location>().map(|at| at.to_string());
        assert_eq!("/a/b".parse::<Location>().expect("a path"), Location::Folder("/a/b".into()));
        assert_eq!("s3".parse::<Location>().expect("a path"), Location::Folder("s3".into()));
        for (text, is_shown) in
            [("s3://b", "s3://b"), ("gs://b/", "gs://b"), ("az://c/a/b/", "az://c/a/b"), ("s3://b/ü x", "s3://b/ü x")]
        {
            assert_eq!(shown(text).expect("a bucket"), is_shown);
            assert!(matches!(text.parse(), Ok(Location::Bucket(_))));
        }
        for wrong in ["http://b/p", "file:///a", "s3://", "s3:///p", "s3://b/a//b", "s3://b/../x"] {
            assert_eq!(shown(wrong).expect_err(wrong).state(), SqlState::INVALID_PARAMETER_VALUE);
        }
        for secret in ["s3://key:hush@b/p", "az://c/p?sig=hush", "s3://b/p#hush"] {
            let error = shown(secret).expect_err("no place for credentials");
            assert!(!format!("{error:?}").contains("hush"), "{error}");
        }
    }
}
