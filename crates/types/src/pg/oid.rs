//! Type identifiers, sizes and modifiers, as Postgres' `pg_type` has them.

use crate::SqlType;

/// How a type is announced to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PgType {
    /// The row of `pg_type`.
    pub oid: u32,
    /// Bytes of a value in Postgres' memory; -1 if it varies.
    pub size: i16,
    /// The modifier: length or precision and scale; -1 if there is none.
    pub modifier: i32,
}

/// Bytes of the length word that Postgres adds to the modifiers of varying-length types.
const HEADER: i32 = 4;

impl PgType {
    /// How `sql_type` is announced.
    pub fn of(sql_type: &SqlType) -> PgType {
        let (oid, size) = oid_and_size(sql_type);
        PgType { oid, size, modifier: modifier(sql_type) }
    }

    /// The SQL type that an OID and a modifier stand for; `None` if it is not supported.
    pub fn sql_type(oid: u32, modifier: i32) -> Option<SqlType> {
        let length = u32::try_from(modifier - HEADER).ok().filter(|_| modifier > HEADER);
        Some(match oid {
            16 => SqlType::Boolean,
            17 => SqlType::Bytea,
            20 => SqlType::BigInt,
            21 => SqlType::SmallInt,
            23 => SqlType::Integer,
            26 => SqlType::Oid,
            // `name` and `unknown` travel as text.
            19 | 25 | 705 => SqlType::Text,
            700 => SqlType::Real,
            701 => SqlType::Double,
            1042 => length.map_or(SqlType::Text, SqlType::Char),
            1043 => SqlType::Varchar(length),
            1082 => SqlType::Date,
            1083 => SqlType::Time,
            1114 => SqlType::Timestamp,
            1184 => SqlType::Timestamptz,
            1186 => SqlType::Interval,
            1700 => SqlType::Numeric(numeric_modifier(modifier)),
            _ => SqlType::Array(Box::new(PgType::sql_type(element_oid(oid)?, modifier)?)),
        })
    }
}

fn numeric_modifier(modifier: i32) -> Option<(u8, i8)> {
    let packed = modifier - HEADER;
    (packed >= 0).then_some((((packed >> 16) & 0xff) as u8, (packed & 0x7f) as i8))
}

fn oid_and_size(sql_type: &SqlType) -> (u32, i16) {
    match sql_type {
        SqlType::Boolean => (16, 1),
        SqlType::SmallInt => (21, 2),
        SqlType::Integer => (23, 4),
        SqlType::BigInt => (20, 8),
        SqlType::Oid => (26, 4),
        SqlType::Real => (700, 4),
        SqlType::Double => (701, 8),
        SqlType::Numeric(_) => (1700, -1),
        SqlType::Text => (25, -1),
        SqlType::Varchar(_) => (1043, -1),
        SqlType::Char(_) => (1042, -1),
        SqlType::Bytea => (17, -1),
        SqlType::Date => (1082, 4),
        SqlType::Time => (1083, 8),
        SqlType::Timestamp => (1114, 8),
        SqlType::Timestamptz => (1184, 8),
        SqlType::Interval => (1186, 16),
        SqlType::Array(element) => (array_oid(element), -1),
    }
}

/// An array of arrays has the identifier of the inner array: Postgres does not tell dimensions apart.
fn array_oid(element: &SqlType) -> u32 {
    match element {
        SqlType::Boolean => 1000,
        SqlType::SmallInt => 1005,
        SqlType::Integer => 1007,
        SqlType::BigInt => 1016,
        SqlType::Oid => 1028,
        SqlType::Real => 1021,
        SqlType::Double => 1022,
        SqlType::Numeric(_) => 1231,
        SqlType::Text => 1009,
        SqlType::Varchar(_) => 1015,
        SqlType::Char(_) => 1014,
        SqlType::Bytea => 1001,
        SqlType::Date => 1182,
        SqlType::Time => 1183,
        SqlType::Timestamp => 1115,
        SqlType::Timestamptz => 1185,
        SqlType::Interval => 1187,
        SqlType::Array(inner) => array_oid(inner),
    }
}

fn element_oid(array: u32) -> Option<u32> {
    Some(match array {
        1000 => 16,
        1001 => 17,
        1003 => 19,
        1005 => 21,
        1007 => 23,
        1009 => 25,
        1014 => 1042,
        1015 => 1043,
        1016 => 20,
        1021 => 700,
        1022 => 701,
        1028 => 26,
        1115 => 1114,
        1182 => 1082,
        1183 => 1083,
        1185 => 1184,
        1187 => 1186,
        1231 => 1700,
        _ => return None,
    })
}

fn modifier(sql_type: &SqlType) -> i32 {
    match sql_type {
        SqlType::Varchar(Some(n)) | SqlType::Char(n) => i32::try_from(*n).map_or(-1, |n| n.saturating_add(HEADER)),
        SqlType::Numeric(Some((p, s))) => ((i32::from(*p) << 16) | (i32::from(*s) & 0x7ff)) + HEADER,
        SqlType::Array(element) => modifier(element),
        _ => -1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_again_by_its_identifier() {
        let plain = [
            SqlType::Boolean,
            SqlType::SmallInt,
            SqlType::Integer,
            SqlType::BigInt,
            SqlType::Oid,
            SqlType::Real,
            SqlType::Double,
            SqlType::Numeric(None),
            SqlType::Numeric(Some((10, 2))),
            SqlType::Text,
            SqlType::Varchar(None),
            SqlType::Varchar(Some(7)),
            SqlType::Char(3),
            SqlType::Bytea,
            SqlType::Date,
            SqlType::Time,
            SqlType::Timestamp,
            SqlType::Timestamptz,
            SqlType::Interval,
        ];
        for element in plain {
            for sql_type in [SqlType::Array(Box::new(element.clone())), element] {
                let pg = PgType::of(&sql_type);
                assert_eq!(PgType::sql_type(pg.oid, pg.modifier), Some(sql_type));
            }
        }
        assert_eq!(PgType::of(&SqlType::Numeric(Some((10, 2)))).modifier, 655_366);
        assert_eq!(PgType::sql_type(2950, -1), None);
    }
}
