//! `UPDATE` and `DELETE`

use std::sync::Arc;

use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::sql::sqlparser::ast as sql;
use millstream_types::{Result, SqlType};

use super::returning::{Beside, OtherColumn, bind_returning_beside};
use super::{BoundReturning, Params, all_of, assigned, assignments, project, select_of, target, template};
use crate::ast::{Delete, Update};
use crate::binder::{BoundQuery, PlanContext, RelationSource, bind};
use crate::catalog::{Catalog, Relation, RelationId};
use crate::reading;
use crate::session_context::Purpose;

/// An `UPDATE` that means something.
#[derive(Clone, Debug)]
pub struct BoundUpdate {
    /// The target.
    pub relation: Arc<Relation>,
    /// A typed plan: all columns of the old row, a hidden one included, then all columns of the new row, then what
    /// `RETURNING` wants of other relations. With `FROM` a row may come more than once; any one of them counts.
    /// Constraints are not yet checked.
    pub plan: LogicalPlan,
    /// Positions of the columns that are set.
    pub set_columns: Vec<usize>,
    /// `RETURNING`
    pub returning: Option<BoundReturning>,
    /// The types of `$1`, `$2` ...
    pub param_types: Vec<SqlType>,
    /// The relations that the statement reads, the target included.
    pub relations: Vec<RelationId>,
}

/// A `DELETE` that means something.
#[derive(Clone, Debug)]
pub struct BoundDelete {
    /// The target.
    pub relation: Arc<Relation>,
    /// A typed plan: all columns of the old row, a hidden one included, then what `RETURNING` wants of other relations. With
    /// `USING` a row may come more than once.
    pub plan: LogicalPlan,
    /// `RETURNING`
    pub returning: Option<BoundReturning>,
    /// The types of `$1`, `$2` ...
    pub param_types: Vec<SqlType>,
    /// The relations that the statement reads, the target included.
    pub relations: Vec<RelationId>,
}

/// What a new value is called between the two projections of an update.
const NEW_PREFIX: &str = "__new_";

/// Resolves an `UPDATE`.
///
/// # Errors
/// As Postgres: 42P01, 42703, 42804, 42809 ...
pub fn bind_update(catalog: &Catalog, update: &Update, param_types: &[Option<SqlType>]) -> Result<BoundUpdate> {
    reading::under(catalog.settings(), || update_under(catalog, update, param_types))
}

fn update_under(catalog: &Catalog, update: &Update, param_types: &[Option<SqlType>]) -> Result<BoundUpdate> {
    let relation = target(catalog, &update.table, "update")?;
    let alias = update.alias.as_deref().unwrap_or(&relation.name);
    let set = assignments(&relation, &update.assignments)?;
    let mut query = template(&relation, Some(alias))?;
    query.with.clone_from(&update.with);
    let select = select_of(&mut query)?;
    select.projection = vec![all_of(alias)];
    for (position, _, value) in &set {
        let alias = sql::Ident::with_quote('"', format!("{NEW_PREFIX}{position}"));
        select.projection.push(sql::SelectItem::ExprWithAlias { expr: value.clone(), alias });
    }
    select.from.extend(update.from.iter().cloned());
    select.selection = update.filter.clone();
    let context = target_context(catalog, &relation);
    let mut bound = bind(&context, &query, param_types)?;
    let mut params = Params { given: param_types, types: bound.param_types.clone() };
    let beside = Beside { with: update.with.as_ref(), from: &update.from };
    let items = update.returning.as_ref();
    let (returning, others) = bind_returning_beside(catalog, &relation, alias, items, &beside, &mut params)?;
    if !others.is_empty() {
        bound = bind_with_others(&context, query, &others, &mut params)?;
    }
    let n = relation.columns.len();
    let fields: Vec<Expr> = bound.plan.schema().iter().map(Expr::from).collect();
    let mut exprs: Vec<Expr> =
        fields[..n].iter().zip(&relation.columns).map(|(e, c)| e.clone().alias(format!("old.{}", c.name))).collect();
    for (i, column) in relation.columns.iter().enumerate() {
        let expr = match set.iter().position(|(p, _, _)| *p == i) {
            Some(at) => assigned(fields[n + at].clone(), column, bound.plan.schema())?,
            None => fields[i].clone(),
        };
        exprs.push(expr.alias(format!("new.{}", column.name)));
    }
    let of_others = fields[n + set.len()..].iter().enumerate();
    exprs.extend(of_others.map(|(i, field)| field.clone().alias(other_name(i))));
    Ok(BoundUpdate {
        set_columns: set.iter().map(|(p, _, _)| *p).collect(),
        plan: project(bound.plan, exprs)?,
        returning,
        param_types: params.types,
        relations: bound.relations,
        relation,
    })
}

/// Resolves a `DELETE`.
///
/// # Errors
/// As Postgres: 42P01, 42703, 42809 ...
pub fn bind_delete(catalog: &Catalog, delete: &Delete, param_types: &[Option<SqlType>]) -> Result<BoundDelete> {
    reading::under(catalog.settings(), || delete_under(catalog, delete, param_types))
}

fn delete_under(catalog: &Catalog, delete: &Delete, param_types: &[Option<SqlType>]) -> Result<BoundDelete> {
    let relation = target(catalog, &delete.table, "delete from")?;
    let alias = delete.alias.as_deref().unwrap_or(&relation.name);
    let mut query = template(&relation, Some(alias))?;
    query.with.clone_from(&delete.with);
    let select = select_of(&mut query)?;
    select.projection = vec![all_of(alias)];
    select.from.extend(delete.using.iter().cloned());
    select.selection = delete.filter.clone();
    let context = target_context(catalog, &relation);
    let mut bound = bind(&context, &query, param_types)?;
    let mut params = Params { given: param_types, types: bound.param_types.clone() };
    let beside = Beside { with: delete.with.as_ref(), from: &delete.using };
    let items = delete.returning.as_ref();
    let (returning, others) = bind_returning_beside(catalog, &relation, alias, items, &beside, &mut params)?;
    if !others.is_empty() {
        bound = bind_with_others(&context, query, &others, &mut params)?;
    }
    Ok(BoundDelete { plan: bound.plan, returning, param_types: params.types, relations: bound.relations, relation })
}

/// What a column of another relation is called in the plan.
fn other_name(i: usize) -> String {
    format!("__other_{i}")
}

/// Binds what is read once more, with columns of other relations at the end.
fn bind_with_others(
    context: &PlanContext<'_>,
    mut query: Box<sql::Query>,
    others: &[OtherColumn],
    params: &mut Params<'_>,
) -> Result<BoundQuery> {
    let items = others.iter().enumerate().map(|(i, column)| column.item(&other_name(i)));
    select_of(&mut query)?.projection.extend(items);
    let bound = bind(context, &query, &params.known())?;
    params.types.clone_from(&bound.param_types);
    Ok(bound)
}

/// A context in which the target is scanned with its hidden column.
pub(super) fn target_context<'a>(catalog: &'a Catalog, relation: &Arc<Relation>) -> PlanContext<'a> {
    let context =
        PlanContext::new(catalog, Purpose::AdHoc).with_rows(Arc::new(RelationSource::full(catalog, relation)));
    context.used.borrow_mut().insert(relation.id);
    context
}
