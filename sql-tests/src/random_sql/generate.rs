//! Random cases.

use millstream_types::hash::mix;

use super::{Case, Query, Type, oracle};
use crate::random::Random;

/// How deep queries are nested.
const DEPTH: u64 = 3;

/// The types of further columns of tables.
const MORE_TYPES: [Type; 7] =
    [Type::Float, Type::Numeric, Type::Interval, Type::Date, Type::Timestamp, Type::Boolean, Type::Numbers];
/// Values of each of them; some are equal without being the same.
const FLOATS: &[&str] = &["0", "'-0'", "1.5", "-2.25", "'NaN'", "'Infinity'"];
const NUMERICS: &[&str] = &["0", "1.50", "2.25", "-3.00", "2.00"];
const INTERVALS: &[&str] = &["'1 day'", "'24 hours'", "'30 days'", "'1 mon'", "'-2 hours'"];
const DATES: &[&str] = &["'2024-01-31'", "'2024-02-29'", "'2023-12-01'", "'2024-02-01'"];
const TIMESTAMPS: &[&str] = &["'2024-01-31 10:00'", "'2024-02-29 23:59:59.5'", "'2024-01-31 10:00:00.000001'"];
const ARRAYS: &[&str] = &["'{}'", "'{1}'", "'{1,NULL}'", "'{2,1,3}'", "'{3,3}'"];

impl Type {
    /// As SQL names it.
    fn name(self) -> &'static str {
        match self {
            Type::Number => "bigint",
            Type::Text => "text",
            Type::Float => "double precision",
            Type::Numeric => "numeric(10,2)",
            Type::Interval => "interval",
            Type::Date => "date",
            Type::Timestamp => "timestamp",
            Type::Boolean => "boolean",
            Type::Numbers => "int[]",
        }
    }
}

/// The case of a seed.
pub(super) fn case(seed: u64) -> Case {
    let leaves_order_open = !oracle::is_asked(seed);
    let mut generator = Generator { random: Random::new(mix(seed)), relations: Vec::new(), leaves_order_open };
    let n_tables = 1 + generator.random.below(3) as usize;
    let mut tables = Vec::new();
    for i in 0..n_tables {
        let key = if generator.random.below(2) == 0 { "int PRIMARY KEY" } else { "int" };
        let more: Vec<Type> = MORE_TYPES.into_iter().filter(|_| generator.random.below(3) == 0).collect();
        let columns = more.iter().enumerate().map(|(k, t)| format!(", c{} {}", 4 + k, t.name()));
        let columns: String = columns.collect();
        tables.push(format!("CREATE TABLE t{i} (c0 {key}, c1 int, c2 bigint, c3 text{columns})"));
        let types = [vec![Type::Number, Type::Number, Type::Number, Type::Text], more].concat();
        generator.relations.push((format!("t{i}"), types));
    }
    let change = |generator: &mut Generator| generator.change(n_tables);
    let n_before = generator.random.below(4);
    let before = (0..n_before).map(|_| change(&mut generator)).collect();
    let mut views = Vec::new();
    for i in 0..1 + generator.random.below(4) {
        let name = format!("v{i}");
        let depth = 1 + generator.random.below(DEPTH);
        let query = generator.query(depth);
        generator.relations.push((name.clone(), query.types.clone()));
        views.push((name, query));
    }
    let n_after = 2 + generator.random.below(6);
    let after = (0..n_after).map(|_| change(&mut generator)).collect();
    Case { tables, views, before, after }
}

/// A source in FROM: its text, and what it is made of.
struct Source {
    text: String,
    types: Vec<Type>,
    part: Option<Query>,
}

impl Source {
    fn columns(&self, alias: &str, wanted: Type) -> Vec<String> {
        let of_type = self.types.iter().enumerate().filter(|(_, t)| **t == wanted);
        of_type.map(|(i, _)| format!("{alias}.c{i}")).collect()
    }

    fn all(&self, alias: &str) -> Vec<(String, Type)> {
        self.types.iter().enumerate().map(|(i, t)| (format!("{alias}.c{i}"), *t)).collect()
    }
}

struct Generator {
    random: Random,
    relations: Vec<(String, Vec<Type>)>,
    /// Orders may be such that SQL does not say which of several rows comes first.
    leaves_order_open: bool,
}

impl Generator {
    fn value(&mut self, wanted: Type) -> String {
        if self.random.below(6) == 0 {
            return "NULL".into();
        }
        let choices: &[&str] = match wanted {
            Type::Number => return self.random.below(5).to_string(),
            Type::Text => &["'a'", "'b'", "''", "'a text of some length'"],
            Type::Float => FLOATS,
            Type::Numeric => NUMERICS,
            Type::Interval => INTERVALS,
            Type::Date => DATES,
            Type::Timestamp => TIMESTAMPS,
            Type::Boolean => &["true", "false"],
            Type::Numbers => ARRAYS,
        };
        (*self.random.of(choices)).into()
    }

    /// A value with its type.
    fn constant(&mut self, wanted: Type) -> String {
        format!("CAST({} AS {})", self.value(wanted), wanted.name())
    }

    /// A statement that changes a table. Keys that are there already are left alone.
    fn change(&mut self, n_tables: usize) -> String {
        let table = self.random.below(n_tables as u64);
        let condition = match self.random.below(4) {
            0 => format!("c1 = {}", self.random.below(5)),
            1 => format!("c0 < {}", self.random.below(12)),
            2 => format!("c2 IS NULL OR c1 > {}", self.random.below(4)),
            _ => format!("c0 % 3 = {}", self.random.below(3)),
        };
        let types = self.relations[table as usize].1.clone();
        match self.random.below(7) {
            0 => format!("DELETE FROM t{table} WHERE {condition}"),
            1 if types.len() > 4 => {
                let column = 4 + self.random.below(types.len() as u64 - 4) as usize;
                let value = self.value(types[column]);
                format!("UPDATE t{table} SET c{column} = {value} WHERE {condition}")
            }
            1 | 2 => format!("UPDATE t{table} SET c1 = {} WHERE {condition}", self.value(Type::Number)),
            3 => format!("UPDATE t{table} SET c3 = {}, c2 = c1 + 1 WHERE {condition}", self.value(Type::Text)),
            _ => {
                let n_rows = 1 + self.random.below(6);
                let rows = (0..n_rows).map(|_| {
                    let values: Vec<String> = types[1..].iter().map(|t| self.value(*t)).collect();
                    format!("({}, {})", self.random.below(12), values.join(", "))
                });
                let rows: Vec<String> = rows.collect();
                format!("INSERT INTO t{table} VALUES {} ON CONFLICT DO NOTHING", rows.join(", "))
            }
        }
    }

    fn source(&mut self, depth: u64) -> Source {
        if depth <= 1 || self.random.below(3) == 0 {
            let (name, types) = self.random.of(&self.relations).clone();
            return Source { text: name, types, part: None };
        }
        let query = self.query(depth - 1);
        Source { text: format!("({})", query.sql), types: query.types.clone(), part: Some(query) }
    }

    fn query(&mut self, depth: u64) -> Query {
        match self.random.below(13) {
            0 => self.plain(depth),
            1 | 2 => self.join(depth),
            3 | 4 => self.aggregate(depth),
            5 => self.set_operation(depth),
            6 => self.top_n(depth),
            7 | 8 => self.with_subquery(depth),
            9 => self.distinct_on(depth),
            10 => self.lateral(depth),
            _ => self.window(depth),
        }
    }

    fn one_of(&mut self, columns: &[String], otherwise: &str) -> String {
        if columns.is_empty() { otherwise.to_owned() } else { self.random.of(columns).clone() }
    }

    /// A condition over the columns of sources.
    fn condition(&mut self, columns: &[(String, Type)]) -> String {
        let of =
            |wanted: Type| -> Vec<String> { columns.iter().filter(|c| c.1 == wanted).map(|c| c.0.clone()).collect() };
        let (numbers, texts) = (&of(Type::Number)[..], &of(Type::Text)[..]);
        let number = self.one_of(numbers, "1");
        match self.random.below(9) {
            6 | 7 if !columns.is_empty() => {
                let (column, of_any) = self.random.of(columns).clone();
                let op = *self.random.of(&["=", "<>", "<", ">=", "IS DISTINCT FROM"]);
                format!("{column} {op} {}", self.constant(of_any))
            }
            0 => format!("{number} > {}", self.random.below(5)),
            1 => format!("{number} IS NOT NULL"),
            2 => format!("{number} <> {}", self.one_of(numbers, "2")),
            3 => format!("{} = {}", self.one_of(texts, "'a'"), self.value(Type::Text)),
            4 => format!("({number} < 3 OR {} IS NULL)", self.one_of(texts, "'a'")),
            _ => format!("{number} + 1 >= {}", self.one_of(numbers, "2")),
        }
    }

    /// Up to four of the columns and expressions over them.
    fn projection(&mut self, columns: &[(String, Type)]) -> Vec<(String, Type)> {
        let n = 1 + self.random.below(4);
        let pick = |generator: &mut Self| {
            let (column, column_type) = generator.random.of(columns).clone();
            match (generator.random.below(5), column_type) {
                (0, Type::Number) => (format!("{column} + 1"), Type::Number),
                (1, Type::Number) => (format!("coalesce({column}, 0)"), Type::Number),
                (2, Type::Number) => (format!("CASE WHEN {column} > 2 THEN 'b' ELSE 'c' END"), Type::Text),
                (0, Type::Text) => (format!("length({column})"), Type::Number),
                (0, Type::Date) => (format!("{column} + 1"), Type::Date),
                (0, Type::Timestamp) => (format!("date_trunc('day', {column})"), Type::Timestamp),
                (0, Type::Interval) => (format!("{column} * 2"), Type::Interval),
                (0, Type::Boolean) => (format!("NOT {column}"), Type::Boolean),
                (0, Type::Numbers) => (format!("cardinality({column})"), Type::Number),
                (1, Type::Numbers) => (format!("2 = ANY ({column})"), Type::Boolean),
                (2, Type::Numbers) => (format!("{column}[2]"), Type::Number),
                (1, of_any) => (format!("coalesce({column}, {})", generator.constant(of_any)), of_any),
                (2, of_any) => (format!("{column} <= {}", generator.constant(of_any)), Type::Boolean),
                _ => (column, column_type),
            }
        };
        (0..n).map(|_| pick(self)).collect()
    }

    fn select(&self, projection: &[(String, Type)], rest: &str, parts: Vec<Query>, distinct: bool) -> Query {
        let columns: Vec<String> = projection.iter().enumerate().map(|(i, (e, _))| format!("{e} AS c{i}")).collect();
        let distinct = if distinct { "DISTINCT " } else { "" };
        let sql = format!("SELECT {distinct}{} {rest}", columns.join(", "));
        Query { sql, parts, types: projection.iter().map(|p| p.1).collect() }
    }

    fn plain(&mut self, depth: u64) -> Query {
        let x = self.source(depth);
        let condition = self.condition(&x.all("x"));
        let projection = self.projection(&x.all("x"));
        let distinct = self.random.below(2) == 0;
        self.select(
            &projection,
            &format!("FROM {} x WHERE {condition}", x.text),
            x.part.into_iter().collect(),
            distinct,
        )
    }

    fn join(&mut self, depth: u64) -> Query {
        let (x, y) = (self.source(depth), self.source(depth));
        let kind = *self.random.of(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"]);
        let common: Vec<Type> = x.types.iter().copied().filter(|t| y.types.contains(t)).collect();
        let wanted = if common.is_empty() { Type::Number } else { *self.random.of(&common) };
        let (left, right) = (x.columns("x", wanted), y.columns("y", wanted));
        let (left, right) = (self.one_of(&left, "NULL"), self.one_of(&right, "NULL"));
        let mut on = match self.random.below(8) {
            _ if left == "NULL" || right == "NULL" => "true".to_owned(),
            0 if kind != "FULL JOIN" => format!("{left} < {right}"),
            1 => format!("{left} IS NOT DISTINCT FROM {right}"),
            _ => format!("{left} = {right}"),
        };
        let columns = [x.all("x"), y.all("y")].concat();
        if self.random.below(3) == 0 && kind != "FULL JOIN" {
            on += &format!(" AND {}", self.condition(&columns));
        }
        let projection = self.projection(&columns);
        let rest = format!("FROM {} x {kind} {} y ON {on}", x.text, y.text);
        self.select(&projection, &rest, x.part.into_iter().chain(y.part).collect(), false)
    }

    fn aggregate(&mut self, depth: u64) -> Query {
        let x = self.source(depth);
        let (numbers, texts) = (x.columns("x", Type::Number), x.columns("x", Type::Text));
        let mut keys: Vec<(String, Type)> =
            x.all("x").into_iter().filter(|_| self.random.below(3) == 0).take(2).collect();
        if let Some((key, Type::Number)) = keys.first().cloned()
            && self.random.below(4) == 0
        {
            keys.push((format!("CAST({key} AS text)"), Type::Text));
        }
        let mut projection = keys.clone();
        for _ in 0..1 + self.random.below(3) {
            let number = self.one_of(&numbers, "1");
            let number = if self.random.below(4) == 0 { format!("CAST({number} AS bigint)") } else { number };
            let text = self.one_of(&texts, "'a'");
            let (any, of_any) = self.random.of(&x.all("x")).clone();
            let (call, call_type) = match self.random.below(12) {
                9 if !matches!(of_any, Type::Boolean) => (format!("min({any})"), of_any),
                10 => (format!("count(DISTINCT {any})"), Type::Number),
                11 if matches!(of_any, Type::Interval | Type::Numeric) => (format!("sum({any})"), of_any),
                0 => ("count(*)".to_owned(), Type::Number),
                1 => (format!("sum({number})"), Type::Number),
                2 => (format!("min({number})"), Type::Number),
                3 => (format!("max({text})"), Type::Text),
                4 => (format!("count(DISTINCT {text})"), Type::Number),
                5 => (format!("sum(DISTINCT {number})"), Type::Number),
                6 => (format!("count({number})"), Type::Number),
                7 => (format!("string_agg({text}, ',' ORDER BY {text})"), Type::Text),
                _ => (format!("max({number})"), Type::Number),
            };
            let filter = self.random.below(4) == 0;
            let filter =
                if filter { format!(" FILTER (WHERE {})", self.condition(&x.all("x"))) } else { String::new() };
            projection.push((format!("{call}{filter}"), call_type));
        }
        let mut rest = format!("FROM {} x", x.text);
        if !keys.is_empty() {
            let names: Vec<String> = keys.iter().map(|k| k.0.clone()).collect();
            let names = names.join(", ");
            rest += &match self.random.below(6) {
                0 => format!(" GROUP BY ROLLUP ({names})"),
                1 => format!(" GROUP BY GROUPING SETS (({names}), ())"),
                _ => format!(" GROUP BY {names}"),
            };
            if self.random.below(4) == 0 {
                rest += " HAVING count(*) > 1";
            }
        }
        self.select(&projection, &rest, x.part.into_iter().collect(), false)
    }

    fn set_operation(&mut self, depth: u64) -> Query {
        let operation = *self.random.of(&["UNION", "UNION ALL", "EXCEPT", "EXCEPT ALL", "INTERSECT", "INTERSECT ALL"]);
        let (x, y) = (self.source(depth), self.source(depth));
        let common: Vec<Type> = x.types.iter().copied().filter(|t| y.types.contains(t)).collect();
        let types: Vec<Type> = match common.is_empty() {
            true => vec![Type::Number, Type::Text],
            false => (0..1 + self.random.below(2)).map(|_| *self.random.of(&common)).collect(),
        };
        let side = |generator: &mut Self, source: Source, alias: &str| {
            let columns = types.iter().enumerate().map(|(i, t)| {
                let otherwise = generator.constant(*t);
                format!("{} AS c{i}", generator.one_of(&source.columns(alias, *t), &otherwise))
            });
            let columns: Vec<String> = columns.collect();
            let sql = format!("SELECT {} FROM {} {alias}", columns.join(", "), source.text);
            Query { sql, parts: source.part.into_iter().collect(), types: types.clone() }
        };
        let (left, right) = (side(self, x, "x"), side(self, y, "y"));
        let sql = format!("{} {operation} {}", left.sql, right.sql);
        Query { sql, parts: vec![left, right], types }
    }

    fn distinct_on(&mut self, depth: u64) -> Query {
        let x = self.source(depth);
        let all = x.all("x");
        let key = self.random.of(&all).0.clone();
        let others: Vec<String> = all.iter().map(|c| c.0.clone()).filter(|c| *c != key).collect();
        let direction = *self.random.of(&["", " DESC", " DESC NULLS LAST"]);
        let order = [vec![format!("{key}{direction}")], others].concat();
        let columns: Vec<String> = all.iter().enumerate().map(|(i, (c, _))| format!("{c} AS c{i}")).collect();
        let sql = format!(
            "SELECT DISTINCT ON ({key}) {} FROM {} x ORDER BY {}",
            columns.join(", "),
            x.text,
            order.join(", ")
        );
        Query { sql, parts: x.part.into_iter().collect(), types: x.types }
    }

    fn lateral(&mut self, depth: u64) -> Query {
        let (x, y) = (self.source(depth), self.source(depth));
        let outer = self.one_of(&x.columns("x", Type::Number), "1");
        let inner = self.one_of(&y.columns("y", Type::Number), "1");
        let op = *self.random.of(&["=", "=", "<", "IS NOT DISTINCT FROM"]);
        let from = format!("FROM {} y WHERE {inner} {op} {outer}", y.text);
        let all: Vec<String> = y.all("y").into_iter().map(|c| c.0).collect();
        let (subquery, column_type) = match self.random.below(3) {
            0 => (format!("SELECT count(*) AS v {from}"), Type::Number),
            1 => (format!("SELECT max({inner}) + {outer} AS v {from}"), Type::Number),
            _ => (format!("SELECT {inner} AS v {from} ORDER BY {} LIMIT 2", all.join(", ")), Type::Number),
        };
        let kind = *self.random.of(&["CROSS JOIN LATERAL", "LEFT JOIN LATERAL"]);
        let on = if kind.starts_with("LEFT") { " ON true" } else { "" };
        let mut projection = self.projection(&x.all("x"));
        projection.push(("l.v".to_owned(), column_type));
        let rest = format!("FROM {} x {kind} ({subquery}) l{on}", x.text);
        self.select(&projection, &rest, x.part.into_iter().chain(y.part).collect(), false)
    }

    fn top_n(&mut self, depth: u64) -> Query {
        let x = self.source(depth);
        let mut order: Vec<String> = x.all("x").into_iter().map(|c| c.0).collect();
        let n = self.random.below(order.len() as u64) as usize;
        order.rotate_left(n);
        if self.random.below(2) == 0 {
            order[0] += " DESC";
        }
        let offset = if self.random.below(3) == 0 { " OFFSET 1" } else { "" };
        let rest =
            format!("FROM {} x ORDER BY {} LIMIT {}{offset}", x.text, order.join(", "), 1 + self.random.below(4));
        let projection = x.all("x");
        self.select(&projection, &rest, x.part.into_iter().collect(), false)
    }

    fn with_subquery(&mut self, depth: u64) -> Query {
        let (x, y) = (self.source(depth), self.source(depth));
        let (numbers, inner) = (x.columns("x", Type::Number), y.columns("y", Type::Number));
        let (a, b) = (self.one_of(&numbers, "1"), self.one_of(&numbers, "2"));
        let (k, l) = (self.one_of(&inner, "1"), self.one_of(&inner, "2"));
        let from = format!("FROM {} y", y.text);
        let not = *self.random.of(&["", "NOT "]);
        let mut projection = self.projection(&x.all("x"));
        let mut condition = match self.random.below(8) {
            0 => format!("{not}EXISTS (SELECT 1 {from} WHERE {k} = {a})"),
            1 => format!("{not}EXISTS (SELECT 1 {from} WHERE {k} = {a} AND {l} < {b})"),
            2 => format!("{a} {not}IN (SELECT {k} {from})"),
            3 => format!("{a} {not}IN (SELECT {k} {from} WHERE {l} = {b})"),
            4 => format!("{a} <= (SELECT max({k}) {from} WHERE {l} = {b})"),
            5 => format!("{a} < (SELECT avg({k}) {from})"),
            6 => {
                let op = *self.random.of(&["= ANY", "<> ALL", "< ANY", ">= ALL"]);
                format!("{a} {op} (SELECT {k} {from} WHERE {l} <> {b})")
            }
            _ => "true".to_owned(),
        };
        if condition == "true" {
            let value = match self.random.below(3) {
                0 => format!("(SELECT count(*) {from} WHERE {k} = {a})"),
                1 => format!("(SELECT sum({l}) {from} WHERE {k} = {a})"),
                _ => format!("(SELECT min({l}) {from})"),
            };
            projection.push((value, Type::Number));
        } else if self.random.below(4) == 0 {
            condition = match self.random.below(3) {
                0 => format!("({condition}) OR {a} = 1"),
                1 => format!("NOT (({condition}) AND {a} > 1)"),
                _ => format!("({condition}) IS NULL"),
            };
        }
        let rest = format!("FROM {} x WHERE {condition}", x.text);
        self.select(&projection, &rest, x.part.into_iter().chain(y.part).collect(), false)
    }

    fn window(&mut self, depth: u64) -> Query {
        let x = self.source(depth);
        let mut projection = x.all("x");
        let all: Vec<String> = projection.iter().map(|c| c.0.clone()).collect();
        let number = self.one_of(&x.columns("x", Type::Number), "1");
        let partition = self.random.of(&all).clone();
        let of_any = self.random.of(&x.all("x")).clone();
        let mut value_type = Type::Number;
        let call = match self.random.below(9) {
            6..=8 => {
                value_type = of_any.1;
                let function = *self.random.of(&["first_value", "last_value", "lead", "lag"]);
                format!("{function}({})", of_any.0)
            }
            0 => "row_number()".to_owned(),
            1 => format!("sum({number})"),
            2 => format!("lag({number})"),
            3 => "rank()".to_owned(),
            4 => format!("max({number})"),
            _ => "count(*)".to_owned(),
        };
        let has_frame = ["sum", "max", "count", "first", "last"].iter().any(|f| call.starts_with(f));
        let frame = match self.random.below(7) {
            0 if has_frame => " ROWS BETWEEN 1 PRECEDING AND CURRENT ROW",
            1 if has_frame => " GROUPS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
            2 if has_frame => " RANGE BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING",
            3 if has_frame => " ROWS BETWEEN 1 FOLLOWING AND 3 FOLLOWING",
            4 if has_frame => " RANGE BETWEEN 1 PRECEDING AND 2 FOLLOWING",
            _ => "",
        };
        let has_peers = self.leaves_order_open && self.random.below(2) == 0;
        // The values to which an offset is added are ordered by themselves.
        let order = if frame.contains("RANGE BETWEEN 1") {
            number.clone()
        } else if has_peers {
            self.random.of(&all).clone()
        } else {
            all.join(", ")
        };
        let order = if order == "1" { "1 + 0".to_owned() } else { order };
        let direction = if self.random.below(3) == 0 { " DESC" } else { "" };
        let function = if frame.contains("RANGE BETWEEN 1") && !call.starts_with(['s', 'm', 'c']) {
            value_type = Type::Number;
            "count(*)".to_owned()
        } else {
            call
        };
        projection.push((
            format!("{function} OVER (PARTITION BY {partition} ORDER BY {order}{direction}{frame})"),
            value_type,
        ));
        let rest = format!("FROM {} x", x.text);
        self.select(&projection, &rest, x.part.into_iter().collect(), false)
    }
}
