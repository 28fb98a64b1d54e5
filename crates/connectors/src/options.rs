//! The options of `CREATE STREAM ... WITH (...)`, and how a connector reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::SchemaRef;
use millstream_types::{Error, Result, SqlState, SqlType};

/// A scalar expression over a batch of its input columns: one value a row.
pub type RowExpr = Arc<dyn Fn(&RecordBatch) -> Result<ArrayRef> + Send + Sync>;

/// An SQL expression, bound to the columns that it reads.
#[derive(Clone)]
pub struct BoundExpr {
    /// The columns that the expression reads, as indices into the schema it was bound to.
    pub inputs: Vec<usize>,
    /// Takes a batch of exactly these columns, in this order; gives the declared type.
    pub evaluate: RowExpr,
}

/// Binds SQL text to the columns of a schema, as an expression of the given type.
///
/// The binder refuses what is not a pure function of its inputs (`random()`, `now()`): a source must give the same rows
/// again. Its errors reach the user as they are.
pub type ExprBinder = Arc<dyn Fn(&str, &SchemaRef, &SqlType) -> Result<BoundExpr> + Send + Sync>;

/// A column as the user declared it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnDeclaration {
    /// The column's name.
    pub name: String,
    /// Its type.
    pub sql_type: SqlType,
}

/// What a user said about a connector.
#[derive(Clone)]
pub struct SourceOptions {
    /// The value of the option `connector`.
    pub connector: String,
    /// All other options that are the connector's to read, by name.
    pub options: BTreeMap<String, String>,
    /// The declared columns, in order; none if the statement leaves them to the connector.
    pub columns: Vec<ColumnDeclaration>,
    /// Binds expressions in options; without it they are refused.
    pub binder: Option<ExprBinder>,
}

impl SourceOptions {
    /// Options as they stand in a `WITH` clause, the connector's name among them.
    ///
    /// # Errors
    /// 22023 if an option is given twice, or `connector` is missing.
    pub fn new<N: Into<String>, V: Into<String>>(options: impl IntoIterator<Item = (N, V)>) -> Result<Self> {
        let mut by_name = BTreeMap::new();
        for (name, value) in options {
            let name = name.into();
            if by_name.contains_key(&name) {
                return Err(invalid(format!("option \"{name}\" is given more than once")));
            }
            by_name.insert(name, value.into());
        }
        let Some(connector) = by_name.remove("connector") else {
            return Err(invalid("option \"connector\" is missing")
                .with_hint(format!("connectors: {}", crate::SOURCE_CONNECTORS.join(", "))));
        };
        Ok(SourceOptions { connector, options: by_name, columns: Vec::new(), binder: None })
    }

    /// The same options with declared columns.
    #[must_use]
    pub fn with_columns(mut self, columns: Vec<ColumnDeclaration>) -> Self {
        self.columns = columns;
        self
    }

    /// The same options with a binder for expressions.
    #[must_use]
    pub fn with_binder(mut self, binder: ExprBinder) -> Self {
        self.binder = Some(binder);
        self
    }
}

impl fmt::Debug for SourceOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceOptions")
            .field("connector", &self.connector)
            .field("options", &self.options)
            .field("columns", &self.columns)
            .field("binder", &self.binder.is_some())
            .finish()
    }
}

/// An error about an option: 22023.
pub(crate) fn invalid(message: impl Into<String>) -> Error {
    Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
}

/// Reads the options of one connector and words what is wrong with them.
pub(crate) struct OptionReader<'a> {
    source: &'a SourceOptions,
    valid: &'static [&'static str],
}

impl<'a> OptionReader<'a> {
    /// A reader for a connector that knows the options of `valid`; `is_other` admits further ones by name.
    pub(crate) fn new(
        source: &'a SourceOptions,
        valid: &'static [&'static str],
        is_other: impl Fn(&str) -> bool,
    ) -> Result<Self> {
        let reader = OptionReader { source, valid };
        match source.options.keys().find(|name| !valid.contains(&name.as_str()) && !is_other(name)) {
            None => Ok(reader),
            Some(name) => {
                Err(reader.hinted(format!("unknown option \"{name}\" of connector \"{}\"", source.connector)))
            }
        }
    }

    /// An option's text.
    pub(crate) fn text(&self, name: &str) -> Option<&'a str> {
        self.source.options.get(name).map(String::as_str)
    }

    /// An option's text; an error if it is not given.
    pub(crate) fn required(&self, name: &str) -> Result<&'a str> {
        self.text(name).ok_or_else(|| {
            self.hinted(format!("option \"{name}\" of connector \"{}\" is missing", self.source.connector))
        })
    }

    /// An option's value, if it is given; `expected` completes "expected ...".
    pub(crate) fn parse<T>(&self, name: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>> {
        self.text(name).map(|text| parse(text).ok_or_else(|| self.malformed(name, expected))).transpose()
    }

    /// A whole number from 0, if it is given.
    pub(crate) fn count(&self, name: &str) -> Result<Option<u64>> {
        self.parse(name, "a whole number, 0 or more", |text| text.trim().parse().ok())
    }

    /// Rows or events a second, `None` for as many as are wanted.
    pub(crate) fn rate(&self) -> Result<Option<f64>> {
        let expected = "a positive number, or \"unlimited\"";
        let rate = self.parse("rate", expected, |text| match text.trim() {
            "unlimited" => Some(None),
            text => text.parse().ok().filter(|rate: &f64| rate.is_finite() && *rate > 0.0).map(Some),
        })?;
        Ok(rate.flatten())
    }

    /// The error that an option's value is not what was expected.
    pub(crate) fn malformed(&self, name: &str, expected: &str) -> Error {
        let text = self.text(name).unwrap_or_default();
        let connector = &self.source.connector;
        self.hinted(format!("invalid value \"{text}\" of option \"{name}\" of connector \"{connector}\""))
            .with_detail(format!("expected {expected}"))
    }

    fn hinted(&self, message: String) -> Error {
        invalid(message).with_hint(format!(
            "options of connector \"{}\": {}",
            self.source.connector,
            self.valid.join(", ")
        ))
    }
}
