//! Hooks of DataFusion's SQL planner: operators and special forms become deferred calls.

use datafusion::common::DFSchema;
use datafusion::logical_expr::expr::{AggregateFunction, WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawAggregateExpr, RawBinaryExpr, RawFieldAccessExpr, RawWindowExpr,
};
use datafusion::logical_expr::{AggregateUDF, Expr, GetFieldAccess, Operator, WindowFunctionDefinition, cast};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use millstream_types::Error;
use std::sync::Arc;

use arrow::datatypes::DataType;

use super::chains;
use super::deferred::{Call, Deferred};
use super::types::{Result, TEXT};
use crate::binder::external;
use crate::functions::Registry;
use crate::functions::by_row::ByRow;
use crate::functions::excluding::{Excluding, Exclusion};
use crate::functions::overloads::{AVERAGED, ONE_NAN};

/// Postgres' operators, ARRAY, EXTRACT, SUBSTRING, POSITION, OVERLAY, aggregates.
#[derive(Debug)]
pub(crate) struct PostgresPlanner {
    pub(crate) chains: Chains,
}

/// How long chains of operators are planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chains {
    /// See [`super::chains`].
    AreOneCall,
    /// As they are read: so the beginning of a chain is found in it, which `GROUP BY` may name.
    Nest,
}

/// Whether a statistic of DataFusion's may be a NaN that is none of ours.
fn gives_nan(name: &str) -> bool {
    let is_regression = name.starts_with("regr_") && !matches!(name, "regr_count" | "regr_r2");
    is_regression || matches!(name, "corr" | "covar_pop" | "covar_samp" | "percentile_cont")
}

fn planned<T>(name: &str, args: Vec<Expr>) -> Result<PlannerResult<T>> {
    Ok(PlannerResult::Planned(Call::function(name).defer(args)))
}

pub(crate) fn operator_of(op: &BinaryOperator) -> Option<Operator> {
    Some(match op {
        BinaryOperator::Gt => Operator::Gt,
        BinaryOperator::GtEq => Operator::GtEq,
        BinaryOperator::Lt => Operator::Lt,
        BinaryOperator::LtEq => Operator::LtEq,
        BinaryOperator::Eq => Operator::Eq,
        BinaryOperator::NotEq => Operator::NotEq,
        BinaryOperator::Plus => Operator::Plus,
        BinaryOperator::Minus => Operator::Minus,
        BinaryOperator::Multiply => Operator::Multiply,
        BinaryOperator::Divide => Operator::Divide,
        BinaryOperator::Modulo => Operator::Modulo,
        BinaryOperator::PGRegexMatch => Operator::RegexMatch,
        BinaryOperator::PGRegexIMatch => Operator::RegexIMatch,
        BinaryOperator::PGRegexNotMatch => Operator::RegexNotMatch,
        BinaryOperator::PGRegexNotIMatch => Operator::RegexNotIMatch,
        BinaryOperator::PGLikeMatch => Operator::LikeMatch,
        BinaryOperator::PGILikeMatch => Operator::ILikeMatch,
        BinaryOperator::PGNotLikeMatch => Operator::NotLikeMatch,
        BinaryOperator::PGNotILikeMatch => Operator::NotILikeMatch,
        BinaryOperator::BitwiseAnd => Operator::BitwiseAnd,
        BinaryOperator::BitwiseOr => Operator::BitwiseOr,
        BinaryOperator::BitwiseXor | BinaryOperator::PGBitwiseXor => Operator::BitwiseXor,
        BinaryOperator::PGBitwiseShiftRight => Operator::BitwiseShiftRight,
        BinaryOperator::PGBitwiseShiftLeft => Operator::BitwiseShiftLeft,
        BinaryOperator::StringConcat => Operator::StringConcat,
        BinaryOperator::ArrowAt => Operator::ArrowAt,
        BinaryOperator::AtArrow => Operator::AtArrow,
        _ => return None,
    })
}

impl ExprPlanner for PostgresPlanner {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        // Conditions keep their form: DataFusion's planner splits them.
        if matches!(expr.op, BinaryOperator::And | BinaryOperator::Or) {
            return Ok(PlannerResult::Original(expr));
        }
        let RawBinaryExpr { op, left, right } = expr;
        let call = match &op {
            BinaryOperator::PGExp => Some(Call::function("power")),
            BinaryOperator::PGOverlap => Some(Call::function("array_has_any")),
            BinaryOperator::PGCustomBinaryOperator(path) => custom_operator(path).map(Call::Operator),
            op => operator_of(op).map(Call::Operator),
        };
        match call {
            Some(Call::Operator(op)) if self.chains == Chains::AreOneCall => {
                Ok(PlannerResult::Planned(chains::deferred(left, op, right)))
            }
            Some(call) => Ok(PlannerResult::Planned(call.defer(vec![left, right]))),
            None => Err(external(Error::not_supported(format!("operator {op} is not supported yet")))),
        }
    }

    fn plan_array_literal(&self, exprs: Vec<Expr>, _: &DFSchema) -> Result<PlannerResult<Vec<Expr>>> {
        planned("array", exprs)
    }

    fn plan_position(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        planned("strpos", args)
    }

    fn plan_extract(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        planned("extract", args)
    }

    fn plan_substring(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        planned("substring", args)
    }

    fn plan_overlay(&self, args: Vec<Expr>) -> Result<PlannerResult<Vec<Expr>>> {
        planned("overlay", args)
    }

    fn plan_field_access(&self, expr: RawFieldAccessExpr, _: &DFSchema) -> Result<PlannerResult<RawFieldAccessExpr>> {
        let RawFieldAccessExpr { field_access, expr: array } = expr;
        match field_access {
            GetFieldAccess::ListIndex { key } => planned("array_element", vec![array, *key]),
            GetFieldAccess::ListRange { start, stop, .. } => planned("array_slice", vec![array, *start, *stop]),
            GetFieldAccess::NamedStructField { .. } => {
                Err(external(Error::not_supported("fields of composite types are not supported yet")))
            }
        }
    }

    fn plan_aggregate(&self, expr: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        let with = |func: Arc<AggregateUDF>, args: Vec<Expr>| {
            Expr::AggregateFunction(AggregateFunction::new_udf(
                func,
                args,
                expr.distinct,
                expr.filter.clone(),
                expr.order_by.clone(),
                expr.null_treatment,
            ))
        };
        match expr.func.name() {
            // Sums and counts can be kept up to date; their quotient is the average.
            "avg" if expr.args.len() == 1 => {
                let args = vec![Call::function(AVERAGED).defer(expr.args.clone())];
                let sum = with(aggregate("sum")?, args.clone());
                let count = with(aggregate("count")?, args);
                planned("average", vec![sum, count])
            }
            "regr_r2" if expr.args.len() == 2 => {
                let of = |name: &str| aggregate(name).map(|f| with(f, expr.args.clone()));
                planned("determination", vec![of("regr_r2")?, of("regr_sxx")?, of("regr_syy")?])
            }
            "string_agg" => Ok(PlannerResult::Planned(cast(with(expr.func.clone(), expr.args.clone()), TEXT))),
            name if gives_nan(name) => planned(ONE_NAN, vec![with(expr.func.clone(), expr.args.clone())]),
            "regr_count" | "approx_distinct" => {
                Ok(PlannerResult::Planned(cast(with(expr.func.clone(), expr.args.clone()), DataType::Int64)))
            }
            _ => Ok(PlannerResult::Original(expr)),
        }
    }

    fn plan_window(&self, expr: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        let (exclusion, args) = without_mark(&expr.args);
        if exclusion.is_some() && expr.distinct {
            return Err(external(Error::not_supported("DISTINCT is not implemented for window functions")));
        }
        let with = |fun: WindowFunctionDefinition, args: Vec<Expr>| over_window(&expr, exclusion, fun, args);
        let itself = || with(expr.func_def.clone(), args.clone());
        match expr.func_def.name() {
            "avg" if args.len() == 1 => {
                let of = |name: &str| aggregate(name).map(WindowFunctionDefinition::AggregateUDF);
                let args = vec![Call::function(AVERAGED).defer(args)];
                let (sum, count) = (with(of("sum")?, args.clone())?, with(of("count")?, args)?);
                planned("average", vec![sum, count])
            }
            "regr_r2" if args.len() == 2 => {
                let of = |name: &str| with(WindowFunctionDefinition::AggregateUDF(aggregate(name)?), args.clone());
                planned("determination", vec![of("regr_r2")?, of("regr_sxx")?, of("regr_syy")?])
            }
            "row_number" | "rank" | "dense_rank" => Ok(PlannerResult::Planned(cast(itself()?, DataType::Int64))),
            name @ ("lag" | "lead" | "ntile" | "nth_value") if exclusion.is_none() && !knows_numbers(name, &args) => {
                let by_row = ByRow::of_name(name).map(WindowFunctionDefinition::WindowUDF);
                let by_row = by_row.ok_or_else(|| external(Error::internal("a function of numbers by row")))?;
                Ok(PlannerResult::Planned(with(by_row, args)?))
            }
            "ntile" => Ok(PlannerResult::Planned(cast(itself()?, DataType::Int32))),
            "string_agg" => Ok(PlannerResult::Planned(cast(itself()?, TEXT))),
            name if gives_nan(name) => planned(ONE_NAN, vec![itself()?]),
            "regr_count" | "approx_distinct" => Ok(PlannerResult::Planned(cast(itself()?, DataType::Int64))),
            _ if exclusion.is_some() => Ok(PlannerResult::Planned(itself()?)),
            _ => Ok(PlannerResult::Original(expr)),
        }
    }
}

/// Whether all arguments of `lag` and its kind that DataFusion wants to know beforehand are constants.
fn knows_numbers(name: &str, args: &[Expr]) -> bool {
    let numbers = if name == "ntile" { args } else { args.get(1..).unwrap_or_default() };
    numbers.iter().all(|arg| match arg {
        Expr::Literal(..) => true,
        Expr::Negative(inner) => matches!(inner.as_ref(), Expr::Literal(..)),
        _ => false,
    })
}

/// The arguments of a function, and what its frames leave out, which is marked around the first.
fn without_mark(args: &[Expr]) -> (Option<Exclusion>, Vec<Expr>) {
    if let Some((Expr::ScalarFunction(function), rest)) = args.split_first()
        && let Some(Deferred { call: Call::Function(name), .. }) = Deferred::of(function)
        && let Some(exclusion) = Exclusion::of_mark(name)
    {
        let args = function.args.iter().chain(rest).cloned().collect();
        return (Some(exclusion), args);
    }
    (None, args.to_vec())
}

/// A function over the window of a call. Functions that number or compare rows know no frame, so nothing is left out.
fn over_window(
    expr: &RawWindowExpr,
    exclusion: Option<Exclusion>,
    fun: WindowFunctionDefinition,
    args: Vec<Expr>,
) -> Result<Expr> {
    let over_frames = match &fun {
        WindowFunctionDefinition::AggregateUDF(udaf) => Some(Arc::clone(udaf)),
        WindowFunctionDefinition::WindowUDF(udwf) => match udwf.name() {
            "first_value" | "last_value" | "nth_value" => Some(aggregate(udwf.name())?),
            _ => None,
        },
    };
    let (fun, args, filter) = match exclusion.zip(over_frames) {
        Some((exclusion, udaf)) => {
            let filter = expr.filter.as_deref().cloned();
            let (fun, args) = Excluding::call(udaf, exclusion, args, &expr.order_by, filter);
            (fun, args, None)
        }
        None => (fun, args, expr.filter.clone()),
    };
    let params = WindowFunctionParams {
        args,
        partition_by: expr.partition_by.clone(),
        order_by: expr.order_by.clone(),
        window_frame: expr.window_frame.clone(),
        filter,
        null_treatment: expr.null_treatment,
        distinct: expr.distinct,
    };
    Ok(Expr::WindowFunction(Box::new(WindowFunction { fun, params })))
}

fn aggregate(name: &str) -> Result<Arc<AggregateUDF>> {
    Registry::get().aggregate(name).ok_or_else(|| external(Error::internal(format!("no aggregate {name}"))))
}

/// `OPERATOR(pg_catalog.~)`
fn custom_operator(path: &[String]) -> Option<Operator> {
    Some(match path.last()?.as_str() {
        "~" => Operator::RegexMatch,
        "~*" => Operator::RegexIMatch,
        "!~" => Operator::RegexNotMatch,
        "!~*" => Operator::RegexNotIMatch,
        "~~" => Operator::LikeMatch,
        "!~~" => Operator::NotLikeMatch,
        "=" => Operator::Eq,
        "<>" => Operator::NotEq,
        "<" => Operator::Lt,
        "<=" => Operator::LtEq,
        ">" => Operator::Gt,
        ">=" => Operator::GtEq,
        "+" => Operator::Plus,
        "-" => Operator::Minus,
        "||" => Operator::StringConcat,
        _ => return None,
    })
}
