//! The kinds of sinks.

use millstream_types::Result;

/// Where a sink writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// Takes every change and keeps nothing: for measuring a query by itself.
    Blackhole,
}

impl SinkKind {
    /// The sink of a connector, by the name that stands in `WITH (connector = '...')`.
    ///
    /// # Errors
    /// 22023 if there is none.
    pub fn of_connector(name: &str) -> Result<SinkKind> {
        match name {
            "blackhole" => Ok(SinkKind::Blackhole),
            other => Err(crate::unknown_connector("sink", other, crate::SINK_CONNECTORS)),
        }
    }

    /// The connector's name.
    pub fn connector(self) -> &'static str {
        match self {
            SinkKind::Blackhole => "blackhole",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_goes_by_the_name_of_its_connector() {
        for name in crate::SINK_CONNECTORS {
            assert_eq!(SinkKind::of_connector(name).unwrap().connector(), *name);
        }
        let error = SinkKind::of_connector("kafka").unwrap_err();
        assert_eq!(error.state().0, "22023");
        assert_eq!(error.fields().hint.as_deref(), Some("sink connectors: blackhole"));
    }
}
