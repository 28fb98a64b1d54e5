//! How DataFusion is set up, so that SQL means what it means in Postgres 15.

use std::sync::{Arc, LazyLock};

use chrono::{DateTime, Utc};
use datafusion::common::alias::AliasGenerator;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::config::ConfigOptions;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::optimizer::analyzer::resolve_grouping_function::ResolveGroupingFunction;
use datafusion::optimizer::analyzer::type_coercion::TypeCoercion;
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::decorrelate_lateral_join::DecorrelateLateralJoin;
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_filter::EliminateFilter;
use datafusion::optimizer::eliminate_group_by_constant::EliminateGroupByConstant;
use datafusion::optimizer::eliminate_join::EliminateJoin;
use datafusion::optimizer::eliminate_limit::EliminateLimit;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::optimize_unions::OptimizeUnions;
use datafusion::optimizer::propagate_empty_relation::PropagateEmptyRelation;
use datafusion::optimizer::push_down_limit::PushDownLimit;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::scalar_subquery_to_join::ScalarSubqueryToJoin;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{AnalyzerRule, OptimizerConfig, OptimizerRule};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::prelude::SessionConfig;
use millstream_types::Result;

use crate::column_projections::{self, PushDownColumns};
use crate::completed_order::{CompleteDistinctOn, CompleteOrders};
use crate::completed_peers::CompletePeers;
use crate::dependent_join::DependentJoins;
use crate::equal_keys::EqualKeys;
use crate::errors::from_datafusion;
use crate::hidden_properties::HideProperties;
use crate::lifted_subqueries::LiftSubqueries;
use crate::missing_sorts::{self, AddMissingSorts};
use crate::push_down_conditions::PushDownConditions;
use crate::series_scan::ScanSeries;
use crate::typing::PostgresTypes;
use crate::window_keys::PlainWindowKeys;

/// What a query is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// It runs once, at one epoch, in DataFusion's executor.
    AdHoc,
    /// It is kept up to date by a dataflow, so it must mean the same at every time.
    View,
}

/// The options under which everything is planned and executed.
pub fn config() -> SessionConfig {
    let mut config = SessionConfig::new();
    let options = config.options_mut();
    options.sql_parser.parse_float_as_decimal = true;
    options.sql_parser.collect_spans = true;
    options.sql_parser.map_string_types_to_utf8view = true;
    options.sql_parser.enable_ident_normalization = true;
    // Aggregates over ordered rows take them in that order.
    options.sql_parser.enable_subquery_sort_elimination = false;
    options.sql_parser.default_null_ordering = "nulls_max".to_string();
    options.execution.time_zone = Some("UTC".to_string());
    options.optimizer.skip_failed_rules = false;
    // It compares what is known of nulls, too, which a union of a constant and a column is planned to in two ways.
    options.execution.skip_physical_aggregate_schema_check = true;
    // A query lets others have its thread after so many batches, so none may be large.
    options.execution.enforce_batch_size_in_joins = true;
    // Views stay Utf8View at the output: that is the engine's text.
    options.optimizer.expand_views_at_output = false;
    config
}

/// The options, built once.
pub(crate) fn options() -> &'static Arc<ConfigOptions> {
    static OPTIONS: LazyLock<Arc<ConfigOptions>> = LazyLock::new(|| Arc::new(config().options().as_ref().clone()));
    &OPTIONS
}

/// Rules that give every expression its Postgres type, in order.
pub(crate) fn analyzer_rules() -> Vec<Arc<dyn AnalyzerRule + Send + Sync>> {
    vec![
        // GROUPING(...) becomes bits of the grouping id; must see aggregates before their types change.
        Arc::new(ResolveGroupingFunction::new()),
        // Postgres' types, operators and functions. After it, nothing is left for DataFusion to decide ...
        Arc::new(PostgresTypes),
        // Intervals and floating-point numbers are grouped, ordered and joined by keys.
        Arc::new(EqualKeys),
        // ... but the inputs of unions and joins, and casts between widths of one class of types.
        Arc::new(TypeCoercion::new()),
        // Subqueries stand where the optimizer's rules look for them.
        Arc::new(LiftSubqueries),
    ]
}

/// The logical optimizer's rules in order.
///
/// Left out for good: `SingleDistinctToGroupBy` undoes fused distinct aggregates; `UnionsToFilter` merges branches that
/// stay apart in a dataflow; `FilterNullJoinKeys` adds filters that our joins do themselves; `ExtractLeafExpressions`
/// and `PushDownLeafProjections` serve formats that read single fields of structs.
pub fn optimizer_rules(purpose: Purpose) -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    let ad_hoc = purpose == Purpose::AdHoc;
    let mut rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        // Nested unions are one operator with many inputs.
        Arc::new(OptimizeUnions::new()),
        // Constants are folded, predicates brought into the forms that the rules below look for.
        Arc::new(SimplifyExpressions::new()),
    ];
    if ad_hoc {
        // A long series is made as it is read.
        rules.push(Arc::new(ScanSeries));
        // Ties are broken in the same way in a dataflow and out of it.
        rules.push(Arc::new(CompleteDistinctOn));
        // DataFusion executes DISTINCT as an aggregate; a dataflow has an operator for it.
        rules.push(Arc::new(ReplaceDistinctWithAggregate::new()));
    }
    rules.extend::<[Arc<dyn OptimizerRule + Send + Sync>; 14]>([
        // Joins on a false condition are empty.
        Arc::new(EliminateJoin::new()),
        // Correlated subqueries that the next three rules are not made for become joins with the outer values ...
        Arc::new(DependentJoins::Hard),
        // IN and EXISTS become semi, anti and mark joins.
        Arc::new(DecorrelatePredicateSubquery::new()),
        // Correlated scalar subqueries become left joins.
        Arc::new(ScalarSubqueryToJoin::new()),
        // Lateral subqueries become joins.
        Arc::new(DecorrelateLateralJoin::new()),
        // ... as does what these leave, such as IN and EXISTS as values.
        Arc::new(DependentJoins::Left),
        // Equal keys are told apart from residual conditions.
        Arc::new(ExtractEquijoinPredicate::new()),
        // GROUP BY a, a and ORDER BY a, a
        Arc::new(EliminateDuplicatedExpr::new()),
        // WHERE true and WHERE false
        Arc::new(EliminateFilter::new()),
        // FROM a, b WHERE a.k = b.k is an inner join.
        Arc::new(EliminateCrossJoin::new()),
        // LIMIT 0, and OFFSET 0 without a limit
        Arc::new(EliminateLimit::new()),
        // What is joined with or filtered from nothing is nothing.
        Arc::new(PropagateEmptyRelation::new()),
        // A left join whose right side a filter needs not null is an inner join, which is cheaper to maintain.
        Arc::new(EliminateOuterJoin::new()),
        // Conditions go below joins and aggregates, and to the scans.
        Arc::new(PushDownConditions::default()),
    ]);
    if ad_hoc {
        // Stops scans early. In a view a limit is a top-n over all rows, so nothing below it may stop.
        rules.push(Arc::new(PushDownLimit::new()));
    }
    rules.extend::<[Arc<dyn OptimizerRule + Send + Sync>; 4]>([
        // GROUP BY a, 1 is GROUP BY a.
        Arc::new(EliminateGroupByConstant::new()),
        // Expressions that occur twice are evaluated once.
        Arc::new(CommonSubexprEliminate::new()),
        // The functions of one window say it in the same way.
        Arc::new(PlainWindowKeys),
        // Columns that nobody needs are dropped as early as possible; runs of projections are merged.
        Arc::new(OptimizeProjections::new()),
    ]);
    if ad_hoc {
        // As `CompleteDistinctOn`, once the columns that nobody needs are gone.
        rules.push(Arc::new(CompleteOrders));
    }
    rules
}

/// The context in which optimizer rules run.
#[derive(Debug)]
pub(crate) struct RuleContext {
    options: Arc<ConfigOptions>,
    alias_generator: Arc<AliasGenerator>,
    now: Option<DateTime<Utc>>,
}

impl RuleContext {
    /// `now_us` (microseconds since 1970 UTC) is what `now()` becomes; without it `now()` stays.
    pub(crate) fn new(purpose: Purpose, now_us: Option<i64>) -> Self {
        let mut options = options().clone();
        if purpose == Purpose::View {
            // A dataflow has joins and no subqueries, so every scalar subquery becomes a join.
            Arc::make_mut(&mut options).optimizer.enable_physical_uncorrelated_scalar_subquery = false;
        }
        RuleContext {
            options,
            alias_generator: Arc::new(AliasGenerator::new()),
            now: now_us.and_then(DateTime::from_timestamp_micros),
        }
    }
}

impl OptimizerConfig for RuleContext {
    fn query_execution_start_time(&self) -> Option<DateTime<Utc>> {
        self.now
    }

    fn alias_generator(&self) -> &Arc<AliasGenerator> {
        &self.alias_generator
    }

    fn options(&self) -> Arc<ConfigOptions> {
        self.options.clone()
    }

    /// DISTINCT ON becomes an aggregate of `first_value`, which the rule looks up by name.
    fn function_registry(&self) -> Option<&dyn FunctionRegistry> {
        static STATE: LazyLock<SessionState> = LazyLock::new(session_state);
        Some(&*STATE)
    }
}

/// A DataFusion session for executing ad-hoc plans that this crate has bound and optimized.
///
/// Its analyzer and optimizer are empty: a plan that comes here is ready for the physical planner.
pub fn session_state() -> SessionState {
    session_state_with(config())
}

/// The state under which an optimized plan is executed. It is made once: it knows all functions by name, which takes longer
/// than most queries.
///
/// DataFusion stops an aggregate at the groups that a LIMIT wants, through whatever lies between that keeps the number of
/// rows. A window function does, but is about all groups.
///
/// # Errors
/// None that a plan can cause.
pub fn session_state_for(plan: &LogicalPlan) -> Result<&'static SessionState> {
    static STATE: LazyLock<SessionState> = LazyLock::new(session_state);
    static STATE_FOR_WINDOWS: LazyLock<SessionState> = LazyLock::new(|| session_state_with(config_of_all_groups()));
    let mut has_window = false;
    plan.apply_with_subqueries(|node| {
        has_window |= matches!(node, LogicalPlan::Window(_));
        Ok(if has_window { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })
    .map_err(from_datafusion)?;
    Ok(if has_window { &STATE_FOR_WINDOWS } else { &STATE })
}

/// As [`session_state_for`], for plans that are to have little in memory: one partition, and no aggregate that keeps the
/// groups that a LIMIT wants where all of them could be spilled.
pub fn frugal_session_state() -> &'static SessionState {
    static STATE: LazyLock<SessionState> =
        LazyLock::new(|| session_state_with(config_of_all_groups().with_target_partitions(1)));
    &STATE
}

/// The options under which an aggregate does not stop at the groups that a LIMIT wants.
fn config_of_all_groups() -> SessionConfig {
    let mut config = config();
    let options = &mut config.options_mut().optimizer;
    options.enable_topk_aggregation = false;
    options.enable_distinct_aggregation_soft_limit = false;
    config
}

/// As [`session_state`], with options changed by the caller, such as the number of partitions.
pub fn session_state_with(config: SessionConfig) -> SessionState {
    SessionStateBuilder::new()
        .with_config(config)
        .with_default_features()
        .with_analyzer_rules(Vec::new())
        .with_optimizer_rules(Vec::new())
        .with_physical_optimizer_rules(physical_rules())
        .build()
}

/// DataFusion's rules for physical plans, with ours.
///
/// Left out for good: the two that push filters down. They find a column on one side of a join by its name, which a column
/// of the other side may have too: the filter is then one on another column. The logical rules have pushed down what can
/// be, and no scan takes a filter from a physical plan.
fn physical_rules() -> Vec<Arc<dyn PhysicalOptimizerRule + Send + Sync>> {
    let rules = PhysicalOptimizer::new().rules.into_iter();
    let rules = rules.filter(|rule| !rule.name().starts_with("FilterPushdown"));
    let rules = rules
        .map(|rule| if rule.name() == column_projections::REPLACED { Arc::new(PushDownColumns) as _ } else { rule });
    let rules = rules.flat_map(|rule| {
        let is_last = rule.name() == missing_sorts::BEFORE;
        let ours: [Arc<dyn PhysicalOptimizerRule + Send + Sync>; 2] =
            [Arc::new(AddMissingSorts), Arc::new(CompletePeers)];
        ours.into_iter().filter(move |_| is_last).chain([rule])
    });
    std::iter::once(Arc::new(HideProperties) as _).chain(rules).collect()
}
