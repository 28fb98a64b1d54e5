//! Expressions in the trees that sqlparser makes: how they are made, and found within one query.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Query, Visit, VisitMut,
    Visitor, VisitorMut,
};

/// `name(args)`
pub(crate) fn call_args(name: &str, args: Vec<FunctionArg>) -> Expr {
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

/// Visits the expressions of a part of a query, those of its subqueries apart, each before the ones within it, until
/// `visit` breaks off.
pub(crate) fn visit_own<B>(tree: &impl Visit, visit: impl FnMut(&Expr) -> ControlFlow<B>) -> ControlFlow<B> {
    tree.visit(&mut Own { visit, n_queries: 0 })
}

/// Changes the expressions of a part of a query, those of its subqueries apart, each after the ones within it.
pub(crate) fn change_own(tree: &mut impl VisitMut, change: impl FnMut(&mut Expr)) {
    let _ = tree.visit(&mut OwnMut { change, n_queries: 0 });
}

struct Own<F> {
    visit: F,
    n_queries: usize,
}

impl<B, F: FnMut(&Expr) -> ControlFlow<B>> Visitor for Own<F> {
    type Break = B;

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<B> {
        self.n_queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<B> {
        self.n_queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<B> {
        if self.n_queries == 0 { (self.visit)(expr) } else { ControlFlow::Continue(()) }
    }
}

struct OwnMut<F> {
    change: F,
    n_queries: usize,
}

impl<F: FnMut(&mut Expr)> VisitorMut for OwnMut<F> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.n_queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<()> {
        self.n_queries -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if self.n_queries == 0 {
            (self.change)(expr);
        }
        ControlFlow::Continue(())
    }
}
