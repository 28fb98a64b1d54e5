//! What has been planned of a statement, kept with it for its next execution.

use std::sync::{Arc, OnceLock};

use arrow::array::ArrayRef;
use datafusion::logical_expr::LogicalPlan;
use millstream_planner::access::{PointQuery, is_timeless};
use millstream_planner::ast::{Delete, Query, Update};
use millstream_planner::catalog::Relation;
use millstream_planner::dml::{BoundReturning, bind_delete, bind_update};
use millstream_planner::parser::Parsed;
use millstream_planner::{Catalog, Purpose, bind_query, optimize};
use millstream_types::deep_stack::Deep;
use millstream_types::pg::{DateOrder, FormatSettings, TimeZone};
use millstream_types::{Result, SqlType};
use parking_lot::Mutex;

use super::query::columns_of;
use super::template::Template;
use crate::api::ResultColumn;
use crate::statement_cache::StatementCache;

/// A statement that has been parsed. Its copies share what has been planned of it.
#[derive(Clone)]
pub struct ParsedStatement(Arc<Deep<Contents>>);

struct Contents {
    parsed: Parsed,
    template: OnceLock<Option<Template>>,
    query: Mutex<Option<Arc<PlannedQuery>>>,
    write: Mutex<Option<Arc<PlannedWrite>>>,
}

impl ParsedStatement {
    pub(super) fn new(parsed: Parsed) -> Self {
        let (template, query, write) = (OnceLock::new(), Mutex::default(), Mutex::default());
        ParsedStatement(Arc::new(Deep::new(Contents { parsed, template, query, write })))
    }

    pub(super) fn parsed(&self) -> &Parsed {
        &self.0.parsed
    }

    /// What the statement has in common with those that look up other rows, if it is one that looks up rows.
    pub(super) fn template(&self, known: &StatementCache) -> Option<&Template> {
        self.0.template.get_or_init(|| Template::of(self.parsed(), known)).as_ref()
    }

    /// The plan of the statement's query. With `keep` all sessions see the catalog so.
    pub(super) fn query(&self, query: &Query, seen: Seen<'_>, keep: bool) -> Result<Arc<PlannedQuery>> {
        planned(&self.0.query, seen, keep, |p| &p.basis, || PlannedQuery::new(query, seen))
    }

    /// As [`ParsedStatement::query`], of an `UPDATE`.
    pub(super) fn update(&self, update: &Update, seen: Seen<'_>, keep: bool) -> Result<Arc<PlannedWrite>> {
        planned(&self.0.write, seen, keep, |p| &p.basis, || PlannedWrite::update(update, seen))
    }

    /// As [`ParsedStatement::query`], of a `DELETE`.
    pub(super) fn delete(&self, delete: &Delete, seen: Seen<'_>, keep: bool) -> Result<Arc<PlannedWrite>> {
        planned(&self.0.write, seen, keep, |p| &p.basis, || PlannedWrite::delete(delete, seen))
    }
}

/// What is in the slot, if it fits, else what is planned now.
fn planned<T>(
    slot: &Mutex<Option<Arc<T>>>,
    seen: Seen<'_>,
    keep: bool,
    basis: impl Fn(&T) -> &Basis,
    plan: impl FnOnce() -> Result<T>,
) -> Result<Arc<T>> {
    let known = slot.lock().clone();
    if let Some(planned) = known.filter(|p| keep && basis(p).serves(seen)) {
        return Ok(planned);
    }
    let planned = Arc::new(plan()?);
    if keep {
        *slot.lock() = Some(Arc::clone(&planned));
    }
    Ok(planned)
}

/// What a statement is planned against.
#[derive(Clone, Copy)]
pub(super) struct Seen<'a> {
    pub(super) catalog: &'a Catalog,
    /// The types of parameters that the client fixed.
    pub(super) param_types: &'a [Option<SqlType>],
}

/// What a plan rests on.
struct Basis {
    catalog_version: u64,
    /// In which constants were read.
    time_zone: TimeZone,
    date_order: DateOrder,
    given: Vec<Option<SqlType>>,
    param_types: Vec<SqlType>,
}

impl Basis {
    fn new(seen: Seen<'_>, param_types: Vec<SqlType>) -> Self {
        let FormatSettings { time_zone, date_order, .. } = seen.catalog.settings().clone();
        let (catalog_version, given) = (seen.catalog.version(), seen.param_types.to_vec());
        Basis { catalog_version, time_zone, date_order, given, param_types }
    }

    /// Whether a plan would be the same. A statement is planned for types that were found, and run with values of them.
    fn serves(&self, seen: Seen<'_>) -> bool {
        let is_bound = |(given, bound): (&Option<SqlType>, &SqlType)| -> bool {
            given.as_ref().is_some_and(|given| given.arrow_type() == bound.arrow_type())
        };
        let is_given = || self.given == seen.param_types;
        let n_fits = self.param_types.len() == seen.param_types.len();
        let are_bound = || n_fits && seen.param_types.iter().zip(&self.param_types).all(is_bound);
        let settings = seen.catalog.settings();
        let is_read_so = || self.time_zone == settings.time_zone && self.date_order == settings.date_order;
        self.catalog_version == seen.catalog.version() && is_read_so() && (is_given() || are_bound())
    }

    /// Whether values are of the types that the plan is for.
    fn fits(&self, params: &[ArrayRef]) -> bool {
        let types = &self.param_types;
        params.len() == types.len() && params.iter().zip(types).all(|(p, t)| *p.data_type() == t.arrow_type())
    }
}

/// A query as it was planned against one version of the catalog.
pub(super) struct PlannedQuery {
    basis: Basis,
    /// Not optimized.
    pub(super) plan: LogicalPlan,
    pub(super) columns: Vec<ResultColumn>,
    /// The optimized plan, if it is the same for all sessions, at all times and for all parameters.
    pub(super) optimized: Option<LogicalPlan>,
    point: Option<Arc<PointQuery>>,
}

impl PlannedQuery {
    pub(super) fn new(query: &Query, seen: Seen<'_>) -> Result<Self> {
        let bound = bind_query(seen.catalog, query, seen.param_types, Purpose::AdHoc)?;
        let optimized = lasting(&bound.plan, &bound.param_types)?;
        let point = point_of(optimized.as_ref(), &bound.param_types)?;
        let optimized = optimized.filter(|_| bound.param_types.is_empty());
        let (columns, basis) = (columns_of(&bound.columns), Basis::new(seen, bound.param_types));
        Ok(PlannedQuery { basis, plan: bound.plan, columns, optimized, point })
    }

    pub(super) fn param_types(&self) -> &[SqlType] {
        &self.basis.param_types
    }

    /// The point query that it is, if the parameters' values are of the types that it was planned for.
    pub(super) fn point(&self, params: &[ArrayRef]) -> Option<&Arc<PointQuery>> {
        self.point.as_ref().filter(|_| self.basis.fits(params))
    }
}

/// An `UPDATE` or `DELETE` as it was planned against one version of the catalog.
pub(super) struct PlannedWrite {
    basis: Basis,
    pub(super) relation: Arc<Relation>,
    /// Gives the old rows, and of an update the new ones beside them. Not optimized.
    pub(super) plan: LogicalPlan,
    pub(super) returning: Option<BoundReturning>,
    /// A new row may have another key than the old one.
    pub(super) keys_change: bool,
    point: Option<Arc<PointQuery>>,
}

impl PlannedWrite {
    fn update(update: &Update, seen: Seen<'_>) -> Result<Self> {
        let bound = bind_update(seen.catalog, update, seen.param_types)?;
        let keys_change = bound.set_columns.iter().any(|c| bound.relation.primary_key.contains(c));
        Self::new(seen, bound.relation, bound.plan, bound.returning, bound.param_types, keys_change)
    }

    fn delete(delete: &Delete, seen: Seen<'_>) -> Result<Self> {
        let bound = bind_delete(seen.catalog, delete, seen.param_types)?;
        Self::new(seen, bound.relation, bound.plan, bound.returning, bound.param_types, false)
    }

    fn new(
        seen: Seen<'_>,
        relation: Arc<Relation>,
        plan: LogicalPlan,
        returning: Option<BoundReturning>,
        param_types: Vec<SqlType>,
        keys_change: bool,
    ) -> Result<Self> {
        let is_short = PointQuery::may_be(&plan);
        let optimized = if is_short { lasting(&plan, &param_types)? } else { None };
        let point = point_of(optimized.as_ref(), &param_types)?.filter(|p| p.is_unique());
        let basis = Basis::new(seen, param_types);
        Ok(PlannedWrite { basis, relation, plan, returning, keys_change, point })
    }

    pub(super) fn param_types(&self) -> &[SqlType] {
        &self.basis.param_types
    }

    /// The point query by primary key that gives its rows, as [`PlannedQuery::point`].
    pub(super) fn point(&self, params: &[ArrayRef]) -> Option<&Arc<PointQuery>> {
        self.point.as_ref().filter(|_| self.basis.fits(params))
    }
}

/// The optimized plan of what may be executed again as it is: nothing in it depends on the time or on the session.
fn lasting(plan: &LogicalPlan, param_types: &[SqlType]) -> Result<Option<LogicalPlan>> {
    let may_last = param_types.is_empty() || PointQuery::may_be(plan);
    if !may_last || !is_timeless(plan)? || crate::pg_catalog::needs_view(plan)? {
        return Ok(None);
    }
    // What is wrong with a constant is found when the statement runs.
    Ok(optimize(plan.clone(), Purpose::AdHoc, None).ok())
}

fn point_of(optimized: Option<&LogicalPlan>, param_types: &[SqlType]) -> Result<Option<Arc<PointQuery>>> {
    let point = optimized.map(|plan| PointQuery::of(plan, param_types)).transpose()?;
    Ok(point.flatten().map(Arc::new))
}
