//! What the session's time zone means for expressions over `timestamptz`.
//!
//! Instants are kept in UTC, and so is every function that looks at their calendar. In a session with another zone those
//! expressions are rewritten once they have their types: what takes a local time apart gets the local time in that zone,
//! and what is read or printed is so in that zone. Doing it twice changes nothing more.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, LogicalPlan, Operator, cast};
use millstream_types::SqlType;
use millstream_types::pg::TimeZone;

use super::types::{Class, Result, TIMESTAMP, timestamptz};
use crate::functions::builtin;
use crate::functions::casts::CastFunction;
use crate::functions::overloads::datafusion_function;

/// The plan with its expressions as the zone of the session that is planning has them.
pub(crate) fn in_session_zone(plan: LogicalPlan) -> Result<LogicalPlan> {
    match crate::reading::settings().time_zone {
        TimeZone::Utc => Ok(plan),
        zone => in_zone(plan, &Zone(zone.to_string())),
    }
}

fn in_zone(plan: LogicalPlan, zone: &Zone) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        let schema = merge_schema(&node.inputs());
        let names = NamePreserver::new(&node);
        node.map_expressions(|expr| {
            let name = names.save(&expr);
            Ok(expr.transform_up(|e| zone.rewritten(e, &schema))?.update_data(|e| name.restore(e)))
        })
    })
    .data()
}

struct Zone(String);

impl Zone {
    fn rewritten(&self, expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
        let rewritten = match &expr {
            Expr::Cast(Cast { expr: from, .. }) => {
                let to = SqlType::of_arrow(&expr.get_type(schema)?);
                to.map(|to| self.cast(from, &to, schema)).transpose()?.flatten()
            }
            Expr::ScalarFunction(function) => match CastFunction::target_of(function) {
                Some(to) => self.cast(&function.args[0], to, schema)?,
                None => self.call(function, schema)?,
            },
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => self.sum(left, *op, right, schema)?,
            _ => None,
        };
        Ok(rewritten.map_or_else(|| Transformed::no(expr), Transformed::yes))
    }

    fn name(&self) -> Expr {
        Expr::Literal(ScalarValue::Utf8View(Some(self.0.clone())), None)
    }

    /// An instant as the local time, or a local time as the instant.
    fn at(&self, time: Expr) -> Expr {
        builtin("at_time_zone").call(vec![self.name(), time])
    }

    fn cast(&self, from: &Expr, to: &SqlType, schema: &DFSchema) -> Result<Option<Expr>> {
        use Class as C;
        let from_type = from.get_type(schema)?;
        // `now()` is an instant, in nanoseconds and of whatever type DataFusion gives it.
        let is_now = matches!(from_type, DataType::Timestamp(TimeUnit::Nanosecond, _));
        let from_class = if is_now { C::Timestamptz } else { Class::of(&from_type) };
        let instant = || if from_type == timestamptz() { from.clone() } else { cast(from.clone(), timestamptz()) };
        Ok(Some(match (from_class, Class::of(&to.arrow_type())) {
            (C::Timestamptz, C::Timestamp) => self.at(instant()),
            (C::Timestamptz, C::Date | C::Time) => CastFunction::call(to.clone(), self.at(instant())),
            (C::Timestamptz, C::Text) => {
                let text = builtin("text_of_timestamptz").call(vec![self.name(), instant()]);
                if *to == SqlType::Text { text } else { CastFunction::call(to.clone(), text) }
            }
            (C::Timestamp, C::Timestamptz) => self.at(from.clone()),
            (C::Date, C::Timestamptz) => self.at(cast(from.clone(), TIMESTAMP)),
            (C::Text, C::Timestamptz) => {
                let text = cast(from.clone(), DataType::Utf8View);
                builtin("timestamptz_of_text").call(vec![self.name(), text])
            }
            _ => return Ok(None),
        }))
    }

    fn call(&self, function: &ScalarFunction, schema: &DFSchema) -> Result<Option<Expr>> {
        let name = function.name();
        match name {
            "current_date" => {
                let now = datafusion_function("now")?.call(vec![]);
                return Ok(Some(CastFunction::call(SqlType::Date, self.at(cast(now, timestamptz())))));
            }
            "to_timestamp_by_pattern" => {
                return Ok(Some(self.at(builtin("to_local_timestamp").call(function.args.clone()))));
            }
            "date_trunc" | "age" | "to_char_time" => {}
            _ if name.starts_with("extract_") && is_calendar_field(&function.args[0]) => {}
            _ => return Ok(None),
        }
        let mut any = false;
        let mut args = Vec::with_capacity(function.args.len());
        for arg in &function.args {
            let is_instant = Class::of(&arg.get_type(schema)?) == Class::Timestamptz;
            any |= is_instant;
            args.push(if is_instant { self.at(cast_to_instant(arg, schema)?) } else { arg.clone() });
        }
        if !any {
            return Ok(None);
        }
        let local = Expr::ScalarFunction(ScalarFunction::new_udf(function.func.clone(), args));
        Ok(Some(if name == "date_trunc" { self.at(local) } else { local }))
    }

    /// Days and months are those of the calendar; times of intervals pass everywhere alike.
    fn sum(&self, left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Result<Option<Expr>> {
        let name = match op {
            Operator::Plus => "timestamptz_plus",
            Operator::Minus => "timestamptz_minus",
            _ => return Ok(None),
        };
        if let Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) = right
            && interval.months == 0
            && interval.days == 0
        {
            return Ok(None);
        }
        let is = |e: &Expr, class: Class| -> Result<bool> { Ok(Class::of(&e.get_type(schema)?) == class) };
        if !is(left, Class::Timestamptz)? || !is(right, Class::Interval)? {
            return Ok(None);
        }
        Ok(Some(builtin(name).call(vec![self.name(), cast_to_instant(left, schema)?, right.clone()])))
    }
}

fn cast_to_instant(expr: &Expr, schema: &DFSchema) -> Result<Expr> {
    Ok(if expr.get_type(schema)? == timestamptz() { expr.clone() } else { cast(expr.clone(), timestamptz()) })
}

/// Whether a field of a time is one that the calendar and the clock on the wall show.
fn is_calendar_field(field: &Expr) -> bool {
    let Expr::Literal(value, _) = field else { return false };
    value.try_as_str().flatten().is_some_and(|f| f != "epoch" && !f.starts_with("timezone"))
}
