//! Plans in the form that is kept on disk: a dataflow, and how its result is kept.
//!
//! ```text
//!   "MSPLAN01" | version u32 | length of the JSON u32 | JSON | types, schemas and constants as an Arrow IPC stream
//! ```
//!
//! What is decoded is the dataflow that was encoded: it explains itself in the same lines, gives the same bytes when it is
//! encoded again, and does the same. A form that this release does not know is an error, never a guess. The bytes have
//! no checksum: what they are stored in has one.

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use millstream_expr::encoded::{
    Decoder, Encoder, FieldNumber, Functions, PoolReader, column_of, damaged, form_of, json,
};
use millstream_types::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::aggregate::{AggregateSpec, DistinctPartialSpec, DistinctReduceSpec, PartialAggregateSpec};
use crate::constant::ConstantSpec;
use crate::dataflow::{Dataflow, Edge, Node, NodeFacts, NodeId, RelationId};
use crate::flat_map::FlatMapSpec;
use crate::hash_join::HashJoinSpec;
use crate::map::MapSpec;
use crate::materialize::MaterializeSpec;
use crate::operator::OperatorSpec;
use crate::recompute::RecomputeSpec;
use crate::top_n::TopNSpec;
use crate::union::UnionSpec;
use crate::window::WindowSpec;

const MAGIC: &[u8; 8] = b"MSPLAN01";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = MAGIC.len() + 8;

/// Makes an operator of its form and the schemas of its inputs.
type Decode = fn(Value, &[SchemaRef], &Decoder<'_>) -> Result<Arc<dyn OperatorSpec>>;

/// All operators, by the names that plans have for them.
const OPERATORS: &[(&str, Decode)] = &[
    entry::<AggregateSpec>(),
    entry::<ConstantSpec>(),
    entry::<DistinctPartialSpec>(),
    entry::<DistinctReduceSpec>(),
    entry::<FlatMapSpec>(),
    entry::<HashJoinSpec>(),
    entry::<MapSpec>(),
    entry::<PartialAggregateSpec>(),
    entry::<RecomputeSpec>(),
    entry::<TopNSpec>(),
    entry::<UnionSpec>(),
    entry::<WindowSpec>(),
];

const fn entry<S: StoredSpec>() -> (&'static str, Decode) {
    (S::KIND, |form, inputs, decoder| Ok(Arc::new(S::of_form(form_of(form)?, inputs, decoder)?)))
}

/// A spec with a form that is kept. It is one of [`OPERATORS`].
pub(crate) trait StoredSpec: OperatorSpec + Sized + 'static {
    /// The operator's name in plans, for ever.
    const KIND: &'static str;
    /// The form; the names that serde sees are the format.
    type Form: Serialize + DeserializeOwned;

    /// The spec in its form.
    fn form(&self, encoder: &mut Encoder<'_>) -> Result<Self::Form>;

    /// The spec of a form, over inputs of these schemas.
    fn of_form(form: Self::Form, inputs: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self>;
}

/// A spec in its form.
#[derive(Debug)]
pub struct EncodedSpec {
    kind: &'static str,
    spec: Value,
}

impl EncodedSpec {
    /// The form of a spec.
    #[expect(private_bounds, reason = "operators are of this crate")]
    pub fn of<S: StoredSpec>(spec: &S, encoder: &mut Encoder<'_>) -> Result<Self> {
        Ok(EncodedSpec { kind: S::KIND, spec: json(&spec.form(encoder)?)? })
    }
}

/// An input's schema.
pub(crate) fn input(inputs: &[SchemaRef], port: usize) -> Result<&SchemaRef> {
    inputs.get(port).ok_or_else(|| damaged(format!("an operator without input {port}")))
}

/// Columns that a form names, if a schema has them.
pub(crate) fn columns(columns: Vec<usize>, schema: &SchemaRef) -> Result<Vec<usize>> {
    check_columns(&columns, schema)?;
    Ok(columns)
}

/// Whether a schema has columns.
pub(crate) fn check_columns(columns: &[usize], schema: &SchemaRef) -> Result<()> {
    columns.iter().try_for_each(|c| column_of(*c, schema).map(|_| ()))
}

/// The form of a plan.
#[derive(Serialize, Deserialize)]
struct PlanForm {
    nodes: Vec<NodeForm>,
    facts: BTreeMap<NodeId, NodeFacts>,
    result: ResultForm,
}

/// The form of a [`Node`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum NodeForm {
    Import { relation: RelationId, name: String, projection: Vec<usize>, schema: FieldNumber, changes_only: bool },
    Operator { kind: String, spec: Value, inputs: Vec<Edge> },
}

/// The form of a [`MaterializeSpec`].
#[derive(Serialize, Deserialize)]
struct ResultForm {
    schema: FieldNumber,
    key: Option<Vec<usize>>,
    partitioned_by: Option<Vec<usize>>,
    append_only: bool,
    consolidated: bool,
    indexes: Vec<Vec<usize>>,
}

/// A plan as bytes. Equal plans give equal bytes.
///
/// # Errors
/// Internal, if some part of it has no form.
pub fn encode(dataflow: &Dataflow, result: &MaterializeSpec, functions: &dyn Functions) -> Result<Vec<u8>> {
    let mut encoder = Encoder::new(functions);
    let form = PlanForm {
        nodes: dataflow.nodes.iter().map(|node| NodeForm::of(node, &mut encoder)).collect::<Result<_>>()?,
        facts: dataflow.facts.clone(),
        result: ResultForm::of(result, &mut encoder),
    };
    let too_large = |_| Error::internal("a plan of more than 4 GB");
    let form = serde_json::to_vec(&form).map_err(|e| Error::internal(format!("a plan without JSON: {e}")))?;
    let pool = encoder.pool.finish()?;
    let mut bytes = Vec::with_capacity(HEADER_BYTES + form.len() + pool.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(form.len()).map_err(too_large)?.to_le_bytes());
    bytes.extend_from_slice(&form);
    bytes.extend_from_slice(&pool);
    Ok(bytes)
}

/// The plan that was encoded. Expressions may be deep, and DataFusion goes through some of them by calling itself: this wants a
/// stack as deep as planning does.
///
/// # Errors
/// Not supported, if this release does not know the version, or an operator or a function of the plan: the view's query
/// is to be planned anew. Internal, if the bytes are no plan.
pub fn decode(bytes: &[u8], functions: &dyn Functions) -> Result<(Dataflow, MaterializeSpec)> {
    let (form, pool) = split(bytes)?;
    let form: PlanForm = serde_json::from_slice(form).map_err(|e| damaged(format!("unexpected JSON: {e}")))?;
    let decoder = Decoder { functions, pool: PoolReader::new(pool)? };
    let mut dataflow = Dataflow { nodes: Vec::with_capacity(form.nodes.len()), facts: form.facts };
    for node in form.nodes {
        let node = node.decode(&dataflow, &decoder)?;
        dataflow.add(node);
    }
    if dataflow.nodes.is_empty() || dataflow.facts.keys().any(|node| *node >= dataflow.nodes.len()) {
        return Err(damaged("a plan without the nodes that it speaks of"));
    }
    for (node, facts) in &dataflow.facts {
        check_columns(facts.key.as_deref().unwrap_or_default(), &dataflow.schema(*node))?;
    }
    Ok((dataflow, form.result.decode(&decoder)?))
}

/// The JSON and the pool of a plan of a known version.
fn split(bytes: &[u8]) -> Result<(&[u8], &[u8])> {
    let cut_off = || damaged("it is cut off");
    let (header, rest) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(cut_off)?;
    let number = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..MAGIC.len()] != *MAGIC {
        return Err(damaged("it does not begin as plans do"));
    }
    match number(MAGIC.len()) {
        VERSION => rest.split_at_checked(number(MAGIC.len() + 4) as usize).ok_or_else(cut_off),
        other => {
            Err(Error::not_supported(format!("a stored plan is of version {other}, and this release knows {VERSION}")))
        }
    }
}

impl NodeForm {
    fn of(node: &Node, encoder: &mut Encoder<'_>) -> Result<Self> {
        Ok(match node {
            Node::Import { relation, name, projection, schema, changes_only } => NodeForm::Import {
                relation: *relation,
                name: name.clone(),
                projection: projection.clone(),
                schema: encoder.schema(schema),
                changes_only: *changes_only,
            },
            Node::Operator { spec, inputs } => {
                let EncodedSpec { kind, spec } = spec.encode(encoder)?;
                NodeForm::Operator { kind: kind.to_owned(), spec, inputs: inputs.clone() }
            }
        })
    }

    /// The node, behind those that are in the dataflow already.
    fn decode(self, dataflow: &Dataflow, decoder: &Decoder<'_>) -> Result<Node> {
        Ok(match self {
            NodeForm::Import { relation, name, projection, schema, changes_only } => {
                Node::Import { relation, name, projection, schema: decoder.schema(schema)?, changes_only }
            }
            NodeForm::Operator { kind, spec, inputs } => {
                let (_, decode) = OPERATORS.iter().find(|(name, _)| *name == kind).ok_or_else(|| {
                    Error::not_supported(format!("operator \"{kind}\" of a stored plan is not known"))
                })?;
                if inputs.iter().any(|edge| edge.from >= dataflow.nodes.len()) {
                    return Err(damaged("an operator that comes before its inputs"));
                }
                let schemas: Vec<SchemaRef> = inputs.iter().map(|edge| dataflow.schema(edge.from)).collect();
                for (edge, schema) in inputs.iter().zip(&schemas) {
                    check_columns(edge.exchange.partitioned_by(), schema)?;
                }
                Node::Operator { spec: decode(spec, &schemas, decoder)?, inputs }
            }
        })
    }
}

impl ResultForm {
    fn of(result: &MaterializeSpec, encoder: &mut Encoder<'_>) -> Self {
        ResultForm {
            schema: encoder.schema(&result.schema),
            key: result.key.clone(),
            partitioned_by: result.partitioned_by.clone(),
            append_only: result.append_only,
            consolidated: result.consolidated,
            indexes: result.indexes.clone(),
        }
    }

    fn decode(self, decoder: &Decoder<'_>) -> Result<MaterializeSpec> {
        let ResultForm { schema, key, partitioned_by, append_only, consolidated, indexes } = self;
        Ok(MaterializeSpec { schema: decoder.schema(schema)?, key, partitioned_by, append_only, consolidated, indexes })
    }
}
