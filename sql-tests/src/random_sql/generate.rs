//! Random cases.

use millstream_types::hash::mix;

use super::{Case, Query, Type};

/// How deep queries are nested.
const DEPTH: u64 = 3;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % n
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len() as u64) as usize]
    }
}

/// The case of a seed.
pub(super) fn case(seed: u64) -> Case {
    let mut generator = Generator { random: Random(mix(seed)), relations: Vec::new() };
    let n_tables = 1 + generator.random.below(3) as usize;
    let mut tables = Vec::new();
    for i in 0..n_tables {
        let key = if generator.random.below(2) == 0 { "int PRIMARY KEY" } else { "int" };
        tables.push(format!("CREATE TABLE t{i} (c0 {key}, c1 int, c2 bigint, c3 text)"));
        let types = vec![Type::Number, Type::Number, Type::Number, Type::Text];
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
}

impl Generator {
    fn value(&mut self, wanted: Type) -> String {
        if self.random.below(6) == 0 {
            return "NULL".into();
        }
        match wanted {
            Type::Number => self.random.below(5).to_string(),
            Type::Text => (*self.random.of(&["'a'", "'b'", "''", "'a text of some length'"])).into(),
        }
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
        match self.random.below(6) {
            0 => format!("DELETE FROM t{table} WHERE {condition}"),
            1 => format!("UPDATE t{table} SET c1 = {} WHERE {condition}", self.value(Type::Number)),
            2 => format!("UPDATE t{table} SET c3 = {}, c2 = c1 + 1 WHERE {condition}", self.value(Type::Text)),
            _ => {
                let n_rows = 1 + self.random.below(6);
                let rows = (0..n_rows).map(|_| {
                    let values = [Type::Number, Type::Number, Type::Text].map(|t| self.value(t));
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
        match self.random.below(9) {
            0 => self.plain(depth),
            1 | 2 => self.join(depth),
            3 | 4 => self.aggregate(depth),
            5 => self.set_operation(depth),
            6 => self.top_n(depth),
            7 => self.with_subquery(depth),
            _ => self.window(depth),
        }
    }

    fn one_of(&mut self, columns: &[String], otherwise: &str) -> String {
        if columns.is_empty() { otherwise.to_owned() } else { self.random.of(columns).clone() }
    }

    /// A condition over the columns of sources.
    fn condition(&mut self, numbers: &[String], texts: &[String]) -> String {
        let number = self.one_of(numbers, "1");
        match self.random.below(6) {
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
        let condition = self.condition(&x.columns("x", Type::Number), &x.columns("x", Type::Text));
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
        let wanted = if self.random.below(4) == 0 { Type::Text } else { Type::Number };
        let (left, right) = (x.columns("x", wanted), y.columns("y", wanted));
        let (left, right) = (self.one_of(&left, "NULL"), self.one_of(&right, "NULL"));
        let mut on = match self.random.below(8) {
            _ if left == "NULL" || right == "NULL" => "true".to_owned(),
            0 if kind != "FULL JOIN" => format!("{left} < {right}"),
            1 => format!("{left} IS NOT DISTINCT FROM {right}"),
            _ => format!("{left} = {right}"),
        };
        let both = |t: Type| [x.columns("x", t), y.columns("y", t)].concat();
        if self.random.below(3) == 0 {
            on += &format!(" AND {}", self.condition(&both(Type::Number), &both(Type::Text)));
        }
        let columns = [x.all("x"), y.all("y")].concat();
        let projection = self.projection(&columns);
        let rest = format!("FROM {} x {kind} {} y ON {on}", x.text, y.text);
        self.select(&projection, &rest, x.part.into_iter().chain(y.part).collect(), false)
    }

    fn aggregate(&mut self, depth: u64) -> Query {
        let x = self.source(depth);
        let (numbers, texts) = (x.columns("x", Type::Number), x.columns("x", Type::Text));
        let keys: Vec<(String, Type)> = x.all("x").into_iter().filter(|_| self.random.below(3) == 0).take(2).collect();
        let mut projection = keys.clone();
        for _ in 0..1 + self.random.below(3) {
            let number = self.one_of(&numbers, "1");
            let text = self.one_of(&texts, "'a'");
            let (call, call_type) = match self.random.below(9) {
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
                if filter { format!(" FILTER (WHERE {})", self.condition(&numbers, &texts)) } else { String::new() };
            projection.push((format!("{call}{filter}"), call_type));
        }
        let mut rest = format!("FROM {} x", x.text);
        if !keys.is_empty() {
            let keys: Vec<String> = (1..=keys.len()).map(|i| i.to_string()).collect();
            rest += &format!(" GROUP BY {}", keys.join(", "));
            if self.random.below(4) == 0 {
                rest += " HAVING count(*) > 1";
            }
        }
        self.select(&projection, &rest, x.part.into_iter().collect(), false)
    }

    fn set_operation(&mut self, depth: u64) -> Query {
        let operation = *self.random.of(&["UNION", "UNION ALL", "EXCEPT", "EXCEPT ALL", "INTERSECT", "INTERSECT ALL"]);
        let (x, y) = (self.source(depth), self.source(depth));
        let side = |generator: &mut Self, source: Source, alias: &str| {
            let number = generator.one_of(&source.columns(alias, Type::Number), "1");
            let text = generator.one_of(&source.columns(alias, Type::Text), "'a'");
            let sql = format!("SELECT {number} AS c0, {text} AS c1 FROM {} {alias}", source.text);
            Query { sql, parts: source.part.into_iter().collect(), types: vec![Type::Number, Type::Text] }
        };
        let (left, right) = (side(self, x, "x"), side(self, y, "y"));
        let sql = format!("{} {operation} {}", left.sql, right.sql);
        Query { sql, parts: vec![left, right], types: vec![Type::Number, Type::Text] }
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
        let mut condition = match self.random.below(7) {
            0 => format!("{not}EXISTS (SELECT 1 {from} WHERE {k} = {a})"),
            1 => format!("{not}EXISTS (SELECT 1 {from} WHERE {k} = {a} AND {l} < {b})"),
            2 => format!("{a} {not}IN (SELECT {k} {from})"),
            3 => format!("{a} {not}IN (SELECT {k} {from} WHERE {l} = {b})"),
            4 => format!("{a} <= (SELECT max({k}) {from} WHERE {l} = {b})"),
            5 => format!("{a} < (SELECT avg({k}) {from})"),
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
        let call = match self.random.below(6) {
            0 => "row_number()".to_owned(),
            1 => format!("sum({number})"),
            2 => format!("lag({number})"),
            3 => "rank()".to_owned(),
            4 => format!("max({number})"),
            _ => "count(*)".to_owned(),
        };
        let frame = match self.random.below(3) {
            0 if call.starts_with(['s', 'm', 'c']) => " ROWS BETWEEN 1 PRECEDING AND CURRENT ROW",
            _ => "",
        };
        projection
            .push((format!("{call} OVER (PARTITION BY {partition} ORDER BY {}{frame})", all.join(", ")), Type::Number));
        let rest = format!("FROM {} x", x.text);
        self.select(&projection, &rest, x.part.into_iter().collect(), false)
    }
}
