//! Windows of a SELECT: names, what they take from one another, and frames that make sense.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, Ident, NamedWindowExpr, Select, UnaryOperator, Value, WindowFrame, WindowFrameBound, WindowSpec,
    WindowType,
};
use millstream_types::{Error, Result, SqlState};

use super::{error_at, position_of};
use crate::parser::folded;
use crate::sql_exprs::visit_own;

/// Checks the windows that a SELECT defines and those of its calls.
///
/// # Errors
/// 42704 for a window that does not exist; 42P20 for one defined twice, for what contradicts the window that it builds on,
/// and for frames that end before they begin; 22013 for a negative offset.
pub(super) fn check_windows(select: &Select) -> Result<()> {
    let mut windows = Windows { known: Vec::new() };
    for window in &select.named_window {
        let name = folded(&window.0);
        if windows.find(&name).is_some() {
            let message = format!("window \"{name}\" is already defined");
            return Err(error_at(SqlState::WINDOWING_ERROR, message, window.0.span.start.column as usize));
        }
        let spec = match &window.1 {
            NamedWindowExpr::WindowSpec(spec) => spec,
            NamedWindowExpr::NamedWindow(base) => windows.existing(base)?,
        };
        windows.check_spec(spec)?;
        windows.known.push((name, spec));
    }
    let checked = visit_own(&select.projection, |expr| {
        let checked = match expr {
            Expr::Function(Function { over: Some(WindowType::NamedWindow(name)), .. }) => {
                windows.existing(name).map(|_| ())
            }
            Expr::Function(Function { over: Some(WindowType::WindowSpec(spec)), .. }) => windows.check_spec(spec),
            _ => Ok(()),
        };
        checked.map_or_else(ControlFlow::Break, ControlFlow::Continue)
    });
    checked.break_value().map_or(Ok(()), Err)
}

struct Windows<'a> {
    known: Vec<(String, &'a WindowSpec)>,
}

impl<'a> Windows<'a> {
    fn find(&self, name: &str) -> Option<&'a WindowSpec> {
        self.known.iter().find(|(known, _)| known == name).map(|(_, spec)| *spec)
    }

    fn existing(&self, name: &Ident) -> Result<&'a WindowSpec> {
        let folded = folded(name);
        self.find(&folded).ok_or_else(|| {
            let message = format!("window \"{folded}\" does not exist");
            error_at(SqlState::UNDEFINED_OBJECT, message, name.span.start.column as usize)
        })
    }

    fn check_spec(&self, spec: &WindowSpec) -> Result<()> {
        if let Some(name) = &spec.window_name {
            let base = self.existing(name)?;
            let refused = if !spec.partition_by.is_empty() {
                Some(("cannot override PARTITION BY clause of window", ""))
            } else if !spec.order_by.is_empty() && !base.order_by.is_empty() {
                Some(("cannot override ORDER BY clause of window", ""))
            } else if base.window_frame.is_some() {
                Some(("cannot copy window", " because it has a frame clause"))
            } else {
                None
            };
            if let Some((before, after)) = refused {
                let message = format!("{before} \"{}\"{after}", folded(name));
                return Err(error_at(SqlState::WINDOWING_ERROR, message, name.span.start.column as usize));
            }
        }
        spec.window_frame.as_ref().map_or(Ok(()), check_frame)
    }
}

fn check_frame(frame: &WindowFrame) -> Result<()> {
    use WindowFrameBound as B;
    let end = frame.end_bound.as_ref().unwrap_or(&B::CurrentRow);
    let refused = match (&frame.start_bound, end) {
        (B::Following(None), _) => Some("frame start cannot be UNBOUNDED FOLLOWING"),
        (_, B::Preceding(None)) => Some("frame end cannot be UNBOUNDED PRECEDING"),
        (B::CurrentRow, B::Preceding(_)) => Some("frame starting from current row cannot have preceding rows"),
        (B::Following(_), B::Preceding(_)) => Some("frame starting from following row cannot have preceding rows"),
        (B::Following(_), B::CurrentRow) => Some("frame starting from following row cannot end with current row"),
        _ => None,
    };
    if let Some(message) = refused {
        return Err(Error::user(SqlState::WINDOWING_ERROR, message));
    }
    for (bound, which) in [(&frame.start_bound, "starting"), (end, "ending")] {
        if let B::Preceding(Some(offset)) | B::Following(Some(offset)) = bound
            && is_negative_constant(offset)
        {
            let message = format!("frame {which} offset must not be negative");
            return Err(error_at(SqlState("22013"), message, position_of(offset)));
        }
    }
    Ok(())
}

fn is_negative_constant(expr: &Expr) -> bool {
    let is_positive = |inner: &Expr| match inner {
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => text.bytes().any(|b| (b'1'..=b'9').contains(&b)),
            _ => false,
        },
        _ => false,
    };
    match expr {
        Expr::Nested(inner) => is_negative_constant(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => is_positive(expr),
        _ => false,
    }
}
