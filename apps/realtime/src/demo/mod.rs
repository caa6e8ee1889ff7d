//! The example shop of `examples/orders`: its tables, its mappings and a generator of orders.

mod generator;

pub use generator::Generator;

/// The shop's tables and first rows.
pub const SCHEMA: &str = include_str!("../../../../examples/orders/schema.sql");
/// Which of its changes become events: a JSON array of mappings.
pub const MAPPINGS: &str = include_str!("../../../../examples/orders/mappings.json");
