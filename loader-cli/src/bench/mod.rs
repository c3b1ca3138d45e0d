//! The ways of loading, compared: rounds of turns, cold, half cached and warm, and what they add up to.

mod contest;
mod page_cache;
mod plot;
mod result;
mod state;
mod table;
mod way;

pub(crate) use contest::{Contest, Limits};
pub(crate) use plot::draw;
pub(crate) use table::describe;
pub(crate) use way::Way;
