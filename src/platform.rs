//! Picks the operating system's crate.

use std::sync::OnceLock;

use loader_core::Platform;

cfg_if::cfg_if! {
    if #[cfg(any(target_os = "linux", target_os = "android"))] {
        use loader_linux as system;
    } else if #[cfg(target_vendor = "apple")] {
        use loader_macos as system;
        #[cfg(feature = "metal")]
        pub use loader_macos::metal;
    } else if #[cfg(windows)] {
        use loader_windows as system;
    } else {
        /// Systems without a crate of their own get the portable parts.
        mod system {
            pub(super) fn platform() -> loader_core::Platform {
                loader_core::Platform::portable()
            }
        }
    }
}

/// The mechanisms of the system that this runs on, probed once per process.
#[must_use]
pub fn platform() -> &'static Platform {
    static PLATFORM: OnceLock<Platform> = OnceLock::new();
    PLATFORM.get_or_init(system::platform)
}
