//! Retractable aggregates: accumulators of many groups at once, in columns.
//!
//! An accumulator keeps one state for each group number. It takes weighted rows (`update`), states of other accumulators
//! of its kind (`merge`), and gives its states (`partial`) or results (`finish`) for any groups. Weights may be
//! negative; partial sums within an epoch may be, too. Results are only asked for when the epoch is complete.

mod best;
mod best_bytes;
mod bits;
mod boolean;
mod count;
mod minmax;
mod ordered;
mod sum;
mod variance;

use std::fmt;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::datatypes::DataType;
use millstream_types::sql_type::{NUMERIC_PRECISION, NUMERIC_SCALE};
use millstream_types::{Error, Result};
use serde::{Deserialize, Serialize};

/// An aggregate function with a retractable accumulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AggregateFunction {
    /// `count(*)`, without an argument, or `count(x)`
    Count,
    /// `sum(x)`
    Sum,
    /// `avg(x)`
    Avg,
    /// `min(x)`
    Min,
    /// `max(x)`
    Max,
    /// `bool_and(x)`, `every(x)`
    BoolAnd,
    /// `bool_or(x)`
    BoolOr,
    /// `bit_and(x)`
    BitAnd,
    /// `bit_or(x)`
    BitOr,
    /// `bit_xor(x)`
    BitXor,
    /// `var_pop(x)`
    VarPop,
    /// `var_samp(x)`, `variance(x)`
    VarSamp,
    /// `stddev_pop(x)`
    StddevPop,
    /// `stddev_samp(x)`, `stddev(x)`
    StddevSamp,
}

impl AggregateFunction {
    /// The name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            AggregateFunction::Count => "count",
            AggregateFunction::Sum => "sum",
            AggregateFunction::Avg => "avg",
            AggregateFunction::Min => "min",
            AggregateFunction::Max => "max",
            AggregateFunction::BoolAnd => "bool_and",
            AggregateFunction::BoolOr => "bool_or",
            AggregateFunction::BitAnd => "bit_and",
            AggregateFunction::BitOr => "bit_or",
            AggregateFunction::BitXor => "bit_xor",
            AggregateFunction::VarPop => "var_pop",
            AggregateFunction::VarSamp => "var_samp",
            AggregateFunction::StddevPop => "stddev_pop",
            AggregateFunction::StddevSamp => "stddev_samp",
        }
    }

    /// The type of the result, as Postgres has it; `None` if there is no such aggregate over the argument's type.
    pub fn result_type(self, argument: Option<&DataType>) -> Option<DataType> {
        use AggregateFunction as F;
        use DataType as T;
        let numeric = T::Decimal128(NUMERIC_PRECISION, NUMERIC_SCALE);
        Some(match (self, argument) {
            (F::Count, _) => T::Int64,
            (F::Sum, Some(T::Int16 | T::Int32)) => T::Int64,
            (F::Sum, Some(T::Int64)) => T::Decimal128(NUMERIC_PRECISION, 0),
            (F::Sum, Some(T::Decimal128(_, s))) => T::Decimal128(NUMERIC_PRECISION, *s),
            (F::Sum, Some(t @ (T::Float32 | T::Float64))) => t.clone(),
            (F::Avg, Some(T::Int16 | T::Int32 | T::Int64 | T::Decimal128(_, _))) => numeric,
            (F::Avg, Some(T::Float32 | T::Float64)) => T::Float64,
            (F::Min | F::Max, Some(t)) if minmax::is_supported(t) => t.clone(),
            (F::BoolAnd | F::BoolOr, Some(T::Boolean)) => T::Boolean,
            (F::BitAnd | F::BitOr | F::BitXor, Some(t)) if bits::is_supported(t) => t.clone(),
            (F::VarPop | F::VarSamp | F::StddevPop | F::StddevSamp, Some(t)) => match t {
                T::Float32 | T::Float64 => T::Float64,
                T::Int16 | T::Int32 | T::Int64 | T::Decimal128(_, _) => numeric,
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// One aggregate of a query, over columns of the aggregate's input.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AggregateCall {
    /// The function.
    pub function: AggregateFunction,
    /// The argument's column; `None` for `count(*)`.
    pub argument: Option<usize>,
    /// Whether equal values count once.
    pub distinct: bool,
    /// A boolean column: only rows where it is true count.
    pub filter: Option<usize>,
}

impl fmt::Display for AggregateCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let distinct = if self.distinct { "distinct " } else { "" };
        match self.argument {
            Some(a) => write!(f, "{}({distinct}#{a})", self.function.name())?,
            None => write!(f, "{}(*)", self.function.name())?,
        }
        match self.filter {
            Some(filter) => write!(f, " filter #{filter}"),
            None => Ok(()),
        }
    }
}

/// The rows of a batch that an accumulator takes.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The group number of each row.
    pub groups: &'a [u32],
    /// The argument of each row.
    pub argument: Option<&'a ArrayRef>,
    /// Only rows where this is true count.
    pub filter: Option<&'a BooleanArray>,
    /// The weight of each row; `None` is +1.
    pub weights: Option<&'a [i64]>,
}

impl Input<'_> {
    /// Calls `f(row_idx, group, weight)` for each row that passes the filter and whose argument is not null.
    #[inline]
    fn for_each(&self, mut f: impl FnMut(usize, u32, i64)) {
        let nulls = self.argument.and_then(|a| a.nulls()).filter(|n| n.null_count() > 0);
        match (nulls, self.filter, self.weights) {
            (None, None, None) => self.groups.iter().enumerate().for_each(|(i, &g)| f(i, g, 1)),
            (None, None, Some(w)) => self.groups.iter().zip(w).enumerate().for_each(|(i, (&g, &w))| f(i, g, w)),
            (nulls, filter, weights) => {
                for (i, &g) in self.groups.iter().enumerate() {
                    let counts = nulls.is_none_or(|n| n.is_valid(i)) && filter.is_none_or(|m| m.value(i));
                    if counts {
                        f(i, g, weights.map_or(1, |w| w[i]));
                    }
                }
            }
        }
    }
}

/// Rows of states that have several rows.
#[derive(Debug, Default)]
pub struct PartialRows {
    /// The group of each row.
    pub groups: Vec<u32>,
    /// As [`GroupAccumulator::partial`] gives them; the first column tells the rows of a group apart, and they are in its
    /// order.
    pub columns: Vec<ArrayRef>,
}

/// How states that have several rows have changed.
#[derive(Debug, Default)]
pub struct PartialChanges {
    /// Rows that are gone or have changed: their first column, which tells the rows of a group apart.
    pub gone: PartialRows,
    /// Rows that are new or have changed.
    pub rows: PartialRows,
    /// There may be more of them.
    pub has_more: bool,
}

/// The states of one aggregate for many groups.
pub trait GroupAccumulator: Send + Sync {
    /// Takes weighted rows.
    ///
    /// # Errors
    /// Internal, if the argument has another type than the accumulator was made for.
    fn update(&mut self, input: Input<'_>) -> Result<()>;

    /// Takes states as [`GroupAccumulator::partial`] gives them, one for each group number.
    ///
    /// # Errors
    /// Internal, if the states are of another kind.
    fn merge(&mut self, groups: &[u32], partial: &[ArrayRef]) -> Result<()>;

    /// The types of the columns that make up a state.
    fn partial_types(&self) -> Vec<DataType>;

    /// The states of groups.
    fn partial(&self, groups: &[u32]) -> Vec<ArrayRef>;

    /// The group of each row of [`GroupAccumulator::partial`], where a state has several; `None` if each has one row.
    fn partial_groups(&self, groups: &[u32]) -> Option<Vec<u32>> {
        let _ = groups;
        None
    }

    /// Rows of the states of groups, where a state has several: in the first group those behind a value, then those of the
    /// others, at most so many.
    ///
    /// # Errors
    /// Internal, if the value is of another type.
    fn partial_rows(&self, groups: &[u32], behind: Option<&ArrayRef>, n_max: usize) -> Result<PartialRows> {
        let _ = (groups, behind, n_max);
        Ok(PartialRows::default())
    }

    /// From now on notes how states change, if they have several rows, and is not doing so already.
    fn track_changes(&mut self) {}

    /// How the states of groups differ from what they were when this was last asked of them, or when tracking began: at
    /// most so many rows, of which the next call says nothing more. Empty for states of one row: those change as wholes.
    fn take_changes(&mut self, groups: &[u32], n_max: usize) -> PartialChanges {
        let _ = (groups, n_max);
        PartialChanges::default()
    }

    /// The results of groups.
    ///
    /// # Errors
    /// User (22003), if a result does not fit its type.
    fn finish(&self, groups: &[u32]) -> Result<ArrayRef>;

    /// Makes a group's state that of no rows.
    fn reset(&mut self, group: u32);

    /// Allocated bytes.
    fn n_bytes(&self) -> usize;
}

/// Makes the accumulator of a function over an argument type.
///
/// With `append_only` no row is ever taken back, which makes `min` and `max` cheap.
///
/// # Errors
/// Not supported, if there is none; see [`AggregateFunction::result_type`].
pub fn accumulator(
    function: AggregateFunction,
    argument: Option<&DataType>,
    append_only: bool,
) -> Result<Box<dyn GroupAccumulator>> {
    use AggregateFunction as F;
    let unsupported = || {
        let of = argument.map_or_else(|| "*".to_owned(), ToString::to_string);
        Error::not_supported(format!("{}({of}) has no incremental accumulator", function.name()))
    };
    let result = function.result_type(argument).ok_or_else(unsupported)?;
    Ok(match (function, argument) {
        (F::Count, _) => Box::new(count::Count::new()),
        (F::Sum | F::Avg, Some(argument)) => sum::accumulator(function == F::Avg, argument, &result),
        (F::Min | F::Max, Some(argument)) => minmax::accumulator(function == F::Max, argument, append_only),
        (F::BoolAnd | F::BoolOr, _) => Box::new(boolean::Booleans::new(function == F::BoolAnd)),
        (F::BitAnd, Some(argument)) => bits::accumulator(bits::BitOp::And, argument, append_only),
        (F::BitOr, Some(argument)) => bits::accumulator(bits::BitOp::Or, argument, append_only),
        (F::BitXor, Some(argument)) => bits::accumulator(bits::BitOp::Xor, argument, append_only),
        (F::VarPop | F::VarSamp | F::StddevPop | F::StddevSamp, Some(argument)) => {
            let is_sample = matches!(function, F::VarSamp | F::StddevSamp);
            let is_root = matches!(function, F::StddevPop | F::StddevSamp);
            Box::new(variance::Variance::new(is_sample, is_root, argument, result))
        }
        _ => return Err(unsupported()),
    })
}
