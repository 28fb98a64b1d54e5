//! Filter and project, fused.

use arrow::datatypes::SchemaRef;
use millstream_expr::Stages;
use millstream_types::{Delta, EpochHeader, Result};

use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Port, Progress};

/// Filters and projections, one after the other.
#[derive(Clone, Debug)]
pub struct MapSpec {
    /// At least one stage.
    pub stages: Stages,
    /// The schema of the output.
    pub schema: SchemaRef,
}

impl OperatorSpec for MapSpec {
    fn name(&self) -> &'static str {
        "Map"
    }

    fn describe(&self) -> String {
        let mut parts = Vec::new();
        for stage in &self.stages.0 {
            if let Some(predicate) = &stage.predicate {
                parts.push(format!("where {predicate}"));
            }
            if let Some(projection) = &stage.projection {
                let exprs = projection.iter().zip(stage.schema.fields()).map(|(e, f)| match e.to_string() {
                    text if text.split('@').next() == Some(f.name()) => f.name().clone(),
                    text => format!("{text} as {}", f.name()),
                });
                parts.push(format!("({})", exprs.collect::<Vec<_>>().join(", ")));
            }
        }
        parts.join(" ")
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn is_stateless(&self) -> bool {
        true
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Map { stages: self.stages.clone() }))
    }
}

struct Map {
    stages: Stages,
}

impl Operator for Map {
    fn push(&mut self, _: Port, delta: Delta, out: &mut Output) -> Result<Progress> {
        let mapped = self.stages.evaluate(delta, &mut out.errors)?;
        out.emit(mapped);
        Ok(Progress::Done)
    }

    fn end_epoch(&mut self, _: &EpochHeader, _: &mut Output) -> Result<Progress> {
        Ok(Progress::Done)
    }
}
