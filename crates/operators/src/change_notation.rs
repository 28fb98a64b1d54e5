//! Tests of operators in change notation: `+ 1 a` is a row that comes, `- 1 a` one that goes, `+2 1 a` one that comes twice.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Int64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use millstream_types::{Delta, Epoch, EpochHeader};

use crate::materialize::consolidate;
use crate::operator::{BuildContext, Operator, OperatorSpec, Output, Progress};

/// Rows in change notation, of `bigint`, `text` and `bigint[]` columns.
pub(crate) fn delta(schema: &SchemaRef, text: &str) -> Delta {
    let lines: Vec<Vec<&str>> =
        text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>()).filter(|l| !l.is_empty()).collect();
    let weight = |sign: &str| match sign {
        "+" => 1,
        "-" => -1,
        other => other.parse().expect("a weight"),
    };
    let column = |(c, data_type): (usize, &DataType)| -> ArrayRef {
        let values = lines.iter().map(|l| Some(l[c + 1]).filter(|v| *v != "NULL"));
        match data_type {
            DataType::Int64 => {
                Arc::new(values.map(|v| v.map(|v| v.parse::<i64>().expect("a number"))).collect::<Int64Array>())
            }
            DataType::List(_) => {
                let list = |v: &str| {
                    let inner = v.trim_matches(['{', '}']);
                    let elements = inner.split(',').filter(|e| !e.is_empty());
                    elements.map(|e| Some(e.parse::<i64>().expect("a number"))).collect::<Vec<_>>()
                };
                Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(values.map(|v| v.map(list))))
            }
            _ => Arc::new(values.collect::<StringViewArray>()),
        }
    };
    let columns = schema.fields().iter().map(|f| f.data_type()).enumerate().map(column).collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema");
    Delta::new(batch, Some(lines.iter().map(|l| weight(l[0])).collect()))
}

/// The sum of deltas in change notation, sorted.
pub(crate) fn notation(schema: &SchemaRef, deltas: &[Delta]) -> Vec<String> {
    let sum = consolidate(&Delta::concat(schema, deltas).expect("one schema")).expect("types with an order");
    let options = FormatOptions::default().with_null("NULL");
    let formatters: Vec<ArrayFormatter<'_>> =
        sum.columns().iter().map(|c| ArrayFormatter::try_new(c.as_ref(), &options).expect("shown")).collect();
    let line = |i: usize| {
        let values: Vec<String> =
            formatters.iter().map(|f| f.value(i).to_string().replace(", ", ",").replace(['[', ']'], "|")).collect();
        let sign = match sum.weight(i) {
            1 => "+".to_owned(),
            -1 => "-".to_owned(),
            w => format!("{w:+}"),
        };
        format!("{sign} {}", values.join(" "))
    };
    let mut lines: Vec<String> = (0..sum.n_rows()).map(line).collect();
    lines.sort();
    lines
}

struct Run {
    operator: Box<dyn Operator>,
    schema: SchemaRef,
}

impl Run {
    fn drain(&mut self, mut progress: Progress, out: &mut Output, deltas: &mut Vec<Delta>) {
        loop {
            deltas.extend(out.take());
            if progress == Progress::Done {
                return;
            }
            progress = self.operator.resume(out).expect("the operator goes on");
        }
    }

    fn epoch(&mut self, number: u64, input: &[Delta]) -> (Vec<String>, Vec<String>) {
        let mut out = Output::default();
        let mut deltas = Vec::new();
        for delta in input {
            let progress = self.operator.push(0, delta.clone(), &mut out).expect("the operator takes rows");
            self.drain(progress, &mut out, &mut deltas);
        }
        let header = EpochHeader { epoch: Epoch(number), now_us: 0 };
        let progress = self.operator.end_epoch(&header, &mut out).expect("the epoch ends");
        self.drain(progress, &mut out, &mut deltas);
        let errors = out.errors.take().into_iter().map(|e| format!("{:+} {}", e.weight, e.error.message())).collect();
        (notation(&self.schema, &deltas), errors)
    }
}

/// Runs epochs through an operator and compares what it emits in each: whole, row by row, and in the opposite order.
/// Returns the operator, and the errors of the rows that failed in each epoch.
pub(crate) fn check(
    spec: &dyn OperatorSpec,
    input: &SchemaRef,
    epochs: &[(&str, &[&str])],
) -> (Box<dyn Operator>, Vec<Vec<String>>) {
    let mut result = None;
    for split in ["backwards", "row by row", "whole"] {
        let operator = spec.build(BuildContext::alone()).expect("types can be kept");
        let mut run = Run { operator, schema: spec.schema() };
        let mut all_errors = Vec::new();
        for (i, (rows, expected)) in epochs.iter().enumerate() {
            let whole = delta(input, rows);
            let single = || (0..whole.n_rows()).map(|r| whole.slice(r, 1));
            let pieces: Vec<Delta> = match split {
                "whole" => vec![whole.clone()],
                "backwards" => single().rev().collect(),
                _ => single().collect(),
            };
            let (mut expected, (found, errors)) = (expected.to_vec(), run.epoch(i as u64 + 1, &pieces));
            expected.sort_unstable();
            assert_eq!(found, expected, "epoch {}, {split}", i + 1);
            all_errors.push(errors);
        }
        result = Some((run.operator, all_errors));
    }
    result.expect("three runs")
}
