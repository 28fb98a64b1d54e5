//! What is said of requests that fail. Credentials are not: of what a server answers, only its code and message are
//! repeated, since the rest may have keys and what was signed.

use millstream_types::{Error, ErrorKind, SqlState};
use object_store::Error as StoreError;

use crate::errors::IN_USE;
use crate::location::Cloud;

/// 58030: a request failed.
pub(super) fn bucket_error(action: &str, cloud: Cloud, url: &str, name: &str, error: &StoreError) -> Error {
    let object = if name.is_empty() { url.to_owned() } else { format!("{url}/{name}") };
    let message = format!("could not {action} \"{object}\": {}", reason(error));
    Error::new(ErrorKind::External, SqlState::IO_ERROR, message).with_hint(hint(cloud, error))
}

/// 58030: creating only what is absent is not in this bucket's power.
pub(super) fn unconditional(url: &str) -> Error {
    let message = format!("bucket \"{url}\" does not create objects only if they are absent (If-None-Match)");
    Error::new(ErrorKind::External, SqlState::IO_ERROR, message).with_hint(
        "Without that, two processes could write the same data. Use a store that has conditional writes, and do not set \
         AWS_CONDITIONAL_PUT=disabled.",
    )
}

/// 55006: this process has lost the data to another one.
pub(crate) fn taken_over(url: &str) -> Error {
    let message = format!("another process has taken over the data in \"{url}\"");
    Error::new(ErrorKind::External, IN_USE, message)
        .with_hint("This process acknowledges nothing any more. Whoever started the other one wanted that.")
}

/// Whether an error says that another process has taken over the data in a bucket.
pub fn is_taken_over(error: &Error) -> bool {
    error.state() == IN_USE
}

/// Whether not the object is missing, but the whole bucket.
pub(super) fn is_missing_bucket(error: &StoreError) -> bool {
    let said = error.to_string();
    ["NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist"].iter().any(|code| said.contains(code))
}

/// What says in the environment who is asking.
fn credentials(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::S3 => "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY",
        Cloud::Google => "GOOGLE_SERVICE_ACCOUNT or GOOGLE_APPLICATION_CREDENTIALS, a file",
        Cloud::Azure => "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    }
}

/// What says in the environment who is asked.
fn endpoint(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::S3 => "AWS_ENDPOINT, AWS_REGION, and AWS_ALLOW_HTTP=true",
        Cloud::Google => "GOOGLE_BASE_URL, and GOOGLE_ALLOW_HTTP=true",
        Cloud::Azure => "AZURE_STORAGE_ACCOUNT_NAME, AZURE_STORAGE_ENDPOINT, and AZURE_ALLOW_HTTP=true",
    }
}

fn hint(cloud: Cloud, error: &StoreError) -> String {
    let (credentials, endpoint) = (credentials(cloud), endpoint(cloud));
    match error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => format!(
            "Check the credentials in the environment ({credentials}, and so on) and what they are permitted: to get, put, \
             list and delete."
        ),
        error if is_missing_bucket(error) => {
            let bucket = if cloud == Cloud::Azure { "container" } else { "bucket" };
            format!("Make the {bucket} first; only what is in it is made.")
        }
        _ => format!(
            "Check that the bucket can be reached: the network; {endpoint} for an endpoint without TLS; and the credentials \
             ({credentials})."
        ),
    }
}

/// Why a request failed, in one line.
fn reason(error: &StoreError) -> String {
    let said = error.to_string();
    let Some(body) = said.find('<') else { return one_line(&said) };
    let answered = ["Code", "Message"].into_iter().filter_map(|tag| element(&said[body..], tag));
    let answered: Vec<&str> = answered.collect();
    one_line(&format!("{} {}", said[..body].trim_end(), answered.join(": ")))
}

/// The text of the first element of a name.
fn element<'a>(xml: &'a str, tag: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{tag}>"))?;
    rest.split_once("</").map(|(text, _)| text)
}

/// Without the queries of urls, which may be signatures.
fn one_line(text: &str) -> String {
    let shown = |word| match str::find(word, "://") {
        Some(_) => word.split('?').next().unwrap_or_default(),
        None => word,
    };
    text.split_whitespace().map(shown).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_only_code_and_message_are_repeated() {
        let body = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code>\
                    <Message>The request signature does not match.</Message><AWSAccessKeyId>AKIAHUSH</AWSAccessKeyId>\
                    <StringToSign>hush</StringToSign></Error>";
        let error = StoreError::PermissionDenied { path: "log/1".to_owned(), source: body.into() };
        let shown = bucket_error("create", Cloud::S3, "s3://b/p", "log/1", &error);
        let text = format!("{shown:?}");
        assert!(!text.to_lowercase().contains("hush"), "{text}");
        let message = shown.message();
        assert!(message.starts_with("could not create \"s3://b/p/log/1\": "), "{message}");
        assert!(message.ends_with("403 Forbidden: SignatureDoesNotMatch: The request signature does not match."));
        assert!(text.contains("AWS_ACCESS_KEY_ID"), "{text}");
    }

    #[test]
    fn queries_of_urls_are_not_repeated() {
        let said = "Error performing GET https://a.blob.core.windows.net/c/log/1?sv=2024&sig=hush in 2s - timed out";
        let error = StoreError::Generic { store: "MicrosoftAzure", source: said.into() };
        let shown = bucket_error("read", Cloud::Azure, "az://c", "log/1", &error);
        let text = format!("{shown:?}");
        assert!(!text.contains("hush") && text.contains("core.windows.net/c/log/1 in 2s - timed out"), "{text}");
        assert!(text.contains("AZURE_STORAGE_ENDPOINT"), "{text}");
    }
}
