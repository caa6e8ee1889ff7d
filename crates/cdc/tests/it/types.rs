//! Every type on its way through the stream.

use crate::harness::{Harness, payload};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn values_arrive_as_json_types() {
    let harness = Harness::new(
        "set timezone = 'Asia/Tokyo';
         create type mood as enum ('happy', 'sad');
         create domain cents as bigint check (value >= 0);
         create table zoo (
            id bigint primary key, b boolean, s smallint, r real, d double precision, n numeric, big numeric, c cents,
            t text, vc varchar(10), ch char(4), u uuid, j json, jb jsonb, ts timestamp, tz timestamptz, da date,
            ti time, iv interval, by bytea, e mood, ia int[], ta text[], na numeric[][], ca cents[], ea mood[],
            tza timestamptz[], jba jsonb[], ip inet, inf double precision, tinf timestamptz, x xml, p point)",
    )
    .await;
    let columns = [
        "id", "b", "s", "r", "d", "n", "big", "c", "t", "vc", "ch", "u", "j", "jb", "ts", "tz", "da", "ti",
        "iv", "by", "e", "ia", "ta", "na", "ca", "ea", "tza", "jba", "ip", "inf", "tinf", "x", "p",
    ];
    let template: serde_json::Map<_, _> =
        columns.iter().map(|c| ((*c).to_owned(), json!(format!("$row.{c}")))).collect();
    harness.mapping(json!({ "table": "zoo", "topic": "zoo.changed", "payload": template })).await;
    // Whatever the database prefers, what arrives has one form.
    let name = &harness.target.name;
    harness.sql(&format!("alter database {name} set datestyle = 'German'; alter database {name} set timezone = 'Asia/Tokyo'; alter database {name} set bytea_output = 'escape'; alter database {name} set intervalstyle = 'sql_standard'; alter database {name} set extra_float_digits = -3")).await;
    let running = harness.start_live().await;
    harness.sql(r#"set timezone = 'UTC'; insert into zoo values (9007199254740993, true, -5, 0.1, 1e300, 12.340, 9007199254740993.1, 250,
        E'line\n"quoted" \\ ü', 'vc', 'ch', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11', '{ "a" : [1, 2.50] }', '{"k": "v w", "n": null}',
        '2024-02-29 12:34:56.789', '2024-02-29 12:34:56+05:30', '2024-02-29', '12:34:56.5', '1 day 2 hours', '\x00ff10', 'sad',
        '{1,NULL,3}', array['a b', 'c"d', 'NULL', null, ''], '{{1.5,2},{3,NaN}}', '{1,2}', '{happy,sad}',
        array['2024-01-01 00:00:00+00'::timestamptz], array['{"a": 1}'::jsonb], '10.0.0.1/8', 'NaN', 'infinity', '<a>b</a>', '(1,2)')"#).await;
    let event = &harness.events(1).await[0];
    assert_eq!(
        payload(event),
        json!({
            "id": 9007199254740993i64, "b": true, "s": -5, "r": 0.1, "d": 1e300, "n": 12.340, "big": "9007199254740993.1", "c": 250,
            "t": "line\n\"quoted\" \\ ü", "vc": "vc", "ch": "ch  ", "u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "j": { "a": [1, 2.50] }, "jb": { "k": "v w", "n": null },
            "ts": "2024-02-29T12:34:56.789", "tz": "2024-02-29T07:04:56Z", "da": "2024-02-29", "ti": "12:34:56.5", "iv": "P1DT2H",
            "by": "AP8Q", "e": "sad", "ia": [1, null, 3], "ta": ["a b", "c\"d", "NULL", null, ""], "na": [[1.5, 2], [3, "NaN"]],
            "ca": [1, 2], "ea": ["happy", "sad"], "tza": ["2024-01-01T00:00:00Z"], "jba": [{ "a": 1 }],
            "ip": "10.0.0.1/8", "inf": "NaN", "tinf": "infinity", "x": "<a>b</a>", "p": "(1,2)"
        })
    );
    harness.finish(running).await;
}
