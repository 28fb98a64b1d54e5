//! The parameters that sessions have, and what values they take.

use millstream_types::{Error, Result, SqlState};

/// What a parameter may be set to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values {
    /// Any text.
    Text,
    /// `on` or `off`, in all the ways in which Postgres writes them.
    Bool,
    /// A whole number in a range.
    Int(i64, i64),
    /// A time: shown in this many milliseconds, written with a unit or without one.
    Milliseconds,
    /// A number with a fraction.
    Real,
    /// One of some words.
    Word(&'static [&'static str]),
    /// What the server was built or started with.
    Fixed,
}

/// A parameter.
#[derive(Debug)]
pub(crate) struct Parameter {
    /// As statements name it, in lower case.
    pub(crate) name: &'static str,
    pub(crate) default: &'static str,
    pub(crate) values: Values,
    /// A client is told of each change.
    pub(crate) reported: bool,
}

impl Parameter {
    /// The name as Postgres writes it.
    pub(crate) fn shown_name(&self) -> &'static str {
        shown_name(self.name)
    }
}

/// The name as Postgres writes it.
pub(crate) fn shown_name(name: &str) -> &str {
    match name {
        "datestyle" => "DateStyle",
        "timezone" => "TimeZone",
        "intervalstyle" => "IntervalStyle",
        other => other,
    }
}

const fn plain(name: &'static str, default: &'static str, values: Values) -> Parameter {
    Parameter { name, default, values, reported: false }
}

const fn reported(name: &'static str, default: &'static str, values: Values) -> Parameter {
    Parameter { name, default, values, reported: true }
}

use Values::{Bool, Fixed, Int, Milliseconds, Real, Text, Word};

const LEVELS: Values = Word(&[
    "debug5", "debug4", "debug3", "debug2", "debug1", "log", "notice", "warning", "error", "info", "fatal", "panic",
]);
const ISOLATION: Values = Word(&["serializable", "repeatable read", "read committed", "read uncommitted"]);

/// All parameters but `session_authorization`, in alphabetical order. Those that stand for what this engine has no need
/// of are accepted because clients set them.
pub(crate) const PARAMETERS: &[Parameter] = &[
    reported("application_name", "", Text),
    plain("array_nulls", "on", Bool),
    plain("backslash_quote", "safe_encoding", Word(&["safe_encoding", "on", "off"])),
    plain("block_size", "8192", Fixed),
    plain("bytea_output", "hex", Word(&["hex"])),
    plain("check_function_bodies", "on", Bool),
    reported("client_encoding", "UTF8", Text),
    plain("client_min_messages", "notice", LEVELS),
    plain("constraint_exclusion", "partition", Word(&["partition", "on", "off"])),
    plain("cursor_tuple_fraction", "0.1", Real),
    reported("datestyle", "ISO, MDY", Text),
    plain("debug_print_plan", "off", Bool),
    plain("default_table_access_method", "heap", Text),
    plain("default_tablespace", "", Text),
    plain("default_text_search_config", "pg_catalog.english", Text),
    plain("default_transaction_deferrable", "off", Bool),
    plain("default_transaction_isolation", "serializable", ISOLATION),
    reported("default_transaction_read_only", "off", Bool),
    plain("effective_cache_size", "524288", Text),
    plain("enable_bitmapscan", "on", Bool),
    plain("enable_hashagg", "on", Bool),
    plain("enable_hashjoin", "on", Bool),
    plain("enable_indexonlyscan", "on", Bool),
    plain("enable_indexscan", "on", Bool),
    plain("enable_material", "on", Bool),
    plain("enable_mergejoin", "on", Bool),
    plain("enable_nestloop", "on", Bool),
    plain("enable_seqscan", "on", Bool),
    plain("enable_sort", "on", Bool),
    plain("escape_string_warning", "on", Bool),
    plain("extra_float_digits", "1", Int(-15, 3)),
    plain("from_collapse_limit", "8", Int(1, i32::MAX as i64)),
    plain("geqo", "on", Bool),
    plain("gin_fuzzy_search_limit", "0", Int(0, i32::MAX as i64)),
    plain("idle_in_transaction_session_timeout", "0", Milliseconds),
    plain("idle_session_timeout", "0", Milliseconds),
    reported("in_hot_standby", "off", Fixed),
    reported("integer_datetimes", "on", Fixed),
    reported("intervalstyle", "postgres", Text),
    reported("is_superuser", "on", Fixed),
    plain("jit", "off", Bool),
    plain("join_collapse_limit", "8", Int(1, i32::MAX as i64)),
    plain("lc_collate", "C", Fixed),
    plain("lc_ctype", "C.UTF-8", Fixed),
    plain("lc_messages", "C.UTF-8", Text),
    plain("lc_monetary", "C.UTF-8", Text),
    plain("lc_numeric", "C.UTF-8", Text),
    plain("lc_time", "C.UTF-8", Text),
    plain("lock_timeout", "0", Milliseconds),
    plain("log_statement", "none", Word(&["none", "ddl", "mod", "all"])),
    plain("maintenance_work_mem", "64MB", Text),
    plain("max_connections", "10000", Fixed),
    plain("max_identifier_length", "63", Fixed),
    plain("max_index_keys", "32", Fixed),
    plain("max_parallel_workers_per_gather", "0", Int(0, 1024)),
    plain("password_encryption", "scram-sha-256", Word(&["scram-sha-256", "md5"])),
    plain("plan_cache_mode", "auto", Word(&["auto", "force_generic_plan", "force_custom_plan"])),
    plain("quote_all_identifiers", "off", Bool),
    plain("role", "none", Text),
    plain("row_security", "on", Bool),
    plain("search_path", "\"$user\", public", Text),
    reported("server_encoding", "UTF8", Fixed),
    reported("server_version", "15.0", Fixed),
    plain("server_version_num", "150000", Fixed),
    plain("session_replication_role", "origin", Word(&["origin", "replica", "local"])),
    reported("standard_conforming_strings", "on", Word(&["on"])),
    plain("statement_timeout", "0", Milliseconds),
    plain("synchronize_seqscans", "on", Bool),
    plain("synchronous_commit", "on", Word(&["on", "off", "local", "remote_write", "remote_apply"])),
    plain("tcp_keepalives_idle", "0", Int(0, i32::MAX as i64)),
    plain("temp_buffers", "1024", Text),
    reported("timezone", "UTC", Text),
    plain("timezone_abbreviations", "Default", Text),
    plain("transaction_deferrable", "off", Bool),
    plain("transaction_isolation", "serializable", ISOLATION),
    plain("transaction_read_only", "off", Bool),
    plain("transform_null_equals", "off", Word(&["off"])),
    plain("wal_level", "replica", Fixed),
    plain("work_mem", "4MB", Text),
    plain("xmlbinary", "base64", Word(&["base64", "hex"])),
    plain("xmloption", "content", Word(&["content", "document"])),
];

/// The parameter of a name in lower case.
pub(crate) fn parameter(name: &str) -> Option<&'static Parameter> {
    PARAMETERS.binary_search_by(|p| p.name.cmp(name)).ok().map(|i| &PARAMETERS[i])
}

impl Parameter {
    /// A value as it is kept and shown.
    ///
    /// # Errors
    /// 22023 for a value that the parameter does not take, 55P02 if it takes none.
    pub(crate) fn normalized(&self, value: &str) -> Result<String> {
        let lower = value.trim().to_lowercase();
        match self.values {
            Values::Text => Ok(value.to_owned()),
            Values::Bool => match boolean(&lower) {
                Some(true) => Ok("on".to_owned()),
                Some(false) => Ok("off".to_owned()),
                None => Err(Error::user(
                    SqlState::INVALID_PARAMETER_VALUE,
                    format!("parameter \"{}\" requires a Boolean value", self.name),
                )),
            },
            Values::Int(min, max) => {
                let number: i64 = lower.parse().map_err(|_| invalid(self.name, value))?;
                if !(min..=max).contains(&number) {
                    let message =
                        format!("{number} is outside the valid range for parameter \"{}\" ({min} .. {max})", self.name);
                    return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message));
                }
                Ok(number.to_string())
            }
            Values::Milliseconds => {
                let ms = milliseconds(&lower).ok_or_else(|| invalid(self.name, value))?;
                Ok(shown_milliseconds(ms))
            }
            Values::Real => {
                lower.parse::<f64>().map_err(|_| invalid(self.name, value))?;
                Ok(lower)
            }
            Values::Word(words) => {
                let known = |lower: &str| words.iter().find(|w| **w == lower).map(|w| (*w).to_owned());
                let as_switch = |lower: &str| boolean(lower).map(|b| if b { "on" } else { "off" });
                let found = known(&lower).or_else(|| known(as_switch(&lower)?));
                found.ok_or_else(|| {
                    invalid(self.name, value).with_hint(format!("Available values: {}.", words.join(", ")))
                })
            }
            Values::Fixed => {
                let message = format!("parameter \"{}\" cannot be changed", self.name);
                Err(Error::user(SqlState::CANT_CHANGE_RUNTIME_PARAM, message))
            }
        }
    }

    /// The type as `pg_settings` calls it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self.values {
            Values::Text | Values::Fixed => "string",
            Values::Bool => "bool",
            Values::Int(..) | Values::Milliseconds => "integer",
            Values::Real => "real",
            Values::Word(_) => "enum",
        }
    }
}

fn boolean(lower: &str) -> Option<bool> {
    // Unique beginnings of the words will do, as in Postgres.
    let begins = |word: &str, n_min: usize| lower.len() >= n_min && word.starts_with(lower);
    if begins("true", 1) || begins("yes", 1) || lower == "on" || lower == "1" {
        return Some(true);
    }
    (begins("false", 1) || begins("no", 1) || begins("off", 2) || lower == "0").then_some(false)
}

/// `1500`, `1.5s`, `2 min`
pub(crate) fn milliseconds(text: &str) -> Option<i64> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let number: f64 = text[..end].trim().parse().ok()?;
    let factor = match text[end..].trim() {
        "us" => 0.001,
        "" | "ms" => 1.0,
        "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let ms = (number * factor).round();
    (0.0..=f64::from(i32::MAX)).contains(&ms).then_some(ms as i64)
}

/// In the greatest unit that needs no fraction, as Postgres shows it.
fn shown_milliseconds(ms: i64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")];
    match units.iter().find(|(factor, _)| ms > 0 && ms % factor == 0) {
        Some((factor, unit)) => format!("{}{unit}", ms / factor),
        None if ms == 0 => "0".to_owned(),
        None => format!("{ms}ms"),
    }
}

pub(super) fn invalid(name: &str, value: &str) -> Error {
    let message = format!("invalid value for parameter \"{}\": \"{value}\"", shown_name(name));
    Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_order_and_defaults_are_values() {
        assert!(PARAMETERS.windows(2).all(|pair| pair[0].name < pair[1].name));
        for parameter in PARAMETERS.iter().filter(|p| !matches!(p.values, Fixed)) {
            assert_eq!(parameter.normalized(parameter.default).expect(parameter.name), parameter.default);
        }
    }

    #[test]
    fn values_are_read_as_postgres_reads_them() {
        let set = |name: &str, value: &str| parameter(name).expect("a name").normalized(value);
        assert_eq!(set("statement_timeout", "1500").as_deref(), Ok("1500ms"));
        assert_eq!(set("statement_timeout", "2min").as_deref(), Ok("2min"));
        assert_eq!(set("statement_timeout", "60s").as_deref(), Ok("1min"));
        assert_eq!(set("row_security", "FALSE").as_deref(), Ok("off"));
        assert_eq!(set("jit", "t").as_deref(), Ok("on"));
        assert_eq!(set("extra_float_digits", "4").expect_err("too many").state(), SqlState("22023"));
        assert_eq!(set("server_version", "9").expect_err("fixed").state(), SqlState("55P02"));
        assert_eq!(set("bytea_output", "escape").expect_err("unknown").state(), SqlState("22023"));
        assert_eq!(set("synchronous_commit", "true").as_deref(), Ok("on"));
    }
}
