//! Numbers as text: written as JSON without losing a digit, and compared exactly.

use super::push_text;
use std::cmp::Ordering;

/// Decimal digits that a 64-bit float always keeps.
const SAFE_DIGITS: usize = 15;

pub(super) fn write_integer(out: &mut String, text: &str) {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        out.push_str(text);
    } else {
        push_text(out, text);
    }
}

pub(super) fn write_float(out: &mut String, text: &str) {
    match text.parse::<f64>() {
        // Postgres writes `1e+20`, `-0`, `1.5e-07`: all of them JSON.
        Ok(value) if value.is_finite() => out.push_str(text),
        _ => push_text(out, text),
    }
}

pub(super) fn write_numeric(out: &mut String, text: &str) {
    if is_exact(text) {
        out.push_str(text);
    } else {
        push_text(out, text);
    }
}

/// Whether reading `text` into a 64-bit float and writing that shortest gives the same decimal number.
fn is_exact(text: &str) -> bool {
    let Some(decimal) = Decimal::parse(text) else { return false };
    if decimal.digits.len() <= SAFE_DIGITS && decimal.exponent.abs() < 300 {
        return true;
    }
    let float = text.parse::<f64>().unwrap_or(f64::NAN);
    float.is_finite()
        && Decimal::parse(&float.to_string()).is_some_and(|read| read.cmp(&decimal) == Ordering::Equal)
}

/// Compares two numbers in decimal or exponent notation exactly; `None` where one is no number.
pub(crate) fn compare(left: &str, right: &str) -> Option<Ordering> {
    if let (Ok(left), Ok(right)) = (left.parse::<i64>(), right.parse::<i64>()) {
        return Some(left.cmp(&right));
    }
    Some(Decimal::parse(left)?.cmp(&Decimal::parse(right)?))
}

/// A decimal number: `0.d₁d₂… × 10^exponent`, without zeros at either end of the digits.
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (unsigned, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        if all.is_empty() || !all.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let leading = all.iter().take_while(|b| **b == b'0').count();
        let trailing = all[leading..].iter().rev().take_while(|b| **b == b'0').count();
        let digits = all[leading..all.len() - trailing].to_vec();
        let exponent =
            if digits.is_empty() { 0 } else { i64::from(exponent) + whole.len() as i64 - leading as i64 };
        Some(Self { negative: negative && !digits.is_empty(), digits, exponent })
    }

    fn cmp(&self, other: &Self) -> Ordering {
        match (self.negative, other.negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => self.cmp_size(other),
            (true, true) => other.cmp_size(self),
        }
    }

    fn cmp_size(&self, other: &Self) -> Ordering {
        match (self.digits.is_empty(), other.digits.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits)),
        }
    }
}
