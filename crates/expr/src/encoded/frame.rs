//! Frames of window functions.

use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{WindowFrame, WindowFrameBound, WindowFrameUnits};
use millstream_types::Result;
use serde::{Deserialize, Serialize};

use super::{Decoder, Encoder, Place};

/// The form of a [`WindowFrame`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FrameForm {
    units: Units,
    start: Bound,
    end: Bound,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Units {
    Rows,
    Range,
    Groups,
}

/// A bound; a distance of null is unbounded.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Bound {
    Preceding(Place),
    CurrentRow,
    Following(Place),
}

impl FrameForm {
    pub(crate) fn of(frame: &WindowFrame, encoder: &mut Encoder<'_>) -> Result<Self> {
        let units = match frame.units {
            WindowFrameUnits::Rows => Units::Rows,
            WindowFrameUnits::Range => Units::Range,
            WindowFrameUnits::Groups => Units::Groups,
        };
        let mut bound = |bound: &WindowFrameBound| -> Result<Bound> {
            let mut place = |value: &ScalarValue| encoder.pool.value(value);
            Ok(match bound {
                WindowFrameBound::Preceding(value) => Bound::Preceding(place(value)?),
                WindowFrameBound::CurrentRow => Bound::CurrentRow,
                WindowFrameBound::Following(value) => Bound::Following(place(value)?),
            })
        };
        Ok(FrameForm { units, start: bound(&frame.start_bound)?, end: bound(&frame.end_bound)? })
    }

    pub(crate) fn decode(&self, decoder: &Decoder<'_>) -> Result<Arc<WindowFrame>> {
        let units = match self.units {
            Units::Rows => WindowFrameUnits::Rows,
            Units::Range => WindowFrameUnits::Range,
            Units::Groups => WindowFrameUnits::Groups,
        };
        let bound = |bound: Bound| -> Result<WindowFrameBound> {
            Ok(match bound {
                Bound::Preceding(place) => WindowFrameBound::Preceding(decoder.value(place)?),
                Bound::CurrentRow => WindowFrameBound::CurrentRow,
                Bound::Following(place) => WindowFrameBound::Following(decoder.value(place)?),
            })
        };
        Ok(Arc::new(WindowFrame::new_bounds(units, bound(self.start)?, bound(self.end)?)))
    }
}
