//! Where the rows of one segment lie, by column.

use proto::Location;
use proto::limits::SECTOR_BYTES;

use crate::row::RowPlace;

/// The durable rows of a segment, in the order of their numbers.
#[derive(Debug, Default)]
pub struct Rows {
    places: Vec<RowPlace>,
    /// For each column, ascending: where a piece starts, in sectors, and which of `places` it belongs to.
    starts: Vec<Vec<(u32, u32)>>,
}

impl Rows {
    /// Adds the next row; its pieces lie behind those of all rows before.
    pub fn push(&mut self, place: RowPlace) {
        let row = self.places.len() as u32;
        for piece in &place.pieces {
            let column = usize::from(piece.column);
            if self.starts.len() <= column {
                self.starts.resize_with(column + 1, Vec::new);
            }
            self.starts[column].push((piece.offset_sectors, row));
        }
        self.places.push(place);
    }

    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The row whose piece holds `location`: the last one that starts before it; `None` if none does.
    #[must_use]
    pub fn find(&self, location: Location) -> Option<&RowPlace> {
        let starts = self.starts.get(usize::from(location.column))?;
        let sector = location.offset / SECTOR_BYTES as u32;
        let after = starts.partition_point(|(start, _)| *start <= sector);
        let (_, row) = starts.get(after.checked_sub(1)?)?;
        Some(&self.places[*row as usize])
    }
}

impl FromIterator<RowPlace> for Rows {
    fn from_iter<I: IntoIterator<Item = RowPlace>>(places: I) -> Rows {
        let mut rows = Rows::default();
        places.into_iter().for_each(|place| rows.push(place));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::PiecePlace;
    use proto::{RowNumber, SegmentId};

    fn row(number: u64, pieces: &[(u8, u32)]) -> RowPlace {
        let piece = |(column, offset_sectors): &(u8, u32)| PiecePlace {
            column: *column,
            offset_sectors: *offset_sectors,
            payload_bytes: 1,
        };
        RowPlace { row: RowNumber(number), pieces: pieces.iter().map(piece).collect() }
    }

    #[test]
    fn a_location_lies_in_the_last_row_that_starts_before_it() {
        let rows: Rows = [row(1, &[(0, 1), (2, 1)]), row(2, &[(2, 5)]), row(4, &[(0, 9)])].into_iter().collect();
        let at = |column, sector: u32| {
            let location =
                Location { segment: SegmentId(1), column, offset: sector << 12 | 64, sectors: 1, ordinal: 0 };
            rows.find(location).map(|place| place.row.0)
        };
        assert_eq!((at(0, 0), at(0, 1), at(0, 8), at(0, 9), at(0, 99)), (None, Some(1), Some(1), Some(4), Some(4)));
        assert_eq!((at(2, 4), at(2, 5)), (Some(1), Some(2)));
        assert_eq!((at(1, 5), at(7, 5)), (None, None), "no row has a piece there");
    }
}
