//! Scalar expressions, node by node.
//!
//! The nodes of an expression are a list, each after those that it is over, which it names by position; the last one is
//! the expression. So neither the JSON nor who reads it nests as deeply as expressions do.
//!
//! These are the kinds of nodes that DataFusion makes of the planner's expressions. What an expression becomes where a
//! batch fails (`short_circuit`) is made of it then, and is not kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::compute::CastOptions;
use arrow::datatypes::{Field, FieldRef, SchemaRef};
use datafusion::common::format::DEFAULT_CAST_OPTIONS;
use datafusion::common::metadata::FieldMetadata;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr, Literal, NegativeExpr,
    NotExpr, TryCastExpr,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use millstream_types::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Decoder, Encoder, FieldNumber, Place, column_of, damaged, is_false};
use crate::scalar::{Scalar, error_of};

/// The form of an expression.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ScalarForm(Vec<Node>);

/// A node. Those that it is over are named by their positions.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Node {
    Column {
        name: String,
        index: usize,
    },
    Literal {
        value: Place,
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        metadata: BTreeMap<String, String>,
    },
    Binary {
        op: String,
        left: usize,
        right: usize,
        #[serde(default, skip_serializing_if = "is_false")]
        fail_on_overflow: bool,
    },
    Case {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        of: Option<usize>,
        when_then: Vec<(usize, usize)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        otherwise: Option<usize>,
    },
    Cast {
        arg: usize,
        to: Target,
        #[serde(default, skip_serializing_if = "is_false")]
        safe: bool,
    },
    TryCast {
        arg: usize,
        to: Target,
    },
    InList {
        arg: usize,
        list: Vec<usize>,
        #[serde(default, skip_serializing_if = "is_false")]
        negated: bool,
    },
    Like {
        arg: usize,
        pattern: usize,
        #[serde(default, skip_serializing_if = "is_false")]
        negated: bool,
        #[serde(default, skip_serializing_if = "is_false")]
        case_insensitive: bool,
    },
    IsNull(usize),
    IsNotNull(usize),
    Not(usize),
    Negative(usize),
    Function {
        function: Value,
        args: Vec<usize>,
        returns: FieldNumber,
    },
}

/// What a cast is to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Target {
    /// A type; nullability and metadata are those of what is cast.
    Type(FieldNumber),
    /// A field, with its nullability and metadata.
    Field(FieldNumber),
}

impl ScalarForm {
    /// Goes through the expression without calling itself: chains of operators are deep.
    pub(super) fn of(scalar: &Scalar, encoder: &mut Encoder<'_>) -> Result<Self> {
        enum Step<'a> {
            Enter(&'a Arc<dyn PhysicalExpr>),
            Leave(&'a Arc<dyn PhysicalExpr>, usize),
        }
        let mut nodes = Vec::new();
        let mut done: Vec<usize> = Vec::new();
        let mut steps = vec![Step::Enter(scalar.inner())];
        while let Some(step) = steps.pop() {
            match step {
                Step::Enter(expr) => {
                    let children = expr.children();
                    steps.push(Step::Leave(expr, children.len()));
                    steps.extend(children.into_iter().rev().map(Step::Enter));
                }
                Step::Leave(expr, n_children) => {
                    let children = done.split_off(done.len() - n_children);
                    nodes.push(encoder.node(expr, &children)?);
                    done.push(nodes.len() - 1);
                }
            }
        }
        Ok(ScalarForm(nodes))
    }

    pub(super) fn decode(&self, input: &SchemaRef, decoder: &Decoder<'_>) -> Result<Scalar> {
        let mut built: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(self.0.len());
        for node in &self.0 {
            built.push(node.decode(&Built(&built), input, decoder)?);
        }
        built.pop().map(Scalar::new).ok_or_else(|| damaged("an expression without nodes"))
    }
}

impl Encoder<'_> {
    /// The node of an expression, over its children in their order.
    fn node(&mut self, expr: &Arc<dyn PhysicalExpr>, children: &[usize]) -> Result<Node> {
        if let Some(node) = plain_node(expr.as_ref(), children) {
            return Ok(node);
        }
        if let (Some(binary), &[left, right]) = (expr.downcast_ref::<BinaryExpr>(), children) {
            let (op, fail_on_overflow) = (operator_name(*binary.op())?, fails_on_overflow(expr, *binary.op())?);
            return Ok(Node::Binary { op, left, right, fail_on_overflow });
        }
        if let Some(literal) = expr.downcast_ref::<Literal>() {
            let field = literal.return_field(&arrow::datatypes::Schema::empty()).map_err(error_of)?;
            let metadata = field.metadata().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(Node::Literal { value: self.pool.value(literal.value())?, metadata });
        }
        if let (Some(cast), [arg]) = (expr.downcast_ref::<CastExpr>(), children) {
            let options = cast.cast_options();
            if options.format_options != DEFAULT_CAST_OPTIONS.format_options {
                return Err(Error::internal(format!("{cast} formats in a way that is not kept in plans")));
            }
            let to = self.target(cast.target_field(), cast.has_explicit_metadata());
            return Ok(Node::Cast { arg: *arg, to, safe: options.safe });
        }
        if let (Some(cast), [arg]) = (expr.downcast_ref::<TryCastExpr>(), children) {
            let to = self.target(cast.target_field(), cast.target_metadata().is_some());
            return Ok(Node::TryCast { arg: *arg, to });
        }
        match expr.downcast_ref::<ScalarFunctionExpr>() {
            Some(call) => self.call(call, children),
            None => Err(has_no_form(expr.as_ref())),
        }
    }

    fn target(&mut self, field: &FieldRef, is_explicit: bool) -> Target {
        if is_explicit {
            return Target::Field(self.pool.field(field));
        }
        Target::Type(self.pool.field(&Arc::new(Field::new("", field.data_type().clone(), true))))
    }

    fn call(&mut self, call: &ScalarFunctionExpr, children: &[usize]) -> Result<Node> {
        let function = call.fun();
        let is_ours = std::ptr::eq(call.config_options(), self.functions.options().as_ref());
        if call.name() != function.name() || !is_ours {
            return Err(Error::internal(format!("the call {call} was not made by the planner")));
        }
        let returned = call.return_field(&arrow::datatypes::Schema::empty()).map_err(error_of)?;
        Ok(Node::Function {
            function: self.functions.name_of_scalar(function)?,
            args: children.to_vec(),
            returns: self.pool.field(&returned),
        })
    }
}

/// The node of an expression that is nothing but its children and some flags.
fn plain_node(expr: &dyn PhysicalExpr, children: &[usize]) -> Option<Node> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        return Some(Node::Column { name: column.name().to_owned(), index: column.index() });
    }
    if let Some(case) = expr.downcast_ref::<CaseExpr>() {
        let (of, rest) = children.split_at(usize::from(case.expr().is_some()));
        let (when_then, otherwise) = rest.split_at(2 * case.when_then_expr().len());
        let when_then = when_then.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        return Some(Node::Case { of: of.first().copied(), when_then, otherwise: otherwise.first().copied() });
    }
    if let (Some(in_list), [arg, list @ ..]) = (expr.downcast_ref::<InListExpr>(), children) {
        return Some(Node::InList { arg: *arg, list: list.to_vec(), negated: in_list.negated() });
    }
    if let (Some(like), &[arg, pattern]) = (expr.downcast_ref::<LikeExpr>(), children) {
        let (negated, case_insensitive) = (like.negated(), like.case_insensitive());
        return Some(Node::Like { arg, pattern, negated, case_insensitive });
    }
    let &[arg] = children else { return None };
    if expr.is::<IsNullExpr>() {
        return Some(Node::IsNull(arg));
    }
    if expr.is::<IsNotNullExpr>() {
        return Some(Node::IsNotNull(arg));
    }
    if expr.is::<NotExpr>() {
        return Some(Node::Not(arg));
    }
    expr.is::<NegativeExpr>().then_some(Node::Negative(arg))
}

/// The name under which DataFusion reads an operator, too.
fn operator_name(op: Operator) -> Result<String> {
    let name = format!("{op:?}");
    match Operator::from_proto_name(&name) {
        Some(named) if named == op => Ok(name),
        _ => Err(Error::internal(format!("operator {op} has no form that is kept in plans"))),
    }
}

/// Whether an operator is checked, which it only tells by what it is equal to: with other operands, which are quick to
/// compare.
fn fails_on_overflow(expr: &Arc<dyn PhysicalExpr>, op: Operator) -> Result<bool> {
    let operand = || -> Arc<dyn PhysicalExpr> { Arc::new(Column::new("", 0)) };
    let alike = Arc::clone(expr).with_new_children(vec![operand(), operand()]).map_err(error_of)?;
    let checked = BinaryExpr::new(operand(), op, operand()).with_fail_on_overflow(true);
    Ok(alike.downcast_ref::<BinaryExpr>() == Some(&checked))
}

fn has_no_form(expr: &dyn PhysicalExpr) -> Error {
    let debug = format!("{expr:?}");
    let kind = debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
    Error::internal(format!("an expression of the kind {kind} has no form that is kept in plans"))
}

/// The nodes before one.
struct Built<'a>(&'a [Arc<dyn PhysicalExpr>]);

impl Built<'_> {
    fn at(&self, position: usize) -> Result<Arc<dyn PhysicalExpr>> {
        let expr = self.0.get(position).cloned();
        expr.ok_or_else(|| damaged(format!("node {} over node {position}", self.0.len())))
    }

    fn all(&self, positions: &[usize]) -> Result<Vec<Arc<dyn PhysicalExpr>>> {
        positions.iter().map(|p| self.at(*p)).collect()
    }
}

impl Node {
    fn decode(&self, built: &Built<'_>, input: &SchemaRef, decoder: &Decoder<'_>) -> Result<Arc<dyn PhysicalExpr>> {
        Ok(match self {
            Node::Column { name, index } => Arc::new(Column::new(name, column_of(*index, input)?)),
            Node::Literal { value, metadata } => {
                let metadata = (!metadata.is_empty()).then(|| FieldMetadata::from(metadata.clone()));
                Arc::new(Literal::new_with_metadata(decoder.value(*value)?, metadata))
            }
            Node::Binary { op, left, right, fail_on_overflow } => {
                let unknown = || Error::not_supported(format!("operator {op} of a stored plan is not known"));
                let op = Operator::from_proto_name(op).ok_or_else(unknown)?;
                let binary = BinaryExpr::new(built.at(*left)?, op, built.at(*right)?);
                Arc::new(binary.with_fail_on_overflow(*fail_on_overflow))
            }
            Node::Case { of, when_then, otherwise } => {
                let pairs = when_then.iter().map(|(when, then)| Ok((built.at(*when)?, built.at(*then)?)));
                let of = of.map(|of| built.at(of)).transpose()?;
                let otherwise = otherwise.map(|at| built.at(at)).transpose()?;
                Arc::new(CaseExpr::try_new(of, pairs.collect::<Result<_>>()?, otherwise).map_err(refused)?)
            }
            Node::Cast { arg, to, safe } => {
                let options = Some(CastOptions { safe: *safe, ..DEFAULT_CAST_OPTIONS });
                Arc::new(match to {
                    Target::Type(number) => {
                        CastExpr::new(built.at(*arg)?, decoder.field(*number)?.data_type().clone(), options)
                    }
                    Target::Field(number) => {
                        CastExpr::new_with_target_field(built.at(*arg)?, decoder.field(*number)?, options)
                    }
                })
            }
            Node::TryCast { arg, to } => Arc::new(match to {
                Target::Type(number) => TryCastExpr::new(built.at(*arg)?, decoder.field(*number)?.data_type().clone()),
                Target::Field(number) => TryCastExpr::new_with_target_field(built.at(*arg)?, decoder.field(*number)?),
            }),
            Node::InList { arg, list, negated } => {
                let list = built.all(list)?;
                Arc::new(InListExpr::try_new(built.at(*arg)?, list, *negated, input).map_err(refused)?)
            }
            Node::Like { arg, pattern, negated, case_insensitive } => {
                Arc::new(LikeExpr::new(*negated, *case_insensitive, built.at(*arg)?, built.at(*pattern)?))
            }
            Node::IsNull(arg) => Arc::new(IsNullExpr::new(built.at(*arg)?)),
            Node::IsNotNull(arg) => Arc::new(IsNotNullExpr::new(built.at(*arg)?)),
            Node::Not(arg) => Arc::new(NotExpr::new(built.at(*arg)?)),
            Node::Negative(arg) => Arc::new(NegativeExpr::new(built.at(*arg)?)),
            Node::Function { function, args, returns } => {
                let function = decoder.functions.scalar(function)?;
                let options = Arc::clone(decoder.functions.options());
                let (name, args) = (function.name().to_owned(), built.all(args)?);
                Arc::new(ScalarFunctionExpr::new(&name, function, args, decoder.field(*returns)?, options))
            }
        })
    }
}

/// What DataFusion says of a node.
fn refused(error: DataFusionError) -> Error {
    damaged(error)
}
