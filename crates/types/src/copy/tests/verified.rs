//! Lines of COPY data, and what Postgres 15.18 made of them and wrote.

use crate::copy::CopyFormat::{self, Csv, Text};

/// Options by name.
type Settings = &'static [(&'static str, &'static str)];

/// Rows of two texts, or SQLSTATE and message.
type Decoded = Result<&'static [[Option<&'static str>; 2]], (&'static str, &'static str)>;

/// Read into two columns of text.
#[rustfmt::skip]
pub(super) const DECODED: &[(CopyFormat, Settings, &str, Decoded)] = &[
    (Text, &[], "a\tb\n", Ok(&[[Some("a"), Some("b")]])),
    (Text, &[], "a\tb", Ok(&[[Some("a"), Some("b")]])),
    (Text, &[], "a\tb\r\nc\td\r\n", Ok(&[[Some("a"), Some("b")], [Some("c"), Some("d")]])),
    (Text, &[], "\\N\t\n", Ok(&[[None, Some("")]])),
    (Text, &[], "\\N\\N\tN\n", Ok(&[[Some("NN"), Some("N")]])),
    (Text, &[], "a\\tb\tc\\nd\n", Ok(&[[Some("a\tb"), Some("c\nd")]])),
    (Text, &[], "a\\\tb\tc\n", Ok(&[[Some("a\tb"), Some("c")]])),
    (Text, &[], "a\\\nb\tc\n", Ok(&[[Some("a\nb"), Some("c")]])),
    (Text, &[], "\\\\N\t\\\\\n", Ok(&[[Some("\\N"), Some("\\")]])),
    (Text, &[], "\\101\\x41\\x4\t\\0611\n", Ok(&[[Some("AA\u{4}"), Some("11")]])),
    (Text, &[], "\\b\\f\\v\\r\t\\q\n", Ok(&[[Some("\u{8}\u{c}\u{b}\r"), Some("q")]])),
    (Text, &[], "a\n", Err(("22P04", "missing data for column \"b\""))),
    (Text, &[], "a\tb\tc\n", Err(("22P04", "extra data after last expected column"))),
    (Text, &[], "\n", Err(("22P04", "missing data for column \"b\""))),
    (Text, &[], "a\tb\n\\.\nc\td\n", Ok(&[[Some("a"), Some("b")]])),
    (Text, &[], "a\tb\\\\\nc\td\n", Ok(&[[Some("a"), Some("b\\")], [Some("c"), Some("d")]])),
    (Text, &[("delimiter", "|")], "a|b\n\\||\\N\n", Ok(&[[Some("a"), Some("b")], [Some("|"), None]])),
    (Text, &[("null", "")], "\ta\n\\N\tb\n", Ok(&[[None, Some("a")], [Some("N"), Some("b")]])),
    (Text, &[("null", "nil")], "nil\tnils\n", Ok(&[[None, Some("nils")]])),
    (Text, &[("header", "true")], "x\ty\na\tb\n", Ok(&[[Some("a"), Some("b")]])),
    (Text, &[], "", Ok(&[])),
    (Text, &[], "\u{e4}\t\u{20ac}\n", Ok(&[[Some("\u{e4}"), Some("\u{20ac}")]])),
    (Text, &[], "a\\", Err(("22P04", "missing data for column \"b\""))),
    (Text, &[], "a\tb\\\\\\\nc\n", Ok(&[[Some("a"), Some("b\\\nc")]])),
    (Csv, &[], "a,b\n", Ok(&[[Some("a"), Some("b")]])),
    (Csv, &[], "a,\"b\"\n", Ok(&[[Some("a"), Some("b")]])),
    (Csv, &[], "\"a,b\",\"c\"\"d\"\n", Ok(&[[Some("a,b"), Some("c\"d")]])),
    (Csv, &[], ",\"\"\n", Ok(&[[None, Some("")]])),
    (Csv, &[], "\"a\nb\",c\n", Ok(&[[Some("a\nb"), Some("c")]])),
    (Csv, &[], "a\"b,c\"d,e\n", Ok(&[[Some("ab,cd"), Some("e")]])),
    (Csv, &[], "\"a,b\n", Err(("22P04", "unterminated CSV quoted field"))),
    (Csv, &[], "a\n", Err(("22P04", "missing data for column \"b\""))),
    (Csv, &[], "a,b,c\n", Err(("22P04", "extra data after last expected column"))),
    (Csv, &[], "a,b\r\n\"c\",d\r\n", Ok(&[[Some("a"), Some("b")], [Some("c"), Some("d")]])),
    (Csv, &[("null", "NULL")], "NULL,\"NULL\"\n", Ok(&[[None, Some("NULL")]])),
    (Csv, &[("delimiter", ";")], "a,b;\"c;d\"\n", Ok(&[[Some("a,b"), Some("c;d")]])),
    (Csv, &[("quote", "'")], "'a,b','c''d'\n", Ok(&[[Some("a,b"), Some("c'd")]])),
    (Csv, &[("escape", "\\")], "\"a\\\"b\",\"c\\\\d\"\n", Ok(&[[Some("a\"b"), Some("c\\d")]])),
    (Csv, &[("escape", "\\")], "a\\b,\"c\\d\"\n", Ok(&[[Some("a\\b"), Some("c\\d")]])),
    (Csv, &[("header", "true")], "x,y\na,b\n", Ok(&[[Some("a"), Some("b")]])),
    (Csv, &[], "a,b\n\\.\nc,d\n", Ok(&[[Some("a"), Some("b")]])),
    (Csv, &[], "a\\N,\\N\n", Ok(&[[Some("a\\N"), Some("\\N")]])),
    (Csv, &[], "a, b \n", Ok(&[[Some("a"), Some(" b ")]])),
    (Csv, &[], "a,b", Ok(&[[Some("a"), Some("b")]])),
    (Csv, &[], "\n", Err(("22P04", "missing data for column \"b\""))),
    (Csv, &[], "\"\"\"\",\"a\"\"\"\n", Ok(&[[Some("\""), Some("a\"")]])),
];

/// Two columns of text, `a<tab>b\c<newline>d<return>e`, the empty text, `\N`, `a|b`; and null, `\.`, `a,"b"`,
/// `<backspace><form feed><vertical tab> x`, as written.
#[rustfmt::skip]
pub(super) const ENCODED: &[(CopyFormat, Settings, &str)] = &[
    (Text, &[], "a\\tb\\\\c\\nd\\re\t\\N\n\t\\\\.\n\\\\N\ta,\"b\"\na|b\t\\b\\f\\v x\n"),
    (Csv, &[], "\"a\tb\\c\nd\re\",\n\"\",\\.\n\\N,\"a,\"\"b\"\"\"\na|b,\u{8}\u{c}\u{b} x\n"),
    (Csv, &[("null", "a|b"), ("escape", "\\")], "\"a\tb\\\\c\nd\re\",a|b\n,\\.\n\\N,\"a,\\\"b\\\"\"\n\"a|b\",\u{8}\u{c}\u{b} x\n"),
    (Text, &[("delimiter", "|"), ("null", "")], "a\\tb\\\\c\\nd\\re|\n|\\\\.\n\\\\N|a,\"b\"\na\\|b|\\b\\f\\v x\n"),
];
