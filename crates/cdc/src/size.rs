//! Sizes for people.

use std::fmt;

/// So many bytes, shown in a unit that fits: `0 B`, `1.5 KiB`, `20 MiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(u64);

impl Size {
    /// Of `bytes`; less than none is none.
    pub fn of(bytes: i64) -> Self {
        Self(u64::try_from(bytes).unwrap_or(0))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut amount, mut unit) = (self.0 as f64, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            // What would be rounded to 1024 is one of the next.
            if amount.round() < 1024.0 {
                break;
            }
            (amount, unit) = (amount / 1024.0, larger);
        }
        let decimals = usize::from(unit != "B" && amount < 9.95);
        write!(f, "{amount:.decimals$} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_shown_in_a_unit_that_fits() {
        let cases = [
            (-1, "0 B"),
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (200 << 10, "200 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (20 << 20, "20 MiB"),
            (3 << 30, "3.0 GiB"),
            (i64::MAX, "8388608 TiB"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(Size::of(bytes).to_string(), shown);
        }
    }
}
