//! The C interface of `weightloader`. C programs read `include/weightloader.h`, which is written
//! from here; Rust programs use the crate `weightloader`.
//!
//! Every function is a thin shell: [`boundary`] checks pointers and keeps panics in, [`registry`]
//! turns handles into objects, [`sized`] copies structures of the caller's version, and the rest is
//! the Rust library's.

mod boundary;
mod own_thread;
mod registry;
mod sized;

// In the order of the header.
mod failure;

mod options;

mod file;

mod token;

mod operation;

mod read;

mod memory;

mod prefetch;

mod stream;

mod checkpoint;

mod report;

pub use checkpoint::*;
pub use failure::*;
pub use file::*;
pub use memory::*;
pub use operation::*;
pub use options::*;
pub use prefetch::*;
pub use read::*;
pub use report::*;
pub use stream::*;
pub use token::*;
