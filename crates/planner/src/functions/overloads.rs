//! Postgres' functions by name: which overload the arguments choose, and what computes it.

mod arrays;
mod numbers;
mod overlaps;
mod scales;

use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Case, Expr, Operator, cast, lit};
use millstream_types::Error;
use millstream_types::pg::TimeZone;

pub(crate) use arrays::concatenate_arrays;

use super::{Registry, builtin, extract, quantified, row};
use crate::binder::external;
use crate::typing::calls::{no_function, resolve_call};
use crate::typing::cast::explicit_cast;
use crate::typing::deferred::Call;
use crate::typing::exprs::average_type;
use crate::typing::types::{
    Class, INTERVAL, NUMERIC, Result, TEXT, TIME, TIMESTAMP, array_of, coerce, common_pair, common_type,
    decimal_of_int, timestamptz, type_of, types_of,
};

/// Functions whose arguments are of fixed types: Postgres' name, the function that computes it, the types. Several lines
/// of one name are overloads; the first that fits is taken.
///
/// t text, i integer, f double, m numeric, b boolean, y bytea, s timestamp, z timestamptz, d date, c time, v interval
const FIXED: &[(&str, &str, &str)] = &[
    ("length", "character_length", "t"),
    ("length", "bytea_length", "y"),
    ("octet_length", "bytea_length", "y"),
    ("char_length", "character_length", "t"),
    ("character_length", "character_length", "t"),
    ("octet_length", "octet_length", "t"),
    ("bit_length", "bit_length", "t"),
    ("lower", "lower", "t"),
    ("upper", "upper", "t"),
    ("initcap", "initcap", "t"),
    ("reverse", "reverse", "t"),
    ("ascii", "ascii", "t"),
    ("chr", "chr", "i"),
    ("md5", "md5", "t"),
    ("md5", "md5", "y"),
    ("sha224", "sha224", "y"),
    ("sha256", "sha256", "y"),
    ("sha384", "sha384", "y"),
    ("sha512", "sha512", "y"),
    ("to_hex", "to_hex", "i"),
    ("left", "left", "ti"),
    ("right", "right", "ti"),
    ("lpad", "lpad", "ti"),
    ("lpad", "lpad", "tit"),
    ("rpad", "rpad", "ti"),
    ("rpad", "rpad", "tit"),
    ("ltrim", "ltrim", "t"),
    ("ltrim", "ltrim", "tt"),
    ("ltrim", "bytea_ltrim", "yy"),
    ("rtrim", "rtrim", "t"),
    ("rtrim", "rtrim", "tt"),
    ("rtrim", "bytea_rtrim", "yy"),
    ("btrim", "btrim", "t"),
    ("btrim", "btrim", "tt"),
    ("btrim", "bytea_btrim", "yy"),
    ("trim", "btrim", "t"),
    ("trim", "btrim", "tt"),
    ("trim", "bytea_btrim", "yy"),
    ("repeat", "repeat", "ti"),
    ("replace", "replace", "ttt"),
    ("translate", "translate", "ttt"),
    ("split_part", "split_part", "tti"),
    ("strpos", "strpos", "tt"),
    ("strpos", "bytea_position", "yy"),
    ("position", "strpos", "tt"),
    ("position", "bytea_position", "yy"),
    ("starts_with", "starts_with", "tt"),
    ("substr", "substr", "ti"),
    ("substr", "substr", "tii"),
    ("substr", "bytea_substr", "yi"),
    ("substr", "bytea_substr", "yii"),
    ("overlay", "overlay", "tti"),
    ("overlay", "overlay", "ttii"),
    ("overlay", "bytea_overlay", "yyi"),
    ("overlay", "bytea_overlay", "yyii"),
    ("quote_literal", "quote_literal", "t"),
    ("quote_ident", "quote_ident", "t"),
    ("cut_char", "cut_char", "ti"),
    ("like_escape", "like_escape", "tt"),
    ("similar_to_pattern", "similar_to_pattern", "t"),
    ("regexp_replace", "regexp_replace", "ttt"),
    ("regexp_replace", "regexp_replace", "tttt"),
    ("regexp_match", "regexp_match", "tt"),
    ("regexp_match", "regexp_match", "ttt"),
    ("regexp_like", "regexp_like", "tt"),
    ("regexp_like", "regexp_like", "ttt"),
    ("regexp_count", "regexp_count", "tt"),
    ("regexp_count", "regexp_count", "tti"),
    ("regexp_instr", "regexp_instr", "tt"),
    ("regexp_split_to_array", "regexp_split", "tt"),
    ("regexp_split_to_table", "regexp_split", "tt"),
    ("string_to_array", "string_to_array", "tt"),
    ("string_to_array", "string_to_array", "ttt"),
    ("encode", "encode", "yt"),
    ("decode", "decode", "tt"),
    ("exp", "exp", "f"),
    ("ln", "ln", "f"),
    ("log", "log10", "f"),
    ("log10", "log10", "f"),
    ("sqrt", "sqrt", "f"),
    ("cbrt", "cbrt", "f"),
    ("power", "power", "ff"),
    ("pow", "power", "ff"),
    ("sin", "sin", "f"),
    ("cos", "cos", "f"),
    ("tan", "tan", "f"),
    ("cot", "cot", "f"),
    ("asin", "asin", "f"),
    ("acos", "acos", "f"),
    ("atan", "atan", "f"),
    ("atan2", "atan2", "ff"),
    ("sinh", "sinh", "f"),
    ("cosh", "cosh", "f"),
    ("tanh", "tanh", "f"),
    ("degrees", "degrees", "f"),
    ("radians", "radians", "f"),
    ("pi", "pi", ""),
    ("random", "random", ""),
    ("factorial", "factorial_numeric", "i"),
    ("date_trunc", "date_trunc", "ts"),
    ("date_trunc", "date_trunc", "tz"),
    ("date_trunc", "trunc_interval", "tv"),
    ("age", "age", "ss"),
    ("age", "age", "zz"),
    ("isfinite", "is_finite", "d"),
    ("isfinite", "is_finite", "s"),
    ("isfinite", "is_finite", "z"),
    ("isfinite", "is_finite", "v"),
    ("date_bin", "date_bin", "vss"),
    ("date_bin", "date_bin", "vzz"),
    ("make_date", "make_date", "iii"),
    ("make_time", "make_time", "iif"),
    ("make_timestamp", "make_timestamp", "iiiiif"),
    ("make_interval", "make_interval", "iiiiiif"),
    ("to_date", "to_date", "tt"),
    ("to_timestamp", "seconds_to_timestamp", "f"),
    ("to_timestamp", "to_timestamp_by_pattern", "tt"),
    ("to_number", "to_number", "tt"),
    ("justify_hours", "justify_hours", "v"),
    ("justify_days", "justify_days", "v"),
    ("justify_interval", "justify_interval", "v"),
    ("timezone", "at_time_zone", "ts"),
    ("timezone", "at_time_zone", "tz"),
    ("to_char", "to_char_time", "st"),
    ("to_char", "to_char_time", "zt"),
    ("to_char", "to_char_number", "mt"),
];

/// The function around a constant whose type waits for the others of its column, in VALUES.
pub(crate) const UNKNOWN: &str = "__unknown";
/// The function around what `avg` adds up: reals as doubles, as in Postgres.
pub(crate) const AVERAGED: &str = "__averaged";
/// The function around what may be another NaN than ours.
pub(crate) const ONE_NAN: &str = "__one_nan";
/// The function around a `varchar` without a length, which is a text but for comparisons with a `char(n)`.
pub(crate) const VARCHAR: &str = "__varchar";

/// Functions that are resolved by rules of their own.
const SPECIAL: &[&str] = &[
    UNKNOWN,
    AVERAGED,
    ONE_NAN,
    VARCHAR,
    "abs",
    "array",
    "array_append",
    "array_cat",
    "array_concat",
    "array_element",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_length",
    "array_lower",
    "array_ndims",
    "array_position",
    "array_prepend",
    "array_remove",
    "array_slice",
    "array_to_string",
    "array_upper",
    "average",
    "cardinality",
    "determination",
    "ceil",
    "ceiling",
    "clock_timestamp",
    "coalesce",
    "concat",
    "concat_ws",
    "current_date",
    "current_time",
    "current_timestamp",
    "date_part",
    "div",
    "extract",
    "floor",
    "format",
    "gcd",
    "generate_series",
    "greatest",
    "lcm",
    "least",
    "localtime",
    "localtimestamp",
    "min_scale",
    "mod",
    "now",
    "nullif",
    "num_nonnulls",
    "num_nulls",
    "overlaps",
    "round",
    "scale",
    "sign",
    "similar_to",
    "statement_timestamp",
    "substring",
    "transaction_timestamp",
    "trim_scale",
    "trunc",
    "width_bucket",
];

/// Whether Postgres' overloads are resolved here.
pub(crate) fn is_known(name: &str) -> bool {
    SPECIAL.contains(&name) || quantified::of_name(name).is_some() || FIXED.iter().any(|(n, _, _)| *n == name)
}

/// What SQL calls a function of ours or DataFusion's; `None` if it is an operator there.
pub(crate) fn sql_name(function: &str) -> Option<&str> {
    if let Some((name, _, _)) = FIXED.iter().find(|(_, f, _)| *f == function) {
        return Some(name);
    }
    let name = match function {
        "make_array" => "array",
        "signum" => "sign",
        other => other,
    };
    // One function of SQL is several of ours: `round_whole`, `extract_3`.
    let base = name.rsplit_once('_').map_or(name, |(base, _)| base);
    let known = |name: &str| SPECIAL.contains(&name) || FIXED.iter().any(|(n, _, _)| *n == name);
    [name, base].into_iter().find(|n| known(n) && !n.starts_with("__"))
}

/// The function over resolved arguments.
pub(crate) fn resolve(name: &str, args: Vec<Expr>, schema: &DFSchema) -> Result<Expr> {
    let types = types_of(&args, schema)?;
    if let Some(expr) = special(name, &args, &types, schema)? {
        return Ok(expr);
    }
    for (_, function, params) in FIXED.iter().filter(|(n, _, _)| *n == name) {
        if let Some(args) = fitted(&args, &types, params, schema)? {
            return canonical_call(function, args, schema);
        }
    }
    no_function(name, &types)
}

/// A function by DataFusion's or our own name, of a type that flows.
fn canonical_call(function: &str, args: Vec<Expr>, schema: &DFSchema) -> Result<Expr> {
    use datafusion::logical_expr::ExprSchemable;
    let call = match super::builtin::find(function) {
        Some(ours) => ours.call(args),
        None => datafusion_function(function)?.call(args),
    };
    let data_type = call.get_type(schema)?;
    let wanted = crate::typing::types::canonical(&data_type);
    Ok(if wanted == data_type { call } else { cast(call, wanted) })
}

/// A function of DataFusion's, by name.
pub(crate) fn datafusion_function(name: &str) -> Result<std::sync::Arc<datafusion::logical_expr::ScalarUDF>> {
    Registry::get().datafusion(name).ok_or_else(|| external(Error::internal(format!("no function {name}"))))
}

/// The arguments as the parameters want them, if they fit without an explicit cast.
fn fitted(args: &[Expr], types: &[DataType], params: &str, schema: &DFSchema) -> Result<Option<Vec<Expr>>> {
    if params.len() != args.len() {
        return Ok(None);
    }
    let mut out = Vec::with_capacity(args.len());
    for ((arg, data_type), param) in args.iter().zip(types).zip(params.chars()) {
        let (wanted, accepted): (DataType, &[Class]) = match param {
            't' => (TEXT, &[Class::Text]),
            'i' => (DataType::Int64, &[Class::Int]),
            'f' => (DataType::Float64, &[Class::Int, Class::Numeric, Class::Real, Class::Double]),
            'm' => (NUMERIC, &[Class::Int, Class::Numeric, Class::Real, Class::Double]),
            'b' => (DataType::Boolean, &[Class::Bool]),
            'y' => (DataType::BinaryView, &[Class::Bytes]),
            's' => (TIMESTAMP, &[Class::Timestamp]),
            'z' => (timestamptz(), &[Class::Timestamptz, Class::Date]),
            'd' => (DataType::Date32, &[Class::Date]),
            'c' => (TIME, &[Class::Time]),
            _ => (INTERVAL, &[Class::Interval]),
        };
        let class = Class::of(data_type);
        if class != Class::Unknown && !accepted.contains(&class) {
            return Ok(None);
        }
        let keeps_digits = param == 'm' && class == Class::Numeric;
        out.push(if keeps_digits {
            arg.clone()
        } else if class == Class::Unknown {
            coerce(arg.clone(), &wanted, schema)?
        } else {
            explicit_cast(arg.clone(), &wanted, schema)?
        });
    }
    Ok(Some(out))
}

fn special(name: &str, args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Option<Expr>> {
    let one = || args.first().cloned().ok_or_else(|| external(Error::internal("arguments were counted")));
    let expr = match (name, args.len()) {
        (UNKNOWN | VARCHAR, 1) => one()?,
        (AVERAGED, 1) if Class::of(&types[0]) == Class::Real => coerce(one()?, &DataType::Float64, schema)?,
        (AVERAGED, 1) => one()?,
        (ONE_NAN, 1) if types[0] == DataType::Float64 => builtin("one_nan").call(args.to_vec()),
        (ONE_NAN, 1) => one()?,
        ("overlaps", 4) => overlaps::overlaps(args, types, schema)?,
        ("scale" | "min_scale" | "trim_scale", 1) => scales::scale_function(name, &args[0], &types[0], schema)?,
        ("date_trunc", 3) => truncated_in_zone(args, schema)?,
        ("coalesce", 1..) => same_type("coalesce", "COALESCE", args, types, schema)?,
        ("greatest", 1..) => same_type("greatest", "GREATEST", args, types, schema)?,
        ("least", 1..) => same_type("least", "LEAST", args, types, schema)?,
        ("nullif", 2) => nullif(args, types, schema)?,
        ("average", 2) => average(args, schema)?,
        ("determination", 3) => determination(args),
        ("to_hex", 1) if matches!(types[0], DataType::Int16 | DataType::Int32) => {
            // The digits of a negative number are those of its width.
            let digits = datafusion::logical_expr::binary_expr(
                cast(one()?, DataType::Int64),
                Operator::BitwiseAnd,
                lit(i64::from(u32::MAX)),
            );
            datafusion_function("to_hex")?.call(vec![digits])
        }
        ("extract", 2) => take_apart(args, types, schema)?,
        ("date_part", 2) => cast(take_apart(args, types, schema)?, DataType::Float64),
        ("substring", 2 | 3) => substring(args, types, schema)?,
        ("similar_to", 2) => {
            let pattern = resolve("similar_to_pattern", vec![args[1].clone()], schema)?;
            resolve_call(&Call::Operator(Operator::RegexMatch), vec![one()?, pattern], schema)?
        }
        (row::ROW, _) => row::row(args.to_vec()),
        ("concat" | "concat_ws" | "format", 1..) => texts_of(name, args, types, schema)?,
        ("num_nulls" | "num_nonnulls", 1..) => builtin(name).call(known(args, types, schema)?),
        ("age", 1) => {
            let today = cast(datafusion_function("current_date")?.call(vec![]), TIMESTAMP);
            resolve("age", vec![today, one()?], schema)?
        }
        ("width_bucket", 4) => return numbers::width_bucket(args, types, schema).map(Some),
        ("now" | "current_timestamp" | "transaction_timestamp" | "statement_timestamp" | "clock_timestamp", _) => {
            cast(datafusion_function("now")?.call(vec![]), timestamptz())
        }
        ("localtimestamp", _) => cast(datafusion_function("now")?.call(vec![]), TIMESTAMP),
        ("current_date", _) => datafusion_function("current_date")?.call(vec![]),
        ("current_time" | "localtime", _) => {
            let now = cast(datafusion_function("now")?.call(vec![]), TIMESTAMP);
            explicit_cast(now, &TIME, schema)?
        }
        ("abs" | "sign" | "ceil" | "ceiling" | "floor" | "round" | "trunc" | "mod" | "div" | "gcd" | "lcm", _) => {
            return numbers::numeric_function(name, args, types, schema);
        }
        ("exp" | "ln" | "log" | "log10" | "sqrt" | "power" | "pow", 1 | 2) => {
            return numbers::exact_function(name, args, types, schema);
        }
        ("generate_series", 2 | 3) => generate_series(args, types, schema)?,
        _ => return arrays::array_function(name, args, types, schema),
    };
    Ok(Some(expr))
}

fn same_type(function: &str, what: &str, args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let common = common_type(types, what)?;
    let args = args.iter().map(|a| coerce(a.clone(), &common, schema)).collect::<Result<Vec<_>>>()?;
    if matches!((function, &common), ("greatest" | "least", DataType::Interval(_))) {
        let op = if function == "greatest" { Operator::GtEq } else { Operator::LtEq };
        let mut args = args.into_iter();
        let first = args.next().ok_or_else(|| external(Error::internal("arguments were counted")))?;
        return args.try_fold(first, |best, next| better(best, op, next, schema));
    }
    Ok(datafusion_function(function)?.call(args))
}

/// The one of two values that compares so to the other; null only if both are.
fn better(left: Expr, op: Operator, right: Expr, schema: &DFSchema) -> Result<Expr> {
    let is_left = resolve_call(&Call::Operator(op), vec![left.clone(), right.clone()], schema)?;
    let is_left = Box::new(right.clone().is_null().or(is_left));
    Ok(Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(is_left, Box::new(left))],
        else_expr: Some(Box::new(right)),
    }))
}

/// `CASE WHEN a = b THEN NULL ELSE a END`, so that the comparison is Postgres'.
fn nullif(args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let value_type = match common_pair(&types[0], &DataType::Null) {
        Some(DataType::Null) | None => common_type(types, "NULLIF")?,
        Some(own) => own,
    };
    let equal = resolve_call(&Call::Operator(Operator::Eq), args.to_vec(), schema)?;
    let null = Expr::Literal(ScalarValue::try_from(&value_type)?, None);
    Ok(Expr::Case(Case {
        expr: None,
        when_then_expr: vec![(Box::new(equal), Box::new(null))],
        else_expr: Some(Box::new(coerce(args[0].clone(), &value_type, schema)?)),
    }))
}

/// `sum / count`; over no rows the sum is null, and so is the quotient.
fn average(args: &[Expr], schema: &DFSchema) -> Result<Expr> {
    let sum_type = type_of(&args[0], schema)?;
    let (sum, count) = (args[0].clone(), args[1].clone());
    if Class::of(&sum_type) == Class::Interval {
        return resolve_call(&Call::Operator(Operator::Divide), vec![sum, count], schema);
    }
    let operands = match average_type(&sum_type) {
        None => return no_function("avg", &[sum_type]),
        Some(NUMERIC) => vec![as_decimal(sum, schema)?, as_decimal(count, schema)?],
        Some(float) => vec![coerce(sum, &float, schema)?, cast(count, float)],
    };
    resolve_call(&Call::Operator(Operator::Divide), operands, schema)
}

/// `regr_r2` over itself, `regr_sxx` and `regr_syy`: one where only y is constant.
fn determination(args: &[Expr]) -> Expr {
    let is_zero = |e: &Expr| Box::new(e.clone().eq(lit(0.0f64)));
    let null = Expr::Literal(ScalarValue::Float64(None), None);
    let when_then_expr = vec![(is_zero(&args[1]), Box::new(null)), (is_zero(&args[2]), Box::new(lit(1.0f64)))];
    Expr::Case(Case { expr: None, when_then_expr, else_expr: Some(Box::new(args[0].clone())) })
}

fn as_decimal(expr: Expr, schema: &DFSchema) -> Result<Expr> {
    let data_type = type_of(&expr, schema)?;
    if Class::of(&data_type) == Class::Int { coerce(expr, &decimal_of_int(&data_type), schema) } else { Ok(expr) }
}

fn take_apart(args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let field = match &args[0] {
        // A field in quotes comes with them.
        Expr::Literal(value, _) => value.try_as_str().flatten().map(|f| f.trim_matches('\'').to_ascii_lowercase()),
        _ => None,
    };
    let Some(field) = field else {
        return Err(external(Error::not_supported("the field of extract and date_part must be a constant")));
    };
    let source = match Class::of(&types[1]) {
        Class::Unknown => coerce(args[1].clone(), &timestamptz(), schema)?,
        Class::Date | Class::Time | Class::Timestamp | Class::Timestamptz | Class::Interval => args[1].clone(),
        _ => return no_function("extract", types),
    };
    Ok(builtin(extract::function_of(&field))
        .call(vec![Expr::Literal(ScalarValue::Utf8View(Some(field)), None), source]))
}

/// `date_trunc(field, instant, zone)`: the beginning, in the zone, of the field's period.
fn truncated_in_zone(args: &[Expr], schema: &DFSchema) -> Result<Expr> {
    let instant = coerce(args[1].clone(), &timestamptz(), schema)?;
    let local = resolve("timezone", vec![args[2].clone(), instant], schema)?;
    let begin = resolve("date_trunc", vec![args[0].clone(), local], schema)?;
    resolve("timezone", vec![args[2].clone(), begin], schema)
}

/// By position, or the part that matches a regular expression.
fn substring(args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    if args.len() == 2 && matches!(Class::of(&types[1]), Class::Text | Class::Unknown) {
        let found = resolve("regexp_match", args.to_vec(), schema)?;
        return resolve("array_element", vec![found, lit(1i64)], schema);
    }
    resolve("substr", args.to_vec(), schema)
}

/// Arguments of any type; constants of none are texts.
fn known(args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Vec<Expr>> {
    let known = |(a, t): (&Expr, &DataType)| {
        if *t == DataType::Null { coerce(a.clone(), &TEXT, schema) } else { Ok(a.clone()) }
    };
    args.iter().zip(types).map(known).collect()
}

/// What a value prints as, which for a boolean is not what it is cast to.
fn printed(arg: Expr, data_type: &DataType, schema: &DFSchema) -> Result<Expr> {
    if Class::of(data_type) != Class::Bool {
        return explicit_cast(arg, &TEXT, schema);
    }
    let text = |t: &str| Box::new(Expr::Literal(ScalarValue::Utf8View(Some(t.to_owned())), None));
    Ok(Expr::Case(Case {
        expr: Some(Box::new(arg)),
        when_then_expr: vec![(Box::new(lit(true)), text("t")), (Box::new(lit(false)), text("f"))],
        else_expr: None,
    }))
}

/// Arguments of any type as texts; nulls are left out by the functions.
fn texts_of(name: &str, args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let texts = args
        .iter()
        .zip(types)
        .map(
            |(a, t)| {
                if *t == DataType::Null { coerce(a.clone(), &TEXT, schema) } else { printed(a.clone(), t, schema) }
            },
        )
        .collect::<Result<Vec<_>>>()?;
    canonical_call(name, texts, schema)
}

fn generate_series(args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let classes: Vec<Class> = types.iter().map(Class::of).filter(|c| *c != Class::Unknown).collect();
    // An integer beside a numeric is one.
    let class = match classes.iter().find(|c| **c != Class::Int) {
        Some(class) => *class,
        None => Class::Int,
    };
    let function = datafusion_function("generate_series")?;
    match class {
        Class::Int => {
            let common = common_type(types, "generate_series")?;
            let args = args.iter().map(|a| coerce(a.clone(), &DataType::Int64, schema)).collect::<Result<Vec<_>>>()?;
            let series = function.call(args);
            Ok(if common == DataType::Int64 { series } else { cast(series, array_of(&common)) })
        }
        Class::Numeric => {
            let numeric = |e: Expr| -> Result<Expr> { coerce(e, &NUMERIC, schema) };
            let mut args = args.iter().map(|a| numeric(a.clone())).collect::<Result<Vec<_>>>()?;
            if args.len() == 2 {
                args.push(numeric(lit(1i32))?);
            }
            Ok(builtin("numeric_series").call(args))
        }
        Class::Date | Class::Timestamp | Class::Timestamptz | Class::Interval if args.len() == 3 => {
            time_series(args, types, schema)
        }
        _ => no_function("generate_series", types),
    }
}

/// Dates and constants of no type are instants, whose days are those of the session's zone.
fn time_series(args: &[Expr], types: &[DataType], schema: &DFSchema) -> Result<Expr> {
    let bound = match common_type(&types[..2], "generate_series")? {
        TIMESTAMP => TIMESTAMP,
        TEXT | DataType::Date32 | DataType::Null => timestamptz(),
        other if other == timestamptz() => other,
        _ => return no_function("generate_series", types),
    };
    let zone = if bound == TIMESTAMP { TimeZone::Utc } else { crate::reading::settings().time_zone };
    let zone = Expr::Literal(ScalarValue::Utf8View(Some(zone.to_string())), None);
    let [from, to] = [0, 1].map(|i| coerce(args[i].clone(), &bound, schema));
    let step = coerce(args[2].clone(), &INTERVAL, schema)?;
    Ok(builtin("time_series").call(vec![zone, from?, to?, step]))
}
