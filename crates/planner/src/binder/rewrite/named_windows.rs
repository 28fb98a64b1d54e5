//! Windows that build on others: `WINDOW w AS (p ORDER BY o)` and `OVER (w ROWS 1 PRECEDING)`.

use datafusion::sql::sqlparser::ast::{Expr, Function, NamedWindowExpr, Select, VisitMut, WindowSpec, WindowType};

use crate::parser::folded;
use crate::sql_exprs::change_own;

/// Windows of one SELECT by their names, each with all that it has from others.
pub(super) struct Windows(Vec<(String, WindowSpec)>);

impl Windows {
    /// Completes the definitions of a SELECT. Each can name those before it.
    pub(super) fn complete(select: &mut Select) -> Windows {
        let mut known = Windows(Vec::new());
        for window in &mut select.named_window {
            if let NamedWindowExpr::NamedWindow(base) = &window.1
                && let Some(spec) = known.find(&folded(base))
            {
                window.1 = NamedWindowExpr::WindowSpec(spec.clone());
            }
            if let NamedWindowExpr::WindowSpec(spec) = &mut window.1 {
                known.complete_spec(spec);
                known.0.push((folded(&window.0), spec.clone()));
            }
        }
        known
    }

    /// Completes the windows of calls in a part of the SELECT.
    pub(super) fn complete_calls(&self, tree: &mut impl VisitMut) {
        if !self.0.is_empty() {
            change_own(tree, |expr| {
                if let Expr::Function(Function { over: Some(WindowType::WindowSpec(spec)), .. }) = expr {
                    self.complete_spec(spec);
                }
            });
        }
    }

    fn find(&self, name: &str) -> Option<&WindowSpec> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, spec)| spec)
    }

    /// Takes partition and order from the window that a specification begins with. A frame is its own.
    fn complete_spec(&self, spec: &mut WindowSpec) {
        let Some(base) = spec.window_name.as_ref().and_then(|name| self.find(&folded(name))) else { return };
        if !spec.partition_by.is_empty() || base.window_frame.is_some() {
            return;
        }
        spec.partition_by = base.partition_by.clone();
        if spec.order_by.is_empty() {
            spec.order_by = base.order_by.clone();
        }
        spec.window_name = None;
    }
}
