//! Aggregates over window frames that leave rows out: `EXCLUDE CURRENT ROW`, `GROUP` and `TIES`.
//!
//! DataFusion's frames are ranges of rows. So the aggregate is a window function that is given the frame of each row and
//! aggregates what is left of it anew: a partition costs the sum of its frames.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::{filter, partition};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::Sort;
use datafusion::logical_expr::function::{PartitionEvaluatorArgs, WindowUDFFieldArgs};
use datafusion::logical_expr::type_coercion::functions::fields_with_udf;
use datafusion::logical_expr::{
    AggregateUDF, Expr, PartitionEvaluator, Signature, Volatility, WindowFunctionDefinition, WindowUDF, WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::{Column, Literal};
use serde::{Deserialize, Serialize};

use crate::parser::EXCLUDE;
use crate::typing::types::Result;

/// Which rows of a frame are left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exclusion {
    /// The row itself.
    CurrentRow,
    /// The row and its peers.
    Group,
    /// Its peers.
    Ties,
    /// None: for aggregates that cannot take rows back.
    Nothing,
}

impl Exclusion {
    /// The exclusion that a function's name marks.
    pub(crate) fn of_mark(name: &str) -> Option<Exclusion> {
        match name.strip_prefix(EXCLUDE)? {
            "current_row" => Some(Exclusion::CurrentRow),
            "group" => Some(Exclusion::Group),
            "ties" => Some(Exclusion::Ties),
            _ => None,
        }
    }
}

/// What a stored plan says of such an aggregate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoredExcluding {
    aggregate: String,
    exclusion: Exclusion,
    n_args: usize,
    n_order: usize,
    has_filter: bool,
}

impl StoredExcluding {
    /// The aggregate's name.
    pub(crate) fn aggregate(&self) -> &str {
        &self.aggregate
    }
}

/// An aggregate over what is left of its frames.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Excluding {
    function: Arc<AggregateUDF>,
    exclusion: Exclusion,
    /// Arguments of the aggregate; then come the columns of the order, and then a condition, if there is one.
    n_args: usize,
    n_order: usize,
    has_filter: bool,
    name: String,
    signature: Signature,
}

impl Excluding {
    /// The function and its arguments.
    pub(crate) fn call(
        function: Arc<AggregateUDF>,
        exclusion: Exclusion,
        mut args: Vec<Expr>,
        order_by: &[Sort],
        filter: Option<Expr>,
    ) -> (WindowFunctionDefinition, Vec<Expr>) {
        let stored = StoredExcluding {
            aggregate: function.name().to_owned(),
            exclusion,
            n_args: args.len(),
            n_order: order_by.len(),
            has_filter: filter.is_some(),
        };
        args.extend(order_by.iter().map(|sort| sort.expr.clone()));
        args.extend(filter);
        (WindowFunctionDefinition::WindowUDF(Excluding::of_stored(stored, function)), args)
    }

    /// The function of an aggregate that a stored plan has.
    pub(crate) fn of_stored(stored: StoredExcluding, function: Arc<AggregateUDF>) -> Arc<WindowUDF> {
        let StoredExcluding { exclusion, n_args, n_order, has_filter, .. } = stored;
        let name = format!("{}_{exclusion:?}", function.name());
        let signature = Signature::user_defined(Volatility::Immutable);
        let excluding = Excluding { function, exclusion, n_args, n_order, has_filter, name, signature };
        Arc::new(WindowUDF::new_from_impl(excluding))
    }

    /// What a stored plan says of it. Its aggregate is one of those that SQL can name.
    pub(crate) fn stored(&self) -> StoredExcluding {
        let Excluding { exclusion, n_args, n_order, has_filter, .. } = *self;
        StoredExcluding { aggregate: self.function.name().to_owned(), exclusion, n_args, n_order, has_filter }
    }

    /// The aggregate over frames behind a window function, if it is one.
    pub(crate) fn of(function: &WindowUDF) -> Option<&Excluding> {
        let inner: &dyn std::any::Any = function.inner().as_ref();
        inner.downcast_ref::<Excluding>()
    }

    /// The aggregate's name.
    pub(crate) fn aggregate(&self) -> &str {
        self.function.name()
    }

    /// How many of the arguments are the aggregate's.
    pub(crate) fn n_args(&self) -> usize {
        self.n_args
    }

    /// Whether the last argument is a condition.
    pub(crate) fn has_filter(&self) -> bool {
        self.has_filter
    }

    /// The aggregate's arguments of the types that it takes.
    fn coerced(&self, fields: &[FieldRef]) -> Result<Vec<FieldRef>> {
        fields_with_udf(&fields[..self.n_args], self.function.as_ref())
    }

    /// The aggregate over columns `0..n_args`, constants apart.
    fn bind(&self, args: &PartitionEvaluatorArgs<'_>) -> Result<AggregateFunctionExpr> {
        let fields = args.input_fields()[..self.n_args].iter().enumerate();
        let fields: Vec<Field> = fields.map(|(i, f)| f.as_ref().clone().with_name(format!("a{i}"))).collect();
        let argument = |(i, expr): (usize, &Arc<dyn PhysicalExpr>)| -> Result<Arc<dyn PhysicalExpr>> {
            Ok(match expr.downcast_ref::<Literal>() {
                // nth_value() knows no other number.
                Some(literal) if i > 0 && literal.value().data_type().is_integer() => {
                    Arc::new(Literal::new(literal.value().cast_to(&DataType::Int64)?))
                }
                Some(_) => Arc::clone(expr),
                None => Arc::new(Column::new(&format!("a{i}"), i)),
            })
        };
        let exprs = args.input_exprs()[..self.n_args].iter().enumerate().map(argument).collect::<Result<_>>()?;
        AggregateExprBuilder::new(Arc::clone(&self.function), exprs)
            .schema(Arc::new(Schema::new(fields)))
            .alias(self.function.name())
            .with_ignore_nulls(args.ignore_nulls())
            .build()
    }
}

impl WindowUDFImpl for Excluding {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let fields: Vec<FieldRef> = arg_types.iter().map(|t| Arc::new(Field::new("", t.clone(), true))).collect();
        let coerced = self.coerced(&fields)?.iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        Ok(coerced.into_iter().chain(arg_types[self.n_args..].iter().cloned()).collect())
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        Ok(Box::new(Evaluator {
            function: self.bind(&args)?,
            exclusion: self.exclusion,
            order: self.n_args..self.n_args + self.n_order,
            filter: self.has_filter.then_some(self.n_args + self.n_order),
            row: 0,
            peers: Vec::new(),
        }))
    }

    fn field(&self, args: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.function.return_field(&self.coerced(args.input_fields())?)?;
        Ok(Arc::new(field.as_ref().clone().with_name(args.name()).with_nullable(true)))
    }
}

/// Goes through the rows of one partition, in order.
#[derive(Debug)]
struct Evaluator {
    function: AggregateFunctionExpr,
    exclusion: Exclusion,
    /// Where the columns of the order stand among the values.
    order: Range<usize>,
    /// Where the condition stands.
    filter: Option<usize>,
    /// The row that is next.
    row: usize,
    /// Runs of rows that are equal in the order, found with the first row.
    peers: Vec<Range<usize>>,
}

impl Evaluator {
    /// The run of equal rows in which a row lies.
    fn peers_of(&self, row: usize) -> Range<usize> {
        self.peers[self.peers.partition_point(|run| run.end <= row)].clone()
    }

    /// What is left of a row's frame, in order.
    fn rest(&self, row: usize, frame: &Range<usize>) -> [Range<usize>; 3] {
        let excluded = match self.exclusion {
            Exclusion::Nothing => return [frame.clone(), 0..0, 0..0],
            Exclusion::CurrentRow => row..row + 1,
            Exclusion::Group | Exclusion::Ties => self.peers_of(row),
        };
        let before = frame.start..excluded.start.min(frame.end);
        let after = excluded.end.max(frame.start)..frame.end;
        let itself = match self.exclusion {
            Exclusion::Ties if frame.contains(&row) => row..row + 1,
            _ => 0..0,
        };
        [before, itself, after]
    }
}

impl PartitionEvaluator for Evaluator {
    fn evaluate(&mut self, values: &[ArrayRef], frame: &Range<usize>) -> Result<ScalarValue> {
        let row = self.row;
        self.row += 1;
        if row == 0 {
            let n_rows = values.first().map_or(0, |v| v.len());
            self.peers = match self.order.is_empty() {
                true => std::iter::once(0..n_rows).collect(),
                false => partition(&values[self.order.clone()])?.ranges(),
            };
        }
        let mut accumulator = self.function.create_accumulator()?;
        for rows in self.rest(row, frame).into_iter().filter(|rows| rows.start < rows.end) {
            let mask: Option<BooleanArray> =
                self.filter.map(|at| values[at].as_boolean().slice(rows.start, rows.len()));
            let piece = values[..self.order.start].iter().map(|v| {
                let piece = v.slice(rows.start, rows.len());
                Ok(match &mask {
                    Some(mask) => filter(&piece, mask)?,
                    None => piece,
                })
            });
            accumulator.update_batch(&piece.collect::<Result<Vec<_>>>()?)?;
        }
        accumulator.evaluate()
    }

    fn uses_window_frame(&self) -> bool {
        true
    }
}
