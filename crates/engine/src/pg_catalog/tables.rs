//! The catalog relations: their columns, which are Postgres', and which of them have rows.

use std::collections::HashMap;
use std::sync::LazyLock;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use millstream_types::Result;

use super::cell::{Cell, CellType};
use super::{CatalogView, access, activity, constraints, information_schema, procs, relations, server, types};

/// A catalog relation.
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    /// `r` for what is a table in Postgres, `v` for a view.
    pub(super) relkind: String,
    pub(super) columns: Vec<(String, CellType)>,
    fill: Option<Fill>,
}

/// Gives the rows of a relation.
pub(super) type Fill = fn(&CatalogView, &mut Rows<'_>);

/// The rows of a relation while they are made.
pub(super) struct Rows<'a> {
    table: &'a Table,
    rows: Vec<Vec<Cell>>,
}

/// A line is a relation: its kind, schema and name, and its columns with Postgres' types.
const RELATIONS: &str = include_str!("relations.txt");

static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    let fills: HashMap<&str, Fill> = relations::FILLS
        .iter()
        .chain(constraints::FILLS)
        .chain(types::FILLS)
        .chain(server::FILLS)
        .chain(procs::FILLS)
        .chain(access::FILLS)
        .chain(activity::FILLS)
        .chain(information_schema::FILLS)
        .copied()
        .collect();
    RELATIONS.lines().filter_map(|line| Table::read(line, &fills)).collect()
});

/// All of them.
pub(super) fn all() -> &'static [Table] {
    &TABLES
}

/// The relation of a name.
pub(super) fn find(schema: &str, name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|t| t.name == name && t.schema == schema)
}

impl Table {
    fn read(line: &str, fills: &HashMap<&str, Fill>) -> Option<Table> {
        let (head, columns) = line.split_once(": ")?;
        let (relkind, qualified) = head.split_once(' ')?;
        let (schema, name) = qualified.split_once('.')?;
        let column = |column: &str| {
            let (name, type_name) = column.trim().split_once(' ')?;
            Some((name.to_owned(), CellType::of_postgres(type_name)))
        };
        Some(Table {
            schema: schema.to_owned(),
            name: name.to_owned(),
            relkind: relkind.to_owned(),
            columns: columns.split(',').filter_map(column).collect(),
            fill: fills.get(qualified).copied(),
        })
    }

    /// Whether it never has rows.
    pub(super) fn is_empty(&self) -> bool {
        self.fill.is_none()
    }

    /// Its rows, under the schema that the catalog gave it.
    pub(super) fn batch(&self, view: &CatalogView, schema: SchemaRef) -> Result<RecordBatch> {
        let mut rows = Rows { table: self, rows: Vec::new() };
        if let Some(fill) = self.fill {
            fill(view, &mut rows);
        }
        let rows = rows.rows;
        let columns = self.columns.iter().enumerate().map(|(i, (_, kind))| kind.array(rows.iter().map(|r| &r[i])));
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(schema, columns.collect(), &options)?)
    }
}

impl Rows<'_> {
    /// Whether the relation has a column.
    pub(super) fn has_column(&self, name: &str) -> bool {
        self.table.columns.iter().any(|(n, _)| n == name)
    }

    /// Adds a row. Columns that are not given are false, zero, empty or null, whatever stands for "nothing special"; in
    /// the information schema null.
    pub(super) fn push(&mut self, cells: impl IntoIterator<Item = (&'static str, Cell)>) {
        let null = self.table.schema == "information_schema";
        let default = |(name, kind): &(String, CellType)| if null { Cell::Null } else { default_of(name, *kind) };
        let mut row: Vec<Cell> = self.table.columns.iter().map(default).collect();
        for (name, cell) in cells {
            let at = self.table.columns.iter().position(|(n, _)| n == name);
            debug_assert!(at.is_some(), "{} has no column {name}", self.table.name);
            if let Some(at) = at {
                row[at] = cell;
            }
        }
        self.rows.push(row);
    }
}

fn default_of(name: &str, kind: CellType) -> Cell {
    match kind {
        CellType::Bool => Cell::Bool(false),
        CellType::SmallInt | CellType::Integer | CellType::BigInt | CellType::Oid => Cell::Int(0),
        CellType::Real => Cell::Float(0.0),
        // Single characters that say what a thing is not.
        CellType::Text if matches!(name, "attidentity" | "attgenerated" | "attcompression") => {
            Cell::Text(String::new())
        }
        _ => Cell::Null,
    }
}
