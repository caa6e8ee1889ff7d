//! How a transaction begins whose statements look rows up by keys that they are given in arrays.

/// Begins it, with one round trip.
///
/// The planner guesses how many keys an array holds, and plans anew for every array to guess better: on a statement of
/// this kind that takes longer than carrying it out, and where a batch is large beside its table, or the table has not
/// been analyzed, it settles on reading the whole table. Here a plan is made once, and looks rows up in the index.
/// Whatever does not fit this is taken for enormously expensive, for which nothing must be compiled.
pub const BEGIN: &str = "begin; set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off; \
                         set local enable_hashjoin = off; set local enable_mergejoin = off; set local jit = off";
