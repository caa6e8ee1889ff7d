use super::*;
use proptest::prelude::*;

fn json(oid: u32, text: &str) -> String {
    let mut out = String::new();
    Kind::of(oid, &OwnTypes::default()).write(&mut out, text.as_bytes());
    serde_json::from_str::<serde_json::Value>(&out).unwrap_or_else(|e| panic!("{text}: {out}: {e}"));
    out
}

#[test]
fn each_type_has_its_json() {
    for (oid, text, expected) in [
        (16, "t", "true"),
        (16, "f", "false"),
        (20, "9223372036854775807", "9223372036854775807"),
        (21, "-1", "-1"),
        (701, "1e+20", "1e+20"),
        (701, "0.1", "0.1"),
        (701, "NaN", "\"NaN\""),
        (700, "-Infinity", "\"-Infinity\""),
        (1700, "12.340", "12.340"),
        (1700, "0.1", "0.1"),
        (1700, "9007199254740993", "\"9007199254740993\""),
        (1700, "9007199254740992", "9007199254740992"),
        (1700, "1234567890.12345678901", "\"1234567890.12345678901\""),
        (1700, "NaN", "\"NaN\""),
        (1700, "Infinity", "\"Infinity\""),
        (3802, "{\"a\": [1, 2], \"b\": \"x y\"}", "{\"a\":[1,2],\"b\":\"x y\"}"),
        (114, "{\"a\":\"\\u0000\"}", "\"{\\\"a\\\":\\\"\\\\u0000\\\"}\""),
        (25, "a\"b\\c\n\u{1}é", "\"a\\\"b\\\\c\\n\\u0001é\""),
        (2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\""),
        (1184, "2024-01-31 10:00:00.123456+00", "\"2024-01-31T10:00:00.123456Z\""),
        (1184, "2024-01-31 10:00:00+05:30", "\"2024-01-31T10:00:00+05:30\""),
        (1184, "2024-01-31 10:00:00-03", "\"2024-01-31T10:00:00-03:00\""),
        (1184, "infinity", "\"infinity\""),
        (1114, "2024-01-31 10:00:00", "\"2024-01-31T10:00:00\""),
        (1114, "0044-03-15 00:00:00 BC", "\"0044-03-15 00:00:00 BC\""),
        (1082, "2024-01-31", "\"2024-01-31\""),
        (1083, "10:00:00", "\"10:00:00\""),
        (1186, "P1DT2H", "\"P1DT2H\""),
        (17, "\\x6869ff", "\"aGn/\""),
        (17, "\\x", "\"\""),
        (999_999, "whatever", "\"whatever\""),
    ] {
        assert_eq!(json(oid, text), expected, "{oid} {text}");
    }
}

#[test]
fn arrays_nest_quote_and_hold_nulls() {
    for (oid, text, expected) in [
        (1007, "{}", "[]"),
        (1007, "{1,NULL,3}", "[1,null,3]"),
        (1007, "[0:1]={1,2}", "[1,2]"),
        (1007, "{{1,2},{3,4}}", "[[1,2],[3,4]]"),
        (
            1009,
            "{a,\"b c\",\"q\\\"q\\\\\",\"NULL\",NULL,\"\"}",
            "[\"a\",\"b c\",\"q\\\"q\\\\\",\"NULL\",null,\"\"]",
        ),
        (1000, "{t,f}", "[true,false]"),
        (1185, "{\"2024-01-31 10:00:00+00\"}", "[\"2024-01-31T10:00:00Z\"]"),
        (3807, "{\"{\\\"a\\\": 1}\"}", "[{\"a\":1}]"),
        (1231, "{1.50,NaN}", "[1.50,\"NaN\"]"),
        (1001, "{\"\\\\x6869\"}", "[\"aGk=\"]"),
        (1009, "{broken", "\"{broken\""),
        (1009, "", "\"\""),
    ] {
        assert_eq!(json(oid, text), expected, "{oid} {text}");
    }
}

#[test]
fn own_types_stand_for_what_they_are_made_of() {
    let own =
        OwnTypes::new(&[(20_002, 20_001, 0), (20_001, 23, 0), (20_003, 0, 20_002), (20_005, 0, 20_004)]);
    assert_eq!(Kind::of(20_002, &own), Kind::Integer);
    assert_eq!(Kind::of(20_003, &own), Kind::Array(Box::new(Kind::Integer)));
    assert_eq!(Kind::of(20_005, &own), Kind::Array(Box::new(Kind::Text)));
    assert_eq!(Kind::of(20_004, &own), Kind::Text);
}

#[test]
fn numbers_compare_by_value() {
    use std::cmp::Ordering::{Equal, Greater, Less};
    for (left, right, expected) in [
        ("1", "1.0", Equal),
        ("1e2", "100", Equal),
        ("0", "-0.00", Equal),
        ("-2", "-10", Greater),
        ("0.30000000000000000001", "0.3", Greater),
        ("99999999999999999999", "100000000000000000000", Less),
        ("0.001", "0.01", Less),
        ("-1", "0", Less),
    ] {
        assert_eq!(compare_numbers(left, right), Some(expected), "{left} {right}");
        assert_eq!(compare_numbers(right, left), Some(expected.reverse()), "{right} {left}");
    }
    assert_eq!(compare_numbers("NaN", "1"), None);
}

proptest! {
    #[test]
    fn whatever_the_text_the_json_is_valid(oid in prop::sample::select(vec![16u32, 17, 20, 701, 1700, 114, 25, 1184, 1114, 1007, 1009, 3807, 1001]), text in any::<String>()) {
        let text = text.replace('\0', "");
        json(oid, &text);
    }

    #[test]
    fn texts_come_back_as_they_were(text in any::<String>()) {
        let written = json(25, &text);
        prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
    }

    #[test]
    fn numbers_written_as_numbers_read_back_exactly(whole in any::<i64>(), fraction in "[0-9]{0,12}") {
        let text = if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") };
        let written = json(1700, &text);
        if !written.starts_with('"') {
            let float: f64 = written.parse().unwrap();
            prop_assert_eq!(compare_numbers(&float.to_string(), &text), Some(std::cmp::Ordering::Equal));
        }
    }

    #[test]
    fn arrays_of_texts_come_back(values in prop::collection::vec(any::<String>(), 0..6)) {
        let quoted: Vec<String> = values.iter().map(|v| format!("\"{}\"", v.replace('\\', "\\\\").replace('"', "\\\""))).collect();
        let written = json(1009, &format!("{{{}}}", quoted.join(",")));
        prop_assert_eq!(serde_json::from_str::<Vec<String>>(&written).unwrap(), values);
    }
}
