//! What a `COPY` statement says about the form of its data.

/// The form of the data of a `COPY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyFormat {
    /// A line a row, fields apart by a delimiter, special characters escaped by backslashes.
    #[default]
    Text,
    /// Comma separated values, quoted where needed.
    Csv,
    /// Values in their binary forms, each with its length.
    Binary,
}

/// What the first line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyHeader {
    /// Data.
    #[default]
    No,
    /// The columns' names, of which a reader takes no notice.
    Yes,
    /// The columns' names; a reader insists on them.
    Match,
}

/// The options of a `COPY`, with Postgres' defaults for the format filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyOptions {
    /// `FORMAT`
    pub format: CopyFormat,
    /// `DELIMITER`, one byte.
    pub delimiter: u8,
    /// `NULL`: how a null is written.
    pub null: String,
    /// `HEADER`: whether the first line is not data but column names.
    pub header: CopyHeader,
    /// `QUOTE`, of csv.
    pub quote: u8,
    /// `ESCAPE`, of csv.
    pub escape: u8,
    /// `FORCE_QUOTE`: columns, by position, whose values are all quoted.
    pub force_quote: Vec<usize>,
    /// `FORCE_NOT_NULL`: columns in which a null's text without quotes is that text.
    pub force_not_null: Vec<usize>,
    /// `FORCE_NULL`: columns in which a null's text in quotes is null.
    pub force_null: Vec<usize>,
}

impl CopyOptions {
    /// The defaults of a format: tabs and `\N` for text, commas, double quotes and the empty string for csv.
    pub fn new(format: CopyFormat) -> Self {
        let (delimiter, null) = match format {
            CopyFormat::Text => (b'\t', "\\N"),
            CopyFormat::Csv => (b',', ""),
            CopyFormat::Binary => (0, ""),
        };
        CopyOptions {
            format,
            delimiter,
            null: null.to_owned(),
            header: CopyHeader::No,
            quote: b'"',
            escape: b'"',
            force_quote: vec![],
            force_not_null: vec![],
            force_null: vec![],
        }
    }
}
