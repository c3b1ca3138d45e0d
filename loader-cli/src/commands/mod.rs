//! One module a command.

pub(crate) mod bench;
pub(crate) mod doctor;
pub(crate) mod evict;
pub(crate) mod extract;
mod how;
pub(crate) mod info;
pub(crate) mod load;
pub(crate) mod prefetch;
pub(crate) mod residency;
mod selection;
mod source;
pub(crate) mod upload;
