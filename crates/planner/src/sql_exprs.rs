//! Expressions in the trees that sqlparser makes: how they are made, and found within one query.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgumentList, FunctionArguments, Ident, ObjectName, Query, Select, Statement,
    TableFactor, ValueWithSpan, Visit, VisitMut, Visitor, VisitorMut,
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

/// Visits a tree, until the visitor breaks off.
///
/// What sqlparser walks a tree with is compiled anew for every type of visitor, all kinds of statements included, since a
/// query may have one within it. So all visitors are of one type here.
pub(crate) fn visit(tree: &impl Visit, visitor: &mut dyn Visitor<Break = ()>) -> ControlFlow<()> {
    tree.visit(&mut Any(visitor))
}

/// Visits a tree that the visitor changes; as [`visit`].
pub(crate) fn change(tree: &mut impl VisitMut, visitor: &mut dyn VisitorMut<Break = ()>) {
    let _ = tree.visit(&mut AnyMut(visitor));
}

/// Visits the expressions of a part of a query, those of its subqueries apart, each before the ones within it, until
/// `visit` breaks off.
pub(crate) fn visit_own<B>(tree: &impl Visit, mut visit: impl FnMut(&Expr) -> ControlFlow<B>) -> ControlFlow<B> {
    let mut outcome = ControlFlow::Continue(());
    let mut visit = |expr: &Expr| {
        outcome = visit(expr);
        if outcome.is_break() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let _ = self::visit(tree, &mut Own { visit: &mut visit, n_queries: 0 });
    outcome
}

/// Changes the expressions of a part of a query, those of its subqueries apart, each after the ones within it.
pub(crate) fn change_own(tree: &mut impl VisitMut, mut change: impl FnMut(&mut Expr)) {
    self::change(tree, &mut OwnMut { change: &mut change, n_queries: 0 });
}

struct Any<'a>(&'a mut dyn Visitor<Break = ()>);

struct AnyMut<'a>(&'a mut dyn VisitorMut<Break = ()>);

macro_rules! forward {
    ($($method:ident($node:ty);)*) => {
        $(fn $method(&mut self, node: $node) -> ControlFlow<()> {
            self.0.$method(node)
        })*
    };
}

impl Visitor for Any<'_> {
    type Break = ();

    forward! {
        pre_visit_query(&Query);
        post_visit_query(&Query);
        pre_visit_select(&Select);
        post_visit_select(&Select);
        pre_visit_relation(&ObjectName);
        post_visit_relation(&ObjectName);
        pre_visit_table_factor(&TableFactor);
        post_visit_table_factor(&TableFactor);
        pre_visit_expr(&Expr);
        post_visit_expr(&Expr);
        pre_visit_statement(&Statement);
        post_visit_statement(&Statement);
        pre_visit_value(&ValueWithSpan);
        post_visit_value(&ValueWithSpan);
    }
}

impl VisitorMut for AnyMut<'_> {
    type Break = ();

    forward! {
        pre_visit_query(&mut Query);
        post_visit_query(&mut Query);
        pre_visit_select(&mut Select);
        post_visit_select(&mut Select);
        pre_visit_relation(&mut ObjectName);
        post_visit_relation(&mut ObjectName);
        pre_visit_table_factor(&mut TableFactor);
        post_visit_table_factor(&mut TableFactor);
        pre_visit_expr(&mut Expr);
        post_visit_expr(&mut Expr);
        pre_visit_statement(&mut Statement);
        post_visit_statement(&mut Statement);
        pre_visit_value(&mut ValueWithSpan);
        post_visit_value(&mut ValueWithSpan);
    }
}

struct Own<'a> {
    visit: &'a mut dyn FnMut(&Expr) -> ControlFlow<()>,
    n_queries: usize,
}

impl Visitor for Own<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.n_queries += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<()> {
        self.n_queries -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        if self.n_queries == 0 { (self.visit)(expr) } else { ControlFlow::Continue(()) }
    }
}

struct OwnMut<'a> {
    change: &'a mut dyn FnMut(&mut Expr),
    n_queries: usize,
}

impl VisitorMut for OwnMut<'_> {
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
