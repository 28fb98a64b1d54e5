//! A session's parameters: their values, what a transaction changed, and what clients are told.

mod parameters;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millstream_planner::ast::Set;
use millstream_types::pg::{DateOrder, FormatSettings, TimeZone};
use millstream_types::{Error, Result, SqlState};

use parameters::invalid;
pub(crate) use parameters::{PARAMETERS, Values, parameter, shown_name};

const SESSION_AUTHORIZATION: &str = "session_authorization";

/// A session's parameters.
pub(super) struct Settings {
    values: BTreeMap<String, String>,
    /// As they were when the session began; what `RESET` goes back to.
    start: BTreeMap<String, String>,
    /// Reported parameters that have changed.
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
        let defaults = PARAMETERS.iter().map(|p| (p.name.to_owned(), p.default.to_owned()));
        let values: BTreeMap<String, String> =
            defaults.chain([(SESSION_AUTHORIZATION.to_owned(), user.to_owned())]).collect();
        let mut settings = Settings {
            start: values.clone(),
            values,
            changes: Vec::new(),
            format: FormatSettings::default(),
            undo: Vec::new(),
        };
        for (name, value) in params {
            // A start-up parameter that we do not have, or a value we do not know, harms nobody.
            let _ = match name.as_str() {
                "options" => settings.assign_options(value),
                name => settings.assign(&name.to_lowercase(), value),
            };
        }
        settings.start = settings.values.clone();
        settings.changes.clear();
        settings
    }

    /// `-c name=value` or `--name=value`, any number of them.
    fn assign_options(&mut self, options: &str) -> Result<()> {
        let mut words = options.split_whitespace();
        while let Some(word) = words.next() {
            let setting = match word {
                "-c" => words.next(),
                word => word.strip_prefix("--").or_else(|| word.strip_prefix("-c")),
            };
            if let Some((name, value)) = setting.and_then(|s| s.split_once('=')) {
                self.assign(&name.to_lowercase().replace('-', "_"), value)?;
            }
        }
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Result<String> {
        self.values.get(&name.to_lowercase()).cloned().ok_or_else(|| unknown(name))
    }

    /// The session's user.
    pub(super) fn user(&self) -> &str {
        &self.values[SESSION_AUTHORIZATION]
    }

    pub(super) fn application(&self) -> &str {
        &self.values["application_name"]
    }

    /// All of them, in alphabetical order.
    pub(super) fn all(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// Whether a boolean parameter is on.
    pub(super) fn is_on(&self, name: &str) -> bool {
        self.values.get(name).is_some_and(|value| value == "on")
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
        let mut stays = BTreeSet::new();
        for Undo { name, before, local } in std::mem::take(&mut self.undo).into_iter().rev() {
            if committed && !local {
                stays.insert(name);
            } else if !stays.contains(&name) {
                let restored = self.restore(&name, before);
                debug_assert!(restored.is_ok(), "it was a right value when it was set");
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
            self.restore(&name, value)?;
        }
        Ok(())
    }

    fn restore(&mut self, name: &str, value: Option<String>) -> Result<()> {
        match value {
            Some(value) if self.values.get(name) == Some(&value) => Ok(()),
            Some(value) => self.assign(name, &value),
            None => {
                self.values.remove(name);
                Ok(())
            }
        }
    }

    fn assign(&mut self, name: &str, value: &str) -> Result<()> {
        let known = parameter(name);
        let value = match known {
            Some(parameter) => parameter.normalized(value)?,
            None if name == SESSION_AUTHORIZATION => {
                if value != self.values[name] && !value.eq_ignore_ascii_case("default") {
                    return Err(Error::not_supported("SET SESSION AUTHORIZATION is not supported yet"));
                }
                self.values[name].clone()
            }
            // A name with a dot is an extension's, and may be anything.
            None if name.contains('.') => value.to_owned(),
            None => return Err(unknown(name)),
        };
        let value = self.take_effect(name, value)?;
        if known.is_some_and(|p| p.reported) {
            self.changes.push((shown_name(name).to_owned(), value.clone()));
        }
        self.values.insert(name.to_owned(), value);
        Ok(())
    }

    /// What changing a parameter changes; gives the value to keep.
    fn take_effect(&mut self, name: &str, value: String) -> Result<String> {
        match name {
            "timezone" => {
                let text = value.strip_prefix("INTERVAL ").unwrap_or(&value);
                self.format.time_zone = TimeZone::parse(text).map_err(|_| invalid(name, &value))?;
                Ok(value)
            }
            "client_encoding" => match value.to_uppercase().replace(['-', '_'], "").as_str() {
                "UTF8" | "UNICODE" => Ok("UTF8".to_owned()),
                _ => Err(invalid(name, &value).with_hint("Only UTF8 is supported.")),
            },
            "datestyle" => self.date_style(&value),
            "intervalstyle" if value.to_lowercase() != "postgres" => {
                Err(invalid(name, &value).with_hint("Only \"postgres\" is supported."))
            }
            _ => Ok(value),
        }
    }

    fn date_style(&mut self, value: &str) -> Result<String> {
        let mut date_order = self.format.date_order;
        for part in value.split(',').map(|p| p.trim().to_lowercase()) {
            match part.as_str() {
                "iso" | "" => {}
                "mdy" | "us" | "noneuro" | "noneuropean" => date_order = DateOrder::Mdy,
                "dmy" | "euro" | "european" => date_order = DateOrder::Dmy,
                "ymd" => date_order = DateOrder::Ymd,
                _ => return Err(invalid("datestyle", value).with_hint("Dates are always written in ISO style.")),
            }
        }
        self.format.date_order = date_order;
        let order = match date_order {
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
        let reported = PARAMETERS.iter().filter(|p| p.reported);
        let mut all: Vec<_> = reported.map(|p| (p.shown_name().to_owned(), self.values[p.name].clone())).collect();
        all.push((SESSION_AUTHORIZATION.to_owned(), self.values[SESSION_AUTHORIZATION].clone()));
        all
    }

    pub(super) fn format(&self) -> FormatSettings {
        FormatSettings { now_us: Some(super::query::now_us()), ..self.format.clone() }
    }

    /// How long a statement may take; `None` for ever.
    pub(super) fn statement_timeout(&self) -> Option<Duration> {
        let ms = parameters::milliseconds(&self.values["statement_timeout"]).filter(|ms| *ms > 0)?;
        u64::try_from(ms).ok().map(Duration::from_millis)
    }
}

pub(crate) fn unknown(name: &str) -> Error {
    Error::user(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
}
