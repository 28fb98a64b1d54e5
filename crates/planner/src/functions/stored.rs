//! The names under which functions stand in stored plans.
//!
//! A name in SQL is not enough: several functions may have one, in turn with their types, and some functions have
//! parameters. So the name says first which family a function is of.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF, WindowUDF};
use millstream_expr::encoded::{Functions, form_of, json};
use millstream_types::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::by_row::ByRow;
use super::casts::CastFunction;
use super::excluding::{Excluding, StoredExcluding};
use super::numeric::Arithmetic;
use super::quantified::Quantified;
use super::{Registry, builtin};
use crate::parser::sql_type_from_text;

/// The functions that the planner knows, for plans that are stored.
pub fn stored_functions() -> &'static dyn Functions {
    &StoredFunctions
}

/// The functions of the one registry.
struct StoredFunctions;

/// The name of a scalar function.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ScalarName {
    /// One of DataFusion's, or what stands in its place.
    Datafusion(String),
    /// One of ours.
    Ours(String),
    /// An arithmetic operator.
    Arithmetic(String),
    /// A cast to a type.
    Cast(String),
    /// A comparison with the elements of an array.
    Quantified(String),
}

/// The name of a window function.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum WindowName {
    /// One of DataFusion's, or what stands in its place.
    Datafusion(String),
    /// One whose numbers may differ from row to row.
    ByRow(String),
    /// An aggregate over what is left of frames.
    Excluding(StoredExcluding),
}

impl ScalarName {
    fn of(function: &ScalarUDF) -> ScalarName {
        let inner: &dyn std::any::Any = function.inner().as_ref();
        let name = function.name().to_owned();
        if builtin::is_ours(inner) {
            ScalarName::Ours(name)
        } else if inner.is::<Arithmetic>() {
            ScalarName::Arithmetic(name)
        } else if let Some(cast) = inner.downcast_ref::<CastFunction>() {
            ScalarName::Cast(cast.target().to_string())
        } else if inner.is::<Quantified>() {
            ScalarName::Quantified(name)
        } else {
            ScalarName::Datafusion(name_in(&Registry::get().scalars, function, name, function.aliases()))
        }
    }

    fn find(&self, registry: &Registry) -> Option<Arc<ScalarUDF>> {
        match self {
            ScalarName::Datafusion(name) => registry.datafusion(name),
            ScalarName::Ours(name) => builtin::find(name),
            ScalarName::Arithmetic(name) => Arithmetic::of_name(name),
            ScalarName::Cast(to) => Some(CastFunction::to(sql_type_from_text(to).ok()?)),
            ScalarName::Quantified(name) => Quantified::of_name(name),
        }
    }
}

impl WindowName {
    fn of(function: &WindowUDF) -> WindowName {
        match Excluding::of(function) {
            Some(excluding) => WindowName::Excluding(excluding.stored()),
            None if ByRow::is(function) => WindowName::ByRow(function.name().to_owned()),
            None => {
                let (windows, name) = (&Registry::get().windows, function.name().to_owned());
                WindowName::Datafusion(name_in(windows, function, name, function.aliases()))
            }
        }
    }

    fn find(&self, registry: &Registry) -> Option<Arc<WindowUDF>> {
        match self {
            WindowName::Datafusion(name) => find(&registry.windows, name),
            WindowName::ByRow(name) => ByRow::of_name(name),
            WindowName::Excluding(stored) => {
                let aggregate = find(&registry.aggregates, stored.aggregate())?;
                Some(Excluding::of_stored(stored.clone(), aggregate))
            }
        }
    }
}

fn find<T: ?Sized>(functions: &HashMap<String, Arc<T>>, name: &str) -> Option<Arc<T>> {
    functions.get(name).cloned()
}

/// The name under which the very function is found: others may stand in its place under its own, and not under its aliases.
fn name_in<T: PartialEq>(
    functions: &HashMap<String, Arc<T>>,
    function: &T,
    name: String,
    aliases: &[String],
) -> String {
    let is_it = |name: &&String| functions.get(*name).is_some_and(|found| **found == *function);
    std::iter::once(&name).chain(aliases).find(is_it).unwrap_or(&name).clone()
}

impl Functions for StoredFunctions {
    fn name_of_scalar(&self, function: &ScalarUDF) -> Result<Value> {
        let name = ScalarName::of(function);
        named(&name, name.find(Registry::get()).is_some_and(|found| *found == *function), function.name())
    }

    fn scalar(&self, name: &Value) -> Result<Arc<ScalarUDF>> {
        form_of::<ScalarName>(name.clone())
            .ok()
            .and_then(|name| name.find(Registry::get()))
            .ok_or_else(|| unknown(name))
    }

    fn name_of_aggregate(&self, function: &AggregateUDF) -> Result<Value> {
        let aggregates = &Registry::get().aggregates;
        let name = name_in(aggregates, function, function.name().to_owned(), function.aliases());
        named(&name, find(aggregates, &name).is_some_and(|found| *found == *function), function.name())
    }

    fn aggregate(&self, name: &Value) -> Result<Arc<AggregateUDF>> {
        name.as_str().and_then(|name| find(&Registry::get().aggregates, name)).ok_or_else(|| unknown(name))
    }

    fn name_of_window(&self, function: &WindowUDF) -> Result<Value> {
        let name = WindowName::of(function);
        named(&name, name.find(Registry::get()).is_some_and(|found| *found == *function), function.name())
    }

    fn window(&self, name: &Value) -> Result<Arc<WindowUDF>> {
        form_of::<WindowName>(name.clone())
            .ok()
            .and_then(|name| name.find(Registry::get()))
            .ok_or_else(|| unknown(name))
    }

    fn options(&self) -> &Arc<ConfigOptions> {
        crate::session_context::options()
    }
}

/// A name under which the very function is found again.
fn named(name: &impl Serialize, is_found: bool, function: &str) -> Result<Value> {
    if !is_found {
        return Err(Error::internal(format!("function {function}() has no name for stored plans")));
    }
    json(name)
}

fn unknown(name: &Value) -> Error {
    Error::not_supported(format!("function {name} of a stored plan is not known"))
}

#[cfg(test)]
mod tests {
    use datafusion::logical_expr::{Expr, Operator, WindowFunctionDefinition, lit};
    use millstream_types::SqlType;

    use super::super::excluding::Exclusion;
    use super::super::quantified::{Quantifier, quantified};
    use super::*;

    fn check_scalar(function: &ScalarUDF, wanted: &str) {
        let name = stored_functions().name_of_scalar(function).expect("a name");
        assert_eq!(name.to_string(), wanted);
        assert_eq!(*stored_functions().scalar(&name).expect("a function"), *function);
    }

    fn function_of(expr: &Expr) -> &ScalarUDF {
        match expr {
            Expr::ScalarFunction(function) => &function.func,
            other => panic!("{other} is no call"),
        }
    }

    #[test]
    fn all_functions_have_names() {
        let registry = Registry::get();
        for function in registry.scalars.values().cloned().chain(builtin::all()) {
            let name = stored_functions().name_of_scalar(&function).expect("a name");
            assert_eq!(*stored_functions().scalar(&name).expect("a function"), *function);
        }
        for function in registry.aggregates.values() {
            let name = stored_functions().name_of_aggregate(function).expect("a name");
            assert_eq!(*stored_functions().aggregate(&name).expect("a function"), **function);
        }
        let by_row = ["lag", "lead", "ntile", "nth_value"].map(|name| ByRow::of_name(name).expect("one of them"));
        for function in registry.windows.values().cloned().chain(by_row) {
            let name = stored_functions().name_of_window(&function).expect("a name");
            assert_eq!(*stored_functions().window(&name).expect("a function"), *function);
        }
    }

    #[test]
    fn families_are_told_apart() {
        check_scalar(&Arithmetic::of(Operator::Modulo), r#"{"arithmetic":"modulo"}"#);
        check_scalar(&builtin::builtin("only_element"), r#"{"ours":"only_element"}"#);
        check_scalar(&Registry::get().datafusion("repeat").expect("a function"), r#"{"datafusion":"repeat"}"#);
    }

    #[test]
    fn parameters_are_part_of_a_name() {
        let types = [
            (SqlType::Numeric(Some((10, 2))), r#"{"cast":"numeric(10,2)"}"#),
            (SqlType::Numeric(None), r#"{"cast":"numeric"}"#),
            (SqlType::Varchar(Some(7)), r#"{"cast":"character varying(7)"}"#),
            (SqlType::Char(3), r#"{"cast":"character(3)"}"#),
            (SqlType::Timestamptz, r#"{"cast":"timestamp with time zone"}"#),
            (SqlType::Time, r#"{"cast":"time without time zone"}"#),
            (SqlType::Double, r#"{"cast":"double precision"}"#),
            (SqlType::Oid, r#"{"cast":"oid"}"#),
            (SqlType::Array(Box::new(SqlType::Timestamp)), r#"{"cast":"timestamp without time zone[]"}"#),
        ];
        for (to, wanted) in types {
            check_scalar(function_of(&CastFunction::call(to, lit(1))), wanted);
        }
        let call = quantified(Quantifier::All, Operator::ILikeMatch, lit("a"), lit("b"));
        check_scalar(function_of(&call), r#"{"quantified":"all_ilike"}"#);
    }

    #[test]
    fn aggregates_over_what_is_left_of_frames_have_names() {
        let sum = find(&Registry::get().aggregates, "sum").expect("a function");
        let (function, _) = Excluding::call(sum, Exclusion::Ties, vec![lit(1)], &[], Some(lit(true)));
        let WindowFunctionDefinition::WindowUDF(function) = function else { panic!("a window function") };
        let name = stored_functions().name_of_window(&function).expect("a name");
        let wanted = r#"{"excluding":{"aggregate":"sum","exclusion":"ties","has_filter":true,"n_args":1,"n_order":0}}"#;
        assert_eq!(name.to_string(), wanted);
        assert_eq!(*stored_functions().window(&name).expect("a function"), *function);
    }

    #[test]
    fn window_functions_of_one_name_are_told_apart() {
        let by_row = ByRow::of_name("lag").expect("one of them");
        let name = stored_functions().name_of_window(&by_row).expect("a name");
        assert_eq!(name.to_string(), r#"{"by_row":"lag"}"#);
        let plain = find(&Registry::get().windows, "lag").expect("one of DataFusion's");
        let name = stored_functions().name_of_window(&plain).expect("a name");
        assert_eq!(name.to_string(), r#"{"datafusion":"lag"}"#);
    }

    #[test]
    fn an_unknown_name_is_an_error_that_says_so() {
        let name = serde_json::json!({"ours": "from_the_future"});
        let error = stored_functions().scalar(&name).expect_err("not known");
        assert_eq!(error.message(), r#"function {"ours":"from_the_future"} of a stored plan is not known"#);
    }
}
