//! A session's parameters.

use std::collections::BTreeMap;

use millstream_planner::ast::Set;
use millstream_types::pg::{DateOrder, FormatSettings, TimeZone};
use millstream_types::{Error, Result, SqlState};

/// Parameters with their defaults; those marked are reported to clients.
const DEFAULTS: [(&str, &str, bool); 23] = [
    ("application_name", "", true),
    ("bytea_output", "hex", false),
    ("client_encoding", "UTF8", true),
    ("client_min_messages", "notice", false),
    ("datestyle", "ISO, MDY", true),
    ("default_transaction_isolation", "serializable", false),
    ("default_transaction_read_only", "off", true),
    ("extra_float_digits", "1", false),
    ("in_hot_standby", "off", true),
    ("integer_datetimes", "on", true),
    ("intervalstyle", "postgres", true),
    ("is_superuser", "on", true),
    ("lock_timeout", "0", false),
    ("max_identifier_length", "63", false),
    ("search_path", "\"$user\", public", false),
    ("server_encoding", "UTF8", true),
    ("server_version", "15.0", true),
    ("server_version_num", "150000", false),
    ("standard_conforming_strings", "on", true),
    ("statement_timeout", "0", false),
    ("timezone", "UTC", true),
    ("transaction_isolation", "serializable", false),
    ("transaction_read_only", "off", false),
];

/// Parameters that no statement changes.
const FIXED: [&str; 7] = [
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "max_identifier_length",
    "server_encoding",
    "server_version",
    "server_version_num",
];

/// What clients call the parameters that Postgres reports in mixed case.
fn reported_name(name: &str) -> String {
    match name {
        "datestyle" => "DateStyle",
        "timezone" => "TimeZone",
        "intervalstyle" => "IntervalStyle",
        other => other,
    }
    .to_owned()
}

/// A session's parameters.
pub(super) struct Settings {
    values: BTreeMap<String, String>,
    start: BTreeMap<String, String>,
    changes: Vec<(String, String)>,
    format: FormatSettings,
    /// What was set in the open transaction block, in order.
    undo: Vec<Undo>,
}

/// A parameter that was set in a transaction block.
struct Undo {
    name: String,
    before: Option<String>,
    /// `SET LOCAL`
    local: bool,
}

impl Settings {
    pub(super) fn new(user: &str, params: &[(String, String)]) -> Self {
        let defaults = DEFAULTS.iter().map(|(name, value, _)| ((*name).to_owned(), (*value).to_owned()));
        let values: BTreeMap<String, String> =
            defaults.chain([("session_authorization".to_owned(), user.to_owned())]).collect();
        let mut settings = Settings {
            start: values.clone(),
            values,
            changes: Vec::new(),
            format: FormatSettings::default(),
            undo: vec![],
        };
        for (name, value) in params {
            // A start-up parameter that we do not have, or a value we do not know, harms nobody.
            let _ = settings.assign(&name.to_lowercase(), value);
        }
        settings.start = settings.values.clone();
        settings.changes.clear();
        settings
    }

    pub(super) fn get(&self, name: &str) -> Result<String> {
        self.values.get(&name.to_lowercase()).cloned().ok_or_else(|| unknown(name))
    }

    /// Whether a boolean parameter is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|v| matches!(v.to_lowercase().as_str(), "on" | "true" | "yes" | "1"))
    }

    pub(super) fn all(&self) -> Vec<(String, String)> {
        self.values.iter().map(|(n, v)| (n.clone(), v.clone())).collect()
    }

    pub(super) fn set(&mut self, set: &Set) -> Result<()> {
        match &set.value {
            Some(value) => self.assign(&set.name.to_lowercase(), &value.join(", ")),
            None => self.reset(Some(&set.name)),
        }
    }

    /// Notes a parameter's value before a statement in a transaction block changes it.
    pub(super) fn note(&mut self, name: &str, local: bool) {
        let name = name.to_lowercase();
        let before = self.values.get(&name).cloned();
        self.undo.push(Undo { name, before, local });
    }

    /// The transaction block ends: a rollback takes back all that was set in it, a commit what was set for it alone.
    pub(super) fn end_block(&mut self, committed: bool) {
        let mut stays = std::collections::BTreeSet::new();
        for Undo { name, before, local } in std::mem::take(&mut self.undo).into_iter().rev() {
            if committed && !local {
                stays.insert(name);
            } else if !stays.contains(&name) && self.values.get(&name) != before.as_ref() {
                match before {
                    // It was a right value when it was set.
                    Some(value) => drop(self.assign(&name, &value)),
                    None => drop(self.values.remove(&name)),
                }
            }
        }
    }

    pub(super) fn reset(&mut self, name: Option<&str>) -> Result<()> {
        let names: Vec<String> = match name {
            Some(name) if !self.values.contains_key(&name.to_lowercase()) => return Err(unknown(name)),
            Some(name) => vec![name.to_lowercase()],
            None => self.values.keys().cloned().collect(),
        };
        for name in names {
            let value = self.start.get(&name).cloned();
            match value {
                Some(value) if self.values[&name] != value => self.assign(&name, &value)?,
                Some(_) => {}
                None => drop(self.values.remove(&name)),
            }
        }
        Ok(())
    }

    fn assign(&mut self, name: &str, value: &str) -> Result<()> {
        // A name with a dot is an extension's, and may be anything.
        if !self.values.contains_key(name) && !name.contains('.') {
            return Err(unknown(name));
        }
        if FIXED.contains(&name) {
            return Err(Error::user(SqlState("55P02"), format!("parameter \"{name}\" cannot be changed")));
        }
        let mut value = value.to_owned();
        match name {
            "timezone" => {
                self.format.time_zone = TimeZone::parse(&value).map_err(|_| invalid("TimeZone", &value))?;
            }
            "client_encoding" => match value.to_uppercase().replace('-', "").as_str() {
                "UTF8" | "UNICODE" => value = "UTF8".to_owned(),
                _ => return Err(invalid(name, &value).with_hint("Only UTF8 is supported.")),
            },
            "datestyle" => value = self.date_style(&value)?,
            "intervalstyle" if value.to_lowercase() != "postgres" => {
                return Err(invalid("IntervalStyle", &value).with_hint("Only \"postgres\" is supported."));
            }
            _ => {}
        }
        if DEFAULTS.iter().any(|(n, _, is_reported)| *n == name && *is_reported) {
            self.changes.push((reported_name(name), value.clone()));
        }
        self.values.insert(name.to_owned(), value);
        Ok(())
    }

    fn date_style(&mut self, value: &str) -> Result<String> {
        for part in value.split(',').map(|p| p.trim().to_lowercase()) {
            match part.as_str() {
                "iso" | "" => {}
                "mdy" | "us" => self.format.date_order = DateOrder::Mdy,
                "dmy" | "european" => self.format.date_order = DateOrder::Dmy,
                "ymd" => self.format.date_order = DateOrder::Ymd,
                _ => return Err(invalid("DateStyle", value).with_hint("Dates are always written in ISO style.")),
            }
        }
        let order = match self.format.date_order {
            DateOrder::Mdy => "MDY",
            DateOrder::Dmy => "DMY",
            DateOrder::Ymd => "YMD",
        };
        Ok(format!("ISO, {order}"))
    }

    pub(super) fn take_changes(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changes)
    }

    pub(super) fn reported(&self) -> Vec<(String, String)> {
        let reported = DEFAULTS.iter().filter(|(_, _, is_reported)| *is_reported);
        let mut all: Vec<_> = reported.map(|(name, _, _)| (reported_name(name), self.values[*name].clone())).collect();
        all.push(("session_authorization".to_owned(), self.values["session_authorization"].clone()));
        all
    }

    pub(super) fn format(&self) -> FormatSettings {
        FormatSettings { now_us: Some(super::query::now_us()), ..self.format.clone() }
    }
}

fn unknown(name: &str) -> Error {
    Error::user(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}

fn invalid(name: &str, value: &str) -> Error {
    Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for parameter \"{name}\": \"{value}\""))
}
