//! Subscription filters: `{ field: scalar }` and `{ field: { in: [scalar, …] } }`, all of which must hold.
//!
//! A filter is kept in a canonical form, so that equal filters are equal values and can share one entry of the
//! subscription index.

use crate::error::Problem;
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};

/// The most fields a filter may name.
pub const MAX_FIELDS: usize = 16;
/// The most values a filter may hold over all its fields.
pub const MAX_VALUES: usize = 256;

/// A value that a filter compares: numbers by value (12 = 12.0), never across types.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scalar {
    /// An explicit `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number without a fraction.
    Integer(i128),
    /// The bits of a number with a fraction, or beyond 128 bits.
    Float(u64),
    /// A text.
    Text(Arc<str>),
}

impl Scalar {
    /// The scalar that `value` is; `None` for arrays and objects.
    pub fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(Self::Null),
            Value::Bool(b) => Some(Self::Bool(*b)),
            Value::Number(n) => Some(Self::number(n)),
            Value::String(s) => Some(Self::Text(s.as_str().into())),
            Value::Array(_) | Value::Object(_) => None,
        }
    }

    fn number(number: &serde_json::Number) -> Self {
        if let Some(integer) = number.as_i128() {
            return Self::Integer(integer);
        }
        let float = number.as_f64().unwrap_or(f64::INFINITY);
        // Below 2^127 an integral float converts exactly, so that 12.0 and 1.2e1 equal 12.
        if float.fract() == 0.0 && float.abs() < 1.7e38 {
            return Self::Integer(float as i128);
        }
        Self::Float(float.to_bits())
    }

    /// As JSON.
    pub fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::from(*b),
            Self::Integer(integer) => {
                i64::try_from(*integer).map_or_else(|_| Value::from(*integer as f64), Value::from)
            }
            Self::Float(bits) => Value::from(f64::from_bits(*bits)),
            Self::Text(text) => Value::from(&**text),
        }
    }
}

/// A dotted path into `payload`; arrays are not entered.
pub type FieldPath = Arc<str>;

/// A filter in canonical form: fields in order, each with its sorted set of values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Filter {
    fields: Vec<(FieldPath, Vec<Scalar>)>,
}

impl Filter {
    /// Reads a filter as a client writes it. `null` and `{}` let everything through.
    ///
    /// # Errors
    /// `INVALID_FILTER` naming field and rule; `LIMIT_EXCEEDED` for too many fields or values.
    pub fn parse(value: &Value) -> Result<Self, Problem> {
        let object = match value {
            Value::Null => return Ok(Self::default()),
            Value::Object(object) => object,
            _ => return Err(invalid("filter", "must be an object")),
        };
        if object.len() > MAX_FIELDS {
            return Err(Problem::too_large("filter", format!("at most {MAX_FIELDS} fields")));
        }
        let mut fields = BTreeMap::new();
        let mut count = 0;
        for (name, wanted) in object {
            let path = format!("filter.{name}");
            if name.is_empty() || name.split('.').any(str::is_empty) {
                return Err(invalid(&path, "a field is a dotted path without empty parts"));
            }
            let values = values(&path, wanted)?;
            count += values.len();
            if count > MAX_VALUES {
                return Err(Problem::too_large("filter", format!("at most {MAX_VALUES} values")));
            }
            fields.insert(FieldPath::from(name.as_str()), values);
        }
        Ok(Self { fields: fields.into_iter().collect() })
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Its fields, each with the values of which one must be met.
    pub fn fields(&self) -> &[(FieldPath, Vec<Scalar>)] {
        &self.fields
    }

    /// As a client may write it.
    pub fn to_json(&self) -> Value {
        let wanted = |values: &[Scalar]| match values {
            [only] => only.to_json(),
            several => serde_json::json!({ "in": several.iter().map(Scalar::to_json).collect::<Vec<_>>() }),
        };
        self.fields.iter().map(|(path, values)| (path.to_string(), wanted(values))).collect()
    }

    /// Whether `payload` meets all fields.
    pub fn matches(&self, payload: &Value) -> bool {
        self.fields.iter().all(|(path, values)| {
            lookup(payload, path)
                .and_then(Scalar::of)
                .is_some_and(|found| values.binary_search(&found).is_ok())
        })
    }
}

/// The value at a dotted path; `None` where a part is absent or leads through something that is no object.
pub fn lookup<'v>(payload: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(payload, |value, part| value.as_object()?.get(part))
}

fn values(path: &str, wanted: &Value) -> Result<Vec<Scalar>, Problem> {
    if let Some(scalar) = Scalar::of(wanted) {
        return Ok(vec![scalar]);
    }
    let list = wanted
        .as_object()
        .filter(|o| o.len() == 1)
        .and_then(|o| o.get("in"))
        .and_then(Value::as_array)
        .ok_or_else(|| invalid(path, "must be a scalar or { \"in\": [scalar, …] }"))?;
    let mut scalars = list
        .iter()
        .map(|v| {
            Scalar::of(v).ok_or_else(|| invalid(&format!("{path}.in"), "holds something that is no scalar"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if scalars.is_empty() {
        return Err(invalid(&format!("{path}.in"), "must hold at least one value"));
    }
    scalars.sort();
    scalars.dedup();
    Ok(scalars)
}

fn invalid(path: &str, rule: &str) -> Problem {
    Problem { code: "INVALID_FILTER", ..Problem::field(path, rule) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(filter: Value, payload: Value) -> bool {
        Filter::parse(&filter).expect("valid filter").matches(&payload)
    }

    #[test]
    fn a_filter_is_written_as_it_may_be_read() {
        let given =
            serde_json::json!({ "a.b": 12, "c": { "in": [null, true, 1.5, "x"] }, "d": { "in": ["y"] } });
        let filter = Filter::parse(&given).unwrap();
        let written = filter.to_json();
        assert_eq!(Filter::parse(&written).unwrap(), filter);
        assert_eq!((&written["a.b"], &written["d"]), (&given["a.b"], &serde_json::json!("y")));
    }

    #[test]
    fn compares_by_value_and_type() {
        assert!(check(json!({"a": 12}), json!({"a": 12.0})));
        assert!(check(json!({"a": 0.5}), json!({"a": 0.50})));
        assert!(!check(json!({"a": 12}), json!({"a": "12"})));
        assert!(!check(json!({"a": 1}), json!({"a": true})));
        assert!(check(json!({"a": 0}), json!({"a": -0.0})));
        assert!(check(json!({"a": u64::MAX}), json!({"a": u64::MAX})));
    }

    #[test]
    fn absent_matches_nothing_and_null_only_null() {
        assert!(!check(json!({"a": null}), json!({})));
        assert!(check(json!({"a": null}), json!({"a": null})));
        assert!(!check(json!({"a": null}), json!({"a": 0})));
        assert!(!check(json!({"a.b": 1}), json!({"a": [{"b": 1}]})));
        assert!(check(json!({"a.b": 1}), json!({"a": {"b": 1}})));
        assert!(!check(json!({"a": "x"}), json!({"a": ["x"]})));
    }

    #[test]
    fn all_fields_must_hold_and_one_value_of_each() {
        let filter = json!({"a": {"in": [1, 2]}, "b": "x"});
        assert!(check(filter.clone(), json!({"a": 2, "b": "x"})));
        assert!(!check(filter.clone(), json!({"a": 3, "b": "x"})));
        assert!(!check(filter, json!({"a": 2})));
        assert!(check(json!({}), json!({"any": 1})));
    }

    #[test]
    fn bad_filters_name_the_field() {
        for (filter, path) in [
            (json!([]), "filter"),
            (json!({"a": [1]}), "filter.a"),
            (json!({"a": {"gt": 1}}), "filter.a"),
            (json!({"a": {"in": 1}}), "filter.a"),
            (json!({"a": {"in": [[]]}}), "filter.a.in"),
            (json!({"a": {"in": []}}), "filter.a.in"),
            (json!({"": 1}), "filter."),
            (json!({"a..b": 1}), "filter.a..b"),
        ] {
            let problem = Filter::parse(&filter).expect_err("bad");
            assert_eq!((problem.code, problem.details[0].path.as_str()), ("INVALID_FILTER", path));
        }
        let many: serde_json::Map<_, _> = (0..17).map(|i| (format!("f{i}"), json!(1))).collect();
        assert_eq!(Filter::parse(&Value::Object(many)).expect_err("too many").code, "LIMIT_EXCEEDED");
    }

    #[test]
    fn equal_filters_are_equal_values() {
        let a = Filter::parse(&json!({"a": {"in": [2, 1.0, 2]}, "b": "x"})).expect("valid");
        let b = Filter::parse(&json!({"b": {"in": ["x"]}, "a": {"in": [1, 2.0]}})).expect("valid");
        assert_eq!(a, b);
    }
}
