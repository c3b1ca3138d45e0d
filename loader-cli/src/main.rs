//! The program `weightloader`.
fn main() {}
