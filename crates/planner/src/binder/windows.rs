//! `TUMBLE` and `HOP` in FROM: projections that add `window_start` and `window_end`.

use arrow::datatypes::IntervalMonthDayNano;
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, col, lit};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, ObjectName, TableAlias, TableFactor,
};
use millstream_types::{Error, SqlState};

use super::context::external;
use crate::functions::builtin;
use crate::functions::hopping::WINDOW_STARTS;
use crate::parser::{folded, planned_error};
use crate::typing::calls::resolve_call;
use crate::typing::cast::explicit_cast;
use crate::typing::deferred::Call;
use crate::typing::exprs::resolve;
use crate::typing::types::{Class, INTERVAL, Result, TIMESTAMP, type_name};

const WINDOW_START: &str = "window_start";
const WINDOW_END: &str = "window_end";
/// How many windows one row may fall into.
const MAX_WINDOWS: i64 = 10_000;

/// Plans time windows as projections over their relation.
#[derive(Debug)]
pub(super) struct WindowTables;

impl RelationPlanner for WindowTables {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning, DataFusionError> {
        let TableFactor::Table { name, alias, args: Some(args), .. } = &relation else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let function = match name.0.as_slice() {
            [part] => part.as_ident().map(folded).unwrap_or_default(),
            _ => String::new(),
        };
        let (plan, alias) = match function.as_str() {
            "tumble" => (tumble(&args.args, context)?, alias.clone()),
            "hop" => (hop(&args.args, context)?, alias.clone()),
            "session" | "cumulate" => return Err(external(planned_error(&function.to_uppercase()))),
            other => {
                let message = format!("function {other} does not exist");
                let position = name.0.first().and_then(|p| p.as_ident()).map_or(0, |i| i.span.start.column as usize);
                return Err(external(
                    Error::user(SqlState::UNDEFINED_FUNCTION, message).with_position(position.max(1)),
                ));
            }
        };
        Ok(RelationPlanning::Planned(Box::new(PlannedRelation::new(plan, alias))))
    }
}

/// The relation, its time column and the constant intervals of a window function.
struct Windowed {
    input: LogicalPlan,
    time: Expr,
    intervals: Vec<IntervalMonthDayNano>,
}

fn arguments(
    name: &str,
    args: &[FunctionArg],
    n_intervals: std::ops::RangeInclusive<usize>,
    context: &mut dyn RelationPlannerContext,
) -> Result<Windowed> {
    let exprs = args
        .iter()
        .map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr.clone()),
            _ => Err(external(usage(name))),
        })
        .collect::<Result<Vec<_>>>()?;
    let [relation, time, intervals @ ..] = exprs.as_slice() else { return Err(external(usage(name))) };
    if !n_intervals.contains(&intervals.len()) {
        return Err(external(usage(name)));
    }
    let input = context.plan(relation_of(name, relation)?)?;
    let time = context.sql_to_expr(time.clone(), input.schema())?;
    let time = resolve(time, input.schema())?;
    let data_type = time.get_type(input.schema())?;
    let time = match Class::of(&data_type) {
        Class::Timestamp | Class::Timestamptz => time,
        Class::Date => explicit_cast(time, &TIMESTAMP, input.schema())?,
        _ => {
            let message = format!("the time column of {name} is of type {}, not a timestamp", type_name(&data_type));
            return Err(external(Error::user(SqlState::DATATYPE_MISMATCH, message)));
        }
    };
    let intervals = intervals.iter().map(|i| constant_interval(name, i, context)).collect::<Result<Vec<_>>>()?;
    Ok(Windowed { input, time, intervals })
}

fn usage(name: &str) -> Error {
    let form = match name {
        "tumble" => "TUMBLE(relation, time_column, size [, offset])",
        _ => "HOP(relation, time_column, slide, size [, offset])",
    };
    Error::user(SqlState::UNDEFINED_FUNCTION, format!("wrong arguments for {name}")).with_hint(format!("use {form}"))
}

/// The first argument: the name of a relation, or a query in parentheses.
fn relation_of(name: &str, expr: &SqlExpr) -> Result<TableFactor> {
    let parts = match expr {
        SqlExpr::Identifier(ident) => vec![ident.clone()],
        SqlExpr::CompoundIdentifier(parts) => parts.clone(),
        SqlExpr::Subquery(query) => {
            return Ok(TableFactor::Derived { lateral: false, subquery: query.clone(), alias: None, sample: None });
        }
        _ => return Err(external(usage(name))),
    };
    Ok(TableFactor::Table {
        name: ObjectName::from(parts),
        alias: None::<TableAlias>,
        args: None,
        with_hints: Vec::new(),
        version: None,
        with_ordinality: false,
        partitions: Vec::new(),
        json_path: None,
        sample: None,
        index_hints: Vec::new(),
    })
}

fn constant_interval(
    name: &str,
    expr: &SqlExpr,
    context: &mut dyn RelationPlannerContext,
) -> Result<IntervalMonthDayNano> {
    let empty = DFSchema::empty();
    let expr = context.sql_to_expr(expr.clone(), &empty)?;
    let expr = crate::typing::types::coerce(resolve(expr, &empty)?, &INTERVAL, &empty)?;
    match expr {
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), _) if value.months == 0 => Ok(value),
        Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(_)), _) => Err(external(
            Error::not_supported(format!("{name} windows of months are not supported"))
                .with_hint("use days and smaller units, or group by date_trunc('month', ...)"),
        )),
        _ => Err(external(Error::user(
            SqlState::INVALID_PARAMETER_VALUE,
            format!("the intervals of {name} must be constants"),
        ))),
    }
}

fn microseconds(interval: IntervalMonthDayNano) -> i64 {
    i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1000
}

fn positive(name: &str, interval: IntervalMonthDayNano) -> Result<i64> {
    let us = microseconds(interval);
    if us > 0 {
        return Ok(us);
    }
    let message = format!("the windows of {name} must be longer than zero");
    Err(external(Error::user(SqlState::INVALID_PARAMETER_VALUE, message)))
}

fn interval(us: i64) -> Expr {
    let value = IntervalMonthDayNano::new(0, 0, us * 1000);
    Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(value)), None)
}

/// `date_bin(stride, time, origin)`, the origin of the time's own type.
fn bin(stride_us: i64, time: &Expr, offset_us: i64, schema: &DFSchema) -> Result<Expr> {
    let zone = match time.get_type(schema)? {
        arrow::datatypes::DataType::Timestamp(_, zone) => zone,
        _ => None,
    };
    let origin = Expr::Literal(ScalarValue::TimestampMicrosecond(Some(offset_us.rem_euclid(stride_us)), zone), None);
    resolve_call(&Call::function("date_bin"), vec![interval(stride_us), time.clone(), origin], schema)
}

fn plus(left: Expr, right: Expr, schema: &DFSchema) -> Result<Expr> {
    resolve_call(&Call::Operator(Operator::Plus), vec![left, right], schema)
}

/// All columns of a plan.
fn all_columns(plan: &LogicalPlan) -> Vec<Expr> {
    plan.schema().iter().map(Expr::from).collect()
}

fn tumble(args: &[FunctionArg], context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let Windowed { input, time, intervals } = arguments("tumble", args, 1..=2, context)?;
    let size = positive("tumble", intervals[0])?;
    let offset = intervals.get(1).copied().map_or(0, microseconds);
    let start = bin(size, &time, offset, input.schema())?;
    let end = plus(start.clone(), interval(size), input.schema())?;
    let mut exprs = all_columns(&input);
    exprs.push(start.alias(WINDOW_START));
    exprs.push(end.alias(WINDOW_END));
    LogicalPlanBuilder::from(input).project(exprs)?.build()
}

/// Each row once for every window that it falls into.
fn hop(args: &[FunctionArg], context: &mut dyn RelationPlannerContext) -> Result<LogicalPlan> {
    let Windowed { input, time, intervals } = arguments("hop", args, 2..=3, context)?;
    let (slide, size) = (positive("hop", intervals[0])?, positive("hop", intervals[1])?);
    let offset = intervals.get(2).copied().map_or(0, microseconds);
    let n_windows = size / slide + i64::from(size % slide != 0);
    if n_windows > MAX_WINDOWS {
        let message = format!("hop puts each row into {n_windows} windows, more than {MAX_WINDOWS}");
        return Err(external(Error::user(SqlState::PROGRAM_LIMIT_EXCEEDED, message)));
    }
    let last = bin(slide, &time, offset, input.schema())?;
    let time_name = "__window_time";
    let starts = builtin(WINDOW_STARTS).call(vec![last, lit(slide), lit(n_windows)]);
    let n_columns = input.schema().fields().len();
    let mut exprs = all_columns(&input);
    exprs.push(time.alias(time_name));
    exprs.push(starts.alias(WINDOW_START));
    let plan = LogicalPlanBuilder::from(input).project(exprs)?.unnest_column(WINDOW_START)?.build()?;
    let end = plus(col(WINDOW_START), interval(size), plan.schema())?;
    // Where the size is no multiple of the slide, the earliest window may end before the row.
    let plan = if size % slide == 0 {
        plan
    } else {
        let after = resolve_call(&Call::Operator(Operator::Gt), vec![end.clone(), col(time_name)], plan.schema())?;
        LogicalPlanBuilder::from(plan).filter(after)?.build()?
    };
    let mut exprs: Vec<Expr> = all_columns(&plan).into_iter().take(n_columns).collect();
    exprs.push(col(WINDOW_START));
    exprs.push(end.alias(WINDOW_END));
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}
