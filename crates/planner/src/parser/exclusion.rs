//! `EXCLUDE` in window frames, which sqlparser has no word for.
//!
//! In the tokens it becomes a first column of PARTITION BY, `__exclude_ties()`; in the tree that column becomes a call
//! around the first argument of every function over the window, `sum(__exclude_ties(x))`, which DataFusion's planner shows
//! to ours.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, NamedWindowExpr, Select, Value, VisitMut,
    VisitorMut, WindowSpec, WindowType,
};
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};

use super::cursor::folded;
use super::tokens::word_is;
use crate::sql_exprs::{call_args, change, change_own};

/// What stands before the names of exclusions in the functions that mark them.
pub(crate) const EXCLUDE: &str = "__exclude_";

/// Words after EXCLUDE, and the exclusion; nothing is left out by the last.
const PHRASES: &[(&[&str], Option<&str>)] = &[
    (&["CURRENT", "ROW"], Some("current_row")),
    (&["GROUP"], Some("group")),
    (&["TIES"], Some("ties")),
    (&["NO", "OTHERS"], None),
];

/// Takes EXCLUDE out of the windows of a statement and leaves marks.
pub(super) fn rewrite_exclusions(tokens: &mut Vec<TokenWithSpan>) {
    let mut at = 0;
    while at < tokens.len() {
        if word_is(&tokens[at], &["EXCLUDE"]) {
            rewrite_exclusion(tokens, at);
        }
        at += 1;
    }
}

fn rewrite_exclusion(tokens: &mut Vec<TokenWithSpan>, at: usize) {
    let following: Vec<usize> =
        (at + 1..tokens.len()).filter(|&i| !matches!(tokens[i].token, Token::Whitespace(_))).take(3).collect();
    let found = PHRASES.iter().find_map(|(words, exclusion)| {
        let all = words.iter().zip(&following).all(|(word, &i)| word_is(&tokens[i], &[word]));
        let end = *following.get(words.len())?;
        (all && tokens[end].token == Token::RParen).then_some((end, exclusion))
    });
    let (Some((end, exclusion)), Some(open)) = (found, opening_paren(tokens, at)) else { return };
    let span = tokens[at].span;
    tokens.drain(at..end);
    let Some(exclusion) = exclusion else { return };
    let text = |tokens: &[TokenWithSpan], from: usize| {
        (from..tokens.len()).find(|&i| !matches!(tokens[i].token, Token::Whitespace(_))).unwrap_or(tokens.len() - 1)
    };
    let mut place = text(tokens, open + 1);
    let begins_clause = word_is(&tokens[place], &["PARTITION", "ORDER", "RANGE", "ROWS", "GROUPS"]);
    if !begins_clause {
        // The name of the window that this one builds on.
        place = text(tokens, place + 1);
    }
    let mark = [Token::make_word(&format!("{EXCLUDE}{exclusion}"), None), Token::LParen, Token::RParen];
    let mut inserted = Vec::new();
    if word_is(&tokens[place], &["PARTITION"]) {
        place = text(tokens, place + 1) + 1;
        inserted.extend(mark);
        inserted.push(Token::Comma);
    } else {
        inserted.extend([Token::make_keyword("PARTITION"), Token::make_keyword("BY")]);
        inserted.extend(mark);
    }
    tokens.splice(place..place, inserted.into_iter().map(|token| TokenWithSpan { token, span }));
}

/// The parenthesis in which a token stands.
fn opening_paren(tokens: &[TokenWithSpan], at: usize) -> Option<usize> {
    let mut depth = 0usize;
    for i in (0..at).rev() {
        match tokens[i].token {
            Token::RParen => depth += 1,
            Token::LParen if depth == 0 => return Some(i),
            Token::LParen => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Moves the marks to the functions over the windows.
pub(super) fn apply_exclusions(tree: &mut impl VisitMut) {
    change(tree, &mut Exclusions);
}

struct Exclusions;

impl VisitorMut for Exclusions {
    type Break = ();

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let mut marked: Vec<(String, String)> = Vec::new();
        for window in &mut select.named_window {
            if let NamedWindowExpr::WindowSpec(spec) = &mut window.1
                && let Some(mark) = take_mark(spec)
            {
                marked.push((folded(&window.0), mark));
            }
        }
        if !marked.is_empty() {
            change_own(&mut select.projection, |expr| {
                if let Expr::Function(function) = expr
                    && let Some(WindowType::NamedWindow(name)) = &function.over
                    && let Some((_, mark)) = marked.iter().find(|(window, _)| *window == folded(name))
                {
                    mark_call(function, mark);
                }
            });
        }
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expr
            && let Some(WindowType::WindowSpec(spec)) = &mut function.over
            && let Some(mark) = take_mark(spec)
        {
            mark_call(function, &mark);
        }
        ControlFlow::Continue(())
    }
}

fn take_mark(spec: &mut WindowSpec) -> Option<String> {
    let name = match spec.partition_by.first()? {
        Expr::Function(function) => function.name.0.last()?.as_ident()?.value.clone(),
        _ => return None,
    };
    let is_mark = name.starts_with(EXCLUDE);
    is_mark.then(|| {
        spec.partition_by.remove(0);
        name
    })
}

/// Wraps the first argument; a function without any works on rows and knows no frame.
fn mark_call(function: &mut Function, mark: &str) {
    let FunctionArguments::List(list) = &mut function.args else { return };
    let Some(FunctionArg::Unnamed(first)) = list.args.first_mut() else { return };
    let argument = match first {
        FunctionArgExpr::Expr(argument) => argument.clone(),
        _ => Expr::Value(Value::Number("1".to_owned(), false).into()),
    };
    let args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(argument))];
    *first = FunctionArgExpr::Expr(call_args(mark, args));
}
