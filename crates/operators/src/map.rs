//! Filter and project, fused.

use arrow::datatypes::SchemaRef;
use millstream_expr::Stages;
use millstream_expr::encoded::{Decoder, Encoder, FieldNumber, StageForm};
use millstream_state::{SavedState, StateChanges};
use millstream_types::{Delta, EpochHeader, Result};
use serde::{Deserialize, Serialize};

use crate::encoded::{self, EncodedSpec, StoredSpec};
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

    fn encode(&self, encoder: &mut Encoder<'_>) -> Result<EncodedSpec> {
        EncodedSpec::of(self, encoder)
    }

    fn build(&self, _: BuildContext) -> Result<Box<dyn Operator>> {
        Ok(Box::new(Map { stages: self.stages.clone() }))
    }
}

/// The form of a [`MapSpec`].
#[derive(Serialize, Deserialize)]
pub(crate) struct MapForm {
    stages: Vec<StageForm>,
    schema: FieldNumber,
}

impl StoredSpec for MapSpec {
    const KIND: &'static str = "map";
    type Form = MapForm;

    fn form(&self, encoder: &mut Encoder<'_>) -> Result<MapForm> {
        Ok(MapForm { stages: encoder.stages(&self.stages)?, schema: encoder.schema(&self.schema) })
    }

    fn of_form(form: MapForm, inputs: &[SchemaRef], decoder: &Decoder<'_>) -> Result<Self> {
        let stages = decoder.stages(&form.stages, encoded::input(inputs, 0)?)?;
        Ok(MapSpec { stages, schema: decoder.schema(form.schema)? })
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

    fn save(&self, _: &[Vec<usize>], _: &mut StateChanges) -> Result<()> {
        Ok(())
    }

    fn track_changes(&mut self) {}

    fn save_changes(&mut self, _: &[Vec<usize>], _: &mut StateChanges) -> Result<Progress> {
        Ok(Progress::Done)
    }

    fn restore(&mut self, _: &mut SavedState) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::DataType;
    use datafusion::common::ScalarValue;
    use datafusion::logical_expr::Operator as Op;
    use datafusion::physical_expr::PhysicalExpr;
    use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
    use millstream_expr::{MapStage, Scalar};
    use millstream_types::delta::schema_of;

    use super::*;
    use crate::property::{self, Expected, Input, Rows};

    /// `SELECT 6 / x FROM input WHERE 6 / x < 4`, and then `SELECT 6 / y FROM ...` of that.
    #[test]
    fn rows_that_fail_are_errors_while_they_are_there() {
        let input = schema_of(&[("x", DataType::Int64)]);
        let output = schema_of(&[("y", DataType::Int64)]);
        let number = |n: i64| -> Arc<dyn PhysicalExpr> { Arc::new(Literal::new(ScalarValue::Int64(Some(n)))) };
        let column = |name: &str| -> Arc<dyn PhysicalExpr> { Arc::new(Column::new(name, 0)) };
        let binary = |l, op, r| -> Arc<dyn PhysicalExpr> { Arc::new(BinaryExpr::new(l, op, r)) };
        let quotient = |name: &str| binary(number(6), Op::Divide, column(name));
        let less = binary(quotient("x"), Op::Lt, number(4));
        let minus_two = binary(quotient("x"), Op::Minus, number(2));
        let stages = vec![
            MapStage {
                predicate: Some(Scalar::new(less)),
                projection: Some(vec![Scalar::new(minus_two)]),
                schema: output.clone(),
            },
            MapStage { predicate: None, projection: Some(vec![Scalar::new(quotient("y"))]), schema: output.clone() },
        ];
        let spec = MapSpec { stages: Stages(stages), schema: output.clone() };
        let definition = |inputs: &[Rows]| {
            let mut expected = Expected::default();
            let failed = |text: String| format!("division by zero: {text}");
            for (row, weight) in &inputs[0] {
                // Of 0 to 3, 2 passes with a difference of 1, 3 with one of 0.
                match row[0] {
                    Some(0) => *expected.errors.entry(failed(property::row_text(&input, row))).or_default() += weight,
                    Some(2) => *expected.rows.entry(vec![Some(6)]).or_default() += weight,
                    Some(3) => *expected.errors.entry(failed("y=0".to_owned())).or_default() += weight,
                    _ => {}
                }
            }
            expected
        };
        property::check("failing rows", &[Input::of(input.clone())], |_| property::operator(&spec), definition);
    }
}
