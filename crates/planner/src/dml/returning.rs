//! `RETURNING`: over the rows that a statement writes and, where `UPDATE ... FROM` or `DELETE ... USING` has others beside
//! them, those.
//!
//! The clause is bound as a SELECT from the target and the other relations. Their cross join then gives way to one scan,
//! of the rows that the engine has at hand side by side: the target's visible columns, then those others that are used.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column as PlanColumn, ScalarValue, TableReference};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder, TableSource};
use datafusion::sql::sqlparser::ast as sql;
use millstream_types::{Error, Result, SqlType};

use super::update::target_context;
use super::{Params, RowsSource, rows_source, select_of, template};
use crate::binder::{PlanContext, bind};
use crate::catalog::{Catalog, Relation};
use crate::errors::from_datafusion;
use crate::parser::parse_query;
use crate::session_context::Purpose;

/// The schema under which the other relations are known to a [`PlanContext`], each by its number.
pub(crate) const OTHERS_SCHEMA: &str = "__others";

/// `RETURNING ...`
#[derive(Clone, Debug)]
pub struct BoundReturning {
    /// Scans one [`RowsSource`].
    pub plan: LogicalPlan,
    /// What that scan gives: the target's visible columns, then columns of other relations.
    pub rows: SchemaRef,
    /// The names and types of its output.
    pub columns: Vec<(String, SqlType)>,
}

/// What stands beside the target in a statement.
pub(super) struct Beside<'a> {
    pub(super) with: Option<&'a sql::With>,
    pub(super) from: &'a [sql::TableWithJoins],
}

/// A column of a relation beside the target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct OtherColumn {
    relation: String,
    name: String,
    data_type: DataType,
}

impl OtherColumn {
    /// The column, for a SELECT list.
    pub(super) fn item(&self, alias: &str) -> sql::SelectItem {
        let ident = |name: &str| sql::Ident::with_quote('"', name);
        let expr = sql::Expr::CompoundIdentifier(vec![ident(&self.relation), ident(&self.name)]);
        sql::SelectItem::ExprWithAlias { expr, alias: ident(alias) }
    }
}

/// Binds `RETURNING` over the relation's visible columns, under the relation's name or alias.
pub(super) fn bind_returning(
    catalog: &Catalog,
    relation: &Arc<Relation>,
    alias: Option<&str>,
    items: Option<&Vec<sql::SelectItem>>,
    params: &mut Params<'_>,
) -> Result<Option<BoundReturning>> {
    let Some(items) = items else { return Ok(None) };
    let mut query = template(relation, alias)?;
    let select = select_of(&mut query)?;
    select.projection = items.clone();
    let rows = relation.visible_schema();
    let context = PlanContext::new(catalog, Purpose::AdHoc).with_rows(rows_source(rows.clone()));
    let bound = bind(&context, &query, &params.known())?;
    params.types = bound.param_types;
    Ok(Some(BoundReturning { plan: bound.plan, rows, columns: bound.columns }))
}

/// As [`bind_returning`], with other relations; also gives those of their columns that are used.
pub(super) fn bind_returning_beside(
    catalog: &Catalog,
    relation: &Arc<Relation>,
    alias: &str,
    items: Option<&Vec<sql::SelectItem>>,
    beside: &Beside<'_>,
    params: &mut Params<'_>,
) -> Result<(Option<BoundReturning>, Vec<OtherColumn>)> {
    let Some(items) = items.filter(|_| !beside.from.is_empty()) else {
        return Ok((bind_returning(catalog, relation, Some(alias), items, params)?, vec![]));
    };
    refuse_merged_columns(beside.from)?;
    let others = others(catalog, relation, alias, beside, params)?;
    let mut query = template(relation, Some(alias))?;
    let select = select_of(&mut query)?;
    select.projection = items.clone();
    let mut sources: Vec<Arc<dyn TableSource>> = Vec::new();
    for columns in others.chunk_by(|a, b| a.relation == b.relation) {
        let name = columns[0].relation.replace('"', "\"\"");
        let mut from = parse_query(&format!("SELECT 1 FROM {OTHERS_SCHEMA}.\"{}\" AS \"{name}\"", sources.len()))?;
        select.from.append(&mut select_of(&mut from)?.from);
        let fields = columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true));
        sources.push(rows_source(Arc::new(Schema::new(fields.collect::<Vec<_>>()))));
    }
    let target = rows_source(relation.visible_schema());
    let context = PlanContext::new(catalog, Purpose::AdHoc).with_rows(target).with_others(sources);
    let bound = bind(&context, &query, &params.known())?;
    params.types = bound.param_types;
    let mentioned = mentioned(&bound.plan)?;
    let is_used = |c: &OtherColumn| mentioned.contains(&(c.relation.clone(), c.name.clone()));
    let used: Vec<OtherColumn> = others.iter().filter(|c| is_used(c)).cloned().collect();
    let mut fields: Vec<Arc<Field>> = relation.visible_schema().fields().to_vec();
    fields.extend(used.iter().map(|c| Arc::new(Field::new(&c.name, c.data_type.clone(), true))));
    let n_visible = relation.visible_columns().len();
    let numbered = fields.iter().enumerate().map(|(i, f)| f.as_ref().clone().with_name(place_name(i)));
    let rows: SchemaRef = Arc::new(Schema::new(numbered.collect::<Vec<_>>()));
    let replace = |node: LogicalPlan| match node {
        LogicalPlan::Join(join) if is_of_rows(&join) => {
            let place = |c: &OtherColumn| used.iter().position(|u| u == c).map(|at| n_visible + at);
            let places: Vec<Option<usize>> = (0..n_visible).map(Some).chain(others.iter().map(place)).collect();
            Ok(Transformed::new(side_by_side(&join, &rows, &places)?, true, TreeNodeRecursion::Jump))
        }
        other => Ok(Transformed::no(other)),
    };
    let plan = bound.plan.transform_down(replace).data().map_err(from_datafusion)?;
    Ok((Some(BoundReturning { plan, rows, columns: bound.columns }), used))
}

/// A column that a join merges of two has no relation of its own.
fn refuse_merged_columns(from: &[sql::TableWithJoins]) -> Result<()> {
    let merges = |join: &sql::Join| {
        use sql::JoinOperator as J;
        let constraint = match &join.join_operator {
            J::Join(c)
            | J::Inner(c)
            | J::Left(c)
            | J::LeftOuter(c)
            | J::Right(c)
            | J::RightOuter(c)
            | J::FullOuter(c) => c,
            _ => return false,
        };
        matches!(constraint, sql::JoinConstraint::Using(_) | sql::JoinConstraint::Natural)
    };
    match from.iter().any(|item| item.joins.iter().any(merges)) {
        true => Err(Error::not_supported("RETURNING beside a join with USING or NATURAL is not supported yet")),
        false => Ok(()),
    }
}

/// The columns of the relations beside the target.
fn others(
    catalog: &Catalog,
    relation: &Arc<Relation>,
    alias: &str,
    beside: &Beside<'_>,
    params: &Params<'_>,
) -> Result<Vec<OtherColumn>> {
    let mut query = template(relation, Some(alias))?;
    query.with = beside.with.cloned();
    let select = select_of(&mut query)?;
    select.projection = select_of(&mut *parse_query("SELECT 1")?)?.projection.clone();
    select.from.extend(beside.from.iter().cloned());
    let bound = bind(&target_context(catalog, relation), &query, &params.known())?;
    let mut plan = &bound.plan;
    while let LogicalPlan::Projection(projection) = plan {
        plan = &projection.input;
    }
    let column = |(qualifier, field): (Option<&TableReference>, &Arc<Field>)| {
        let relation = qualifier.map_or("", |q| crate::binder::shown(q.table())).to_owned();
        OtherColumn { relation, name: field.name().clone(), data_type: field.data_type().clone() }
    };
    Ok(plan.schema().iter().skip(relation.columns.len()).map(column).collect())
}

/// The columns, by relation and name, that a plan's expressions mention, those of subqueries included.
fn mentioned(plan: &LogicalPlan) -> Result<HashSet<(String, String)>> {
    let mut found = HashSet::new();
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expr| {
            expr.apply(|e| {
                if let Expr::Column(column) | Expr::OuterReferenceColumn(_, column) = e
                    && let Some(relation) = &column.relation
                {
                    found.insert((crate::binder::shown(relation.table()).to_owned(), column.name.clone()));
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })
    .map_err(from_datafusion)?;
    Ok(found)
}

/// Whether a join is that of the target and the others.
fn is_of_rows(join: &Join) -> bool {
    fn is_rows(plan: &LogicalPlan) -> bool {
        match plan {
            LogicalPlan::SubqueryAlias(alias) => is_rows(&alias.input),
            LogicalPlan::TableScan(scan) => RowsSource::of(&scan.source).is_some(),
            LogicalPlan::Join(join) => is_of_rows(join),
            _ => false,
        }
    }
    is_rows(&join.left) && is_rows(&join.right)
}

fn place_name(place: usize) -> String {
    format!("c{place}")
}

/// The columns of a join, from a scan of rows in which each has a place; of those that have none, nulls.
fn side_by_side(
    join: &Join,
    rows: &SchemaRef,
    places: &[Option<usize>],
) -> Result<LogicalPlan, datafusion::common::DataFusionError> {
    let scan = LogicalPlanBuilder::scan("__rows", rows_source(rows.clone()), None)?;
    let fields = join.schema.iter().zip(places);
    let exprs = fields.map(|((qualifier, field), place)| {
        let value = match place {
            Some(place) => Expr::Column(PlanColumn::new(Some("__rows"), place_name(*place))),
            None => Expr::Literal(ScalarValue::try_from(field.data_type())?, None),
        };
        Ok(value.alias_qualified(qualifier.cloned(), field.name()))
    });
    scan.project(exprs.collect::<Result<Vec<_>, datafusion::common::DataFusionError>>()?)?.build()
}
