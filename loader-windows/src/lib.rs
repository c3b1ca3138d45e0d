//! Placeholder.
/// The mechanisms of this system.
#[must_use]
pub fn platform() -> loader_core::Platform {
    loader_core::Platform::portable()
}
