//! Distributions: from the text of an option to what makes a column's values.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute;
use arrow::datatypes::Field;
use millstream_types::{Result, SqlType};

use super::line::{DAY_US, Line};
use super::number::{FloatSequence, FloatUniform, Normal, Number, Sequence, Uniform, Zipf};
use super::other::{Arrays, Bernoulli, Bytes, Choice, Lengths, Letters, Null, Nulls};
use super::spec::Spec;
use crate::literal;
use crate::random::Key;

/// Texts and byte strings are at most so long, arrays have at most so many elements.
const LEN_MAX: usize = 1 << 16;

/// Makes values, each a pure function of its position.
pub(super) trait Distribution: Send + Sync {
    /// One value for each position.
    ///
    /// # Errors
    /// A user error, if a value is beyond the range of its type.
    fn generate(&self, positions: &[u64]) -> Result<ArrayRef>;
}

/// The names of the distributions that a type can have, beside `expr`.
pub(super) fn names(sql_type: &SqlType) -> &'static [&'static str] {
    match sql_type {
        SqlType::Boolean => &["bernoulli", "choice", "null"],
        SqlType::SmallInt | SqlType::Integer | SqlType::BigInt | SqlType::Oid | SqlType::Numeric(_) => {
            &["sequence", "uniform", "zipf", "normal", "choice", "null"]
        }
        SqlType::Real | SqlType::Double => &["sequence", "uniform", "zipf", "normal", "choice", "null"],
        SqlType::Text | SqlType::Varchar(_) | SqlType::Char(_) => &["text", "choice", "null"],
        SqlType::Bytea => &["bytes", "choice", "null"],
        SqlType::Date | SqlType::Time | SqlType::Timestamp | SqlType::Timestamptz => {
            &["timestamp", "uniform", "choice", "null"]
        }
        SqlType::Interval => &["uniform", "choice", "null"],
        SqlType::Array(_) => &["array", "choice", "null"],
    }
}

/// The distribution of a column that has no option; `step_us` is the time between two rows.
pub(super) fn default_text(sql_type: &SqlType, step_us: u64) -> String {
    match sql_type {
        SqlType::Boolean => "bernoulli(0.5)".to_owned(),
        SqlType::SmallInt => "uniform(0, 1000)".to_owned(),
        SqlType::Integer | SqlType::BigInt | SqlType::Oid => "uniform(0, 1000000)".to_owned(),
        SqlType::Real | SqlType::Double => "uniform(0, 1)".to_owned(),
        SqlType::Numeric(Some((precision, scale))) if i16::from(*precision) - i16::from(*scale) < 4 => {
            let digits = "9".repeat(usize::from(*precision));
            match usize::from(scale.unsigned_abs()) {
                zeros if *scale <= 0 => format!("uniform(0, {digits}{})", "0".repeat(zeros)),
                scale => format!("uniform(0, {}.{})", &digits[scale.min(digits.len())..], "9".repeat(scale)),
            }
        }
        SqlType::Numeric(_) => "uniform(0, 1000)".to_owned(),
        SqlType::Text | SqlType::Varchar(None) => "text(8, 16)".to_owned(),
        SqlType::Varchar(Some(n)) | SqlType::Char(n) => format!("text({}, {})", (*n).min(8), (*n).min(16)),
        SqlType::Bytea => "bytes(8, 16)".to_owned(),
        SqlType::Date => "uniform(2020-01-01, 2029-12-31)".to_owned(),
        SqlType::Time => "uniform(00:00:00, 23:59:59.999999)".to_owned(),
        SqlType::Timestamp | SqlType::Timestamptz => {
            format!("timestamp(2020-01-01 00:00:00, {step_us} microseconds)")
        }
        SqlType::Interval => "uniform(0 seconds, 24 hours)".to_owned(),
        SqlType::Array(element) => format!("array(0, 4, {})", default_text(element, step_us)),
    }
}

/// How a distribution is written, for error messages.
fn usage(name: &str) -> &'static str {
    match name {
        "sequence" => "sequence(start) or sequence(start, step)",
        "uniform" => "uniform(least, greatest)",
        "zipf" => "zipf(n, exponent), which gives 1 to n",
        "normal" => "normal(mean, standard deviation)",
        "bernoulli" => "bernoulli(probability of true)",
        "text" => "text(least length, greatest length)",
        "bytes" => "bytes(least length, greatest length)",
        "timestamp" => "timestamp(start, step), as in timestamp('2024-01-01 00:00:00', '10 ms')",
        "choice" => "choice(value, ...), with values of the column's type",
        "null" => "null(probability, distribution)",
        _ => "array(least length, greatest length, distribution)",
    }
}

/// The distribution that a text describes for values of a type.
///
/// # Errors
/// What is wrong with the text, as a detail for the user.
pub(super) fn compile(text: &str, sql_type: &SqlType, key: Key) -> Result<Box<dyn Distribution>, String> {
    let spec = Spec::parse(text)?;
    let names = names(sql_type);
    if !names.contains(&spec.name.as_str()) {
        return Err(match spec.name.as_str() {
            "expr" => "expr(...) stands alone or directly in null(probability, ...)".to_owned(),
            name => format!("no distribution {name} for type {sql_type}; there are {}", names.join(", ")),
        });
    }
    let compiled = match spec.name.as_str() {
        "choice" => choice(&spec, sql_type, key),
        "null" => return null(&spec, sql_type, key),
        "array" => return array(&spec, sql_type, key),
        "bernoulli" => probability(&spec.args)
            .map(|probability| boxed(Bernoulli { key, probability }))
            .filter(|_| spec.args.len() == 1),
        "text" => text_lengths(&spec, sql_type).map(|(lengths, padded_to)| boxed(Letters { key, lengths, padded_to })),
        "bytes" => lengths(&spec.args).map(|lengths| boxed(Bytes { key, lengths })),
        "timestamp" => timestamp(&spec.args, sql_type),
        _ => Number::of(sql_type).and_then(|number| number_distribution(&spec, number, key)),
    };
    compiled.ok_or_else(|| format!("for type {sql_type}, expected {}", usage(&spec.name)))
}

fn boxed(distribution: impl Distribution + 'static) -> Box<dyn Distribution> {
    Box::new(distribution)
}

/// The leading argument, as a probability.
pub(super) fn probability(args: &[&str]) -> Option<f64> {
    args.first()?.parse().ok().filter(|p| (0.0..=1.0).contains(p))
}

fn number_distribution(spec: &Spec<'_>, number: Number, key: Key) -> Option<Box<dyn Distribution>> {
    let float = |text: &str| text.parse::<f64>().ok().filter(|v| v.is_finite());
    match (spec.name.as_str(), spec.args.as_slice(), number) {
        ("sequence", [start, step @ ..], Number::Line(line)) if step.len() < 2 => {
            let start = line.parse(start)?;
            let step = step.first().map_or(Some(line.one()), |step| line.parse(step))?;
            Some(boxed(Sequence { line, start, step, divisor: 1, modulus: None }))
        }
        ("sequence", [start, step @ ..], number) if step.len() < 2 => {
            let step = step.first().map_or(Some(1.0), |step| float(step))?;
            Some(boxed(FloatSequence { start: float(start)?, step, number }))
        }
        ("uniform", [least, greatest], Number::Line(line)) => {
            let (least, greatest) = (line.parse(least)?, line.parse(greatest)?);
            let unit = uniform_unit(&line, least, greatest);
            (least <= greatest).then(|| boxed(Uniform::new(key, line, least, greatest, unit)))
        }
        ("uniform", [least, greatest], number) => {
            let (least, greatest) = (float(least)?, float(greatest)?);
            (least <= greatest).then(|| boxed(FloatUniform { key, number, least, greatest }))
        }
        ("zipf", [n, exponent], number) => {
            let n = n.parse().ok().filter(|n| (1..=1 << 52).contains(n))?;
            let exponent = float(exponent).filter(|exponent| *exponent > 0.0)?;
            Some(boxed(Zipf::new(key, number, n, exponent)))
        }
        ("normal", [mean, deviation], number) => {
            let deviation = float(deviation).filter(|deviation| *deviation >= 0.0)?;
            Some(boxed(Normal { key, number, mean: float(mean)?, deviation }))
        }
        _ => None,
    }
}

/// `numeric` without a scale has two digits after the point, or as many as the bounds have.
fn uniform_unit(line: &Line, least: i128, greatest: i128) -> i128 {
    let mut unit = if line.is_unscaled_numeric() { line.one() / 100 } else { 1 };
    while least % unit != 0 || greatest % unit != 0 {
        unit /= 10;
    }
    unit
}

fn timestamp(args: &[&str], sql_type: &SqlType) -> Option<Box<dyn Distribution>> {
    let [start, step] = args else { return None };
    let line = Line::of(sql_type)?;
    let start = line.parse(start)?;
    let step = Line::of(&SqlType::Interval)?.parse(step)?;
    let divisor = if *sql_type == SqlType::Date { DAY_US } else { 1 };
    let modulus = (*sql_type == SqlType::Time).then_some(DAY_US);
    Some(boxed(Sequence { line, start, step, divisor, modulus }))
}

fn lengths(args: &[&str]) -> Option<Lengths> {
    let [min, max] = args else { return None };
    let lengths = Lengths { min: min.parse().ok()?, max: max.parse().ok()? };
    (lengths.min <= lengths.max && lengths.max <= LEN_MAX).then_some(lengths)
}

/// Lengths, and to which length to pad.
fn text_lengths(spec: &Spec<'_>, sql_type: &SqlType) -> Option<(Lengths, Option<usize>)> {
    let lengths = lengths(&spec.args)?;
    let fits = |n: u32| lengths.max <= n as usize;
    match sql_type {
        SqlType::Varchar(Some(n)) => fits(*n).then_some((lengths, None)),
        SqlType::Char(n) => fits(*n).then_some((lengths, Some(*n as usize))),
        _ => Some((lengths, None)),
    }
}

fn choice(spec: &Spec<'_>, sql_type: &SqlType, key: Key) -> Option<Box<dyn Distribution>> {
    let values =
        spec.args.iter().map(|arg| choice_value(&literal::unquote(arg), sql_type)).collect::<Option<Vec<_>>>()?;
    let values: Vec<_> = values.iter().map(AsRef::as_ref).collect();
    let values = compute::concat(&values).ok().filter(|values| !values.is_empty())?;
    Some(boxed(Choice { key, values }))
}

/// A value of the type, padded or refused by its length.
fn choice_value(text: &str, sql_type: &SqlType) -> Option<ArrayRef> {
    let len = text.chars().count();
    match sql_type {
        SqlType::Varchar(Some(n)) if len > *n as usize => None,
        SqlType::Char(n) => {
            let n = *n as usize;
            (len <= n).then(|| literal::parse(&format!("{text:<n$}"), &SqlType::Text))?
        }
        other => literal::parse(text, other),
    }
}

fn null(spec: &Spec<'_>, sql_type: &SqlType, key: Key) -> Result<Box<dyn Distribution>, String> {
    let (nulls, values) = split_null(spec, key)?;
    Ok(boxed(Null { nulls, values: compile(values, sql_type, key)? }))
}

/// The two arguments of `null(probability, distribution)`.
pub(super) fn split_null<'a>(spec: &Spec<'a>, key: Key) -> Result<(Nulls, &'a str), String> {
    match (spec.args.as_slice(), probability(&spec.args)) {
        // A key of its own, so that nulls are independent of the values.
        ([_, values], Some(probability)) => Ok((Nulls(Bernoulli { key: key.at(u64::MAX), probability }), values)),
        _ => Err(format!("expected {}", usage("null"))),
    }
}

fn array(spec: &Spec<'_>, sql_type: &SqlType, key: Key) -> Result<Box<dyn Distribution>, String> {
    let (SqlType::Array(element), [min, max, values]) = (sql_type, spec.args.as_slice()) else {
        return Err(format!("expected {}", usage("array")));
    };
    let lengths = lengths(&[min, max]).ok_or_else(|| format!("expected {}", usage("array")))?;
    Ok(boxed(Arrays {
        key,
        lengths,
        element: Arc::new(Field::new_list_field(element.arrow_type(), true)),
        values: compile(values, element, key.at(u64::MAX - 1))?,
    }))
}
